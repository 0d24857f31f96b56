// Moves, arithmetic, logic, bit operations. Source: SDM 2. What the manual leaves undefined is what the host leaves (helpers_alu.cpp).
#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/emitters.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::int_type;

namespace {

// The helper for an operand width among those for 8, 16, 32, 64 bits.
HelperId by_width(unsigned width, HelperId h8, HelperId h16, HelperId h32, HelperId h64) {
  return width == 1 ? h8 : width == 2 ? h16 : width == 4 ? h32 : h64;
}
void result(Operands& op, ir::WithFlags r) { op.dst = r.value, op.cc = r.cc; }

// dst = dst OP src with flags; with LOCK one atomic operation, and the flags from its old value.
void binary(Emitter& e, const Insn& insn, Operands& op, OpCode code, RmwKind atomic, Value operand) {
  if (insn.lock) {
    const Value old = e.rmw(op.type, atomic, op.address, operand, 0, op.access);
    op.cc = e.emit_flags(code, op.type, old, op.src1).cc, op.written = true;
    return;
  }
  result(op, e.emit_flags(code, op.type, op.dst, op.src1));
}
// adc and sbb: the operand of the atomic addition includes the carry.
void with_carry(Emitter& e, const Insn& insn, Operands& op, OpCode code, bool subtract) {
  const Value cc = e.get_cc();
  if (insn.lock) {
    Value operand = e.add(op.type, op.src1, e.and_imm(Type::i64, cc, ir::cc_carry));
    if (subtract) operand = e.emit(OpCode::neg, op.type, operand);
    const Value old = e.rmw(op.type, RmwKind::add, op.address, operand, 0, op.access);
    op.cc = e.emit_flags(code, op.type, old, op.src1, cc).cc, op.written = true;
    return;
  }
  result(op, e.emit_flags(code, op.type, op.dst, op.src1, cc));
}
void step(Emitter& e, const Insn& insn, Operands& op, OpCode code, u64 by) {
  const Value cc = e.get_cc();
  if (insn.lock) {
    const Value old = e.rmw(op.type, RmwKind::add, op.address, e.constant(by & mask_of_size(op.width)), 0, op.access);
    op.cc = e.emit_flags(code, op.type, old, cc).cc, op.written = true;
    return;
  }
  result(op, e.emit_flags(code, op.type, op.dst, cc));
}
// Shift counts are masked by the op to 5 bits, 6 for 64-bit operands.
void shift(Emitter& e, Operands& op, OpCode code) { result(op, e.emit_flags(code, op.type, op.dst, op.src1, e.get_cc())); }

}  // namespace

void emit_add(Emitter& e, const Insn& insn, Operands& op) { binary(e, insn, op, OpCode::add_cc, RmwKind::add, op.src1); }
void emit_or(Emitter& e, const Insn& insn, Operands& op) { binary(e, insn, op, OpCode::or_cc, RmwKind::or_, op.src1); }
void emit_and(Emitter& e, const Insn& insn, Operands& op) { binary(e, insn, op, OpCode::and_cc, RmwKind::and_, op.src1); }
void emit_xor(Emitter& e, const Insn& insn, Operands& op) { binary(e, insn, op, OpCode::xor_cc, RmwKind::xor_, op.src1); }
void emit_sub(Emitter& e, const Insn& insn, Operands& op) {
  binary(e, insn, op, OpCode::sub_cc, RmwKind::add, insn.lock ? e.emit(OpCode::neg, op.type, op.src1) : op.src1);
}
void emit_adc(Emitter& e, const Insn& insn, Operands& op) { with_carry(e, insn, op, OpCode::adc_cc, false); }
void emit_sbb(Emitter& e, const Insn& insn, Operands& op) { with_carry(e, insn, op, OpCode::sbb_cc, true); }
void emit_cmp(Emitter& e, const Insn&, Operands& op) { op.cc = e.emit_flags(OpCode::sub_cc, op.type, op.dst, op.src1).cc; }
void emit_test(Emitter& e, const Insn&, Operands& op) { op.cc = e.emit_flags(OpCode::and_cc, op.type, op.dst, op.src1).cc; }
void emit_inc(Emitter& e, const Insn& insn, Operands& op) { step(e, insn, op, OpCode::inc_cc, 1); }
void emit_dec(Emitter& e, const Insn& insn, Operands& op) { step(e, insn, op, OpCode::dec_cc, ~u64{0}); }
void emit_neg(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.lock) {
    const Value old = e.rmw(op.type, RmwKind::neg, op.address, 0, 0, op.access);
    op.cc = e.emit_flags(OpCode::neg_cc, op.type, old).cc, op.written = true;
    return;
  }
  result(op, e.emit_flags(OpCode::neg_cc, op.type, op.dst));
}
void emit_not(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.lock) {
    e.rmw(op.type, RmwKind::xor_, op.address, e.constant(mask_of_size(op.width)), 0, op.access);
    op.written = true;
    return;
  }
  op.dst = e.emit(OpCode::not_, op.type, op.dst);
}

void emit_rol(Emitter& e, const Insn&, Operands& op) { shift(e, op, OpCode::rol_cc); }
void emit_ror(Emitter& e, const Insn&, Operands& op) { shift(e, op, OpCode::ror_cc); }
void emit_shl(Emitter& e, const Insn&, Operands& op) { shift(e, op, OpCode::shl_cc); }
void emit_shr(Emitter& e, const Insn&, Operands& op) { shift(e, op, OpCode::shr_cc); }
void emit_sar(Emitter& e, const Insn&, Operands& op) { shift(e, op, OpCode::sar_cc); }
void emit_rcl(Emitter& e, const Insn&, Operands& op) {
  result(op,
         e.call_flags(by_width(op.width, HelperId::rcl8, HelperId::rcl16, HelperId::rcl32, HelperId::rcl64), op.dst, op.src1, e.get_cc()));
}
void emit_rcr(Emitter& e, const Insn&, Operands& op) {
  result(op,
         e.call_flags(by_width(op.width, HelperId::rcr8, HelperId::rcr16, HelperId::rcr32, HelperId::rcr64), op.dst, op.src1, e.get_cc()));
}
// Helpers take three arguments: the two counts and flags travel in one (count in bits 32 and up).
static Value count_and_cc(Emitter& e, Value count, Value cc) { return e.or_(Type::i64, cc, e.shl(Type::i64, count, 32)); }
void emit_shld(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(by_width(op.width, HelperId::shld16, HelperId::shld16, HelperId::shld32, HelperId::shld64), op.dst, op.src1,
                          count_and_cc(e, op.src2, e.get_cc())));
}
void emit_shrd(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(by_width(op.width, HelperId::shrd16, HelperId::shrd16, HelperId::shrd32, HelperId::shrd64), op.dst, op.src1,
                          count_and_cc(e, op.src2, e.get_cc())));
}

void emit_mov(Emitter&, const Insn&, Operands& op) { op.dst = op.src1; }
void emit_movzx(Emitter&, const Insn&, Operands& op) { op.dst = op.src1; }
void emit_movsx(Emitter& e, const Insn& insn, Operands& op) {
  op.dst = e.trunc(op.type, e.sext(int_type(width_of(insn, insn.row->operands[1])), op.src1));
}
void emit_movsxd(Emitter& e, const Insn& insn, Operands& op) {
  op.dst = insn.opsize == 8 ? e.sext(Type::i32, op.src1) : insn.opsize == 2 ? e.trunc(Type::i16, op.src1) : op.src1;
}
void emit_lea(Emitter& e, const Insn& insn, Operands& op) {
  const Value address = e.effective_address(insn);
  op.dst = op.width < insn.addrsize ? e.trunc(op.type, address) : address;
}
void emit_bswap(Emitter& e, const Insn& insn, Operands& op) {
  // 16-bit bswap is undefined; hosts give zero.
  op.dst = insn.opsize == 2 ? e.constant(0) : e.emit(OpCode::bswap, op.type, op.dst);
}
void emit_movbe(Emitter& e, const Insn&, Operands& op) { op.dst = e.emit(OpCode::bswap, op.type, op.src1); }
// 0x90 is xchg of rax with itself: it does nothing, not even clear the upper half.
void emit_xchg(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.opcode >= 0x90 && insn.opcode < 0x98) {
    op.written = true;
    if (insn.opcode_number() == 0) return;
    e.set_gpr(insn.opcode_number(), op.width, op.src1);
    e.set_gpr(rax, op.width, op.dst);
    return;
  }
  op.written = true;
  if (insn.memory) {
    e.set_reg(insn, insn.reg_number(), op.width, e.rmw(op.type, RmwKind::xchg, op.address, op.src1, 0, op.access));
    return;
  }
  e.set_reg(insn, insn.rm_number(), op.width, op.src1);
  e.set_reg(insn, insn.reg_number(), op.width, op.dst);
}
// The source register is written before the destination, so that `xadd eax, eax` leaves the sum.
void emit_xadd(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.lock) {
    const Value old = e.rmw(op.type, RmwKind::add, op.address, op.src1, 0, op.access);
    op.cc = e.emit_flags(OpCode::add_cc, op.type, old, op.src1).cc;
    e.set_reg(insn, insn.reg_number(), op.width, old);
    op.written = true;
    return;
  }
  const Value old = op.dst;
  result(op, e.emit_flags(OpCode::add_cc, op.type, old, op.src1));
  if (insn.memory) {
    e.store(op.type, op.address, op.dst, op.access);
    op.written = true;
  }
  e.set_reg(insn, insn.reg_number(), op.width, old);
}
// Memory is written in either case, as hardware does. The accumulator changes only on failure: a success must not clear the upper half
// of rax with 32-bit operands.
void emit_cmpxchg(Emitter& e, const Insn& insn, Operands& op) {
  const Value expected = e.gpr(rax, op.width);
  Value old;
  if (insn.lock) {
    old = e.rmw(op.type, RmwKind::cas, op.address, op.src1, expected, op.access);
  } else {
    old = op.dst;
  }
  const ir::WithFlags compare = e.emit_flags(OpCode::sub_cc, op.type, expected, old);
  const Value same = e.equal(expected, old);
  op.written = true, op.cc = compare.cc;
  if (insn.memory) {
    if (!insn.lock) e.store(op.type, op.address, e.select(same, op.src1, old), op.access);
    const Value full = e.gpr(rax, 8);
    e.set(rax, Type::i64, e.select(same, full, op.width == 4 ? old : e.emit(OpCode::deposit, op.type, full, old)));
    return;
  }
  // A register destination keeps all its bits on failure, the upper half of a 32-bit one included.
  const Value full = e.gpr(rax, 8);
  const Value kept = op.width == 4 ? e.gpr(insn.rm_number(), 8) : old;
  e.set(rax, Type::i64, e.select(same, full, op.width == 4 ? old : e.emit(OpCode::deposit, op.type, full, old)));
  const Value now = e.select(same, op.src1, kept);
  if (op.width == 4) {
    e.set(static_cast<u16>(insn.rm_number()), Type::i64, now);
  } else {
    e.set_reg(insn, insn.rm_number(), op.width, now);
  }
}

void emit_cbw(Emitter& e, const Insn& insn, Operands& op) {
  const unsigned half = insn.opsize / 2u;
  e.set_gpr(rax, insn.opsize, e.trunc(int_type(insn.opsize), e.sext(int_type(half), e.gpr(rax, half))));
  op.written = true;
}
void emit_cwd(Emitter& e, const Insn& insn, Operands& op) {
  const Type t = int_type(insn.opsize);
  e.set_gpr(rdx, insn.opsize, e.emit(OpCode::sar, t, e.gpr(rax, insn.opsize), e.constant(insn.opsize * 8 - 1)));
  op.written = true;
}

// One-operand multiply: the helper gives the low double width (up to 64 bits) and, for 64-bit operands, another the high half.
static void multiply(Emitter& e, const Insn& insn, Operands& op, HelperId id, HelperId high) {
  const unsigned w = op.width;
  const Value a = e.gpr(rax, w);
  const ir::WithFlags r = e.call_flags(id, a, op.dst, e.get_cc());
  op.written = true, op.cc = r.cc;
  if (w == 1) return e.set_gpr(rax, 2, r.value);
  if (w == 8) {
    const Value h = e.call(high, a, op.dst);
    e.set_gpr(rax, 8, r.value);
    return e.set_gpr(rdx, 8, h);
  }
  e.set_gpr(rax, w, e.trunc(op.type, r.value));
  e.set_gpr(rdx, w, e.shr(Type::i64, r.value, w * 8));
}
void emit_mul(Emitter& e, const Insn& insn, Operands& op) {
  multiply(e, insn, op, by_width(op.width, HelperId::mul8, HelperId::mul16, HelperId::mul32, HelperId::mul64), HelperId::mulhi_u64);
}
void emit_imul(Emitter& e, const Insn& insn, Operands& op) {
  multiply(e, insn, op, by_width(op.width, HelperId::imul8, HelperId::imul16, HelperId::imul32, HelperId::imul64), HelperId::mulhi_s64);
}
void emit_imul2(Emitter& e, const Insn&, Operands& op) { result(op, e.emit_flags(OpCode::mul_cc, op.type, op.dst, op.src1, e.get_cc())); }
void emit_imul3(Emitter& e, const Insn&, Operands& op) { result(op, e.emit_flags(OpCode::mul_cc, op.type, op.src1, op.src2, e.get_cc())); }
void emit_mulx(Emitter& e, const Insn& insn, Operands& op) {
  const Value a = e.gpr(rdx, op.width);
  Value low, high;
  if (op.width == 8) {
    low = e.emit(OpCode::mul, Type::i64, a, op.src2);
    high = e.call(HelperId::mulhi_u64, a, op.src2);
  } else {
    const Value product = e.emit(OpCode::mul, Type::i64, a, op.src2);
    low = e.trunc(Type::i32, product), high = e.shr(Type::i64, product, 32);
  }
  e.set_gpr(insn.vvvv, op.width, low);
  op.dst = high;  // written last: it wins if both are the same register
}
// The helper reads rax (rdx) and writes quotient and remainder, or raises #DE.
void emit_div(Emitter& e, const Insn&, Operands& op) {
  e.sync_ip();
  op.cc = e.call_flags(by_width(op.width, HelperId::div8, HelperId::div16, HelperId::div32, HelperId::div64), op.dst).cc;
}
void emit_idiv(Emitter& e, const Insn&, Operands& op) {
  e.sync_ip();
  op.cc = e.call_flags(by_width(op.width, HelperId::idiv8, HelperId::idiv16, HelperId::idiv32, HelperId::idiv64), op.dst).cc;
}

// --- bits ---------------------------------------------------------------------------------------------------------------------

// bt family. With a register bit offset and a memory operand the offset is signed and reaches beyond the operand: the address moves by
// whole operands.
static void bit_test(Emitter& e, const Insn& insn, Operands& op, int change) {  // 0 none, 1 set, 2 reset, 3 complement
  const unsigned bits = op.width * 8;
  const bool by_register = insn.row->operands[1].role == Role::modrm_reg;
  Value address = op.address;
  if (insn.memory && by_register) {
    op.access = e.access_of(insn.segment);
    const Value index = e.emit(OpCode::sar, Type::i64, e.sext(op.type, op.src1), e.constant(op.width == 2 ? 4 : op.width == 4 ? 5 : 6));
    const Value bytes = e.shl(Type::i64, index, op.width == 2 ? 1 : op.width == 4 ? 2 : 3);
    const Value offset = e.trunc(int_type(insn.addrsize), e.add(Type::i64, e.effective_address(insn), bytes));
    address = e.linear(insn, insn.segment, offset, op.width, static_cast<u16>(op.access | (change ? Access::write : 0)));
  }
  const Value bit = e.and_imm(Type::i64, op.src1, bits - 1);
  const Value mask = e.trunc(op.type, e.emit(OpCode::shl, Type::i64, e.constant(1), bit));
  Value old;
  op.written = true;
  if (insn.memory && insn.lock) {
    const Value operand = change == 2 ? e.emit(OpCode::not_, op.type, mask) : mask;
    old = e.rmw(op.type, change == 1 ? RmwKind::or_ : change == 2 ? RmwKind::and_ : RmwKind::xor_, address, operand, 0, op.access);
  } else {
    // A memory operand with an immediate offset is already loaded, once: it may be a device.
    const bool loaded = insn.memory && !by_register;
    old = loaded        ? op.dst
          : insn.memory ? e.load(op.type, address, static_cast<u16>(op.access | (change ? Access::intent : 0)))
                        : e.reg(insn, insn.rm_number(), op.width);
    if (change) {
      const Value now = change == 1   ? e.or_(op.type, old, mask)
                        : change == 2 ? e.emit(OpCode::andn, op.type, mask, old)
                                      : e.xor_(op.type, old, mask);
      if (insn.memory)
        e.store(op.type, address, now, op.access);
      else
        e.set_gpr(insn.rm_number(), op.width, now);
    }
  }
  op.cc = e.call_flags(HelperId::bt_flags, old, bit, e.get_cc()).cc;
}
void emit_bt(Emitter& e, const Insn& insn, Operands& op) { bit_test(e, insn, op, 0); }
void emit_bts(Emitter& e, const Insn& insn, Operands& op) { bit_test(e, insn, op, 1); }
void emit_btr(Emitter& e, const Insn& insn, Operands& op) { bit_test(e, insn, op, 2); }
void emit_btc(Emitter& e, const Insn& insn, Operands& op) { bit_test(e, insn, op, 3); }

// A zero source leaves the whole destination as it was, upper half of a 32-bit one included (every maker does so).
static void scan(Emitter& e, const Insn& insn, Operands& op, HelperId id) {
  const unsigned number = insn.reg_number();
  const ir::WithFlags r = e.call_flags(id, op.src1, op.dst, e.get_cc());
  op.cc = r.cc, op.written = true;
  if (op.width == 4) {
    e.set(static_cast<u16>(number), Type::i64, e.select(op.src1, r.value, e.gpr(number, 8)));
  } else {
    e.set_gpr(number, op.width, r.value);
  }
}
void emit_bsf(Emitter& e, const Insn& insn, Operands& op) {
  scan(e, insn, op, by_width(op.width, HelperId::bsf16, HelperId::bsf16, HelperId::bsf32, HelperId::bsf64));
}
void emit_bsr(Emitter& e, const Insn& insn, Operands& op) {
  scan(e, insn, op, by_width(op.width, HelperId::bsr16, HelperId::bsr16, HelperId::bsr32, HelperId::bsr64));
}
void emit_tzcnt(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(by_width(op.width, HelperId::tzcnt16, HelperId::tzcnt16, HelperId::tzcnt32, HelperId::tzcnt64), op.src1, 0,
                          e.get_cc()));
}
void emit_lzcnt(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(by_width(op.width, HelperId::lzcnt16, HelperId::lzcnt16, HelperId::lzcnt32, HelperId::lzcnt64), op.src1, 0,
                          e.get_cc()));
}
void emit_popcnt(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(by_width(op.width, HelperId::popcnt16, HelperId::popcnt16, HelperId::popcnt32, HelperId::popcnt64), op.src1, 0,
                          e.get_cc()));
}

void emit_andn(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::andn64 : HelperId::andn32, op.src1, op.src2, e.get_cc()));
}
void emit_blsi(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::blsi64 : HelperId::blsi32, op.src1, 0, e.get_cc()));
}
void emit_blsr(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::blsr64 : HelperId::blsr32, op.src1, 0, e.get_cc()));
}
void emit_blsmsk(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::blsmsk64 : HelperId::blsmsk32, op.src1, 0, e.get_cc()));
}
void emit_bextr(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::bextr64 : HelperId::bextr32, op.src1, op.src2, e.get_cc()));
}
void emit_bzhi(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::bzhi64 : HelperId::bzhi32, op.src1, op.src2, e.get_cc()));
}
void emit_pdep(Emitter& e, const Insn&, Operands& op) { op.dst = e.call(HelperId::pdep, op.src1, op.src2); }
void emit_pext(Emitter& e, const Insn&, Operands& op) { op.dst = e.call(HelperId::pext, op.src1, op.src2); }
void emit_shlx(Emitter& e, const Insn&, Operands& op) { op.dst = e.emit(OpCode::shl, op.type, op.src1, op.src2); }
void emit_shrx(Emitter& e, const Insn&, Operands& op) { op.dst = e.emit(OpCode::shr, op.type, op.src1, op.src2); }
void emit_sarx(Emitter& e, const Insn&, Operands& op) { op.dst = e.emit(OpCode::sar, op.type, op.src1, op.src2); }
void emit_rorx(Emitter& e, const Insn&, Operands& op) { op.dst = e.emit(OpCode::rotr, op.type, op.src1, op.src2); }
void emit_adcx(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::adcx64 : HelperId::adcx32, op.dst, op.src1, e.get_cc()));
}
void emit_adox(Emitter& e, const Insn&, Operands& op) {
  result(op, e.call_flags(op.width == 8 ? HelperId::adox64 : HelperId::adox32, op.dst, op.src1, e.get_cc()));
}
void emit_crc32(Emitter& e, const Insn& insn, Operands& op) {
  op.dst =
      e.call(by_width(width_of(insn, insn.row->operands[1]), HelperId::crc32_8, HelperId::crc32_16, HelperId::crc32_32, HelperId::crc32_64),
             op.dst, op.src1);
}

void emit_setcc(Emitter& e, const Insn& insn, Operands& op) { op.dst = e.test_cc(static_cast<Cond>(insn.opcode & 15), e.get_cc()); }
// A load happens, and may fault, whatever the condition; a 32-bit destination is zero-extended even if not moved.
void emit_cmov(Emitter& e, const Insn& insn, Operands& op) {
  op.dst = e.select(e.test_cc(static_cast<Cond>(insn.opcode & 15), e.get_cc()), op.src1, op.dst);
}

// --- flags --------------------------------------------------------------------------------------------------------------------

void emit_clc(Emitter& e, const Insn&, Operands& op) { op.cc = e.and_imm(Type::i64, e.get_cc(), ir::cc_mask & ~ir::cc_carry); }
void emit_stc(Emitter& e, const Insn&, Operands& op) { op.cc = e.or_(Type::i64, e.get_cc(), e.constant(ir::cc_carry)); }
void emit_cmc(Emitter& e, const Insn&, Operands& op) { op.cc = e.xor_(Type::i64, e.get_cc(), e.constant(ir::cc_carry)); }
void emit_lahf(Emitter& e, const Insn&, Operands& op) {
  e.set_gpr8(4, false, e.or_(Type::i64, e.and_imm(Type::i64, e.get_cc(), 0xd5), e.constant(2)));
  op.written = true;
}
void emit_sahf(Emitter& e, const Insn&, Operands& op) {
  const Value kept = e.and_imm(Type::i64, e.get_cc(), ir::cc_overflow);
  op.cc = e.or_(Type::i64, kept, e.and_imm(Type::i64, e.gpr8(4, false), 0xd5));
  op.written = true;
}
void emit_salc(Emitter& e, const Insn&, Operands& op) {
  e.set_gpr(rax, 1, e.emit(OpCode::neg, Type::i8, e.and_imm(Type::i64, e.get_cc(), ir::cc_carry)));
  op.written = true;
}

// --- decimal adjust -----------------------------------------------------------------------------------------------------------

static void adjust(Emitter& e, Operands& op, HelperId id, Value extra = 0) {
  const ir::WithFlags r = e.call_flags(id, e.gpr(rax, 2), extra, e.get_cc());
  op.cc = r.cc, op.written = true;
  e.set_gpr(rax, 2, r.value);
}
void emit_daa(Emitter& e, const Insn&, Operands& op) { adjust(e, op, HelperId::daa); }
void emit_das(Emitter& e, const Insn&, Operands& op) { adjust(e, op, HelperId::das); }
void emit_aaa(Emitter& e, const Insn&, Operands& op) { adjust(e, op, HelperId::aaa); }
void emit_aas(Emitter& e, const Insn&, Operands& op) { adjust(e, op, HelperId::aas); }
void emit_aad(Emitter& e, const Insn& insn, Operands& op) { adjust(e, op, HelperId::aad, e.constant(insn.imm)); }
void emit_aam(Emitter& e, const Insn& insn, Operands& op) {
  if ((insn.imm & 0xff) == 0) return e.raise(vector_de);
  adjust(e, op, HelperId::aam, e.constant(insn.imm));
}

// --- odds and ends ------------------------------------------------------------------------------------------------------------

void emit_nop(Emitter&, const Insn&, Operands& op) { op.written = true; }
void emit_rdrand(Emitter& e, const Insn&, Operands& op) {
  const ir::WithFlags r = e.call_flags(HelperId::rdrand);
  op.dst = e.trunc(op.type, r.value), op.cc = r.cc;
}
void emit_rdseed(Emitter& e, const Insn&, Operands& op) {
  const ir::WithFlags r = e.call_flags(HelperId::rdseed);
  op.dst = e.trunc(op.type, r.value), op.cc = r.cc;
}
void emit_rdpid(Emitter& e, const Insn&, Operands& op) { op.dst = e.get(id_tsc_aux, op.type); }
void emit_xlat(Emitter& e, const Insn& insn, Operands& op) {
  const Type t = int_type(insn.addrsize);
  const Value offset = e.add(t, e.gpr(rbx, insn.addrsize), e.gpr(rax, 1));
  const unsigned segment = insn.segment_override ? insn.segment : static_cast<unsigned>(ds);
  const u16 access = e.access_of(segment);
  e.set_gpr(rax, 1, e.load(Type::i8, e.linear(insn, segment, offset, 1, access), access));
  op.written = true;
}
// Success sets ZF alone. Failure loads the accumulator pair. The store happens in either case.
void emit_cmpxchg8b(Emitter& e, const Insn& insn, Operands& op) {
  const Value expected = e.or_(Type::i64, e.gpr(rax, 4), e.shl(Type::i64, e.gpr(rdx, 4), 32));
  const Value desired = e.or_(Type::i64, e.gpr(rbx, 4), e.shl(Type::i64, e.gpr(rcx, 4), 32));
  Value old = op.dst;
  if (insn.lock) {
    old = e.rmw(Type::i64, RmwKind::cas, op.address, desired, expected, op.access);
  } else {
    e.store(Type::i64, op.address, e.select(e.equal(old, expected), desired, old), op.access);
  }
  const Value same = e.equal(old, expected);
  e.set(rax, Type::i64, e.select(same, e.gpr(rax, 8), e.trunc(Type::i32, old)));
  e.set(rdx, Type::i64, e.select(same, e.gpr(rdx, 8), e.shr(Type::i64, old, 32)));
  op.written = true;
  op.cc = e.or_(Type::i64, e.and_imm(Type::i64, e.get_cc(), ir::cc_mask & ~ir::cc_zero), e.shl(Type::i64, same, 6));
}
void emit_cmpxchg16b(Emitter& e, const Insn&, Operands& op) {
  e.sync_ip();
  op.written = true;
  op.cc = e.call_flags(HelperId::cmpxchg16b, op.address, e.constant(op.access)).cc;
}
void emit_bound(Emitter& e, const Insn& insn, Operands& op) {
  const Value offset = e.effective_address(insn);
  const u16 access = e.access_of(insn.segment);
  const Value at = e.linear(insn, insn.segment, offset, insn.opsize * 2u, access);
  e.sync_ip();
  e.call(HelperId::bound, op.dst, at, e.constant(insn.opsize | u64{access} << 8));
  op.written = true;
}

}  // namespace vmm::tcg::x86
