// ROM files as users give them to -bios and romfile=: what they must look like, and where a device's own IDs go.
// Sources: PCI Firmware 3.0 §5.1 (expansion ROM header, PCI data structure).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::hw {

constexpr u64 rom_limit_bytes = 16 * MiB;

// System firmware: a multiple of 64 KiB.
Result<std::vector<u8>> load_system_rom(const std::string& path);
Result<> check_system_rom(std::span<const u8> bytes);

// An expansion ROM; `romsize` is what the user wants, or all ones.
struct OptionRom {
  std::vector<u8> bytes;
  u64 bar_bytes = 0;  // a power of two
};
Result<OptionRom> load_option_rom(const std::string& path, u32 romsize);
Result<u64> option_rom_bar_bytes(u64 file_bytes, u32 romsize);
// Firmware runs only a ROM that names the function it stands on. Writes the IDs into the ROM's first image where they differ (and keeps the
// sum of its bytes); false if this is no PC option ROM, which is then left as it is.
bool set_option_rom_ids(std::span<u8> rom, u16 vendor, u16 device);

}  // namespace vmm::hw
