// PCI buses: slots, addresses, configuration routing, wired-or of interrupt pins. Sources: PCI 3.0 §2.2.6, §3.2.2.3; PCI-to-PCI
// Bridge 1.2 §3.1.
#include "hw/pci/pci.h"
#include "src/base/bits.h"

namespace vmm::hw {

constinit const TypeInfo PciBus::type{
    .name = "PCI", .doc = "Conventional PCI bus.", .parent = &Bus::type, .make = make<PciBus>, .user_creatable = false};
static Registered registered_pci{PciBus::type};

constinit const TypeInfo PcieBus::type{
    .name = "PCIE", .doc = "PCI Express bus.", .parent = &PciBus::type, .make = make<PcieBus>, .user_creatable = false};
static Registered registered_pcie{PcieBus::type};

void PciBus::wire_root(PciHost& host, memory::MemoryRegion& memory_window, memory::MemoryRegion& io_window, memory::AddressSpace& dma) {
  host_ = &host, memory_window_ = &memory_window, io_window_ = &io_window, dma_ = &dma;
}

void PciBus::wire_secondary(PciDevice& bridge, memory::MemoryRegion& memory_window, memory::MemoryRegion& io_window) {
  bridge_ = &bridge, memory_window_ = &memory_window, io_window_ = &io_window;
  host_ = &bridge.pci().host(), dma_ = &bridge.pci().dma();
}

u8 PciBus::number() const { return bridge_ ? bridge_->config_[0x19] : 0; }

void PciBus::drive_intx(unsigned line, unsigned device, bool level) {
  u16& count = intx_levels_[device * 4 + line];
  if (level ? count++ == 0 : --count == 0) host_->set_intx(line, device, level);
}

// The bus below a bridge that leads to `number`, or null.
static PciBus* bus_towards(PciBus& from, u8 number) {
  PciBus* bus = &from;
  while (bus && bus->number() != number) {
    PciBus* next = nullptr;
    for (Device* d : bus->devices()) {
      auto* p = static_cast<PciDevice*>(d);
      if (!p->realized() || p->ids().header_type != 1 || p->buses().empty()) continue;
      const u8 secondary = p->config()[0x19], subordinate = p->config()[0x1a];
      if (secondary == 0 || number < secondary || number > subordinate) continue;
      next = static_cast<PciBus*>(p->buses()[0]);
      break;
    }
    bus = next;
  }
  return bus;
}

u32 PciBus::config_read(u8 bus, u8 devfn, u16 offset, unsigned size) {
  PciBus* b = bus_towards(*this, bus);
  PciDevice* d = b ? b->slots_[devfn] : nullptr;
  if (!d || !d->realized()) return mask_of_size(size);
  return d->config_read(offset, size) & mask_of_size(size);
}

void PciBus::config_write(u8 bus, u8 devfn, u16 offset, unsigned size, u32 value) {
  PciBus* b = bus_towards(*this, bus);
  PciDevice* d = b ? b->slots_[devfn] : nullptr;
  if (d && d->realized()) d->config_write(offset, size, value);
}

// "2", "0x2.1", "02.0", "0x2.0x1": slot and function, hexadecimal with or without 0x.
static Result<u8> parse_address(std::string_view text) {
  auto number = [](std::string_view s, unsigned max) -> std::optional<unsigned> {
    if (s.starts_with("0x") || s.starts_with("0X")) s.remove_prefix(2);
    if (s.empty() || s.size() > 2) return std::nullopt;
    unsigned v = 0;
    for (char c : s) {
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return std::nullopt;
      v = v * 16 + unsigned(digit);
    }
    return v <= max ? std::optional{v} : std::nullopt;
  };
  const usize dot = text.find('.');
  const auto slot = number(text.substr(0, dot), 31);
  const auto function = dot == text.npos ? std::optional{0u} : number(text.substr(dot + 1), 7);
  if (!slot || !function)
    return fail("'addr' takes SLOT or SLOT.FUNCTION in hexadecimal, such as 2 or 0x1f.3 (slot 0 to 1f, function 0 to 7), not '{}'", text);
  return static_cast<u8>(*slot << 3 | *function);
}

Result<> PciBus::may_plug(Device& device) {
  if (!dynamic_cast<PciDevice*>(&device)) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  return {};
}

Result<> PciBus::plugged(Device& device) {
  auto* d = dynamic_cast<PciDevice*>(&device);
  if (!d) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  // A root or downstream port has one device below it, slot 0; the bus inside a switch has all slots, for its downstream ports.
  const bool in_switch = bridge_ && bridge_->express_cap_ && (bridge_->config_[bridge_->express_cap_ + 2u] >> 4 & 15) == 5;
  const bool port = bridge_ && express_ && !in_switch;
  std::optional<u8> devfn;
  if (!d->addr_.empty()) {
    devfn = TRY(parse_address(d->addr_));
  } else {
    for (unsigned slot = first_free_slot; slot < (port ? 1 : 32) && !devfn; slot++)
      if (!slots_[slot << 3]) devfn = static_cast<u8>(slot << 3);
    if (!devfn) return fail("PCI: no slot/function available for {}, all in use or reserved", device.type_info().name);
  }
  const unsigned slot = *devfn >> 3, function = *devfn & 7;
  if (port && slot != 0)
    return fail("PCI: slot {} is not valid for {}, parent device only allows plugging into slot 0.", slot, device.type_info().name);
  if (PciDevice* other = slots_[*devfn])
    return fail("PCI: slot {} function {} not available for {}, in use by {},id={}", slot, function, device.type_info().name,
                other->type_info().name, other->id());
  if (function != 0) {
    PciDevice* first = slots_[slot << 3];
    if (first && !first->multifunction_)
      return fail("PCI: single function device can't be populated in function {:x}.{:x}; function 0 needs multifunction=on", slot,
                  function);
  } else if (!d->multifunction_) {
    for (unsigned f = 1; f < 8; f++)
      if (slots_[*devfn + f]) return fail("PCI: {:x}.0 indicates single function, but {:x}.{:x} is already populated.", slot, slot, f);
  }
  slots_[*devfn] = d;
  d->devfn_ = *devfn;
  d->addr_ = format("{:02x}.{:x}", slot, function);
  return {};
}

PciBus::~PciBus() {
  if (hotplug_) hotplug_->forget(*this);
}

Result<> PciBus::may_hotplug() const {
  if (!hotplug_) return fail("Bus '{}' does not support hotplugging", name());
  return {};
}
void PciBus::hotplugged(Device& device) {
  // The guest looks for further functions when it finds the first.
  auto* d = static_cast<PciDevice*>(&device);
  if (hotplug_ && d->function() == 0) hotplug_->plugged(*this, *d);
}
Result<bool> PciBus::ask_to_leave(Device& device) {
  auto& d = static_cast<PciDevice&>(device);
  if (!d.removable()) return fail("Device '{}' does not support hotplugging", d.type_info().name);
  TRY(hotplug_->ask_to_leave(*this, d));
  return true;
}

bool PciDevice::removable() const { return type_info().user_creatable && ids_.header_type == 0 && ids_.class_code >> 8 != 0x0300; }

void PciBus::unplugged(Device& device) {
  auto* d = dynamic_cast<PciDevice*>(&device);
  if (!d || slots_[d->devfn_] != d) return;
  slots_[d->devfn_] = nullptr;
  if (hotplug_) hotplug_->left(*this, *d);
}

}  // namespace vmm::hw
