// Buses that devices join and leave while the machine runs. Others take what the command line gives them, and no more.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

class HotplugBus {
 public:
  virtual ~HotplugBus() = default;
  virtual Result<> may_hotplug() const { return {}; }
  virtual void hotplugged(Device&) {}  // realized: the guest is to be told
  // True: the guest has been asked, and says when; false: it may go now.
  virtual Result<bool> ask_to_leave(Device&) { return false; }
};

// Where create_device() would plug a device of this type; null: none. An error names the bus that is missing.
Result<Bus*> choose_bus(vm::Machine& machine, const DeviceSpec& spec);
// What device_add and device_del do: create_device() on a bus that allows it, and the guest is told.
Result<Ref<Device>> hotplug_device(vm::Machine& machine, const DeviceSpec& spec);
Result<> hotunplug_device(Device& device);

}  // namespace vmm::hw
