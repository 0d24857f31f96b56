#include "src/event/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include "src/base/host.h"
#include "src/base/thread_name.h"

namespace vmm {

WorkerPool::WorkerPool(unsigned limit) : limit_(std::max(limit, 1u)) {}

WorkerPool::~WorkerPool() {
  std::unique_lock lock{mutex_};
  stopping_ = true;
  wake_.notify_all();
  make_.notify_all();
  ended_.wait(lock, [&] { return threads_ == 0 && !maker_; });
}

unsigned WorkerPool::threads() const {
  std::lock_guard lock{mutex_};
  return threads_;
}

void WorkerPool::submit(std::function<void()> work) {
  std::lock_guard lock{mutex_};
  queue_.push_back(std::move(work));
  if (idle_ >= queue_.size() || threads_ >= limit_) {
    wake_.notify_one();
    return;
  }
  threads_++;
  if (!maker_) return make_thread();
  to_make_++;
  make_.notify_one();
}

void WorkerPool::keep_maker() {
  std::lock_guard lock{mutex_};
  if (std::exchange(maker_, true)) return;
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGSYS);  // a call that the sandbox denies is to be named
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread{[this] {
    name_this_thread("workers");
    host::begin_thread(host::ThreadKind::io);
    std::unique_lock lock{mutex_};
    while (!stopping_) {
      make_.wait(lock, [&] { return to_make_ > 0 || stopping_; });
      for (; to_make_ > 0; to_make_--) make_thread();
    }
    maker_ = false;
    ended_.notify_all();
  }}.detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void WorkerPool::make_thread() {
  // Signals for the process are read on the main loop: workers take none.
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGSYS);  // a call that the sandbox denies is to be named
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread{[this] { work_loop(); }}.detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void WorkerPool::work_loop() {
  name_this_thread("worker");
  std::unique_lock lock{mutex_};
  for (;;) {
    if (queue_.empty()) {
      if (stopping_) break;
      idle_++;
      const bool woken = wake_.wait_for(lock, 10s, [&] { return !queue_.empty() || stopping_; });
      idle_--;
      if (!woken) break;
      continue;
    }
    auto work = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
  }
  threads_--;
  ended_.notify_all();  // under the lock: the pool may end as soon as it is free
}

WorkerPool& worker_pool() {
  static auto* pool = new WorkerPool;  // workers may outlive main()
  return *pool;
}

}  // namespace vmm
