// System instructions. Source: SDM 2 and 3A.
#pragma once

#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

inline constexpr std::array<Row, 0> rows_system_one{};
inline constexpr std::array<Row, 0> rows_system_0f{};

}  // namespace vmm::tcg::x86
