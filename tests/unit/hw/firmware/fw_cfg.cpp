#include "hw/firmware/fw_cfg.h"

#include "src/base/bits.h"
#include "tests/unit/hw/test_machine.h"
#include "tests/unit/test.h"

namespace vmm::hw {
namespace {

struct Bench {
  MachineLocked locked;
  Ref<test::TestMachine> machine = test::TestMachine::make();
  Ref<FwCfg> f = make_device<FwCfg>(*machine);
  Bench() { CHECK(f->attach(nullptr).has_value()); }
  std::vector<u8> take(u16 key, usize n) {
    machine->out(0x510, 2, key);
    std::vector<u8> bytes(n);
    for (u8& b : bytes) b = static_cast<u8>(machine->in(0x511, 1));
    return bytes;
  }
  // Runs a transfer; the control word that is left.
  u32 dma(u32 control, u32 length, u64 address, u64 block_at = 0x1000) {
    u8 block[16];
    store_be<u32>(block, control), store_be<u32>(block + 4, length), store_be<u64>(block + 8, address);
    machine->memory().write(GuestPhys{block_at}, block);
    machine->out(0x514, 4, std::byteswap(static_cast<u32>(block_at >> 32)));
    machine->out(0x518, 4, std::byteswap(static_cast<u32>(block_at)));
    u8 left[4]{};
    machine->memory().read(GuestPhys{block_at}, left);
    return load_be<u32>(left);
  }
};

}  // namespace

TEST(fw_cfg_items_and_directory) {
  Bench b;
  CHECK(b.f->add_file("opt/b", {1, 2, 3}).has_value());
  CHECK(b.f->add_file("etc/a", {9}).has_value());
  CHECK(!b.f->add_file("etc/a", {}).has_value());
  CHECK(!b.f->add_file(std::string(56, 'x'), {}).has_value());
  CHECK(b.take(0, 4) == std::vector<u8>{'Q', 'E', 'M', 'U'});
  CHECK(b.take(1, 5) == std::vector<u8>{3, 0, 0, 0, 0});
  const auto d = b.take(0x19, 4 + 128 + 1);
  CHECK_EQ(load_be<u32>(d.data()), 2u);
  CHECK_EQ(std::string(reinterpret_cast<const char*>(&d[12])), std::string("etc/a"));  // sorted by name
  CHECK_EQ(load_be<u32>(&d[68]), 3u);
  CHECK(b.take(load_be<u16>(&d[72]), 4) == std::vector<u8>{1, 2, 3, 0});
  CHECK(b.take(0x7777, 2) == std::vector<u8>{0, 0});
}

TEST(fw_cfg_dma_reads_skips_and_zero_fills) {
  Bench b;
  b.f->add_item(0x8001, {10, 11, 12, 13});
  CHECK_EQ(static_cast<char>(b.machine->in(0x514, 1)), 'Q');
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 4, 1, 0), 0u);
  CHECK_EQ(b.dma(2, 5, 0x2000), 0u);
  u8 got[5];
  b.machine->memory().read(GuestPhys{0x2000}, got);
  CHECK(got[0] == 11 && got[2] == 13 && got[3] == 0 && got[4] == 0);
}

TEST(fw_cfg_dma_survives_hostile_transfers) {
  Bench b;
  b.f->add_item(0x8001, {1, 2});
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 2, 0xffff'ffff, 0x2000), 1u);                // past the end of RAM
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 2, 16, ~u64{0} - 3), 1u);                    // wraps
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 4, 0xffff'ffff, 0), 0u);                     // skips far
  CHECK_EQ(b.dma(4, 0xffff'ffff, 0), 0u);                                        // and farther
  CHECK_EQ(b.dma(2, 4, 0x2000), 0u);                                             // zeros from there
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 16, 2, 0x2000), 1u);                         // not writable
  b.machine->out(0x514, 4, 0xffff'ffff), b.machine->out(0x518, 4, 0xf0ff'ffff);  // control block nowhere
  b.machine->out(0x515, 1, 7), b.machine->out(0x516, 2, 7);
  // A transfer over its own control block.
  CHECK_EQ(b.dma(0x8001 << 16 | 8 | 2, 64, 0x0ff0), 0u);
}

TEST(fw_cfg_writable_file_calls_back) {
  Bench b;
  std::vector<u8> seen;
  CHECK(b.f->add_writable_file("etc/w", 4, [&](std::span<const u8> bytes) { seen.assign(bytes.begin(), bytes.end()); }).has_value());
  b.machine->memory().store(GuestPhys{0x3000}, 4, 0x44332211);
  CHECK_EQ(b.dma(0x4020u << 16 | 8 | 16, 4, 0x3000), 0u);
  CHECK(seen == std::vector<u8>{0x11, 0x22, 0x33, 0x44});
  CHECK_EQ(b.dma(0x4020u << 16 | 8 | 16, 5, 0x3000), 1u);
}

}  // namespace vmm::hw
