#include "hw/core/rom_file.h"

#include <numeric>

#include "src/base/bits.h"
#include "tests/unit/test.h"

namespace vmm::hw {

TEST(firmware_comes_in_multiples_of_64_kib) {
  const std::vector<u8> bytes(17 * MiB);
  const std::span<const u8> all{bytes};
  CHECK(check_system_rom(all.first(64 * KiB)) && check_system_rom(all.first(16 * MiB)));
  CHECK(!check_system_rom({}) && !check_system_rom(all.first(1000)) && !check_system_rom(all));
}

TEST(the_bar_of_an_option_rom_is_a_power_of_two) {
  CHECK_EQ(OK(option_rom_bar_bytes(1, ~u32{0})), 2048u);
  CHECK_EQ(OK(option_rom_bar_bytes(70'000, ~u32{0})), 131072u);
  CHECK_EQ(OK(option_rom_bar_bytes(70'000, 1 << 20)), 1u << 20);
  CHECK(!option_rom_bar_bytes(0, ~u32{0}) && !option_rom_bar_bytes(70'000, 65536) && !option_rom_bar_bytes(10, 3000));
}

TEST(an_option_rom_gets_the_ids_of_its_device_and_keeps_its_sum) {
  std::vector<u8> rom(512);
  store_le<u16>(&rom[0], 0xaa55);
  store_le<u16>(&rom[0x18], 0x40);
  std::memcpy(&rom[0x40], "PCIR", 4);
  store_le<u32>(&rom[0x44], 0x1000'1af4);
  const auto sum = [&] { return static_cast<u8>(std::accumulate(rom.begin(), rom.end(), 0u)); };
  const u8 before = sum();
  CHECK(set_option_rom_ids(rom, 0x8086, 0x10d3));
  CHECK_EQ(load_le<u32>(&rom[0x44]), 0x10d3'8086u);
  CHECK_EQ(sum(), before);
  // What is no PC option ROM stays as it is: no signature, a data structure outside, or none.
  for (const auto& [at, value] : {std::pair{0x00, 0}, {0x18, 0x1f0}, {0x18, 0x80}, {0x18, 4}}) {
    std::vector<u8> other = rom;
    store_le<u16>(&other[static_cast<usize>(at)], static_cast<u16>(value));
    const std::vector<u8> was = other;
    CHECK(!set_option_rom_ids(other, 1, 2) && other == was);
  }
  CHECK(!set_option_rom_ids({}, 1, 2));
}

}  // namespace vmm::hw
