// Threads for host calls that may wait (file I/O without io_uring, name look-ups, compression). Work owns nothing of the machine: it
// gets what it needs by value and its result is handed back on the loop that asked.
#pragma once

#include <condition_variable>
#include <deque>

#include "src/event/event_loop.h"
#include "src/event/task.h"

namespace vmm {

class WorkerPool {
 public:
  // Threads start on demand, up to `limit`, and end after ten idle seconds.
  explicit WorkerPool(unsigned limit = 16);
  ~WorkerPool();  // finishes what was submitted
  WorkerPool(const WorkerPool&) = delete;

  void submit(std::function<void()> work);  // any thread
  // From now on a thread of the pool's own makes the others, so that they have its sandbox and not that of the one that asks. It stays.
  void keep_maker();
  unsigned threads() const;

  // co_await pool.run<T>(loop, work): `work` runs on a worker, its result comes back on `loop`, which is the task's.
  template <class T>
  Task<T> run(EventLoop& loop, std::function<Result<T>()> work) {
    Completion<Result<T>> done;
    submit([&loop, &done, work = std::move(work)]() mutable {
      Result<T> result = work();
      work = nullptr;
      loop.post([&done, result = std::move(result)]() mutable { done.complete(std::move(result)); });
    });
    co_return co_await done;
  }

 private:
  void work_loop();
  void make_thread();  // lock held
  const unsigned limit_;
  mutable std::mutex mutex_;
  std::condition_variable wake_, ended_, make_;
  std::deque<std::function<void()>> queue_;
  unsigned threads_ = 0, idle_ = 0;
  unsigned to_make_ = 0;  // threads that the maker owes, counted in threads_
  bool maker_ = false, stopping_ = false;
};

// The process's pool, made at first use.
WorkerPool& worker_pool();

// `co_await switch_to(loop)`: the task goes on in a later turn of that loop, from any thread.
struct SwitchTo {
  EventLoop& loop;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) const {
    loop.post([waiter] { waiter.resume(); });
  }
  void await_resume() const noexcept {}
};
inline SwitchTo switch_to(EventLoop& loop) { return {loop}; }

// `co_await sleep_for(domain, Clock::real, 5ms)`: the domain's loop must be the task's.
class SleepFor {
 public:
  SleepFor(TimeDomain& domain, Clock clock, Nanoseconds span) : timer_(clock, domain, [this] { waiter_.resume(); }), span_(span) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    timer_.arm_in(span_);
  }
  void await_resume() const noexcept {}

 private:
  std::coroutine_handle<> waiter_;
  Timer timer_;
  Nanoseconds span_;
};
inline SleepFor sleep_for(TimeDomain& domain, Clock clock, Nanoseconds span) { return {domain, clock, span}; }

}  // namespace vmm
