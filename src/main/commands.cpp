// query-command-line-options: what the option table says.
#include <set>

#include "src/control/command.h"
#include "src/main/options.h"
#include "src/vm/machine.h"

namespace vmm {
namespace cli {
struct OptionParameter {
  std::string name, type;
  std::optional<std::string> help;
};
struct OptionInfo {
  std::string option;
  std::vector<OptionParameter> parameters;
};
struct OptionArgs {
  std::optional<std::string> option;
};
}  // namespace cli
using namespace cli;
template <>
inline constexpr std::array fields<OptionParameter> = {field<&OptionParameter::name>("name", "Key."),
                                                       field<&OptionParameter::help>("help", "What it is."),
                                                       field<&OptionParameter::type>("type", "string, boolean, number or size.")};
template <>
inline constexpr std::array fields<OptionInfo> = {field<&OptionInfo::parameters>("parameters", "Its keys."),
                                                  field<&OptionInfo::option>("option", "Name of the group.")};
template <>
inline constexpr std::array fields<OptionArgs> = {field<&OptionArgs::option>("option", "Only this one.")};

namespace cli {
namespace {

std::string option_type(const TypeDescription& t) {
  using Kind = TypeDescription::Kind;
  if (t.name == "size") return "size";
  return t.kind == Kind::boolean ? "boolean" : t.kind == Kind::integer ? "number" : "string";
}
OptionParameter parameter(const Field& f) {
  OptionParameter p{.name = std::string{f.name}, .type = option_type(*f.type), .help = {}};
  if (!f.doc.empty()) p.help = std::string{f.doc};
  return p;
}
std::string group_name(std::string_view option) {
  if (option == "smp") return "smp-opts";
  if (option == "m") return "memory";
  if (option == "boot") return "boot-opts";
  return std::string{option};
}

Result<std::vector<OptionInfo>> query_command_line_options(control::Context&, const OptionArgs& args) {
  std::vector<OptionInfo> out;
  for (const OptionRow& r : option_rows()) {
    if (r.keys.empty()) continue;
    OptionInfo info{.option = group_name(r.name), .parameters = {}};
    for (const Field& f : r.keys) info.parameters.push_back(parameter(f));
    out.push_back(std::move(info));
  }
  // Boards' properties are the keys of -machine.
  OptionInfo machine{.option = "machine", .parameters = {}};
  std::set<std::string_view> seen;
  for (const vm::MachineTypeInfo* m : vm::all_machine_types())
    for (const Field* f : property_fields(*m->type))
      if (seen.insert(f->name).second) machine.parameters.push_back(parameter(*f));
  out.push_back(std::move(machine));
  for (std::string_view open : {"device", "object", "chardev", "accel"}) out.push_back({.option = std::string{open}, .parameters = {}});
  if (args.option) {
    std::erase_if(out, [&](const OptionInfo& i) { return i.option != *args.option; });
    if (out.empty()) return fail("invalid option name: {}", *args.option);
  }
  return out;
}
control::Registered registered{control::command<query_command_line_options>(
    {.name = "query-command-line-options", .doc = "Options of the command line and their keys.", .since = "1.5"})};

}  // namespace
}  // namespace cli
}  // namespace vmm
