// What a qcow2 image looks like on disk: header, extensions, table entries, snapshot and bitmap directories. Pure functions of bytes, no
// I/O. Source: "The QCOW2 image format" (docs/interop/qcow2 of the QEMU project's published specification), section names are cited.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/os_error.h"
#include "src/base/wire.h"

namespace vmm::block::qcow2 {

inline constexpr u32 magic = 0x514649fb;                   // "QFI\xfb"
inline constexpr u64 offset_mask = 0x00ff'ffff'ffff'fe00;  // bits 9..55 of table entries
inline constexpr u64 copied_flag = u64{1} << 63, compressed_flag = u64{1} << 62, zero_flag = 1;

// Bits of the three feature words of version 3.
namespace feature {
inline constexpr u64 dirty = 1, corrupt = 2, data_file = 4, compression_type = 8, extended_l2 = 16;  // incompatible
inline constexpr u64 known_incompatible = dirty | corrupt | data_file | compression_type | extended_l2;
inline constexpr u64 lazy_refcounts = 1;              // compatible
inline constexpr u64 bitmaps = 1, raw_data_file = 2;  // autoclear
inline constexpr u64 known_autoclear = bitmaps | raw_data_file;
}  // namespace feature

// Caps on what an image may make us hold in memory (safety.md §3.10).
inline constexpr u64 max_l1_bytes = 32 * MiB, max_refcount_table_bytes = 8 * MiB, max_snapshots = 65536,
                     max_snapshot_table_bytes = 64 * MiB, max_snapshot_extra = 1024, max_bitmaps = 65535,
                     max_bitmap_directory_bytes = 64 * MiB, max_bitmap_table_entries = 1 << 23;
inline constexpr u64 max_name = 1023;

// A failure with words of its own; the errno is for devices, not for the reader.
std::unexpected<Error> refuse(int os_error, std::string text);

enum class Compression : u8 { zlib = 0, zstd = 1 };

struct BitmapExtension {
  u32 count = 0;
  u64 directory_bytes = 0, directory_offset = 0;
};
struct UnknownExtension {
  u32 type = 0;
  std::vector<u8> data;
};

// Cluster arithmetic that follows from the header alone.
struct Geometry {
  u32 cluster_bits = 16;
  u32 refcount_order = 4;
  bool extended_l2 = false;

  u64 cluster_bytes() const { return u64{1} << cluster_bits; }
  u64 in_cluster(u64 offset) const { return offset & (cluster_bytes() - 1); }
  u64 clusters(u64 bytes) const { return (bytes >> cluster_bits) + (in_cluster(bytes) != 0); }
  u64 l2_entry_bytes() const { return extended_l2 ? 16 : 8; }
  u64 l2_entries() const { return cluster_bytes() / l2_entry_bytes(); }
  u64 l2_coverage() const { return l2_entries() << cluster_bits; }  // guest bytes under one L2 table
  u64 l1_entries(u64 virtual_bytes) const { return virtual_bytes / l2_coverage() + (virtual_bytes % l2_coverage() != 0); }
  u64 subclusters() const { return extended_l2 ? 32 : 1; }
  u64 subcluster_bytes() const { return cluster_bytes() / subclusters(); }
  u32 refcount_bits() const { return 1u << refcount_order; }
  u64 refcount_max() const { return refcount_order == 6 ? ~u64{0} : (u64{1} << refcount_bits()) - 1; }
  u64 refcounts_in(u64 bytes) const { return bytes * 8 / refcount_bits(); }
  u64 refcounts_per_block() const { return refcounts_in(cluster_bytes()); }
  u64 max_virtual_bytes() const;  // limited by the L1 table's cap and by 2^63
};

// One refcount of `1 << order` bits in a block ("Refcounts": sub-byte entries start at the least significant bit, others are big endian).
u64 get_refcount(std::span<const u8> block, u64 index, u32 order);
void set_refcount(std::span<u8> block, u64 index, u32 order, u64 value);

struct CompressedRange {
  u64 offset = 0;  // byte address of the data in the image
  u64 bytes = 0;   // upper bound of its length, up to the end of the last 512-byte sector
};
CompressedRange decode_compressed(u64 l2_entry, u32 cluster_bits);
// The entry for `bytes` of compressed data at `offset`; both must fit (offset below max_compressed_offset).
u64 encode_compressed(u64 offset, u64 bytes, u32 cluster_bits);
u64 max_compressed_offset(u32 cluster_bits);

struct Header {
  u32 version = 3;
  std::string backing_file, backing_format, data_file;
  u64 backing_offset = 0;  // where the name stood
  u32 cluster_bits = 16;
  u64 virtual_bytes = 0;
  u32 crypt_method = 0;
  u32 l1_size = 0;
  u64 l1_offset = 0;
  u64 refcount_table_offset = 0;
  u32 refcount_table_clusters = 0;
  u32 snapshot_count = 0;
  u64 snapshots_offset = 0;
  u64 incompatible = 0, compatible = 0, autoclear = 0;
  u32 refcount_order = 4;
  u32 header_length = 112;
  Compression compression = Compression::zlib;
  std::optional<BitmapExtension> bitmaps;
  std::vector<UnknownExtension> unknown;  // kept when the header is written again
  std::vector<u8> unknown_fields;         // header bytes past those we know, kept as well
  bool has_feature_names = false;

  Geometry geometry() const { return {cluster_bits, refcount_order, (incompatible & feature::extended_l2) != 0}; }
};

// True if `bytes` (the file's first ones) start a qcow2 image of version 2 or 3.
bool is_qcow2(std::span<const u8> bytes);
// How many bytes parse_header() needs: the first cluster, or an error that says why not.
Result<u64> header_span(std::span<const u8> first_bytes);
// `bytes` is the first cluster (as far as the file goes). Every field is checked against the format's and our limits; nothing outside the
// header is looked at. Unknown incompatible features are refused by the name that the image gives them.
Result<Header> parse_header(std::span<const u8> bytes);
// The first cluster with all extensions and the backing file's name; an error if they do not fit.
Result<std::vector<u8>> build_header(const Header& header);
// Is `offset`, `bytes` (a table) aligned and inside what entries can express?
Result<> check_table(u64 offset, u64 bytes, const Geometry& geometry, std::string_view what);

struct Snapshot {
  u64 l1_offset = 0;
  u32 l1_size = 0;
  std::string id, name;
  u32 seconds = 0, nanoseconds = 0;
  u64 vm_clock = 0;
  u64 vm_state_bytes = 0;
  u64 disk_bytes = 0;  // 0 in version 2 images that do not say
  i64 icount = -1;
  bool has_icount = false;
  std::vector<u8> extra;  // bytes past those we know
};
// `bytes` starts at snapshots_offset and reaches as far as the table may; `consumed` gets the table's length.
Result<std::vector<Snapshot>> parse_snapshots(std::span<const u8> bytes, u32 count, u64 virtual_bytes, u64* consumed = nullptr);
std::vector<u8> build_snapshots(std::span<const Snapshot> snapshots);

struct Bitmap {
  static constexpr u32 in_use = 1, automatic = 2, extra_data_compatible = 4;
  u64 table_offset = 0;
  u32 table_size = 0;  // entries
  u32 flags = 0;
  u8 type = 1;  // dirty tracking
  u8 granularity_bits = 16;
  std::string name;
  std::vector<u8> extra;
};
Result<std::vector<Bitmap>> parse_bitmaps(std::span<const u8> directory, u32 count, const Geometry& geometry);
std::vector<u8> build_bitmaps(std::span<const Bitmap> bitmaps);
// Entries that a bitmap's table must have for a disk of that size.
u64 bitmap_table_entries(u64 virtual_bytes, u32 granularity_bits, const Geometry& geometry);

}  // namespace vmm::block::qcow2
