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

// Typed operations with flags. T is u8, u16, u32 or u64.
#define HOST_BINARY(name, insn)                                                          \
  template <class T>                                                                     \
  inline T host_##name(T a, T b, u64& cc) {                                              \
    u64 ax;                                                                              \
    asm(insn " %[b], %[a]" HOST_FLAGS_OUT : [a] "+q"(a), "=&a"(ax) : [b] "q"(b) : "cc"); \
    cc = cc_of_ax(ax);                                                                   \
    return a;                                                                            \
  }
// With the carry of `in`.
#define HOST_CARRY(name, insn)                                                                                              \
  template <class T>                                                                                                        \
  inline T host_##name(T a, T b, u64 in, u64& cc) {                                                                         \
    u64 ax;                                                                                                                 \
    asm("btq $0, %[in]\n\t" insn " %[b], %[a]" HOST_FLAGS_OUT : [a] "+&q"(a), "=&a"(ax) : [b] "q"(b), [in] "r"(in) : "cc"); \
    cc = cc_of_ax(ax);                                                                                                      \
    return a;                                                                                                               \
  }
#define HOST_UNARY(name, insn)                                                                            \
  template <class T>                                                                                      \
  inline T host_##name(T a, u64 in, u64& cc) {                                                            \
    u64 ax;                                                                                               \
    asm("btq $0, %[in]\n\t" insn " %[a]" HOST_FLAGS_OUT : [a] "+&q"(a), "=&a"(ax) : [in] "r"(in) : "cc"); \
    cc = cc_of_ax(ax);                                                                                    \
    return a;                                                                                             \
  }
// All flags of `in` loaded; shift by `n`.
#define HOST_SHIFT(name, insn)                                                                    \
  template <class T>                                                                              \
  inline T host_##name(T a, u64 n, u64 in, u64& cc) {                                             \
    u64 ax = ax_of_cc(in);                                                                        \
    asm(HOST_FLAGS_IN insn " %%cl, %[a]" HOST_FLAGS_OUT : [a] "+q"(a), "+a"(ax) : "c"(n) : "cc"); \
    cc = cc_of_ax(ax);                                                                            \
    return a;                                                                                     \
  }
// The operand's register names the width, so the mnemonic needs no suffix.
HOST_BINARY(add, "add")
HOST_BINARY(sub, "sub")
HOST_BINARY(and, "and")
HOST_BINARY(or, "or")
HOST_BINARY(xor, "xor")
HOST_CARRY(adc, "adc")
HOST_CARRY(sbb, "sbb")
HOST_UNARY(inc, "inc")
HOST_UNARY(dec, "dec")
HOST_UNARY(neg, "neg")
HOST_SHIFT(shl, "shl")
HOST_SHIFT(shr, "shr")
HOST_SHIFT(sar, "sar")
HOST_SHIFT(rol, "rol")
HOST_SHIFT(ror, "ror")
template <class T>
inline T host_imul(T a, T b, u64 in, u64& cc) {
  u64 ax = ax_of_cc(in);
  asm(HOST_FLAGS_IN "imul %[b], %[a]" HOST_FLAGS_OUT : [a] "+r"(a), "+a"(ax) : [b] "r"(b) : "cc");
  cc = cc_of_ax(ax);
  return a;
}

}  // namespace vmm::tcg
