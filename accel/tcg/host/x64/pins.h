// Where the guest's sixteen general registers live while generated code runs (translator.md §2). They are numbered as x86 numbers
// them, which is why this tier serves only guests of the host's own kind.
#pragma once

#include "accel/tcg/host/x64/assembler.h"
#include "accel/tcg/mem/frame.h"

namespace vmm::tcg::x64 {

inline constexpr Reg frame_reg = Reg::rsp;  // FrameHead*
inline constexpr Reg scratch = Reg::rcx;    // q, addend, shift counts, jrcxz
inline constexpr Reg scratch2 = Reg::r13;   // addresses, jump targets
inline constexpr u8 guest_count_register = 1, guest_frame_pointer = 5, guest_stack_pointer = 4, first_spilled = 13;

constexpr bool spilled(u8 guest) { return guest >= first_spilled; }
// Of a register that is not spilled.
constexpr Reg pin(u8 guest) {
  return guest == guest_count_register ? Reg::r14 : guest == guest_stack_pointer ? Reg::r15 : static_cast<Reg>(guest);
}
constexpr Mem in_frame(usize offset) { return {.base = frame_reg, .disp = static_cast<i32>(offset)}; }
constexpr Mem spill_slot(u8 guest) { return in_frame(offsetof(FrameHead, spilled) + 8u * (guest - first_spilled)); }
constexpr Mem window_slot(unsigned n) { return in_frame(offsetof(FrameHead, window) + 8u * n); }
constexpr Mem saved_slot(unsigned n) { return in_frame(offsetof(FrameHead, saved) + 8u * n); }

}  // namespace vmm::tcg::x64
