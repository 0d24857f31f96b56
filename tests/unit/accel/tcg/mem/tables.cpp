#include "accel/tcg/mem/tables.h"

#include "tests/unit/test.h"

namespace vmm::tcg {
namespace {

struct Bench {
  TableMemory memory;
  Context context{36, memory};
  Bench() {
    (void)OK([&] -> Result<int> {
      TRY(context.reserve());
      return 0;
    }());
  }
  u64 read(u64 address, u64 size = 1) { return context.get(context.slot_of(address, size), AccessKind::read); }
  u64 write(u64 address, u64 size = 1) { return context.get(context.slot_of(address, size), AccessKind::write); }
  void fill(u64 address, AccessKind kind, u64 addend, bool global = false) {
    context.fill(context.slot_of(address, 1), kind, addend, global);
  }
};

TEST(a_slot_answers_for_its_page_only) {
  Bench b;
  b.fill(0xffff'8880'0000'5000, AccessKind::read, 42);
  CHECK_EQ(b.read(0xffff'8880'0000'5fff), 42u);
  CHECK_EQ(b.write(0xffff'8880'0000'5fff), 0u);
  CHECK_EQ(b.read(0xffff'8880'0000'6000), 0u);
  CHECK_EQ(b.read(0xffff'8880'0000'5ffc, 8), 0u);
}

TEST(dropping_a_page_drops_the_pairs_that_begin_and_end_in_it) {
  Bench b;
  for (const u64 p : {4u, 5u, 6u}) {
    b.context.fill(2 * p, AccessKind::write, p, false);
    b.context.fill(2 * p + 1, AccessKind::write, p, false);
  }
  b.context.drop(5);
  CHECK_EQ(b.write(0x4000), 4u);
  CHECK_EQ(b.write(0x4fff, 2), 0u);
  CHECK_EQ(b.write(0x5000), 0u);
  CHECK_EQ(b.write(0x5fff, 2), 0u);
  CHECK_EQ(b.write(0x6fff, 2), 6u);
}

TEST(a_flush_keeps_global_pages_if_asked) {
  Bench b;
  b.fill(0x1000, AccessKind::read, 1, false);
  b.fill(0x2000, AccessKind::read, 2, true);
  b.context.flush(true);
  CHECK_EQ(b.read(0x1000), 0u);
  CHECK_EQ(b.read(0x2000), 2u);
  b.context.flush(false);
  CHECK_EQ(b.read(0x2000), 0u);
}

TEST(a_page_inside_a_large_page_takes_the_whole_of_it_along) {
  Bench b;
  b.fill(0x20'0000, AccessKind::read, 1);
  b.fill(0x3f'f000, AccessKind::write, 2);
  b.fill(0x40'0000, AccessKind::read, 3);
  b.context.note_large_page(0x20'0000, 0x20'0000);
  b.context.drop_around(0x2a'5000);
  CHECK_EQ(b.read(0x20'0000), 0u);
  CHECK_EQ(b.write(0x3f'f000), 0u);
  CHECK_EQ(b.read(0x40'0000), 3u);
}

TEST(pairs_that_would_alias_are_never_filled) {  // translator.md §13, 8
  Bench b;
  for (const u64 p : {(u64{1} << 35) - 1, (u64{1} << 34) - 1, (u64{1} << 36) - 1, u64{0xfffff}}) {
    b.context.fill(2 * p + 1, AccessKind::read, 7, false);
    CHECK_EQ(b.context.get(2 * p + 1, AccessKind::read), 0u);
  }
}

TEST(jump_tables_forget_the_landings_of_a_page) {
  Bench b;
  b.context.set_miss_target(0x99);
  b.context.enable_jump_table(2);
  const u64 address = 0xffff'ffff'8100'1234;
  const u64* slot = reinterpret_cast<u64*>(b.context.gs() + b.context.jump_table_offset(2)) + (address & jump_hash_mask);
  b.context.set_jump(2, address, 0x1111, true);
  b.context.flush(true);
  CHECK_EQ(*slot, 0x1111u);
  b.context.drop_around(address + 0x1000);
  CHECK_EQ(*slot, 0x1111u);
  b.context.drop_around(address & ~u64{0xfff});
  CHECK_EQ(*slot, 0x99u);
}

TEST(memory_is_given_back_by_reset) {  // translator.md §13, 27
  Bench b;
  for (u64 i = 0; i < 200; i++) b.fill(i << 29, AccessKind::read, 5);
  CHECK(b.memory.bytes >= 200 * 16 * KiB);
  b.context.reset();
  CHECK_EQ(b.memory.bytes, 0u);
  CHECK_EQ(b.read(0), 0u);
}

}  // namespace
}  // namespace vmm::tcg
