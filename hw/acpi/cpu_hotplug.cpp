#include "hw/acpi/cpu_hotplug.h"

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/control/command.h"

namespace vmm::hw {

struct OspmStatus {
  std::optional<std::string> device;
  std::string slot, slot_type;
  i64 source = 0, status = 0;
};

}  // namespace vmm::hw
namespace vmm {
template <>
inline constexpr std::array fields<hw::OspmStatus> = {
    field<&hw::OspmStatus::device>("device", "Id of the device in the slot."),
    field<&hw::OspmStatus::slot>("slot", "Number of the slot."),
    field<&hw::OspmStatus::slot_type>("slot-type", "CPU or DIMM."),
    field<&hw::OspmStatus::source>("source", "What the guest was asked, as ACPI numbers it."),
    field<&hw::OspmStatus::status>("status", "What became of it; 0: done."),
};
}  // namespace vmm
namespace vmm::hw {

namespace {
constexpr control::EventInfo ost_event{.name = "ACPI_DEVICE_OST", .doc = "The guest says what became of a hot plug or unplug."};
constexpr control::EventInfo refused_event{.name = "DEVICE_UNPLUG_GUEST_ERROR", .doc = "The guest does not give a device up."};
control::RegisteredEvent registered_events[] = {control::RegisteredEvent{ost_event}, control::RegisteredEvent{refused_event}};

enum Register : u64 { reg_selector = 0, reg_control = 4, reg_command = 5, reg_data = 8 };
enum ControlBit : u8 { c_enabled = 1, c_came = 2, c_leaves = 4, c_eject = 8 };
enum Command : u8 { k_next_event = 0, k_ost_event = 1, k_ost_status = 2, k_apic_id = 3 };
// ACPI 6.4 §6.3.5: source events and outcomes of _OST.
constexpr u32 source_eject = 3, source_eject_by_guest = 0x103, outcome_done = 0, outcome_pending_first = 0x84, outcome_pending_last = 0x87;
}  // namespace

constexpr Field AcpiCpuHotplug::state[3] = {
    field<&AcpiCpuHotplug::selected_>("selected", "number of the CPU that the registers are about"),
    field<&AcpiCpuHotplug::command_>("command", "what the data register means"),
    computed<&AcpiCpuHotplug::saved, &AcpiCpuHotplug::load_cpus>("cpus", "events and outcomes, three words a CPU"),
};
constinit const TypeInfo AcpiCpuHotplug::type{.name = "acpi-cpu-hotplug",
                                              .doc = "Tells a guest by ACPI of CPUs that come and go.",
                                              .parent = &Device::type,
                                              .state = state,
                                              .make = make<AcpiCpuHotplug>,
                                              .user_creatable = false,
                                              .bus = "System"};
static Registered registered{AcpiCpuHotplug::type};

void AcpiCpuHotplug::wire(memory::MemoryRegion& ports, u16 port, AcpiPm& pm, Cpus cpus) {
  ports_ = &ports, port_ = port, pm_ = &pm, cpus_ = std::move(cpus);
  list_.resize(cpus_.count);
}

Result<> AcpiCpuHotplug::realize() {
  region_.init_io<&AcpiCpuHotplug::read, &AcpiCpuHotplug::write>(*this, "acpi-cpu-hotplug", 12, {.min = 1, .max = 4});
  if (ports_) place(*ports_, port_, region_);
  return {};
}

void AcpiCpuHotplug::plugged(unsigned index) {
  if (index >= list_.size()) return;
  list_[index].came = true;
  pm_->raise_gpe(gpe_bit);
}

Result<> AcpiCpuHotplug::ask_to_leave(unsigned index) {
  if (index >= list_.size()) return fail("there is no CPU {}", index);
  list_[index].leaves = true;
  pm_->raise_gpe(gpe_bit);
  return {};
}

// What nobody has carried out before a reset is carried out by it.
void AcpiCpuHotplug::reset() {
  selected_ = 0, command_ = 0;
  for (unsigned i = 0; i < list_.size(); i++) {
    const bool leaves = list_[i].leaves;
    list_[i] = {};
    if (leaves && cpus_.eject && cpus_.present(i)) cpus_.eject(i);
  }
}

std::vector<AcpiCpuHotplug::Outcome> AcpiCpuHotplug::outcomes() const {
  std::vector<Outcome> out;
  for (unsigned i = 0; i < list_.size(); i++) out.push_back({i, list_[i].event, list_[i].status, cpus_.id ? cpus_.id(i) : std::string{}});
  return out;
}

u64 AcpiCpuHotplug::read(u64 offset, unsigned size) {
  if (selected_ >= list_.size()) return 0;
  std::array<u8, 16> image{};
  const Cpu& cpu = list_[selected_];
  image[reg_control] = static_cast<u8>((cpus_.present(selected_) ? c_enabled : 0) | (cpu.came ? c_came : 0) | (cpu.leaves ? c_leaves : 0));
  if (command_ == k_next_event) store_le<u32>(&image[reg_data], selected_);
  if (command_ == k_apic_id) store_le<u32>(&image[reg_data], cpus_.apic_id(selected_));
  return load_le<u64>(&image[offset]) & mask_of_size(size);
}

void AcpiCpuHotplug::next_with_event() {
  for (usize n = 0; n < list_.size(); n++) {
    const u32 at = static_cast<u32>((selected_ + n) % list_.size());
    if (!list_[at].came && !list_[at].leaves) continue;
    selected_ = at;
    return;
  }
}

void AcpiCpuHotplug::write(u64 offset, unsigned size, u64 value) {
  if (offset == reg_selector && size == 4) {
    selected_ = static_cast<u32>(value);
    return;
  }
  if (selected_ >= list_.size()) return;
  Cpu& cpu = list_[selected_];
  switch (offset) {
    case reg_control:
      if (value & c_came) cpu.came = false;
      if (value & c_leaves) cpu.leaves = false;
      if (value & c_eject && cpus_.eject && cpus_.present(selected_)) cpus_.eject(selected_);
      return;
    case reg_command:
      command_ = static_cast<u8>(value);
      if (command_ == k_next_event) next_with_event();
      return;
    case reg_data: return data_written(static_cast<u32>(value));
    default: guest_error("acpi-cpu-hotplug", "write to register {:#x}", offset);
  }
}

void AcpiCpuHotplug::data_written(u32 value) {
  Cpu& cpu = list_[selected_];
  if (command_ == k_ost_event) cpu.event = value;
  if (command_ != k_ost_status) return;
  cpu.status = value;
  const std::string id = cpus_.id ? cpus_.id(selected_) : std::string{};
  Value info = Value::object();
  if (!id.empty()) info.set("device", id);
  info.set("slot", format("{}", selected_)).set("slot-type", "CPU").set("source", u64{cpu.event}).set("status", u64{value});
  control::emit(ost_event, Value::object().set("info", std::move(info)));
  const bool eject = cpu.event == source_eject || cpu.event == source_eject_by_guest;
  if (!eject || value == outcome_done || (value >= outcome_pending_first && value <= outcome_pending_last)) return;
  Value refused = Value::object();
  if (!id.empty()) refused.set("device", id);
  control::emit(refused_event, std::move(refused.set("path", cpus_.path ? cpus_.path(selected_) : std::string{})));
}

std::vector<u32> AcpiCpuHotplug::saved() const {
  std::vector<u32> words;
  for (const Cpu& c : list_) words.insert(words.end(), {(c.came ? 1u : 0u) | (c.leaves ? 2u : 0u), c.event, c.status});
  return words;
}
Result<> AcpiCpuHotplug::load_cpus(const std::vector<u32>& words) {
  if (words.size() != list_.size() * 3) return fail("hot plug of {} CPUs, not of {}", words.size() / 3, list_.size());
  for (usize i = 0; i < list_.size(); i++)
    list_[i] = {.came = (words[3 * i] & 1) != 0, .leaves = (words[3 * i] & 2) != 0, .event = words[3 * i + 1], .status = words[3 * i + 2]};
  return {};
}

namespace {
Result<std::vector<OspmStatus>> query_ospm(control::Context&) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("There is no machine yet");
  std::vector<OspmStatus> out;
  bool any = false;
  for_each_device(*machine, [&](Device& d) {
    const auto* hotplug = dynamic_cast<const AcpiCpuHotplug*>(&d);
    if (!hotplug) return;
    any = true;
    for (const AcpiCpuHotplug::Outcome& o : hotplug->outcomes())
      out.push_back({.device = o.id.empty() ? std::nullopt : std::optional{o.id},
                     .slot = format("{}", o.index),
                     .slot_type = "CPU",
                     .source = o.source,
                     .status = o.status});
  });
  if (!any) return fail("command is not supported, missing ACPI device");
  return out;
}
control::Registered registered_query{control::command<query_ospm>(
    {.name = "query-acpi-ospm-status", .doc = "What the guest said of its hot-plugged CPUs.", .since = "2.1"})};
}  // namespace

}  // namespace vmm::hw
