// SSE and AVX floating-point arithmetic, compares and conversions by integers. Source: SDM 2, "Operation" of each instruction;
// soft_float.h.
#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/portable_simd.h"
#include "accel/tcg/guest/x86/soft_float.h"

namespace vmm::tcg::x86 {

namespace {

using namespace soft_float;
using Args = PortableArgs;

// MXCSR in, its status out.
struct Control {
  explicit Control(Args& x) : args(x) {
    const u32 mxcsr = x.frame.mxcsr;
    env.rounding = static_cast<Rounding>(mxcsr >> 13 & 3);
    env.flush = mxcsr >> 15 & 1;
    env.denormals_are_zero = mxcsr >> 6 & 1;
  }
  ~Control() { args.frame.mxcsr |= env.status; }
  Args& args;
  Environment env;
};

constexpr auto plus = []<class F>(F, auto a, auto b, Environment& env) { return add<F>(a, b, env); };
constexpr auto minus = []<class F>(F, auto a, auto b, Environment& env) { return add<F>(a, b, env, true); };
constexpr auto times = []<class F>(F, auto a, auto b, Environment& env) { return multiply<F>(a, b, env); };
constexpr auto over = []<class F>(F, auto a, auto b, Environment& env) { return divide<F>(a, b, env); };
constexpr auto smaller = []<class F>(F, auto a, auto b, Environment& env) { return least_or_greatest<F>(a, b, env, false); };
constexpr auto larger = []<class F>(F, auto a, auto b, Environment& env) { return least_or_greatest<F>(a, b, env, true); };

// How many elements an operation is on: one for the scalar forms (F3, F2), whose rest comes from the first source.
template <class F, bool scalar>
unsigned prepare(Args& x) {
  if (!scalar) return x.n / sizeof(typename F::Bits);
  std::memcpy(x.d, x.a, 16);
  std::memset(x.d + 16, 0, 16);  // whatever VEX.L says
  return 1;
}
template <class F, bool scalar, auto operation>
void binary(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  for (unsigned i = 0, n = prepare<F, scalar>(x); i < n; ++i) put_lane<U>(x.d, i, operation(F{}, lane<U>(x.a, i), lane<U>(x.b, i), c.env));
}
template <class F, bool scalar>
void root(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  for (unsigned i = 0, n = prepare<F, scalar>(x); i < n; ++i) put_lane<U>(x.d, i, square_root<F>(lane<U>(x.b, i), c.env));
}
template <class F, auto operation>
void horizontal(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  constexpr unsigned pairs = 8 / sizeof(U);
  for (unsigned half = 0; half < x.n; half += 16)
    for (unsigned i = 0; i < pairs; ++i) {
      put_lane<U>(x.d + half, i, operation(F{}, lane<U>(x.a + half, 2 * i), lane<U>(x.a + half, 2 * i + 1), c.env));
      put_lane<U>(x.d + half, pairs + i, operation(F{}, lane<U>(x.b + half, 2 * i), lane<U>(x.b + half, 2 * i + 1), c.env));
    }
}
template <class F>
void add_subtract(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  for (unsigned i = 0; i < x.n / sizeof(U); ++i) put_lane<U>(x.d, i, add<F>(lane<U>(x.a, i), lane<U>(x.b, i), c.env, !(i & 1)));
}

// CMPPS and its kin: 8 predicates, 32 with VEX.
template <class F, bool scalar>
void compare_to_mask(Args& x) {
  using U = typename F::Bits;
  struct Predicate {
    bool less, equal, greater, unordered, quiet;
  };
  static constexpr Predicate predicates[16] = {
      {false, true, false, false, true}, {true, false, false, false, false}, {true, true, false, false, false},
      {false, false, false, true, true}, {true, false, true, true, true},    {false, true, true, true, false},
      {false, false, true, true, false}, {true, true, true, false, true},    {false, true, false, true, true},
      {true, false, false, true, false}, {true, true, false, true, false},   {false, false, false, false, true},
      {true, false, true, false, true},  {false, true, true, false, false},  {false, false, true, false, false},
      {true, true, true, true, true}};
  const unsigned number = x.imm() & (x.shape.vex ? 31 : 7);
  const Predicate& p = predicates[number & 15];
  const bool quiet = p.quiet != (number >> 4 != 0);
  Control c(x);
  for (unsigned i = 0, n = prepare<F, scalar>(x); i < n; ++i) {
    const Order order = compare<F>(lane<U>(x.a, i), lane<U>(x.b, i), c.env, quiet);
    const bool hit = order == Order::less ? p.less : order == Order::equal ? p.equal : order == Order::greater ? p.greater : p.unordered;
    put_lane<U>(x.d, i, hit ? static_cast<U>(~U{0}) : U{0});
  }
}
// (U)COMISS, (U)COMISD: ZF, PF, CF; the others are cleared.
template <class F, bool quiet>
void compare_to_flags(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  const Order order = compare<F>(lane<U>(x.d, 0), lane<U>(x.b, 0), c.env, quiet);
  const u64 flags = order == Order::unordered ? 0x45 : order == Order::less ? 1 : order == Order::equal ? 0x40 : 0;
  x.frame.flags = (x.frame.flags & ~u64{0x8d5}) | flags;
}

template <class To, class From, bool scalar>
void convert_format(Args& x) {
  using T = typename To::Bits;
  using U = typename From::Bits;
  Control c(x);
  u8 out[32] = {};
  if (scalar) std::memcpy(out, x.a, 16);
  const unsigned n = scalar ? 1 : x.n / std::max(sizeof(T), sizeof(U));
  for (unsigned i = 0; i < n; ++i) put_lane<T>(out, i, convert<To, From>(lane<U>(x.b, i), c.env));
  std::memcpy(x.d, out, scalar ? 32 : x.n);
}
// Packed numbers to 32-bit integers and back.
template <class F, bool truncate>
void to_dwords(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  if (truncate) c.env.rounding = Rounding::zero;
  u8 out[32] = {};
  for (unsigned i = 0; i < x.n / sizeof(U); ++i) put_lane<u32>(out, i, static_cast<u32>(to_integer<F>(lane<U>(x.b, i), 32, c.env)));
  std::memcpy(x.d, out, x.n);
}
template <class F>
void from_dwords(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  u8 out[32] = {};
  for (unsigned i = 0; i < x.n / sizeof(U); ++i) put_lane<U>(out, i, from_integer<F>(lane<i32>(x.b, i), c.env));
  std::memcpy(x.d, out, x.n);
}
// Between vectors and MMX registers: two elements.
template <class F, bool truncate>
void to_mmx(Args& x) {
  Control c(x);
  if (truncate) c.env.rounding = Rounding::zero;
  for (unsigned i = 0; i < 2; ++i) put_lane<u32>(x.d, i, static_cast<u32>(to_integer<F>(lane<typename F::Bits>(x.b, i), 32, c.env)));
}
template <class F>
void from_mmx(Args& x) {
  Control c(x);
  for (unsigned i = 0; i < 2; ++i) put_lane<typename F::Bits>(x.d, i, from_integer<F>(lane<i32>(x.b, i), c.env));
}
// A scalar to a general register and back: 32 bits, or 64 with W.
template <class F, bool truncate>
void to_register(Args& x) {
  Control c(x);
  if (truncate) c.env.rounding = Rounding::zero;
  const u64 v = to_integer<F>(lane<typename F::Bits>(x.b, 0), x.shape.w ? 64 : 32, c.env);
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, v);
}
template <class F>
void from_register(Args& x) {
  Control c(x);
  const i64 v = x.shape.w ? lane<i64>(x.b, 0) : lane<i32>(x.b, 0);
  prepare<F, true>(x);
  put_lane<typename F::Bits>(x.d, 0, from_integer<F>(v, c.env));
}
template <class F, bool scalar>
void round_each(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  if (!(x.imm() & 4)) c.env.rounding = static_cast<Rounding>(x.imm() & 3);
  for (unsigned i = 0, n = prepare<F, scalar>(x); i < n; ++i) put_lane<U>(x.d, i, round_to_integer<F>(lane<U>(x.b, i), c.env, x.imm() & 8));
}

// Fused multiply-add. Which operand is multiplied by which: 132 destination × third + second, 213 second × destination + third,
// 231 second × third + destination. `alternating`: odd elements add and even ones subtract (1), or the other way round (2).
template <class F, unsigned form, bool scalar, bool negate_product, bool negate_addend, unsigned alternating = 0>
void fused(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  if (scalar) std::memset(x.d + 16, 0, 16);
  for (unsigned i = 0, n = scalar ? 1 : x.n / sizeof(U); i < n; ++i) {
    const U first = lane<U>(x.d, i), second = lane<U>(x.a, i), third = lane<U>(x.b, i);
    const bool minus_addend = alternating ? (i & 1) == (alternating == 1 ? 0u : 1u) : negate_addend;
    put_lane<U>(x.d, i,
                form == 132   ? multiply_add<F>(first, third, second, c.env, negate_product, minus_addend)
                : form == 213 ? multiply_add<F>(second, first, third, c.env, negate_product, minus_addend)
                              : multiply_add<F>(second, third, first, c.env, negate_product, minus_addend));
  }
}

// Half precision. Neither DAZ nor FTZ counts for halves.
using Half = Format<u16, 10, 5>;
void from_halves(Args& x) {
  Environment env;
  u8 out[32] = {};
  for (unsigned i = 0; i < x.n / 4; ++i) put_lane<u32>(out, i, convert<Single, Half>(lane<u16>(x.b, i), env));
  x.frame.mxcsr |= env.status & invalid;
  std::memcpy(x.d, out, x.n);
}
void to_halves(Args& x) {
  Control c(x);
  c.env.flush = false;
  if (!(x.imm() & 4)) c.env.rounding = static_cast<Rounding>(x.imm() & 3);
  u8 out[32] = {};
  for (unsigned i = 0; i < x.n / 4; ++i) put_lane<u16>(out, i, convert<Half, Single>(lane<u32>(x.b, i), c.env));
  std::memcpy(x.d, out, 32);
}

// Dot products: the products that the high half of the immediate picks, summed in pairs, to the elements that the low half picks.
template <class F>
void dot(Args& x) {
  using U = typename F::Bits;
  Control c(x);
  constexpr unsigned count = 16 / sizeof(U);
  for (unsigned half = 0; half < x.n; half += 16) {
    U product[count];
    for (unsigned i = 0; i < count; ++i)
      product[i] = x.imm() >> (4 + i) & 1 ? multiply<F>(lane<U>(x.a + half, i), lane<U>(x.b + half, i), c.env) : U{0};
    U sum = add<F>(product[0], product[1], c.env);
    if constexpr (count == 4) sum = add<F>(sum, add<F>(product[2], product[3], c.env), c.env);
    for (unsigned i = 0; i < count; ++i) put_lane<U>(x.d + half, i, x.imm() >> i & 1 ? sum : U{0});
  }
}

#define FUSED_PAIR(opcode, ...) \
  {2, 0x66, opcode, fused<Single, __VA_ARGS__>, false, -1, 0}, {2, 0x66, opcode, fused<Double, __VA_ARGS__>, false, -1, 1}
#define FUSED(base, form)                                                                                     \
  FUSED_PAIR(base + 0x6, form, false, false, false, 1), FUSED_PAIR(base + 0x7, form, false, false, false, 2), \
      FUSED_PAIR(base + 0x8, form, false, false, false), FUSED_PAIR(base + 0x9, form, true, false, false),    \
      FUSED_PAIR(base + 0xa, form, false, false, true), FUSED_PAIR(base + 0xb, form, true, false, true),      \
      FUSED_PAIR(base + 0xc, form, false, true, false), FUSED_PAIR(base + 0xd, form, true, true, false),      \
      FUSED_PAIR(base + 0xe, form, false, true, true), FUSED_PAIR(base + 0xf, form, true, true, true)
#define ARITHMETIC(opcode, operation)                                                                       \
  {1, 0x00, opcode, binary<Single, false, operation>}, {1, 0x66, opcode, binary<Double, false, operation>}, \
      {1, 0xf3, opcode, binary<Single, true, operation>}, {                                                 \
    1, 0xf2, opcode, binary<Double, true, operation>                                                        \
  }

constexpr PortableEntry table[] = {
    ARITHMETIC(0x58, plus),
    ARITHMETIC(0x59, times),
    ARITHMETIC(0x5c, minus),
    ARITHMETIC(0x5d, smaller),
    ARITHMETIC(0x5e, over),
    ARITHMETIC(0x5f, larger),
    {1, 0x00, 0x51, root<Single, false>},
    {1, 0x66, 0x51, root<Double, false>},
    {1, 0xf3, 0x51, root<Single, true>},
    {1, 0xf2, 0x51, root<Double, true>},
    {1, 0x66, 0x7c, horizontal<Double, plus>},
    {1, 0xf2, 0x7c, horizontal<Single, plus>},
    {1, 0x66, 0x7d, horizontal<Double, minus>},
    {1, 0xf2, 0x7d, horizontal<Single, minus>},
    {1, 0x66, 0xd0, add_subtract<Double>},
    {1, 0xf2, 0xd0, add_subtract<Single>},
    {1, 0x00, 0xc2, compare_to_mask<Single, false>},
    {1, 0x66, 0xc2, compare_to_mask<Double, false>},
    {1, 0xf3, 0xc2, compare_to_mask<Single, true>},
    {1, 0xf2, 0xc2, compare_to_mask<Double, true>},
    {1, 0x00, 0x2e, compare_to_flags<Single, true>},
    {1, 0x66, 0x2e, compare_to_flags<Double, true>},
    {1, 0x00, 0x2f, compare_to_flags<Single, false>},
    {1, 0x66, 0x2f, compare_to_flags<Double, false>},
    {1, 0x00, 0x5a, convert_format<Double, Single, false>},
    {1, 0x66, 0x5a, convert_format<Single, Double, false>},
    {1, 0xf3, 0x5a, convert_format<Double, Single, true>},
    {1, 0xf2, 0x5a, convert_format<Single, Double, true>},
    {1, 0x00, 0x5b, from_dwords<Single>},
    {1, 0x66, 0x5b, to_dwords<Single, false>},
    {1, 0xf3, 0x5b, to_dwords<Single, true>},
    {1, 0x66, 0xe6, to_dwords<Double, true>},
    {1, 0xf3, 0xe6, from_dwords<Double>},
    {1, 0xf2, 0xe6, to_dwords<Double, false>},
    {1, 0x00, 0x2a, from_mmx<Single>},
    {1, 0x66, 0x2a, from_mmx<Double>},
    {1, 0x00, 0x2c, to_mmx<Single, true>},
    {1, 0x66, 0x2c, to_mmx<Double, true>},
    {1, 0x00, 0x2d, to_mmx<Single, false>},
    {1, 0x66, 0x2d, to_mmx<Double, false>},
    {1, 0xf3, 0x2a, from_register<Single>},
    {1, 0xf2, 0x2a, from_register<Double>},
    {1, 0xf3, 0x2c, to_register<Single, true>},
    {1, 0xf2, 0x2c, to_register<Double, true>},
    {1, 0xf3, 0x2d, to_register<Single, false>},
    {1, 0xf2, 0x2d, to_register<Double, false>},
    {3, 0x66, 0x08, round_each<Single, false>},
    {3, 0x66, 0x09, round_each<Double, false>},
    {3, 0x66, 0x0a, round_each<Single, true>},
    {3, 0x66, 0x0b, round_each<Double, true>},
    {2, 0x66, 0x13, from_halves},
    {3, 0x66, 0x1d, to_halves},
    {3, 0x66, 0x40, dot<Single>},
    {3, 0x66, 0x41, dot<Double>},
    FUSED(0x90, 132),
    FUSED(0xa0, 213),
    FUSED(0xb0, 231),
};
#undef ARITHMETIC
#undef FUSED
#undef FUSED_PAIR

}  // namespace

std::span<const PortableEntry> portable_float() { return table; }

}  // namespace vmm::tcg::x86
