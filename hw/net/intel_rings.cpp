// Descriptor rings of Intel's gigabit controllers: frames out and in (sources: intel.h, chapters 3 and 13 of the 8254x manual).
#include <algorithm>
#include <cstring>

#include "hw/net/intel.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

using namespace intel;

namespace {
constexpr u32 descriptor_bytes = 16;
constexpr unsigned descriptors_a_turn = 512;  // then the main loop does other work
enum : u32 {
  tctl_enable = 2,
  cmd_eop = 1u << 24,
  cmd_insert_crc = 1u << 25,
  cmd_legacy_sum = 1u << 26,
  cmd_segment = 1u << 26,
  cmd_report = 1u << 27,
  cmd_extended = 1u << 29,
  cmd_vlan = 1u << 30,
  flag_ip_sum = 1,
  flag_sum = 2,
  flag_segment = 4,
  flag_too_long = 8,
  rctl_enable = 2,
  rctl_unicast = 8,
  rctl_multicast = 0x10,
  rctl_long = 0x20,
  rctl_broadcast = 0x8000,
  rctl_vlan_filter = 0x40000,
  rctl_strip_crc = 1u << 26,
  rctl_double = 1u << 25,
  rctl_split = 1u << 10,
  rfctl_extended = 1u << 15,
  ctrl_vme = 1u << 30,
  rx_done = 1,
  rx_end = 2,
  rx_ignore_sums = 4,
  rx_vlan = 8,
  rx_tcp_sum = 0x20,
  rx_ip_sum = 0x40,
};
constexpr usize longest = 16384;
}  // namespace

void IntelNic::count(u32 at, u32 by) {
  u32& r = reg(at);
  r = r > ~u32{0} - by ? ~u32{0} : r + by;
}
void IntelNic::count64(u32 at, u64 by) {
  const u64 sum = (u64{reg(at + 4)} << 32 | reg(at)) + by;
  reg(at) = static_cast<u32>(sum), reg(at + 4) = static_cast<u32>(sum >> 32);
}

void IntelNic::work() {
  if (!bus_master()) return;
  if (transmit_some()) run_soon();
  if (reg(RCTL) & rctl_enable) end(0).ready();
}

// --- Transmission

Result<> IntelNic::load_frame(const std::vector<u8>& bytes) {
  if (bytes.size() > net::max_packet_bytes) return fail("'tx-frame' is too long");
  tx_frame_ = bytes;
  return {};
}
std::vector<u64> IntelNic::saved_contexts() const {
  std::vector<u64> words;
  for (const Context* c : {&tx_context_, &tx_segment_context_}) {
    words.push_back(c->ip_start | c->ip_offset << 8 | c->transport_start << 16 | u64{c->transport_offset} << 24 |
                    u64{c->header_bytes} << 32 | u64{c->ip_end} << 40);
    words.push_back(c->transport_end | u64{c->segment_bytes} << 16 | u64{c->payload_bytes} << 32 | u64{c->tcp} << 62 | u64{c->ipv4} << 63);
  }
  words.push_back(tx_flags_ | u64{tx_complete_} << 32);
  return words;
}
Result<> IntelNic::load_contexts(const std::vector<u64>& words) {
  if (words.size() != 5) return fail("'tx-contexts' has {} words, not 5", words.size());
  unsigned i = 0;
  for (Context* c : {&tx_context_, &tx_segment_context_}) {
    const u64 a = words[i++], b = words[i++];
    *c = {.ip_start = static_cast<u8>(a),
          .ip_offset = static_cast<u8>(a >> 8),
          .transport_start = static_cast<u8>(a >> 16),
          .transport_offset = static_cast<u8>(a >> 24),
          .header_bytes = static_cast<u8>(a >> 32),
          .ip_end = static_cast<u16>(a >> 40),
          .transport_end = static_cast<u16>(b),
          .segment_bytes = static_cast<u16>(b >> 16),
          .payload_bytes = static_cast<u32>(b >> 32) & 0xfffff,
          .tcp = (b >> 62 & 1) != 0,
          .ipv4 = (b >> 63 & 1) != 0};
  }
  tx_flags_ = static_cast<u32>(words[4]) & 15;
  tx_complete_ = words[4] >> 32 & 1;
  tx_offload_ = {};
  return {};
}

// True: there is more to do.
bool IntelNic::transmit_some() {
  if (!(reg(TCTL) & tctl_enable)) return false;
  if (tx_complete_ && !send_frame()) return false;  // the peer is still full; it calls
  const u32 entries = reg(TDLEN) / descriptor_bytes;
  u32 causes = 0;
  unsigned left = descriptors_a_turn;
  while (reg(TDH) != reg(TDT) && left--) {
    if (reg(TDH) >= entries) {
      guest_error(type_info().name, "TDH {} is outside the ring of {}", reg(TDH), entries);
      reg(TDH) = reg(TDT);
      break;
    }
    const u64 at = ring_address(TDBAL) + u64{reg(TDH)} * descriptor_bytes;
    std::array<u8, descriptor_bytes> d;
    if (!dma_read(GuestPhys{at}, d)) break;
    take_descriptor(d);
    if (const u32 command = load_le<u32>(&d[8]); command & cmd_report) {
      const u8 status = d[12] | 1;  // descriptor done
      dma_write(GuestPhys{at + 12}, {&status, 1});
      causes |= TXDW | TXQ0;
    }
    reg(TDH) = reg(TDH) + 1 >= entries ? 0 : reg(TDH) + 1;
    if (tx_complete_ && !send_frame()) {
      if (causes) raise(causes);
      return false;
    }
  }
  if (reg(TDH) == reg(TDT)) causes |= TXQE;
  if (causes) raise(causes);
  return reg(TDH) != reg(TDT);
}

void IntelNic::take_descriptor(std::span<const u8, 16> d) {
  const u64 address = load_le<u64>(&d[0]);
  const u32 command = load_le<u32>(&d[8]), options = load_le<u32>(&d[12]);
  const bool extended = command & cmd_extended;
  if (extended && !(command >> 20 & 15)) {
    Context& c = command & cmd_segment ? tx_segment_context_ : tx_context_;
    c = {.ip_start = d[0],
         .ip_offset = d[1],
         .transport_start = d[4],
         .transport_offset = d[5],
         .header_bytes = d[13],
         .ip_end = load_le<u16>(&d[2]),
         .transport_end = load_le<u16>(&d[6]),
         .segment_bytes = load_le<u16>(&d[14]),
         .payload_bytes = command & 0xfffff,
         .tcp = (command & 1u << 24) != 0,
         .ipv4 = (command & 1u << 25) != 0};
    return;
  }
  if (extended && (command >> 20 & 15) != 1) return guest_error(type_info().name, "descriptor of type {}", command >> 20 & 15);
  const usize bytes = extended ? command & 0xfffff : command & 0xffff;
  if (tx_frame_.empty()) tx_flags_ = !extended ? 0 : (options >> 8 & 3) | (command & cmd_segment ? u32{flag_segment} : 0);
  const usize most = tx_flags_ & flag_segment ? 65535 + 18 : longest;
  if (tx_frame_.size() + bytes > most) {
    tx_flags_ |= flag_too_long;
  } else if (bytes) {
    const usize from = tx_frame_.size();
    tx_frame_.resize(from + bytes);
    if (!dma_read(GuestPhys{address}, std::span{tx_frame_}.subspan(from))) tx_flags_ |= flag_too_long;
  }
  if (!(command & cmd_eop)) return;
  if (!extended && command & cmd_legacy_sum) {
    const usize field = d[10], start = d[13];
    net::finish_checksum(tx_frame_, {.needs_checksum = true,
                                     .checksum_start = static_cast<u16>(start),
                                     .checksum_offset = static_cast<u16>(field >= start ? field - start : 0xff00)});
  }
  frame_complete(command, load_le<u16>(&d[14]));
}

void IntelNic::frame_complete(u32 command, u16 special) {
  tx_offload_ = {};
  const bool bad = tx_flags_ & flag_too_long || tx_frame_.size() < 14;
  if (!bad && tx_flags_ & flag_segment) {
    if (auto offload = net::prepare_segmentation(tx_frame_, tx_segment_context_.segment_bytes)) tx_offload_ = *offload;
    count(TSCTC);
  } else if (!bad) {
    const Context& c = tx_context_;
    const std::span frame{tx_frame_};
    const auto sum = [&](usize start, usize stop, usize field, bool udp) {
      if (stop && stop + 1 < frame.size())
        stop++;
      else
        stop = frame.size();
      if (start >= stop || field + 2 > stop || field < start) return;
      u16 value = net::internet_checksum(net::internet_sum(frame.subspan(start, stop - start)));
      if (!value && udp) value = 0xffff;
      frame[field] = static_cast<u8>(value >> 8), frame[field + 1] = static_cast<u8>(value);
    };
    if (tx_flags_ & flag_ip_sum) {
      // The field counts as zero.
      if (usize{c.ip_offset} + 2 <= frame.size()) frame[c.ip_offset] = frame[c.ip_offset + 1] = 0;
      sum(c.ip_start, c.ip_end, c.ip_offset, false);
    }
    if (tx_flags_ & flag_sum) sum(c.transport_start, c.transport_end, c.transport_offset, !c.tcp);
  }
  if (!bad && command & cmd_vlan && reg(CTRL) & ctrl_vme) {
    const u16 kind = static_cast<u16>(reg(VET));
    const u8 tag[] = {static_cast<u8>(kind >> 8), static_cast<u8>(kind), static_cast<u8>(special >> 8), static_cast<u8>(special)};
    tx_frame_.insert(tx_frame_.begin() + 12, std::begin(tag), std::end(tag));
    tx_offload_.checksum_start = static_cast<u16>(tx_offload_.checksum_start + 4),
    tx_offload_.header_bytes = static_cast<u16>(tx_offload_.header_bytes + 4);
  }
  if (bad) {
    tx_frame_.clear(), tx_flags_ = 0;
    return;
  }
  if (tx_frame_.size() < 60) tx_frame_.resize(60);
  tx_complete_ = true;
}

bool IntelNic::send_frame() {
  const net::FlatPacket packet{tx_frame_, tx_offload_};
  const bool loops = (reg(RCTL) >> 6 & 3) == 3 || phy_[0] & 0x4000;
  if (loops) {
    card_receive(0, packet);
  } else if (!end(0).send(packet)) {
    return false;
  }
  count(TPT), count(GPTC);
  count64(TOTL, tx_frame_.size() + 4), count64(GOTCL, tx_frame_.size() + 4);
  if (net::is_multicast(tx_frame_.data()))
    count(std::ranges::all_of(std::span{tx_frame_}.first(6), [](u8 b) { return b == 0xff; }) ? BPTC : MPTC);
  tx_frame_.clear(), tx_flags_ = 0, tx_complete_ = false;
  return true;
}

// --- Reception

bool IntelNic::accepts(std::span<const u8> f) {
  const u32 rctl = reg(RCTL);
  if (rctl & rctl_vlan_filter && (f[12] << 8 | f[13]) == static_cast<int>(reg(VET) & 0xffff) && f.size() >= 16) {
    const u32 id = (f[14] << 8 | f[15]) & 0xfff;
    if (!(reg(VFTA + (id >> 5) * 4) >> (id & 31) & 1)) return false;
  }
  const bool multicast = net::is_multicast(f.data());
  const bool broadcast = std::ranges::all_of(f.first(6), [](u8 b) { return b == 0xff; });
  if (broadcast && rctl & (rctl_broadcast | rctl_multicast)) return true;
  if (!multicast && rctl & rctl_unicast) return true;
  if (multicast && rctl & rctl_multicast) return true;
  const u32 low = load_le<u32>(f.data());
  const u16 high = load_le<u16>(f.data() + 4);
  for (u32 i = 0; i < 16; i++)
    if (reg(RA + i * 8 + 4) >> 31 && reg(RA + i * 8) == low && static_cast<u16>(reg(RA + i * 8 + 4)) == high) return true;
  if (!multicast) return false;
  static constexpr u8 shifts[] = {4, 3, 2, 0};
  const u32 hash = high >> shifts[rctl >> 12 & 3] & 0xfff;
  return reg(MTA + (hash >> 5) * 4) >> (hash & 31) & 1;
}

usize IntelNic::buffer_bytes() const {
  const u32 rctl = reg(RCTL);
  const u32 code = rctl >> 16 & 3;
  if (rctl & rctl_double && code) return code == 1 ? 16384 : code == 2 ? 8192 : 4096;
  return usize{2048} >> code;
}
u32 IntelNic::free_descriptors() const {
  const u32 entries = reg(RDLEN) / descriptor_bytes, head = reg(RDH), tail = reg(RDT);
  if (head >= entries || tail >= entries) return 0;
  return tail >= head ? tail - head : entries - head + tail;
}
bool IntelNic::splits() const { return extended_receive() && reg(RFCTL) & rfctl_extended && (reg(RCTL) >> 10 & 3) == rctl_split >> 10; }
// Descriptors for split packets have four buffers (PSRCTL) and the size, and count, of two.
std::array<usize, 4> IntelNic::split_bytes() const {
  const u32 v = reg(PSRCTL);
  return {(v & 0x7f) * usize{128}, (v >> 8 & 0x3f) * KiB, (v >> 16 & 0x3f) * KiB, (v >> 24 & 0x3f) * KiB};
}
bool IntelNic::room_for(usize bytes) const {
  if (!splits()) return u64{free_descriptors()} * buffer_bytes() >= bytes;
  const auto sizes = split_bytes();
  return u64{free_descriptors() / 2} * (sizes[0] + sizes[1] + sizes[2] + sizes[3]) >= bytes;
}

bool IntelNic::card_receive(unsigned, const net::Packet& packet) {
  if (!(reg(RCTL) & rctl_enable) || !bus_master()) return true;  // it does not listen
  const usize size = packet.size();
  if (size < 14 || size > longest - 4) return true;
  rx_frame_.resize(std::max<usize>(size, 60));
  packet.copy_to(rx_frame_);
  std::fill(rx_frame_.begin() + static_cast<std::ptrdiff_t>(size), rx_frame_.end(), 0);
  count(TPR);
  count64(TORL, rx_frame_.size() + 4);
  if (size > 1522 && !(reg(RCTL) & rctl_long)) return true;
  if (!accepts(rx_frame_)) return true;
  if (!room_for(rx_frame_.size() + 4)) {
    if (!(reg(ICR) & RXO)) count(RNBC), raise(RXO);
    return false;  // RDT moves
  }
  u16 tag = 0;
  bool tagged = false;
  if (reg(CTRL) & ctrl_vme && size >= 18 && (rx_frame_[12] << 8 | rx_frame_[13]) == static_cast<int>(reg(VET) & 0xffff)) {
    tagged = true, tag = static_cast<u16>(rx_frame_[14] << 8 | rx_frame_[15]);
    rx_frame_.erase(rx_frame_.begin() + 12, rx_frame_.begin() + 16);
  }
  count(GPRC);
  count64(GORCL, rx_frame_.size() + 4);
  if (net::is_multicast(rx_frame_.data()))
    count(std::ranges::all_of(std::span{rx_frame_}.first(6), [](u8 b) { return b == 0xff; }) ? BPRC : MPRC);
  if (!(reg(RCTL) & rctl_strip_crc)) {
    const u32 crc = ~net::ethernet_crc(rx_frame_);
    const usize at = rx_frame_.size();
    rx_frame_.resize(at + 4);
    store_le<u32>(&rx_frame_[at], crc);
  }
  store_frame(rx_frame_, packet.offload, tag, tagged);
  return true;
}

// Into the four buffers in turn. Headers are not split off: the frame goes on from the first buffer to the others, and HDRSP stays 0
// (82574 7.1.5.1).
void IntelNic::store_split(std::span<const u8> frame, u32 status, u16 tag) {
  const auto sizes = split_bytes();
  const u32 entries = reg(RDLEN) / descriptor_bytes;
  for (usize from = 0; from < frame.size();) {
    const GuestPhys at{ring_address(RDBAL) + u64{reg(RDH)} * descriptor_bytes};
    std::array<u8, 2 * descriptor_bytes> d{}, done{};
    dma_read(at, d);
    for (unsigned i = 0; i < 4; i++) {
      const usize n = std::min(sizes[i], frame.size() - from);
      if (const u64 buffer = load_le<u64>(&d[8 * i]); n && buffer) dma_write(GuestPhys{buffer}, frame.subspan(from, n));
      store_le<u16>(&done[i == 0 ? 12 : 16 + 2 * i], static_cast<u16>(n));
      from += n;
    }
    store_le<u32>(&done[8], status | (from == frame.size() ? u32{rx_end} : 0));
    store_le<u16>(&done[14], tag);
    // The status last: the driver looks at it without a lock.
    dma_write(GuestPhys{at.value}, std::span{done}.first(8));
    dma_write(GuestPhys{at.value + 16}, std::span{done}.subspan(16));
    dma_write(GuestPhys{at.value + 8}, std::span{done}.subspan(8, 8));
    reg(RDH) = reg(RDH) + 2 >= entries ? 0 : reg(RDH) + 2;
  }
}

void IntelNic::store_frame(std::span<const u8> frame, const net::Offload& offload, u16 tag, bool tagged) {
  const usize piece = buffer_bytes();
  const u32 entries = reg(RDLEN) / descriptor_bytes;
  const bool extended = extended_receive() && reg(RFCTL) & rfctl_extended;
  const u32 sums = offload.checksum_good && reg(RXCSUM) & 0x300;
  u32 status = rx_done | (sums ? u32{rx_tcp_sum | rx_ip_sum} : u32{rx_ignore_sums}) | (tagged ? u32{rx_vlan} : 0);
  if (splits()) store_split(frame, status, tag);
  for (usize from = 0; from < frame.size() && !splits();) {
    const u64 at = ring_address(RDBAL) + u64{reg(RDH)} * descriptor_bytes;
    const usize n = std::min(piece, frame.size() - from);
    std::array<u8, descriptor_bytes> d{};
    dma_read(GuestPhys{at}, d);
    const u64 buffer = load_le<u64>(&d[0]);
    if (buffer) dma_write(GuestPhys{buffer}, frame.subspan(from, n));
    from += n;
    const u32 mine = status | (from == frame.size() ? u32{rx_end} : 0);
    if (extended) {
      d = {};
      store_le<u32>(&d[8], mine), store_le<u16>(&d[12], static_cast<u16>(n)), store_le<u16>(&d[14], tag);
    } else {
      store_le<u16>(&d[8], static_cast<u16>(n)), store_le<u16>(&d[10], 0), d[12] = static_cast<u8>(mine), d[13] = 0,
                                                                           store_le<u16>(&d[14], tag);
    }
    // The status last: the driver looks at it without a lock.
    dma_write(GuestPhys{at}, std::span{d}.first(8));
    dma_write(GuestPhys{at + 8}, std::span{d}.subspan(8));
    reg(RDH) = reg(RDH) + 1 >= entries ? 0 : reg(RDH) + 1;
  }
  u32 causes = RXT0 | RXQ0;
  const u32 threshold = entries >> (1 + (reg(RCTL) >> 8 & 3));
  if (free_descriptors() <= threshold) causes |= RXDMT0;
  raise(causes);
}

}  // namespace vmm::hw
