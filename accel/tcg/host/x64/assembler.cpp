// The general encoder: prefixes, REX or VEX, opcode, modrm, SIB, displacement. Source: SDM 2A chapter 2.
#include "accel/tcg/host/x64/assembler.h"

namespace vmm::tcg::x64 {

namespace {

// One instruction on its way into the buffer.
struct Bytes {
  u8 byte[24];
  u8 count = 0;
  void add(u8 b) { byte[count++] = b; }
  void add32(i32 v) { std::memcpy(byte + count, &v, 4), count += 4; }
};

void emit_prefixes(Bytes& out, const Opcode& op, bool gs, bool addr32, u8 r, u8 x, u8 b) {
  if (op.lock) out.add(0xf0);
  if (gs) out.add(0x65);
  if (addr32) out.add(0x67);
  if (op.vex) {
    const u8 pp = op.simd == 0x66 ? 1 : op.simd == 0xf3 ? 2 : op.simd == 0xf2 ? 3 : 0;
    const u8 last = static_cast<u8>((~op.vvvv & 15) << 3 | (op.l256 ? 4 : 0) | pp);
    if (op.map == 1 && !op.w && x == 0 && b == 0) {
      out.add(0xc5), out.add(static_cast<u8>((r ? 0 : 0x80) | last));
    } else {
      out.add(0xc4);
      out.add(static_cast<u8>((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | op.map));
      out.add(static_cast<u8>((op.w ? 0x80 : 0) | last));
    }
    return out.add(op.opcode);
  }
  if (op.size66) out.add(0x66);
  if (op.simd) out.add(op.simd);
  const u8 rex = static_cast<u8>((op.w ? 8 : 0) | (r ? 4 : 0) | (x ? 2 : 0) | (b ? 1 : 0));
  if (rex || op.rex_needed) out.add(0x40 | rex);
  if (op.map) out.add(0x0f);
  if (op.map == 2) out.add(0x38);
  if (op.map == 3) out.add(0x3a);
}

void emit_modrm(Bytes& out, u8 reg, const Rm& rm) {
  const Mem& m = rm.mem;
  const u8 reg_bits = static_cast<u8>((reg & 7) << 3);
  if (!rm.is_memory) return out.add(0xc0 | reg_bits | (rm.reg & 7));

  ASSERT(m.index != Reg::rsp);
  const u8 index = m.index != Reg::none ? number(m.index) : 0;
  if (m.base == Reg::none) {  // disp32 alone or with an index: SIB form, so that it is not RIP-relative
    out.add(reg_bits | 4);
    out.add(static_cast<u8>(m.scale << 6 | (m.index == Reg::none ? 4 : index & 7) << 3 | 5));
    return out.add32(m.disp);
  }
  const u8 base = number(m.base);
  const u8 mod = m.disp == 0 && (base & 7) != 5 ? 0 : m.disp >= -128 && m.disp <= 127 ? 1 : 2;
  if (m.index != Reg::none || (base & 7) == 4) {
    out.add(static_cast<u8>(mod << 6) | reg_bits | 4);
    out.add(static_cast<u8>(m.scale << 6 | (m.index == Reg::none ? 4 : index & 7) << 3 | (base & 7)));
  } else {
    out.add(static_cast<u8>(mod << 6) | reg_bits | (base & 7));
  }
  if (mod == 1) out.add(static_cast<u8>(m.disp));
  if (mod == 2) out.add32(m.disp);
}

}  // namespace

void FlagFree::instruction(const Opcode& op, u8 reg, const Rm& rm) {
  const Mem& m = rm.mem;
  const bool memory = rm.is_memory;
  const u8 base = !memory ? rm.reg : m.base == Reg::none ? 0 : number(m.base);
  const u8 index = memory && m.index != Reg::none ? number(m.index) : 0;
  Bytes bytes;
  emit_prefixes(bytes, op, memory && m.gs, memory && m.addr32, reg >> 3, index >> 3, base >> 3);
  if (!op.vex) bytes.add(op.opcode);
  emit_modrm(bytes, reg, rm);
  out_.append(bytes.byte, bytes.count);
}

void FlagFree::plain(const Opcode& op, u8 opcode_reg) {
  const bool has_reg = opcode_reg != 0xff;
  Bytes bytes;
  emit_prefixes(bytes, op, false, false, 0, 0, has_reg ? opcode_reg >> 3 : 0);
  if (!op.vex) bytes.add(op.opcode | (has_reg ? opcode_reg & 7 : 0));
  out_.append(bytes.byte, bytes.count);
}

void FlagFree::mov(Reg to, u64 value) {
  if (value <= 0xffff'ffff) return mov_imm32(to, static_cast<u32>(value));
  if (static_cast<u64>(static_cast<i64>(static_cast<i32>(value))) == value) {
    instruction({.opcode = 0xc7, .w = true}, 0, Rm::of(to));
    return out_.value(static_cast<u32>(value));
  }
  mov_imm64(to, value);
}

void FlagFree::nop(usize bytes) {
  static constexpr u8 forms[9][9] = {{0x90},
                                     {0x66, 0x90},
                                     {0x0f, 0x1f, 0x00},
                                     {0x0f, 0x1f, 0x40, 0x00},
                                     {0x0f, 0x1f, 0x44, 0x00, 0x00},
                                     {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
                                     {0x0f, 0x1f, 0x80, 0, 0, 0, 0},
                                     {0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0},
                                     {0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0}};
  while (bytes) {
    const usize n = bytes < 9 ? bytes : 9;
    for (usize i = 0; i < n; i++) out_.byte(forms[n - 1][i]);
    bytes -= n;
  }
}

void FlagFree::align(u64 base, u64 alignment) {
  const u64 over = (base + here()) & (alignment - 1);
  if (over) nop(alignment - over);
}

}  // namespace vmm::tcg::x64
