// Slows the guest down while it writes faster than its RAM can be sent (auto-converge): its CPUs stand still for part of their time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "src/vm/machine.h"

namespace vmm::migration {

class SlowDown {
 public:
  explicit SlowDown(vm::Machine& machine) : machine_(machine) {}
  ~SlowDown() { end(); }
  // Percent of their time; 0: full speed. Not with the machine lock held.
  void set(unsigned percent);
  unsigned percent() const { return percent_.load(std::memory_order_relaxed); }
  void end();

 private:
  void work();
  vm::Machine& machine_;
  std::atomic<unsigned> percent_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace vmm::migration
