// E1's x87, MMX and vector rows against the host CPU.
#include <sys/mman.h>
#include <unistd.h>

#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/run/fault.h"
#include "accel/tcg/run/first_tier.h"
#include "tests/unit/accel/tcg/guest/x86/simd_cases.h"

namespace vmm::tcg {
namespace {

using x86::ModeKey;
using x86::simd_cases::Bench;

constexpr u64 code_at = 0x5000'0000;

// Guest data lie at their host addresses; the tier reaches them by a second mapping, since an addend of zero means a miss. Code is
// a page of its own. What the tier does not take, the interpreter does.
struct Identity final : FirstTierGuest {
  static constexpr usize bench_bytes = (sizeof(Bench) + 4095) & ~usize{4095};
  u8 *alias, *data;  // alias is set while data is
  Bench& bench;
  CodePages pages;
  BlockStore store{pages};
  std::unique_ptr<FirstTier> tier;
  std::unique_ptr<FirstTierCpu> engine;
  alignas(4096) u8 code[4096];
  std::span<const u8> bytes;
  unsigned interpreted = 0, total = 0;
  static inline Identity* self = nullptr;

  static bool fetch(GuestCpu& g, bool, Code& c) {
    if (*g.ip < code_at || *g.ip >= code_at + 4096) return g.fault = true, false;
    c.bytes = {self->code + (*g.ip - code_at), 4096 - (*g.ip & 4095)};
    c.page = 100, c.offset = *g.ip & 4095;
    return true;
  }
  static constexpr ModeKey key{x86::simd_cases::key64.raw | ModeKey::cpl0};
  GuestOps ops{.name = "identity", .fetch = fetch, .key = [](const GuestCpu&) { return key.raw; }, .translate = x86::translate};

  MemoryOps memory{.read = x86::simd_cases::read_host, .write = x86::simd_cases::write_host, .probe = probe};

  static u8* map_bench(u8*& alias) {
    const int fd = memfd_create("bench", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, bench_bytes) == 0);
    u8* const at = static_cast<u8*>(mmap(nullptr, bench_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    // Every page apart from the next, so that no access to two of them goes by one addend.
    alias = static_cast<u8*>(mmap(nullptr, 2 * bench_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (usize page = 0; page < bench_bytes; page += 4096)
      mmap(alias + 2 * page, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(page));
    close(fd);
    return at;
  }
  Identity() : data(map_bench(alias)), bench(*new(data) Bench) {
    self = this;
    bench.cpu.memory = &memory;
    (void)OK([]() -> Result<int> {
      TRY(prepare_signal_stack());
      return 0;
    }());
    tier = OK(FirstTier::make(store, 64 * MiB));
    tier->trust_all_memory();
    engine = std::make_unique<FirstTierCpu>(*tier, bench.cpu, ops, *this, bench.state, 0);
    (void)OK([this]() -> Result<int> {
      TRY(engine->start());
      return 0;
    }());
  }
  static bool probe(GuestCpu&, u64 address, u16, PageView& view) {
    const u64 page = (address & ~u64{4095}) - reinterpret_cast<u64>(self->data);
    if (page >= bench_bytes) return false;
    return view = {.host = self->alias + 2 * page, .page = 200 + (page >> 12), .writable = true}, true;
  }
  void step() override {
    const u64 at = bench.state.rip - code_at;
    if (at >= bytes.size()) {
      bench.cpu.leave = true;
      return;
    }
    ++interpreted;
    bench.step(bytes.subspan(at), key);
  }
  ~Identity() override {
    engine.reset();
    bench.~Bench();
    munmap(data, bench_bytes), munmap(alias, 2 * bench_bytes);
  }
  bool takes(u64) const override { return true; }
  bool code64(u64) const override { return true; }
  bool refuses(u64 target) const override { return static_cast<u64>(static_cast<i64>(target << 16) >> 16) != target; }
  Tables::Which context() const override { return Tables::KU; }
  void segment_bases(u64 (&bases)[6]) const override { std::memset(bases, 0, sizeof bases); }
  bool global_code(u64) override { return false; }
  void drop_writes(u64) override {}

  bool run(std::span<const u8> instruction) {
    bytes = instruction, ++total;
    store.invalidate_all();
    std::memcpy(code, bytes.data(), bytes.size());
    code[bytes.size()] = 0xf4;
    bench.state.rip = code_at;
    bench.cpu.leave = bench.cpu.fault = false;
    for (unsigned i = 0; i < 10 && !bench.cpu.leave && !bench.cpu.fault; ++i) (void)engine->run();
    return !bench.cpu.fault;
  }
};

TEST(first_tier_loads_and_stores_across_pages) {
  auto guest = std::make_unique<Identity>();
  x86::simd_cases::Bench& bench = guest->bench;
  u8* const edge = reinterpret_cast<u8*>((reinterpret_cast<u64>(bench.memory) + 4095) & ~u64{4095});
  if (edge + 64 > bench.memory + sizeof bench.memory) test::skip("the page ends elsewhere");
  for (unsigned before = 1; before < 32; ++before) {
    u8* const at = edge - before;
    for (int i = 0; i < 32; ++i) at[i] = static_cast<u8>(i * 7 + before);
    bench.state.gpr[x86::rbx] = reinterpret_cast<u64>(at);
    CHECK(guest->run(std::array<u8, 4>{0xc5, 0xfc, 0x10, 0x0b}));  // vmovups ymm1, [rbx]
    CHECK(std::memcmp(bench.state.vector[1].lane.data(), at, 32) == 0);
    CHECK(guest->run(std::array<u8, 3>{0x48, 0x8b, 0x03}));  // mov rax, [rbx]
    CHECK(std::memcmp(&bench.state.gpr[x86::rax], at, 8) == 0);
    bench.state.vector[1].lane = {before, 2, 3, 4};
    CHECK(guest->run(std::array<u8, 4>{0xc5, 0xfc, 0x11, 0x0b}));  // vmovups [rbx], ymm1
    CHECK(std::memcmp(bench.state.vector[1].lane.data(), at, 32) == 0);
  }
}

// Sequences, so that the x87 travels between the host's registers and the state: by misses, by interpreted instructions, by blocks.
TEST(first_tier_keeps_the_x87_over_whatever_happens_between) {
  using namespace x86::simd_cases;
  test::HostCpu* const host = test::HostCpu::get();
  if (!host) test::skip("no x86-64 host with AVX2");
  auto guest = std::make_unique<Identity>();
  x86::simd_cases::Bench& bench = guest->bench;
  Random r;
  const auto rows = std::span(x86::rows_x87);
  for (unsigned round = 0; round < 2000; ++round) {
    std::vector<u8> bytes;
    for (unsigned i = 0; i < 10; ++i) {
      const x86::Row& row = rows[r.below(rows.size())];
      if (needs_own_test(row.name) || std::string_view(row.name).contains("env") || std::string_view(row.name).contains("save") ||
          row.name == std::string_view("fldcw") || row.name == std::string_view("frstor"))
        continue;
      for (const bool memory : {false, true}) {
        if (!takes(row, memory)) continue;
        const auto one = encode({.row = &row, .map = x86::Map::one, .memory = memory, .l = false, .w = false, .aliased = false}, 0, false);
        bytes.insert(bytes.end(), one.begin(), one.end());
      }
      switch (r.below(4)) {
        case 0: bytes.insert(bytes.end(), {0x48, 0x83, 0xc3, 0x08}); break;  // add rbx, 8
        case 1:
          bytes.insert(bytes.end(),
                       {0xd9, 0xb3, 0x00, 0x01, 0x00, 0x00, 0x48, 0x89, 0x83, 0x0c, 0x01, 0, 0, 0x48, 0x89, 0x83, 0x14, 0x01, 0, 0});
          break;                                                 // fnstenv; its pointers overwritten
        case 2: bytes.insert(bytes.end(), {0xeb, 0x00}); break;  // a block ends
        default: break;
      }
    }
    prepare(bench, r, {.row = &rows[0], .map = x86::Map::one, .memory = false, .l = false, .w = false, .aliased = false}, false);
    bench.state.mxcsr |= 0x1f80, bench.state.x87.fcw |= 0x3f, bench.state.x87.fsw &= 0x7f7f;
    test::HostState h = host_state(bench);
    std::vector<u8> old(bench.memory, bench.memory + sizeof bench.memory);
    CHECK_EQ(host->run(bytes, h), 0);
    const std::vector<u8> want(bench.memory, bench.memory + sizeof bench.memory);
    std::memcpy(bench.memory, old.data(), old.size());
    guest->engine->flush(false);
    CHECK(guest->run(bytes));
    if (const std::string d = differences(bench, h, true); !d.empty()) test::failed("state", __FILE__, __LINE__, d);
    CHECK(std::memcmp(bench.memory, want.data(), want.size()) == 0);
  }
}

TEST(first_tier_agrees_with_the_host_on_simd_rows) {
  auto guest = std::make_unique<Identity>();
  const auto outcome = x86::simd_cases::check_rows(guest->bench, [&](std::span<const u8> bytes) { return guest->run(bytes); });
  CHECK(outcome.ran + outcome.absent > 1000);
  CHECK(guest->interpreted < guest->total / 8);
}

}  // namespace
}  // namespace vmm::tcg
