// State of MSI and MSI-X of one function. Sources: PCI 3.0 §6.8. Any thread, under its own leaf lock.
#pragma once

#include <vector>

#include "hw/pci/pci.h"
#include "src/base/lock.h"

namespace vmm::hw {

struct PciMessages {
  struct Entry {
    u64 address = 0;
    u32 data = 0;
    u32 control = 1;  // bit 0: masked
  };
  Mutex mutex;
  // MSI: a copy of what configuration space says.
  bool msi_on GUARDED_BY(mutex) = false;
  bool master GUARDED_BY(mutex) = false;
  unsigned msi_vectors GUARDED_BY(mutex) = 0;  // enabled
  MsiMessage msi GUARDED_BY(mutex);
  u32 msi_mask GUARDED_BY(mutex) = 0, msi_pending GUARDED_BY(mutex) = 0;
  // MSI-X
  bool msix_on GUARDED_BY(mutex) = false, msix_masked GUARDED_BY(mutex) = false;
  std::vector<Entry> table GUARDED_BY(mutex);
  std::vector<u64> pending GUARDED_BY(mutex);
  PciHost* host = nullptr;

  bool has_mask = false;
  usize entries = 0;  // size of `table`, constant
  memory::MemoryRegion table_region, pba_region;

  void send_msix(unsigned vector) REQUIRES(mutex);
  void flush_msix() REQUIRES(mutex);
  void reset();
  u64 table_read(u64 offset, unsigned size);
  void table_write(u64 offset, unsigned size, u64 value);
  u64 pba_read(u64 offset, unsigned size);
  void pba_write(u64, unsigned, u64) {}
};

}  // namespace vmm::hw
