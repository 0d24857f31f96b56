#include "hw/core/rom_file.h"

#include <bit>
#include <cstring>

#include "src/base/bits.h"
#include "src/base/format.h"
#include "src/io/read_file.h"

namespace vmm::hw {

Result<> check_system_rom(std::span<const u8> bytes) {
  if (bytes.empty()) return fail("the file is empty");
  if (bytes.size() % (64 * KiB) != 0 || bytes.size() > rom_limit_bytes)
    return fail("{} bytes, but firmware takes a multiple of 64 KiB up to 16 MiB", bytes.size());
  return {};
}

Result<std::vector<u8>> load_system_rom(const std::string& path) {
  const std::string what = format("could not load PC BIOS '{}'", path);
  auto bytes = read_file(path, rom_limit_bytes, what);
  if (!bytes) return bytes;
  if (auto fits = check_system_rom(*bytes); !fits) return std::unexpected(std::move(fits).error().within(what));
  return bytes;
}

Result<u64> option_rom_bar_bytes(u64 file_bytes, u32 romsize) {
  if (file_bytes == 0) return fail("the file is empty");
  if (romsize == ~u32{0}) return std::bit_ceil(std::max<u64>(file_bytes, 2048));
  if (!std::has_single_bit(romsize) || romsize < file_bytes)
    return fail("'romsize' takes a power of two of at least {} (the size of the file), not {}", file_bytes, romsize);
  return u64{romsize};
}

Result<OptionRom> load_option_rom(const std::string& path, u32 romsize) {
  std::vector<u8> bytes = TRY(read_file(path, rom_limit_bytes, format("failed to read romfile \"{}\"", path)));
  const auto size = option_rom_bar_bytes(bytes.size(), romsize);
  if (!size) return std::unexpected(Error{size.error()}.within(format("romfile \"{}\"", path)));
  return OptionRom{.bytes = std::move(bytes), .bar_bytes = *size};
}

bool set_option_rom_ids(std::span<u8> rom, u16 vendor, u16 device) {
  constexpr usize header = 0x1a, data_structure = 0x18;
  if (rom.size() < header || load_le<u16>(rom.data()) != 0xaa55) return false;
  const usize at = load_le<u16>(&rom[0x18]);
  if (at < header || at + data_structure > rom.size() || std::memcmp(&rom[at], "PCIR", 4) != 0) return false;
  // The byte at 6 is a jump's tail in a PC image; firmware checks the sum of image bytes, so the difference goes there.
  u8 sum = 0;
  for (const auto [offset, id] : {std::pair{at + 4, vendor}, std::pair{at + 6, device}}) {
    for (usize i = 0; i < 2; i++) sum = static_cast<u8>(sum + rom[offset + i] - static_cast<u8>(id >> 8 * i));
    store_le<u16>(&rom[offset], id);
  }
  rom[6] = static_cast<u8>(rom[6] + sum);
  return true;
}

}  // namespace vmm::hw
