// Runs the same instruction bytes on the host CPU and in the interpreter, from the same state, and compares everything: registers,
// flags (undefined ones too), vectors, x87, memory, and at a fault its vector and the registers.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/ir/block.h"

namespace vmm::test {

// Memory that both sides see at the same address: guest linear = host address. Two pages, then two unmapped pages.
inline constexpr u64 sandbox_bytes = 8192;
u8* sandbox();

struct Outcome {
  int fault = -1;  // exception vector, or −1
};

// A state for 64-bit user code; gpr, flags, vectors zero; rsp in the sandbox.
void prepare(x86::State& state);
// The same for flat 32-bit user code.
void prepare32(x86::State& state);
// Runs `code` (straight line, ends by falling out of its end) natively. Changes state and sandbox.
Outcome run_native(std::span<const u8> code, x86::State& state);
// The same in the interpreter.
Outcome run_interpreter(std::span<const u8> code, x86::State& state, unsigned block_limit = 1);
// Both from the same start; empty text = no difference. `state` becomes the native result. Skips (empty) what this host cannot
// execute (#UD natively) if `skip_undefined`.
std::string compare(std::span<const u8> code, x86::State& state, bool skip_undefined = false, u64 flags_compared = x86::arithmetic_flags,
                    unsigned block_limit = 1);

// A repeatable stream of interesting numbers.
struct Random {
  u64 s;
  bool registers_only = false;  // encode_random makes no memory operands
  u64 next() {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s * 0x2545f4914f6cdd1dull;
  }
  unsigned below(unsigned n) { return static_cast<unsigned>((next() >> 33) % n); }
  u64 edge();  // 0, 1, −1, signs, carries of all widths, or anything
};

// One random encoding of a row (64-bit mode, or 32-bit if not `wide`) and a state that suits it. False: the row is not for this.
bool encode_random(const tcg::x86::Row& row, tcg::x86::Map map, Random& random, std::vector<u8>& code, x86::State& state, bool wide = true);
// Runs `count` random encodings of the row; the first difference as text.
std::string check_row(const tcg::x86::Row& row, tcg::x86::Map map, unsigned count, u64 seed, bool wide = true);

std::string hex(std::span<const u8> code, bool wide = true);

}  // namespace vmm::test
