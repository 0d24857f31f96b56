// -bios and romfile=. Input: u32 romsize, u16 vendor, u16 device, the file.
#include <numeric>

#include "hw/core/rom_file.h"
#include "src/base/assert.h"
#include "src/base/bits.h"

using namespace vmm;

namespace {
// What tests/fuzz/run asks of the kept corpus: most edges of these functions.
[[maybe_unused]] constexpr const char* parts[] = {"ROM: check_system_rom, option_rom_bar_bytes, set_option_rom_ids"};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  if (size < 8) return 0;
  const u16 vendor = load_le<u16>(data + 4), device = load_le<u16>(data + 6);
  std::vector<u8> rom{data + 8, data + size};
  (void)hw::check_system_rom(rom);
  if (const auto bar = hw::option_rom_bar_bytes(rom.size(), load_le<u32>(data))) ASSERT(std::has_single_bit(*bar) && *bar >= rom.size());
  const auto sum = [&] { return std::accumulate(rom.begin(), rom.end(), u8{0}, [](u8 a, u8 b) { return static_cast<u8>(a + b); }); };
  const u8 before = sum();
  const std::vector<u8> was = rom;
  if (!hw::set_option_rom_ids(rom, vendor, device)) ASSERT(rom == was);
  ASSERT(sum() == before);
  return 0;
}
