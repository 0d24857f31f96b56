// Commands on devices: device_add, device_del, device-list-properties, info qtree.
#include "hw/core/cpu_plug.h"
#include "hw/core/hotplug.h"
#include "src/control/command.h"
#include "src/value/key_list.h"

namespace vmm::hw {

struct DeviceListPropertiesArgs {
  std::string type_name;
};
struct ObjectPropertyInfo {
  std::string name, type;
  std::optional<std::string> description;
  std::optional<Value> default_value;
};
struct DeviceDelArgs {
  std::string id;
};
struct DeviceAddArgs {  // for the schema; the command takes the device's own properties as well
  std::string driver;
  std::optional<std::string> bus, id;
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array fields<hw::DeviceListPropertiesArgs> = {
    field<&hw::DeviceListPropertiesArgs::type_name>("typename", "The type name of a device."),
};
template <>
inline constexpr std::array fields<hw::ObjectPropertyInfo> = {
    field<&hw::ObjectPropertyInfo::name>("name", "Name of the property."),
    field<&hw::ObjectPropertyInfo::type>("type", "Its type."),
    field<&hw::ObjectPropertyInfo::description>("description", "What it is for."),
    field<&hw::ObjectPropertyInfo::default_value>("default-value", "Its value if none is given."),
};
template <>
inline constexpr std::array fields<hw::DeviceDelArgs> = {
    field<&hw::DeviceDelArgs::id>("id", "Id or QOM path of the device."),
};
template <>
inline constexpr std::array fields<hw::DeviceAddArgs> = {
    field<&hw::DeviceAddArgs::driver>("driver", "The type name of the new device."),
    field<&hw::DeviceAddArgs::bus>("bus", "The bus to plug it into."),
    field<&hw::DeviceAddArgs::id>("id", "Its id."),
};
}  // namespace vmm

namespace vmm::hw {

namespace {

Result<std::vector<ObjectPropertyInfo>> device_list_properties(control::Context&, const DeviceListPropertiesArgs& args) {
  const TypeInfo* type = find_type(args.type_name);
  if (!type) return fail(ErrorClass::device_not_found, "Device '{}' not found", args.type_name);
  if (!type->derives_from(Device::type)) return fail("Parameter 'typename' expects a device type");
  if (!type->make) return fail("Parameter 'typename' expects a non-abstract device type");
  const Ref<Object> sample = make_object(*type);
  std::vector<ObjectPropertyInfo> answer;
  for (const auto* f : property_fields(*type)) {
    if (f->options.hidden) continue;
    ObjectPropertyInfo info{.name = std::string{f->name}, .type = std::string{f->type->name}};
    if (!f->doc.empty()) info.description = std::string{f->doc};
    // By name: the field may be that of a child, which knows where its value is.
    if (auto v = sample->get(f->name); v && !v->is_null() && !(v->is_string() && v->get_string().empty()))
      info.default_value = std::move(*v);
    answer.push_back(std::move(info));
  }
  return answer;
}

Result<vm::Machine*> the_machine() {
  if (vm::Machine* machine = vm::current_machine()) return machine;
  return fail("There is no machine yet");
}

Result<Value> device_add(control::Context&, const Value& arguments) {
  if (!arguments.is_object()) return fail("Invalid parameter type for 'arguments', expected: object");
  vm::Machine* machine = TRY(the_machine());
  DeviceSpec spec;
  for (const auto& [name, value] : arguments.members()) {
    if (name == "driver")
      spec.driver = TRY(value.as_string(name));
    else if (name == "id")
      spec.id = TRY(value.as_string(name));
    else if (name == "bus")
      spec.bus = TRY(value.as_string(name));
    else
      spec.properties.set(name, value);
  }
  if (is_cpu_driver(spec.driver))
    TRY(plug_cpu(*machine, spec));
  else
    TRY(hotplug_device(*machine, spec));
  return Value::object();
}
Result<std::string> device_add_human(control::Context& context, std::span<const std::string> words) {
  if (words.size() != 1) return fail("device_add takes one word: DRIVER[,property=value…]");
  bool help = false;
  const Value options = TRY(parse_key_list_or_json(words[0], "driver", false, &help));
  if (help) return fail("'device_add help' is '-device help' on the command line, and device-list-properties here");
  TRY(device_add(context, options));
  return std::string{};
}

Result<void> device_del(control::Context& context, const DeviceDelArgs& args) {
  vm::Machine* machine = TRY(the_machine());
  Ref<Object> object;
  if (args.id.starts_with('/')) {
    if (auto found = context.root().resolve(args.id)) object = *found;
  } else {
    object = Ref<Object>{machine->peripheral().child(args.id)};
  }
  if (object && is_cpu_driver(object->type_info().name)) return unplug_cpu(*machine, *object);
  const auto device = object_cast<Device>(object);
  if (!device) return fail(ErrorClass::device_not_found, "Device '{}' not found", args.id);
  return hotunplug_device(*device);
}

Result<std::string> info_qtree(control::Context&, std::span<const std::string>) { return describe_qtree(*TRY(the_machine())); }

// Management tools take it as leave to give -device as JSON.
constexpr std::string_view add_features[] = {"json-cli", "json-cli-hotplug"};

control::Registered registered[] = {
    control::Registered{control::human<device_add_human>(
        {.human = "device_add", .human_help = "device_add driver[,prop=value][,...] -- add device, like -device on the command line"})},
    control::Registered{control::command<device_list_properties>(
        {.name = "device-list-properties", .doc = "The properties that a device type has.", .since = "1.2"})},
    control::Registered{[] {
      control::Command c{
          .info = {.name = "device_add", .doc = "Makes a device and plugs it in.", .since = "0.13", .features = add_features},
          .arguments = fields<DeviceAddArgs>};
      c.run = device_add;
      return c;
    }()},
    control::Registered{control::command<device_del>({.name = "device_del",
                                                      .doc = "Unplugs a device; DEVICE_DELETED tells when it has gone.",
                                                      .since = "0.14",
                                                      .human = "device_del",
                                                      .human_args = "id:s",
                                                      .human_help = "remove device"})},
    control::Registered{
        control::human<info_qtree>({.doc = "The tree of devices.", .human = "info qtree", .human_help = "show device tree"})},
};

}  // namespace

}  // namespace vmm::hw
