// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM in portable code. Source: SDM 1 §4.1 in volume 2B ("Imm8 control byte operation").
#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/portable_simd.h"

namespace vmm::tcg::x86 {

namespace {

// One operand: its elements as numbers, and how many of them are valid.
struct Text {
  i32 element[16] = {};
  unsigned valid = 0;
};

Text text_of(const u8* bytes, u8 control, bool counted, u64 length, bool wide) {
  Text t;
  const bool words = control & 1, is_signed = control & 2;
  const unsigned count = words ? 8 : 16;
  for (unsigned i = 0; i < count; ++i) {
    const u16 v = words ? lane<u16>(bytes, i) : bytes[i];
    t.element[i] = is_signed ? (words ? static_cast<i16>(v) : static_cast<i8>(v)) : v;
  }
  if (counted) {
    const i64 given = wide ? static_cast<i64>(length) : static_cast<i32>(length);
    const u64 magnitude = given < 0 ? 0 - static_cast<u64>(given) : static_cast<u64>(given);
    t.valid = static_cast<unsigned>(std::min<u64>(magnitude, count));
  } else {
    t.valid = static_cast<unsigned>(std::find(t.element, t.element + count, 0) - t.element);
  }
  return t;
}

u32 matches(const Text& set, const Text& string, u8 control, unsigned count) {
  u32 found = 0;
  for (unsigned j = 0; j < count; ++j) {
    bool hit = false;
    const bool here = j < string.valid;
    switch (control >> 2 & 3) {
      case 0:
        for (unsigned i = 0; i < set.valid && here; ++i) hit |= set.element[i] == string.element[j];
        break;
      case 1:
        for (unsigned i = 0; i + 1 < set.valid && here; i += 2)
          hit |= string.element[j] >= set.element[i] && string.element[j] <= set.element[i + 1];
        break;
      case 2: hit = j < set.valid && here ? set.element[j] == string.element[j] : j >= set.valid && !here; break;
      default:
        hit = true;
        for (unsigned i = 0; i < set.valid && i + j < count; ++i) hit &= i + j < string.valid && set.element[i] == string.element[i + j];
        break;
    }
    found |= u32{hit} << j;
  }
  return found;
}

template <bool counted, bool index>
void scan(PortableArgs& x) {
  const u8 control = x.imm();
  const unsigned count = control & 1 ? 8 : 16;
  const u32 all = (u32{1} << count) - 1;
  StubFrame& f = x.frame;
  const Text set = text_of(x.a, control, counted, f.gpr[0], x.shape.w), string = text_of(x.b, control, counted, f.gpr[2], x.shape.w);
  u32 found = matches(set, string, control, count);
  if ((control >> 4 & 3) == 1) found ^= all;
  if ((control >> 4 & 3) == 3) found ^= (u32{1} << string.valid) - 1;
  constexpr u64 carry = 1, zero = 0x40, sign = 0x80, overflow = 0x800;
  f.flags = (f.flags & ~u64{0x8d5}) | (found ? carry : 0) | (string.valid < count ? zero : 0) | (set.valid < count ? sign : 0) |
            (found & 1 ? overflow : 0);
  if (index) {
    f.gpr[1] = !found           ? count
               : control & 0x40 ? 31u - static_cast<unsigned>(__builtin_clz(found))
                                : static_cast<unsigned>(__builtin_ctz(found));
    return;
  }
  u8 out[32] = {};
  if (control & 0x40) {
    for (unsigned i = 0; i < 16; ++i) out[i] = found >> (control & 1 ? i / 2 : i) & 1 ? 0xff : 0;
  } else {
    put_lane<u32>(out, 0, found);
  }
  std::memcpy(f.vector[0], out, 32);
}

constexpr PortableEntry table[] = {
    {3, 0x66, 0x60, scan<true, false>},
    {3, 0x66, 0x61, scan<true, true>},
    {3, 0x66, 0x62, scan<false, false>},
    {3, 0x66, 0x63, scan<false, true>},
};

}  // namespace

std::span<const PortableEntry> portable_string() { return table; }

}  // namespace vmm::tcg::x86
