// Mutexes with thread-safety marks, and the machine lock (outermost in the order of style.md, "Ownership and threads").
#pragma once

#include <atomic>
#include <mutex>

#include "src/base/assert.h"

#if defined(__clang__)
#define VMM_MARK(x) __attribute__((x))
#else
#define VMM_MARK(x)
#endif
#define CAPABILITY(name) VMM_MARK(capability(name))
#define SCOPED_CAPABILITY VMM_MARK(scoped_lockable)
#define GUARDED_BY(x) VMM_MARK(guarded_by(x))
#define PT_GUARDED_BY(x) VMM_MARK(pt_guarded_by(x))
#define REQUIRES(...) VMM_MARK(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) VMM_MARK(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) VMM_MARK(acquire_capability(__VA_ARGS__))
#define RELEASE(...) VMM_MARK(release_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) VMM_MARK(try_acquire_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) VMM_MARK(assert_capability(x))
#define RETURN_CAPABILITY(x) VMM_MARK(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS VMM_MARK(no_thread_safety_analysis)

namespace vmm {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }
  bool try_lock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  std::mutex& native() { return mutex_; }  // for condition variables

 private:
  std::mutex mutex_;
};

class SCOPED_CAPABILITY Lock {
 public:
  explicit Lock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Lock() RELEASE() { mutex_.unlock(); }
  Lock(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

// The machine lock: object tree, memory topology, devices without an iothread, commands. Not recursive.
class CAPABILITY("machine lock") MachineLock {
 public:
  void lock() ACQUIRE();
  void unlock() RELEASE();
  bool held_by_this_thread() const;
  void assert_held() const ASSERT_CAPABILITY(this) { ASSERT(held_by_this_thread()); }

 private:
  std::mutex mutex_;
};
extern MachineLock machine_lock;

class SCOPED_CAPABILITY MachineLocked {
 public:
  MachineLocked() ACQUIRE(machine_lock) { machine_lock.lock(); }
  ~MachineLocked() RELEASE() { machine_lock.unlock(); }
  MachineLocked(const MachineLocked&) = delete;
};
// Takes the machine lock unless this thread already holds it (MMIO handlers reached from both sides).
class MachineLockedIfNot {
 public:
  MachineLockedIfNot() NO_THREAD_SAFETY_ANALYSIS : taken_(!machine_lock.held_by_this_thread()) {
    if (taken_) machine_lock.lock();
  }
  ~MachineLockedIfNot() NO_THREAD_SAFETY_ANALYSIS {
    if (taken_) machine_lock.unlock();
  }
  MachineLockedIfNot(const MachineLockedIfNot&) = delete;

 private:
  bool taken_;
};

}  // namespace vmm
