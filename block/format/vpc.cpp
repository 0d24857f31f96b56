// vpc: Virtual PC and Hyper-V images (VHD), fixed and dynamic. Source: "Virtual Hard Disk Image Format Specification" 1.0. Differencing
// images are refused.
#include <algorithm>
#include <ctime>

#include "block/format/table_image.h"

namespace vmm::block {
namespace {

constexpr u64 footer_bytes = 512, header_bytes = 1024;
constexpr u32 not_there = 0xffff'ffff;
constexpr i64 epoch_2000 = 946'684'800;

enum class Subformat : u8 { dynamic, fixed };
struct VpcCreate {
  std::optional<Subformat> subformat;
  std::optional<bool> force_size;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::Subformat> = {EnumNameOf<block::Subformat>{block::Subformat::dynamic, "dynamic"},
                                                            EnumNameOf<block::Subformat>{block::Subformat::fixed, "fixed"}};
template <>
inline constexpr std::array fields<block::VpcCreate> = {
    field<&block::VpcCreate::subformat>("subformat",
                                        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} "),
    field<&block::VpcCreate::force_size>(
        "force_size", "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation"),
};
}  // namespace vmm

namespace vmm::block {
namespace {

u32 checksum(std::span<const u8> bytes, usize at) {
  u32 sum = 0;
  for (usize i = 0; i < bytes.size(); i++)
    if (i < at || i >= at + 4) sum += bytes[i];
  return ~sum;
}
bool is_footer(std::span<const u8> b) { return b.size() >= footer_bytes && std::ranges::equal(b.first(8), std::string_view{"conectix"}); }

class Vpc final : public TableImage {
 public:
  Task<> open(Value options) override {
    if (!child("file")) co_return fail("A block device must be specified for \"file\"");
    if (!options.members().empty()) co_return fail("Parameter '{}' is unexpected", options.members()[0].first);
    const u64 file_length = child("file")->length_bytes();
    footer_.resize(footer_bytes);
    co_await child("file")->read(0, IoVector{std::span{footer_}});
    bool fixed = false;
    if (!is_footer(footer_)) {
      if (file_length < footer_bytes) co_return fail("File too small for a VHD header");
      co_await child("file")->read(file_length - footer_bytes, IoVector{std::span{footer_}});
      if (!is_footer(footer_)) co_return fail("invalid VPC image");
      fixed = true;
    }
    if (checksum(footer_, 64) != load_be<u32>(&footer_[64])) co_return fail("Incorrect header checksum");
    const u32 type = load_be<u32>(&footer_[60]);
    if (type == 4) co_return fail("differencing VHD images are not supported");
    if ((fixed && type != 2) || (!fixed && type != 3)) co_return fail("Invalid VPC image (type {})", type);
    // Some makers mean the size, others the geometry.
    const std::string_view maker{reinterpret_cast<const char*>(&footer_[28]), 4};
    const u64 current = load_be<u64>(&footer_[48]);
    const u64 geometry = u64{load_be<u16>(&footer_[56])} * footer_[58] * footer_[59] * 512;
    constexpr std::string_view by_size[] = {"win ", "qem2", "d2v ", std::string_view{"tap\0", 4}, "CTXS"};
    const bool sized = std::ranges::find(by_size, maker) != std::end(by_size) || geometry == u64{65535} * 16 * 255 * 512;
    length_ = sized ? align_up(current & ~(u64{1} << 63), 512) : geometry;
    if (length_ > u64{2040} * GiB * 2) co_return fail("the VHD image's size of {} is larger than the format allows", length_);
    if (fixed) {
      if (length_ > file_length - footer_bytes) co_return fail("the fixed VHD image is cut off");
      fixed_ = true;
      block_bytes_ = 2 * MiB;
      table_.resize(length_ / block_bytes_ + (length_ % block_bytes_ != 0));
      for (u64 i = 0; i < table_.size(); i++) table_[i] = i * block_bytes_;
      co_return Result<>{};
    }
    const u64 header_at = load_be<u64>(&footer_[16]);
    std::vector<u8> head(header_bytes);
    if (header_at > file_length) co_return fail("the VHD image's dynamic header is past the end of the file");
    co_await child("file")->read(header_at, IoVector{std::span{head}});
    if (!std::ranges::equal(std::span{head}.first(8), std::string_view{"cxsparse"})) co_return fail("the VHD image has no dynamic header");
    if (checksum(head, 36) != load_be<u32>(&head[36])) co_return fail("Incorrect checksum of the dynamic header");
    bat_offset_ = load_be<u64>(&head[16]);
    const u32 entries = load_be<u32>(&head[28]);
    block_bytes_ = load_be<u32>(&head[32]);
    if (!std::has_single_bit(block_bytes_) || block_bytes_ < 512 || block_bytes_ > 256 * MiB)
      co_return fail("Invalid block size {}", block_bytes_);
    if (entries > most_entries || u64{entries} * block_bytes_ < length_)
      co_return fail("Page table too small, or too large ({} entries)", entries);
    if (bat_offset_ > file_length || u64{entries} * 4 > file_length - bat_offset_)
      co_return fail("the VHD image's block table is past the end of the file");
    bitmap_bytes_ = align_up(block_bytes_ / 512 / 8, 512);
    std::vector<u8> bat(u64{entries} * 4);
    co_await child("file")->read(bat_offset_, IoVector{std::span{bat}});
    table_.resize(entries);
    end_ = align_up(bat_offset_ + bat.size(), 512);
    for (u32 i = 0; i < entries; i++) {
      const u32 sector = load_be<u32>(&bat[u64{i} * 4]);
      table_[i] = sector == not_there ? absent : u64{sector} * 512 + bitmap_bytes_;
      if (sector == not_there) continue;
      end_ = std::max(end_, table_[i] + block_bytes_);
      if (u64{sector} * 512 < footer_bytes) co_return fail("block {} of the VHD image lies on its header", i);
    }
    co_return Result<>{};
  }

 private:
  // A block lies behind its bitmap of present sectors; the footer stays the last thing in the file.
  Task<u64> claim_block(u64) override {
    const u64 at = end_;
    if (at / 512 >= not_there) co_return fail_os(EFBIG);
    std::vector<u8> bitmap(bitmap_bytes_, 0xff);
    co_await file().write(at + bitmap_bytes_ + block_bytes_, IoVector{std::span{footer_}});
    co_await file().write(at, IoVector{std::span{bitmap}});
    end_ = at + bitmap_bytes_ + block_bytes_;
    co_return at + bitmap_bytes_;
  }
  Task<> store_entry(u64 index) override {
    std::array<u8, 4> entry;
    store_be(entry.data(), static_cast<u32>((table_[index] - bitmap_bytes_) / 512));
    co_return co_await file().write(bat_offset_ + index * 4, IoVector{std::span<u8>{entry}});
  }
  std::vector<u8> footer_;
  bool fixed_ = false;
  u64 bat_offset_ = 0, bitmap_bytes_ = 0, end_ = 0;
};

// Specification, appendix "CHS Calculation".
void geometry_of(u64 sectors, u16& cylinders, u8& heads, u8& per_track) {
  sectors = std::min<u64>(sectors, u64{65535} * 16 * 255);
  u64 by_heads = 0;
  if (sectors >= u64{65535} * 16 * 63) {
    per_track = 255, heads = 16, by_heads = sectors / per_track;
  } else {
    per_track = 17, by_heads = sectors / per_track;
    heads = static_cast<u8>(std::max<u64>((by_heads + 1023) / 1024, 4));
    if (by_heads >= u64{heads} * 1024 || heads > 16) per_track = 31, heads = 16, by_heads = sectors / per_track;
    if (by_heads >= u64{heads} * 1024) per_track = 63, heads = 16, by_heads = sectors / per_track;
  }
  cylinders = static_cast<u16>(by_heads / heads);
}

Task<> create(Edge& file, CreateOptions given) {
  VpcCreate o;
  if (auto ok = assign_fields(&o, fields<VpcCreate>, given.options); !ok) co_return ok;
  const bool fixed = o.subformat.value_or(Subformat::dynamic) == Subformat::fixed;
  // The exact size is kept ("qem2"): a disk that grows or shrinks by conversion surprises.
  const u64 size = given.length_bytes;
  if (size > u64{2040} * GiB) co_return fail_os(EFBIG, "the disk is too large for the VHD format");
  std::vector<u8> footer(footer_bytes);
  const auto text = [](std::vector<u8>& to, usize at, std::string_view s) { std::ranges::copy(s, to.begin() + static_cast<i64>(at)); };
  text(footer, 0, "conectix");
  store_be(&footer[8], u32{2}), store_be(&footer[12], u32{0x10000});
  store_be(&footer[16], fixed ? ~u64{0} : u64{512});
  store_be(&footer[24], static_cast<u32>(std::time(nullptr) - epoch_2000));
  text(footer, 28, "qem2");
  store_be(&footer[32], u16{5}), store_be(&footer[34], u16{3});
  text(footer, 36, "Wi2k");
  store_be(&footer[40], size), store_be(&footer[48], size);
  u16 cylinders = 0;
  u8 heads = 0, per_track = 0;
  geometry_of(size / 512, cylinders, heads, per_track);
  store_be(&footer[56], cylinders), footer[58] = heads, footer[59] = per_track;
  store_be(&footer[60], u32{fixed ? 2u : 3u});
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  store_be(&footer[68], static_cast<u64>(now.tv_nsec) * 0x9e37'79b9'7f4a'7c15),
      store_be(&footer[76], static_cast<u64>(now.tv_sec) * 0xbf58'476d'1ce4'e5b9);
  store_be(&footer[64], checksum(footer, 64));
  if (file.length_bytes()) co_await file.truncate(0);
  if (fixed) {
    co_await file.truncate(align_up(size, 512));
    co_return co_await file.write(align_up(size, 512), IoVector{std::span{footer}});
  }
  constexpr u64 block = 2 * MiB;
  const u64 entries = size / block + (size % block != 0);
  std::vector<u8> image(footer_bytes + header_bytes + align_up(entries * 4, 512), 0xff);
  std::ranges::copy(footer, image.begin());
  std::vector<u8> head(header_bytes);
  text(head, 0, "cxsparse");
  store_be(&head[8], ~u64{0}), store_be(&head[16], u64{footer_bytes + header_bytes}), store_be(&head[24], u32{0x10000});
  store_be(&head[28], static_cast<u32>(entries)), store_be(&head[32], static_cast<u32>(block));
  store_be(&head[36], checksum(head, 36));
  std::ranges::copy(head, image.begin() + footer_bytes);
  image.insert(image.end(), footer.begin(), footer.end());
  co_return co_await file.write(0, IoVector{std::span{image}});
}

constexpr std::string_view children[] = {"file"};
RegisteredDriver registered{{.name = "vpc",
                             .doc = "Virtual PC and Hyper-V disk images (VHD).",
                             .kind = BlockDriver::Kind::format,
                             .children = children,
                             .make = make_node<Vpc>,
                             .probe = [](std::span<const u8> head, std::string_view) { return is_footer(head) ? 100 : 0; },
                             .create_options = fields<VpcCreate>,
                             .create_format = create}};

}  // namespace
}  // namespace vmm::block
