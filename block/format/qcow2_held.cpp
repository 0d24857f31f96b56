// A snapshot in two steps, for a machine that goes on meanwhile. At the moment itself nothing is written: what the disk holds is counted
// once more, in memory, so that nobody writes to it in place or frees it. Then the machine's RAM is written behind the disk, in guest
// addresses that no guest can reach; and when all of it is there, the tables that map it move from the disk's L1 table into the snapshot's.
// A cut before that leaves the disk as it was and clusters that are counted and not used, which the dirty mark tells (version 3).
#include <algorithm>

#include "block/format/qcow2.h"

namespace vmm::block {
using namespace qcow2;

namespace {
// What a version 2 image leaves behind must be sound without the mark.
bool has_mark(const Header& h) { return h.version >= 3; }
}  // namespace

u64 Qcow2::state_begin() const { return g_.l1_entries(header_.virtual_bytes); }

// The mark is on the disk, and the tables are at hand.
Task<> Qcow2::prepare_to_hold() {
  if (held_) co_return refuse(EBUSY, being_taken);
  if (g_.refcount_max() == 1) co_return refuse(ENOTSUP, "1 bit reference counts cannot express that a snapshot shares a cluster");
  if (external()) co_return refuse(ENOTSUP, "snapshots do not include an external data file");
  if (snapshots_.size() >= max_snapshots) co_return refuse(EFBIG, "there are 65536 snapshots already");
  co_await begin_big_change();
  const u64 tables = std::min<u64>(l1_.size(), l2_.limit() * l2_.slice_bytes() / g_.cluster_bytes());
  for (u64 i = 0; i < tables; i++) {
    const u64 table = l1_[i] & offset_mask;
    if (!table) continue;
    if (g_.in_cluster(table)) co_return corrupt(format("L2 table offset {:#x} unaligned (L1 index: {:#x})", table, i));
    for (u64 at = 0; at < g_.cluster_bytes(); at += l2_.slice_bytes()) (void)co_await l2_.get(table + at);
  }
  co_return Result<>{};
}

Task<> Qcow2::hold() {
  if (held_) co_return refuse(EBUSY, being_taken);
  if (!has_mark(header_)) co_await write_back(true);
  std::vector<u64> held(l1_.begin(), l1_.begin() + static_cast<std::ptrdiff_t>(std::min<u64>(state_begin(), l1_.size())));
  for (u64& e : held) e &= offset_mask;
  // First nothing is written in place any more …
  for (u64 i = 0; i < held.size(); i++) {
    if (!held[i]) continue;
    if (g_.in_cluster(held[i])) co_return corrupt(format("L2 table offset {:#x} unaligned (L1 index: {:#x})", held[i], i));
    for (u64 at = 0; at < g_.cluster_bytes(); at += l2_.slice_bytes()) {
      const SliceRef slice = co_await l2_.get(held[i] + at);
      for (u64 k = 0; k < slice_entries(); k++) {
        L2Entry e = entry_at(*slice, k);
        if (e.compressed() || !e.copied()) continue;
        e.word &= ~copied_flag;
        set_entry(*slice, k, e);
      }
    }
    l1_[i] = held[i];
    l1_dirty_.insert(i / 64);
  }
  if (!has_mark(header_)) co_await write_back(true);
  // … then what both use is counted twice.
  co_await change_refcounts_of(held, 1);
  if (!has_mark(header_)) co_await write_refcounts();
  held_ = std::move(held);
  co_return Result<>{};
}

Task<> Qcow2::keep_held(Snapshot s) {
  if (!held_) co_return refuse(EINVAL, "the disk was let go of");
  if (s.name.size() > 65535 || s.id.size() > 65535) co_return refuse(EINVAL, "the snapshot's name is too long");
  if (s.id.empty()) {
    u64 highest = 0;
    for (const Snapshot& other : snapshots_) highest = std::max<u64>(highest, std::strtoull(other.id.c_str(), nullptr, 10));
    s.id = format("{}", highest + 1);
  }
  s.disk_bytes = header_.virtual_bytes;
  s.has_icount = true;
  std::vector<u64> table = *held_;
  const u64 begin = table.size();
  if (s.vm_state_bytes)
    for (u64 i = begin; i < l1_.size(); i++) table.push_back(l1_[i] & offset_mask);
  while (table.size() > begin && !table.back()) table.pop_back();
  s.l1_size = static_cast<u32>(table.size()), s.l1_offset = 0;
  if (s.l1_size) {
    s.l1_offset = co_await allocate_contiguous(g_.clusters(u64{s.l1_size} * 8));
    std::vector<u64> bytes = table;
    for (u64& e : bytes) e = std::byteswap(e);
    co_await file().write(s.l1_offset, IoVector{bytes.data(), bytes.size() * 8});
    data_unflushed_ = true;
  }
  // The state's tables are the snapshot's alone: gone from the disk's before the header names the snapshot.
  const std::vector<u64> before = l1_;
  for (u64 i = begin; i < table.size(); i++) l1_[i] = 0, l1_dirty_.insert(i / 64);
  std::vector<Snapshot> list = snapshots_;
  list.push_back(s);
  const Result<> stored = co_await attempt(store_snapshots(std::move(list), header_.l1_offset, header_.l1_size));
  overlap_stale_ = true;
  if (!stored) {
    for (u64 i = begin; i < table.size(); i++) l1_[i] = before[i], l1_dirty_.insert(i / 64);
    if (s.l1_size) note_free(s.l1_offset, g_.clusters(u64{s.l1_size} * 8) << g_.cluster_bits, Free::Why::other);
    co_return stored;
  }
  held_.reset();
  co_return co_await end_big_change();
}

Task<> Qcow2::release_held() {
  if (!held_) co_return Result<>{};
  const std::vector<u64> held = *std::exchange(held_, std::nullopt);
  co_await change_refcounts_of(held, -1);
  co_await recompute_copied_flags();
  co_await drop_vm_state();
  co_return co_await end_big_change();
}

// --- Behind the disk

Task<> Qcow2::write_vm_state(u64 at, IoVector from) {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  u64 offset = state_begin() * g_.l2_coverage() + at;
  const u64 entries = (offset + from.size() + g_.l2_coverage() - 1) / g_.l2_coverage();
  if (entries > l1_.size()) co_await grow_l1(entries);
  while (!from.empty()) {
    const Mapping m = co_await lookup(offset, from.size());
    u64 done = m.length;
    if (m.kind == Kind::data && m.copied) {
      co_await data_file().write(m.host, from.part(0, m.length));
      data_unflushed_ = true;
    } else {
      done = 0;
      co_await write_allocating(offset, from, &done);
    }
    from.take(done);
    offset += done;
  }
  co_return Result<>{};
}
// The L1 table grows now: later it could meet a write of the disk that changes it.
Task<> Qcow2::reserve_vm_state(u64 bytes) {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  const u64 entries = state_begin() + (bytes + g_.l2_coverage() - 1) / g_.l2_coverage();
  if (entries > l1_.size()) co_await grow_l1(entries);
  co_return Result<>{};
}
Task<> Qcow2::drop_vm_state() {
  const u64 begin = state_begin() * g_.l2_coverage(), end = l1_.size() * g_.l2_coverage();
  if (end <= begin) co_return Result<>{};
  co_await begin_big_change();
  co_await discard_clusters(begin, end - begin, true);
  co_return co_await end_big_change();
}
// Nothing is counted or changed for that: the tables are read where they are.
Task<> Qcow2::show_vm_state(std::string id_or_name) {
  const Snapshot* s = find_snapshot(id_or_name);
  if (!s) co_return refuse(ENOENT, format("Snapshot '{}' does not exist", id_or_name));
  const u64 begin = g_.l1_entries(s->disk_bytes);
  if (s->disk_bytes != header_.virtual_bytes) co_return refuse(EINVAL, "the disk has another size than the snapshot");
  std::vector<u64> table = co_await read_l1(s->l1_offset, s->l1_size);
  table.erase(table.begin(), table.begin() + static_cast<std::ptrdiff_t>(std::min<u64>(begin, table.size())));
  for (u64& e : table) e &= offset_mask;
  shown_ = std::move(table);
  co_return Result<>{};
}
Task<> Qcow2::read_vm_state(u64 at, IoVector into) { co_return co_await read_mapped(state_begin() * g_.l2_coverage() + at, into, false); }

}  // namespace vmm::block
