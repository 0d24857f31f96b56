// A machine's clocks and the timers on them. A TimeDomain belongs to one machine; a Timer names only the kind of clock and finds the
// domain through its owner when it is armed. Timer callbacks run on the main loop with the machine lock held. A timer is armed and
// cancelled on any thread, and destroyed with the machine lock held (its callback is then not running).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <set>

#include "src/base/lock.h"
#include "src/base/types.h"

namespace vmm {

enum class Clock : u8 {
  guest,  // runs while the machine runs; starts at 0
  real,   // host monotonic, always runs
  host,   // wall clock, nanoseconds since 1970; may jump
};
inline constexpr unsigned clock_count = 3;

class Timer;

class TimeDomain {
 public:
  TimeDomain();
  ~TimeDomain();
  TimeDomain(const TimeDomain&) = delete;

  Nanoseconds now(Clock clock) const;  // any thread, lock-free
  // The guest clock starts stopped.
  void start_guest_clock();
  void stop_guest_clock();
  bool guest_clock_running() const;
  void set_guest_clock(Nanoseconds now);  // loading a snapshot; stopped only

  // Tests: time passes only by advance(), which also runs timers as they fall due.
  void use_manual_time();
  void advance(Nanoseconds by);

  // The driver's side (main loop): when to wake (never: Nanoseconds::max()) as a span from now, and running what is due.
  Nanoseconds until_next() const;
  void run_due() REQUIRES(machine_lock);
  // Called, on any thread, when a timer is armed that is due before all others.
  void on_earlier(std::function<void()> wake) { wake_ = std::move(wake); }

 private:
  friend class Timer;
  void arm(Timer& timer, Nanoseconds at);
  void cancel(Timer& timer);
  void run_due_here();
  i64 monotonic() const;
  mutable Mutex mutex_;
  std::set<std::pair<Nanoseconds, Timer*>> queue_[clock_count] GUARDED_BY(mutex_);
  std::atomic<i64> guest_offset_ns_{0};
  std::atomic<i64> guest_stopped_at_ns_{0};
  std::atomic<u32> sequence_{0};  // odd while the three around it change
  std::atomic<bool> running_{false};
  std::atomic<bool> manual_{false};
  std::atomic<i64> manual_now_ns_{0};
  std::function<void()> wake_;
};

// A member function as a constant: on<&Disk::doorbell>.
template <auto Method>
struct On {};
template <auto Method>
inline constexpr On<Method> on{};

class Timer {
 public:
  // The owner has `TimeDomain& time_domain()`, valid from realize on.
  template <auto Method, class C>
  Timer(Clock clock, On<Method>, C& owner)
      : clock_(clock),
        owner_(&owner),
        run_([](void* o) { (static_cast<C*>(o)->*Method)(); }),
        domain_of_([](void* o) -> TimeDomain& { return static_cast<C*>(o)->time_domain(); }) {}
  // Without an owner object.
  Timer(Clock clock, TimeDomain& domain, std::function<void()> run);
  ~Timer() { cancel(); }
  Timer(const Timer&) = delete;

  void arm(Nanoseconds at);       // absolute, on the timer's clock; re-arms
  void arm_in(Nanoseconds span);  // from now
  void cancel();
  bool armed() const { return armed_.load(std::memory_order_relaxed); }
  Nanoseconds due() const { return Nanoseconds{due_ns_.load(std::memory_order_relaxed)}; }  // meaningful while armed
  Nanoseconds now() const { return domain().now(clock_); }
  Clock clock() const { return clock_; }

 private:
  friend class TimeDomain;
  TimeDomain& domain() const {
    TimeDomain* bound = bound_.load(std::memory_order_relaxed);
    return bound ? *bound : domain_of_(owner_);
  }
  Clock clock_;
  std::atomic<bool> armed_{false};
  std::atomic<i64> due_ns_{0};
  std::atomic<TimeDomain*> bound_{nullptr};  // the domain whose queue holds us
  void* owner_ = nullptr;
  void (*run_)(void*) = nullptr;
  TimeDomain& (*domain_of_)(void*) = nullptr;
  std::function<void()> function_;
};

}  // namespace vmm
