// Every integer row against the host CPU.
#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/map_0f.h"
#include "accel/tcg/guest/x86/map_0f38.h"
#include "accel/tcg/guest/x86/map_one.h"
#include "tests/unit/accel/tcg/native.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::tcg::x86;

namespace {

// Not comparable with the host in this way: random results, ours alone, or mode bits that a user program sees differently.
bool skipped(const Row& row) {
  const std::string_view name = row.name;
  return name == "rdrand" || name == "rdseed" || name == "rdpid" || name == "popf" || name == "xbegin" || name == "xabort";
}

void check(std::span<const Row> rows, Map map, bool wide = true) {
  std::string failures;
  unsigned failed = 0;
  for (const Row& row : rows) {
    if (skipped(row)) continue;
    const std::string text =
        test::check_row(row, map, test::rounds(150), static_cast<u64>(&row - rows.data()) + 1000 * static_cast<u64>(map), wide);
    if (!text.empty() && failed++ < 12) failures += text;
  }
  if (failed) test::failed("interpreter and host agree", __FILE__, __LINE__, fmt::format("{} rows differ\n{}", failed, failures));
}

}  // namespace

// Random addresses may hit the sanitizer's own memory, which the host then reads without a fault.
#if __has_feature(address_sanitizer)
constexpr bool shadow_memory = true;
#else
constexpr bool shadow_memory = false;
#endif

TEST(integer_rows_of_the_one_byte_map_do_what_the_host_does) { check(rows_one, Map::one); }
TEST(integer_rows_of_the_0f_map_do_what_the_host_does) { check(rows_0f, Map::two); }
TEST(integer_rows_of_the_0f38_and_0f3a_maps_do_what_the_host_does) { check(rows_0f38, Map::m38), check(rows_0f3a, Map::m3a); }

TEST(integer_rows_in_32_bit_code_do_what_the_host_does) {
  if (shadow_memory) test::skip("AddressSanitizer's shadow memory answers where the guest has none");
  check(rows_one, Map::one, false), check(rows_0f, Map::two, false), check(rows_0f38, Map::m38, false);
}

// Blocks of several instructions: what the builder remembers of registers and flags must be true.
TEST(sequences_of_integer_rows_do_what_the_host_does) {
  if (shadow_memory) test::skip("AddressSanitizer's shadow memory answers where the guest has none");
  test::Random random{99};
  random.registers_only = true;
  std::vector<u8> code, one;
  x86::State state, first;
  std::vector<std::pair<const Row*, Map>> rows;
  for (const Row& row : rows_one) rows.push_back({&row, Map::one});
  for (const Row& row : rows_0f) rows.push_back({&row, Map::two});
  for (const Row& row : rows_0f38) rows.push_back({&row, Map::m38});
  for (unsigned round = 0; round < 6000; round++) {
    const bool wide = round % 3 != 0;
    code.clear();
    const unsigned wanted = 2 + random.below(14);
    for (unsigned n = 0; n < wanted;) {
      const auto [row, map] = rows[random.below(static_cast<unsigned>(rows.size()))];
      const std::string_view name = row->name;
      const bool odd = name == "enter" || name == "leave" || name == "xlat" || name == "pushf" || name == "pop" || name == "popa" ||
                       name == "bound" || row->t.kind == Kind::string || name == "std" || name.starts_with("aa") ||
                       name.starts_with("da") || name == "das";
      if (skipped(*row) || odd || !test::encode_random(*row, map, random, one, state, wide)) continue;
      if (name.starts_with("push") && n > 6) continue;
      if (n++ == 0) first = state;
      code.insert(code.end(), one.begin(), one.end());
    }
    first.gpr[rsp] = reinterpret_cast<u64>(test::sandbox()) + 4096;
    // A sequence that moved the stack pointer out of the sandbox tells nothing.
    x86::State probe = first;
    if (test::run_native(code, probe).fault >= x86::vector_ss) continue;
    const std::string text = test::compare(code, first, true, x86::arithmetic_flags, 64);
    if (!text.empty()) test::failed("host and interpreter agree", __FILE__, __LINE__, text);
  }
}

// What check_row cannot ask the host, one by one. (rdpid, xbegin and xabort need modes that a host program has not:
// tests/guest/features.s.)
TEST(moves_with_an_address_in_the_instruction_do_what_the_host_does) {
  test::Random random{7};
  for (const bool wide : {true, false}) {
    for (unsigned round = 0; round < 400; round++) {
      x86::State state;
      wide ? test::prepare(state) : test::prepare32(state);
      for (unsigned i = 0; i < (wide ? 16u : 8u); i++) state.gpr[i] = wide ? random.edge() : static_cast<u32>(random.edge());
      state.gpr[rsp] = reinterpret_cast<u64>(test::sandbox()) + 2048;
      std::vector<u8> code;
      const bool address32 = wide && random.below(3) == 0;
      if (address32) code.push_back(0x67);
      if (random.below(3) == 0) code.push_back(0x66);
      if (wide && random.below(2)) code.push_back(static_cast<u8>(0x40 | random.below(16)));
      code.push_back(static_cast<u8>(0xa0 + random.below(4)));
      const u64 at = reinterpret_cast<u64>(test::sandbox()) + random.below(test::sandbox_bytes + 16);
      for (unsigned i = 0; i < (wide && !address32 ? 8u : 4u); i++) code.push_back(static_cast<u8>(at >> (8 * i)));
      const std::string text = test::compare(code, state);
      if (!text.empty()) test::failed("host and interpreter agree", __FILE__, __LINE__, text);
    }
  }
}

TEST(popf_loads_the_flags_that_a_program_may_change) {
  test::Random random{8};
  for (unsigned round = 0; round < 300; round++) {
    x86::State state;
    test::prepare(state);
    state.rflags |= random.next() & x86::arithmetic_flags;
    const u64 flags = (random.next() & (x86::arithmetic_flags | x86::flag_df)) | 0x202;
    std::memcpy(test::sandbox() + 2048, &flags, 8);
    state.gpr[rsp] = reinterpret_cast<u64>(test::sandbox()) + 2048;
    std::vector<u8> code{0x9d};
    if (random.below(2)) code.insert(code.begin(), 0x66);
    const std::string text = test::compare(code, state);
    if (!text.empty()) test::failed("host and interpreter agree", __FILE__, __LINE__, text);
  }
}

TEST(random_numbers_set_carry_clear_the_rest_and_keep_or_clear_upper_halves) {
  for (const u8 modrm : {u8{0xf0}, u8{0xf8}}) {  // rdrand rax, rdseed rax
    u64 seen = 0;
    for (unsigned round = 0; round < 30; round++) {
      for (const unsigned bytes : {2u, 4u, 8u}) {
        x86::State state;
        test::prepare(state);
        state.rflags |= x86::arithmetic_flags;
        state.gpr[rax] = 0x1234'5678'9abc'def0;
        std::vector<u8> code;
        if (bytes == 2) code.push_back(0x66);
        if (bytes == 8) code.push_back(0x48);
        code.insert(code.end(), {0x0f, 0xc7, modrm});
        CHECK_EQ(test::run_interpreter(code, state).fault, -1);
        const u64 flags = state.rflags & x86::arithmetic_flags;
        CHECK(flags == x86::flag_cf || (flags == 0 && (bytes == 8 ? state.gpr[rax] == 0 : true)));
        if (bytes == 2) CHECK_EQ(state.gpr[rax] >> 16, u64{0x1234'5678'9abc});
        if (bytes == 4) CHECK_EQ(state.gpr[rax] >> 32, 0u);
        if (bytes == 8) seen |= state.gpr[rax];
      }
    }
    CHECK(seen > ~u64{0} >> 8);  // high bits come too
  }
}

// A row that neither check_row nor one of the tests above looks at fails here.
TEST(every_integer_row_has_a_test) {
  constexpr std::string_view apart[] = {"rdrand", "rdseed", "rdpid", "popf", "xbegin", "xabort"};
  const auto look = [&](std::span<const Row> rows, Map map) {
    for (const Row& row : rows) {
      if (skipped(row)) {
        CHECK(std::ranges::find(apart, std::string_view{row.name}) != std::end(apart));
        continue;
      }
      using K = tcg::ir::NativeKind;
      const K k = row.t.kind;
      const bool flow = k == K::call || k == K::call_indirect || k == K::ret || k == K::jump || k == K::jump_indirect || k == K::branch ||
                        k == K::loop_;  // flow_rows.cpp
      const bool with_address = std::ranges::find(row.operands, Role::moffs, &Operand::role) != row.operands.end();
      if (flow || with_address || row.t.undefined) continue;
      test::Random random{1};
      std::vector<u8> code;
      x86::State state;
      if (!test::encode_random(row, map, random, code, state, true) && !test::encode_random(row, map, random, code, state, false))
        test::failed(row.name, __FILE__, __LINE__, "is compared with nothing");
    }
  };
  look(rows_one, Map::one), look(rows_0f, Map::two), look(rows_0f38, Map::m38), look(rows_0f3a, Map::m3a);
}
