#include "src/event/task.h"

#include "src/event/event_loop.h"
#include "tests/unit/test.h"

using namespace vmm;

namespace {
struct Counted {
  static inline int alive = 0;
  Counted() { alive++; }
  Counted(const Counted&) { alive++; }
  ~Counted() { alive--; }
};

Task<int> at_once(int value) { co_return value; }
Task<int> fails(std::string why) { co_return fail("{}", why); }
Task<> nothing() { co_return {}; }
Task<> passes_on() { co_return co_await nothing(); }
Task<int> waits(Completion<int>& on) {
  Counted here;
  const int value = co_await on;
  if (value < 0) co_return fail("negative");
  co_return value * 2;
}
Task<int> sum_many(int count) {
  u64 sum = 0;
  for (int i = 0; i < count; i++) sum += u64(co_await at_once(i) & 1);
  co_return int(sum);
}
Task<int> two_levels(Completion<int>& on) {
  Counted local;
  const int value = co_await waits(on);
  co_return value + 1;
}
Task<int> three_levels(Completion<int>& on) {
  Counted local;
  co_return co_await two_levels(on);
}
Task<std::string> tries(Completion<int>& on) {
  Counted local;
  Result<int> r = co_await attempt(three_levels(on));
  if (!r) co_return "error: " + r.error().message;
  co_return format("value {}", *r);
}
Task<int> fails_at_once_below() {
  Counted local;
  const int value = co_await fails("below");
  co_return value;
}
Task<std::string> tries_at_once() {
  const Result<int> r = co_await attempt(fails_at_once_below());
  co_return r ? "no error" : r.error().message;
}
Task<int> fails_often(int count) {
  int failures = 0;
  for (int i = 0; i < count; i++) {
    const Result<int> r = co_await attempt(fails_at_once_below());
    failures += !r;
  }
  co_return failures;
}
Task<> many_completions(std::vector<std::unique_ptr<Completion<int>>>& all, int& sum) {
  for (auto& one : all) sum += co_await waits(*one);
  co_return {};
}
template <class T>
Result<T> value_of(Task<T> task) {
  std::optional<Result<T>> result;
  std::move(task).start([&](Result<T> r) { result = std::move(r); });
  CHECK(result.has_value());
  return *result;
}
}  // namespace

TEST(task_with_a_million_children_that_complete_at_once_keeps_the_stack) { CHECK_EQ(OK(value_of(sum_many(1'000'000))), 500'000); }

TEST(task_value_and_void) {
  CHECK_EQ(OK(value_of(at_once(3))), 3);
  OK(value_of(passes_on()));
}

TEST(task_error_goes_up_at_once_and_frames_end) {
  CHECK_EQ(OK(value_of(tries_at_once())), std::string{"below"});
  CHECK_EQ(OK(value_of(fails_often(100'000))), 100'000);
  auto r = value_of(fails_at_once_below());
  CHECK(!r && r.error().message == "below");
  CHECK_EQ(Counted::alive, 0);
}

TEST(task_resumes_where_a_completion_comes_late) {
  for (const int given : {5, -1}) {
    Completion<int> completion;
    std::string got;
    tries(completion).start([&](Result<std::string> r) { got = *r; });
    CHECK(got.empty());
    CHECK_EQ(Counted::alive, 4);
    completion.complete(given);
    CHECK_EQ(got, std::string{given > 0 ? "value 11" : "error: negative"});
    CHECK_EQ(Counted::alive, 0);
  }
}

TEST(task_takes_completions_that_came_before_and_after) {
  std::vector<std::unique_ptr<Completion<int>>> all;
  for (int i = 0; i < 1000; i++) all.push_back(std::make_unique<Completion<int>>());
  for (int i = 0; i < 1000; i += 2) all[usize(i)]->complete(1);
  int sum = 0;
  bool done = false;
  many_completions(all, sum).start([&](Result<> r) { done = r.has_value(); });
  for (int i = 1; i < 1000; i += 2) all[usize(i)]->complete(1);
  CHECK(done);
  CHECK_EQ(sum, 2000);
}
