#include "accel/tcg/run/lookup.h"

#include "tests/unit/test.h"

namespace vmm::tcg {
namespace {

CodeBlock& put(BlockStore& store, u64 page, u16 offset, u16 bytes, u64 key = 1, u64 second = CodeBlock::no_page) {
  auto b = std::make_unique<CodeBlock>();
  b->page = page, b->offset = offset, b->bytes = bytes, b->key = key, b->second_page = second;
  store.announce(page, offset, bytes);
  if (second != CodeBlock::no_page) store.announce(second, 0, static_cast<u16>(offset + bytes - 4096));
  return store.insert(std::move(b));
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

}  // namespace
}  // namespace vmm::tcg
