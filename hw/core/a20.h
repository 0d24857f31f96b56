// The A20 gate: bit 20 of every physical address passes, or is zero. Port 92 and the keyboard controller each drive one input; the last
// writer wins, as on QEMU's pc. Machine lock held.
#pragma once

#include "hw/core/irq.h"
#include "src/vm/machine.h"

namespace vmm::hw {

class A20Gate final : public IrqSink {
 public:
  explicit A20Gate(vm::Machine& machine) : machine_(machine) {}
  void set_input(unsigned line, bool level) override;
  bool on() const { return on_; }
  void reset() { on_ = true; }  // CPUs come out of reset with the gate open
  void restore(bool on) {       // of a machine's saved state: its inputs cannot tell which of them was the last
    on_ = !on;
    set_input(0, on);
  }

 private:
  vm::Machine& machine_;
  bool on_ = true;
};

}  // namespace vmm::hw
