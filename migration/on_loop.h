// Work that a thread of a move has done on the main loop, and waits for.
#pragma once

#include <functional>
#include <future>

#include "src/event/event_loop.h"
#include "src/event/task.h"

namespace vmm::migration {

// The caller does not hold the machine lock.
inline Result<> task_on_loop(EventLoop& loop, std::function<Task<>()> make) {
  std::promise<Result<>> done;
  loop.post([&] { make().start([&](Result<> r) { done.set_value(std::move(r)); }); });
  return done.get_future().get();
}
template <class F>
Result<> on_loop(EventLoop& loop, F work) {
  std::promise<Result<>> done;
  loop.post([&] { done.set_value(work()); });
  return done.get_future().get();
}

}  // namespace vmm::migration
