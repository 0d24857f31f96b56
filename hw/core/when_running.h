// A call each time the machine begins to run, for as long as this lives: what a loaded state or a failed request left to do. Main loop.
#pragma once

#include <functional>
#include <memory>

#include "src/vm/machine.h"

namespace vmm::hw {

class WhenRunning {
 public:
  void start(vm::Machine& machine, std::function<void()> call) {
    call_ = std::make_shared<std::function<void()>>(std::move(call));
    machine.run_state().on_change([weak = std::weak_ptr{call_}](bool running) {
      if (const auto call = weak.lock(); call && running) (*call)();  // notifiers cannot be taken back
    });
  }
  void stop() { call_ = nullptr; }

 private:
  std::shared_ptr<std::function<void()>> call_;
};

}  // namespace vmm::hw
