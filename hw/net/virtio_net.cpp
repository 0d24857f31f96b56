// virtio network card. Source: virtio 1.2 §5.1. Queues: receive and transmit for each pair, then the control queue. Offloads are offered
// whatever the back end: what it cannot take, net does in software. Not modelled: receive-side scaling, hash reports, standby.
#include <algorithm>
#include <cstring>

#include "hw/net/nic.h"
#include "hw/virtio/virtio_pci.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {

namespace f {
constexpr u64 csum = 1 << 0, guest_csum = 1 << 1, guest_offloads = 1 << 2, mtu = 1 << 3, mac = 1 << 5, guest_tso4 = 1 << 7,
              guest_tso6 = 1 << 8, guest_ecn = 1 << 9, guest_ufo = 1 << 10, host_tso4 = 1 << 11, host_tso6 = 1 << 12, host_ecn = 1 << 13,
              host_ufo = 1 << 14, mrg_rxbuf = 1 << 15, status = 1 << 16, ctrl_vq = 1 << 17, ctrl_rx = 1 << 18, ctrl_vlan = 1 << 19,
              ctrl_rx_extra = 1 << 20, guest_announce = 1 << 21, mq = 1 << 22, ctrl_mac_addr = 1 << 23, speed_duplex = u64{1} << 63;
constexpr u64 may_change = guest_csum | guest_tso4 | guest_tso6 | guest_ecn | guest_ufo;  // by the guest-offloads command
}  // namespace f

struct Header {  // §5.1.6
  u8 flags = 0, gso_type = 0;
  u16 header_bytes = 0, segment_bytes = 0, checksum_start = 0, checksum_offset = 0, buffers = 0;
};
enum : u8 {
  header_needs_checksum = 1,
  header_data_valid = 2,
  gso_none = 0,
  gso_tcp4 = 1,
  gso_udp = 3,
  gso_tcp6 = 4,
  gso_udp_l4 = 5,
  gso_ecn = 0x80
};
enum : u16 { status_link_up = 1, status_announce = 2 };

struct Config {  // §5.1.4
  u8 mac[6] = {};
  u16 status = 0, pairs = 0, mtu = 0;
  u32 speed = ~u32{0};
  u8 duplex = 0xff;
} __attribute__((packed));

constexpr unsigned requests_a_turn = 256, table_limit = 64;

net::Offload offload_of(const Header& h) {
  using Segment = net::Offload::Segment;
  net::Offload o{.needs_checksum = (h.flags & header_needs_checksum) != 0,
                 .ecn = (h.gso_type & gso_ecn) != 0,
                 .header_bytes = h.header_bytes,
                 .segment_bytes = h.segment_bytes,
                 .checksum_start = h.checksum_start,
                 .checksum_offset = h.checksum_offset};
  switch (h.gso_type & ~gso_ecn) {
    case gso_tcp4: o.segment = Segment::tcp4; break;
    case gso_tcp6: o.segment = Segment::tcp6; break;
    case gso_udp: o.segment = Segment::udp_fragment; break;
    case gso_udp_l4: o.segment = Segment::udp4_or_6; break;
  }
  return o;
}
Header header_of(const net::Offload& o, bool sums_wanted) {
  using Segment = net::Offload::Segment;
  Header h;
  if (o.needs_checksum)
    h.flags = header_needs_checksum, h.checksum_start = o.checksum_start, h.checksum_offset = o.checksum_offset;
  else if (o.checksum_good && sums_wanted)
    h.flags = header_data_valid;
  switch (o.segment) {
    case Segment::none: return h;
    case Segment::tcp4: h.gso_type = gso_tcp4; break;
    case Segment::tcp6: h.gso_type = gso_tcp6; break;
    case Segment::udp_fragment: h.gso_type = gso_udp; break;
    case Segment::udp4_or_6: h.gso_type = gso_udp_l4; break;
  }
  if (o.ecn) h.gso_type |= gso_ecn;
  h.header_bytes = o.header_bytes, h.segment_bytes = o.segment_bytes;
  return h;
}

}  // namespace

class VirtioNet final : public VirtioDevice, public NetCard {
 public:
  static const TypeInfo type;
  static constexpr VirtioPciModel pci{.stem = "virtio-net-pci",
                                      .doc = "virtio network card.",
                                      .class_code = 0x020000,
                                      .legacy_id = 0x1000,
                                      .vectors = [](unsigned queues) { return queues + 1; },
                                      .category = "Network devices",
                                      .alias = "virtio-net",
                                      .romfile = "efi-virtio.rom"};
  VirtioNet() : VirtioDevice(1) {}
  ~VirtioNet() override { *alive_ = false; }

  std::vector<BootEntry> boot_entries() const override { return {{.index = boot_index_, .tail = "/ethernet-phy@0"}}; }
  const net::Mac& mac() const override { return realized() ? current_mac_ : mac_; }
  bool card_receive(unsigned index, const net::Packet& packet) override;
  void card_resume(unsigned index) override;
  void card_link_changed(unsigned index) override;
  net::OffloadSet card_takes() const override;
  std::optional<net::RxFilter> rx_filter() const override;
  void announce() override;
  Result<> after_load() override;

 private:
  Result<> realize_virtio() override;
  Task<> unrealize_virtio() override;
  u64 device_features() const override;
  usize config_bytes() const override { return sizeof(Config); }
  void read_config(std::span<u8> image) const override;
  void write_config(std::span<const u8> image, usize first, usize count) override;
  void features_set() override;
  void driver_ready() override;
  void reset_virtio() override;
  void queue_notified(unsigned n) override;

  unsigned control_queue() const { return pairs_ * 2; }
  usize header_bytes() const { return has(virtio::version_1) || has(f::mrg_rxbuf) ? 12 : 10; }
  void transmit(unsigned pair);
  bool accepts(std::span<const u8, 18> start) const;
  void control();
  bool control_request(const Chain& chain);
  bool set_table(const Chain& chain);
  void interrupt_soon(unsigned pair);
  void offloads_changed();
  static const Field properties[33], state[13];

  // Properties
  bool csum_ = true, guest_csum_ = true, gso_ = true, guest_tso4_ = true, guest_tso6_ = true, guest_ecn_ = true, guest_ufo_ = true,
       guest_announce_ = true, host_tso4_ = true, host_tso6_ = true, host_ecn_ = true, host_ufo_ = true, mrg_rxbuf_ = true, status_ = true,
       ctrl_vq_ = true, ctrl_rx_ = true, ctrl_vlan_ = true, ctrl_rx_extra_ = true, ctrl_mac_addr_ = true, ctrl_guest_offloads_ = true,
       mq_ = false;
  u16 rx_queue_size_ = 256, tx_queue_size_ = 256, host_mtu_ = 0;
  i32 speed_ = -1;
  std::string duplex_ = "unknown", tx_ = "bh";
  u32 tx_timer_ = 150000;
  i32 tx_burst_ = 256;
  bool failover_ = false;

  // State
  unsigned pairs_ = 1;
  net::Mac current_mac_{};
  u16 pairs_in_use_ = 1;
  u64 offloads_ = 0;  // guest offloads in effect
  bool promiscuous_ = true, all_multicast_ = false, all_unicast_ = false, no_multicast_ = false, no_unicast_ = false, no_broadcast_ = false,
       announcing_ = false;
  std::vector<net::Mac> unicast_, multicast_;
  bool unicast_overflow_ = false, multicast_overflow_ = false;
  std::array<u64, 64> vlans_{};
  u64 interrupts_wanted_ = 0;                                   // receive queues that will be told of at the end of this turn
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // posts must not keep a device beyond its machine
  std::vector<Chain> taken_;                                    // of one packet
};

constexpr Field VirtioNet::properties[33] = {
    card_field<VirtioNet, &VirtioNet::mac_>("mac", "Its Ethernet address; absent: one that nobody has yet."),
    card_field<VirtioNet, &VirtioNet::netdev_>("netdev", "Id of the back end."),
    card_field<VirtioNet, &VirtioNet::boot_index_>("bootindex", "Place in the boot order."),
    field<&VirtioNet::csum_>("csum", "Packets without checksums may be sent."),
    field<&VirtioNet::guest_csum_>("guest_csum", "Packets without checksums may be received."),
    field<&VirtioNet::gso_>("gso", "All sorts of segmentation."),
    field<&VirtioNet::guest_tso4_>("guest_tso4", "Large TCP segments over IPv4 may be received."),
    field<&VirtioNet::guest_tso6_>("guest_tso6", "Large TCP segments over IPv6 may be received."),
    field<&VirtioNet::guest_ecn_>("guest_ecn", "The same with congestion notification."),
    field<&VirtioNet::guest_ufo_>("guest_ufo", "Large UDP packets may be received."),
    field<&VirtioNet::guest_announce_>("guest_announce", "The guest announces itself."),
    field<&VirtioNet::host_tso4_>("host_tso4", "Large TCP segments over IPv4 may be sent."),
    field<&VirtioNet::host_tso6_>("host_tso6", "Large TCP segments over IPv6 may be sent."),
    field<&VirtioNet::host_ecn_>("host_ecn", "The same with congestion notification."),
    field<&VirtioNet::host_ufo_>("host_ufo", "Large UDP packets may be sent."),
    field<&VirtioNet::mrg_rxbuf_>("mrg_rxbuf", "A packet may fill several buffers."),
    field<&VirtioNet::status_>("status", "The link's state is shown."),
    field<&VirtioNet::ctrl_vq_>("ctrl_vq", "There is a control queue."),
    field<&VirtioNet::ctrl_rx_>("ctrl_rx", "It sets receive modes."),
    field<&VirtioNet::ctrl_vlan_>("ctrl_vlan", "It sets the VLAN filter."),
    field<&VirtioNet::ctrl_rx_extra_>("ctrl_rx_extra", "It sets more receive modes."),
    field<&VirtioNet::ctrl_mac_addr_>("ctrl_mac_addr", "It sets the address."),
    field<&VirtioNet::ctrl_guest_offloads_>("ctrl_guest_offloads", "It sets what is received undone."),
    field<&VirtioNet::mq_>("mq", "Several pairs of queues: as many as the back end has."),
    field<&VirtioNet::rx_queue_size_>("rx_queue_size", "Entries of a receive queue.", {.min = 256, .max = 1024}),
    field<&VirtioNet::tx_queue_size_>("tx_queue_size", "Entries of a transmit queue.", {.min = 256, .max = 1024}),
    field<&VirtioNet::host_mtu_>("host_mtu", "Largest packet that the network carries; 0: not said."),
    field<&VirtioNet::speed_>("speed", "Speed that is shown, in Mb/s."),
    field<&VirtioNet::duplex_>("duplex", "half or full."),
    field<&VirtioNet::tx_>("tx", "How sending is put off: only bh is possible."),
    field<&VirtioNet::tx_timer_>("x-txtimer", "Not used."),
    field<&VirtioNet::tx_burst_>("x-txburst", "Not used."),
    field<&VirtioNet::failover_>("failover", "Stand-by for another card: not possible."),
};
constexpr Field VirtioNet::state[13] = {
    field<&VirtioNet::current_mac_>("mac", "address"),
    field<&VirtioNet::pairs_in_use_>("pairs", "pairs in use"),
    field<&VirtioNet::offloads_>("offloads", "guest offloads in effect"),
    field<&VirtioNet::promiscuous_>("promisc", "takes everything"),
    field<&VirtioNet::all_multicast_>("allmulti", "takes all multicast"),
    field<&VirtioNet::all_unicast_>("alluni", "takes all unicast"),
    field<&VirtioNet::no_multicast_>("nomulti", "takes no multicast"),
    field<&VirtioNet::no_unicast_>("nouni", "takes no unicast"),
    field<&VirtioNet::no_broadcast_>("nobcast", "takes no broadcasts"),
    field<&VirtioNet::announcing_>("announcing", "asks the guest to announce itself"),
    field<&VirtioNet::unicast_>("unicast", "unicast table"),
    field<&VirtioNet::multicast_>("multicast", "multicast table"),
    field<&VirtioNet::vlans_>("vlans", "VLAN filter"),
};
constinit const TypeInfo VirtioNet::type{.name = "virtio-net-device",
                                         .doc = "virtio network card.",
                                         .parent = &VirtioDevice::type,
                                         .properties = properties,
                                         .state = state,
                                         .make = make<VirtioNet>,
                                         .category = "Network devices"};
static Registered registered{VirtioNet::type};
static RegisteredVirtioPci<VirtioNet> registered_pci;

// --- Life

Result<> VirtioNet::realize_virtio() {
  if (failover_) return fail("'failover' is not possible: there is no stand-by");
  if (duplex_ != "half" && duplex_ != "full" && duplex_ != "unknown") return fail("'duplex' must be 'half' or 'full'");
  if (!std::has_single_bit(rx_queue_size_) || !std::has_single_bit(tx_queue_size_))
    return fail("'rx_queue_size' and 'tx_queue_size' take powers of two from 256 to 1024");
  pairs_ = netdev_ && mq_ ? std::clamp(netdev_->queues(), 1u, 256u) : 1;
  for (unsigned i = 0; i < pairs_; i++) add_queue(rx_queue_size_), add_queue(tx_queue_size_);
  if (ctrl_vq_) add_queue(64);
  TRY(plug_in(transport().owner(), pairs_));
  reset_virtio();
  return {};
}
Task<> VirtioNet::unrealize_virtio() {
  pull_out();
  co_return Result<>{};
}

u64 VirtioNet::device_features() const {
  u64 v = f::mac;
  const auto add = [&](bool on, u64 bits) { v |= on ? bits : 0; };
  add(csum_, f::csum), add(guest_csum_, f::guest_csum), add(mrg_rxbuf_, f::mrg_rxbuf), add(status_, f::status);
  add(csum_ && gso_ && host_tso4_, f::host_tso4), add(csum_ && gso_ && host_tso6_, f::host_tso6);
  add(csum_ && gso_ && host_ecn_, f::host_ecn), add(csum_ && gso_ && host_ufo_, f::host_ufo);
  add(guest_csum_ && gso_ && guest_tso4_, f::guest_tso4), add(guest_csum_ && gso_ && guest_tso6_, f::guest_tso6);
  add(guest_csum_ && gso_ && guest_ecn_, f::guest_ecn), add(guest_csum_ && gso_ && guest_ufo_, f::guest_ufo);
  add(host_mtu_, f::mtu), add(speed_ >= 0 || duplex_ != "unknown", f::speed_duplex);
  if (ctrl_vq_) {
    v |= f::ctrl_vq;
    add(ctrl_rx_, f::ctrl_rx), add(ctrl_vlan_, f::ctrl_vlan), add(ctrl_rx_extra_, f::ctrl_rx_extra), add(ctrl_mac_addr_, f::ctrl_mac_addr);
    add(ctrl_guest_offloads_, f::guest_offloads), add(guest_announce_ && status_, f::guest_announce), add(mq_ && pairs_ > 1, f::mq);
  }
  return v;
}

void VirtioNet::read_config(std::span<u8> image) const {
  Config c;
  std::ranges::copy(current_mac_, c.mac);
  c.status = static_cast<u16>((link_up() ? status_link_up : 0) | (announcing_ ? status_announce : 0));
  c.pairs = static_cast<u16>(pairs_);
  c.mtu = host_mtu_;
  c.speed = speed_ >= 0 ? static_cast<u32>(speed_) : ~u32{0};
  c.duplex = duplex_ == "full" ? 1 : duplex_ == "half" ? 0 : 0xff;
  std::memcpy(image.data(), &c, std::min(image.size(), sizeof c));
}
void VirtioNet::write_config(std::span<const u8> image, usize first, usize) {
  // A driver without the control queue's command writes its address here (§5.1.4, legacy).
  if (first < 6 && !has(virtio::version_1) && !has(f::ctrl_mac_addr)) std::copy_n(image.begin(), 6, current_mac_.begin());
}

void VirtioNet::features_set() {
  offloads_ = driver_features() & f::may_change;
  offloads_changed();
}
void VirtioNet::offloads_changed() {
  if (netdev_) netdev_->peer_takes(card_takes());
}
void VirtioNet::driver_ready() {
  offloads_changed();  // only a driver that runs takes anything undone: a tap's kernel hears of it now
  for (unsigned i = 0; i < pairs_; i++) kick(i * 2), kick(i * 2 + 1);
}
void VirtioNet::reset_virtio() {
  current_mac_ = mac_;
  pairs_in_use_ = 1;
  offloads_ = 0;
  promiscuous_ = true;
  all_multicast_ = all_unicast_ = no_multicast_ = no_unicast_ = no_broadcast_ = announcing_ = false;
  unicast_.clear(), multicast_.clear();
  unicast_overflow_ = multicast_overflow_ = false;
  vlans_.fill(0);
  interrupts_wanted_ = 0;
  offloads_changed();
  for (unsigned i = 0; i < ends(); i++) end(i).ready();  // what came before is for nobody
}
Result<> VirtioNet::after_load() {
  if (unicast_.size() > table_limit || multicast_.size() > table_limit)
    return fail("the address tables hold more than {} entries", table_limit);
  if (!pairs_in_use_ || pairs_in_use_ > pairs_) return fail("{} pairs of queues are in use, and there are {}", pairs_in_use_, pairs_);
  offloads_ &= f::may_change;
  offloads_changed();
  return VirtioDevice::after_load();
}

net::OffloadSet VirtioNet::card_takes() const {
  if (!running()) return {};
  const auto on = [&](u64 bit) { return (offloads_ & bit) != 0; };
  return {.checksum = on(f::guest_csum),
          .tcp4 = on(f::guest_tso4),
          .tcp6 = on(f::guest_tso6),
          .ecn = on(f::guest_ecn),
          .udp_fragment = on(f::guest_ufo)};
}

void VirtioNet::card_link_changed(unsigned index) {
  if (index == 0 && realized() && has(f::status)) config_changed();
}
void VirtioNet::announce() {
  if (has(f::guest_announce) && running()) {
    announcing_ = true;
    return config_changed();
  }
  NetCard::announce();
}

// --- Transmission

void VirtioNet::queue_notified(unsigned n) {
  if (n == control_queue()) return control();
  const unsigned pair = n / 2;
  if (pair >= pairs_) return;
  if (n & 1) return transmit(pair);
  queue(n)->set_notification(false);  // until it is empty again
  end(pair).ready();
}
void VirtioNet::card_resume(unsigned index) {
  if (realized() && running()) kick(index * 2 + 1);
}

void VirtioNet::transmit(unsigned pair) {
  VirtQueue& q = *queue(pair * 2 + 1);
  if (end(pair).sending()) {
    if (!end(pair).send(net::Packet{{}})) return;  // the peer still has segments of ours to take; it calls
  }
  q.set_notification(false);
  std::vector<iovec> parts;
  unsigned done = 0;
  const usize header = header_bytes();
  while (running()) {
    if (done == requests_a_turn) {
      kick(q.index());
      break;
    }
    auto chain = q.pop();
    if (!chain) {
      if (!running()) return;
      if (q.set_notification(true)) {
        q.set_notification(false);
        continue;
      }
      break;
    }
    Header h;
    if (chain->copy_in(0, std::span{reinterpret_cast<u8*>(&h), 10}) != 10 || chain->readable_bytes() < header)
      return broken("a packet without its header");
    const GuestMapping data = chain->map_readable(header, chain->readable_bytes() - header);
    if (data.ok() && data.bytes() <= net::max_packet_bytes) {
      parts.clear();
      for (const std::span<u8> s : data.spans()) parts.push_back({s.data(), s.size()});
      if (!end(pair).send(net::Packet{parts, offload_of(h)})) {
        q.give_back(std::move(*chain));
        break;  // card_resume() comes
      }
    }
    q.stage(std::move(*chain), 0);
    done++;
  }
  q.publish();
  q.notify();
}

// --- Reception

bool VirtioNet::accepts(std::span<const u8, 18> start) const {
  if (promiscuous_) return true;
  if (start[12] == 0x81 && start[13] == 0 && has(f::ctrl_vlan)) {
    const u32 id = (start[14] << 8 | start[15]) & 0xfff;
    if (!(vlans_[id / 64] >> (id & 63) & 1)) return false;
  }
  net::Mac to;
  std::copy_n(start.begin(), 6, to.begin());
  if (std::ranges::all_of(to, [](u8 b) { return b == 0xff; })) return !no_broadcast_;
  if (net::is_multicast(to.data())) {
    if (no_multicast_) return false;
    return all_multicast_ || multicast_overflow_ || std::ranges::find(multicast_, to) != multicast_.end();
  }
  if (no_unicast_) return false;
  return all_unicast_ || unicast_overflow_ || to == current_mac_ || std::ranges::find(unicast_, to) != unicast_.end();
}

void VirtioNet::interrupt_soon(unsigned pair) {
  const bool posted = interrupts_wanted_ != 0;
  interrupts_wanted_ |= u64{1} << (pair & 63);
  if (posted) return;
  machine().main_loop().post([this, alive = alive_] {
    if (!*alive) return;
    const u64 wanted = std::exchange(interrupts_wanted_, 0);
    if (!realized() || !running()) return;
    for (unsigned i = 0; i < pairs_; i++)
      if (wanted >> (i & 63) & 1) queue(i * 2)->notify();
  });
}

bool VirtioNet::card_receive(unsigned index, const net::Packet& packet) {
  if (!running()) return true;  // no driver: nobody listens
  std::array<u8, 18> start{};
  packet.copy_to(start);
  if (!accepts(start)) return true;
  const unsigned pair = index < pairs_in_use_ ? index : 0;
  VirtQueue& q = *queue(pair * 2);
  const usize header = header_bytes(), size = packet.size(), total = header + size;
  Header h = header_of(packet.offload, offloads_ & f::guest_csum);
  taken_.clear();
  const auto undo = [&] {
    while (!taken_.empty()) {
      q.give_back(std::move(taken_.back()));
      taken_.pop_back();
    }
  };
  u64 room = 0;
  while (room < total) {
    auto chain = q.pop();
    if (!chain) {
      if (!running()) return taken_.clear(), true;
      if (q.in_flight() >= q.state.size) {  // all that a ring can hold, and it is not enough: it can never fit
        undo();
        return true;
      }
      // Asked while all that is there is taken: with the event index the driver kicks for what it puts behind that. Asked after the
      // buffers are given back, it would never: their number has passed.
      if (q.set_notification(true)) {
        q.set_notification(false);
        continue;
      }
      undo();
      return false;  // the driver kicks when it has put more buffers there
    }
    if (taken_.empty() && chain->writable_bytes() < header) {
      broken("a receive buffer that is smaller than the header");
      return true;
    }
    room += chain->writable_bytes();
    taken_.push_back(std::move(*chain));
    if (room < total && !has(f::mrg_rxbuf)) {
      undo();  // it can never fit
      return true;
    }
  }
  h.buffers = static_cast<u16>(taken_.size());
  usize part = 0, part_from = 0, left = size;
  for (usize i = 0; i < taken_.size(); i++) {
    Chain& chain = taken_[i];
    u64 at = 0;
    if (i == 0) chain.copy_out(0, std::span{reinterpret_cast<const u8*>(&h), header}), at = header;
    while (left && at < chain.writable_bytes()) {
      const iovec& v = packet.parts[part];
      const usize n = std::min<u64>({v.iov_len - part_from, chain.writable_bytes() - at, left});
      if (n && chain.copy_out(at, std::span{static_cast<const u8*>(v.iov_base) + part_from, n}) != n) {
        broken("a receive buffer that is no memory");
        return taken_.clear(), true;
      }
      at += n, part_from += n, left -= n;
      if (part_from == v.iov_len) part++, part_from = 0;
    }
    q.stage(std::move(chain), at);
  }
  taken_.clear();
  q.publish();
  interrupt_soon(pair);
  return true;
}

// --- Control queue

void VirtioNet::control() {
  VirtQueue& q = *queue(control_queue());
  for (unsigned n = 0; n < 64 && running(); n++) {
    auto chain = q.pop();
    if (!chain) return q.notify();
    if (!chain->writable_bytes()) return broken("a control request without room for the answer");
    const u8 answer = control_request(*chain) ? 0 : 1;
    chain->copy_out(0, answer);
    q.push(std::move(*chain), 1);
  }
  q.notify();
  if (running()) kick(q.index());
}

bool VirtioNet::set_table(const Chain& chain) {
  u64 at = 2;
  std::vector<net::Mac> tables[2];
  bool overflow[2] = {};
  for (unsigned t = 0; t < 2; t++) {
    const auto entries = chain.copy_in<u32>(at);
    if (!entries) return false;
    at += 4;
    if (u64{*entries} * 6 > chain.readable_bytes() - at) return false;
    // What does not fit makes the card take all of that sort, as cards do.
    if (*entries > table_limit - tables[0].size()) {
      overflow[t] = true;
    } else {
      for (u32 i = 0; i < *entries; i++) {
        const auto mac = chain.copy_in<net::Mac>(at + u64{i} * 6);
        if (!mac) return false;
        tables[t].push_back(*mac);
      }
    }
    at += u64{*entries} * 6;
  }
  unicast_ = std::move(tables[0]), multicast_ = std::move(tables[1]);
  unicast_overflow_ = overflow[0], multicast_overflow_ = overflow[1];
  return true;
}

bool VirtioNet::control_request(const Chain& chain) {
  const auto kind = chain.copy_in<u8>(0), command = chain.copy_in<u8>(1);
  if (!kind || !command) return false;
  switch (*kind) {
    case 0: {  // receive mode
      const auto on = chain.copy_in<u8>(2);
      if (!on || !has(f::ctrl_rx) || (*command > 1 && !has(f::ctrl_rx_extra))) return false;
      bool* const flags[] = {&promiscuous_, &all_multicast_, &all_unicast_, &no_multicast_, &no_unicast_, &no_broadcast_};
      if (*command >= std::size(flags)) return false;
      *flags[*command] = *on;
      return true;
    }
    case 1:  // addresses
      if (*command == 0) return has(f::ctrl_rx) && set_table(chain);
      if (*command == 1 && has(f::ctrl_mac_addr)) {
        const auto mac = chain.copy_in<net::Mac>(2);
        if (!mac) return false;
        current_mac_ = *mac;
        return true;
      }
      return false;
    case 2: {  // VLANs
      const auto id = chain.copy_in<u16>(2);
      if (!id || *id > 4095 || *command > 1 || !has(f::ctrl_vlan)) return false;
      u64& word = vlans_[*id / 64];
      const u64 bit = u64{1} << (*id & 63);
      word = *command == 0 ? word | bit : word & ~bit;
      return true;
    }
    case 3:  // announcement made
      if (*command != 0 || !announcing_) return false;
      announcing_ = false;
      return true;
    case 4: {  // pairs in use
      const auto pairs = chain.copy_in<u16>(2);
      if (!pairs || *command != 0 || !has(f::mq) || !*pairs || *pairs > pairs_) return false;
      pairs_in_use_ = *pairs;
      return true;
    }
    case 5: {  // guest offloads
      const auto wanted = chain.copy_in<u64>(2);
      if (!wanted || *command != 0 || !has(f::guest_offloads) || *wanted & ~(driver_features() & f::may_change)) return false;
      offloads_ = *wanted;
      offloads_changed();
      return true;
    }
    default: return false;
  }
}

std::optional<net::RxFilter> VirtioNet::rx_filter() const {
  using State = net::RxState;
  net::RxFilter r{.name = card_name(), .promiscuous = promiscuous_};
  r.multicast = no_multicast_ ? State::none : all_multicast_ ? State::all : State::normal;
  r.unicast = no_unicast_ ? State::none : all_unicast_ ? State::all : State::normal;
  r.vlan = has(f::ctrl_vlan) ? State::normal : State::all;
  r.broadcast_allowed = !no_broadcast_;
  r.multicast_overflow = multicast_overflow_, r.unicast_overflow = unicast_overflow_;
  r.main_mac = net::mac_text(mac());
  for (i64 id = 0; id < 4096; id++)
    if (!has(f::ctrl_vlan) || vlans_[usize(id) / 64] >> (id & 63) & 1) r.vlan_table.push_back(id);
  for (const net::Mac& m : unicast_) r.unicast_table.push_back(net::mac_text(m));
  for (const net::Mac& m : multicast_) r.multicast_table.push_back(net::mac_text(m));
  return r;
}

}  // namespace vmm::hw
