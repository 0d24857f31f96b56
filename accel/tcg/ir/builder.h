// Makes the ops of a block. Remembers which value a guest register holds, so that a second read of it costs nothing.
#pragma once

#include <array>
#include <initializer_list>

#include "accel/tcg/ir/block.h"
#include "src/base/assert.h"

namespace vmm::tcg::ir {

using StateId = u16;
// One row of the guest's table of state: StateId is the index. `offset` in bytes from GuestCpu::state.
struct StateSlot {
  const char* name;
  u32 offset;
  Type type;
  bool pinned = false;  // lives in a host register in generated code
};

struct WithFlags {
  Value value, cc;
};

class Builder {
 public:
  Builder(Block& block, std::span<const StateSlot> states) : block_(block), states_(states) {}
  Block& block() { return block_; }

  Value constant(u64 imm);
  // Guest state. `part`: byte offset within the slot (high byte registers). A set writes only the bytes of its type.
  Value get(StateId id, Type type, unsigned part = 0);
  // `narrow`: the upper 32 bits of v are known to be zero.
  void set(StateId id, Type type, Value v, unsigned part = 0, bool narrow = false);
  Value get_cc();
  void set_cc(Value cc);
  Value ip_page();
  // Forget what registers hold: a helper may have changed them.
  void forget();

  Value emit(OpCode code, Type type, Value a = 0, Value b = 0, Value c = 0, u16 aux = 0, i32 disp = 0);
  WithFlags emit_flags(OpCode code, Type type, Value a, Value b = 0, Value c = 0, u16 aux = 0);

  Value add(Type t, Value a, Value b) { return emit(OpCode::add, t, a, b); }
  Value sub(Type t, Value a, Value b) { return emit(OpCode::sub, t, a, b); }
  Value and_(Type t, Value a, Value b) { return emit(OpCode::and_, t, a, b); }
  Value or_(Type t, Value a, Value b) { return emit(OpCode::or_, t, a, b); }
  Value xor_(Type t, Value a, Value b) { return emit(OpCode::xor_, t, a, b); }
  Value shl(Type t, Value a, unsigned n) { return n ? emit(OpCode::shl_imm, t, a, 0, 0, 0, static_cast<i32>(n)) : a; }
  Value shr(Type t, Value a, unsigned n) { return n ? emit(OpCode::shr_imm, t, a, 0, 0, 0, static_cast<i32>(n)) : a; }
  Value add_imm(Type t, Value a, i64 n);
  Value and_imm(Type t, Value a, u64 mask);
  Value trunc(Type t, Value a) { return t == Type::i64 ? a : emit(OpCode::trunc, t, a); }
  Value sext(Type from, Value a) { return from == Type::i64 ? a : emit(OpCode::sext, from, a); }
  Value select(Value cond, Value yes, Value no) { return emit(OpCode::select, Type::i64, cond, yes, no); }
  Value test_cc(Cond cond, Value cc) { return emit(OpCode::test_cc, Type::i64, cc, 0, 0, static_cast<u16>(cond)); }
  Value equal(Value a, Value b) { return emit(OpCode::equal, Type::i64, a, b); }

  Value load(Type t, Value address, u16 access = Access::data, i32 disp = 0) { return emit(OpCode::load, t, address, 0, 0, access, disp); }
  void store(Type t, Value address, Value v, u16 access = Access::data, i32 disp = 0) {
    emit(OpCode::store, t, address, v, 0, access, disp);
  }
  Value rmw(Type t, RmwKind kind, Value address, Value operand, Value expected = 0, u16 access = Access::data) {
    return emit(OpCode::rmw, t, address, operand, expected, static_cast<u16>(access | static_cast<unsigned>(kind) << 8));
  }
  // Calls. `pure`: reads its arguments alone (and cannot fault).
  WithFlags call(u16 helper, bool pure, Value a = 0, Value b = 0, Value c = 0);
  void sync_ip() {
    const Instruction& i = block_.instructions.back();
    emit(OpCode::sync_ip, Type::i64, 0, 0, 0, i.length, i.offset);
  }

  void begin(u16 offset, u8 length);
  void jump(i32 offset);
  void branch_cc(Cond cond, Value cc, i32 taken, i32 otherwise);
  void branch(Value nonzero, i32 taken, i32 otherwise);
  void indirect(Value ip);
  void exit(ExitReason reason, i32 offset);
  void exit_set(ExitReason reason);
  bool ended() const { return ended_; }
  u32 native(const Native& native);
  void native_op(OpCode code, u32 index);

 private:
  static constexpr unsigned cached_states = 20;
  struct Cached {
    Value value = 0;
    Type type = Type::i8;
    u8 part = 0;
    bool narrow = false;
  };
  static constexpr unsigned result_none() { return 0; }
  static constexpr unsigned result_one() { return 1; }
  static constexpr unsigned result_flags() { return 2; }
  Value fresh(unsigned n = 1) {
    const Value v = static_cast<Value>(block_.values);
    block_.values += n;
    return v;
  }
  Op& append(OpCode code, Type type);

  Block& block_;
  std::span<const StateSlot> states_;
  std::array<Cached, cached_states> known_{};
  Value cc_ = 0, ip_page_ = 0;
  bool ended_ = false;
};

}  // namespace vmm::tcg::ir
