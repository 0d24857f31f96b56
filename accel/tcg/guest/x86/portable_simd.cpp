// Operands of portable vector instructions. Source: SDM 2A §2.3.12 (which operand is where), SDM 1 §9.6 (MMX and the x87 registers).
#include "accel/tcg/guest/x86/portable_simd.h"

#include <algorithm>
#include <cstring>

#include "src/base/bits.h"

namespace vmm::tcg::x86 {

namespace {

constexpr u32 mmx_uses = StubShape::mmx_reg | StubShape::mmx_rm;

u8* stack_slot(StubFrame& f, unsigned i) { return f.x87 + 32 + 16 * i; }

// The eight MMX registers, by number, out of the image and back. Every MMX instruction sets TOP to 0 and marks all registers in use.
void take_mmx(StubFrame& f, u64 (&mm)[8]) {
  const unsigned top = load_le<u16>(f.x87 + 2) >> 11 & 7;
  for (unsigned n = 0; n < 8; ++n) mm[n] = load_le<u64>(stack_slot(f, (n - top) & 7));
}
void give_mmx(StubFrame& f, int written, u64 value) {
  const u16 fsw = load_le<u16>(f.x87 + 2);
  const unsigned top = fsw >> 11 & 7;
  u8 image[128];
  std::memcpy(image, stack_slot(f, 0), 128);
  for (unsigned n = 0; n < 8; ++n) std::memcpy(stack_slot(f, n), image + 16 * ((n - top) & 7), 16);
  store_le<u16>(f.x87 + 2, static_cast<u16>(fsw & ~0x3800));
  f.x87[4] = 0xff;
  if (written >= 0)
    store_le<u64>(stack_slot(f, static_cast<unsigned>(written)), value),
        store_le<u16>(stack_slot(f, static_cast<unsigned>(written)) + 8, 0xffff);
}

}  // namespace

PortableBody portable_body(const StubShape& shape) {
  if (shape.map == 0) return portable_x87(shape);
  const bool mmx = shape.uses & mmx_uses;
  for (const auto table : {portable_integer(), portable_shuffle(), portable_crypto(), portable_float(), portable_string()})
    for (const PortableEntry& e : table) {
      if (e.map != shape.map || e.opcode != shape.opcode || (e.reg >= 0 && e.reg != shape.modrm_reg) || (e.w >= 0 && e.w != shape.w))
        continue;
      if (e.prefix == shape.prefix ? !mmx || !e.mmx || e.prefix != 0x66 : mmx && e.mmx && e.prefix == 0x66 && shape.prefix == 0)
        return e.body;
    }
  return nullptr;
}

void run_portable(PortableBody body, const StubShape& s, StubFrame& f) {
  if (s.map == 0) {
    PortableArgs args{.d = nullptr, .a = nullptr, .b = nullptr, .n = 0, .shape = s, .frame = f};
    return body(args);
  }
  u64 mm[8] = {};
  const bool mmx = s.uses & mmx_uses;
  if (mmx) take_mmx(f, mm);
  alignas(32) u8 result[32] = {}, first[32] = {}, second[32] = {};
  const unsigned n = mmx ? 8 : s.vex_l ? 32 : 16;
  enum { reg = 1, vvvv = 2, rm = 3 };
  const bool to_memory = s.memory && s.memory_stored;
  const bool general_reg = s.uses & StubShape::gpr_reg, general_rm = s.uses & StubShape::gpr_rm;
  // Where the result goes, and the destination's old value.
  const auto value_of = [&](unsigned which, u8* to) {
    if (which == reg && general_reg) return void(std::memcpy(to, &f.gpr[0], 8));
    if (which == reg && s.uses & StubShape::mmx_reg) return void(std::memcpy(to, &mm[s.modrm_reg], 8));
    if (which == rm && s.memory) return void(std::memcpy(to, f.memory, 32));
    if (which == rm && general_rm) return void(std::memcpy(to, &f.gpr[2], 8));
    if (which == rm && s.uses & StubShape::mmx_rm) return void(std::memcpy(to, &mm[s.modrm_rm], 8));
    std::memcpy(to, f.vector[which], 32);
  };
  const bool shift_group = s.map == 1 && s.opcode >= 0x71 && s.opcode <= 0x73;
  unsigned destination = reg;
  if (s.uses & StubShape::store_vvvv)
    destination = vvvv;
  else if (to_memory || s.uses & StubShape::store_rm || shift_group)
    destination = rm;
  else if (s.map == 1 && (s.opcode == 0x7e || s.opcode == 0x7f) && (mmx || general_rm) && s.prefix != 0xf3)
    destination = rm;
  else if (s.map == 3 && s.opcode >= 0x14 && s.opcode <= 0x17)
    destination = rm;
  value_of(destination, result);
  value_of(s.has_vvvv && !shift_group ? unsigned{vvvv} : destination, first);
  value_of(destination == rm && !shift_group ? unsigned{reg} : unsigned{rm}, second);
  PortableArgs args{.d = result, .a = first, .b = second, .n = n, .shape = s, .frame = f};
  body(args);
  if (destination == rm && s.memory) {
    std::memcpy(f.memory, result, 32);
  } else if (destination == reg && general_reg) {
    std::memcpy(&f.gpr[0], result, 8);
  } else if (destination == rm && general_rm) {
    std::memcpy(&f.gpr[2], result, 8);
  } else if (!mmx || (destination == reg && !(s.uses & StubShape::mmx_reg)) || (destination == rm && !(s.uses & StubShape::mmx_rm))) {
    if (s.vex && !s.vex_l) std::memset(result + 16, 0, 16);
    std::memcpy(f.vector[destination], result, 32);
  }
  if (!mmx) return;
  u64 value;
  std::memcpy(&value, result, 8);
  const bool writes_mmx =
      (destination == reg && s.uses & StubShape::mmx_reg) || (destination == rm && !s.memory && s.uses & StubShape::mmx_rm);
  give_mmx(f, writes_mmx ? destination == reg ? s.modrm_reg : s.modrm_rm : -1, value);
}

}  // namespace vmm::tcg::x86
