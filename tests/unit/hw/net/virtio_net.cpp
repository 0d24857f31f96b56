// virtio-net as a driver sees it: frames both ways, buffers that are merged, offloads, the control queue, several pairs of queues, and
// drivers that break the rules.
#include "hw/net/nic.h"
#include "src/base/bits.h"
#include "tests/unit/hw/saved.h"
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {

namespace {
using namespace hw::virtio;
constexpr u64 csum = 1 << 0, guest_csum = 1 << 1, guest_offloads = 1 << 2, guest_tso4 = 1 << 7, host_tso4 = 1 << 11, mrg_rxbuf = 1 << 15,
              link_status = 1 << 16, ctrl_vq = 1 << 17, ctrl_rx = 1 << 18, ctrl_vlan = 1 << 19, ctrl_rx_extra = 1 << 20,
              guest_announce = 1 << 21, mq = 1 << 22, ctrl_mac = 1 << 23;
constexpr u64 control_features = ctrl_vq | ctrl_rx | ctrl_vlan | ctrl_rx_extra | ctrl_mac | link_status;
constexpr u64 header_bytes = 12, head_at = 0x8000, data_at = 0x8100, in_at = 0xa000, control_at = 0xf000, answer_at = 0xff00;
constexpr net::Mac ours{0x52, 0x54, 0, 0, 0, 1};
using Bytes = std::vector<u8>;

// The other end of the cable.
class Wire final : public net::End {
 public:
  explicit Wire(net::OffloadSet takes = {}) : takes_(takes) {}
  bool receive(const net::Packet& packet) override {
    if (full) return false;
    Bytes bytes(packet.size());
    packet.copy_to(bytes);
    frames.push_back(std::move(bytes));
    last = packet.offload;
    return true;
  }
  void resume() override { resumed++; }
  net::OffloadSet takes() const override { return takes_; }
  std::vector<Bytes> frames;
  net::Offload last;
  bool full = false;
  unsigned resumed = 0;

 private:
  net::OffloadSet takes_;
};

// A back end with two queues.
class TwoQueues final : public net::Netdev {
 public:
  static const TypeInfo type;
  std::string_view kind() const override { return "bench"; }
  std::string info() const override { return ""; }
  net::End& queue(unsigned n) override { return wires[n]; }
  unsigned queues() const override { return 2; }
  Wire wires[2];
};
constinit const TypeInfo TwoQueues::type{
    .name = "netdev-bench", .parent = &net::Netdev::type, .make = make<TwoQueues>, .user_creatable = false};
const net::RegisteredNetdev two_queues{{.name = "bench",
                                        .doc = "For tests.",
                                        .options = {},
                                        .make = [](EventLoop&, const std::string&, const Value&) -> Result<Ref<net::Netdev>> {
                                          return Ref<net::Netdev>{make_object<TwoQueues>()};
                                        }}};

struct NetBench {
  explicit NetBench(u64 features = mrg_rxbuf, std::vector<std::pair<std::string, Value>> more = {}, net::OffloadSet takes = {})
      : wire(takes), device(bench.add("virtio-net-pci", all(std::move(more)))), driver(bench, features) {
    bench.machine().run_state().start();
    if (!card().end(0).peer()) net::End::link(card().end(0), wire);
  }
  static std::vector<std::pair<std::string, Value>> all(std::vector<std::pair<std::string, Value>> p) {
    p.emplace_back("addr", "5"), p.emplace_back("mac", "52:54:00:00:00:01"), p.emplace_back("romfile", "");
    return p;
  }
  net::Card& card() { return dynamic_cast<net::Card&>(bench.device<hw::VirtioPci>().backend()); }
  bool broken() { return driver.status() & needs_reset; }
  void put(u64 at, const Bytes& bytes) { driver.memory().write(GuestPhys{at}, bytes); }
  Bytes get(u64 at, usize n) {
    Bytes b(n);
    driver.memory().read(GuestPhys{at}, b);
    return b;
  }
  // A frame from the driver, behind a header.
  u16 transmit(const Bytes& frame, const Bytes& header = Bytes(header_bytes)) {
    put(head_at, header), put(data_at, frame);
    const u16 id = driver.add(1, {{head_at, static_cast<u32>(header.size())}, {data_at, static_cast<u32>(frame.size())}});
    driver.kick(1);
    return id;
  }
  void offer(unsigned count, u32 bytes, u64 at = in_at) {
    for (unsigned i = 0; i < count; i++) driver.add(0, {{at + u64{i} * bytes, bytes, true}});
    driver.kick(0);
  }
  bool deliver(const Bytes& frame, const net::Offload& offload = {}) {
    const bool taken = wire.send(net::FlatPacket{frame, offload});
    driver.run();
    return taken;
  }
  // The answer to a control request; 0xee: there was none.
  u8 control(u8 kind, u8 command, const Bytes& more) {
    Bytes request{kind, command};
    request.insert(request.end(), more.begin(), more.end());
    put(control_at, request), put(answer_at, {0xee});
    driver.add(2, {{control_at, static_cast<u32>(request.size())}, {answer_at, 1, true}});
    driver.kick(2);
    (void)driver.used(2);
    return get(answer_at, 1)[0];
  }
  // Whether a frame to this address gets through.
  bool hears(const net::Mac& to, std::optional<u16> vlan = {}) {
    Bytes f = frame(60, to);
    if (vlan) f[12] = 0x81, f[13] = 0, f[14] = static_cast<u8>(*vlan >> 8), f[15] = static_cast<u8>(*vlan);
    offer(1, 256);
    deliver(f);
    if (driver.used(0)) return true;
    // Its buffer is still there: a broadcast takes it.
    control(0, 5, {0});
    deliver(frame(60, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));
    CHECK(driver.used(0).has_value());
    return false;
  }
  static Bytes frame(usize size, const net::Mac& to = ours, u8 fill = 0x55) {
    Bytes f(size, fill);
    std::ranges::copy(to, f.begin());
    f[12] = 8, f[13] = 0;
    return f;
  }
  DeviceBench bench;
  Wire wire;
  hw::Device& device;
  VirtioDriver driver;
};

// An IPv4 TCP frame without a sum.
Bytes tcp_frame(usize payload) {
  Bytes f = NetBench::frame(54 + payload, ours, 0x11);
  std::fill(f.begin() + 14, f.begin() + 54, u8{0});
  f[14] = 0x45, f[22] = 64, f[23] = 6;
  store_be<u16>(&f[16], static_cast<u16>(40 + payload));
  store_be<u32>(&f[26], 0x0a000001), store_be<u32>(&f[30], 0x0a000002);
  f[46] = 0x50, f[47] = 0x10;
  // The field of the sum holds that of the pseudo header.
  const u32 pseudo = net::internet_sum(std::span<const u8>{f}.subspan(26, 8)) + 6 + static_cast<u32>(20 + payload);
  store_be<u16>(&f[50], static_cast<u16>(~net::internet_checksum(pseudo)));
  return f;
}
bool tcp_sum_good(std::span<const u8> f) {
  const u32 pseudo = net::internet_sum(f.subspan(26, 8)) + 6 + static_cast<u32>(f.size() - 34);
  return net::internet_checksum(net::internet_sum(f.subspan(34), pseudo)) == 0;
}
// The header of a frame whose TCP sum is for the other side; with a segment size, cutting too.
Bytes undone(u16 segment = 0) {
  Bytes h(header_bytes);
  h[0] = 1;
  if (segment) h[1] = 1, store_le<u16>(&h[2], 54), store_le<u16>(&h[4], segment);
  store_le<u16>(&h[6], 34), store_le<u16>(&h[8], 16);
  return h;
}
}  // namespace

// --- Configuration

TEST(virtio_net_shows_its_address_its_link_and_its_mtu) {
  NetBench b{link_status, {{"host_mtu", 1400}, {"speed", 1000}, {"duplex", "full"}}};
  CHECK_EQ(b.driver.config(0, 4), 0x00005452u);
  CHECK_EQ(b.driver.config(4, 2), 0x0100u);
  CHECK_EQ(b.driver.config(6, 2), 1u);
  CHECK_EQ(b.driver.config(8, 2), 1u);
  CHECK_EQ(b.driver.config(10, 2), 1400u);
  CHECK_EQ(b.driver.config(12, 4), 1000u);
  CHECK_EQ(b.driver.config(16, 1), 1u);
}

TEST(virtio_net_tells_of_a_cable_that_is_pulled_and_loses_frames_meanwhile) {
  NetBench b{link_status | mrg_rxbuf};
  b.offer(2, 512);
  (void)b.driver.isr();
  b.card().end(0).set_link(false);
  b.driver.run();
  CHECK_EQ(b.driver.config(6, 2), 0u);
  CHECK_EQ(b.driver.isr() & 2, 2);
  CHECK(b.deliver(b.frame(60)));
  CHECK(!b.driver.used(0));
  b.transmit(b.frame(60));
  CHECK(b.driver.used(1) && b.wire.frames.empty());
  b.card().end(0).set_link(true);
  b.driver.run();
  CHECK_EQ(b.driver.config(6, 2), 1u);
  CHECK(b.deliver(b.frame(60)));
  CHECK(b.driver.used(0).has_value());
}

TEST(virtio_net_asks_its_driver_to_announce_itself) {
  NetBench b{link_status | ctrl_vq | guest_announce};
  CHECK_EQ(b.control(3, 0, {}), 1);  // nobody asked
  (void)b.driver.isr();
  b.card().announce();
  b.driver.run();
  CHECK_EQ(b.driver.config(6, 2), 3u);
  CHECK_EQ(b.driver.isr() & 2, 2);
  CHECK_EQ(b.control(3, 0, {}), 0);
  CHECK_EQ(b.driver.config(6, 2), 1u);
}

// --- Transmission

TEST(virtio_net_sends_frames_from_any_arrangement_of_buffers) {
  NetBench b;
  const Bytes frame = b.frame(100);
  const u16 id = b.transmit(frame);
  CHECK(b.wire.frames.size() == 1 && b.wire.frames[0] == frame);
  const auto used = b.driver.used(1);
  CHECK(used && used->id == id && used->length == 0);
  CHECK_EQ(b.driver.isr() & 1, 1);
  // Header and frame in one buffer; then the frame in three, of which the first shares with the header.
  b.put(head_at, Bytes(header_bytes)), b.put(head_at + header_bytes, frame);
  b.driver.add(1, {{head_at, header_bytes + 100}});
  b.driver.add(1, {{head_at, header_bytes + 3}, {head_at + header_bytes + 3, 50}, {head_at + header_bytes + 53, 47}});
  b.driver.kick(1);
  CHECK(b.wire.frames.size() == 3 && b.wire.frames[1] == frame && b.wire.frames[2] == frame);
}

TEST(virtio_net_keeps_a_frame_that_the_peer_cannot_take) {
  NetBench b;
  b.wire.full = true;
  b.transmit(b.frame(60, ours, 1));
  CHECK(!b.driver.used(1));
  b.put(data_at + 0x100, b.frame(61, ours, 2));
  b.driver.add(1, {{head_at, header_bytes}, {data_at + 0x100, 61}});
  b.driver.kick(1);
  CHECK(!b.driver.used(1));
  b.wire.full = false;
  b.wire.ready();
  b.driver.run();
  CHECK(b.wire.frames.size() == 2 && b.wire.frames[0].size() == 60 && b.wire.frames[1].size() == 61);
  CHECK(b.driver.used(1) && b.driver.used(1));
}

TEST(virtio_net_leaves_sums_and_cutting_to_a_peer_that_does_them) {
  NetBench b{csum | host_tso4, {}, {.checksum = true, .tcp4 = true}};
  b.transmit(tcp_frame(3000), undone(1000));
  CHECK_EQ(b.wire.frames.size(), 1u);
  CHECK_EQ(b.wire.frames[0].size(), 3054u);
  CHECK(b.wire.last.needs_checksum && b.wire.last.segment == net::Offload::Segment::tcp4 && b.wire.last.segment_bytes == 1000);
  CHECK(b.wire.last.checksum_start == 34 && b.wire.last.checksum_offset == 16);
}

TEST(virtio_net_does_sums_and_cutting_for_a_peer_that_does_not) {
  NetBench b{csum | host_tso4};
  b.transmit(tcp_frame(100), undone());
  CHECK(b.wire.frames.size() == 1 && tcp_sum_good(b.wire.frames[0]));
  b.wire.frames.clear();
  b.transmit(tcp_frame(2500), undone(1000));
  CHECK_EQ(b.wire.frames.size(), 3u);
  usize payload = 0;
  for (const Bytes& f : b.wire.frames) {
    CHECK(tcp_sum_good(f));
    CHECK_EQ(load_be<u32>(&f[38]), payload);
    payload += f.size() - 54;
  }
  CHECK_EQ(payload, 2500u);
}

TEST(virtio_net_sends_the_segments_that_a_full_peer_left_over) {
  NetBench b{csum | host_tso4};
  b.wire.full = true;
  b.transmit(tcp_frame(2500), undone(1000));
  CHECK(b.wire.frames.empty());
  b.wire.full = false;
  b.wire.ready();
  b.driver.run();
  CHECK_EQ(b.wire.frames.size(), 3u);
  CHECK(b.driver.used(1).has_value());
}

// --- Reception

TEST(virtio_net_receives_into_one_buffer) {
  NetBench b;
  b.offer(1, 512);
  const Bytes frame = b.frame(100);
  CHECK(b.deliver(frame));
  const auto used = b.driver.used(0);
  CHECK(used && used->length == header_bytes + 100);
  CHECK_EQ(b.driver.load<u16>(in_at + 10), 1);
  CHECK(b.get(in_at + header_bytes, 100) == frame);
  CHECK_EQ(b.driver.isr() & 1, 1);
}

TEST(virtio_net_merges_buffers_for_a_long_frame) {
  for (const bool packed : {false, true}) {
    NetBench b{mrg_rxbuf | (packed ? ring_packed : 0), {{"packed", packed}}};
    b.offer(4, 64);
    Bytes frame = b.frame(150);
    for (usize i = 14; i < frame.size(); i++) frame[i] = static_cast<u8>(i);
    CHECK(b.deliver(frame));
    CHECK_EQ(b.driver.load<u16>(in_at + 10), 3);
    const u32 lengths[] = {64, 64, 34};
    for (const u32 length : lengths) {
      const auto used = b.driver.used(0);
      CHECK(used && used->length == length);
    }
    CHECK(!b.driver.used(0));
    CHECK(b.get(in_at + header_bytes, 150) == frame);
  }
}

TEST(virtio_net_drops_what_a_driver_without_merging_has_no_room_for) {
  NetBench b{0};
  b.offer(2, 100);
  CHECK(b.deliver(b.frame(200)));  // dropped, not held: it would never fit
  CHECK(!b.driver.used(0));
  CHECK(b.deliver(b.frame(80)));
  CHECK(b.driver.used(0).has_value());
  CHECK(!b.broken());
}

TEST(virtio_net_drops_a_frame_that_all_buffers_of_the_ring_cannot_hold) {
  NetBench b;
  b.offer(8, 64);
  CHECK(b.deliver(b.frame(1400)));
  CHECK(!b.driver.used(0));
  CHECK(b.deliver(b.frame(52)));
  CHECK(b.driver.used(0).has_value());
}

TEST(virtio_net_holds_the_peer_until_there_are_buffers) {
  for (const u64 event : {u64{0}, event_idx}) {
    NetBench b{mrg_rxbuf | event};
    b.offer(2, 64);
    b.wire.resumed = 0;
    CHECK(!b.deliver(b.frame(150)));
    CHECK(!b.driver.used(0));
    // The driver is asked to kick for the buffer behind those two: asked for an earlier one, it never would.
    auto& q = b.driver.queue(0);
    if (event)
      CHECK_EQ(b.driver.load<u16>(q.device + 4 + 8 * 8), 2);
    else
      CHECK_EQ(b.driver.load<u16>(q.device) & 1, 0);
    CHECK_EQ(b.wire.resumed, 0u);
    b.offer(1, 64, in_at + 128);
    CHECK_EQ(b.wire.resumed, 1u);
    CHECK(b.deliver(b.frame(150)));
    CHECK(b.driver.used(0) && b.driver.used(0) && b.driver.used(0));
  }
}

TEST(virtio_net_holds_the_peer_while_the_machine_is_stopped) {
  NetBench b;
  b.offer(1, 512);
  b.bench.machine().run_state().stop(vm::Status::paused);
  CHECK(!b.deliver(b.frame(60)));
  b.bench.machine().run_state().start();
  net::go_on_after_stop();
  CHECK(b.wire.resumed > 0);
  CHECK(b.deliver(b.frame(60)));
  CHECK(b.driver.used(0).has_value());
}

TEST(virtio_net_hands_sums_and_large_segments_on_undone_only_where_that_was_agreed) {
  const net::Offload offload{.needs_checksum = true,
                             .segment = net::Offload::Segment::tcp4,
                             .header_bytes = 54,
                             .segment_bytes = 1000,
                             .checksum_start = 34,
                             .checksum_offset = 16};
  {
    NetBench agreed{mrg_rxbuf | guest_csum | guest_tso4};
    agreed.offer(1, 4096);
    CHECK(agreed.deliver(tcp_frame(2500), offload));
    const Bytes header = undone(1000);
    CHECK(agreed.get(in_at, 10) == Bytes(header.begin(), header.begin() + 10));
    const auto used = agreed.driver.used(0);
    CHECK(used && used->length == header_bytes + 2554);
  }
  NetBench plain;
  plain.offer(3, 2048);
  CHECK(plain.deliver(tcp_frame(2500), offload));
  for (u64 i = 0; i < 3; i++) {
    const auto part = plain.driver.used(0);
    CHECK(part.has_value());
    CHECK(plain.get(in_at + i * 2048, 1) == Bytes{0} && plain.get(in_at + i * 2048 + 1, 1) == Bytes{0});
    CHECK(tcp_sum_good(plain.get(in_at + i * 2048 + header_bytes, part->length - header_bytes)));
  }
  CHECK(!plain.driver.used(0));
}

// --- Control queue

TEST(virtio_net_filters_by_address) {
  NetBench b{mrg_rxbuf | control_features};
  constexpr net::Mac other{0x52, 0x54, 0, 0, 0, 9}, group{0x01, 0, 0x5e, 0, 0, 1}, all{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  CHECK(b.hears(other));  // promiscuous until told otherwise
  CHECK_EQ(b.control(0, 0, {0}), 0);
  CHECK(b.hears(ours) && b.hears(all) && !b.hears(other) && !b.hears(group));
  // Tables: one unicast address, one group.
  Bytes tables{1, 0, 0, 0};
  tables.insert(tables.end(), other.begin(), other.end());
  tables.insert(tables.end(), {1, 0, 0, 0});
  tables.insert(tables.end(), group.begin(), group.end());
  CHECK_EQ(b.control(1, 0, tables), 0);
  CHECK(b.hears(other) && b.hears(group) && !b.hears({0x01, 0, 0x5e, 0, 0, 2}));
  CHECK_EQ(b.control(0, 3, {1}), 0);  // no multicast
  CHECK(!b.hears(group));
  CHECK_EQ(b.control(0, 3, {0}), 0);
  CHECK_EQ(b.control(0, 4, {1}), 0);  // no unicast
  CHECK(!b.hears(ours) && !b.hears(other));
  CHECK_EQ(b.control(0, 4, {0}), 0);
  CHECK_EQ(b.control(0, 1, {1}), 0);  // all multicast
  CHECK(b.hears({0x01, 0, 0x5e, 0, 0, 2}));
  CHECK_EQ(b.control(0, 2, {1}), 0);  // all unicast
  CHECK(b.hears({0x52, 0x54, 0, 0, 0, 77}));
  const auto filter = b.card().rx_filter();
  CHECK(filter && !filter->promiscuous && filter->unicast_table.size() == 1 && filter->multicast_table.size() == 1);
}

TEST(virtio_net_takes_all_of_a_sort_whose_table_is_too_long) {
  NetBench b{mrg_rxbuf | control_features};
  CHECK_EQ(b.control(0, 0, {0}), 0);
  Bytes tables(4 + 70 * 6 + 4);
  tables[0] = 70;
  CHECK_EQ(b.control(1, 0, tables), 0);
  CHECK(b.hears({0x52, 0x54, 0, 0, 0, 9}) && !b.hears({0x01, 0, 0x5e, 0, 0, 1}));
}

TEST(virtio_net_filters_by_vlan) {
  NetBench b{mrg_rxbuf | control_features};
  CHECK_EQ(b.control(0, 0, {0}), 0);
  CHECK(!b.hears(ours, 5));
  CHECK_EQ(b.control(2, 0, {5, 0}), 0);
  CHECK(b.hears(ours, 5) && !b.hears(ours, 6));
  CHECK_EQ(b.control(2, 1, {5, 0}), 0);
  CHECK(!b.hears(ours, 5));
  CHECK_EQ(b.control(2, 0, {0, 0x10}), 1);  // 4096 is no VLAN
}

TEST(virtio_net_changes_its_address) {
  NetBench b{mrg_rxbuf | control_features};
  CHECK_EQ(b.control(1, 1, {0x52, 0x54, 0, 0, 0, 0x77}), 0);
  CHECK_EQ(b.driver.config(4, 2), 0x7700u);
  CHECK_EQ(b.control(0, 0, {0}), 0);
  CHECK(b.hears({0x52, 0x54, 0, 0, 0, 0x77}) && !b.hears(ours));
  b.driver.begin(control_features);  // a reset brings the card's own back
  CHECK_EQ(b.driver.config(4, 2), 0x0100u);
}

TEST(virtio_net_takes_offloads_back_at_run_time) {
  NetBench b{mrg_rxbuf | ctrl_vq | guest_offloads | guest_csum | guest_tso4};
  CHECK(b.card().end(0).takes().tcp4);
  CHECK_EQ(b.control(5, 0, Bytes(8)), 0);
  CHECK(!b.card().end(0).takes().tcp4 && !b.card().end(0).takes().checksum);
  CHECK_EQ(b.control(5, 0, {0, 1, 0, 0, 0, 0, 0, 0}), 1);  // tso6 was not agreed
}

TEST(virtio_net_refuses_requests_that_make_no_sense) {
  NetBench b{mrg_rxbuf | control_features};
  CHECK_EQ(b.control(0, 6, {1}), 1);
  CHECK_EQ(b.control(0, 0, {}), 1);
  CHECK_EQ(b.control(1, 0, {255, 255, 255, 255, 0, 0}), 1);         // a table of 4 Gi addresses
  CHECK_EQ(b.control(1, 0, {1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 9}), 1);  // the second table is cut off
  CHECK_EQ(b.control(1, 1, {1, 2, 3}), 1);
  CHECK_EQ(b.control(2, 7, {1, 0}), 1);
  CHECK_EQ(b.control(4, 0, {2, 0}), 1);  // several queues were not agreed
  CHECK_EQ(b.control(99, 0, {1}), 1);
  CHECK(!b.broken());
}

TEST(virtio_net_refuses_requests_that_were_not_agreed) {
  NetBench none{mrg_rxbuf | ctrl_vq};
  CHECK_EQ(none.control(0, 0, {0}), 1);  // what was not agreed is refused
  CHECK_EQ(none.control(1, 1, {1, 2, 3, 4, 5, 6}), 1);
}

// --- Several pairs of queues

TEST(virtio_net_uses_as_many_pairs_as_its_driver_says) {
  DeviceBench bench;
  Value options = Value::object();
  options.set("type", "bench"), options.set("id", "two");
  const Ref<net::Netdev> netdev = OK(net::make_netdev(bench.machine().main_loop(), options));
  auto& two = dynamic_cast<TwoQueues&>(*netdev);
  auto& device = dynamic_cast<hw::VirtioPci&>(bench.add("virtio-net-pci", NetBench::all({{"netdev", "two"}, {"mq", true}})));
  bench.machine().run_state().start();
  VirtioDriver driver{bench, mrg_rxbuf | ctrl_vq | mq};
  CHECK_EQ(driver.queue_count(), 5u);
  CHECK_EQ(driver.config(8, 2), 2u);
  CHECK_EQ(dynamic_cast<net::Card&>(device.backend()).ends(), 2u);
  const auto use_pairs = [&](u16 pairs) {
    driver.store<u16>(control_at, 4), driver.store<u16>(control_at + 2, pairs), driver.store<u8>(answer_at, 0xee);
    driver.add(4, {{control_at, 4}, {answer_at, 1, true}});
    driver.kick(4);
    return driver.load<u8>(answer_at);
  };
  for (unsigned n = 0; n < 2; n++)
    for (const unsigned q : {0u, 2u}) driver.add(q, {{in_at + (2 * n + q) * 512, 512, true}}), driver.kick(q);
  // One pair until the driver says otherwise: what comes by the second queue goes to the first.
  CHECK(two.wires[1].send(NetBench::frame(60)));
  driver.run();
  CHECK(driver.used(0) && !driver.used(2));
  CHECK_EQ(use_pairs(0), 1);
  CHECK_EQ(use_pairs(3), 1);
  CHECK_EQ(use_pairs(2), 0);
  CHECK(two.wires[1].send(NetBench::frame(60)));
  driver.run();
  CHECK(!driver.used(0) && driver.used(2));
  for (const unsigned q : {1u, 3u}) driver.add(q, {{head_at, header_bytes + 60}}), driver.kick(q);
  CHECK(two.wires[0].frames.size() == 1 && two.wires[1].frames.size() == 1);
  OK(net::remove_netdev("two"));
}

// --- State

TEST(virtio_net_state_carries_filters_address_and_rings) {
  std::optional<Saved> saved;
  constexpr net::Mac other{0x52, 0x54, 0, 0, 0, 0x77};
  {
    NetBench from{mrg_rxbuf | control_features};
    CHECK_EQ(from.control(0, 0, {0}), 0);
    CHECK_EQ(from.control(1, 1, Bytes(other.begin(), other.end())), 0);
    CHECK_EQ(from.control(2, 0, {5, 0}), 0);
    from.offer(1, 512);
    saved.emplace(from.bench);
  }
  NetBench to{mrg_rxbuf | control_features};
  saved->load(to.bench);
  to.driver.run();
  CHECK_EQ(to.driver.config(4, 2), 0x7700u);
  const auto filter = to.card().rx_filter();
  CHECK(filter && !filter->promiscuous && filter->vlan_table == std::vector<i64>{5});
  CHECK(to.deliver(to.frame(60)));  // not for this address
  CHECK(!to.driver.used(0));
  CHECK(to.deliver(to.frame(60, other)));  // into the buffer that was offered to the other machine
  CHECK(to.driver.used(0).has_value());
}

// --- Drivers that break the rules

TEST(virtio_net_stops_at_a_frame_without_its_header) {
  NetBench b;
  b.driver.add(1, {{head_at, 5}});
  b.driver.kick(1);
  CHECK(b.broken() && b.wire.frames.empty());
  b.driver.begin(mrg_rxbuf);  // and a reset mends it
  b.transmit(b.frame(60));
  CHECK_EQ(b.wire.frames.size(), 1u);
}

TEST(virtio_net_stops_at_a_receive_buffer_without_room_for_the_header) {
  NetBench b;
  b.offer(2, 8);
  CHECK(b.deliver(b.frame(60)));
  CHECK(b.broken());
}

TEST(virtio_net_stops_at_a_receive_buffer_that_is_no_memory) {
  NetBench b;
  b.driver.add(0, {{0x7000'0000, 512, true}});
  b.driver.kick(0);
  CHECK(b.deliver(b.frame(60)));
  CHECK(b.broken() || b.driver.used(0));
}

TEST(virtio_net_stops_at_a_control_request_without_room_for_the_answer) {
  NetBench b{mrg_rxbuf | control_features};
  b.driver.add(2, {{control_at, 3}});
  b.driver.kick(2);
  CHECK(b.broken());
}

TEST(virtio_net_drops_frames_of_impossible_lengths_and_goes_on) {
  NetBench b;
  b.put(head_at, Bytes(header_bytes));
  b.driver.add(1, {{head_at, header_bytes}});                                         // nothing behind the header
  b.driver.add(1, {{head_at, header_bytes + 13}});                                    // less than an Ethernet header
  b.driver.add(1, {{head_at, header_bytes}, {0, 0xf000}, {0, 0xf000}, {0, 0xf000}});  // 180 KiB
  b.driver.add(1, {{head_at, header_bytes}, {0x7000'0000, 60}});                      // no memory
  b.driver.kick(1);
  b.driver.add(1, {{head_at, header_bytes}, {b.driver.base(), 60}});  // its own registers
  b.driver.kick(1);
  CHECK(!b.broken());
  for (unsigned i = 0; i < 4; i++) CHECK(b.driver.used(1).has_value());
  for (const Bytes& f : b.wire.frames) CHECK_EQ(f.size(), 60u);
  b.wire.frames.clear();
  b.transmit(b.frame(70));
  CHECK(b.wire.frames.size() == 1 && b.wire.frames[0].size() == 70);
}

TEST(virtio_net_drops_offload_words_that_lead_out_of_the_frame) {
  NetBench b{csum | host_tso4};
  for (const auto& [at, value] : {std::pair<usize, u16>{6, 60000}, {8, 65535}, {2, 65535}, {4, 0}, {4, 1}, {4, 65535}}) {
    for (const u8 kind : {0, 1, 3, 4, 5, 0x81, 0x7f}) {
      Bytes h = undone(1000);
      h[1] = kind;
      store_le<u16>(&h[at], value);
      b.transmit(tcp_frame(200), h);
      CHECK(b.driver.used(1).has_value());
      b.transmit(Bytes(20, 0xff), h);
      CHECK(b.driver.used(1).has_value());
    }
  }
  CHECK(!b.broken());
  b.wire.frames.clear();
  b.transmit(b.frame(70));
  CHECK_EQ(b.wire.frames.size(), 1u);
}

}  // namespace vmm::test
