// Devices for tests: edu, pci-testdev, pc-testdev.
#include "tests/unit/hw/bench.h"

namespace vmm::test {

TEST(edu_factorial_and_dma) {
  DeviceBench bench{"edu", {{"addr", "3"}}};
  const u64 at = bench.place_bars(3)[0];
  CHECK_EQ(bench.read32(at), 0x010000edu);
  bench.write32(at + 4, 0x12345678);
  CHECK_EQ(bench.read32(at + 4), 0xedcba987u);
  bench.write32(at + 0x20, 0x80);
  bench.write32(at + 8, 10);
  CHECK_EQ(bench.read32(at + 0x20), 0x81u);
  bench.advance(1ms);
  CHECK_EQ(bench.read32(at + 8), 3628800u);
  CHECK_EQ(bench.read32(at + 0x24), 1u);
  CHECK(bench.line(16) || bench.line(17) || bench.line(18) || bench.line(19));
  bench.write32(at + 0x64, 1);
  CHECK(!bench.line(16) && !bench.line(17) && !bench.line(18) && !bench.line(19));
  bench.write32(0x100, 0xcafe);
  const auto move = [&](u64 from, u64 to, u64 command) {
    bench.write64(at + 0x80, from), bench.write64(at + 0x88, to), bench.write64(at + 0x90, 4), bench.write64(at + 0x98, command);
    bench.advance(1ms);
  };
  move(0x100, 0x40010, 1);
  move(0x40010, 0x200, 3);
  CHECK_EQ(bench.read32(0x200), 0xcafeu);
  move(0x100, 0x40ffe, 1);  // would leave the buffer: refused
  move(0x40ffc, 0x204, 7);
  CHECK_EQ(bench.read32(0x204), 0u);
  CHECK_EQ(bench.read32(at + 0x24), 0x100u);
}

TEST(pci_testdev_counts_matching_writes) {
  DeviceBench bench{"pci-testdev", {{"addr", "4"}}};
  const auto bars = bench.place_bars(4);
  auto& m = bench.machine().memory();
  m.store(GuestPhys{bars[0]}, 1, 2);  // datamatch
  CHECK_EQ(m.load(GuestPhys{bars[0] + 1}, 1), 1u);
  const u64 where = bars[0] + bench.read32(bars[0] + 4);
  const u8 what = static_cast<u8>(bench.read32(bars[0] + 8));
  m.store(GuestPhys{where}, 1, what);
  m.store(GuestPhys{where}, 1, what ^ 1);
  CHECK_EQ(bench.read32(bars[0] + 12), 1u);
}

TEST(pc_testdev_reads_back_and_raises_lines) {
  DeviceBench bench{"pc-testdev"};
  bench.machine().ports().store(GuestPhys{0xe0}, 4, 0x12345678);
  CHECK_EQ(bench.machine().ports().load(GuestPhys{0xe0}, 2), 0x5678u);
  CHECK_EQ(bench.in8(0xe8), 0x78);
  bench.out8(0x2005, 1);
  CHECK(bench.line(5));
  bench.out8(0x2005, 0);
  CHECK(!bench.line(5));
}

}  // namespace vmm::test
