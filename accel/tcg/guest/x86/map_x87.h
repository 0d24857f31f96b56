// Rows D8–DF and 9B: the x87 unit. Register forms are told by ModRM.reg and, where a row serves one byte only, by ModRM.rm.
// The undocumented aliases that every maker still decodes are rows too. Source: SDM 2A, "Escape opcodes"; APM vol. 5.
#pragma once

#include "accel/tcg/guest/x86/simd_row.h"

namespace vmm::tcg::x86 {

// A plain instruction: waits for pending exceptions, runs by stub, records its own address.
struct X87 {
  constexpr Traits with(auto change) const {
    Traits r = t;
    change(r);
    return r;
  }
  Traits t{.needs = Feature::fpu, .pass = true, .fp = true, .dst = Dst::read, .kind = ir::NativeKind::x87};
  constexpr X87 group(int n) const {
    return {with([=](Traits& t) { t.reg = static_cast<i8>(n); })};
  }
  constexpr X87 registers() const {
    return {with([](Traits& t) { t.mod = Mod::reg, t.modrm = true; })};
  }
  constexpr X87 modrm(int byte) const {
    return {with([=](Traits& t) { t.mod = Mod::reg, t.modrm = true, t.reg = byte >> 3 & 7, t.rm = byte & 7; })};
  }
  constexpr X87 stores() const {
    return {with([](Traits& t) { t.dst = Dst::write; })};
  }
  constexpr X87 reads_flags() const {
    return {with([](Traits& t) { t.needs = Feature::cmov, t.flags_in = fl_all; })};
  }
  constexpr X87 sets_flags() const {
    return {with([](Traits& t) { t.needs = Feature::cmov, t.flags_out = fl_all; })};
  }
  constexpr X87 helper() const {
    return {with([](Traits& t) { t.pass = false; })};
  }
  constexpr operator Traits() const { return t; }
};
constexpr X87 fpu() { return {}; }
constexpr X87 fpu(Feature f) { return {Traits{.needs = f, .pass = true, .fp = true, .dst = Dst::read, .kind = ir::NativeKind::x87}}; }

inline constexpr auto rows_x87 = std::to_array<Row>({
    {0x9b, "fwait", {}, emit_fpu_wait, fpu()},
    {0xd8, "fadd", {Mvd}, nullptr, fpu().group(0)},
    {0xd8, "fadd", {}, nullptr, fpu().registers().group(0)},
    {0xd8, "fmul", {Mvd}, nullptr, fpu().group(1)},
    {0xd8, "fmul", {}, nullptr, fpu().registers().group(1)},
    {0xd8, "fcom", {Mvd}, nullptr, fpu().group(2)},
    {0xd8, "fcom", {}, nullptr, fpu().registers().group(2)},
    {0xd8, "fcomp", {Mvd}, nullptr, fpu().group(3)},
    {0xd8, "fcomp", {}, nullptr, fpu().registers().group(3)},
    {0xd8, "fsub", {Mvd}, nullptr, fpu().group(4)},
    {0xd8, "fsub", {}, nullptr, fpu().registers().group(4)},
    {0xd8, "fsubr", {Mvd}, nullptr, fpu().group(5)},
    {0xd8, "fsubr", {}, nullptr, fpu().registers().group(5)},
    {0xd8, "fdiv", {Mvd}, nullptr, fpu().group(6)},
    {0xd8, "fdiv", {}, nullptr, fpu().registers().group(6)},
    {0xd8, "fdivr", {Mvd}, nullptr, fpu().group(7)},
    {0xd8, "fdivr", {}, nullptr, fpu().registers().group(7)},
    {0xd9, "fld", {Mvd}, nullptr, fpu().group(0)},
    {0xd9, "fst", {Mvd}, nullptr, fpu().stores().group(2)},
    {0xd9, "fstp", {Mvd}, nullptr, fpu().stores().group(3)},
    {0xd9, "fldenv", {M_}, emit_fpu_load_environment, fpu().helper().group(4)},
    {0xd9, "fldcw", {Mw}, emit_fpu_load_control, fpu().group(5)},
    {0xd9, "fnstenv", {M_}, emit_fpu_store_environment, fpu().helper().group(6)},
    {0xd9, "fnstcw", {Mw}, emit_fpu_store_control, fpu().stores().group(7)},
    {0xd9, "fld", {}, nullptr, fpu().registers().group(0)},
    {0xd9, "fxch", {}, nullptr, fpu().registers().group(1)},
    {0xd9, "fnop", {}, nullptr, fpu().modrm(0xd0)},
    {0xd9, "fstp", {}, nullptr, fpu().registers().group(3)},
    {0xd9, "fchs", {}, nullptr, fpu().modrm(0xe0)},
    {0xd9, "fabs", {}, nullptr, fpu().modrm(0xe1)},
    {0xd9, "ftst", {}, nullptr, fpu().modrm(0xe4)},
    {0xd9, "fxam", {}, nullptr, fpu().modrm(0xe5)},
    {0xd9, "fld1", {}, nullptr, fpu().modrm(0xe8)},
    {0xd9, "fldl2t", {}, nullptr, fpu().modrm(0xe9)},
    {0xd9, "fldl2e", {}, nullptr, fpu().modrm(0xea)},
    {0xd9, "fldpi", {}, nullptr, fpu().modrm(0xeb)},
    {0xd9, "fldlg2", {}, nullptr, fpu().modrm(0xec)},
    {0xd9, "fldln2", {}, nullptr, fpu().modrm(0xed)},
    {0xd9, "fldz", {}, nullptr, fpu().modrm(0xee)},
    {0xd9, "f2xm1", {}, nullptr, fpu().modrm(0xf0)},
    {0xd9, "fyl2x", {}, nullptr, fpu().modrm(0xf1)},
    {0xd9, "fptan", {}, nullptr, fpu().modrm(0xf2)},
    {0xd9, "fpatan", {}, nullptr, fpu().modrm(0xf3)},
    {0xd9, "fxtract", {}, nullptr, fpu().modrm(0xf4)},
    {0xd9, "fprem1", {}, nullptr, fpu().modrm(0xf5)},
    {0xd9, "fdecstp", {}, nullptr, fpu().modrm(0xf6)},
    {0xd9, "fincstp", {}, nullptr, fpu().modrm(0xf7)},
    {0xd9, "fprem", {}, nullptr, fpu().modrm(0xf8)},
    {0xd9, "fyl2xp1", {}, nullptr, fpu().modrm(0xf9)},
    {0xd9, "fsqrt", {}, nullptr, fpu().modrm(0xfa)},
    {0xd9, "fsincos", {}, nullptr, fpu().modrm(0xfb)},
    {0xd9, "frndint", {}, nullptr, fpu().modrm(0xfc)},
    {0xd9, "fscale", {}, nullptr, fpu().modrm(0xfd)},
    {0xd9, "fsin", {}, nullptr, fpu().modrm(0xfe)},
    {0xd9, "fcos", {}, nullptr, fpu().modrm(0xff)},
    {0xda, "fiadd", {Mvd}, nullptr, fpu().group(0)},
    {0xda, "fimul", {Mvd}, nullptr, fpu().group(1)},
    {0xda, "ficom", {Mvd}, nullptr, fpu().group(2)},
    {0xda, "ficomp", {Mvd}, nullptr, fpu().group(3)},
    {0xda, "fisub", {Mvd}, nullptr, fpu().group(4)},
    {0xda, "fisubr", {Mvd}, nullptr, fpu().group(5)},
    {0xda, "fidiv", {Mvd}, nullptr, fpu().group(6)},
    {0xda, "fidivr", {Mvd}, nullptr, fpu().group(7)},
    {0xda, "fcmovb", {}, nullptr, fpu().reads_flags().registers().group(0)},
    {0xda, "fcmove", {}, nullptr, fpu().reads_flags().registers().group(1)},
    {0xda, "fcmovbe", {}, nullptr, fpu().reads_flags().registers().group(2)},
    {0xda, "fcmovu", {}, nullptr, fpu().reads_flags().registers().group(3)},
    {0xda, "fucompp", {}, nullptr, fpu().modrm(0xe9)},
    {0xdb, "fild", {Mvd}, nullptr, fpu().group(0)},
    {0xdb, "fisttp", {Mvd}, nullptr, fpu(Feature::sse3).stores().group(1)},
    {0xdb, "fist", {Mvd}, nullptr, fpu().stores().group(2)},
    {0xdb, "fistp", {Mvd}, nullptr, fpu().stores().group(3)},
    {0xdb, "fld", {Mt}, nullptr, fpu().group(5)},
    {0xdb, "fstp", {Mt}, nullptr, fpu().stores().group(7)},
    {0xdb, "fcmovnb", {}, nullptr, fpu().reads_flags().registers().group(0)},
    {0xdb, "fcmovne", {}, nullptr, fpu().reads_flags().registers().group(1)},
    {0xdb, "fcmovnbe", {}, nullptr, fpu().reads_flags().registers().group(2)},
    {0xdb, "fcmovnu", {}, nullptr, fpu().reads_flags().registers().group(3)},
    {0xdb, "feni", {}, emit_fpu_nothing, fpu().helper().modrm(0xe0)},
    {0xdb, "fdisi", {}, emit_fpu_nothing, fpu().helper().modrm(0xe1)},
    {0xdb, "fnclex", {}, emit_fpu_clear, fpu().modrm(0xe2)},
    {0xdb, "fninit", {}, emit_fpu_init, fpu().helper().modrm(0xe3)},
    {0xdb, "fsetpm", {}, emit_fpu_nothing, fpu().helper().modrm(0xe4)},
    {0xdb, "fucomi", {}, nullptr, fpu().sets_flags().registers().group(5)},
    {0xdb, "fcomi", {}, nullptr, fpu().sets_flags().registers().group(6)},
    {0xdc, "fadd", {Mvq}, nullptr, fpu().group(0)},
    {0xdc, "fmul", {Mvq}, nullptr, fpu().group(1)},
    {0xdc, "fcom", {Mvq}, nullptr, fpu().group(2)},
    {0xdc, "fcomp", {Mvq}, nullptr, fpu().group(3)},
    {0xdc, "fsub", {Mvq}, nullptr, fpu().group(4)},
    {0xdc, "fsubr", {Mvq}, nullptr, fpu().group(5)},
    {0xdc, "fdiv", {Mvq}, nullptr, fpu().group(6)},
    {0xdc, "fdivr", {Mvq}, nullptr, fpu().group(7)},
    {0xdc, "fadd", {}, nullptr, fpu().registers().group(0)},
    {0xdc, "fmul", {}, nullptr, fpu().registers().group(1)},
    {0xdc, "fcom", {}, nullptr, fpu().registers().group(2)},
    {0xdc, "fcomp", {}, nullptr, fpu().registers().group(3)},
    {0xdc, "fsubr", {}, nullptr, fpu().registers().group(4)},
    {0xdc, "fsub", {}, nullptr, fpu().registers().group(5)},
    {0xdc, "fdivr", {}, nullptr, fpu().registers().group(6)},
    {0xdc, "fdiv", {}, nullptr, fpu().registers().group(7)},
    {0xdd, "fld", {Mvq}, nullptr, fpu().group(0)},
    {0xdd, "fisttp", {Mvq}, nullptr, fpu(Feature::sse3).stores().group(1)},
    {0xdd, "fst", {Mvq}, nullptr, fpu().stores().group(2)},
    {0xdd, "fstp", {Mvq}, nullptr, fpu().stores().group(3)},
    {0xdd, "frstor", {M_}, emit_fpu_restore, fpu().helper().group(4)},
    {0xdd, "fnsave", {M_}, emit_fpu_save, fpu().helper().group(6)},
    {0xdd, "fnstsw", {Mw}, emit_fpu_store_status, fpu().stores().group(7)},
    {0xdd, "ffree", {}, nullptr, fpu().registers().group(0)},
    {0xdd, "fxch", {}, nullptr, fpu().registers().group(1)},
    {0xdd, "fst", {}, nullptr, fpu().registers().group(2)},
    {0xdd, "fstp", {}, nullptr, fpu().registers().group(3)},
    {0xdd, "fucom", {}, nullptr, fpu().registers().group(4)},
    {0xdd, "fucomp", {}, nullptr, fpu().registers().group(5)},
    {0xde, "fiadd", {Mvw}, nullptr, fpu().group(0)},
    {0xde, "fimul", {Mvw}, nullptr, fpu().group(1)},
    {0xde, "ficom", {Mvw}, nullptr, fpu().group(2)},
    {0xde, "ficomp", {Mvw}, nullptr, fpu().group(3)},
    {0xde, "fisub", {Mvw}, nullptr, fpu().group(4)},
    {0xde, "fisubr", {Mvw}, nullptr, fpu().group(5)},
    {0xde, "fidiv", {Mvw}, nullptr, fpu().group(6)},
    {0xde, "fidivr", {Mvw}, nullptr, fpu().group(7)},
    {0xde, "faddp", {}, nullptr, fpu().registers().group(0)},
    {0xde, "fmulp", {}, nullptr, fpu().registers().group(1)},
    {0xde, "fcomp", {}, nullptr, fpu().registers().group(2)},
    {0xde, "fcompp", {}, nullptr, fpu().modrm(0xd9)},
    {0xde, "fsubrp", {}, nullptr, fpu().registers().group(4)},
    {0xde, "fsubp", {}, nullptr, fpu().registers().group(5)},
    {0xde, "fdivrp", {}, nullptr, fpu().registers().group(6)},
    {0xde, "fdivp", {}, nullptr, fpu().registers().group(7)},
    {0xdf, "fild", {Mvw}, nullptr, fpu().group(0)},
    {0xdf, "fisttp", {Mvw}, nullptr, fpu(Feature::sse3).stores().group(1)},
    {0xdf, "fist", {Mvw}, nullptr, fpu().stores().group(2)},
    {0xdf, "fistp", {Mvw}, nullptr, fpu().stores().group(3)},
    {0xdf, "fbld", {Mt}, nullptr, fpu().group(4)},
    {0xdf, "fild", {Mvq}, nullptr, fpu().group(5)},
    {0xdf, "fbstp", {Mt}, nullptr, fpu().stores().group(6)},
    {0xdf, "fistp", {Mvq}, nullptr, fpu().stores().group(7)},
    {0xdf, "ffreep", {}, nullptr, fpu().registers().group(0)},
    {0xdf, "fxch", {}, nullptr, fpu().registers().group(1)},
    {0xdf, "fstp", {}, nullptr, fpu().registers().group(2)},
    {0xdf, "fstp", {}, nullptr, fpu().registers().group(3)},
    {0xdf, "fnstsw", {AX}, emit_fpu_store_status, fpu().stores().modrm(0xe0)},
    {0xdf, "fucomip", {}, nullptr, fpu().sets_flags().registers().group(5)},
    {0xdf, "fcomip", {}, nullptr, fpu().sets_flags().registers().group(6)},
});

}  // namespace vmm::tcg::x86
