// The kernel's forms of registers, and State's.
#pragma once

#include <linux/kvm.h>

#include "src/x86/state.h"

namespace vmm::kvm {

vmm::x86::Segment from(const kvm_segment& k);
kvm_segment to(const vmm::x86::Segment& s);
// x87, vectors and PKRU, in the standard form of XSAVE; `components`: of XCR0, that the image is to hold. It is zero before.
void from_xsave(const u8* image, vmm::x86::State& s);
void to_xsave(const vmm::x86::State& s, u64 components, u8* image);

}  // namespace vmm::kvm
