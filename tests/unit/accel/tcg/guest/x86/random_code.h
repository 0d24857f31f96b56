// Random code from the instruction tables, good enough for a decoder in any mode: prefixes, opcode, ModRM with any operand, immediates.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/emitters.h"
#include "accel/tcg/guest/x86/translate.h"
#include "src/base/types.h"

namespace vmm::tcg::differential {

// Numbers from a seed; edge values are frequent. `near`: most addresses of memory lie there.
struct Numbers {
  u64 s;
  u64 near = 0x40000;
  unsigned near_bytes = 0x8000;
  u64 next() {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s * 0x2545f4914f6cdd1dull;
  }
  unsigned below(unsigned n) { return static_cast<unsigned>((next() >> 33) % n); }
  u64 edge() {
    static constexpr u64 edges[] = {0,      1,           2,           0x7f,        0x80,         0xff,    0x7fff, 0x8000,
                                    0xffff, 0x8000'0000, 0x7fff'ffff, 0xffff'ffff, u64{1} << 63, ~u64{0}, 63,     31};
    const unsigned pick = below(40);
    if (pick < 16) return edges[pick];
    if (pick < 32) return near + below(near_bytes);
    return pick & 1 ? next() : next() >> below(64);
  }
};

struct Choice {
  const x86::Row* row;
  x86::Map map;
};

inline std::vector<Choice> all_choices() {
  std::vector<Choice> all;
  for (const x86::MapRows& m : x86::all_rows())
    for (const x86::Row& row : m.rows) all.push_back({&row, m.map});
  return all;
}

// One row's bytes. `bits` of the code: 64, 32 or 16; `here`: where it stands, for addresses relative to it.
void append(const Choice& c, Numbers& n, unsigned bits, u64 here, std::vector<u8>& code);

}  // namespace vmm::tcg::differential
