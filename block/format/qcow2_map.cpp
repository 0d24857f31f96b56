// From guest offsets to places in the file, and reading. Source: "The QCOW2 image format", "Cluster mapping", "L1 table entry",
// "L2 table entry", "Extended L2 Entries".
#include "block/format/qcow2.h"
#include "block/format/qcow2_codec.h"
#include "block/format/qcow2_flight.h"
#include "src/event/worker_pool.h"

namespace vmm::block {
using namespace qcow2;

L2Entry Qcow2::entry_at(const Slice& s, u64 i) const {
  if (!g_.extended_l2) return {load_be<u64>(&s.bytes[i * 8]), 0};
  return {load_be<u64>(&s.bytes[i * 16]), load_be<u64>(&s.bytes[i * 16 + 8])};
}
void Qcow2::set_entry(Slice& s, u64 i, L2Entry e) {
  if (!g_.extended_l2) {
    store_be(&s.bytes[i * 8], e.word);
  } else {
    store_be(&s.bytes[i * 16], e.word);
    store_be(&s.bytes[i * 16 + 8], e.bitmap);
  }
  l2_.mark_dirty(s);
}

Kind Qcow2::kind_of(const L2Entry& e, u32 sub) const {
  if (e.compressed()) return Kind::compressed;
  // In a data file address 0 is as good as any: there bit 63 tells.
  const bool has_space = e.host() || (external() && e.copied());
  if (g_.extended_l2) {
    if (bit(e.bitmap, 32 + sub)) return has_space ? Kind::zero_space : Kind::zero;
    if (bit(e.bitmap, sub)) return Kind::data;
    return has_space ? Kind::unallocated_space : Kind::unallocated;
  }
  if (header_.version >= 3 && (e.word & zero_flag)) return has_space ? Kind::zero_space : Kind::zero;
  return has_space ? Kind::data : Kind::unallocated;
}

Result<> Qcow2::check_entry(const L2Entry& e, u64 offset) const {
  if (e.compressed()) {
    if (external()) return fail("compressed cluster at {:#x} in an image with an external data file", offset);
    return {};
  }
  if (g_.in_cluster(e.host())) return fail("Cluster allocation offset {:#x} unaligned (guest offset {:#x})", e.host(), offset);
  if (g_.extended_l2 && (e.bitmap & (e.bitmap >> 32) & 0xffff'ffff))
    return fail("Invalid cluster entry found (L2 bitmap {:#x}, guest offset {:#x})", e.bitmap, offset);
  if (g_.extended_l2 && !e.host() && !(external() && e.copied()) && (e.bitmap & 0xffff'ffff))
    return fail("Invalid cluster entry found (L2 bitmap {:#x} without a cluster, guest offset {:#x})", e.bitmap, offset);
  return {};
}

Qcow2::Place Qcow2::place_of(u64 offset) const {
  const u64 cluster = offset >> g_.cluster_bits;
  const u64 in_table = cluster % g_.l2_entries();
  return {offset / g_.l2_coverage(), in_table / slice_entries(), in_table % slice_entries()};
}

Task<SliceRef> Qcow2::l2_slice(u64 offset) {
  const Place p = place_of(offset);
  const u64 table = l1_entry(p.l1) & offset_mask;
  if (!table) co_return SliceRef{};
  if (g_.in_cluster(table)) co_return corrupt(format("L2 table offset {:#x} unaligned (L1 index: {:#x})", table, p.l1));
  co_return co_await l2_.get(table + p.slice_in_table * l2_.slice_bytes());
}

Task<Mapping> Qcow2::lookup(u64 offset, u64 length) {
  const Place p = place_of(offset);
  const u64 in_cluster = g_.in_cluster(offset);
  // What one slice maps is answered at once.
  length = std::min(length, (slice_entries() - p.index) * g_.cluster_bytes() - in_cluster);
  SliceRef slice;
  const u64 table = l1_entry(p.l1);
  if (!(table & 511)) slice = l2_.find((table & offset_mask) + p.slice_in_table * l2_.slice_bytes());
  if (!slice) slice = co_await l2_slice(offset);
  Mapping m;
  if (!slice) {
    // No table: all that it would map is the backing file's.
    m.length = std::min(length, g_.l2_coverage() - offset % g_.l2_coverage());
    co_return m;
  }
  L2Entry e = entry_at(*slice, p.index);
  if (auto ok = check_entry(e, offset); !ok) co_return corrupt(ok.error().message);
  const u64 sub_bytes = g_.subcluster_bytes();
  u32 sub = static_cast<u32>(in_cluster / sub_bytes);
  m.kind = kind_of(e, sub);
  m.copied = e.copied();
  if (m.kind == Kind::compressed) {
    m.host = e.word;
    m.length = std::min(length, g_.cluster_bytes() - in_cluster);
    co_return m;
  }
  if (m.kind != Kind::unallocated && m.kind != Kind::zero) m.host = e.host() + in_cluster;
  const bool placed = m.kind == Kind::data || m.kind == Kind::zero_space || m.kind == Kind::unallocated_space;
  u64 have = sub_bytes - in_cluster % sub_bytes;
  u64 index = p.index;
  u64 host = e.host();
  while (have < length) {
    if (++sub == g_.subclusters()) {
      sub = 0;
      const L2Entry next = entry_at(*slice, ++index);
      if (!check_entry(next, offset)) break;  // reported when it is asked for itself
      if (placed && next.host() != host + g_.cluster_bytes()) break;
      if (next.copied() != m.copied) break;
      host = next.host(), e = next;
    }
    if (kind_of(e, sub) != m.kind) break;
    have += sub_bytes;
  }
  m.length = std::min(have, length);
  co_return m;
}

Task<Extent> Qcow2::map(u64 offset, u64 length) {
  const Mapping m = co_await lookup(offset, length);
  Extent x;
  x.length = m.length;
  switch (m.kind) {
    case Kind::unallocated:
    case Kind::unallocated_space: x.kind = Extent::Kind::backing, x.present = false; break;
    case Kind::zero: x.kind = Extent::Kind::zero, x.present = true; break;
    case Kind::zero_space: x.kind = Extent::Kind::zero, x.host_offset = m.host, x.has_host_offset = true; break;
    case Kind::data: x.kind = Extent::Kind::data, x.host_offset = m.host, x.has_host_offset = true; break;
    case Kind::compressed: x.kind = Extent::Kind::data, x.compressed = true; break;
  }
  // Neighbours that say the same are one extent: callers walk whole images by this.
  while (x.length < length && !x.compressed) {
    const Result<Mapping> more = co_await attempt(lookup(offset + x.length, length - x.length));
    if (!more || more->kind != m.kind) break;
    if (x.has_host_offset && more->host != x.host_offset + x.length) break;
    x.length += more->length;
  }
  co_return x;
}

Task<> Qcow2::read(u64 offset, IoVector into) {
  tidy();
  co_return co_await read_mapped(offset, into, false);
}

// `below_only`: what a copy-on-write needs, which is the same bytes.
Task<> Qcow2::read_mapped(u64 offset, IoVector into, bool) {
  while (!into.empty()) {
    const Mapping m = co_await lookup(offset, into.size());
    // Only from here: looking up may wait for a cycle of write_back(), which may wait for all that is in flight.
    InFlight in_flight{*this};
    IoVector part = into.take(m.length);
    switch (m.kind) {
      case Kind::data: co_await data_file().read(m.host, part); break;
      case Kind::zero:
      case Kind::zero_space: part.fill(0); break;
      case Kind::unallocated:
      case Kind::unallocated_space: co_await read_backing(offset, part); break;
      case Kind::compressed: co_await read_compressed(m.host, g_.in_cluster(offset), part); break;
    }
    offset += m.length;
  }
  co_return Result<>{};
}

Task<> Qcow2::read_backing(u64 offset, IoVector into) {
  Edge* below = backing();
  if (!below) {
    into.fill(0);
    co_return Result<>{};
  }
  const u64 end = below->length_bytes();
  IoVector inside = into.take(offset < end ? end - offset : 0);
  into.fill(0);
  if (!inside.empty()) co_await below->read(offset, inside);
  co_return Result<>{};
}

Task<> Qcow2::read_compressed(u64 entry, u64 in_cluster, IoVector into) {
  if (entry == unpacked_entry_ && !unpacked_.empty()) {
    into.copy_in(std::span{unpacked_}.subspan(in_cluster, into.size()));
    co_return Result<>{};
  }
  const CompressedRange range = decode_compressed(entry, g_.cluster_bits);
  std::vector<u8> packed(range.bytes);
  co_await file().read(range.offset, IoVector{std::span{packed}});
  const u64 bytes = g_.cluster_bytes();
  const Compression how = header_.compression;
  auto work = [packed = std::move(packed), bytes, how]() -> Result<std::vector<u8>> { return unpack(how, packed, bytes); };
  std::vector<u8> plain = co_await worker_pool().run<std::vector<u8>>(loop(), std::move(work));
  into.copy_in(std::span{plain}.subspan(in_cluster, into.size()));
  unpacked_ = std::move(plain), unpacked_entry_ = entry;
  co_return Result<>{};
}

}  // namespace vmm::block
