// CPU models and the parsing of -cpu. See model.h.
#include "src/x86/model.h"

#include <cpuid.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <initializer_list>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/model_table.h"

namespace vmm::x86 {

namespace {

using F = CpuFeature;

constexpr FeatureName names[] = {
#define X(id, word, number, name) {CpuFeature::id, name},
    X86_FEATURES(X)
#undef X
};

struct Alias {
  std::string_view name;
  CpuFeature feature;
};
constexpr Alias aliases[] = {
    {"sse3", F::sse3},
    {"pclmuldq", F::pclmulqdq},
    {"i64", F::lm},
    {"xd", F::nx},
    {"ffxsr", F::fxsr_opt},
    {"lzcnt", F::abm},
    {"tsc_deadline_timer", F::tsc_deadline},
    {"sha", F::sha_ni},
};

constexpr FeatureWords set_of(std::initializer_list<CpuFeature> list) {
  FeatureWords words;
  for (CpuFeature f : list) words.set(f);
  return words;
}
constexpr FeatureWords operator|(FeatureWords a, const FeatureWords& b) {
  for (unsigned i = 0; i < word_count; ++i) a.word[i] |= b.word[i];
  return a;
}

using Definition = ModelDefinition;
// `max`: whatever the accelerator supports. `host`: the same with the host's name. `base`: nothing that is not asked for.
constexpr Definition max_definition{"max", "",          "",   so_models::amd, "QEMU TCG CPU version 2.5+", "", 15, 107, 1,
                                    0x15,  0x8000'001e, true, "hypervisor"};
constexpr Definition host_definition{"host", "", "", so_models::amd, "", "", 15, 107, 1, 0x15, 0x8000'001e, true, "hypervisor"};
constexpr Definition base_definition{"base", "", "", so_models::intel, "base CPU", "", 0, 0, 0, 1, 0x8000'0000, true, ""};

// "Haswell-v1" is what "Haswell" stands for.
std::string_view first_version(const Definition& d) {
  return d.name.ends_with("-v1") ? d.name.substr(0, d.name.size() - 3) : std::string_view{};
}

const Definition* find_definition(std::string_view name) {
  for (const Definition* d : {&max_definition, &host_definition, &base_definition})
    if (d->name == name) return d;
  for (const Definition& d : so_models::table)
    if (d.name == name || (!d.alias.empty() && d.alias == name) || first_version(d) == name) return &d;
  return nullptr;
}

FeatureWords features_of(const Definition& d) {
  FeatureWords words;
  if (!d.base.empty())
    if (const Definition* base = find_definition(d.base)) words = features_of(*base);
  for (std::string_view rest = d.features; !rest.empty();) {
    const usize space = rest.find(' ');
    std::string_view name = rest.substr(0, space);
    rest = space == std::string_view::npos ? std::string_view{} : rest.substr(space + 1);
    const bool on = !name.starts_with('-');
    if (name.starts_with('+') || !on) name.remove_prefix(1);
    CpuFeature feature;
    if (feature_by_name(name, feature)) words.set(feature, on);
  }
  return words;
}

// The host's own name: CPUID leaves 0, 1 and 80000002h to 4.
void name_after_host(CpuModel& m) {
  u32 a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return;
  char text[49] = {};
  std::memcpy(text, &b, 4), std::memcpy(text + 4, &d, 4), std::memcpy(text + 8, &c, 4);
  m.vendor.assign(text, 12);
  if (__get_cpuid(1, &a, &b, &c, &d)) {
    m.family = (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 0xff : 0);
    m.model = (a >> 4 & 15) | (a >> 12 & 0xf0), m.stepping = a & 15;
  }
  for (u32 n = 0; n < 3; ++n) {
    if (!__get_cpuid(0x8000'0002 + n, &a, &b, &c, &d)) return;
    const u32 words[4] = {a, b, c, d};
    std::memcpy(text + 16 * n, words, 16);
  }
  text[47] = 0;
  m.model_id = text;
}

// A few small models' worth of edit distance: enough to guess what was meant.
unsigned distance(std::string_view a, std::string_view b) {
  std::vector<unsigned> row(b.size() + 1);
  for (unsigned j = 0; j <= b.size(); ++j) row[j] = j;
  for (unsigned i = 1; i <= a.size(); ++i) {
    unsigned diagonal = row[0];
    row[0] = i;
    for (unsigned j = 1; j <= b.size(); ++j) {
      const unsigned up = row[j];
      const bool same = (a[i - 1] | 0x20) == (b[j - 1] | 0x20);
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + !same});
      diagonal = up;
    }
  }
  return row[b.size()];
}
template <class Names>
std::string nearest(std::string_view wanted, const Names& candidates) {
  std::string best;
  unsigned least = static_cast<unsigned>(wanted.size()) / 2 + 1;
  for (const auto& candidate : candidates) {
    const unsigned d = distance(wanted.substr(0, 40), candidate);
    if (d < least) least = d, best = candidate;
  }
  return best;
}

// Works, but slowly: the first tier's tables hold 48-bit addresses. Given only to those who ask by name.
constexpr FeatureWords tcg_on_request = set_of({F::la57});

// Features that mean nothing without another one.
struct Dependency {
  CpuFeature feature, needs;
};
constexpr Dependency dependencies[] = {
    {F::avx, F::xsave},    {F::xsaveopt, F::xsave}, {F::xsavec, F::xsave},  {F::xsaves, F::xsave}, {F::xgetbv1, F::xsave},
    {F::avx2, F::avx},     {F::fma, F::avx},        {F::f16c, F::avx},      {F::vaes, F::avx},     {F::vpclmulqdq, F::avx},
    {F::invpcid, F::pcid}, {F::npt, F::svm},        {F::nrip_save, F::svm}, {F::vgif, F::svm},     {F::svme_addr_chk, F::svm},
    {F::pku, F::xsave},    {F::pdpe1gb, F::lm},     {F::lahf_lm, F::lm},    {F::la57, F::lm},
};

Result<u32> number(std::string_view key, std::string_view text, u32 limit) {
  u32 value = 0;
  int base = 10;
  std::string_view digits = text;
  if (digits.starts_with("0x") || digits.starts_with("0X")) digits.remove_prefix(2), base = 16;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc{} || end != digits.data() + digits.size() || digits.empty() || value > limit)
    return fail("-cpu: '{}' takes 0 to {:#x}, not '{}'", key, limit, text);
  return value;
}

}  // namespace

std::span<const FeatureName> feature_names() { return names; }

std::string_view name_of(CpuFeature feature) {
  for (const FeatureName& n : names)
    if (n.feature == feature) return n.name;
  return "?";
}

bool feature_by_name(std::string_view name, CpuFeature& feature) {
  const auto same = [](std::string_view a, std::string_view b) {
    return std::ranges::equal(a, b, [](char x, char y) {
      const auto plain = [](char c) { return c == '_' || c == '.' ? '-' : c; };
      return plain(x) == plain(y);
    });
  };
  for (const FeatureName& n : names)
    if (same(n.name, name)) return feature = n.feature, true;
  for (const Alias& a : aliases)
    if (same(a.name, name)) return feature = a.feature, true;
  return false;
}

std::vector<std::string> model_names() {
  std::vector<std::string> list;
  for (const Definition& d : so_models::table) {
    if (!first_version(d).empty()) list.emplace_back(first_version(d));
    if (!d.alias.empty()) list.emplace_back(d.alias);
    list.emplace_back(d.name);
  }
  for (const Definition* d : {&max_definition, &host_definition, &base_definition}) list.emplace_back(d->name);
  std::ranges::sort(list);
  return list;
}

std::string cpu_help() {
  struct Line {
    std::string name, text;
  };
  std::vector<Line> lines;
  for (const Definition& d : so_models::table) {
    if (!first_version(d).empty()) lines.push_back({std::string{first_version(d)}, "(alias configured by machine type)"});
    if (!d.alias.empty()) lines.push_back({std::string{d.alias}, format("(alias of {})", d.name)});
    lines.push_back({std::string{d.name}, d.note.empty() ? std::string{d.model_id} : format("{} {}", d.model_id, d.note)});
  }
  std::ranges::sort(lines, {}, &Line::name);
  lines.push_back({"base", "base CPU model type with no features enabled"});
  lines.push_back({"host", "processor with all supported host features"});
  lines.push_back({"max", "Enables all features supported by the accelerator in the current host"});
  std::string out = "Available CPUs:\n";
  for (const Line& line : lines) out += format("x86 {:<20}  {}\n", line.name, line.text);
  out += "\nRecognized CPUID flags:\n";
  std::vector<std::string_view> flags;
  for (const FeatureName& n : names) flags.push_back(n.name);
  std::ranges::sort(flags);
  std::string row = " ";
  for (std::string_view flag : flags) {
    if (row.size() + 1 + flag.size() > 75) out += row + "\n", row = " ";
    row += " ";
    row += flag;
  }
  return out + row + "\n";
}

Result<CpuModel> resolve_model(std::string_view text, const FeatureWords& supported, std::string_view accelerator) {
  const auto next_word = [&text]() {
    const usize comma = text.find(',');
    const std::string_view word = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view{} : text.substr(comma + 1);
    return word;
  };
  const std::string_view name = next_word();
  const Definition* found = find_definition(name);
  if (!found) {
    Error error{format("unable to find CPU model '{}'", name)};
    const std::string guess = nearest(name, model_names());
    error.hint = guess.empty() ? "'-cpu help' lists the models" : format("Did you mean '{}'? '-cpu help' lists the models", guess);
    return std::unexpected(std::move(error));
  }
  const bool max = found == &max_definition || found == &host_definition;
  CpuModel m;
  m.name = name;
  m.vendor = found->vendor;
  m.model_id = found->model_id;
  m.family = found->family, m.model = found->model, m.stepping = found->stepping;
  m.level = found->level, m.xlevel = found->xlevel;
  const FeatureWords asked = features_of(*found);
  m.features = max ? supported : asked;
  if (found != &base_definition) m.features.set(F::hypervisor);
  if (max) m.features.set(F::invtsc);
  if (found == &host_definition) name_after_host(m);
  m.intel_caches = true;
  FeatureWords minus, plus;
  bool enforce = false;
  bool level_given = false;

  while (!text.empty()) {
    std::string_view word = next_word();
    if (word.empty()) continue;
    bool on = true, is_flag = true;
    std::string_view key = word, value;
    if (word.front() == '+' || word.front() == '-') {
      on = word.front() == '+';
      key = word.substr(1);
    } else if (const usize equals = word.find('='); equals != std::string_view::npos) {
      key = word.substr(0, equals), value = word.substr(equals + 1);
      is_flag = value == "on" || value == "off" || value == "yes" || value == "no" || value == "true" || value == "false";
      on = value == "on" || value == "yes" || value == "true";
    }
    CpuFeature feature;
    if (feature_by_name(key, feature)) {
      if (!is_flag) return fail("-cpu: '{}' takes 'on' or 'off', not '{}'", key, value);
      m.features.set(feature, on);
      minus.set(feature, !on), plus.set(feature, on);
      continue;
    }
    if (key == "check" || key == "migratable" || key == "tcg-cpuid" || key == "l3-cache" || key == "legacy-cache" ||
        key == "full-cpuid-auto-level" || key == "pmu" || key == "kvm" || key == "host-cache-info" || key == "fill-mtrr-mask" ||
        key == "cpuid-0xb" || key == "vmware-cpuid-freq" || key == "host-phys-bits" || key == "x-vendor-cpuid-only") {
      if (!is_flag) return fail("-cpu: '{}' takes 'on' or 'off', not '{}'", key, value);
      if (key == "tcg-cpuid" || key == "kvm") m.announce_vmm = m.announce_vmm && on;
      if (key == "legacy-cache") m.intel_caches = on;
      continue;
    }
    if (key == "enforce" && is_flag) {
      enforce = on;
    } else if (key == "level" || key == "min-level") {
      m.level = TRY(number(key, value, 0x20)), level_given = true;
    } else if (key == "xlevel" || key == "min-xlevel") {
      m.xlevel = TRY(number(key, value, 0x8000'0021));
    } else if (key == "family") {
      m.family = TRY(number(key, value, 0xff + 0xf));
    } else if (key == "model") {
      m.model = TRY(number(key, value, 0xff));
    } else if (key == "stepping") {
      m.stepping = TRY(number(key, value, 0xf));
    } else if (key == "phys-bits") {
      m.physical_bits = TRY(number(key, value, 52));
      if (m.physical_bits < 32) return fail("-cpu: 'phys-bits' takes 32 to 52, not {}", m.physical_bits);
    } else if (key == "vendor") {
      if (value.size() != 12) return fail("-cpu: 'vendor' takes 12 characters, not '{}'", value);
      m.vendor = value;
    } else if (key == "model-id" || key == "model_id") {
      m.model_id = value.substr(0, 47);
    } else if (key.starts_with("hv-") || key.starts_with("hv_") || key.starts_with("kvm") || key.starts_with("vmx-")) {
      if (on) m.missing.emplace_back(key);
    } else {
      std::vector<std::string> known;
      for (const FeatureName& n : names) known.emplace_back(n.name);
      Error error{format("Property '{}-x86_64-cpu.{}' not found", name, key)};
      const std::string guess = nearest(key, known);
      error.hint = guess.empty() ? "'-cpu help' lists the features" : format("Did you mean '{}'? '-cpu help' lists the features", guess);
      return std::unexpected(std::move(error));
    }
  }
  // What the user took away takes with it what stands on it.
  for (int round = 0; round < 3; ++round)
    for (const Dependency& d : dependencies)
      if (m.features.has(d.feature) && !m.features.has(d.needs)) m.features.set(d.feature, false);
  // The bits that AMD repeats in 0x80000001 EDX are made in cpuid(); svm goes quietly from models that only list it for KVM's sake.
  FeatureWords give = supported;
  give.set(F::hypervisor);
  if (accelerator == "tcg" || accelerator == "auto")
    for (unsigned i = 0; i < word_count; ++i) give.word[i] |= plus.word[i] & tcg_on_request.word[i];
  if (max) give.set(F::invtsc);
  const bool quiet_svm = !minus.has(F::svm) && !supported.has(F::svm) && asked.has(F::svm);
  for (const FeatureName& n : names) {
    if (!m.features.has(n.feature) || give.has(n.feature)) continue;
    m.features.set(n.feature, false);
    const unsigned w = static_cast<unsigned>(n.feature) / 32;
    if (quiet_svm && (n.feature == F::svm || w == static_cast<unsigned>(Word::svm_edx))) continue;
    m.missing.emplace_back(n.name);
  }
  for (int round = 0; round < 3; ++round)
    for (const Dependency& d : dependencies)
      if (m.features.has(d.feature) && !m.features.has(d.needs)) m.features.set(d.feature, false);
  if (enforce && !m.missing.empty()) return fail("{} doesn't support requested features: {}", accelerator, fmt::join(m.missing, ", "));
  if (m.has(F::la57)) m.linear_bits = 57;
  if (!level_given) {
    if (m.features[Word::l7_ebx] | m.features[Word::l7_ecx] | m.features[Word::l7_edx]) m.level = std::max(m.level, 7u);
    if (m.has(F::xsave)) m.level = std::max(m.level, 0xdu);
  }
  if (m.features[Word::e7_edx]) m.xlevel = std::max(m.xlevel, 0x8000'0007u);
  if (m.has(F::topoext)) m.intel_caches = false;
  return m;
}

std::string missing_line(const CpuModel& model, std::string_view accelerator) {
  if (model.missing.empty()) return {};
  return format("{} does not support {} of CPU model '{}'", accelerator, fmt::join(model.missing, ", "), model.name);
}

FeatureWords tcg_features() {
  // Ours whatever the host.
  FeatureWords all = set_of({F::fpu,         F::de,       F::pse,        F::tsc,       F::msr,
                             F::pae,         F::mce,      F::cx8,        F::apic,      F::sep,
                             F::mtrr,        F::pge,      F::mca,        F::cmov,      F::pat,
                             F::pse36,       F::clflush,  F::acpi,       F::mmx,       F::fxsr,
                             F::sse,         F::sse2,     F::ss,         F::vme,       F::sse3,
                             F::monitor,     F::ssse3,    F::cx16,       F::pcid,      F::sse4_1,
                             F::sse4_2,      F::x2apic,   F::movbe,      F::popcnt,    F::tsc_deadline,
                             F::hypervisor,  F::fsgsbase, F::tsc_adjust, F::smep,      F::erms,
                             F::invpcid,     F::smap,     F::clflushopt, F::clwb,      F::umip,
                             F::rdpid,       F::fsrm,     F::syscall,    F::nx,        F::pdpe1gb,
                             F::rdtscp,      F::lm,       F::lahf_lm,    F::cr8legacy, F::_3dnowprefetch,
                             F::arat,        F::mmxext,   F::fxsr_opt,   F::hle,       F::rtm,
                             F::misalignsse, F::osvw,     F::wbnoinvd,   F::clzero,    F::xsaveerptr,
                             F::serialize,   F::movdiri,  F::movdir64b,  F::gfni,      F::arch_capabilities});
  // None of these leaks is in our CPU: guests need no counter-measures.
  all = all | set_of({F::rdctl_no, F::skip_l1dfl_vmentry, F::ssb_no, F::mds_no, F::pschange_mc_no, F::taa_no, F::sbdr_ssdp_no, F::fbsdp_no,
                      F::psdp_no});
  // By the host's own units.
  u32 a = 0, b = 0, c = 0, d = 0;
  const auto host = [](std::initializer_list<CpuFeature> list, u32 word, FeatureWords& out) {
    for (CpuFeature f : list)
      if (word >> (static_cast<unsigned>(f) % 32) & 1) out.set(f);
  };
  if (__get_cpuid(1, &a, &b, &c, &d)) {
    host({F::pclmulqdq, F::aes, F::rdrand, F::f16c, F::fma}, c, all);
    if (bit(c, 27) && bit(c, 28)) host({F::xsave, F::avx}, c, all);
  }
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    host({F::bmi1, F::bmi2, F::adx, F::rdseed, F::sha_ni}, b, all);
    if (all.has(F::avx)) host({F::avx2}, b, all), host({F::vaes, F::vpclmulqdq}, c, all);
  }
  if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d) && all.has(F::xsave)) host({F::xsaveopt, F::xsavec, F::xgetbv1}, a, all);
  if (__get_cpuid(0x8000'0001, &a, &b, &c, &d)) host({F::abm, F::sse4a}, c, all);
  if (all.has(F::xsave)) all.set(F::pku), all.set(F::xsaves);
  return all;
}

}  // namespace vmm::x86
