// Q35: memory controller hub with ECAM, PAM, SMRAM and TSEG; root ports. Source: Intel 3 Series Express Chipset Family data sheet
// (316966), chapter 5.
#pragma once

#include "hw/pci/bridge.h"
#include "hw/pci/host.h"
#include "hw/pci_host/pam.h"

namespace vmm::hw {

class Q35Host final : public PciHostBridge {
 public:
  static const TypeInfo type;
  Q35Host() : PciHostBridge(true, "pcie.0") {}
  u64 hole64_bytes() const { return hole64_bytes_; }
  // Where PCIEXBAR puts the extended configuration space.
  void place_ecam(memory::MemoryRegion& system, bool on, u64 base, u64 size);

 private:
  static const Field properties[1];
  u64 ecam_read(u64 offset, unsigned size);
  void ecam_write(u64 offset, unsigned size, u64 value);
  Bytes64 hole64_bytes_{32 * GiB};
  memory::MemoryRegion ecam_;
};

class Mch final : public PciDevice {
 public:
  static const TypeInfo type;
  Mch() : PciDevice({.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000}) {}
  // Before attach.
  void wire(Q35Host& host, memory::MemoryRegion& system, memory::MemoryRegion& pci_memory, u64 ram_below_4g) {
    host_ = &host, system_ = &system, pci_memory_ = &pci_memory, ram_below_4g_ = ram_below_4g;
  }
  memory::MemoryRegion& smm_view() { return smram_.smm_view(); }
  void config_write(u16 offset, unsigned size, u32 value) override;
  void settle() override;

 private:
  static const Field properties[2];
  Result<> realize_pci() override;
  void update();
  u64 hole_read(u64, unsigned size) { return ~u64{0} >> (64 - size * 8); }
  void hole_write(u64, unsigned, u64) {}
  Q35Host* host_ = nullptr;
  memory::MemoryRegion* system_ = nullptr;
  memory::MemoryRegion* pci_memory_ = nullptr;
  u64 ram_below_4g_ = 0;
  u16 extended_tseg_mib_ = 16;
  bool smbase_smram_ = true;
  Pam pam_;
  SmramWindow smram_;
  memory::MemoryRegion ram_, high_smram_, open_high_smram_, tseg_hole_, tseg_window_;
};

}  // namespace vmm::hw
