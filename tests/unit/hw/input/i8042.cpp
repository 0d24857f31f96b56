// The PS/2 controller, its keyboard and its mouse.
#include "hw/input/i8042.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct Ps2 {
  DeviceBench bench{"i8042"};
  hw::I8042& c = bench.device<hw::I8042>();
  void command(u8 b) { bench.out8(0x64, b); }
  void data(u8 b) { bench.out8(0x60, b); }
  u8 status() { return bench.in8(0x64); }
  u8 get() { return bench.in8(0x60); }
  std::vector<int> all() {
    std::vector<int> bytes;
    while (status() & 1) bytes.push_back(get());
    return bytes;
  }
};
using Bytes = std::vector<int>;
}  // namespace

TEST(i8042_self_test_and_command_byte) {
  Ps2 p;
  CHECK_EQ(p.status() & 5, 0);
  p.command(0xaa);
  CHECK(p.all() == Bytes{0x55});
  CHECK_EQ(p.status() & 4, 4);
  p.command(0x60), p.data(0x45);
  p.command(0x20);
  CHECK(p.all() == Bytes{0x45});
  p.command(0xab);
  CHECK(p.all() == Bytes{0x00});
}

TEST(i8042_keys_in_set_1_and_set_2) {
  Ps2 p;
  p.c.keyboard().press(30, true);
  CHECK(p.bench.line(1));
  CHECK_EQ(p.get(), 0x1c);
  CHECK(!p.bench.line(1));
  p.c.keyboard().press(30, false);
  CHECK((p.all() == Bytes{0xf0, 0x1c}));
  p.command(0x60), p.data(0x47);  // translation
  p.c.keyboard().press(30, true), p.c.keyboard().press(30, false), p.c.keyboard().press(103, true), p.c.keyboard().press(103, false);
  CHECK((p.all() == Bytes{0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8}));
  p.c.keyboard().press(119, true);
  CHECK((p.all() == Bytes{0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5}));
}

TEST(i8042_keyboard_commands) {
  Ps2 p;
  p.data(0xff);
  CHECK((p.all() == Bytes{0xfa, 0xaa}));
  p.data(0xf2);
  CHECK((p.all() == Bytes{0xfa, 0xab, 0x83}));
  p.data(0xed), p.data(0x02);
  CHECK((p.all() == Bytes{0xfa, 0xfa}));
  CHECK_EQ(p.c.keyboard().leds(), 2);
  p.data(0xf0), p.data(0);
  CHECK((p.all() == Bytes{0xfa, 0xfa, 0x02}));
  p.data(0xf5);
  p.all();
  p.c.keyboard().press(30, true);
  CHECK(p.all().empty());
}

TEST(i8042_mouse_with_wheel) {
  Ps2 p;
  const auto mouse = [&](u8 b) { p.command(0xd4), p.data(b); };
  mouse(0xff);
  CHECK(p.bench.line(12));
  CHECK_EQ(p.status() & 0x21, 0x21);
  CHECK((p.all() == Bytes{0xfa, 0xaa, 0x00}));
  for (u8 b : {0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2}) mouse(b);
  CHECK_EQ(p.all().back(), 3);
  p.c.mouse().move(1, 2, 0, 0);
  CHECK(p.all().empty());  // reporting is off
  mouse(0xf4);
  p.all();
  p.c.mouse().move(5, -3, 1, 1);
  CHECK((p.all() == Bytes{0x29, 6, 0xff, 0xff}));
}

TEST(i8042_outputs_drive_a20) {
  Ps2 p;
  bool a20 = true;
  hw::IrqCall sink{[&](unsigned, bool level) { a20 = level; }};
  p.c.a20().connect(sink, 0);
  p.command(0xd1), p.data(0xdd);
  CHECK(!a20);
  p.command(0xd0);
  CHECK((p.all() == Bytes{0xcd}));
  p.command(0xdf);
  CHECK(a20);
  p.c.a20().disconnect();
}

TEST(i8042_a_disabled_wire_keeps_its_bytes) {
  Ps2 p;
  p.command(0xad);
  p.c.keyboard().press(30, true);
  CHECK_EQ(p.status() & 1, 0);
  p.command(0xae);
  CHECK(p.all() == Bytes{0x1c});
}

TEST(i8042_a_guest_that_never_reads_fills_no_memory) {
  Ps2 p;
  for (int i = 0; i < 100'000; i++) p.c.keyboard().press(30, i & 1), p.data(0xee), p.command(0xaa);
  CHECK(p.all().size() < 400);
}

TEST(keys_are_typed_in_order_and_released_when_their_time_has_come) {
  Ps2 p;
  ui::Keyboard* keyboard = ui::current_keyboard();
  CHECK(keyboard != nullptr);
  p.command(0x60), p.data(0x45);  // translated to set 1
  const std::array ctrl_c{ui::key_by_name("ctrl"), ui::key_by_name("c")}, up{ui::key_by_number(0xc8), u16{30}};
  OK(keyboard->type(ctrl_c, 100ms));
  OK(keyboard->type(up, 10ms));
  CHECK(p.all() == (Bytes{0x1d, 0x2e}));
  p.bench.advance(99ms);
  CHECK(p.all() == Bytes{});
  p.bench.advance(1ms);
  CHECK(p.all() == (Bytes{0xae, 0x9d}));
  p.bench.advance(100ms);
  CHECK(p.all() == (Bytes{0xe0, 0x48, 0x1e}));
  p.bench.advance(10ms);
  CHECK(p.all() == (Bytes{0x9e, 0xe0, 0xc8}));
  for (const ui::KeyName& key : ui::key_names()) CHECK(key.code != 0 && ui::key_by_name(key.name) == key.code);
  CHECK_EQ(ui::key_by_name("nope"), 0);
  // What cannot be typed any more is refused, and a reset forgets what waits.
  unsigned taken = 0;
  while (keyboard->type(ctrl_c, 100ms)) taken++;
  CHECK(taken > 100 && taken < 1000);
  p.bench.device().reset_tree();
  (void)p.all();
  p.bench.advance(1s);
  CHECK(p.all() == Bytes{});
}

}  // namespace vmm::test
