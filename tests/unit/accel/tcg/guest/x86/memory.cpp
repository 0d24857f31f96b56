// Guest memory as other parts of the machine see it: dirty logs that begin while the guest runs, accesses that must be whole.
#include "tests/unit/accel/tcg/bench.h"

using namespace vmm;
using namespace vmm::tcg;
using namespace vmm::x86;
using memory::DirtyClient;

static void run_again(X86Bench& b) {
  b.state.rip = 0x4000;
  b.state.activity = Activity::running;
  CHECK(b.run());
}

// mov [0x100000], rax; hlt
static void a_log_switched_on_late_sees_the_next_store(const char* engine) {
  X86Bench b{2 * MiB, "max", engine};
  b.start_long(0x4000);
  b.code(0x4000, {0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0xf4});
  for (u64 i = 0; i < 5; i++) run_again(b);  // from the second on without asking anybody
  b.block().set_dirty_logging(DirtyClient::migration, true);
  CHECK(!b.block().dirty(DirtyClient::migration, 0x100));
  b.state.gpr[rax] = 77;
  run_again(b);
  CHECK_EQ(b.get<u64>(0x10'0000), 77u);
  CHECK(b.block().dirty(DirtyClient::migration, 0x100));
  // And again after each look.
  for (u64 i = 0; i < 3; i++) {
    std::vector<u64> bits;
    b.block().fetch_and_clear_dirty(DirtyClient::migration, 0, 512, bits);
    CHECK(bits[4] & 1);
    run_again(b);
  }
  CHECK(b.block().dirty(DirtyClient::migration, 0x100));
}
TEST(a_dirty_log_switched_on_late_sees_the_next_store_by_the_interpreter) { a_log_switched_on_late_sees_the_next_store("interp"); }
TEST(a_dirty_log_switched_on_late_sees_the_next_store_by_e1) { a_log_switched_on_late_sees_the_next_store("e1"); }

// lock xadd [0x100ffc], rax; hlt
TEST(a_locked_access_over_two_pages_is_made_while_all_others_stand_still) {
  X86Bench b;
  static int inside, entered;
  inside = entered = 0;
  b.system.exclusive = [](void*, bool in) { in ? (inside++, entered++) : inside--; };
  b.start_long(0x4000);
  b.code(0x4000, {0xf0, 0x48, 0x0f, 0xc1, 0x04, 0x25, 0xfc, 0x0f, 0x10, 0x00, 0xf4});
  b.put<u64>(0x10'0ffc, 0x1111'2222'3333'4444);
  b.state.gpr[rax] = 0x1000'0000'0000'0001;
  CHECK(b.run());
  CHECK_EQ(b.get<u64>(0x10'0ffc), 0x2111'2222'3333'4445u);
  CHECK_EQ(b.state.gpr[rax], 0x1111'2222'3333'4444u);
  CHECK(entered == 1 && inside == 0);
}

// lock cmpxchg16b [0x4100] beside code of the same page; hlt
TEST(cmpxchg16b_on_a_page_with_code_is_made_while_all_others_stand_still) {
  X86Bench b;
  static int entered;
  entered = 0;
  b.system.exclusive = [](void*, bool in) { entered += in; };
  b.start_long(0x4000);
  b.code(0x4000, {0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x41, 0x00, 0x00, 0xf4});
  b.put<u64>(0x4100, 5), b.put<u64>(0x4108, 6);
  b.state.gpr[rax] = 5, b.state.gpr[rdx] = 6, b.state.gpr[rbx] = 7, b.state.gpr[rcx] = 8;
  CHECK(b.run());
  CHECK(b.get<u64>(0x4100) == 7 && b.get<u64>(0x4108) == 8);
  CHECK_EQ(entered, 1);
}
