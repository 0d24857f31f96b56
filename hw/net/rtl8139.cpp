// RTL8139C+: four transmit slots and a receive ring, or descriptor rings both ways. Source: Realtek RTL8139C(L)+ data sheet 1.6.
// Not modelled: the timer, wake-up, the high-priority ring, jumbo frames.
#include <algorithm>
#include <cstring>

#include "hw/net/eeprom.h"
#include "hw/net/nic.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {

enum Register : u32 {
  IDR = 0x00,
  MAR = 0x08,
  TSD = 0x10,
  TSAD = 0x20,
  RBSTART = 0x30,
  CR = 0x37,
  CAPR = 0x38,
  CBR = 0x3a,
  IMR = 0x3c,
  ISR = 0x3e,
  TCR = 0x40,
  RCR = 0x44,
  TCTR = 0x48,
  MPC = 0x4c,
  EECR = 0x50,
  CONFIG0 = 0x51,
  CONFIG1 = 0x52,
  MSR = 0x58,
  CONFIG3 = 0x59,
  CONFIG4 = 0x5a,
  RERID = 0x5e,
  TSAD_ALL = 0x60,
  BMCR = 0x62,
  BMSR = 0x64,
  ANAR = 0x66,
  ANLPAR = 0x68,
  ANER = 0x6a,
  CONFIG5 = 0xd8,
  TPPOLL = 0xd9,
  CPCR = 0xe0,
  RDSAR = 0xe4,
};
enum : u32 {
  cr_empty = 1,
  cr_transmit = 4,
  cr_receive = 8,
  cr_reset = 0x10,
  int_rx = 1,
  int_tx = 4,
  int_no_room = 0x10,
  int_link = 0x20,
  int_tx_empty = 0x80,
  tsd_own = 1 << 13,
  tsd_ok = 1 << 15,
  rcr_all = 1,
  rcr_own = 2,
  rcr_multicast = 4,
  rcr_broadcast = 8,
  rcr_wrap = 0x80,
  cp_transmit = 1,
  cp_receive = 2,
  cp_sums = 0x20,
  cp_vlan = 0x40,
  d_own = 1u << 31,
  d_end = 1 << 30,
  d_first = 1 << 29,
  d_last = 1 << 28,
  d_segment = 1 << 27,
};
constexpr unsigned descriptors_a_turn = 128;
constexpr usize longest = 65535 + 18;

class Rtl8139 final : public PciNic {
 public:
  static const TypeInfo type;
  Rtl8139() : PciNic({.vendor = 0x10ec, .device = 0x8139, .revision = 0x20, .class_code = 0x020000}, "efi-rtl8139.rom") {}
  void reset() override;
  void settle() override {
    PciDevice::settle();
    update_interrupt();
  }
  Result<> after_load() override;
  bool card_receive(unsigned, const net::Packet& packet) override;
  void card_resume(unsigned) override { run_soon(); }
  void card_link_changed(unsigned) override;

 private:
  Result<> realize_nic() override;
  void work() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void byte_written(u32 at, u8 value);
  u32 get(u32 at, unsigned size) const { return size == 2 ? load_le<u16>(&regs_[at]) : load_le<u32>(&regs_[at]); }
  void put(u32 at, unsigned size, u32 value) {
    size == 2 ? store_le<u16>(&regs_[at], static_cast<u16>(value)) : store_le<u32>(&regs_[at], value);
  }
  void soft_reset();
  void set_link_status();
  void raise(u32 causes) {
    put(ISR, 2, get(ISR, 2) | causes);
    update_interrupt();
  }
  void update_interrupt() { set_intx((get(ISR, 2) & get(IMR, 2)) != 0); }
  bool transmit_slots();
  bool transmit_ring();
  bool ring_descriptor(bool& more);
  bool send_frame();
  bool accepts(std::span<const u8> frame) const;
  u32 ring_bytes() const { return 8192u << (get(RCR, 4) >> 11 & 3); }
  bool store_in_ring(u32 flags);
  bool store_by_descriptor(const net::Offload& offload, u32 flags);
  static const Field own_state[9];

  std::array<u8, 256> regs_{};
  Eeprom93c46 eeprom_;
  u32 slot_ = 0, tx_index_ = 0, rx_index_ = 0, slots_wanted_ = 0, free_from_ = 0;
  bool ring_wanted_ = false, frame_complete_ = false;
  std::vector<u8> frame_, rx_;
  net::Offload offload_;
  u32 frame_flags_ = 0, frame_tag_ = 0;
  memory::MemoryRegion memory_, ports_;
};

constexpr Field Rtl8139::own_state[9] = {
    field<&Rtl8139::regs_>("registers", "register contents"),
    field<&Rtl8139::eeprom_>("eeprom", "EEPROM and what is being read of it"),
    field<&Rtl8139::slot_>("slot", "transmit slot whose turn it is"),
    field<&Rtl8139::slots_wanted_>("slots-wanted", "slots that are to be sent"),
    field<&Rtl8139::tx_index_>("tx-index", "transmit descriptor whose turn it is"),
    field<&Rtl8139::rx_index_>("rx-index", "receive descriptor whose turn it is"),
    field<&Rtl8139::free_from_>("ring-write", "where the receive ring goes on"),
    field<&Rtl8139::ring_wanted_>("ring-wanted", "transmit descriptors are to be looked at"),
    field<&Rtl8139::frame_flags_>("tx-flags", "of the frame that is being put together"),
};
constinit const TypeInfo Rtl8139::type{.name = "rtl8139",
                                       .doc = "Realtek RTL8139C+ Ethernet.",
                                       .parent = &PciNic::type,
                                       .state = own_state,
                                       .make = make<Rtl8139>,
                                       .category = "Network devices"};
const Registered registered{Rtl8139::type};

// --- Life

Result<> Rtl8139::realize_nic() {
  ports_.init_io<&Rtl8139::read, &Rtl8139::write>(*this, "rtl8139-io", 256, {.min = 1, .max = 4});
  memory_.init_io<&Rtl8139::read, &Rtl8139::write>(*this, "rtl8139-mem", 256, {.min = 1, .max = 4});
  set_interrupt_pin(1);
  add_bar(0, PciBarKind::io, ports_);
  add_bar(1, PciBarKind::memory32, memory_);
  return {};
}

void Rtl8139::reset() {
  PciDevice::reset();
  auto& w = eeprom_.words;
  w.fill(0);
  w[0] = 0x8129, w[1] = 0x10ec, w[2] = 0x8139;
  for (unsigned i = 0; i < 3; i++) w[7 + i] = static_cast<u16>(mac_[i * 2] | mac_[i * 2 + 1] << 8);
  eeprom_.idle();
  regs_.fill(0);
  std::ranges::copy(mac_, regs_.begin() + IDR);
  regs_[CONFIG0] = 0x10, regs_[CONFIG1] = 0x0c, regs_[CONFIG3] = 1, regs_[CONFIG5] = 0;
  put(BMCR, 2, 0x3100), put(ANAR, 2, 0x01e1), put(ANLPAR, 2, 0x45e1), put(ANER, 2, 1);
  soft_reset();
}
void Rtl8139::soft_reset() {
  regs_[CR] = cr_empty;
  put(IMR, 2, 0), put(ISR, 2, 0), put(CAPR, 2, 0xfff0), put(CBR, 2, 0), put(CPCR, 2, 0);
  put(TCR, 4, 0x7480'0000), put(RCR, 4, 0), put(RBSTART, 4, 0);
  for (u32 i = 0; i < 4; i++) put(TSD + i * 4, 4, tsd_own), put(TSAD + i * 4, 4, 0);
  slot_ = tx_index_ = rx_index_ = slots_wanted_ = free_from_ = 0;
  ring_wanted_ = frame_complete_ = false;
  frame_.clear();
  set_link_status();
  update_interrupt();
}
Result<> Rtl8139::after_load() {
  slot_ &= 3, slots_wanted_ &= 15, tx_index_ &= 63, rx_index_ &= 63;
  if (free_from_ >= ring_bytes()) return fail("'ring-write' lies outside the receive ring");
  frame_.clear(), frame_complete_ = false;
  set_link_status();
  run_soon();
  return {};
}
void Rtl8139::set_link_status() {
  const bool up = link_up();
  put(BMSR, 2, up ? 0x782d : 0x7809);
  regs_[MSR] = up ? 0 : 4;
}
void Rtl8139::card_link_changed(unsigned) {
  if (!realized()) return;
  const u8 before = regs_[MSR];
  set_link_status();
  if (before != regs_[MSR]) raise(int_link);
}

// --- Registers

u64 Rtl8139::read(u64 offset, unsigned size) {
  u64 value = 0;
  for (unsigned i = 0; i < size; i++) {
    const u32 at = static_cast<u32>(offset + i) & 0xff;
    u8 b = regs_[at];
    if (at == EECR) b = static_cast<u8>((b & 0xce) | eeprom_.data_out());
    if (at == CR) b = static_cast<u8>((b & ~cr_empty) | (((get(CAPR, 2) + 16) & 0xffff) % ring_bytes() == get(CBR, 2) ? cr_empty : 0));
    value |= u64{b} << 8 * i;
  }
  return value;
}

void Rtl8139::byte_written(u32 at, u8 value) {
  switch (at) {
    case ISR:
    case ISR + 1: regs_[at] &= static_cast<u8>(~value); break;
    case CR:
      regs_[CR] = value & (cr_transmit | cr_receive);
      if (value & cr_reset) soft_reset();
      break;
    case EECR:
      regs_[EECR] = value & 0xce;
      eeprom_.set((value & 0x88) == 0x88, value & 4, value & 2);
      break;
    case CBR:
    case CBR + 1:
    case BMSR:
    case BMSR + 1:
    case MSR:
    case ANLPAR:
    case ANLPAR + 1:
    case TSAD_ALL:
    case TSAD_ALL + 1: break;
    case TCR + 3: regs_[at] = static_cast<u8>((value & 0x03) | 0x74); break;
    case TCR + 2: regs_[at] = static_cast<u8>((value & 0x3f) | 0x80); break;
    case BMCR + 1: regs_[at] = value & 0x7d; break;  // reset and restart are over at once
    default: regs_[at] = value;
  }
}

void Rtl8139::write(u64 offset, unsigned size, u64 value) {
  const u32 first = static_cast<u32>(offset) & 0xff;
  // A slot's status: the guest gives the size and takes "done" away.
  if (first >= TSD && first < TSD + 16 && size == 4) {
    const u32 n = (first - TSD) / 4;
    put(TSD + n * 4, 4, static_cast<u32>(value) & 0x003f'1fff & ~u32{tsd_own});
    slots_wanted_ |= 1u << n;
    return run_soon();
  }
  for (unsigned i = 0; i < size; i++) byte_written((first + i) & 0xff, static_cast<u8>(value >> 8 * i));
  const auto touched = [&](u32 at, u32 bytes) { return first < at + bytes && first + size > at; };
  if (touched(IMR, 4)) update_interrupt();
  if (touched(CR, 1) || touched(CAPR, 2) || touched(RCR, 4)) run_soon();
  if (touched(TSAD, 8)) tx_index_ = 0;
  if (touched(RDSAR, 8)) rx_index_ = 0;
  if (touched(RBSTART, 4)) free_from_ = 0, put(CBR, 2, 0);
  if (touched(TPPOLL, 1)) {
    if (regs_[TPPOLL] & 0x40) ring_wanted_ = true, run_soon();
    regs_[TPPOLL] = 0;
  }
}

void Rtl8139::work() {
  if (!bus_master()) return;
  bool more = false;
  if (regs_[CR] & cr_transmit) {
    if (frame_complete_ && !send_frame()) return;
    more = get(CPCR, 2) & cp_transmit ? transmit_ring() : transmit_slots();
  }
  if (more) run_soon();
  if (regs_[CR] & cr_receive) end(0).ready();
}

// --- Transmission

bool Rtl8139::send_frame() {
  if (frame_.size() < 60) frame_.resize(60);
  const net::FlatPacket packet{frame_, offload_};
  if ((get(TCR, 4) >> 17 & 3) == 3)
    card_receive(0, packet);
  else if (!end(0).send(packet))
    return false;
  frame_.clear(), frame_complete_ = false, offload_ = {};
  return true;
}

bool Rtl8139::transmit_slots() {
  for (unsigned n = 0; n < 4 && slots_wanted_ >> slot_ & 1; n++) {
    const u32 at = TSD + slot_ * 4, size = get(at, 4) & 0x1fff;
    if (!frame_complete_) {
      frame_.resize(std::max<u32>(size, 14));
      dma_read(GuestPhys{get(TSAD + slot_ * 4, 4)}, frame_);
      frame_complete_ = true;
    }
    slots_wanted_ &= ~(1u << slot_);
    put(at, 4, get(at, 4) | tsd_own | tsd_ok);
    slot_ = (slot_ + 1) & 3;
    raise(int_tx);
    if (!send_frame()) return false;
  }
  return false;
}

bool Rtl8139::transmit_ring() {
  if (!ring_wanted_) return false;
  bool done = false, more = true;
  for (unsigned n = 0; n < descriptors_a_turn && more; n++) {
    done |= ring_descriptor(more);
    if (frame_complete_ && !send_frame()) break;
  }
  if (!more) ring_wanted_ = false;
  if (done) raise(int_tx | (more ? 0 : int_tx_empty));
  return more && !frame_complete_;
}

// One transmit descriptor; false: it is not ours.
bool Rtl8139::ring_descriptor(bool& more) {
  const u64 at = (u64{get(TSAD + 4, 4)} << 32 | get(TSAD, 4)) + u64{tx_index_} * 16;
  std::array<u8, 16> d;
  if (!dma_read(GuestPhys{at}, d)) return more = false;
  const u32 command = load_le<u32>(&d[0]), vlan = load_le<u32>(&d[4]);
  if (!(command & d_own)) return more = false;
  if (command & d_first) frame_.clear(), frame_flags_ = command, frame_tag_ = vlan;
  const usize bytes = command & 0xffff, from = frame_.size();
  if (from + bytes <= longest) {
    frame_.resize(from + bytes);
    dma_read(GuestPhys{load_le<u64>(&d[8])}, std::span{frame_}.subspan(from));
  }
  store_le<u32>(&d[0], command & ~d_own);
  dma_write(GuestPhys{at}, std::span{d}.first(4));
  tx_index_ = command & d_end || tx_index_ >= 63 ? 0 : tx_index_ + 1;
  if (!(command & d_last)) return true;
  if (frame_.size() < 14) {
    frame_.clear();
    return true;
  }
  offload_ = {};
  // Sums and segments by what the frame is: the card parses it as well.
  if (frame_flags_ & d_segment) {
    if (const auto o = net::prepare_segmentation(frame_, static_cast<u16>(frame_flags_ >> 16 & 0x7ff))) offload_ = *o;
  } else if (frame_flags_ & 7 << 16) {
    if (auto o = net::prepare_segmentation(frame_, 0xffff); o && frame_flags_ & 3 << 16) {
      o->segment = net::Offload::Segment::none;
      net::finish_checksum(frame_, *o);
    }
  }
  if (frame_tag_ & 1 << 17) {
    const u8 tag[] = {0x81, 0x00, static_cast<u8>(frame_tag_), static_cast<u8>(frame_tag_ >> 8)};
    frame_.insert(frame_.begin() + 12, std::begin(tag), std::end(tag));
    offload_.checksum_start = static_cast<u16>(offload_.checksum_start + 4),
    offload_.header_bytes = static_cast<u16>(offload_.header_bytes + 4);
  }
  frame_complete_ = true;
  return true;
}

// --- Reception

bool Rtl8139::accepts(std::span<const u8> f) const {
  const u32 rcr = get(RCR, 4);
  if (std::ranges::all_of(f.first(6), [](u8 b) { return b == 0xff; })) return rcr & (rcr_broadcast | rcr_all);
  if (!net::is_multicast(f.data())) return rcr & rcr_all || (rcr & rcr_own && std::equal(f.begin(), f.begin() + 6, regs_.begin() + IDR));
  if (!(rcr & (rcr_multicast | rcr_all))) return false;
  // The top six bits of the CRC, most significant first.
  u32 crc = net::ethernet_crc(f.first(6)), hash = 0;
  for (unsigned i = 0; i < 6; i++) hash = hash << 1 | (crc >> i & 1);
  return rcr & rcr_all || regs_[MAR + hash / 8] >> (hash & 7) & 1;
}

bool Rtl8139::card_receive(unsigned, const net::Packet& packet) {
  const usize size = packet.size();
  if (!(regs_[CR] & cr_receive) || !bus_master() || size < 14 || size > 4096) return true;
  rx_.assign(std::max<usize>(size, 60), 0);
  packet.copy_to(rx_);
  if (!accepts(rx_)) return true;
  const bool broadcast = rx_[0] == 0xff && rx_[1] == 0xff;
  const bool to_us = !net::is_multicast(rx_.data());
  const u32 crc = ~net::ethernet_crc(rx_);
  const usize at = rx_.size();
  rx_.resize(at + 4);
  store_le<u32>(&rx_[at], crc);
  if (get(CPCR, 2) & cp_receive) return store_by_descriptor(packet.offload, broadcast ? 1 << 24 : to_us ? 1 << 25 : 1 << 26);
  return store_in_ring(broadcast ? 0x2000 : to_us ? 0x4000 : 0x8000);
}

bool Rtl8139::store_in_ring(u32 flags) {
  const u32 ring = ring_bytes(), whole = static_cast<u32>(align_up(rx_.size() + 4, 4));
  const u32 read_at = ((get(CAPR, 2) + 16) & 0xffff) % ring;
  const u32 used = (free_from_ + ring - read_at) % ring;
  if (whole + 4 >= ring - used) {
    if (!(get(ISR, 2) & int_no_room)) raise(int_no_room);
    return false;  // CAPR moves
  }
  const u64 base = get(RBSTART, 4);
  u32 at = free_from_;
  const auto store = [&](std::span<const u8> bytes) {
    const bool wraps = !(get(RCR, 4) & rcr_wrap) || ring == 65536;
    const usize before = wraps ? std::min<usize>(bytes.size(), ring - at) : bytes.size();
    dma_write(GuestPhys{base + at}, bytes.first(before));
    if (before < bytes.size()) dma_write(GuestPhys{base}, bytes.subspan(before));
    at = static_cast<u32>(at + bytes.size()) % ring;
  };
  u8 header[4];
  store_le<u16>(&header[0], static_cast<u16>(1 | flags)), store_le<u16>(&header[2], static_cast<u16>(rx_.size()));
  const u32 start = free_from_;
  store(header);
  if (at < start && rx_.size()) at = at % ring;
  store(rx_);
  free_from_ = (start + whole) % ring;
  put(CBR, 2, free_from_);
  raise(int_rx);
  return true;
}

bool Rtl8139::store_by_descriptor(const net::Offload& offload, u32 flags) {
  u32 tag = 0;
  if (get(CPCR, 2) & cp_vlan && rx_.size() > 22 && rx_[12] == 0x81 && rx_[13] == 0) {
    tag = 1 << 16 | rx_[14] | rx_[15] << 8;
    rx_.erase(rx_.begin() + 12, rx_.begin() + 16);
  }
  const u64 at = (u64{get(RDSAR + 4, 4)} << 32 | get(RDSAR, 4)) + u64{rx_index_} * 16;
  std::array<u8, 16> d;
  const bool there = dma_read(GuestPhys{at}, d);
  const u32 command = load_le<u32>(&d[0]);
  if (!there || !(command & d_own)) {
    // Lost, as the card does: nothing would tell us that the driver has put buffers there.
    put(MPC, 4, (get(MPC, 4) + 1) & 0xffffff);
    if (!(get(ISR, 2) & int_no_room)) raise(int_no_room);
    return true;
  }
  if (rx_.size() > (command & 0x1fff)) return true;
  dma_write(GuestPhys{load_le<u64>(&d[8])}, rx_);
  u32 status = (command & d_end) | d_first | d_last | flags | static_cast<u32>(rx_.size());
  if (offload.checksum_good && get(CPCR, 2) & cp_sums && rx_.size() > 34 && rx_[12] == 8 && rx_[13] == 0)
    status |= rx_[23] == 6 ? 1 << 16 : rx_[23] == 17 ? 2 << 16 : 3 << 16;
  store_le<u32>(&d[0], status), store_le<u32>(&d[4], tag);
  dma_write(GuestPhys{at + 4}, std::span{d}.subspan(4, 4));
  dma_write(GuestPhys{at}, std::span{d}.first(4));
  rx_index_ = command & d_end || rx_index_ >= 63 ? 0 : rx_index_ + 1;
  raise(int_rx);
  return true;
}

}  // namespace

}  // namespace vmm::hw
