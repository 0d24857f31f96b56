#include "src/x86/model.h"

#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::x86;

TEST(cpu_model_flags_are_found_in_every_spelling) {
  const auto m = OK(resolve_model("qemu64,+sse4_1,sse4-2=on,-nx,lahf_lm=off", tcg_features(), "tcg"));
  CHECK(m.has(CpuFeature::sse4_1) && m.has(CpuFeature::sse4_2));
  CHECK(!m.has(CpuFeature::nx) && !m.has(CpuFeature::lahf_lm));
  CHECK_EQ(cpuid(m, {.leaf = 1}).eax, 0x60fb1u);
}

TEST(cpu_model_names_what_the_accelerator_lacks_in_one_line) {
  FeatureWords few;
  for (const auto& n : feature_names()) few.set(n.feature);
  few.set(CpuFeature::avx512f, false);
  const auto m = OK(resolve_model("Haswell,+avx512f", few, "tcg"));
  CHECK(!m.has(CpuFeature::avx512f));
  CHECK_EQ(missing_line(m, "tcg"), std::string{"tcg does not support avx512f of CPU model 'Haswell'"});
}

TEST(cpu_model_mistyped_names_are_guessed) {
  const auto m = resolve_model("Haswel", tcg_features(), "tcg");
  CHECK(!m && m.error().hint.find("Haswell") != std::string::npos);
  const auto f = resolve_model("max,+aex", tcg_features(), "tcg");
  CHECK(!f && f.error().message == "Property 'max-x86_64-cpu.aex' not found");
}

TEST(apic_ids_leave_room_for_powers_of_two) {
  const Topology t{.sockets = 2, .dies = 1, .cores = 3, .threads = 2};
  CHECK_EQ(t.apic_id(0), 0u);
  CHECK_EQ(t.apic_id(5), 5u);
  CHECK_EQ(t.apic_id(6), 8u);
}
