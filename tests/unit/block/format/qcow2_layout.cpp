#include "block/format/qcow2_layout.h"

#include "tests/unit/test.h"

namespace vmm::block::qcow2 {

TEST(qcow2_refcounts_of_every_width_are_kept_apart) {
  for (u32 order = 0; order <= 6; order++) {
    std::vector<u8> block(512);
    const Geometry g{.cluster_bits = 9, .refcount_order = order};
    const u64 most = g.refcount_max();
    for (u64 i = 0; i < g.refcounts_per_block(); i += 3) set_refcount(block, i, order, most);
    for (u64 i = 0; i < g.refcounts_per_block(); i++) CHECK_EQ(get_refcount(block, i, order), i % 3 ? 0 : most);
    for (u64 i = 0; i < g.refcounts_per_block(); i++) set_refcount(block, i, order, 0);
    for (const u8 b : block) CHECK_EQ(b, 0);
  }
}
TEST(qcow2_refcounts_narrower_than_a_byte_start_at_its_low_end) {
  std::vector<u8> block(512);
  set_refcount(block, 1, 0, 1);
  set_refcount(block, 4 + 1, 1, 3);
  CHECK_EQ(block[0], 2);
  CHECK_EQ(block[1], 12);
}
TEST(qcow2_compressed_descriptors_go_both_ways) {
  for (const u32 bits : {9u, 12u, 16u, 21u})
    for (const u64 offset : {u64{0x30000}, u64{0x30001}, u64{0x301ff}, u64{0x12345}})
      for (const u64 bytes : {u64{1}, u64{511}, u64{513}, (u64{1} << bits) - 1}) {
        const u64 entry = encode_compressed(offset, bytes, bits);
        CHECK(entry & compressed_flag);
        CHECK(!(entry & copied_flag));
        const CompressedRange r = decode_compressed(entry, bits);
        CHECK_EQ(r.offset, offset);
        CHECK(r.bytes >= bytes && r.bytes < bytes + 512);
        CHECK_EQ((r.offset + r.bytes) % 512, 0u);
      }
}
TEST(qcow2_headers_are_read_back_as_they_were_built) {
  Header h;
  h.backing_file = "base.qcow2", h.backing_format = "qcow2";
  h.cluster_bits = 12, h.virtual_bytes = 10 * MiB, h.l1_size = 5, h.l1_offset = 0x3000;
  h.refcount_table_offset = 0x1000, h.refcount_table_clusters = 1;
  h.compatible = feature::lazy_refcounts;
  h.unknown = {{0x12345678, {1, 2, 3}}};
  const std::vector<u8> bytes = OK(build_header(h));
  CHECK_EQ(bytes.size(), 4096u);
  const Header back = OK(parse_header(bytes));
  CHECK_EQ(back.backing_file, h.backing_file);
  CHECK_EQ(back.backing_format, "qcow2");
  CHECK_EQ(back.virtual_bytes, h.virtual_bytes);
  CHECK_EQ(back.unknown.size(), 1u);
  CHECK(back.unknown[0].data == h.unknown[0].data);
  CHECK(back.has_feature_names);
}
TEST(qcow2_headers_that_lie_are_refused_by_the_field) {
  Header h;
  h.virtual_bytes = 10 * MiB, h.l1_size = 1, h.l1_offset = 0x30000, h.refcount_table_offset = 0x10000, h.refcount_table_clusters = 1;
  const std::vector<u8> good = OK(build_header(h));
  OK(parse_header(good));
  const auto refused = [&](u64 at, u64 value, usize width, std::string_view word) {
    std::vector<u8> bad = good;
    for (usize i = 0; i < width; i++) bad[at + i] = static_cast<u8>(value >> 8 * (width - 1 - i));
    const auto parsed = parse_header(bad);
    CHECK(!parsed);
    if (!parsed.error().message.contains(word)) test::failed("message", __FILE__, __LINE__, parsed.error().message);
  };
  refused(4, 4, 4, "version 4");
  refused(20, 8, 4, "cluster size");
  refused(20, 22, 4, "cluster size");
  refused(24, u64{1} << 63, 8, "too big");
  refused(24, 1 * GiB, 8, "L1 table is too small");
  refused(32, 1, 4, "encrypted");
  refused(36, 0xffff'ffff, 4, "L1 table too large");
  refused(40, 0x30001, 8, "aligned");
  refused(48, 0x10200, 8, "aligned");
  refused(56, 1000, 4, "count table too large");
  refused(60, 65537, 4, "Snapshot table");
  refused(72, u64{1} << 40, 8, "Unsupported qcow2 feature");
  refused(96, 7, 4, "width");
  refused(100, 100, 4, "too short");
  refused(100, 0x20000, 4, "exceeds cluster");
  refused(8, 0xffff'fff0, 8, "backing");
}
TEST(qcow2_unknown_features_are_named_by_the_image) {
  Header h;
  h.virtual_bytes = 1 * MiB, h.l1_size = 1, h.l1_offset = 0x30000, h.refcount_table_offset = 0x10000, h.refcount_table_clusters = 1;
  std::vector<u8> bytes = OK(build_header(h));
  // The first name of the table that the image carries stands for bit 5 now.
  const u8 wanted[] = {'d', 'i', 'r', 't', 'y', ' ', 'b', 'i', 't'};
  const auto at = std::ranges::search(bytes, wanted);
  CHECK(!at.empty());
  *(at.begin() - 1) = 5;
  bytes[79] |= 1 << 5;
  CHECK_EQ(parse_header(bytes).error().message, "Unsupported qcow2 feature(s): dirty bit");
}
TEST(qcow2_snapshot_tables_go_both_ways) {
  std::vector<Snapshot> list(2);
  list[0] = {.l1_offset = 0x50000,
             .l1_size = 3,
             .id = "1",
             .name = "before",
             .seconds = 7,
             .vm_state_bytes = u64{5} << 32,
             .disk_bytes = 4096,
             .icount = 9};
  list[1] = {.l1_offset = 0x60000, .l1_size = 3, .id = "22", .name = "", .disk_bytes = 512};
  u64 used = 0;
  const auto back = OK(parse_snapshots(build_snapshots(list), 2, 1, &used));
  CHECK_EQ(used, build_snapshots(list).size());
  CHECK_EQ(back[0].name, "before");
  CHECK_EQ(back[0].vm_state_bytes, u64{5} << 32);
  CHECK_EQ(back[0].icount, 9);
  CHECK_EQ(back[1].id, "22");
  CHECK(!parse_snapshots(build_snapshots(list), 3, 1));
}
TEST(qcow2_bitmap_directories_go_both_ways) {
  std::vector<Bitmap> list(1);
  list[0] = {.table_offset = 0x40000, .table_size = 2, .flags = Bitmap::automatic, .granularity_bits = 16, .name = "daily", .extra = {}};
  const Geometry g;
  const auto back = OK(parse_bitmaps(build_bitmaps(list), 1, g));
  CHECK_EQ(back[0].name, "daily");
  CHECK(!parse_bitmaps(build_bitmaps(list), 2, g));
  list[0].granularity_bits = 40;
  CHECK(!parse_bitmaps(build_bitmaps(list), 1, g));
}

}  // namespace vmm::block::qcow2
