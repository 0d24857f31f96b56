// ICH9 LPC bridge: PIRQ A–H to PIC and I/O APIC, power management, SMI, root complex registers. Source: Intel I/O Controller Hub 9
// data sheet (316972), chapters 10 (chip set configuration) and 13 (LPC). Not modelled: TCO watchdog, GPIO, LPC decode ranges.
#pragma once

#include "hw/acpi/pm.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"
#include "hw/southbridge/piix.h"

namespace vmm::hw {

class Ich9Lpc final : public PciDevice {
 public:
  static const TypeInfo type;
  Ich9Lpc() : PciDevice({.vendor = 0x8086, .device = 0x2918, .revision = 2, .class_code = 0x060100}) { set_multifunction(true); }
  // Before attach. `isa_irqs`: lines of ISA devices; `pirq_irqs`: the same lines and GSIs 16–23 for PCI; `sci_irqs`: for the SCI.
  void wire(memory::MemoryRegion& system, memory::MemoryRegion& ports, memory::MemoryRegion& isa_memory, IrqSink& isa_irqs,
            IrqSink& pirq_irqs, IrqSink& sci_irqs) {
    system_ = &system, ports_ = &ports, isa_memory_ = &isa_memory, isa_irqs_ = &isa_irqs, pirq_irqs_ = &pirq_irqs, sci_irqs_ = &sci_irqs;
  }
  IsaBus& isa() const { return *isa_; }
  AcpiPm& pm() { return pm_; }
  bool bridge_hotplug() const { return bridge_hotplug_; }
  Result<> after_load() override { return pm_.loaded(); }
  // SMI: to all CPUs if firmware has negotiated it, else to the first.
  std::function<void(bool all)> raise_smi;
  void set_smi_broadcast(bool on) { broadcast_ = on; }
  bool may_broadcast() const { return broadcast_offered_; }
  void set_intx(unsigned line, unsigned device, bool level);  // from the host bridge
  unsigned pirq_of(unsigned device, unsigned pin) const;      // 0 = A … 7 = H
  void config_write(u16 offset, unsigned size, u32 value) override;
  void reset() override;
  void settle() override;

 private:
  static const Field properties[10], state[7];
  std::vector<u8> saved_rcba() const { return rcba_bytes_; }
  Result<> load_rcba(const std::vector<u8>& bytes) {
    if (bytes.size() != rcba_bytes_.size()) return fail("root complex registers have {} bytes, not {}", bytes.size(), rcba_bytes_.size());
    rcba_bytes_ = bytes;
    return {};
  }
  Result<> realize_pci() override;
  void route();
  void update_io();
  void reset_rcba();
  unsigned sci_gsi() const;
  u64 apm_read(u64 offset, unsigned size);
  void apm_write(u64 offset, unsigned size, u64 value);
  u64 smi_read(u64 offset, unsigned size);
  void smi_write(u64 offset, unsigned size, u64 value);
  u64 rcba_read(u64 offset, unsigned size);
  void rcba_write(u64 offset, unsigned size, u64 value);
  void sci_changed(unsigned, bool level);
  memory::MemoryRegion* system_ = nullptr;
  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion* isa_memory_ = nullptr;
  IrqSink* isa_irqs_ = nullptr;
  IrqSink* pirq_irqs_ = nullptr;
  IrqSink* sci_irqs_ = nullptr;
  IsaBus* isa_ = nullptr;
  std::array<u16, 8> pirq_{};
  u32 levels_ = 0;  // what PIRQs drive on GSI 0–23
  AcpiPm pm_{*this, 16};
  IrqCall sci_call_{[this](unsigned n, bool level) { sci_changed(n, level); }};
  bool sci_level_ = false;
  unsigned sci_line_ = 9;
  ResetControl reset_control_;
  memory::MemoryRegion pm_io_, apm_, smi_, rcba_;
  u32 smi_enable_ = 0, smi_status_ = 0;
  u8 apm_command_ = 0, apm_status_ = 0;
  std::vector<u8> rcba_bytes_;
  bool broadcast_ = false, broadcast_offered_ = true, smm_enabled_ = true, no_reboot_ = false, smm_compat_ = false, bridge_hotplug_ = true;
  bool smi_hotplug_ = true, smi_hotunplug_ = true;
  u8 disable_s3_ = 0, disable_s4_ = 0, s4_value_ = 2;
};

}  // namespace vmm::hw
