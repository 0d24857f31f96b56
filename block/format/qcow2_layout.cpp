// Source: "The QCOW2 image format": "Header", "Header extensions", "Snapshots", "Bitmaps", "Refcounts", "Cluster mapping".
#include "block/format/qcow2_layout.h"

#include <algorithm>

namespace vmm::block::qcow2 {
namespace {

constexpr u32 v2_header = 72, v3_header = 104;
constexpr u32 ext_end = 0, ext_backing_format = 0xe2792aca, ext_features = 0x6803f857, ext_bitmaps = 0x23852875, ext_data_file = 0x44415441;

struct FeatureName {
  u8 word, bit;
  std::string_view name;
};
constexpr FeatureName feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

std::string text_of(std::span<const u8> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

struct Builder {
  std::vector<u8> bytes;
  template <std::unsigned_integral T>
  void be(T v) {
    bytes.resize(bytes.size() + sizeof v);
    store_be(bytes.data() + bytes.size() - sizeof v, v);
  }
  void put(std::span<const u8> data) { bytes.insert(bytes.end(), data.begin(), data.end()); }
  void put(std::string_view text) { bytes.insert(bytes.end(), text.begin(), text.end()); }
  void pad(u64 alignment) { bytes.resize(align_up(bytes.size(), alignment)); }
};

// Unknown incompatible bits, by the names of the image's own table where it has one.
std::string describe_unknown(u64 word, std::span<const u8> table) {
  std::string text;
  for (u32 n = 0; n < 64; n++) {
    if (!bit(word, n)) continue;
    std::string name;
    for (usize at = 0; at + 48 <= table.size(); at += 48) {
      if (table[at] != 0 || table[at + 1] != n) continue;
      name = text_of(table.subspan(at + 2, 46));
      name.resize(std::min(name.find('\0'), name.size()));
      for (char& c : name)
        if (c < ' ' || c > '~') c = '?';
    }
    if (name.empty()) name = format("Unknown incompatible feature: {:x}", u64{1} << n);
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

Result<> parse_extensions(Header& h, std::span<const u8> bytes, u64 end) {
  SpanReader r{bytes.first(end)};
  TRY(r.seek(h.header_length, "header extensions"));
  std::span<const u8> names;
  while (r.left() >= 8) {
    const u32 type = TRY(r.be<u32>("extension type")).raw();
    const u32 length = TRY(TRY(r.be<u32>("extension length")).at_most(static_cast<u32>(r.left()), "header extension length"));
    if (type == ext_end) break;
    const auto data = TRY(r.bytes(length, "header extension"));
    TRY(r.skip(std::min<u64>(align_up(length, 8) - length, r.left()), "header extension"));
    switch (type) {
      case ext_backing_format:
        if (length > max_name) return fail("the backing format's name is {} bytes long", length);
        h.backing_format = text_of(data);
        break;
      case ext_features: names = data, h.has_feature_names = true; break;
      case ext_data_file:
        if (length > max_name) return fail("the data file's name is {} bytes long", length);
        h.data_file = text_of(data);
        break;
      case ext_bitmaps: {
        if (h.version < 3 || !(h.autoclear & feature::bitmaps)) break;  // stale: the spec says to ignore it
        SpanReader b{data};
        BitmapExtension e;
        e.count = TRY(TRY(b.be<u32>("bitmap count")).at_most(max_bitmaps, "bitmap count"));
        TRY(b.skip(4, "bitmap extension"));
        e.directory_bytes = TRY(TRY(b.be<u64>("bitmap directory size")).at_most(max_bitmap_directory_bytes, "bitmap directory size"));
        e.directory_offset = TRY(b.be<u64>("bitmap directory offset")).raw();
        if (e.count == 0) return fail("the bitmap extension names no bitmap");
        TRY(check_table(e.directory_offset, e.directory_bytes, h.geometry(), "bitmap directory"));
        h.bitmaps = e;
        break;
      }
      default:
        if (h.unknown.size() < 64) h.unknown.push_back({type, {data.begin(), data.end()}});
        break;
    }
  }
  if (const u64 unknown = h.incompatible & ~feature::known_incompatible)
    return fail("Unsupported qcow2 feature(s): {}", describe_unknown(unknown, names));
  return {};
}

}  // namespace

std::unexpected<Error> refuse(int os_error, std::string text) {
  Error error{std::move(text)};
  set_os_error(error, os_error);
  return std::unexpected(std::move(error));
}

u64 Geometry::max_virtual_bytes() const {
  const u64 tables = max_l1_bytes / 8;
  return std::min<u64>(mul_checked(tables, l2_coverage()).value_or(~u64{0}), (u64{1} << 63) - cluster_bytes());
}

u64 get_refcount(std::span<const u8> block, u64 index, u32 order) {
  switch (order) {
    case 0: return (block[index / 8] >> (index % 8)) & 1;
    case 1: return (block[index / 4] >> (index % 4 * 2)) & 3;
    case 2: return (block[index / 2] >> (index % 2 * 4)) & 15;
    case 3: return block[index];
    case 4: return load_be<u16>(&block[index * 2]);
    case 5: return load_be<u32>(&block[index * 4]);
    default: return load_be<u64>(&block[index * 8]);
  }
}

void set_refcount(std::span<u8> block, u64 index, u32 order, u64 value) {
  const auto part = [&](u64 per_byte, u32 width) {
    const u32 shift = static_cast<u32>(index % per_byte) * width;
    u8& byte = block[index / per_byte];
    byte = static_cast<u8>((byte & ~(((1u << width) - 1) << shift)) | (value << shift));
  };
  switch (order) {
    case 0: return part(8, 1);
    case 1: return part(4, 2);
    case 2: return part(2, 4);
    case 3: block[index] = static_cast<u8>(value); return;
    case 4: return store_be(&block[index * 2], static_cast<u16>(value));
    case 5: return store_be(&block[index * 4], static_cast<u32>(value));
    default: return store_be(&block[index * 8], value);
  }
}

// "Compressed Clusters Descriptor": the offset takes 62 - (cluster_bits - 8) bits, the number of additional sectors the rest up to bit 61.
CompressedRange decode_compressed(u64 entry, u32 cluster_bits) {
  const u32 split = 62 - (cluster_bits - 8);
  const u64 offset = entry & ((u64{1} << split) - 1);
  const u64 sectors = ((entry >> split) & ((u64{1} << (cluster_bits - 8)) - 1)) + 1;
  return {offset, sectors * 512 - offset % 512};
}
u64 encode_compressed(u64 offset, u64 bytes, u32 cluster_bits) {
  const u32 split = 62 - (cluster_bits - 8);
  const u64 sectors = (offset + bytes - 1) / 512 - offset / 512;
  return compressed_flag | offset | sectors << split;
}
u64 max_compressed_offset(u32 cluster_bits) { return std::min(offset_mask, (u64{1} << (62 - (cluster_bits - 8))) - 1); }

bool is_qcow2(std::span<const u8> bytes) {
  if (bytes.size() < 8 || load_be<u32>(bytes.data()) != magic) return false;
  const u32 version = load_be<u32>(bytes.data() + 4);
  return version == 2 || version == 3;
}

Result<u64> header_span(std::span<const u8> bytes) {
  SpanReader r{bytes};
  if (TRY(r.be<u32>("image header")) != magic) return fail("Image is not in qcow2 format");
  const u32 version = TRY(r.be<u32>("image header")).raw();
  if (version < 2 || version > 3) return fail("Unsupported qcow2 version {}", version);
  TRY(r.seek(20, "image header"));
  const u32 cluster_bits = TRY(r.be<u32>("image header")).raw();
  if (cluster_bits < 9 || cluster_bits > 21) return fail("Unsupported cluster size: 2^{}", cluster_bits);
  return u64{1} << cluster_bits;
}

Result<> check_table(u64 offset, u64 bytes, const Geometry& g, std::string_view what) {
  if (g.in_cluster(offset)) return fail("the {} at {:#x} is not aligned to a cluster", what, offset);
  const auto end = add_checked(offset, bytes);
  if (!end || *end > offset_mask) return fail("the {} at {:#x} ({} bytes) is outside of what the format can address", what, offset, bytes);
  return {};
}

Result<Header> parse_header(std::span<const u8> bytes) {
  const u64 cluster = TRY(header_span(bytes));
  bytes = bytes.first(std::min<u64>(bytes.size(), cluster));
  SpanReader r{bytes};
  Header h;
  TRY(r.skip(4, "image header"));
  h.version = TRY(r.be<u32>("version")).raw();
  h.backing_offset = TRY(r.be<u64>("backing file offset")).raw();
  const u32 backing_size = TRY(r.be<u32>("backing file name length")).raw();
  h.cluster_bits = TRY(r.be<u32>("cluster size")).raw();
  h.virtual_bytes = TRY(r.be<u64>("virtual size")).raw();
  h.crypt_method = TRY(r.be<u32>("encryption method")).raw();
  h.l1_size = TRY(r.be<u32>("L1 size")).raw();
  h.l1_offset = TRY(r.be<u64>("L1 offset")).raw();
  h.refcount_table_offset = TRY(r.be<u64>("refcount table offset")).raw();
  h.refcount_table_clusters = TRY(r.be<u32>("refcount table size")).raw();
  h.snapshot_count = TRY(r.be<u32>("snapshot count")).raw();
  h.snapshots_offset = TRY(r.be<u64>("snapshot table offset")).raw();
  h.header_length = v2_header;
  if (h.version == 3) {
    h.incompatible = TRY(r.be<u64>("incompatible features")).raw();
    h.compatible = TRY(r.be<u64>("compatible features")).raw();
    h.autoclear = TRY(r.be<u64>("autoclear features")).raw();
    h.refcount_order = TRY(r.be<u32>("refcount order")).raw();
    h.header_length = TRY(r.be<u32>("header length")).raw();
    if (h.header_length < v3_header) return fail("qcow2 header too short");
    if (h.header_length > cluster || h.header_length > bytes.size()) return fail("qcow2 header exceeds cluster size");
    if (h.refcount_order > 6) return fail("Reference count entry width too large; may not exceed 64 bits");
    u8 compression = 0;
    if (h.header_length > v3_header) {
      compression = TRY(r.bytes(1, "compression type"))[0];
      const u64 known = std::min<u64>(h.header_length, 112);
      TRY(r.seek(known, "image header"));
      const auto rest = TRY(r.bytes(h.header_length - known, "image header"));
      h.unknown_fields.assign(rest.begin(), rest.end());
    }
    const bool has_type = h.incompatible & feature::compression_type;
    if (compression > 1) return fail("qcow2: unknown compression type: {}", compression);
    if (has_type != (compression != 0))
      return fail("qcow2: Compression type incompatible feature bit must {}be set", has_type ? "not " : "");
    h.compression = static_cast<Compression>(compression);
  }
  if ((h.incompatible & feature::extended_l2) && h.cluster_bits < 14)
    return fail("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
  const Geometry g = h.geometry();
  u64 extensions_end = bytes.size();
  if (h.backing_offset) {
    if (h.backing_offset > bytes.size()) return fail("Invalid backing file offset");
    if (backing_size > std::min<u64>(max_name, bytes.size() - h.backing_offset)) return fail("Backing file name too long");
    if (h.backing_offset < h.header_length && backing_size) return fail("Invalid backing file offset");
    extensions_end = std::max<u64>(h.backing_offset, h.header_length);
    h.backing_file = text_of(bytes.subspan(h.backing_offset, backing_size));
    if (h.backing_file.find('\0') != std::string::npos) return fail("the backing file's name contains a NUL byte");
  }
  TRY(parse_extensions(h, bytes, extensions_end));
  if (h.crypt_method == 1 || h.crypt_method == 2)
    return fail("encrypted images are not supported (method {})", h.crypt_method == 1 ? "aes" : "luks");
  if (h.crypt_method) return fail("Unsupported encryption method {}", h.crypt_method);
  if (h.virtual_bytes > g.max_virtual_bytes()) return fail("Image is too big (virtual size {})", h.virtual_bytes);
  if (u64{h.l1_size} * 8 > max_l1_bytes) return fail("Active L1 table too large");
  if (h.l1_size < g.l1_entries(h.virtual_bytes)) return fail("L1 table is too small");
  TRY(check_table(h.l1_offset, u64{h.l1_size} * 8, g, "active L1 table"));
  if (h.l1_size && !h.l1_offset) return fail("the active L1 table lies on the header");
  if (u64{h.refcount_table_clusters} > max_refcount_table_bytes >> h.cluster_bits) return fail("Reference count table too large");
  if (!h.refcount_table_clusters && !h.refcount_table_offset) return fail("Image does not contain a reference count table");
  TRY(check_table(h.refcount_table_offset, u64{h.refcount_table_clusters} << h.cluster_bits, g, "refcount table"));
  if (!h.refcount_table_offset) return fail("the refcount table lies on the header");
  if (h.snapshot_count > max_snapshots) return fail("Snapshot table too large");
  if (h.snapshot_count) TRY(check_table(h.snapshots_offset, u64{h.snapshot_count} * 40, g, "snapshot table"));
  return h;
}

Result<std::vector<u8>> build_header(const Header& h) {
  Builder b;
  b.be(magic), b.be(h.version);
  b.be(u64{0}), b.be(static_cast<u32>(h.backing_file.size()));  // the offset is filled in below
  b.be(h.cluster_bits), b.be(h.virtual_bytes), b.be(h.crypt_method), b.be(h.l1_size), b.be(h.l1_offset);
  b.be(h.refcount_table_offset), b.be(h.refcount_table_clusters), b.be(h.snapshot_count), b.be(h.snapshots_offset);
  if (h.version == 3) {
    b.be(h.incompatible), b.be(h.compatible), b.be(h.autoclear), b.be(h.refcount_order);
    b.be(static_cast<u32>(112 + h.unknown_fields.size()));
    b.bytes.push_back(static_cast<u8>(h.compression));
    b.pad(8);
    b.put(h.unknown_fields);
  }
  const auto extension = [&](u32 type, std::span<const u8> data) {
    b.be(type), b.be(static_cast<u32>(data.size()));
    b.put(data);
    b.pad(8);
  };
  const auto bytes_of = [](const std::string& s) { return std::span{reinterpret_cast<const u8*>(s.data()), s.size()}; };
  if (!h.backing_format.empty()) extension(ext_backing_format, bytes_of(h.backing_format));
  if ((h.incompatible & feature::data_file) && !h.data_file.empty()) extension(ext_data_file, bytes_of(h.data_file));
  // Before the names, so that it lies in the first sector with the feature words that it goes with.
  if (h.bitmaps) {
    Builder e;
    e.be(h.bitmaps->count), e.be(u32{0}), e.be(h.bitmaps->directory_bytes), e.be(h.bitmaps->directory_offset);
    extension(ext_bitmaps, e.bytes);
  }
  if (h.version == 3) {
    Builder names;
    for (const auto& f : feature_names) {
      names.bytes.push_back(f.word), names.bytes.push_back(f.bit);
      names.put(f.name);
      names.bytes.resize(names.bytes.size() + 46 - f.name.size());
    }
    if (b.bytes.size() + names.bytes.size() + 64 + h.backing_file.size() <= u64{1} << h.cluster_bits) extension(ext_features, names.bytes);
  }
  for (const auto& u : h.unknown) extension(u.type, u.data);
  extension(ext_end, {});
  if (!h.backing_file.empty()) {
    store_be(b.bytes.data() + 8, u64{b.bytes.size()});
    b.put(h.backing_file);
  }
  if (b.bytes.size() > u64{1} << h.cluster_bits)
    return fail("the header, its extensions and the backing file's name do not fit in one cluster of {} bytes", 1u << h.cluster_bits);
  b.bytes.resize(u64{1} << h.cluster_bits);
  return std::move(b.bytes);
}

Result<std::vector<Snapshot>> parse_snapshots(std::span<const u8> bytes, u32 count, u64 virtual_bytes, u64* consumed) {
  std::vector<Snapshot> list;
  SpanReader r{bytes};
  for (u32 i = 0; i < count; i++) {
    const auto where = format("snapshot table entry {}", i);
    TRY(r.skip(align_up(r.position(), 8) - r.position(), where));
    Snapshot s;
    s.l1_offset = TRY(r.be<u64>(where)).raw();
    s.l1_size = TRY(r.be<u32>(where)).raw();
    const u16 id_bytes = TRY(r.be<u16>(where)).raw(), name_bytes = TRY(r.be<u16>(where)).raw();
    s.seconds = TRY(r.be<u32>(where)).raw();
    s.nanoseconds = TRY(r.be<u32>(where)).raw();
    s.vm_clock = TRY(r.be<u64>(where)).raw();
    s.vm_state_bytes = TRY(r.be<u32>(where)).raw();
    const u32 extra_bytes = TRY(TRY(r.be<u32>(where)).at_most(max_snapshot_extra, "length of a snapshot's extra data"));
    const auto extra = TRY(r.bytes(extra_bytes, where));
    SpanReader e{extra};
    if (extra_bytes >= 8) s.vm_state_bytes = TRY(e.be<u64>(where)).raw();
    s.disk_bytes = extra_bytes >= 16 ? TRY(e.be<u64>(where)).raw() : virtual_bytes;
    if (extra_bytes >= 24) s.icount = static_cast<i64>(TRY(e.be<u64>(where)).raw()), s.has_icount = true;
    if (extra_bytes > 24) s.extra.assign(extra.begin() + 24, extra.end());
    s.id = text_of(TRY(r.bytes(id_bytes, where)));
    s.name = text_of(TRY(r.bytes(name_bytes, where)));
    if (u64{s.l1_size} * 8 > max_l1_bytes) return fail("Snapshot L1 table too large (snapshot {})", i);
    if (r.position() > max_snapshot_table_bytes) return fail("Snapshot table too large");
    list.push_back(std::move(s));
  }
  if (consumed) *consumed = r.position();
  return list;
}

std::vector<u8> build_snapshots(std::span<const Snapshot> snapshots) {
  Builder b;
  for (const Snapshot& s : snapshots) {
    b.pad(8);
    b.be(s.l1_offset), b.be(s.l1_size), b.be(static_cast<u16>(s.id.size())), b.be(static_cast<u16>(s.name.size()));
    b.be(s.seconds), b.be(s.nanoseconds), b.be(s.vm_clock);
    b.be(s.vm_state_bytes <= 0xffff'ffff ? static_cast<u32>(s.vm_state_bytes) : 0);
    b.be(static_cast<u32>(24 + s.extra.size()));
    b.be(s.vm_state_bytes), b.be(s.disk_bytes), b.be(static_cast<u64>(s.icount));
    b.put(s.extra);
    b.put(s.id), b.put(s.name);
  }
  return std::move(b.bytes);
}

u64 bitmap_table_entries(u64 virtual_bytes, u32 granularity_bits, const Geometry& g) {
  const u64 bit_count = (virtual_bytes >> granularity_bits) + ((virtual_bytes & ((u64{1} << granularity_bits) - 1)) != 0);
  return g.clusters(bit_count / 8 + (bit_count % 8 != 0));
}

Result<std::vector<Bitmap>> parse_bitmaps(std::span<const u8> directory, u32 count, const Geometry& g) {
  std::vector<Bitmap> list;
  SpanReader r{directory};
  while (r.left() > 0) {
    const auto where = format("bitmap directory entry {}", list.size());
    if (list.size() >= count) return fail("the bitmap directory has more entries than the header says ({})", count);
    Bitmap m;
    m.table_offset = TRY(r.be<u64>(where)).raw();
    m.table_size = TRY(TRY(r.be<u32>(where)).at_most(max_bitmap_table_entries, "bitmap table size"));
    m.flags = TRY(r.be<u32>(where)).raw();
    m.type = TRY(r.bytes(1, where))[0];
    m.granularity_bits = TRY(r.bytes(1, where))[0];
    const u16 name_bytes = TRY(r.be<u16>(where)).raw();
    const u32 extra_bytes = TRY(TRY(r.be<u32>(where)).at_most(64 * KiB, "length of a bitmap's extra data"));
    const auto extra = TRY(r.bytes(extra_bytes, where));
    m.extra.assign(extra.begin(), extra.end());
    m.name = text_of(TRY(r.bytes(name_bytes, where)));
    TRY(r.skip(align_up(r.position(), 8) - r.position(), where));
    if (m.name.empty() || m.name.size() > max_name) return fail("{}: the name is {} bytes long", where, m.name.size());
    if (m.granularity_bits < 9 || m.granularity_bits > 31) return fail("{}: granularity 2^{} is out of range", where, m.granularity_bits);
    if (m.type != 1) return fail("{}: unknown bitmap type {}", where, m.type);
    TRY(check_table(m.table_offset, u64{m.table_size} * 8, g, "bitmap table"));
    list.push_back(std::move(m));
  }
  if (list.size() != count) return fail("the bitmap directory has {} entries, the header says {}", list.size(), count);
  return list;
}

std::vector<u8> build_bitmaps(std::span<const Bitmap> bitmaps) {
  Builder b;
  for (const Bitmap& m : bitmaps) {
    b.be(m.table_offset), b.be(m.table_size), b.be(m.flags);
    b.bytes.push_back(m.type), b.bytes.push_back(m.granularity_bits);
    b.be(static_cast<u16>(m.name.size())), b.be(static_cast<u32>(m.extra.size()));
    b.put(m.extra), b.put(m.name);
    b.pad(8);
  }
  return std::move(b.bytes);
}

}  // namespace vmm::block::qcow2
