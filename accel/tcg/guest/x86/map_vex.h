// AVX, AVX2, FMA, F16C and other VEX-encoded vector rows (VEX integer rows are in map_0f38.h). Source: SDM 2.
#pragma once

#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

inline constexpr std::array<Row, 0> rows_vex_0f{};
inline constexpr std::array<Row, 0> rows_vex_0f38{};
inline constexpr std::array<Row, 0> rows_vex_0f3a{};

}  // namespace vmm::tcg::x86
