// The order in which firmware tries what it could start (`bootindex=`), as paths of IEEE 1275.
#include <algorithm>

#include "hw/core/device.h"

namespace vmm::hw {

std::string firmware_path(const Device& device) {
  std::string path;
  // Up by buses; a bus belongs to the device that provides it.
  for (const Object* at = &device; at;) {
    const auto* d = object_cast<const Device>(at);
    if (d) {
      if (const std::string node = d->firmware_node(); !node.empty()) path = "/" + node + path;
      at = d->bus() ? static_cast<const Object*>(d->bus()) : d->parent();
    } else {
      at = at->parent();
    }
  }
  return path;
}

std::vector<BootPath> boot_paths(vm::Machine& machine) {
  std::vector<BootPath> all;
  for_each_device(machine, [&](Device& d) {
    if (!d.realized()) return;
    for (auto& entry : d.boot_entries())
      if (entry.index >= 0) all.push_back({firmware_path(d) + entry.tail, std::move(entry)});
  });
  std::ranges::stable_sort(all, {}, [](const BootPath& p) { return p.entry.index; });
  return all;
}

}  // namespace vmm::hw
