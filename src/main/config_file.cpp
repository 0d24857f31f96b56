// -readconfig and -writeconfig: INI text with sections `[group]` and `[group "id"]` and lines `key = "value"`. Source: contract.md §1.1.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <sstream>

#include "src/io/read_file.h"
#include "src/main/options.h"

namespace vmm::cli {
namespace {

// Section names that are not the option's own.
constexpr std::pair<std::string_view, std::string_view> renamed[] = {
    {"boot-opts", "boot"}, {"smp-opts", "smp"}, {"memory", "m"}, {"action", "action"}};
constexpr std::string_view sections[] = {"machine", "accel",     "device",   "object", "chardev", "mon",        "global", "name",
                                         "rtc",     "boot-opts", "smp-opts", "memory", "msg",     "overcommit", "fw_cfg", "action"};

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}
}  // namespace

Result<> read_config(Options& options, const std::string& path) {
  const std::vector<u8> bytes = TRY(read_file(path, 4 * MiB, format("Could not open '{}'", path)));
  return parse_config(options, path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

Result<> parse_config(Options& options, const std::string& path, std::string_view content) {
  std::string group, id;
  KeyList keys;
  unsigned number = 0, section_line = 0;
  const auto finish = [&]() -> Result<> {
    if (group.empty()) return {};
    std::string_view option = group;
    for (const auto& [section, name] : renamed)
      if (section == group) option = name;
    if (!id.empty()) keys.set("id", id);
    const KeyList taken = std::exchange(keys, {});
    return take_option(options, option, print_key_list(taken), format("{}:{}: -{}", path, section_line, option));
  };
  while (!content.empty()) {
    const std::string_view line = content.substr(0, content.find('\n'));
    content.remove_prefix(std::min(line.size() + 1, content.size()));
    number++;
    if (line.size() > 64 * KiB) return fail("{}:{}: the line is too long", path, number);
    const std::string_view text = trim(line);
    if (text.empty() || text.starts_with('#')) continue;
    if (text.starts_with('[')) {
      TRY(finish());
      if (!text.ends_with(']')) return fail("{}:{}: parse error", path, number);
      const std::string_view inside = trim(text.substr(1, text.size() - 2));
      const auto space = inside.find_first_of(" \t");
      group = inside.substr(0, space);
      id.clear();
      section_line = number;
      if (space != inside.npos) {
        const std::string_view quoted = trim(inside.substr(space));
        if (quoted.size() < 3 || quoted.front() != '"' || quoted.back() != '"') return fail("{}:{}: parse error", path, number);
        id = quoted.substr(1, quoted.size() - 2);
      }
      if (std::ranges::find(sections, group) == std::end(sections))
        return fail("{}:{}: There is no option group '{}'", path, number, group);
      continue;
    }
    const auto equals = text.find('=');
    if (equals == text.npos) return fail("{}:{}: parse error", path, number);
    if (group.empty()) return fail("{}:{}: no group defined", path, number);
    const std::string_view key = trim(text.substr(0, equals));
    std::string_view value = trim(text.substr(equals + 1));
    if (value.size() < 2 || value.front() != '"' || value.back() != '"' || key.empty()) return fail("{}:{}: parse error", path, number);
    keys.entries.push_back({std::string{key}, std::string{value.substr(1, value.size() - 2)}});
  }
  return finish();
}

namespace {
void flatten(const Value& v, const std::string& prefix, std::ostream& out) {
  if (v.is_object()) {
    for (const auto& [name, member] : v.members()) flatten(member, prefix.empty() ? name : prefix + "." + name, out);
  } else if (v.is_list()) {
    for (usize i = 0; i < v.items().size(); i++) flatten(v.items()[i], format("{}.{}", prefix, i), out);
  } else {
    out << format("  {} = \"{}\"\n", prefix, v.is_string() ? v.get_string() : v.is_bool() ? (v.get_bool() ? "on" : "off") : to_json(v));
  }
}
void section(std::ostream& out, std::string_view group, Value value) {
  if (value.members().empty()) return;
  std::string head = format("[{}", group);
  if (const Value* id = value.find("id"); id && id->is_string()) head += format(" \"{}\"", id->get_string());
  value.erase("id");
  out << head << "]\n";
  flatten(value, {}, out);
  out << "\n";
}
}  // namespace

Result<> write_config(const Options& o, const std::string& path) {
  std::ostringstream out;
  out << "# vmm config file\n\n";
  section(out, "machine", o.machine);
  for (const auto& g : o.accelerators) section(out, "accel", g.value);
  if (o.smp_given)
    section(out, "smp-opts",
            show_fields(
                &o.smp, std::span{option_rows()}.empty() ? std::span<const Field>{} : [] {
                  for (const OptionRow& r : option_rows())
                    if (r.name == "smp") return r.keys;
                  return std::span<const Field>{};
                }()));
  if (o.memory_given) {
    Value memory = Value::object();
    memory.set("size", format("{}B", o.ram_bytes ? o.ram_bytes : 128 * MiB));
    if (o.max_ram_bytes) memory.set("maxmem", o.max_ram_bytes).set("slots", o.ram_slots);
    section(out, "memory", memory);
  }
  for (const auto& g : o.objects) section(out, "object", g.value);
  for (const auto& g : o.chardevs) section(out, "chardev", g.value);
  for (const auto& m : o.monitors)
    if (m.kind == MonitorOption::Kind::mon) section(out, "mon", m.given.value);
  for (const auto& g : o.devices) section(out, "device", g.value);
  for (const auto& [given, keys] : o.globals)
    section(out, "global", Value::object().set("driver", keys.driver).set("property", keys.property).set("value", keys.value));
  if (path == "-") {
    std::cout << out.str() << std::flush;
    return {};
  }
  std::ofstream file{path};
  if (!file || !(file << out.str()).flush()) return fail_errno(format("Could not open '{}'", path));
  return {};
}

}  // namespace vmm::cli
