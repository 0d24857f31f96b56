// -kernel, -initrd and -append of every kind: no input crashes, and what the boot script places lies in RAM and nowhere twice.
// Input: u8 RAM in units of 256 KiB, u16 length of the initrd (or of Multiboot's module), u8 length of the command line; these two; the
// kernel.
#include <algorithm>

#include "hw/firmware/kernel_boot.h"
#include "src/base/assert.h"
#include "src/base/bits.h"

using namespace vmm;

namespace {

// What tests/fuzz/run asks of the kept corpus: most edges of these functions, part by part.
[[maybe_unused]] constexpr const char* parts[] = {
    "bzImage: parse_linux, prepare_linux",
    "Multiboot: find_multiboot, looks_like_multiboot, parse_multiboot, prepare_multiboot",
    "PVH ELF: looks_like_elf, read_elf_header, read_program_header, find_pvh_note, parse_elf, place, prepare_pvh",
    "initrd: place_initrd, split_modules, place_parts",
};

// The rows of the script: copies must lie in RAM and apart.
void check_script(const hw::KernelBoot& boot, u64 ram) {
  const auto item = [&](u32 key) { return std::ranges::find(boot.items, key, &hw::KernelBoot::Item::key); };
  const auto script = item(0x80f0);
  ASSERT(script != boot.items.end() && script->bytes.size() <= 512);
  std::vector<std::pair<u64, u64>> places;
  for (usize at = 0; at + 16 <= script->bytes.size(); at += 16) {
    const u8* row = &script->bytes[at];
    if (load_le<u32>(row) != 1) continue;
    const auto source = item(load_le<u32>(row + 4));
    const u64 address = load_le<u32>(row + 8), length = load_le<u32>(row + 12);
    ASSERT(source != boot.items.end() && source->bytes.size() == length && address + length <= ram);
    for (const auto& [from, end] : places) ASSERT(address >= end || address + length <= from || length == 0 || from == end);
    places.emplace_back(address, address + length);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  if (size < 4) return 0;
  const u64 ram = u64{data[0]} * 256 * KiB;
  const usize initrd_size = std::min<usize>(load_le<u16>(data + 1), size - 4), line_size = std::min<usize>(data[3], size - 4 - initrd_size);
  std::span<const u8> rest{data + 4, size - 4};
  const auto initrd = rest.first(initrd_size), line = rest.subspan(initrd_size, line_size), kernel = rest.subspan(initrd_size + line_size);
  hw::KernelBootInput in{.kernel = kernel, .command_line = std::string{line.begin(), line.end()}, .ram_below_4g = ram};
  if (hw::looks_like_multiboot(kernel) || hw::looks_like_elf(kernel)) {
    for (const std::string& word : hw::split_modules(in.command_line)) in.modules.push_back({word, {initrd.begin(), initrd.end()}});
  } else {
    in.initrd = initrd;
  }
  if (const auto boot = hw::prepare_kernel_boot(in)) check_script(*boot, ram);
  return 0;
}
