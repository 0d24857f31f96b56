#include "src/event/worker_pool.h"

#include "tests/unit/test.h"

using namespace vmm;

namespace {
Task<int> sum_on_workers(WorkerPool& pool, EventLoop& loop, int count) {
  int sum = 0;
  for (int i = 0; i < count; i++) {
    sum += co_await pool.run<int>(loop, [i, &loop]() -> Result<int> {
      CHECK(!loop.on_this_thread());
      return i;
    });
    CHECK(loop.on_this_thread());
  }
  co_await switch_to(loop);
  co_return sum;
}
Task<> fails_on_worker(WorkerPool& pool, EventLoop& loop) {
  co_await pool.run<void>(loop, []() -> Result<> { return fail("disk is gone"); });
  co_return {};
}
Task<> naps(TimeDomain& domain, int& steps) {
  for (int i = 0; i < 3; i++) {
    co_await sleep_for(domain, Clock::real, 1ms);
    steps++;
  }
  co_return {};
}
}  // namespace

TEST(worker_pool_hands_results_back_to_the_loop) {
  WorkerPool pool{3};
  EventLoop loop;
  int done = 0;
  std::string error;
  for (int i = 0; i < 4; i++)
    sum_on_workers(pool, loop, 100).start([&](Result<int> r) {
      CHECK_EQ(*r, 4950);
      if (++done == 4) loop.quit();
    });
  fails_on_worker(pool, loop).start([&](Result<> r) { error = r.error().message; });
  loop.run();
  while (error.empty()) loop.run_once(true);
  CHECK_EQ(error, std::string{"disk is gone"});
  CHECK(pool.threads() <= 3);
}

TEST(task_sleeps_on_a_clock) {
  TimeDomain domain;
  domain.use_manual_time();
  int steps = 0;
  bool done = false;
  naps(domain, steps).start([&](Result<> r) { done = bool(r); });
  domain.advance(1ms);
  CHECK_EQ(steps, 1);
  domain.advance(5ms);
  CHECK(done && steps == 3);
}
