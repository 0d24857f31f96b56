// Leaf helpers of integer instructions: each runs the host's own instruction. Source: SDM 2; undefined flags are the host's.
#include <sys/random.h>

#include "accel/tcg/guest/host_flags.h"
#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/helpers.h"

namespace vmm::tcg::x86::helper {

namespace {
constexpr u64 cc_and_count_mask = 0xffff'ffff;
}

// a OP= b, flags in and out by c. In all of these: a first operand, b second, c flags (shld, shrd: count in bits 32 and up).
u64 mul8(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), r = a & 0xff;
  asm("movq %[r], %%r8\n\t" HOST_FLAGS_IN "movq %%r8, %%rax\n\tmulb %b[b]\n\tmovzwl %%ax, %k[r]" HOST_FLAGS_OUT
      : [r] "+r"(r), "+a"(ax)
      : [b] "r"(b)
      : "r8", "cc");
  g.cc_out = cc_of_ax(ax);
  return r;
}
u64 imul8(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), r = a & 0xff;
  asm("movq %[r], %%r8\n\t" HOST_FLAGS_IN "movq %%r8, %%rax\n\timulb %b[b]\n\tmovzwl %%ax, %k[r]" HOST_FLAGS_OUT
      : [r] "+r"(r), "+a"(ax)
      : [b] "r"(b)
      : "r8", "cc");
  g.cc_out = cc_of_ax(ax);
  return r;
}
u64 mul16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\tmulw %w[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  low &= 0xffff, high &= 0xffff;
  low |= high << 16;
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 imul16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\timulw %w[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  low &= 0xffff, high &= 0xffff;
  low |= high << 16;
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 mul32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\tmull %k[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  low &= 0xffff'ffff, high &= 0xffff'ffff;
  low |= high << 32;
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 imul32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\timull %k[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  low &= 0xffff'ffff, high &= 0xffff'ffff;
  low |= high << 32;
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 mul64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\tmulq %q[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 imul64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c), low = a, high = 0;
  asm(HOST_FLAGS_IN "movq %[low], %%rax\n\timulq %q[b]\n\tmovq %%rax, %[low]" HOST_FLAGS_OUT
      : [low] "+r"(low), "+d"(high), "+a"(ax)
      : [b] "r"(b)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  return low;
}
u64 mulhi_u64(GuestCpu&, u64 a, u64 b, u64) { return static_cast<u64>(u128{a} * b >> 64); }
u64 mulhi_s64(GuestCpu&, u64 a, u64 b, u64) {
  return static_cast<u64>(static_cast<__int128>(static_cast<i64>(a)) * static_cast<i64>(b) >> 64);
}

u64 rcl8(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u8 x = static_cast<u8>(a);
  asm(HOST_FLAGS_IN "rclb %%cl, %[x]" HOST_FLAGS_OUT : [x] "+q"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcl16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "rclw %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcl32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "rcll %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcl64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "rclq %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcr8(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u8 x = static_cast<u8>(a);
  asm(HOST_FLAGS_IN "rcrb %%cl, %[x]" HOST_FLAGS_OUT : [x] "+q"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcr16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "rcrw %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcr32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "rcrl %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 rcr64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "rcrq %%cl, %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : "c"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shld16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u16 x = static_cast<u16>(a), y = static_cast<u16>(b);
  asm(HOST_FLAGS_IN "shldw %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shld32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u32 x = static_cast<u32>(a), y = static_cast<u32>(b);
  asm(HOST_FLAGS_IN "shldl %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shld64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u64 x = static_cast<u64>(a), y = static_cast<u64>(b);
  asm(HOST_FLAGS_IN "shldq %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shrd16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u16 x = static_cast<u16>(a), y = static_cast<u16>(b);
  asm(HOST_FLAGS_IN "shrdw %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shrd32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u32 x = static_cast<u32>(a), y = static_cast<u32>(b);
  asm(HOST_FLAGS_IN "shrdl %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 shrd64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c & cc_and_count_mask);
  u64 x = static_cast<u64>(a), y = static_cast<u64>(b);
  asm(HOST_FLAGS_IN "shrdq %%cl, %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y), "c"(c >> 32) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
// The flags of bt a, b.
u64 bt_flags(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  asm(HOST_FLAGS_IN "btq %[b], %[a]" HOST_FLAGS_OUT : "+a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");
  g.cc_out = cc_of_ax(ax);
  return a;
}
u64 bsf16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = static_cast<u16>(b), y = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "bsfw %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bsf32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = static_cast<u32>(b), y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "bsfl %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bsf64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = static_cast<u64>(b), y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "bsfq %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bsr16(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = static_cast<u16>(b), y = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "bsrw %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bsr32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = static_cast<u32>(b), y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "bsrl %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bsr64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = static_cast<u64>(b), y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "bsrq %[y], %[x]" HOST_FLAGS_OUT : [x] "+r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 tzcnt16(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = 0, y = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "tzcntw %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 tzcnt32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "tzcntl %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 tzcnt64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "tzcntq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 lzcnt16(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = 0, y = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "lzcntw %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 lzcnt32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "lzcntl %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 lzcnt64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "lzcntq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 popcnt16(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u16 x = 0, y = static_cast<u16>(a);
  asm(HOST_FLAGS_IN "popcntw %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 popcnt32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "popcntl %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 popcnt64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "popcntq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsi32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "blsil %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsi64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "blsiq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsr32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "blsrl %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsr64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "blsrq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsmsk32(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a);
  asm(HOST_FLAGS_IN "blsmskl %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 blsmsk64(GuestCpu& g, u64 a, u64, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a);
  asm(HOST_FLAGS_IN "blsmskq %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 andn32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a), z = static_cast<u32>(b);
  asm(HOST_FLAGS_IN "andnl %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 andn64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a), z = static_cast<u64>(b);
  asm(HOST_FLAGS_IN "andnq %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bextr32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a), z = static_cast<u32>(b);
  asm(HOST_FLAGS_IN "bextrl %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bextr64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a), z = static_cast<u64>(b);
  asm(HOST_FLAGS_IN "bextrq %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bzhi32(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u32 x = 0, y = static_cast<u32>(a), z = static_cast<u32>(b);
  asm(HOST_FLAGS_IN "bzhil %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 bzhi64(GuestCpu& g, u64 a, u64 b, u64 c) {
  u64 ax = ax_of_cc(c);
  u64 x = 0, y = static_cast<u64>(a), z = static_cast<u64>(b);
  asm(HOST_FLAGS_IN "bzhiq %[z], %[y], %[x]" HOST_FLAGS_OUT : [x] "=&r"(x), "+a"(ax) : [y] "r"(y), [z] "r"(z) : "cc");
  g.cc_out = cc_of_ax(ax);
  return x;
}
u64 pdep(GuestCpu&, u64 a, u64 b, u64) {
  u64 x;
  asm("pdepq %[b], %[a], %[x]" : [x] "=r"(x) : [a] "r"(a), [b] "r"(b));
  return x;
}
u64 pext(GuestCpu&, u64 a, u64 b, u64) {
  u64 x;
  asm("pextq %[b], %[a], %[x]" : [x] "=r"(x) : [a] "r"(a), [b] "r"(b));
  return x;
}
u64 adcx32(GuestCpu& g, u64 a, u64 b, u64 c) {
  const u64 in = c & ir::cc_carry ? 1 : 0;
  const u128 sum = u128{a} + b + in;
  g.cc_out = (c & ~ir::cc_carry) | (static_cast<u64>(sum >> 32) & 1 ? ir::cc_carry : 0);
  return static_cast<u32>(sum);
}
u64 adcx64(GuestCpu& g, u64 a, u64 b, u64 c) {
  const u64 in = c & ir::cc_carry ? 1 : 0;
  const u128 sum = u128{a} + b + in;
  g.cc_out = (c & ~ir::cc_carry) | (static_cast<u64>(sum >> 64) & 1 ? ir::cc_carry : 0);
  return static_cast<u64>(sum);
}
u64 adox32(GuestCpu& g, u64 a, u64 b, u64 c) {
  const u64 in = c & ir::cc_overflow ? 1 : 0;
  const u128 sum = u128{a} + b + in;
  g.cc_out = (c & ~ir::cc_overflow) | (static_cast<u64>(sum >> 32) & 1 ? ir::cc_overflow : 0);
  return static_cast<u32>(sum);
}
u64 adox64(GuestCpu& g, u64 a, u64 b, u64 c) {
  const u64 in = c & ir::cc_overflow ? 1 : 0;
  const u128 sum = u128{a} + b + in;
  g.cc_out = (c & ~ir::cc_overflow) | (static_cast<u64>(sum >> 64) & 1 ? ir::cc_overflow : 0);
  return static_cast<u64>(sum);
}
u64 crc32_8(GuestCpu&, u64 a, u64 b, u64) {
  u64 x = static_cast<u32>(a);
  asm("crc32b %[b], %k[x]" : [x] "+r"(x) : [b] "q"(static_cast<u8>(b)));
  return x;
}
u64 crc32_16(GuestCpu&, u64 a, u64 b, u64) {
  u64 x = static_cast<u32>(a);
  asm("crc32w %[b], %k[x]" : [x] "+r"(x) : [b] "r"(static_cast<u16>(b)));
  return x;
}
u64 crc32_32(GuestCpu&, u64 a, u64 b, u64) {
  u64 x = static_cast<u32>(a);
  asm("crc32l %[b], %k[x]" : [x] "+r"(x) : [b] "r"(static_cast<u32>(b)));
  return x;
}
u64 crc32_64(GuestCpu&, u64 a, u64 b, u64) {
  u64 x = static_cast<u32>(a);
  asm("crc32q %[b], %q[x]" : [x] "+r"(x) : [b] "r"(static_cast<u64>(b)));
  return x;
}

// Decimal adjust: 64-bit code cannot ask the host. Source: SDM 2, "DAA" and neighbours; what it leaves undefined is as Zen's 32-bit code
// shows it: OF is that of the whole addition or subtraction, AAA and AAS judge all of AX, AAD is an addition of bytes.
namespace {
u64 low_parity(u64 v) { return __builtin_parity(v & 0xff) ? 0 : ir::cc_parity; }
u64 result_flags(u8 al) { return (al == 0 ? ir::cc_zero : 0) | (al & 0x80 ? ir::cc_sign : 0) | low_parity(al); }
u64 word_flags(u16 ax) { return (ax == 0 ? ir::cc_zero : 0) | (ax & 0x8000 ? ir::cc_sign : 0) | low_parity(ax); }
}  // namespace
u64 daa(GuestCpu& g, u64 ax, u64, u64 c) {
  const u8 old = static_cast<u8>(ax);
  u8 al = old;
  u64 cc = 0;
  if ((al & 15) > 9 || (c & ir::cc_adjust)) al = static_cast<u8>(al + 6), cc |= ir::cc_adjust;
  if (old > 0x99 || (c & ir::cc_carry)) al = static_cast<u8>(al + 0x60), cc |= ir::cc_carry;
  if (~old & al & 0x80) cc |= ir::cc_overflow;
  g.cc_out = cc | result_flags(al);
  return (ax & 0xff00) | al;
}
u64 das(GuestCpu& g, u64 ax, u64, u64 c) {
  const u8 old = static_cast<u8>(ax);
  u8 al = old;
  u64 cc = 0;
  if ((al & 15) > 9 || (c & ir::cc_adjust)) {
    if (al < 6) cc |= ir::cc_carry;
    al = static_cast<u8>(al - 6), cc |= ir::cc_adjust;
  }
  if (old > 0x99 || (c & ir::cc_carry)) al = static_cast<u8>(al - 0x60), cc |= ir::cc_carry;
  if (old & ~al & 0x80) cc |= ir::cc_overflow;
  g.cc_out = cc | result_flags(al);
  return (ax & 0xff00) | al;
}
u64 aaa(GuestCpu& g, u64 ax, u64, u64 c) {
  const bool adjust = (ax & 15) > 9 || (c & ir::cc_adjust);
  const u16 now = static_cast<u16>(ax + (adjust ? 0x106 : 0));
  g.cc_out = word_flags(now) | (adjust ? ir::cc_adjust | ir::cc_carry : 0) | (~ax & now & 0x8000 ? ir::cc_overflow : 0);
  return now & 0xff0f;
}
u64 aas(GuestCpu& g, u64 ax, u64, u64 c) {
  const bool adjust = (ax & 15) > 9 || (c & ir::cc_adjust);
  const u16 now = static_cast<u16>(ax - (adjust ? 0x106 : 0));
  g.cc_out = word_flags(now) | (adjust ? ir::cc_adjust | ir::cc_carry : 0) | (ax & ~now & 0x8000 ? ir::cc_overflow : 0);
  return now & 0xff0f;
}
u64 aam(GuestCpu& g, u64 ax, u64 base, u64) {
  base &= 0xff;
  const u8 al = static_cast<u8>(ax);
  g.cc_out = result_flags(static_cast<u8>(al % base));
  return u64{static_cast<u8>(al / base)} << 8 | al % base;
}
u64 aad(GuestCpu& g, u64 ax, u64 base, u64) {
  const u8 a = static_cast<u8>(ax), b = static_cast<u8>((ax >> 8) * (base & 0xff)), sum = static_cast<u8>(a + b);
  g.cc_out = result_flags(sum) | (sum < a ? ir::cc_carry : 0) | ((a ^ b ^ sum) & 0x10 ? ir::cc_adjust : 0) |
             (~(a ^ b) & (a ^ sum) & 0x80 ? ir::cc_overflow : 0);
  return sum;
}

// Random numbers from the host's kernel; always succeed: CF alone set.
u64 rdrand(GuestCpu& g, u64, u64, u64) {
  u64 v = 0;
  if (getrandom(&v, sizeof v, GRND_NONBLOCK) != sizeof v) return g.cc_out = 0, 0;
  g.cc_out = ir::cc_carry;
  return v;
}
u64 rdseed(GuestCpu& g, u64 a, u64 b, u64 c) { return rdrand(g, a, b, c); }

}  // namespace vmm::tcg::x86::helper
