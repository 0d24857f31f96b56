// CRC-32 of parts, as zlib's crc32(), by carry-less products where the processor has them: ten times as fast, which a move by a fast
// channel and snapshots feel. Source: "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), the
// bit-reflected case.
#include <smmintrin.h>
#include <wmmintrin.h>
#include <zlib.h>

#include "migration/stream.h"

namespace vmm::migration {

namespace {

using Lanes = __m128i;
constexpr usize lane_bytes = 16, block_bytes = 4 * lane_bytes;

// Powers of x modulo P, reflected: by how far a half of 64 bits moves on.
constexpr u64 by_512_low = 0x1'5444'2bd4, by_512_high = 0x1'c6e4'1596, by_128_low = 0x1'7519'97d0, by_128_high = 0x0'ccaa'009e,
              by_64 = 0x1'63cd'6124, polynomial = 0x1'db71'0641, quotient = 0x1'f701'1641;

#define CARRYLESS __attribute__((target("pclmul,sse4.1")))

CARRYLESS inline Lanes load(const u8* at) { return _mm_loadu_si128(reinterpret_cast<const Lanes*>(at)); }
CARRYLESS inline Lanes pair(u64 low, u64 high) { return _mm_set_epi64x(static_cast<i64>(high), static_cast<i64>(low)); }
CARRYLESS inline Lanes moved_on(Lanes x, Lanes by) {
  return _mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00), _mm_clmulepi64_si128(x, by, 0x11));
}

// `bytes` is a multiple of 16, at least 64. The state is the sum's complement.
CARRYLESS u32 fold(u32 state, const u8* at, usize bytes) {
  Lanes x[4];
  for (int i = 0; i < 4; i++) x[i] = load(at + lane_bytes * i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(static_cast<int>(state)));
  at += block_bytes, bytes -= block_bytes;
  const Lanes far = pair(by_512_low, by_512_high), near = pair(by_128_low, by_128_high);
  for (; bytes >= block_bytes; at += block_bytes, bytes -= block_bytes)
    for (int i = 0; i < 4; i++) x[i] = _mm_xor_si128(moved_on(x[i], far), load(at + lane_bytes * i));
  Lanes sum = x[0];
  for (int i = 1; i < 4; i++) sum = _mm_xor_si128(moved_on(sum, near), x[i]);
  for (; bytes; at += lane_bytes, bytes -= lane_bytes) sum = _mm_xor_si128(moved_on(sum, near), load(at));
  // 128 bits to 64, to 32 with a rest, and that modulo P.
  const Lanes even = _mm_setr_epi32(-1, 0, -1, 0);
  sum = _mm_xor_si128(_mm_srli_si128(sum, 8), _mm_clmulepi64_si128(sum, near, 0x10));
  sum = _mm_xor_si128(_mm_srli_si128(sum, 4), _mm_clmulepi64_si128(_mm_and_si128(sum, even), pair(by_64, 0), 0x00));
  const Lanes divide = pair(polynomial, quotient);
  const Lanes times = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(sum, even), divide, 0x10), even);
  sum = _mm_xor_si128(sum, _mm_clmulepi64_si128(times, divide, 0x00));
  return static_cast<u32>(_mm_extract_epi32(sum, 1));
}

}  // namespace

u32 sum_of(std::span<const u8> bytes) {
  static const bool carryless = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  u32 sum = 0;
  if (carryless && bytes.size() >= block_bytes) {
    const usize whole = bytes.size() / lane_bytes * lane_bytes;
    sum = ~fold(~sum, bytes.data(), whole);
    bytes = bytes.subspan(whole);
  }
  return static_cast<u32>(::crc32_z(sum, bytes.data(), bytes.size()));
}

}  // namespace vmm::migration
