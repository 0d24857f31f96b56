// The interpreter's x87, MMX and vector rows, by native stub or helper, against the host CPU.
#include "tests/unit/accel/tcg/guest/x86/simd_cases.h"

namespace vmm::tcg::x86 {

TEST(simd_rows_do_what_the_host_cpu_does) {
  auto bench = std::make_unique<simd_cases::Bench>();
  const auto outcome = simd_cases::check_rows(*bench, [&](std::span<const u8> bytes) { return bench->step(bytes); });
  CHECK(outcome.ran + outcome.absent > 1000);
}

}  // namespace vmm::tcg::x86
