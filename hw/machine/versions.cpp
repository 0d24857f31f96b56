#include "hw/machine/versions.h"

#include <cstdio>
#include <deque>

namespace vmm::hw {

static constexpr MachineVersion all_versions[] = {
    {8, 2}, {8, 1}, {8, 0}, {7, 2}, {7, 1},    {7, 0}, {6, 2}, {6, 1}, {6, 0},  {5, 2},
    {5, 1}, {5, 0}, {4, 2}, {4, 1}, {4, 0, 1}, {4, 0}, {3, 1}, {3, 0}, {2, 12},
};

// Only what our devices have and a guest can see. Board-level differences (the reserved range below 1 TiB) stand here under the
// driver "machine".
static constexpr CompatRow rows[] = {
    {{7, 2}, "ICH9-LPC", "noreboot", "true"},
    {{7, 0}, "machine", "amd-1tb-hole", "off"},
    {{6, 0}, "ICH9-LPC", "acpi-pci-hotplug-with-bridge-support", "off"},
    {{5, 1}, "ICH9-LPC", "x-smi-cpu-hotplug", "off"},
    {{4, 1}, "machine", "smbios-version", "2.8"},
    {{3, 1}, "ICH9-LPC", "x-smi-broadcast", "on"},
    {{2, 12}, "mch", "extended-tseg-mbytes", "16"},
};
std::span<const CompatRow> compat_table() { return rows; }

MachineVersion version_of_type(std::string_view name) {
  if (name.ends_with("-machine")) name.remove_suffix(8);
  const usize dash = name.rfind('-');
  MachineVersion v;
  if (dash != name.npos) std::sscanf(std::string{name.substr(dash + 1)}.c_str(), "%u.%u.%u", &v.major, &v.minor, &v.micro);
  return v;
}

namespace {
struct Version {
  std::string name, type_name;
  TypeInfo type;
  vm::MachineTypeInfo info;
};
std::deque<Version>& versions() {
  static std::deque<Version> list;
  return list;
}
}  // namespace

RegisteredFamily::RegisteredFamily(const MachineFamily& family) {
  bool newest = true;
  for (const MachineVersion& v : all_versions) {
    if (v.micro && !family.has_micro) continue;
    Version& e = versions().emplace_back();
    e.name = v.micro ? format("{}-{}.{}.{}", family.stem, v.major, v.minor, v.micro) : format("{}-{}.{}", family.stem, v.major, v.minor);
    e.type_name = e.name + "-machine";
    e.type = {.name = e.type_name, .doc = family.description, .parent = family.parent, .make = family.make, .user_creatable = false};
    e.info = {.type = &e.type,
              .name = e.name,
              .description = family.description,
              .alias = newest ? family.alias : std::string_view{},
              .is_default = newest && family.is_default,
              .max_cpus = family.max_cpus,
              .hotpluggable_cpus = true};
    newest = false;
    vm::RegisteredMachine{e.info};
  }
}

}  // namespace vmm::hw
