// GFNI by portable code, which guests get on hosts without it: answers known from elsewhere (FIPS 197: products and the S-box).
#include "tests/unit/accel/tcg/guest/x86/simd_cases.h"

namespace vmm::tcg::x86 {

TEST(gfni_multiplies_and_inverts_as_aes_does) {
  using namespace simd_cases;
  auto bench = std::make_unique<Bench>();
  State& s = bench->state;
  // gf2p8mulb xmm1, xmm2: {57} • {83} = {c1}, {57} • {13} = {fe} (FIPS 197 §4.2).
  s.vector[1].lane = {0x5757, 0, 7, 7}, s.vector[2].lane = {0x1383, 0, 7, 7};
  CHECK(bench->step(std::array<u8, 5>{0x66, 0x0f, 0x38, 0xcf, 0xca}));
  CHECK_EQ(s.vector[1].lane[0], 0xfec1u);
  CHECK_EQ(s.vector[1].lane[2], 7u);
  // gf2p8affineinvqb xmm1, xmm2, 63h with the matrix of the S-box: S(00) = 63, S(01) = 7c, S(53) = ed, S(ff) = 16 (FIPS 197 figure 7).
  s.vector[1].lane = {0xff530100, 0, 0, 0}, s.vector[2].lane = {0xf1e3c78f1f3e7cf8, 0xf1e3c78f1f3e7cf8, 0, 0};
  CHECK(bench->step(std::array<u8, 6>{0x66, 0x0f, 0x3a, 0xcf, 0xca, 0x63}));
  CHECK_EQ(s.vector[1].lane[0] & 0xffffffff, 0x16ed7c63u);
  // The identity matrix with VEX, 256 bits: nothing changes but the constant.
  s.vector[3].lane = {0x0123456789abcdef, 2, 3, 4}, s.vector[2].lane.fill(0x0102040810204080);
  CHECK(bench->step(std::array<u8, 6>{0xc4, 0xe3, 0xe5, 0xce, 0xca, 0x01}));
  CHECK_EQ(s.vector[1].lane[0], 0x0123456789abcdefu ^ 0x0101010101010101u);
  CHECK_EQ(s.vector[1].lane[3], 4u ^ 0x0101010101010101u);
}

}  // namespace vmm::tcg::x86
