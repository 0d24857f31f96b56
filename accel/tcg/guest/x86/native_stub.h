// Prepared native stubs: one guest SIMD or x87 instruction, re-encoded onto fixed host registers, that loads its operands from a
// StubFrame, runs, and stores the results back. The interpreter is thereby bit-exact on an x86-64 host from day one; on any
// other host the maker has nothing to give, and rows need their portable emitters (translator.md §1).
// Sources: SDM 2A chapter 2 (encodings), SDM 1 §8.3 and §11.5 (x87 and SSE exceptions).
#pragma once

#include "src/base/types.h"

namespace vmm::tcg::x86 {

// What a stub reads and writes. The image has the layout of FXSAVE64; only its first 160 bytes (x87 and MMX) matter here.
struct alignas(64) StubFrame {
  u8 memory[64];     // the memory operand, moved here by the caller
  u8 vector[5][32];  // by StubRegister
  u64 gpr[3];        // rax (ModRM.reg), rcx, rdx (ModRM.rm)
  u64 flags;         // arithmetic bits of RFLAGS
  u32 mxcsr, host_mxcsr;
  alignas(64) u8 x87[512];
};

// The vector registers that a stub's instruction is re-encoded onto. Guest numbers never reach a stub, so that one stub serves
// every combination of registers.
enum class StubRegister : u8 { implicit = 0, reg = 1, vvvv = 2, rm = 3, is4 = 4 };

// What identifies a stub. Compared by value: equal shapes share a stub.
struct StubShape {
  enum Use : u32 {
    load_implicit = 1,
    load_reg = 2,
    load_vvvv = 4,
    load_rm = 8,
    load_is4 = 16,  // vectors loaded (bit = StubRegister)
    store_implicit = 1 << 5,
    store_reg = 2 << 5,
    store_vvvv = 4 << 5,
    store_rm = 8 << 5,    // vectors stored
    load_gpr = 1 << 10,   // rax, rcx, rdx loaded
    store_gpr = 1 << 11,  // and stored
    load_flags = 1 << 12,
    store_flags = 1 << 13,
    mxcsr = 1 << 14,      // runs under frame.mxcsr, its status comes back
    x87 = 1 << 15,        // the x87/MMX image is loaded and saved
    x87_stack = 1 << 16,  // rm is part of the opcode (x87 register forms) and is kept
    mmx_reg = 1 << 17,
    mmx_rm = 1 << 18,  // ModRM.reg, .rm name an MMX register and are kept
    gpr_reg = 1 << 19,
    gpr_rm = 1 << 20,      // ModRM.reg, .rm name a general register: rax, rdx
    opcode_reg = 1 << 21,  // ModRM.reg extends the opcode and is kept
  };
  u32 uses = 0;
  u8 prefix = 0;  // 0, 0x66, 0xf2, 0xf3
  u8 map = 0;     // 0 one byte, 1 0f, 2 0f38, 3 0f3a
  u8 opcode = 0;
  u8 modrm_reg = 0;  // kept fields, else 0
  u8 modrm_rm = 0;
  u8 immediate = 0, immediate2 = 0;
  bool has_modrm = true, memory = false, has_immediate = false, has_immediate2 = false;
  bool vex = false, vex_l = false, w = false, has_vvvv = false;
  // What the interpreter does around it (helpers_simd.cpp).
  u8 memory_bytes = 0;
  bool memory_stored = false, memory_aligned = false;
  bool x87_math = false;  // records its address in FIP, FDP, FOP (not MMX)

  friend bool operator==(const StubShape&, const StubShape&) = default;
};

struct PortableArgs;

// A stub with its shape; lives as long as the process, so that blocks may hold its address. Run by portable code where there is some.
struct NativeOp {
  StubShape shape;
  void (*stub)(StubFrame*) = nullptr;
  void (*portable)(PortableArgs&) = nullptr;
  void run(StubFrame& frame) const;
};

// The op for `shape`, made at first use; null where neither portable code nor the host can run it. Any thread.
const NativeOp* native_op(const StubShape& shape);

// How many stubs were made and the bytes they take (info jit).
struct StubCounts {
  u64 stubs = 0, bytes = 0;
};
StubCounts native_stub_counts();

}  // namespace vmm::tcg::x86
