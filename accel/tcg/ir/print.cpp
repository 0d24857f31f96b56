// `-d op`: a block as text.
#include "accel/tcg/ir/block.h"
#include "accel/tcg/ir/builder.h"
#include "src/base/format.h"

namespace vmm::tcg::ir {

namespace {
enum class Result { none, one, flags };
struct Info {
  const char* name;
  int inputs;
  Result result;
};
constexpr Info infos[] = {
#define X(name, inputs, result, leaves) {#name, inputs, Result::result},
    IR_OPS(X)
#undef X
};
constexpr const char* type_names[] = {"i8", "i16", "i32", "i64", "i128", "v128", "v256", "f80", "ptr"};
constexpr const char* cond_names[] = {"o", "no", "c", "nc", "z", "nz", "cz", "ncz", "s", "ns", "p", "np", "lt", "ge", "le", "gt"};
}  // namespace

const char* name_of(OpCode code) { return infos[static_cast<unsigned>(code)].name; }

std::string print(const Block& block, std::span<const StateSlot> states, const char* (*helper_name)(u16)) {
  std::string out;
  usize insn = 0;
  auto to = std::back_inserter(out);
  for (usize i = 0; i < block.ops.size(); i++) {
    for (; insn < block.instructions.size() && block.instructions[insn].first_op == i; insn++) {
      format_to(to, " ---- {:03x} +{}\n", block.instructions[insn].offset, block.instructions[insn].length);
    }
    const Op& op = block.ops[i];
    const Info& info = infos[static_cast<unsigned>(op.code)];
    if (op.code == OpCode::nop) continue;
    format_to(to, "  ");
    if (info.result == Result::one) format_to(to, "v{} = ", op.dst);
    if (info.result == Result::flags) format_to(to, "v{},v{} = ", op.dst, op.dst + 1);
    format_to(to, "{}.{}", info.name, type_names[static_cast<unsigned>(op.type)]);
    if (op.code == OpCode::constant || op.code == OpCode::pass || op.code == OpCode::slow) {
      format_to(to, " {:#x}\n", op.imm);
      continue;
    }
    if (info.inputs > 0) format_to(to, " v{}", op.a);
    if (info.inputs > 1) format_to(to, ", v{}", op.b);
    if (info.inputs > 2) format_to(to, ", v{}", op.c);
    switch (op.code) {
      case OpCode::get:
      case OpCode::set:
        format_to(to, " {}", op.aux < states.size() ? states[op.aux].name : "?");
        if (op.aux < states.size() && static_cast<u32>(op.disp) != states[op.aux].offset)
          format_to(to, "+{}", static_cast<u32>(op.disp) - states[op.aux].offset);
        break;
      case OpCode::call:
      case OpCode::call_state: format_to(to, " {}", helper_name ? helper_name(op.aux) : ""); break;
      case OpCode::branch_cc:
      case OpCode::test_cc: format_to(to, " {}", cond_names[op.aux & 15]); [[fallthrough]];
      default:
        if (op.code == OpCode::lea) format_to(to, " << {}", op.aux);
        if (op.disp) format_to(to, " {:+#x}", op.disp);
        if (op.code == OpCode::branch || op.code == OpCode::branch_cc) format_to(to, " else {:+#x}", block.fallthrough);
    }
    format_to(to, "\n");
  }
  return out;
}

}  // namespace vmm::tcg::ir
