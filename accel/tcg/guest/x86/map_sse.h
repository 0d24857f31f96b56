// The legacy forms of MMX, SSE to SSE4.2, SSE4a, AES, PCLMUL, SHA and GFNI rows, and FXSAVE and its kin.
// Source: SDM 2; the tables are in simd_*.h.
#pragma once

#include "accel/tcg/guest/x86/simd_0f.h"
#include "accel/tcg/guest/x86/simd_0f38.h"
#include "accel/tcg/guest/x86/simd_0f3a.h"
#include "accel/tcg/guest/x86/simd_state.h"

namespace vmm::tcg::x86 {

inline constexpr auto rows_sse_0f = joined(legacy_rows<count_legacy(simd_0f)>(simd_0f), rows_simd_state);
inline constexpr auto rows_sse_0f38 = legacy_rows<count_legacy(simd_0f38)>(simd_0f38);
inline constexpr auto rows_sse_0f3a = legacy_rows<count_legacy(simd_0f3a)>(simd_0f3a);

}  // namespace vmm::tcg::x86
