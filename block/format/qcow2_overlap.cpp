// Overlap checks: before data or tables are written, the place is compared with where other metadata lies. What they find is an image whose
// tables contradict one another: it is marked corrupt, and nothing is written. Source: features of QEMU's overlap-check option (manual).
#include "block/format/qcow2.h"

namespace vmm::block {
using namespace qcow2;

std::string_view qcow2::region_name(Region region) {
  constexpr std::string_view names[] = {"nothing",        "qcow2_header",   "active L1 table",   "active L2 table",  "refcount block",
                                        "refcount table", "snapshot table", "inactive L1 table", "inactive L2 table"};
  return names[usize(region)];
}

Task<> Qcow2::collect_regions() {
  overlap_stale_ = false;
  std::vector<u64> tables, blocks, inactive;
  if (overlap_ >= Overlap::cached) {
    for (const u64 e : l1_)
      if (const u64 at = e & offset_mask) tables.push_back(at);
    for (const u64 e : refcount_table_)
      if (const u64 at = e & offset_mask) blocks.push_back(at);
  }
  active_tables_.assign(std::move(tables));
  refcount_blocks_.assign(std::move(blocks));
  if (overlap_ == Overlap::all)
    for (const Snapshot& s : snapshots_) {
      const std::vector<u64> l1 = co_await read_l1(s.l1_offset, s.l1_size);
      for (const u64 e : l1)
        if (const u64 at = e & offset_mask) inactive.push_back(at);
    }
  inactive_tables_.assign(std::move(inactive));
  co_return Result<>{};
}

Region Qcow2::overlapping(u64 offset, u64 bytes, Region own) const {
  const u64 cluster = g_.cluster_bytes(), begin = align_down(offset, cluster), end = align_up(offset + bytes, cluster);
  const auto touches = [&](u64 at, u64 length) { return length && at < end && begin < align_up(at + length, cluster); };
  if (own != Region::header && begin == 0) return Region::header;
  if (own != Region::active_l1 && touches(header_.l1_offset, u64{header_.l1_size} * 8)) return Region::active_l1;
  if (own != Region::refcount_table) {
    if (touches(header_.refcount_table_offset, u64{header_.refcount_table_clusters} << g_.cluster_bits)) return Region::refcount_table;
    if (moved_table_ && touches(moved_table_->first, u64{moved_table_->second} << g_.cluster_bits)) return Region::refcount_table;
  }
  if (own != Region::snapshot_table && touches(header_.snapshots_offset, snapshot_table_bytes_)) return Region::snapshot_table;
  if (overlap_ < Overlap::cached) return Region::none;
  for (const Snapshot& s : snapshots_)
    if (own != Region::inactive_l1 && touches(s.l1_offset, u64{s.l1_size} * 8)) return Region::inactive_l1;
  if (own != Region::active_l2 && active_tables_.find(begin, end, cluster) != end) return Region::active_l2;
  if (own != Region::refcount_block && refcount_blocks_.find(begin, end, cluster) != end) return Region::refcount_block;
  // An active table may be a snapshot's, too.
  if (own != Region::active_l2 && inactive_tables_.find(begin, end, cluster) != end) return Region::inactive_l2;
  return Region::none;
}

Task<> Qcow2::check_overlap(u64 offset, u64 bytes, Region own) {
  if (overlap_stale_) co_await collect_regions();
  const Region found = overlapping(offset, bytes, own);
  if (found == Region::none) co_return Result<>{};
  co_return corrupt(
      format("Preventing invalid write on {} (overlaps with {})", own == Region::none ? "data" : "metadata", region_name(found)));
}

}  // namespace vmm::block
