// x87 instructions in portable code: arithmetic, compares, loads, stores, conversions, BCD, stack. The transcendental ones stay with the
// host's unit, since their last bits are its own. Sources: SDM 1 chapter 8, SDM 2A (each instruction), soft_extended.h.
#include <cstring>

#include "accel/tcg/guest/x86/portable_simd.h"
#include "accel/tcg/guest/x86/soft_extended.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

namespace {

using namespace soft_float;

enum StatusBits : u16 { stack_fault = 0x40, c0 = 0x100, c1 = 0x200, c2 = 0x400, c3 = 0x4000, summary = 0x8080, exceptions = 0x3f };

// The image of one instruction's unit, in stack order.
class Machine {
 public:
  explicit Machine(PortableArgs& x) : f_(x.frame), shape_(x.shape) {
    u.control = load_le<u16>(f_.x87), u.status = load_le<u16>(f_.x87 + 2), tags_ = f_.x87[4];
  }
  ~Machine() {
    const bool pending = u.status & ~u.control & exceptions;
    store_le<u16>(f_.x87 + 2, static_cast<u16>(pending ? u.status | summary : u.status & ~summary));
    f_.x87[4] = tags_;
  }
  void run();

 private:
  unsigned top() const { return u.status >> 11 & 7; }
  bool empty(unsigned i) const { return !(tags_ >> ((top() + i) & 7) & 1); }
  Extended get(unsigned i) const { return {.mantissa = load_le<u64>(f_.x87 + 32 + 16 * i), .top = load_le<u16>(f_.x87 + 40 + 16 * i)}; }
  void put(unsigned i, const Extended& v) {
    store_le<u64>(f_.x87 + 32 + 16 * i, v.mantissa), store_le<u16>(f_.x87 + 40 + 16 * i, v.top);
    tags_ |= static_cast<u8>(1 << ((top() + i) & 7));
  }
  void turn(int by) {  // TOP + by; the image follows
    u8 old[128];
    std::memcpy(old, f_.x87 + 32, 128);
    for (unsigned i = 0; i < 8; ++i) std::memcpy(f_.x87 + 32 + 16 * i, old + 16 * ((i + static_cast<unsigned>(by)) & 7), 16);
    u.status = static_cast<u16>((u.status & ~0x3800) | ((top() + static_cast<unsigned>(by)) & 7) << 11);
  }
  void free(unsigned i) { tags_ &= static_cast<u8>(~(1 << ((top() + i) & 7))); }
  void pop() { free(0), turn(1); }
  // False: the instruction ends here. Masked: the caller puts the indefinite number.
  bool stack(bool overflowed) { return u.set_c1(overflowed), u.before(u32{invalid} | stack_fault); }
  void conditions(u16 bits) { u.status = static_cast<u16>((u.status & ~(c0 | c2 | c3)) | bits); }
  void push(const Extended& v) {
    if (!empty(7)) {
      if (stack(true)) turn(-1), put(0, extended_indefinite);
      return;
    }
    u.set_c1(false), turn(-1), put(0, v);
  }

  Extended memory_real(bool wide, bool& signals, bool& small) const;
  i64 memory_integer(unsigned bytes) const;
  void arithmetic(unsigned kind, unsigned to, const Extended& other, bool other_empty, bool pops, bool small = false);
  void compare_with(const Extended& other, bool other_empty, bool quiet, unsigned pops, bool to_flags);
  void load_constant(unsigned which);
  void examine();
  void remainder(bool nearest);
  void scale();
  void extract();
  void exchange(unsigned i);
  void move_if(unsigned condition, bool negated);
  void store_real(unsigned bytes, bool pops);
  void store_integer(unsigned bytes, bool pops, bool truncate);
  void store_bcd();
  void load_bcd();
  void one_operand(unsigned reg, unsigned rm);
  void of_memory();
  void of_register();

  Unit u;
  StubFrame& f_;
  const StubShape& shape_;
  u8 tags_ = 0;
};

i64 Machine::memory_integer(unsigned bytes) const {
  return bytes == 2   ? static_cast<i16>(load_le<u16>(f_.memory))
         : bytes == 4 ? static_cast<i32>(load_le<u32>(f_.memory))
                      : static_cast<i64>(load_le<u64>(f_.memory));
}
Extended whole_number(i64 v) { return from_whole(v < 0, v < 0 ? 0 - static_cast<u64>(v) : static_cast<u64>(v)); }

Extended Machine::memory_real(bool wide, bool& signals, bool& small) const {
  if (!wide) {
    const u32 v = load_le<u32>(f_.memory);
    return signals = is_signalling<Single>(v), small = is_denormal<Single>(v), widen<Single>(v);
  }
  const u64 v = load_le<u64>(f_.memory);
  return signals = is_signalling<Double>(v), small = is_denormal<Double>(v), widen<Double>(v);
}

// kind: ModRM.reg of D8. ST(0) stands left of `other`, whatever the destination.
void Machine::arithmetic(unsigned kind, unsigned to, const Extended& other, bool other_empty, bool pops, bool small) {
  u.set_c1(false);
  Extended r = extended_indefinite;
  if (empty(0) || other_empty) {
    if (!stack(false)) return;
  } else {
    const Extended a = get(0);
    // A denormal in memory is a normal number by now, but is told of all the same; after what makes the result a NaN or an infinity.
    const Value x = unpack(a);
    const bool sooner = unsupported(a) || x.kind == Kind::nan || (kind == 7 && x.kind == Kind::zero);
    if (small && !sooner && !u.before(denormal)) return;
    switch (kind) {
      case 0: r = add(a, other, u, false); break;
      case 1: r = multiply(a, other, u); break;
      case 4: r = add(a, other, u, true); break;
      case 5: r = add(other, a, u, true); break;
      case 6: r = divide(a, other, u); break;
      default: r = divide(other, a, u); break;
    }
    if (u.stopped) return;
  }
  put(to, r);
  if (pops) pop();
}

void Machine::compare_with(const Extended& other, bool other_empty, bool quiet, unsigned pops, bool to_flags) {
  if (!to_flags) u.set_c1(false);
  Order order = Order::unordered;
  if (empty(0) || other_empty)
    stack(false);
  else
    order = compare(get(0), other, quiet, u);
  if (u.stopped) pops = 0;  // the conditions are told all the same
  if (to_flags) {
    const u64 flags = order == Order::unordered ? 0x45 : order == Order::less ? 1 : order == Order::equal ? 0x40 : 0;
    f_.flags = (f_.flags & ~u64{0x8d5}) | flags;
  } else {
    conditions(order == Order::unordered ? c0 | c2 | c3 : order == Order::less ? c0 : order == Order::equal ? c3 : 0);
  }
  for (; pops; --pops) pop();
}

void Machine::load_constant(unsigned which) {
  struct Constant {
    u64 mantissa;
    u16 top;
    bool above;  // the true value lies above what stands here, which is rounded down
    bool nearest_up;
  };
  static constexpr Constant constants[] = {{0x8000'0000'0000'0000, 0x3fff, false, false},
                                           {0xd49a'784b'cd1b'8afe, 0x4000, true, false},
                                           {0xb8aa'3b29'5c17'f0bb, 0x3fff, true, true},
                                           {0xc90f'daa2'2168'c234, 0x4000, true, true},
                                           {0x9a20'9a84'fbcf'f798, 0x3ffd, true, true},
                                           {0xb172'17f7'd1cf'79ab, 0x3ffe, true, true},
                                           {0, 0, false, false}};
  const Constant& c = constants[which];
  const bool up = c.above && (u.rounding() == Rounding::up || (u.rounding() == Rounding::nearest && c.nearest_up));
  push({.mantissa = c.mantissa + up, .top = c.top});
}

void Machine::examine() {
  const Extended v = get(0);
  u.set_c1(v.top >> 15);
  if (empty(0)) return conditions(c3 | c0);
  if (unsupported(v)) return conditions(0);
  const Value x = unpack(v);
  switch (x.kind) {
    case Kind::nan: return conditions(c0);
    case Kind::infinity: return conditions(c2 | c0);
    case Kind::zero: return conditions(c3);
    default: return conditions(x.was_denormal ? c3 | c2 : c2);
  }
}

// FPREM, FPREM1: at most 63 bits of the quotient at once; C0, C3, C1 have its last three bits when it is complete.
void Machine::remainder(bool nearest) {
  u.status &= static_cast<u16>(~(c1 | c2));
  if (empty(0) || empty(1)) {
    if (stack(false)) put(0, extended_indefinite);
    return;
  }
  const Extended a = get(0), b = get(1);
  const Value x = unpack(a), y = unpack(b);
  Extended r;
  if (special(a, b, x, y, u, r)) {
    if (!u.stopped) put(0, r);
    return;
  }
  if (x.kind == Kind::infinity || y.kind == Kind::zero) {
    if (u.before(invalid)) put(0, extended_indefinite);
    return;
  }
  if (!denormals(x, y, u)) return;
  conditions(0);
  if (x.kind == Kind::zero || y.kind == Kind::infinity) return put(0, x.kind == Kind::zero ? a : pack_number(x, u, 64));
  const int apart = x.exponent - y.exponent;
  u64 quotient = 0;
  u128 rest = x.significand;
  int exponent = y.exponent;
  bool sign = x.sign;
  const auto steps = [&](int n) {  // that many quotient bits, after the first
    for (int i = 0; i <= n; ++i) {
      if (i) rest <<= 1;
      quotient <<= 1;
      if (rest >= y.significand) rest -= y.significand, quotient |= 1;
    }
  };
  if (apart >= 64) {
    const int n = (apart & 31) | 32;
    steps(n);
    exponent = x.exponent - n;
    u.status |= c2;
  } else {
    if (apart < -1 || (apart < 0 && !nearest)) return put(0, pack_number(x, u, 64));
    if (apart < 0) {  // half of the divisor, or less than it
      exponent = x.exponent;
      const u128 twice = u128{y.significand} << 1;
      if (u128{rest} * 2 > twice) rest = twice - rest, sign = !sign, quotient = 1;
    } else {
      steps(apart);
      if (nearest && rest && (rest * 2 > y.significand || (rest * 2 == y.significand && quotient & 1)))
        rest = y.significand - rest, sign = !sign, ++quotient;
    }
    u.status = static_cast<u16>(u.status | (quotient & 4 ? c0 : 0) | (quotient & 2 ? c3 : 0) | (quotient & 1 ? c1 : 0));
  }
  if (!rest) return put(0, extended_zero(x.sign));
  const u16 third = u.status & c1;
  r = pack(sign, exponent + 64, rest, false, u, 64);  // exact
  u.status = static_cast<u16>((u.status & ~c1) | third);
  put(0, r);
}

void Machine::scale() {
  u.set_c1(false);
  if (empty(0) || empty(1)) {
    if (stack(false)) put(0, extended_indefinite);
    return;
  }
  const Extended a = get(0), b = get(1);
  const Value x = unpack(a), y = unpack(b);
  Extended r;
  if (!special(a, b, x, y, u, r)) {
    if (y.kind == Kind::infinity && (y.sign ? x.kind == Kind::infinity : x.kind == Kind::zero)) {
      r = refuse(u);
    } else if (!denormals(x, y, u)) {
      return;
    } else if (y.kind == Kind::infinity) {
      r = y.sign ? extended_zero(x.sign) : extended_infinity(x.sign);
    } else if (x.kind != Kind::number) {
      r = a;
    } else {
      const Whole w = whole(y, Rounding::zero);
      const int by = static_cast<int>(!w.fits || w.value > 0x10000 ? 0x10000 : w.value);
      Value scaled = x;
      scaled.exponent += y.sign ? -by : by;
      r = pack_number(scaled, u, 64);
    }
  }
  if (!u.stopped) put(0, r);
}

void Machine::extract() {
  u.set_c1(false);
  const bool full = !empty(7);
  if (empty(0) || full) {
    if (!stack(!empty(0) && full)) return;
    put(0, extended_indefinite), turn(-1), put(0, extended_indefinite);
    return;
  }
  const Extended a = get(0);
  const Value x = unpack(a);
  Extended exponent, significand = a;
  if (unsupported(a)) {
    exponent = significand = refuse(u);
  } else if (x.kind == Kind::nan) {
    if (x.signalling) u.before(invalid);
    exponent = significand = quieted(a);
  } else if (x.kind == Kind::infinity) {
    exponent = extended_infinity(false);
  } else if (x.kind == Kind::zero) {
    u.before(zero_divide);
    exponent = extended_infinity(true);
  } else {
    if (x.was_denormal) u.before(denormal);
    exponent = whole_number(x.exponent);
    significand = {.mantissa = x.significand, .top = static_cast<u16>((x.sign ? 0x8000 : 0) | extended_bias)};
  }
  if (u.stopped) return;
  put(0, exponent), turn(-1), put(0, significand);
}

void Machine::exchange(unsigned i) {
  u.set_c1(false);
  if (empty(0) || empty(i)) {
    if (!stack(false)) return;
    if (empty(0)) put(0, extended_indefinite);
    if (empty(i)) put(i, extended_indefinite);
  }
  const Extended a = get(0), b = get(i);
  put(0, b), put(i, a);
}

void Machine::move_if(unsigned condition, bool negated) {
  constexpr u64 flags[] = {1, 0x40, 0x41, 4};
  const unsigned i = shape_.modrm_rm;
  if (empty(0) || empty(i)) {
    if (stack(false)) put(0, extended_indefinite);
    return;
  }
  if (((f_.flags & flags[condition]) != 0) != negated) put(0, get(i));
}

void Machine::store_real(unsigned bytes, bool pops) {
  u.set_c1(false);
  Extended v = extended_indefinite;
  if (!empty(0))
    v = get(0);
  else if (!stack(false))
    return;
  if (bytes == 10) {
    store_le<u64>(f_.memory, v.mantissa), store_le<u16>(f_.memory + 8, v.top);
  } else if (bytes == 8) {
    store_le<u64>(f_.memory, narrow<Double>(v, u));
  } else {
    store_le<u32>(f_.memory, narrow<Single>(v, u));
  }
  if (pops && !u.stopped) pop();
}

void Machine::store_integer(unsigned bytes, bool pops, bool truncate) {
  u.set_c1(false);
  const unsigned bits = bytes * 8;
  u64 out = u64{1} << (bits - 1);
  if (empty(0)) {
    if (!stack(false)) return;
  } else {
    const Extended v = get(0);
    const Value x = unpack(v);
    const Whole w = whole(x, truncate ? Rounding::zero : u.rounding());
    const u64 limit = u64{1} << (bits - 1);
    if (unsupported(v) || !w.fits || w.value > limit || (w.value == limit && !x.sign)) {
      if (!u.before(invalid)) return;
    } else {
      out = x.sign ? 0 - w.value : w.value;
      if (w.lost) u.inexact_by(w.up);
    }
  }
  store_le<u64>(f_.memory, out);
  if (pops) pop();
}

void Machine::store_bcd() {
  u.set_c1(false);
  u8 out[10] = {0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff};
  if (empty(0)) {
    if (!stack(false)) return;
  } else {
    const Extended v = get(0);
    const Value x = unpack(v);
    Whole w = whole(x, u.rounding());
    if (unsupported(v) || !w.fits || w.value > 999'999'999'999'999'999) {
      if (!u.before(invalid)) return;
    } else {
      for (unsigned i = 0; i < 9; ++i, w.value /= 100) out[i] = static_cast<u8>(w.value % 10 | (w.value / 10 % 10) << 4);
      out[9] = x.sign ? 0x80 : 0;
      if (w.lost) u.inexact_by(w.up);
    }
  }
  std::memcpy(f_.memory, out, 10);
  pop();
}

void Machine::load_bcd() {
  u64 value = 0;
  for (int i = 8; i >= 0; --i) value = value * 100 + (f_.memory[i] >> 4) * 10u + (f_.memory[i] & 15);
  push(from_whole(f_.memory[9] >> 7, value));
}

// D9 E0 to FF.
void Machine::one_operand(unsigned reg, unsigned rm) {
  const unsigned code = reg << 3 | rm;
  if (code >= 0x28 && code <= 0x2e) return load_constant(code - 0x28);
  switch (code) {
    case 0x20:  // fchs
    case 0x21:  // fabs
      u.set_c1(false);
      if (empty(0)) {
        if (stack(false)) put(0, extended_indefinite);
      } else {
        Extended v = get(0);
        v.top = static_cast<u16>(code & 1 ? v.top & 0x7fff : v.top ^ 0x8000);
        put(0, v);
      }
      return;
    case 0x24: return compare_with(extended_zero(false), false, false, 0, false);  // ftst
    case 0x25: return examine();
    case 0x34: return extract();
    case 0x35: return remainder(true);
    case 0x36: return u.set_c1(false), turn(-1);  // fdecstp
    case 0x37: return u.set_c1(false), turn(1);   // fincstp
    case 0x38: return remainder(false);
    case 0x3d: return scale();
    default: break;
  }
  u.set_c1(false);  // fsqrt, frndint
  if (empty(0)) {
    if (stack(false)) put(0, extended_indefinite);
    return;
  }
  const Extended a = get(0);
  Extended r;
  if (code == 0x3a) {
    r = square_root(a, u);
  } else {
    const Value x = unpack(a);
    if (unsupported(a)) {
      r = refuse(u);
    } else if (x.kind == Kind::nan) {
      if (x.signalling) u.before(invalid);
      r = quieted(a);
    } else if (x.kind != Kind::number || x.exponent >= 63) {
      r = a;
    } else if (!x.was_denormal || u.before(denormal)) {
      const Whole w = whole(x, u.rounding());
      r = from_whole(x.sign, w.value);
      if (w.lost) u.inexact_by(w.up);
    }
  }
  if (!u.stopped) put(0, r);
}

void Machine::of_memory() {
  const unsigned opcode = shape_.opcode & 7, reg = shape_.modrm_reg;
  bool signals = false, small = false;
  switch (opcode) {
    case 0:
    case 4: {
      const Extended v = memory_real(opcode == 4, signals, small);
      if (reg != 2 && reg != 3) return arithmetic(reg, 0, v, false, false, small);
      const Value x = empty(0) ? Value{} : unpack(get(0));
      if (!empty(0) && small && !unsupported(get(0)) && x.kind != Kind::nan) u.before(denormal);
      return compare_with(v, false, false, reg - 2, false);
    }
    case 2:
    case 6: {
      const Extended v = whole_number(memory_integer(opcode == 2 ? 4 : 2));
      if (reg != 2 && reg != 3) return arithmetic(reg, 0, v, false, false);
      return compare_with(v, false, false, reg - 2, false);
    }
    case 1:
    case 5:
      if (reg == 0) {
        const Extended v = memory_real(opcode == 5, signals, small);
        if (empty(7)) {
          u.set_c1(false);
          if (signals && !u.before(invalid)) return;
          if (small) u.raise(denormal);  // loaded even if that is not masked
        }
        return push(signals ? quieted(v) : v);
      }
      if (reg == 1) return store_integer(8, true, true);  // fisttp m64
      return store_real(opcode == 5 ? 8 : 4, reg == 3);
    case 3:
      if (reg == 0) return push(whole_number(memory_integer(4)));
      if (reg == 5) return push({.mantissa = load_le<u64>(f_.memory), .top = load_le<u16>(f_.memory + 8)});
      if (reg == 7) return store_real(10, true);
      return store_integer(4, reg != 2, reg == 1);
    default:
      switch (reg) {
        case 0: return push(whole_number(memory_integer(2)));
        case 1: return store_integer(2, true, true);
        case 2: return store_integer(2, false, false);
        case 3: return store_integer(2, true, false);
        case 4: return load_bcd();
        case 5: return push(whole_number(memory_integer(8)));
        case 6: return store_bcd();
        default: return store_integer(8, true, false);
      }
  }
}

void Machine::of_register() {
  const unsigned opcode = shape_.opcode & 7, reg = shape_.modrm_reg, i = shape_.modrm_rm;
  const auto store_register = [&](bool pops) {
    u.set_c1(false);
    Extended v = extended_indefinite;
    if (!empty(0))
      v = get(0);
    else if (!stack(false))
      return;
    put(i, v);
    if (pops) pop();
  };
  switch (opcode) {
    case 0:
    case 4:
    case 6:
      if (reg != 2 && reg != 3) return arithmetic(reg, opcode ? i : 0, get(i), empty(i), opcode == 6);
      return compare_with(get(i), empty(i), false, opcode == 6 ? reg - 1 : reg - 2, false);
    case 1:
      switch (reg) {
        case 0: {
          const bool missing = empty(i);
          const Extended v = get(i);
          if (missing) {
            if (stack(false)) turn(-1), put(0, extended_indefinite);
            return;
          }
          return push(v);
        }
        case 1: return exchange(i);
        case 2: return;                                                             // fnop
        case 3: return empty(0) ? (u.set_c1(false), pop()) : store_register(true);  // an alias that does not mind an empty register
        default: return one_operand(reg, i);
      }
    case 2: return reg == 5 ? compare_with(get(1), empty(1), true, 2, false) : move_if(reg, false);
    case 3: return reg >= 5 ? compare_with(get(i), empty(i), reg == 5, 0, true) : move_if(reg, true);
    case 5:
      switch (reg) {
        case 0: return u.set_c1(false), free(i);
        case 1: return exchange(i);
        case 2:
        case 3: return store_register(reg == 3);
        default: return compare_with(get(i), empty(i), true, reg - 4, false);
      }
    default:
      switch (reg) {
        case 0: return u.set_c1(false), free(i), pop();  // ffreep
        case 1: return exchange(i);
        case 2:
        case 3: return store_register(true);
        default: return compare_with(get(i), empty(i), reg == 5, 1, true);
      }
  }
}

void Machine::run() { shape_.memory ? of_memory() : of_register(); }

void run_x87(PortableArgs& x) { Machine{x}.run(); }

}  // namespace

PortableBody portable_x87(const StubShape& s) {
  // f2xm1 fyl2x fptan fpatan, fyl2xp1, fsincos, fsin fcos
  if (s.opcode == 0xd9 && !s.memory && s.modrm_reg >= 6) {
    const unsigned code = (s.modrm_reg & 1) << 3 | s.modrm_rm;
    if (code < 4 || code == 9 || code == 0xb || code >= 0xe) return nullptr;
  }
  return run_x87;
}

}  // namespace vmm::tcg::x86
