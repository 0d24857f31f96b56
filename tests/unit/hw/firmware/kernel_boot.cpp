#include "hw/firmware/kernel_boot.h"

#include <filesystem>
#include <fstream>

#include "tests/unit/test.h"

namespace vmm::hw {
namespace {
std::vector<u8> small_bzimage() {
  std::vector<u8> k(5 * 512 + 64);
  k[0x1f1] = 4;
  store_le<u16>(&k[0x1fe], 0xaa55);
  store_le<u32>(&k[0x202], 0x53726448);
  store_le<u16>(&k[0x206], 0x20f);
  k[0x211] = 1;
  store_le<u32>(&k[0x1f4], 4);
  store_le<u32>(&k[0x22c], 0x7fffffff);
  store_le<u32>(&k[0x238], 2047);
  return k;
}
std::vector<u8> small_multiboot() {
  std::vector<u8> k(256);
  store_le<u32>(&k[0], 0x1badb002);
  store_le<u32>(&k[4], 0x10000);
  store_le<u32>(&k[8], 0u - 0x1badb002u - 0x10000u);
  for (auto [at, v] : {std::pair{12, 0x100000u}, {16, 0x100000u}, {20, 0u}, {24, 0x101000u}, {28, 0x100020u}}) store_le<u32>(&k[at], v);
  return k;
}
}  // namespace

TEST(bzimage_is_split_and_its_header_is_filled_in) {
  const auto kernel = small_bzimage();
  const std::vector<u8> initrd(5000, 7);
  const KernelBoot boot =
      OK(prepare_kernel_boot({.kernel = kernel, .initrd = initrd, .command_line = "console=ttyS0", .ram_below_4g = 64 * MiB}));
  CHECK_EQ(boot.rom_name, "genroms/linuxboot_dma.bin");
  u8 sum = 0;
  for (u8 b : boot.rom) sum = static_cast<u8>(sum + b);
  CHECK_EQ(sum, 0);
  CHECK_EQ(boot.rom.size(), 2048u);
  for (const auto& item : boot.items)
    if (item.key == 0x18) {
      CHECK_EQ(load_le<u32>(&item.bytes[0x218]), (64 * MiB - 0x40000 - 5000) & ~u64{4095});
      CHECK_EQ(load_le<u32>(&item.bytes[0x21c]), 5000u);
      CHECK_EQ(load_le<u32>(&item.bytes[0x228]), 0x20000u);
    }
}
TEST(kernel_that_is_cut_off_is_refused_with_a_reason) {
  auto kernel = small_bzimage();
  for (usize length : {0, 100, 0x1ff, 0x25f, 0x400, 5 * 512, 5 * 512 + 10}) {
    const auto r = parse_kernel(std::span{kernel}.first(length), 64 * MiB);
    CHECK(!r);
    CHECK(!r.error().message.empty());
  }
}
TEST(initrd_larger_than_memory_is_refused) {
  const auto kernel = small_bzimage();
  const std::vector<u8> initrd(3 * MiB);
  CHECK(!prepare_kernel_boot({.kernel = kernel, .initrd = initrd, .ram_below_4g = 4 * MiB}));
}
TEST(multiboot_image_loads_at_its_addresses) {
  const auto k = small_multiboot();
  const KernelImage image = OK(parse_kernel(k, 64 * MiB));
  CHECK_EQ(image.entry, 0x100020u);
  CHECK_EQ(image.segments.size(), 1u);
  CHECK_EQ(image.segments[0].bytes.size(), 0x1000u);
  CHECK(!parse_kernel(k, 0x100800));
}
TEST(random_bytes_are_never_a_kernel_nor_a_crash) {
  u64 seed = 88172645463325252;
  const auto random = [&] { return seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; };
  const std::vector<std::vector<u8>> starts{small_bzimage(), small_multiboot(), [] {
                                              std::vector<u8> e(512);
                                              const u8 ident[] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
                                              std::ranges::copy(ident, e.begin());
                                              store_le<u16>(&e[18], 62);
                                              store_le<u64>(&e[32], 64);
                                              store_le<u16>(&e[54], 56);
                                              store_le<u16>(&e[56], 2);
                                              return e;
                                            }()};
  for (int round = 0; round < 30000; round++) {
    std::vector<u8> bytes = starts[random() % starts.size()];
    for (int n = random() % 12; n >= 0; n--) bytes[random() % bytes.size()] = static_cast<u8>(random());
    (void)parse_kernel(bytes, 16 * MiB);
  }
}
TEST(debian_kernel_parses) {
  std::string path;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator{"/boot", none})
    if (entry.path().filename().string().starts_with("vmlinuz-")) path = entry.path();
  std::ifstream f{path, std::ios::binary};
  if (!f) test::skip("no kernel in /boot on this host (package linux-image-cloud-amd64)");
  const std::vector<char> bytes{std::istreambuf_iterator<char>{f}, {}};
  const KernelImage image = OK(parse_kernel({reinterpret_cast<const u8*>(bytes.data()), bytes.size()}, 512 * MiB));
  CHECK(image.kind == KernelImage::Kind::bzimage);
}
}  // namespace vmm::hw
