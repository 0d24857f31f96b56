// Commands on the machine as a whole: its state, its CPUs, its name. Source: contract.md §2.5, §4.
#include <algorithm>

#include "block/core/handover.h"
#include "src/control/command.h"
#include "src/vm/cpu_registers.h"
#include "src/vm/machine.h"

namespace vmm {
namespace vm {

struct StatusInfo {
  bool running = false, singlestep = false;
  std::string status;
};
struct CpuProps {
  i64 socket_id = 0, die_id = 0, core_id = 0, thread_id = 0;
};
struct CpuInfoFast {
  i64 cpu_index = 0, thread_id = 0;
  std::string qom_path, qom_type, target;
  CpuProps props;
};
struct HotpluggableCpu {
  std::string type;
  i64 vcpus_count = 1;
  CpuProps props;
  std::optional<std::string> qom_path;
};
struct MachineInfo {
  std::string name;
  std::optional<std::string> alias;
  std::optional<bool> is_default;
  i64 cpu_max = 0;
  bool hotpluggable_cpus = false, numa_mem_supported = false, deprecated = false, acpi = false;
  std::optional<std::string> default_cpu_type, default_ram_id;
};
struct KvmInfo {
  bool enabled = false, present = false;
};
struct AcceleratorInfo {
  std::string enabled;
  std::vector<std::string> present;
};
struct NameInfo {
  std::optional<std::string> name;
};
struct UuidInfo {
  std::string UUID;
};
struct TargetInfo {
  std::string arch;
};
struct MemorySize {
  u64 base_memory = 0;
  std::optional<u64> plugged_memory;
};
enum class RebootAction { reset, shutdown };
enum class ShutdownAction { poweroff, pause };
enum class PanicAction { pause, shutdown, exit_failure, none };
enum class WatchdogAction { reset, shutdown, poweroff, pause, debug, none, inject_nmi };
struct ActionArgs {
  std::optional<RebootAction> reboot;
  std::optional<ShutdownAction> shutdown;
  std::optional<PanicAction> panic;
  std::optional<WatchdogAction> watchdog;
};
struct CpuIndexArgs {
  i64 index = 0;
};
}  // namespace vm

using namespace vm;
template <>
inline constexpr std::array enum_names<RebootAction> = {EnumNameOf<RebootAction>{RebootAction::reset, "reset"},
                                                        EnumNameOf<RebootAction>{RebootAction::shutdown, "shutdown"}};
template <>
inline constexpr std::array enum_names<ShutdownAction> = {EnumNameOf<ShutdownAction>{ShutdownAction::poweroff, "poweroff"},
                                                          EnumNameOf<ShutdownAction>{ShutdownAction::pause, "pause"}};
template <>
inline constexpr std::array enum_names<PanicAction> = {
    EnumNameOf<PanicAction>{PanicAction::pause, "pause"}, EnumNameOf<PanicAction>{PanicAction::shutdown, "shutdown"},
    EnumNameOf<PanicAction>{PanicAction::exit_failure, "exit-failure"}, EnumNameOf<PanicAction>{PanicAction::none, "none"}};
template <>
inline constexpr std::array enum_names<WatchdogAction> = {
    EnumNameOf<WatchdogAction>{WatchdogAction::reset, "reset"},          EnumNameOf<WatchdogAction>{WatchdogAction::shutdown, "shutdown"},
    EnumNameOf<WatchdogAction>{WatchdogAction::poweroff, "poweroff"},    EnumNameOf<WatchdogAction>{WatchdogAction::pause, "pause"},
    EnumNameOf<WatchdogAction>{WatchdogAction::debug, "debug"},          EnumNameOf<WatchdogAction>{WatchdogAction::none, "none"},
    EnumNameOf<WatchdogAction>{WatchdogAction::inject_nmi, "inject-nmi"}};
template <>
inline constexpr std::array fields<StatusInfo> = {
    field<&StatusInfo::status>("status", "Why it runs or does not."),
    field<&StatusInfo::singlestep>("singlestep", "Always false."),
    field<&StatusInfo::running>("running", "Whether CPUs run."),
};
template <>
inline constexpr std::array fields<CpuProps> = {
    field<&CpuProps::core_id>("core-id", "Core within the die."),
    field<&CpuProps::thread_id>("thread-id", "Thread within the core."),
    field<&CpuProps::die_id>("die-id", "Die within the socket."),
    field<&CpuProps::socket_id>("socket-id", "Socket."),
};
template <>
inline constexpr std::array fields<CpuInfoFast> = {
    field<&CpuInfoFast::thread_id>("thread-id", "Host thread."), field<&CpuInfoFast::props>("props", "Where it lies."),
    field<&CpuInfoFast::qom_path>("qom-path", "Its object."),    field<&CpuInfoFast::qom_type>("qom-type", "The object's type."),
    field<&CpuInfoFast::target>("target", "Architecture."),      field<&CpuInfoFast::cpu_index>("cpu-index", "Number."),
};
template <>
inline constexpr std::array fields<HotpluggableCpu> = {
    field<&HotpluggableCpu::props>("props", "Where it lies."),
    field<&HotpluggableCpu::vcpus_count>("vcpus-count", "CPUs in one object."),
    field<&HotpluggableCpu::qom_path>("qom-path", "The object, if plugged."),
    field<&HotpluggableCpu::type>("type", "Its type."),
};
template <>
inline constexpr std::array fields<MachineInfo> = {
    field<&MachineInfo::hotpluggable_cpus>("hotpluggable-cpus", "CPUs can be plugged."),
    field<&MachineInfo::name>("name", "Name."),
    field<&MachineInfo::numa_mem_supported>("numa-mem-supported", "-numa mem= works."),
    field<&MachineInfo::default_cpu_type>("default-cpu-type", "Type of CPU without -cpu."),
    field<&MachineInfo::cpu_max>("cpu-max", "CPUs at most."),
    field<&MachineInfo::deprecated>("deprecated", "Will go."),
    field<&MachineInfo::default_ram_id>("default-ram-id", "Name of its memory."),
    field<&MachineInfo::alias>("alias", "Second name."),
    field<&MachineInfo::is_default>("is-default", "Chosen without -machine."),
    field<&MachineInfo::acpi>("acpi", "Has ACPI."),
};
template <>
inline constexpr std::array fields<KvmInfo> = {field<&KvmInfo::enabled>("enabled", "In use."),
                                               field<&KvmInfo::present>("present", "Could be used.")};
template <>
inline constexpr std::array fields<AcceleratorInfo> = {field<&AcceleratorInfo::enabled>("enabled", "The one in use."),
                                                       field<&AcceleratorInfo::present>("present", "Those of this build.")};
template <>
inline constexpr std::array fields<NameInfo> = {field<&NameInfo::name>("name", "Name of the guest.")};
template <>
inline constexpr std::array fields<UuidInfo> = {field<&UuidInfo::UUID>("UUID", "UUID of the machine.")};
template <>
inline constexpr std::array fields<TargetInfo> = {field<&TargetInfo::arch>("arch", "Architecture of the guest.")};
template <>
inline constexpr std::array fields<MemorySize> = {field<&MemorySize::base_memory>("base-memory", "Bytes at the start."),
                                                  field<&MemorySize::plugged_memory>("plugged-memory", "Bytes plugged later.")};
template <>
inline constexpr std::array fields<ActionArgs> = {
    field<&ActionArgs::reboot>("reboot", "When the guest reboots."),
    field<&ActionArgs::shutdown>("shutdown", "When the guest shuts down."),
    field<&ActionArgs::panic>("panic", "When the guest reports a crash."),
    field<&ActionArgs::watchdog>("watchdog", "When a watchdog expires."),
};
template <>
inline constexpr std::array fields<CpuIndexArgs> = {field<&CpuIndexArgs::index>("index", "Number of the CPU.", {.min = 0})};

namespace vm {
namespace {

using namespace control;

Result<Machine*> the_machine() {
  Machine* machine = current_machine();
  if (!machine) return fail("There is no machine yet");
  return machine;
}

CpuProps props_of(const Machine& machine, unsigned index) {
  const Topology& t = machine.config.smp;
  CpuProps p;
  p.thread_id = index % t.threads;
  p.core_id = index / t.threads % t.cores;
  p.die_id = index / (t.threads * t.cores) % t.dies;
  p.socket_id = index / (t.threads * t.cores * t.dies);
  return p;
}
std::string path_of(const Vcpu& vcpu) { return vcpu.object() ? vcpu.object()->path() : std::string{}; }
std::string type_of(const Vcpu& vcpu) { return vcpu.object() ? std::string{vcpu.object()->type_info().name} : std::string{}; }

// --- State

Result<StatusInfo> query_status(Context&) {
  const Status s = TRY(the_machine())->run_state().status();
  return StatusInfo{.running = s == Status::running, .status = std::string{status_name(s)}};
}
std::string print_status(const Value& v) {
  const std::string& status = v.find("status")->get_string();
  if (v.find("running")->get_bool()) return "VM status: running\n";
  return status == "paused" ? "VM status: paused\n" : format("VM status: paused ({})\n", status);
}
Result<> stop(Context&) {
  TRY(the_machine())->run_state().stop(Status::paused);
  return {};
}
// Takes the disks first, where another process has had them.
Task<Value> cont(Context&, Value arguments) {
  if (auto checked = assign_fields(nullptr, {}, arguments); !checked) co_return std::unexpected(std::move(checked).error());
  Machine* const machine = current_machine();
  if (!machine) co_return fail("There is no machine yet");
  RunState& state = machine->run_state();
  switch (state.status()) {
    case Status::inmigrate: co_return fail(ErrorClass::migration_expected, "Guest is waiting for an incoming migration");
    case Status::finish_migrate: co_return fail("The guest is on its way to another host");
    case Status::restore_vm:
    case Status::save_vm: co_return fail("A snapshot of the machine is being {}", state.status() == Status::save_vm ? "written" : "loaded");
    case Status::shutdown:
    case Status::internal_error:
    case Status::guest_panicked: co_return fail("Resetting the Virtual Machine is required");
    default: break;
  }
  if (block::images_inactive()) co_await block::activate_all();
  if (state.status() == Status::suspended)
    state.request_wakeup();
  else
    state.start();
  co_return Value::object();
}
Result<> system_reset(Context&) {
  TRY(the_machine())->run_state().request_reset(Cause::host_qmp_system_reset);
  return {};
}
Result<> system_powerdown(Context&) {
  TRY(the_machine())->run_state().request_powerdown();
  return {};
}
Result<> system_wakeup(Context&) {
  RunState& state = TRY(the_machine())->run_state();
  if (state.status() != Status::suspended) return fail("Unable to wake up: guest is not in suspended state");
  state.request_wakeup();
  return {};
}
Result<> inject_nmi(Context&) {
  Machine* machine = TRY(the_machine());
  if (machine->vcpus().empty()) return fail("machine does not provide NMIs");
  machine->inject_nmi();
  return {};
}

// The reply follows the SHUTDOWN event (contract.md §2.1).
class UntilShutdown final : public EventListener {
 public:
  Completion<bool> seen;

 private:
  void on_event(const EventInfo& event, const Value&, i64) override {
    if (event.name == "SHUTDOWN" && !std::exchange(told_, true)) seen.complete(true);
  }
  bool told_ = false;
};
Task<Value> quit(Context&, Value arguments) {
  if (auto checked = assign_fields(nullptr, {}, arguments); !checked) co_return std::unexpected(std::move(checked).error());
  Machine* machine = current_machine();
  if (!machine) co_return fail("There is no machine yet");
  UntilShutdown shutdown;
  machine->run_state().request_shutdown(Cause::host_qmp_quit);
  co_await shutdown.seen;
  co_return Value::object();
}

Result<> set_action(Context&, const ActionArgs& args) {
  Actions& a = TRY(the_machine())->run_state().actions;
  if (args.reboot) a.reboot = *args.reboot == RebootAction::reset ? Actions::Reboot::reset : Actions::Reboot::shutdown;
  if (args.shutdown) a.shutdown = *args.shutdown == ShutdownAction::poweroff ? Actions::Shutdown::poweroff : Actions::Shutdown::pause;
  if (args.panic) {
    switch (*args.panic) {
      case PanicAction::pause: a.panic = Actions::Panic::pause; break;
      case PanicAction::shutdown: a.panic = Actions::Panic::shutdown; break;
      case PanicAction::exit_failure: a.panic = Actions::Panic::exit_failure; break;
      case PanicAction::none: a.panic = Actions::Panic::none; break;
    }
  }
  if (args.watchdog) {
    switch (*args.watchdog) {
      case WatchdogAction::reset: a.watchdog = Actions::Watchdog::reset; break;
      case WatchdogAction::shutdown: a.watchdog = Actions::Watchdog::shutdown; break;
      case WatchdogAction::poweroff: a.watchdog = Actions::Watchdog::poweroff; break;
      case WatchdogAction::pause: a.watchdog = Actions::Watchdog::pause; break;
      case WatchdogAction::debug: a.watchdog = Actions::Watchdog::debug; break;
      case WatchdogAction::none: a.watchdog = Actions::Watchdog::none; break;
      case WatchdogAction::inject_nmi: a.watchdog = Actions::Watchdog::inject_nmi; break;
    }
  }
  return {};
}

// --- What it is

Result<NameInfo> query_name(Context&) {
  const std::string& name = TRY(the_machine())->config.name;
  return NameInfo{name.empty() ? std::nullopt : std::optional{name}};
}
std::string print_name(const Value& v) {
  const Value* name = v.find("name");
  return name ? name->get_string() + "\n" : std::string{};
}
Result<UuidInfo> query_uuid(Context&) {
  const vm::MachineConfig& c = TRY(the_machine())->config;
  return UuidInfo{c.uuid.empty() ? "00000000-0000-0000-0000-000000000000" : c.uuid};
}
std::string print_uuid(const Value& v) { return v.find("UUID")->get_string() + "\n"; }
Result<TargetInfo> query_target(Context&) { return TargetInfo{"x86_64"}; }

Result<std::vector<MachineInfo>> query_machines(Context&) {
  std::vector<MachineInfo> out;
  for (const MachineTypeInfo* m : all_machine_types()) {
    MachineInfo i{.name = std::string{m->name},
                  .cpu_max = m->max_cpus,
                  .hotpluggable_cpus = m->hotpluggable_cpus,
                  .numa_mem_supported = m->numa_mem_supported,
                  .deprecated = m->deprecated,
                  .acpi = m->acpi};
    if (!m->alias.empty()) i.alias = std::string{m->alias};
    if (m->is_default) i.is_default = true;
    if (!m->default_cpu.empty()) i.default_cpu_type = std::string{m->default_cpu};
    if (!m->default_ram_id.empty()) i.default_ram_id = std::string{m->default_ram_id};
    out.push_back(std::move(i));
  }
  return out;
}

std::vector<std::string> accelerators() {
  std::vector<std::string> out;
  for (const TypeInfo* t : all_types())
    if (t->make && t->derives_from(Accelerator::type)) out.emplace_back(t->name.substr(0, t->name.rfind("-accel")));
  return out;
}
std::string accelerator_in_use() {
  Machine* machine = current_machine();
  return machine && machine->has_accelerator() ? std::string{machine->accelerator().short_name()} : "tcg";
}
Result<KvmInfo> query_kvm(Context&) {
  const auto all = accelerators();
  return KvmInfo{.enabled = accelerator_in_use() == "kvm", .present = std::ranges::find(all, "kvm") != all.end()};
}
std::string print_kvm(const Value& v) {
  return v.find("enabled")->get_bool()   ? "kvm support: enabled\n"
         : v.find("present")->get_bool() ? "kvm support: disabled\n"
                                         : "kvm support: not compiled\n";
}
Result<AcceleratorInfo> query_accelerators(Context&) { return AcceleratorInfo{accelerator_in_use(), accelerators()}; }

Result<MemorySize> query_memory_size(Context&) {
  const Machine* machine = TRY(the_machine());
  return MemorySize{.base_memory = machine->ram() ? machine->config.ram_bytes : 0, .plugged_memory = 0};
}
std::string print_memory_size(const Value& v) {
  return format("base memory: {}\nplugged memory: {}\n", *v.find("base-memory")->as_u64(""), *v.find("plugged-memory")->as_u64(""));
}

// --- CPUs

Result<std::vector<CpuInfoFast>> query_cpus_fast(Context&) {
  std::vector<CpuInfoFast> out;
  const Machine* machine = TRY(the_machine());
  for (const auto& vcpu : machine->vcpus())
    out.push_back({.cpu_index = vcpu->index(),
                   .thread_id = vcpu->host_thread_id(),
                   .qom_path = path_of(*vcpu),
                   .qom_type = type_of(*vcpu),
                   .target = "x86_64",
                   .props = props_of(*machine, vcpu->index())});
  return out;
}
Result<std::string> info_cpus(Context& context, std::span<const std::string>) {
  std::string out;
  for (const auto& vcpu : TRY(the_machine())->vcpus())
    out += format("{} CPU #{}: thread_id={}{}\n", vcpu->index() == context.cpu_index() ? '*' : ' ', vcpu->index(), vcpu->host_thread_id(),
                  vcpu->halted() ? " (halted)" : "");
  return out;
}
Result<> cpu(Context& context, const CpuIndexArgs& args) {
  TRY(find_vcpu(static_cast<unsigned>(std::min<i64>(args.index, INT32_MAX))));
  context.set_cpu_index(static_cast<unsigned>(args.index));
  return {};
}
Result<std::vector<HotpluggableCpu>> query_hotpluggable_cpus(Context&) {
  const Machine* machine = TRY(the_machine());
  if (machine->vcpus().empty()) return fail("machine does not support hot-plugging CPUs");
  std::vector<HotpluggableCpu> out;
  const std::string type = type_of(*machine->vcpus()[0]);
  for (unsigned i = machine->config.smp.max_cpus; i-- > 0;) {
    HotpluggableCpu c{.type = type, .props = props_of(*machine, i), .qom_path = {}};
    for (const auto& vcpu : machine->vcpus())
      if (vcpu->index() == i) c.qom_path = path_of(*vcpu);
    out.push_back(std::move(c));
  }
  return out;
}
std::string print_hotpluggable(const Value& v) {
  std::string out = "Hotpluggable CPUs:\n";
  for (const Value& c : v.items()) {
    out += format("  type: \"{}\"\n  vcpus_count: \"{}\"\n", c.find("type")->get_string(), to_json(*c.find("vcpus-count")));
    if (const Value* path = c.find("qom-path")) out += format("  qom_path: \"{}\"\n", path->get_string());
    out += "  CPUInstance Properties:\n";
    for (std::string_view name : {"socket-id", "die-id", "core-id", "thread-id"})
      if (const Value* id = c.find("props")->find(name)) out += format("    {}: \"{}\"\n", name, to_json(*id));
  }
  return out;
}
// All memory and CPUs are one node's.
Result<std::string> info_numa(Context&, std::span<const std::string>) {
  TRY(the_machine());
  return std::string{"0 nodes\n"};
}
Result<std::string> watchdog_action(Context& context, std::span<const std::string> words) {
  if (words.size() != 1) return fail("watchdog_action takes one word");
  ActionArgs args;
  TRY(assign_fields(&args, fields<ActionArgs>, Value::object().set("watchdog", words[0])));
  TRY(set_action(context, args));
  return std::string{};
}
Result<std::string> info_registers(Context& context, std::span<const std::string> words) {
  const bool all = !words.empty() && words[0] == "-a";
  if (!words.empty() && !all) return fail("info registers takes -a only, not '{}'", words[0]);
  std::string out;
  if (!all) {
    Vcpu* vcpu = TRY(find_vcpu(context.cpu_index()));
    return format("\nCPU#{}\n{}", vcpu->index(), describe_registers(*vcpu));
  }
  for (const auto& vcpu : TRY(the_machine())->vcpus()) out += format("\nCPU#{}\n{}", vcpu->index(), describe_registers(*vcpu));
  return out;
}

// --- What an engine or the board tells about itself

Result<std::string> info_jit(Context&, std::span<const std::string>) {
  const Machine* machine = TRY(the_machine());
  if (!machine->has_accelerator()) return fail("No accelerator");
  const std::string text = machine->accelerator().describe_jit();
  return text.empty() ? format("{} does not translate\n", machine->accelerator().short_name()) : text;
}
template <auto Topic>
Result<std::string> info_board(Context&, std::span<const std::string>) {
  const std::string text = TRY(the_machine())->describe(Topic);
  if (text.empty()) return fail("this machine has no '{}'", std::string_view{Topic});
  return text;
}
constexpr char pic_topic[] = "pic", irq_topic[] = "irq";
// ROMs as the CPUs see them.
Result<std::string> info_roms(Context&, std::span<const std::string>) {
  std::string out;
  const auto view = TRY(the_machine())->memory().view();
  for (const memory::FlatRange& r : view->ranges())
    if (r.ram && r.read_only && r.region)
      out += format("addr={:016x} size=0x{:06x} mem=rom name=\"{}\"\n", r.first, r.last - r.first + 1, r.region->name());
  return out;
}
Result<std::string> info_lapic(Context& context, std::span<const std::string> words) {
  unsigned index = context.cpu_index();
  if (!words.empty()) {
    const auto id = codec_detail::parse_unsigned(Value{words[0]}, "apic-id", "uint32", {}, UINT32_MAX);
    if (!id) return std::unexpected(id.error());
    Machine* machine = TRY(the_machine());
    const auto& all = machine->vcpus();
    const auto at = std::ranges::find_if(all, [&](const auto& v) { return v->apic_id() == *id; });
    if (at == all.end()) return fail("there is no CPU with APIC id {}", *id);
    index = (*at)->index();
  }
  const Vcpu* vcpu = TRY(find_vcpu(index));
  std::string text = TRY(the_machine())->describe(format("lapic {}", vcpu->index()));
  if (text.empty()) text = TRY(the_machine())->describe("lapic");
  if (text.empty()) return fail("CPU {} has no local APIC", index);
  return text;
}
Result<std::string> info_mtree(Context&, std::span<const std::string> words) {
  const bool flat = std::ranges::find(words, "-f") != words.end();
  for (const auto& w : words)
    if (!w.starts_with('-') || w.find_first_not_of("-fod") != w.npos) return fail("info mtree takes -f, -d, -o, not '{}'", w);
  return memory::describe_tree(flat);
}

void qom_tree(const Object& object, unsigned depth, std::string& out) {
  out += format("{:{}}/{} ({})\n", "", 2 * depth, object.name(), object.type_info().name);
  std::vector<const Object*> children;
  for (const auto& c : object.children()) children.push_back(c.get());
  std::ranges::sort(children, {}, &Object::name);
  for (const Object* c : children) qom_tree(*c, depth + 1, out);
}
Result<std::string> info_qom_tree(Context& context, std::span<const std::string> words) {
  const Ref<Object> from = TRY(context.root().resolve(words.empty() ? "/machine" : words[0]));
  std::string out;
  qom_tree(*from, 0, out);
  return out;
}

control::Registered registered[] = {
    control::Registered{command<query_status>({.name = "query-status",
                                               .doc = "Whether the machine runs.",
                                               .human = "info status",
                                               .human_help = "info status -- show the current VM status (running|paused)",
                                               .human_print = print_status})},
    control::Registered{
        command<stop>({.name = "stop", .doc = "Stops all CPUs.", .human = "stop|s", .human_help = "stop|s -- stop emulation"})},
    control::Registered{
        Command{.info = {.name = "cont", .doc = "Lets the machine run.", .human = "cont|c", .human_help = "cont|c -- resume emulation"},
                .run_slow = cont}},
    control::Registered{command<system_reset>({.name = "system_reset",
                                               .doc = "Presses the reset button.",
                                               .human = "system_reset",
                                               .human_help = "system_reset -- reset the system"})},
    control::Registered{command<system_powerdown>({.name = "system_powerdown",
                                                   .doc = "Presses the power button.",
                                                   .human = "system_powerdown",
                                                   .human_help = "system_powerdown -- send system power down event"})},
    control::Registered{command<system_wakeup>({.name = "system_wakeup",
                                                .doc = "Wakes the guest from sleep.",
                                                .since = "1.1",
                                                .human = "system_wakeup",
                                                .human_help = "system_wakeup -- wakeup guest from suspend"})},
    control::Registered{command<inject_nmi>(
        {.name = "inject-nmi", .doc = "Sends an NMI to the CPUs.", .human = "nmi", .human_help = "nmi -- inject an NMI"})},
    control::Registered{
        Command{.info = {.name = "quit", .doc = "Ends the process.", .human = "quit|q", .human_help = "quit|q -- quit the emulator"},
                .run_slow = quit}},
    control::Registered{command<set_action>({.name = "set-action", .doc = "What to do about events of the guest.", .since = "6.0"})},
    control::Registered{command<query_name>({.name = "query-name",
                                             .doc = "Name of the guest.",
                                             .human = "info name",
                                             .human_help = "info name -- show the current VM name",
                                             .human_print = print_name})},
    control::Registered{command<query_uuid>({.name = "query-uuid",
                                             .doc = "UUID of the machine.",
                                             .human = "info uuid",
                                             .human_help = "info uuid -- show the current VM UUID",
                                             .human_print = print_uuid})},
    control::Registered{command<query_target>({.name = "query-target", .doc = "Architecture of the guest.", .since = "1.2"})},
    control::Registered{command<query_machines>({.name = "query-machines", .doc = "Boards of this build.", .since = "1.2"})},
    control::Registered{command<query_kvm>({.name = "query-kvm",
                                            .doc = "Whether KVM is in use.",
                                            .human = "info kvm",
                                            .human_help = "info kvm -- show KVM information",
                                            .human_print = print_kvm})},
    control::Registered{command<query_accelerators>({.name = "query-accelerators", .doc = "Accelerators of this build.", .since = "10.2"})},
    control::Registered{command<query_memory_size>(
        {.name = "query-memory-size-summary",
         .doc = "Size of guest memory.",
         .since = "2.11",
         .human = "info memory_size_summary",
         .human_help = "info memory_size_summary -- show the amount of initially allocated and present hotpluggable memory in bytes",
         .human_print = print_memory_size})},
    control::Registered{command<query_cpus_fast>({.name = "query-cpus-fast", .doc = "The CPUs and their threads.", .since = "2.12"})},
    control::Registered{
        command<query_hotpluggable_cpus>({.name = "query-hotpluggable-cpus",
                                          .doc = "Places of CPUs.",
                                          .since = "2.7",
                                          .human = "info hotpluggable-cpus",
                                          .human_help = "info hotpluggable-cpus -- Show information about hotpluggable CPUs",
                                          .human_print = print_hotpluggable})},
    control::Registered{human<info_numa>({.human = "info numa", .human_help = "info numa -- show NUMA information"})},
    control::Registered{human<watchdog_action>(
        {.human = "watchdog_action",
         .human_help = "watchdog_action [reset|shutdown|poweroff|pause|debug|none|inject-nmi] -- change watchdog action"})},
    control::Registered{human<info_cpus>({.human = "info cpus", .human_help = "info cpus -- show infos for each CPU"})},
    control::Registered{
        human<info_registers>({.human = "info registers", .human_help = "info registers [-a] -- show the cpu registers (-a: all CPUs)"})},
    control::Registered{[] {
      Command c = command<cpu>({.human = "cpu", .human_args = "index:i", .human_help = "cpu index -- set the default CPU"});
      return c;
    }()},
    control::Registered{human<info_jit>({.human = "info jit", .human_help = "info jit -- show dynamic compiler info"})},
    control::Registered{human<info_board<pic_topic>>({.human = "info pic", .human_help = "info pic -- show PIC state"})},
    control::Registered{
        human<info_board<irq_topic>>({.human = "info irq", .human_help = "info irq -- show the interrupts statistics (if available)"})},
    control::Registered{human<info_roms>({.human = "info roms", .human_help = "info roms -- show roms"})},
    control::Registered{human<info_lapic>({.human = "info lapic", .human_help = "info lapic [apic-id] -- show local apic state"})},
    control::Registered{human<info_mtree>(
        {.human = "info mtree", .human_help = "info mtree [-f] -- show memory tree (-f: dump flat view for address spaces)"})},
    control::Registered{
        human<info_qom_tree>({.human = "info qom-tree", .human_help = "info qom-tree [path] -- show QOM composition tree"})},
};

}  // namespace
}  // namespace vm
}  // namespace vmm
