// Kernel files as users give them to -kernel: what they are and where their parts go. Pure functions of bytes; every one of these formats
// is hostile until checked. Sources: Linux Documentation/arch/x86/boot.rst, Multiboot 0.6.96, ELF gABI, Xen "x86/HVM direct boot ABI"
// (PVH).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/wire.h"

namespace vmm::hw {

struct KernelImage {
  enum class Kind : u8 { bzimage, multiboot, pvh } kind = Kind::bzimage;

  // bzimage: the setup part (boot sector and real-mode code, as in the file) and the rest.
  std::vector<u8> setup, payload;
  u16 protocol = 0;  // 0x020f
  u32 payload_address = 0x100000;
  u32 initrd_max = 0x37ffffff;  // highest address of the last byte of the initrd
  u32 cmdline_max = 255;

  // multiboot, pvh: bytes to place, and where to start.
  struct Segment {
    u32 address = 0;
    std::vector<u8> bytes;  // memory size may be larger: zero-filled already
  };
  std::vector<Segment> segments;
  u32 entry = 0;
  u32 end = 0;  // one past the highest loaded byte
  u32 multiboot_flags = 0;
};

// `ram_below_4g`: parts that do not fit there are refused.
Result<KernelImage> parse_kernel(std::span<const u8> file, u64 ram_below_4g);
// The single formats, for the fuzz targets.
Result<KernelImage> parse_linux(std::span<const u8> file);
Result<KernelImage> parse_multiboot(std::span<const u8> file, u64 ram_below_4g);
Result<KernelImage> parse_elf(std::span<const u8> file, u64 ram_below_4g, bool need_pvh_note);
bool looks_like_multiboot(std::span<const u8> file);
bool looks_like_elf(std::span<const u8> file);

}  // namespace vmm::hw
