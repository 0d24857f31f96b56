#include "hw/display/vga_core.h"
#include "src/base/lock.h"
#include "tests/unit/test.h"

namespace vmm::hw {
namespace {

struct Bench {
  MachineLocked locked;
  VgaCore v;
  Bench() {
    v.set_memory(OK(memory::RamBlock::make({.name = "test.vram", .size_bytes = 1 * MiB})));
    v.reset();
    v.port_write(0x3c2, 1);
  }
  void set(u16 index_port, u8 index, u8 value) { v.port_write(index_port, index), v.port_write(static_cast<u16>(index_port + 1), value); }
  void attribute(u8 index, u8 value) {
    (void)v.port_read(0x3da);
    v.port_write(0x3c0, index), v.port_write(0x3c0, value);
  }
  // 80x25 text at 0xb8000 as a BIOS would set it.
  void text_mode() {
    set(0x3c4, 2, 3), set(0x3c4, 4, 2);
    set(0x3ce, 5, 0x10), set(0x3ce, 6, 0x0e);
    set(0x3d4, 0x11, 0), set(0x3d4, 1, 79), set(0x3d4, 9, 15), set(0x3d4, 0x12, 0x8f), set(0x3d4, 7, 0x1f), set(0x3d4, 0x13, 40);
    for (u8 i = 0; i < 16; i++) attribute(i, i);
    (void)v.port_read(0x3da);
    v.port_write(0x3c0, 0x20);
  }
};

}  // namespace

TEST(vga_text_is_read_back_as_lines) {
  Bench b;
  b.text_mode();
  CHECK_EQ(b.v.text_size().first, 80u);
  CHECK_EQ(b.v.text_size().second, 25u);
  for (u32 i = 0; i < 80 * 25; i++) b.v.window_write(0x18000 + i * 2, ' '), b.v.window_write(0x18001 + i * 2, 7);
  const std::string_view word = "Hello";
  for (u32 i = 0; i < word.size(); i++) b.v.window_write(0x18000 + (80 + i) * 2, static_cast<u8>(word[i]));
  b.v.window_write(0x18000, 0xb0);
  CHECK_EQ(b.v.text(), std::string("\u2591\nHello\n"));
  CHECK_EQ(b.v.window_read(0x18000 + 160), u8{'H'});
  CHECK_EQ(b.v.window_read(0x18000 + 161), u8{7});
  CHECK_EQ(b.v.window_read(0), u8{0xff});  // 0xa0000 is not decoded in this mode
  const ui::Picture p = b.v.picture();
  CHECK_EQ(p.width, 720u);
  CHECK_EQ(p.height, 400u);
}

TEST(vga_planar_write_modes) {
  Bench b;
  b.set(0x3c4, 4, 6);    // planar
  b.set(0x3ce, 6, 5);    // 64 KiB at 0xa0000
  b.set(0x3c4, 2, 0xf);  // all planes
  b.set(0x3ce, 8, 0xff);
  // Mode 0 with set/reset: plane 1 takes the constant, the others the data.
  b.set(0x3ce, 1, 2), b.set(0x3ce, 0, 2);
  b.v.window_write(10, 0x0f);
  auto plane = [&](u8 n, u32 at) { return b.set(0x3ce, 4, n), b.v.window_read(at); };
  CHECK_EQ(plane(0, 10), u8{0x0f});
  CHECK_EQ(plane(1, 10), u8{0xff});
  // Bit mask: only masked bits change, the rest comes from the latch.
  b.set(0x3ce, 1, 0), b.set(0x3ce, 8, 0xf0);
  (void)b.v.window_read(10);
  b.v.window_write(10, 0xaa);
  CHECK_EQ(plane(0, 10), u8{0xaf});
  // Function XOR, rotate by 4.
  b.set(0x3ce, 8, 0xff), b.set(0x3ce, 3, 0x18 | 4);
  (void)b.v.window_read(10);
  b.v.window_write(10, 0x0f);
  CHECK_EQ(plane(0, 10), u8{0xaf ^ 0xf0});
  // Mode 1 copies latches.
  b.set(0x3ce, 3, 0), b.set(0x3ce, 5, 1);
  (void)b.v.window_read(10);
  b.v.window_write(20, 0);
  CHECK_EQ(plane(0, 20), u8{0x5f});
  CHECK_EQ(plane(1, 20), plane(1, 10));
  // Mode 2: data is a colour.
  b.set(0x3ce, 5, 2);
  b.v.window_write(30, 5);
  CHECK_EQ(plane(0, 30), u8{0xff});
  CHECK_EQ(plane(1, 30), u8{0});
  CHECK_EQ(plane(2, 30), u8{0xff});
  // Read mode 1: which pixels have colour 5.
  b.set(0x3ce, 5, 8), b.set(0x3ce, 2, 5), b.set(0x3ce, 7, 15);
  CHECK_EQ(b.v.window_read(30), u8{0xff});
  CHECK_EQ(b.v.window_read(31), u8{0});
  // The map mask keeps planes.
  b.set(0x3ce, 5, 0), b.set(0x3c4, 2, 1);
  b.v.window_write(30, 0);
  CHECK_EQ(plane(0, 30), u8{0});
  CHECK_EQ(plane(2, 30), u8{0xff});
}

TEST(vga_protected_crtc_registers_stay) {
  Bench b;
  b.set(0x3d4, 0x11, 0), b.set(0x3d4, 1, 79), b.set(0x3d4, 0x11, 0x80), b.set(0x3d4, 1, 5), b.set(0x3d4, 7, 0xff);
  b.v.port_write(0x3d4, 1);
  CHECK_EQ(b.v.port_read(0x3d5), u8{79});
  b.v.port_write(0x3d4, 7);
  CHECK_EQ(b.v.port_read(0x3d5), u8{0x10});
}

TEST(vga_vbe_modes_fit_the_memory_whatever_is_written) {
  Bench b;
  CHECK_EQ(b.v.vbe_read(0), u16{0xb0c5});
  b.v.vbe_write(1, 640), b.v.vbe_write(2, 400), b.v.vbe_write(3, 32), b.v.vbe_write(4, 0x41);
  CHECK_EQ(b.v.picture().width, 640u);
  CHECK_EQ(b.v.picture().height, 400u);
  for (u16 i = 1; i < 12; i++)
    for (u16 value : {u16{0}, u16{1}, u16{0xffff}, u16{0x8000}, u16{4}}) {
      if (i == 4) continue;
      b.v.vbe_write(i, value);
      b.v.window_write(0xffff, 1), (void)b.v.window_read(0x1ffff);
      const ui::Picture p = b.v.picture();
      CHECK(u64{p.width} * p.height <= 4 * MiB);
    }
  b.v.vbe_write(4, 2);
  CHECK_EQ(b.v.vbe_read(1), u16{16000});
}

TEST(vga_pictures_of_any_register_contents_are_bounded) {
  Bench b;
  u32 seed = 1;
  for (int round = 0; round < 40; round++) {
    for (u16 port : {0x3c2, 0x3c4, 0x3ce, 0x3d4})
      for (u8 i = 0; i < 32; i++) seed = seed * 1664525 + 1013904223, b.set(port, i, static_cast<u8>(seed >> 24));
    b.v.port_write(0x3c2, 1);
    for (u8 i = 0; i < 21; i++) seed = seed * 1664525 + 1013904223, b.attribute(i, static_cast<u8>(seed >> 24));
    (void)b.v.port_read(0x3da);
    b.v.port_write(0x3c0, 0x20);
    (void)b.v.text();
    const ui::Picture p = b.v.picture();
    CHECK(p.width <= 4096 && p.height <= 8192);
    CHECK_EQ(p.pixels.size(), usize{p.width} * p.height);
  }
}

}  // namespace vmm::hw
