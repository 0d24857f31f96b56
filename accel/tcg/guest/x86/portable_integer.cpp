// Vector and MMX integer arithmetic, compares, shifts, logic. Source: SDM 2B and 2C, "Operation" of each instruction.
#include <algorithm>
#include <array>
#include <limits>

#include "accel/tcg/guest/x86/portable_simd.h"

namespace vmm::tcg::x86 {

namespace {

using Args = PortableArgs;

// d = F(a, b), element by element.
template <class T, auto F>
void each(Args& x) {
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, static_cast<T>(F(lane<T>(x.a, i), lane<T>(x.b, i))));
}
// d = F(b).
template <class T, auto F>
void one(Args& x) {
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, static_cast<T>(F(lane<T>(x.b, i))));
}
template <class T>
constexpr T saturate(i64 v) {
  return static_cast<T>(std::clamp<i64>(v, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}

constexpr auto add = [](auto a, auto b) { return a + b; };
constexpr auto sub = [](auto a, auto b) { return a - b; };
constexpr auto and_ = [](u64 a, u64 b) { return a & b; };
constexpr auto andn = [](u64 a, u64 b) { return ~a & b; };
constexpr auto or_ = [](u64 a, u64 b) { return a | b; };
constexpr auto xor_ = [](u64 a, u64 b) { return a ^ b; };
constexpr auto equal = [](auto a, auto b) { return a == b ? ~u64{0} : 0; };
constexpr auto greater = [](auto a, auto b) { return a > b ? ~u64{0} : 0; };
constexpr auto smaller_of = [](auto a, auto b) { return std::min(a, b); };
constexpr auto larger_of = [](auto a, auto b) { return std::max(a, b); };
constexpr auto average = [](u32 a, u32 b) { return (a + b + 1) >> 1; };
template <class T>
constexpr auto add_saturated = [](T a, T b) { return saturate<T>(i64{a} + b); };
template <class T>
constexpr auto sub_saturated = [](T a, T b) { return saturate<T>(i64{a} - b); };
constexpr auto high_signed = [](i16 a, i16 b) { return (i32{a} * b) >> 16; };
constexpr auto high_unsigned = [](u16 a, u16 b) { return (u32{a} * b) >> 16; };
constexpr auto high_rounded = [](i16 a, i16 b) { return ((((i32{a} * b) >> 14) + 1) >> 1); };
constexpr auto low_product = [](u32 a, u32 b) { return a * b; };
constexpr auto even_unsigned = [](u64 a, u64 b) { return (a & 0xffff'ffff) * (b & 0xffff'ffff); };
constexpr auto even_signed = [](u64 a, u64 b) { return static_cast<u64>(i64{static_cast<i32>(a)} * static_cast<i32>(b)); };
constexpr auto sign = [](auto a, auto b) {
  return b < 0 ? static_cast<decltype(a)>(0 - static_cast<u64>(a)) : b == 0 ? decltype(a){0} : a;
};
constexpr auto absolute = [](auto v) { return v < 0 ? 0 - static_cast<u64>(v) : static_cast<u64>(v); };

// Shifts: all elements by one count. Counts past the width give zero, or copies of the sign.
template <class T>
T shifted(T v, u64 count, unsigned kind) {
  constexpr unsigned width = sizeof(T) * 8;
  using S = std::make_signed_t<T>;
  if (kind == 4) return static_cast<T>(static_cast<S>(v) >> std::min<u64>(count, width - 1));
  if (count >= width) return 0;
  return kind == 2 ? static_cast<T>(v >> count) : static_cast<T>(v << count);
}
template <class T, unsigned kind>
void shift(Args& x) {
  const u64 count = lane<u64>(x.b, 0);
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, shifted<T>(lane<T>(x.a, i), count, kind));
}
template <class T, unsigned kind>
void shift_by_immediate(Args& x) {
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, shifted<T>(lane<T>(x.b, i), x.imm(), kind));
}
template <class T, unsigned kind>
void shift_variable(Args& x) {
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, shifted<T>(lane<T>(x.a, i), lane<T>(x.b, i), kind));
}
template <bool left>
void shift_bytes(Args& x) {
  const unsigned count = std::min<unsigned>(x.imm(), 16);
  for (unsigned half = 0; half < x.n; half += 16)
    for (unsigned i = 0; i < 16; ++i) {
      const unsigned from = left ? i - count : i + count;
      x.d[half + i] = from < 16 ? x.b[half + from] : 0;
    }
}

// Within each 128 bits (or 64): results of `a` below those of `b`.
template <class From, class To, class Sat>
void pack(Args& x) {
  const unsigned width = std::min(x.n, 16u), count = width / sizeof(From);
  for (unsigned half = 0; half < x.n; half += width)
    for (unsigned i = 0; i < count; ++i) {
      put_lane<To>(x.d + half, i, static_cast<To>(saturate<Sat>(lane<From>(x.a + half, i))));
      put_lane<To>(x.d + half, count + i, static_cast<To>(saturate<Sat>(lane<From>(x.b + half, i))));
    }
}
template <class T, auto F>
void horizontal(Args& x) {
  const unsigned width = std::min(x.n, 16u), count = width / sizeof(T) / 2;
  for (unsigned half = 0; half < x.n; half += width)
    for (unsigned i = 0; i < count; ++i) {
      put_lane<T>(x.d + half, i, static_cast<T>(F(lane<T>(x.a + half, 2 * i), lane<T>(x.a + half, 2 * i + 1))));
      put_lane<T>(x.d + half, count + i, static_cast<T>(F(lane<T>(x.b + half, 2 * i), lane<T>(x.b + half, 2 * i + 1))));
    }
}
void multiply_add_words(Args& x) {
  for (unsigned i = 0; i < x.n / 4; ++i) {
    const auto product = [&](unsigned k) { return static_cast<u32>(i32{lane<i16>(x.a, k)} * lane<i16>(x.b, k)); };
    put_lane<u32>(x.d, i, product(2 * i) + product(2 * i + 1));
  }
}
void multiply_add_bytes(Args& x) {
  for (unsigned i = 0; i < x.n / 2; ++i) {
    const auto product = [&](unsigned k) { return i32{lane<u8>(x.a, k)} * lane<i8>(x.b, k); };
    put_lane<i16>(x.d, i, saturate<i16>(product(2 * i) + product(2 * i + 1)));
  }
}
void sum_of_differences(Args& x) {
  for (unsigned q = 0; q < x.n / 8; ++q) {
    u64 sum = 0;
    for (unsigned i = 0; i < 8; ++i) sum += static_cast<u64>(std::abs(int{x.a[8 * q + i]} - int{x.b[8 * q + i]}));
    put_lane<u64>(x.d, q, sum);
  }
}
void sums_of_absolute_differences(Args& x) {  // mpsadbw
  for (unsigned half = 0; half < x.n; half += 16) {
    const unsigned control = x.imm() >> (half ? 3 : 0), a_at = control & 4, b_at = (control & 3) * 4;
    for (unsigned i = 0; i < 8; ++i) {
      u16 sum = 0;
      for (unsigned k = 0; k < 4; ++k) sum = static_cast<u16>(sum + std::abs(int{x.a[half + a_at + i + k]} - int{x.b[half + b_at + k]}));
      put_lane<u16>(x.d + half, i, sum);
    }
  }
}
void minimum_position(Args& x) {  // phminposuw
  unsigned at = 0;
  for (unsigned i = 1; i < 8; ++i)
    if (lane<u16>(x.b, i) < lane<u16>(x.b, at)) at = i;
  const u16 least = lane<u16>(x.b, at);
  std::fill_n(x.d, 16, u8{0});
  put_lane<u16>(x.d, 0, least), put_lane<u16>(x.d, 1, static_cast<u16>(at));
}

// ZF: no bit of both; CF: no bit of b that a has not. The other flags are cleared.
template <class T>
void test(Args& x, T mask) {
  T both = 0, rest = 0;
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) {
    const T a = lane<T>(x.d, i), b = lane<T>(x.b, i);
    both |= static_cast<T>(a & b & mask), rest |= static_cast<T>(~a & b & mask);
  }
  x.frame.flags = (x.frame.flags & ~u64{0x8d5}) | (both ? 0 : 0x40) | (rest ? 0 : 1);
}

constexpr PortableEntry table[] = {
    {1, 0x66, 0x63, pack<i16, u8, i8>, true},
    {1, 0x66, 0x64, each<i8, greater>, true},
    {1, 0x66, 0x65, each<i16, greater>, true},
    {1, 0x66, 0x66, each<i32, greater>, true},
    {1, 0x66, 0x67, pack<i16, u8, u8>, true},
    {1, 0x66, 0x6b, pack<i32, u16, i16>, true},
    {1, 0x66, 0x74, each<u8, equal>, true},
    {1, 0x66, 0x75, each<u16, equal>, true},
    {1, 0x66, 0x76, each<u32, equal>, true},
    {1, 0x66, 0x71, shift_by_immediate<u16, 2>, true, 2},
    {1, 0x66, 0x71, shift_by_immediate<u16, 4>, true, 4},
    {1, 0x66, 0x71, shift_by_immediate<u16, 6>, true, 6},
    {1, 0x66, 0x72, shift_by_immediate<u32, 2>, true, 2},
    {1, 0x66, 0x72, shift_by_immediate<u32, 4>, true, 4},
    {1, 0x66, 0x72, shift_by_immediate<u32, 6>, true, 6},
    {1, 0x66, 0x73, shift_by_immediate<u64, 2>, true, 2},
    {1, 0x66, 0x73, shift_by_immediate<u64, 6>, true, 6},
    {1, 0x66, 0x73, shift_bytes<false>, false, 3},
    {1, 0x66, 0x73, shift_bytes<true>, false, 7},
    {1, 0x66, 0xd1, shift<u16, 2>, true},
    {1, 0x66, 0xd2, shift<u32, 2>, true},
    {1, 0x66, 0xd3, shift<u64, 2>, true},
    {1, 0x66, 0xe1, shift<u16, 4>, true},
    {1, 0x66, 0xe2, shift<u32, 4>, true},
    {1, 0x66, 0xf1, shift<u16, 6>, true},
    {1, 0x66, 0xf2, shift<u32, 6>, true},
    {1, 0x66, 0xf3, shift<u64, 6>, true},
    {1, 0x66, 0xd4, each<u64, add>, true},
    {1, 0x66, 0xd5, each<u16, low_product>, true},
    {1, 0x66, 0xd8, each<u8, sub_saturated<u8>>, true},
    {1, 0x66, 0xd9, each<u16, sub_saturated<u16>>, true},
    {1, 0x66, 0xda, each<u8, smaller_of>, true},
    {1, 0x66, 0xdb, each<u64, and_>, true},
    {1, 0x66, 0xdc, each<u8, add_saturated<u8>>, true},
    {1, 0x66, 0xdd, each<u16, add_saturated<u16>>, true},
    {1, 0x66, 0xde, each<u8, larger_of>, true},
    {1, 0x66, 0xdf, each<u64, andn>, true},
    {1, 0x66, 0xe0, each<u8, average>, true},
    {1, 0x66, 0xe3, each<u16, average>, true},
    {1, 0x66, 0xe4, each<u16, high_unsigned>, true},
    {1, 0x66, 0xe5, each<i16, high_signed>, true},
    {1, 0x66, 0xe8, each<i8, sub_saturated<i8>>, true},
    {1, 0x66, 0xe9, each<i16, sub_saturated<i16>>, true},
    {1, 0x66, 0xea, each<i16, smaller_of>, true},
    {1, 0x66, 0xeb, each<u64, or_>, true},
    {1, 0x66, 0xec, each<i8, add_saturated<i8>>, true},
    {1, 0x66, 0xed, each<i16, add_saturated<i16>>, true},
    {1, 0x66, 0xee, each<i16, larger_of>, true},
    {1, 0x66, 0xef, each<u64, xor_>, true},
    {1, 0x66, 0xf4, each<u64, even_unsigned>, true},
    {1, 0x66, 0xf5, multiply_add_words, true},
    {1, 0x66, 0xf6, sum_of_differences, true},
    {1, 0x66, 0xf8, each<u8, sub>, true},
    {1, 0x66, 0xf9, each<u16, sub>, true},
    {1, 0x66, 0xfa, each<u32, sub>, true},
    {1, 0x66, 0xfb, each<u64, sub>, true},
    {1, 0x66, 0xfc, each<u8, add>, true},
    {1, 0x66, 0xfd, each<u16, add>, true},
    {1, 0x66, 0xfe, each<u32, add>, true},
    {1, 0x00, 0x54, each<u64, and_>},
    {1, 0x66, 0x54, each<u64, and_>},
    {1, 0x00, 0x55, each<u64, andn>},
    {1, 0x66, 0x55, each<u64, andn>},
    {1, 0x00, 0x56, each<u64, or_>},
    {1, 0x66, 0x56, each<u64, or_>},
    {1, 0x00, 0x57, each<u64, xor_>},
    {1, 0x66, 0x57, each<u64, xor_>},

    {2, 0x66, 0x01, horizontal<i16, add>, true},
    {2, 0x66, 0x02, horizontal<u32, add>, true},
    {2, 0x66, 0x03, horizontal<i16, add_saturated<i16>>, true},
    {2, 0x66, 0x04, multiply_add_bytes, true},
    {2, 0x66, 0x05, horizontal<i16, sub>, true},
    {2, 0x66, 0x06, horizontal<u32, sub>, true},
    {2, 0x66, 0x07, horizontal<i16, sub_saturated<i16>>, true},
    {2, 0x66, 0x08, each<i8, sign>, true},
    {2, 0x66, 0x09, each<i16, sign>, true},
    {2, 0x66, 0x0a, each<i32, sign>, true},
    {2, 0x66, 0x0b, each<i16, high_rounded>, true},
    {2, 0x66, 0x1c, one<i8, absolute>, true},
    {2, 0x66, 0x1d, one<i16, absolute>, true},
    {2, 0x66, 0x1e, one<i32, absolute>, true},
    {2, 0x66, 0x0e, [](Args& x) { test<u32>(x, 0x8000'0000); }},
    {2, 0x66, 0x0f, [](Args& x) { test<u64>(x, u64{1} << 63); }},
    {2, 0x66, 0x17, [](Args& x) { test<u64>(x, ~u64{0}); }},
    {2, 0x66, 0x28, each<u64, even_signed>},
    {2, 0x66, 0x29, each<u64, equal>},
    {2, 0x66, 0x2b, pack<i32, u16, u16>},
    {2, 0x66, 0x37, each<i64, greater>},
    {2, 0x66, 0x38, each<i8, smaller_of>},
    {2, 0x66, 0x39, each<i32, smaller_of>},
    {2, 0x66, 0x3a, each<u16, smaller_of>},
    {2, 0x66, 0x3b, each<u32, smaller_of>},
    {2, 0x66, 0x3c, each<i8, larger_of>},
    {2, 0x66, 0x3d, each<i32, larger_of>},
    {2, 0x66, 0x3e, each<u16, larger_of>},
    {2, 0x66, 0x3f, each<u32, larger_of>},
    {2, 0x66, 0x40, each<u32, low_product>},
    {2, 0x66, 0x41, minimum_position},
    {2, 0x66, 0x45, shift_variable<u32, 2>, false, -1, 0},
    {2, 0x66, 0x45, shift_variable<u64, 2>, false, -1, 1},
    {2, 0x66, 0x46, shift_variable<u32, 4>, false, -1, 0},
    {2, 0x66, 0x47, shift_variable<u32, 6>, false, -1, 0},
    {2, 0x66, 0x47, shift_variable<u64, 6>, false, -1, 1},
    {3, 0x66, 0x42, sums_of_absolute_differences},
};

}  // namespace

std::span<const PortableEntry> portable_integer() { return table; }

}  // namespace vmm::tcg::x86
