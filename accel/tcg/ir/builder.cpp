#include "accel/tcg/ir/builder.h"

namespace vmm::tcg::ir {

Op& Builder::append(OpCode code, Type type) {
  Op& op = block_.ops.emplace_back();
  op.code = code, op.type = type;
  return op;
}

Value Builder::constant(u64 imm) {
  Op& op = append(OpCode::constant, Type::i64);
  op.imm = imm;
  return op.dst = fresh();
}

Value Builder::get(StateId id, Type type, unsigned part) {
  if (id < cached_states) {
    const Cached& k = known_[id];
    if (k.value && k.part == part && (k.type == type || (type == Type::i32 && k.type == Type::i64 && k.narrow))) return k.value;
  }
  Op& op = append(OpCode::get, type);
  op.aux = id, op.disp = static_cast<i32>(states_[id].offset + part), op.dst = fresh();
  const Value v = op.dst;
  if (id < cached_states && !(known_[id].value && known_[id].type > type))
    known_[id] = {.value = v, .type = type, .part = static_cast<u8>(part)};
  return v;
}

void Builder::set(StateId id, Type type, Value v, unsigned part, bool narrow) {
  Op& op = append(OpCode::set, type);
  op.aux = id, op.disp = static_cast<i32>(states_[id].offset + part), op.a = v;
  if (id < cached_states) known_[id] = {.value = v, .type = type, .part = static_cast<u8>(part), .narrow = narrow};
}

Value Builder::get_cc() {
  if (!cc_) cc_ = emit(OpCode::get_cc, Type::i64);
  return cc_;
}
void Builder::set_cc(Value cc) {
  append(OpCode::set_cc, Type::i64).a = cc;
  cc_ = cc;
}
Value Builder::ip_page() {
  if (!ip_page_) ip_page_ = emit(OpCode::ip_page, Type::i64);
  return ip_page_;
}
void Builder::forget() { known_.fill({}), cc_ = 0; }

Value Builder::emit(OpCode code, Type type, Value a, Value b, Value c, u16 aux, i32 disp) {
  Op& op = append(code, type);
  op.a = a, op.b = b, op.c = c, op.aux = aux, op.disp = disp;
  switch (code) {
#define X(name, inputs, result, leaves) \
  case OpCode::name: return result_##result() ? op.dst = fresh(result_##result()) : Value{0};
    IR_OPS(X)
#undef X
  }
  return 0;
}
WithFlags Builder::emit_flags(OpCode code, Type type, Value a, Value b, Value c, u16 aux) {
  const Value v = emit(code, type, a, b, c, aux);
  return {v, static_cast<Value>(v + 1)};
}

Value Builder::add_imm(Type t, Value a, i64 n) {
  if (n == 0) return a;
  if (n == static_cast<i32>(n)) return emit(OpCode::add_imm, t, a, 0, 0, 0, static_cast<i32>(n));
  return add(t, a, constant(static_cast<u64>(n)));
}
Value Builder::and_imm(Type t, Value a, u64 mask) {
  if (mask <= 0xffff'ffff) return emit(OpCode::and_imm, t, a, 0, 0, 0, static_cast<i32>(mask));
  return and_(t, a, constant(mask));
}

WithFlags Builder::call(u16 helper, bool pure, Value a, Value b, Value c) {
  const WithFlags r = emit_flags(pure ? OpCode::call : OpCode::call_state, Type::i64, a, b, c, helper);
  if (!pure) forget();
  return r;
}

void Builder::begin(u16 offset, u8 length) {
  block_.instructions.push_back({.first_op = static_cast<u16>(block_.ops.size()), .offset = offset, .length = length});
}
void Builder::jump(i32 offset) { emit(OpCode::jump, Type::i64, 0, 0, 0, 0, offset), ended_ = true; }
void Builder::branch_cc(Cond cond, Value cc, i32 taken, i32 otherwise) {
  emit(OpCode::branch_cc, Type::i64, cc, 0, 0, static_cast<u16>(cond), taken);
  block_.fallthrough = otherwise, ended_ = true;
}
void Builder::branch(Value nonzero, i32 taken, i32 otherwise) {
  emit(OpCode::branch, Type::i64, nonzero, 0, 0, 0, taken);
  block_.fallthrough = otherwise, ended_ = true;
}
void Builder::indirect(Value ip) { emit(OpCode::indirect, Type::i64, ip), ended_ = true; }
void Builder::exit(ExitReason reason, i32 offset) {
  emit(OpCode::exit, Type::i64, 0, 0, 0, static_cast<u16>(reason), offset), ended_ = true;
}
void Builder::exit_set(ExitReason reason) { emit(OpCode::exit_set, Type::i64, 0, 0, 0, static_cast<u16>(reason)), ended_ = true; }

u32 Builder::native(const Native& native) {
  block_.natives.push_back(native);
  return static_cast<u32>(block_.natives.size() - 1);
}
void Builder::native_op(OpCode code, u32 index) {
  Op& op = append(code, Type::i64);
  op.imm = index;
}

}  // namespace vmm::tcg::ir
