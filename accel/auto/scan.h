// Code that a program may not run on the host's CPU itself: instructions that would show it the host (CPUID, the counters, XCR0), and that
// no KVM without hardware intercepts. The translator runs pages that hold such instructions.
#pragma once

#include <span>

#include "accel/tcg/guest/x86/insn.h"

namespace vmm::both {

// `page`: all of its bytes, 64-bit code and perhaps data. Where instructions begin is not known: what looks like one of those counts unless
// every sweep over the bytes before it finds it in the midst of another one.
bool shows_the_host(std::span<const u8> page, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features);

}  // namespace vmm::both
