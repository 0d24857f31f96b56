// See quick_leaf.cpp.
#pragma once

#include "accel/tcg/mem/frame.h"

namespace vmm::tcg {

// The host address to go on at, with state and frame complete; 0: not done, and nothing has changed.
u64 quick_leaf(FrameHead* head, u64 argument, u64 scratch2, u64 site);
// The same for syscall, sysret, stac and clac, with nothing saved to the state: rcx, r11 and the flags come as arguments and go through
// the frame.
u64 light_leaf(FrameHead* head, u64 argument, u64 host_flags, u64 rcx, u64 r11, u64 site);

}  // namespace vmm::tcg
