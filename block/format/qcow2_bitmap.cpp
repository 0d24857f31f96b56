// Dirty bitmaps kept in the image. Source: "The QCOW2 image format", "Bitmaps". Those that record ("auto") are marked "in use" in the
// image before the first write, are kept in memory while the image is written, and are stored when it is closed.
#include <algorithm>

#include "block/format/qcow2.h"
#include "src/base/log.h"

namespace vmm::block {
using namespace qcow2;

namespace {
constexpr u64 most_tracked_bytes = 64 * MiB;
u64 bitmap_bytes(u64 length, u32 granularity_bits) {
  const u64 count = (length >> granularity_bits) + ((length & ((u64{1} << granularity_bits) - 1)) != 0);
  return (count + 7) / 8;
}
}  // namespace

Task<std::vector<Bitmap>> Qcow2::read_bitmap_directory() {
  if (bitmaps_read_) co_return bitmap_directory_;
  if (!header_.bitmaps) co_return std::vector<Bitmap>{};
  if (header_.bitmaps->directory_offset + header_.bitmaps->directory_bytes > align_up(file().length_bytes(), g_.cluster_bytes()))
    co_return refuse(EINVAL, format("the bitmap directory lies at {:#x}, past the end of the file", header_.bitmaps->directory_offset));
  std::vector<u8> bytes(header_.bitmaps->directory_bytes);
  co_await file().read(header_.bitmaps->directory_offset, IoVector{std::span{bytes}});
  auto list = parse_bitmaps(bytes, header_.bitmaps->count, g_);
  if (!list) co_return std::unexpected(std::move(list).error());
  bitmap_directory_ = std::move(*list);
  bitmaps_read_ = true;
  co_return bitmap_directory_;
}

Task<std::vector<u64>> Qcow2::read_bitmap_table(const Bitmap& b) {
  if (b.table_offset + u64{b.table_size} * 8 > align_up(file().length_bytes(), g_.cluster_bytes()))
    co_return refuse(EINVAL, format("the table of bitmap '{}' lies past the end of the file", b.name));
  co_return co_await read_l1(b.table_offset, b.table_size);
}

// A new directory, then the header that names it, then the old one's space.
Task<> Qcow2::store_bitmap_directory(std::vector<Bitmap> list) {
  const std::vector<u8> bytes = build_bitmaps(list);
  if (bytes.size() > max_bitmap_directory_bytes || list.size() > max_bitmaps) co_return refuse(EFBIG, "there are too many bitmaps");
  u64 at = 0;
  if (!bytes.empty()) {
    at = co_await allocate_contiguous(g_.clusters(bytes.size()));
    co_await file().write(at, IoVector::of(bytes));
    data_unflushed_ = true;
  }
  co_await write_back(true);
  const Header old = header_;
  header_.bitmaps.reset();
  if (!list.empty())
    header_.bitmaps = BitmapExtension{.count = static_cast<u32>(list.size()), .directory_bytes = bytes.size(), .directory_offset = at};
  header_.autoclear = list.empty() ? header_.autoclear & ~feature::bitmaps : header_.autoclear | feature::bitmaps;
  Result<> done = co_await attempt(write_header());
  if (done) done = co_await attempt(file_flush());
  if (!done) {
    header_ = old;
    co_return done;
  }
  if (old.bitmaps) note_free(old.bitmaps->directory_offset, g_.clusters(old.bitmaps->directory_bytes) << g_.cluster_bits, Free::Why::other);
  bitmap_directory_ = std::move(list), bitmaps_read_ = true;
  co_return Result<>{};
}

Task<> Qcow2::free_bitmap_data(const Bitmap& b) {
  const std::vector<u64> table = co_await read_bitmap_table(b);
  for (const u64 entry : table)
    if (entry & offset_mask) note_free(entry & offset_mask, g_.cluster_bytes(), Free::Why::other);
  if (b.table_size) note_free(b.table_offset, g_.clusters(u64{b.table_size} * 8) << g_.cluster_bits, Free::Why::other);
  co_return Result<>{};
}

Task<std::vector<Qcow2::BitmapInfo>> Qcow2::bitmaps() {
  const std::vector<Bitmap> list = co_await read_bitmap_directory();
  std::vector<BitmapInfo> out;
  for (const Bitmap& b : list) out.push_back({b.name, 1u << b.granularity_bits, b.flags});
  co_return std::move(out);
}

Task<std::vector<u8>> Qcow2::load_bitmap(std::string name) {
  const std::vector<Bitmap> list = co_await read_bitmap_directory();
  const auto b = std::ranges::find(list, name, &Bitmap::name);
  if (b == list.end()) co_return refuse(ENOENT, format("Dirty bitmap '{}' not found", name));
  for (const Tracked& t : tracked_)
    if (t.name == name) co_return t.bits;
  const u64 bytes = bitmap_bytes(header_.virtual_bytes, b->granularity_bits);
  if (b->table_size != g_.clusters(bytes))
    co_return refuse(EINVAL, format("bitmap '{}' has a table of {} entries, the disk needs {}", name, b->table_size, g_.clusters(bytes)));
  std::vector<u8> bits(bytes);
  const std::vector<u64> table = co_await read_bitmap_table(*b);
  for (u64 i = 0; i < table.size(); i++) {
    const u64 at = i << g_.cluster_bits;
    const u64 n = std::min(g_.cluster_bytes(), bytes - at);
    const u64 data = table[i] & offset_mask;
    if (g_.in_cluster(data)) co_return refuse(EINVAL, format("bitmap '{}' has the invalid table entry {:#x}", name, table[i]));
    if (data)
      co_await file().read(data, IoVector{&bits[at], n});
    else if (table[i] & 1)
      std::fill_n(bits.begin() + static_cast<i64>(at), n, u8{0xff});
  }
  co_return std::move(bits);
}

Task<> Qcow2::store_bitmap(std::string name, std::vector<u8> bits) {
  if (!prepared_) co_await prepare_write();
  std::vector<Bitmap> list = co_await read_bitmap_directory();
  const auto b = std::ranges::find(list, name, &Bitmap::name);
  if (b == list.end()) co_return refuse(ENOENT, format("Dirty bitmap '{}' not found", name));
  const Bitmap old = *b;
  bits.resize(bitmap_bytes(header_.virtual_bytes, b->granularity_bits));
  std::vector<u64> table(g_.clusters(bits.size()));
  for (u64 i = 0; i < table.size(); i++) {
    const u64 at = i << g_.cluster_bits;
    const std::span<const u8> part = std::span{bits}.subspan(at, std::min(g_.cluster_bytes(), bits.size() - at));
    if (std::ranges::all_of(part, [](u8 x) { return x == 0; })) continue;
    std::vector<u8> cluster(g_.cluster_bytes());
    std::ranges::copy(part, cluster.begin());
    const Run run = co_await allocate(1);
    co_await file().write(run.first << g_.cluster_bits, IoVector{std::span{cluster}});
    table[i] = std::byteswap(run.first << g_.cluster_bits);
  }
  b->table_size = static_cast<u32>(table.size());
  b->table_offset = 0;
  if (!table.empty()) {
    b->table_offset = co_await allocate_contiguous(g_.clusters(table.size() * 8));
    co_await file().write(b->table_offset, IoVector{table.data(), table.size() * 8});
  }
  data_unflushed_ = true;
  b->flags &= ~Bitmap::in_use;
  co_await store_bitmap_directory(std::move(list));
  co_return co_await free_bitmap_data(old);
}

Task<> Qcow2::add_bitmap(std::string name, u32 granularity, bool enabled) {
  if (header_.version < 3) co_return refuse(ENOTSUP, "Cannot store dirty bitmaps in qcow2 v2 files");
  if (name.empty()) co_return refuse(EINVAL, "Bitmap name cannot be empty");
  if (name.size() > max_name) co_return refuse(EINVAL, "Bitmap name is too long");
  if (!std::has_single_bit(granularity) || granularity < 512)
    co_return refuse(EINVAL, granularity < 512 ? "Granularity must be at least 512" : "Granularity must be a power of 2");
  if (!prepared_) co_await prepare_write();
  std::vector<Bitmap> list = co_await read_bitmap_directory();
  if (std::ranges::find(list, name, &Bitmap::name) != list.end()) co_return refuse(EEXIST, format("Bitmap already exists: {}", name));
  if (list.size() >= max_bitmaps) co_return refuse(EFBIG, "Maximum number of persistent bitmaps is already reached");
  Bitmap b;
  b.name = std::move(name);
  b.granularity_bits = static_cast<u8>(std::countr_zero(granularity));
  b.flags = enabled ? Bitmap::automatic : 0;
  b.table_size = static_cast<u32>(g_.clusters(bitmap_bytes(header_.virtual_bytes, b.granularity_bits)));
  if (b.table_size) {
    b.table_offset = co_await allocate_contiguous(g_.clusters(u64{b.table_size} * 8));
    std::vector<u8> zeros(g_.clusters(u64{b.table_size} * 8) << g_.cluster_bits);
    co_await file().write(b.table_offset, IoVector{std::span{zeros}});
  }
  list.push_back(std::move(b));
  co_return co_await store_bitmap_directory(std::move(list));
}

Task<> Qcow2::remove_bitmap(std::string name) {
  if (!prepared_) co_await prepare_write();
  std::vector<Bitmap> list = co_await read_bitmap_directory();
  const auto b = std::ranges::find(list, name, &Bitmap::name);
  if (b == list.end()) co_return refuse(ENOENT, format("Dirty bitmap '{}' not found", name));
  const Bitmap old = *b;
  list.erase(b);
  std::erase_if(tracked_, [&](const Tracked& t) { return t.name == name; });
  co_await store_bitmap_directory(std::move(list));
  co_return co_await free_bitmap_data(old);
}

Task<> Qcow2::clear_bitmap(std::string name) {
  std::vector<u8> bits = co_await load_bitmap(name);
  std::ranges::fill(bits, u8{0});
  for (Tracked& t : tracked_)
    if (t.name == name) t.bits = bits;
  co_return co_await store_bitmap(std::move(name), std::move(bits));
}

Task<> Qcow2::enable_bitmap(std::string name, bool enabled) {
  if (!prepared_) co_await prepare_write();
  std::vector<Bitmap> list = co_await read_bitmap_directory();
  const auto b = std::ranges::find(list, name, &Bitmap::name);
  if (b == list.end()) co_return refuse(ENOENT, format("Dirty bitmap '{}' not found", name));
  b->flags = enabled ? b->flags | Bitmap::automatic : b->flags & ~Bitmap::automatic;
  co_return co_await store_bitmap_directory(std::move(list));
}

// --- While the image is written -------------------------------------------------------------------------------------------------------

Task<> Qcow2::mark_bitmaps_in_use() {
  auto list = co_await attempt(read_bitmap_directory());
  if (!list) {
    // Nobody can say what they hold: they go, as the format has it for features that a writer does not understand.
    report_warning(format("the image's bitmaps are lost: {}", list.error().message));
    header_.bitmaps.reset();
    header_.autoclear &= ~feature::bitmaps;
    co_return co_await write_header();
  }
  u64 held = 0;
  bool changed = false;
  for (Bitmap& b : *list) {
    if ((b.flags & (Bitmap::automatic | Bitmap::in_use)) != Bitmap::automatic) continue;
    const u64 bytes = bitmap_bytes(header_.virtual_bytes, b.granularity_bits);
    held += bytes;
    if (held <= most_tracked_bytes) {
      auto bits = co_await attempt(load_bitmap(b.name));
      if (bits) tracked_.push_back({b.name, b.granularity_bits, std::move(*bits)});
    }
    b.flags |= Bitmap::in_use;
    changed = true;
  }
  if (!changed) co_return Result<>{};
  // In place: the directory keeps its length.
  const std::vector<u8> bytes = build_bitmaps(*list);
  co_await file().write(header_.bitmaps->directory_offset, IoVector::of(bytes));
  co_await file_flush();
  bitmap_directory_ = std::move(*list);
  co_return Result<>{};
}

void Qcow2::track_write(u64 offset, u64 length) {
  if (!length) return;
  for (Tracked& t : tracked_)
    for (u64 i = offset >> t.granularity_bits; i <= (offset + length - 1) >> t.granularity_bits && i / 8 < t.bits.size(); i++)
      t.bits[i / 8] |= static_cast<u8>(1 << i % 8);
}

Task<> Qcow2::store_tracked_bitmaps() {
  std::vector<Tracked> all = std::exchange(tracked_, {});
  for (Tracked& t : all) co_await store_bitmap(t.name, std::move(t.bits));
  co_return Result<>{};
}

}  // namespace vmm::block
