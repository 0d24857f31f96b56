// Model-specific registers: which exist, which bits they take. Source: SDM 4.
#include "src/x86/msr.h"

#include "tests/unit/accel/tcg/bench.h"

using namespace vmm;
using namespace vmm::tcg;
using namespace vmm::x86;

namespace {

// WRMSR, then RDMSR, of one register; false: #GP.
bool access(X86Bench& b, u32 number, u64 value, bool write, u64& out) {
  const u64 at = write ? 0x4000 : 0x5000;
  b.start_protected(at);
  b.code(at, {0x0f, static_cast<u8>(write ? 0x30 : 0x32), 0xf4});
  b.interrupt_gate(13, 8, 0x6000);
  b.code(0x6000, {0xf4});
  b.state.activity = Activity::running;
  b.state.gpr[rcx] = number, b.state.gpr[rax] = static_cast<u32>(value), b.state.gpr[rdx] = value >> 32;
  CHECK(b.run());
  out = static_cast<u32>(b.state.gpr[rax]) | b.state.gpr[rdx] << 32;
  return b.state.rip == at + 3;
}
bool write(X86Bench& b, u32 number, u64 value) {
  u64 ignored;
  return access(b, number, value, true, ignored);
}

}  // namespace

TEST(registers_that_no_cpu_has_raise_gp) {
  X86Bench b;
  u64 v = 0;
  for (const u32 number : {0x4fffu, 0xc000'0fffu, 0xffff'ffffu, 0x480u}) {
    CHECK(!access(b, number, 0, false, v));
    CHECK(!write(b, number, 0));
  }
  CHECK(access(b, msr_pat, 0, false, v) && v == 0x0007'0406'0007'0406);
}

TEST(registers_refuse_reserved_values_and_keep_the_others) {
  X86Bench b;
  u64 v = 0;
  CHECK(!write(b, msr_pat, 0x0202'0202'0202'0202));
  CHECK(write(b, msr_pat, 0x0606'0606'0606'0606) && access(b, msr_pat, 0, false, v) && v == 0x0606'0606'0606'0606);
  CHECK(!write(b, msr_mtrr_base0, 0x1000'0002));
  CHECK(!write(b, msr_mtrr_base0, 0x1000'0106));
  CHECK(!write(b, msr_mtrr_base0 + 1, 0x1000'0001));
  CHECK(write(b, msr_mtrr_base0 + 1, 0xf000'0800) && access(b, msr_mtrr_base0 + 1, 0, false, v) && v == 0xf000'0800);
  CHECK(!write(b, msr_mtrr_cap, 0));
  CHECK(!write(b, msr_mcg_ctl, 5) && access(b, msr_mcg_ctl, 0, false, v) && v == ~u64{0});
  CHECK(!write(b, msr_lstar, u64{1} << 50));
  CHECK(!write(b, msr_tsc_aux, u64{1} << 40));
}

TEST(a_model_without_a_unit_has_none_of_its_registers) {
  X86Bench b{2 * MiB, "max,-mtrr,-mca,-pat,-rdtscp,-rdpid"};
  u64 v = 0;
  for (const u32 number : {u32{msr_mtrr_cap}, u32{msr_mtrr_def_type}, u32{msr_mcg_cap}, u32{msr_mc0_ctl}, u32{msr_pat}, u32{msr_tsc_aux}})
    CHECK(!access(b, number, 0, false, v));
}
