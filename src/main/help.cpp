// The texts of `-machine help` and its like, made from the registries. Management tools read some of them: contract.md §1.2.
#include <algorithm>
#include <map>

#include "hw/core/device.h"
#include "net/net.h"
#include "src/base/log.h"
#include "src/base/trace.h"
#include "src/chardev/chardev.h"
#include "src/main/options.h"
#include "src/vm/accelerator.h"
#include "src/vm/machine.h"
#include "src/vm/user_objects.h"
#include "src/x86/model.h"

namespace vmm::cli {
namespace {

std::string machine_help() {
  std::string out = "Supported machines are:\n";
  for (const vm::MachineTypeInfo* m : vm::all_machine_types()) {
    if (!m->alias.empty()) out += format("{:<20} {} (alias of {})\n", m->alias, m->description, m->name);
    out += format("{:<20} {}{}{}\n", m->name, m->description, m->is_default ? " (default)" : "", m->deprecated ? " (deprecated)" : "");
  }
  return out;
}

std::string user_type(const Field& f) {
  const std::string_view name = f.type->name;
  return std::string{name == "link" ? "link" : name};
}
std::string property_lines(const TypeInfo& type) {
  std::vector<const Field*> all = property_fields(type);
  std::ranges::sort(all, {}, &Field::name);
  // An object that was just made shows the defaults.
  const Ref<Object> sample = type.make ? make_object(type) : nullptr;
  std::string out;
  for (const Field* f : all) {
    if (f->options.hidden) continue;
    std::string line = format("  {}=<{}>", f->name, user_type(*f));
    std::string text{f->doc};
    if (f->type->values) {
      std::string values;
      for (std::string_view v : f->type->values()) values += format("{}{}", values.empty() ? "" : "/", v);
      text += format("{}{}", text.empty() ? "" : " ", format("[{}]", values));
    }
    if (const auto value = sample ? sample->get(f->name) : Result<Value>{Value{}}; value) {  // by name: the field may be a child's
      const Value& v = *value;
      if (v.is_string() ? !v.get_string().empty() : !v.is_null())
        text += format(" (default: {})", v.is_string() ? v.get_string() : to_json(v));
    }
    out += text.empty() ? line + "\n" : format("{:<24} - {}\n", line, text);
  }
  return out;
}

std::string type_options(std::string_view title, const TypeInfo& type) {
  const std::string lines = property_lines(type);
  return lines.empty() ? format("There are no options for {}.\n", title) : format("{} options:\n{}", title, lines);
}

std::string device_help() {
  std::map<std::string_view, std::vector<const TypeInfo*>> sections;
  for (const TypeInfo* t : all_types())
    if (t->make && t->user_creatable && t->derives_from(hw::Device::type)) {
      std::string_view category;
      for (const TypeInfo* c = t; c && category.empty(); c = c->parent) category = c->category;
      sections[category.empty() ? "Misc devices" : category].push_back(t);
    }
  std::string out;
  for (const auto& [category, types] : sections) {
    out += format("{}{}:\n", out.empty() ? "" : "\n", category);
    for (const TypeInfo* t : types) {
      std::string_view bus;
      for (const TypeInfo* c = t; c && bus.empty(); c = c->parent) bus = c->bus;
      out += format("name \"{}\"", t->name);
      if (!bus.empty()) out += format(", bus {}", bus);
      if (!t->alias.empty()) out += format(", alias \"{}\"", t->alias);
      if (!t->doc.empty()) out += format(", desc \"{}\"", t->doc);
      out += "\n";
    }
  }
  return out;
}

std::string types_below(std::string_view headline, const TypeInfo& base, std::string_view cut_prefix, std::string_view cut_suffix,
                        std::string_view indent) {
  std::string out{headline};
  for (const TypeInfo* t : all_types()) {
    if (!t->make || !t->derives_from(base)) continue;
    std::string_view name = t->name;
    if (name.starts_with(cut_prefix)) name.remove_prefix(cut_prefix.size());
    if (name.ends_with(cut_suffix)) name.remove_suffix(cut_suffix.size());
    out += format("{}{}\n", indent, name);
  }
  return out;
}
}  // namespace

Result<std::string> help_text(const Options& o) {
  using Help = Options::Help;
  switch (o.help) {
    case Help::none: return std::string{};
    case Help::usage: return usage_text(o);
    case Help::version: return version_text();
    case Help::machine: return machine_help();
    case Help::machine_properties: {
      const vm::MachineTypeInfo* m = vm::find_machine_type(o.help_subject);
      if (!m)
        return std::unexpected(
            Error{format("unsupported machine type: \"{}\"", o.help_subject)}.with_hint("Use -machine help to list supported machines"));
      return type_options(m->type->name, *m->type);
    }
    case Help::cpu: return x86::cpu_help();
    case Help::accel: return types_below("Accelerators supported in QEMU binary:\n", vm::Accelerator::type, "", "-accel", "");
    case Help::accel_properties: {
      const TypeInfo* t = find_type(o.help_subject + "-accel");
      if (!t || !t->derives_from(vm::Accelerator::type)) return fail("invalid accelerator {}", o.help_subject);
      return type_options(t->name, *t);
    }
    case Help::device: return device_help();
    case Help::device_properties: {
      const TypeInfo* t = find_type(o.help_subject);
      if (!t || !t->derives_from(hw::Device::type)) return fail("'{}' is not a valid device model name", o.help_subject);
      return type_options(t->name, *t);
    }
    case Help::object: {
      std::string out = "List of user creatable objects:\n";
      for (const TypeInfo* t : all_types())
        if (vm::is_user_object(*t)) out += format("  {}\n", t->name);
      return out;
    }
    case Help::object_properties: {
      const TypeInfo* t = find_type(o.help_subject);
      if (!t || !vm::is_user_object(*t)) return fail("Parameter 'qom-type' does not accept value '{}'", o.help_subject);
      return type_options(t->name, *t);
    }
    case Help::chardev: return types_below("Available chardev backend types: \n", Chardev::type, "chardev-", "", "  ");
    case Help::display: return "Available display backend types:\nnone\n";
    case Help::audiodev: return "Available audio drivers:\nnone\n";
    case Help::vga: return "std                  standard VGA\nnone                 no graphic card\n";
    case Help::netdev: {
      std::string text = "Available netdev backend types:\n";
      for (const net::NetdevKind* kind : net::all_netdev_kinds()) text += format("{}\n", kind->name);
      return text;
    }
    case Help::trace: {
      std::string out;
      for (const TraceEvent* event : all_trace_events()) out += format("{}\n", event->name());
      return out;
    }
    case Help::log: {
      std::string out = "Log items (comma separated):\n";
      for (const LogItemName& item : log_item_names()) out += format("{:<15} {}\n", item.name, item.doc);
      return out;
    }
  }
  return std::string{};
}

}  // namespace vmm::cli
