// A machine that comes in: `-incoming URI`, migrate-incoming. It is this one, not yet started; the stream fills its RAM as it comes, and
// the rest at its end, all or nothing.
#pragma once

#include <optional>
#include <string>

#include "migration/outgoing.h"
#include "src/vm/machine.h"

namespace vmm::migration {

// Machine lock held, main loop. The machine waits (status inmigrate); when it is complete it runs if `start`, else it is paused. What
// fails ends vmm with status 1, naming section and field, or with `stay` leaves it waiting. "defer": migrate-incoming says the rest.
Result<> wait_for_machine(vm::Machine& machine, const std::string& uri, bool start, bool stay = false);

// What query-migrate shows of it; nothing before the other side has come.
struct IncomingFigures {
  MoveStatus status = MoveStatus::none;
  std::string error;
};
std::optional<IncomingFigures> incoming_figures();

// Whether it waits with "defer", or stayed after a failure that no device has felt; and what it then is told.
bool awaits_uri();
Result<> open_incoming(const std::string& uri, bool stay);

}  // namespace vmm::migration
