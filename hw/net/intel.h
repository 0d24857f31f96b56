// What Intel's gigabit controllers 8254x and 82574 share: registers as words, descriptor rings, address filters, EEPROM words, PHY.
// Sources: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (8254x, rev. 4.0); 82574 Datasheet (rev. 3.4).
#pragma once

#include "hw/net/eeprom.h"
#include "hw/net/nic.h"

namespace vmm::hw {

namespace intel {
enum Register : u32 {
  CTRL = 0x0,
  STATUS = 0x8,
  EECD = 0x10,
  EERD = 0x14,
  CTRL_EXT = 0x18,
  MDIC = 0x20,
  VET = 0x38,
  ICR = 0xc0,
  ITR = 0xc4,
  ICS = 0xc8,
  IMS = 0xd0,
  IMC = 0xd8,
  EIAC = 0xdc,
  IAM = 0xe0,
  IVAR = 0xe4,
  EITR = 0xe8,
  RCTL = 0x100,
  TCTL = 0x400,
  PBA = 0x1000,
  EEMNGCTL = 0x1010,
  PSRCTL = 0x2170,
  RDBAL = 0x2800,
  RDBAH = 0x2804,
  RDLEN = 0x2808,
  RDH = 0x2810,
  RDT = 0x2818,
  TDBAL = 0x3800,
  TDBAH = 0x3804,
  TDLEN = 0x3808,
  TDH = 0x3810,
  TDT = 0x3818,
  STATS = 0x4000,
  STATS_END = 0x4128,
  RXCSUM = 0x5000,
  RFCTL = 0x5008,
  MTA = 0x5200,
  RA = 0x5400,
  VFTA = 0x5600,
  MANC = 0x5820,
  SWSM = 0x5b50,
  FWSM = 0x5b54,
  GPRC = 0x4074,
  BPRC = 0x4078,
  MPRC = 0x407c,
  GPTC = 0x4080,
  GORCL = 0x4088,
  GOTCL = 0x4090,
  TORL = 0x40c0,
  TOTL = 0x40c8,
  TPR = 0x40d0,
  TPT = 0x40d4,
  MPTC = 0x40f0,
  BPTC = 0x40f4,
  RNBC = 0x40a0,
  TSCTC = 0x40f8,
};
enum Cause : u32 {
  TXDW = 1,
  TXQE = 2,
  LSC = 4,
  RXDMT0 = 0x10,
  RXO = 0x40,
  RXT0 = 0x80,
  MDAC = 0x200,
  RXQ0 = 1 << 20,
  TXQ0 = 1 << 22,
  OTHER = 1 << 24,
  INT_ASSERTED = 1u << 31
};
}  // namespace intel

class IntelNic : public PciNic {
 public:
  static const TypeInfo type;
  void reset() override;
  void settle() override;
  Result<> after_load() override;
  bool card_receive(unsigned, const net::Packet& packet) override;
  void card_resume(unsigned) override { run_soon(); }
  void card_link_changed(unsigned) override;

 protected:
  static constexpr u32 register_bytes = 0x6000, bar_bytes = 128 * KiB;
  IntelNic(const PciIds& ids, std::string_view rom, u16 phy_id1, u16 phy_id2);
  Result<> realize_nic() override;
  void stop_nic() override { throttle_.cancel(); }
  void work() override;

  // Registers as the guest sees them; a model adds its own and calls these for the rest.
  virtual u32 register_read(u32 at);
  virtual void register_write(u32 at, u32 value);
  virtual void update_interrupt();
  virtual u16 phy_read(unsigned reg);
  virtual void phy_write(unsigned reg, u16 value);
  virtual bool extended_receive() const { return false; }
  void raise(u32 causes);
  u32& reg(u32 at) { return registers_[at / 4]; }
  u32 reg(u32 at) const { return registers_[at / 4]; }
  u64 ring_address(u32 low) const { return u64{reg(low + 4)} << 32 | (reg(low) & ~u32{15}); }
  void fill_eeprom(std::span<const u16> base);
  void load_address();
  void software_reset();
  void set_link_status();

  Eeprom93c46 eeprom_;
  std::array<u16, 32> phy_{};

 private:
  static const Field intel_state[5];
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u64 io_read(u64 offset, unsigned size);
  void io_write(u64 offset, unsigned size, u64 value);
  void mdic_written(u32 value);
  void eecd_written(u32 value);
  u32 eecd_read() const;

  // Transmission
  struct Context {  // of a context descriptor
    u8 ip_start = 0, ip_offset = 0, transport_start = 0, transport_offset = 0, header_bytes = 0;
    u16 ip_end = 0, transport_end = 0, segment_bytes = 0;
    u32 payload_bytes = 0;
    bool tcp = false, ipv4 = false;
  };
  bool transmit_some();
  void take_descriptor(std::span<const u8, 16> d);
  void frame_complete(u32 command, u16 special);
  bool send_frame();
  // Reception
  bool accepts(std::span<const u8> frame);
  bool room_for(usize bytes) const;
  bool splits() const;
  std::array<usize, 4> split_bytes() const;
  void store_split(std::span<const u8> frame, u32 status, u16 tag);
  usize buffer_bytes() const;
  u32 free_descriptors() const;
  void store_frame(std::span<const u8> frame, const net::Offload& offload, u16 tag, bool tagged);
  void count(u32 reg_at, u32 by = 1);
  void count64(u32 reg_at, u64 by);
  std::vector<u8> saved_registers() const;
  Result<> load_registers(const std::vector<u8>& bytes);
  std::vector<u8> saved_frame() const { return tx_frame_; }
  Result<> load_frame(const std::vector<u8>& bytes);
  std::vector<u64> saved_contexts() const;
  Result<> load_contexts(const std::vector<u64>& words);

  std::vector<u32> registers_ = std::vector<u32>(register_bytes / 4);
  u16 phy_id1_, phy_id2_;
  u32 io_address_ = 0;
  // The frame that is being put together
  std::vector<u8> tx_frame_;
  Context tx_context_, tx_segment_context_;
  u32 tx_flags_ = 0;  // of the frame's first data descriptor: 1 IP sum, 2 transport sum, 4 segmentation, 8 too long
  bool tx_complete_ = false;
  net::Offload tx_offload_;
  std::vector<u8> rx_frame_;
  bool throttled_ = false;
  void throttle_over();
  Timer throttle_{Clock::guest, on<&IntelNic::throttle_over>, *this};
  memory::MemoryRegion region_, io_;
};

}  // namespace vmm::hw
