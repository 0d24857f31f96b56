// PIIX3: PCI-ISA bridge with PIRQ routing and reset control; PIIX4's power management function. Sources: Intel 82371SB (PIIX3) and
// 82371AB (PIIX4) data sheets.
#pragma once

#include "hw/acpi/pm.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"

namespace vmm::hw {

// 0xcf9: bit 2 resets the machine, bit 1 says hard or soft.
class ResetControl {
 public:
  void init(Device& owner, std::string_view name);
  memory::MemoryRegion region;
  u8 value = 0;

 private:
  u64 read(u64, unsigned) { return value; }
  void write(u64 offset, unsigned size, u64 v);
  Device* owner_ = nullptr;
};

class Piix3 final : public PciDevice {
 public:
  static const TypeInfo type;
  Piix3() : PciDevice({.vendor = 0x8086, .device = 0x7000, .class_code = 0x060100}) { set_multifunction(true); }
  // Before attach: the ISA bus's surroundings; `isa_irqs` is the 16 lines for ISA devices, `pirq_irqs` the same lines for PCI.
  void wire(memory::MemoryRegion& ports, memory::MemoryRegion& isa_memory, IrqSink& isa_irqs, IrqSink& pirq_irqs) {
    ports_ = &ports, isa_memory_ = &isa_memory, isa_irqs_ = &isa_irqs, pirq_irqs_ = &pirq_irqs;
  }
  IsaBus& isa() const { return *isa_; }
  void set_intx(unsigned line, unsigned device, bool level);  // from the host bridge
  void config_write(u16 offset, unsigned size, u32 value) override;
  void reset() override;
  void settle() override;

 private:
  static const Field state[1];
  Result<> realize_pci() override;
  void route();
  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion* isa_memory_ = nullptr;
  IrqSink* isa_irqs_ = nullptr;
  IrqSink* pirq_irqs_ = nullptr;
  IsaBus* isa_ = nullptr;
  std::array<u16, 4> pirq_{};  // how many (device, pin) hold each PIRQ
  u16 irq_levels_ = 0;         // what we drive on the 16 lines
  ResetControl reset_control_;
};

class Piix4Pm final : public PciDevice {
 public:
  static const TypeInfo type;
  Piix4Pm();
  // Before attach.
  void wire(memory::MemoryRegion& ports) { ports_ = &ports; }
  bool root_hotplug() const { return root_hotplug_; }
  bool bridge_hotplug() const { return bridge_hotplug_; }
  AcpiPm& pm() { return pm_; }
  Result<> after_load() override { return pm_.loaded(); }
  std::function<void()> raise_smi;
  u8 serial_ports = 1;  // shown at 0x67
  bool parallel_port = true;
  void config_write(u16 offset, unsigned size, u32 value) override;
  void reset() override;
  void settle() override;

 private:
  static const Field properties[7], state[3];
  Result<> realize_pci() override;
  void update_io();
  u64 apm_read(u64 offset, unsigned size);
  void apm_write(u64 offset, unsigned size, u64 value);
  memory::MemoryRegion* ports_ = nullptr;
  AcpiPm pm_{*this, 4};
  memory::MemoryRegion io_, apm_;
  u8 apm_command_ = 0, apm_status_ = 0;
  u8 disable_s3_ = 0, disable_s4_ = 0, s4_value_ = 2;
  bool smm_enabled_ = true, bridge_hotplug_ = true, root_hotplug_ = true;
  u32 smb_io_base_ = 0xb100;
};

}  // namespace vmm::hw
