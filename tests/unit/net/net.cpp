#include "net/net.h"

#include <algorithm>
#include <deque>

#include "net/merge.h"
#include "net/user.h"
#include "tests/unit/test.h"

namespace vmm::net {
namespace {

// An end with room for so many frames.
class Box final : public End {
 public:
  explicit Box(usize room = 1000, OffloadSet takes = {}) : room_(room), takes_(takes) {}
  bool receive(const Packet& packet) override {
    if (frames.size() >= room_) return false;
    std::vector<u8> bytes(packet.size());
    packet.copy_to(bytes);
    frames.push_back(std::move(bytes));
    last = packet.offload;
    return true;
  }
  void resume() override { resumed++; }
  void link_changed() override { changes++; }
  OffloadSet takes() const override { return takes_; }
  std::vector<u8> take() {
    std::vector<u8> first = frames.front();
    frames.pop_front();
    ready();
    return first;
  }
  std::deque<std::vector<u8>> frames;
  Offload last;
  unsigned resumed = 0, changes = 0;

 private:
  usize room_;
  OffloadSet takes_;
};

std::vector<u8> frame(u8 number, usize size = 60) {
  std::vector<u8> f(size, number);
  return f;
}

// An IPv4 TCP frame with a pattern of so many bytes.
std::vector<u8> tcp4(usize payload) {
  std::vector<u8> f(54 + payload);
  f[12] = 8, f[14] = 0x45, f[22] = 64, f[23] = 6;
  const usize total = 40 + payload;
  f[16] = static_cast<u8>(total >> 8), f[17] = static_cast<u8>(total), f[18] = 0x12, f[19] = 0x34;
  for (usize i = 26; i < 34; i++) f[i] = static_cast<u8>(i);
  f[38] = 0, f[39] = 0, f[40] = 1, f[41] = 0;  // sequence 256
  f[46] = 0x50, f[47] = 0x19;                  // FIN, PSH, ACK
  for (usize i = 0; i < payload; i++) f[54 + i] = static_cast<u8>(i * 7);
  return f;
}
bool sums_good(std::span<const u8> f) {
  if (internet_checksum(internet_sum(f.subspan(14, 20))) != 0) return false;
  const usize length = f.size() - 34;
  const u32 pseudo = internet_sum(f.subspan(26, 8)) + 6 + static_cast<u32>(length);
  return internet_checksum(internet_sum(f.subspan(34), pseudo)) == 0;
}

TEST(net_a_full_receiver_holds_the_sender_until_it_has_room) {
  Box a, b{2};
  End::link(a, b);
  CHECK(a.send(frame(1)) && a.send(frame(2)));
  CHECK(!a.send(frame(3)));
  CHECK_EQ(a.resumed, 0u);
  CHECK(b.take()[0] == 1);
  CHECK_EQ(a.resumed, 1u);
  CHECK(a.send(frame(3)));
  CHECK(b.take()[0] == 2 && b.take()[0] == 3);
}

TEST(net_a_cable_that_is_out_loses_packets_and_holds_nobody) {
  Box a, b{0};
  End::link(a, b);
  CHECK(!a.send(frame(1)));
  b.set_link(false);
  CHECK(a.resumed > 0 && a.changes > 1);
  CHECK(a.send(frame(1)) && b.frames.empty());
  b.set_link(true);
  CHECK(!a.send(frame(1)));
  b.unlink();
  CHECK(a.send(frame(1)) && !a.peer());
}

TEST(net_frames_too_short_for_a_header_or_too_long_are_lost) {
  Box a, b;
  End::link(a, b);
  CHECK(a.send(frame(1, 13)) && a.send(frame(1, max_packet_bytes + 1)) && b.frames.empty());
  CHECK(a.send(frame(1, 14)) && b.frames.size() == 1);
}

TEST(net_a_checksum_left_undone_is_done_for_who_cannot) {
  Box a, b, able{10, {.checksum = true}};
  std::vector<u8> f = tcp4(101);
  const auto offload = prepare_segmentation(f, 1460);
  CHECK(offload && offload->needs_checksum && offload->segment == Offload::Segment::none);
  End::link(a, b);
  CHECK(a.send(FlatPacket{f, *offload}));
  CHECK(sums_good(b.frames[0]) && b.last.checksum_good);
  End::link(a, able);
  CHECK(a.send(FlatPacket{f, *offload}));
  CHECK(able.frames[0] == f && able.last.needs_checksum);
}

TEST(net_a_large_segment_is_cut_and_the_pieces_wait_for_room) {
  Box a, b{2};
  End::link(a, b);
  std::vector<u8> f = tcp4(5000);
  const auto offload = prepare_segmentation(f, 1460);
  CHECK(offload && offload->segment == Offload::Segment::tcp4);
  CHECK(a.send(FlatPacket{f, *offload}));
  CHECK(a.sending());
  CHECK(!a.send(frame(9)));
  std::vector<u8> all;
  u32 sequence = 256, id = 0x1234;
  for (unsigned n = 0; n < 4; n++) {
    const std::vector<u8> s = b.take();
    CHECK(sums_good(s));
    CHECK_EQ(u32{s[40]} << 8 | s[41] | u32{s[39]} << 16, sequence);
    CHECK_EQ(u32{s[18]} << 8 | s[19], id);
    CHECK_EQ(s[47], n == 3 ? 0x19 : 0x10);
    all.insert(all.end(), s.begin() + 54, s.end());
    sequence += static_cast<u32>(s.size() - 54), id++;
  }
  CHECK(std::ranges::equal(all, std::span{f}.subspan(54)));
  CHECK(!a.sending() && a.send(frame(9)));
}

TEST(net_segments_in_a_row_become_one_and_can_be_cut_again) {
  std::vector<u8> whole = tcp4(4000);
  whole[47] = 0x18;
  const auto offload = prepare_segmentation(whole, 1460);
  const auto pieces = segment(whole, *offload);
  CHECK_EQ(pieces.size(), 3u);
  SegmentMerger merger;
  for (const auto& p : pieces) CHECK(!merger.full() && merger.add(p));
  CHECK(merger.full() && !merger.add(pieces[0]));
  auto [merged, left] = merger.take();
  CHECK(merger.empty() && left.segment == Offload::Segment::tcp4 && left.segment_bytes == 1460 && left.needs_checksum);
  CHECK(segment(merged, left) == pieces);
  // Not the next one, another connection, a fragment, no data: nothing that can go in.
  CHECK(merger.add(pieces[0]) && !merger.add(pieces[2]));
  std::vector<u8> other = pieces[1];
  other[35]++;
  CHECK(!merger.add(other));
  other = pieces[1], other[20] = 0x20;
  CHECK(!merger.add(other));
  CHECK(!merger.add(std::span{pieces[1]}.first(54)) && !merger.add(std::span{pieces[1]}.first(20)));
  auto [single, nothing] = merger.take();
  CHECK(single == pieces[0] && !nothing.undone() && nothing.checksum_good);
}

TEST(net_segmentation_of_nonsense_sends_nothing) {
  std::vector<u8> f = tcp4(5000);
  CHECK(segment(f, {.segment = Offload::Segment::tcp4, .segment_bytes = 0}).empty());
  CHECK(segment(f, {.segment = Offload::Segment::tcp4, .segment_bytes = 1}).empty());
  CHECK(segment(f, {.segment = Offload::Segment::udp4_or_6, .segment_bytes = 1000}).empty());
  f[14] = 0x4f;  // header longer than it says
  f.resize(60);
  CHECK(segment(f, {.segment = Offload::Segment::tcp4, .segment_bytes = 1000}).empty());
  CHECK(!finish_checksum(f, {.needs_checksum = true, .checksum_start = 50, .checksum_offset = 9}));
  CHECK(!finish_checksum(f, {.needs_checksum = true, .checksum_start = 60}));
}

TEST(net_a_hub_sends_to_all_others_and_waits_only_if_nobody_has_room) {
  EventLoop loop;
  const auto port = [&](const char* id) {
    return OK(make_netdev(loop, Value::object().set("type", "hubport").set("id", id).set("hubid", 7)));
  };
  const Ref<Netdev> p0 = port("p0"), p1 = port("p1"), p2 = port("p2");
  Box a, b{1}, c{2};
  End::link(a, p0->queue(0));
  End::link(b, p1->queue(0));
  CHECK(a.send(frame(1)));
  CHECK(b.frames.size() == 1 && a.frames.empty());
  CHECK(!a.send(frame(2)));
  const unsigned before = a.resumed;
  b.take();
  CHECK(a.resumed > before);
  End::link(c, p2->queue(0));
  CHECK(a.send(frame(3)) && a.send(frame(4)));  // b is full at the second one, c takes it
  CHECK(b.frames.size() == 1 && c.frames.size() == 2);
  CHECK(!a.send(frame(5)));
  for (const char* id : {"p0", "p1", "p2"}) CHECK(remove_netdev(id).has_value());
  CHECK(!a.peer() && all_netdevs().empty());
}

TEST(net_user_rules_are_read_as_users_write_them) {
  const ForwardRule r = OK(parse_forward_rule("tcp:127.0.0.1:2222-10.0.2.16:22", true));
  CHECK(!r.udp && r.host_port == 2222 && r.guest_port == 22 && ntohl(r.guest.s_addr) == 0x0a00'0210);
  CHECK(OK(parse_forward_rule("udp::53-:5353", true)).udp);
  CHECK_EQ(parse_forward_rule("foo", true).error().message, "Invalid host forwarding rule 'foo' (No : separators)");
  CHECK_EQ(parse_forward_rule("tcp::22-:0", true).error().message, "Invalid host forwarding rule 'tcp::22-:0' (Bad guest port)");
  for (const char* bad :
       {"", "tcp", "tcp:", "tcp::", "tcp::1", "tcp::1-", "tcp::1-:", "xxx::1-:2", "tcp:1.2.3:1-:2", "tcp::65536-:2", "tcp::1-:x"})
    CHECK(!parse_forward_rule(bad, true));
  CHECK_EQ(OK(parse_forward_rule("tcp::2222", false)).host_port, 2222);
  const GuestForwardRule g = OK(parse_guest_forward_rule("tcp:10.0.2.100:80-cmd:echo a-b:c"));
  CHECK(g.command == "echo a-b:c" && g.port == 80);
  CHECK_EQ(OK(parse_guest_forward_rule("tcp:10.0.2.100:80-chardev:c0")).chardev, "chardev:c0");
  CHECK_EQ(ntohl(OK(parse_network("192.168.76.9/24")).address.s_addr), 0xc0a8'4c00u);
  CHECK_EQ(ntohl(OK(parse_network("192.168.76.9")).mask.s_addr), 0xffff'ff00u);
  CHECK_EQ(ntohl(OK(parse_network("10.1.2.3/255.255.0.0")).address.s_addr), 0x0a01'0000u);
  for (const char* bad : {"", "1.2", "1.2.3.4/", "1.2.3.4/3", "1.2.3.4/33", "1.2.3.4/x"}) CHECK(!parse_network(bad));
}

TEST(net_repeated_options_become_lists) {
  const Value v = OK(parse_netdev_options("user,id=n0,hostfwd=tcp::1-:2,restrict=on,hostfwd=tcp::3-:4"));
  CHECK_EQ(v.find("type")->get_string(), "user");
  CHECK_EQ(v.find("hostfwd")->items().size(), 2u);
  CHECK_EQ(OK(parse_netdev_options("stream,id=s,addr.type=unix,addr.path=/x")).find("addr")->find("path")->get_string(), "/x");
}

TEST(net_mac_addresses_are_text_both_ways) {
  CHECK_EQ(mac_text(*parse_mac("52:54:00:Ab:cd:01")), "52:54:00:ab:cd:01");
  for (const char* bad : {"", "52:54:00:ab:cd", "52:54:00:ab:cd:zz", "525400abcd01xxxxx", "52:54:00:ab:cd:011"}) CHECK(!parse_mac(bad));
}

}  // namespace
}  // namespace vmm::net
