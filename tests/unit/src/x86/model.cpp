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

TEST(every_model_name_resolves_and_shows_what_it_is) {
  unsigned count = 0;
  for (const std::string& name : model_names()) {
    const auto m = OK(resolve_model(name, tcg_features(), "tcg"));
    const CpuidResult id = cpuid(m, {.leaf = 1});
    const unsigned family = (id.eax >> 8 & 15) == 15 ? 15 + (id.eax >> 20 & 0xff) : id.eax >> 8 & 15;
    CHECK_EQ(family, m.family);
    CHECK_EQ(cpuid(m, {.leaf = 0}).eax, m.level);
    ++count;
  }
  CHECK(count > 130);
}

TEST(a_later_version_is_the_first_with_changes) {
  FeatureWords all;
  all.word.fill(~u32{0});
  const auto v1 = OK(resolve_model("Haswell", all, "tcg")), v4 = OK(resolve_model("Haswell-noTSX-IBRS", all, "tcg"));
  CHECK(v1.has(CpuFeature::hle) && v1.has(CpuFeature::rtm) && !v1.has(CpuFeature::spec_ctrl));
  CHECK(!v4.has(CpuFeature::hle) && !v4.has(CpuFeature::rtm) && v4.has(CpuFeature::spec_ctrl));
  CHECK_EQ(v4.stepping, 1u);
  CHECK(v4.has(CpuFeature::avx2) && v4.missing.empty());
}

TEST(haswell_and_max_lack_nothing) {
  for (const char* name : {"Haswell", "max", "host", "Skylake-Client"}) {
    const auto m = OK(resolve_model(name, tcg_features(), "tcg"));
    if (!m.missing.empty()) test::failed(name, __FILE__, __LINE__, missing_line(m, "tcg"));
  }
}

TEST(what_is_slow_is_given_to_those_who_ask_by_name) {
  CHECK(!OK(resolve_model("max", tcg_features(), "tcg")).has(CpuFeature::la57));
  const auto m = OK(resolve_model("max,+la57", tcg_features(), "tcg"));
  CHECK(m.has(CpuFeature::la57) && m.missing.empty());
  CHECK_EQ(m.linear_bits, 57u);
}
