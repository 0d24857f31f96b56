// Moves, shuffles, unpacks, inserts, extracts, blends, broadcasts, widening. Source: SDM 2A to 2D, "Operation" of each instruction.
#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/portable_simd.h"

namespace vmm::tcg::x86 {

namespace {

using Args = PortableArgs;

void move(Args& x) { std::memcpy(x.d, x.b, x.n); }
// A scalar from memory clears what lies above it; to memory only it counts.
template <unsigned bytes>
void load_scalar(Args& x) {
  u8 v[bytes];
  std::memcpy(v, x.b, bytes);
  if (!(x.shape.memory && x.shape.memory_stored)) std::memset(x.d, 0, 32);
  std::memcpy(x.d, v, bytes);
}
// movss, movsd between registers: the rest comes from the first source.
template <unsigned bytes>
void merge_scalar(Args& x) {
  if (x.shape.memory) return load_scalar<bytes>(x);
  std::memcpy(x.d, x.a, 16);
  std::memset(x.d + 16, 0, 16);  // whatever VEX.L says
  std::memcpy(x.d, x.b, bytes);
}
// movlps, movhps, movlhps, movhlps.
void low_half(Args& x) {
  if (x.shape.memory_stored) return void(std::memcpy(x.d, x.b, 8));
  std::memcpy(x.d, x.a, 16);
  std::memcpy(x.d, x.b + (x.shape.memory ? 0 : 8), 8);
}
void high_half(Args& x) {
  if (x.shape.memory_stored) return void(std::memcpy(x.d, x.b + 8, 8));
  std::memcpy(x.d, x.a, 16);
  std::memcpy(x.d + 8, x.b, 8);
}
// movd, movq with a general register: 4 bytes, or 8 with W.
void from_general(Args& x) {
  const u64 v = lane<u64>(x.b, 0);
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, x.shape.w ? v : v & 0xffff'ffff);
}
void to_general(Args& x) {
  const u64 v = lane<u64>(x.b, 0);
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, x.shape.w ? v : v & 0xffff'ffff);
}
// 7E: movq to a vector (F3) or movd to a general register.
void zero_extend_quad(Args& x) {
  const u64 v = lane<u64>(x.b, 0);
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, v);
}

template <class T, bool high>
void unpack(Args& x) {
  const unsigned width = std::min(x.n, 16u), count = width / sizeof(T);
  u8 out[32];
  for (unsigned half = 0; half < x.n; half += width)
    for (unsigned i = 0; i < count / 2; ++i) {
      const unsigned from = i + (high ? count / 2 : 0);
      put_lane<T>(out + half, 2 * i, lane<T>(x.a + half, from));
      put_lane<T>(out + half, 2 * i + 1, lane<T>(x.b + half, from));
    }
  std::memcpy(x.d, out, x.n);
}
template <unsigned odd>
void duplicate_words(Args& x) {  // movsldup, movshdup
  for (unsigned i = 0; i < x.n / 4; ++i) put_lane<u32>(x.d, i, lane<u32>(x.b, (i & ~1u) | odd));
}
void duplicate_quads(Args& x) {
  for (unsigned i = 0; i < x.n / 8; ++i) put_lane<u64>(x.d, i, lane<u64>(x.b, i & ~1u));
}

void shuffle_bytes(Args& x) {
  const unsigned width = std::min(x.n, 16u);
  for (unsigned half = 0; half < x.n; half += width)
    for (unsigned i = 0; i < width; ++i) x.d[half + i] = x.b[half + i] & 0x80 ? 0 : x.a[half + (x.b[half + i] & (width - 1))];
}
void shuffle_dwords(Args& x) {
  for (unsigned i = 0; i < x.n / 4; ++i) put_lane<u32>(x.d, i, lane<u32>(x.b, (i & ~3u) | (x.imm() >> (i & 3) * 2 & 3)));
}
template <unsigned at>
void shuffle_words(Args& x) {  // at: 0 low or MMX, 4 high
  u8 out[32];
  std::memcpy(out, x.b, x.n);
  for (unsigned half = 0; half < x.n; half += 16)
    for (unsigned i = 0; i < 4; ++i) put_lane<u16>(out + half, at + i, lane<u16>(x.b + half, at + (x.imm() >> i * 2 & 3)));
  std::memcpy(x.d, out, x.n);
}
void shuffle_singles(Args& x) {
  u8 out[32];
  for (unsigned half = 0; half < x.n; half += 16)
    for (unsigned i = 0; i < 4; ++i) put_lane<u32>(out + half, i, lane<u32>((i < 2 ? x.a : x.b) + half, x.imm() >> i * 2 & 3));
  std::memcpy(x.d, out, x.n);
}
void shuffle_doubles(Args& x) {
  u8 out[32];
  for (unsigned i = 0; i < x.n / 8; ++i) put_lane<u64>(out, i, lane<u64>(i & 1 ? x.b : x.a, (i & ~1u) | (x.imm() >> i & 1)));
  std::memcpy(x.d, out, x.n);
}
void permute_singles(Args& x) {  // vpermilps by register
  for (unsigned i = 0; i < x.n / 4; ++i) put_lane<u32>(x.d, i, lane<u32>(x.a, (i & ~3u) | (lane<u32>(x.b, i) & 3)));
}
void permute_doubles(Args& x) {
  for (unsigned i = 0; i < x.n / 8; ++i) put_lane<u64>(x.d, i, lane<u64>(x.a, (i & ~1u) | (lane<u64>(x.b, i) >> 1 & 1)));
}
void permute_doubles_by_immediate(Args& x) {
  for (unsigned i = 0; i < x.n / 8; ++i) put_lane<u64>(x.d, i, lane<u64>(x.b, (i & ~1u) | (x.imm() >> i & 1)));
}
void permute_dwords(Args& x) {  // vpermd, vpermps: over all eight
  for (unsigned i = 0; i < 8; ++i) put_lane<u32>(x.d, i, lane<u32>(x.b, lane<u32>(x.a, i) & 7));
}
void permute_quads(Args& x) {
  for (unsigned i = 0; i < 4; ++i) put_lane<u64>(x.d, i, lane<u64>(x.b, x.imm() >> i * 2 & 3));
}
void permute_halves(Args& x) {
  u8 out[32] = {};
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned control = x.imm() >> i * 4;
    if (!(control & 8)) std::memcpy(out + 16 * i, (control & 2 ? x.b : x.a) + 16 * (control & 1), 16);
  }
  std::memcpy(x.d, out, 32);
}
void align_right(Args& x) {
  const unsigned width = std::min(x.n, 16u), count = x.imm();
  u8 out[32];
  for (unsigned half = 0; half < x.n; half += width)
    for (unsigned i = 0; i < width; ++i) {
      const unsigned from = i + count;
      out[half + i] = from < width ? x.b[half + from] : from < 2 * width ? x.a[half + from - width] : 0;
    }
  std::memcpy(x.d, out, x.n);
}

template <class T>
void blend_by_immediate(Args& x) {
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, lane<T>(x.imm() >> (i & 7) & 1 ? x.b : x.a, i));
}
// The mask is XMM0, or with VEX a register of the immediate: the sign of each element.
template <class T>
void blend(Args& x) {
  const u8* const mask = x.frame.vector[x.shape.uses & StubShape::load_is4 ? 4 : 0];
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) put_lane<T>(x.d, i, lane<T>(mask[(i + 1) * sizeof(T) - 1] & 0x80 ? x.b : x.a, i));
}

template <class T>
void insert(Args& x) {
  const unsigned count = std::min(x.n, 16u) / sizeof(T);
  const T v = lane<T>(x.b, 0);
  std::memcpy(x.d, x.a, 16);
  put_lane<T>(x.d, x.imm() & (count - 1), v);
}
void insert_general(Args& x) { x.shape.w ? insert<u64>(x) : insert<u32>(x); }
void insert_single(Args& x) {
  const u32 v = lane<u32>(x.b, x.shape.memory ? 0 : x.imm() >> 6);
  std::memcpy(x.d, x.a, 16);
  put_lane<u32>(x.d, x.imm() >> 4 & 3, v);
  for (unsigned i = 0; i < 4; ++i)
    if (x.imm() >> i & 1) put_lane<u32>(x.d, i, 0);
}
template <class T>
void extract(Args& x) {
  const unsigned count = std::min(x.n, 16u) / sizeof(T);
  const u64 v = lane<T>(x.b, x.imm() & (count - 1));
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, v);
}
void extract_general(Args& x) { x.shape.w ? extract<u64>(x) : extract<u32>(x); }
void insert_half(Args& x) {
  u8 v[16];
  std::memcpy(v, x.b, 16);
  std::memcpy(x.d, x.a, 32);
  std::memcpy(x.d + 16 * (x.imm() & 1), v, 16);
}
void extract_half(Args& x) {
  u8 v[16];
  std::memcpy(v, x.b + 16 * (x.imm() & 1), 16);
  std::memset(x.d, 0, 32);
  std::memcpy(x.d, v, 16);
}
template <unsigned bytes>
void broadcast(Args& x) {
  u8 v[bytes];
  std::memcpy(v, x.b, bytes);
  for (unsigned i = 0; i < x.n; i += bytes) std::memcpy(x.d + i, v, bytes);
}
template <class From, class To>
void widen(Args& x) {
  u8 out[32];
  for (unsigned i = 0; i < x.n / sizeof(To); ++i) put_lane<To>(out, i, static_cast<To>(lane<From>(x.b, i)));
  std::memcpy(x.d, out, x.n);
}
template <class T>
void signs(Args& x) {
  u64 v = 0;
  for (unsigned i = 0; i < x.n / sizeof(T); ++i) v |= u64{x.b[(i + 1) * sizeof(T) - 1]} >> 7 << i;
  std::memset(x.d, 0, 32);
  put_lane<u64>(x.d, 0, v);
}

// TOP is 0 as after every MMX instruction; the image is in stack order.
void empty_mmx(Args& x) {
  u8* const image = x.frame.x87;
  const unsigned top = image[3] >> 3 & 7;
  std::rotate(image + 32, image + 32 + 16 * ((8 - top) & 7), image + 160);
  image[3] &= 0xc7, image[4] = 0;
}
void mmx_to_vector(Args& x) { std::memset(x.d, 0, 16), std::memcpy(x.d, x.b, 8); }
void vector_to_mmx(Args& x) { std::memcpy(x.d, x.b, 8); }

// SSE4a: a field of the low half; a length of 0 is 64. The upper half, which the manual leaves undefined, is as with Zen 3.
void extract_field(Args& x, unsigned length, unsigned index) {
  const u64 mask = length & 63 ? (u64{1} << (length & 63)) - 1 : ~u64{0};
  put_lane<u64>(x.d, 0, lane<u64>(x.a, 0) >> (index & 63) & mask);
  put_lane<u64>(x.d, 1, 0);
}
void insert_field(Args& x, unsigned length, unsigned index) {
  const u64 mask = (length & 63 ? (u64{1} << (length & 63)) - 1 : ~u64{0}) << (index & 63);
  put_lane<u64>(x.d, 0, (lane<u64>(x.a, 0) & ~mask) | (lane<u64>(x.b, 0) << (index & 63) & mask));
  put_lane<u64>(x.d, 1, 0);
}
void extract_field_by_immediate(Args& x) { extract_field(x, x.shape.immediate, x.shape.immediate2); }
void extract_field_by_register(Args& x) { extract_field(x, x.b[0], x.b[1]); }
void insert_field_by_immediate(Args& x) { insert_field(x, x.shape.immediate, x.shape.immediate2); }
void insert_field_by_register(Args& x) { insert_field(x, x.b[8], x.b[9]); }

constexpr PortableEntry table[] = {
    {1, 0x00, 0x10, move},
    {1, 0x66, 0x10, move},
    {1, 0xf3, 0x10, merge_scalar<4>},
    {1, 0xf2, 0x10, merge_scalar<8>},
    {1, 0x00, 0x11, move},
    {1, 0x66, 0x11, move},
    {1, 0xf3, 0x11, merge_scalar<4>},
    {1, 0xf2, 0x11, merge_scalar<8>},
    {1, 0x00, 0x12, low_half},
    {1, 0x66, 0x12, low_half},
    {1, 0xf3, 0x12, duplicate_words<0>},
    {1, 0xf2, 0x12, duplicate_quads},
    {1, 0x00, 0x13, low_half},
    {1, 0x66, 0x13, low_half},
    {1, 0x00, 0x14, unpack<u32, false>},
    {1, 0x66, 0x14, unpack<u64, false>},
    {1, 0x00, 0x15, unpack<u32, true>},
    {1, 0x66, 0x15, unpack<u64, true>},
    {1, 0x00, 0x16, high_half},
    {1, 0x66, 0x16, high_half},
    {1, 0xf3, 0x16, duplicate_words<1>},
    {1, 0x00, 0x17, high_half},
    {1, 0x66, 0x17, high_half},
    {1, 0x00, 0x28, move},
    {1, 0x66, 0x28, move},
    {1, 0x00, 0x29, move},
    {1, 0x66, 0x29, move},
    {1, 0x00, 0x2b, move},
    {1, 0x66, 0x2b, move},
    {1, 0xf3, 0x2b, load_scalar<4>},
    {1, 0xf2, 0x2b, load_scalar<8>},
    {1, 0x00, 0x50, signs<u32>},
    {1, 0x66, 0x50, signs<u64>},
    {1, 0x66, 0x60, unpack<u8, false>, true},
    {1, 0x66, 0x61, unpack<u16, false>, true},
    {1, 0x66, 0x62, unpack<u32, false>, true},
    {1, 0x66, 0x68, unpack<u8, true>, true},
    {1, 0x66, 0x69, unpack<u16, true>, true},
    {1, 0x66, 0x6a, unpack<u32, true>, true},
    {1, 0x66, 0x6c, unpack<u64, false>},
    {1, 0x66, 0x6d, unpack<u64, true>},
    {1, 0x66, 0x6e, from_general, true},
    {1, 0x66, 0x6f, move, true},
    {1, 0xf3, 0x6f, move},
    {1, 0x66, 0x70, shuffle_dwords},
    {1, 0x00, 0x70, shuffle_words<0>},
    {1, 0xf2, 0x70, shuffle_words<0>},
    {1, 0xf3, 0x70, shuffle_words<4>},
    {1, 0x66, 0x7e, to_general, true},
    {1, 0xf3, 0x7e, zero_extend_quad},
    {1, 0x66, 0x7f, move, true},
    {1, 0xf3, 0x7f, move},
    {1, 0x66, 0xc4, insert<u16>, true},
    {1, 0x66, 0xc5, extract<u16>, true},
    {1, 0x00, 0xc6, shuffle_singles},
    {1, 0x66, 0xc6, shuffle_doubles},
    {1, 0x66, 0xd6, zero_extend_quad},
    {1, 0x66, 0xd7, signs<u8>, true},
    {1, 0x66, 0xe7, move, true},
    {1, 0xf2, 0xf0, move},

    {2, 0x66, 0x00, shuffle_bytes, true},
    {2, 0x66, 0x0c, permute_singles},
    {2, 0x66, 0x0d, permute_doubles},
    {2, 0x66, 0x10, blend<u8>},
    {2, 0x66, 0x14, blend<u32>},
    {2, 0x66, 0x15, blend<u64>},
    {2, 0x66, 0x16, permute_dwords},
    {2, 0x66, 0x18, broadcast<4>},
    {2, 0x66, 0x19, broadcast<8>},
    {2, 0x66, 0x1a, broadcast<16>},
    {2, 0x66, 0x20, widen<i8, i16>},
    {2, 0x66, 0x21, widen<i8, i32>},
    {2, 0x66, 0x22, widen<i8, i64>},
    {2, 0x66, 0x23, widen<i16, i32>},
    {2, 0x66, 0x24, widen<i16, i64>},
    {2, 0x66, 0x25, widen<i32, i64>},
    {2, 0x66, 0x2a, move},
    {2, 0x66, 0x30, widen<u8, u16>},
    {2, 0x66, 0x31, widen<u8, u32>},
    {2, 0x66, 0x32, widen<u8, u64>},
    {2, 0x66, 0x33, widen<u16, u32>},
    {2, 0x66, 0x34, widen<u16, u64>},
    {2, 0x66, 0x35, widen<u32, u64>},
    {2, 0x66, 0x36, permute_dwords},
    {2, 0x66, 0x58, broadcast<4>},
    {2, 0x66, 0x59, broadcast<8>},
    {2, 0x66, 0x5a, broadcast<16>},
    {2, 0x66, 0x78, broadcast<1>},
    {2, 0x66, 0x79, broadcast<2>},

    {3, 0x66, 0x00, permute_quads},
    {3, 0x66, 0x01, permute_quads},
    {3, 0x66, 0x02, blend_by_immediate<u32>},
    {3, 0x66, 0x04, shuffle_dwords},
    {3, 0x66, 0x05, permute_doubles_by_immediate},
    {3, 0x66, 0x06, permute_halves},
    {3, 0x66, 0x0c, blend_by_immediate<u32>},
    {3, 0x66, 0x0d, blend_by_immediate<u64>},
    {3, 0x66, 0x0e, blend_by_immediate<u16>},
    {3, 0x66, 0x0f, align_right, true},
    {3, 0x66, 0x14, extract<u8>},
    {3, 0x66, 0x15, extract<u16>},
    {3, 0x66, 0x16, extract_general},
    {3, 0x66, 0x17, extract<u32>},
    {3, 0x66, 0x18, insert_half},
    {3, 0x66, 0x19, extract_half},
    {3, 0x66, 0x20, insert<u8>},
    {3, 0x66, 0x21, insert_single},
    {3, 0x66, 0x22, insert_general},
    {3, 0x66, 0x38, insert_half},
    {3, 0x66, 0x39, extract_half},
    {3, 0x66, 0x46, permute_halves},
    {3, 0x66, 0x4a, blend<u32>},
    {3, 0x66, 0x4b, blend<u64>},
    {3, 0x66, 0x4c, blend<u8>},
    {1, 0x00, 0x77, empty_mmx},
    {1, 0x66, 0x78, extract_field_by_immediate},
    {1, 0xf2, 0x78, insert_field_by_immediate},
    {1, 0x66, 0x79, extract_field_by_register},
    {1, 0xf2, 0x79, insert_field_by_register},
    {1, 0xf3, 0xd6, mmx_to_vector},
    {1, 0xf2, 0xd6, vector_to_mmx},
};

}  // namespace

std::span<const PortableEntry> portable_shuffle() { return table; }

}  // namespace vmm::tcg::x86
