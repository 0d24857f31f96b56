// A block of guest code in intermediate form: a flat list of ops over single-assignment values, plus where each guest
// instruction begins. Knows neither the guest nor the host. Blocks hold no virtual address, only offsets in their page.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "accel/tcg/ir/native.h"
#include "accel/tcg/ir/ops.h"
#include "src/base/types.h"

namespace vmm::tcg::ir {

enum class Type : u8 { i8, i16, i32, i64, i128, v128, v256, f80, ptr };
constexpr unsigned bytes_of(Type t) {
  return t <= Type::i128 ? 1u << static_cast<unsigned>(t) : t == Type::v128 ? 16 : t == Type::v256 ? 32 : t == Type::f80 ? 10 : 8;
}
constexpr Type int_type(unsigned bytes) { return bytes == 1 ? Type::i8 : bytes == 2 ? Type::i16 : bytes == 4 ? Type::i32 : Type::i64; }

enum class OpCode : u8 {
#define X(name, inputs, result, leaves) name,
  IR_OPS(X)
#undef X
};

// A `cc` value: carry bit 0, parity 2, adjust 4, zero 6, sign 7, overflow 11. Conditions come in pairs (odd = negated).
enum class Cond : u8 {
  overflow,
  no_overflow,
  carry,
  no_carry,
  zero,
  not_zero,
  carry_or_zero,
  above,
  sign,
  no_sign,
  parity,
  no_parity,
  less,
  not_less,
  less_or_equal,
  greater
};
inline constexpr u64 cc_carry = 1, cc_parity = 4, cc_adjust = 16, cc_zero = 64, cc_sign = 128, cc_overflow = 2048;
inline constexpr u64 cc_mask = cc_carry | cc_parity | cc_adjust | cc_zero | cc_sign | cc_overflow;

// How memory is reached. `stack` differs from `data` only in the fault of a non-canonical address; `implicit`: a supervisor
// access whatever the current level (descriptor tables, TSS); `intent`: a load that is followed by a store to the same
// bytes, so that it faults as the store would; `aligned`: misalignment faults (movaps).
struct Access {
  static constexpr u16 data = 0, stack = 1, implicit = 2, intent = 4, aligned = 8, write = 16, fetch = 32;
};
enum class RmwKind : u8 { add, and_, or_, xor_, xchg, cas, neg };

enum class ExitReason : u8 { next, poll, halt, interrupt_window, flush, step, mode };

using Value = u16;  // 0 = none

struct Op {
  OpCode code = OpCode::nop;
  Type type = Type::i64;
  Value dst = 0, a = 0, b = 0;
  union {
    u64 imm;
    struct {
      Value c;
      u16 aux;
      i32 disp;
    };
  };
  Op() : imm(0) {}
};
static_assert(sizeof(Op) == 16);

struct Instruction {
  u16 first_op;  // index of its first op
  u16 offset;    // in the page
  u8 length;
};

class Block {
 public:
  static constexpr unsigned max_instructions = 64, hot_instructions = 256, max_values = 6000;  // hot: of a loop that is worth more copies
  void clear() { ops.clear(), instructions.clear(), natives.clear(), values = 1, fallthrough = 0, straddles = false; }

  std::vector<Op> ops;
  std::vector<Instruction> instructions;
  std::vector<Native> natives;
  unsigned values = 1;     // value ids in use are 1 … values−1
  u16 start = 0;           // offset of the first instruction in the page
  u16 bytes = 0;           // guest bytes covered
  u16 end = 0;             // offset behind the last instruction; a loop's body may be there several times
  i32 fallthrough = 0;     // the other target of a branch
  u64 ip_mask = ~u64{0};   // the instruction pointer wraps here
  u64 key = 0;             // the guest's mode key it was translated for
  bool straddles = false;  // its only instruction goes on in the next page

  // The instruction that op `index` belongs to.
  const Instruction& instruction_of(unsigned index) const;
};

// Drops flag computations that nobody can see: a backward pass over `cc`.
void drop_dead_flags(Block& block);

struct StateSlot;
std::string print(const Block& block, std::span<const StateSlot> states, const char* (*helper_name)(u16) = nullptr);

const char* name_of(OpCode code);

}  // namespace vmm::tcg::ir
