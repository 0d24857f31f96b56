// Plugging CPUs, which are no Devices: what device_add, device_del and -device share. Machine lock held.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

// Whether a driver names a CPU; plugging it (also from the command line); asking it to leave.
bool is_cpu_driver(std::string_view driver);
Result<> plug_cpu(vm::Machine& machine, const DeviceSpec& spec);
Result<> unplug_cpu(vm::Machine& machine, Object& cpu);  // any other object: an error

// For whoever makes devices and lets them go.
void tell_device_deleted(const std::string& id, const std::string& path);
// What an id= must be: an error names the rule, or who has it.
Result<> check_device_id(vm::Machine& machine, const std::string& id);

}  // namespace vmm::hw
