// Stack, near control flow, string instructions. Source: SDM 2.
#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/emitters.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::int_type;

// push rsp pushes the old value: it was read before. Immediates are sign-extended to the operand size.
void emit_push(Emitter& e, const Insn& insn, Operands& op) {
  Value v = op.dst;
  if (insn.row->operands[0].role == Role::imm_sx) v = e.constant(insn.imm & mask_of_size(insn.opsize));
  e.push(insn, v, insn.opsize);
  op.written = true;
}
// A memory destination is addressed with the incremented stack pointer; its store may fault, so the pointer moves after it.
void emit_pop(Emitter& e, const Insn& insn, Operands& op) {
  Value new_sp;
  const Value v = e.pop(insn, insn.opsize, new_sp);
  op.written = true;
  if (!insn.memory) {
    e.set_sp(new_sp);
    e.set_gpr(insn.has_modrm ? insn.rm_number() : insn.opcode_number(), insn.opsize, v);
    return;
  }
  Value base = 0;
  if (insn.base == rsp) {
    const unsigned stack = e.key().stack_bytes();
    base = insn.addrsize <= stack ? e.trunc(int_type(insn.addrsize), new_sp)
                                  : e.emit(OpCode::deposit, int_type(stack), e.gpr(rsp, insn.addrsize), new_sp);
  }
  const u16 access = e.access_of(insn.segment);
  const Value at = e.linear(insn, insn.segment, e.effective_address(insn, base), insn.opsize, static_cast<u16>(access | Access::write));
  e.store(int_type(insn.opsize), at, v, access);
  e.set_sp(new_sp);
}
void emit_leave(Emitter& e, const Insn& insn, Operands& op) {
  const unsigned stack = e.key().stack_bytes();
  const Value frame = e.gpr(rbp, stack);
  const Value v = e.load(int_type(insn.opsize), e.linear(insn, ss, frame, insn.opsize, Access::stack), Access::stack);
  e.set_gpr(rsp, stack, e.add_imm(int_type(stack), frame, insn.opsize));
  e.set_gpr(rbp, insn.opsize, v);
  op.written = true;
}
static Value packed(Emitter& e, const Insn& insn, u64 more = 0) { return e.constant(insn.opsize | more); }
void emit_enter(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::enter, packed(e, insn), e.constant(insn.imm), e.constant(insn.imm2 & 31));
  op.written = true;
}
void emit_pusha(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::pusha, packed(e, insn));
  op.written = true;
}
void emit_popa(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::popa, packed(e, insn));
  op.written = true;
}
void emit_pushf(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::pushf, packed(e, insn));
  op.written = true;
}
void emit_popf(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::popf, packed(e, insn));
  op.written = true;
}
// DF is bit 10: bit 2 of the second byte.
void emit_cld(Emitter& e, const Insn&, Operands& op) {
  e.set(id_rflags, Type::i8, e.and_imm(Type::i8, e.get(id_rflags, Type::i8, 1), 0xfb), 1);
  op.written = true;
}
void emit_std(Emitter& e, const Insn&, Operands& op) {
  e.set(id_rflags, Type::i8, e.or_(Type::i8, e.get(id_rflags, Type::i8, 1), e.constant(4)), 1);
  op.written = true;
}

void emit_jmp(Emitter& e, const Insn& insn, Operands&) { e.jump_to(insn, insn.imm); }
void emit_jcc(Emitter& e, const Insn& insn, Operands&) { e.branch_to(insn, static_cast<Cond>(insn.opcode & 15), e.get_cc(), insn.imm); }
// The target is checked before the return address is stored.
void emit_call(Emitter& e, const Insn& insn, Operands&) { e.call_to(insn, insn.imm); }
void emit_call_indirect(Emitter& e, const Insn& insn, Operands& op) {
  const Value back = e.next_ip(insn), target = op.dst;
  e.check_target(target);
  e.push(insn, insn.opsize == 2 ? e.trunc(Type::i16, back) : back, insn.opsize);
  e.indirect(target);
}
void emit_jmp_indirect(Emitter& e, const Insn& insn, Operands& op) { e.indirect_to(insn, op.dst); }
void emit_ret(Emitter& e, const Insn& insn, Operands&) {
  Value new_sp;
  const Value target = e.pop(insn, insn.opsize, new_sp);
  e.check_target(target);
  if (insn.opcode == 0xc2) new_sp = e.add_imm(int_type(e.key().stack_bytes()), new_sp, static_cast<i64>(insn.imm));
  e.set_sp(new_sp);
  e.indirect(target);
}
// loop, loope, loopne count in (e/r)cx of the address size; jcxz tests it. Flags are untouched.
void emit_loop(Emitter& e, const Insn& insn, Operands&) {
  const Type t = int_type(insn.addrsize);
  Value count = e.gpr(rcx, insn.addrsize);
  if (insn.opcode == 0xe3) return e.branch_if(insn, e.equal(count, e.constant(0)), insn.imm);
  count = e.add_imm(t, count, -1);
  Value go = count;
  if (insn.opcode != 0xe2) {
    const Value wanted = e.test_cc(insn.opcode == 0xe1 ? Cond::zero : Cond::not_zero, e.get_cc());
    go = e.select(count, wanted, e.constant(0));
  }
  e.count_and_branch(insn, go, insn.imm, count);
}
// Transactions always abort at once: EAX = 0, on to the fallback.
void emit_xbegin(Emitter& e, const Insn& insn, Operands&) {
  e.set_gpr(rax, 4, e.constant(0));
  e.jump_to(insn, insn.imm);
}

// The helper does a bounded number of iterations with registers exact after each; while it is not done (1), the block leaves with ip
// at this instruction, so that interrupts are taken and it starts again.
void emit_string(Emitter& e, const Insn& insn, Operands& op) {
  const Operand& first = insn.row->operands[0];
  const unsigned width = width_of(insn, first);
  const u64 repeat = insn.rep == 0xf3 ? 1 : insn.rep == 0xf2 ? 2 : 0;
  const unsigned segment = insn.segment_override ? insn.segment : static_cast<unsigned>(ds);
  const u64 what = static_cast<u64>(insn.row->t.tag) | width << 8 | u64{insn.addrsize} << 16 | u64{segment} << 24 | repeat << 32;
  e.sync_ip();
  const Value again = e.call(HelperId::string_step, e.constant(what));
  op.written = true;
  if (repeat) e.branch(again, insn.offset, insn.offset + insn.length);
}

}  // namespace vmm::tcg::x86
