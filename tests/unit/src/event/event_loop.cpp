#include "src/event/event_loop.h"

#include <fcntl.h>
#include <glib.h>

#include "tests/unit/test.h"

using namespace vmm;

TEST(timers_may_outlive_their_time_domain) {
  auto domain = std::make_unique<TimeDomain>();
  domain->use_manual_time();
  Timer rests{Clock::real, *domain, [] {}}, waits{Clock::real, *domain, [] {}};
  rests.arm_in(1s), rests.cancel();
  waits.arm_in(1s);
  domain = nullptr;
  CHECK(!rests.armed() && !waits.armed());
  rests.cancel(), waits.cancel();  // as their destructors do
}

TEST(event_loop_runs_posts_in_order_from_other_threads) {
  EventLoop loop;
  std::vector<int> seen;
  std::thread other{[&] {
    for (int i = 0; i < 1000; i++) loop.post([&seen, i] { seen.push_back(i); });
    loop.post([&] { loop.quit(); });
  }};
  loop.run();
  other.join();
  CHECK_EQ(seen.size(), usize{1000});
  CHECK(std::ranges::is_sorted(seen));
}

TEST(event_loop_watch_may_stop_itself_and_files_are_always_ready) {
  EventLoop loop;
  int ends[2];
  CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
  Fd reader{ends[0]}, writer{ends[1]};
  int calls = 0;
  FdWatch watch, second;
  watch.start(loop, reader.get(), EPOLLIN, [&](u32) { calls++, watch.stop(); });
  second.start(loop, reader.get(), EPOLLIN, [&](u32) { calls += 10, second.stop(); });
  CHECK(!loop.run_once(false));
  CHECK_EQ(::write(writer.get(), "x", 1), ssize_t{1});
  loop.run_once(true);
  CHECK_EQ(calls, 11);
  CHECK(!watch.active() && !loop.run_once(false));

  Fd null{::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
  FdWatch file;
  file.start(loop, null.get(), EPOLLIN, [&](u32 events) { calls = int(events); });
  loop.run_once(true);
  CHECK_EQ(calls, int(EPOLLIN));
  file.set_events(0);
  calls = 0;
  loop.run_once(false);
  CHECK_EQ(calls, 0);
}

TEST(event_loop_main_holds_the_machine_lock_but_not_while_it_polls) {
  EventLoop loop{EventLoop::Kind::main};
  bool held = false, other_got_it = false, glib_ran = false;
  std::thread other{[&] {
    {
      MachineLocked lock;
      other_got_it = true;
    }
    loop.post([&] { held = machine_lock.held_by_this_thread(); });
    g_timeout_add(1, [](void* p) -> gboolean { return *static_cast<bool*>(p) = true, G_SOURCE_REMOVE; }, &glib_ran);
  }};
  while (!held || !glib_ran) loop.run_once(true);
  other.join();
  CHECK(other_got_it && !machine_lock.held_by_this_thread());
}

TEST(event_loop_runs_timers_of_its_domains) {
  EventLoop loop{EventLoop::Kind::main};
  TimeDomain domain;
  loop.add_time_domain(domain);
  int fired = 0;
  Timer real{Clock::real, domain, [&] { fired++; }};
  Timer guest{Clock::guest, domain, [&] { fired += 10; }};
  guest.arm_in(1ms);
  real.arm_in(2ms);
  while (real.armed()) loop.run_once(true);
  CHECK_EQ(fired, 1);
  CHECK(guest.armed());  // the guest's clock does not run yet
  domain.start_guest_clock();
  while (guest.armed()) loop.run_once(true);
  CHECK_EQ(fired, 11);
  loop.remove_time_domain(domain);
}

TEST(time_domain_by_hand_runs_timers_in_order) {
  TimeDomain domain;
  domain.use_manual_time();
  domain.start_guest_clock();
  std::vector<i64> at;
  struct Ticker {
    TimeDomain& domain;
    std::vector<i64>& at;
    Timer timer{Clock::guest, on<&Ticker::tick>, *this};
    TimeDomain& time_domain() { return domain; }
    void tick() {
      at.push_back(timer.now().count());
      if (at.size() < 3) timer.arm(timer.due() + 10ns);
    }
  } ticker{domain, at};
  ticker.timer.arm(5ns);
  domain.advance(4ns);
  CHECK(at.empty());
  domain.advance(100ns);
  CHECK(at == std::vector<i64>({5, 15, 25}));
  domain.stop_guest_clock();
  domain.advance(100ns);
  CHECK_EQ(domain.now(Clock::guest).count(), i64{104});
  CHECK_EQ(domain.now(Clock::real).count(), i64{204});
  domain.set_guest_clock(7ns);
  domain.start_guest_clock();
  domain.advance(1ns);
  CHECK_EQ(domain.now(Clock::guest).count(), i64{8});
  ticker.timer.arm_in(Nanoseconds::max());
  CHECK(ticker.timer.armed());
}
