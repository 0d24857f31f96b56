// The state of a bench's devices and its RAM, as a stream would carry it: saved from one bench, loaded into another of the same make.
#pragma once

#include "tests/unit/hw/bench.h"

namespace vmm::test {

class Saved {
 public:
  explicit Saved(DeviceBench& bench) : ram_(64 * KiB) {
    hw::for_each_device(bench.machine(), [&](hw::Device& d) {
      d.before_save();
      devices_.emplace_back(d.path(), d.save());
    });
    bench.machine().memory().read(GuestPhys{0}, ram_);
  }
  // The machine stands; the devices' lines are settled.
  void load(DeviceBench& bench) const {
    bench.machine().memory().write(GuestPhys{0}, ram_);
    for (const auto& [path, state] : devices_) {
      const Ref<Object> object = OK(root_object().resolve(path));
      auto* device = object_cast<hw::Device>(object.get());
      if (const auto loaded = device->load(state); !loaded) failed(path.c_str(), __FILE__, __LINE__, loaded.error().message);
    }
    hw::for_each_device(bench.machine(), [](hw::Device& d) { d.settle(); });
  }

 private:
  std::vector<std::pair<std::string, Value>> devices_;
  std::vector<u8> ram_;
};

}  // namespace vmm::test
