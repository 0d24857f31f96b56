#include "hw/pci_host/pam.h"

namespace vmm::hw {

static constexpr u64 start_of(unsigned segment) { return segment == 0 ? 0xf0000 : 0xc0000 + (segment - 1) * u64{0x4000}; }
static constexpr u64 size_of(unsigned segment) { return segment == 0 ? 0x10000 : 0x4000; }

void Pam::init(Object& owner, memory::MemoryRegion& system, const std::shared_ptr<memory::RamBlock>& ram, memory::MemoryRegion& pci) {
  ram_.init_ram(&owner, ram->name(), ram);
  memory::Transaction transaction;
  for (unsigned i = 0; i < segments; i++) {
    Segment& s = segments_[i];
    s.pci.init_alias(&owner, "pam-pci", pci, start_of(i), size_of(i));
    s.ram.init_alias(&owner, "pam-ram", ram_, start_of(i), size_of(i));
    s.ram.set_enabled(false);
    system.add(s.ram, start_of(i), 1);
    system.add(s.pci, start_of(i), 1);
  }
}

void Pam::update(std::span<const u8> registers) {
  memory::Transaction transaction;
  for (unsigned i = 0; i < segments; i++) {
    const unsigned nibble = i == 0 ? 1 : i + 1;  // the low half of the first register is reserved
    const unsigned mode = registers[nibble / 2] >> (nibble % 2 * 4) & 3;
    Segment& s = segments_[i];
    // Bit 0: reads go to RAM; bit 1: writes do. Reading PCI while writing RAM has no region of that kind: it stays with PCI.
    const bool ram = mode & 1;
    s.ram.set_read_only(mode != 3);
    s.ram.set_enabled(ram);
    s.pci.set_enabled(!ram);
  }
}

void SmramWindow::init(Object& owner, memory::MemoryRegion& system, const std::shared_ptr<memory::RamBlock>& ram,
                       memory::MemoryRegion& pci) {
  ram_.init_ram(&owner, ram->name(), ram);
  memory::Transaction transaction;
  pci_window_.init_alias(&owner, "smram-region", pci, 0xa0000, 0x20000);
  system.add(pci_window_, 0xa0000, 1);
  // Without a display nothing answers on PCI: then the RAM behind must not show through either.
  hole_.init_io(&owner, "smram-closed", 0x20000, {}, nullptr);
  system.add(hole_, 0xa0000, 0);
  smm_view_.init_container(&owner, "smram", 4 * GiB);
  low_.init_alias(&owner, "smram-low", ram_, 0xa0000, 0x20000);
  low_.set_enabled(false);
  smm_view_.add(low_, 0xa0000);
}

void SmramWindow::update(u8 value) {
  memory::Transaction transaction;
  const bool opened = (value & enabled) && (value & open);
  pci_window_.set_enabled(!opened), hole_.set_enabled(!opened);
  low_.set_enabled(value & enabled);
}

}  // namespace vmm::hw
