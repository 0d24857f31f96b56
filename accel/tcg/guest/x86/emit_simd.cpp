// Emitters of vector, MMX and x87 rows. Most have no portable meaning yet and are run by a native stub (native_stub.h); what the
// host cannot run on our behalf (masked moves, gathers, whole unit states) goes by helper.
// Whether the unit is on was looked at before (emit_insn). Sources: SDM 2A–2D; SDM 1 chapters 8, 11, 13.
#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/native_stub.h"
#include "accel/tcg/guest/x86/simd.h"
#include "accel/tcg/guest/x86/simd_row.h"
#include "accel/tcg/guest/x86/simd_state.h"
#include "src/base/log.h"

namespace vmm::tcg::x86 {

namespace {
// A helper that may fault or that asks where it is.
Value call(Emitter& e, HelperId id, Value a = 0, Value b = 0, Value c = 0) {
  e.sync_ip();
  return e.call(id, a, b, c);
}
}  // namespace

namespace {

// What the helper of a stub gets beside the stub itself: register numbers, FOP, how memory is reached.
u64 packed_registers(const Insn& insn, const Operands& op) {
  const u64 fop = (insn.opcode & 7) << 8 | insn.modrm;
  return insn.reg_number() | insn.rm_number() << 4 | u64{insn.vvvv} << 8 | (insn.imm >> 4 & 15) << 12 | fop << 16 | u64{op.access} << 32 |
         u64{insn.segment} << 48;
}

u8 prefix_byte(const Row& row) {
  switch (row.t.prefix) {
    case Prefix::p66: return 0x66;
    case Prefix::f3: return 0xf3;
    case Prefix::f2: return 0xf2;
    default: return 0;
  }
}

StubShape shape_of(const Insn& insn) {
  const Row& row = *insn.row;
  const Traits& t = row.t;
  StubShape s{
      .prefix = prefix_byte(row), .map = static_cast<u8>(insn.map), .opcode = insn.opcode, .has_modrm = insn.has_modrm, .vex = insn.vex};
  s.vex_l = insn.vex && insn.vex_l;
  bool gpr = false;
  for (unsigned i = 0; i < row.operands.size(); ++i) {
    const Operand& o = row.operands[i];
    const bool written = i == 0 && t.dst != Dst::read, read = !written || t.dst == Dst::read_write;
    const auto vector = [&](u32 load, u32 store) { s.uses |= load | (written ? store : 0); };
    const auto general = [&](u32 field) {
      gpr = true, s.uses |= field | (read ? StubShape::load_gpr : 0) | (written ? StubShape::store_gpr : 0);
    };
    switch (o.role) {
      case Role::modrm_reg:
        if (o.file == File::vector)
          vector(StubShape::load_reg, StubShape::store_reg);
        else if (o.file == File::mmx)
          s.uses |= StubShape::mmx_reg | StubShape::x87, s.modrm_reg = insn.reg;
        else
          general(StubShape::gpr_reg);
        break;
      case Role::modrm_rm:
        if (o.file == File::gpr && insn.memory && written) {
          gpr = s.memory = s.memory_stored = true, s.memory_bytes = static_cast<u8>(width_of(insn, o));
        } else if (o.file == File::gpr) {
          general(StubShape::gpr_rm);  // from memory too: the block loads the value
        } else if (insn.memory) {
          s.memory = true, s.memory_bytes = static_cast<u8>(width_of(insn, o)), s.memory_stored = written;
          s.memory_aligned = t.aligned;
        } else if (o.file == File::vector) {
          vector(StubShape::load_rm, StubShape::store_rm);
        } else if (o.file == File::mmx) {
          s.uses |= StubShape::mmx_rm | StubShape::x87, s.modrm_rm = insn.rm;
        }
        break;
      case Role::vvvv: s.has_vvvv = true, vector(StubShape::load_vvvv, StubShape::store_vvvv); break;
      case Role::is4: s.uses |= StubShape::load_is4; break;
      case Role::imm:
        if (s.has_immediate)
          s.has_immediate2 = true, s.immediate2 = static_cast<u8>(insn.imm2);
        else
          s.has_immediate = true, s.immediate = static_cast<u8>(insn.imm);
        break;
      default: break;
    }
  }
  if (t.reg >= 0) s.uses |= StubShape::opcode_reg, s.modrm_reg = insn.reg;
  // cvtpi2ps and cvtpi2pd from memory touch no MMX register and leave the x87 alone.
  if (t.kind == ir::NativeKind::x87 && !(s.memory && row.operands[0].file == File::vector)) s.uses |= StubShape::x87;
  if (insn.map == Map::one) {
    s.x87_math = true;
    s.uses |= StubShape::opcode_reg | (insn.memory ? 0u : StubShape::x87_stack);
    s.modrm_reg = insn.reg, s.modrm_rm = insn.memory ? 0 : insn.rm;
  }
  if (t.tag & tag_reads_xmm0) s.uses |= StubShape::load_implicit;
  if (t.tag & tag_writes_xmm0) s.uses |= StubShape::load_implicit | StubShape::store_implicit;
  if (t.reads) s.uses |= StubShape::load_gpr;
  if (t.writes) s.uses |= StubShape::store_gpr;
  if (t.flags_in) s.uses |= StubShape::load_flags;
  if (t.flags_out) s.uses |= StubShape::store_flags;
  if (t.fp && insn.map != Map::one) s.uses |= StubShape::mxcsr;
  s.w = insn.w && (insn.vex || gpr || t.reads) && (insn.code64 || !gpr);  // outside 64-bit mode W widens no general register
  return s;
}

// The one value that a stub takes from the block: flags, address, or a general register or what stands in for it in memory.
Value value_operand(Emitter& e, const Insn& insn, const Operands& op, const StubShape& shape) {
  if (shape.uses & StubShape::load_flags) return e.get_cc();
  if (shape.memory) return op.address;
  for (unsigned i = 1; i < 4; ++i) {
    const Operand& o = insn.row->operands[i];
    if (o.file != File::gpr || o.role != Role::modrm_rm) continue;
    const unsigned bytes = width_of(insn, o);
    return insn.memory ? e.load(ir::int_type(bytes), op.address, op.access) : e.gpr(insn.rm_number(), bytes);
  }
  return 0;
}

// A general register as destination.
void write_general(Emitter& e, const Insn& insn, const Operands& op, Value v) {
  const Operand& first = insn.row->operands[0];
  if (first.file != File::gpr || insn.row->t.dst == Dst::read) return;
  if (first.role == Role::modrm_rm && insn.memory) return;
  e.set_gpr(first.role == Role::modrm_rm ? insn.rm_number() : insn.reg_number(), op.width, v);
}

}  // namespace

void emit_native_stub(Emitter& e, const Insn& insn, Operands& op) {
  const StubShape shape = shape_of(insn);
  const NativeOp* native = native_op(shape);
  if (!native) {
    unimplemented("tcg", "{} has no portable emitter and no native stub", insn.row->name);
    return e.raise(vector_ud);
  }
  const Value value = value_operand(e, insn, op, shape);
  e.sync_ip();
  const ir::WithFlags result =
      e.call_flags(HelperId::native_stub, e.constant(reinterpret_cast<u64>(native)), value, e.constant(packed_registers(insn, op)));
  if (shape.uses & StubShape::store_flags) e.set_cc(result.cc);
  write_general(e, insn, op, result.value);
}

void emit_nothing(Emitter&, const Insn&, Operands& op) { op.written = true; }
void emit_fence(Emitter& e, const Insn&, Operands& op) { op.written = true, e.call(HelperId::fence); }

void emit_vzeroupper(Emitter& e, const Insn& insn, Operands&) { call(e, HelperId::vzero, e.constant(0), e.constant(insn.code64)); }
void emit_vzeroall(Emitter& e, const Insn& insn, Operands&) { call(e, HelperId::vzero, e.constant(1), e.constant(insn.code64)); }

// vmaskmov*, vpmaskmov*: a packed description, the address.
static void emit_masked(Emitter& e, const Insn& insn, Operands& op, bool store) {
  op.written = true;
  const bool wide = insn.opcode == 0x2d || insn.opcode == 0x2f || ((insn.opcode == 0x8c || insn.opcode == 0x8e) && insn.w);
  const u64 what = insn.reg_number() | u64{insn.vvvv} << 4 | u64{wide} << 8 | u64{insn.vex_l} << 9 | u64{store} << 10;
  call(e, HelperId::masked_move, e.constant(what), op.address, e.constant(op.access));
}
void emit_masked_load(Emitter& e, const Insn& insn, Operands& op) { emit_masked(e, insn, op, false); }
void emit_masked_store(Emitter& e, const Insn& insn, Operands& op) { emit_masked(e, insn, op, true); }

// maskmovq, maskmovdqu: bytes of reg whose mask byte has its sign set go to [rdi].
void emit_masked_bytes(Emitter& e, const Insn& insn, Operands& op) {
  op.written = true;
  const bool mmx = insn.row->operands[0].file == File::mmx;
  const unsigned bytes = mmx ? 8 : 16;
  const u16 access = Access::data;
  Value offset = e.gpr(rdi, 8);
  if (insn.addrsize != 8) offset = e.trunc(ir::int_type(insn.addrsize), offset);
  if (mmx) call(e, HelperId::fpu_wait);  // a pending exception comes before the operand's
  const Value address = e.linear(insn, insn.segment, offset, bytes, static_cast<u16>(access | Access::write));
  const u64 what = insn.reg_number() | insn.rm_number() << 4 | u64{mmx} << 8;
  call(e, HelperId::masked_bytes, e.constant(what), address, e.constant(access));
}

// VSIB: the index is a vector register, of any number, so ModRM.rm = 4 and the SIB byte are given (SDM 2A §2.3.12).
void emit_gather(Emitter& e, const Insn& insn, Operands& op) {
  op.written = true;
  const unsigned index = insn.index == 0xff ? 4u | insn.rex_x : insn.index;
  const unsigned dst = insn.reg_number(), mask = insn.vvvv;
  if (insn.rm != 4 || insn.addrsize == 2 || dst == mask || dst == index || mask == index) return e.raise(vector_ud);
  const Value base = insn.base == 0xff ? e.constant(static_cast<u64>(insn.disp)) : e.add_imm(Type::i64, e.gpr(insn.base, 8), insn.disp);
  const u64 what = dst | mask << 4 | index << 8 | u64{insn.scale} << 12 | u64{insn.w} << 14 | u64{insn.opcode & 1u} << 15 |
                   u64{insn.vex_l} << 16 | u64{insn.segment} << 17 | u64{insn.addrsize == 8} << 20 | u64{insn.code64} << 21 |
                   u64{op.access} << 32;
  call(e, HelperId::gather, e.constant(what), base);
}

void emit_ldmxcsr(Emitter& e, const Insn& insn, Operands& op) { call(e, HelperId::ldmxcsr, op.dst); }
void emit_stmxcsr(Emitter& e, const Insn& insn, Operands& op) { op.dst = call(e, HelperId::stmxcsr); }

// x87 control instructions.
void emit_fpu_nothing(Emitter& e, const Insn&, Operands& op) { op.written = true; }
void emit_fpu_wait(Emitter& e, const Insn&, Operands& op) {
  op.written = true;
  call(e, HelperId::fpu_wait);
}
void emit_fpu_clear(Emitter& e, const Insn&, Operands& op) {
  op.written = true;
  call(e, HelperId::fpu_clear);
}
void emit_fpu_init(Emitter& e, const Insn&, Operands& op) {
  op.written = true;
  call(e, HelperId::fpu_init);
}
void emit_fpu_load_control(Emitter& e, const Insn&, Operands& op) { call(e, HelperId::fpu_load_control, op.dst); }
void emit_fpu_store_control(Emitter& e, const Insn&, Operands& op) { op.dst = call(e, HelperId::fpu_store_control); }
void emit_fpu_store_status(Emitter& e, const Insn&, Operands& op) { op.dst = call(e, HelperId::fpu_store_status); }

namespace {
// Images in memory: the address, and what decides their form: operand size (or REX.W), mode.
u64 image_form(const Insn& insn, const Operands& op) {
  return insn.opsize | u64{insn.w} << 8 | u64{insn.code64} << 9 | u64{op.access} << 32;
}
void image(Emitter& e, const Insn& insn, Operands& op, HelperId id) {
  op.written = true;
  call(e, id, op.address, e.constant(image_form(insn, op)));
}
}  // namespace

void emit_fpu_load_environment(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fpu_load_environment); }
void emit_fpu_store_environment(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fpu_store_environment); }
void emit_fpu_save(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fpu_save); }
void emit_fpu_restore(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fpu_restore); }
void emit_fxsave(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fxsave); }
void emit_fxrstor(Emitter& e, const Insn& insn, Operands& op) { image(e, insn, op, HelperId::fxrstor); }

// The mask EDX:EAX and the form; the helper tests CR4.OSXSAVE and CR0.TS.
static void emit_xsave_family(Emitter& e, const Insn& insn, Operands& op, HelperId id) {
  op.written = true;
  const Value mask = e.or_(Type::i64, e.gpr(rax, 4), e.shl(Type::i64, e.gpr(rdx, 4), 32));
  const u64 form = image_form(insn, op) | static_cast<u64>(insn.row->t.tag) << 16;
  call(e, id, op.address, mask, e.constant(form));
}
void emit_xsave(Emitter& e, const Insn& insn, Operands& op) { emit_xsave_family(e, insn, op, HelperId::xsave); }
void emit_xrstor(Emitter& e, const Insn& insn, Operands& op) { emit_xsave_family(e, insn, op, HelperId::xrstor); }

void emit_xgetbv(Emitter& e, const Insn&, Operands& op) {
  op.written = true;
  const Value v = call(e, HelperId::xgetbv, e.gpr(rcx, 4));
  e.set_gpr(rax, 4, e.trunc(Type::i32, v));
  e.set_gpr(rdx, 4, e.shr(Type::i64, v, 32));
}
void emit_xsetbv(Emitter& e, const Insn&, Operands& op) {
  op.written = true;
  call(e, HelperId::xsetbv, e.gpr(rcx, 4), e.or_(Type::i64, e.gpr(rax, 4), e.shl(Type::i64, e.gpr(rdx, 4), 32)));
}

}  // namespace vmm::tcg::x86
