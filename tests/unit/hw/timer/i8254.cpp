// The 8254: modes, latches, read-back, port 61h.
#include "hw/timer/i8254.h"

#include "hw/timer/pcspk.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct Pit {
  DeviceBench bench{"isa-pit", {{"iobase", 0x40}}};
  hw::I8254& pit = bench.device<hw::I8254>();
  void program(unsigned channel, unsigned mode, u16 count) {
    bench.out8(0x43, static_cast<u8>(channel << 6 | 0x30 | mode << 1));
    bench.out8(0x40 + channel, count & 0xff);
    bench.out8(0x40 + channel, count >> 8);
  }
  u16 latch(unsigned channel) {
    bench.out8(0x43, static_cast<u8>(channel << 6));
    const u16 low = bench.in8(0x40 + channel);
    return static_cast<u16>(low | bench.in8(0x40 + channel) << 8);
  }
};
}  // namespace

TEST(pit_mode_2_ticks_at_the_programmed_rate) {
  Pit p;
  p.program(0, 2, 11932);  // 100 Hz
  p.bench.edges(0);
  p.bench.advance(1s);
  const unsigned edges = p.bench.edges(0);
  CHECK(edges >= 99 && edges <= 100);
}

TEST(pit_ticks_that_the_host_missed_come_late_but_come) {
  Pit p;
  p.program(0, 2, 4772);  // 4 ms
  p.bench.edges(0);
  p.bench.clock().stop_guest_clock();
  p.bench.clock().set_guest_clock(p.bench.clock().now(Clock::guest) + 20ms);  // nobody looked at the clock meanwhile
  p.bench.clock().start_guest_clock();
  for (int i = 0; i < 40; i++) p.bench.advance(250us);
  const unsigned edges = p.bench.edges(0);
  CHECK(edges >= 6 && edges <= 8);
}

TEST(pit_mode_0_raises_out_once_after_the_count) {
  Pit p;
  p.program(0, 0, 1193);
  p.bench.edges(0);
  CHECK(!p.bench.line(0));
  p.bench.advance(999us);
  CHECK(!p.bench.line(0));
  p.bench.advance(2us);
  CHECK(p.bench.line(0));
  p.bench.advance(1s);
  CHECK_EQ(p.bench.edges(0), 1u);
}

TEST(pit_counter_counts_down_and_latches) {
  Pit p;
  p.program(2, 0, 0xffff);
  p.pit.set_gate(2, true);
  p.bench.advance(10ms);  // 11931 clocks
  const u16 now = p.latch(2);
  CHECK_EQ(now, 0xffff - 11931);
  p.pit.set_gate(2, false);  // held
  p.bench.advance(10ms);
  CHECK_EQ(p.latch(2), now);
  p.bench.out8(0x43, 0x80);
  p.pit.set_gate(2, true);
  p.bench.advance(1ms);
  CHECK_EQ(p.bench.in8(0x42), now & 0xff);  // what was latched stays
}

TEST(pit_mode_3_is_a_square_wave) {
  Pit p;
  p.program(2, 3, 1000);
  p.pit.set_gate(2, true);
  p.bench.advance(419us);  // 499 of 1000 clocks
  CHECK(p.pit.output(2));
  p.bench.advance(2us);
  CHECK(!p.pit.output(2));
  p.bench.advance(419us);
  CHECK(p.pit.output(2));
}

TEST(pit_read_back_gives_status_before_count) {
  Pit p;
  p.program(0, 2, 0x1234);
  p.bench.out8(0x43, 0xc2);
  CHECK_EQ(p.bench.in8(0x40), 0xb4);
  CHECK_EQ(p.bench.in8(0x40), 0x34);
  CHECK_EQ(p.bench.in8(0x40), 0x12);
  p.bench.out8(0x43, 0x34);
  p.bench.out8(0x43, 0xe2);
  CHECK_EQ(p.bench.in8(0x40), 0xf4);  // null count: nothing loaded yet
}

TEST(pit_hardware_one_shot_waits_for_the_gate) {
  Pit p;
  p.program(2, 1, 1193);
  CHECK(p.pit.output(2));
  p.bench.advance(10ms);
  p.pit.set_gate(2, true);
  CHECK(!p.pit.output(2));
  p.bench.advance(1001us);
  CHECK(p.pit.output(2));
}

TEST(speaker_port_shows_the_output_of_channel_2) {
  Pit p;
  auto speaker = hw::make_device<hw::PcSpeaker>(p.bench.machine());
  speaker->wire(p.pit);
  OK(speaker->attach(&p.bench.isa()));
  p.program(2, 0, 1193);
  p.bench.out8(0x61, 1);
  CHECK_EQ(p.bench.in8(0x61) & 0x21, 0x01);
  p.bench.advance(2ms);
  CHECK_EQ(p.bench.in8(0x61) & 0x21, 0x21);
  CHECK((p.bench.in8(0x61) ^ p.bench.in8(0x61)) & 0x10);
}

}  // namespace vmm::test
