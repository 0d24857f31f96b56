// How the emitters of MOV CRn tell their helpers of a LOCK prefix.
#pragma once

namespace vmm::tcg::x86 {

inline constexpr unsigned long long locked_control = 0x100;  // beside the number of the control register

}  // namespace vmm::tcg::x86
