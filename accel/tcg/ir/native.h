// What a `pass` or `slow` op carries: one guest instruction that a host of the guest's own kind can execute itself. The front end
// fills it in; the host's `pass.cpp` re-encodes it. Registers are numbers of the guest's own files; nothing here names one.
#pragma once

#include <array>

#include "src/base/types.h"

namespace vmm::tcg::ir {

// What is particular about lowering it; `plain` = re-encode with the operands replaced.
enum class NativeKind : u8 {
  plain,
  nop,            // nothing to do
  load_address,   // rm is an address computation, no access (lea)
  push,           // source: rm or imm; access = stack store of `width` bytes
  pop,            // destination: rm
  leave,          // stack pointer = frame pointer; pop frame pointer
  call,           // direct; target
  call_indirect,  // rm is the new ip
  ret,            // imm: bytes to drop besides
  jump,           // direct; target
  jump_indirect,  // rm
  branch,         // cond; target, else next
  loop_,          // count register minus one, branch if not zero (opcode tells loop/loope/loopne/jcxz)
  divide,         // may trap in the host (divide error)
  exchange,       // implicitly locked with a memory operand
  string,         // opcode tells; `repeat` 0 none, 1 rep/repe, 2 repne
  vector,         // plain, but touches the vector file
  x87,            // plain, but touches the x87 stack / MMX
};

enum class RegFile : u8 { none, gpr, gpr_high, segment, control, debug, vector, mask, mmx, x87 };

// An operand register in a field of the encoding.
struct NativeReg {
  RegFile file = RegFile::none;
  u8 number = 0;
  u8 width = 0;  // bytes
  bool read = false, written = false;
};

inline constexpr u8 no_reg = 0xff;

struct Native {
  NativeKind kind = NativeKind::plain;
  bool pass = false;  // the host may execute it; false: `slow`
  // the encoding
  u8 map = 0;  // 0 one-byte, 1 0F, 2 0F38, 3 0F3A
  u8 opcode = 0;
  u8 prefix = 0;                 // mandatory prefix: 0, 0x66, 0xf2, 0xf3
  bool operand_size_16 = false;  // 0x66 as operand size
  bool w = false;                // REX.W / VEX.W
  bool lock = false;
  bool vex = false;
  u8 vex_l = 0;
  bool has_modrm = false;
  u8 modrm = 0;     // as in the guest's bytes: reg is the opcode extension of groups; rm of register forms
  u8 imm_size = 0;  // bytes as encoded
  u64 imm = 0;      // sign-extended
  u8 length = 0;    // guest bytes
  u16 offset = 0;   // in the page
  std::array<u8, 16> bytes{};
  u8 width = 0;  // operand size in bytes
  // operands by field
  NativeReg reg;  // modrm.reg, or the register in the low bits of the opcode (`in_opcode`)
  NativeReg rm;   // modrm.rm if a register
  NativeReg vvvv;
  NativeReg is4;                                // register in the immediate
  bool in_opcode = false;                       // `reg` is encoded in the low three bits of the opcode
  u32 implicit_reads = 0, implicit_writes = 0;  // bit mask of GPR numbers not in a field
  // memory operand
  bool memory = false;
  bool mem_read = false, mem_write = false;
  u8 mem_width = 0;                             // bytes accessed (0: not a plain access)
  u16 access = 0;                               // Access bits
  u8 base = no_reg, index = no_reg, scale = 0;  // GPR numbers; scale 0–3
  i64 disp = 0;
  bool ip_relative = false;  // address = ip_page + disp (disp counts from the page's start, next instruction included)
  u8 segment = no_reg;       // segment whose base is added; no_reg: base is zero by the mode
  u8 address_width = 8;      // bytes: 8, 4, 2
  // flags (cc bits)
  u64 flags_read = 0, flags_written = 0;
  bool ends = false;     // the block ends after it
  bool repeats = false;  // back to the start of a loop, whose next turn follows in the block
  // flow
  u8 cond = 0;     // ir::Cond
  i32 target = 0;  // offset from the page's start
  u8 repeat = 0;
  bool touches_vector = false, touches_x87 = false;
  bool records =
      false;  // its address, that of its operand and `record` (11 bits) are architectural state: the host's own are not the guest's
  u16 record = 0;
};

}  // namespace vmm::tcg::ir
