// Where RAM blocks lie in this process: a window of addresses whose bits 0–42 no other mapping shares, so that a store that misses RAM by a
// multiple of 2^43 hits nothing (accel/tcg/mem/tables.h). Libraries, heaps and what the kernel places for us lie around 0x0000'…, 0x2aaa'…,
// 0x55…' and 0x7f…'.
#pragma once

#include "src/base/types.h"

namespace vmm::memory {

inline constexpr u64 ram_window_at = 0x2100'0000'0000, ram_window_bytes = 0x180'0000'0000;
// Looks at the process as it is: are all blocks in the window, and is nothing else at its like?
bool ram_window_is_alone();

}  // namespace vmm::memory
