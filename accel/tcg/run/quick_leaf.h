// See quick_leaf.cpp.
#pragma once

#include "accel/tcg/mem/frame.h"

namespace vmm::tcg {

// The host address to go on at, with state and frame complete; 0: not done, and nothing has changed.
u64 quick_leaf(FrameHead* head, u64 argument, u64 scratch2, u64 site);

}  // namespace vmm::tcg
