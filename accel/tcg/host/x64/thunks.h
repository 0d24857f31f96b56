// The hand-made code between generated code and C++: entering, leaving, and calling (translator.md §2, "Spill sets"). Thunks are
// emitted once, outside the evictable part of the cache.
#pragma once

#include <span>

#include "accel/tcg/host/x64/lower.h"
#include "accel/tcg/mem/frame.h"
#include "src/base/types.h"

namespace vmm::tcg::x64 {

// Where things are: offsets in the frame (the fields the guest adds) and in the guest's architectural state.
struct Layout {
  u32 state_pointer = 0, loaded_gs = 0, host_stack = 0, host_mxcsr = 0, resume = 0, resume_scratch2 = 0, reason = 0, x87_live = 0;  // frame
  u32 x87_page = 0, x87_data = 0, x87_offset = 0, x87_opcode = 0;                                                                   // frame
  u32 light_rcx = 0, light_r11 = 0, light_flags = 0;                                                                                // frame
  u32 gpr = 0, flags = 0, ip = 0, vectors = 0, mxcsr = 0, x87 = 0;                                                                  // state
};

// C++ behind the thunks. All get the frame; `fill` and the rest run with guest vectors saved and default MXCSR.
struct Callbacks {
  // The addend for an access of fill_argument at `address`, 0: none can be given.
  u64 (*fill)(FrameHead*, u64 argument, u64 address) = nullptr;
  // With complete state; the result is the host address to go on at, 0: leave to the run loop. `site`: the return address.
  u64 (*interpret)(FrameHead*, u64 argument, u64 scratch2, u64 site) = nullptr;
  // Asked before `interpret`, on general registers only, with all but vectors and x87 in the state: where to go on; 0: not done.
  u64 (*quick)(FrameHead*, u64 argument, u64 scratch2, u64 site) = nullptr;
  // A few instructions on the registers that C++ may change, nothing in the state: where to go on; 0: not done, nothing has changed. The
  // guest's rcx, r11 and flags come as arguments and go through the frame.
  u64 (*light)(FrameHead*, u64 argument, u64 flags, u64 rcx, u64 r11, u64 site) = nullptr;
  u64 (*link)(FrameHead*, u64 edge, u64 target, u64 site) = nullptr;
  u64 (*miss)(FrameHead*, u64 unused, u64 target, u64 site) = nullptr;
  // Marks the x87 live, so that it is loaded on the way back to `site`.
  u64 (*x87)(FrameHead*, u64 unused, u64 scratch2, u64 site) = nullptr;
};

struct Thunks {
  // enter(frame, host address): runs generated code until it leaves. Flags, vectors and registers come from and go to the state.
  using Enter = void (*)(FrameHead*, u64);
  Enter enter = nullptr;
  ThunkAddresses addresses;
};

// What a leaving thunk stores at Layout::reason.
enum class LeaveReason : u64 { poll = 0, called = 1 };

// Emits all thunks into `space`, which will run at `base`; false: too small.
bool emit_thunks(std::span<u8> space, u64 base, const Layout& layout, const Callbacks& callbacks, Thunks& out, usize& used);

}  // namespace vmm::tcg::x64
