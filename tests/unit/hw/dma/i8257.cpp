// The DMA controller: registers through the flip-flop, transfers, terminal count.
#include "hw/dma/i8257.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

TEST(dma_moves_what_was_programmed_and_masks_at_terminal_count) {
  DeviceBench bench{"i8257"};
  auto& dma = bench.device<hw::I8257>();
  bench.out8(0x0c, 0);
  bench.out8(0x04, 0x00), bench.out8(0x04, 0x10);  // channel 2: 0x1000
  bench.out8(0x05, 0x03), bench.out8(0x05, 0x00);  // four bytes
  bench.out8(0x81, 0x00);
  bench.out8(0x0b, 0x46);  // single, write to memory
  const u8 bytes[] = {1, 2, 3, 4, 5};
  CHECK_EQ(dma.write_memory(2, bytes), 0u);  // masked
  bool told = false;
  dma.connect(2, [&] { told = true; });
  dma.set_request(2, true);
  bench.out8(0x0a, 2);
  CHECK(told);
  CHECK_EQ(dma.write_memory(2, bytes), 4u);
  CHECK_EQ(bench.read32(0x1000), 0x04030201u);
  CHECK_EQ(bench.in8(0x08), 0x44);
  CHECK_EQ(bench.in8(0x08), 0x40);
  CHECK_EQ(bench.in8(0x0f), 0x0f);
}

TEST(dma_auto_init_starts_over) {
  DeviceBench bench{"i8257"};
  auto& dma = bench.device<hw::I8257>();
  bench.out8(0x0c, 0);
  bench.out8(0x02, 0x00), bench.out8(0x02, 0x20), bench.out8(0x03, 1), bench.out8(0x03, 0);
  bench.out8(0x0b, 0x59);
  bench.out8(0x0a, 1);
  u8 two[4];
  CHECK_EQ(dma.read_memory(1, two), 2u);
  CHECK_EQ(dma.read_memory(1, two), 2u);
  bench.out8(0x0c, 0);
  CHECK_EQ(bench.in8(0x02) | bench.in8(0x02) << 8, 0x2000);
}

}  // namespace vmm::test
