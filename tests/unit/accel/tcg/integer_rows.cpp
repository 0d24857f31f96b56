// Every integer row against the host CPU.
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
    const std::string text = test::check_row(row, map, 150, static_cast<u64>(&row - rows.data()) + 1000 * static_cast<u64>(map), wide);
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
