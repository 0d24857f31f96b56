// PCI hot plug by ACPI: registers through which the tables' methods learn which slots were filled and which are to be emptied. The
// interface is ours alone: dsdt.cpp holds the other half.
#pragma once

#include "hw/acpi/pm.h"
#include "hw/acpi/tables.h"
#include "hw/pci/pci.h"

namespace vmm::hw {

class AcpiPciHotplug final : public Device, public PciHotplug {
 public:
  static const TypeInfo type;
  static constexpr unsigned gpe_bit = 1;
  ~AcpiPciHotplug() override;
  void wire(memory::MemoryRegion& ports, u16 port, AcpiPm& pm) { ports_ = &ports, port_ = port, pm_ = &pm; }
  u16 port() const { return port_; }
  // Takes charge of the root bus (if `root`) and of those behind bridges (if `bridges`); what the tables shall say of them.
  AcpiPciBus take_over(PciBus& root, bool root_slots, bool bridges);

  void plugged(PciBus& bus, PciDevice& device) override;
  Result<> ask_to_leave(PciBus& bus, PciDevice& device) override;
  void forget(PciBus& bus) override;
  void reset() override;

 private:
  struct Slots {
    PciBus* bus = nullptr;
    u32 up = 0, down = 0;
  };
  Result<> realize() override;
  AcpiPciBus take_bus(PciBus& bus, bool slots, bool bridges);
  Slots* of(const PciBus& bus);
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void empty(PciBus& bus, u32 slots);
  std::vector<u32> saved() const;
  Result<> load_slots(const std::vector<u32>& words);
  static const Field state[2];

  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion region_;
  AcpiPm* pm_ = nullptr;
  u16 port_ = 0;
  u32 selected_ = 0;
  std::vector<Slots> buses_;
};

}  // namespace vmm::hw
