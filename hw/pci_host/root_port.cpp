// PCI Express root ports and their slots. Sources: PCI Express Base 5.0 §6.7 (hot plug), §7.5.3 (registers); PCI-to-PCI Bridge 1.2.
// Where the board tells the guest by ACPI, the slot's own interrupts stay quiet.
#include "hw/pci/bridge.h"
#include "src/base/bits.h"

namespace vmm::hw {
namespace {

// Offsets from the capability; bits of slot control and status.
enum : u16 {
  link_status = 0x12,
  slot_capabilities = 0x14,
  slot_control = 0x18,
  slot_status = 0x1a,
  root_control = 0x1c,
  root_status = 0x20
};
enum : u16 { link_active = 0x2000 };
enum : u16 { s_button = 1, s_presence_changed = 8, s_present = 0x40, s_link_changed = 0x100 };
enum : u16 {
  c_button = 1,
  c_presence_changed = 8,
  c_interrupt = 0x20,
  c_power_light_off = 0x300,
  c_power_off = 0x400,
  c_link_changed = 0x1000
};

class RootPort : public PciBridge, private PciHotplug {
 public:
  static const TypeInfo type;
  ~RootPort() override {
    if (realized_once_ && secondary().hotplug() == this) secondary().set_hotplug(nullptr);
  }
  u32 config_read(u16 offset, unsigned size) override {
    show_presence();
    return PciBridge::config_read(offset, size);
  }
  void config_write(u16 offset, unsigned size, u32 value) override;
  void settle() override {
    PciBridge::settle();
    show_presence();
    update_interrupt();
  }

 protected:
  explicit RootPort(const PciIds& ids) : PciBridge(ids, true) {}

 private:
  static const Field properties[11];
  Result<> realize_bridge() override {
    set_interrupt_pin(1);
    add_power_management();
    const u16 c = at_ = add_express(4, port_);
    TRY(add_msi(1, false));
    slot_number_ = slot_property_ ? slot_property_ : port_;
    // Button, power controller, both lights; hot plug; commands complete at once.
    set_config(c + slot_capabilities, (hotplug_ ? 0x4005bu : 0u) | u32{slot_number_} << 19, 4);
    if (hotplug_) {
      set_config(c + slot_control, c_power_light_off | 0xc0, 2);
      set_writable(c + slot_control, 0x17ff, 2);
      store_le<u16>(&clear_on_one_[c + slot_status], 0x011f);
      secondary().set_hotplug(this);
    }
    set_writable(c + root_control, 0x1f, 2);
    store_le<u32>(&clear_on_one_[c + root_status], 0x10000);
    realized_once_ = true;
    return add_reserve();
  }

  // --- The slot
  void show_presence() {
    if (!at_) return;
    const bool there = secondary().at(0) && secondary().at(0)->realized();
    set_bits(at_ + slot_status, s_present, there);
    set_bits(at_ + link_status, link_active, there);
  }
  void set_bits(u16 at, u16 mask, bool on) {
    const u16 now = load_le<u16>(&config_[at]);
    store_le<u16>(&config_[at], static_cast<u16>(on ? now | mask : now & ~mask));
  }
  void tell(u16 events) {
    show_presence();
    set_bits(at_ + slot_status, events, true);
    update_interrupt();
  }
  void update_interrupt() {
    if (!at_) return;
    const u16 control = load_le<u16>(&config_[at_ + slot_control]), status = load_le<u16>(&config_[at_ + slot_status]);
    const bool wanted = (control & c_interrupt) && (((status & s_button) && (control & c_button)) ||
                                                    ((status & s_presence_changed) && (control & c_presence_changed)) ||
                                                    ((status & s_link_changed) && (control & c_link_changed)));
    const bool before = std::exchange(interrupt_, wanted);
    if (!msi_enabled())
      set_intx(wanted);
    else if (wanted && !before)
      msi_notify(0);
  }
  void plugged(PciBus&, PciDevice&) override { tell(s_presence_changed | s_link_changed); }
  Result<> ask_to_leave(PciBus&, PciDevice&) override {
    tell(s_button);
    return {};
  }
  void left(PciBus&, PciDevice&) override {
    if (realized()) tell(s_presence_changed | s_link_changed);
  }

  u16 at_ = 0;  // of the PCI Express capability
  bool interrupt_ = false, realized_once_ = false;
  u8 port_ = 0, chassis_ = 0;
  u16 slot_property_ = 0, slot_number_ = 0;
  bool hotplug_ = true;
  std::string speed_ = "16", width_ = "32";
};
// The guest turns the slot's power off, its light last: the card may be taken out.
void RootPort::config_write(u16 offset, unsigned size, u32 value) {
  const u16 before = at_ ? load_le<u16>(&config_[at_ + slot_control]) : u16{0};
  show_presence();
  PciBridge::config_write(offset, size, value);
  if (!at_) return;
  const u16 now = load_le<u16>(&config_[at_ + slot_control]);
  constexpr u16 off = c_power_off | c_power_light_off;
  if ((now & off) == off && (before & off) != off && secondary().hotplug() == this)
    for (Device* d : secondary().devices())
      machine().main_loop().post([card = Ref<Device>{d}] {
        if (card->realized()) card->detach().start({});
      });
  update_interrupt();
}

constexpr Field RootPort::properties[11] = {
    field<&RootPort::port_>("port", "Port number."),
    field<&RootPort::chassis_>("chassis", "Chassis number."),
    field<&RootPort::slot_property_>("slot", "Slot number."),
    field<&RootPort::hotplug_>("hotplug", "The slot takes hot plug."),
    field<&RootPort::speed_>("x-speed", "Link speed."),
    field<&RootPort::width_>("x-width", "Link width."),
    field<&RootPort::bus_reserve_>("bus-reserve", "Buses that firmware shall reserve."),
    field<&RootPort::io_reserve_>("io-reserve", "I/O space that firmware shall reserve."),
    field<&RootPort::memory_reserve_>("mem-reserve", "Memory that firmware shall reserve."),
    field<&RootPort::prefetch32_reserve_>("pref32-reserve", "Prefetchable memory below 4 GiB that firmware shall reserve."),
    field<&RootPort::prefetch64_reserve_>("pref64-reserve", "Prefetchable memory anywhere that firmware shall reserve."),
};
constinit const TypeInfo RootPort::type{
    .name = "pcie-root-port-base", .doc = "A PCI Express root port.", .parent = &PciBridge::type, .properties = properties};
const Registered registered_base{RootPort::type};

class GenericRootPort final : public RootPort {
 public:
  static const TypeInfo type;
  GenericRootPort() : RootPort({.vendor = 0x1b36, .device = 0x000c, .class_code = 0x060400, .header_type = 1}) {}
};
constinit const TypeInfo GenericRootPort::type{.name = "pcie-root-port",
                                               .doc = "PCI Express Root Port",
                                               .parent = &RootPort::type,
                                               .make = make<GenericRootPort>,
                                               .category = "Controller/Bridge/Hub devices"};
const Registered registered_generic{GenericRootPort::type};

class Ioh3420 final : public RootPort {
 public:
  static const TypeInfo type;
  Ioh3420() : RootPort({.vendor = 0x8086, .device = 0x3420, .revision = 2, .class_code = 0x060400, .header_type = 1}) {}
};
constinit const TypeInfo Ioh3420::type{.name = "ioh3420",
                                       .doc = "Intel IOH device id 3420 PCIE Root Port",
                                       .parent = &RootPort::type,
                                       .make = make<Ioh3420>,
                                       .category = "Controller/Bridge/Hub devices"};
const Registered registered_ioh{Ioh3420::type};

}  // namespace
}  // namespace vmm::hw
