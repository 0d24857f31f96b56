// The VEX forms of vector rows: AVX, AVX2, FMA, F16C, VAES, VPCLMULQDQ (VEX integer rows are in map_0f38.h).
// Source: SDM 2; the tables are in simd_*.h.
#pragma once

#include "accel/tcg/guest/x86/simd_0f.h"
#include "accel/tcg/guest/x86/simd_0f38.h"
#include "accel/tcg/guest/x86/simd_0f3a.h"
#include "accel/tcg/guest/x86/simd_state.h"

namespace vmm::tcg::x86 {

inline constexpr auto rows_vex_0f = joined(vex_rows<count_vex(simd_0f)>(simd_0f), rows_simd_state_vex);
inline constexpr auto rows_vex_0f38 = vex_rows<count_vex(simd_0f38)>(simd_0f38);
inline constexpr auto rows_vex_0f3a = vex_rows<count_vex(simd_0f3a)>(simd_0f3a);

}  // namespace vmm::tcg::x86
