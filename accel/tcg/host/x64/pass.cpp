// `pass` instructions: the guest's own opcode, re-encoded with pinned registers and a checked address (translator.md §2, §3).
// Order in each: checks, the operation, write-back of spilled registers, stack pointer (§8, "Rule of order").
#include "accel/tcg/host/x64/lowering.h"

namespace vmm::tcg::x64 {

using ir::Native;
using ir::NativeReg;
using ir::RegFile;

namespace {

constexpr u32 bit_of(u8 guest) { return 1u << guest; }
constexpr u32 count_bit = bit_of(guest_count_register);

bool is_gpr(const NativeReg& r) { return r.file == RegFile::gpr; }

// Instructions that may leave a "written" destination as it was, so that it must be loaded first whatever the row says.
bool keeps_destination(const Native& n) {
  if (n.vex || n.map != 1) return n.map == 0 ? false : !n.vex;
  return (n.opcode >= 0x40 && n.opcode <= 0x4f) || n.opcode == 0xbc || n.opcode == 0xbd || n.opcode == 0xb0 || n.opcode == 0xb1;
}
// bt and its kin with a register bit number reach beyond their operand.
bool is_bit_string(const Native& n) {
  return n.map == 1 && !n.vex && n.memory && (n.opcode == 0xa3 || n.opcode == 0xab || n.opcode == 0xb3 || n.opcode == 0xbb);
}

// May the register in modrm.rm be a word of memory instead, with the same meaning? (A 32-bit write would not clear the upper half.)
bool may_use_slot(const Native& n) {
  if (n.memory || n.vex || !n.has_modrm || n.rm.file != RegFile::gpr || !spilled(n.rm.number) || n.touches_vector || n.touches_x87)
    return false;
  if (n.rm.written && n.rm.width == 4) return false;
  if (is_gpr(n.reg) && n.reg.number == n.rm.number) return false;  // loaded once for both
  const u8 o = n.opcode;
  if (n.map == 0) {
    if (o == 0xff) return ((n.modrm >> 3) & 7) < 2;
    return (o < 0x40 && (o & 7) < 4) || o == 0x63 || o == 0x69 || o == 0x6b || o == 0x80 || o == 0x81 || (o >= 0x83 && o <= 0x85) ||
           (o >= 0x88 && o <= 0x8b) || o == 0xc0 || o == 0xc1 || (o >= 0xd0 && o <= 0xd3) || o == 0xc6 || o == 0xc7 || o == 0xf6 ||
           o == 0xf7 || o == 0xfe;
  }
  if (n.map != 1) return false;
  return (o >= 0x40 && o <= 0x4f) || (o >= 0x90 && o <= 0x9f) || o == 0xaf || o == 0xb6 || o == 0xb7 || o == 0xbe || o == 0xbf || o == 0xba;
}

}  // namespace

void Lowering::encode(const Native& n, u8 reg, u8 vvvv, const Rm& rm, bool rex_needed) {
  const Opcode op{.map = n.map,
                  .opcode = n.opcode,
                  .simd = n.prefix,
                  .size66 = n.operand_size_16,
                  .lock = n.lock,
                  .w = n.w,
                  .vex = n.vex,
                  .l256 = n.vex_l != 0,
                  .vvvv = vvvv,
                  .rex_needed = rex_needed};
  if (n.has_modrm)
    code_.instruction(op, reg, rm);
  else if (n.in_opcode) {
    Opcode bare = op;
    bare.opcode = static_cast<u8>(n.opcode & ~7);
    code_.plain(bare, reg);
  } else
    code_.plain(op);
  for (unsigned i = 0; i < n.imm_size; i++) buffer_.byte(static_cast<u8>(n.imm >> (8 * i)));
}

bool Lowering::assign(Scratches& s, const NativeReg& r, bool must_read, u8& host) {
  if (!is_gpr(r)) return host = r.number, true;
  if (!spilled(r.number)) return host = number(pin(r.number)), true;
  const bool read = r.read || must_read || (r.written && r.width < 4);
  for (unsigned i = 0; i < s.count; i++)
    if (s.use[i].guest == r.number) {
      s.use[i].read |= read;
      s.use[i].written |= r.written;
      return host = number(s.use[i].host), true;
    }
  if (s.count == 2 || s.free_count == 0) return false;
  const Reg reg = s.free[--s.free_count];
  s.use[s.count++] = {r.number, reg, read, r.written};
  return host = number(reg), true;
}

void Lowering::load_spills(const Scratches& s) {
  for (unsigned i = 0; i < s.count; i++)
    if (s.use[i].read && !(s.use[i].host == scratch2 && s.use[i].guest == spill2_)) out_.mov(s.use[i].host, spill_slot(s.use[i].guest));
}
void Lowering::store_spills(const Scratches& s) {
  for (unsigned i = 0; i < s.count; i++)
    if (s.use[i].written) out_.mov(spill_slot(s.use[i].guest), s.use[i].host);
}

bool Lowering::plain(const Native& n) {
  if (is_bit_string(n) || n.address_width == 2) return false;
  if (n.reg.file == RegFile::gpr_high || n.rm.file == RegFile::gpr_high) return plain_high_byte(n);
  // mov from a spilled register: a load of its word.
  if (n.map == 0 && n.opcode == 0x89 && !n.vex && !n.memory && n.reg.width >= 4 && is_gpr(n.reg) && is_gpr(n.rm) && spilled(n.reg.number) &&
      !spilled(n.rm.number)) {
    const Reg to = pin(n.rm.number);
    n.reg.width == 8 ? out_.mov(to, spill_slot(n.reg.number)) : out_.mov32(to, spill_slot(n.reg.number));
    return keep_both(), true;
  }
  const u32 implicit = n.implicit_reads | n.implicit_writes;
  if (implicit & (bit_of(guest_stack_pointer) | 0xf000u)) return false;
  const bool count = implicit & count_bit;
  if (n.memory && (n.mem_width == 0 || n.mem_width > 64)) return false;

  Scratches s;
  if (!n.memory && !count) s.free[s.free_count++] = scratch;
  if (!n.memory || !count) s.free[s.free_count++] = scratch2;
  const bool keep = keeps_destination(n);
  u8 reg = (n.modrm >> 3) & 7, rm = n.modrm & 7, vvvv = 0;
  // Sources before a destination that is only written, so that the latter may share a scratch.
  if (n.vvvv.file != RegFile::none && !assign(s, n.vvvv, false, vvvv)) return false;
  const bool slot = may_use_slot(n);
  if (!n.memory && !slot && n.rm.file != RegFile::none && !assign(s, n.rm, keep && n.rm.written, rm)) return false;
  const unsigned sources = s.count;
  bool shared = false;
  if (n.reg.file != RegFile::none && !assign(s, n.reg, keep && n.reg.written, reg)) {
    if (n.reg.read || keep || n.reg.width < 4 || sources == 0) return false;
    reg = number(s.use[0].host);  // write-only: over a source that is not stored back
    if (s.use[0].written) return false;
    shared = true;
  }
  bool rex = false;
  if (is_gpr(n.reg) && n.reg.width == 1 && reg >= 4) rex = true;
  if (!n.memory && !slot && is_gpr(n.rm) && n.rm.width == 1 && rm >= 4) rex = true;

  const auto uses = [&](Reg r) {
    for (unsigned i = 0; i < s.count; i++)
      if (s.use[i].host == r) return true;
    return false;
  };
  keeps_scratch2_ = !uses(scratch2) && !(n.memory && count);
  second_free_ = s.count == 0 && !count;
  Rm operand = slot ? Rm::of(spill_slot(n.rm.number)) : Rm::of(rm);
  if (n.memory) {
    Mem m = check(address_of(n), n.mem_width, n.mem_write);
    if (count) {
      out_.lea(scratch2, m);
      m = {.base = scratch2};
    } else if (s.count && (m.base == scratch2 || m.index == scratch2)) {
      out_.lea(scratch, m);
      m = {.base = scratch};
    } else if (m.base != scratch || m.index == Reg::none) {
      keeps_scratch_ = true;  // lea rcx,[rcx+base] has not come between
    }
    operand = Rm::of(m);
  } else {
    keeps_scratch_ = !count && !uses(scratch);
  }
  load_spills(s);
  if (count && n.implicit_reads & count_bit) out_.mov(scratch, pin(guest_count_register));
  if (n.memory || n.kind == ir::NativeKind::divide || n.touches_vector || n.touches_x87) may_fault();
  encode(n, reg, vvvv, operand, rex);
  if (shared) out_.mov(spill_slot(n.reg.number), static_cast<Reg>(reg));
  if (slot && n.rm.written && n.rm.number == spill2_) spill2_ = ir::no_reg;
  store_spills(s);
  if (count && n.implicit_writes & count_bit) out_.mov(pin(guest_count_register), scratch);
  for (unsigned i = 0; i < s.count; i++)
    if (s.use[i].host == scratch2 && !shared && s.use[i].read | s.use[i].written) spill2_made_ = s.use[i].guest;
  return true;
}

// ah, bh, ch, dh: no REX prefix may stand before them, so no operand may need one; rcx and its halves go through scratch.
bool Lowering::plain_high_byte(const Native& n) {
  if (n.vex || n.implicit_reads & count_bit || n.w) return false;
  bool through_scratch = false, written = false;
  const auto host_of = [&](const NativeReg& r, u8 otherwise) -> u8 {
    if (r.file == RegFile::gpr_high) {
      const u8 base = r.number & 3;
      if (base == guest_count_register) through_scratch = true, written |= r.written;
      return 4 + base;
    }
    if (r.file != RegFile::gpr) return otherwise;
    if (r.number == guest_count_register) through_scratch = true, written |= r.written;
    return r.number;
  };
  for (const NativeReg* r : {&n.reg, &n.rm})
    if (r->file == RegFile::gpr && (r->number > 7 || r->number == guest_stack_pointer)) return false;
  const u8 reg = host_of(n.reg, (n.modrm >> 3) & 7), rm = host_of(n.rm, n.modrm & 7);
  Rm operand = Rm::of(rm);
  if (n.memory) {
    if (through_scratch || n.mem_width != 1) return false;
    const Mem m = check(address_of(n), n.mem_width, n.mem_write);
    out_.lea(scratch, m);
    operand = Rm::of(Mem{.base = scratch});
    may_fault();
  } else if (through_scratch) {
    out_.mov(scratch, pin(guest_count_register));
  }
  if (n.kind == ir::NativeKind::divide) may_fault();
  encode(n, reg, 0, operand, false);
  if (through_scratch && written) out_.mov(pin(guest_count_register), scratch);
  return true;
}

bool Lowering::load_address(const Native& n) {
  if (n.address_width == 2 || n.reg.width < 4) return false;
  const bool wide = n.reg.width == 8;
  const Address a = address_of(n);
  keeps_scratch_ = !n.ip_relative && (n.base == ir::no_reg || !spilled(n.base)) && (n.index == ir::no_reg || !spilled(n.index));
  keeps_scratch2_ = keeps_scratch_ && !spilled(n.reg.number) && (n.base != ir::no_reg || n.index != ir::no_reg);
  if (!spilled(n.reg.number)) {
    access_.effective(a, pin(n.reg.number), wide);
  } else {
    access_.effective(a, scratch2, wide);
    out_.mov(spill_slot(n.reg.number), scratch2);
  }
  return true;
}

void Lowering::move_stack(i64 delta) {
  const Reg sp = pin(guest_stack_pointer);
  const Mem m{.base = sp, .disp = static_cast<i32>(delta)};
  code64() ? out_.lea(sp, m) : out_.lea32(sp, m);
}

bool Lowering::push(const Native& n) {
  const unsigned width = n.width;
  if (width != stack_width()) return false;
  const NativeReg& source = n.in_opcode ? n.reg : n.rm;
  const Address slot = stack_address(-static_cast<i64>(width));
  if (n.memory) {
    if (n.address_width == 2) return false;
    const Mem from = check(address_of(n), width, false);
    may_fault();
    width == 8 ? out_.mov(scratch2, from) : out_.mov32(scratch2, from);
    out_.mov(saved_slot(1), scratch2);
    islands_before(100);
    const Mem to = check(slot, width, true);
    out_.lea(scratch, to);
    out_.mov(scratch2, saved_slot(1));
    may_fault();
    width == 8 ? out_.mov(Mem{.base = scratch}, scratch2) : out_.mov32(Mem{.base = scratch}, scratch2);
  } else if (source.file == RegFile::gpr) {
    Mem to = check(slot, width, true);
    Reg value = Reg::none;
    keeps_scratch_ = true, keeps_scratch2_ = !spilled(source.number);
    if (spilled(source.number)) {
      out_.mov(scratch2, spill_slot(source.number));
      value = scratch2;
    } else {
      value = pin(source.number);
    }
    may_fault();
    width == 8 ? out_.mov(to, value) : out_.mov32(to, value);
  } else if (source.file == RegFile::none && n.imm_size) {
    const Mem to = check(slot, width, true);
    keep_both();
    may_fault();
    width == 8 ? out_.mov_store_imm(to, static_cast<i32>(n.imm)) : out_.mov_store_imm32(to, static_cast<i32>(n.imm));
  } else {
    return false;
  }
  move_stack(-static_cast<i64>(width));
  return true;
}

bool Lowering::pop(const Native& n) {
  const unsigned width = n.width;
  const NativeReg& to = n.in_opcode ? n.reg : n.rm;
  if (width != stack_width() || n.memory || to.file != RegFile::gpr) return false;
  const Mem from = check(stack_address(0), width, false);
  const Reg value = spilled(to.number) ? scratch2 : pin(to.number);
  keeps_scratch_ = true, keeps_scratch2_ = !spilled(to.number);
  may_fault();
  width == 8 ? out_.mov(value, from) : out_.mov32(value, from);
  if (spilled(to.number)) out_.mov(spill_slot(to.number), scratch2);
  if (to.number != guest_stack_pointer) move_stack(width);
  return true;
}

bool Lowering::leave(const Native& n) {
  const unsigned width = n.width;
  if (width != stack_width()) return false;
  const Mem from = check({.base = guest_frame_pointer, .width = code64() ? u8{8} : u8{4}}, width, false);
  const Reg sp = pin(guest_stack_pointer), bp = pin(guest_frame_pointer);
  may_fault();
  if (width == 8) {
    out_.mov(scratch2, from);
    out_.lea(sp, {.base = bp, .disp = 8});
  } else {
    out_.mov32(scratch2, from);
    out_.lea32(sp, {.base = bp, .disp = 4});
  }
  out_.mov(bp, scratch2);
  return true;
}

}  // namespace vmm::tcg::x64
