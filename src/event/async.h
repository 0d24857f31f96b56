// Waiting between tasks: a mutex, a condition and a queue for coroutines, and how code that is no task waits for one. All of a task's
// loop: no locks inside. Who waits is resumed in the order of asking.
#pragma once

#include <deque>
#include <utility>

#include "src/event/event_loop.h"
#include "src/event/task.h"

namespace vmm {

// In the order of asking. Who waits has its place in its own frame, so nothing is allocated.
class WaitQueue {
 public:
  struct Place {
    std::coroutine_handle<> waiter;
    Place* next = nullptr;
  };
  bool empty() const { return !first_; }
  void push(Place& place) {
    place.next = nullptr;
    (first_ ? last_->next : first_) = &place;
    last_ = &place;
  }
  // The first, whose place is gone as soon as it runs; not when empty.
  std::coroutine_handle<> pop() {
    Place& place = *first_;
    first_ = place.next;
    return place.waiter;
  }

 private:
  Place *first_ = nullptr, *last_ = nullptr;
};

// Tasks that wait for something to change. `co_await list.wait()` suspends; wake_one() and wake_all() resume at once, on the caller's
// stack, so a waker touches nothing afterwards that those who wake may change. A waiter looks again at what it waited for.
class WaitList {
 public:
  struct Awaiter {
    WaitList& list;
    WaitQueue::Place place{};
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) { place.waiter = waiter, list.waiters_.push(place); }
    void await_resume() const noexcept {}
  };
  WaitList() = default;
  WaitList(const WaitList&) = delete;
  ~WaitList() { ASSERT(waiters_.empty()); }
  Awaiter wait() { return {*this}; }
  bool empty() const { return waiters_.empty(); }
  bool wake_one() {
    if (waiters_.empty()) return false;
    waiters_.pop().resume();
    return true;
  }
  // Those who wait now; who starts to wait meanwhile waits on.
  void wake_all() {
    auto all = std::exchange(waiters_, {});
    while (!all.empty()) all.pop().resume();
  }

 private:
  WaitQueue waiters_;
};

// `auto guard = co_await mutex.lock();` The guard's end, also by a failing task, hands the mutex to the next in line.
class AsyncMutex {
 public:
  class [[nodiscard]] Guard {
   public:
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) unlock(), mutex_ = std::exchange(other.mutex_, nullptr);
      return *this;
    }
    ~Guard() { unlock(); }
    void unlock() {
      if (auto* m = std::exchange(mutex_, nullptr)) m->release();
    }

   private:
    AsyncMutex* mutex_;
  };
  struct Awaiter {
    AsyncMutex& mutex;
    WaitQueue::Place place{};
    bool await_ready() const noexcept { return !std::exchange(mutex.locked_, true); }
    void await_suspend(std::coroutine_handle<> waiter) { place.waiter = waiter, mutex.waiters_.push(place); }
    Guard await_resume() const noexcept { return Guard{&mutex}; }
  };
  Awaiter lock() { return {*this}; }
  bool locked() const { return locked_; }

 private:
  friend class Guard;
  void release() {
    if (waiters_.empty()) {
      locked_ = false;
      return;
    }
    waiters_.pop().resume();  // stays locked: it is theirs now
  }
  bool locked_ = false;
  WaitQueue waiters_;
};

// A bounded queue between tasks. push() waits while it is full, pop() while it is empty; after close() pushes are dropped and pop()
// yields nothing once it is empty.
template <class T>
class AsyncQueue {
 public:
  explicit AsyncQueue(usize limit) : limit_(limit) {}
  Task<> push(T item) {
    while (items_.size() >= limit_ && !closed_) co_await room_.wait();
    if (!closed_) {
      items_.push_back(std::move(item));
      some_.wake_one();
    }
    co_return Result<>{};
  }
  Task<std::optional<T>> pop() {
    while (items_.empty() && !closed_) co_await some_.wait();
    if (items_.empty()) co_return std::optional<T>{};
    std::optional<T> item{std::move(items_.front())};
    items_.pop_front();
    room_.wake_one();
    co_return std::move(item);
  }
  void close() {
    closed_ = true;
    room_.wake_all();
    some_.wake_all();
  }
  usize size() const { return items_.size(); }

 private:
  const usize limit_;
  bool closed_ = false;
  std::deque<T> items_;
  WaitList room_, some_;
};

// Runs the loop until the task has ended: for start-up, tools and tests, never inside a task. On the loop's thread.
template <class T>
Result<T> run_task(EventLoop& loop, Task<T> task) {
  std::optional<Result<T>> result;
  std::move(task).start([&](Result<T> r) { result.emplace(std::move(r)); });
  while (!result) loop.run_once(true);
  return std::move(*result);
}

}  // namespace vmm
