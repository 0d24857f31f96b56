// When metadata reaches the file. docs/qcow2.md, "Write order", has the argument; in short, one cycle is
//   1  copies of all dirty L2 slices, L1 sectors and of the list of freed clusters are taken, in one moment
//   2  dirty refcount slices are written; a changed refcount table after a flush; a moved one, then the header, after another
//   3  flush: data, counts and new tables are on the disk before anything refers to them
//   4  L2 slices; then, after a flush, L1 sectors
//   5  flush: what refers to freed clusters is gone from the disk
//   6  freed clusters are discarded and their counts go down; those counts are written, too
// A cycle that a cut could make leak more than three clusters (of version 3 images) carries the dirty bit instead of the order of 2 and 4:
//   a  the dirty bit is written; flush: it and the data are on the disk
//   b  refcount slices, L2 slices, L1 sectors, in any order; flush; then 6, and the bit goes when no more than three could leak without it
// With lazy refcounts step 2 is left out: the dirty bit in the header says so, and who opens the image next counts anew.
#include "block/format/qcow2.h"
#include "block/format/qcow2_flight.h"

namespace vmm::block {
using namespace qcow2;

Task<> Qcow2::file_flush() {
  data_unflushed_ = false;
  if (data_) co_await data_->flush();
  const Result<> flushed = co_await attempt(file().flush());
  if (!flushed) data_unflushed_ = true;
  co_return flushed;
}

Task<> Qcow2::make_clean(SliceCache& cache) {
  if (&cache == &refcounts_) co_return co_await write_refcounts();
  co_return co_await write_back(false);
}

// Neighbours go out in one write.
Task<> Qcow2::write_copies(std::vector<DirtyCopy> copies, SliceCache& cache) {
  for (usize i = 0; i < copies.size();) {
    usize n = 1;
    IoVector all{std::span{copies[i].bytes}};
    while (i + n < copies.size() && n < 64 && copies[i + n].slice->offset == copies[i].slice->offset + n * cache.slice_bytes())
      all.add(std::span{copies[i + n++].bytes});
    const Region own = &cache == &l2_ ? Region::active_l2 : Region::refcount_block;
    Result<> written;
    if (may_overlap(copies[i].slice->offset, all.size(), own))
      written = co_await attempt(check_overlap(copies[i].slice->offset, all.size(), own));
    if (written) written = co_await attempt(file().write(copies[i].slice->offset, all));
    if (!written) {
      for (; i < copies.size(); i++) cache.mark_dirty(*copies[i].slice);
      co_return written;
    }
    i += n;
  }
  co_return Result<>{};
}

// One writer of counts at a time: an older copy of a slice must not overtake a newer one, nor a cycle take slices for written that still
// are on their way.
Task<> Qcow2::write_refcounts() {
  const auto guard = co_await counting_.lock();
  data_unflushed_ |= refcounts_.dirty() != 0;
  co_return co_await write_copies(refcounts_.take_dirty(), refcounts_);
}

// What of the refcount table has changed, as it is now.
Qcow2::TableCopy Qcow2::copy_refcount_table() {
  TableCopy copy;
  if (moved_table_) {
    copy.moved = moved_table_;
    copy.bytes.resize(u64{moved_table_->second} << g_.cluster_bits);
    for (usize i = 0; i < refcount_table_.size(); i++) store_be(&copy.bytes[i * 8], refcount_table_[i]);
    refcount_table_dirty_.clear();
    return copy;
  }
  copy.sectors = std::exchange(refcount_table_dirty_, {});
  copy.bytes.resize(copy.sectors.size() * 512);
  usize at = 0;
  for (const u64 sector : copy.sectors)
    for (u64 i = 0; i < 64; i++, at += 8)
      if (sector * 64 + i < refcount_table_.size()) store_be(&copy.bytes[at], refcount_table_[sector * 64 + i]);
  return copy;
}

Task<> Qcow2::write_refcount_table(TableCopy copy) {
  if (!copy.moved) {
    usize at = 0;
    for (const u64 sector : copy.sectors) {
      co_await file().write(header_.refcount_table_offset + sector * 512, IoVector{std::span{copy.bytes}.subspan(at, 512)});
      at += 512;
    }
    data_unflushed_ = true;
    co_return Result<>{};
  }
  const auto [offset, clusters] = *copy.moved;
  co_await file().write(offset, IoVector{std::span{copy.bytes}});
  co_await file_flush();
  const u64 old = std::exchange(header_.refcount_table_offset, offset);
  const u32 old_clusters = std::exchange(header_.refcount_table_clusters, clusters);
  const Result<> named = co_await attempt(write_header_words());
  if (!named) {
    header_.refcount_table_offset = old, header_.refcount_table_clusters = old_clusters;
    co_return named;
  }
  data_unflushed_ = true;
  if (moved_table_ && moved_table_->first == offset) moved_table_.reset();
  note_free(old, u64{old_clusters} << g_.cluster_bits, Free::Why::other);
  co_return Result<>{};
}

// --- The dirty bit of big cycles

namespace {
constexpr u64 most_leaked = 3;
}

u64 Qcow2::clusters_on_their_way() const {
  u64 sum = 0;
  for (const Allocating* a : allocating_) sum += g_.clusters(a->end - a->begin);
  return sum;
}
Task<> Qcow2::mark_cycle() {
  if (!marked_dirty()) {
    header_.incompatible |= feature::dirty;
    data_unflushed_ = true;
    cycle_mark_ = true;
    const Result<> written = co_await attempt(write_features());
    if (!written) {
      header_.incompatible &= ~feature::dirty;
      cycle_mark_ = false;
      co_return written;
    }
  }
  if (!data_unflushed_) co_return Result<>{};
  const Result<> flushed = co_await attempt(file_flush());
  if (!flushed && cycle_mark_) {
    // It may be on the disk or not: who marks again writes again.
    header_.incompatible &= ~feature::dirty;
    cycle_mark_ = false;
  }
  co_return flushed;
}
// What it stood for is on the disk. No flush: a bit that comes back costs a repair, and no data.
Task<> Qcow2::unmark_cycle() {
  if (!std::exchange(cycle_mark_, false)) co_return Result<>{};
  header_.incompatible &= ~feature::dirty;
  data_unflushed_ = true;
  co_return co_await write_features();
}

// Steps 1 to 4; with `to_disk` all of them.
Task<> Qcow2::write_back(bool to_disk) {
  const u64 wanted = cycles_begun_ + 1;
  const auto guard = co_await flushing_.lock();
  if (cycle_done_ >= wanted) co_return Result<>{};  // one that began after we asked has done it
  if (!corrupt_.empty()) co_return refuse(EIO, corrupt_);
  const u64 number = ++cycles_begun_;

  // Nobody is in the middle of making a refcount block, or of writing counts, when the copies are taken.
  auto structure = co_await structure_.lock();
  auto counting = co_await counting_.lock();
  std::vector<DirtyCopy> tables = l2_.take_dirty();
  const auto l1_sectors = std::exchange(l1_dirty_, {});
  std::vector<std::array<u8, 512>> l1_bytes(l1_sectors.size());
  usize n = 0;
  for (const u64 sector : l1_sectors) {
    l1_bytes[n].fill(0);
    for (u64 i = 0; i < 64 && sector * 64 + i < l1_.size(); i++) store_be(&l1_bytes[n][i * 8], l1_[sector * 64 + i]);
    n++;
  }
  std::vector<Free> frees;
  if (to_disk) frees = std::exchange(frees_, {});
  std::vector<DirtyCopy> counts;
  TableCopy count_table;
  if (!lazy_) counts = refcounts_.take_dirty(), count_table = copy_refcount_table();
  const bool table_changed = count_table.moved || !count_table.sectors.empty();
  u64 freed = 0;
  for (const Free& f : frees) freed += g_.clusters(g_.in_cluster(f.host) + f.bytes);
  const u64 claims = std::exchange(claimed_, clusters_on_their_way());
  const bool marked = header_.version >= 3 && !lazy_ && (cycle_mark_ || claims + freed + settling_ > most_leaked);
  structure.unlock();

  Result<> done;
  if (marked) done = co_await attempt(mark_cycle());
  if (!done) {
    for (auto& c : counts) refcounts_.mark_dirty(*c.slice);
  } else if (!counts.empty()) {
    data_unflushed_ = true;
    done = co_await attempt(write_copies(std::move(counts), refcounts_));
  }
  counting.unlock();
  if (table_changed) {
    const auto sectors = count_table.sectors;
    if (done) done = co_await attempt(file_flush());
    if (done) done = co_await attempt(write_refcount_table(std::move(count_table)));
    if (!done) refcount_table_dirty_.insert(sectors.begin(), sectors.end());
  }
  if (done && !marked && (!tables.empty() || !l1_sectors.empty()) && data_unflushed_) done = co_await attempt(file_flush());
  bool tables_written = false;
  if (done && !tables.empty()) {
    data_unflushed_ = true;
    done = co_await attempt(write_copies(std::move(tables), l2_));
    tables_written = done.has_value();
  } else if (!done) {
    for (auto& t : tables) l2_.mark_dirty(*t.slice);
  }
  tables.clear();
  if (done && !l1_sectors.empty()) {
    if (tables_written && !marked) done = co_await attempt(file_flush());
    n = 0;
    for (const u64 sector : l1_sectors) {
      if (!done) break;
      const u64 bytes = std::min<u64>(512, (l1_.size() - sector * 64) * 8);
      done = co_await attempt(file().write(header_.l1_offset + sector * 512, IoVector{std::span<u8>{l1_bytes[n++]}.first(bytes)}));
    }
    data_unflushed_ = true;
  }
  if (!done) l1_dirty_.insert(l1_sectors.begin(), l1_sectors.end());
  if (done && to_disk) done = co_await attempt(file_flush());
  if (!done) {
    claimed_ += claims;
    frees_.insert(frees_.begin(), frees.begin(), frees.end());
    co_return done;
  }
  if (to_disk) settling_ = freed;
  if (!frees.empty()) {
    co_await apply_frees(std::move(frees));
    // Not together with the counts of many clusters that nothing refers to yet.
    if (!lazy_ && (cycle_mark_ || claimed_ <= most_leaked)) co_await write_refcounts();
  }
  if (to_disk) cycle_done_ = number;
  if (to_disk && cycle_mark_ && settling_ + claimed_ <= most_leaked) co_await unmark_cycle();
  co_return Result<>{};
}

// No request that began before now may still know the clusters when they are used again.
Task<> Qcow2::apply_frees(std::vector<Free> frees) {
  const u64 old = epoch_++ & 1;
  while (in_flight_[old]) co_await epoch_ended_.wait();
  for (usize i = 0; i < frees.size(); i++) {
    const Result<> freed = co_await attempt(free_now(frees[i]));
    if (!freed) {
      // What is left is only leaked: it must not be counted down twice.
      co_return freed;
    }
  }
  co_return Result<>{};
}

Task<> Qcow2::flush() {
  if (read_only() || !open_) co_return Result<>{};
  const bool clean = !l2_.dirty() && l1_dirty_.empty() && frees_.empty() &&
                     (lazy_ || (!refcounts_.dirty() && refcount_table_dirty_.empty())) && !moved_table_ && !flushing_.locked();
  if (!clean) co_return co_await write_back(true);
  co_await file_flush();
  settling_ = 0;
  if (cycle_mark_ && !flushing_.locked() && allocating_.empty()) co_await unmark_cycle();
  co_return Result<>{};
}

}  // namespace vmm::block
