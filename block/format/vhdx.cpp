// vhdx: Hyper-V's second image format, dynamic and fixed. Source: [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format". Images with a
// parent are refused; a log with changes that were not carried out yet is replayed when the image is opened for writing. A table entry is 8
// aligned bytes, written after the block that it names: it needs no log.
#include <algorithm>
#include <ctime>

#include "block/format/table_image.h"
#include "block/format/vhdx_log.h"

namespace vmm::block {
namespace {

struct VhdxCreate {
  std::optional<Bytes64> block_size, log_size;
  std::optional<std::string> subformat;
  std::optional<bool> block_state_zero;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::VhdxCreate> = {
    field<&block::VhdxCreate::block_size>("block_size", "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size."),
    field<&block::VhdxCreate::block_state_zero>("block_state_zero",
                                                "Force use of payload blocks of type 'ZERO'. Non-standard, but default."),
    field<&block::VhdxCreate::log_size>("log_size", "Log size; min 1MB."),
    field<&block::VhdxCreate::subformat>("subformat", "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'."),
};
}  // namespace vmm

namespace vmm::block {
namespace {

using vhdx::crc32c;
using vhdx::Guid;
constexpr Guid guid(u32 a, u16 b, u16 c, u64 d) {
  Guid g{};
  for (int i = 0; i < 4; i++) g[usize(i)] = static_cast<u8>(a >> 8 * i);
  for (int i = 0; i < 2; i++) g[usize(4 + i)] = static_cast<u8>(b >> 8 * i), g[usize(6 + i)] = static_cast<u8>(c >> 8 * i);
  for (int i = 0; i < 8; i++) g[usize(8 + i)] = static_cast<u8>(d >> 8 * (7 - i));
  return g;
}
constexpr Guid bat_region = guid(0x2dc27766, 0xf623, 0x4200, 0x9d64115e9bfd4a08),
               metadata_region = guid(0x8b7ca206, 0x4790, 0x4b9a, 0xb8fe575f050f886e),
               item_parameters = guid(0xcaa16737, 0xfa36, 0x4d43, 0xb3b633f0aa44e76b),
               item_size = guid(0x2fa54224, 0xcd1b, 0x4876, 0xb2115dbed83bf4b8),
               item_page83 = guid(0xbeca12ab, 0xb2e6, 0x4523, 0x93efc309e000c746),
               item_logical = guid(0x8141bf1d, 0xa96f, 0x4709, 0xba47f233a8faab5f),
               item_physical = guid(0xcda348c7, 0x445d, 0x4471, 0x9cc9e9885251c556);
constexpr u64 header_places[] = {64 * KiB, 128 * KiB}, region_places[] = {192 * KiB, 256 * KiB};
constexpr std::string_view file_signature = "vhdxfile";
constexpr u64 most_log_bytes = 64 * MiB;

bool starts(std::span<const u8> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::ranges::equal(bytes.first(text.size()), text);
}
bool sound(std::span<const u8> bytes, std::string_view signature) {
  return starts(bytes, signature) && load_le<u32>(&bytes[4]) == crc32c(bytes, 4);
}

class Vhdx final : public TableImage {
 public:
  Task<> open(Value options) override {
    if (!child("file")) co_return fail("A block device must be specified for \"file\"");
    if (!options.members().empty()) co_return fail("Parameter '{}' is unexpected", options.members()[0].first);
    Edge& f = *child("file");
    std::vector<u8> head(4096), best;
    co_await f.read(0, IoVector{std::span{head}});
    if (!starts(head, file_signature)) co_return fail("Image not in VHDX format");
    for (const u64 at : header_places) {
      co_await f.read(at, IoVector{std::span{head}});
      if (sound(head, "head") && (best.empty() || load_le<u64>(&head[8]) > load_le<u64>(&best[8]))) best = head;
    }
    if (best.empty()) co_return fail("No valid VHDX header found");
    if (load_le<u16>(&best[66]) != 1) co_return fail("Unsupported VHDX version {}", load_le<u16>(&best[66]));
    if (!all_zero(std::span{best}.subspan(48, 16))) co_await replay_log(best);
    const u64 file_length = f.length_bytes();
    // Regions.
    std::vector<u8> regions(64 * KiB);
    bool found = false;
    for (const u64 at : region_places) {
      if (found) break;
      co_await f.read(at, IoVector{std::span{regions}});
      found = sound(regions, "regi");
    }
    if (!found) co_return fail("No valid VHDX region table found");
    const u32 count = load_le<u32>(&regions[8]);
    if (count > 2047) co_return fail("the VHDX region table has {} entries", count);
    u64 metadata_at = 0, metadata_bytes = 0, bat_bytes = 0;
    for (u32 i = 0; i < count; i++) {
      const std::span<const u8> e = std::span{regions}.subspan(16 + u64{i} * 32, 32);
      const u64 at = load_le<u64>(&e[16]), bytes = load_le<u32>(&e[24]);
      if (at < 1 * MiB || at % MiB || at > file_length) co_return fail("VHDX region {} lies at {:#x}", i, at);
      if (std::ranges::equal(e.first(16), bat_region))
        bat_offset_ = at, bat_bytes = bytes;
      else if (std::ranges::equal(e.first(16), metadata_region))
        metadata_at = at, metadata_bytes = bytes;
      else if (e[28] & 1)
        co_return fail_os(ENOTSUP, "a VHDX region that is required and unknown");
    }
    if (!bat_offset_ || !metadata_at || metadata_bytes < 64 * KiB) co_return fail("the VHDX image lacks a region");
    if (auto ok = co_await attempt(read_metadata(metadata_at, metadata_bytes)); !ok) co_return ok;
    // The block table: after each `ratio` blocks stands the entry of a bitmap.
    ratio_ = (u64{1} << 23) * logical_ / block_bytes_;
    const u64 blocks = length_ / block_bytes_ + (length_ % block_bytes_ != 0);
    if (blocks > most_entries || !ratio_) co_return fail("the VHDX image has {} blocks, more than are supported", blocks);
    const u64 entries = blocks ? blocks + (blocks - 1) / ratio_ : 0;
    if (entries * 8 > bat_bytes) co_return fail("the VHDX block table is too small");
    std::vector<u8> bat(entries * 8);
    co_await f.read(bat_offset_, IoVector{std::span{bat}});
    table_.resize(blocks);
    end_ = align_up(std::max({file_length, bat_offset_ + bat_bytes, metadata_at + metadata_bytes}), MiB);
    for (u64 i = 0; i < blocks; i++) {
      const u64 entry = load_le<u64>(&bat[(i + i / ratio_) * 8]);
      const u64 at = entry & ~(MiB - 1);
      switch (entry & 7) {
        case 0:
        case 1:
        case 2:
        case 3: table_[i] = absent; break;
        case 6:
          if (at < 1 * MiB || at > file_length) co_return fail("VHDX block {} lies at {:#x}, past the end of the file", i, at);
          table_[i] = at;
          break;
        default: co_return fail("VHDX block {} is in state {}", i, entry & 7);
      }
    }
    co_return Result<>{};
  }

 private:
  // What the log promises is carried out, and then a newer header says that there is none. A cut in between: all of it is done again.
  Task<> replay_log(std::vector<u8> header) {
    Edge& f = *child("file");
    if (read_only())
      co_return fail_os(
          EPERM, format("VHDX image file '{}' opened read-only, but contains a log that needs to be replayed; open it for writing once",
                        f.node().filename()));
    const u64 at = load_le<u64>(&header[72]), bytes = load_le<u32>(&header[68]);
    if (at < MiB || at % MiB || !bytes || bytes % MiB || bytes > most_log_bytes || at > f.length_bytes() || bytes > f.length_bytes() - at)
      co_return fail("the VHDX log lies at {:#x} and has {} bytes", at, bytes);
    std::vector<u8> log(bytes);
    co_await f.read(at, IoVector{std::span{log}});
    Guid id{};
    std::copy_n(header.begin() + 48, 16, id.begin());
    auto replay = vhdx::read_log(log, id, f.length_bytes());
    if (!replay) co_return std::unexpected(std::move(replay).error());
    if (replay->file_bytes > 65 * TiB) co_return fail("the VHDX log wants a file of {} bytes", replay->file_bytes);
    if (replay->file_bytes > f.length_bytes()) co_await f.truncate(replay->file_bytes);
    for (vhdx::LogWrite& w : replay->writes) {
      if (w.zeros)
        co_await f.zero(w.at, w.zeros);
      else if (!w.bytes.empty())
        co_await f.write(w.at, IoVector{std::span{w.bytes}});
    }
    co_await f.flush();
    std::ranges::fill(std::span{header}.subspan(48, 16), u8{0});
    // Both places in turn: one sound header is there at any moment.
    for (const u64 place : header_places) {
      store_le(&header[8], load_le<u64>(&header[8]) + 1);
      store_le(&header[4], crc32c(header, 4));
      co_await f.write(place, IoVector{std::span{header}});
      co_await f.flush();
    }
    co_return Result<>{};
  }
  Task<> read_metadata(u64 at, u64 bytes) {
    Edge& f = *child("file");
    std::vector<u8> table(64 * KiB);
    co_await f.read(at, IoVector{std::span{table}});
    if (!starts(table, "metadata")) co_return fail("the VHDX metadata table is missing");
    const u16 count = load_le<u16>(&table[10]);
    if (count > 2047) co_return fail("the VHDX metadata table has {} entries", count);
    u32 seen = 0;
    for (u16 i = 0; i < count; i++) {
      const std::span<const u8> e = std::span{table}.subspan(32 + u64{i} * 32, 32);
      const u32 offset = load_le<u32>(&e[16]), length = load_le<u32>(&e[20]);
      const auto is = [&](const Guid& g) { return std::ranges::equal(e.first(16), g); };
      const bool known = is(item_parameters) || is(item_size) || is(item_logical) || is(item_physical) || is(item_page83);
      if (!known) {
        if (e[24] & 4) co_return fail_os(ENOTSUP, "a VHDX metadata item that is required and unknown");
        continue;
      }
      if (offset < 64 * KiB || length < 4 || length > 16 || offset > bytes - 16)
        co_return fail("VHDX metadata item {} lies at {:#x} ({} bytes)", i, offset, length);
      std::array<u8, 16> item{};
      co_await f.read(at + offset, IoVector{item.data(), length});
      if (is(item_parameters)) {
        block_bytes_ = load_le<u32>(item.data()), seen |= 1;
        if (item[4] & 2) co_return fail_os(ENOTSUP, "a VHDX image with a parent");
      } else if (is(item_size)) {
        length_ = load_le<u64>(item.data()), seen |= 2;
      } else if (is(item_logical)) {
        logical_ = load_le<u32>(item.data()), seen |= 4;
      }
    }
    if (seen != 7) co_return fail("the VHDX image lacks required metadata");
    if (!std::has_single_bit(block_bytes_) || block_bytes_ < MiB || block_bytes_ > 256 * MiB)
      co_return fail("VHDX block size {} is out of range", block_bytes_);
    if (logical_ != 512 && logical_ != 4096) co_return fail("VHDX sector size {} is not 512 or 4096", logical_);
    if (length_ % logical_ || length_ > 64 * TiB) co_return fail("VHDX virtual size {} is out of range", length_);
    co_return Result<>{};
  }
  Task<u64> claim_block(u64) override {
    const u64 at = end_;
    end_ += block_bytes_;
    co_return at;
  }
  Task<> store_entry(u64 index) override {
    std::array<u8, 8> entry;
    store_le(entry.data(), table_[index] | 6);
    co_return co_await file().write(bat_offset_ + (index + index / ratio_) * 8, IoVector{std::span<u8>{entry}});
  }
  u64 bat_offset_ = 0, ratio_ = 1, end_ = 0;
  u32 logical_ = 512;
};

Task<> create(Edge& file, CreateOptions given) {
  VhdxCreate o;
  if (auto ok = assign_fields(&o, fields<VhdxCreate>, given.options); !ok) co_return ok;
  const std::string subformat = o.subformat.value_or("dynamic");
  if (subformat != "dynamic" && subformat != "fixed") co_return fail("Invalid subformat '{}'", subformat);
  const bool fixed = subformat == "fixed";
  const u64 size = given.length_bytes;
  if (size > 64 * TiB) co_return fail("Image size too large; max of 64TB");
  u64 block = o.block_size.value_or(Bytes64{});
  if (!block) block = size > 32 * TiB ? 64 * MiB : size > 100 * GiB ? 32 * MiB : size > GiB ? 16 * MiB : 8 * MiB;
  if (!std::has_single_bit(block) || block < MiB || block > 256 * MiB)
    co_return fail("Block size must be a power of two from 1 MB to 256 MB");
  const u64 log_bytes = align_up(std::max<u64>(o.log_size.value_or(Bytes64{}), MiB), MiB);
  if (log_bytes > GiB) co_return fail("Log size must be below 1 GB");
  const u64 blocks = size / block + (size % block != 0), ratio = (u64{1} << 23) * 512 / block;
  const u64 metadata_at = MiB + log_bytes, bat_at = metadata_at + MiB;
  const u64 bat_bytes = align_up(std::max<u64>((blocks + (blocks ? (blocks - 1) / ratio : 0)) * 8, 1), MiB);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  u64 seed = static_cast<u64>(now.tv_nsec) ^ static_cast<u64>(now.tv_sec) << 30;
  const auto put = [](std::vector<u8>& to, usize at, std::span<const u8> bytes) {
    std::ranges::copy(bytes, to.begin() + static_cast<i64>(at));
  };
  const auto text = [&](std::vector<u8>& to, usize at, std::string_view s) {
    put(to, at, {reinterpret_cast<const u8*>(s.data()), s.size()});
  };
  const auto fresh = [&] {
    Guid g{};
    for (auto& b : g) seed = seed * 6364136223846793005 + 1442695040888963407, b = static_cast<u8>(seed >> 56);
    g[7] = static_cast<u8>((g[7] & 0x0f) | 0x40), g[8] = static_cast<u8>((g[8] & 0x3f) | 0x80);
    return g;
  };
  std::vector<u8> image(MiB);
  text(image, 0, file_signature);
  constexpr std::string_view creator = "vmm";
  for (usize i = 0; i < creator.size(); i++) image[8 + i * 2] = static_cast<u8>(creator[i]);
  const Guid written = fresh(), data_written = fresh();
  for (usize n = 0; n < 2; n++) {
    std::vector<u8> head(4096);
    text(head, 0, "head");
    store_le(&head[8], u64{n + 1});
    put(head, 16, written), put(head, 32, data_written);
    store_le(&head[66], u16{1}), store_le(&head[68], static_cast<u32>(log_bytes)), store_le(&head[72], u64{MiB});
    store_le(&head[4], crc32c(head, 4));
    put(image, header_places[n], head);
    std::vector<u8> regions(64 * KiB);
    text(regions, 0, "regi");
    store_le(&regions[8], u32{2});
    put(regions, 16, bat_region), store_le(&regions[32], bat_at), store_le(&regions[40], static_cast<u32>(bat_bytes)),
        store_le(&regions[44], u32{1});
    put(regions, 48, metadata_region), store_le(&regions[64], metadata_at), store_le(&regions[72], static_cast<u32>(MiB)),
        store_le(&regions[76], u32{1});
    store_le(&regions[4], crc32c(regions, 4));
    put(image, region_places[n], regions);
  }
  std::vector<u8> metadata(64 * KiB + 64);
  text(metadata, 0, "metadata");
  store_le(&metadata[10], u16{5});
  u32 at = 64 * KiB, entry = 32;
  const auto item = [&](const Guid& id, u32 bytes, u32 flags) {
    put(metadata, entry, id), store_le(&metadata[entry + 16], at), store_le(&metadata[entry + 20], bytes),
        store_le(&metadata[entry + 24], flags);
    entry += 32, at += bytes;
    return at - bytes;
  };
  const u32 parameters = item(item_parameters, 8, 4), disk_size = item(item_size, 8, 6), page83 = item(item_page83, 16, 6),
            logical = item(item_logical, 4, 6), physical = item(item_physical, 4, 6);
  store_le(&metadata[parameters], static_cast<u32>(block)), store_le(&metadata[disk_size], size), put(metadata, page83, fresh());
  metadata[parameters + 4] = fixed;  // blocks stay allocated
  store_le(&metadata[logical], u32{512}), store_le(&metadata[physical], u32{512});
  if (file.length_bytes()) co_await file.truncate(0);
  co_await file.truncate(bat_at + bat_bytes + (fixed ? blocks * block : 0));  // what is not written below reads as zeros
  co_await file.write(0, IoVector{std::span{image}});
  co_await file.write(metadata_at, IoVector{std::span{metadata}});
  if (!fixed) co_return Result<>{};
  // A MiB of the table at a time: 64 TiB in blocks of 1 MiB make half a GiB of it.
  for (u64 n = 0; n < blocks;) {
    const u64 first = n + n / ratio;
    std::vector<u8> entries(std::min<u64>(MiB, bat_bytes - first * 8));
    for (; n < blocks && (n + n / ratio - first) * 8 < entries.size(); n++)
      store_le(&entries[(n + n / ratio - first) * 8], (bat_at + bat_bytes + n * block) | 6);
    co_await file.write(bat_at + first * 8, IoVector{std::span{entries}});
  }
  co_return Result<>{};
}

constexpr std::string_view children[] = {"file"};
RegisteredDriver registered{{.name = "vhdx",
                             .doc = "Hyper-V disk images, version 2.",
                             .kind = BlockDriver::Kind::format,
                             .children = children,
                             .make = make_node<Vhdx>,
                             .probe = [](std::span<const u8> head, std::string_view) { return starts(head, file_signature) ? 100 : 0; },
                             .create_options = fields<VhdxCreate>,
                             .create_format = create}};

}  // namespace
}  // namespace vmm::block
