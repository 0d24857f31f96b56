// Work that a thread of a move has done on the main loop, and waits for.
#pragma once

#include <functional>
#include <future>

#include "src/base/assert.h"
#include "src/base/lock.h"
#include "src/event/event_loop.h"
#include "src/event/task.h"

namespace vmm::migration {

// The caller does not hold the machine lock: the main loop may need it before it comes to this work.
inline Result<> task_on_loop(EventLoop& loop, std::function<Task<>()> make) {
  ASSERT(!machine_lock.held_by_this_thread());
  std::promise<Result<>> done;
  loop.post([&] { make().start([&](Result<> r) { done.set_value(std::move(r)); }); });
  return done.get_future().get();
}
template <class F>
Result<> on_loop(EventLoop& loop, F work) {
  ASSERT(!machine_lock.held_by_this_thread());
  std::promise<Result<>> done;
  loop.post([&] { done.set_value(work()); });
  return done.get_future().get();
}

}  // namespace vmm::migration
