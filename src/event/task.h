// Coroutines for control flow that waits (block, jobs, unplug, slow commands). A task lives and resumes on one EventLoop.
// `co_await f()` yields the value or ends this task with the error; `co_await attempt(f())` yields the Result<T>.
#pragma once

#include <coroutine>
#include <functional>
#include <optional>

#include "src/base/result.h"
#include "src/event/frames.h"

namespace vmm {

template <class T = void>
class Task;

namespace task_detail {

// What awaits a task hears by `finished`, which returns the coroutine to go on with.
struct PromiseBase : Framed {
  std::coroutine_handle<> (*finished)(PromiseBase& self) noexcept = nullptr;
  std::coroutine_handle<> waiter;
  void* waiter_promise = nullptr;
  bool done = false;
  std::suspend_always initial_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
  std::coroutine_handle<> go_on() noexcept {
    done = true;
    return finished ? finished(*this) : std::noop_coroutine();
  }
};

struct FinalAwait {
  bool await_ready() noexcept { return false; }
  template <class P>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<P> self) noexcept {
    return self.promise().go_on();
  }
  void await_resume() noexcept {}
};

template <class T>
struct Promise : PromiseBase {
  std::optional<Result<T>> result;
  Task<T> get_return_object();
  FinalAwait final_suspend() noexcept { return {}; }
  void return_value(Result<T> value) { result.emplace(std::move(value)); }
  void fail_with(Error e) { result.emplace(std::unexpected(std::move(e))); }
};

// The value of `co_await task` for a Task<void>: lets `co_return co_await f();` stand in a Task<void>.
struct Success {
  operator Result<>() const { return {}; }
};

template <class T, bool HandsUp>
struct ChildAwait;
template <class T>
struct Attempt;

}  // namespace task_detail

// Task<void> bodies end with `co_return {};` (success) or `co_return fail(...)`.
template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = task_detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;
  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }
  // Runs until the first wait. `done` is called, on the loop that the task ends on, with the result.
  // The frame lives until then by itself.
  void start(std::function<void(Result<T>)> done) &&;
  Handle handle() const { return handle_; }

 private:
  template <class U, bool H>
  friend struct task_detail::ChildAwait;
  Handle handle_;
};

namespace task_detail {

template <class T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>{std::coroutine_handle<Promise<T>>::from_promise(*this)};
}

template <class T, bool HandsUp>
struct ChildAwait {
  Task<T> child;
  bool await_ready() noexcept { return false; }
  // A child that completes at once must not grow the stack: it runs here, and false means "go on".
  template <class P>
  bool await_suspend(std::coroutine_handle<P> self) noexcept {
    Promise<T>& p = child.handle_.promise();
    child.handle_.resume();
    if (!p.done) {
      p.waiter = self;
      p.waiter_promise = &self.promise();
      p.finished = &finished<P>;
      return true;
    }
    if constexpr (HandsUp) {
      if (!p.result->has_value()) {
        // Failed, and the error goes up: the waiting task ends here, without being resumed. Its owner destroys its frame, in which
        // we are, as soon as it goes on: nothing of ours is touched after that.
        P& mine = self.promise();
        mine.fail_with(std::move(p.result->error()));
        mine.go_on().resume();
        return true;
      }
    }
    return false;
  }
  decltype(auto) await_resume() {
    auto& result = *child.handle_.promise().result;
    if constexpr (!HandsUp)
      return Result<T>(std::move(result));
    else if constexpr (!std::is_void_v<T>)
      return T(std::move(*result));
    else
      return Success{};
  }

 private:
  template <class P>
  static std::coroutine_handle<> finished(PromiseBase& base) noexcept {
    auto& p = static_cast<Promise<T>&>(base);
    if constexpr (HandsUp) {
      if (!p.result->has_value()) {
        P& waiting = *static_cast<P*>(p.waiter_promise);
        waiting.fail_with(std::move(p.result->error()));
        return waiting.go_on();
      }
    }
    return p.waiter;
  }
};

template <class T>
struct Attempt {
  Task<T> task;
};

}  // namespace task_detail

template <class T>
auto operator co_await(Task<T>&& task) {
  return task_detail::ChildAwait<T, true>{std::move(task)};
}
template <class T>
task_detail::Attempt<T> attempt(Task<T> task) {
  return {std::move(task)};
}
template <class T>
auto operator co_await(task_detail::Attempt<T>&& a) {
  return task_detail::ChildAwait<T, false>{std::move(a.task)};
}

namespace task_detail {
struct Root {
  struct promise_type : Framed {
    Root get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};
template <class T>
Root run_root(Task<T> task, std::function<void(Result<T>)> done) {
  Result<T> result = co_await attempt(std::move(task));
  if (done) done(std::move(result));
}
}  // namespace task_detail

template <class T>
void Task<T>::start(std::function<void(Result<T>)> done) && {
  task_detail::run_root<T>(std::move(*this), std::move(done));
}

// Suspends until complete(value) is called once, on the task's loop; what callbacks are turned into awaits with.
template <class T>
class Completion {
 public:
  bool await_ready() const noexcept { return value_.has_value(); }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
  T await_resume() { return std::move(*value_); }
  void complete(T value) {
    value_.emplace(std::move(value));
    if (auto w = std::exchange(waiter_, {})) w.resume();
  }

 private:
  std::optional<T> value_;
  std::coroutine_handle<> waiter_;
};

}  // namespace vmm
