// How the SIMD tables are written down. A `Simd` row states an instruction once, in its VEX form (three operands, name with the
// "v"); `legacy_rows` and `vex_rows` derive the rows that the decoder wants. Source: SDM 2A §2.3, §2.4 (exception classes).
#pragma once

#include <array>

#include "accel/tcg/guest/x86/row.h"
#include "accel/tcg/guest/x86/simd.h"

namespace vmm::tcg::x86 {

#define OPERAND(name, ...) inline constexpr Operand name{__VA_ARGS__};
// clang-format off
// Memory operands of vector and x87 rows: the address alone, the bytes are moved by the helper.
OPERAND(Mvw, Role::modrm_rm, File::none, Size::w, 0, Operand::mem_only)  OPERAND(Mvd, Role::modrm_rm, File::none, Size::d, 0, Operand::mem_only)
OPERAND(Mvq, Role::modrm_rm, File::none, Size::q, 0, Operand::mem_only)  OPERAND(Mvsib, Role::modrm_rm, File::none, Size::any, 0, Operand::mem_only)
OPERAND(Wfx, Role::modrm_rm, File::vector, Size::fx)                     OPERAND(Wex, Role::modrm_rm, File::vector, Size::ex)
OPERAND(Wdup, Role::modrm_rm, File::vector, Size::dup)
OPERAND(RdMb, Role::modrm_rm, File::gpr, Size::db)                       OPERAND(RdMw, Role::modrm_rm, File::gpr, Size::dw)
// clang-format on
#undef OPERAND

    // What `Traits::tag` says of a vector row.
    enum SimdTag : i8 {
      tag_reads_xmm0 = 1,
      tag_writes_xmm0 = 2
    };

struct Simd {
  u8 opcode = 0;
  const char* name = nullptr;  // with the leading v unless the row has no legacy form
  std::array<Operand, 4> operands{};
  Emit emit = nullptr;
  struct Rules {
    Feature legacy = Feature::none, v128 = Feature::none, v256 = Feature::none;  // none: no such form
    enum Alignment : u8 { by_form, never, always } alignment = by_form;          // by_form: legacy 16-byte operands only
    bool any_l = false, keeps = false, plain_name = false;
    Traits t{};

    constexpr Rules with(auto change) const {
      Rules r = *this;
      change(r);
      return r;
    }
    constexpr Rules fp() const {
      return with([](Rules& r) { r.t.fp = true; });
    }
    constexpr Rules loose() const {
      return with([](Rules& r) { r.alignment = never; });
    }
    constexpr Rules strict() const {
      return with([](Rules& r) { r.alignment = always; });
    }
    constexpr Rules registers() const {
      return with([](Rules& r) { r.t.mod = Mod::reg; });
    }
    constexpr Rules group(int n) const {
      return with([=](Rules& r) { r.t.reg = static_cast<i8>(n); });
    }
    constexpr Rules w(int n) const {
      return with([=](Rules& r) { r.t.w = static_cast<i8>(n); });
    }
    constexpr Rules only_ymm() const {
      return with([](Rules& r) { r.v128 = Feature::none; });
    }
    // The destination is only read (compares), or read though no H says so (fused multiply).
    constexpr Rules compares() const {
      return with([](Rules& r) { r.t.dst = Dst::read, r.t.flags_out = fl_all; });
    }
    constexpr Rules never_native() const {
      return with([](Rules& r) { r.t.pass = false; });
    }  // reaches memory unchecked
    constexpr Rules writes_only() const {
      return with([](Rules& r) { r.keeps = false; });
    }
    constexpr Rules accumulates() const {
      return with([](Rules& r) { r.keeps = true; });
    }
    constexpr Rules xmm0() const {
      return with([](Rules& r) { r.keeps = true, r.t.tag = tag_reads_xmm0; });
    }
    // pcmpestr*, pcmpistr*: `lengths` in eax, edx; the result in ecx, or in xmm0.
    constexpr Rules string(bool lengths, bool index) const {
      return with([=](Rules& r) {
        r.alignment = never, r.t.dst = Dst::read, r.t.flags_out = fl_all;
        if (lengths) r.t.reads = 1 << 0 | 1 << 2;
        if (index)
          r.t.writes = 1 << 1;
        else
          r.t.tag = tag_writes_xmm0;
      });
    }
  };
  Rules r;
};

// The kinds of rows. fp: VEX.128 and .256 with AVX; integer: VEX.256 with AVX2; xmm: VEX.128 alone; scalar: VEX.L ignored.
constexpr Simd::Rules rules(Feature legacy, Prefix p, Feature v128, Feature v256, bool any_l = false) {
  return {.legacy = legacy, .v128 = v128, .v256 = v256, .any_l = any_l, .t = {.prefix = p, .pass = true, .kind = ir::NativeKind::vector}};
}
constexpr auto packed(Feature f, Prefix p) { return rules(f, p, Feature::avx, Feature::avx); }
constexpr auto integer(Feature f, Prefix p) { return rules(f, p, Feature::avx, Feature::avx2); }
constexpr auto xmm(Feature f, Prefix p) { return rules(f, p, Feature::avx, Feature::none); }
constexpr auto scalar(Feature f, Prefix p) { return rules(f, p, Feature::avx, Feature::none, true); }
constexpr auto wide(Feature f, Feature v256, Prefix p) { return rules(f, p, Feature::avx, v256); }
// Legacy form only: its destination is read, its name has no v.
constexpr auto legacy(Feature f, Prefix p) {
  auto r = rules(f, p, Feature::none, Feature::none);
  r.keeps = r.plain_name = true;
  return r;
}
// MMX: 64-bit, on the x87 registers. An operand needs no alignment.
constexpr auto mmx_row(Feature f, Prefix p = p_none) {
  auto r = legacy(f, p).loose();
  r.t.kind = ir::NativeKind::x87;
  return r;
}
constexpr auto vex(Feature f = Feature::avx, Prefix p = p_66) { return rules(Feature::none, p, f, f); }
constexpr auto vex_scalar(Feature f) { return rules(Feature::none, p_66, f, Feature::none, true); }

namespace so_simd {
constexpr bool names(const Simd& s, Role role) {
  for (const Operand& o : s.operands)
    if (o.role == role) return true;
  return false;
}
constexpr bool whole_register(const Simd& s) {
  for (const Operand& o : s.operands)
    if (o.role == Role::modrm_rm) return o.size == Size::x || o.size == Size::dq;
  return false;
}
constexpr Row legacy_row(const Simd& s) {
  Row row{.opcode = s.opcode, .name = s.name + (s.r.plain_name ? 0 : 1), .emit = s.emit, .t = s.r.t};
  unsigned n = 0;
  const bool shift_group = s.operands[0].role == Role::vvvv;  // psllw by immediate: the legacy form's destination is U
  for (unsigned i = 0; i < 4; ++i)
    if (s.operands[i].role != Role::vvvv) row.operands[n++] = s.operands[i];
  row.t.needs = s.r.legacy;
  row.t.w = -1;
  row.t.aligned = s.r.alignment == Simd::Rules::always || (s.r.alignment == Simd::Rules::by_form && whole_register(s));
  if (row.t.dst != Dst::read) row.t.dst = shift_group || names(s, Role::vvvv) || s.r.keeps ? Dst::read_write : Dst::write;
  return row;
}
constexpr Row vex_row(const Simd& s, Feature needs, int l) {
  Row row{.opcode = s.opcode, .name = s.name, .operands = s.operands, .emit = s.emit, .t = s.r.t};
  row.t.needs = needs;
  row.t.vex = true;
  row.t.l = static_cast<i8>(l);
  row.t.aligned = s.r.alignment == Simd::Rules::always;
  if (row.t.dst != Dst::read) row.t.dst = s.r.keeps ? Dst::read_write : Dst::write;
  return row;
}
}  // namespace so_simd

template <usize N>
constexpr usize count_legacy(const Simd (&table)[N]) {
  usize n = 0;
  for (const Simd& s : table) n += s.r.legacy != Feature::none;
  return n;
}
template <usize N>
constexpr usize count_vex(const Simd (&table)[N]) {
  usize n = 0;
  for (const Simd& s : table) {
    const bool one = s.r.any_l || (s.r.v128 == s.r.v256 && s.r.v128 != Feature::none);
    n += one ? 1 : (s.r.v128 != Feature::none) + (s.r.v256 != Feature::none);
  }
  return n;
}
template <usize M, usize N>
constexpr std::array<Row, M> legacy_rows(const Simd (&table)[N]) {
  std::array<Row, M> rows{};
  usize n = 0;
  for (const Simd& s : table)
    if (s.r.legacy != Feature::none) rows[n++] = so_simd::legacy_row(s);
  return rows;
}
template <usize M, usize N>
constexpr std::array<Row, M> vex_rows(const Simd (&table)[N]) {
  std::array<Row, M> rows{};
  usize n = 0;
  for (const Simd& s : table) {
    const auto [v128, v256] = std::pair(s.r.v128, s.r.v256);
    if (s.r.any_l || (v128 == v256 && v128 != Feature::none)) {
      rows[n++] = so_simd::vex_row(s, v128, -1);
      continue;
    }
    if (v128 != Feature::none) rows[n++] = so_simd::vex_row(s, v128, 0);
    if (v256 != Feature::none) rows[n++] = so_simd::vex_row(s, v256, 1);
  }
  return rows;
}

}  // namespace vmm::tcg::x86
