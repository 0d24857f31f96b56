#include <algorithm>
#include <cstring>

#include "hw/net/intel.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {
namespace {
using namespace hw::intel;

class Wire final : public net::End {
 public:
  bool receive(const net::Packet& packet) override {
    if (full) return false;
    std::vector<u8> bytes(packet.size());
    packet.copy_to(bytes);
    frames.push_back(std::move(bytes));
    last = packet.offload;
    return true;
  }
  void resume() override { resumed++; }
  net::OffloadSet takes() const override { return {.checksum = true, .tcp4 = true}; }
  std::vector<std::vector<u8>> frames;
  net::Offload last;
  bool full = false;
  unsigned resumed = 0;
};

// A card with rings of 8 descriptors at 0x1000 (transmit) and 0x2000 (receive), buffers from 0x4000 on.
struct CardBench {
  explicit CardBench(std::string_view model) : bench(model, {{"mac", "52:54:00:00:00:01"}, {"romfile", ""}}) {
    bar = bench.place_bars(slot)[0];
    bench.machine().run_state().start();
    net::End::link(card().end(0), wire);
    set(TDBAL, 0x1000), set(TDLEN, 128), set(TCTL, 2);
    set(RDBAL, 0x2000), set(RDLEN, 128);
    for (u64 i = 0; i < 8; i++) bench.write64(0x2000 + i * 16, 0x8000 + i * 2048);
    set(RDT, 4), set(RCTL, 2 | 0x8000);
    set(IMS, ~0u);
    turn();
  }
  net::Card& card() { return bench.device<hw::IntelNic>(); }
  void set(u32 at, u32 value) { bench.write32(bar + at, value); }
  u32 get(u32 at) { return bench.read32(bar + at); }
  void turn() {
    for (unsigned i = 0; i < 8; i++) bench.machine().main_loop().run_once(false);
  }
  void bytes(u64 at, std::span<const u8> b) { bench.machine().memory().write(GuestPhys{at}, b); }
  std::vector<u8> bytes(u64 at, usize n) {
    std::vector<u8> b(n);
    bench.machine().memory().read(GuestPhys{at}, b);
    return b;
  }
  void legacy(u64 index, u64 buffer, u32 length, u32 command = 0x09) {
    bench.write64(0x1000 + index * 16, buffer);
    bench.write64(0x1008 + index * 16, length | u64{command} << 24);
  }
  std::vector<u8> to_us(usize size = 60) {
    std::vector<u8> f(size, 0x55);
    static constexpr u8 mac[] = {0x52, 0x54, 0, 0, 0, 1};
    std::ranges::copy(mac, f.begin());
    f[12] = 8, f[13] = 0;
    return f;
  }
  static constexpr u8 slot = 0;
  DeviceBench bench;
  Wire wire;
  u64 bar = 0;
};

TEST(e1000_eeprom_reads_its_address_by_wire_and_its_sum_is_good) {
  CardBench b{"e1000"};
  const auto word = [&](u32 address) {
    const auto clock = [&](u32 in) {
      b.set(EECD, 2 | in), b.set(EECD, 3 | in);
      const u32 out = b.get(EECD) >> 3 & 1;
      b.set(EECD, 2 | in);
      return out;
    };
    b.set(EECD, 2);
    for (int bit = 8; bit >= 0; bit--) clock(((6 << 6 | address) >> bit & 1) << 2);
    u32 value = 0;
    for (int bit = 0; bit < 16; bit++) value = value << 1 | clock(0);
    b.set(EECD, 0);
    return value;
  };
  CHECK_EQ(word(0), 0x5452u);
  CHECK_EQ(word(2), 0x0100u);
  u32 sum = 0;
  for (u32 i = 0; i < 64; i++) sum += word(i);
  CHECK_EQ(sum & 0xffff, 0xbabau);
}

TEST(e1000_sends_what_the_ring_holds_and_says_so) {
  CardBench b{"e1000"};
  b.bytes(0x4000, std::vector<u8>(100, 0x11));
  b.legacy(0, 0x4000, 40, 0);
  b.legacy(1, 0x4000, 60);
  b.set(TDT, 2);
  b.turn();
  CHECK(b.wire.frames.size() == 1 && b.wire.frames[0].size() == 100);
  CHECK_EQ(b.get(TDH), 2u);
  CHECK(b.bytes(0x101c, 1)[0] & 1);
  CHECK(b.bench.line(16));
  CHECK(b.get(ICR) & TXDW);
  CHECK(!b.bench.line(16));
}

TEST(e1000_keeps_a_frame_that_the_peer_cannot_take) {
  CardBench b{"e1000"};
  b.wire.full = true;
  b.legacy(0, 0x4000, 60), b.legacy(1, 0x4000, 61);
  b.set(TDT, 2);
  b.turn();
  CHECK(b.wire.frames.empty() && b.get(TDH) == 1);
  b.wire.full = false;
  b.wire.ready();
  b.turn();
  CHECK(b.wire.frames.size() == 2 && b.wire.frames[1].size() == 61);
}

TEST(e1000_receives_into_buffers_and_holds_the_sender_when_there_are_none) {
  CardBench b{"e1000"};
  for (int i = 0; i < 4; i++) CHECK(b.wire.send(b.to_us()));
  CHECK(!b.wire.send(b.to_us()));
  const std::vector<u8> d = b.bytes(0x2000, 16);
  CHECK(load_le<u16>(&d[8]) == 64 && (d[12] & 3) == 3);
  CHECK(b.bytes(0x8000, 60) == b.to_us());
  CHECK(b.get(ICR) & RXT0);
  const unsigned before = b.wire.resumed;
  b.set(RDT, 6);
  b.turn();
  CHECK(b.wire.resumed > before && b.wire.send(b.to_us()));
}

TEST(e1000_lets_in_what_its_filters_say) {
  CardBench b{"e1000"};
  const auto taken = [&](std::initializer_list<u8> to) {
    std::vector<u8> f = b.to_us();
    std::ranges::copy(to, f.begin());
    const u32 before = b.get(RDH);
    b.set(RDT, (before + 7) & 7);
    CHECK(b.wire.send(f));
    return b.get(RDH) != before;
  };
  CHECK(taken({0x52, 0x54, 0, 0, 0, 1}) && !taken({0x52, 0x54, 0, 0, 0, 2}));
  CHECK(taken({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));
  CHECK(!taken({0x01, 0, 0x5e, 0, 0, 0xfb}));
  const u32 hash = (0xfb00 >> 4) & 0xfff;
  b.set(MTA + (hash >> 5) * 4, 1u << (hash & 31));
  CHECK(taken({0x01, 0, 0x5e, 0, 0, 0xfb}) && !taken({0x01, 0, 0x5e, 0, 0, 0xfa}));
  b.set(RCTL, 2 | 0x8 | 0x10);
  CHECK(taken({0x52, 0x54, 0, 0, 0, 2}) && taken({0x01, 0, 0x5e, 0, 0, 0xfa}));
  b.set(RCTL, 0);
  CHECK(!taken({0x52, 0x54, 0, 0, 0, 1}));
}

TEST(e1000_vlan_tags_come_off_and_go_on) {
  CardBench b{"e1000"};
  b.set(CTRL, b.get(CTRL) | 1u << 30);
  std::vector<u8> f = b.to_us(80);
  f[12] = 0x81, f[13] = 0, f[14] = 0x20, f[15] = 5, f[16] = 8, f[17] = 0;
  CHECK(b.wire.send(f));
  const std::vector<u8> d = b.bytes(0x2000, 16);
  CHECK(load_le<u16>(&d[8]) == 80 && d[12] & 8 && load_le<u16>(&d[14]) == 0x2005);
  b.bytes(0x4000, b.to_us());
  b.legacy(0, 0x4000, 60, 0x49);
  b.bench.write32(0x100c, 0x0007'0000);
  b.set(TDT, 1);
  b.turn();
  CHECK(b.wire.frames.size() == 1 && b.wire.frames[0].size() == 64);
  CHECK(load_le<u32>(&b.wire.frames[0][12]) == 0x0700'0081);
}

TEST(e1000_a_segment_template_becomes_one_packet_for_who_can_cut_it) {
  CardBench b{"e1000"};
  std::vector<u8> f(54 + 4000);
  f[12] = 8, f[14] = 0x45, f[23] = 6, f[46] = 0x50;
  b.bytes(0x4000, f);
  // Context: IP header at 14, TCP at 34 with its sum at 50, 54 bytes of headers, segments of 1000.
  static constexpr u8 context[16] = {14, 24, 33, 0, 34, 50, 0, 0, 0xa0, 0x0f, 0x00, 0x27, 0, 54, 0xe8, 3};
  b.bytes(0x1000, context);
  b.bench.write64(0x1010, 0x4000);
  b.bench.write64(0x1018, (54 + 4000) | u64{0x2d10'0000} | u64{3} << 40);
  b.set(TDT, 2);
  b.turn();
  CHECK(b.wire.frames.size() == 1 && b.wire.frames[0].size() == 4054);
  CHECK(b.wire.last.segment == net::Offload::Segment::tcp4 && b.wire.last.segment_bytes == 1000 && b.wire.last.header_bytes == 54);
  CHECK(b.wire.frames[0][16] << 8 == (4040 & 0xff00));
}

TEST(e1000_rings_of_nonsense_end_the_work) {
  CardBench b{"e1000"};
  b.set(TDLEN, 0), b.set(TDT, 5);
  b.turn();
  b.set(TDLEN, 128), b.set(TDH, 100), b.set(TDT, 3);
  b.turn();
  b.set(RDH, 200);
  CHECK(!b.wire.send(b.to_us()));
  b.set(RDLEN, 0), b.set(RDH, 0), b.set(RDT, 0);
  CHECK(!b.wire.send(b.to_us()));
  // Buffers in the card's own registers are no memory.
  b.set(RDLEN, 128), b.set(RDT, 4);
  b.bench.write64(0x2000, b.bar + TDT);
  CHECK(b.wire.send(b.to_us()));
}

TEST(e1000_link_changes_interrupt) {
  CardBench b{"e1000"};
  b.get(ICR);
  CHECK(b.get(STATUS) & 2);
  b.card().end(0).set_link(false);
  CHECK(!(b.get(STATUS) & 2));
  CHECK(b.get(ICR) & LSC);
}

TEST(e1000e_messages_go_by_vector_and_causes_clear_themselves) {
  CardBench b{"e1000e"};
  b.set(RFCTL, 1 << 15);
  const u8 msix = [&] {
    for (u8 at = static_cast<u8>(b.bench.config_read(CardBench::slot, 0x34, 1)); at;
         at = static_cast<u8>(b.bench.config_read(CardBench::slot, at + 1u, 1)))
      if (b.bench.config_read(CardBench::slot, at, 1) == 0x11) return at;
    return u8{0};
  }();
  CHECK(msix);
  const u64 table = b.bench.place_bars(CardBench::slot)[3];
  for (u64 v = 0; v < 3; v++) {
    b.bench.write64(table + v * 16, 0xfee0'0000);
    b.bench.write32(table + v * 16 + 8, static_cast<u32>(0x40 + v));
    b.bench.write32(table + v * 16 + 12, 0);
  }
  b.bench.config_write(CardBench::slot, msix + 2u, 2, 0x8000);
  b.set(IVAR, 0x000a'0908);
  b.set(EIAC, RXQ0 | TXQ0);
  b.get(ICR);
  b.bench.messages.clear();
  CHECK(b.wire.send(b.to_us()));
  CHECK(b.bench.messages.size() == 1 && b.bench.messages[0].data == 0x40);
  CHECK(!(b.get(ICS) & RXQ0));
  const std::vector<u8> d = b.bytes(0x2000, 16);
  CHECK(load_le<u32>(&d[8]) & 3 && load_le<u16>(&d[12]) == 64);
  b.set(ICS, TXQ0);
  CHECK(b.bench.messages.size() == 2 && b.bench.messages[1].data == 0x41);
  b.card().end(0).set_link(false);
  CHECK(b.bench.messages.size() == 3 && b.bench.messages[2].data == 0x42);
}

TEST(e1000e_spreads_a_frame_over_the_buffers_of_a_split_descriptor) {
  CardBench b{"e1000e"};
  b.set(RFCTL, 1u << 15), b.set(PSRCTL, 0x0001'0101);  // 128 bytes, 1 KiB, 1 KiB, nothing
  for (u64 i = 0; i < 2; i++)
    for (u64 n = 0; n < 4; n++) b.bench.write64(0x2000 + i * 32 + 8 * n, n == 3 ? 0 : 0x8000 + i * 0x2000 + n * 0x800);
  b.set(RDT, 4), b.set(RCTL, 2 | 0x8000 | 0x20 | 1u << 10 | 1u << 26);
  b.turn();
  std::vector<u8> frame = b.to_us(1500);
  for (usize i = 14; i < frame.size(); i++) frame[i] = static_cast<u8>(i * 3);
  CHECK(b.wire.send(frame));
  CHECK_EQ(b.get(RDH), 2u);
  CHECK_EQ(b.bench.read32(0x2008) & 3, 3u);  // all of it, in one descriptor
  CHECK_EQ(b.bench.read32(0x200c) & 0xffff, 128u);
  CHECK_EQ(b.bench.read64(0x2010), u64{348} << 32 | u64{1024} << 16);
  CHECK(b.bytes(0x8000, 128) == std::vector<u8>(frame.begin(), frame.begin() + 128));
  CHECK(b.bytes(0x8800, 1024) == std::vector<u8>(frame.begin() + 128, frame.begin() + 1152));
  CHECK(b.bytes(0x9000, 348) == std::vector<u8>(frame.begin() + 1152, frame.end()));
  CHECK_EQ(b.bytes(0x8080, 1)[0], 0);  // nothing beyond the first buffer
  CHECK(!b.wire.send(b.to_us(6000)));  // more than the one that is left holds
  CHECK(b.wire.send(frame));
  CHECK_EQ(b.get(RDH), 4u);
}

}  // namespace
}  // namespace vmm::test
