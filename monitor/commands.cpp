// Commands on the monitor itself and on the object tree: version, lists of commands and events, schema, qom-*, log.
#include <algorithm>
#include <set>

#include "monitor/monitor.h"
#include "monitor/output.h"
#include "monitor/schema.h"
#include "src/base/log.h"
#include "src/control/version.h"
#include "src/x86/disassemble.h"

namespace vmm {
namespace monitor {

struct VersionNumbers {
  i64 major = control::version_major, minor = control::version_minor, micro = control::version_micro;
};
struct VersionInfo {
  VersionNumbers qemu;
  std::string package{control::package_text};
};
struct NameEntry {
  std::string name;
};
struct PathArgs {
  std::string path;
};
struct PropertyEntry {
  std::string name, type;
  std::optional<std::string> description;
  std::optional<Value> default_value;
};
struct PropertyArgs {
  std::string path, property;
};
struct PropertySetArgs {
  std::string path, property;
  Value value;
};
struct PathsArgs {
  std::vector<std::string> paths;
};
struct PropertyValue {
  std::string name, type;
  std::optional<Value> value;
};
struct ObjectValues {
  std::vector<PropertyValue> properties;
};
struct TypesArgs {
  std::optional<std::string> implements;
  bool abstract = false;
};
struct TypeEntry {
  std::string name;
  std::optional<bool> abstract;
  std::optional<std::string> parent;
};
struct TypenameArgs {
  std::string type_name;
};
struct HumanArgs {
  std::string command_line;
  std::optional<i64> cpu_index;
};
struct LogArgs {
  std::string items;
};
struct CapabilitiesArgs {
  std::optional<std::vector<std::string>> enable;
};

}  // namespace monitor

using namespace monitor;
template <>
inline constexpr std::array fields<VersionNumbers> = {field<&VersionNumbers::micro>("micro", "Third."),
                                                      field<&VersionNumbers::minor>("minor", "Second."),
                                                      field<&VersionNumbers::major>("major", "First.")};
template <>
inline constexpr std::array fields<VersionInfo> = {field<&VersionInfo::qemu>("qemu", "The version that tools see."),
                                                   field<&VersionInfo::package>("package", "Our own.")};
template <>
inline constexpr std::array fields<NameEntry> = {field<&NameEntry::name>("name", "Name.")};
template <>
inline constexpr std::array fields<PathArgs> = {
    field<&PathArgs::path>("path", "An object: an absolute path, or a partial one that is unique.")};
template <>
inline constexpr std::array fields<PropertyEntry> = {field<&PropertyEntry::name>("name", "Name."),
                                                     field<&PropertyEntry::type>("type", "Type."),
                                                     field<&PropertyEntry::description>("description", "What it is."),
                                                     field<&PropertyEntry::default_value>("default-value", "Its default.")};
template <>
inline constexpr std::array fields<PropertyArgs> = {field<&PropertyArgs::path>("path", "An object."),
                                                    field<&PropertyArgs::property>("property", "Its property.")};
template <>
inline constexpr std::array fields<PropertySetArgs> = {field<&PropertySetArgs::path>("path", "An object."),
                                                       field<&PropertySetArgs::property>("property", "Its property."),
                                                       field<&PropertySetArgs::value>("value", "The value.")};
template <>
inline constexpr std::array fields<PathsArgs> = {field<&PathsArgs::paths>("paths", "Objects.")};
template <>
inline constexpr std::array fields<PropertyValue> = {field<&PropertyValue::name>("name", "Name."),
                                                     field<&PropertyValue::type>("type", "Type."),
                                                     field<&PropertyValue::value>("value", "Its value, if it can be read.")};
template <>
inline constexpr std::array fields<ObjectValues> = {field<&ObjectValues::properties>("properties", "All of one object.")};
template <>
inline constexpr std::array fields<TypesArgs> = {field<&TypesArgs::implements>("implements", "Only types that derive from this one."),
                                                 field<&TypesArgs::abstract>("abstract", "Abstract ones too.", {.optional = true})};
template <>
inline constexpr std::array fields<TypeEntry> = {field<&TypeEntry::name>("name", "Name."),
                                                 field<&TypeEntry::abstract>("abstract", "Cannot be made."),
                                                 field<&TypeEntry::parent>("parent", "What it derives from.")};
template <>
inline constexpr std::array fields<TypenameArgs> = {field<&TypenameArgs::type_name>("typename", "A type.")};
template <>
inline constexpr std::array fields<HumanArgs> = {
    field<&HumanArgs::command_line>("command-line", "A line of the human monitor."),
    field<&HumanArgs::cpu_index>("cpu-index", "The CPU it looks at.", {.min = 0, .max = UINT32_MAX})};
template <>
inline constexpr std::array fields<LogArgs> = {field<&LogArgs::items>("items", "What to log.")};
template <>
inline constexpr std::array fields<CapabilitiesArgs> = {field<&CapabilitiesArgs::enable>("enable", "Capabilities to use: oob.")};

namespace monitor {
namespace {

using namespace control;

// The wire answers this one itself; here it is declared.
Result<> qmp_capabilities(Context&, const CapabilitiesArgs&) { return {}; }

Result<VersionInfo> query_version(Context&) { return VersionInfo{}; }
std::string print_version(const Value& v) { return format("{} ({})\n", version_text, v.find("package")->get_string()); }

Result<std::vector<NameEntry>> query_commands(Context&) {
  std::vector<NameEntry> out;
  for (const Command* c : all_commands())
    if (!c->info.name.empty()) out.push_back({std::string{c->info.name}});
  return out;
}
Result<std::vector<NameEntry>> query_events(Context&) {
  std::vector<NameEntry> out;
  for (const EventInfo* e : all_events()) out.push_back({std::string{e->name}});
  return out;
}
Result<std::vector<Value>> query_schema(Context&) { return make_schema(); }

// --- Objects

Result<std::vector<PropertyEntry>> qom_list(Context& context, const PathArgs& args) {
  const Ref<Object> object = TRY(context.root().resolve(args.path));
  std::vector<PropertyEntry> out;
  for (const auto& p : object->property_list()) out.push_back({.name = p.name, .type = p.type, .description = {}, .default_value = {}});
  return out;
}
Result<Value> qom_get(Context& context, const PropertyArgs& args) {
  const Ref<Object> object = TRY(context.root().resolve(args.path));
  return object->get(args.property);
}
Result<> qom_set(Context& context, const PropertySetArgs& args) {
  const Ref<Object> object = TRY(context.root().resolve(args.path));
  return object->set(args.property, args.value);
}
Result<std::vector<ObjectValues>> qom_list_get(Context& context, const PathsArgs& args) {
  std::vector<ObjectValues> out;
  for (const std::string& path : args.paths) {
    const Ref<Object> object = TRY(context.root().resolve(path));
    ObjectValues& values = out.emplace_back();
    for (const auto& p : object->property_list()) {
      PropertyValue v{.name = p.name, .type = p.type, .value = {}};
      if (auto value = object->get(p.name)) v.value = std::move(*value);
      values.properties.push_back(std::move(v));
    }
  }
  return out;
}
std::string print_get(const Value& v) { return to_json(v, true) + "\n"; }
std::string print_list(const Value& v) {
  std::string out;
  for (const Value& p : v.items()) out += format("{} ({})\n", p.find("name")->get_string(), p.find("type")->get_string());
  return out;
}

bool implements(const TypeInfo& type, std::string_view name) {
  for (const TypeInfo* t = &type; t; t = t->parent) {
    if (t->name == name) return true;
    for (const TypeInfo* i : t->interfaces)
      if (implements(*i, name)) return true;
  }
  return false;
}
Result<std::vector<TypeEntry>> qom_list_types(Context&, const TypesArgs& args) {
  std::vector<TypeEntry> out;
  for (const TypeInfo* t : all_types()) {
    if (!t->make && !args.abstract) continue;
    if (args.implements && !implements(*t, *args.implements)) continue;
    TypeEntry e{.name = std::string{t->name}, .abstract = {}, .parent = {}};
    if (!t->make) e.abstract = true;
    if (t->parent) e.parent = std::string{t->parent->name};
    out.push_back(std::move(e));
  }
  return out;
}

// An object that is made for a look has no machine; only its Fields are asked.
std::vector<PropertyEntry> properties_of(const TypeInfo& type) {
  const Ref<Object> sample = type.make ? make_object(type) : nullptr;
  std::vector<PropertyEntry> out;
  std::set<std::string> seen;
  for (const Field* f : property_fields(type)) {
    PropertyEntry e{.name = std::string{f->name}, .type = std::string{f->type->name}, .description = {}, .default_value = {}};
    if (e.type == "link") e.type = "link<>";
    if (!f->doc.empty()) e.description = std::string{f->doc};
    // By name: the field may be that of a child, which knows where its value is.
    if (sample && f->get && e.type != "link<>")
      if (auto v = sample->get(f->name); v && !v->is_null() && !(v->is_string() && v->get_string().empty()))
        e.default_value = std::move(*v);
    seen.insert(e.name);
    out.push_back(std::move(e));
  }
  if (sample)
    for (const auto& p : sample->property_list())
      if (!p.field && !p.type.starts_with("child<") && p.name != "type" && seen.insert(p.name).second) {
        PropertyEntry e{.name = p.name, .type = p.type, .description = {}, .default_value = {}};
        if (!p.doc.empty()) e.description = p.doc;
        out.push_back(std::move(e));
      }
  return out;
}
Result<std::vector<PropertyEntry>> qom_list_properties(Context&, const TypenameArgs& args) {
  const TypeInfo* type = find_type(args.type_name);
  if (!type) return fail(ErrorClass::device_not_found, "Class '{}' not found", args.type_name);
  auto out = properties_of(*type);
  out.insert(out.begin(), PropertyEntry{.name = "type", .type = "string", .description = {}, .default_value = {}});
  return out;
}
// --- Log, HMP

// The same command with another CPU in its eye.
class HumanContext final : public Context {
 public:
  HumanContext(Context& outer, unsigned cpu) : outer_(outer), cpu_(cpu) {}
  Result<int> take_fd() override { return outer_.take_fd(); }
  unsigned cpu_index() const override { return cpu_; }
  void set_cpu_index(unsigned index) override { cpu_ = index; }

 private:
  Context& outer_;
  unsigned cpu_;
};
Result<std::string> human_monitor_command(Context& context, const HumanArgs& args) {
  HumanContext inner{context, static_cast<unsigned>(args.cpu_index.value_or(context.cpu_index()))};
  return with_crlf(run_human_line(inner, args.command_line));
}

Result<> log_items(Context&, const LogArgs& args) {
  TRY(log_set_items(args.items));
  if (log_enabled(LogItem::in_asm) || log_enabled(LogItem::out_asm)) x86::load_disassembler();
  return {};
}

control::Registered registered[] = {
    control::Registered{command<qmp_capabilities>({.name = "qmp_capabilities", .doc = "Ends the negotiation.", .allow_preconfig = true})},
    control::Registered{command<query_version>({.name = "query-version",
                                                .doc = "Version.",
                                                .human = "info version",
                                                .human_help = "info version -- show the version of QEMU",
                                                .human_print = print_version})},
    control::Registered{command<query_commands>({.name = "query-commands", .doc = "All commands."})},
    control::Registered{command<query_events>({.name = "query-events", .doc = "All events.", .since = "1.2"})},
    control::Registered{
        command<query_schema>({.name = "query-qmp-schema", .doc = "All commands, events and their types.", .since = "2.5"})},
    control::Registered{command<qom_list>({.name = "qom-list",
                                           .doc = "Properties of an object.",
                                           .since = "1.2",
                                           .human = "qom-list",
                                           .human_args = "path:s",
                                           .human_help = "qom-list path -- list QOM properties",
                                           .human_print = print_list})},
    control::Registered{command<qom_get>({.name = "qom-get",
                                          .doc = "Read one property of one object.",
                                          .since = "1.2",
                                          .human = "qom-get",
                                          .human_args = "path:s,property:s",
                                          .human_help = "qom-get path property -- print QOM property",
                                          .human_print = print_get})},
    control::Registered{command<qom_set>({.name = "qom-set",
                                          .doc = "Set one property of one object.",
                                          .since = "1.2",
                                          .human = "qom-set",
                                          .human_args = "path:s,property:s,value:S",
                                          .human_help = "qom-set path property value -- set QOM property"})},
    control::Registered{
        command<qom_list_get>({.name = "qom-list-get", .doc = "All properties of objects with their values.", .since = "10.1"})},
    control::Registered{command<qom_list_types>({.name = "qom-list-types", .doc = "Types of objects.", .since = "1.2"})},
    control::Registered{command<qom_list_properties>({.name = "qom-list-properties", .doc = "Properties of a type.", .since = "2.12"})},
    control::Registered{
        command<human_monitor_command>({.name = "human-monitor-command", .doc = "A line of the human monitor.", .since = "0.14"})},
    control::Registered{command<log_items>(
        {.human = "log", .human_args = "items:s", .human_help = "log item1[,...] -- activate logging of the specified items"})},
};

}  // namespace
}  // namespace monitor
}  // namespace vmm
