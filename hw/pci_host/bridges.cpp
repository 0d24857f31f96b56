// Bridges that users add: to conventional buses, and switches. Sources: PCI-to-PCI Bridge 1.2; PCI Express to PCI/PCI-X Bridge 1.0; PCI
// Express Base 5.0 §7.5.3 (switch ports), §1.3.3; identities as lspci names them. Not modelled: the standard hot-plug controller (shpc=).
#include "hw/pci/bridge.h"
#include "src/base/log.h"
#include "src/value/on_off_auto.h"

namespace vmm::hw {
namespace {

constexpr PciIds bridge_ids(u16 vendor, u16 device, u8 revision = 0) {
  return {.vendor = vendor, .device = device, .revision = revision, .class_code = 0x060400, .header_type = 1};
}

// Slot numbering (PCI-to-PCI Bridge 1.2 §13): which chassis the slots behind the bridge are in.
class ConventionalBridge final : public PciBridge {
 public:
  static const TypeInfo type;
  ConventionalBridge() : PciBridge(bridge_ids(0x1b36, 0x0001), false) {}

 private:
  static const Field properties[8];
  Result<> realize_bridge() override {
    if (shpc_) unimplemented("pci-bridge", "shpc=on: the standard hot-plug controller; devices behind the bridge come and go by ACPI");
    set_interrupt_pin(1);
    if (msi_ != OnOffAuto::off) TRY(add_msi(1, true));
    set_config(add_capability(0x04, 4) + 3, chassis_, 1);
    return add_reserve();
  }
  u8 chassis_ = 1;
  bool shpc_ = false;
  OnOffAuto msi_ = OnOffAuto::automatic;
};
constexpr Field ConventionalBridge::properties[8] = {
    field<&ConventionalBridge::chassis_>("chassis_nr", "Chassis number.", {.min = 1}),
    field<&ConventionalBridge::msi_>("msi", "It has message-signalled interrupts."),
    field<&ConventionalBridge::shpc_>("shpc", "Standard hot-plug controller: not modelled."),
    field<&ConventionalBridge::bus_reserve_>("bus-reserve", "Buses that firmware shall reserve."),
    field<&ConventionalBridge::io_reserve_>("io-reserve", "I/O space that firmware shall reserve."),
    field<&ConventionalBridge::memory_reserve_>("mem-reserve", "Memory that firmware shall reserve."),
    field<&ConventionalBridge::prefetch32_reserve_>("pref32-reserve", "Prefetchable memory below 4 GiB that firmware shall reserve."),
    field<&ConventionalBridge::prefetch64_reserve_>("pref64-reserve", "Prefetchable memory anywhere that firmware shall reserve."),
};
constinit const TypeInfo ConventionalBridge::type{.name = "pci-bridge",
                                                  .doc = "Standard PCI Bridge",
                                                  .parent = &PciBridge::type,
                                                  .properties = properties,
                                                  .make = make<ConventionalBridge>,
                                                  .category = "Controller/Bridge/Hub devices"};

// Conventional devices behind an express port.
class ExpressToPciBridge final : public PciBridge {
 public:
  static const TypeInfo type;
  ExpressToPciBridge() : PciBridge(bridge_ids(0x1b36, 0x000e), false) {}

 private:
  static const Field properties[1];
  Result<> realize_bridge() override {
    set_interrupt_pin(1);
    if (pci().express()) add_express(7);
    add_power_management();
    if (msi_ != OnOffAuto::off) TRY(add_msi(1, true));
    return {};
  }
  OnOffAuto msi_ = OnOffAuto::automatic;
};
constexpr Field ExpressToPciBridge::properties[1] = {field<&ExpressToPciBridge::msi_>("msi", "It has message-signalled interrupts.")};
constinit const TypeInfo ExpressToPciBridge::type{.name = "pcie-pci-bridge",
                                                  .doc = "PCI Express to PCI bridge",
                                                  .parent = &PciBridge::type,
                                                  .properties = properties,
                                                  .make = make<ExpressToPciBridge>,
                                                  .category = "Controller/Bridge/Hub devices"};

// The ICH's own bridge from its root complex to a conventional bus.
class DmiBridge final : public PciBridge {
 public:
  static const TypeInfo type;
  DmiBridge() : PciBridge(subtractive, false) {}

 private:
  static constexpr PciIds subtractive{.vendor = 0x8086, .device = 0x244e, .revision = 0x92, .class_code = 0x060401, .header_type = 1};
  Result<> realize_bridge() override {
    const u8 subsystem = add_capability(0x0d, 8);  // bridge subsystem: none
    set_config(subsystem + 4, 0, 4);
    return {};
  }
};
constinit const TypeInfo DmiBridge::type{.name = "i82801b11-bridge",
                                         .doc = "ICH9 PCI bridge",
                                         .parent = &PciBridge::type,
                                         .make = make<DmiBridge>,
                                         .category = "Controller/Bridge/Hub devices"};

// A switch: one port up, others down; each is a bridge.
class SwitchUp final : public PciBridge {
 public:
  static const TypeInfo type;
  SwitchUp() : PciBridge(bridge_ids(0x104c, 0x8232, 2), true) {}

 private:
  Result<> realize_bridge() override {
    TRY(add_msi(1, false));
    add_power_management();
    add_express(5);
    return {};
  }
};
constinit const TypeInfo SwitchUp::type{.name = "x3130-upstream",
                                        .doc = "TI X3130 Upstream Port of PCI Express Switch",
                                        .parent = &PciBridge::type,
                                        .make = make<SwitchUp>,
                                        .category = "Controller/Bridge/Hub devices"};

class SwitchDown final : public PciBridge {
 public:
  static const TypeInfo type;
  SwitchDown() : PciBridge(bridge_ids(0x104c, 0x8233, 1), true) {}

 private:
  static const Field properties[3];
  Result<> realize_bridge() override {
    TRY(add_msi(1, false));
    add_power_management();
    add_express(6, port_);
    return {};
  }
  u8 port_ = 0, chassis_ = 0;
  u16 slot_ = 0;
};
constexpr Field SwitchDown::properties[3] = {
    field<&SwitchDown::port_>("port", "Port number."),
    field<&SwitchDown::chassis_>("chassis", "Chassis number."),
    field<&SwitchDown::slot_>("slot", "Slot number."),
};
constinit const TypeInfo SwitchDown::type{.name = "xio3130-downstream",
                                          .doc = "TI X3130 Downstream Port of PCI Express Switch",
                                          .parent = &PciBridge::type,
                                          .properties = properties,
                                          .make = make<SwitchDown>,
                                          .category = "Controller/Bridge/Hub devices"};

const Registered registered[] = {Registered{ConventionalBridge::type}, Registered{ExpressToPciBridge::type}, Registered{DmiBridge::type},
                                 Registered{SwitchUp::type}, Registered{SwitchDown::type}};

}  // namespace
}  // namespace vmm::hw
