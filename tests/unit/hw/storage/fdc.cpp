// The floppy controller as a driver sees it: by DMA and by the data register, with media of several formats.
#include <fmt/ranges.h>

#include <cerrno>

#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/saved.h"

namespace vmm::test {

namespace {
constexpr u64 buffer_at = 0x4000;

struct Floppy {
  explicit Floppy(u64 bytes = 1440 * KiB, bool read_only = false) : disk(bench, "disk", bytes, read_only) {
    bench.add("i8257");
    bench.add("isa-fdc");
    Value v = Value::object();
    v.set("drive", "disk");
    drive = OK(hw::create_device(bench.machine(), {.driver = "floppy", .properties = v, .place = hw::DeviceSpec::Place::unattached}));
    bench.out8(0x3f2, 0x1c);
    bench.out8(0x3f7, bytes == 720 * KiB ? 2 : 0);
    for (unsigned i = 0; i < 4; i++) (void)ask({8});
    (void)ask({3, 0xaf, 2});
  }
  // Sends a command; its results.
  std::vector<u8> ask(std::vector<u8> bytes) {
    for (const u8 b : bytes) {
      CHECK_EQ(bench.in8(0x3f4) & 0xc0, 0x80);
      bench.out8(0x3f5, b);
    }
    return results();
  }
  std::vector<u8> results() {
    run();
    std::vector<u8> out;
    while ((bench.in8(0x3f4) & 0xf0) == 0xd0) out.push_back(bench.in8(0x3f5));
    return out;
  }
  void run() {
    while (bench.machine().main_loop().run_once(false)) {
    }
  }
  // Channel 2 of the DMA controller, `bytes` from buffer_at.
  void program(bool to_memory, u16 bytes) {
    bench.out8(0x0c, 0);
    bench.out8(0x04, buffer_at & 0xff), bench.out8(0x04, buffer_at >> 8);
    bench.out8(0x05, static_cast<u8>(bytes - 1)), bench.out8(0x05, static_cast<u8>((bytes - 1) >> 8));
    bench.out8(0x81, 0);
    bench.out8(0x0b, to_memory ? 0x46 : 0x4a);
    bench.out8(0x0a, 2);
  }
  std::vector<u8> transfer(u8 command, u8 cylinder, u8 head, u8 sector, u8 last, u16 bytes) {
    program((command & 0x1f) == 6, bytes);
    return ask({command, static_cast<u8>(head << 2), cylinder, head, sector, 2, last, 0x1b, 0xff});
  }
  u8 byte(u64 at) { return static_cast<u8>(bench.machine().memory().load(GuestPhys{at}, 1)); }
  DeviceBench bench;
  BenchDisk disk;
  Ref<hw::Device> drive;
};
using Bytes = std::vector<u8>;
}  // namespace

TEST(floppy_moves_sectors_by_dma) {
  Floppy f;
  f.disk->bytes[512 * (18 * 2 * 5 + 18 + 2)] = 0x77;  // cylinder 5, head 1, sector 3
  f.disk->bytes[512 * (18 * 2 * 5 + 18 + 3) + 511] = 0x78;
  CHECK_EQ(f.transfer(0xe6, 5, 1, 3, 18, 1024), (Bytes{4, 0, 0, 5, 1, 5, 2}));
  CHECK(f.bench.line(6) == false);
  CHECK_EQ(f.byte(buffer_at), 0x77);
  CHECK_EQ(f.byte(buffer_at + 1023), 0x78);
  f.bench.machine().memory().store(GuestPhys{buffer_at}, 1, 0x42);
  CHECK_EQ(f.transfer(0xc5, 0, 0, 1, 18, 512), (Bytes{0, 0, 0, 0, 0, 2, 2}));
  CHECK_EQ(f.disk->bytes[0], 0x42);
  // Both heads, to the end of the cylinder: the next one is named.
  CHECK_EQ(f.transfer(0xe6, 7, 0, 18, 18, 1024), (Bytes{4, 0, 0, 7, 1, 2, 2}));
  CHECK_EQ(f.transfer(0xe6, 7, 1, 18, 18, 512), (Bytes{0, 0, 0, 8, 0, 1, 2}));
  // More asked for than there is: end of cylinder.
  CHECK_EQ(f.transfer(0x46, 7, 1, 18, 18, 1024), (Bytes{0x44, 0x80, 0, 8, 1, 1, 2}));
}

TEST(floppy_moves_sectors_by_the_data_register) {
  Floppy f;
  (void)f.ask({3, 0xaf, 3});  // non-DMA
  for (const u8 b : Bytes{0x45, 0, 0, 0, 2, 2, 2, 0x1b, 0xff}) f.bench.out8(0x3f5, b);
  f.run();
  CHECK(f.bench.line(6));
  for (unsigned i = 0; i < 512; i++) {
    CHECK_EQ(f.bench.in8(0x3f4), 0xb0);
    f.bench.out8(0x3f5, static_cast<u8>(i));
  }
  CHECK_EQ(f.results(), (Bytes{0x40, 0x80, 0, 1, 0, 1, 2}));
  CHECK_EQ(f.disk->bytes[512 + 200], 200);
  for (const u8 b : Bytes{0x46, 0, 0, 0, 2, 2, 2, 0x1b, 0xff}) f.bench.out8(0x3f5, b);
  f.run();
  for (unsigned i = 0; i < 512; i++) {
    CHECK_EQ(f.bench.in8(0x3f4), 0xf0);
    CHECK_EQ(f.bench.in8(0x3f5), i & 0xff);
  }
  CHECK_EQ(f.results(), (Bytes{0x40, 0x80, 0, 1, 0, 1, 2}));
}

TEST(floppy_waits_for_its_dma_channel) {
  Floppy f;
  f.bench.out8(0x0a, 6);  // masked
  f.disk->bytes[0] = 0x31;
  CHECK_EQ(f.ask({0xe6, 0, 0, 0, 1, 2, 18, 0x1b, 0xff}), Bytes{});
  CHECK_EQ(f.bench.in8(0x3f4) & 0xf0, 0x10);
  f.program(true, 512);
  CHECK_EQ(f.results(), (Bytes{0, 0, 0, 0, 0, 2, 2}));
  CHECK_EQ(f.byte(buffer_at), 0x31);
}

TEST(floppy_reset_and_seek_are_told) {
  Floppy f;
  f.bench.out8(0x3f2, 0x18);
  CHECK(!f.bench.line(6));
  f.bench.out8(0x3f2, 0x1c);
  CHECK(f.bench.line(6));
  for (const u8 unit : {0, 1, 2, 3}) CHECK_EQ(f.ask({8}), (Bytes{static_cast<u8>(0xc0 | unit), 0}));
  CHECK_EQ(f.ask({8}), Bytes{0x80});
  CHECK_EQ(f.bench.in8(0x3f7), 0x80);  // a new medium
  CHECK_EQ(f.ask({0x0f, 0, 9}), Bytes{});
  CHECK(f.bench.line(6));
  CHECK_EQ(f.ask({8}), (Bytes{0x20, 9}));
  CHECK(!f.bench.line(6));
  CHECK_EQ(f.bench.in8(0x3f7), 0);
  CHECK_EQ(f.ask({0x07, 0}), Bytes{});
  CHECK_EQ(f.ask({8}), (Bytes{0x20, 0}));
  CHECK_EQ(f.ask({0x07, 1}), Bytes{});  // no such drive
  CHECK_EQ(f.ask({8}), (Bytes{0x71, 0}));
  CHECK_EQ(f.ask({0x10}), Bytes{0x90});
  CHECK_EQ(f.ask({0x1f}), Bytes{0x80});
  CHECK_EQ(f.ask({4, 0}), Bytes{0x38});
}

TEST(floppy_refuses_what_a_drive_cannot_do) {
  {
    Floppy f{1440 * KiB, true};
    CHECK_EQ(f.transfer(0xc5, 0, 0, 1, 18, 512), (Bytes{0x40, 2, 0, 0, 0, 1, 2}));
    CHECK_EQ(f.transfer(0xe6, 0, 0, 19, 19, 512), (Bytes{0x40, 4, 0, 0, 0, 19, 2}));
    CHECK_EQ(f.transfer(0xe6, 80, 0, 1, 18, 512)[1], 4);
    f.disk->fail_with = EIO;
    CHECK_EQ(f.transfer(0xe6, 0, 0, 1, 18, 512)[1], 0x20);
  }
  Floppy f{720 * KiB};
  CHECK_EQ(f.ask({0x4a, 0}), (Bytes{0, 0, 0, 0, 0, 1, 2}));
  f.bench.out8(0x3f7, 0);  // a data rate at which it is noise
  CHECK_EQ(f.ask({0x4a, 0}), (Bytes{0x40, 1, 0, 0, 0, 1, 2}));
}

TEST(floppy_formats_a_track) {
  Floppy f{720 * KiB};
  std::ranges::fill(f.disk->bytes, 1);
  std::vector<u8> ids;
  for (u8 n = 1; n <= 9; n++) ids.insert(ids.end(), {0, 0, n, 2});
  f.bench.machine().memory().write(GuestPhys{buffer_at}, ids);
  f.program(false, static_cast<u16>(ids.size()));
  CHECK_EQ(f.ask({0x4d, 0, 2, 9, 0x50, 0xf6})[0], 0);
  CHECK_EQ(f.disk->bytes[0], 0xf6);
  CHECK_EQ(f.disk->bytes[9 * 512 - 1], 0xf6);
  CHECK_EQ(f.disk->bytes[9 * 512], 1);
}

TEST(floppy_takes_stopped_requests_along) {
  std::optional<Saved> saved;
  {
    Floppy f;
    f.bench.machine().memory().store(GuestPhys{buffer_at + 512}, 1, 0x5a);
    f.disk->fail_with = ENOSPC;
    CHECK_EQ(f.transfer(0xc5, 0, 0, 1, 18, 1024), Bytes{});
    saved.emplace(f.bench);
  }
  Floppy f;
  saved->load(f.bench);
  f.bench.machine().run_state().start();
  CHECK_EQ(f.results(), (Bytes{0, 0, 0, 0, 0, 3, 2}));
  CHECK_EQ(f.disk->bytes[512], 0x5a);
  f.bench.machine().run_state().stop(vm::Status::paused);
}

}  // namespace vmm::test
