// Programmable attribute map: whether 0xc0000–0xfffff is RAM, ROM image in RAM, or PCI; and the SMRAM window at 0xa0000. Shared by
// i440FX and MCH. Sources: Intel 82441FX data sheet §3.2.13, §3.2.18; Intel 3 Series (MCH) §5.1.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

class Pam {
 public:
  static constexpr unsigned segments = 13;
  // system: where the segments lie over RAM (ram) or PCI memory.
  void init(Object& owner, memory::MemoryRegion& system, const std::shared_ptr<memory::RamBlock>& ram, memory::MemoryRegion& pci);
  // The seven registers: bits 4–5 of the first are 0xf0000; then low and high nibbles of 16 KiB each from 0xc0000.
  void update(std::span<const u8> registers);

 private:
  struct Segment {
    memory::MemoryRegion pci, ram;
  };
  std::array<Segment, segments> segments_;
  memory::MemoryRegion ram_;
};

// SMRAM: compatible segment (0xa0000) seen by all when open, by CPUs in SMM when enabled.
class SmramWindow {
 public:
  enum : u8 { open = 0x40, closed = 0x20, locked = 0x10, enabled = 0x08 };
  void init(Object& owner, memory::MemoryRegion& system, const std::shared_ptr<memory::RamBlock>& ram, memory::MemoryRegion& pci);
  void update(u8 register_value);
  // What CPUs see in SMM over everything else: 4 GiB from 0.
  memory::MemoryRegion& smm_view() { return smm_view_; }

 private:
  memory::MemoryRegion pci_window_, hole_, smm_view_, low_, ram_;
};

}  // namespace vmm::hw
