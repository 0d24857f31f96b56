// Encoders for the host instructions that the translator adds around guest code, and one general encoder for re-encoded guest
// opcodes. No heap, no exceptions: bytes go into a bounded span, and running over its end sets a mark that the caller reads once.
// Sources: SDM volume 2, chapters 2 (formats) and 3–5 (opcodes); APM volume 3.
#pragma once

#include <cstring>
#include <optional>
#include <span>

#include "src/base/assert.h"
#include "src/base/types.h"

namespace vmm::tcg::x64 {

enum class Reg : u8 { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, none = 0xff };
constexpr u8 number(Reg r) { return static_cast<u8>(r); }

// A memory operand. `base` may be none (absolute disp32, never RIP-relative); `scale` is a power of two's exponent.
struct Mem {
  Reg base = Reg::none, index = Reg::none;
  u8 scale = 0;
  i32 disp = 0;
  bool gs = false;      // gs: prefix, the current address table
  bool addr32 = false;  // 67h
};

enum class Condition : u8 { o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g };

// Where bytes go. Emission beyond the end is dropped and remembered.
class Buffer {
 public:
  explicit Buffer(std::span<u8> bytes) : bytes_(bytes) {}
  void byte(u8 b) {
    if (at_ < bytes_.size()) [[likely]]
      bytes_[at_] = b;
    at_++;
  }
  template <class T>
  void value(T v) {
    append(reinterpret_cast<const u8*>(&v), sizeof v);
  }
  void append(const u8* from, usize n) {
    if (at_ + n <= bytes_.size()) [[likely]]
      std::memcpy(&bytes_[at_], from, n);
    at_ += n;
  }
  void patch32(usize at, u32 v) {
    for (usize i = 0; i < 4; i++)
      if (at + i < bytes_.size()) bytes_[at + i] = static_cast<u8>(v >> (8 * i));
  }
  void patch8(usize at, u8 v) {
    if (at < bytes_.size()) bytes_[at] = v;
  }
  usize size() const { return at_; }
  // Takes back what was emitted after `size`.
  void truncate(usize size) { at_ = size; }
  // Moves what was emitted from `at` on by `by` bytes; the gap is undefined.
  void move_up(usize at, usize by) {
    if (at_ + by <= bytes_.size()) std::memmove(&bytes_[at] + by, &bytes_[at], at_ - at);
    at_ += by;
  }
  usize capacity() const { return bytes_.size(); }
  bool overflowed() const { return at_ > bytes_.size(); }

 private:
  std::span<u8> bytes_;
  usize at_ = 0;
};

// What stands before and around modrm in one instruction, legacy or VEX.
struct Opcode {
  u8 map = 0;  // 0: one byte, 1: 0f, 2: 0f 38, 3: 0f 3a
  u8 opcode = 0;
  u8 simd = 0;          // mandatory or size prefix: 0, 0x66, 0xf3, 0xf2
  bool size66 = false;  // 66h beside an f3/f2 (string forms, crc32 r16)
  bool lock = false;
  bool w = false;  // REX.W / VEX.W
  bool vex = false;
  bool l256 = false;        // VEX.L
  u8 vvvv = 0;              // VEX second source, 0 when unused
  bool rex_needed = false;  // spl bpl sil dil
};

// The register or memory side of modrm.
struct Rm {
  bool is_memory = false;
  u8 reg = 0;
  Mem mem{};
  static Rm of(Reg r) { return {false, number(r), {}}; }
  static Rm of(u8 r) { return {false, r, {}}; }
  static Rm of(const Mem& m) { return {true, 0, m}; }
};

// Everything here leaves the flags alone: access and flow lowering see only this type (translator.md §3).
class FlagFree {
 public:
  explicit FlagFree(Buffer& out) : out_(out) {}
  Buffer& out() { return out_; }
  usize here() const { return out_.size(); }

  // One instruction with modrm. `tail` is the number of immediate bytes that the caller appends.
  void instruction(const Opcode& op, u8 reg, const Rm& rm);
  // An instruction without modrm (push imm, cdq, …); `opcode_reg` goes into the low opcode bits and REX.B, 0xff: none.
  void plain(const Opcode& op, u8 opcode_reg = 0xff);

  void mov(Reg to, Reg from) { instruction({.opcode = 0x8b, .w = true}, number(to), Rm::of(from)); }
  void mov32(Reg to, Reg from) { instruction({.opcode = 0x8b}, number(to), Rm::of(from)); }
  void mov(Reg to, const Mem& from) { instruction({.opcode = 0x8b, .w = true}, number(to), Rm::of(from)); }
  void mov32(Reg to, const Mem& from) { instruction({.opcode = 0x8b}, number(to), Rm::of(from)); }
  void mov(const Mem& to, Reg from) { instruction({.opcode = 0x89, .w = true}, number(from), Rm::of(to)); }
  void mov32(const Mem& to, Reg from) { instruction({.opcode = 0x89}, number(from), Rm::of(to)); }
  void mov16(const Mem& to, Reg from) { instruction({.opcode = 0x89, .simd = 0x66}, number(from), Rm::of(to)); }
  // The shortest form that loads the 64-bit constant.
  void mov(Reg to, u64 value);
  void mov_imm64(Reg to, u64 value) {  // always ten bytes
    plain({.opcode = 0xb8, .w = true}, number(to));
    out_.value(value);
  }
  void mov_imm32(Reg to, u32 value) {  // zero-extends
    plain({.opcode = 0xb8}, number(to));
    out_.value(value);
  }
  void mov_store_imm(const Mem& to, i32 value) {  // 64-bit store of a sign-extended constant
    instruction({.opcode = 0xc7, .w = true}, 0, Rm::of(to));
    out_.value(value);
  }
  void mov_store_imm32(const Mem& to, i32 value) {
    instruction({.opcode = 0xc7}, 0, Rm::of(to));
    out_.value(value);
  }
  void movzx16(Reg to, Reg from) { instruction({.map = 1, .opcode = 0xb7}, number(to), Rm::of(from)); }
  void movzx8(Reg to, const Mem& from) { instruction({.map = 1, .opcode = 0xb6}, number(to), Rm::of(from)); }
  void movsxd(Reg to, Reg from) { instruction({.opcode = 0x63, .w = true}, number(to), Rm::of(from)); }
  void lea(Reg to, const Mem& m) { instruction({.opcode = 0x8d, .w = true}, number(to), Rm::of(without_segment(m))); }
  void lea32(Reg to, const Mem& m) { instruction({.opcode = 0x8d}, number(to), Rm::of(without_segment(m))); }
  void not_(Reg r) { instruction({.opcode = 0xf7, .w = true}, 2, Rm::of(r)); }
  void xchg(Reg a, Reg b) { instruction({.opcode = 0x87, .w = true}, number(a), Rm::of(b)); }
  void pext(Reg to, Reg from, Reg mask) {
    instruction({.map = 2, .opcode = 0xf5, .simd = 0xf3, .w = true, .vex = true, .vvvv = number(from)}, number(to), Rm::of(mask));
  }
  void pext(Reg to, Reg from, const Mem& mask) {
    instruction({.map = 2, .opcode = 0xf5, .simd = 0xf3, .w = true, .vex = true, .vvvv = number(from)}, number(to), Rm::of(mask));
  }
  void sarx(Reg to, Reg from, Reg count) {
    instruction({.map = 2, .opcode = 0xf7, .simd = 0xf3, .w = true, .vex = true, .vvvv = number(count)}, number(to), Rm::of(from));
  }
  void pdep(Reg to, Reg from, const Mem& mask) {
    instruction({.map = 2, .opcode = 0xf5, .simd = 0xf2, .w = true, .vex = true, .vvvv = number(from)}, number(to), Rm::of(mask));
  }
  void rorx(Reg to, Reg from, u8 count) {
    instruction({.map = 3, .opcode = 0xf0, .simd = 0xf2, .w = true, .vex = true}, number(to), Rm::of(from));
    out_.byte(count);
  }
  void wrgsbase(Reg from) { instruction({.map = 1, .opcode = 0xae, .simd = 0xf3, .w = true}, 3, Rm::of(from)); }
  void push(Reg r) { plain({.opcode = 0x50}, number(r)); }
  void pop(Reg r) { plain({.opcode = 0x58}, number(r)); }
  void pushfq() { out_.byte(0x9c); }
  void lahf() { out_.byte(0x9f); }
  void seto_al() { out_.byte(0x0f), out_.byte(0x90), out_.byte(0xc0); }
  void ret() { out_.byte(0xc3); }
  void ud2() { out_.byte(0x0f), out_.byte(0x0b); }
  void vmovups_load256(u8 to, const Mem& m) { instruction({.map = 1, .opcode = 0x10, .vex = true, .l256 = true}, to, Rm::of(m)); }
  void vmovups_store256(const Mem& m, u8 from) { instruction({.map = 1, .opcode = 0x11, .vex = true, .l256 = true}, from, Rm::of(m)); }
  void vzeroupper() { out_.byte(0xc5), out_.byte(0xf8), out_.byte(0x77); }
  void stmxcsr(const Mem& m) { instruction({.map = 1, .opcode = 0xae}, 3, Rm::of(m)); }
  void ldmxcsr(const Mem& m) { instruction({.map = 1, .opcode = 0xae}, 2, Rm::of(m)); }
  void fxsave64(const Mem& m) { instruction({.map = 1, .opcode = 0xae, .w = true}, 0, Rm::of(m)); }
  void fxrstor64(const Mem& m) { instruction({.map = 1, .opcode = 0xae, .w = true}, 1, Rm::of(m)); }

  // Flow. The short and near forms return where their displacement stands, for bind8 and bind32.
  [[nodiscard]] usize jrcxz() { return out_.byte(0xe3), out_.byte(0), here() - 1; }
  [[nodiscard]] usize jmp_short() { return out_.byte(0xeb), out_.byte(0), here() - 1; }
  [[nodiscard]] usize jcc_short(Condition c) { return out_.byte(0x70 | static_cast<u8>(c)), out_.byte(0), here() - 1; }
  [[nodiscard]] usize jmp() { return out_.byte(0xe9), out_.value(u32{0}), here() - 4; }
  [[nodiscard]] usize call() { return out_.byte(0xe8), out_.value(u32{0}), here() - 4; }
  [[nodiscard]] usize jcc(Condition c) { return out_.byte(0x0f), out_.byte(0x80 | static_cast<u8>(c)), out_.value(u32{0}), here() - 4; }
  void jmp(Reg r) { instruction({.opcode = 0xff}, 4, Rm::of(r)); }
  void jmp(const Mem& m) { instruction({.opcode = 0xff}, 4, Rm::of(m)); }
  void call(Reg r) { instruction({.opcode = 0xff}, 2, Rm::of(r)); }
  void call(const Mem& m) { instruction({.opcode = 0xff}, 2, Rm::of(m)); }
  // False when the target is out of reach of a short jump.
  [[nodiscard]] bool bind8(usize at, usize target) {
    const i64 distance = static_cast<i64>(target) - static_cast<i64>(at + 1);
    out_.patch8(at, static_cast<u8>(distance));
    return distance >= -128 && distance <= 127;
  }
  void bind32(usize at, usize target) { out_.patch32(at, static_cast<u32>(target - (at + 4))); }

  // Fills with long nops to the alignment (a power of two) of `base + here()`.
  void align(u64 base, u64 alignment);
  void nop(usize bytes);

 protected:
  static Mem without_segment(Mem m) { return m.gs = false, m; }
  Buffer& out_;
};

// The full set, for thunks and re-encoded guest code.
class Assembler : public FlagFree {
 public:
  using FlagFree::FlagFree;
  void add_imm8(Reg r, i8 v) { instruction({.opcode = 0x83, .w = true}, 0, Rm::of(r)), out_.byte(static_cast<u8>(v)); }
  void add_al_imm8(u8 v) { out_.byte(0x04), out_.byte(v); }
  void sub_imm32(Reg r, i32 v) { instruction({.opcode = 0x81, .w = true}, 5, Rm::of(r)), out_.value(v); }
  void and_imm32(Reg r, i32 v) { instruction({.opcode = 0x81, .w = true}, 4, Rm::of(r)), out_.value(v); }
  void or_(Reg to, Reg from) { instruction({.opcode = 0x0b, .w = true}, number(to), Rm::of(from)); }
  void or_(Reg to, const Mem& m) { instruction({.opcode = 0x0b, .w = true}, number(to), Rm::of(m)); }
  void and_(Reg to, const Mem& m) { instruction({.opcode = 0x23, .w = true}, number(to), Rm::of(m)); }
  void sub(Reg to, Reg from) { instruction({.opcode = 0x2b, .w = true}, number(to), Rm::of(from)); }
  void xor32(Reg to, Reg from) { instruction({.opcode = 0x33}, number(to), Rm::of(from)); }
  void test(Reg a, Reg b) { instruction({.opcode = 0x85, .w = true}, number(a), Rm::of(b)); }
  void cmp(Reg a, const Mem& m) { instruction({.opcode = 0x3b, .w = true}, number(a), Rm::of(m)); }
  void shr_imm8(Reg r, u8 v) { instruction({.opcode = 0xc1, .w = true}, 5, Rm::of(r)), out_.byte(v); }
  void shl_imm8(Reg r, u8 v) { instruction({.opcode = 0xc1, .w = true}, 4, Rm::of(r)), out_.byte(v); }
  void sahf() { out_.byte(0x9e); }
  void popfq() { out_.byte(0x9d); }
  void cld() { out_.byte(0xfc); }
};

}  // namespace vmm::tcg::x64
