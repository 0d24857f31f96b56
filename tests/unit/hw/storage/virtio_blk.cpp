// virtio-blk as a driver sees it: what is written is read, and what goes wrong is told.
#include <cerrno>

#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/saved.h"
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {

namespace {
constexpr u64 header_at = 0x8000, data_at = 0x9000, status_at = 0x8100;

struct Disk {
  explicit Disk(std::vector<std::pair<std::string, Value>> more = {}, bool read_only = false, u64 features = 0x7fffffff)
      : disk(bench, "disk", 64 * KiB, read_only),
        device(bench.add("virtio-blk-pci", all(std::move(more)))),
        driver(bench, features & ~hw::virtio::event_idx) {}
  static std::vector<std::pair<std::string, Value>> all(std::vector<std::pair<std::string, Value>> p) {
    p.emplace_back("addr", "5"), p.emplace_back("drive", "disk");
    return p;
  }
  void send(u32 type, u64 sector, std::vector<GuestBuffer> data) {
    driver.store<u32>(header_at, type), driver.store<u32>(header_at + 4, 0), driver.store<u64>(header_at + 8, sector);
    driver.store<u8>(status_at, 0xee);
    std::vector<GuestBuffer> all{{header_at, 16}};
    all.insert(all.end(), data.begin(), data.end());
    all.push_back({status_at, 1, true});
    driver.add(0, all);
    driver.kick(0);
  }
  // Status, or 0xee while there is no answer.
  u8 ask(u32 type, u64 sector, std::vector<GuestBuffer> data) {
    send(type, sector, std::move(data));
    return answer();
  }
  u8 answer() {
    const auto u = driver.used(0);
    length = u ? u->length : 0;
    return driver.load<u8>(status_at);
  }
  DeviceBench bench;
  BenchDisk disk;
  hw::Device& device;
  VirtioDriver driver;
  u32 length = 0;
};
}  // namespace

TEST(virtio_blk_moves_sectors) {
  Disk d{{{"serial", "ABC-123"}}};
  CHECK_EQ(d.driver.config(0, 4), 128u);
  d.driver.store<u64>(data_at, 0x1122334455667788);
  CHECK_EQ(d.ask(1, 3, {{data_at, 512}, {data_at + 512, 512}}), 0);
  CHECK_EQ(d.disk->bytes[3 * 512], 0x88);
  d.driver.store<u64>(data_at, 0);
  CHECK_EQ(d.ask(0, 3, {{data_at, 512, true}}), 0);
  CHECK_EQ(d.length, 513u);
  CHECK_EQ(d.driver.load<u64>(data_at), 0x1122334455667788u);
  CHECK_EQ(d.ask(4, 0, {}), 0);
  CHECK_EQ(d.disk->flushes, 1u);
  CHECK_EQ(d.ask(8, 0, {{data_at, 20, true}}), 0);
  CHECK_EQ(d.driver.load<u32>(data_at), 0x2d434241u);
  CHECK_EQ(d.ask(99, 0, {}), 2);
  CHECK_EQ(d.disk.backend().statistics(block::Operation::write).bytes.load(), 1024u);
}

TEST(virtio_blk_refuses_what_lies_outside) {
  Disk d;
  CHECK_EQ(d.ask(0, 128, {{data_at, 512, true}}), 1);
  CHECK_EQ(d.ask(1, 127, {{data_at, 1024}}), 1);
  CHECK_EQ(d.ask(0, ~u64{0}, {{data_at, 512, true}}), 1);
  CHECK_EQ(d.ask(0, u64{1} << 55, {{data_at, 512, true}}), 1);
  CHECK_EQ(d.ask(0, 0, {{data_at, 100, true}}), 1);
  CHECK_EQ(d.ask(1, 0, {{0xd000'0000, 512}}), 1);  // nothing is there
  CHECK_EQ(d.ask(0, 0, {}), 0);                    // no data, no harm
  CHECK_EQ(d.driver.status(), 0x0f);
  // Without a header the device cannot go on.
  d.driver.add(0, {{status_at, 1, true}});
  d.driver.kick(0);
  CHECK_EQ(d.driver.status(), 0x4f);
}

TEST(virtio_blk_read_only) {
  Disk d{{}, true};
  CHECK(d.driver.offered() & 0x20);
  CHECK_EQ(d.ask(1, 0, {{data_at, 512}}), 1);
  CHECK_EQ(d.ask(0, 0, {{data_at, 512, true}}), 0);
}

TEST(virtio_blk_discards_and_zeroes) {
  Disk d;
  std::ranges::fill(d.disk->bytes, 7);
  const auto range = [&](u32 type, u64 sector, u32 sectors, u32 flags) {
    d.driver.store<u64>(data_at, sector), d.driver.store<u32>(data_at + 8, sectors), d.driver.store<u32>(data_at + 12, flags);
    return d.ask(type, 0, {{data_at, 16}});
  };
  CHECK_EQ(range(11, 8, 16, 0), 0);
  CHECK_EQ(d.disk->discarded, 8192u);
  CHECK_EQ(range(13, 8, 1, 1), 0);
  CHECK_EQ(d.disk->bytes[8 * 512], 0);
  CHECK_EQ(d.disk->bytes[9 * 512], 7);
  CHECK_EQ(range(11, 8, 16, 1), 2);   // unmap is for zeroes only
  CHECK_EQ(range(13, 8, 16, 8), 2);   // unknown
  CHECK_EQ(range(13, 127, 2, 0), 1);  // outside
  CHECK_EQ(range(13, ~u64{0}, 2, 0), 1);
  CHECK_EQ(range(11, 0, 0x400000, 0), 1);
  CHECK_EQ(d.ask(11, 0, {{data_at, 7}}), 2);
}

TEST(virtio_blk_stops_and_tries_again) {
  Disk d{{{"werror", "stop"}, {"rerror", "report"}}};
  d.disk->fail_with = EIO;
  CHECK_EQ(d.ask(0, 0, {{data_at, 512, true}}), 1);
  d.driver.store<u8>(data_at, 0x5a);
  CHECK_EQ(d.ask(1, 0, {{data_at, 512}}), 0xee);  // kept, until the machine runs again
  d.disk->fail_with = 0;
  CHECK_EQ(d.disk->bytes[0], 0);
  d.device.machine().run_state().start();
  d.driver.run();
  CHECK_EQ(d.answer(), 0);
  CHECK_EQ(d.disk->bytes[0], 0x5a);
  d.device.machine().run_state().stop(vm::Status::paused);
}

// With each kind of ring: the stopped request is in the state, and so are the answers that wait for it (in-order use).
TEST(virtio_blk_takes_stopped_requests_along) {
  for (const bool packed : {false, true})
    for (const bool in_order : {false, true}) {
      const u64 features =
          hw::virtio::version_1 | (packed ? hw::virtio::ring_packed : 0) | (in_order ? hw::virtio::in_order : 0) | 0x7fffffff;
      const std::vector<std::pair<std::string, Value>> properties{{"werror", "stop"}, {"packed", packed}, {"in_order", in_order}};
      std::optional<Saved> saved;
      {
        Disk d{properties, false, features};
        d.driver.store<u8>(data_at, 0x5a);
        d.disk->fail_with = ENOSPC;
        CHECK_EQ(d.ask(1, 3, {{data_at, 512}}), 0xee);
        d.disk->fail_with = 0;
        d.driver.store<u32>(0xa000, 4), d.driver.store<u64>(0xa008, 0);  // a flush that overtakes it
        d.driver.add(0, {{0xa000, 16}, {0xa100, 1, true}});
        d.driver.kick(0);
        CHECK_EQ(bool(d.driver.used(0)), !in_order);
        saved.emplace(d.bench);
      }
      Disk d{properties, false, features};
      saved->load(d.bench);
      saved.emplace(d.bench);  // and once more, before it ran
      saved->load(d.bench);
      d.driver.run();
      CHECK_EQ(d.disk->bytes[3 * 512], 0);
      d.device.machine().run_state().start();
      d.driver.run();
      CHECK_EQ(d.disk->bytes[3 * 512], 0x5a);
      CHECK_EQ(d.driver.load<u8>(status_at), 0);
      const u16 write_slots = packed ? 3 : 1, flush_slots = packed ? 2 : 1;
      CHECK(d.driver.used(0, in_order ? write_slots : flush_slots));
      CHECK(d.driver.used(0, in_order ? flush_slots : write_slots));
      CHECK(!d.driver.used(0));
      d.device.machine().run_state().stop(vm::Status::paused);
    }
}

TEST(virtio_blk_reset_waits_for_what_is_under_way) {
  Disk d;
  d.disk->hold = true;
  d.send(0, 0, {{data_at, 512, true}});
  d.driver.set_status(0);
  CHECK_EQ(d.driver.status(), 0x40);  // not yet: the drive still has the driver's memory
  d.disk->go_on();
  d.driver.run();
  CHECK_EQ(d.driver.status(), 0);
  CHECK(!d.driver.used(0));
  d.driver.begin(0);
  CHECK_EQ(d.ask(0, 0, {{data_at, 512, true}}), 0);
}

TEST(virtio_blk_leaves_a_legacy_drivers_memory_alone_after_a_reset) {
  DeviceBench bench;
  BenchDisk disk{bench, "disk"};
  bench.add("virtio-blk-pci", {{"addr", "5"}, {"drive", "disk"}, {"disable-modern", true}});
  const u64 ports = bench.place_bars(5)[0];
  const auto out = [&](u64 at, unsigned size, u32 value) { bench.machine().ports().store(GuestPhys{ports + at}, size, value); };
  const auto run = [&] {
    while (bench.machine().main_loop().run_once(false)) {
    }
  };
  out(18, 1, 3), out(4, 4, 0), out(14, 2, 0), out(8, 4, 1), out(18, 1, 7);  // one queue at page 1
  const u64 buffers[3][2] = {{header_at, 16}, {data_at, 512}, {status_at, 1}};
  for (unsigned i = 0; i < 3; i++) {
    const u64 d = 0x1000 + 16 * i;
    bench.write64(d, buffers[i][0]), bench.write32(d + 8, static_cast<u32>(buffers[i][1]));
    bench.write32(d + 12, (i ? 2u : 0u) | (i < 2 ? 1u : 0u) | (i + 1) << 16);
  }
  std::ranges::fill(disk->bytes, 7);
  const u64 available = 0x1000 + 16 * 256;
  bench.write32(available + 4, 0), bench.write32(available, 1 << 16);
  disk->hold = true;
  out(16, 2, 0);
  run();
  out(18, 1, 0);  // the reset; the driver does not look whether it has ended
  disk->go_on();
  run();
  CHECK_EQ(bench.read32(data_at), 0u);
  out(18, 1, 3), out(4, 4, 0), out(14, 2, 0), out(8, 4, 1), out(18, 1, 7);
  out(16, 2, 0);
  run();
  CHECK_EQ(bench.read32(data_at), 0x07070707u);
}

TEST(virtio_blk_write_cache_is_the_drivers_to_switch) {
  Disk d;
  CHECK_EQ(d.driver.config(32, 1), 1u);
  d.driver.set_config(32, 1, 0);
  CHECK(!d.disk.backend().write_cache());
  d.driver.begin(0);  // a driver that can neither flush nor switch: every write must be stable
  CHECK(!d.disk.backend().write_cache());
  d.driver.set_status(0);
  CHECK(d.disk.backend().write_cache());
}

TEST(virtio_blk_says_what_is_wrong_with_its_properties) {
  const auto error = [](std::vector<std::pair<std::string, Value>> p, bool drive = true) {
    DeviceBench bench;
    BenchDisk disk{bench};
    Value properties = Value::object();
    for (auto& [name, value] : p) properties.set(name, value);
    if (drive) properties.set("drive", "disk");
    auto made = hw::create_device(bench.machine(),
                                  {.driver = "virtio-blk-pci", .properties = properties, .place = hw::DeviceSpec::Place::unattached});
    return made ? std::string{} : made.error().message;
  };
  CHECK_EQ(error({}, false), "drive property not set");
  CHECK(error({{"logical_block_size", 513}}).contains("power of two"));
  CHECK(error({{"logical_block_size", 4096}, {"physical_block_size", 512}}).contains("logical_block_size > physical_block_size"));
  CHECK(error({{"queue-size", 100}}).contains("power of two"));
  CHECK(error({{"drive", "nosuch"}}, false).contains("Property 'virtio-blk-device.drive' can't find value 'nosuch'"));
  CHECK_EQ(error({{"logical_block_size", 4096}}), "");
}

}  // namespace vmm::test
