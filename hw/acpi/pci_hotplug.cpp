#include "hw/acpi/pci_hotplug.h"

#include <algorithm>

#include "src/base/log.h"

namespace vmm::hw {

constexpr Field AcpiPciHotplug::state[2] = {
    field<&AcpiPciHotplug::selected_>("selected", "number of the bus that the registers are about"),
    computed<&AcpiPciHotplug::saved, &AcpiPciHotplug::load_slots>("slots", "slots filled and slots to empty, two words a bus"),
};
constinit const TypeInfo AcpiPciHotplug::type{.name = "acpi-pci-hotplug",
                                              .doc = "Tells a guest by ACPI of PCI cards that come and go.",
                                              .parent = &Device::type,
                                              .state = state,
                                              .make = make<AcpiPciHotplug>,
                                              .user_creatable = false,
                                              .bus = "System"};
static Registered registered{AcpiPciHotplug::type};

enum : u64 { reg_up = 0, reg_down = 4, reg_eject = 8, reg_bus = 12 };

AcpiPciHotplug::~AcpiPciHotplug() {
  for (const Slots& s : buses_)
    if (s.bus) s.bus->set_hotplug(nullptr);
}

Result<> AcpiPciHotplug::realize() {
  region_.init_io<&AcpiPciHotplug::read, &AcpiPciHotplug::write>(*this, "acpi-pci-hotplug", 16, {.min = 4, .max = 4});
  if (ports_) place(*ports_, port_, region_);
  return {};
}

AcpiPciBus AcpiPciHotplug::take_over(PciBus& root, bool root_slots, bool bridges) { return take_bus(root, root_slots, bridges); }

AcpiPciBus AcpiPciHotplug::take_bus(PciBus& bus, bool slots, bool bridges) {
  AcpiPciBus out;
  u32 fixed = 0;
  for (Device* d : bus.devices()) {
    auto& card = static_cast<PciDevice&>(*d);
    if (!card.removable()) fixed |= 1u << card.slot();
    if (!bridges || card.ids().header_type != 1 || card.buses().empty()) continue;
    // A port's own word: hotplug=off.
    const auto wish = card.get("hotplug");
    auto& below = static_cast<PciBus&>(*card.buses()[0]);
    out.bridges.push_back({.devfn = card.devfn(), .bus = take_bus(below, !wish || !wish->is_bool() || wish->get_bool(), true)});
  }
  if (!slots) return out;
  out.number = static_cast<int>(buses_.size());
  // A port has one slot.
  out.slots = (bus.bridge() && bus.express() ? 1u : ~0u) & ~fixed;
  buses_.push_back({.bus = &bus});
  bus.set_hotplug(this);
  return out;
}

AcpiPciHotplug::Slots* AcpiPciHotplug::of(const PciBus& bus) {
  const auto at = std::ranges::find(buses_, &bus, &Slots::bus);
  return at == buses_.end() ? nullptr : &*at;
}

void AcpiPciHotplug::plugged(PciBus& bus, PciDevice& device) {
  Slots* s = of(bus);
  if (!s) return;
  s->up |= 1u << device.slot();
  pm_->raise_gpe(gpe_bit);
}
Result<> AcpiPciHotplug::ask_to_leave(PciBus& bus, PciDevice& device) {
  Slots* s = of(bus);
  if (!s) return fail("Bus '{}' does not support hotplugging", bus.name());
  s->down |= 1u << device.slot();
  pm_->raise_gpe(gpe_bit);
  return {};
}
void AcpiPciHotplug::forget(PciBus& bus) {
  if (Slots* s = of(bus)) *s = {};
}

// A vCPU may be in here; cards leave on the main loop.
void AcpiPciHotplug::empty(PciBus& bus, u32 slots) {
  for (Device* d : bus.devices()) {
    auto& card = static_cast<PciDevice&>(*d);
    if (!(slots >> card.slot() & 1)) continue;
    if (!card.removable()) {
      guest_error("acpi-pci-hotplug", "slot {} of bus {} cannot be emptied", card.slot(), bus.name());
      continue;
    }
    machine().main_loop().post([device = Ref<Device>{d}] {
      if (device->realized()) device->detach().start({});
    });
  }
}

// What nobody has carried out before a reset is carried out by it; what was plugged is found as the firmware counts the slots.
void AcpiPciHotplug::reset() {
  selected_ = 0;
  for (Slots& s : buses_) {
    if (s.bus && s.down) empty(*s.bus, s.down);
    s.up = s.down = 0;
  }
}

u64 AcpiPciHotplug::read(u64 offset, unsigned) {
  if (offset == reg_bus) return selected_;
  if (selected_ >= buses_.size()) return 0;
  Slots& s = buses_[selected_];
  return offset == reg_up ? std::exchange(s.up, 0) : offset == reg_down ? std::exchange(s.down, 0) : 0;
}
void AcpiPciHotplug::write(u64 offset, unsigned, u64 value) {
  if (offset == reg_bus) selected_ = static_cast<u32>(value);
  if (offset == reg_eject && selected_ < buses_.size() && buses_[selected_].bus) empty(*buses_[selected_].bus, static_cast<u32>(value));
}

std::vector<u32> AcpiPciHotplug::saved() const {
  std::vector<u32> words;
  for (const Slots& s : buses_) words.push_back(s.up), words.push_back(s.down);
  return words;
}
Result<> AcpiPciHotplug::load_slots(const std::vector<u32>& words) {
  if (words.size() != buses_.size() * 2) return fail("slots of {} buses, not of {}", words.size() / 2, buses_.size());
  for (usize i = 0; i < buses_.size(); i++) buses_[i].up = words[2 * i], buses_[i].down = words[2 * i + 1];
  return {};
}

}  // namespace vmm::hw
