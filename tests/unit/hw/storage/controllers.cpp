// AHCI, NVMe and IDE controllers as a driver sees them: transfers both ways, what is refused, full disks, and resets that take back what
// the drive has not finished.
#include <cerrno>

#include "tests/unit/hw/storage/disk_benches.h"

namespace vmm::test {

namespace {
std::vector<u8> pattern(usize bytes, u8 seed) {
  std::vector<u8> out(bytes);
  for (usize i = 0; i < bytes; i++) out[i] = static_cast<u8>(seed + i * 7 + i / 512);
  return out;
}
bool on_disk(BenchDisk& disk, u64 sector, std::span<const u8> bytes) {
  return std::ranges::equal(bytes, std::span{disk->bytes}.subspan(sector * 512, bytes.size()));
}
}  // namespace

// --- AHCI

TEST(ahci_moves_data_and_says_how_much) {
  AhciBench b;
  const auto data = pattern(2048, 1);
  put(b.bench, 0x8000, data);
  b.issue(0, {.command = 0x35, .lba = 5, .count = 4}, 0x8000, 2048, true);
  run(b.bench);
  CHECK(on_disk(b.disk, 5, data));
  CHECK_EQ(b.port(0x38), 0u);
  CHECK_EQ(b.port(0x20), 0x50u);
  CHECK_EQ(b.bench.read32(AhciBench::list + 4), 2048u);
  CHECK_EQ(b.bench.read32(AhciBench::received + 0x40) & 0xff, 0x34u);  // a register FIS to the host
  b.issue(3, {.command = 0x25, .lba = 5, .count = 4}, 0x9000, 2048);
  run(b.bench);
  CHECK(get(b.bench, 0x9000, 2048) == data);
  // By programmed I/O, which a driver sees as DMA with another FIS.
  b.issue(4, {.command = 0x24, .lba = 6, .count = 1}, 0xa000, 512);
  run(b.bench);
  CHECK(get(b.bench, 0xa000, 512) == std::vector<u8>(data.begin() + 512, data.begin() + 1024));
  CHECK_EQ(b.bench.read32(AhciBench::received + 0x20) & 0xff, 0x5fu);
}

TEST(ahci_serves_queued_commands_in_any_order) {
  AhciBench b;
  const auto first = pattern(512, 3), second = pattern(512, 9);
  put(b.bench, 0x8000, first), put(b.bench, 0x8200, second);
  b.disk->hold = true;
  b.issue(9, {.command = 0x61, .lba = 1}, 0x8000, 512, true);
  b.issue(2, {.command = 0x61, .lba = 2}, 0x8200, 512, true);
  run(b.bench);
  CHECK_EQ(b.port(0x34), 1u << 9 | 1u << 2);
  b.disk->go_on();
  run(b.bench);
  CHECK_EQ(b.port(0x34), 0u);
  CHECK(on_disk(b.disk, 1, first) && on_disk(b.disk, 2, second));
  CHECK_EQ(b.bench.read32(AhciBench::received + 0x58) & 0xff, 0xa1u);  // set device bits
}

TEST(ahci_refuses_what_is_not_there) {
  AhciBench b;
  b.issue(0, {.command = 0x25, .lba = 127, .count = 2}, 0x8000, 1024);  // the disk has 128 sectors
  run(b.bench);
  CHECK_EQ(b.port(0x20), 0x1051u);  // error, id not found
  CHECK(b.port(0x10) & 1u << 30);
  b.start();
  b.issue(1, {.command = 0x25, .lba = 0, .count = 2}, 0x8000, 512);  // a list that is too short
  run(b.bench);
  CHECK_EQ(b.port(0x20) & 1, 1u);
  b.start();
  b.issue(2, {.command = 0xfe});
  run(b.bench);
  CHECK_EQ(b.port(0x20), 0x0451u);
}

// What the drive reads after a reset does not reach memory that is the driver's again, and no write starts before an older one has ended.
TEST(ahci_reset_takes_back_what_is_under_way) {
  for (const bool stopped : {false, true}) {
    AhciBench b;
    const auto mark = pattern(512, 77), fresh = pattern(512, 5);
    b.disk->hold = true;
    b.issue(0, {.command = 0x25, .lba = 0}, 0x8000, 512);
    run(b.bench);
    put(b.bench, 0x8000, mark);
    if (stopped)
      b.port(0x18, 0x10 | 6);  // only the list is stopped
    else
      b.comreset();
    b.start();
    put(b.bench, 0x9000, fresh);
    b.issue(0, {.command = 0x35, .lba = 0}, 0x9000, 512, true);
    run(b.bench);
    CHECK_EQ(b.port(0x38), 1u);
    b.disk->go_on();
    run(b.bench);
    CHECK(get(b.bench, 0x8000, 512) == mark);
    CHECK(on_disk(b.disk, 0, fresh));
    CHECK_EQ(b.port(0x38), 0u);
    CHECK_EQ(b.port(0x20), 0x50u);
  }
}

// --- NVMe

TEST(nvme_moves_data_by_pages_and_lists) {
  NvmeBench b;
  const auto data = pattern(12 * KiB, 2);
  put(b.bench, 0x8000, data);
  // Three pages: the first by itself, the others by a list at 0x5000.
  b.bench.write64(0x5000, 0x9000), b.bench.write64(0x5008, 0xa000);
  b.send(1, {.opcode = 1, .prp1 = 0x8000, .prp2 = 0x5000, .w10 = 8, .w12 = 23});
  CHECK_EQ(*b.answer(1), 0u);
  CHECK(on_disk(b.disk, 8, data));
  b.send(1, {.opcode = 2, .prp1 = 0xc200, .prp2 = 0xd000, .w10 = 8, .w12 = 7});  // from the midst of a page
  CHECK_EQ(*b.answer(1), 1u);
  CHECK(get(b.bench, 0xc200, 4 * KiB) == std::vector<u8>(data.begin(), data.begin() + 4 * KiB));
  b.send(1, {.opcode = 5, .prp1 = 0x8000, .w10 = 8, .w12 = 7});  // compare
  CHECK_EQ(*b.answer(1), 2u);
  b.send(1, {.opcode = 5, .prp1 = 0x9000, .w10 = 8, .w12 = 7});
  CHECK_EQ(*b.answer(1), 3u | (0x4000u | 0x285) << 16);
  b.send(1, {.opcode = 8, .w10 = 8, .w12 = 0});  // zeros
  CHECK_EQ(*b.answer(1), 4u);
  CHECK(on_disk(b.disk, 8, std::vector<u8>(512)));
  b.bench.write32(0x8000, 0), b.bench.write32(0x8004, 16), b.bench.write64(0x8008, 8);
  b.send(1, {.opcode = 9, .prp1 = 0x8000, .w10 = 0, .w11 = 4});  // deallocate
  CHECK_EQ(*b.answer(1), 5u);
  CHECK_EQ(b.disk->discarded, 16u * 512);
}

TEST(nvme_refuses_what_is_not_there) {
  NvmeBench b;
  struct {
    NvmeBench::Command command;
    u32 status;
  } rows[] = {
      {{.opcode = 2, .prp1 = 0x8000, .w10 = 127, .w12 = 1}, 0x80},       // past the end
      {{.opcode = 2, .prp1 = 0x8000, .w10 = ~0u, .w11 = ~0u}, 0x80},     // far past it
      {{.opcode = 2, .space = 2, .prp1 = 0x8000}, 0x0b},                 // another namespace
      {{.opcode = 2, .prp1 = 0x8001}, 0x04},                             // an odd address
      {{.opcode = 2, .prp1 = 0x8000, .prp2 = 0x9004, .w12 = 15}, 0x04},  // a page that is none
      {{.opcode = 2, .flags = 0x40, .prp1 = 0x8000}, 0x02},              // a scatter-gather list
      {{.opcode = 0x7f, .prp1 = 0x8000}, 0x01},
  };
  u32 id = 0;
  for (const auto& [command, status] : rows) {
    b.send(1, command);
    CHECK_EQ(*b.answer(1), id++ % NvmeBench::entries | (0x4000u | status) << 16);
  }
}

TEST(nvme_reset_takes_back_what_is_under_way) {
  NvmeBench b;
  const auto mark = pattern(512, 77), fresh = pattern(512, 5);
  b.disk->hold = true;
  b.send(1, {.opcode = 2, .prp1 = 0x8000});
  put(b.bench, 0x8000, mark);
  b.bench.write32(b.bar + 0x14, 0);
  CHECK_EQ(b.status() & 1, 0u);
  // Nothing is taken off the new queues before the old command has ended.
  for (u64 at = NvmeBench::admin; at < 0x5000; at += 4) b.bench.write32(at, 0);
  b.bench.write32(b.bar + 0x14, 1 | 6 << 16 | 4 << 20);
  std::array<u8, 64> identify{6, 0, 9};
  store_le<u64>(&identify[24], u64{0xb000}), store_le<u32>(&identify[40], u32{1});
  put(b.bench, NvmeBench::admin, identify);
  b.bench.write32(b.bar + 0x1000, 1);
  run(b.bench);
  CHECK_EQ(b.bench.read32(NvmeBench::admin_done + 12), 0u);
  b.disk->go_on();
  run(b.bench);
  CHECK(get(b.bench, 0x8000, 512) == mark);
  CHECK_EQ(b.bench.read32(NvmeBench::admin_done + 12), 9u | 1u << 16);
  CHECK_EQ(b.bench.read32(NvmeBench::io_done + 12), 0u);
}

TEST(nvme_queue_is_gone_when_its_commands_have_ended) {
  NvmeBench b;
  b.disk->hold = true;
  b.send(1, {.opcode = 1, .prp1 = 0x8000, .w10 = 4});
  b.send(0, {.opcode = 0, .w10 = 1});  // delete submission queue 1
  CHECK(!b.answer(0));
  b.disk->go_on();
  run(b.bench);
  CHECK_EQ(*b.answer(1), 0u);
  CHECK_EQ(*b.answer(0), 2u);
  b.send(0, {.opcode = 0, .w10 = 1});
  CHECK_EQ(*b.answer(0), 3u | (0x4000u | 0x101) << 16);
}

// --- IDE

TEST(ide_moves_data_both_ways) {
  IdeBench b;
  const auto data = pattern(1024, 8);
  b.command(0x30, 7, 2);
  for (usize i = 0; i < data.size(); i += 2) {
    b.bench.machine().ports().store(GuestPhys{0x1f0}, 2, load_le<u16>(&data[i]));
    run(b.bench);
  }
  CHECK_EQ(b.status(), 0x50);
  CHECK(on_disk(b.disk, 7, data));
  b.command(0xc8, 7, 2);
  b.start_master(0x8000, 1024, true);
  run(b.bench);
  CHECK(get(b.bench, 0x8000, 1024) == data);
  CHECK_EQ(b.bench.in8(static_cast<u16>(b.master + 2)) & 7, 4);  // idle, interrupt
  b.command(0x20, 8);
  run(b.bench);
  std::vector<u8> read(512);
  for (usize i = 0; i < read.size(); i += 2) store_le<u16>(&read[i], static_cast<u16>(b.bench.machine().ports().load(GuestPhys{0x1f0}, 2)));
  CHECK(std::ranges::equal(read, std::span{data}.subspan(512)));
  b.command(0xc8, 127, 2);
  b.start_master(0x8000, 1024, true);
  run(b.bench);
  CHECK_EQ(b.status(), 0x51);
  CHECK_EQ(b.bench.in8(0x1f1), 0x10);
}

TEST(ide_reset_takes_back_what_is_under_way) {
  IdeBench b;
  const auto mark = pattern(512, 77);
  b.disk->bytes[0] = 1;
  b.disk->hold = true;
  b.command(0xc8, 0);
  b.start_master(0x8000, 512, true);
  run(b.bench);
  put(b.bench, 0x8000, mark);
  b.soft_reset();
  b.bench.out8(b.master, 0);
  // The next command waits for the old one, while its bus master runs already.
  b.command(0xc8, 1);
  b.start_master(0x9000, 512, true);
  run(b.bench);
  CHECK(b.status() & 0x80);
  b.disk->bytes[512] = 2;
  b.disk->go_on();
  run(b.bench);
  CHECK(get(b.bench, 0x8000, 512) == mark);
  CHECK_EQ(b.status(), 0x50);
  CHECK_EQ(get(b.bench, 0x9000, 1)[0], 2);
}

}  // namespace vmm::test
