// What a machine consists of for snapshots and migration: named sections, each with one Value. Devices, CPUs, clocks and boards give
// theirs; who moves a machine sees only this list.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/value/value.h"

namespace vmm::vm {

class Machine;
class RunState;
enum class Status : u8;

// What a stream says of a machine that stood, and the state of one that stands: nothing but the status changes. Main loop.
std::optional<Status> status_of_name(std::string_view name);
void stand(RunState& state, Status why);

struct StateSection {
  std::string name;                            // unique: a path of the tree, "cpu/0", "clock"
  std::function<Value()> save;                 // the machine stands still
  std::function<Result<>(const Value&)> load;  // the same; what fails leaves a machine that must not run
};
// All sections, in the order in which they are loaded. The second list runs after the last one has been loaded.
struct StateSections {
  std::vector<StateSection> sections;
  std::vector<std::function<void()>> afterwards;
};
StateSections state_sections(Machine& machine);

// Who adds sections; at start-up, lower order first.
struct RegisteredStateSource {
  RegisteredStateSource(int order, void (*add)(Machine&, StateSections&));
};

}  // namespace vmm::vm
