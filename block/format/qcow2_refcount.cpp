// Reference counts and the claiming of host clusters. Source: "The QCOW2 image format", "Host cluster management".
//
// Counts go up in memory before anything refers to a cluster, and down only after nothing on disk does (apply_frees): a refcount block
// may therefore be written at any time. Clusters are claimed between two waits; what is claimed at the end of the file is on the list of
// reservations until it is counted.
#include "block/format/qcow2.h"
#include "block/format/qcow2_flight.h"

namespace vmm::block {
using namespace qcow2;

namespace {
struct Reserve {
  Reserve(std::multiset<u64>& set, u64 first) : set(set), place(set.insert(first)) {}
  ~Reserve() { set.erase(place); }
  Reserve(const Reserve&) = delete;
  std::multiset<u64>& set;
  std::multiset<u64>::iterator place;
};
}  // namespace

Task<SliceRef> Qcow2::refcount_slice(u64 cluster, bool make) {
  const u64 block = cluster / g_.refcounts_per_block();
  while (block >= refcount_table_.size() || !(refcount_table_[block] & offset_mask)) {
    if (!make) co_return SliceRef{};
    const auto guard = co_await structure_.lock();
    if (block >= refcount_table_.size() || !(refcount_table_[block] & offset_mask)) co_await make_refcount_block(block);
  }
  const u64 at = refcount_table_[block] & offset_mask;
  if (g_.in_cluster(at)) co_return corrupt(format("Refblock offset {:#x} unaligned (reftable index: {:#x})", at, block));
  const u64 in_block = cluster % g_.refcounts_per_block() / refcounts_per_slice();
  co_return co_await refcounts_.get(at + in_block * refcounts_.slice_bytes());
}

Task<> Qcow2::set_made_refcount(u64 cluster) {
  const u64 block = cluster / g_.refcounts_per_block();
  if (block >= refcount_table_.size()) co_return refuse(EFBIG, "refcount table");
  if (!(refcount_table_[block] & offset_mask)) co_await make_refcount_block(block);
  const SliceRef s = co_await refcount_slice(cluster, false);
  set_refcount(s->bytes, cluster % refcounts_per_slice(), g_.refcount_order, 1);
  refcounts_.mark_dirty(*s);
  co_return Result<>{};
}

// Under structure_. The block lies at the end of the file, often in the range that it counts itself.
Task<> Qcow2::make_refcount_block(u64 block) {
  if (block >= refcount_table_.size()) co_await grow_refcount_table(block);
  if (refcount_table_[block] & offset_mask) co_return Result<>{};
  const u64 cluster = end_cluster_;
  const u64 host = cluster << g_.cluster_bits;
  if (host > offset_mask) co_return refuse(EFBIG, "the image file has reached its largest size");
  const Reserve reserve{reserved_, cluster};
  end_cluster_++;
  if (cluster / g_.refcounts_per_block() >= refcount_table_.size()) co_await grow_refcount_table(cluster / g_.refcounts_per_block());
  claimed_++;
  Buffer zeros{g_.cluster_bytes()};
  std::ranges::fill(zeros.span(), u8{0});
  refcounts_.forget(host, g_.cluster_bytes());
  co_await file().write(host, zeros.vector());
  data_unflushed_ = true;
  refcount_blocks_.add(host);
  refcount_table_[block] = host;
  refcount_table_dirty_.insert(block / 64);
  co_return co_await set_made_refcount(cluster);
}

// Under structure_. The bigger table is in memory; write_back() puts it into the file and then into the header.
Task<> Qcow2::grow_refcount_table(u64 block) {
  const u64 in_cluster = g_.cluster_bytes() / 8;
  const u64 first = end_cluster_;
  const Reserve reserve{reserved_, first};
  u64 clusters = std::max(refcount_table_.size() / in_cluster * 3 / 2, g_.clusters((block + 1) * 8)) + 1;
  while ((first + clusters) / g_.refcounts_per_block() + 2 >= clusters * in_cluster) clusters++;
  if (clusters << g_.cluster_bits > max_refcount_table_bytes) {
    clusters = max_refcount_table_bytes >> g_.cluster_bits;
    if (block >= clusters * in_cluster || clusters * in_cluster <= refcount_table_.size())
      co_return refuse(EFBIG, "the refcount table has reached its largest size");
  }
  end_cluster_ += clusters;
  refcount_table_.resize(clusters * in_cluster);
  if (moved_table_) note_free(moved_table_->first, u64{moved_table_->second} << g_.cluster_bits, Free::Why::other);
  moved_table_ = {first << g_.cluster_bits, static_cast<u32>(clusters)};
  for (u64 c = first; c < first + clusters; c++) co_await set_made_refcount(c);
  co_return Result<>{};
}

Task<Qcow2::Run> Qcow2::allocate(u64 want) {
  const u64 per_slice = refcounts_per_slice();
  for (;;) {
    const u64 scan_end = reserved_.empty() ? end_cluster_ : std::min(end_cluster_, *reserved_.begin());
    const u64 at = free_hint_;
    if (at >= scan_end) break;
    const SliceRef s = co_await refcount_slice(at, true);
    // All below happens without a wait.
    const u64 base = align_down(at, per_slice);
    const u64 end = std::min(base + per_slice, reserved_.empty() ? end_cluster_ : std::min(end_cluster_, *reserved_.begin()));
    u64 i = at;
    while (i < end && get_refcount(s->bytes, i - base, g_.refcount_order)) i++;
    Run run{i, 0};
    while (i < end && run.count < want && !get_refcount(s->bytes, i - base, g_.refcount_order)) {
      set_refcount(s->bytes, i - base, g_.refcount_order, 1);
      run.count++, i++;
    }
    if (free_hint_ == at) free_hint_ = std::max(at, i);
    if (run.count) {
      claimed_ += run.count;
      refcounts_.mark_dirty(*s);
      co_return run;
    }
    if (i == at) break;
  }
  const u64 first = end_cluster_;
  if ((first + want) << g_.cluster_bits > offset_mask) co_return refuse(EFBIG, "the image file has reached its largest size");
  const u64 count = std::min(want, per_slice - first % per_slice);
  const Reserve reserve{reserved_, first};
  end_cluster_ += count;
  if (free_hint_ == first) free_hint_ = end_cluster_;
  const Result<SliceRef> s = co_await attempt(refcount_slice(first, true));
  if (!s) {
    free_hint_ = std::min(free_hint_, first);
    co_return std::unexpected(s.error());
  }
  for (u64 i = 0; i < count; i++) set_refcount((*s)->bytes, (first + i) % per_slice, g_.refcount_order, 1);
  refcounts_.mark_dirty(**s);
  claimed_ += count;
  co_return Run{first, count};
}

Task<u64> Qcow2::allocate_contiguous(u64 count) {
  const u64 first = end_cluster_;
  if ((first + count) << g_.cluster_bits > offset_mask) co_return refuse(EFBIG, "the image file has reached its largest size");
  const Reserve reserve{reserved_, first};
  end_cluster_ += count;
  if (free_hint_ == first) free_hint_ = end_cluster_;
  claimed_ += count;
  co_await set_refcounts(first, count, 1);
  l2_.forget(first << g_.cluster_bits, count << g_.cluster_bits);
  co_return first << g_.cluster_bits;
}

// Compressed data is packed byte by byte; a cluster's count is the number of pieces that touch it.
Task<u64> Qcow2::allocate_bytes(u64 bytes) {
  const auto guard = co_await compressing_.lock();
  const u64 cluster = g_.cluster_bytes();
  if (compressed_at_ && g_.in_cluster(compressed_at_)) {
    const u64 here = compressed_at_ >> g_.cluster_bits;
    const u64 left = cluster - g_.in_cluster(compressed_at_);
    const SliceRef s = co_await refcount_slice(here, true);
    const u64 count = get_refcount(s->bytes, here % refcounts_per_slice(), g_.refcount_order);
    const bool next_is_end = here + 1 == end_cluster_;
    if (compressed_at_ && count && count < g_.refcount_max() && (bytes <= left || next_is_end)) {
      set_refcount(s->bytes, here % refcounts_per_slice(), g_.refcount_order, count + 1);
      refcounts_.mark_dirty(*s);
      const u64 at = compressed_at_;
      if (bytes > left) {
        const Reserve reserve{reserved_, here + 1};
        end_cluster_++;
        if (free_hint_ == here + 1) free_hint_ = end_cluster_;
        claimed_++;
        const Result<> counted = co_await attempt(set_refcounts(here + 1, 1, 1));
        if (!counted) {
          note_free(at, 1, Free::Why::other);
          co_return std::unexpected(counted.error());
        }
      }
      compressed_at_ = at + bytes;
      co_return at;
    }
  }
  const Run run = co_await allocate(1);
  const u64 at = run.first << g_.cluster_bits;
  if (at + bytes > max_compressed_offset(g_.cluster_bits)) {
    note_free(at, cluster, Free::Why::other);
    co_return refuse(EFBIG, "the image file is too big for compressed clusters");
  }
  compressed_at_ = at + bytes;
  co_return at;
}

Task<u64> Qcow2::refcount(u64 cluster) {
  const SliceRef s = co_await refcount_slice(cluster, false);
  co_return s ? get_refcount(s->bytes, cluster % refcounts_per_slice(), g_.refcount_order) : u64{0};
}

Task<> Qcow2::add_refcount(u64 cluster, i64 by) {
  const SliceRef s = co_await refcount_slice(cluster, by > 0);
  const u64 before = s ? get_refcount(s->bytes, cluster % refcounts_per_slice(), g_.refcount_order) : 0;
  if (by < 0 && before < static_cast<u64>(-by))
    co_return corrupt(format("the refcount of cluster {:#x} is {} where something refers to it", cluster << g_.cluster_bits, before));
  if (by > 0 && g_.refcount_max() - before < static_cast<u64>(by))
    co_return refuse(EINVAL, format("the refcount of cluster {:#x} has reached the most that {} bits hold", cluster << g_.cluster_bits,
                                    g_.refcount_bits()));
  const u64 after = before + static_cast<u64>(by);
  set_refcount(s->bytes, cluster % refcounts_per_slice(), g_.refcount_order, after);
  refcounts_.mark_dirty(*s);
  if (!after) {
    free_hint_ = std::min(free_hint_, cluster);
    if (compressed_at_ >> g_.cluster_bits == cluster) compressed_at_ = 0;
    const u64 host = cluster << g_.cluster_bits;
    l2_.forget(host, g_.cluster_bytes());
    refcounts_.forget(host, g_.cluster_bytes());
    unpacked_.clear();
  }
  co_return Result<>{};
}

Task<> Qcow2::set_refcounts(u64 first, u64 count, u64 value) {
  while (count) {
    const SliceRef s = co_await refcount_slice(first, true);
    const u64 n = std::min(count, refcounts_per_slice() - first % refcounts_per_slice());
    for (u64 i = 0; i < n; i++) set_refcount(s->bytes, (first + i) % refcounts_per_slice(), g_.refcount_order, value);
    refcounts_.mark_dirty(*s);
    first += n, count -= n;
  }
  co_return Result<>{};
}

// One reference less to every cluster that the range touches; what nobody needs any more is offered to the file's discard first.
Task<> Qcow2::free_now(Free f) {
  const u64 first = f.host >> g_.cluster_bits, end = ((f.host + f.bytes - 1) >> g_.cluster_bits) + 1;
  const bool pass = f.why == Free::Why::request    ? options_.pass_discard_request
                    : f.why == Free::Why::snapshot ? options_.pass_discard_snapshot
                                                   : options_.pass_discard_other;
  for (u64 c = first; c < end;) {
    u64 n = 1;
    if (pass) {
      u64 last_ones = 0;
      while (c + last_ones < end) {
        const u64 count = co_await refcount(c + last_ones);
        if (count != 1) break;
        last_ones++;
      }
      const u64 host = c << g_.cluster_bits, length = file().length_bytes();
      if (last_ones && host < length) (void)co_await attempt(file().discard(host, std::min(last_ones << g_.cluster_bits, length - host)));
      n = std::max<u64>(last_ones, 1);
    }
    for (u64 i = 0; i < n; i++) co_await add_refcount(c + i, -1);
    c += n;
  }
  co_return Result<>{};
}

}  // namespace vmm::block
