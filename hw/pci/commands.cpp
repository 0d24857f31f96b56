// query-pci and info pci. Texts as QEMU's tools print them.
#include <algorithm>

#include "hw/pci/bridge.h"
#include "hw/pci/host.h"
#include "src/base/bits.h"
#include "src/control/command.h"

namespace vmm::hw {
namespace {

struct ClassName {
  u16 code;
  std::string_view name;
};
constexpr ClassName class_names[] = {
    {0x0100, "SCSI controller"},    {0x0101, "IDE controller"},
    {0x0102, "Floppy controller"},  {0x0103, "IPI controller"},
    {0x0104, "RAID controller"},    {0x0106, "SATA controller"},
    {0x0107, "SAS controller"},     {0x0108, "NVME controller"},
    {0x0180, "Storage controller"}, {0x0200, "Ethernet controller"},
    {0x0280, "Network controller"}, {0x0300, "VGA controller"},
    {0x0301, "XGA controller"},     {0x0380, "Display controller"},
    {0x0401, "Audio controller"},   {0x0403, "Audio controller"},
    {0x0500, "RAM controller"},     {0x0600, "Host bridge"},
    {0x0601, "ISA bridge"},         {0x0602, "EISA bridge"},
    {0x0604, "PCI bridge"},         {0x0680, "Bridge"},
    {0x0700, "Serial port"},        {0x0780, "Communication controller"},
    {0x0880, "System peripheral"},  {0x0900, "Keyboard"},
    {0x0c03, "USB controller"},     {0x0c05, "SMBus"},
};
std::string_view class_name(u16 code) {
  const auto at = std::ranges::find(class_names, code, &ClassName::code);
  return at == std::end(class_names) ? std::string_view{} : at->name;
}
}  // namespace

// The line of `info qtree`.
std::string PciBus::address_of(const Device& device) const {
  const auto* d = dynamic_cast<const PciDevice*>(&device);
  if (!d || d->config_.empty()) return {};
  const u16 code = load_le<u16>(&d->config_[0x0a]);
  const std::string_view known = class_name(code);
  return format("class {}, addr {:02x}:{:02x}.{:x}, pci id {:04x}:{:04x} (sub {:04x}:{:04x})",
                known.empty() ? format("Class {:04x}", code) : std::string{known}, number(), d->slot(), d->function(), d->ids_.vendor,
                d->ids_.device, load_le<u16>(&d->config_[0x2c]), load_le<u16>(&d->config_[0x2e]));
}

std::string PciDevice::firmware_node() const {
  if (config_.empty()) return {};
  struct Name {
    u16 code;
    std::string_view name;
  };
  // PCI Bus Binding to IEEE 1275, §2.5, and the names that firmware asks for in its place.
  static constexpr Name names[] = {{0x0100, "scsi"},       {0x0101, "ide"},     {0x0102, "fdc"},
                                   {0x0200, "ethernet"},   {0x0300, "display"}, {0x0601, "isa"},
                                   {0x0604, "pci-bridge"}, {0x0c03, "usb"},     {0x0401, "multimedia-audio"}};
  const u16 code = load_le<u16>(&config_[0x0a]);
  const auto known = std::ranges::find(names, code, &Name::code);
  const std::string name = known == std::end(names) ? format("pci{:x},{:x}", ids_.vendor, ids_.device) : std::string{known->name};
  return function() ? format("{}@{:x},{:x}", name, slot(), function()) : format("{}@{:x}", name, slot());
}

namespace {
Value describe_bus(PciBus& bus);

Value describe_function(PciDevice& d) {
  const std::span<u8> c = d.config();
  const auto word = [&](u16 at) { return load_le<u16>(&c[at]); };
  Value v = Value::object();
  v.set("bus", d.pci().number()).set("slot", d.slot()).set("function", d.function());
  Value class_info = Value::object();
  if (const auto name = class_name(word(0x0a)); !name.empty()) class_info.set("desc", name);
  class_info.set("class", word(0x0a));
  v.set("class_info", std::move(class_info));
  Value id = Value::object();
  id.set("device", word(2)).set("vendor", word(0));
  if (d.ids().header_type == 0) id.set("subsystem", word(0x2e)).set("subsystem-vendor", word(0x2c));
  v.set("id", std::move(id));
  if (c[0x3d]) v.set("irq", c[0x3c]);
  v.set("irq_pin", c[0x3d]);
  v.set("qdev_id", d.id());
  Value regions = Value::list();
  for (const auto& b : d.bar_list()) {
    Value r = Value::object();
    const bool io = b.kind == PciBarKind::io;
    const bool prefetch = b.kind == PciBarKind::memory32_prefetch || b.kind == PciBarKind::memory64_prefetch;
    r.set("bar", b.index);
    if (!io) r.set("prefetch", prefetch).set("mem_type_64", b.kind == PciBarKind::memory64 || b.kind == PciBarKind::memory64_prefetch);
    r.set("type", io ? "io" : "memory");
    r.set("address", b.mapped ? static_cast<i64>(b.address) : i64{-1}).set("size", b.size);
    regions.append(std::move(r));
  }
  v.set("regions", std::move(regions));
  if (d.ids().header_type == 1) {
    const auto range = [](u64 base, u64 limit) { return Value::object().set("base", base).set("limit", limit); };
    Value bus = Value::object();
    bus.set("number", c[0x18]).set("secondary", c[0x19]).set("subordinate", c[0x1a]);
    bus.set("io_range", range((c[0x1c] & 0xf0u) << 8, (c[0x1d] & 0xf0u) << 8 | 0xfff));
    bus.set("memory_range", range(u64{word(0x20) & 0xfff0u} << 16, u64{word(0x22) & 0xfff0u} << 16 | 0xfffff));
    bus.set("prefetchable_range", range(u64{word(0x24) & 0xfff0u} << 16 | u64{load_le<u32>(&c[0x28])} << 32,
                                        u64{word(0x26) & 0xfff0u} << 16 | 0xfffff | u64{load_le<u32>(&c[0x2c])} << 32));
    Value bridge = Value::object();
    bridge.set("bus", std::move(bus));
    if (c[0x19] && !d.buses().empty()) bridge.set("devices", *describe_bus(static_cast<PciBus&>(*d.buses()[0])).find("devices"));
    v.set("pci_bridge", std::move(bridge));
  }
  return v;
}

Value describe_bus(PciBus& bus) {
  Value devices = Value::list();
  for (unsigned devfn = 0; devfn < 256; devfn++)
    if (PciDevice* d = bus.at(static_cast<u8>(devfn)); d && d->realized()) devices.append(describe_function(*d));
  return Value::object().set("bus", bus.number()).set("devices", std::move(devices));
}

Result<Value> query_pci(control::Context&) {
  Value list = Value::list();
  if (vm::Machine* machine = vm::current_machine())
    for (PciBus* bus : pci_root_buses(*machine)) list.append(describe_bus(*bus));
  return list;
}

u64 number(const Value& v, std::string_view name) {
  const Value* m = v.find(name);
  return m ? static_cast<u64>(m->as_i64(name).value_or(0)) : 0;
}

void print_devices(const Value& devices, std::string& out) {
  for (const Value& d : devices.items()) {
    const Value &id = *d.find("id"), &info = *d.find("class_info");
    out += format("  Bus {:2}, device {:3}, function {}:\n", number(d, "bus"), number(d, "slot"), number(d, "function"));
    const Value* desc = info.find("desc");
    out += format("    {}: PCI device {:04x}:{:04x}\n", desc ? desc->get_string() : format("Class {:04}", number(info, "class")),
                  number(id, "vendor"), number(id, "device"));
    if (id.find("subsystem")) out += format("      PCI subsystem {:04x}:{:04x}\n", number(id, "subsystem-vendor"), number(id, "subsystem"));
    if (d.find("irq")) out += format("      IRQ {}, pin {}\n", number(d, "irq"), static_cast<char>('A' + number(d, "irq_pin") - 1));
    if (const Value* bridge = d.find("pci_bridge")) {
      const Value& bus = *bridge->find("bus");
      out += format("      BUS {}.\n      secondary bus {}.\n      subordinate bus {}.\n", number(bus, "number"), number(bus, "secondary"),
                    number(bus, "subordinate"));
      const auto range = [&](std::string_view name, std::string_view text) {
        const Value& r = *bus.find(name);
        out += format("      {} range [0x{:0{}x}, 0x{:0{}x}]\n", text, number(r, "base"), name == "io_range" ? 4 : 8, number(r, "limit"),
                      name == "io_range" ? 4 : 8);
      };
      range("io_range", "IO"), range("memory_range", "memory"), range("prefetchable_range", "prefetchable memory");
    }
    for (const Value& r : d.find("regions")->items()) {
      const u64 address = number(r, "address"), size = number(r, "size");
      if (r.find("type")->get_string() == "io")
        out += format("      BAR{}: I/O at 0x{:04x} [0x{:04x}].\n", number(r, "bar"), address, address + size - 1);
      else
        out +=
            format("      BAR{}: {} bit{} memory at 0x{:08x} [0x{:08x}].\n", number(r, "bar"), r.find("mem_type_64")->get_bool() ? 64 : 32,
                   r.find("prefetch")->get_bool() ? " prefetchable" : "", address, address + size - 1);
    }
    out += format("      id \"{}\"\n", d.find("qdev_id")->get_string());
    if (const Value* bridge = d.find("pci_bridge"))
      if (const Value* below = bridge->find("devices")) print_devices(*below, out);
  }
}

std::string print_pci(const Value& buses) {
  std::string out;
  for (const Value& bus : buses.items()) print_devices(*bus.find("devices"), out);
  return out;
}

const control::Registered registered{control::command<query_pci>({.name = "query-pci",
                                                                  .doc = "The PCI functions of the machine, bus by bus.",
                                                                  .since = "0.14",
                                                                  .human = "info pci",
                                                                  .human_help = "info pci -- show PCI info",
                                                                  .human_print = print_pci})};

}  // namespace
// As QEMU's `info qtree` has it; an unmapped BAR stands at all ones, and its end wraps.
std::vector<std::string> PciBus::describe(const Device& device) const {
  auto& d = const_cast<PciDevice&>(static_cast<const PciDevice&>(device));
  const auto word = [&](unsigned at) { return load_le<u16>(d.config().data() + at); };
  const std::string_view name = class_name(word(0x0a));
  std::vector<std::string> lines{format("class {}, addr {:02x}:{:02x}.{:x}, pci id {:04x}:{:04x} (sub {:04x}:{:04x})",
                                        name.empty() ? format("Class {:04x}", word(0x0a)) : std::string{name}, number(), d.slot(),
                                        d.function(), word(0), word(2), word(0x2c), word(0x2e))};
  for (const auto& bar : d.bar_list()) {
    const u64 at = bar.mapped ? bar.address : ~u64{0};
    lines.push_back(format("bar {}: {} at {:#x} [{:#x}]", bar.index, bar.kind == PciBarKind::io ? "i/o" : "mem", at, at + bar.size - 1));
  }
  return lines;
}

}  // namespace vmm::hw
