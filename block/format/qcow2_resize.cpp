// Changing the size of a disk, preallocation, and what `amend` changes. Source: "The QCOW2 image format", "Header", "L1 table".
#include <algorithm>

#include "block/format/qcow2.h"

namespace vmm::block {
using namespace qcow2;

// The longer table is complete in the file before the header names it.
Task<> Qcow2::grow_l1(u64 entries) {
  if (entries <= l1_.size()) co_return Result<>{};
  if (entries * 8 > max_l1_bytes) co_return refuse(EFBIG, "the disk is too big for this cluster size");
  co_await write_back(true);
  const u64 at = co_await allocate_contiguous(g_.clusters(entries * 8));
  const u64 old_offset = header_.l1_offset, old_size = header_.l1_size;
  co_await write_back(true);
  std::vector<u64> table = l1_;
  table.resize(entries);
  std::vector<u64> bytes(g_.clusters(entries * 8) * g_.cluster_bytes() / 8);
  for (u64 i = 0; i < entries; i++) bytes[i] = std::byteswap(table[i]);
  co_await file().write(at, IoVector{bytes.data(), bytes.size() * 8});
  co_await file_flush();
  header_.l1_offset = at, header_.l1_size = static_cast<u32>(entries);
  Result<> done = co_await attempt(write_header_words());
  if (done) done = co_await attempt(file_flush());
  if (!done) {
    header_.l1_offset = old_offset, header_.l1_size = static_cast<u32>(old_size);
    co_return done;
  }
  table.resize(entries);
  std::ranges::copy(l1_, table.begin());
  l1_ = std::move(table);
  // What others changed meanwhile may have gone to the old table.
  for (u64 s = 0; s * 64 < old_size; s++) l1_dirty_.insert(s);
  if (old_size) note_free(old_offset, g_.clusters(old_size * 8) << g_.cluster_bits, Free::Why::other);
  co_return Result<>{};
}

Task<> Qcow2::truncate(u64 length, Preallocation mode) {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  const u64 old = header_.virtual_bytes;
  if (length % 512) co_return refuse(EINVAL, "The new size must be a multiple of 512");
  if (!snapshots_.empty() && header_.version < 3 && length != old)
    co_return refuse(ENOTSUP, "Can't resize a version 2 image which has snapshots");
  if (length > g_.max_virtual_bytes())
    co_return refuse(EFBIG, format("{} bytes is more than a disk with clusters of {} bytes can have", length, g_.cluster_bytes()));
  if (length == old) co_return Result<>{};
  if (held_) co_return refuse(EBUSY, being_taken);
  // The contents of bitmaps follow the disk's size.
  std::vector<std::pair<std::string, std::vector<u8>>> kept;
  if (header_.bitmaps) {
    std::vector<Bitmap> list = co_await read_bitmap_directory();
    for (const Bitmap& b : list) {
      if (b.flags & Bitmap::in_use && std::ranges::none_of(tracked_, [&](const Tracked& t) { return t.name == b.name; }))
        co_return refuse(ENOTSUP, format("Cannot resize an image with the inconsistent bitmap '{}'; remove it first", b.name));
      if (std::ranges::any_of(tracked_, [&](const Tracked& t) { return t.name == b.name; })) continue;
      std::vector<u8> bits = co_await load_bitmap(b.name);
      kept.emplace_back(b.name, std::move(bits));
    }
  }
  if (length < old) {
    if (mode != Preallocation::off) co_return refuse(EINVAL, "Preallocation can't be used for shrinking an image");
    co_await shrink(length);
  } else {
    const u64 entries = g_.l1_entries(length);
    // Behind the disk lies the machine's state of a running save, if anything; entries there must be empty.
    for (u64 i = g_.l1_entries(old); i < std::min<u64>(entries, l1_.size()); i++)
      if (l1_[i] & offset_mask) co_await discard_clusters(i * g_.l2_coverage(), g_.l2_coverage(), true);
    co_await grow_l1(entries);
    header_.virtual_bytes = length;
    Result<> done;
    // What an earlier, longer disk left in the last cluster, and what lies below, must not come to light.
    if (g_.in_cluster(old)) done = co_await attempt(write_zero_bytes(old, std::min(length, align_up(old, g_.cluster_bytes())) - old));
    if (done && backing() && backing()->length_bytes() > old) {
      const u64 to = std::min(length, backing()->length_bytes());
      const u64 from = std::min(to, align_up(old, g_.cluster_bytes()));
      if (from < to && header_.version >= 3)
        done = co_await attempt(zero(from, to - from, {}));
      else if (from < to)
        done = co_await attempt(write_zero_bytes(from, to - from));
    }
    if (done && external() && data_file().length_bytes() < length)
      done = co_await attempt(data_file().truncate(length, mode == Preallocation::metadata ? Preallocation::off : mode));
    if (done && mode != Preallocation::off) done = co_await attempt(preallocate(old, length, mode));
    if (done) done = co_await attempt(write_back(true));
    if (!done) {
      header_.virtual_bytes = old;
      co_return done;
    }
  }
  header_.virtual_bytes = length;
  Result<> named = co_await attempt(write_header_words());
  if (named) named = co_await attempt(file_flush());
  if (!named) {
    header_.virtual_bytes = old;
    co_return named;
  }
  for (auto& [name, bits] : kept) {
    u32 granularity = 16;
    for (const Bitmap& b : bitmap_directory_)
      if (b.name == name) granularity = b.granularity_bits;
    const u64 count = (length >> granularity) + ((length & ((u64{1} << granularity) - 1)) != 0);
    bits.resize((count + 7) / 8);
    if (count % 8 && !bits.empty()) bits.back() &= static_cast<u8>((1 << count % 8) - 1);
    co_await store_bitmap(name, std::move(bits));
  }
  for (Tracked& t : tracked_) t.bits.resize(((length >> t.granularity_bits) + 8) / 8);
  co_return Result<>{};
}

Task<> Qcow2::shrink(u64 length) {
  const u64 cluster = g_.cluster_bytes();
  const u64 begin = align_up(length, cluster), end = align_up(header_.virtual_bytes, cluster);
  if (begin < end) co_await discard_clusters(begin, end - begin, true);
  for (u64 i = g_.l1_entries(length); i < l1_.size(); i++) {
    const u64 table = l1_[i] & offset_mask;
    if (!table) continue;
    l1_[i] = 0;
    overlap_stale_ = true;
    l1_dirty_.insert(i / 64);
    note_free(table, cluster, Free::Why::other);
  }
  co_await write_back(true);
  co_await write_back(true);
  if (external()) co_await data_file().truncate(length);
  // The file ends with its last used cluster.
  u64 last = end_cluster_;
  while (last > 1) {
    const u64 count = co_await refcount(last - 1);
    if (count) break;
    last--;
  }
  if (last < end_cluster_ && reserved_.empty()) {
    end_cluster_ = last, free_hint_ = std::min(free_hint_, last), compressed_at_ = 0;
    if (file().length_bytes() > last << g_.cluster_bits) (void)co_await attempt(file().truncate(last << g_.cluster_bits));
  }
  co_return Result<>{};
}

// Space for [from, to), whose clusters read as the zeros of a file that has grown.
Task<> Qcow2::preallocate(u64 from, u64 to, Preallocation mode) {
  const u64 cluster = g_.cluster_bytes();
  from = align_up(from, cluster), to = align_up(to, cluster);
  const Preallocation below = mode == Preallocation::metadata ? Preallocation::off : mode;
  while (from < to) {
    const Place p = place_of(from);
    const u64 count = std::min((to - from) / cluster, slice_entries() - p.index);
    u64 host = from;
    if (!external()) {
      co_await l2_slice_for_write(from);  // its table first, so that data stays in one piece
      host = co_await allocate_contiguous(count);
      const u64 end = host + count * cluster;
      if (file().length_bytes() < end) co_await file().truncate(end, below);
    }
    const bool hidden = g_.extended_l2 && backing();
    co_await link_clusters(from, count, host, from, hidden ? from : from + count * cluster);
    from += count * cluster;
  }
  co_return Result<>{};
}

Task<> Qcow2::set_backing(std::string name, std::string format) {
  if (name.size() > max_name) co_return refuse(EINVAL, "Backing file name too long");
  if (external() && !name.empty() && (header_.autoclear & feature::raw_data_file))
    co_return refuse(EINVAL, "a raw external data file has no backing file");
  if (!prepared_) co_await prepare_write();
  co_await write_back(true);
  const Header old = header_;
  header_.backing_file = std::move(name), header_.backing_format = std::move(format);
  if (header_.backing_file.empty()) header_.backing_format.clear();
  Result<> done = co_await attempt(write_header());
  if (done) done = co_await attempt(file_flush());
  if (!done) header_ = old;
  co_return done;
}

Task<> Qcow2::amend(Value options) {
  if (!prepared_) co_await prepare_write();
  co_await write_back(true);
  const auto text = [](const Value& v) {
    return v.is_string() ? v.get_string() : v.is_bool() ? std::string{v.get_bool() ? "on" : "off"} : to_json(v);
  };
  const Header old = header_;
  for (const auto& [name, value] : options.members()) {
    const std::string v = text(value);
    if (name == "compat") {
      const bool v3 = v == "1.1" || v == "v3", v2 = v == "0.10" || v == "v2";
      if (!v2 && !v3) co_return fail("Unknown compatibility level {}", v);
      if (v3 && header_.version == 2) {
        header_.version = 3, header_.refcount_order = 4, header_.header_length = 112;
      } else if (v2 && header_.version == 3) {
        if (header_.refcount_order != 4) co_return refuse(ENOTSUP, "compat=0.10 requires refcount_bits=16");
        if (header_.incompatible & ~feature::dirty || header_.bitmaps)
          co_return refuse(ENOTSUP, "Cannot downgrade an image with incompatible features set");
        if (!snapshots_.empty())
          for (const Snapshot& s : snapshots_)
            if (s.disk_bytes != header_.virtual_bytes) co_return refuse(ENOTSUP, "Internal snapshots prevent downgrade of image");
        // Zero clusters have no mark in version 2.
        co_return refuse(ENOTSUP, "Downgrading to compat=0.10 in place is not supported; convert the image with -o compat=0.10");
      }
    } else if (name == "lazy_refcounts") {
      bool on = false;
      if (auto ok = Codec<bool>::from_value(on, Value{v}, name, {}); !ok) co_return ok;
      if (on && header_.version < 3)
        co_return fail("Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
      if (!on) co_await set_dirty(false);
      header_.compatible = on ? header_.compatible | feature::lazy_refcounts : header_.compatible & ~feature::lazy_refcounts;
      lazy_ = on;
    } else if (name == "backing_file") {
      header_.backing_file = v;
    } else if (name == "backing_fmt") {
      header_.backing_format = v;
    } else if (name == "size") {
      Bytes64 size;
      if (auto ok = Codec<Bytes64>::from_value(size, value, name, {}); !ok) co_return ok;
      co_await truncate(size, Preallocation::off);
    } else if (name == "data_file_raw") {
      bool on = false;
      if (auto ok = Codec<bool>::from_value(on, Value{v}, name, {}); !ok) co_return ok;
      if (on && !external()) co_return fail("data_file_raw requires data_file");
      if (on && !(header_.autoclear & feature::raw_data_file)) co_return fail("data_file_raw cannot be set on existing images");
      header_.autoclear = on ? header_.autoclear | feature::raw_data_file : header_.autoclear & ~feature::raw_data_file;
    } else if (name == "data_file") {
      if (!external()) co_return fail("data-file cannot be set for images without external data file");
      header_.data_file = v;
    } else {
      co_return fail("Changing the {} of an image is not supported", name);
    }
  }
  Result<> done = co_await attempt(write_header());
  if (done) done = co_await attempt(file_flush());
  if (!done) header_ = old;
  co_return done;
}

}  // namespace vmm::block
