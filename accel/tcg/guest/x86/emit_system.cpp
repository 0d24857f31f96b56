// Emitters of system instructions: operands to helpers (helpers_system.cpp and its neighbours).
#include "accel/tcg/guest/x86/control.h"
#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/map_system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::int_type;

namespace {

constexpr HelperId helper_of(i8 tag) {
  switch (tag) {
    case tag_hlt: return HelperId::hlt;
    case tag_cli: return HelperId::cli;
    case tag_sti: return HelperId::sti;
    case tag_sldt: return HelperId::sldt;
    case tag_str: return HelperId::str;
    case tag_lldt: return HelperId::lldt;
    case tag_ltr: return HelperId::ltr;
    case tag_sgdt: return HelperId::sgdt;
    case tag_sidt: return HelperId::sidt;
    case tag_lgdt: return HelperId::lgdt;
    case tag_lidt: return HelperId::lidt;
    case tag_smsw: return HelperId::smsw;
    case tag_lmsw: return HelperId::lmsw;
    case tag_mwait: return HelperId::mwait;
    case tag_clac: return HelperId::clac;
    case tag_stac: return HelperId::stac;
    case tag_rdpkru: return HelperId::rdpkru;
    case tag_wrpkru: return HelperId::wrpkru;
    case tag_swapgs: return HelperId::swapgs;
    case tag_rdtscp: return HelperId::rdtscp;
    case tag_syscall: return HelperId::syscall;
    case tag_sysret: return HelperId::sysret;
    case tag_sysenter: return HelperId::sysenter;
    case tag_sysexit: return HelperId::sysexit;
    case tag_clts: return HelperId::clts;
    case tag_privileged: return HelperId::privileged;
    case tag_wrmsr: return HelperId::wrmsr;
    case tag_rdtsc: return HelperId::rdtsc;
    case tag_rdmsr: return HelperId::rdmsr;
    case tag_rdpmc: return HelperId::rdpmc;
    case tag_cpuid: return HelperId::cpuid;
    case tag_rsm: return HelperId::rsm;
    default: return HelperId::raise;
  }
}
Value rights_of(Emitter& e, const Operands& op, u64 more = 0) { return e.constant(op.access | more); }
Value tag_of(Emitter& e, const Insn& insn) { return e.constant(static_cast<u64>(insn.row->t.tag)); }

}  // namespace

// No operand: the helper does it all.
void emit_simple(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(helper_of(insn.row->t.tag));
  op.written = true;
}
void emit_transfer(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(helper_of(insn.row->t.tag), e.constant(insn.opsize));
  op.written = true;
}
void emit_value(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  op.dst = e.call(helper_of(insn.row->t.tag));
}
void emit_argument(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(helper_of(insn.row->t.tag), op.dst);
  op.written = true;
}
void emit_table(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(helper_of(insn.row->t.tag), op.address, rights_of(e, op, u64{insn.opsize} << 8));
  op.written = true;
}
void emit_verify(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  op.cc = e.call_flags(insn.reg == 4 ? HelperId::verr : HelperId::verw, op.dst).cc;
}
void emit_lar(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  // Where nothing is found, not even the upper half of the destination changes.
  const bool whole = e.code64() && insn.opsize >= 4;
  const Value old = whole ? e.gpr(insn.reg_number(), 8) : op.dst;
  const ir::WithFlags r = e.call_flags(insn.opcode == 2 ? HelperId::lar : HelperId::lsl, op.src1, old);
  op.dst = r.value, op.cc = r.cc;
  if (whole) e.set_gpr(insn.reg_number(), 8, r.value), op.written = true;
}
void emit_arpl(Emitter& e, const Insn&, Operands& op) {
  if (!e.key().has(ModeKey::protected_)) return e.raise(vector_ud);
  const ir::WithFlags r = e.call_flags(HelperId::arpl, op.dst, op.src1, e.get_cc());
  op.dst = r.value, op.cc = r.cc;
}

// --- segment registers
void emit_push_segment(Emitter& e, const Insn& insn, Operands& op) {
  e.push(insn, e.get(static_cast<u16>(id_selector + insn.row->t.tag), Type::i16), insn.opsize);
  op.written = true;
}
void emit_pop_segment(Emitter& e, const Insn& insn, Operands& op) {
  Value new_sp;
  const Value selector = e.pop(insn, insn.opsize, new_sp);
  e.sync_ip();
  e.call(HelperId::load_segment, tag_of(e, insn), selector, e.constant(1));
  e.set_sp(new_sp);
  op.written = true;
}
void emit_store_segment(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.reg > 5) return e.raise(vector_ud);
  op.dst = e.get(static_cast<u16>(id_selector + insn.reg), Type::i16);
}
void emit_load_segment(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.reg > 5 || insn.reg == cs) return e.raise(vector_ud);
  e.sync_ip();
  e.call(HelperId::load_segment, e.constant(insn.reg), op.dst, e.constant(1));
  op.written = true;
}
void emit_load_far(Emitter& e, const Insn& insn, Operands& op) {
  const Value offset = e.load(int_type(insn.opsize), op.address, op.access);
  const Value selector = e.load(Type::i16, op.address, op.access, insn.opsize);
  e.sync_ip();
  e.call(HelperId::load_segment, tag_of(e, insn), selector, e.constant(0));
  op.dst = offset;
}

// --- transfers
void emit_far_direct(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(insn.opcode == 0x9a ? HelperId::far_call : HelperId::far_jump, e.constant(insn.imm2), e.constant(insn.imm),
         e.constant(insn.opsize));
  op.written = true;
}
void emit_far_indirect(Emitter& e, const Insn& insn, Operands& op) {
  const Value offset = e.load(int_type(insn.opsize), op.address, op.access);
  const Value selector = e.load(Type::i16, op.address, op.access, insn.opsize);
  e.sync_ip();
  e.call(insn.reg == 3 ? HelperId::far_call : HelperId::far_jump, selector, offset, e.constant(insn.opsize));
  op.written = true;
}
void emit_far_ret(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::far_ret, e.constant(insn.opsize), e.constant(insn.opcode == 0xca ? insn.imm & 0xffff : 0));
  op.written = true;
}
void emit_iret(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::iret, e.constant(insn.opsize));
  op.written = true;
}
void emit_int(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  switch (insn.opcode) {
    case 0xcc: e.call(HelperId::int3); break;
    case 0xce: e.call(HelperId::into); break;
    case 0xf1: e.call(HelperId::int1); break;
    default: e.call(HelperId::int_n, e.constant(insn.imm & 0xff));
  }
  op.written = true;
}

// --- control and debug registers
// A LOCK prefix: see decode.cpp.
static u64 control_number(const Insn& insn) { return insn.lock ? 8 | locked_control : insn.reg_number(); }
void emit_read_control(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  op.dst = e.call(HelperId::read_cr, e.constant(control_number(insn)));
}
void emit_write_control(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::write_cr, e.constant(control_number(insn)), op.dst);
  op.written = true;
}
void emit_read_debug(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.rex_r) return e.raise(vector_ud);
  e.sync_ip();
  op.dst = e.call(HelperId::read_dr, e.constant(insn.reg));
}
void emit_write_debug(Emitter& e, const Insn& insn, Operands& op) {
  if (insn.rex_r) return e.raise(vector_ud);
  e.sync_ip();
  e.call(HelperId::write_dr, e.constant(insn.reg), op.dst);
  op.written = true;
}
void emit_read_base(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  op.dst = e.call(HelperId::read_fsgs_base, tag_of(e, insn));
}
void emit_write_base(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::write_fsgs_base, tag_of(e, insn), op.dst);
  op.written = true;
}
// The address is taken without limit and rights checks.
void emit_invlpg(Emitter& e, const Insn& insn, Operands& op) {
  Value at = e.effective_address(insn);
  if (!e.code64() || insn.segment >= fs)
    at = e.add(e.code64() ? Type::i64 : Type::i32, at, e.get(static_cast<u16>(id_seg_base + insn.segment), Type::i64));
  e.sync_ip();
  e.call(HelperId::invlpg, at);
  op.written = true;
}
void emit_invpcid(Emitter& e, const Insn& insn, Operands& op) {
  e.sync_ip();
  e.call(HelperId::invpcid, e.gpr(insn.reg_number(), e.code64() ? 8 : 4), op.address, rights_of(e, op));
  op.written = true;
}
void emit_monitor(Emitter& e, const Insn& insn, Operands& op) {
  const Value at = e.linear(insn, insn.segment, e.gpr(rax, insn.addrsize), 1, Access::data);
  e.sync_ip();
  e.call(HelperId::monitor, at, e.constant(Access::data));
  op.written = true;
}
void emit_clzero(Emitter& e, const Insn& insn, Operands& op) {
  const Value at = e.linear(insn, insn.segment, e.gpr(rax, insn.addrsize), 1, Access::data | Access::write);
  e.sync_ip();
  e.call(HelperId::clzero, at, e.constant(Access::data));
  op.written = true;
}
// 64 bytes from memory to ES:[reg], which must be aligned.
void emit_movdir64b(Emitter& e, const Insn& insn, Operands& op) {
  const Value to = e.linear(insn, es, e.gpr(insn.reg_number(), insn.addrsize), 64, Access::data | Access::write);
  e.sync_ip();
  e.call(HelperId::movdir64b, to, op.address, rights_of(e, op));
  op.written = true;
}
// No transaction is ever open.
void emit_xend(Emitter& e, const Insn&, Operands&) { e.raise(vector_gp, 0); }
void emit_xtest(Emitter& e, const Insn&, Operands& op) {
  op.cc = e.constant(ir::cc_zero);
  op.written = true;
}

// --- ports
void emit_io(Emitter& e, const Insn& insn, Operands& op) {
  const unsigned size = insn.opcode & 1 ? std::min<unsigned>(insn.opsize, 4) : 1;
  const Value port = insn.opcode < 0xe8 ? e.constant(insn.imm & 0xff) : e.gpr(rdx, 2);
  e.sync_ip();
  if (insn.opcode & 2) {
    e.call(HelperId::out_port, port, e.constant(size), e.gpr(rax, 4));
  } else {
    e.call(HelperId::in_port, port, e.constant(size));
  }
  op.written = true;
}
void emit_string_io(Emitter& e, const Insn& insn, Operands& op) {
  const u64 size = insn.opcode & 1 ? std::min<unsigned>(insn.opsize, 4) : 1;
  const u64 out = insn.opcode & 2 ? 1 : 0;
  e.sync_ip();
  e.call(HelperId::string_io, e.constant(size | u64{insn.addrsize} << 8 | u64{insn.segment} << 16 | out << 24 | u64{insn.rep != 0} << 25));
  op.written = true;
}

}  // namespace vmm::tcg::x86
