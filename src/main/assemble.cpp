#include "src/main/assemble.h"

#include <fcntl.h>
#include <sys/sysinfo.h>

#include <algorithm>

#include "block/core/drive.h"
#include "block/core/handover.h"
#include "hw/core/cpu_plug.h"
#include "migration/incoming.h"
#include "migration/snapshot.h"
#include "net/net.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/gdbstub/server.h"
#include "src/io/read_file.h"
#include "src/main/process.h"
#include "src/vm/user_objects.h"
#include "src/x86/model.h"

namespace vmm::cli {
namespace {

// An error from deep inside, at the option that caused it.
template <class T>
Result<T> placed(const Given& given, Result<T> result) {
  if (result) return result;
  return std::unexpected(place_error(given, std::move(result).error()));
}

std::string text_member(const Value& v, std::string_view name) {
  const Value* m = v.find(name);
  return m && m->is_string() ? m->get_string() : std::string{};
}

void add_near(Error& error, std::string_view word, const std::vector<std::string>& names) {
  std::string near;
  for (const auto& n : nearest_names(word, names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
  if (near.empty()) return;
  error.hint += (error.hint.empty() ? "" : "\n") + near;
}

std::string human_bytes(u64 bytes) {
  if (bytes >= GiB) return format("{:.1f} GiB", static_cast<double>(bytes) / static_cast<double>(GiB));
  return format("{} MiB", bytes / MiB);
}

// Options that QEMU has for all machines and that change nothing that a guest of ours could see.
constexpr std::string_view inert_machine_keys[] = {
    "usb",          "dump-guest-core",        "mem-merge",      "suppress-vmdesc", "nvdimm",       "graphics", "firmware",
    "igd-passthru", "enforce-config-section", "kernel-irqchip", "phandle-start",   "dt-compatible"};
}  // namespace

Assembly::~Assembly() {
  MachineLockedIfNot lock;
  gdb::close();
  ui::vnc::close_all();
  monitors_.clear();
  qtest_ = nullptr;
  // Cables come out while the cards are still in their machine.
  while (!net::all_netdevs().empty()) {
    const std::string id = net::all_netdevs().back()->id();
    if (!net::remove_netdev(id)) break;
  }
  net::set_netdev_loop(nullptr);
  // What devices have posted, to go on when a cable came out or the last request ended, wants the machine they hang on. Its CPUs stand
  // still; the bound is for a peer that never stops.
  if (machine_) block::drain_all(loop_);
  for (int turn = 0; turn < 64 && loop_.run_once(false); turn++) {
  }
  if (machine_) {
    loop_.remove_time_domain(machine_->time_domain());
    if (machine_->parent()) machine_->parent()->remove_child(*machine_);
    machine_ = nullptr;
  }
  reclaim_dropped_objects();
  block::close_all(loop_);
  while (Object* folder = root_object().child("chardevs")) {
    if (folder->children().empty()) break;
    folder->remove_child(*folder->children().back());
  }
  reclaim_dropped_objects();
}

// --- Character devices

Result<Chardev*> Assembly::legacy_chardev(const Given& given, std::string id) {
  std::string_view text = given.text;
  if (text.starts_with("chardev:")) {
    Chardev* c = find_chardev(text.substr(8));
    if (!c) return placed(given, Result<Chardev*>{fail("chardev \"{}\" not found", text.substr(8))});
    return c;
  }
  const Value spec = TRY(placed(given, chardev_options_from_legacy(text, id)));
  if (spec.is_null()) return nullptr;  // "none"
  auto made = placed(given, make_chardev(loop_, spec));
  if (!made) return std::unexpected(std::move(made).error());
  if (text.starts_with("mon:")) shared_.emplace_back(given, *made);  // its monitor comes after the device, which gets the keys
  return made->get();
}

Result<> Assembly::chardevs() {
  for (const Given& g : options_.chardevs) TRY(placed(g, make_chardev(loop_, g.value)));
  const bool defaults = !options_.no_defaults;
  const bool board = machine_type_->name != "none";
  std::vector<Given> serials = options_.serials, parallels = options_.parallels;
  if (board && defaults) {
    if (parallels.empty()) parallels.push_back({.option = "-parallel", .text = "null", .value = {}});
    if (serials.empty()) {
      const char* end = "null";
      if (options_.nographic) end = options_.monitors.empty() ? "mon:stdio" : "stdio";
      serials.push_back({.option = "-serial", .text = end, .value = {}});
    }
  }
  const auto make_all = [&](const std::vector<Given>& list, std::string_view kind, std::vector<std::string>& ids) -> Result<> {
    for (usize i = 0; i < list.size(); i++) {
      Chardev* c = TRY(legacy_chardev(list[i], format("{}{}", kind, i)));
      ids.push_back(c ? c->label() : std::string{});
    }
    return {};
  };
  TRY(make_all(serials, "serial", serials_));
  TRY(make_all(parallels, "parallel", parallels_));
  return make_all(options_.debug_consoles, "debugcon", debug_consoles_);
}

// --- Objects

Result<> Assembly::objects() {
  for (const Given& g : options_.objects) TRY(placed(g, vm::make_user_object(g.value)));
  return {};
}

// --- Machine

Result<> Assembly::choose_machine() {
  const std::string name = text_member(options_.machine, "type");
  if (!name.empty()) {
    machine_type_ = vm::find_machine_type(name);
    if (!machine_type_) {
      Error error{format("unsupported machine type: \"{}\"", name)};
      error.hint = "Use -machine help to list supported machines";
      std::vector<std::string> names;
      for (const auto* m : vm::all_machine_types()) {
        names.emplace_back(m->name);
        if (!m->alias.empty()) names.emplace_back(m->alias);
      }
      add_near(error, name, names);
      return std::unexpected(place_error(*options_.machine_given, std::move(error)));
    }
    return {};
  }
  for (const auto* m : vm::all_machine_types())
    if (m->is_default) machine_type_ = m;
  if (!machine_type_)
    return std::unexpected(
        Error{"No machine specified, and there is no default"}.with_hint("Use -machine help to list supported machines"));
  return {};
}

Result<> Assembly::configure() {
  vm::MachineConfig& c = machine_->config;
  if (options_.ram_bytes)
    c.ram_bytes = options_.ram_bytes;
  else if (machine_type_->name == "none")
    c.ram_bytes = 0;
  c.max_ram_bytes = options_.max_ram_bytes, c.ram_slots = options_.ram_slots;
  c.mem_path = options_.mem_path, c.mem_prealloc = options_.mem_prealloc, c.mem_lock = options_.overcommit.mem_lock;
  struct sysinfo host;
  if (::sysinfo(&host) == 0 && c.mem_path.empty()) {
    const u64 ram = u64{host.totalram} * host.mem_unit, swap = u64{host.totalswap} * host.mem_unit;
    if (c.ram_bytes > ram + swap) {
      Error error{format("cannot set up {} of guest memory: this host has {} and {} of swap", human_bytes(c.ram_bytes), human_bytes(ram),
                         human_bytes(swap))};
      return std::unexpected(options_.memory_given ? place_error(*options_.memory_given, std::move(error)) : std::move(error));
    }
  }
  if (options_.smp_given) {
    const SmpKeys& s = options_.smp;
    c.smp = {.cpus = *s.cpus, .max_cpus = *s.maxcpus, .sockets = *s.sockets, .dies = *s.dies, .cores = *s.cores, .threads = *s.threads};
    if (c.smp.max_cpus > machine_type_->max_cpus)
      return std::unexpected(
          place_error(*options_.smp_given, Error{format("Invalid SMP CPUs {}. The max CPUs supported by machine '{}' is {}", c.smp.max_cpus,
                                                        machine_type_->name, machine_type_->max_cpus)}));
  }
  if (options_.cpu) {
    c.cpu = options_.cpu->text;
    TRY(placed(*options_.cpu, x86::resolve_model(c.cpu, x86::tcg_features(), "tcg")));
  }
  const auto file = [&](const std::optional<Given>& given, std::string_view key) {
    return given ? given->text : text_member(options_.machine, key);
  };
  c.kernel = file(options_.kernel, "kernel"), c.initrd = file(options_.initrd, "initrd");
  c.append = file(options_.append, "append"), c.bios = file(options_.bios, "firmware");
  for (const auto* given : {&options_.append, &options_.initrd})
    if (*given && c.kernel.empty())
      return std::unexpected(place_error(**given, Error{format("{} only allowed with -kernel option", (*given)->option)}));
  c.firmware_folders = options_.firmware_folders;
  c.vga_given = options_.vga.has_value();
  c.vga = options_.vga ? options_.vga->text : options_.no_defaults ? "none" : "std";
  c.no_defaults = options_.no_defaults;
  c.serial_chardevs = serials_, c.parallel_chardevs = parallels_;
  for (const auto& [given, item] : options_.fw_cfg) {
    if (item.gen_id) return std::unexpected(place_error(given, Error{format("Cannot find object ID '{}' that makes data", *item.gen_id)}));
    std::vector<u8> data;
    if (item.file)
      data = TRY(placed(given, read_file(*item.file, 64 * MiB, format("can't load {}", *item.file))));
    else
      data.assign(item.string->begin(), item.string->end());
    c.fw_cfg.push_back({item.name, std::move(data)});
  }
  for (const Given& g : options_.smbios) c.smbios.push_back(g.value);
  c.rtc = {.base = options_.rtc.base, .clock = options_.rtc.clock, .slew = options_.rtc.driftfix == "slew"};
  const BootKeys& b = options_.boot;
  c.boot = {.order = b.order,
            .once = b.once,
            .menu = b.menu,
            .strict = b.strict,
            .splash_time = b.splash_time.value_or(-1),
            .reboot_timeout = b.reboot_timeout.value_or(-1),
            .splash = b.splash};
  c.name = options_.name.guest;
  c.uuid = options_.uuid, c.uuid_given = !options_.uuid.empty();

  vm::Actions& a = machine_->run_state().actions;
  const ActionKeys& wish = options_.action;
  if (wish.reboot == "shutdown") a.reboot = vm::Actions::Reboot::shutdown;
  if (wish.shutdown == "pause") a.shutdown = vm::Actions::Shutdown::pause;
  if (wish.panic) {
    using P = vm::Actions::Panic;
    a.panic = *wish.panic == "none"       ? P::none
              : *wish.panic == "pause"    ? P::pause
              : *wish.panic == "shutdown" ? P::shutdown
                                          : P::exit_failure;
  }
  if (wish.watchdog) {
    using W = vm::Actions::Watchdog;
    static constexpr std::pair<std::string_view, W> names[] = {
        {"none", W::none},   {"reset", W::reset}, {"shutdown", W::shutdown},    {"poweroff", W::poweroff},
        {"pause", W::pause}, {"debug", W::debug}, {"inject-nmi", W::inject_nmi}};
    for (const auto& [name, what] : names)
      if (name == *wish.watchdog) a.watchdog = what;
  }
  return {};
}

Result<> Assembly::machine_properties() {
  static constexpr std::string_view taken[] = {"type", "accel", "kernel", "initrd", "append", "dtb"};
  std::vector<std::string> known;
  for (const auto& p : machine_->property_list()) known.push_back(p.name);
  // The firmware then writes to the first serial port as well.
  if (options_.nographic && std::ranges::find(known, "graphics") != known.end()) TRY(machine_->set("graphics", Value{false}));
  for (const auto& [name, value] : options_.machine.members()) {
    if (std::ranges::find(taken, name) != std::end(taken)) continue;
    if (name == "memory-backend") {
      machine_->config.ram_backend = value.is_string() ? value.get_string() : std::string{};
      continue;
    }
    const bool has = std::ranges::find(known, name) != known.end();
    if (!has && std::ranges::find(inert_machine_keys, name) != std::end(inert_machine_keys)) continue;
    auto done = machine_->set(name, value);
    if (!done && !has && done.error().hint.empty()) {
      std::vector<std::string> names{known};
      names.insert(names.end(), std::begin(taken), std::end(taken));
      add_near(done.error(), name, names);
    }
    if (!done) return options_.machine_given ? placed(*options_.machine_given, std::move(done)) : std::move(done);
  }
  return {};
}

Result<> Assembly::try_accelerator(const std::string& name, const Given* given) {
  const TypeInfo* type = find_type(name + "-accel");
  if (!type || !type->make || !type->derives_from(vm::Accelerator::type)) return fail("invalid accelerator {}", name);
  const Ref<vm::Accelerator> accelerator = object_cast<vm::Accelerator>(make_object(*type));
  if (given)
    for (const auto& [key, value] : given->value.members())
      if (key != "accel") TRY(accelerator->set(key, value));
  // An older spelling of a property of the accelerator's.
  const bool said = given && given->value.find("kernel-irqchip");
  if (const Value* irqchip = options_.machine.find("kernel-irqchip"); irqchip && !said)
    if (std::ranges::any_of(accelerator->property_list(), [](const auto& p) { return p.name == "kernel-irqchip"; }))
      TRY(accelerator->set("kernel-irqchip", *irqchip));
  TRY(accelerator->init(*machine_));
  machine_->set_accelerator(accelerator);
  return {};
}

Result<> Assembly::accelerator() {
  struct Candidate {
    std::string name;
    const Given* given = nullptr;
  };
  std::vector<Candidate> candidates;
  for (const Given& g : options_.accelerators) candidates.push_back({text_member(g.value, "accel"), &g});
  if (candidates.empty()) {
    std::string list = text_member(options_.machine, "accel");
    if (list.empty()) list = options_.enable_kvm ? "kvm" : Fd{host::open_file("/dev/kvm", O_RDWR)} ? "auto" : "tcg";
    for (usize at = 0; at <= list.size();) {
      const usize colon = std::min(list.find(':', at), list.size());
      candidates.push_back({list.substr(at, colon - at)});
      at = colon + 1;
    }
  }
  std::string unknown, refused;
  std::optional<Error> last;
  for (const Candidate& c : candidates) {
    auto done = try_accelerator(c.name, c.given);
    if (done) {
      if (!unknown.empty()) report_info(format("accelerators that this build does not know are skipped: {}", unknown));
      // A probe (-machine none) is told by query-kvm.
      if (!refused.empty() && machine_->type_info().name != "none-machine") report_info(format("{}: falling back to {}", refused, c.name));
      return {};
    }
    // What other tools offer by the name of an accelerator may be asked for and absent; kvm without a word (contract.md §1.4).
    if (c.name != "kvm" && !find_type(c.name + "-accel")) unknown += (unknown.empty() ? "" : ", ") + c.name;
    Error error = std::move(done).error();
    if (find_type(c.name + "-accel")) refused += format("{}{}: {}", refused.empty() ? "" : "; ", c.name, error.message);
    if (c.given)
      error = place_error(*c.given, std::move(error));
    else if (options_.machine_given && text_member(options_.machine, "accel") != "")
      error = place_error(*options_.machine_given, std::move(error));
    last = std::move(error);
  }
  std::vector<std::string> names;
  for (const TypeInfo* t : all_types())
    if (t->make && t->derives_from(vm::Accelerator::type)) names.emplace_back(t->name.substr(0, t->name.rfind("-accel")));
  std::string valid;
  for (const auto& n : names) valid += (valid.empty() ? "" : ", ") + n;
  last->hint += format("{}Accelerators of this build: {}", last->hint.empty() ? "" : "\n", valid);
  if (options_.enable_kvm && options_.accelerators.empty() && text_member(options_.machine, "accel").empty())
    last = place_error({.option = "-enable-kvm", .text = {}, .value = {}}, std::move(*last));
  return std::unexpected(std::move(*last));
}

// --- Network

Result<> Assembly::netdevs() {
  net::set_netdev_loop(&loop_);
  for (const Given& g : options_.netdevs) TRY(placed(g, net::make_netdev(loop_, g.value)));
  machine_->run_state().on_change([](bool running) {
    if (running) net::go_on_after_stop();
  });
  return {};
}

Result<> Assembly::network_card(const Given& given, const std::string& netdev) {
  std::string model = text_member(given.value, "model");
  if (model.empty()) model = machine_type_->name.starts_with("pc-q35") ? "e1000e" : "e1000";
  if (model == "virtio") model = "virtio-net-pci";
  const auto is_card = [](const TypeInfo& t) { return t.make && t.user_creatable && t.category == "Network devices"; };
  const TypeInfo* type = find_type(model);
  if (!type || !is_card(*type)) {
    Error error{format("Unsupported NIC model: {}", model)};
    std::vector<std::string> names;
    std::string all;
    for (const TypeInfo* t : all_types())
      if (is_card(*t)) names.emplace_back(t->name), all += format("{}{}", all.empty() ? "Supported NIC models: " : ", ", t->name);
    error.hint = all;
    add_near(error, model, names);
    return std::unexpected(std::move(error));
  }
  hw::DeviceSpec spec{.driver = std::string{type->name}, .place = hw::DeviceSpec::Place::unattached};
  spec.properties.set("netdev", netdev);
  for (const std::string_view key : {"mac", "macaddr"})
    if (const Value* mac = given.value.find(key)) spec.properties.set("mac", *mac);
  for (const std::string_view key : {"addr", "vectors"})
    if (const Value* v = given.value.find(key)) spec.properties.set(std::string{key}, *v);
  TRY(hw::create_device(*machine_, spec));
  return {};
}

// -nic makes a pair of its own; everything of -net is on hub 0. Without any, QEMU's boards have a card and `user` there.
Result<> Assembly::network_cards() {
  std::vector<Given> wanted = options_.nics;
  if (machine_type_->name != "none" && !options_.no_defaults && wanted.empty() && options_.netdevs.empty())
    for (const char* word : {"nic", "user"}) {
      Value v = Value::object();
      wanted.push_back({.option = "-net", .text = word, .value = v.set("type", word)});
    }
  static constexpr std::string_view card_keys[] = {"model", "mac", "macaddr", "addr", "vectors", "name"};
  const auto back_end = [&](const Given& g) -> Result<std::string> {
    Value options = g.value;
    for (const std::string_view key : card_keys) options.erase(key);
    std::string id = text_member(options, "id");
    if (id.empty()) options.set("id", id = format("#net{}", net_number_++));
    TRY(net::make_netdev(loop_, options));
    return id;
  };
  const auto port = [&](const std::string& netdev) -> Result<std::string> {
    Value options = Value::object();
    const std::string id = format("hub0port{}", hub_ports_++);
    options.set("type", "hubport").set("id", id).set("hubid", 0);
    if (!netdev.empty()) options.set("netdev", netdev);
    TRY(net::make_netdev(loop_, options));
    return id;
  };
  for (const Given& g : wanted) {
    const auto make = [&]() -> Result<> {
      const std::string type = text_member(g.value, "type");
      if (type == "none") return {};
      if (g.option == "-nic") return network_card(g, TRY(back_end(g)));
      if (type != "nic") {
        TRY(port(TRY(back_end(g))));
        return {};
      }
      const std::string netdev = text_member(g.value, "netdev");
      return network_card(g, netdev.empty() ? TRY(port("")) : netdev);
    };
    TRY(placed(g, make()));
  }
  return {};
}

// --- Devices

// The board's USB controllers, where QEMU's boards have theirs, and what -usbdevice plugs into them.
Result<> Assembly::usb() {
  const auto wanted = machine_->get("usb");
  if (!wanted || !wanted->is_bool() || !wanted->get_bool() || machine_type_->name == "none") return {};
  hw::DeviceSpec controller{.driver = "piix3-usb-uhci", .place = hw::DeviceSpec::Place::unattached};
  if (machine_type_->name.starts_with("pc-q35")) {
    controller.driver = "ich9-usb-ehci1";
    controller.properties.set("addr", "1d.7").set("multifunction", true);
    const Ref<hw::Device> master = TRY(hw::create_device(*machine_, controller));
    for (unsigned n = 0; n < 3; n++) {
      controller.driver = format("ich9-usb-uhci{}", n + 1);
      controller.properties.set("addr", format("1d.{}", n)).set("masterbus", master->buses().front()->name()).set("firstport", 2 * n);
      TRY(hw::create_device(*machine_, controller));
    }
  } else {
    controller.properties.set("addr", "01.2");
    TRY(hw::create_device(*machine_, controller));
  }
  for (const Given& g : options_.usb_devices) {
    const std::string driver = g.text == "keyboard" ? "usb-kbd" : format("usb-{}", g.text);
    TRY(placed(g, hw::create_device(*machine_, {.driver = driver})));
  }
  return {};
}

Result<> Assembly::devices() {
  for (usize i = 0; i < debug_consoles_.size(); i++) {
    if (debug_consoles_[i].empty()) continue;
    hw::DeviceSpec spec{.driver = "isa-debugcon"};
    spec.properties.set("chardev", debug_consoles_[i]);
    TRY(placed(options_.debug_consoles[i], hw::create_device(*machine_, spec)));
  }
  for (const Given& g : options_.devices) {
    hw::DeviceSpec spec{.driver = text_member(g.value, "driver"), .id = text_member(g.value, "id"), .bus = text_member(g.value, "bus")};
    for (const auto& [name, value] : g.value.members())
      if (name != "driver" && name != "id" && name != "bus") spec.properties.set(name, value);
    if (hw::is_cpu_driver(spec.driver)) {
      TRY(placed(g, hw::plug_cpu(*machine_, spec)));
      continue;
    }
    auto made = hw::create_device(*machine_, spec);
    if (!made) {
      Error error = std::move(made).error();
      const TypeInfo* type = find_type(spec.driver);
      if (!type || !type->derives_from(hw::Device::type)) {
        error = Error{format("'{}' is not a valid device model name", spec.driver)};
        std::vector<std::string> names;
        for (const TypeInfo* t : all_types())
          if (t->make && t->user_creatable && t->derives_from(hw::Device::type)) names.emplace_back(t->name);
        add_near(error, spec.driver, names);
      }
      return std::unexpected(place_error(g, std::move(error)));
    }
  }
  return {};
}

// --- Monitors

Result<> Assembly::attach_monitor(const Given& given, Chardev& chardev, monitor::Monitor::Options mode) {
  using Input = monitor::Monitor::Options::Input;
  const auto policy = [&](std::string_view key) {
    const std::string word = text_member(options_.compat, key);
    return word == "reject" ? Input::reject : word == "crash" ? Input::crash : Input::accept;
  };
  mode.deprecated = policy("deprecated-input"), mode.unstable = policy("unstable-input");
  if (options_.sandbox.enable != "off") chardev.keep_to_own_user();
  // A snapshot is in place before anybody may say `cont`: until then what comes waits in the chardev.
  const auto attach = [this, given, chardev = Ref<Chardev>{&chardev}, mode]() -> Result<> {
    monitors_.push_back(TRY(placed(given, monitor::Monitor::make(chardev, mode))));
    return {};
  };
  if (options_.loadvm.empty()) return attach();
  late_monitors_.emplace_back(attach);
  return {};
}

Result<> Assembly::monitors() {
  using Mode = monitor::Monitor::Mode;
  unsigned number = 0;
  for (const auto& [given, chardev] : std::exchange(shared_, {})) TRY(attach_monitor(given, *chardev, {.mode = Mode::human}));
  for (const MonitorOption& m : options_.monitors) {
    if (m.kind == MonitorOption::Kind::mon) {
      Chardev* chardev = find_chardev(m.keys.chardev);
      if (!chardev) return placed(m.given, Result<>{fail("chardev \"{}\" not found", m.keys.chardev)});
      TRY(attach_monitor(m.given, *chardev, {.mode = m.keys.mode == "control" ? Mode::control : Mode::human, .pretty = m.keys.pretty}));
      continue;
    }
    const bool control = m.kind != MonitorOption::Kind::legacy_human;
    Chardev* chardev = TRY(legacy_chardev(m.given, format("compat_monitor{}", number++)));
    if (m.given.text.starts_with("mon:")) shared_.clear();
    if (!chardev) continue;
    TRY(attach_monitor(m.given, *chardev,
                       {.mode = control ? Mode::control : Mode::human, .pretty = m.kind == MonitorOption::Kind::legacy_control_pretty}));
  }
  // -nographic with the first serial port elsewhere: the terminal is the monitor's.
  if (options_.nographic && !options_.no_defaults && options_.monitors.empty() && !options_.serials.empty()) {
    const auto on_terminal = [](const Given& g) { return g.text == "stdio" || g.text == "mon:stdio"; };
    const bool taken = std::ranges::any_of(options_.serials, on_terminal) ||
                       std::ranges::any_of(options_.chardevs, [](const Given& g) { return text_member(g.value, "backend") == "stdio"; });
    if (!taken) {
      const Given given{.option = "-monitor", .text = "stdio", .value = {}};
      TRY(attach_monitor(given, *TRY(legacy_chardev(given, format("compat_monitor{}", number))), {.mode = Mode::human}));
    }
  }
  return {};
}

Result<> Assembly::qtest() {
  if (!options_.qtest) return {};
  Chardev* chardev = TRY(legacy_chardev(*options_.qtest, "qtest"));
  if (chardev) qtest_ = TRY(placed(*options_.qtest, qtest::Server::make(Ref<Chardev>{chardev}, *machine_, options_.qtest_log)));
  return {};
}

// --- All

// An error of the board, at the option whose value it names.
Result<> Assembly::blamed(Result<> result) const {
  // "-kernel FILE: …" gets its caret as well.
  if (!result)
    for (const auto* given : {&options_.bios, &options_.kernel, &options_.initrd, &options_.append})
      if (*given && result.error().message.starts_with(format("{} {}: ", (*given)->option, (*given)->text))) {
        Error error = std::move(result).error();
        error.message.erase(0, (*given)->option.size() + (*given)->text.size() + 3);
        return std::unexpected(place_error(**given, std::move(error)));
      }
  if (result || result.error().message.starts_with('-')) return result;
  for (const auto* given : {&options_.bios, &options_.kernel, &options_.initrd, &options_.append, &options_.cpu, &options_.vga})
    if (*given && !(*given)->text.empty() && result.error().message.contains(format("'{}'", (*given)->text)))
      return placed(**given, std::move(result));
  return result;
}

Result<> Assembly::build() {
  set_process_name(options_.name.process.empty() ? "vmm" : options_.name.process);
  for (const auto& [given, g] : options_.globals) {
    if (!find_type(g.driver))
      report_warning(format("{} {}: global {}.{} has invalid class name", given.option, given.text, g.driver, g.property));
    add_global_property({.type = g.driver, .property = g.property, .value = g.value, .from_user = true});
    // What no device of this machine would bring to light: a sample takes it as well.
    if (const TypeInfo* type = find_type(g.driver); type && type->make && type->derives_from(hw::Device::type)) {
      make_object(*type);
      for (Error& error : take_global_errors()) return std::unexpected(place_error(given, std::move(error)));
    }
  }
  TRY(choose_machine());
  machine_ = object_cast<vm::Machine>(make_object(*machine_type_->type));
  ASSERT(machine_);
  machine_->attach_loop(loop_);
  root_object().add_child("machine", machine_);
  vm::set_current_machine(machine_.get());
  loop_.on_turn([] { reclaim_dropped_objects(); });
  if (options_.escape_key >= 0) set_escape_key(static_cast<u8>(options_.escape_key));
  set_mux_actions([this] { machine_->run_state().request_shutdown(vm::Cause::host_qmp_quit); },
                  [] {  // Ctrl-A s: what -snapshot holds back goes into the images, where there are disks
                    control::Context context;
                    monitor::run_human_line(context, "commit all");
                  });
  TRY(chardevs());
  TRY(netdevs());
  TRY(objects());
  if (!options_.incoming.empty()) block::open_inactive();  // until the source has let go of them
  TRY(block_devices());
  TRY(configure());
  TRY(machine_properties());
  TRY(accelerator());
  TRY(blamed(machine_->realize()));
  TRY(network_cards());
  TRY(usb());
  TRY(devices());
  TRY(plug_drives());
  for (Error& error : take_global_errors()) return std::unexpected(std::move(error));
  TRY(blamed(machine_->finish()));
  machine_->run_state().reset_now(vm::Cause::none);
  TRY(qtest());
  TRY(monitors());
  gdb::set_command_runner([](std::string_view line) {
    control::Context context;
    return monitor::run_human_line(context, line);
  });
  const ui::vnc::Surroundings screens{
      .loop = &loop_, .domain = &machine_->time_domain(), .guest_name = options_.name.guest, .layout = options_.keyboard_layout};
  for (const auto& [given, keys] : options_.vncs) TRY(placed(given, ui::vnc::open(screens, keys)));
  if (options_.gdb) TRY(placed(*options_.gdb, gdb::listen(*machine_, options_.gdb->text)));
  return {};
}

Result<> Assembly::start() {
  if (!options_.incoming.empty()) {
    if (auto waits = migration::wait_for_machine(*machine_, options_.incoming, !options_.stopped); !waits)
      return std::unexpected(place_error({.option = "-incoming", .text = options_.incoming, .value = {}}, std::move(waits).error()));
    return {};
  }
  if (!options_.loadvm.empty())
    if (auto loaded = run_task(loop_, migration::load_snapshot(*machine_, options_.loadvm, {})); !loaded)
      return std::unexpected(place_error({.option = "-loadvm", .text = options_.loadvm, .value = {}}, std::move(loaded).error()));
  for (const auto& attach : std::exchange(late_monitors_, {})) TRY(attach());
  if (!options_.stopped) machine_->run_state().start();
  return {};
}

}  // namespace vmm::cli
