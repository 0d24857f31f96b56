// i440FX: host bridge with PAM and SMRAM registers. Source: Intel 82441FX (PMC) data sheet.
#pragma once

#include "hw/pci/host.h"
#include "hw/pci_host/pam.h"

namespace vmm::hw {

class I440fxHost final : public PciHostBridge {
 public:
  static const TypeInfo type;
  I440fxHost() : PciHostBridge(false, "pci.0") {}
  u64 hole64_bytes() const { return hole64_bytes_; }

 private:
  static const Field properties[1];
  Bytes64 hole64_bytes_{2 * GiB};
};

class I440fx final : public PciDevice {
 public:
  static const TypeInfo type;
  I440fx() : PciDevice({.vendor = 0x8086, .device = 0x1237, .revision = 2, .class_code = 0x060000}) {}
  // Before attach: the machine's memory, and what a CPU in SMM sees of it.
  void wire(memory::MemoryRegion& system, memory::MemoryRegion& pci_memory) { system_ = &system, pci_memory_ = &pci_memory; }
  memory::MemoryRegion& smm_view() { return smram_.smm_view(); }
  void config_write(u16 offset, unsigned size, u32 value) override;
  void settle() override;

 private:
  Result<> realize_pci() override;
  void update();
  memory::MemoryRegion* system_ = nullptr;
  memory::MemoryRegion* pci_memory_ = nullptr;
  Pam pam_;
  SmramWindow smram_;
};

}  // namespace vmm::hw
