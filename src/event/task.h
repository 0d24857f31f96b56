// Coroutines for control flow that waits (block, jobs, unplug, slow commands). A task lives and resumes on one EventLoop.
// `co_await f()` yields the value or ends this task with the error; `co_await attempt(f())` yields the Result<T>.
#pragma once

#include <coroutine>
#include <functional>
#include <optional>
#include <source_location>

#include "src/base/result.h"

namespace vmm {

template <class T = void>
class Task;

namespace task_detail {

struct PromiseBase {
  std::coroutine_handle<> waiter;  // resumed when we finish
  bool started = false, done = false;
  PromiseBase* parent = nullptr;
  std::source_location where;
  std::suspend_always initial_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }
};

struct FinalAwait {
  bool await_ready() noexcept { return false; }
  template <class P>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<P> self) noexcept {
    PromiseBase& p = self.promise();
    p.done = true;
    return p.waiter ? p.waiter : std::noop_coroutine();
  }
  void await_resume() noexcept {}
};

template <class T>
struct Attempt;
template <class T, bool HandsUp>
struct ChildAwait;

template <class T>
struct Promise : PromiseBase {
  std::optional<Result<T>> result;
  std::function<void(Result<T>)> on_done;  // for a started root task
  Task<T> get_return_object();
  FinalAwait final_suspend() noexcept { return {}; }
  void return_value(Result<T> value) { result.emplace(std::move(value)); }
  void fail_with(Error e) { result.emplace(std::unexpected(std::move(e))); }
};
template <>
struct Promise<void> : PromiseBase {
  std::optional<Result<>> result;
  std::function<void(Result<>)> on_done;
  Task<void> get_return_object();
  FinalAwait final_suspend() noexcept { return {}; }
  void return_value(Result<> value) { result.emplace(std::move(value)); }
  void fail_with(Error e) { result.emplace(std::unexpected(std::move(e))); }
};

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
inline Task<void> Promise<void>::get_return_object() { return Task<void>{std::coroutine_handle<Promise<void>>::from_promise(*this)}; }

template <class T, bool HandsUp>
struct ChildAwait {
  Task<T> child;
  std::coroutine_handle<> waiting{};
  PromiseBase* waiting_promise = nullptr;
  void (*fail_waiting)(void*, Error) = nullptr;
  bool await_ready() noexcept { return false; }
  // A child that completes at once must not grow the stack: it runs here, and false means "go on".
  template <class P>
  bool await_suspend(std::coroutine_handle<P> self) noexcept {
    auto& p = child.handle_.promise();
    child.handle_.resume();
    if (p.done && !(HandsUp && !p.result->has_value())) return false;
    if (p.done) {  // failed, and the error goes up: the waiting task ends here, without being resumed
      P& mine = self.promise();
      mine.fail_with(std::move(p.result->error()));
      mine.done = true;
      if (mine.waiter) mine.waiter.resume();
      return true;
    }
    if constexpr (HandsUp) {
      p.waiter = relay(self).handle;
    } else {
      p.waiter = self;
    }
    return true;
  }
  decltype(auto) await_resume() {
    auto& result = *child.handle_.promise().result;
    if constexpr (!HandsUp)
      return std::move(result);
    else if constexpr (!std::is_void_v<T>)
      return T(std::move(*result));
  }

 private:
  // A tiny coroutine between child and parent: resumes the parent on success, ends it on failure.
  struct Relay {
    struct promise_type {
      Relay get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
      std::suspend_always initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<promise_type> handle;
  };
  template <class P>
  Relay relay(std::coroutine_handle<P> self) {
    auto& result = child.handle_.promise().result;
    if (result->has_value()) {
      self.resume();
    } else {
      P& mine = self.promise();
      mine.fail_with(std::move(result->error()));
      mine.done = true;
      if (mine.waiter) mine.waiter.resume();
    }
    co_return;
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
  struct promise_type {
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
