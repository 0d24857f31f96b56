// What an instruction's emitter works with: the IR builder plus registers, memory and flags in x86 terms.
#pragma once

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/insn.h"
#include "accel/tcg/ir/builder.h"

namespace vmm::tcg::x86 {

using ir::Access;
using ir::Cond;
using ir::OpCode;
using ir::RmwKind;
using ir::Type;
using ir::Value;

// The sources, loaded, and the destination. dst starts as the first operand's old value (Dst::read_write, read); what the emitter
// leaves in it is written back (unless Dst::read). Operands of role imm are constants. Vector operands and bare memory
// operands (Mp, M_, Mx…) are not loaded.
struct Operands {
  Value dst = 0, src1 = 0, src2 = 0, src3 = 0;
  unsigned width = 0;  // of the first operand, bytes
  Type type = Type::i64;
  Value address = 0;     // linear address of the memory operand, if there is one (0 for lea)
  u16 access = 0;        // Access bits of its segment
  Value cc = 0;          // set by the emitter: the new flags, stored after the destination (which may fault)
  bool written = false;  // the emitter has written the destination itself
};

class Emitter : public ir::Builder {
 public:
  Emitter(ir::Block& block, ModeKey key, const FeatureSet& features) : Builder(block, state_slots()), key_(key), features_(features) {}

  ModeKey key() const { return key_; }
  const FeatureSet& features() const { return features_; }
  bool code64() const { return key_.has(ModeKey::code64); }

  // General registers. Byte registers are given by number as encoded; `rex` tells spl… from ah….
  Value gpr(unsigned number, unsigned bytes = 8) { return get(static_cast<u16>(id_gpr + number), ir::int_type(bytes)); }
  Value gpr8(unsigned number, bool rex);
  // Rules of the architecture: 4 bytes clear the upper half, 1 and 2 keep the rest.
  void set_gpr(unsigned number, unsigned bytes, Value v);
  void set_gpr8(unsigned number, bool rex, Value v);
  void set_reg(const Insn& insn, unsigned number, unsigned bytes, Value v) {
    bytes == 1 ? set_gpr8(number, insn.rex, v) : set_gpr(number, bytes, v);
  }
  Value reg(const Insn& insn, unsigned number, unsigned bytes) { return bytes == 1 ? gpr8(number, insn.rex) : gpr(number, bytes); }

  // Memory. effective_address: without segment, cut to the address size. linear: with segment base and checks for `bytes`.
  Value effective_address(const Insn& insn, Value base_override = 0);
  Value linear(const Insn& insn, unsigned segment, Value offset, unsigned bytes, u16 access);
  u16 access_of(unsigned segment) const { return segment == ss ? Access::stack : Access::data; }
  // Stack: `bytes` wide. push writes memory, then the stack pointer; pop reads, and leaves the new pointer for `set_sp`.
  void push(const Insn& insn, Value v, unsigned bytes, unsigned store_bytes = 0);
  Value pop(const Insn& insn, unsigned bytes, Value& new_sp);
  void set_sp(Value v) { set_gpr(rsp, key_.stack_bytes(), v); }

  // Calls. A helper of class leaf is pure; any other sees ip (this instruction's; next_ip) in the state, and all registers are
  // read again after it.
  Value call(HelperId id, Value a = 0, Value b = 0, Value c = 0) { return call_flags(id, a, b, c).value; }
  ir::WithFlags call_flags(HelperId id, Value a = 0, Value b = 0, Value c = 0);
  // The instruction raises an exception whatever happens; ends the block.
  void raise(u8 vector);
  void raise(u8 vector, u32 code);

  // Ends. `next` is the instruction after `insn`.
  void next(const Insn& insn, ir::ExitReason reason);  // leave, ip = next
  void jump_to(const Insn& insn, u64 displacement);    // relative to next, wrapped to the operand size
  void branch_to(const Insn& insn, Cond cond, Value cc, u64 displacement);
  void branch_if(const Insn& insn, Value nonzero, u64 displacement);
  // The same, with rCX set once the target is known to be good.
  void count_and_branch(const Insn& insn, Value nonzero, u64 displacement, Value count);
  void indirect_to(const Insn& insn, Value target);  // checked (limit or canonical)
  Value next_ip(const Insn& insn);
  void check_target(Value target);
  // call: pushes the address of the next instruction, having checked the target.
  void call_to(const Insn& insn, u64 displacement);

 private:
  // Direct targets need no check and no wrap where every offset is a valid ip: 64-bit mode, flat 32-bit code.
  bool direct(const Insn& insn, u64 displacement) const {
    const i64 target = static_cast<i64>(insn.offset + insn.length + displacement);
    if (code64()) return target == static_cast<i32>(target);
    return key_.has(ModeKey::flat) && key_.has(ModeKey::code32) && insn.opsize == 4;
  }
  Value relative_target(const Insn& insn, u64 displacement);
  ModeKey key_;
  const FeatureSet& features_;
};

// Loads sources, calls the row's emitter, writes back. Ends the block where the row says so.
void emit_insn(Emitter& e, const Insn& insn);
// Rows with .pass and without emitter: run by a prepared native stub (native_stub.cpp).
void emit_native_stub(Emitter& e, const Insn& insn, Operands& op);
// What E1 needs to know of an instruction.
ir::Native native_of(const Insn& insn, ModeKey key);

}  // namespace vmm::tcg::x86
