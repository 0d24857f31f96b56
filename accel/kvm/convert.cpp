// See convert.h. Source: Linux, Documentation/virt/kvm/api.rst §4; layouts of XSAVE: SDM 1 chapter 13.
#include "accel/kvm/convert.h"

#include <cstring>

#include "src/base/bits.h"
#include "src/x86/model.h"

namespace vmm::kvm {

using vmm::x86::Segment;
using vmm::x86::State;

Segment from(const kvm_segment& k) {
  Segment s{.selector = k.selector, .attributes = 0, .limit = k.limit, .base = k.base};
  if (!k.unusable)
    s.attributes = static_cast<u16>((k.type & 15) | (k.s & 1) << 4 | (k.dpl & 3) << 5 | (k.present & 1) << 7 | (k.avl & 1) << 12 |
                                    (k.l & 1) << 13 | (k.db & 1) << 14 | (k.g & 1) << 15);
  else
    s.attributes = static_cast<u16>((k.dpl & 3) << 5);
  return s;
}

kvm_segment to(const Segment& s) {
  const u32 a = s.attributes;
  return {.base = s.base,
          .limit = s.limit,
          .selector = s.selector,
          .type = static_cast<u8>(a & 15),
          .present = static_cast<u8>(a >> 7 & 1),
          .dpl = static_cast<u8>(a >> 5 & 3),
          .db = static_cast<u8>(a >> 14 & 1),
          .s = static_cast<u8>(a >> 4 & 1),
          .l = static_cast<u8>(a >> 13 & 1),
          .g = static_cast<u8>(a >> 15 & 1),
          .avl = static_cast<u8>(a >> 12 & 1),
          .unusable = static_cast<u8>(s.unusable())};
}

void from_xsave(const u8* image, State& s) {
  const u64 present = load_le<u64>(image + 512);
  s.x87 = {};
  s.vector = {};
  if (present & 1) {
    std::memcpy(&s.x87, image, 24);
    std::memcpy(s.x87.st.data(), image + 32, 128);
  }
  s.mxcsr = load_le<u32>(image + 24);
  s.x87.mxcsr = 0x1f80, s.x87.mxcsr_mask = 0xffff;
  for (unsigned i = 0; i < 16; i++) {
    if (present & 2) std::memcpy(&s.vector[i].lane[0], image + 160 + 16 * i, 16);
    if (present & 4) std::memcpy(&s.vector[i].lane[2], image + vmm::x86::xsave_component(2).offset + 16 * i, 16);
  }
  s.pkru = present >> 9 & 1 ? load_le<u32>(image + vmm::x86::xsave_component(9).offset) : 0;
}

void to_xsave(const State& s, u64 components, u8* image) {
  std::memcpy(image, &s.x87, 24);
  store_le<u32>(image + 24, s.mxcsr), store_le<u32>(image + 28, 0xffff);
  std::memcpy(image + 32, s.x87.st.data(), 128);
  for (unsigned i = 0; i < 16; i++) {
    std::memcpy(image + 160 + 16 * i, &s.vector[i].lane[0], 16);
    if (components & 4) std::memcpy(image + vmm::x86::xsave_component(2).offset + 16 * i, &s.vector[i].lane[2], 16);
  }
  if (components >> 9 & 1) store_le<u32>(image + vmm::x86::xsave_component(9).offset, s.pkru);
  store_le<u64>(image + 512, (components | 3) & (7 | 1u << 9));
}

}  // namespace vmm::kvm
