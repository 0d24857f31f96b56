#include "accel/tcg/run/lookup.h"

#include "tests/unit/test.h"

namespace vmm::tcg {
namespace {

CodeBlock& put(BlockStore& store, u64 page, u16 offset, u16 bytes, u64 key = 1, u64 second = CodeBlock::no_page) {
  auto* const b = new CodeBlock;
  b->page = page, b->offset = offset, b->bytes = bytes, b->key = key, b->second_page = second;
  BlockStore::Claim claims[2];
  claims[0] = store.announce(page, offset, bytes);
  if (second != CodeBlock::no_page) claims[1] = store.announce(second, 0, static_cast<u16>(offset + bytes - 4096));
  CHECK(store.insert(*b, claims));
  return *b;
}

TEST(blocks_are_found_by_place_and_mode_and_die_with_their_bytes) {
  CodePages pages;
  BlockStore store{pages};
  CodeBlock& a = put(store, 7, 0x100, 0x20);
  CodeBlock& b = put(store, 7, 0x800, 0x10);
  CHECK(store.find(7, 0x100, 1) == &a && !store.find(7, 0x100, 2));
  CHECK(!pages.writable_without_asking(7) && pages.writable_without_asking(8));
  CHECK_EQ(store.invalidate(7, 0x200, 0x100), 0u);
  CHECK_EQ(store.invalidate(7, 0x110, 1), 1u);
  CHECK(a.dead && !b.dead && !store.find(7, 0x100, 1) && store.find(7, 0x800, 1) == &b);
  CHECK_EQ(store.invalidate(7, 0, 4096), 1u);
  CHECK(pages.writable_without_asking(7));
  store.bury();
}

TEST(a_straddling_block_dies_by_either_page_and_needs_both_to_be_found) {
  CodePages pages;
  BlockStore store{pages};
  CodeBlock& a = put(store, 3, 0xffe, 5, 1, 9);
  CHECK(store.find(3, 0xffe, 1, 9) == &a && !store.find(3, 0xffe, 1, 10));
  CHECK_EQ(store.invalidate(9, 2, 1), 1u);
  CHECK(a.dead && !store.find(3, 0xffe, 1, 9));
}

TEST(a_block_whose_page_was_stored_to_while_it_was_made_is_refused) {
  CodePages pages;
  BlockStore store{pages};
  auto* const late = new CodeBlock;
  late->page = 5, late->offset = 0x40, late->bytes = 8;
  const BlockStore::Claim claim = store.announce(5, 0x40, 8);
  store.invalidate(5, 0x44, 1);  // by another CPU, before the block is there
  CHECK(!store.insert(*late, {&claim, 1}));
  CHECK(!store.find(5, 0x40, 0));
}

TEST(a_page_whose_last_block_went_may_be_written_without_asking_and_refuses_who_was_reading_it) {
  CodePages pages;
  BlockStore store{pages};
  CodeBlock& a = put(store, 5, 0, 8);
  auto* const late = new CodeBlock;
  late->page = 5, late->offset = 0x800, late->bytes = 8;
  const BlockStore::Claim claim = store.announce(5, 0x800, 8);
  store.invalidate_block(a);
  CHECK(pages.writable_without_asking(5));
  CHECK(!store.insert(*late, {&claim, 1}));
}

TEST(many_blocks_are_found_and_what_the_interpreter_keeps_has_a_bound) {
  CodePages pages;
  BlockStore store{pages};
  for (u32 i = 0; i < 300'000; i++) put(store, i >> 6, static_cast<u16>((i & 63) * 64), 4);
  CHECK(store.size() < 270'000);
  for (u32 i = 299'000; i < 300'000; i++) CHECK(store.find(i >> 6, static_cast<u16>((i & 63) * 64), 1));
  CHECK(!store.find(0, 0, 1));
  store.bury(), store.bury();
}

}  // namespace
}  // namespace vmm::tcg
