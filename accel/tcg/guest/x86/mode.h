// ModeKey: everything about the CPU's mode that a translated block depends on (translator.md §5). Two blocks with equal key and
// equal bytes are equal.
#pragma once

#include "src/base/types.h"

namespace vmm::tcg::x86 {

struct ModeKey {
  u64 raw = 0;
  enum Bit : u64 {
    code64 = 1 << 0,   // 64-bit mode (CS.L and LMA)
    code32 = 1 << 1,   // CS.D, outside 64-bit mode
    stack32 = 1 << 2,  // SS.B, outside 64-bit mode
    cpl3 = 1 << 3,
    flat = 1 << 4,      // CS, SS, DS, ES: base 0, limit 4 GiB, usable and writable as needed (always set in 64-bit mode)
    fs_plain = 1 << 5,  // limit 4 GiB, usable, writable; any base (always set in 64-bit mode)
    gs_plain = 1 << 6,
    x87_ok = 1 << 7,   // CR0.EM = TS = 0
    sse_ok = 1 << 8,   // CR4.OSFXSR and CR0.EM = 0; `ts` apart
    avx_ok = 1 << 9,   // protected mode, CR4.OSXSAVE, XCR0 has bits 1 and 2; `ts` apart
    ferr = 1 << 10,    // CR0.NE = 0
    step = 1 << 11,    // TF or an instruction breakpoint: blocks of one instruction
    shadow = 1 << 12,  // the first instruction stands in a STI or MOV SS shadow
    icount = 1 << 13,
    protected_ = 1 << 14,  // CR0.PE and not virtual-8086
    v86 = 1 << 15,
    cpl0 = 1 << 16,
    ts = 1 << 17,  // CR0.TS (tells #NM from #UD when a unit is off)
    em = 1 << 18,  // CR0.EM
    mp = 1 << 19,  // CR0.MP
  };
  // From this bit on, for 24 bits: the set of places at which blocks end for a debugger's breakpoints (vm::Debug::cuts_of); 0: none.
  static constexpr unsigned cuts_shift = 32;
  static constexpr u64 cuts_mask = u64{0xff'ffff} << cuts_shift;
  constexpr bool has(Bit b) const { return raw & b; }
  constexpr unsigned code_bits() const { return has(code64) ? 64 : has(code32) ? 32 : 16; }
  constexpr unsigned stack_bytes() const { return has(code64) ? 8 : has(stack32) ? 4 : 2; }
  constexpr u64 ip_mask() const { return has(code64) ? ~u64{0} : 0xffff'ffff; }
};

}  // namespace vmm::tcg::x86
