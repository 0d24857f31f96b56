// Port 61h: gate of timer channel 2, speaker enable, refresh toggle. Machine lock held.
#pragma once

#include "hw/isa/isa.h"
#include "hw/timer/i8254.h"

namespace vmm::hw {

class PcSpeaker final : public IsaDevice {
 public:
  static const TypeInfo type;             // "isa-pcspk", properties iobase, audiodev, migrate
  void wire(I8254& pit) { pit_ = &pit; }  // before attach

  void reset() override;

 private:
  Result<> realize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  static const Field properties[], state[];

  u32 iobase_ = 0x61;
  std::string audiodev_;
  bool migrate_ = true;
  I8254* pit_ = nullptr;
  bool data_on_ = false, refresh_ = false;
  memory::MemoryRegion port_;
};

}  // namespace vmm::hw
