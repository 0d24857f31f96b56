// PCI Express root ports. Sources: PCI Express Base 5.0 §7.5.3; PCI-to-PCI Bridge 1.2. Ports start with an empty or filled slot; hot
// plug interrupts are not raised yet.
#include "hw/pci/bridge.h"

namespace vmm::hw {
namespace {

class RootPort : public PciBridge {
 public:
  static const TypeInfo type;

 protected:
  explicit RootPort(const PciIds& ids) : PciBridge(ids, true) {}

 private:
  static const Field properties[11];
  Result<> realize_bridge() override {
    set_interrupt_pin(1);
    add_power_management();
    add_express(4, port_);
    TRY(add_msi(1, false));
    slot_number_ = slot_property_ ? slot_property_ : port_;
    return add_reserve();
  }
  u8 port_ = 0, chassis_ = 0;
  u16 slot_property_ = 0, slot_number_ = 0;
  bool hotplug_ = true;
  std::string speed_ = "16", width_ = "32";
};
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
