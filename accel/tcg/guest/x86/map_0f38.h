// The 0F38 and 0F3A opcode maps: integer rows, with and without VEX. Source: SDM 2D appendix A, tables.
#pragma once

#include "accel/tcg/guest/x86/emitters.h"
#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

// clang-format off
inline constexpr Row rows_0f38[] = {
    {0xf0, "movbe", {Gv, Mv}, emit_movbe, {.needs = Feature::movbe, .prefix = p_no_rep, .pass = true, .dst = Dst::write}},
    {0xf1, "movbe", {Mv, Gv}, emit_movbe, {.needs = Feature::movbe, .prefix = p_no_rep, .pass = true, .dst = Dst::write}},
    {0xf0, "crc32", {Gy, Eb}, emit_crc32, {.needs = Feature::sse4_2, .prefix = p_f2, .pass = true}},
    {0xf1, "crc32", {Gy, Ev}, emit_crc32, {.needs = Feature::sse4_2, .prefix = p_f2, .pass = true}},
    {0xf6, "adcx", {Gy, Ey}, emit_adcx, {.needs = Feature::adx, .prefix = p_66, .pass = true, .flags_in = fl_c, .flags_out = fl_c}},
    {0xf6, "adox", {Gy, Ey}, emit_adox, {.needs = Feature::adx, .prefix = p_f3, .pass = true, .flags_in = fl_o, .flags_out = fl_o}},
    {0xf2, "andn", {Gy, By, Ey}, emit_andn, {.needs = Feature::bmi1, .prefix = p_none, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf3, "blsr", {By, Ey}, emit_blsr, {.needs = Feature::bmi1, .prefix = p_none, .reg = 1, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf3, "blsmsk", {By, Ey}, emit_blsmsk, {.needs = Feature::bmi1, .prefix = p_none, .reg = 2, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf3, "blsi", {By, Ey}, emit_blsi, {.needs = Feature::bmi1, .prefix = p_none, .reg = 3, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf5, "bzhi", {Gy, Ey, By}, emit_bzhi, {.needs = Feature::bmi2, .prefix = p_none, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf5, "pext", {Gy, By, Ey}, emit_pext, {.needs = Feature::bmi2, .prefix = p_f3, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
    {0xf5, "pdep", {Gy, By, Ey}, emit_pdep, {.needs = Feature::bmi2, .prefix = p_f2, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
    {0xf6, "mulx", {Gy, By, Ey}, emit_mulx, {.needs = Feature::bmi2, .prefix = p_f2, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .reads = 4}},
    {0xf7, "bextr", {Gy, Ey, By}, emit_bextr, {.needs = Feature::bmi1, .prefix = p_none, .l = 0, .vex = true, .pass = true, .dst = Dst::write, .flags_in = fl_all, .flags_out = fl_all}},
    {0xf7, "shlx", {Gy, Ey, By}, emit_shlx, {.needs = Feature::bmi2, .prefix = p_66, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
    {0xf7, "sarx", {Gy, Ey, By}, emit_sarx, {.needs = Feature::bmi2, .prefix = p_f3, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
    {0xf7, "shrx", {Gy, Ey, By}, emit_shrx, {.needs = Feature::bmi2, .prefix = p_f2, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
};
inline constexpr Row rows_0f3a[] = {
    {0xf0, "rorx", {Gy, Ey, Ib}, emit_rorx, {.needs = Feature::bmi2, .prefix = p_f2, .l = 0, .vex = true, .pass = true, .dst = Dst::write}},
};
// clang-format on

}  // namespace vmm::tcg::x86
