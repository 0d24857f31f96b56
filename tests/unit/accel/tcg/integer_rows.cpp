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

TEST(integer_rows_of_the_one_byte_map_do_what_the_host_does) { check(rows_one, Map::one); }
TEST(integer_rows_of_the_0f_map_do_what_the_host_does) { check(rows_0f, Map::two); }
TEST(integer_rows_of_the_0f38_and_0f3a_maps_do_what_the_host_does) { check(rows_0f38, Map::m38), check(rows_0f3a, Map::m3a); }

TEST(integer_rows_in_32_bit_code_do_what_the_host_does) {
  check(rows_one, Map::one, false), check(rows_0f, Map::two, false), check(rows_0f38, Map::m38, false);
}
