// HPET: counter, one-shot and periodic comparators, level status, legacy replacement.
#include "hw/timer/hpet.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct H {
  DeviceBench bench;
  Ref<hw::Hpet> hpet = hw::make_device<hw::Hpet>(bench.machine());
  bool pit = true;
  H() {
    hpet->connect_gsi(bench);
    hpet->on_pit_enable([this](bool on) { pit = on; });
    OK(hpet->attach(nullptr));
    bench.machine().memory_root().add(hpet->region(), 0xfed00000);
  }
  ~H() { hpet->detach().start({}); }
  void w(u32 at, u64 v) { bench.write64(0xfed00000 + at, v); }
  u64 r(u32 at) { return bench.read64(0xfed00000 + at); }
};
}  // namespace

TEST(hpet_counts_hundred_megahertz) {
  H h;
  CHECK_EQ(h.r(0), 0x989680'8086a201u);
  h.bench.advance(1ms);
  CHECK_EQ(h.r(0xf0), 0u);
  h.w(0x10, 1);
  h.bench.advance(1ms);
  CHECK_EQ(h.r(0xf0), 100'000u);
  CHECK_EQ(h.bench.read32(0xfed000f0), 100'000u);
  h.w(0x10, 0);
  h.bench.advance(1ms);
  CHECK_EQ(h.r(0xf0), 100'000u);
  h.w(0xf0, 5);
  CHECK_EQ(h.r(0xf0), 5u);
}

TEST(hpet_one_shot_and_level_status) {
  H h;
  CHECK_EQ(h.r(0x140) >> 32, 4u);
  h.w(0x140, 2 << 9 | 1 << 2 | 1 << 1);
  h.w(0x10, 1);
  h.w(0x148, 100'000);
  h.bench.advance(999us);
  CHECK(!h.bench.line(2));
  h.bench.advance(2us);
  CHECK(h.bench.line(2));
  CHECK_EQ(h.r(0x20), 4u);
  h.w(0x20, 4);
  CHECK(!h.bench.line(2));
}

TEST(hpet_periodic_by_legacy_route) {
  H h;
  h.hpet->set_input(0, true);
  CHECK(h.bench.line(0));  // passed through
  h.w(0x10, 3);
  CHECK(!h.bench.line(0) && !h.pit);
  h.bench.edges(0);
  h.w(0x100, 1 << 8 | 1 << 6 | 1 << 3 | 1 << 2);
  h.bench.write32(0xfed00108, 100'000);
  h.bench.write32(0xfed00108, 100'000);
  for (int i = 0; i < 10; i++) h.bench.advance(1ms);
  const unsigned edges = h.bench.edges(0);
  CHECK(edges >= 9 && edges <= 10);
  h.w(0x10, 0);
  CHECK(h.pit);
}

}  // namespace vmm::test
