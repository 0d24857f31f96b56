// Waiting for a span of time on whatever loop a task is on.
#pragma once

#include "src/event/loop_local.h"

namespace vmm::block {

// Real time of this thread's loop, which may be an iothread's: it belongs to no machine.
struct LoopClock {
  explicit LoopClock(EventLoop& l) : loop(l) { loop.add_time_domain(domain); }
  ~LoopClock() { loop.remove_time_domain(domain); }
  EventLoop& loop;
  TimeDomain domain;
};

// `co_await sleep_here(5ms)`
class SleepHere {
 public:
  explicit SleepHere(Nanoseconds span) : timer_(Clock::real, loop_local<LoopClock>().domain, [this] { waiter_.resume(); }), span_(span) {}
  bool await_ready() const { return span_ <= 0ns; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    timer_.arm_in(span_);
  }
  void await_resume() const {}

 private:
  std::coroutine_handle<> waiter_;
  Timer timer_;
  Nanoseconds span_;
};
inline SleepHere sleep_here(Nanoseconds span) { return SleepHere{span}; }

}  // namespace vmm::block
