// The PC's wiring of FERR#, IGNNE# and port F0h. Source: SDM 1 appendix D.2.1.2 ("MS-DOS* compatibility sub-mode").
#pragma once

#include <atomic>

#include "hw/core/irq.h"
#include "src/base/lock.h"
#include "src/vm/vcpu.h"

namespace vmm::hw {

class CoprocessorWiring final : public vm::CoprocessorError {
 public:
  Irq irq;  // 13

  void assert_ferr() override {
    const MachineLockedIfNot locked;
    if (ignored_) return;
    ferr_ = true;
    irq.raise();
  }
  void release_ferr() override {
    const MachineLockedIfNot locked;
    reset();
  }
  bool ignored() const override { return ignored_.load(std::memory_order_acquire); }

  // A write to port F0h; machine lock held.
  void acknowledge() {
    if (!ferr_) return;
    irq.lower();
    ignored_ = true;
  }
  void reset() {
    ferr_ = false, ignored_ = false;
    irq.lower();
  }

  // Saved state. IGNNE# is there only while FERR# is.
  bool ferr() const { return ferr_; }
  void restore(bool ferr, bool is_ignored) {
    ferr_ = ferr, ignored_ = ferr && is_ignored;
    irq.set(ferr && !is_ignored);
  }

 private:
  bool ferr_ = false;
  std::atomic<bool> ignored_{false};
};

}  // namespace vmm::hw
