// Internal snapshots. Source: "The QCOW2 image format", "Snapshots".
//
// A snapshot shares clusters with the disk, so counts and the "copied" flags of many entries change together, which no single write can
// do. Version 3 images carry the dirty mark meanwhile: after a cut the next user counts anew. In version 2 flags go first and counts
// follow, so that at no point is a shared cluster written in place.
#include <algorithm>

#include "block/format/qcow2.h"

namespace vmm::block {
using namespace qcow2;

const Snapshot* Qcow2::find_snapshot(std::string_view id_or_name) const {
  for (const Snapshot& s : snapshots_)
    if (s.id == id_or_name) return &s;
  for (const Snapshot& s : snapshots_)
    if (s.name == id_or_name) return &s;
  return nullptr;
}

Task<> Qcow2::begin_big_change() {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  co_await write_back(true);
  co_return co_await set_dirty(true);
}
Task<> Qcow2::end_big_change() {
  co_await write_back(true);
  co_await write_back(true);  // what the first one freed
  if (!lazy_) co_await set_dirty(false);
  co_return Result<>{};
}

// One reference more to each of so many clusters in a row.
Task<> Qcow2::share_clusters(u64 first, u64 count) {
  while (count) {
    const SliceRef s = co_await refcount_slice(first, true);
    const u64 n = std::min(count, refcounts_per_slice() - first % refcounts_per_slice());
    for (u64 c = first; c < first + n; c++) {
      const u64 before = get_refcount(s->bytes, c % refcounts_per_slice(), g_.refcount_order);
      if (before == g_.refcount_max())
        co_return refuse(EINVAL, format("the refcount of cluster {:#x} has reached the most that {} bits hold", c << g_.cluster_bits,
                                        g_.refcount_bits()));
      set_refcount(s->bytes, c % refcounts_per_slice(), g_.refcount_order, before + 1);
    }
    refcounts_.mark_dirty(*s);
    first += n, count -= n;
  }
  co_return Result<>{};
}

// All that an L1 table leads to, the L2 tables included, gets one reference more or less.
Task<> Qcow2::change_refcounts_of(const std::vector<u64>& l1, i64 by) {
  overlap_stale_ = true;
  u64 run = 0, run_clusters = 0;  // neighbours that shall be shared
  for (const u64 l1_entry : l1) {
    const u64 table = l1_entry & offset_mask;
    if (!table) continue;
    if (g_.in_cluster(table)) co_return corrupt(format("L2 table offset {:#x} unaligned", table));
    for (u64 at = 0; at < g_.cluster_bytes(); at += l2_.slice_bytes()) {
      const SliceRef slice = co_await l2_.get(table + at);
      for (u64 i = 0; i < slice_entries(); i++) {
        const L2Entry e = entry_at(*slice, i);
        if (!e.compressed() && (!e.host() || external())) continue;
        if (auto ok = check_entry(e, 0); !ok) co_return corrupt(ok.error().message);
        if (by < 0) {
          give_up(e, Free::Why::snapshot);
          continue;
        }
        const CompressedRange range =
            e.compressed() ? decode_compressed(e.word, g_.cluster_bits) : CompressedRange{e.host(), g_.cluster_bytes()};
        const u64 first = range.offset >> g_.cluster_bits, count = ((range.offset + range.bytes - 1) >> g_.cluster_bits) - first + 1;
        if (run + run_clusters != first) {
          co_await share_clusters(run, std::exchange(run_clusters, 0));
          run = first;
        }
        run_clusters += count;
      }
    }
    if (by < 0) {
      note_free(table, g_.cluster_bytes(), Free::Why::snapshot);
      co_await apply_frees(std::exchange(frees_, {}));
    } else {
      co_await share_clusters(run, std::exchange(run_clusters, 0));
      co_await share_clusters(table >> g_.cluster_bits, 1);
    }
  }
  co_return Result<>{};
}

// Flags of the active tables, from the counts.
Task<> Qcow2::recompute_copied_flags() {
  for (u64 i = 0; i < l1_.size(); i++) {
    const u64 table = l1_[i] & offset_mask;
    if (!table) continue;
    const u64 table_count = co_await refcount(table >> g_.cluster_bits);
    const u64 word = table | (table_count == 1 ? copied_flag : 0);
    if (word != l1_[i]) l1_[i] = word, l1_dirty_.insert(i / 64);
    for (u64 at = 0; at < g_.cluster_bytes(); at += l2_.slice_bytes()) {
      const SliceRef slice = co_await l2_.get(table + at);
      for (u64 k = 0; k < slice_entries(); k++) {
        L2Entry e = entry_at(*slice, k);
        if (e.compressed() || !e.host() || external()) continue;
        const u64 count = co_await refcount(e.host() >> g_.cluster_bits);
        const u64 fresh = (e.word & ~copied_flag) | (count == 1 ? copied_flag : 0);
        if (fresh == e.word) continue;
        e.word = fresh;
        set_entry(*slice, k, e);
      }
    }
  }
  co_return Result<>{};
}

// A new snapshot table, and the switch to it (and to an L1 table) in one write of the header.
Task<> Qcow2::store_snapshots(std::vector<Snapshot> list, u64 l1_offset, u32 l1_size) {
  std::vector<u8> bytes = build_snapshots(list);
  if (bytes.size() > max_snapshot_table_bytes || list.size() > max_snapshots)
    co_return refuse(EFBIG, "the snapshot table has reached its largest size");
  u64 at = 0;
  if (!bytes.empty()) {
    at = co_await allocate_contiguous(g_.clusters(bytes.size()));
    co_await file().write(at, IoVector{std::span{bytes}});
    data_unflushed_ = true;
  }
  co_await write_back(true);
  const Header old = header_;
  header_.snapshots_offset = at, header_.snapshot_count = static_cast<u32>(list.size());
  header_.l1_offset = l1_offset, header_.l1_size = l1_size;
  Result<> done = co_await attempt(write_header_words());
  if (done) done = co_await attempt(file_flush());
  if (!done) {
    header_ = old;
    co_return done;
  }
  if (snapshot_table_bytes_) note_free(old.snapshots_offset, g_.clusters(snapshot_table_bytes_) << g_.cluster_bits, Free::Why::snapshot);
  snapshots_ = std::move(list), snapshot_table_bytes_ = bytes.size();
  overlap_stale_ = true;
  co_return Result<>{};
}

Task<> Qcow2::create_snapshot(Snapshot s) {
  co_await prepare_to_hold();
  Result<> done = co_await attempt(hold());
  if (done) done = co_await attempt(keep_held(std::move(s)));
  if (!done) (void)co_await attempt(release_held());
  co_return done;
}

Task<> Qcow2::apply_snapshot(std::string id_or_name) {
  if (held_) co_return refuse(EBUSY, being_taken);
  const Snapshot* found = find_snapshot(id_or_name);
  if (!found) co_return refuse(ENOENT, format("Snapshot '{}' does not exist", id_or_name));
  if (external()) co_return refuse(ENOTSUP, "snapshots do not include an external data file");
  const Snapshot s = *found;
  if (s.disk_bytes != header_.virtual_bytes) {
    if (header_.version < 3) co_return refuse(ENOTSUP, "the snapshot has another size than the disk");
    co_await truncate(s.disk_bytes, Preallocation::off);
  }
  co_await begin_big_change();
  std::vector<u64> table = co_await read_l1(s.l1_offset, s.l1_size);
  const u64 needed = g_.l1_entries(header_.virtual_bytes);
  table.resize(needed);  // without the machine's state, which is the snapshot's alone
  for (u64& e : table) e &= offset_mask;
  co_await change_refcounts_of(table, 1);
  const u64 at = co_await allocate_contiguous(g_.clusters(std::max<u64>(table.size(), 1) * 8));
  std::vector<u64> bytes = table;
  for (u64& e : bytes) e = std::byteswap(e);
  if (!bytes.empty()) co_await file().write(at, IoVector{bytes.data(), bytes.size() * 8});
  data_unflushed_ = true;
  const u64 old_offset = header_.l1_offset, old_size = header_.l1_size;
  std::vector<u64> old = l1_;
  co_await write_back(true);
  header_.l1_offset = at, header_.l1_size = static_cast<u32>(table.size());
  Result<> done = co_await attempt(write_header_words());
  if (done) done = co_await attempt(file_flush());
  if (!done) {
    header_.l1_offset = old_offset, header_.l1_size = static_cast<u32>(old_size);
    co_return done;
  }
  l1_ = std::move(table);
  overlap_stale_ = true;
  l1_dirty_.clear();
  co_await change_refcounts_of(old, -1);
  if (old_size) note_free(old_offset, g_.clusters(old_size * 8) << g_.cluster_bits, Free::Why::snapshot);
  co_await apply_frees(std::exchange(frees_, {}));
  co_await recompute_copied_flags();
  co_return co_await end_big_change();
}

Task<> Qcow2::delete_snapshot(std::string id_or_name) {
  if (held_) co_return refuse(EBUSY, being_taken);
  const Snapshot* found = find_snapshot(id_or_name);
  if (!found) co_return refuse(ENOENT, format("Snapshot '{}' does not exist", id_or_name));
  const Snapshot s = *found;
  co_await begin_big_change();
  const std::vector<u64> table = co_await read_l1(s.l1_offset, s.l1_size);
  std::vector<Snapshot> list;
  for (const Snapshot& other : snapshots_)
    if (&other != found) list.push_back(other);
  co_await store_snapshots(std::move(list), header_.l1_offset, header_.l1_size);
  co_await change_refcounts_of(table, -1);
  if (s.l1_size) note_free(s.l1_offset, g_.clusters(u64{s.l1_size} * 8) << g_.cluster_bits, Free::Why::snapshot);
  co_await apply_frees(std::exchange(frees_, {}));
  co_await recompute_copied_flags();
  co_return co_await end_big_change();
}

Task<> Qcow2::read_snapshot(std::string id_or_name) {
  const Snapshot* s = find_snapshot(id_or_name);
  if (!s) co_return refuse(ENOENT, format("Snapshot '{}' does not exist", id_or_name));
  if (!read_only()) co_return refuse(EINVAL, "a snapshot is read through a read-only node");
  std::vector<u64> table = co_await read_l1(s->l1_offset, s->l1_size);
  for (u64& e : table) e &= offset_mask;
  if (table.size() < g_.l1_entries(s->disk_bytes))
    co_return refuse(EINVAL, format("the L1 table of snapshot '{}' is too small", id_or_name));
  l1_ = std::move(table);
  header_.virtual_bytes = s->disk_bytes;
  co_return Result<>{};
}

}  // namespace vmm::block
