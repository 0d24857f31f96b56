// Where random bytes for guests come from: -object rng-random, rng-builtin, rng-egd. Main loop, machine lock held.
#pragma once

#include <functional>

#include "src/event/event_loop.h"
#include "src/object/object.h"

namespace vmm::hw {

class RngBackend : public Object {
 public:
  static const TypeInfo type;  // "rng-backend"
  // Calls `done` with 1 to `most` bytes: now, or later from the loop. One request at a time.
  virtual void request(EventLoop& loop, usize most, std::function<void(std::span<const u8>)> done) = 0;
  virtual void cancel() {}
  bool properties_frozen() const override { return opened_; }

 protected:
  bool opened_ = false;
};

Ref<RngBackend> make_default_rng();  // rng-builtin

}  // namespace vmm::hw
