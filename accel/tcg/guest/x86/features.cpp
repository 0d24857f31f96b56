// Which instructions a CPU model has, as the decoder's rows ask for it.
#include "accel/tcg/guest/x86/system.h"

namespace vmm::tcg::x86 {

namespace {
struct Pair {
  Feature row;
  CpuFeature model;
};
using F = Feature;
using M = CpuFeature;
constexpr Pair pairs[] = {
    {F::fpu, M::fpu},
    {F::cx8, M::cx8},
    {F::cmov, M::cmov},
    {F::mmx, M::mmx},
    {F::sse, M::sse},
    {F::sse2, M::sse2},
    {F::sse3, M::sse3},
    {F::ssse3, M::ssse3},
    {F::sse4_1, M::sse4_1},
    {F::sse4_2, M::sse4_2},
    {F::sse4a, M::sse4a},
    {F::popcnt, M::popcnt},
    {F::abm, M::abm},
    {F::bmi1, M::bmi1},
    {F::bmi2, M::bmi2},
    {F::adx, M::adx},
    {F::movbe, M::movbe},
    {F::aes, M::aes},
    {F::pclmul, M::pclmulqdq},
    {F::sha, M::sha_ni},
    {F::avx, M::avx},
    {F::avx2, M::avx2},
    {F::fma, M::fma},
    {F::f16c, M::f16c},
    {F::vaes, M::vaes},
    {F::vpclmul, M::vpclmulqdq},
    {F::gfni, M::gfni},
    {F::rdrand, M::rdrand},
    {F::rdseed, M::rdseed},
    {F::rdpid, M::rdpid},
    {F::rdtscp, M::rdtscp},
    {F::cx16, M::cx16},
    {F::lahf64, M::lahf_lm},
    {F::syscall, M::syscall},
    {F::sep, M::sep},
    {F::fxsr, M::fxsr},
    {F::xsave, M::xsave},
    {F::xsaveopt, M::xsaveopt},
    {F::xsavec, M::xsavec},
    {F::xsaves, M::xsaves},
    {F::fsgsbase, M::fsgsbase},
    {F::smap, M::smap},
    {F::invpcid, M::invpcid},
    {F::clflush, M::clflush},
    {F::clflushopt, M::clflushopt},
    {F::clwb, M::clwb},
    {F::clzero, M::clzero},
    {F::monitor, M::monitor},
    {F::prefetchw, M::_3dnowprefetch},
    {F::msr, M::msr},
    {F::tsc, M::tsc},
    {F::rtm, M::rtm},
    {F::pku, M::pku},
    {F::mmxext, M::mmxext},
    {F::serialize, M::serialize},
    {F::wbnoinvd, M::wbnoinvd},
    {F::smep, M::smep},
    {F::movdiri, M::movdiri},
    {F::movdir64b, M::movdir64b},
    {F::waitpkg, M::waitpkg},
};
}  // namespace

FeatureSet decode_features(const CpuModel& model) {
  FeatureSet set;
  for (const Pair& p : pairs)
    if (model.has(p.model)) set.add(p.row);
  if (model.has(M::sse)) set.add(F::mmxext);  // SSE brought the same MMX extensions
  set.add(F::nopl);
  return set;
}

void prepare(System& system) {
  Cpu& cpu = system.cpu;
  cpu.owner = &system;
  cpu.memory = &memory_ops;
  if (system.model) {
    cpu.features = decode_features(*system.model);
    const unsigned bits = system.model->has(M::lm) ? system.model->physical_bits : 36;
    system.physical_mask = ((u64{1} << 52) - 1) & ~((u64{1} << bits) - 1);
  }
  cpu.tlb = &cpu.supervisor_user_tlb;
  update_breakpoints(cpu);
  mode_changed(cpu);
}

}  // namespace vmm::tcg::x86
