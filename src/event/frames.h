// Memory of coroutines' frames. A request to a disk makes a dozen of them, and each is the size of one that has just ended: a thread keeps
// those for the next, some of every size.
#pragma once

#include <new>

#include "src/base/types.h"

namespace vmm::task_detail {

void* take_frame(usize bytes);
void give_frame(void* frame, usize bytes) noexcept;  // on any thread

// What promises inherit, so that their frames come from there.
struct Framed {
  static void* operator new(usize bytes) { return take_frame(bytes); }
  static void operator delete(void* frame, usize bytes) noexcept { give_frame(frame, bytes); }
};

}  // namespace vmm::task_detail
