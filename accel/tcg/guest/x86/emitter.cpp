// Registers, addresses, stack, control flow in terms of IR; the shared part of every instruction. Source: SDM 1 chapter 3 (operand
// addressing), SDM 2A §2 (rules of REX), translator.md §8 (order: whatever may fault comes before the first change of state).
#include "accel/tcg/guest/x86/emitter.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::int_type;

Value Emitter::gpr8(unsigned number, bool rex) {
  if (!rex && number >= 4 && number < 8) return get(static_cast<u16>(number - 4), Type::i8, 1);
  return get(static_cast<u16>(number), Type::i8);
}
void Emitter::set_gpr(unsigned number, unsigned bytes, Value v) {
  const u16 id = static_cast<u16>(number);
  if (bytes == 4) return set(id, Type::i64, v, 0, true);
  set(id, int_type(bytes), v);
}
void Emitter::set_gpr8(unsigned number, bool rex, Value v) {
  if (!rex && number >= 4 && number < 8) return set(static_cast<u16>(number - 4), Type::i8, v, 1);
  set(static_cast<u16>(number), Type::i8, v);
}

Value Emitter::effective_address(const Insn& insn, Value base_override) {
  const Type t = int_type(insn.addrsize);
  if (insn.ip_relative) {
    const i64 offset = insn.offset + insn.length + insn.disp;
    const Value v = add_imm(Type::i64, ip_page(), offset);
    return insn.addrsize == 8 ? v : trunc(t, v);
  }
  const bool has_base = insn.base != 0xff, has_index = insn.index != 0xff;
  if (!has_base && !has_index) return constant(static_cast<u64>(insn.disp) & mask_of_size(insn.addrsize));
  const Value base = has_base ? (base_override ? base_override : gpr(insn.base, insn.addrsize)) : 0;
  if (!has_index) return add_imm(t, base, insn.disp);
  const Value index = gpr(insn.index, insn.addrsize);
  if (!has_base) return add_imm(t, shl(t, index, insn.scale), insn.disp);
  return emit(OpCode::lea, t, base, index, 0, insn.scale, static_cast<i32>(insn.disp));
}

Value Emitter::linear(const Insn& insn, unsigned segment, Value offset, unsigned bytes, u16 access) {
  if (code64()) {
    if (segment < fs) return offset;
    return add(Type::i64, offset, get(static_cast<u16>(id_seg_base + segment), Type::i64));
  }
  const bool to_code = segment == cs && access & Access::write;  // refused, however flat
  const bool plain = segment == fs   ? key_.has(ModeKey::fs_plain)
                     : segment == gs ? key_.has(ModeKey::gs_plain)
                                     : key_.has(ModeKey::flat) && !to_code;
  if (plain) return segment < fs ? offset : add(Type::i32, offset, get(static_cast<u16>(id_seg_base + segment), Type::i64));
  sync_ip();
  return call(HelperId::linear, offset, constant(segment | u64{access} << 8), constant(bytes ? bytes : 1));
}

void Emitter::push(const Insn& insn, Value v, unsigned bytes, unsigned store_bytes) {
  const unsigned sp_bytes = key_.stack_bytes();
  const Type st = int_type(sp_bytes);
  const Value sp = add_imm(st, gpr(rsp, sp_bytes), -static_cast<i64>(bytes));
  const unsigned stored = store_bytes ? store_bytes : bytes;
  const Value at = linear(insn, ss, sp, stored, Access::stack | Access::write);
  store(int_type(stored), at, v, Access::stack);
  set_sp(sp);
}
Value Emitter::pop(const Insn& insn, unsigned bytes, Value& new_sp) {
  const unsigned sp_bytes = key_.stack_bytes();
  const Value sp = gpr(rsp, sp_bytes);
  const Value v = load(int_type(bytes), linear(insn, ss, sp, bytes, Access::stack), Access::stack);
  new_sp = add_imm(int_type(sp_bytes), sp, bytes);
  return v;
}

ir::WithFlags Emitter::call_flags(HelperId id, Value a, Value b, Value c) {
  return Builder::call(static_cast<u16>(id), helper_classes[static_cast<unsigned>(id)] == HelperClass::leaf, a, b, c);
}
void Emitter::raise(u8 vector) {
  sync_ip();
  call(HelperId::raise, constant(vector));
  exit_set(ir::ExitReason::next);
}
void Emitter::raise(u8 vector, u32 code) {
  sync_ip();
  call(HelperId::raise_code, constant(vector), constant(code));
  exit_set(ir::ExitReason::next);
}

void Emitter::next(const Insn& insn, ir::ExitReason reason) { exit(reason, insn.offset + insn.length); }
Value Emitter::next_ip(const Insn& insn) {
  // 16-bit code as well goes on beyond 64 KiB where its segment does, as firmware does on its way into SMM; only targets are cut to 16
  // bits.
  const Value v = add_imm(Type::i64, ip_page(), insn.offset + insn.length);
  return code64() ? v : trunc(Type::i32, v);
}
Value Emitter::relative_target(const Insn& insn, u64 displacement) {
  return trunc(int_type(insn.opsize), add_imm(Type::i64, ip_page(), static_cast<i64>(insn.offset + insn.length + displacement)));
}
void Emitter::jump_to(const Insn& insn, u64 displacement) {
  if (direct(insn, displacement)) return jump(static_cast<i32>(insn.offset + insn.length + displacement));
  indirect_to(insn, relative_target(insn, displacement));
}
void Emitter::branch_to(const Insn& insn, Cond cond, Value cc, u64 displacement) {
  if (direct(insn, displacement))
    return branch_cc(cond, cc, static_cast<i32>(insn.offset + insn.length + displacement), insn.offset + insn.length);
  branch_if(insn, test_cc(cond, cc), displacement);
}
void Emitter::branch_if(const Insn& insn, Value nonzero, u64 displacement) {
  if (direct(insn, displacement))
    return branch(nonzero, static_cast<i32>(insn.offset + insn.length + displacement), insn.offset + insn.length);
  indirect_to(insn, select(nonzero, relative_target(insn, displacement), next_ip(insn)));
}
void Emitter::count_and_branch(const Insn& insn, Value nonzero, u64 displacement, Value count) {
  if (direct(insn, displacement)) {
    set_gpr(rcx, insn.addrsize, count);
    return branch_if(insn, nonzero, displacement);
  }
  const Value target = select(nonzero, relative_target(insn, displacement), next_ip(insn));
  check_target(target);
  set_gpr(rcx, insn.addrsize, count);
  indirect(target);
}
void Emitter::indirect_to(const Insn& insn, Value target) {
  check_target(target);
  indirect(target);
}
void Emitter::check_target(Value target) {
  if (key_.has(ModeKey::flat) && key_.has(ModeKey::code32)) return;
  sync_ip();
  call(HelperId::check_ip, target);
}
void Emitter::call_to(const Insn& insn, u64 displacement) {
  if (direct(insn, displacement)) {
    const Value back = next_ip(insn);
    push(insn, insn.opsize == 2 ? trunc(Type::i16, back) : back, insn.opsize);
    return jump(static_cast<i32>(insn.offset + insn.length + displacement));
  }
  const Value target = relative_target(insn, displacement);
  check_target(target);
  const Value back = next_ip(insn);
  push(insn, insn.opsize == 2 ? trunc(Type::i16, back) : back, insn.opsize);
  indirect(target);
}

namespace {

// What a disabled unit does to an instruction that needs it; 0 = nothing.
u8 unit_fault(const Insn& insn, ModeKey key) {
  const Row& row = *insn.row;
  bool vector = false, mmx = false;
  for (const Operand& o : row.operands) vector |= o.file == File::vector, mmx |= o.file == File::mmx;
  const bool x87 = insn.map == Map::one && insn.opcode >= 0xd8 && insn.opcode <= 0xdf;
  mmx |= row.t.kind == Kind::x87 && insn.map != Map::one;     // emms
  vector |= row.t.fp && !x87 && !mmx && insn.opcode != 0x9b;  // fwait: its helper looks at CR0.MP
  if (vector) {
    if (insn.vex ? !key.has(ModeKey::avx_ok) : !key.has(ModeKey::sse_ok)) return vector_ud;
    if (key.has(ModeKey::ts)) return vector_nm;
  }
  if (mmx) {
    if (key.has(ModeKey::em)) return vector_ud;
    if (key.has(ModeKey::ts)) return vector_nm;
  }
  if (x87 && !key.has(ModeKey::x87_ok)) return vector_nm;
  return 0;
}

// Bytes of operands whose row names an address alone: the states of units. 0: one byte is looked at, the emitter sees to the rest.
unsigned state_bytes(const Insn& insn) {
  const bool word = insn.opsize == 2;
  if (insn.map == Map::one && insn.opcode == 0xd9) return word ? 14 : 28;
  if (insn.map == Map::one && insn.opcode == 0xdd) return word ? 94 : 108;
  if (insn.map == Map::two && insn.opcode == 0xae && insn.reg < 2) return 512;
  return 0;
}

bool is_memory_operand(const Insn& insn, const Operand& o) { return (o.role == Role::modrm_rm && insn.memory) || o.role == Role::moffs; }

}  // namespace

void emit_insn(Emitter& e, const Insn& insn) {
  const Row& row = *insn.row;
  const Traits& t = row.t;
  if (const u8 vector = unit_fault(insn, e.key())) {
    e.raise(vector);
    return;
  }
  Operands op;
  // A pending x87 exception comes before what its successor's operand raises; only where segments have limits is that looked at apart.
  const bool x87 = insn.map == Map::one && insn.opcode >= 0xd8 && insn.opcode <= 0xdf && insn.memory &&
                   (!row.emit || (insn.opcode == 0xd9 && (insn.reg | 1) == 5) || (insn.opcode == 0xdd && insn.reg == 4));
  const bool limits = !e.code64() && !e.key().has(ModeKey::flat);
  // cvtpi2ps and cvtpi2pd (2A) from memory leave the x87 alone.
  const bool mmx =
      std::ranges::any_of(row.operands, [](const Operand& o) { return o.file == File::mmx; }) && insn.memory && insn.opcode != 0x2a;
  if (mmx || (x87 && limits)) {
    e.sync_ip();
    e.call(HelperId::fpu_wait);
  }
  const Operand& first = row.operands[0];
  op.width = width_of(insn, first);
  op.type = op.width && op.width <= 8 ? int_type(op.width) : Type::i64;
  const bool own_address = t.own || t.kind == Kind::load_address || t.kind == Kind::pop;
  if (insn.memory && !own_address) {
    for (const Operand& o : row.operands) {
      if (!is_memory_operand(insn, o)) continue;
      const bool writes = &o == &first && t.dst != Dst::read;
      op.access = static_cast<u16>(e.access_of(insn.segment) | (t.aligned ? Access::aligned : 0));
      const Value offset =
          o.role == Role::moffs ? e.constant(static_cast<u64>(insn.disp) & mask_of_size(insn.addrsize)) : e.effective_address(insn);
      if (insn.vex && insn.map == Map::m38 && (insn.opcode & ~3) == 0x90) continue;  // gathers have an address an element
      const unsigned bytes = o.size == Size::any ? state_bytes(insn) : width_of(insn, o);
      op.address = e.linear(insn, insn.segment, offset, bytes, static_cast<u16>(op.access | (writes ? Access::write : 0)));
    }
  }
  if (!row.emit) return emit_native_stub(e, insn, op);

  auto load = [&](const Operand& o, bool intent) -> Value {
    const unsigned width = width_of(insn, o);
    switch (o.role) {
      case Role::modrm_rm:
        if (insn.memory) {
          if (o.file != File::gpr || width > 8 || own_address) return 0;
          return e.load(int_type(width), op.address, static_cast<u16>(op.access | (intent ? Access::intent : 0)));
        }
        return o.file == File::gpr ? e.reg(insn, insn.rm_number(), width) : Value{0};
      case Role::modrm_reg:
        if (o.file == File::segment) return e.get(static_cast<u16>(id_selector + insn.reg), Type::i16);
        return o.file == File::gpr ? e.reg(insn, insn.reg_number(), width) : Value{0};
      case Role::vvvv: return o.file == File::gpr ? e.gpr(insn.vvvv, width) : Value{0};
      case Role::opcode_reg: return e.reg(insn, insn.opcode_number(), width);
      case Role::fixed: return o.file == File::gpr ? e.gpr(o.number, width) : Value{0};
      case Role::imm:
      case Role::imm_sx: return e.constant(insn.imm & mask_of_size(first.role == o.role ? 8 : op.width ? op.width : 8));
      case Role::one: return e.constant(1);
      case Role::moffs: return e.load(int_type(width), op.address, op.access);
      default: return 0;
    }
  };
  // With LOCK the emitter makes one atomic operation of load and store.
  const bool atomic = insn.lock || (t.kind == Kind::exchange && insn.memory);
  const bool dst_memory = is_memory_operand(insn, first);
  if (t.dst != Dst::write && !(atomic && dst_memory)) op.dst = load(first, t.dst == Dst::read_write);
  op.src1 = load(row.operands[1], false);
  op.src2 = load(row.operands[2], false);
  op.src3 = load(row.operands[3], false);
  row.emit(e, insn, op);
  if (e.ended()) return;
  if (t.dst != Dst::read && !op.written) {
    if (dst_memory) {
      if (first.file == File::gpr && op.width <= 8) e.store(op.type, op.address, op.dst, op.access);
    } else if (first.file == File::gpr) {
      switch (first.role) {
        case Role::modrm_rm: e.set_reg(insn, insn.rm_number(), op.width, op.dst); break;
        case Role::modrm_reg: e.set_reg(insn, insn.reg_number(), op.width, op.dst); break;
        case Role::opcode_reg: e.set_reg(insn, insn.opcode_number(), op.width, op.dst); break;
        case Role::vvvv: e.set_gpr(insn.vvvv, op.width, op.dst); break;
        case Role::fixed: e.set_gpr(first.number, op.width, op.dst); break;
        default: break;
      }
    }
  }
  if (op.cc) e.set_cc(op.cc);
  if (t.ends == Ends::next) e.next(insn, ir::ExitReason::next);
  if (t.ends == Ends::set) e.exit_set(ir::ExitReason::next);
}

}  // namespace vmm::tcg::x86
