// The interpreter's x87, MMX and vector rows, by native stub or helper, against the host CPU.
#include "accel/tcg/guest/x86/portable_simd.h"
#include "tests/unit/accel/tcg/guest/x86/simd_cases.h"

namespace vmm::tcg::x86 {

TEST(simd_rows_do_what_the_host_cpu_does) {
  auto bench = std::make_unique<simd_cases::Bench>();
  const auto outcome = simd_cases::check_rows(*bench, [&](std::span<const u8> bytes) { return bench->step(bytes); });
  CHECK(outcome.ran + outcome.absent > 1000);
}

// What the interpreter leaves to the host's own unit for good: the transcendentals and the approximations, whose bits are this CPU's
// tables.
TEST(rows_without_portable_code_are_counted) {
  static const std::set<std::string_view> for_good{"f2xm1", "fyl2x", "fptan",   "fpatan",  "fyl2xp1", "fsincos", "fsin",     "fcos",
                                                   "rcpps", "rcpss", "rsqrtps", "rsqrtss", "vrcpps",  "vrcpss",  "vrsqrtps", "vrsqrtss"};
  unsigned portable = 0, native = 0;
  std::string missing;
  for (const MapRows& m : all_rows()) {
    for (const Row& row : m.rows) {
      if (row.emit || row.t.undefined) continue;
      StubShape shape{.map = static_cast<u8>(m.map), .opcode = row.opcode, .vex = row.t.vex, .w = row.t.w == 1};
      shape.prefix = row.t.prefix == Prefix::p66 ? 0x66 : row.t.prefix == Prefix::f3 ? 0xf3 : row.t.prefix == Prefix::f2 ? 0xf2 : 0;
      if (row.t.reg >= 0) shape.modrm_reg = static_cast<u8>(row.t.reg);
      if (row.t.rm >= 0) shape.modrm_rm = static_cast<u8>(row.t.rm);
      for (const Operand& o : row.operands) {
        if (o.file == File::mmx) shape.uses |= o.role == Role::modrm_reg ? StubShape::mmx_reg : StubShape::mmx_rm;
        shape.memory |= o.form == Operand::mem_only;
      }
      if (portable_body(shape)) {
        portable++;
        continue;
      }
      native++;
      if (!for_good.contains(row.name)) missing += format(" {}", row.name);
    }
  }
  fmt::print("vector and x87 rows: {} by portable code, {} by native stub\n", portable, native);
  CHECK_EQ(missing, "");
  CHECK(portable >= 900);
}

// Nothing changes when an operand cannot be reached.
TEST(simd_rows_fault_before_they_change_anything) {
  using namespace simd_cases;
  auto bench = std::make_unique<Bench>();
  Random r;
  const auto check = [&](const auto& table, Map map) {
    for (const Row& row : table) {
      const std::string_view name = row.name;
      if (row.t.undefined || !takes(row, true) || name.contains("mask") || name.contains("gather") || name.starts_with("clw")) continue;
      for (unsigned l = 0; l < 2; ++l) {
        if (row.t.vex ? row.t.l >= 0 && row.t.l != static_cast<int>(l) : l) continue;
        const Shape s{.row = &row, .map = map, .memory = true, .l = l != 0, .w = row.t.w == 1, .aliased = false};
        prepare(*bench, r, s, false);
        bench->state.gpr[rbx] = 0x4000;
        bench->state.gpr[rax] |= 7;
        bench->state.x87.fcw |= 0x3f, bench->state.x87.fsw &= 0x7f7f;
        const State before = bench->state;
        const auto bytes = encode(s, 0, false);
        if (bench->step(bytes)) test::failed(row.name, __FILE__, __LINE__, "no fault");
        if (bench->cpu.pending.vector != vector_pf)
          test::failed(row.name, __FILE__, __LINE__, format("vector {}", bench->cpu.pending.vector));
        CHECK_EQ(bench->state.rip, before.rip);
        if (const std::string d = differences(
                *bench,
                [&] {
                  Bench& b = *bench;
                  const State now = b.state;
                  b.state = before;
                  auto h = host_state(b);
                  b.state = now;
                  return h;
                }(),
                true);
            !d.empty())
          test::failed(row.name, __FILE__, __LINE__, d);
      }
    }
  };
  check(rows_x87, Map::one);
  check(rows_sse_0f, Map::two), check(rows_sse_0f38, Map::m38), check(rows_sse_0f3a, Map::m3a);
  check(rows_vex_0f, Map::two), check(rows_vex_0f38, Map::m38), check(rows_vex_0f3a, Map::m3a);
}

TEST(masked_moves_and_gathers_fault_element_by_element) {
  using namespace simd_cases;
  auto bench = std::make_unique<Bench>();
  State& s = bench->state;
  // A clear mask reads nothing.
  s.vector[2].lane = {};
  s.vector[1].lane = {1, 2, 3, 4};
  s.gpr[rbx] = 0;
  CHECK(bench->step(std::array<u8, 5>{0xc4, 0xe2, 0x6d, 0x2c, 0x0b}));
  CHECK_EQ(s.vector[1].lane[3], 0u);
  // vpgatherqq xmm1, [rbx + xmm3], xmm2: the second element faults; the first is there, and its mask is clear.
  s.vector[2].lane = {~u64{0}, ~u64{0}, 0, 0};
  s.gpr[rbx] = reinterpret_cast<u64>(bench->memory);
  s.vector[3].lane = {8, u64{0} - s.gpr[rbx], 0, 0};
  s.vector[1].lane = {7, 7, 7, 7};
  store_le<u64>(bench->memory + 8, 42);
  const std::array<u8, 6> gather{0xc4, 0xe2, 0xe9, 0x91, 0x0c, 0x1b};
  CHECK(!bench->step(gather));
  CHECK_EQ(bench->cpu.pending.vector, vector_pf);
  CHECK_EQ(s.vector[1].lane[0], 42u);
  CHECK_EQ(s.vector[1].lane[1], 7u);
  CHECK_EQ(s.vector[2].lane[0], 0u);
  CHECK_EQ(s.vector[2].lane[1], ~u64{0});
  // The same register twice: #UD.
  CHECK(!bench->step(std::array<u8, 6>{0xc4, 0xe2, 0xe9, 0x91, 0x0c, 0x13}));
  CHECK_EQ(bench->cpu.pending.vector, vector_ud);
}

TEST(units_that_are_off_raise_what_the_manual_says) {
  using namespace simd_cases;
  auto bench = std::make_unique<Bench>();
  const std::array<u8, 3> addps{0x0f, 0x58, 0xc1}, paddb_mmx{0x0f, 0xfc, 0xc1};
  const std::array<u8, 4> vaddps{0xc5, 0xf0, 0x58, 0xc1};
  const std::array<u8, 2> fadd{0xd8, 0xc1};
  const std::array<u8, 1> fwait{0x9b};
  const auto vector = [&](std::span<const u8> bytes, u64 cr0, u64 cr4, u64 xcr0) {
    bench->state.cr0 = cr0, bench->state.cr4 = cr4, bench->state.xcr0 = xcr0;
    return bench->step(bytes, ModeKey{key_of(bench->cpu).raw | ModeKey::flat}) ? -1 : static_cast<int>(bench->cpu.pending.vector);
  };
  constexpr u64 on = cr0_pe | cr0_pg | cr0_ne | cr0_mp, all = cr4_osfxsr | cr4_osxsave | cr4_pae;
  CHECK_EQ(vector(addps, on, all, 7), -1);
  CHECK_EQ(vector(addps, on, all & ~u64{cr4_osfxsr}, 7), int{vector_ud});
  CHECK_EQ(vector(addps, on | cr0_em, all, 7), int{vector_ud});
  CHECK_EQ(vector(addps, on | cr0_ts, all, 7), int{vector_nm});
  CHECK_EQ(vector(vaddps, on, all, 7), -1);
  CHECK_EQ(vector(vaddps, on, all, 3), int{vector_ud});
  CHECK_EQ(vector(vaddps, on, all & ~u64{cr4_osxsave}, 7), int{vector_ud});
  CHECK_EQ(vector(vaddps, on | cr0_ts, all, 7), int{vector_nm});
  CHECK_EQ(vector(paddb_mmx, on | cr0_em, all, 7), int{vector_ud});
  CHECK_EQ(vector(paddb_mmx, on | cr0_ts, all, 7), int{vector_nm});
  CHECK_EQ(vector(fadd, on | cr0_em, all, 7), int{vector_nm});
  CHECK_EQ(vector(fadd, on | cr0_ts, all, 7), int{vector_nm});
  CHECK_EQ(vector(fwait, on | cr0_ts, all, 7), int{vector_nm});
  CHECK_EQ(vector(fwait, (on | cr0_ts) & ~u64{cr0_mp}, all, 7), -1);
}

}  // namespace vmm::tcg::x86
