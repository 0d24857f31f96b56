// Writing, zeroing, discarding. The order of a write that allocates: claim host clusters in memory; write the data (with what must be
// copied around it) there; enter the clusters into the L2 table in memory. docs/qcow2.md, "Write order", says when which of it reaches
// the file.
#include "block/format/qcow2.h"
#include "block/format/qcow2_codec.h"
#include "block/format/qcow2_flight.h"
#include "src/event/worker_pool.h"

namespace vmm::block {
using namespace qcow2;

Task<> Qcow2::wait_for_allocations(u64 begin, u64 bytes) {
  for (;;) {
    const bool busy = std::ranges::any_of(allocating_, [&](const Allocating* a) { return a->begin < begin + bytes && begin < a->end; });
    if (!busy) co_return Result<>{};
    co_await allocated_.wait();
  }
}

Task<> Qcow2::write(u64 offset, IoVector from, WriteFlags flags) {
  tidy();
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  if (!tracked_.empty()) track_write(offset, from.size());
  if (flags.compressed && !external() && !header_.crypt_method) {
    co_await write_compressed(offset, from);
  } else {
    while (!from.empty()) {
      if (overlap_stale_) co_await collect_regions();
      const Mapping m = co_await lookup(offset, from.size());
      if (m.kind == Kind::data && m.copied) {
        if (!external() && may_overlap(m.host, m.length, Region::none)) {
          co_await check_overlap(m.host, m.length, Region::none);
          continue;  // the mapping may be another one by now
        }
        InFlight in_flight{*this};
        co_await data_file().write(m.host, from.take(m.length));
        data_unflushed_ = true;
        offset += m.length;
      } else {
        u64 done = 0;
        co_await write_allocating(offset, from, &done);
        from.take(done);
        offset += done;
      }
    }
  }
  if (flags.fua) co_await flush();
  co_return Result<>{};
}

// One run of clusters that lie in one slice and either all need new space, or (one of them) has space that is not in use yet. `done`
// stays 0 when the mapping has to be looked at again.
Task<> Qcow2::write_allocating(u64 offset, IoVector from, u64* done) {
  const u64 cluster = g_.cluster_bytes();
  const u64 first = align_down(offset, cluster);
  // Before we promise anything: nobody else may be changing these clusters. Who had to wait looks again.
  SliceRef slice = co_await l2_slice_for_write(offset);
  const Place p = place_of(offset);
  u64 count = 0;
  const u64 most = std::min(slice_entries() - p.index, g_.clusters(offset + from.size() - first));
  L2Entry old = entry_at(*slice, p.index);
  const auto own_space = [&](const L2Entry& e) { return !e.compressed() && e.copied() && (e.host() || external()); };
  const bool reuse = own_space(old);
  if (reuse) {
    count = 1;
  } else {
    while (count < most && !own_space(entry_at(*slice, p.index + count))) count++;
  }
  for (const Allocating* a : allocating_) {
    if (a->begin >= first + count * cluster || first >= a->end) continue;
    if (a->begin <= first) {
      co_await allocated_.wait();
      co_return Result<>{};
    }
    count = (a->begin - first) / cluster;
  }
  if (auto ok = check_entry(old, offset); !ok) co_return corrupt(ok.error().message);
  Allocating claim{*this, first, first + count * cluster};

  u64 host = 0;
  if (reuse) {
    host = old.host();
  } else if (external()) {
    host = first;
  } else {
    const Run run = co_await allocate(count);
    host = run.first << g_.cluster_bits;
    count = run.count, claim.end = first + count * cluster;
    allocated_.wake_all();
  }
  const u64 end = std::min(offset + from.size(), first + count * cluster);
  from = from.take(end - offset);

  // What has to be copied around the data: to the borders of the clusters, or of the subclusters where nothing else is in them.
  const u64 sub = g_.subcluster_bytes();
  u64 copy_begin = first, copy_end = first + count * cluster;
  if (g_.extended_l2) {
    const L2Entry last = entry_at(*slice, p.index + count - 1);
    const auto holds_data = [&](const L2Entry& e) { return e.compressed() || (e.bitmap & 0xffff'ffff); };
    if (reuse || !holds_data(old)) {
      const u32 s = static_cast<u32>((offset - first) / sub);
      copy_begin = reuse && kind_of(old, s) == Kind::data ? offset : align_down(offset, sub);
    }
    if (reuse || !holds_data(last)) {
      const u32 s = static_cast<u32>((end - 1 - (copy_end - cluster)) / sub);
      copy_end = reuse && kind_of(last, s) == Kind::data ? end : align_up(end, sub);
    }
  }
  slice = {};  // may be evicted while data is written

  if (!external() && may_overlap(host, count * cluster, Region::none)) co_await check_overlap(host, count * cluster, Region::none);
  // No InFlight: the new space is nobody else's, and space that is reused is kept from others by `claim`.
  Result<> written;
  {
    if (copy_begin == offset && copy_end == end) {
      written = co_await attempt(data_file().write(host + (offset - first), from));
    } else {
      Buffer head{offset - copy_begin}, tail{copy_end - end};
      if (head.size()) written = co_await attempt(read_mapped(copy_begin, head.vector(), true));
      if (written && tail.size()) written = co_await attempt(read_mapped(end, tail.vector(), true));
      if (written) {
        IoVector whole;
        if (head.size()) whole.add(head.span());
        for (const iovec& piece : from.pieces()) whole.add({static_cast<u8*>(piece.iov_base), piece.iov_len});
        if (tail.size()) whole.add(tail.span());
        written = co_await attempt(data_file().write(host + (copy_begin - first), whole));
      }
    }
  }
  data_unflushed_ = true;
  if (written) written = co_await attempt(link_clusters(first, count, host, copy_begin, copy_end));
  if (!written) {
    if (!reuse && !external()) note_free(host, count * cluster, Free::Why::other);
    co_return std::unexpected(written.error());
  }
  *done = end - offset;
  co_return Result<>{};
}

// The clusters [guest, +count) now lie at host; of them [data_begin, data_end) has been written.
Task<> Qcow2::link_clusters(u64 guest, u64 count, u64 host, u64 data_begin, u64 data_end) {
  SliceRef slice = co_await l2_slice_for_write(guest);
  const Place p = place_of(guest);
  const u64 sub = g_.subcluster_bytes();
  for (u64 i = 0; i < count; i++) {
    const u64 at = guest + i * g_.cluster_bytes();
    const L2Entry old = entry_at(*slice, p.index + i);
    L2Entry e{(host + i * g_.cluster_bytes()) | copied_flag, 0};
    if (g_.extended_l2) {
      const u64 begin = std::max(data_begin, at), end = std::min(data_end, at + g_.cluster_bytes());
      // Partly written border subclusters were allocated before (reuse): rounding outwards is right for all.
      const u64 from = (begin - at) / sub, to = (end - at + sub - 1) / sub;
      const u64 mask = begin < end ? ((u64{1} << to) - 1) & ~((u64{1} << from) - 1) : 0;
      const u64 before = old.compressed() ? 0 : old.bitmap;
      e.bitmap = ((before & ~(mask << 32)) | mask);
      // What stays unwritten of a cluster with new space must not claim that there is data in it.
      if (!old.compressed() && old.host() != (e.word & offset_mask)) e.bitmap &= ~(before & 0xffff'ffff & ~mask);
    }
    set_entry(*slice, p.index + i, e);
    if (old.compressed() || old.host() != (e.word & offset_mask)) give_up(old, Free::Why::other);
  }
  co_return Result<>{};
}

void Qcow2::give_up(const L2Entry& e, Free::Why why) {
  if (e.compressed()) {
    const CompressedRange range = decode_compressed(e.word, g_.cluster_bits);
    note_free(range.offset, range.bytes, why);
  } else if (e.host() && !external()) {
    note_free(e.host(), g_.cluster_bytes(), why);
  }
}

void Qcow2::note_free(u64 host, u64 bytes, Free::Why why) {
  if (!frees_.empty()) {
    Free& last = frees_.back();
    if (last.why == why && last.host + last.bytes == host && !g_.in_cluster(host) && !g_.in_cluster(bytes) && !g_.in_cluster(last.host)) {
      last.bytes += bytes;
      return;
    }
  }
  frees_.push_back({host, bytes, why});
}

Task<SliceRef> Qcow2::l2_slice_for_write(u64 offset) {
  const Place p = place_of(offset);
  if (p.l1 >= l1_.size()) co_return refuse(EIO, format("offset {:#x} is past the L1 table", offset));
  while (!(l1_[p.l1] & copied_flag) || !(l1_[p.l1] & offset_mask)) {
    if (l2_in_making_.contains(p.l1)) {
      co_await l2_made_.wait();
      continue;
    }
    l2_in_making_.insert(p.l1);
    const Result<> made = co_await attempt(allocate_l2(p.l1));
    l2_in_making_.erase(p.l1);
    l2_made_.wake_all();
    if (!made) co_return std::unexpected(made.error());
  }
  co_return co_await l2_slice(offset);
}

// A table of our own for this L1 entry: empty, or a copy of one that a snapshot shares. It is in the file before the entry names it.
Task<> Qcow2::allocate_l2(u64 l1_index) {
  if (frees_.size() > 4096) co_await write_back(true);
  const u64 old = l1_[l1_index] & offset_mask;
  Buffer table{g_.cluster_bytes()};
  if (old) {
    if (g_.in_cluster(old)) co_return corrupt(format("L2 table offset {:#x} unaligned (L1 index: {:#x})", old, l1_index));
    for (u64 at = 0; at < g_.cluster_bytes(); at += l2_.slice_bytes()) {
      const SliceRef slice = co_await l2_.get(old + at);
      std::ranges::copy(slice->bytes, table.data() + at);
    }
  } else {
    std::ranges::fill(table.span(), u8{0});
  }
  const Run run = co_await allocate(1);
  const u64 host = run.first << g_.cluster_bits;
  if (may_overlap(host, g_.cluster_bytes(), Region::none)) co_await check_overlap(host, g_.cluster_bytes(), Region::none);
  l2_.forget(host, g_.cluster_bytes());
  const Result<> written = co_await attempt(file().write(host, table.vector()));
  if (!written) {
    note_free(host, g_.cluster_bytes(), Free::Why::other);
    co_return std::unexpected(written.error());
  }
  data_unflushed_ = true;
  active_tables_.add(host);
  if (old) active_tables_.remove(old);
  l1_[l1_index] = host | copied_flag;
  l1_dirty_.insert(l1_index / 64);
  if (old) note_free(old, g_.cluster_bytes(), Free::Why::snapshot);
  co_return Result<>{};
}

// --- Zeros and discards ---------------------------------------------------------------------------------------------------------------

Task<> Qcow2::write_zero_bytes(u64 offset, u64 length) {
  while (length) {
    const u64 in_cluster = std::min(length, g_.cluster_bytes() - g_.in_cluster(offset));
    const Mapping m = co_await lookup(offset, in_cluster);
    const bool zero_below =
        m.kind == Kind::unallocated || m.kind == Kind::unallocated_space ? !backing() || offset >= backing()->length_bytes() : false;
    if (m.kind != Kind::zero && m.kind != Kind::zero_space && !zero_below) {
      Buffer zeros{m.length};
      std::ranges::fill(zeros.span(), u8{0});
      co_await write(offset, zeros.vector(), {});
    }
    offset += m.length, length -= m.length;
  }
  co_return Result<>{};
}

Task<> Qcow2::zero(u64 offset, u64 length, ZeroFlags flags) {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  // Version 2 has no mark for zeros: only where nothing lies below may a cluster just go.
  if (header_.version < 3 && backing()) co_return fail_os(ENOTSUP);
  if (!tracked_.empty()) track_write(offset, length);
  const u64 unit = header_.version < 3 ? g_.cluster_bytes() : g_.subcluster_bytes();
  // The rest of the disk's last cluster is nobody's: zeros to the end are whole units.
  const u64 stop = offset + length == header_.virtual_bytes ? align_up(offset + length, unit) : offset + length;
  const u64 begin = align_up(offset, unit), end = align_down(stop, unit);
  if (begin >= end) {
    co_await write_zero_bytes(offset, length);
  } else {
    if (begin > offset) co_await write_zero_bytes(offset, begin - offset);
    co_await zero_clusters(begin, end - begin, flags.may_unmap);
    if (offset + length > end) co_await write_zero_bytes(end, offset + length - end);
  }
  if (flags.fua) co_await flush();
  co_return Result<>{};
}

// [at, +bytes): whole subclusters (version 3) or clusters.
Task<> Qcow2::zero_clusters(u64 at, u64 bytes, bool may_unmap) {
  if (external()) {
    // A raw data file must read the same by itself.
    const u64 inside = std::min(at + bytes, header_.virtual_bytes) - at;
    co_await data_file().zero(at, inside, {.may_unmap = may_unmap});
    data_unflushed_ = true;
  }
  const u64 cluster = g_.cluster_bytes(), sub = g_.subcluster_bytes();
  while (bytes) {
    const Place p = place_of(at);
    const u64 room = std::min(bytes, (slice_entries() - p.index) * cluster - g_.in_cluster(at));
    const bool no_table = p.l1 < l1_.size() && !(l1_[p.l1] & offset_mask);
    if (no_table && !backing()) {
      const u64 skip = std::min(bytes, g_.l2_coverage() - at % g_.l2_coverage());
      at += skip, bytes -= skip;
      continue;
    }
    SliceRef slice = co_await l2_slice_for_write(at);
    if (std::ranges::any_of(allocating_, [&](const Allocating* a) { return a->begin < at + room && at < a->end; })) {
      slice = {};
      co_await wait_for_allocations(at, room);
      continue;
    }
    for (u64 left = room, i = p.index, pos = at; left;) {
      const u64 from = g_.in_cluster(pos), take = std::min(left, cluster - from);
      L2Entry e = entry_at(*slice, i);
      if (auto ok = check_entry(e, pos); !ok) co_return corrupt(ok.error().message);
      const bool whole = take == cluster;
      const bool keeps = !e.compressed() && e.copied() && (e.host() || external()) &&
                         (!may_unmap || options_.discard_no_unref || external()) && header_.version >= 3;
      if (!whole) {
        if (e.compressed()) {
          slice = {};
          co_await write_zero_bytes(pos, take);
          slice = co_await l2_slice_for_write(pos);
        } else {
          const u64 mask = ((u64{1} << (from + take) / sub) - 1) & ~((u64{1} << from / sub) - 1);
          e.bitmap = (e.bitmap & ~mask) | mask << 32;
          set_entry(*slice, i, e);
        }
      } else if (kind_of(e, 0) == Kind::zero && !g_.extended_l2) {
        // nothing to do
      } else {
        L2Entry next;
        if (keeps) next.word = e.host() | copied_flag;
        if (g_.extended_l2)
          next.bitmap = u64{0xffff'ffff} << 32;
        else if (header_.version >= 3)
          next.word |= zero_flag;
        if (next.word != e.word || next.bitmap != e.bitmap) {
          set_entry(*slice, i, next);
          if (!keeps) give_up(e, Free::Why::request);
        }
      }
      left -= take, pos += take, i++;
    }
    at += room, bytes -= room;
    if (frees_.size() > 4096) co_await write_back(true);
  }
  co_return Result<>{};
}

Task<> Qcow2::discard(u64 offset, u64 length) {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  const u64 cluster = g_.cluster_bytes();
  const u64 stop = offset + length == header_.virtual_bytes ? align_up(offset + length, cluster) : offset + length;
  const u64 begin = align_up(offset, cluster), end = align_down(stop, cluster);
  if (begin >= end) co_return Result<>{};
  if (!tracked_.empty()) track_write(begin, std::min(end, header_.virtual_bytes) - begin);
  co_return co_await discard_clusters(begin, end - begin, false);
}

// `full`: as if never written (the end of the disk goes away); else version 3 remembers zeros, so that old data does not come back.
Task<> Qcow2::discard_clusters(u64 at, u64 bytes, bool full) {
  const u64 cluster = g_.cluster_bytes();
  while (bytes) {
    const Place p = place_of(at);
    const u64 room = std::min(bytes, (slice_entries() - p.index) * cluster);
    if (p.l1 >= l1_.size() || (!(l1_[p.l1] & offset_mask) && (full || !backing() || header_.version < 3))) {
      const u64 skip = std::min(bytes, g_.l2_coverage() - at % g_.l2_coverage());
      at += skip, bytes -= skip;
      continue;
    }
    SliceRef slice = co_await l2_slice_for_write(at);
    if (std::ranges::any_of(allocating_, [&](const Allocating* a) { return a->begin < at + room && at < a->end; })) {
      slice = {};
      co_await wait_for_allocations(at, room);
      continue;
    }
    std::vector<std::pair<u64, u64>> holes;  // kept space whose contents may go
    for (u64 i = 0; i < room / cluster; i++) {
      const L2Entry e = entry_at(*slice, p.index + i);
      if (auto ok = check_entry(e, at + i * cluster); !ok) co_return corrupt(ok.error().message);
      const bool nothing = !e.word && !e.bitmap;
      if (nothing && (full || !backing())) continue;
      if (!full && header_.version < 3 && backing()) continue;
      L2Entry next;
      const bool own = !e.compressed() && e.copied() && (e.host() || external());
      const bool keeps = own && !full && (options_.discard_no_unref || external());
      if (!full) {
        if (g_.extended_l2)
          next.bitmap = u64{0xffff'ffff} << 32;
        else if (header_.version >= 3)
          next.word = zero_flag;
      }
      if (keeps) next.word |= e.host() | copied_flag;
      if (next.word == e.word && next.bitmap == e.bitmap) continue;
      set_entry(*slice, p.index + i, next);
      if (!keeps)
        give_up(e, Free::Why::request);
      else if (options_.pass_discard_request || external())
        holes.push_back({external() ? at + i * cluster : e.host(), cluster});
    }
    slice = {};
    for (const auto& [host, size] : holes)
      if (host < data_file().length_bytes())
        (void)co_await attempt(data_file().discard(host, std::min(size, data_file().length_bytes() - host)));
    at += room, bytes -= room;
    if (frees_.size() > 4096) co_await write_back(true);
  }
  co_return Result<>{};
}

Task<> Qcow2::make_empty() {
  if (!prepared_ || !corrupt_.empty()) co_await prepare_write();
  co_await discard_clusters(0, align_up(header_.virtual_bytes, g_.cluster_bytes()), true);
  co_return co_await flush();
}

// --- Compressed clusters --------------------------------------------------------------------------------------------------------------

// Whole clusters (the disk's last may be shorter): packed by the workers while other tasks of the caller write, then entered one by one.
Task<> Qcow2::write_compressed(u64 offset, IoVector from) {
  const u64 cluster = g_.cluster_bytes();
  while (!from.empty()) {
    const u64 want = std::min(cluster - g_.in_cluster(offset), from.size());
    IoVector part = from.take(want);
    const bool last = offset + want == header_.virtual_bytes;
    if (g_.in_cluster(offset) || (want < cluster && !last)) co_return refuse(EINVAL, "compressed writes are of whole clusters");
    std::vector<u8> plain(cluster);
    part.copy_out(std::span{plain}.first(want));
    const Compression how = header_.compression;
    auto work = [&plain, how]() -> Result<std::vector<u8>> { return pack(how, plain); };
    std::vector<u8> packed = co_await worker_pool().run<std::vector<u8>>(loop(), std::move(work));
    if (packed.empty()) {
      co_await write(offset, part, {});
      offset += want;
      continue;
    }
    co_await wait_for_allocations(offset, cluster);
    Allocating claim{*this, offset, offset + cluster};
    const u64 host = co_await allocate_bytes(packed.size());
    if (may_overlap(host, packed.size(), Region::none)) co_await check_overlap(host, packed.size(), Region::none);
    Result<> written;
    {
      InFlight in_flight{*this};
      written = co_await attempt(file().write(host, IoVector{std::span{packed}}));
    }
    data_unflushed_ = true;
    if (written) {
      const Result<SliceRef> slice = co_await attempt(l2_slice_for_write(offset));
      if (slice) {
        const Place p = place_of(offset);
        const L2Entry old = entry_at(**slice, p.index);
        set_entry(**slice, p.index, {encode_compressed(host, packed.size(), g_.cluster_bits), 0});
        give_up(old, Free::Why::other);
      } else {
        written = std::unexpected(slice.error());
      }
    }
    if (!written) {
      note_free(host, packed.size(), Free::Why::other);
      co_return std::unexpected(written.error());
    }
    offset += want;
  }
  co_return Result<>{};
}

}  // namespace vmm::block
