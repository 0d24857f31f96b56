// vdi: VirtualBox disk images, version 1.1, dynamic and static. Source: the layout that VirtualBox's public headers describe; images made
// by qemu-img. Differencing images (with a parent) are refused.
#include <algorithm>

#include "block/format/table_image.h"

namespace vmm::block {
namespace {

constexpr u32 signature = 0xbeda107f, version_1_1 = 0x00010001;
constexpr u64 block_size = 1 * MiB, header_bytes = 512;
constexpr u32 not_there = 0xffff'ffff, discarded = 0xffff'fffe;
constexpr std::string_view banner = "<<< Oracle VM VirtualBox Disk Image >>>\n";

struct VdiCreate {
  std::optional<Preallocation> preallocation;
  std::optional<bool> fixed;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::VdiCreate> = {
    field<&block::VdiCreate::preallocation>("preallocation", "Preallocation mode (allowed values: off, metadata)"),
    field<&block::VdiCreate::fixed>("static", "VDI static (pre-allocated) image"),
};
}  // namespace vmm

namespace vmm::block {
namespace {

class Vdi final : public TableImage {
 public:
  Task<> open(Value options) override {
    if (!child("file")) co_return fail("A block device must be specified for \"file\"");
    if (!options.members().empty()) co_return fail("Parameter '{}' is unexpected", options.members()[0].first);
    std::array<u8, header_bytes> head{};
    co_await child("file")->read(0, IoVector{std::span<u8>{head}});
    if (auto ok = parse(head); !ok) co_return ok;
    std::vector<u8> map(u64{blocks_} * 4);
    co_await file().read(map_offset_, IoVector{std::span{map}});
    table_.resize(blocks_);
    for (u32 i = 0; i < blocks_; i++) {
      const u32 entry = load_le<u32>(&map[u64{i} * 4]);
      table_[i] = entry == not_there ? absent : entry == discarded ? zero : data_offset_ + u64{entry} * block_size;
      // What the map names must have been allocated: anything else would let two blocks meet later.
      if (entry < discarded && entry >= allocated_)
        co_return fail("block {} lies at place {}, but only {} are allocated", i, entry, allocated_);
    }
    co_return Result<>{};
  }

 private:
  Result<> parse(std::span<const u8> head) {
    SpanReader r{head};
    TRY(r.seek(0x40, "header"));
    if (TRY(r.le<u32>("signature")) != signature) return fail("Image not in VDI format (bad signature {:08x})", load_le<u32>(&head[0x40]));
    const u32 version = TRY(r.le<u32>("version")).raw();
    if (version != version_1_1) return fail("unsupported VDI image (version {}.{})", version >> 16, version & 0xffff);
    TRY(r.seek(0x4c, "header"));
    const u32 type = TRY(r.le<u32>("image type")).raw();
    if (type != 1 && type != 2) return fail("unsupported VDI image (type {})", type);
    TRY(r.seek(0x154, "header"));
    map_offset_ = TRY(r.le<u32>("map offset")).raw();
    data_offset_ = TRY(r.le<u32>("data offset")).raw();
    TRY(r.seek(0x168, "header"));
    const u32 sector = TRY(r.le<u32>("sector size")).raw();
    TRY(r.seek(0x170, "header"));
    const u64 size = TRY(TRY(r.le<u64>("disk size")).at_most(most_entries * block_size, "disk size"));
    const u32 block = TRY(r.le<u32>("block size")).raw(), extra = TRY(r.le<u32>("block extra")).raw();
    blocks_ = TRY(TRY(r.le<u32>("block count")).at_most(static_cast<u32>(most_entries), "block count"));
    allocated_ = TRY(r.le<u32>("allocated blocks")).raw();
    if (sector != 512) return fail("unsupported VDI image (sector size {} is not 512)", sector);
    if (block != block_size || extra) return fail("unsupported VDI image (block size {} is not {})", block, block_size);
    if (map_offset_ % 512 || data_offset_ % 512)
      return fail("unsupported VDI image (map at {:#x}, data at {:#x})", map_offset_, data_offset_);
    if (size > u64{blocks_} * block_size)
      return fail("unsupported VDI image (disk size {}, image bitmap has room for {})", size, u64{blocks_} * block_size);
    if (map_offset_ < header_bytes || map_offset_ + u64{blocks_} * 4 > data_offset_)
      return fail("the block map of the VDI image overlaps other parts");
    if (allocated_ > blocks_) return fail("the VDI image has {} blocks allocated of {}", allocated_, blocks_);
    if (data_offset_ > align_up(child("file")->length_bytes(), 512)) return fail("the VDI image is cut off");
    for (const usize at : {usize{0x1a8}, usize{0x1b8}})
      if (!all_zero(head.subspan(at, 16))) return fail("unsupported VDI image (it has a parent image)");
    length_ = align_up(size, 512), block_bytes_ = block_size;
    return {};
  }
  Task<u64> claim_block(u64) override {
    const u64 at = data_offset_ + u64{allocated_} * block_size;
    allocated_++;
    // The count first: a place that is counted and not named is only lost space.
    std::array<u8, 4> count;
    store_le(count.data(), allocated_);
    co_await file().write(0x184, IoVector{std::span<u8>{count}});
    co_return at;
  }
  Task<> store_entry(u64 index) override {
    std::array<u8, 4> entry;
    store_le(entry.data(), static_cast<u32>((table_[index] - data_offset_) / block_size));
    co_return co_await file().write(map_offset_ + index * 4, IoVector{std::span<u8>{entry}});
  }
  u64 map_offset_ = 0, data_offset_ = 0;
  u32 blocks_ = 0, allocated_ = 0;
};

Task<> create(Edge& file, CreateOptions given) {
  VdiCreate o;
  if (auto ok = assign_fields(&o, fields<VdiCreate>, given.options); !ok) co_return ok;
  const u64 blocks = given.length_bytes / block_size + (given.length_bytes % block_size != 0);
  if (blocks > 0x3fff'ffff || blocks > u64{8} << 20)
    co_return fail("Unsupported VDI image size (size is {:#x}, max supported is {:#x})", given.length_bytes, (u64{8} << 20) * block_size);
  const bool full = o.preallocation.value_or(Preallocation::off) != Preallocation::off || o.fixed.value_or(false);
  const u64 map_bytes = align_up(blocks * 4, 512);
  std::vector<u8> head(header_bytes + map_bytes);
  std::ranges::copy(banner, head.begin());
  store_le(&head[0x40], signature), store_le(&head[0x44], version_1_1), store_le(&head[0x48], u32{0x190});
  store_le(&head[0x4c], u32{full ? 2u : 1u});
  store_le(&head[0x154], static_cast<u32>(header_bytes)), store_le(&head[0x158], static_cast<u32>(header_bytes + map_bytes));
  store_le(&head[0x168], u32{512});
  store_le(&head[0x170], given.length_bytes), store_le(&head[0x178], static_cast<u32>(block_size));
  store_le(&head[0x180], static_cast<u32>(blocks)), store_le(&head[0x184], static_cast<u32>(full ? blocks : 0));
  for (const usize at : {usize{0x188}, usize{0x198}}) {
    // Names of their own for the image and its last state.
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    store_le(&head[at], static_cast<u64>(now.tv_nsec) * 0x9e37'79b9'7f4a'7c15 + at),
        store_le(&head[at + 8], static_cast<u64>(now.tv_sec) * 0xbf58'476d'1ce4'e5b9);
    head[at + 6] = static_cast<u8>((head[at + 6] & 0x0f) | 0x40), head[at + 8] = static_cast<u8>((head[at + 8] & 0x3f) | 0x80);
  }
  for (u64 i = 0; i < map_bytes / 4; i++)
    store_le(&head[header_bytes + i * 4], i >= blocks ? u32{0} : full ? static_cast<u32>(i) : not_there);
  if (file.length_bytes()) co_await file.truncate(0);
  co_await file.write(0, IoVector{std::span{head}});
  if (full) co_await file.truncate(head.size() + blocks * block_size);
  co_return Result<>{};
}

constexpr std::string_view children[] = {"file"};
RegisteredDriver registered{
    {.name = "vdi",
     .doc = "VirtualBox disk images.",
     .kind = BlockDriver::Kind::format,
     .children = children,
     .make = make_node<Vdi>,
     .probe = [](std::span<const u8> head,
                 std::string_view) { return head.size() >= 0x44 && load_le<u32>(&head[0x40]) == signature ? 100 : 0; },
     .create_options = fields<VdiCreate>,
     .create_format = create}};

}  // namespace
}  // namespace vmm::block
