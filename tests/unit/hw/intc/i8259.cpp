// The PIC pair: priorities, cascade, special modes, spurious interrupts.
#include "hw/intc/i8259.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct Pics {
  DeviceBench bench;
  hw::PicPair pics;
  Pics() {
    OK(pics.make(bench.machine(), bench.isa()));
    init();
  }
  void init(u8 icw4 = 1) {
    for (const auto& [port, base, wire] : {std::tuple{0x20, 0x08, 4}, std::tuple{0xa0, 0x70, 2}}) {
      bench.out8(port, 0x11);
      bench.out8(port + 1, base);
      bench.out8(port + 1, wire);
      bench.out8(port + 1, icw4);
      bench.out8(port + 1, 0);
    }
  }
  void pulse(unsigned line) { pics.set_input(line, true), pics.set_input(line, false); }
};
}  // namespace

TEST(pic_gives_the_higher_priority_first_and_nests_it) {
  Pics p;
  p.pulse(4), p.pulse(1);
  CHECK(p.pics.intr());
  CHECK_EQ(p.pics.acknowledge(), 0x09);
  CHECK(!p.pics.intr());  // line 4 waits for the end of line 1
  p.pulse(0);
  CHECK(p.pics.intr());
  CHECK_EQ(p.pics.acknowledge(), 0x08);
  p.bench.out8(0x20, 0x20);
  p.bench.out8(0x20, 0x20);
  CHECK_EQ(p.pics.acknowledge(), 0x0c);
}

TEST(pic_slave_comes_through_line_two) {
  Pics p;
  p.pulse(12), p.pulse(3);
  CHECK_EQ(p.pics.acknowledge(), 0x74);  // line 2 of the master is before line 3
  p.bench.out8(0x20, 0x0b), p.bench.out8(0xa0, 0x0b);
  CHECK_EQ(p.bench.in8(0x20), 0x04);
  CHECK_EQ(p.bench.in8(0xa0), 0x10);
  p.bench.out8(0xa0, 0x20), p.bench.out8(0x20, 0x20);
  CHECK_EQ(p.pics.acknowledge(), 0x0b);
}

TEST(pic_answers_line_seven_when_the_request_has_gone) {
  Pics p;
  p.bench.out8(0x4d0, 0x20);  // line 5 by level
  p.pics.set_input(5, true);
  CHECK(p.pics.intr());
  p.pics.set_input(5, false);
  CHECK(!p.pics.intr());
  CHECK_EQ(p.pics.acknowledge(), 0x0f);
  p.bench.out8(0x20, 0x0b);
  CHECK_EQ(p.bench.in8(0x20), 0x00);  // nothing is in service
}

TEST(pic_level_lines_request_until_they_fall) {
  Pics p;
  p.bench.out8(0x4d1, 0xff);
  CHECK_EQ(p.bench.in8(0x4d1), 0xde);
  p.pics.set_input(11, true);
  CHECK_EQ(p.pics.acknowledge(), 0x73);
  p.bench.out8(0xa0, 0x20), p.bench.out8(0x20, 0x20);
  CHECK(p.pics.intr());
  p.pics.set_input(11, false);
  CHECK(!p.pics.intr());
}

TEST(pic_mask_poll_rotation_and_special_mask) {
  Pics p;
  p.bench.out8(0x21, 0xfb);
  p.pulse(6);
  CHECK(!p.pics.intr());
  p.bench.out8(0x21, 0x00);
  p.bench.out8(0x20, 0x0c);  // poll
  CHECK_EQ(p.bench.in8(0x20), 0x86);
  p.pulse(7);
  CHECK(!p.pics.intr());
  p.bench.out8(0x21, 0x40), p.bench.out8(0x20, 0x68);  // special mask: the masked line 6 in service lets line 7 through
  CHECK(p.pics.intr());
  p.bench.out8(0x20, 0x48), p.bench.out8(0x21, 0x00);
  p.bench.out8(0x20, 0xa0);  // rotate on EOI of 6: 7 is first, then 0
  p.pulse(0);
  CHECK_EQ(p.pics.acknowledge(), 0x0f);
}

TEST(pic_automatic_eoi_leaves_nothing_in_service) {
  Pics p;
  p.init(3);
  p.pulse(1);
  CHECK_EQ(p.pics.acknowledge(), 0x09);
  p.bench.out8(0x20, 0x0b);
  CHECK_EQ(p.bench.in8(0x20), 0x00);
}

}  // namespace vmm::test
