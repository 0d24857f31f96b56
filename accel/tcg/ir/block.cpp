#include "accel/tcg/ir/block.h"

#include <algorithm>

namespace vmm::tcg::ir {

const Instruction& Block::instruction_of(unsigned index) const {
  auto after = std::upper_bound(instructions.begin(), instructions.end(), index,
                                [](unsigned i, const Instruction& insn) { return i < insn.first_op; });
  return *(after == instructions.begin() ? after : after - 1);
}

namespace {

constexpr bool leaves[] = {
#define X(name, inputs, result, leaves) leaves,
    IR_OPS(X)
#undef X
};

// The form of a flag producer that computes no flags, or itself.
OpCode without_flags(OpCode code) {
  switch (code) {
    case OpCode::add_cc: return OpCode::add;
    case OpCode::sub_cc: return OpCode::sub;
    case OpCode::and_cc: return OpCode::and_;
    case OpCode::or_cc: return OpCode::or_;
    case OpCode::xor_cc: return OpCode::xor_;
    case OpCode::neg_cc: return OpCode::neg;
    case OpCode::mul_cc: return OpCode::mul;
    default: return code;
  }
}

}  // namespace

// A set_cc is dead if another follows before anything reads the flags or may leave the block. An op that leaves does so after its
// instruction (interp.cpp, `finish`), whose own set_cc therefore lives. A producer whose cc value is then
// unread becomes its plain form. cc values are read only by set_cc, branch_cc, test_cc and as inputs of producers.
void drop_dead_flags(Block& block) {
  static thread_local std::vector<u8> read;
  read.assign(block.values + 1, 0);
  bool live = true;
  usize instruction = block.instructions.size(), first = block.ops.size();
  for (usize i = block.ops.size(); i-- > 0;) {
    Op& op = block.ops[i];
    while (i < first && instruction) {
      const usize end = first;
      first = block.instructions[--instruction].first_op;
      for (usize k = first; k < end; k++)
        if (leaves[static_cast<unsigned>(block.ops[k].code)]) live = true;
    }
    if (op.code == OpCode::set_cc) {
      if (!live) {
        op.code = OpCode::nop, op.a = 0;
        continue;
      }
      live = false;
      read[op.a] = 1;
      continue;
    }
    if (op.code == OpCode::get_cc) {
      if (!read[op.dst]) {
        op.code = OpCode::nop;
        continue;
      }
      live = true;
      continue;
    }
    if (leaves[static_cast<unsigned>(op.code)]) live = true;
    if (op.code == OpCode::constant || op.code == OpCode::pass || op.code == OpCode::slow) continue;
    if (const OpCode plain = without_flags(op.code); plain != op.code && !read[op.dst + 1]) op.code = plain;
    read[op.a] = read[op.b] = read[op.c] = 1;
  }
}

}  // namespace vmm::tcg::ir
