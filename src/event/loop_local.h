// What belongs to the event loop of this thread: things made once a loop (rings of io_uring), and work to do before it waits.
#pragma once

#include "src/event/event_loop.h"

namespace vmm {

// The loop of this thread; null where none was made or run.
EventLoop* current_loop();
// Called before the loop waits, on its thread (the main loop: machine lock held); true: look for work again instead of waiting. Queues
// that are handed to the kernel once a turn live by this. For this thread's loop, and until that ends.
void before_wait(std::function<bool()> hook);

std::shared_ptr<void>& loop_local_slot(const void* key);
// One T for each loop, made from the loop at first use and destroyed with it. Of this thread's loop.
template <class T>
T& loop_local() {
  static constexpr char key = 0;
  std::shared_ptr<void>& slot = loop_local_slot(&key);
  if (!slot) slot = std::make_shared<T>(*current_loop());
  return *static_cast<T*>(slot.get());
}

}  // namespace vmm
