// Binary floating point in integers, as SSE computes it: rounding, flush-to-zero, denormals-are-zero, NaNs and status bits by MXCSR.
// Sources: IEEE 754-2019, SDM 1 §4.8 and chapter 11 (NaN results, masked responses, order of exceptions).
#pragma once

#include <bit>
#include <utility>

#include "src/base/types.h"

namespace vmm::tcg::soft_float {

using u128 = unsigned __int128;

enum Status : u32 { invalid = 1, denormal = 2, zero_divide = 4, overflow = 8, underflow = 16, inexact = 32 };
enum class Rounding : u8 { nearest, down, up, zero };

// The control bits that count and the status so far.
struct Environment {
  Rounding rounding = Rounding::nearest;
  bool flush = false, denormals_are_zero = false;
  u32 status = 0;
  void raise(u32 bits) { status |= bits; }
};

template <class U, int mantissa_bits, int exponent_bits>
struct Format {
  using Bits = U;
  static constexpr int mantissa = mantissa_bits, exponent = exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  static constexpr int least = 1 - bias, greatest = bias;
  static constexpr U sign_bit = U{1} << (mantissa_bits + exponent_bits), quiet_bit = U{1} << (mantissa_bits - 1);
  static constexpr U mantissa_mask = (U{1} << mantissa_bits) - 1, exponent_mask = ((U{1} << exponent_bits) - 1) << mantissa_bits;
  static constexpr U infinity = exponent_mask, indefinite = sign_bit | exponent_mask | quiet_bit;
};
using Single = Format<u32, 23, 8>;
using Double = Format<u64, 52, 11>;

enum class Kind : u8 { zero, number, infinity, nan };
// A number is significand × 2^(exponent − 63) with bit 63 set.
struct Value {
  Kind kind = Kind::zero;
  bool sign = false, signalling = false, was_denormal = false;
  int exponent = 0;
  u64 significand = 0;
};

template <class F>
Value unpack(typename F::Bits bits, const Environment& env) {
  Value v{.sign = (bits & F::sign_bit) != 0};
  const int biased = static_cast<int>((bits & F::exponent_mask) >> F::mantissa);
  const u64 fraction = bits & F::mantissa_mask;
  if (biased == (1 << F::exponent) - 1) {
    v.kind = fraction ? Kind::nan : Kind::infinity;
    v.signalling = fraction && !(bits & F::quiet_bit);
  } else if (biased) {
    v.kind = Kind::number;
    v.exponent = biased - F::bias;
    v.significand = (fraction | u64{1} << F::mantissa) << (63 - F::mantissa);
  } else if (fraction && !env.denormals_are_zero) {
    const int zeros = std::countl_zero(fraction);
    v.kind = Kind::number, v.was_denormal = true;
    v.exponent = F::least + 63 - F::mantissa - zeros;
    v.significand = fraction << zeros;
  }
  return v;
}

inline bool away(Rounding r, bool sign, bool odd, bool half, bool more) {  // half: the first bit dropped; more: any bit behind it
  switch (r) {
    case Rounding::nearest: return half && (more || odd);
    case Rounding::down: return sign && (half || more);
    case Rounding::up: return !sign && (half || more);
    default: return false;
  }
}

// Rounds a number to the format. `sticky`: there is more behind the 64 bits.
template <class F>
typename F::Bits pack(bool sign, int exponent, u64 significand, bool sticky, Environment& env) {
  using U = typename F::Bits;
  const U sign_bits = sign ? F::sign_bit : 0;
  const auto rounded = [&](int drop, bool& lost) -> u64 {  // 64 bits to 64 − drop
    if (drop > 64) return lost = true, away(env.rounding, sign, false, false, true) ? 1 : 0;
    const u64 kept = drop == 64 ? 0 : significand >> drop, half_bit = u64{1} << (drop - 1);
    const bool half = significand & half_bit, more = (significand & (half_bit - 1)) || sticky;
    lost = half || more;
    return kept + away(env.rounding, sign, kept & 1, half, more);
  };
  constexpr int drop = 63 - F::mantissa;
  bool lost = false;
  u64 kept = rounded(drop, lost);
  int top = exponent;
  if (kept >> (F::mantissa + 1)) kept >>= 1, ++top;
  if (top < F::least) {  // tiny, rounded as if there were no least exponent
    if (env.flush) return env.raise(underflow | inexact), sign_bits;
    kept = rounded(drop + F::least - exponent, lost);
    if (lost) env.raise(underflow | inexact);
    return sign_bits | static_cast<U>(kept);  // the least normal number comes out by itself
  }
  if (top > F::greatest) {
    env.raise(overflow | inexact);
    const bool to_infinity =
        env.rounding == Rounding::nearest || (env.rounding == Rounding::up && !sign) || (env.rounding == Rounding::down && sign);
    return sign_bits | (to_infinity ? F::infinity : static_cast<U>(F::infinity - 1));
  }
  if (lost) env.raise(inexact);
  return sign_bits | static_cast<U>(top + F::bias) << F::mantissa | (static_cast<U>(kept) & F::mantissa_mask);
}
template <class F>
typename F::Bits pack(bool sign, int exponent, u128 wide, bool sticky, Environment& env) {  // leading bit anywhere; exponent of bit 127
  const u64 high = static_cast<u64>(wide >> 64);
  const int zeros = high ? std::countl_zero(high) : 64 + std::countl_zero(static_cast<u64>(wide));
  wide <<= zeros;
  return pack<F>(sign, exponent - zeros, static_cast<u64>(wide >> 64), sticky || static_cast<u64>(wide), env);
}

// What two operands with a NaN among them give: the first NaN, quieted.
template <class F>
bool nan_of(typename F::Bits a, typename F::Bits b, const Value& x, const Value& y, Environment& env, typename F::Bits& out) {
  if (x.kind != Kind::nan && y.kind != Kind::nan) return false;
  if (x.signalling || y.signalling) env.raise(invalid);
  out = (x.kind == Kind::nan ? a : b) | F::quiet_bit;
  return true;
}
template <class F>
typename F::Bits refuse(Environment& env) {
  return env.raise(invalid), F::indefinite;
}
inline void note_denormals(const Value& x, const Value& y, Environment& env) {
  if (x.was_denormal || y.was_denormal) env.raise(denormal);
}
template <class F>
typename F::Bits signed_zero(bool sign) {
  return sign ? F::sign_bit : 0;
}

template <class F>
typename F::Bits add(typename F::Bits a, typename F::Bits b, Environment& env, bool subtract = false) {
  Value x = unpack<F>(a, env), y = unpack<F>(b, env);
  typename F::Bits out;
  if (nan_of<F>(a, b, x, y, env, out)) return out;
  y.sign = y.sign != subtract;
  if (x.kind == Kind::infinity || y.kind == Kind::infinity) {
    if (x.kind == y.kind && x.sign != y.sign) return refuse<F>(env);
    note_denormals(x, y, env);
    return F::infinity | signed_zero<F>(x.kind == Kind::infinity ? x.sign : y.sign);
  }
  note_denormals(x, y, env);
  if (x.kind == Kind::zero && y.kind == Kind::zero) return signed_zero<F>(x.sign == y.sign ? x.sign : env.rounding == Rounding::down);
  if (x.kind == Kind::zero) return pack<F>(y.sign, y.exponent, y.significand, false, env);
  if (y.kind == Kind::zero) return pack<F>(x.sign, x.exponent, x.significand, false, env);
  if (x.exponent < y.exponent || (x.exponent == y.exponent && x.significand < y.significand)) std::swap(x, y);
  const int apart = x.exponent - y.exponent;
  const u128 big = u128{x.significand} << 62;
  u128 small = u128{y.significand} << 62;
  const bool sticky = apart > 126 || (small & ((u128{1} << apart) - 1));
  small = apart > 126 ? 0 : small >> apart;
  if (x.sign == y.sign) return pack<F>(x.sign, x.exponent + 2, big + small, sticky, env);
  // What was cut off lies below the difference: one unit less, and more behind it.
  const u128 difference = (big - small - sticky);
  if (!difference && !sticky) return signed_zero<F>(env.rounding == Rounding::down);
  return pack<F>(x.sign, x.exponent + 2, difference, sticky, env);
}

template <class F>
typename F::Bits multiply(typename F::Bits a, typename F::Bits b, Environment& env) {
  const Value x = unpack<F>(a, env), y = unpack<F>(b, env);
  typename F::Bits out;
  if (nan_of<F>(a, b, x, y, env, out)) return out;
  const bool sign = x.sign != y.sign;
  if (x.kind == Kind::infinity || y.kind == Kind::infinity) {
    if (x.kind == Kind::zero || y.kind == Kind::zero) return refuse<F>(env);
    note_denormals(x, y, env);
    return F::infinity | signed_zero<F>(sign);
  }
  note_denormals(x, y, env);
  if (x.kind == Kind::zero || y.kind == Kind::zero) return signed_zero<F>(sign);
  return pack<F>(sign, x.exponent + y.exponent + 1, u128{x.significand} * y.significand, false, env);
}

// 256 bits, for what lies between product and sum.
struct Wide {
  u128 high = 0, low = 0;
  bool lost = false;
  static Wide of(u128 v) { return {.high = v >> 1, .low = v << 127}; }  // one bit of room
  void shift_right(int n) {
    if (n >= 256) return void((lost = lost || high || low, high = low = 0));
    if (n >= 128) lost = lost || low, low = high, high = 0, n -= 128;
    if (!n) return;
    lost = lost || low << (128 - n);
    low = low >> n | high << (128 - n), high >>= n;
  }
};

// a × b + c with one rounding; the signs of product and addend may be changed. NaNs are told in the order a, b, c.
template <class F>
typename F::Bits multiply_add(typename F::Bits a, typename F::Bits b, typename F::Bits c, Environment& env, bool negate_product,
                              bool negate_addend) {
  const Value x = unpack<F>(a, env), y = unpack<F>(b, env);
  Value z = unpack<F>(c, env);
  if (x.signalling || y.signalling || z.signalling) env.raise(invalid);
  if (x.kind == Kind::nan) return a | F::quiet_bit;
  if (y.kind == Kind::nan) return b | F::quiet_bit;
  if (z.kind == Kind::nan) return c | F::quiet_bit;
  const bool sign = (x.sign != y.sign) != negate_product;
  z.sign = z.sign != negate_addend;
  const bool product_infinite = x.kind == Kind::infinity || y.kind == Kind::infinity,
             product_zero = x.kind == Kind::zero || y.kind == Kind::zero;
  if (product_infinite && product_zero) return refuse<F>(env);
  if (product_infinite && z.kind == Kind::infinity && z.sign != sign) return refuse<F>(env);
  note_denormals(x, y, env), note_denormals(z, z, env);
  if (product_infinite || z.kind == Kind::infinity) return F::infinity | signed_zero<F>(product_infinite ? sign : z.sign);
  if (product_zero && z.kind == Kind::zero) return signed_zero<F>(sign == z.sign ? sign : env.rounding == Rounding::down);
  if (product_zero) return pack<F>(z.sign, z.exponent, z.significand, false, env);
  u128 product = u128{x.significand} * y.significand;
  int exponent = x.exponent + y.exponent + 1;
  if (!(product >> 127)) product <<= 1, --exponent;
  if (z.kind == Kind::zero) return pack<F>(sign, exponent, product, false, env);
  Wide p = Wide::of(product), q = Wide::of(u128{z.significand} << 64);
  bool big_sign = sign;
  int big_exponent = exponent, apart = exponent - z.exponent;
  if (apart < 0 || (apart == 0 && (p.high < q.high || (p.high == q.high && p.low < q.low)))) {
    std::swap(p, q);
    big_sign = z.sign, big_exponent = z.exponent, apart = -apart;
  }
  q.shift_right(apart);
  Wide r;
  if (sign == z.sign) {
    r.low = p.low + q.low;
    r.high = p.high + q.high + (r.low < p.low);
  } else {
    const u128 low = p.low - q.low - q.lost;
    const bool borrow = q.lost ? p.low <= q.low : p.low < q.low;
    r.low = low, r.high = p.high - q.high - borrow;
    if (!r.high && !r.low && !q.lost) return signed_zero<F>(env.rounding == Rounding::down);
  }
  if (!r.high) r.high = r.low, r.low = 0, big_exponent -= 128;
  int zeros = 0;
  while (!(r.high >> (127 - zeros))) ++zeros;
  if (zeros) r.high = r.high << zeros | r.low >> (128 - zeros), r.low <<= zeros;
  return pack<F>(big_sign, big_exponent + 1 - zeros, r.high, r.low || q.lost, env);
}

template <class F>
typename F::Bits divide(typename F::Bits a, typename F::Bits b, Environment& env) {
  const Value x = unpack<F>(a, env), y = unpack<F>(b, env);
  typename F::Bits out;
  if (nan_of<F>(a, b, x, y, env, out)) return out;
  const bool sign = x.sign != y.sign;
  if ((x.kind == Kind::infinity && y.kind == Kind::infinity) || (x.kind == Kind::zero && y.kind == Kind::zero)) return refuse<F>(env);
  if (y.kind == Kind::zero && x.kind == Kind::number) return env.raise(zero_divide), F::infinity | signed_zero<F>(sign);
  note_denormals(x, y, env);
  if (x.kind == Kind::infinity || y.kind == Kind::zero) return F::infinity | signed_zero<F>(sign);
  if (x.kind == Kind::zero || y.kind == Kind::infinity) return signed_zero<F>(sign);
  const u128 dividend = u128{x.significand} << 63;
  const u128 quotient = dividend / y.significand;  // 63 or 64 bits
  return pack<F>(sign, x.exponent - y.exponent + 64, quotient, quotient * y.significand != dividend, env);
}

template <class F>
typename F::Bits square_root(typename F::Bits a, Environment& env) {
  const Value x = unpack<F>(a, env);
  if (x.kind == Kind::nan) return x.signalling ? env.raise(invalid) : void(), a | F::quiet_bit;
  if (x.kind == Kind::zero) return signed_zero<F>(x.sign);
  if (x.sign) return refuse<F>(env);
  if (x.kind == Kind::infinity) return a;
  if (x.was_denormal) env.raise(denormal);
  // An even exponent: the radicand lies in bits 126 and below, and its root in 64.
  const bool odd = x.exponent & 1;
  const u128 radicand = u128{x.significand} << (odd ? 64 : 63);
  u128 root = 0, rest = radicand;
  for (int shift = 126; shift >= 0; shift -= 2) {
    const u128 trial = root + (u128{1} << shift);
    root >>= 1;
    if (rest >= trial) rest -= trial, root += u128{1} << shift;
  }
  return pack<F>(false, (x.exponent - odd) / 2 + 64, root, rest != 0, env);
}

// Smaller (or larger) of two: the second if they cannot be told apart.
template <class F>
typename F::Bits least_or_greatest(typename F::Bits a, typename F::Bits b, Environment& env, bool greatest);

enum class Order : u8 { less, equal, greater, unordered };
template <class F>
Order compare(typename F::Bits a, typename F::Bits b, Environment& env, bool quiet) {
  const Value x = unpack<F>(a, env), y = unpack<F>(b, env);
  if (x.kind == Kind::nan || y.kind == Kind::nan) {
    if (!quiet || x.signalling || y.signalling) env.raise(invalid);
    return Order::unordered;
  }
  note_denormals(x, y, env);
  if (x.kind == Kind::zero && y.kind == Kind::zero) return Order::equal;
  const auto rank = [](const Value& v) { return v.kind == Kind::zero ? 0 : v.kind == Kind::infinity ? 2 : 1; };
  if (x.kind != Kind::zero && y.kind != Kind::zero && x.sign != y.sign) return x.sign ? Order::less : Order::greater;
  if (x.kind == Kind::zero) return y.sign ? Order::greater : Order::less;
  if (y.kind == Kind::zero) return x.sign ? Order::less : Order::greater;
  int order = rank(x) - rank(y);
  if (!order && x.kind == Kind::number) {
    order = x.exponent != y.exponent ? x.exponent - y.exponent : x.significand > y.significand ? 1 : x.significand < y.significand ? -1 : 0;
  }
  if (x.sign) order = -order;
  return order < 0 ? Order::less : order ? Order::greater : Order::equal;
}

// To a signed integer of `bits`; what does not fit is the least one.
template <class F>
u64 to_integer(typename F::Bits a, unsigned bits, Environment& env) {
  const Value x = unpack<F>(a, env);
  const u64 refused = u64{1} << (bits - 1);
  const u64 mask = bits == 64 ? ~u64{0} : (u64{1} << bits) - 1;
  if (x.kind == Kind::nan || x.kind == Kind::infinity) return env.raise(invalid), refused;
  if (x.kind == Kind::zero) return 0;
  if (x.exponent > 63) return env.raise(invalid), refused;
  u64 kept = 0;
  bool half = false, more = false;
  if (x.exponent < 0) {
    half = x.exponent == -1, more = x.exponent < -1 || x.significand << 1;
  } else {
    const int drop = 63 - x.exponent;
    kept = x.significand >> drop;
    half = drop && x.significand >> (drop - 1) & 1;
    more = drop > 1 && x.significand << (65 - drop);
  }
  kept += away(env.rounding, x.sign, kept & 1, half, more);
  if (kept > refused || (kept == refused && !x.sign)) return env.raise(invalid), refused;
  if (half || more) env.raise(inexact);
  return (x.sign ? 0 - kept : kept) & mask;
}
template <class F>
typename F::Bits from_integer(i64 v, Environment& env) {
  if (!v) return 0;
  const u64 magnitude = v < 0 ? 0 - static_cast<u64>(v) : static_cast<u64>(v);
  const int zeros = std::countl_zero(magnitude);
  return pack<F>(v < 0, 63 - zeros, magnitude << zeros, false, env);
}
template <class To, class From>
typename To::Bits convert(typename From::Bits a, Environment& env) {
  const Value x = unpack<From>(a, env);
  using U = typename To::Bits;
  const U sign = x.sign ? To::sign_bit : 0;
  if (x.kind == Kind::nan) {
    if (x.signalling) env.raise(invalid);
    const u64 fraction = a & From::mantissa_mask;
    const u64 moved = To::mantissa > From::mantissa ? fraction << (To::mantissa > From::mantissa ? To::mantissa - From::mantissa : 0)
                                                    : fraction >> (From::mantissa > To::mantissa ? From::mantissa - To::mantissa : 0);
    return sign | To::exponent_mask | To::quiet_bit | static_cast<U>(moved);
  }
  if (x.was_denormal) env.raise(denormal);
  if (x.kind == Kind::infinity) return sign | To::infinity;
  if (x.kind == Kind::zero) return sign;
  return pack<To>(x.sign, x.exponent, x.significand, false, env);
}

template <class F>
typename F::Bits least_or_greatest(typename F::Bits a, typename F::Bits b, Environment& env, bool greatest) {
  const auto plain = [&](typename F::Bits v) ->
      typename F::Bits { return env.denormals_are_zero && !(v & F::exponent_mask) ? v & F::sign_bit : v; };
  const Order order = compare<F>(a, b, env, false);
  return plain(order == (greatest ? Order::greater : Order::less) ? a : b);
}

// To an integer in the same format (ROUNDPS and its kin); `quiet_inexact`: without the precision status.
template <class F>
typename F::Bits round_to_integer(typename F::Bits a, Environment& env, bool quiet_inexact) {
  const Value x = unpack<F>(a, env);
  if (x.kind == Kind::nan) return x.signalling ? env.raise(invalid) : void(), a | F::quiet_bit;
  if (x.kind == Kind::infinity) return a;
  if (x.kind == Kind::zero) return signed_zero<F>(x.sign);
  if (x.exponent >= F::mantissa) return a;
  Environment inner{.rounding = env.rounding};
  const u64 magnitude = to_integer<F>(a, 64, inner);
  if (inner.status & inexact && !quiet_inexact) env.raise(inexact);
  if (!magnitude) return signed_zero<F>(x.sign);
  return from_integer<F>(static_cast<i64>(magnitude), inner);
}

}  // namespace vmm::tcg::soft_float
