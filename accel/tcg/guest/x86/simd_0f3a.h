// The 0F3A map: SSSE3, SSE4.1, SSE4.2, PCLMUL, AES, SHA, GFNI, and AVX, AVX2, F16C. Source: SDM 2A–2D.
#pragma once

#include "accel/tcg/guest/x86/simd_row.h"

namespace vmm::tcg::x86 {

inline constexpr Simd simd_0f3a[] = {
    {0x08, "vroundps", {Vx, Wx, Ib}, nullptr, packed(Feature::sse4_1, p_66).fp()},
    {0x09, "vroundpd", {Vx, Wx, Ib}, nullptr, packed(Feature::sse4_1, p_66).fp()},
    {0x0a, "vroundss", {Vx, Hx, Wd, Ib}, nullptr, scalar(Feature::sse4_1, p_66).fp()},
    {0x0b, "vroundsd", {Vx, Hx, Wq, Ib}, nullptr, scalar(Feature::sse4_1, p_66).fp()},
    {0x0c, "vblendps", {Vx, Hx, Wx, Ib}, nullptr, packed(Feature::sse4_1, p_66)},
    {0x0d, "vblendpd", {Vx, Hx, Wx, Ib}, nullptr, packed(Feature::sse4_1, p_66)},
    {0x0e, "vpblendw", {Vx, Hx, Wx, Ib}, nullptr, integer(Feature::sse4_1, p_66)},
    {0x0f, "vpalignr", {Vx, Hx, Wx, Ib}, nullptr, integer(Feature::ssse3, p_66)},
    {0x0f, "palignr", {Pq, Qq, Ib}, nullptr, mmx_row(Feature::ssse3)},
    {0x14, "vpextrb", {RdMb, Vx, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x15, "vpextrw", {RdMw, Vx, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x16, "vpextrd", {Ey, Vx, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x17, "vextractps", {Ed, Vx, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x20, "vpinsrb", {Vx, Hx, RdMb, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x21, "vinsertps", {Vx, Hx, Wd, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x22, "vpinsrd", {Vx, Hx, Ey, Ib}, nullptr, xmm(Feature::sse4_1, p_66)},
    {0x40, "vdpps", {Vx, Hx, Wx, Ib}, nullptr, packed(Feature::sse4_1, p_66).fp()},
    {0x41, "vdppd", {Vx, Hx, Wx, Ib}, nullptr, xmm(Feature::sse4_1, p_66).fp()},
    {0x42, "vmpsadbw", {Vx, Hx, Wx, Ib}, nullptr, integer(Feature::sse4_1, p_66)},
    {0x44, "vpclmulqdq", {Vx, Hx, Wx, Ib}, nullptr, wide(Feature::pclmul, Feature::vpclmul, p_66)},
    {0x60, "vpcmpestrm", {Vx, Wx, Ib}, nullptr, xmm(Feature::sse4_2, p_66).string(true, false)},
    {0x61, "vpcmpestri", {Vx, Wx, Ib}, nullptr, xmm(Feature::sse4_2, p_66).string(true, true)},
    {0x62, "vpcmpistrm", {Vx, Wx, Ib}, nullptr, xmm(Feature::sse4_2, p_66).string(false, false)},
    {0x63, "vpcmpistri", {Vx, Wx, Ib}, nullptr, xmm(Feature::sse4_2, p_66).string(false, true)},
    {0xcc, "sha1rnds4", {Vx, Wx, Ib}, nullptr, legacy(Feature::sha, p_none).loose()},
    {0xce, "vgf2p8affineqb", {Vx, Hx, Wx, Ib}, nullptr, packed(Feature::gfni, p_66).w(1)},
    {0xcf, "vgf2p8affineinvqb", {Vx, Hx, Wx, Ib}, nullptr, packed(Feature::gfni, p_66).w(1)},
    {0xdf, "vaeskeygenassist", {Vx, Wx, Ib}, nullptr, xmm(Feature::aes, p_66)},

    {0x00, "vpermq", {Vx, Wx, Ib}, nullptr, vex(Feature::avx2).w(1).only_ymm()},
    {0x01, "vpermpd", {Vx, Wx, Ib}, nullptr, vex(Feature::avx2).w(1).only_ymm()},
    {0x02, "vpblendd", {Vx, Hx, Wx, Ib}, nullptr, vex(Feature::avx2).w(0)},
    {0x04, "vpermilps", {Vx, Wx, Ib}, nullptr, vex(Feature::avx).w(0)},
    {0x05, "vpermilpd", {Vx, Wx, Ib}, nullptr, vex(Feature::avx).w(0)},
    {0x06, "vperm2f128", {Vx, Hx, Wx, Ib}, nullptr, vex(Feature::avx).w(0).only_ymm()},
    {0x18, "vinsertf128", {Vx, Hx, Wdq, Ib}, nullptr, vex(Feature::avx).w(0).only_ymm()},
    {0x19, "vextractf128", {Wdq, Vx, Ib}, nullptr, vex(Feature::avx).w(0).only_ymm()},
    {0x1d, "vcvtps2ph", {Whx, Vx, Ib}, nullptr, vex(Feature::f16c).w(0).fp()},
    {0x38, "vinserti128", {Vx, Hx, Wdq, Ib}, nullptr, vex(Feature::avx2).w(0).only_ymm()},
    {0x39, "vextracti128", {Wdq, Vx, Ib}, nullptr, vex(Feature::avx2).w(0).only_ymm()},
    {0x46, "vperm2i128", {Vx, Hx, Wx, Ib}, nullptr, vex(Feature::avx2).w(0).only_ymm()},
    {0x4a, "vblendvps", {Vx, Hx, Wx, Lx}, nullptr, vex(Feature::avx).w(0)},
    {0x4b, "vblendvpd", {Vx, Hx, Wx, Lx}, nullptr, vex(Feature::avx).w(0)},
    {0x4c, "vpblendvb", {Vx, Hx, Wx, Lx}, nullptr, rules(Feature::none, p_66, Feature::avx, Feature::avx2).w(0)},
};

}  // namespace vmm::tcg::x86
