// Versioned machine types: names, aliases, and what a guest sees of the difference between versions.
#pragma once

#include <string_view>

#include "src/vm/machine.h"

namespace vmm::hw {

struct MachineVersion {
  unsigned major = 0, minor = 0, micro = 0;
  friend constexpr auto operator<=>(const MachineVersion&, const MachineVersion&) = default;
};
// Of a type name such as "pc-i440fx-7.2-machine"; 0.0.0 if it has none.
MachineVersion version_of_type(std::string_view type_name);

// A property that machines up to and including `until` set otherwise than the newest do.
struct CompatRow {
  MachineVersion until;
  std::string_view driver, property, value;
};
std::span<const CompatRow> compat_table();

// Registers NAME-N.M for all versions, the newest with `alias`.
struct MachineFamily {
  std::string_view stem, alias, description;  // "pc-i440fx", "pc", …
  const TypeInfo* parent = nullptr;
  Object* (*make)() = nullptr;
  bool is_default = false, has_micro = false;
  unsigned max_cpus = 255;
};
struct RegisteredFamily {
  explicit RegisteredFamily(const MachineFamily& family);
};

}  // namespace vmm::hw
