// What generated code tells of an instruction that C++ shall carry out. Leaf code includes this.
#pragma once

#include "accel/tcg/ir/native.h"

namespace vmm::tcg::x64 {

// Of one instruction: where it stands in the page, whether it ends the block, and enough for callees that know some
// instructions by themselves.
struct InterpretArgument {
  u64 raw = 0;
  static constexpr InterpretArgument of(const ir::Native& n) {
    const bool bare = n.map <= 1 && !n.vex && n.segment == ir::no_reg && !n.lock, plain = bare && n.address_width == 8;
    const u32 width = n.width == 8 ? 3 : n.width == 4 ? 2 : n.width == 2 ? 1 : 0;
    // Passing instructions come here by their rare misses: theirs is kept short.
    const u64 operands = n.pass ? 0
                                : u64{n.modrm} << 32 | u64{n.reg.number & 15u} << 40 | u64{n.rm.number & 15u} << 44 | u64{n.memory} << 48 |
                                      (bare && n.address_width == 4 ? u64{1} << 49 : 0);
    return {operands | (n.offset & 0xfffu) | u32{n.length} << 12 | (n.ends ? 1u << 16 : 0) | u32{n.opcode} << 17 | (n.map & 1u) << 25 |
            u32{n.repeat} << 26 | width << 28 | (plain ? 1u << 30 : 0)};
  }
  constexpr u32 offset() const { return raw & 0xfff; }
  constexpr u32 length() const { return raw >> 12 & 15; }
  // Of instructions that do not pass:
  constexpr u8 modrm() const { return static_cast<u8>(raw >> 32); }
  constexpr unsigned rm() const { return raw >> 44 & 15; }
  constexpr bool memory() const { return raw >> 48 & 1; }
  constexpr bool plain32() const { return raw >> 49 & 1; }  // as plain(), with addresses of 32 bits
  constexpr bool ends() const { return raw >> 16 & 1; }
  constexpr u8 opcode() const { return static_cast<u8>(raw >> 17); }
  constexpr u8 map() const { return raw >> 25 & 1; }
  constexpr u8 repeat() const { return raw >> 26 & 3; }
  constexpr unsigned width() const { return 1u << (raw >> 28 & 3); }
  constexpr bool plain() const { return raw >> 30 & 1; }  // no LOCK, segment or address-size prefix
};

}  // namespace vmm::tcg::x64
