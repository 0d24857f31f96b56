// Every option of the command line, one row each: name, argument, usage text, what it does to Options. Source: contract.md §1.
#include <fcntl.h>

#include <algorithm>
#include <charconv>

#include "net/net.h"
#include "src/base/log.h"
#include "src/base/trace.h"
#include "src/io/fd_set.h"
#include "src/io/read_file.h"
#include "src/main/option_keys.h"
#include "src/main/options.h"
#include "src/object/object.h"

namespace vmm::cli {
namespace {

// --- What rows share

// Adds "near names" to the errors that name a key.
template <class T>
Result<> assign_keys(T& to, const Value& value) {
  auto done = assign_fields(&to, fields<T>, value);
  if (done) return {};
  Error error = std::move(done).error();
  if (error.message.ends_with("is unexpected")) {
    std::vector<std::string> names;
    for (const Field& f : fields<T>) names.emplace_back(f.name);
    const auto from = error.message.find('\'') + 1;
    std::string near;
    for (const auto& n : nearest_names(error.message.substr(from, error.message.find('\'', from) - from), names))
      near += format("{}'{}'", near.empty() ? "" : ", ", n);
    std::string all;
    for (const auto& n : names) all += format("{}{}", all.empty() ? "" : ", ", n);
    error.hint = near.empty() ? format("Valid names: {}", all) : format("Near names: {}", near);
  }
  return std::unexpected(std::move(error));
}

Result<> one_of(std::string_view what, const std::string& value, std::initializer_list<std::string_view> valid) {
  std::vector<std::string_view> names{valid};
  TRY(codec_detail::parse_enum(Value{value}, what, names));
  return {};
}

// Reads `given.text` as a key list. Says so when help was asked for.
Result<bool> read_keys(Given& given, std::string_view implied, bool dotted = false) {
  if (!given.value.is_null()) return false;  // from a configuration file
  bool help = false;
  given.value = TRY(parse_key_list_or_json(given.text, implied, dotted, &help));
  return help;
}
std::string member(const Value& v, std::string_view name) {
  const Value* m = v.find(name);
  return m && m->is_string() ? m->get_string() : std::string{};
}
void ask(Options& o, Options::Help help, std::string subject = {}) {
  if (o.help == Options::Help::none) o.help = help, o.help_subject = std::move(subject);
}
// TYPE,help and a lone help, for options whose implied key names a type.
Result<bool> typed_keys(Options& o, Given& given, std::string_view implied, bool dotted, Options::Help list, Options::Help properties) {
  if (!TRY(read_keys(given, implied, dotted))) return false;
  const std::string type = member(given.value, implied);
  if (type.empty())
    ask(o, list);
  else
    ask(o, properties, type);
  return true;
}

Result<u64> memory_size(const std::string& text) {
  // A bare number is MiB.
  const bool bare = text.find_first_not_of("0123456789") == text.npos && !text.empty();
  return codec_detail::parse_size(Value{bare ? text + "M" : text}, "size", FieldLimits{});
}

// Topology: one product of parts. What is not given is 1, but for the largest part that is open, which takes the rest.
Result<> complete_topology(SmpKeys& smp) {
  const u32 dies = smp.dies.value_or(1);
  u64 most = smp.maxcpus.value_or(smp.cpus.value_or(0));
  u64 sockets = smp.sockets.value_or(0), cores = smp.cores.value_or(0), threads = smp.threads.value_or(0);
  if (most == 0) {
    sockets = sockets ? sockets : 1, cores = cores ? cores : 1, threads = threads ? threads : 1;
  } else if (!cores) {
    sockets = sockets ? sockets : 1, threads = threads ? threads : 1;
    cores = most / (sockets * dies * threads);
  } else if (!sockets) {
    threads = threads ? threads : 1;
    sockets = most / (dies * cores * threads);
  } else if (!threads) {
    threads = most / (sockets * dies * cores);
  }
  const u64 product = sockets * dies * cores * threads;
  if (most == 0) most = product;
  const u64 cpus = smp.cpus.value_or(static_cast<u32>(std::min<u64>(most, 1u << 20)));
  if (product != most || product > 1024)
    return fail(
        "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets ({}) * dies ({}) * cores ({}) * threads ({}) != "
        "maxcpus ({})",
        sockets, dies, cores, threads, most);
  if (cpus > most)
    return fail("Invalid CPU topology: maxcpus must be equal to or greater than smp: maxcpus ({}) < smp_cpus ({})", most, cpus);
  smp.cpus = static_cast<u32>(cpus), smp.maxcpus = static_cast<u32>(most);
  smp.sockets = static_cast<u32>(sockets), smp.dies = dies, smp.cores = static_cast<u32>(cores), smp.threads = static_cast<u32>(threads);
  return {};
}

bool is_boot_order(std::string_view order) {
  u32 seen = 0;
  for (char c : order) {
    if (c < 'a' || c > 'p' || (seen & 1u << (c - 'a'))) return false;
    seen |= 1u << (c - 'a');
  }
  return true;
}
Result<> check_boot_order(std::string_view order) {
  for (char c : order)
    if (c < 'a' || c > 'p')
      return std::unexpected(Error{format("Invalid boot device '{}'", c)}.with_hint("Letters: a floppy, c hard disk, d CD-ROM, n network"));
  if (!is_boot_order(order)) return fail("Boot device stands twice in '{}'", order);
  return {};
}

bool is_date(std::string_view text) {
  std::string_view shape = "dddd-dd-ddTdd:dd:dd";
  if (text.size() != shape.size() && text.size() != 10) return false;
  for (usize i = 0; i < text.size(); i++)
    if (shape[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != shape[i]) return false;
  return true;
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (usize i = 0; i < 36; i++)
    if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-' : !std::isxdigit(static_cast<u8>(text[i]))) return false;
  return true;
}

// Members of -smbios by type; those of all others are refused.
Result<> check_smbios(const Value& v) {
  if (v.find("file")) return {};
  const Value* type = v.find("type");
  if (!type) return fail("Parameter 'type' is missing");
  const u64 number = TRY(codec_detail::parse_unsigned(*type, "type", "uint8", {.max = 127}, 255));
  static constexpr std::pair<u64, std::string_view> known[] = {
      {0, " vendor version date release uefi "},
      {1, " manufacturer product version serial uuid sku family "},
      {2, " manufacturer product version serial asset location "},
      {3, " manufacturer version serial asset sku "},
      {4, " sock_pfx manufacturer version serial asset part max-speed current-speed processor-id "},
      {8, " internal_reference external_reference connector_type port_type "},
      {11, " value path "},
      {17, " loc_pfx bank manufacturer serial asset part speed "},
      {41, " designation kind instance pcidev "},
  };
  const auto* row = std::ranges::find(known, number, &std::pair<u64, std::string_view>::first);
  if (row == std::end(known))
    return fail("SMBIOS type {} can only be given as a file; this option builds types 0, 1, 2, 3, 4, 8, 11, 17, 41", number);
  for (const auto& [name, value] : v.members())
    if (name != "type" && !row->second.contains(" " + name + " "))
      return std::unexpected(
          Error{format("Invalid parameter '{}'", name)}.with_hint(format("Valid names for type {}:{}", number, row->second)));
  return {};
}

bool is_id(std::string_view id) {
  return !id.empty() && std::isalpha(static_cast<u8>(id[0])) &&
         std::ranges::all_of(id, [](char c) { return std::isalnum(static_cast<u8>(c)) || c == '-' || c == '.' || c == '_'; });
}
Result<> check_id(const Value& v, const std::vector<Given>& others, std::string_view kind, bool needed) {
  const Value* id = v.find("id");
  if (!id) {
    if (needed) return fail("Parameter 'id' is missing");
    return {};
  }
  if (!id->is_string() || !is_id(id->get_string()))
    return std::unexpected(Error{"Parameter 'id' expects an identifier"}.with_hint(
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."));
  for (const Given& g : others)
    if (const Value* other = g.value.find("id"); other && *other == *id) return fail("Duplicate ID '{}' for {}", id->get_string(), kind);
  return {};
}

constexpr std::string_view keymaps[] = {"ar", "bepo",  "cz",    "da",    "de",    "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo",
                                        "fr", "fr-be", "fr-ca", "fr-ch", "hr",    "hu",    "is",    "it",    "ja", "lt", "lv", "mk",
                                        "nl", "no",    "pl",    "pt",    "pt-br", "ru",    "sl",    "sv",    "th", "tr"};

// --- Handlers

Result<> machine(Options& o, Given& g) {
  if (TRY(typed_keys(o, g, "type", true, Options::Help::machine, Options::Help::machine_properties))) return {};
  for (const auto& [name, value] : g.value.members()) o.machine.set(name, value);
  o.machine_given = g;
  return {};
}
Result<> accel(Options& o, Given& g) {
  if (TRY(typed_keys(o, g, "accel", false, Options::Help::accel, Options::Help::accel_properties))) return {};
  if (member(g.value, "accel").empty()) return fail("Parameter 'accel' is missing");
  o.accelerators.push_back(g);
  return {};
}
Result<> cpu(Options& o, Given& g) {
  if (g.text == "help" || g.text == "?") return ask(o, Options::Help::cpu), Result<>{};
  o.cpu = g;
  return {};
}
Result<> smp(Options& o, Given& g) {
  TRY(read_keys(g, "cpus"));
  SmpKeys keys;
  TRY(assign_keys(keys, g.value));
  TRY(complete_topology(keys));
  o.smp = keys, o.smp_given = g;
  return {};
}
Result<> memory(Options& o, Given& g) {
  TRY(read_keys(g, "size"));
  MemoryKeys keys;
  TRY(assign_keys(keys, g.value));
  if (keys.size) o.ram_bytes = TRY(memory_size(*keys.size));
  if (keys.size && o.ram_bytes == 0) return fail("'size' takes more than 0 bytes");
  const u64 size = o.ram_bytes ? o.ram_bytes : 128 * MiB;
  if (keys.maxmem && keys.maxmem->value < size)
    return fail("invalid value of maxmem: maximum memory size (0x{:x}) must be at least the initial memory size (0x{:x})",
                keys.maxmem->value, size);
  if (keys.slots.value_or(0) && !keys.maxmem) return fail("Parameter 'maxmem' is missing; 'slots' needs it");
  if (keys.maxmem && keys.maxmem->value > size && !keys.slots.value_or(0))
    return fail("invalid value of maxmem: memory slots weren't specified but maximum memory size (0x{:x}) is larger", keys.maxmem->value);
  o.max_ram_bytes = keys.maxmem ? keys.maxmem->value : 0, o.ram_slots = keys.slots.value_or(0);
  o.memory_given = g;
  return {};
}

template <std::optional<Given> Options::* Member>
Result<> keep(Options& o, Given& g) {
  o.*Member = g;
  return {};
}
template <std::vector<Given> Options::* Member>
Result<> keep_all(Options& o, Given& g) {
  (o.*Member).push_back(g);
  return {};
}
template <std::string Options::* Member>
Result<> text(Options& o, Given& g) {
  o.*Member = g.text;
  return {};
}
template <bool Options::* Member>
Result<> flag(Options& o, Given&) {
  o.*Member = true;
  return {};
}
template <Options::Help Which>
Result<> show(Options& o, Given&) {
  ask(o, Which);
  return {};
}
template <auto Key, bool On>
Result<> machine_switch(Options& o, Given&) {
  o.machine.set(Key, On ? "on" : "off");
  return {};
}
Result<> no_hpet(Options& o, Given&) { return o.machine.set("hpet", "off"), Result<>{}; }
Result<> no_acpi(Options& o, Given&) { return o.machine.set("acpi", "off"), Result<>{}; }

template <MonitorOption::Kind Kind>
Result<> legacy_monitor(Options& o, Given& g) {
  o.monitors.push_back({.given = g, .kind = Kind});
  return {};
}
Result<> mon(Options& o, Given& g) {
  TRY(read_keys(g, "chardev"));
  MonitorOption m{.given = g, .kind = MonitorOption::Kind::mon};
  TRY(assign_keys(m.keys, g.value));
  TRY(one_of("mode", m.keys.mode, {"readline", "control"}));
  o.monitors.push_back(std::move(m));
  return {};
}
Result<> qtest(Options& o, Given& g) { return o.qtest = g, Result<>{}; }
Result<> qtest_log(Options& o, Given& g) { return o.qtest_log = g.text, Result<>{}; }
Result<> chardev(Options& o, Given& g) {
  if (TRY(read_keys(g, "backend"))) return ask(o, Options::Help::chardev), Result<>{};
  if (member(g.value, "backend").empty()) return fail("Parameter 'backend' is missing");
  TRY(check_id(g.value, o.chardevs, "chardev", true));
  o.chardevs.push_back(g);
  return {};
}
Result<> device(Options& o, Given& g) {
  if (TRY(typed_keys(o, g, "driver", false, Options::Help::device, Options::Help::device_properties))) return {};
  if (member(g.value, "driver").empty()) return fail("Parameter 'driver' is missing");
  TRY(check_id(g.value, o.devices, "device", false));
  o.devices.push_back(g);
  return {};
}
Result<> object(Options& o, Given& g) {
  if (TRY(typed_keys(o, g, "qom-type", true, Options::Help::object, Options::Help::object_properties))) return {};
  if (member(g.value, "qom-type").empty()) return fail("Parameter 'qom-type' is missing");
  TRY(check_id(g.value, o.objects, "object", true));
  o.objects.push_back(g);
  return {};
}
Result<> drive(Options& o, Given& g) {
  TRY(read_keys(g, "", true));
  TRY(check_id(g.value, o.drives, "drive", false));
  o.drives.push_back(g);
  return {};
}
Result<> blockdev(Options& o, Given& g) {
  TRY(read_keys(g, "driver", true));
  if (member(g.value, "driver").empty()) return fail("Parameter 'driver' is missing");
  if (member(g.value, "node-name").empty()) return fail("'node-name' must be specified for the root node");
  o.blockdevs.push_back(g);
  return {};
}
// -hda FILE and its kin: a drive in few words.
Result<> short_drive(Options& o, Given& g, std::string_view interface, u32 index, std::string_view media) {
  Value keys = Value::object();
  keys.set("file", g.text);
  if (!interface.empty()) keys.set("if", interface);
  if (interface != "pflash") keys.set("index", index);
  if (!media.empty()) keys.set("media", media);
  g.value = std::move(keys);
  o.drives.push_back(g);
  return {};
}
template <u32 Index>
Result<> hard_disk(Options& o, Given& g) {
  return short_drive(o, g, "", Index, "disk");
}
Result<> cdrom(Options& o, Given& g) { return short_drive(o, g, "", 2, "cdrom"); }
template <u32 Index>
Result<> floppy(Options& o, Given& g) {
  return short_drive(o, g, "floppy", Index, "");
}
Result<> pflash(Options& o, Given& g) { return short_drive(o, g, "pflash", 0, ""); }

Result<> display(Options& o, Given& g) {
  if (TRY(read_keys(g, "type"))) return ask(o, Options::Help::display), Result<>{};
  TRY(one_of("type", member(g.value, "type"), {"none"}));
  o.display = g;
  return {};
}
// Sound goes nowhere: no card makes any yet.
Result<> audiodev(Options& o, Given& g) {
  if (TRY(read_keys(g, "driver", true))) return ask(o, Options::Help::audiodev), Result<>{};
  AudioKeys keys;
  Value known = Value::object();
  for (const auto& [name, value] : g.value.members())
    if (name == "id" || name == "driver" || name == "timer-period")
      known.set(name, value);
    else if (name != "in" && name != "out")
      return fail("Parameter '{}' is unexpected", name);
  TRY(assign_keys(keys, known));
  if (keys.driver == "help") return ask(o, Options::Help::audiodev), Result<>{};
  TRY(one_of("driver", keys.driver, {"none"}));
  TRY(check_id(g.value, o.audiodevs, "audiodev", true));
  o.audiodevs.push_back(g);
  return {};
}
Result<> vga(Options& o, Given& g) {
  if (g.text == "help" || g.text == "?") return ask(o, Options::Help::vga), Result<>{};
  TRY(one_of("vga", g.text, {"std", "none"}));
  o.vga = g;
  return {};
}
Result<> keyboard(Options& o, Given& g) {
  TRY(codec_detail::parse_enum(Value{g.text}, "k", keymaps));
  o.keyboard_layout = g.text;
  return {};
}
// Repeated keys and the kind's own options are net's business.
Result<bool> net_keys(Options& o, Given& g) {
  if (!g.value.is_null()) return false;
  bool help = false;
  g.value = TRY(net::parse_netdev_options(g.text, &help));
  if (!g.value.is_object()) return fail("expected a list of keys or a JSON object");
  if (help || member(g.value, "type") == "help" || g.text == "?") return ask(o, Options::Help::netdev), true;
  if (member(g.value, "type").empty()) return fail("Parameter 'type' is missing");
  return false;
}
Result<> netdev(Options& o, Given& g) {
  if (TRY(net_keys(o, g))) return {};
  const std::string id = member(g.value, "id");
  if (id.empty()) return fail("Parameter 'id' is missing");
  if (std::ranges::any_of(o.netdevs, [&](const Given& other) { return member(other.value, "id") == id; }))
    return fail("Duplicate ID '{}' for netdev", id);
  o.netdevs.push_back(g);
  return {};
}
Result<> nic(Options& o, Given& g) {
  if (TRY(net_keys(o, g))) return {};
  const std::string type = member(g.value, "type");
  std::vector<std::string> names{"none"};
  if (g.option == "-net") names.emplace_back("nic");
  for (const net::NetdevKind* kind : net::all_netdev_kinds()) names.emplace_back(kind->name);
  if (std::ranges::find(names, type) == names.end()) {
    Error error{format("Parameter 'type' does not accept value '{}'", type)};
    std::string near;
    for (const auto& n : nearest_names(type, names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
    return std::unexpected(std::move(error).with_hint(near));
  }
  o.nics.push_back(g);
  return {};
}

Result<> global(Options& o, Given& g) {
  GlobalKeys keys;
  if (g.value.is_null() && !g.text.starts_with("driver=")) {
    // driver.property=value; the driver is what stands before the first dot.
    const auto dot = g.text.find('.'), equals = g.text.find('=', dot == std::string::npos ? 0 : dot);
    if (dot == std::string::npos || dot == 0 || equals == std::string::npos || equals == dot + 1)
      return fail("expected driver.property=value, or driver=D,property=P,value=V");
    keys = {.driver = g.text.substr(0, dot), .property = g.text.substr(dot + 1, equals - dot - 1), .value = g.text.substr(equals + 1)};
  } else {
    TRY(read_keys(g, ""));
    TRY(assign_keys(keys, g.value));
  }
  o.globals.emplace_back(g, std::move(keys));
  return {};
}
Result<> set(Options& o, Given& g) { return set_option(o, g.text); }
Result<> readconfig(Options& o, Given& g) { return read_config(o, g.text); }

Result<> name(Options& o, Given& g) {
  TRY(read_keys(g, "guest"));
  return assign_keys(o.name, g.value);
}
Result<> uuid(Options& o, Given& g) {
  if (!is_uuid(g.text)) return fail("failed to parse UUID string: wrong format; it looks like 550e8400-e29b-41d4-a716-446655440000");
  o.uuid = g.text;
  std::ranges::transform(o.uuid, o.uuid.begin(), [](unsigned char c) { return std::tolower(c); });
  return {};
}
Result<> rtc(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  RtcKeys keys = o.rtc;
  TRY(assign_keys(keys, g.value));
  if (keys.base != "utc" && keys.base != "localtime" && !is_date(keys.base))
    return std::unexpected(Error{format("invalid datetime format '{}'", keys.base)}.with_hint(
        "valid formats: 'utc', 'localtime', '2006-06-17T16:01:21' or '2006-06-17'"));
  TRY(one_of("clock", keys.clock, {"host", "rt", "vm"}));
  TRY(one_of("driftfix", keys.driftfix, {"none", "slew"}));
  o.rtc = keys;
  return {};
}
Result<> boot(Options& o, Given& g) {
  TRY(read_keys(g, "order"));
  TRY(assign_keys(o.boot, g.value));
  TRY(check_boot_order(o.boot.order));
  return check_boot_order(o.boot.once);
}
Result<> fw_cfg(Options& o, Given& g) {
  TRY(read_keys(g, "name"));
  FwCfgKeys keys;
  TRY(assign_keys(keys, g.value));
  if (keys.name.empty() || keys.file.has_value() + keys.string.has_value() + keys.gen_id.has_value() != 1)
    return fail("name, plus exactly one of file, string and gen_id, are needed");
  if (keys.name.size() > 55) return fail("name too long (max. 55 char)");
  o.fw_cfg.emplace_back(g, std::move(keys));
  return {};
}
Result<> add_fd(Options&, Given& g) {
  TRY(read_keys(g, ""));
  AddFdKeys keys;
  TRY(assign_keys(keys, g.value));
  if (keys.fd < 0 || ::fcntl(keys.fd, F_GETFD) < 0) return fail("fd {} is not an open descriptor", keys.fd);
  if (keys.fd <= 2) return fail("fd cannot be a standard I/O stream");
  if (::fcntl(keys.fd, F_GETFD) & FD_CLOEXEC) return fail("fd is not valid or already in use");
  Fd copy{::fcntl(keys.fd, F_DUPFD_CLOEXEC, 3)};
  if (!copy) return fail_errno("cannot duplicate the descriptor");
  ::fcntl(keys.fd, F_SETFD, FD_CLOEXEC);
  TRY(io::add_to_fd_set(keys.set, std::move(copy), keys.opaque.value_or("")));
  return {};
}
Result<> smbios(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  TRY(check_smbios(g.value));
  o.smbios.push_back(g);
  return {};
}
Result<> overcommit(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  return assign_keys(o.overcommit, g.value);
}
Result<> compat(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  for (const auto& [key, value] : g.value.members()) {
    if (key == "deprecated-input" || key == "unstable-input")
      TRY(one_of(key, member(g.value, key), {"accept", "reject", "crash"}));
    else if (key == "deprecated-output" || key == "unstable-output")
      TRY(one_of(key, member(g.value, key), {"accept", "hide"}));
    else
      return fail("Parameter '{}' is unexpected", key);
    o.compat.set(key, value);
  }
  return {};
}
Result<> no_reboot(Options& o, Given&) { return o.action.reboot = "shutdown", Result<>{}; }
Result<> no_shutdown(Options& o, Given&) { return o.action.shutdown = "pause", Result<>{}; }
Result<> check_action(const ActionKeys& a) {
  TRY(one_of("reboot", a.reboot.value_or("reset"), {"reset", "shutdown"}));
  TRY(one_of("shutdown", a.shutdown.value_or("pause"), {"poweroff", "pause"}));
  TRY(one_of("panic", a.panic.value_or("none"), {"none", "pause", "shutdown", "exit-failure"}));
  return one_of("watchdog", a.watchdog.value_or("reset"), {"reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"});
}
Result<> action(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  ActionKeys keys = o.action;
  TRY(assign_keys(keys, g.value));
  TRY(check_action(keys));
  o.action = keys;
  return {};
}
Result<> watchdog_action(Options& o, Given& g) {
  ActionKeys keys = o.action;
  keys.watchdog = g.text;
  TRY(check_action(keys));
  o.action = keys;
  return {};
}
Result<> log_items(Options& o, Given& g) {
  if (g.text == "help" || g.text == "?") return ask(o, Options::Help::log), Result<>{};
  o.log_items = g.text;
  const u32 before = log_mask;
  TRY(log_set_items(g.text));  // a check here; assembly turns them on
  log_mask = before;
  return {};
}
Result<> log_filter(Options& o, Given& g) {
  o.log_filter = g.text;
  return log_set_filter(g.text);
}
Result<> trace_events(Options& o, Given& g) {
  if (g.text == "help" || g.text == "?") return ask(o, Options::Help::trace), Result<>{};
  TRY(read_keys(g, "enable"));
  TraceKeys keys;
  TRY(assign_keys(keys, g.value));
  if (keys.file) o.log_file = *keys.file;
  if (keys.enable) TRY(set_trace_pattern(*keys.enable));
  if (!keys.events) return {};
  const std::vector<u8> bytes = TRY(read_file(*keys.events, 1 * MiB, *keys.events));
  const std::string text{bytes.begin(), bytes.end()};
  for (usize at = 0; at < text.size();) {
    const usize end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view{text}.substr(at, end - at);
    if (!line.empty() && line[0] != '#') TRY(set_trace_pattern(line));
    at = end + 1;
  }
  return {};
}
Result<> messages(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  TRY(assign_keys(o.messages, g.value));
  set_message_timestamps(o.messages.timestamp);  // from here on, as in the words of later options
  return {};
}
Result<> escape(Options& o, Given& g) {
  const u64 key = TRY(codec_detail::parse_unsigned(Value{g.text}, "echr", "uint8", {.min = 1, .max = 255}, 255));
  o.escape_key = static_cast<int>(key);
  return {};
}

Result<> vnc(Options& o, Given& g) {
  TRY(read_keys(g, "vnc"));
  for (const std::string_view key : {"tls-creds", "tls-authz", "sasl", "sasl-authz", "reverse"})
    if (g.value.find(key)) return fail("'{}' is not part of this build: VNC here is plain, with or without a password", key);
  ui::vnc::Options keys;
  TRY(assign_keys(keys, g.value));
  o.vncs.emplace_back(g, std::move(keys));
  return {};
}
Result<> sandbox(Options& o, Given& g) {
  TRY(read_keys(g, "enable"));
  TRY(assign_keys(o.sandbox, g.value));
  if (!o.sandbox.enable && !o.sandbox.files) return fail("Parameter 'enable' is missing");
  if (o.sandbox.enable) {
    if (*o.sandbox.enable == "yes") o.sandbox.enable = "on";
    if (*o.sandbox.enable == "no") o.sandbox.enable = "off";
    if (*o.sandbox.enable != "on" && *o.sandbox.enable != "off" && *o.sandbox.enable != "strict")
      return fail("Parameter 'enable' expects 'on', 'off' or 'strict', not '{}'", *o.sandbox.enable);
  }
  TRY(cage_options(o.sandbox));
  if (o.sandbox.files) {
    if (o.sandbox.files->empty()) return fail("'files' is the folder that images may name files in");
    o.sandbox_files.push_back(*std::exchange(o.sandbox.files, std::nullopt));
  }
  o.sandbox_given = g;
  return {};
}
Result<> run_with(Options& o, Given& g) {
  TRY(read_keys(g, ""));
  TRY(assign_keys(o.run_with, g.value));
  o.run_with_given = g;
  return {};
}
Result<> runas(Options& o, Given& g) {
  o.run_with.user = g.text;
  o.run_with_given = g;
  return {};
}

Result<> short_gdb(Options& o, Given& g) {
  o.gdb = Given{.option = g.option, .text = "tcp::1234", .value = {}};
  return {};
}

// The board's own USB controller.
Result<> usb(Options& o, Given& g) {
  o.machine.set("usb", Value{true});
  if (!o.machine_given) o.machine_given = g;
  return {};
}
Result<> usb_device(Options& o, Given& g) {
  static constexpr std::string_view names[] = {"tablet", "mouse", "keyboard"};
  if (std::ranges::find(names, g.text) == std::end(names)) {
    Error error{format("'{}' is not a USB device of this option", g.text)};
    error.hint = "It takes tablet, mouse or keyboard; '-device help' lists all devices";
    return std::unexpected(std::move(error));
  }
  TRY(usb(o, g));
  o.usb_devices.push_back(g);
  return {};
}

using Kind = MonitorOption::Kind;
using Help = Options::Help;
constexpr OptionRow rows[] = {
    {"h", "", "the same as -help: display this help and exit", show<Help::usage>, {}, "Standard options:"},
    {"help", "", "", show<Help::usage>},
    {"version", "", "display version information and exit", show<Help::version>},
    {"machine", "[type=]name[,prop[=value][,...]]",
     "select the board ('-machine help' lists them, '-machine NAME,help' its properties)\n"
     "accel=accel1[:accel2[:...]] selects the accelerator, the first one that works",
     machine},
    {"M", "[type=]name[,prop[=value][,...]]", "", machine},
    {"cpu", "cpu", "select the CPU ('-cpu help' for list)", cpu},
    {"accel", "[accel=]accelerator[,prop[=value][,...]]", "select the accelerator ('-accel help' for list); may be repeated", accel},
    {"smp", "[[cpus=]n][,maxcpus=maxcpus][,sockets=sockets][,dies=dies][,cores=cores][,threads=threads]",
     "number of CPUs and how they lie [default=1]", smp, fields<SmpKeys>},
    {"m", "[size=]megs[,slots=n,maxmem=size]", "size of memory; a bare number is MiB, suffixes k, M, G, T are allowed [default=128]",
     memory, fields<MemoryKeys>},
    {"mem-path", "FILE", "memory in a file, or in a new file in a folder", text<&Options::mem_path>},
    {"mem-prealloc", "", "take all memory from the host at the start", flag<&Options::mem_prealloc>},
    {"k", "language", "keyboard layout, such as 'fr' for French", keyboard},
    {"device", "driver[,prop[=value][,...]]", "add a device ('-device help' for a list, '-device driver,help' for its properties)", device},
    {"name", "string1[,process=string2][,debug-threads=on|off]", "name of the guest, and of the process", name, fields<NameKeys>},
    {"uuid", "%08x-%04x-%04x-%04x-%012x", "the machine's UUID", uuid},
    {"global", "driver.property=value", "", global, fields<GlobalKeys>},
    {"global", "driver=driver,property=property,value=value", "default value of a property of all devices of a type", global},
    {"boot", "[order=drives][,once=drives][,menu=on|off][,splash=sp_name][,splash-time=sp_time][,reboot-timeout=rb_time][,strict=on|off]",
     "'drives': floppy (a), hard disk (c), CD-ROM (d), network (n)", boot, fields<BootKeys>},
    {"set", "group.id.arg=value", "set <arg> parameter for item <id> of type <group>", set},
    {"readconfig", "FILE", "read options from a file", readconfig},
    {"writeconfig", "FILE", "write options to a file ('-': stdout)", text<&Options::write_config>},
    {"no-user-config", "", "no configuration files of the user (there are none)", flag<&Options::no_user_config>},
    {"nodefaults", "", "no default devices", flag<&Options::no_defaults>},
    {"object", "TYPENAME[,PROP1=VALUE1,...]", "make an object ('-object help' for list)", object},

    {"hda", "file", "", hard_disk<0>, {}, "Block device options:"},
    {"hdb", "file", "image of hard disk 0 or 1", hard_disk<1>},
    {"hdc", "file", "", hard_disk<2>},
    {"hdd", "file", "image of hard disk 2 or 3", hard_disk<3>},
    {"cdrom", "file", "image of a CD-ROM", cdrom},
    {"fda", "file", "", floppy<0>},
    {"fdb", "file", "image of floppy disk 0 or 1", floppy<1>},
    {"pflash", "file", "image of a parallel flash", pflash},
    {"blockdev",
     "[driver=]driver[,node-name=N][,discard=ignore|unmap][,cache.direct=on|off][,cache.no-flush=on|off][,read-only=on|off]"
     "[,auto-read-only=on|off][,force-share=on|off][,detect-zeroes=on|off|unmap][,driver specific parameters...]",
     "make a block node", blockdev},
    {"drive",
     "[file=file][,if=type][,bus=n][,unit=m][,media=d][,index=i][,snapshot=on|off][,rerror=ignore|stop|report]"
     "[,werror=ignore|stop|report|enospc][,id=name][,aio=threads|native|io_uring][,readonly=on|off][,cache=mode][,format=f]"
     "[,discard=ignore|unmap][,detect-zeroes=on|off|unmap][,copy-on-read=on|off]",
     "use 'file' as a disk", drive},
    {"snapshot", "", "write to temporary files instead of disk images", flag<&Options::snapshot>},

    {"usb", "", "turn on the board's USB controller", usb, {}, "USB options:"},
    {"usbdevice", "tablet|mouse|keyboard", "plug in a USB device", usb_device},

    {"display", "none", "no window", display, {}, "Display options:"},
    {"audiodev", "[driver=]driver,id=id[,prop[=value][,...]]", "audio back end ('-audiodev help' for a list)", audiodev, fields<AudioKeys>},
    {"nographic", "", "no window; the first serial port and the monitor are on the terminal", flag<&Options::nographic>},
    {"vnc", "<display>[,option...]", "remote screen on HOST:DISPLAY or unix:PATH", vnc, fields<ui::vnc::Options>},
    {"vga", "[std|none]", "select the display card", vga},

    {"netdev",
     "user|tap|socket|stream|dgram|hubport,id=str[,...]",
     "make a network back end ('-netdev help' for list)",
     netdev,
     {},
     "Network options:"},
    {"nic", "[none|user|tap|...][,model=card][,mac=addr][,...]", "make a network card with a back end of its own", nic},
    {"net", "[none|nic|user|tap|...][,model=card][,macaddr=addr][,...]", "cards and back ends, all on one hub", nic},

    {"chardev",
     "null|stdio|pty|file|pipe|socket|ringbuf,id=id[,...]",
     "make a character device ('-chardev help' for list)",
     chardev,
     {},
     "Character device options:"},
    {"serial", "dev", "serial port on this device", keep_all<&Options::serials>},
    {"parallel", "dev", "parallel port on this device", keep_all<&Options::parallels>},
    {"debugcon", "dev", "debug console (port 0xe9) on this device", keep_all<&Options::debug_consoles>},
    {"monitor", "dev", "monitor on this device", legacy_monitor<Kind::legacy_human>},
    {"qmp", "dev", "monitor in control mode (JSON)", legacy_monitor<Kind::legacy_control>},
    {"qmp-pretty", "dev", "the same, pretty-printed", legacy_monitor<Kind::legacy_control_pretty>},
    {"qtest", "dev", "drive devices by the qtest protocol on a character device", qtest},
    {"qtest-log", "file", "lines of that protocol go to a file; none: nowhere", qtest_log},
    {"mon", "[chardev=]name[,mode=readline|control][,pretty[=on|off]]", "monitor on a character device", mon, fields<MonitorKeys>},
    {"echr", "chr", "the terminal's escape character, instead of 1 for Ctrl-A", escape},

    {"bios", "file", "firmware", keep<&Options::bios>, {}, "Boot image or kernel options:"},
    {"L", "path", "folder for firmware", [](Options& o, Given& g) -> Result<> { return o.firmware_folders.push_back(g.text), Result<>{}; }},
    {"kernel", "bzImage", "boot this kernel", keep<&Options::kernel>},
    {"append", "cmdline", "its command line", keep<&Options::append>},
    {"initrd", "file", "its initial ramdisk", keep<&Options::initrd>},
    {"fw_cfg", "[name=]<name>,file=<file>", "", fw_cfg, fields<FwCfgKeys>},
    {"fw_cfg", "[name=]<name>,string=<str>", "add a named entry for the firmware and the guest", fw_cfg},
    {"add-fd", "fd=fd,set=set[,opaque=opaque]", "put a descriptor into set N, which opens as /dev/fdset/N", add_fd, fields<AddFdKeys>},
    {"smbios", "type=N[,key=value...]", "set fields of SMBIOS tables", smbios},
    {"no-acpi", "", "no ACPI tables", no_acpi},
    {"no-hpet", "", "no HPET", no_hpet},

    {"enable-kvm", "", "the same as -accel kvm", flag<&Options::enable_kvm>, {}, "Debug/Expert options:"},
    {"rtc", "[base=utc|localtime|<datetime>][,clock=host|rt|vm][,driftfix=none|slew]", "the real-time clock", rtc, fields<RtcKeys>},
    {"overcommit", "[mem-lock=on|off][,cpu-pm=on|off]", "host resources", overcommit, fields<OvercommitKeys>},
    {"compat", "[deprecated-input=accept|reject|crash][,deprecated-output=accept|hide]", "policy for deprecated interfaces", compat},
    {"S", "", "do not start the CPUs ('c' in the monitor does)", flag<&Options::stopped>},
    {"sandbox",
     "[on|off|strict][,files=DIR][,audit=on|off][,obsolete=allow|deny][,elevateprivileges=allow|deny|children][,spawn=allow|deny][,"
     "resourcecontrol=allow|deny]",
     "give up system calls that are not needed", sandbox, fields<SandboxKeys>},
    {"run-with", "[async-teardown=on|off][,chroot=dir][,exit-with-parent=on|off][,user=name|uid:gid]",
     "what the process gives up once everything is open", run_with, fields<RunWithKeys>},
    {"runas", "user", "the same as -run-with user=", runas},
    {"gdb", "dev", "wait for gdb on this character device", keep<&Options::gdb>},
    {"s", "", "the same as -gdb tcp::1234", short_gdb},
    {"incoming", "uri", "take the machine from a migration: tcp:, unix:, fd:, exec:, file:, or defer", text<&Options::incoming>},
    {"loadvm", "tag", "start as the machine was at this snapshot (savevm, or the monitor's loadvm)", text<&Options::loadvm>},
    {"no-reboot", "", "exit instead of rebooting", no_reboot},
    {"no-shutdown", "", "stop before shutdown", no_shutdown},
    {"action", "reboot=reset|shutdown", "", action, fields<ActionKeys>},
    {"action", "shutdown=poweroff|pause", "", action},
    {"action", "panic=pause|shutdown|exit-failure|none", "", action},
    {"action", "watchdog=reset|shutdown|poweroff|inject-nmi|pause|debug|none", "what to do about these events of the guest", action},
    {"watchdog-action", "reset|shutdown|poweroff|inject-nmi|pause|debug|none", "", watchdog_action},
    {"d", "item1,...", "log these items ('-d help' for a list)", log_items},
    {"D", "logfile", "write the log to this file instead of stderr", text<&Options::log_file>},
    {"dfilter", "range,..", "limit the log to these addresses", log_filter},
    {"trace", "[[enable=]<pattern>][,events=<file>][,file=<file>]", "turn trace events on ('-trace help' for a list)", trace_events,
     fields<TraceKeys>},
    {"pidfile", "file", "write the process id to a file", text<&Options::pid_file>},
    {"daemonize", "", "go to the background once everything is set up", flag<&Options::daemonize>},
    {"msg", "[timestamp=on|off][,guest-name=on|off]", "form of messages", messages, fields<MessageKeys>},
};
}  // namespace

std::span<const OptionRow> option_rows() { return rows; }

}  // namespace vmm::cli
