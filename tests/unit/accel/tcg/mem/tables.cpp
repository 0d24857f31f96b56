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
  for (const u64 p : {(u64{1} << 31) - 1, u64{0xfffff}}) {
    b.context.fill(2 * p + 1, AccessKind::read, 7, false);
    CHECK_EQ(b.context.get(2 * p + 1, AccessKind::read), 0u);
  }
  // Over the end of the lower half, the wrap at the top, and a multiple of 2^43 all come to the last slot.
  for (const u64 address : {u64{0x7fff'ffff'fffc}, ~u64{3}, u64{0x7ff'ffff'fffc}}) CHECK_EQ(b.context.slot_of(address, 8), 0xffff'ffffu);
  TableMemory memory;
  Context wide{36, memory, TableShape::wide};
  (void)OK([&] -> Result<int> {
    TRY(wide.reserve());
    return 0;
  }());
  for (const u64 p : {(u64{1} << 35) - 1, (u64{1} << 34) - 1, (u64{1} << 36) - 1, u64{0xfffff}}) {
    wide.fill(2 * p + 1, AccessKind::read, 7, false);
    CHECK_EQ(wide.get(2 * p + 1, AccessKind::read), 0u);
  }
}

TEST(jump_tables_forget_the_landings_of_a_page) {
  Bench b;
  b.context.set_miss_target(0x99);
  b.context.enable_jump_table(2);
  const u64 address = 0xffff'ffff'8100'1234;
  const u64* slot = reinterpret_cast<u64*>(b.context.gs() + b.context.jump_table_offset(2)) + jump_slot(address);
  b.context.set_jump(2, address, 0x1111, true, 7);
  b.context.flush(true);
  CHECK_EQ(*slot, 0x1111u);
  b.context.drop_around(address + 0x1000);
  CHECK_EQ(*slot, 0x1111u);
  b.context.drop_around(address & ~u64{0xfff});
  CHECK_EQ(*slot, 0x99u);
}

TEST(landings_outlive_a_flush_of_everything_only_where_their_page_is_still_mapped) {
  Bench b;
  b.context.set_miss_target(0x99);
  b.context.enable_jump_table(0);
  const u64 first = 0xffff'ffff'8100'1234, second = 0xffff'ffff'8200'2240, both = 0xffff'ffff'8300'3ffe;
  b.context.set_jump(0, first, 0x1111, true, 7);
  b.context.set_jump(0, second, 0x2222, true, 8);
  b.context.set_jump(0, both, 0x3333, true);  // its block lies in two pages
  b.context.flush(false, true);
  b.context.recheck_jumps([&](u64 page, u32 code_page, bool& global) { return global = true, page == first >> 12 && code_page == 7; });
  CHECK_EQ(b.context.jump(0, first), 0x1111u);
  CHECK_EQ(b.context.jump(0, second), 0u);
  CHECK_EQ(b.context.jump(0, both), 0u);
  b.context.flush(true);
  CHECK_EQ(b.context.jump(0, first), 0x1111u);
  b.context.drop_around(first & ~u64{0xfff});
  CHECK_EQ(b.context.jump(0, first), 0u);
}

TEST(a_landing_in_two_pages_goes_with_the_second_too) {
  Bench b;
  b.context.set_miss_target(0x99);
  b.context.enable_jump_table(0);
  const u64 address = 0xffff'ffff'8300'3ffe;
  b.context.set_jump(0, address, 0x3333, true);
  b.context.drop_around((address & ~u64{0xfff}) + 0x1000);
  CHECK_EQ(b.context.jump(0, address), 0u);
}

TEST(memory_is_given_back_by_reset) {  // translator.md §13, 27
  Bench b;
  for (u64 i = 0; i < 200; i++) b.fill(i << 29, AccessKind::read, 5);
  CHECK(b.memory.bytes.load() >= 200 * 16 * KiB);
  b.context.reset();
  CHECK_EQ(b.memory.bytes.load(), 0u);
  CHECK_EQ(b.read(0), 0u);
}

// ---- address spaces by PCID (SDM 3A §4.10.4.1)

struct Spaces {
  Tables tables;
  Spaces() {
    (void)OK([&] -> Result<int> {
      TRY(tables.reserve());
      return 0;
    }());
  }
  u64 read(Tables::Which which, u64 address) { return tables[which].get(tables[which].slot_of(address, 1), AccessKind::read); }
  void fill(Tables::Which which, u64 address, u64 addend, bool global = false) {
    tables[which].fill(tables[which].slot_of(address, 1), AccessKind::read, addend, global);
  }
};

TEST(an_address_space_left_and_entered_again_without_a_flush_is_as_it_was) {
  Spaces s;
  for (u32 pcid = 1; pcid <= 4; pcid++) {
    s.tables.enter_space(pcid, false);
    CHECK_EQ(s.read(Tables::U, 0x5000), 0u);  // nothing of another space is seen
    s.fill(Tables::U, 0x5000, 100 + pcid);
  }
  for (u32 pcid = 1; pcid <= 4; pcid++) {
    s.tables.enter_space(pcid, true);
    CHECK_EQ(s.read(Tables::U, 0x5000), 100u + pcid);
  }
  s.tables.enter_space(2, false);
  CHECK_EQ(s.read(Tables::U, 0x5000), 0u);
  s.tables.enter_space(3, true);
  CHECK_EQ(s.read(Tables::U, 0x5000), 103u);
}

TEST(invpcid_reaches_spaces_that_are_not_current) {
  Spaces s;
  s.tables.enter_space(1, false);
  s.fill(Tables::U, 0x5000, 7), s.fill(Tables::U, 0x6000, 8);
  s.tables.enter_space(2, false);
  s.fill(Tables::U, 0x5000, 9);
  s.tables.invalidate_page_of(1, 0x5000);
  CHECK_EQ(s.read(Tables::U, 0x5000), 9u);
  s.tables.enter_space(1, true);
  CHECK_EQ(s.read(Tables::U, 0x5000), 0u);
  CHECK_EQ(s.read(Tables::U, 0x6000), 8u);
  s.tables.enter_space(2, true);
  s.tables.flush_space(1);
  s.tables.enter_space(1, true);
  CHECK_EQ(s.read(Tables::U, 0x6000), 0u);
}

TEST(more_address_spaces_than_contexts_never_show_each_other) {
  Spaces s;
  for (u32 round = 0; round < 3; round++)
    for (u32 pcid = 0; pcid < 20; pcid++) {
      s.tables.enter_space(pcid, true);
      const u64 seen = s.read(Tables::U, 0x5000);
      CHECK(seen == 0 || seen == 100 + pcid);
      s.fill(Tables::U, 0x5000, 100 + pcid);
    }
}

TEST(kernel_pages_outlive_a_change_of_space_only_if_global) {
  Spaces s;
  s.tables.enter_space(1, false);
  s.fill(Tables::KS, 0xffff'8880'0000'1000, 1, true);
  s.fill(Tables::KS, 0xffff'8880'0000'2000, 2, false);
  s.fill(Tables::KU, 0x5000, 3, false);
  s.tables.enter_space(2, true);
  CHECK_EQ(s.read(Tables::KS, 0xffff'8880'0000'1000), 1u);
  CHECK_EQ(s.read(Tables::KS, 0xffff'8880'0000'2000), 0u);
  CHECK_EQ(s.read(Tables::KU, 0x5000), 0u);
}

TEST(invlpg_drops_a_global_page_in_every_space) {
  Spaces s;
  s.tables.enter_space(1, false);
  s.fill(Tables::U, 0x5000, 1, true), s.fill(Tables::U, 0x6000, 2, true);
  s.tables.enter_space(2, false);
  s.tables.invalidate_page(0x5000);
  s.tables.enter_space(1, true);
  CHECK_EQ(s.read(Tables::U, 0x5000), 0u);
  CHECK_EQ(s.read(Tables::U, 0x6000), 2u);
}

TEST(a_flush_of_everything_reaches_spaces_left_long_ago) {
  Spaces s;
  s.tables.enter_space(1, false);
  s.fill(Tables::U, 0x5000, 1);
  s.tables.enter_space(2, false);
  s.tables.flush(true);
  s.tables.enter_space(1, true);
  CHECK_EQ(s.read(Tables::U, 0x5000), 0u);
}

TEST(over_the_cap_the_space_left_longest_ago_goes_first) {
  Spaces s;
  for (u32 pcid = 1; pcid <= 3; pcid++) {
    s.tables.enter_space(pcid, false);
    for (u64 i = 0; i < 100; i++) s.fill(Tables::U, i << 29, pcid);
  }
  s.tables.memory().cap = s.tables.memory().bytes - 1;
  s.tables.trim(Tables::U);
  CHECK(!s.tables.over_cap());
  s.tables.enter_space(2, true);
  CHECK_EQ(s.read(Tables::U, 0), 2u);
  s.tables.enter_space(1, true);
  CHECK_EQ(s.read(Tables::U, 0), 0u);
}

TEST(a_gigabyte_touched_page_by_page_stays_filled) {
  Bench b;
  for (u64 p = 0; p < 256 * 1024; p++) b.context.fill(2 * p, AccessKind::read, p + 1, false);
  for (u64 p = 0; p < 256 * 1024; p += 1023) CHECK_EQ(b.context.get(2 * p, AccessKind::read), p + 1);
  b.context.flush(false);
  for (u64 p = 0; p < 256 * 1024; p += 1023) CHECK_EQ(b.context.get(2 * p, AccessKind::read), 0u);
  CHECK_EQ(b.memory.bytes.load(), 0u);
}

}  // namespace
}  // namespace vmm::tcg
