// x87: opcodes D8 to DF (and 9B). Source: SDM 2.
#pragma once

#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

inline constexpr std::array<Row, 0> rows_x87{};

}  // namespace vmm::tcg::x86
