// Rows that move whole unit states (FXSAVE, XSAVE and their kin), MXCSR, fences and prefetches. Source: SDM 1 chapter 13, SDM 2A.
#pragma once

#include "accel/tcg/guest/x86/simd_row.h"

namespace vmm::tcg::x86 {

void emit_fxsave(Emitter&, const Insn&, Operands&);
void emit_fxrstor(Emitter&, const Insn&, Operands&);
void emit_xsave(Emitter&, const Insn&, Operands&);  // tag: SaveForm
void emit_xrstor(Emitter&, const Insn&, Operands&);
void emit_xgetbv(Emitter&, const Insn&, Operands&);
void emit_xsetbv(Emitter&, const Insn&, Operands&);
void emit_ldmxcsr(Emitter&, const Insn&, Operands&);
void emit_stmxcsr(Emitter&, const Insn&, Operands&);
void emit_fence(Emitter&, const Insn&, Operands&);
void emit_nothing(Emitter&, const Insn&, Operands&);

enum SaveForm : i8 { save_plain, save_optimised, save_compacted, save_supervisor };

inline constexpr auto rows_simd_state = std::to_array<Row>({
    {0x01, "xgetbv", {}, emit_xgetbv, {.needs = Feature::xsave, .prefix = p_none, .reg = 2, .rm = 0, .mod = Mod::reg}},
    {0x01, "xsetbv", {}, emit_xsetbv, {.needs = Feature::xsave, .prefix = p_none, .reg = 2, .rm = 1, .mod = Mod::reg, .ends = Ends::next}},
    {0xae, "lfence", {}, emit_nothing, {.needs = Feature::sse2, .prefix = p_none, .reg = 5, .mod = Mod::reg, .pass = true}},
    {0xae, "mfence", {}, emit_fence, {.needs = Feature::sse2, .prefix = p_none, .reg = 6, .mod = Mod::reg, .pass = true}},
    {0xae, "sfence", {}, emit_nothing, {.needs = Feature::sse, .prefix = p_none, .reg = 7, .mod = Mod::reg, .pass = true}},
    {0xae, "clflush", {Mb}, emit_nothing, {.needs = Feature::clflush, .prefix = p_none, .reg = 7, .dst = Dst::read}},
    {0xae, "clflushopt", {Mb}, emit_nothing, {.needs = Feature::clflushopt, .prefix = p_66, .reg = 7, .dst = Dst::read}},
    {0xae, "clwb", {Mb}, emit_nothing, {.needs = Feature::clwb, .prefix = p_66, .reg = 6, .dst = Dst::read}},
    {0xae, "fxsave", {M_}, emit_fxsave, {.needs = Feature::fxsr, .prefix = p_none, .reg = 0}},
    {0xae, "fxrstor", {M_}, emit_fxrstor, {.needs = Feature::fxsr, .prefix = p_none, .reg = 1}},
    {0xae, "ldmxcsr", {Md}, emit_ldmxcsr, {.needs = Feature::sse, .prefix = p_none, .reg = 2, .pass = true, .fp = true, .dst = Dst::read}},
    {0xae, "stmxcsr", {Md}, emit_stmxcsr, {.needs = Feature::sse, .prefix = p_none, .reg = 3, .pass = true, .fp = true, .dst = Dst::write}},
    {0xae, "xsave", {M_}, emit_xsave, {.needs = Feature::xsave, .prefix = p_none, .reg = 4, .tag = save_plain}},
    {0xae, "xrstor", {M_}, emit_xrstor, {.needs = Feature::xsave, .prefix = p_none, .reg = 5, .tag = save_plain}},
    {0xae, "xsaveopt", {M_}, emit_xsave, {.needs = Feature::xsaveopt, .prefix = p_none, .reg = 6, .tag = save_optimised}},
    {0xc7, "xrstors", {M_}, emit_xrstor, {.needs = Feature::xsaves, .prefix = p_none, .reg = 3, .tag = save_supervisor}},
    {0xc7, "xsavec", {M_}, emit_xsave, {.needs = Feature::xsavec, .prefix = p_none, .reg = 4, .tag = save_compacted}},
    {0xc7, "xsaves", {M_}, emit_xsave, {.needs = Feature::xsaves, .prefix = p_none, .reg = 5, .tag = save_supervisor}},
});
inline constexpr auto rows_simd_state_vex = std::to_array<Row>({
    {0xae,
     "vldmxcsr",
     {Md},
     emit_ldmxcsr,
     {.needs = Feature::avx, .prefix = p_none, .reg = 2, .l = 0, .vex = true, .pass = true, .fp = true, .dst = Dst::read}},
    {0xae,
     "vstmxcsr",
     {Md},
     emit_stmxcsr,
     {.needs = Feature::avx, .prefix = p_none, .reg = 3, .l = 0, .vex = true, .pass = true, .fp = true, .dst = Dst::write}},
});

template <usize M, usize N>
constexpr std::array<Row, M + N> joined(const std::array<Row, M>& a, const std::array<Row, N>& b) {
  std::array<Row, M + N> all{};
  for (usize i = 0; i < M; ++i) all[i] = a[i];
  for (usize i = 0; i < N; ++i) all[M + i] = b[i];
  return all;
}

}  // namespace vmm::tcg::x86
