#include "src/base/lock.h"

namespace vmm {
namespace {
thread_local bool holds_machine_lock = false;
}
MachineLock machine_lock;
void MachineLock::lock() {
  ASSERT(!holds_machine_lock);
  mutex_.lock();
  holds_machine_lock = true;
}
void MachineLock::unlock() {
  ASSERT(holds_machine_lock);
  holds_machine_lock = false;
  mutex_.unlock();
}
bool MachineLock::held_by_this_thread() const { return holds_machine_lock; }
}  // namespace vmm
