// The x87's 80-bit numbers in integers: unpacking, rounding to the precision and direction of the control word, C1, and what an unmasked
// exception leaves behind. Sources: SDM 1 §4.2.2 and §4.8 (formats, NaNs, rounding), §8.1.5, §8.5 (exceptions and their responses).
#pragma once

#include "accel/tcg/guest/x86/soft_float.h"

namespace vmm::tcg::soft_float {

struct Extended {
  u64 mantissa = 0;
  u16 top = 0;  // sign and exponent
};
inline constexpr int extended_bias = 16383, extended_least = -16382, extended_greatest = 16383, wrapped_exponent = 24576;
inline constexpr u64 integer_bit = u64{1} << 63, extended_quiet = u64{1} << 62;
inline constexpr Extended extended_indefinite{.mantissa = integer_bit | extended_quiet, .top = 0xffff};

inline Extended extended_zero(bool sign) { return {.mantissa = 0, .top = static_cast<u16>(sign ? 0x8000 : 0)}; }
inline Extended extended_infinity(bool sign) { return {.mantissa = integer_bit, .top = static_cast<u16>(sign ? 0xffff : 0x7fff)}; }

// What a compiler of 1980 could still write and the unit no longer reads: pseudo-NaN, pseudo-infinity, unnormal.
inline bool unsupported(const Extended& v) { return v.top & 0x7fff && !(v.mantissa & integer_bit); }

inline Value unpack(const Extended& e) {
  Value v{.sign = e.top >> 15 != 0};
  const int biased = e.top & 0x7fff;
  if (biased == 0x7fff) {
    const bool nan = e.mantissa << 1;
    v.kind = nan ? Kind::nan : Kind::infinity;
    v.signalling = nan && !(e.mantissa & extended_quiet);
    v.significand = e.mantissa;
    return v;
  }
  if (!e.mantissa) return v;
  const int zeros = std::countl_zero(e.mantissa);
  v.kind = Kind::number, v.was_denormal = !biased;
  v.exponent = (biased ? biased : 1) - extended_bias - zeros;
  v.significand = e.mantissa << zeros;
  return v;
}

// The unit as arithmetic sees it: control word, status word. A masked exception sets its flag; an unmasked one that is found before the
// result (invalid, denormal, zero divide) also stops the instruction.
struct Unit {
  u16 control = 0x37f, status = 0;
  bool stopped = false;

  Rounding rounding() const {
    constexpr Rounding by_field[] = {Rounding::nearest, Rounding::down, Rounding::up, Rounding::zero};
    return by_field[control >> 10 & 3];
  }
  int precision() const {
    constexpr int bits[] = {24, 64, 53, 64};
    return bits[control >> 8 & 3];
  }
  bool masked(u32 bits) const { return !(bits & ~control & 0x3f); }
  void raise(u32 bits) { status |= static_cast<u16>(bits); }
  // True: go on with the masked response.
  bool before(u32 bits) {
    raise(bits);
    if (!masked(bits & 0x3f)) stopped = true;
    return !stopped;
  }
  void set_c1(bool on) { status = static_cast<u16>(on ? status | 0x200 : status & ~0x200); }
  // Precision exception and direction.
  void inexact_by(bool up) { raise(inexact), set_c1(up); }
};

struct Rounded {
  u64 kept = 0;
  bool lost = false, up = false;
};
// The upper 64 − drop bits of a significand of 128, and whether there was more behind it; drop < 64.
inline Rounded round_bits(u128 wide, bool sticky, int drop, Rounding r, bool sign) {
  const u64 significand = static_cast<u64>(wide >> 64), behind = static_cast<u64>(wide);
  Rounded out;
  out.kept = significand >> drop;
  const bool half = drop ? significand >> (drop - 1) & 1 : behind >> 63;
  const bool more = sticky || (drop ? behind || (drop > 1 && significand << (65 - drop)) : behind << 1 != 0);
  out.lost = half || more;
  out.up = away(r, sign, out.kept & 1, half, more);
  return out;
}
inline u128 shifted_right(u128 wide, int by, bool& sticky) {
  if (by >= 128) return sticky |= wide != 0, 0;
  sticky |= (wide & ((u128{1} << by) - 1)) != 0;
  return wide >> by;
}

// Rounds a number with its leading bit in bit 127 to the unit's precision (or `bits`).
inline Extended pack_normal(bool sign, int exponent, u128 wide, bool sticky, Unit& unit, int bits = 0) {
  const int drop = 64 - (bits ? bits : unit.precision());
  const Rounding rounding = unit.rounding();
  const u16 sign_bit = sign ? 0x8000 : 0;
  Rounded r = round_bits(wide, sticky, drop, rounding, sign);
  u64 kept = r.kept + r.up;
  int top = exponent;
  if (drop ? kept >> (64 - drop) != 0 : r.up && !kept) kept = u64{1} << (63 - drop), ++top;
  if (top < extended_least) {
    if (unit.masked(underflow)) {
      const u128 moved = shifted_right(wide, extended_least - exponent, sticky);
      r = round_bits(moved, sticky, drop, rounding, sign);
      kept = (r.kept + r.up) << drop;
      if (r.lost) unit.raise(underflow), unit.inexact_by(r.up);
      return {.mantissa = kept, .top = static_cast<u16>(sign_bit | (kept & integer_bit ? 1 : 0))};
    }
    unit.raise(underflow);
    top += wrapped_exponent;
    if (top < extended_least) return unit.raise(inexact), extended_zero(sign);
  } else if (top > extended_greatest) {
    unit.raise(overflow);
    if (unit.masked(overflow)) {
      const bool to_infinity = rounding == Rounding::nearest || (rounding == Rounding::up && !sign) || (rounding == Rounding::down && sign);
      unit.inexact_by(to_infinity);
      if (to_infinity) return extended_infinity(sign);
      return {.mantissa = ~u64{0} << drop, .top = static_cast<u16>(sign_bit | 0x7ffe)};
    }
    top -= wrapped_exponent;
    if (top > extended_greatest) return unit.inexact_by(true), extended_infinity(sign);
  }
  if (r.lost) unit.inexact_by(r.up);
  return {.mantissa = kept << drop, .top = static_cast<u16>(sign_bit | (top + extended_bias))};
}
// Leading bit anywhere; `exponent` is that of bit 127.
inline Extended pack(bool sign, int exponent, u128 wide, bool sticky, Unit& unit, int bits = 0) {
  const u64 high = static_cast<u64>(wide >> 64);
  const int zeros = high ? std::countl_zero(high) : 64 + std::countl_zero(static_cast<u64>(wide));
  return pack_normal(sign, exponent - zeros, wide << zeros, sticky, unit, bits);
}
inline Extended pack_number(const Value& v, Unit& unit, int bits = 0) {
  return pack_normal(v.sign, v.exponent, u128{v.significand} << 64, false, unit, bits);
}

// A NaN among the operands: the quiet one of a mixed pair, else the one with the larger significand, else the positive one.
inline Extended quieted(const Extended& v) { return {.mantissa = v.mantissa | extended_quiet, .top = v.top}; }
inline Extended choose_nan(const Extended& a, const Extended& b, const Value& x, const Value& y) {
  if (y.kind != Kind::nan) return quieted(a);
  if (x.kind != Kind::nan) return quieted(b);
  if (x.signalling != y.signalling) return quieted(x.signalling ? b : a);
  if (a.mantissa != b.mantissa) return quieted(a.mantissa > b.mantissa ? a : b);
  return quieted(x.sign ? b : a);
}

// Two operands looked at. True: `out` is the result, or the unit is stopped.
inline bool special(const Extended& a, const Extended& b, const Value& x, const Value& y, Unit& unit, Extended& out) {
  if (unsupported(a) || unsupported(b)) return unit.before(invalid), out = extended_indefinite, true;
  if (x.kind != Kind::nan && y.kind != Kind::nan) return false;
  if (x.signalling || y.signalling) unit.before(invalid);
  return out = choose_nan(a, b, x, y), true;
}
inline Extended refuse(Unit& unit) { return unit.before(invalid), extended_indefinite; }
inline bool denormals(const Value& x, const Value& y, Unit& unit) {
  return (x.was_denormal || y.was_denormal) ? unit.before(denormal) : true;
}

inline Extended add(const Extended& a, const Extended& b, Unit& unit, bool subtract) {
  Value x = unpack(a), y = unpack(b);
  Extended out;
  if (special(a, b, x, y, unit, out)) return out;
  y.sign = y.sign != subtract;
  if (x.kind == Kind::infinity && y.kind == Kind::infinity && x.sign != y.sign) return refuse(unit);
  if (!denormals(x, y, unit)) return out;
  if (x.kind == Kind::infinity || y.kind == Kind::infinity) return extended_infinity(x.kind == Kind::infinity ? x.sign : y.sign);
  const bool down = unit.rounding() == Rounding::down;
  if (x.kind == Kind::zero && y.kind == Kind::zero) return extended_zero(x.sign == y.sign ? x.sign : down);
  if (x.kind == Kind::zero) return pack_number(y, unit);
  if (y.kind == Kind::zero) return pack_number(x, unit);
  if (x.exponent < y.exponent || (x.exponent == y.exponent && x.significand < y.significand)) std::swap(x, y);
  const int apart = x.exponent - y.exponent;
  const u128 big = u128{x.significand} << 62;
  u128 small = u128{y.significand} << 62;
  const bool sticky = apart > 126 || (small & ((u128{1} << apart) - 1));
  small = apart > 126 ? 0 : small >> apart;
  if (x.sign == y.sign) return pack(x.sign, x.exponent + 2, big + small, sticky, unit);
  const u128 difference = big - small - sticky;
  if (!difference && !sticky) return extended_zero(down);
  return pack(x.sign, x.exponent + 2, difference, sticky, unit);
}

inline Extended multiply(const Extended& a, const Extended& b, Unit& unit) {
  const Value x = unpack(a), y = unpack(b);
  Extended out;
  if (special(a, b, x, y, unit, out)) return out;
  const bool sign = x.sign != y.sign, infinite = x.kind == Kind::infinity || y.kind == Kind::infinity;
  const bool zero = x.kind == Kind::zero || y.kind == Kind::zero;
  if (infinite && zero) return refuse(unit);
  if (!denormals(x, y, unit)) return out;
  if (infinite) return extended_infinity(sign);
  if (zero) return extended_zero(sign);
  return pack(sign, x.exponent + y.exponent + 1, u128{x.significand} * y.significand, false, unit);
}

inline Extended divide(const Extended& a, const Extended& b, Unit& unit) {
  const Value x = unpack(a), y = unpack(b);
  Extended out;
  if (special(a, b, x, y, unit, out)) return out;
  const bool sign = x.sign != y.sign;
  if (x.kind == y.kind && (x.kind == Kind::infinity || x.kind == Kind::zero)) return refuse(unit);
  if (y.kind == Kind::zero && x.kind == Kind::number) return unit.before(zero_divide), extended_infinity(sign);
  if (!denormals(x, y, unit)) return out;
  if (x.kind == Kind::infinity || y.kind == Kind::zero) return extended_infinity(sign);
  if (x.kind == Kind::zero || y.kind == Kind::infinity) return extended_zero(sign);
  // 64 bits and one more to round by.
  u128 rest = u128{x.significand};
  int exponent = x.exponent - y.exponent;
  if (x.significand < y.significand) rest <<= 1, --exponent;
  const u64 high = static_cast<u64>(rest >= y.significand);
  rest -= high ? y.significand : 0;
  u64 quotient = high;
  for (int i = 0; i < 63; ++i) {
    rest <<= 1;
    quotient <<= 1;
    if (rest >= y.significand) rest -= y.significand, quotient |= 1;
  }
  rest <<= 1;
  const bool half = rest >= y.significand;
  if (half) rest -= y.significand;
  return pack(sign, exponent, (u128{quotient} << 64) | (u128{half} << 63), rest != 0, unit);
}

inline Extended square_root(const Extended& a, Unit& unit) {
  const Value x = unpack(a);
  if (unsupported(a)) return refuse(unit);
  if (x.kind == Kind::nan) return x.signalling ? void(unit.before(invalid)) : void(), quieted(a);
  if (x.kind == Kind::zero) return a;
  if (x.sign) return refuse(unit);
  if (x.kind == Kind::infinity) return a;
  if (x.was_denormal && !unit.before(denormal)) return {};
  // Bit by bit: 66 bits of the root, and whether something is left.
  const bool odd = x.exponent & 1;
  const u128 radicand = u128{x.significand} << (odd ? 64 : 63);
  u128 root = 0, rest = 0;
  for (int at = 126; at > -6; at -= 2) {
    rest = rest << 2 | (at >= 0 ? static_cast<u64>(radicand >> at) & 3 : 0);
    const u128 trial = root << 2 | 1;
    root <<= 1;
    if (rest >= trial) rest -= trial, root |= 1;
  }
  return pack_normal(false, (x.exponent - odd) / 2, root << 62, rest != 0, unit);
}

inline Order compare(const Extended& a, const Extended& b, bool quiet, Unit& unit) {
  const Value x = unpack(a), y = unpack(b);
  if (unsupported(a) || unsupported(b)) return unit.before(invalid), Order::unordered;
  if (x.kind == Kind::nan || y.kind == Kind::nan) {
    if (!quiet || x.signalling || y.signalling) unit.before(invalid);
    return Order::unordered;
  }
  denormals(x, y, unit);
  if (x.kind == Kind::zero && y.kind == Kind::zero) return Order::equal;
  const bool negative = x.kind == Kind::zero ? !y.sign : x.sign;
  if (x.kind == Kind::zero || y.kind == Kind::zero || x.sign != y.sign) return negative ? Order::less : Order::greater;
  const auto rank = [](const Value& v) { return v.kind == Kind::infinity ? 1 : 0; };
  int order = rank(x) - rank(y);
  if (!order && x.kind == Kind::number)
    order = x.exponent != y.exponent        ? (x.exponent > y.exponent ? 1 : -1)
            : x.significand > y.significand ? 1
            : x.significand < y.significand ? -1
                                            : 0;
  if (x.sign) order = -order;
  return order < 0 ? Order::less : order ? Order::greater : Order::equal;
}

// The magnitude of a number as an integer; false: 2^64 or more.
struct Whole {
  u64 value = 0;
  bool fits = true, lost = false, up = false;
};
inline Whole whole(const Value& x, Rounding r) {
  if (x.kind == Kind::zero) return {};
  if (x.kind != Kind::number || x.exponent > 63) return {.fits = false};
  Whole w;
  bool half = false, more = false;
  if (x.exponent < 0) {
    half = x.exponent == -1, more = x.exponent < -1 || x.significand << 1;
  } else {
    const int drop = 63 - x.exponent;
    w.value = x.significand >> drop;
    half = drop && x.significand >> (drop - 1) & 1;
    more = drop > 1 && x.significand << (65 - drop);
  }
  w.lost = half || more;
  w.up = away(r, x.sign, w.value & 1, half, more);
  if (w.up && ++w.value == 0) w.fits = false;
  return w;
}

inline Extended from_whole(bool sign, u64 magnitude) {
  if (!magnitude) return extended_zero(sign);
  const int zeros = std::countl_zero(magnitude);
  return {.mantissa = magnitude << zeros, .top = static_cast<u16>((sign ? 0x8000 : 0) | (extended_bias + 63 - zeros))};
}

// From single and double: exact. Signalling NaNs and denormals are noted by the caller, who knows the order of things.
template <class F>
Extended widen(typename F::Bits bits) {
  const Environment plain;
  const Value v = unpack<F>(bits, plain);
  const u16 sign = v.sign ? 0x8000 : 0;
  switch (v.kind) {
    case Kind::zero: return extended_zero(v.sign);
    case Kind::infinity: return extended_infinity(v.sign);
    case Kind::nan:
      return {.mantissa = integer_bit | static_cast<u64>(bits & F::mantissa_mask) << (63 - F::mantissa),
              .top = static_cast<u16>(sign | 0x7fff)};
    default: return {.mantissa = v.significand, .top = static_cast<u16>(sign | (v.exponent + extended_bias))};
  }
}
template <class F>
bool is_denormal(typename F::Bits bits) {
  return !(bits & F::exponent_mask) && bits & F::mantissa_mask;
}
template <class F>
bool is_signalling(typename F::Bits bits) {
  return (bits & F::exponent_mask) == F::exponent_mask && bits & F::mantissa_mask && !(bits & F::quiet_bit);
}

// To single and double, as FST does it. An unmasked overflow or underflow stops it.
template <class F>
typename F::Bits narrow(const Extended& a, Unit& unit) {
  using U = typename F::Bits;
  const Value x = unpack(a);
  const U sign = x.sign ? F::sign_bit : 0;
  if (unsupported(a)) return unit.before(invalid), F::indefinite;
  if (x.kind == Kind::nan) {
    if (x.signalling) unit.before(invalid);
    return sign | F::exponent_mask | F::quiet_bit | (static_cast<U>(a.mantissa >> (63 - F::mantissa)) & F::mantissa_mask);
  }
  if (x.kind == Kind::infinity) return sign | F::infinity;
  if (x.kind == Kind::zero) return sign;
  constexpr int drop = 63 - F::mantissa;
  const Rounding rounding = unit.rounding();
  const u128 wide = u128{x.significand} << 64;
  Rounded r = round_bits(wide, false, drop, rounding, x.sign);
  u64 kept = r.kept + r.up;
  int top = x.exponent;
  if (kept >> (F::mantissa + 1)) kept >>= 1, ++top;
  if (top < F::least) {
    if (!unit.masked(underflow)) return unit.raise(underflow), unit.stopped = true, U{0};
    bool sticky = false;
    const u128 moved = shifted_right(wide, F::least - x.exponent, sticky);
    r = round_bits(moved, sticky, drop, rounding, x.sign);
    if (r.lost) unit.raise(underflow), unit.inexact_by(r.up);
    return sign | static_cast<U>(r.kept + r.up);
  }
  if (top > F::greatest) {
    unit.raise(overflow);
    if (!unit.masked(overflow)) return unit.stopped = true, U{0};
    const bool to_infinity =
        rounding == Rounding::nearest || (rounding == Rounding::up && !x.sign) || (rounding == Rounding::down && x.sign);
    unit.inexact_by(to_infinity);
    return sign | (to_infinity ? F::infinity : static_cast<U>(F::infinity - 1));
  }
  if (r.lost) unit.inexact_by(r.up);
  return sign | static_cast<U>(top + F::bias) << F::mantissa | (static_cast<U>(kept) & F::mantissa_mask);
}

}  // namespace vmm::tcg::soft_float
