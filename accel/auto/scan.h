// Code that a program may not run on the host's CPU itself: instructions that would show it the host (CPUID, the counters, XCR0), and that
// no KVM without hardware intercepts. The translator runs pages that hold such instructions.
#pragma once

#include <span>

#include "accel/tcg/guest/x86/insn.h"

namespace vmm::both {

enum class Shows : u8 { nothing, counter, host };  // counter: RDTSC and RDTSCP, and nothing else

// `bytes`: a page of 64-bit code and perhaps data, and before it `before` bytes of the page that lies below. Where instructions begin is
// not known: what looks like one of those counts unless every sweep over the bytes before it finds it in the midst of another one.
Shows shown_by(std::span<const u8> bytes, usize before, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features);
// Could an instruction over a page's end be one? `last`: the two bytes before it, `next`: the two behind it.
bool shown_over_the_end(std::span<const u8, 2> last, std::span<const u8, 2> next);
// That depends on the next page at all.
bool ends_open(std::span<const u8, 2> last);

}  // namespace vmm::both
