// Random bytes and random sequences of rows in every mode, by both engines. VMM_GUEST_SECONDS makes it go on for that long, from the seed
// in VMM_GUEST_SEED (tests/long/guest).
#include "tests/unit/accel/tcg/guest/x86/differential.h"

#include <chrono>

#include "tests/unit/accel/tcg/native.h"

using namespace vmm;
using namespace vmm::tcg;

namespace {

struct Choice {
  const tcg::x86::Row* row;
  tcg::x86::Map map;
};

std::vector<Choice> choices() {
  std::vector<Choice> all;
  for (const tcg::x86::MapRows& m : tcg::x86::all_rows())
    for (const tcg::x86::Row& row : m.rows) all.push_back({&row, m.map});
  return all;
}

// One row's bytes, good enough for a decoder: prefixes, opcode, ModRM with any operand, immediates.
void append(const Choice& c, differential::Numbers& n, bool wide, std::vector<u8>& code) {
  using tcg::x86::Prefix, tcg::x86::Role;
  const auto& t = c.row->t;
  const auto put = [&](u64 v) { code.push_back(static_cast<u8>(v)); };
  if (t.lock && n.below(4) == 0) put(0xf0);
  if (t.rep && n.below(2)) put(n.below(2) ? 0xf2 : 0xf3);
  if (t.prefix == Prefix::any && n.below(6) == 0) put(0x66);
  if (n.below(24) == 0) put(0x67);
  if (n.below(24) == 0) put(0x64 + n.below(2));
  if (t.vex) {
    const unsigned pp = t.prefix == Prefix::p66 ? 1 : t.prefix == Prefix::f3 ? 2 : t.prefix == Prefix::f2 ? 3 : 0;
    const unsigned l = t.l >= 0 ? static_cast<unsigned>(t.l) : n.below(2);
    put(0xc4), put((wide ? n.next() & 0xe0 : 0xe0) | static_cast<unsigned>(c.map));
    put((t.w >= 0 ? u64(t.w) << 7 : n.below(2) << 7) | (wide ? n.below(16) : 8 + n.below(8)) << 3 | l << 2 | pp);
  } else {
    if (t.prefix == Prefix::p66) put(0x66);
    if (t.prefix == Prefix::f3) put(0xf3);
    if (t.prefix == Prefix::f2) put(0xf2);
    if (wide && n.below(2)) put(0x40 | n.below(16) | (t.w == 1 ? 8 : 0));
    if (c.map != tcg::x86::Map::one) put(0x0f);
    if (c.map == tcg::x86::Map::m38) put(0x38);
    if (c.map == tcg::x86::Map::m3a) put(0x3a);
  }
  put(c.row->opcode);
  unsigned modrm = n.below(256);
  if (n.below(2)) modrm |= 0xc0;
  if (t.reg >= 0) modrm = (modrm & ~0x38u) | static_cast<unsigned>(t.reg) << 3;
  if (t.rm >= 0) modrm = (modrm & ~7u) | static_cast<unsigned>(t.rm) | 0xc0;
  if (t.mod == tcg::x86::Mod::memory && modrm >= 0xc0) modrm &= 0x3f;
  if (t.mod == tcg::x86::Mod::reg) modrm |= 0xc0;
  bool has_modrm = t.modrm || t.reg >= 0 || t.rm >= 0 || t.mod != tcg::x86::Mod::any;
  for (const auto& o : c.row->operands) has_modrm |= o.role == Role::modrm_rm || o.role == Role::modrm_reg;
  if (has_modrm) {
    put(modrm);
    if (modrm < 0xc0 && (modrm & 7) == 4) put(n.next());
    if ((modrm & 0xc7) == 5) {
      const u32 at = wide ? static_cast<u32>(differential::data_at - differential::code_at + n.below(0x4000))
                          : differential::data_at + n.below(0x4000);
      for (unsigned i = 0; i < 4; ++i) put(at >> (8 * i));
    } else if (modrm >> 6 == 1) {
      put(n.next());
    } else if (modrm >> 6 == 2) {
      const u32 at = n.below(3) ? n.below(0x200) : static_cast<u32>(n.next());
      for (unsigned i = 0; i < 4; ++i) put(at >> (8 * i));
    }
  }
  for (const auto& o : c.row->operands)
    if (o.role == Role::imm || o.role == Role::imm_sx || o.role == Role::is4 || o.role == Role::rel)
      for (unsigned i = 0; i < (o.size == tcg::x86::Size::b || o.role == Role::is4 ? 1u : 4u); ++i)
        put(o.role == Role::rel && i ? 0 : n.below(3) ? n.next() : n.below(64));
}

}  // namespace

TEST(both_engines_do_the_same_with_any_bytes) {
  using namespace differential;
  const char* const seconds = getenv("VMM_GUEST_SECONDS");
  const char* const from = getenv("VMM_GUEST_SEED");
  const char* const one = getenv("VMM_GUEST_CASE");  // the seed of a case that failed
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{seconds ? atoi(seconds) : 0};
  Pair pair;
  Numbers n{from ? strtoull(from, nullptr, 0) * 2 + 1 : 20261121};
  const std::vector<Choice> rows = choices();
  std::vector<u8> code;
  std::string failures;
  unsigned failed = 0;
  for (u64 round = 0; seconds ? std::chrono::steady_clock::now() < end : round < (one ? 1 : 400); ++round) {
    const u64 seed = one ? strtoull(one, nullptr, 0) : n.next();
    Numbers own{seed | 1};
    Case c{.mode = static_cast<Mode>(own.below(static_cast<unsigned>(Mode::count))), .seed = seed};
    const bool wide = c.mode == Mode::long_0 || c.mode == Mode::long_3;
    code.clear();
    if (own.below(4) == 0) {
      for (unsigned i = 2 + own.below(40); i > 0; --i) code.push_back(static_cast<u8>(own.next() >> 13));
    } else {
      for (unsigned i = 1 + own.below(40); i > 0 && code.size() < 400; --i)
        append(rows[own.below(static_cast<unsigned>(rows.size()))], own, wide, code);
    }
    c.offset = static_cast<u16>(own.below(3) ? own.below(64) : 4096 - own.below(24));
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
  if (failed) test::failed("both engines agree", __FILE__, __LINE__, format("{} differ\n{}", failed, failures));
  if (seconds)
    fmt::print("{} cases, {} without an end, {} that overwrote themselves\n", pair.cases, pair.endless_cases, pair.overwriting_cases);
}
