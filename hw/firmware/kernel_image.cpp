#include "hw/firmware/kernel_image.h"

#include <algorithm>
#include <optional>

namespace vmm::hw {
namespace {

constexpr u32 multiboot_magic = 0x1badb002;
constexpr usize multiboot_search = 8192;

// Position of the Multiboot header, if there is one: 4-aligned within the first 8 KiB, with a checksum that holds.
std::optional<usize> find_multiboot(std::span<const u8> file) {
  for (usize at = 0; at + 12 <= std::min(file.size(), multiboot_search); at += 4) {
    const u32 flags = load_le<u32>(&file[at + 4]), sum = load_le<u32>(&file[at + 8]);
    if (load_le<u32>(&file[at]) == multiboot_magic && multiboot_magic + flags + sum == 0) return at;
  }
  return std::nullopt;
}

// Adds bytes at a physical address with a zero tail. Refuses what lies under 1 MiB's firmware, above RAM, or over another part.
Result<> place(KernelImage& image, u64 address, std::span<const u8> bytes, u64 memory_size, u64 ram_below_4g) {
  const auto end = add_checked(address, memory_size);
  if (!end || *end > ram_below_4g)
    return fail("kernel part at {:#x} of {:#x} bytes does not fit below {:#x}; give the guest more memory (-m)", address, memory_size,
                ram_below_4g);
  if (memory_size == 0) return {};
  for (const auto& s : image.segments)
    if (address < u64{s.address} + s.bytes.size() && s.address < *end)
      return fail("kernel parts overlap at {:#x}", std::max<u64>(address, s.address));
  if (address < 0x10000 || (address < 0x100000 && *end > 0x9fc00)) return fail("kernel part at {:#x} lies over the firmware", address);
  KernelImage::Segment segment{.address = static_cast<u32>(address)};
  segment.bytes.resize(memory_size);
  std::ranges::copy(bytes, segment.bytes.begin());
  image.segments.push_back(std::move(segment));
  image.end = std::max(image.end, static_cast<u32>(*end));
  return {};
}

struct ElfHeader {
  bool is64 = false;
  u64 entry = 0, program_offset = 0;
  u16 program_size = 0, program_count = 0;
};

Result<ElfHeader> read_elf_header(std::span<const u8> file) {
  SpanReader r{file};
  const auto ident = TRY(r.bytes(16, "ELF header"));
  ElfHeader h{.is64 = ident[4] == 2};
  if (ident[4] != 1 && ident[4] != 2) return fail("ELF class {} is unknown", ident[4]);
  if (ident[5] != 1) return fail("ELF file is big endian; this is a PC");
  TRY(r.le<u16>("ELF type"));
  const u16 machine = TRY(r.le<u16>("ELF machine")).raw();
  if (machine != 3 && machine != 62) return fail("ELF file is for machine {}, not for x86", machine);
  TRY(r.le<u32>("ELF version"));
  if (h.is64) {
    h.entry = TRY(r.le<u64>("ELF entry")).raw();
    h.program_offset = TRY(r.le<u64>("ELF program headers")).raw();
    TRY(r.skip(8 + 4 + 2, "ELF header"));
  } else {
    h.entry = TRY(r.le<u32>("ELF entry")).raw();
    h.program_offset = TRY(r.le<u32>("ELF program headers")).raw();
    TRY(r.skip(4 + 4 + 2, "ELF header"));
  }
  h.program_size = TRY(r.le<u16>("ELF program header size")).raw();
  h.program_count = TRY(r.le<u16>("ELF program header count")).raw();
  if (h.program_size < (h.is64 ? 56 : 32)) return fail("ELF program headers are {} bytes, too small", h.program_size);
  if (h.program_count == 0 || h.program_count > 128) return fail("ELF file has {} program headers, 1 to 128 are allowed", h.program_count);
  return h;
}

struct ProgramHeader {
  u32 type = 0;
  u64 offset = 0, virtual_address = 0, address = 0, file_size = 0, memory_size = 0;
};

Result<ProgramHeader> read_program_header(std::span<const u8> file, const ElfHeader& h, unsigned index) {
  SpanReader r{file};
  const auto at = add_checked<u64>(h.program_offset, u64{index} * h.program_size);
  if (!at) return fail("ELF program header {} lies past the end of the file", index);
  TRY(r.seek(*at, "ELF program header"));
  ProgramHeader p;
  p.type = TRY(r.le<u32>("ELF segment type")).raw();
  if (h.is64) {
    TRY(r.skip(4, "ELF segment flags"));
    p.offset = TRY(r.le<u64>("ELF segment offset")).raw();
    p.virtual_address = TRY(r.le<u64>("ELF segment address")).raw();
    p.address = TRY(r.le<u64>("ELF segment address")).raw();
    p.file_size = TRY(r.le<u64>("ELF segment size")).raw();
    p.memory_size = TRY(r.le<u64>("ELF segment size")).raw();
  } else {
    p.offset = TRY(r.le<u32>("ELF segment offset")).raw();
    p.virtual_address = TRY(r.le<u32>("ELF segment address")).raw();
    p.address = TRY(r.le<u32>("ELF segment address")).raw();
    p.file_size = TRY(r.le<u32>("ELF segment size")).raw();
    p.memory_size = TRY(r.le<u32>("ELF segment size")).raw();
  }
  return p;
}

// The PVH entry from a note segment: name "Xen", type 18, a 4- or 8-byte address.
Result<std::optional<u32>> find_pvh_note(std::span<const u8> notes) {
  SpanReader r{notes};
  while (r.left() >= 12) {
    const u32 name_size = TRY(TRY(r.le<u32>("ELF note")).at_most(1024, "ELF note name size"));
    const u32 value_size = TRY(TRY(r.le<u32>("ELF note")).at_most(1 << 20, "ELF note size"));
    const u32 type = TRY(r.le<u32>("ELF note")).raw();
    const auto name = TRY(r.bytes(align_up(name_size, 4), "ELF note name"));
    // The last note of a segment may lack its padding.
    const auto value = TRY(r.bytes(std::min<u64>(align_up(value_size, 4), std::max<u64>(r.left(), value_size)), "ELF note value"));
    if (type == 18 && name_size == 4 && std::memcmp(name.data(), "Xen", 4) == 0 && value_size >= 4) return load_le<u32>(value.data());
  }
  return std::nullopt;
}

}  // namespace

bool looks_like_elf(std::span<const u8> file) { return file.size() >= 4 && load_le<u32>(file.data()) == 0x464c457f; }
bool looks_like_multiboot(std::span<const u8> file) { return find_multiboot(file).has_value(); }

Result<KernelImage> parse_linux(std::span<const u8> file) {
  if (file.size() < 0x260) return fail("kernel file is {} bytes long, too short for a Linux kernel", file.size());
  if (load_le<u16>(&file[0x1fe]) != 0xaa55 || load_le<u32>(&file[0x202]) != 0x53726448)
    return fail("not a kernel: neither a bzImage (no 'HdrS' header), nor Multiboot, nor a PVH ELF file");
  KernelImage image;
  image.protocol = load_le<u16>(&file[0x206]);
  if (image.protocol < 0x0202) return fail("Linux boot protocol {:#x} is too old; 2.02 is the oldest that is supported", image.protocol);
  if (!(file[0x211] & 1)) return fail("kernel is a zImage, which loads below 1 MiB; only bzImage is supported");
  u64 setup_sectors = file[0x1f1];
  if (setup_sectors == 0) setup_sectors = 4;
  const u64 setup_bytes = (setup_sectors + 1) * 512;
  if (setup_bytes >= file.size())
    return fail("kernel file is cut off: the setup part needs {} bytes, the file has {}", setup_bytes, file.size());
  image.setup.assign(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(setup_bytes));
  image.payload.assign(file.begin() + static_cast<std::ptrdiff_t>(setup_bytes), file.end());
  if (image.protocol >= 0x0204) {
    // syssize counts 16-byte units of the protected-mode part; a file that lacks some of it is cut off.
    const u64 declared = u64{load_le<u32>(&file[0x1f4])} * 16;
    if (image.payload.size() + 15 < declared)
      return fail("kernel file is cut off: {} bytes of {} are there", image.payload.size(), declared);
  }
  if (image.protocol >= 0x0203) image.initrd_max = load_le<u32>(&file[0x22c]);
  if (image.protocol >= 0x0206) image.cmdline_max = load_le<u32>(&file[0x238]);
  return image;
}

Result<KernelImage> parse_elf(std::span<const u8> file, u64 ram_below_4g, bool need_pvh_note) {
  const ElfHeader h = TRY(read_elf_header(file));
  KernelImage image{.kind = need_pvh_note ? KernelImage::Kind::pvh : KernelImage::Kind::multiboot};
  std::optional<u32> pvh;
  u64 entry = h.entry;
  for (unsigned i = 0; i < h.program_count; i++) {
    const ProgramHeader p = TRY(read_program_header(file, h, i));
    if (p.type != 1 && p.type != 4) continue;
    SpanReader r{file};
    TRY(r.seek(p.offset, "ELF segment"));
    const auto bytes = TRY(r.bytes(p.file_size, "ELF segment"));
    if (p.type == 4) {
      if (!pvh) pvh = TRY(find_pvh_note(bytes));
      continue;
    }
    if (p.file_size > p.memory_size) return fail("ELF segment at {:#x} has more bytes in the file than in memory", p.address);
    TRY(place(image, p.address, bytes, p.memory_size, ram_below_4g));
    if (h.entry >= p.virtual_address && h.entry - p.virtual_address < p.memory_size) entry = h.entry - p.virtual_address + p.address;
  }
  if (image.segments.empty()) return fail("ELF file has nothing to load");
  if (need_pvh_note) {
    if (!pvh) return fail("ELF file has no PVH entry (note type 18 of \"Xen\"); it can't be started directly");
    image.entry = *pvh;
  } else {
    if (entry > 0xffff'ffff) return fail("ELF entry {:#x} is not a 32-bit address", entry);
    image.entry = static_cast<u32>(entry);
  }
  return image;
}

Result<KernelImage> parse_multiboot(std::span<const u8> file, u64 ram_below_4g) {
  const auto at = find_multiboot(file);
  if (!at) return fail("no Multiboot header in the first 8 KiB");
  const u32 flags = load_le<u32>(&file[*at + 4]);
  if (flags & 0xfff8) return fail("Multiboot header asks for features {:#x} that are not known", flags & 0xfff8);
  if (!(flags & 0x10000)) {
    if (!looks_like_elf(file)) return fail("Multiboot file is no ELF file and gives no load addresses");
    KernelImage image = TRY(parse_elf(file, ram_below_4g, false));
    image.multiboot_flags = flags;
    return image;
  }
  SpanReader r{file};
  TRY(r.seek(*at + 12, "Multiboot addresses"));
  const u32 header = TRY(r.le<u32>("Multiboot header address")).raw(), load = TRY(r.le<u32>("Multiboot load address")).raw();
  const u32 load_end = TRY(r.le<u32>("Multiboot load end")).raw(), bss_end = TRY(r.le<u32>("Multiboot bss end")).raw();
  KernelImage image{.kind = KernelImage::Kind::multiboot, .entry = TRY(r.le<u32>("Multiboot entry")).raw(), .multiboot_flags = flags};
  if (load > header || header - load > *at) return fail("Multiboot load address {:#x} lies before the start of the file", load);
  const u64 start = *at - (header - load);
  const u64 length = load_end ? u64{load_end} - std::min(load_end, load) : file.size() - start;
  TRY(r.seek(start, "Multiboot image"));
  const auto bytes = TRY(r.bytes(length, "Multiboot image"));
  const u64 memory = bss_end > load ? std::max<u64>(bss_end - load, length) : length;
  TRY(place(image, load, bytes, memory, ram_below_4g));
  return image;
}

Result<KernelImage> parse_kernel(std::span<const u8> file, u64 ram_below_4g) {
  if (looks_like_multiboot(file)) return parse_multiboot(file, ram_below_4g);
  if (looks_like_elf(file)) return parse_elf(file, ram_below_4g, true);
  return parse_linux(file);
}

}  // namespace vmm::hw
