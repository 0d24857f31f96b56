// AES, carry-less multiplication, SHA, Galois-field bytes. Sources: FIPS 197 (AES), FIPS 180-4 (SHA), SDM 2 ("Operation" of each
// instruction).
#include <array>
#include <bit>
#include <cstring>

#include "accel/tcg/guest/x86/portable_simd.h"

namespace vmm::tcg::x86 {

namespace {

using Args = PortableArgs;
using u128 = unsigned __int128;

// --- the field GF(2^8) of AES: x^8 + x^4 + x^3 + x + 1

constexpr u8 times(u8 a, u8 b) {
  u8 r = 0;
  for (; b; b >>= 1) {
    if (b & 1) r ^= a;
    a = static_cast<u8>(a << 1 ^ (a & 0x80 ? 0x1b : 0));
  }
  return r;
}
constexpr u8 inverse(u8 a) {  // a^254; of zero: zero
  u8 r = 1, p = a;
  for (unsigned e = 254; e; e >>= 1) {
    if (e & 1) r = times(r, p);
    p = times(p, p);
  }
  return a ? r : 0;
}
constexpr std::array<u8, 256> inverses = [] {
  std::array<u8, 256> t{};
  for (unsigned i = 0; i < 256; ++i) t[i] = inverse(static_cast<u8>(i));
  return t;
}();
constexpr std::array<u8, 256> sbox = [] {
  std::array<u8, 256> t{};
  for (unsigned i = 0; i < 256; ++i) {
    const u8 v = inverses[i];
    t[i] = static_cast<u8>(v ^ std::rotl(v, 1) ^ std::rotl(v, 2) ^ std::rotl(v, 3) ^ std::rotl(v, 4) ^ 0x63);
  }
  return t;
}();
constexpr std::array<u8, 256> inverse_sbox = [] {
  std::array<u8, 256> t{};
  for (unsigned i = 0; i < 256; ++i) t[sbox[i]] = static_cast<u8>(i);
  return t;
}();

// --- AES. The state is column by column, as in memory.

void substitute_and_shift(const u8* from, u8* to, bool inverse) {
  for (unsigned column = 0; column < 4; ++column)
    for (unsigned row = 0; row < 4; ++row) {
      const unsigned source = (inverse ? column - row : column + row) & 3;
      to[4 * column + row] = (inverse ? inverse_sbox : sbox)[from[4 * source + row]];
    }
}
void mix(u8* s, bool inverse) {
  constexpr u8 forward[4] = {2, 3, 1, 1}, backward[4] = {14, 11, 13, 9};
  const u8* const c = inverse ? backward : forward;
  for (unsigned column = 0; column < 16; column += 4) {
    u8 v[4];
    std::memcpy(v, s + column, 4);
    for (unsigned row = 0; row < 4; ++row) {
      s[column + row] = 0;
      for (unsigned k = 0; k < 4; ++k) s[column + row] ^= times(v[(row + k) & 3], c[k]);
    }
  }
}
template <bool decrypt, bool last>
void round(Args& x) {
  for (unsigned half = 0; half < x.n; half += 16) {
    u8 s[16];
    substitute_and_shift(x.a + half, s, decrypt);
    if (!last) mix(s, decrypt);
    for (unsigned i = 0; i < 16; ++i) x.d[half + i] = s[i] ^ x.b[half + i];
  }
}
void inverse_mix(Args& x) {
  u8 s[16];
  std::memcpy(s, x.b, 16);
  mix(s, true);
  std::memcpy(x.d, s, 16);
}
void key_assist(Args& x) {
  const auto word = [&](unsigned i) {
    u32 v = lane<u32>(x.b, i), r = 0;
    for (unsigned k = 0; k < 32; k += 8) r |= u32{sbox[v >> k & 0xff]} << k;
    return r;
  };
  const u32 one = word(1), three = word(3);
  put_lane<u32>(x.d, 0, one), put_lane<u32>(x.d, 1, std::rotr(one, 8) ^ x.imm());
  put_lane<u32>(x.d, 2, three), put_lane<u32>(x.d, 3, std::rotr(three, 8) ^ x.imm());
}

void carryless(Args& x) {
  for (unsigned half = 0; half < x.n; half += 16) {
    const u64 a = lane<u64>(x.a + half, x.imm() & 1), b = lane<u64>(x.b + half, x.imm() >> 4 & 1);
    u128 r = 0;
    for (unsigned i = 0; i < 64; ++i)
      if (b >> i & 1) r ^= u128{a} << i;
    put_lane<u64>(x.d + half, 0, static_cast<u64>(r)), put_lane<u64>(x.d + half, 1, static_cast<u64>(r >> 64));
  }
}

// --- SHA: element 3 is the most significant

struct Words {
  u32 w[4];
  explicit Words(const u8* p) : w{lane<u32>(p, 0), lane<u32>(p, 1), lane<u32>(p, 2), lane<u32>(p, 3)} {}
};
void put_words(u8* p, u32 w0, u32 w1, u32 w2, u32 w3) {
  put_lane<u32>(p, 0, w0), put_lane<u32>(p, 1, w1), put_lane<u32>(p, 2, w2), put_lane<u32>(p, 3, w3);
}
u32 choose(u32 e, u32 f, u32 g) { return (e & f) ^ (~e & g); }
u32 majority(u32 a, u32 b, u32 c) { return (a & b) ^ (a & c) ^ (b & c); }

void sha1_rounds(Args& x) {
  constexpr u32 constants[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
  const Words s(x.a), m(x.b);
  const unsigned f = x.imm() & 3;
  u32 a = s.w[3], b = s.w[2], c = s.w[1], d = s.w[0], e = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const u32 mixed = f == 0 ? choose(b, c, d) : f == 2 ? majority(b, c, d) : b ^ c ^ d;
    const u32 next = mixed + std::rotl(a, 5) + m.w[3 - i] + e + constants[f];
    e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
  }
  put_words(x.d, d, c, b, a);
}
void sha1_next_e(Args& x) {
  const Words s(x.a), m(x.b);
  put_words(x.d, m.w[0], m.w[1], m.w[2], m.w[3] + std::rotl(s.w[3], 30));
}
void sha1_message1(Args& x) {
  const Words s(x.a), m(x.b);
  put_words(x.d, m.w[2] ^ s.w[0], m.w[3] ^ s.w[1], s.w[0] ^ s.w[2], s.w[1] ^ s.w[3]);
}
void sha1_message2(Args& x) {
  const Words s(x.a), m(x.b);
  const u32 w16 = std::rotl(s.w[3] ^ m.w[2], 1), w17 = std::rotl(s.w[2] ^ m.w[1], 1), w18 = std::rotl(s.w[1] ^ m.w[0], 1);
  put_words(x.d, std::rotl(s.w[0] ^ w16, 1), w18, w17, w16);
}
void sha256_rounds(Args& x) {
  const Words cdgh(x.a), abef(x.b), wk(x.frame.vector[0]);
  u32 a = abef.w[3], b = abef.w[2], c = cdgh.w[3], d = cdgh.w[2], e = abef.w[1], f = abef.w[0], g = cdgh.w[1], h = cdgh.w[0];
  for (unsigned i = 0; i < 2; ++i) {
    const u32 t = choose(e, f, g) + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + wk.w[i] + h;
    const u32 u = majority(a, b, c) + (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22));
    h = g, g = f, f = e, e = t + d, d = c, c = b, b = a, a = t + u;
  }
  put_words(x.d, f, e, b, a);
}
u32 small0(u32 v) { return std::rotr(v, 7) ^ std::rotr(v, 18) ^ v >> 3; }
u32 small1(u32 v) { return std::rotr(v, 17) ^ std::rotr(v, 19) ^ v >> 10; }
void sha256_message1(Args& x) {
  const Words s(x.a), m(x.b);
  put_words(x.d, s.w[0] + small0(s.w[1]), s.w[1] + small0(s.w[2]), s.w[2] + small0(s.w[3]), s.w[3] + small0(m.w[0]));
}
void sha256_message2(Args& x) {
  const Words s(x.a), m(x.b);
  const u32 w16 = s.w[0] + small1(m.w[2]), w17 = s.w[1] + small1(m.w[3]);
  put_words(x.d, w16, w17, s.w[2] + small1(w16), s.w[3] + small1(w17));
}

// --- GFNI

void field_multiply(Args& x) {
  for (unsigned i = 0; i < x.n; ++i) x.d[i] = times(x.a[i], x.b[i]);
}
template <bool inverted>
void affine(Args& x) {
  u8 out[32];
  for (unsigned q = 0; q < x.n; q += 8)
    for (unsigned i = 0; i < 8; ++i) {
      const u8 v = inverted ? inverses[x.a[q + i]] : x.a[q + i];
      u8 r = 0;
      for (unsigned bit = 0; bit < 8; ++bit) r |= static_cast<u8>((std::popcount(static_cast<u8>(x.b[q + 7 - bit] & v)) & 1) << bit);
      out[q + i] = r ^ x.imm();
    }
  std::memcpy(x.d, out, x.n);
}

constexpr PortableEntry table[] = {
    {2, 0x00, 0xc8, sha1_next_e},        {2, 0x00, 0xc9, sha1_message1},      {2, 0x00, 0xca, sha1_message2},
    {2, 0x00, 0xcb, sha256_rounds},      {2, 0x00, 0xcc, sha256_message1},    {2, 0x00, 0xcd, sha256_message2},
    {2, 0x66, 0xcf, field_multiply},     {2, 0x66, 0xdb, inverse_mix},        {2, 0x66, 0xdc, round<false, false>},
    {2, 0x66, 0xdd, round<false, true>}, {2, 0x66, 0xde, round<true, false>}, {2, 0x66, 0xdf, round<true, true>},
    {3, 0x66, 0x44, carryless},          {3, 0x00, 0xcc, sha1_rounds},        {3, 0x66, 0xce, affine<false>},
    {3, 0x66, 0xcf, affine<true>},       {3, 0x66, 0xdf, key_assist},
};

}  // namespace

std::span<const PortableEntry> portable_crypto() { return table; }

}  // namespace vmm::tcg::x86
