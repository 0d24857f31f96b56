// Which pages of code KVM may run: none with CPUID and its kin as an instruction, those with its bytes inside another one.
#include "accel/auto/scan.h"

#include <algorithm>
#include <vector>

#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::both;
using namespace vmm::tcg::x86;

namespace {

const ModeKey key{ModeKey::code64 | ModeKey::cpl3 | ModeKey::protected_ | ModeKey::flat | ModeKey::fs_plain | ModeKey::gs_plain |
                  ModeKey::x87_ok | ModeKey::sse_ok | ModeKey::avx_ok};

// A page of NOPs with the bytes at a place.
Shows with(std::vector<u8> bytes, usize at = 1000) {
  FeatureSet all;
  for (unsigned i = 1; i < static_cast<unsigned>(Feature::count); i++) all.add(static_cast<Feature>(i));
  std::vector<u8> page(4096, 0x90);
  std::ranges::copy(bytes, page.begin() + static_cast<std::ptrdiff_t>(at));
  return shown_by(page, 0, key, all);
}

}  // namespace

TEST(code_that_shows_the_host_is_found) {
  CHECK(with({}) == Shows::nothing);
  CHECK(with({0x0f, 0xa2}) == Shows::host);                    // cpuid
  CHECK(with({0x0f, 0xa2}, 0) == Shows::host);                 // at the page's first byte
  CHECK(with({0x0f, 0xa2}, 4094) == Shows::host);              // and its last ones
  CHECK(with({0x48, 0x0f, 0xa2}) == Shows::host);              // with a prefix
  CHECK(with({0x0f, 0x01, 0xd0}) == Shows::host);              // xgetbv
  CHECK(with({0x0f, 0xae, 0x64, 0x24, 0x40}) == Shows::host);  // xsave
  CHECK(with({0x0f, 0xc7, 0x64, 0x24, 0x40}) == Shows::host);  // xsavec
  CHECK(with({0x0f, 0x03, 0xc0}) == Shows::host);              // lsl
  CHECK(with({0xf3, 0x0f, 0xc7, 0xf8}) == Shows::host);        // rdpid
  CHECK(with({0x0f, 0x31}) == Shows::counter);
  CHECK(with({0x0f, 0x01, 0xf9}) == Shows::counter);  // rdtscp
  CHECK(with({0x0f, 0x31, 0x90, 0x0f, 0xa2}) == Shows::host);
}

TEST(bytes_inside_other_instructions_are_not_taken_for_it) {
  CHECK(with({0xe8, 0x00, 0x0f, 0xa2, 0x00}) == Shows::nothing);           // call
  CHECK(with({0xc1, 0xc3, 0x0f, 0x31, 0xfb}) == Shows::nothing);           // rol ebx, 15; xor ebx, edi
  CHECK(with({0xb8, 0x0f, 0xa2, 0x0f, 0x31}) == Shows::nothing);           // mov eax, …
  CHECK(with({0x49, 0x0f, 0xc7, 0xfa}) == Shows::nothing);                 // rdseed
  CHECK(with({0x0f, 0xae, 0xf8}) == Shows::nothing);                       // sfence
  CHECK(with({0x0f, 0xae, 0x54, 0x24, 0x40}) == Shows::nothing);           // ldmxcsr
  CHECK(with({0x0f, 0xc7, 0x4c, 0x24, 0x40}) == Shows::nothing);           // cmpxchg8b
  CHECK(with({0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x90}) == Shows::nothing);  // a long nop
}

TEST(an_instruction_over_two_pages_is_looked_at_with_both) {
  const u8 plain[2] = {0x90, 0x90}, open[2] = {0x90, 0x0f}, modrm[2] = {0x0f, 0x01};
  const u8 cpuid[2] = {0xa2, 0x90}, xgetbv[2] = {0xd0, 0x90}, jump[2] = {0x84, 0x00};
  CHECK(!ends_open(plain));
  CHECK(ends_open(open) && ends_open(modrm));
  CHECK(shown_over_the_end(open, cpuid));
  CHECK(shown_over_the_end(modrm, xgetbv));
  CHECK(!shown_over_the_end(open, jump));
  CHECK(with({0x0f}, 4095) == Shows::nothing);  // that is for those two
}
