// The segments that SYSCALL, SYSRET and their kin load without a look at the descriptor tables. Source: SDM 2B "SYSCALL", "SYSRET".
#pragma once

#include "src/x86/state.h"

namespace vmm::tcg::x86 {

using vmm::x86::Segment;
constexpr Segment flat_code(u16 selector, bool wide, unsigned dpl) {
  return {.selector = selector, .attributes = static_cast<u16>((wide ? 0xa09b : 0xc09b) | dpl << 5), .limit = 0xffff'ffff, .base = 0};
}
constexpr Segment flat_stack(u16 selector, unsigned dpl) {
  return {.selector = selector, .attributes = static_cast<u16>(0xc093 | dpl << 5), .limit = 0xffff'ffff, .base = 0};
}

}  // namespace vmm::tcg::x86
