// A decoded instruction.
#pragma once

#include <array>
#include <span>

#include "accel/tcg/guest/x86/mode.h"
#include "accel/tcg/guest/x86/row.h"
#include "src/base/types.h"

namespace vmm::tcg::x86 {

struct Insn {
  const Row* row = nullptr;
  u8 length = 0;
  Map map = Map::one;
  u8 opcode = 0;
  u8 opsize = 4;    // bytes: 2, 4, 8 (operand size after prefixes, REX.W and the row's d64/f64)
  u8 addrsize = 4;  // bytes: 2, 4, 8
  u8 segment = 3;   // effective segment of the memory operand (SegmentRegister)
  bool segment_override = false;
  bool lock = false;
  bool p66 = false;  // a 66 prefix was there (VEX: pp = 1)
  u8 rep = 0;        // 0, 0xf2, 0xf3: the last of them (VEX: by pp)
  bool code64 = false;
  bool rex = false;  // any REX prefix (spl… instead of ah…)
  bool w = false;
  u8 rex_r = 0, rex_x = 0, rex_b = 0;  // 0 or 8
  bool vex = false;
  u8 vex_l = 0, vvvv = 0;
  bool has_modrm = false;
  u8 modrm = 0, mod = 0, reg = 0, rm = 0;  // reg, rm without REX bits
  // memory operand (mod != 3)
  bool memory = false;
  u8 base = 0xff, index = 0xff, scale = 0;  // GPR numbers, 0xff = none
  bool ip_relative = false;
  i64 disp = 0;
  u8 imm_size = 0;
  u64 imm = 0;     // zero-extended; sign-extended for Ibs, Iz, Jb, Jz
  u64 imm2 = 0;    // enter's second, far pointer's selector
  u16 offset = 0;  // of the first byte in its page
  std::array<u8, 16> bytes{};

  unsigned reg_number() const { return reg | rex_r; }
  unsigned rm_number() const { return rm | rex_b; }
  unsigned opcode_number() const { return (opcode & 7) | rex_b; }
};

enum class Decoded : u8 {
  ok,
  undefined,  // #UD
  too_long,   // #GP(0)
  more,       // bytes run out
};
// Decodes one instruction. `bytes` may be longer than the instruction. `features`: bit set of Feature.
struct FeatureSet {
  u64 word[2] = {};
  constexpr bool has(Feature f) const {
    return f == Feature::none || (word[static_cast<unsigned>(f) / 64] >> (static_cast<unsigned>(f) % 64) & 1);
  }
  constexpr void add(Feature f) { word[static_cast<unsigned>(f) / 64] |= u64{1} << (static_cast<unsigned>(f) % 64); }
};
Decoded decode(std::span<const u8> bytes, ModeKey key, const FeatureSet& features, Insn& insn);

// Width in bytes of an operand of this instruction.
unsigned width_of(const Insn& insn, const Operand& operand);
// For tests: all rows of all maps.
struct MapRows {
  Map map;
  std::span<const Row> rows;
};
std::span<const MapRows> all_rows();

}  // namespace vmm::tcg::x86
