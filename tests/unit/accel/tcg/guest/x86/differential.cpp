// Random bytes and random sequences of rows in every mode, by both engines. VMM_GUEST_SECONDS makes it go on for that long, from the seed
// in VMM_GUEST_SEED (tests/long/guest).
#include "tests/unit/accel/tcg/guest/x86/differential.h"

#include <chrono>

using namespace vmm;
using namespace vmm::tcg;

TEST(both_engines_do_the_same_with_any_bytes) {
  using namespace differential;
  const char* const seconds = getenv("VMM_GUEST_SECONDS");
  const char* const from = getenv("VMM_GUEST_SEED");
  const char* const one = getenv("VMM_GUEST_CASE");  // the seed of a case that failed
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{seconds ? atoi(seconds) : 0};
  Pair pair;
  Numbers n{.s = from ? strtoull(from, nullptr, 0) * 2 + 1 : 20261121};
  const std::vector<Choice> rows = all_choices();
  std::vector<u8> code;
  std::string failures;
  unsigned failed = 0;
  for (u64 round = 0; seconds ? std::chrono::steady_clock::now() < end : round < (one ? 1 : 400); ++round) {
    const u64 seed = one ? strtoull(one, nullptr, 0) : n.next();
    Numbers own{.s = seed | 1};
    Case c{.mode = static_cast<Mode>(own.below(static_cast<unsigned>(Mode::count))), .seed = seed};
    const unsigned bits = c.mode <= Mode::long_3 ? 64 : c.mode <= Mode::based32 ? 32 : 16;
    if (bits == 16) own.near = 0;
    c.offset = static_cast<u16>(own.below(3) ? own.below(64) : 4096 - own.below(24));
    code.clear();
    if (own.below(4) == 0) {
      for (unsigned i = 2 + own.below(40); i > 0; --i) code.push_back(static_cast<u8>(own.next() >> 13));
    } else {
      for (unsigned i = 1 + own.below(40); i > 0 && code.size() < 400; --i)
        append(rows[own.below(static_cast<unsigned>(rows.size()))], own, bits, code_at + c.offset, code);
    }
    c.code = code;
    std::string text = pair.run(c);
    if (text.empty()) continue;
    // The shortest beginning that still differs tells most.
    for (usize length = 1; length < code.size(); ++length) {
      c.code = std::span{code}.first(length);
      if (std::string shorter = pair.run(c); !shorter.empty()) {
        text = std::move(shorter);
        break;
      }
    }
    failures += format("case {}: {}", round, text);
    if (++failed == 5) break;
  }
  if (seconds)
    fmt::print("{} cases, {} without an end, {} that overwrote themselves\n", pair.cases, pair.endless_cases, pair.overwriting_cases);
  if (failed) test::failed("both engines agree", __FILE__, __LINE__, format("{} differ\n{}", failed, failures));
}

// Loops of single movs and stos, and repeated ones, of every width over the ends of pages: GRUB's memmove, among others.
TEST(both_engines_do_the_same_with_loops_of_strings) {
  using namespace differential;
  Pair pair;
  for (const Mode mode : {Mode::long_0, Mode::long_3, Mode::flat32_0, Mode::flat32_3})
    for (const u8 opcode : {0xa4, 0xa5, 0xaa, 0xab})
      for (const std::vector<u8>& prefixes : std::vector<std::vector<u8>>{{}, {0x66}, {0x48}, {0x67}, {0xf3}, {0xf3, 0x66}, {0xf3, 0x67}}) {
        const bool wide = mode <= Mode::long_3;
        if (!wide && prefixes == std::vector<u8>{0x48}) continue;
        for (u64 seed = 1; seed < 6; seed++) {
          std::vector<u8> code{0xbe, 0, 0, 0, 0, 0xbf, 0, 0, 0, 0, 0xb9, 200, 0, 0, 0};
          store_le(&code[1], static_cast<u32>(data_at + 0xff0 + seed)), store_le(&code[6], static_cast<u32>(data_at + 0x1f90 - seed));
          if (seed == 5) store_le(&code[6], static_cast<u32>(data_at + 0xff0 + seed + 3));  // the areas overlap
          const usize loop = code.size();
          code.insert(code.end(), prefixes.begin(), prefixes.end());
          code.push_back(opcode);
          if (prefixes.empty() || prefixes[0] != 0xf3) code.push_back(0xe2), code.push_back(static_cast<u8>(loop - code.size() - 1));
          if (const std::string text = pair.run({.mode = mode, .seed = seed, .code = code}); !text.empty())
            return test::failed("loops of strings", __FILE__, __LINE__, text);
        }
      }
  CHECK(pair.endless_cases == 0);
}
