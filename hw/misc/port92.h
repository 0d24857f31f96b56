// System control port 92h: fast A20 and fast reset. Machine lock held.
#pragma once

#include "hw/isa/isa.h"

namespace vmm::hw {

class Port92 final : public IsaDevice {
 public:
  static const TypeInfo type;
  Irq& a20() { return a20_; }  // the board connects it to the A20Gate

  void reset() override;

 private:
  Result<> realize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  static const Field state[];
  u8 value_ = 0;
  memory::MemoryRegion port_;
  Irq a20_;
};

}  // namespace vmm::hw
