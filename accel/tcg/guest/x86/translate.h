// From bytes to a block.
#pragma once

#include "accel/tcg/guest/x86/cpu.h"

namespace vmm::tcg::x86 {

// GuestOps::translate; the second form needs no CPU.
Translated translate(GuestCpu& g, u64 raw_key, std::span<const u8> bytes, u16 offset, Form form, unsigned limit, ir::Block& block);
// `cuts`: places inside the page before which the block ends.
Translated translate_block(const FeatureSet& features, ModeKey key, std::span<const u8> bytes, u16 offset, Form form, unsigned limit,
                           ir::Block& block, std::span<const u16> cuts = {});
// GuestOps::print: `-d in_asm`.
std::string print_insns(u64 raw_key, std::span<const u8> bytes, u64 address);

}  // namespace vmm::tcg::x86
