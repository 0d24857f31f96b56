// Sources: Linux Documentation/arch/x86/boot.rst; Multiboot 0.6.96 §3.3; Xen public/arch-x86/hvm/start_info.h; fw_cfg keys as guests know
// them.
#include "hw/firmware/kernel_boot.h"

#include <algorithm>

#include "src/io/read_file.h"

extern "C" const vmm::u8 vmm_boot_rom[], vmm_boot_rom_end[];

namespace vmm::hw {
namespace {

// fw_cfg selectors.
enum : u16 {
  key_kernel_address = 0x07,
  key_kernel_size = 0x08,
  key_initrd_address = 0x0a,
  key_initrd_size = 0x0b,
  key_kernel_data = 0x11,
  key_initrd_data = 0x12,
  key_cmdline_address = 0x13,
  key_cmdline_size = 0x14,
  key_cmdline_data = 0x15,
  key_setup_address = 0x16,
  key_setup_size = 0x17,
  key_setup_data = 0x18,
  key_script = 0x80f0,
  key_gdt = 0x80f1,
  key_first_part = 0x8100,
};
constexpr u32 setup_address = 0x10000, cmdline_address = 0x20000;
constexpr u32 cmdline_limit = 0x70000 - 1;                  // what is left below the extended BIOS data area
constexpr u32 info_address = 0x9000, map_address = 0x7000;  // Multiboot information or PVH start_info; the memory map
constexpr u32 gdt_address = 0x5f80;

std::vector<u8> dword(u32 v) {
  std::vector<u8> bytes(4);
  store_le<u32>(bytes.data(), v);
  return bytes;
}
std::vector<u8> text(const std::string& s) {
  std::vector<u8> bytes(s.begin(), s.end());
  bytes.push_back(0);
  return bytes;
}

class Script {
 public:
  explicit Script(KernelBoot& boot) : boot_(boot) {}
  void copy(u16 key, u32 address, u32 length) { row(1, key, address, length); }
  // A part of its own key.
  void place(u32 address, std::vector<u8> bytes) {
    copy(next_, address, static_cast<u32>(bytes.size()));
    boot_.items.push_back({next_++, std::move(bytes), {}});
  }
  void row(u32 op, u32 a, u32 b, u32 c) {
    for (u32 v : {op, a, b, c}) words_.push_back(v);
  }
  Result<> finish() {
    std::vector<u8> bytes(512);
    if (words_.size() * 4 > bytes.size() - 16) return fail("kernel has too many parts to load");
    for (usize i = 0; i < words_.size(); i++) store_le<u32>(&bytes[i * 4], words_[i]);
    boot_.items.push_back({key_script, std::move(bytes)});
    return {};
  }

 private:
  KernelBoot& boot_;
  std::vector<u32> words_;
  u16 next_ = key_first_part;
};

// As high as the kernel allows, below `top`, beside the kernel's own bytes.
Result<u32> place_initrd(usize size, const KernelImage& image, u64 top) {
  const u64 highest = std::min<u64>(u64{image.initrd_max} + 1, top);
  if (size >= highest || align_down(highest - size, 4096) < image.payload_address + image.payload.size())
    return fail("initrd of {} bytes does not fit beside the kernel; give the guest more memory (-m)", size);
  return static_cast<u32>(align_down(highest - size, 4096));
}

Result<> prepare_linux(const KernelBootInput& in, KernelImage& image, KernelBoot& boot) {
  if (image.setup.size() > cmdline_address - setup_address)
    return fail("kernel's setup part is {} bytes long, at most {} are loaded", image.setup.size(), cmdline_address - setup_address);
  image.cmdline_max = std::min(image.cmdline_max, cmdline_limit);
  if (in.command_line.size() > image.cmdline_max)
    return fail("kernel command line is {} bytes long, this kernel takes {}", in.command_line.size(), image.cmdline_max);
  if (in.ram_below_4g <= in.reserved_top_bytes + 2 * MiB) return fail("{} bytes of memory are too few to start a kernel", in.ram_below_4g);
  const u64 top = in.ram_below_4g - in.reserved_top_bytes;
  if (image.payload_address + image.payload.size() > top) return fail("kernel does not fit into the guest's memory (-m)");
  std::vector<u8>& setup = image.setup;
  setup[0x210] = 0xb0;  // boot loader: other
  if (image.protocol >= 0x0201) {
    setup[0x211] |= 0x80;  // heap is usable
    store_le<u16>(&setup[0x224], u16(cmdline_address - setup_address - 0x200));
  }
  store_le<u32>(&setup[0x228], cmdline_address);
  // vga= is for the boot loader.
  if (const auto at = in.command_line.find("vga="); at != in.command_line.npos) {
    const std::string mode = in.command_line.substr(at + 4, in.command_line.find(' ', at) - at - 4);
    const u16 number = mode == "normal" ? 0xffff
                       : mode == "ext"  ? 0xfffe
                       : mode == "ask"  ? 0xfffd
                                        : static_cast<u16>(std::strtoul(mode.c_str(), nullptr, 0));
    store_le<u16>(&setup[0x1fa], number);
  }
  const u32 initrd_address = in.initrd.empty() ? 0 : TRY(place_initrd(in.initrd.size(), image, top));
  if (initrd_address) {
    store_le<u32>(&setup[0x218], initrd_address);
    store_le<u32>(&setup[0x21c], static_cast<u32>(in.initrd.size()));
  }
  const auto setup_size = static_cast<u32>(setup.size()), kernel_size = static_cast<u32>(image.payload.size());
  const auto cmdline_size = static_cast<u32>(in.command_line.size() + 1), initrd_size = static_cast<u32>(in.initrd.size());
  Script script{boot};
  script.copy(key_setup_data, setup_address, setup_size);
  script.copy(key_cmdline_data, cmdline_address, cmdline_size);
  script.copy(key_kernel_data, image.payload_address, kernel_size);
  if (initrd_size) script.copy(key_initrd_data, initrd_address, initrd_size);
  script.row(3, setup_address >> 4, (setup_address >> 4) + 0x20, cmdline_address - setup_address - 16);
  boot.items.push_back({key_kernel_address, dword(image.payload_address)});
  boot.items.push_back({key_kernel_size, dword(kernel_size)});
  boot.items.push_back({key_kernel_data, std::move(image.payload)});
  boot.items.push_back({key_initrd_address, dword(initrd_address)});
  boot.items.push_back({key_initrd_size, dword(initrd_size)});
  boot.items.push_back({key_initrd_data, {in.initrd.begin(), in.initrd.end()}});
  boot.items.push_back({key_cmdline_address, dword(cmdline_address)});
  boot.items.push_back({key_cmdline_size, dword(cmdline_size)});
  boot.items.push_back({key_cmdline_data, text(in.command_line)});
  boot.items.push_back({key_setup_address, dword(setup_address)});
  boot.items.push_back({key_setup_size, dword(setup_size)});
  boot.items.push_back({key_setup_data, std::move(setup)});
  return script.finish();
}

void place_gdt(Script& script) {
  // Null, flat 32-bit code, flat data; the ROM's descriptor points here.
  std::vector<u8> gdt(24);
  store_le<u64>(&gdt[8], 0x00cf'9b00'0000'ffff);
  store_le<u64>(&gdt[16], 0x00cf'9300'0000'ffff);
  script.place(gdt_address, std::move(gdt));
}

// Kernel, then modules page by page above it. Modules: their places.
Result<std::vector<std::pair<u32, u32>>> place_parts(const KernelBootInput& in, KernelImage& image, Script& script) {
  place_gdt(script);
  u64 at = align_up(std::max<u64>(image.end, 0x100000), 4096);
  for (auto& s : image.segments) script.place(s.address, std::move(s.bytes));
  std::vector<std::pair<u32, u32>> places;
  for (const auto& [name, bytes] : in.modules) {
    if (at + bytes.size() + in.reserved_top_bytes > in.ram_below_4g)
      return fail("module '{}' does not fit into the guest's memory (-m)", name);
    places.push_back({static_cast<u32>(at), static_cast<u32>(at + bytes.size())});
    script.place(static_cast<u32>(at), bytes);
    at = align_up(at + bytes.size(), 4096);
  }
  return places;
}

Result<> prepare_multiboot(const KernelBootInput& in, KernelImage& image, KernelBoot& boot) {
  Script script{boot};
  const auto modules = TRY(place_parts(in, image, script));
  // Information structure (120 bytes), module list, then strings; all below 0xd000.
  std::vector<u8> info(120 + modules.size() * 16);
  const auto add_text = [&](const std::string& s) {
    const u32 at = info_address + static_cast<u32>(info.size());
    const auto bytes = text(s);
    info.insert(info.end(), bytes.begin(), bytes.end());
    return at;
  };
  for (usize i = 0; i < modules.size(); i++) {
    const u32 name = add_text(in.modules[i].first);
    store_le<u32>(&info[120 + i * 16], modules[i].first);
    store_le<u32>(&info[120 + i * 16 + 4], modules[i].second);
    store_le<u32>(&info[120 + i * 16 + 8], name);
  }
  const u32 command_line = add_text(in.command_line), loader = add_text("vmm");
  if (info.size() > 0x4000) return fail("Multiboot command lines are too long");
  store_le<u32>(&info[0], 0x1 | 0x2 | 0x4 | 0x8 | 0x40 | 0x200);
  store_le<u32>(&info[4], 639);
  store_le<u32>(&info[8], static_cast<u32>((in.ram_below_4g - MiB) / 1024));
  store_le<u32>(&info[12], 0x8000ffff);
  store_le<u32>(&info[16], command_line);
  store_le<u32>(&info[20], static_cast<u32>(modules.size()));
  store_le<u32>(&info[24], info_address + 120);
  store_le<u32>(&info[48], map_address);
  store_le<u32>(&info[64], loader);
  script.place(info_address, std::move(info));
  script.row(2, 1, map_address, info_address + 44);
  script.row(4, image.entry, 0x2badb002, info_address);
  return script.finish();
}

Result<> prepare_pvh(const KernelBootInput& in, KernelImage& image, KernelBoot& boot) {
  Script script{boot};
  const auto modules = TRY(place_parts(in, image, script));
  // start_info (56 bytes), one module entry of 32 bytes, command line.
  std::vector<u8> info(56 + modules.size() * 32);
  const u32 command_line = info_address + static_cast<u32>(info.size());
  const auto bytes = text(in.command_line);
  info.insert(info.end(), bytes.begin(), bytes.end());
  if (info.size() > 0x4000) return fail("kernel command line is {} bytes long, at most 16000 are passed", in.command_line.size());
  store_le<u32>(&info[0], 0x336ec578);
  store_le<u32>(&info[4], 1);
  store_le<u32>(&info[12], static_cast<u32>(modules.size()));
  store_le<u64>(&info[16], modules.empty() ? 0 : info_address + 56);
  store_le<u64>(&info[24], command_line);
  store_le<u64>(&info[40], map_address);
  for (usize i = 0; i < modules.size(); i++) {
    store_le<u64>(&info[56 + i * 32], modules[i].first);
    store_le<u64>(&info[56 + i * 32 + 8], modules[i].second - modules[i].first);
  }
  script.place(info_address, std::move(info));
  script.row(2, 2, map_address, info_address + 48);
  script.row(4, image.entry, 0, info_address);
  return script.finish();
}

constexpr u64 file_limit = GiB;

}  // namespace

std::vector<std::string> split_modules(std::string_view list) {
  std::vector<std::string> words;
  for (usize start = 0; start < list.size();) {
    const usize comma = std::min(list.find(',', start), list.size());
    words.emplace_back(list.substr(start, comma - start));
    start = comma + 1;
  }
  return words;
}

Result<KernelBoot> prepare_kernel_boot(const KernelBootInput& in) {
  KernelImage image = TRY(parse_kernel(in.kernel, in.ram_below_4g));
  KernelBoot boot;
  switch (image.kind) {
    case KernelImage::Kind::bzimage:
      boot.rom_name = "genroms/linuxboot_dma.bin";
      TRY(prepare_linux(in, image, boot));
      break;
    case KernelImage::Kind::multiboot:
      boot.rom_name = "genroms/multiboot_dma.bin";
      TRY(prepare_multiboot(in, image, boot));
      break;
    case KernelImage::Kind::pvh:
      boot.rom_name = "genroms/pvh.bin";
      TRY(prepare_pvh(in, image, boot));
      break;
  }
  boot.rom.assign(vmm_boot_rom, vmm_boot_rom_end);
  // The last byte makes the sum zero.
  u8 sum = 0;
  for (u8 b : boot.rom) sum = static_cast<u8>(sum + b);
  boot.rom.back() = static_cast<u8>(boot.rom.back() - sum);
  return boot;
}

Result<KernelBoot> load_kernel_boot(const std::string& kernel, const std::string& initrd, const std::string& command_line,
                                    u64 ram_below_4g) {
  const auto kernel_file = KeptFile::open(kernel);
  std::shared_ptr<KeptFile> initrd_file;
  const std::vector<u8> bytes = TRY(read_file(kernel, file_limit, format("-kernel {}: could not load", kernel)));
  KernelBootInput in{.kernel = bytes, .command_line = command_line, .ram_below_4g = ram_below_4g};
  std::vector<u8> initrd_bytes;
  if (looks_like_multiboot(bytes)) {
    in.command_line = kernel + (command_line.empty() ? "" : " " + command_line);
    for (const std::string& word : split_modules(initrd))
      in.modules.push_back({word, TRY(read_file(word.substr(0, word.find(' ')), file_limit, format("-initrd {}: could not load", word)))});
  } else if (!initrd.empty()) {
    initrd_file = KeptFile::open(initrd);
    initrd_bytes = TRY(read_file(initrd, file_limit, format("-initrd {}: could not load", initrd)));
    if (looks_like_elf(bytes))
      in.modules.push_back({initrd, initrd_bytes});
    else
      in.initrd = initrd_bytes;
  }
  auto boot = prepare_kernel_boot(in);
  if (!boot) return std::unexpected(std::move(boot).error().within(format("-kernel {}", kernel)));
  // Megabytes that are read at each start of the guest, and between two starts by nobody: they stay in their files.
  const auto leave = [](KernelBoot::Item& item, const std::shared_ptr<KeptFile>& file, std::span<const u8> whole) {
    if (!file || file->size() != whole.size()) return;  // a pipe; or it changed while it was read: this is what was checked
    item.slice = {.file = file, .offset = whole.size() - item.bytes.size(), .size = item.bytes.size()};
    item.bytes = {};
  };
  for (KernelBoot::Item& item : boot->items) {
    if (item.key == key_kernel_data) leave(item, kernel_file, bytes);
    if (item.key == key_initrd_data && !item.bytes.empty()) leave(item, initrd_file, initrd_bytes);
  }
  return boot;
}

}  // namespace vmm::hw
