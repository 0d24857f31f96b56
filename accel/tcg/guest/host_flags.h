// Runs one host instruction from given arithmetic flags and takes its flags back, so that bits which manuals leave undefined are the
// host's own. `cc` values have the layout of ir/block.h. lahf, seto / add, sahf: popf would cost twenty cycles.
#pragma once

#include "accel/tcg/ir/block.h"
#include "src/base/types.h"

#if !defined(__x86_64__)
#error "the interpreter's flags are computed by an x86-64 host"
#endif

namespace vmm::tcg {

constexpr u64 ax_of_cc(u64 cc) { return (cc & 0xd5) << 8 | 0x200 | ((cc >> 11) & 1); }
constexpr u64 cc_of_ax(u64 ax) { return ((ax >> 8) & 0xd5) | (ax & 1) << 11; }

#define HOST_FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define HOST_FLAGS_OUT "\n\tlahf\n\tseto %%al"

}  // namespace vmm::tcg
