// Every CPUID bit that is offered to guests is backed: by instructions that decode only with it, or by something that is named here.
#include <map>

#include "accel/tcg/guest/x86/system.h"
#include "tests/unit/test.h"

namespace vmm::tcg::x86 {

namespace {

// Features that are no instructions, and where their behaviour is tested.
const std::map<std::string_view, std::string_view> elsewhere{
    {"vme", "tests/guest/v86.s"},
    {"de", "tests/guest/debug.s: DR4, DR5, I/O breakpoints"},
    {"pse", "tests/unit/accel/tcg/guest/x86/memory.cpp: 4 MiB pages"},
    {"pae", "tests/guest/lib.inc: every 64-bit test"},
    {"mce", "tests/guest/mce.s, tests/functional/mce.test"},
    {"apic", "tests/guest/apic.s"},
    {"mtrr", "tests/unit/accel/tcg/guest/x86/msr.cpp"},
    {"pge", "tests/guest/paging.s: global pages"},
    {"mca", "tests/guest/mce.s"},
    {"pat", "tests/guest/features.s"},
    {"pse36", "walk.cpp: bits 13 to 20 of a large page"},
    {"acpi", "helpers_msr.cpp: thermal registers that read 0"},
    {"ss", "self snoop: stores are the host's"},
    {"pcid", "tests/unit/accel/tcg/mem/tables.cpp, tests/unit/accel/tcg/guest/x86/system.cpp"},
    {"x2apic", "tests/guest/apic.s"},
    {"tsc-deadline", "tests/guest/apic.s"},
    {"hypervisor", "no behaviour"},
    {"tsc-adjust", "tests/guest/features.s"},
    {"erms", "rep movsb and rep stosb: a promise of speed"},
    {"umip", "tests/guest/features.s"},
    {"fsrm", "rep movsb: a promise of speed"},
    {"nx", "tests/guest/paging.s"},
    {"pdpe1gb", "tests/guest/paging.s"},
    {"lm", "tests/guest/lib.inc"},
    {"cr8legacy", "tests/guest/features.s: LOCK MOV CR0"},
    {"arat", "the local APIC's timer runs in every state"},
    {"fxsr-opt", "FXSAVE leaves the x87 pointers out of nothing: a permission"},
    {"hle", "its prefixes are ignored"},
    {"misalignsse", "MXCSR.MM: permitted, and never set"},
    {"osvw", "helpers_msr.cpp: no errata"},
    {"xsaveerptr", "XSAVE always stores the x87 pointers"},
    {"arch-capabilities", "helpers_msr.cpp"},
    {"smep", "tests/guest/paging.s"},
    {"mmxext", "SSE's MMX instructions, which simd.cpp runs"},
    {"3dnowprefetch", "PREFETCHW decodes on every CPU, as the manuals have it"},
    {"wbnoinvd", "WBINVD with a prefix that older CPUs ignore"},
    {"xgetbv1", "tests/guest/features.s: XGETBV"},
};

}  // namespace

TEST(every_cpuid_bit_that_is_offered_is_backed) {
  const vmm::x86::FeatureWords offered = vmm::x86::tcg_features();
  const CpuModel nothing;
  const FeatureSet none = decode_features(nothing);
  std::string missing;
  unsigned instructions = 0;
  for (const vmm::x86::FeatureName& f : vmm::x86::feature_names()) {
    if (!offered.has(f.feature)) continue;
    CpuModel model;
    model.features.set(f.feature);
    const FeatureSet set = decode_features(model);
    bool decoded = false;
    for (const MapRows& m : all_rows())
      for (const Row& row : m.rows)
        decoded |= row.t.needs != Feature::none && !row.t.undefined && set.has(row.t.needs) && !none.has(row.t.needs);
    instructions += decoded;
    const bool of_a_leak = static_cast<unsigned>(f.feature) / 32 == static_cast<unsigned>(vmm::x86::Word::arch_capabilities);
    if (!decoded && !of_a_leak && !elsewhere.contains(f.name)) missing += format(" {}", f.name);
  }
  CHECK_EQ(missing, "");
  CHECK(instructions > 40);
  // And what the list names is offered still.
  for (const auto& [name, where] : elsewhere) {
    bool there = false;
    for (const vmm::x86::FeatureName& f : vmm::x86::feature_names()) there |= f.name == name && offered.has(f.feature);
    if (!there) test::failed("offered", __FILE__, __LINE__, format("{}", name));
  }
}

}  // namespace vmm::tcg::x86
