// Source of texts: QEMU 7.2, observed.
#include "hw/core/hotplug.h"
#include "hw/core/cpu_plug.h"

#include <algorithm>

#include "src/vm/cpu_hotplug.h"

namespace vmm::hw {

namespace {

// Buses whose adapters tell the guest by themselves when a device is plugged or leaves.
constexpr std::string_view open_buses[] = {"SCSI", "virtio-serial-bus", "usb-bus"};

Result<> allows(const Bus* bus, const TypeInfo& type) {
  if (!bus) return fail("Device '{}' can not be hotplugged on this machine", type.name);
  if (const auto* hot = dynamic_cast<const HotplugBus*>(bus)) return hot->may_hotplug();
  if (std::ranges::find(open_buses, bus->bus_type()) == std::end(open_buses))
    return fail("Bus '{}' does not support hotplugging", bus->name());
  return {};
}

}  // namespace

Result<Ref<Device>> hotplug_device(vm::Machine& machine, const DeviceSpec& spec) {
  const TypeInfo* type = find_type(spec.driver);
  // What cannot be made at all is told by create_device().
  if (type && type->derives_from(Device::type) && type->make && type->user_creatable) TRY(allows(TRY(choose_bus(machine, spec)), *type));
  Ref<Device> device = TRY(create_device(machine, spec));
  if (auto* hot = dynamic_cast<HotplugBus*>(device->bus())) hot->hotplugged(*device);
  return device;
}

Result<> hotunplug_device(Device& device) {
  TRY(allows(device.bus(), device.type_info()));
  TRY(device.may_remove());
  auto* hot = dynamic_cast<HotplugBus*>(device.bus());
  if (hot && TRY(hot->ask_to_leave(device))) return {};
  device.detach().start({});
  return {};
}

// --- CPUs

bool is_cpu_driver(std::string_view driver) {
  const TypeInfo* type = find_type(driver);
  return type && type->derives_from(vm::X86Cpu::type) && type->make;
}

Result<> plug_cpu(vm::Machine& machine, const DeviceSpec& spec) {
  auto* board = dynamic_cast<vm::CpuHotplug*>(&machine);
  if (!board) return fail("machine does not support hot-plugging CPUs");
  if (!spec.bus.empty()) return fail("Device '{}' can't go on {} bus", spec.driver, spec.bus);
  TRY(check_device_id(machine, spec.id));
  return board->plug_cpu(*find_type(spec.driver), spec.id, spec.properties);
}

Result<> unplug_cpu(vm::Machine& machine, Object& object) {
  auto* board = dynamic_cast<vm::CpuHotplug*>(&machine);
  auto* cpu = object_cast<vm::X86Cpu>(&object);
  if (!board || !cpu) return fail("{} is not hotpluggable device", object.path());
  return board->ask_cpu_to_leave(*cpu);
}

}  // namespace vmm::hw
