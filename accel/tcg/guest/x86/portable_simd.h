// What vector and MMX instructions compute, in portable code: the interpreter's own meaning of a row, bit for bit that of the CPU. A row
// without an entry here is run by a native stub (native_stub.h); the coverage test counts those.
#pragma once

#include <span>

#include "accel/tcg/guest/x86/native_stub.h"

namespace vmm::tcg::x86 {

// The operands of one instruction as its body sees them. `d` begins as the destination's old value and is `n` bytes (8 MMX, 16, 32), as
// are the sources as far as the instruction reads them; an immediate is in `imm`.
struct PortableArgs {
  u8* d;
  const u8 *a, *b;
  unsigned n;
  const StubShape& shape;
  StubFrame& frame;
  u8 imm() const { return shape.immediate; }
};
using PortableBody = void (*)(PortableArgs&);

// The body for this shape; null: none yet.
PortableBody portable_body(const StubShape& shape);
// Runs it: operands out of the frame, result back into it, as the stub would.
void run_portable(PortableBody body, const StubShape& shape, StubFrame& frame);

struct PortableEntry {
  u8 map, prefix, opcode;  // prefix 66 serves the MMX form without prefix too, if `mmx`
  PortableBody body;
  bool mmx = false;
  i8 reg = -1, w = -1;
};
// The tables: portable_integer.cpp, portable_shuffle.cpp, portable_crypto.cpp, portable_float.cpp, portable_string.cpp.
std::span<const PortableEntry> portable_integer();
std::span<const PortableEntry> portable_shuffle();
std::span<const PortableEntry> portable_crypto();
std::span<const PortableEntry> portable_float();
std::span<const PortableEntry> portable_string();
// x87 (map 0), which works on the image in the frame. Null: a transcendental one.
PortableBody portable_x87(const StubShape& shape);

// Elements.
template <class T>
T lane(const u8* p, unsigned i) {
  T v;
  __builtin_memcpy(&v, p + i * sizeof(T), sizeof(T));
  return v;
}
template <class T>
void put_lane(u8* p, unsigned i, T v) {
  __builtin_memcpy(p + i * sizeof(T), &v, sizeof(T));
}

}  // namespace vmm::tcg::x86
