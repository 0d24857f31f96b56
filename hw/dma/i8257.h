// The 8237A DMA controller as PCs have it, twice: 8-bit channels 0–3, 16-bit channels 4–7 (dshift 1), with page registers.
// QEMU calls the type i8257. Source: Intel 8237A data sheet; 82371SB, "DMA". Machine lock held.
#pragma once

#include "hw/isa/isa.h"

namespace vmm::hw {

class I8257 final : public IsaDevice, public IsaDma {
 public:
  static const TypeInfo type;  // properties base, page-base, pageh-base, dshift
  void connect(unsigned channel, std::function<void()> ready) override { channels_[channel].ready = std::move(ready); }
  void set_request(unsigned channel, bool level) override;
  usize write_memory(unsigned channel, std::span<const u8> from, bool* terminal = nullptr) override;
  usize read_memory(unsigned channel, std::span<u8> into, bool* terminal = nullptr) override;
  bool terminal_count(unsigned channel) const { return status_ >> channel & 1; }

  void reset() override;

  struct Channel {
    u16 base_address = 0, base_count = 0, address = 0, count = 0;
    u8 page = 0, page_high = 0, mode = 0;
    std::function<void()> ready{};
  };

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  u64 channel_read(u64 offset, unsigned size);
  void channel_write(u64 offset, unsigned size, u64 value);
  u64 control_read(u64 offset, unsigned size);
  void control_write(u64 offset, unsigned size, u64 value);
  template <unsigned First, bool High>
  u64 page_read(u64 offset, unsigned size);
  template <unsigned First, bool High>
  void page_write(u64 offset, unsigned size, u64 value);
  template <class F>
  usize transfer(unsigned channel, usize length, bool* terminal, F move);
  bool ready(unsigned channel) const;
  static const Field properties[], state[];

  i32 base_ = 0, page_base_ = 0x80, pageh_base_ = 0x480, dshift_ = 0;
  std::array<Channel, 4> channels_;
  u8 command_ = 0, status_ = 0, mask_ = 0x0f, requests_ = 0;
  bool flip_flop_ = false;
  memory::MemoryRegion channel_ports_, control_ports_, page_ports_[2], pageh_ports_[2];
};

}  // namespace vmm::hw
