// The clocks of a machine and the timers on them.
#include <ctime>

#include <algorithm>

#include "src/event/clock.h"

namespace vmm {

namespace {
i64 read_clock(clockid_t id) {
  timespec t{};
  ::clock_gettime(id, &t);
  return i64(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
// A wall clock may be set while we sleep: look again at least so often.
constexpr Nanoseconds host_clock_nap = 1s;
}  // namespace

TimeDomain::TimeDomain() = default;
TimeDomain::~TimeDomain() {
  Lock lock{mutex_};
  for (auto& queue : queue_)
    for (auto& [at, timer] : queue) {
      timer->armed_.store(false, std::memory_order_relaxed);
      timer->bound_ = nullptr;
    }
}

i64 TimeDomain::monotonic() const {
  return manual_.load(std::memory_order_acquire) ? manual_now_ns_.load(std::memory_order_acquire) : read_clock(CLOCK_MONOTONIC);
}

Nanoseconds TimeDomain::now(Clock clock) const {
  switch (clock) {
    case Clock::real: return Nanoseconds{monotonic()};
    case Clock::host:
      return Nanoseconds{manual_.load(std::memory_order_acquire) ? manual_now_ns_.load(std::memory_order_acquire)
                                                                 : read_clock(CLOCK_REALTIME)};
    case Clock::guest: break;
  }
  // A sequence lock: an odd or changed number means that the clock was being started or stopped.
  for (;;) {
    const u32 before = sequence_.load(std::memory_order_acquire);
    const bool running = running_.load(std::memory_order_acquire);
    const i64 base = running ? guest_offset_ns_.load(std::memory_order_acquire) : guest_stopped_at_ns_.load(std::memory_order_acquire);
    const i64 value = running ? base + monotonic() : base;
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!(before & 1) && sequence_.load(std::memory_order_acquire) == before) return Nanoseconds{value};
  }
}

bool TimeDomain::guest_clock_running() const { return running_.load(std::memory_order_acquire); }

void TimeDomain::start_guest_clock() {
  {
    Lock lock{mutex_};
    if (running_.load()) return;
    sequence_.fetch_add(1);
    guest_offset_ns_.store(guest_stopped_at_ns_.load() - monotonic());
    running_.store(true);
    sequence_.fetch_add(1);
  }
  if (wake_) wake_();  // guest timers count again
}
void TimeDomain::stop_guest_clock() {
  Lock lock{mutex_};
  if (!running_.load()) return;
  sequence_.fetch_add(1);
  guest_stopped_at_ns_.store(guest_offset_ns_.load() + monotonic());
  running_.store(false);
  sequence_.fetch_add(1);
}
void TimeDomain::set_guest_clock(Nanoseconds now) {
  Lock lock{mutex_};
  ASSERT(!running_.load());
  sequence_.fetch_add(1);
  guest_stopped_at_ns_.store(now.count());
  sequence_.fetch_add(1);
}

void TimeDomain::use_manual_time() {
  Lock lock{mutex_};
  const bool running = running_.load();
  sequence_.fetch_add(1);
  if (running) guest_stopped_at_ns_.store(guest_offset_ns_.load() + monotonic());
  manual_now_ns_.store(0);
  manual_.store(true);
  if (running) guest_offset_ns_.store(guest_stopped_at_ns_.load());
  sequence_.fetch_add(1);
}

void TimeDomain::advance(Nanoseconds by) {
  ASSERT(manual_.load());
  MachineLockedIfNot lock;
  const i64 target = manual_now_ns_.load() + by.count();
  for (;;) {
    run_due_here();
    const Nanoseconds next = until_next();
    const i64 left = target - manual_now_ns_.load();
    if (next.count() > left) break;
    // Due timers that are beyond a turn's limit count as "now"; time then stands until they have run.
    manual_now_ns_.fetch_add(std::max<i64>(next.count(), 0));
  }
  manual_now_ns_.store(target);
}

Nanoseconds TimeDomain::until_next() const {
  Nanoseconds least = Nanoseconds::max();
  Lock lock{mutex_};
  for (unsigned c = 0; c < clock_count; c++) {
    if (queue_[c].empty() || (Clock(c) == Clock::guest && !running_.load(std::memory_order_acquire))) continue;
    const Nanoseconds at = queue_[c].begin()->first, moment = now(Clock(c));
    Nanoseconds left = at <= moment ? Nanoseconds{0} : at - moment;
    if (Clock(c) == Clock::host && !manual_.load()) left = std::min(left, host_clock_nap);
    least = std::min(least, left);
  }
  return least;
}

void TimeDomain::run_due() { run_due_here(); }

void TimeDomain::run_due_here() {
  for (unsigned c = 0; c < clock_count; c++) {
    if (Clock(c) == Clock::guest && !running_.load(std::memory_order_acquire)) continue;
    const Nanoseconds moment = now(Clock(c));
    // Timers that arm themselves for the past must not keep us here: the loop comes back.
    usize limit;
    {
      Lock lock{mutex_};
      limit = queue_[c].size() + 16;
    }
    while (limit--) {
      Timer* timer;
      {
        Lock lock{mutex_};
        if (queue_[c].empty() || queue_[c].begin()->first > moment) break;
        timer = queue_[c].begin()->second;
        queue_[c].erase(queue_[c].begin());
        timer->armed_.store(false, std::memory_order_relaxed);
      }
      if (timer->run_)
        timer->run_(timer->owner_);
      else
        std::function<void()>{timer->function_}();                                       // a copy: it may destroy its timer
      if (Clock(c) == Clock::guest && !running_.load(std::memory_order_acquire)) break;  // it stopped the machine
    }
  }
}

void TimeDomain::arm(Timer& timer, Nanoseconds at) {
  bool earliest;
  {
    Lock lock{mutex_};
    auto& queue = queue_[unsigned(timer.clock_)];
    if (timer.armed_.load(std::memory_order_relaxed)) queue.erase({timer.due(), &timer});
    timer.due_ns_.store(at.count(), std::memory_order_relaxed);
    timer.armed_.store(true, std::memory_order_relaxed);
    timer.bound_ = this;
    earliest = queue.insert({at, &timer}).first == queue.begin();
  }
  if (earliest && wake_) wake_();
}
void TimeDomain::cancel(Timer& timer) {
  Lock lock{mutex_};
  if (!timer.armed_.load(std::memory_order_relaxed)) return;
  queue_[unsigned(timer.clock_)].erase({timer.due(), &timer});
  timer.armed_.store(false, std::memory_order_relaxed);
}

Timer::Timer(Clock clock, TimeDomain& domain, std::function<void()> run) : clock_(clock), bound_(&domain), function_(std::move(run)) {}

void Timer::arm(Nanoseconds at) { domain().arm(*this, at); }
void Timer::arm_in(Nanoseconds span) {
  TimeDomain& d = domain();
  const Nanoseconds now = d.now(clock_);
  // Spans come from guests' registers: no wrap-around.
  arm(span > Nanoseconds::max() - std::max(now, Nanoseconds{0}) ? Nanoseconds::max() : now + span);
}
void Timer::cancel() {
  // A timer that rests may outlive its domain: a device dies after its machine.
  if (!armed_.load(std::memory_order_acquire)) return;
  if (TimeDomain* bound = bound_.load(std::memory_order_relaxed)) bound->cancel(*this);
}

}  // namespace vmm
