// The board's view of the PIIX IDE function.
#pragma once

#include "hw/pci/pci.h"

namespace vmm::hw {

class PiixIde : public PciDevice {
 public:
  static const TypeInfo type;
  PiixIde();
  // Before attach: the legacy ports, and the 16 ISA lines (14 and 15 are used).
  virtual void wire(memory::MemoryRegion& ports, IrqSink& lines) = 0;
};
Ref<PiixIde> make_piix3_ide();

}  // namespace vmm::hw
