// cfi.pflash01: what firmware's flash drivers do.
#include "hw/storage/pflash.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct Flash {
  DeviceBench bench;
  hw::Pflash& flash = bench.device<hw::Pflash>();
  explicit Flash(bool secure = false)
      : bench{"cfi.pflash01", {{"num-blocks", 4}, {"sector-length", 4096}, {"name", "test.flash"}, {"secure", secure}}} {}
  u8 read(u64 at) {
    u64 value = 0;
    CHECK(flash.region().read(at, 1, value));
    return static_cast<u8>(value);
  }
  void write(u64 at, u8 value) { CHECK(flash.region().write(at, 1, value)); }
  bool shows_array() { return flash.region().romd(); }
};
}  // namespace

TEST(pflash_is_found_by_the_probe_of_ovmf) {
  Flash f;
  f.write(0, 0x50);
  CHECK_EQ(f.read(0), 0xff);
  f.write(0, 0x70);
  CHECK_EQ(f.read(0), 0x00);  // neither RAM nor ROM
  f.write(0, 0xff);
  CHECK(f.shows_array());
}

TEST(pflash_programs_bits_to_0_and_erases_blocks_to_1) {
  Flash f;
  f.write(5, 0x40);
  f.write(5, 0xf0);
  CHECK_EQ(f.read(5), 0x80);  // status: ready
  f.write(5, 0x10);
  f.write(5, 0x3c);
  f.write(5, 0xff);
  CHECK_EQ(f.flash.region().ram()->host()[5], 0x30);
  f.write(4096, 0x10);
  f.write(4096, 0x00);
  f.write(5, 0x20);
  f.write(5, 0xd0);
  f.write(5, 0xff);
  CHECK_EQ(f.flash.region().ram()->host()[5], 0xff);
  CHECK_EQ(f.flash.region().ram()->host()[4096], 0x00);
}

TEST(pflash_buffer_goes_to_the_array_on_confirmation_only) {
  Flash f;
  f.write(64, 0xe8);
  f.write(64, 1);  // two bytes
  f.write(64, 0x12);
  f.write(65, 0x34);
  CHECK_EQ(f.flash.region().ram()->host()[64], 0xff);
  f.write(64, 0xd0);
  CHECK_EQ(f.flash.region().ram()->host()[64], 0x12);
  CHECK_EQ(f.flash.region().ram()->host()[65], 0x34);
  f.write(4000, 0xe8);
  f.write(4000, 0);
  f.write(0, 0x55);  // outside the buffer: the program fails
  CHECK_EQ(f.read(0) & 0x10, 0x10);
}

TEST(pflash_secure_is_rom_but_for_smm) {
  Flash f{true};
  CHECK(f.flash.smm_region() != nullptr);
  (void)f.flash.region().write(0, 1, 0x40);
  (void)f.flash.region().write(0, 1, 0x00);
  CHECK_EQ(f.flash.region().ram()->host()[0], 0xff);
  CHECK(f.flash.smm_region()->write(0, 1, 0x40));
  CHECK(f.flash.smm_region()->write(0, 1, 0x5a));
  CHECK_EQ(f.flash.region().ram()->host()[0], 0x5a);
}

}  // namespace vmm::test
