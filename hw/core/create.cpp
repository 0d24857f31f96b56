// Making devices by name, finding buses, and `info qtree`. Error texts are those that tools look for (contract.md §1.3).
#include <algorithm>
#include <cctype>

#include "hw/core/cpu_plug.h"
#include "hw/core/hotplug.h"
#include "src/value/near.h"

namespace vmm::hw {

namespace {

std::string_view bus_of_type(const TypeInfo& type) {
  for (const TypeInfo* t = &type; t; t = t->parent)
    if (!t->bus.empty()) return t->bus;
  return {};
}

// A PCI device fits a PCI Express bus: the bus's type or one of its ancestors carries the name.
bool bus_fits(const Bus& bus, std::string_view wanted) {
  if (bus.bus_type() == wanted) return true;
  for (const TypeInfo* t = &bus.type_info(); t; t = t->parent)
    if (t->name == wanted) return true;
  return false;
}

bool visit_buses(vm::Machine& machine, const std::function<bool(Bus&)>& visit) {
  bool found = false;
  for_each_device(machine, [&](Device& device) {
    for (auto* bus : device.buses())
      if (!found && visit(*bus)) found = true;
  });
  return found;
}

bool valid_id(std::string_view id) {
  if (id.empty() || !std::isalpha(static_cast<unsigned char>(id[0]))) return false;
  return std::ranges::all_of(id, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_'; });
}

// With the names that the user may have meant.
Error unknown_driver(std::string_view driver) {
  Error error{format("'{}' is not a valid device model name", driver)};
  std::vector<std::string> names;
  for (const auto* t : all_types())
    if (t->derives_from(Device::type) && t->make && t->user_creatable) names.emplace_back(t->name);
  std::string near;
  for (const auto& n : nearest_names(driver, names)) near += format("{}'{}'", near.empty() ? "" : ", ", n);
  if (!near.empty()) error.hint = format("Near names: {}", near);
  return error;
}

// The buses that a device could have meant; where there are none, who brings one.
std::string provider_hint(std::string_view wanted) {
  static constexpr std::pair<std::string_view, std::string_view> providers[] = {{"usb-bus", "qemu-xhci"},
                                                                                {"SCSI", "virtio-scsi-pci"},
                                                                                {"virtio-serial-bus", "virtio-serial-pci"},
                                                                                {"IDE", "ich9-ahci"},
                                                                                {"ISA", {}},
                                                                                {"PCI", {}}};
  for (const auto& [bus, driver] : providers)
    if (bus == wanted && !driver.empty()) return format("'-device {}' before it brings one", driver);
  return wanted == "PCI" || wanted == "ISA" ? std::string{"Machines with one: pc, q35"} : std::string{};
}
std::string buses_hint(vm::Machine& machine, std::string_view wanted, std::string_view word) {
  std::vector<std::string> names;
  visit_buses(machine, [&](Bus& bus) {
    if (bus_fits(bus, wanted)) names.push_back(bus.name());
    return false;
  });
  if (names.empty()) return provider_hint(wanted);
  if (names.size() > 12) return near_hint(word, names);
  std::string all;
  for (const std::string& n : names) all += format("{}'{}'", all.empty() ? "Buses that fit: " : ", ", n);
  return all;
}

Result<Bus*> bus_for(vm::Machine& machine, const TypeInfo& type, const DeviceSpec& spec) {
  const std::string_view wanted = bus_of_type(type);
  if (!spec.bus.empty()) {
    Bus* bus = find_bus(machine, spec.bus);
    if (!bus) return std::unexpected(Error{format("Bus '{}' not found", spec.bus)}.with_hint(buses_hint(machine, wanted, spec.bus)));
    if (!bus_fits(*bus, wanted)) return fail("Device '{}' can't go on {} bus", type.name, bus->bus_type());
    return bus;
  }
  if (wanted.empty() || wanted == "System") return nullptr;
  Bus* bus = find_bus_of_type(machine, wanted);
  if (!bus) return std::unexpected(Error{format("No '{}' bus found for device '{}'", wanted, type.name)}.with_hint(provider_hint(wanted)));
  return bus;
}

}  // namespace

Result<Bus*> choose_bus(vm::Machine& machine, const DeviceSpec& spec) {
  const TypeInfo* type = find_type(spec.driver);
  if (!type || !type->derives_from(Device::type)) return std::unexpected(unknown_driver(spec.driver));
  return bus_for(machine, *type, spec);
}

Bus* find_bus(vm::Machine& machine, std::string_view name) {
  Bus* found = nullptr;
  if (name.starts_with('/')) {
    auto object = root_object().resolve(name);
    if (!object) return nullptr;
    if (auto* bus = object_cast<Bus>(object->get())) return bus;
    auto* device = object_cast<Device>(object->get());
    return device && !device->buses().empty() ? device->buses().front() : nullptr;
  }
  visit_buses(machine, [&](Bus& bus) { return bus.name() == name && (found = &bus); });
  if (!found)
    for_each_device(machine, [&](Device& device) {
      if (!found && device.id() == name && !device.buses().empty()) found = device.buses().front();
    });
  return found;
}

Bus* find_bus_of_type(vm::Machine& machine, std::string_view bus_type) {
  Bus* found = nullptr;
  visit_buses(machine, [&](Bus& bus) { return bus_fits(bus, bus_type) && (found = &bus); });
  return found;
}

Result<> check_device_id(vm::Machine& machine, const std::string& id) {
  if (id.empty()) return {};
  if (!valid_id(id))
    return std::unexpected(Error{"Parameter 'id' expects an identifier"}.with_hint(
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."));
  if (machine.peripheral().child(id)) return fail("Duplicate device ID '{}'", id);
  return {};
}

Result<Ref<Device>> create_device(vm::Machine& machine, const DeviceSpec& spec) {
  if (spec.driver.empty()) return fail("Parameter 'driver' is missing");
  const TypeInfo* type = find_type(spec.driver);
  if (!type || !type->derives_from(Device::type)) return std::unexpected(unknown_driver(spec.driver));
  if (!type->make) return fail("Parameter 'driver' expects a non-abstract device type");
  const bool by_user = spec.place == DeviceSpec::Place::peripheral;
  if (by_user && !type->user_creatable) return fail("Parameter 'driver' expects a pluggable device type");
  TRY(check_device_id(machine, spec.id));
  Bus* bus = TRY(bus_for(machine, *type, spec));
  Ref<Device> device = object_cast<Device>(make_object(*type));
  device->set_id(spec.id);
  if (!by_user)
    machine.unattached().add_child("device[*]", device);
  else if (spec.id.empty())
    machine.peripheral_anon().add_child("device[*]", device);
  else
    machine.peripheral().add_child(spec.id, device);
  const auto build = [&]() -> Result<> {
    if (!spec.properties.is_null() && !spec.properties.is_object()) return fail("Invalid parameter type for 'arguments', expected: object");
    if (spec.properties.is_object())
      for (const auto& [name, value] : spec.properties.members()) TRY(device->set(name, value));
    return device->attach(bus);
  };
  if (auto built = build(); !built) {
    device->parent()->remove_child(*device);
    return std::unexpected(std::move(built).error());
  }
  return device;
}

// --- info qtree ---------------------------------------------------------------------------------------------------------------------
namespace {

// As QEMU shows sizes: "2 GiB", "512 B".
std::string size_text(u64 bytes) {
  static constexpr std::string_view units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  unsigned unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1000 && unit < 6) value /= 1024, unit++;
  return format("{:.3g} {}", value, units[unit]);
}

std::string property_text(const Device& device, const Field& f) {
  const Value v = f.get(static_cast<const Object*>(&device));
  if (v.is_bool()) return v.get_bool() ? "true" : "false";
  if (v.is_int()) {
    const auto text = [&](auto n) {
      return f.type->name == "size" ? format("{} ({})", n, size_text(static_cast<u64>(n))) : format("{} ({:#x})", n, static_cast<u64>(n));
    };
    if (const auto n = v.as_i64(f.name)) return text(*n);
    if (const auto n = v.as_u64(f.name)) return text(*n);
  }
  if (v.is_string() && f.name == "addr") return v.get_string();  // a PCI address, which is a number with a point
  if (v.is_string()) return format("\"{}\"", v.get_string());
  if (v.is_null()) return "\"\"";
  return to_json(v);
}

void describe_device(const Device& device, unsigned indent, std::string& out);

void describe_bus(const Bus& bus, unsigned indent, std::string& out) {
  out += format("{:{}}bus: {}\n{:{}}type {}\n", "", indent, bus.name(), "", indent + 2, bus.bus_type());
  for (auto it = bus.devices().rbegin(); it != bus.devices().rend(); ++it) describe_device(**it, indent + 2, out);
}

void describe_device(const Device& device, unsigned indent, std::string& out) {
  out += format("{:{}}dev: {}, id \"{}\"\n", "", indent, device.type_info().name, device.id());
  indent += 2;
  if (!device.irqs().empty()) out += format("{:{}}gpio-out \"\" {}\n", "", indent, device.irqs().size());
  for (const TypeInfo* t = &device.type_info(); t && t != &Device::type; t = t->parent)
    for (const Field& f : t->properties)
      if (f.get && !f.options.hidden) out += format("{:{}}{} = {}\n", "", indent, f.name, property_text(device, f));
  if (!device.bus())
    for (const auto* region : device.regions())
      if (region->container())
        out += format("{:{}}mmio {:016x}/{:016x}\n", "", indent, region->address(), static_cast<u64>(region->size()));
  if (device.bus())
    for (const std::string& line : device.bus()->describe(device)) out += format("{:{}}{}\n", "", indent, line);
  for (const auto* bus : device.buses()) describe_bus(*bus, indent, out);
}

}  // namespace

std::string describe_qtree(vm::Machine& machine) {
  std::string out = "bus: main-system-bus\n  type System\n";
  std::vector<Device*> roots;
  for_each_device(machine, [&](Device& device) {
    if (!device.bus() && device.realized() && bus_of_type(device.type_info()) == "System") roots.push_back(&device);
  });
  for (auto it = roots.rbegin(); it != roots.rend(); ++it) describe_device(**it, 2, out);
  return out;
}

}  // namespace vmm::hw
