// Disks and CD drives behind virtio-scsi: identification, transfers, errors, task management, events.
#include <cerrno>

#include "src/base/bits.h"
#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/saved.h"
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {

namespace {
constexpr u64 head_at = 0x8000, response_at = 0x8400, data_at = 0x9000;

struct Scsi {
  explicit Scsi(std::vector<std::pair<std::string, Value>> more = {})
      : disk(bench, "disk"),
        image(bench, "image", 64 * KiB, true),
        adapter(bench.add("virtio-scsi-pci", {{"addr", "5"}, {"num_queues", 1}})),
        driver(bench, 6) {
    more.emplace_back("drive", "disk"), more.emplace_back("serial", "S1");
    add("scsi-hd", more);
    add("scsi-cd", {{"drive", "image"}, {"scsi-id", 3}});
    driver.run();
    while (driver.used(1)) {
    }
  }
  hw::Device& add(std::string_view type, std::vector<std::pair<std::string, Value>> p) {
    Value v = Value::object();
    for (auto& [name, value] : p) v.set(name, value);
    return *OK(
        hw::create_device(bench.machine(), {.driver = std::string{type}, .properties = v, .place = hw::DeviceSpec::Place::unattached}));
  }
  void send(u8 target, u16 lun, std::vector<u8> cdb, u32 in, u32 out) {
    std::vector<u8> head(51);
    head[0] = 1, head[1] = target, head[2] = static_cast<u8>(lun >> 8 | 0x40), head[3] = static_cast<u8>(lun);
    head[8] = 77;
    std::ranges::copy(cdb, head.begin() + 19);
    driver.memory().write(GuestPhys{head_at}, head);
    driver.store<u8>(response_at + 11, 0xee);
    std::vector<GuestBuffer> buffers{{head_at, 51}};
    if (out) buffers.push_back({data_at, out});
    buffers.push_back({response_at, 108, true});
    if (in) buffers.push_back({data_at, in, true});
    driver.add(2, buffers);
    driver.kick(2);
  }
  // Status, with the sense key above it.
  u32 ask(u8 target, std::vector<u8> cdb, u32 in = 0, u32 out = 0, u16 lun = 0) {
    send(target, lun, std::move(cdb), in, out);
    return answer();
  }
  u32 answer() {
    if (!driver.used(2)) return ~u32{0};
    if (const u8 response = driver.load<u8>(response_at + 11)) return 0x8000u | response;
    const u8 status = driver.load<u8>(response_at + 10);
    return status == 2 ? 2u | driver.load<u8>(response_at + 14) << 8 | driver.load<u8>(response_at + 24) << 16 : status;
  }
  u8 manage(u32 what, u8 target) {
    std::vector<u8> request(24);
    store_le<u32>(&request[4], what);
    request[8] = 1, request[9] = target, request[10] = 0x40, request[16] = 77;
    driver.memory().write(GuestPhys{0xa000}, request);
    driver.store<u8>(0xa100, 0xee);
    driver.add(0, {{0xa000, 24}, {0xa100, 1, true}});
    driver.kick(0);
    (void)driver.used(0);
    return driver.load<u8>(0xa100);
  }
  std::string text(u64 at, usize n) {
    std::string s(n, 0);
    driver.memory().read(GuestPhys{at}, {reinterpret_cast<u8*>(s.data()), n});
    return s;
  }
  DeviceBench bench;
  BenchDisk disk, image;
  hw::Device& adapter;
  VirtioDriver driver;
};
constexpr u32 unit_attention = 0x290602, no_lun = 0x250502, bad_range = 0x210502, bad_field = 0x240502;
}  // namespace

TEST(scsi_disk_tells_who_it_is) {
  Scsi s{{{"vendor", "ACME"}, {"wwn", u64{0x5000c50015ea71ac}}}};
  CHECK_EQ(s.ask(0, {0x12, 0, 0, 0, 36}, 36), 0u);
  CHECK_EQ(s.text(data_at + 8, 8), "ACME    ");
  CHECK_EQ(s.text(data_at + 16, 16), "QEMU HARDDISK   ");
  CHECK_EQ(s.ask(0, {0}), unit_attention);
  CHECK_EQ(s.ask(0, {0}), 0u);
  CHECK_EQ(s.ask(0, {0x12, 1, 0x80, 0, 64}, 64), 0u);
  CHECK_EQ(s.text(data_at + 4, 2), "S1");
  CHECK_EQ(s.ask(0, {0x12, 1, 0xb0, 0, 64}, 64), 0u);
  CHECK_EQ(s.ask(0, {0x12, 1, 0xcc, 0, 64}, 64), bad_field);
  CHECK_EQ(s.ask(0, {0x25}, 8), 0u);
  CHECK_EQ(s.driver.load<u32>(data_at), 0x7f000000u);
  CHECK_EQ(s.ask(0, {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}, 32), 0u);
  CHECK_EQ(s.driver.load<u8>(data_at + 10), 2);
  CHECK_EQ(s.ask(0, {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 16), 0u);
  CHECK_EQ(s.driver.load<u32>(data_at), 0x08000000u);
  CHECK_EQ(s.ask(0, {0x12, 0, 0, 0, 36}, 36, 0, 5), 0u);
  CHECK_EQ(s.driver.load<u8>(data_at), 0x7f);
  CHECK_EQ(s.ask(0, {0}, 0, 0, 5), no_lun);
  CHECK_EQ(s.ask(9, {0}), 0x8003u);
}

TEST(scsi_disk_moves_blocks) {
  Scsi s;
  (void)s.ask(0, {0});
  s.driver.store<u64>(data_at, 0x1122334455667788);
  CHECK_EQ(s.ask(0, {0x2a, 0, 0, 0, 0, 3, 0, 0, 2}, 0, 1024), 0u);
  CHECK_EQ(s.disk->bytes[3 * 512], 0x88);
  s.driver.store<u64>(data_at, 0);
  CHECK_EQ(s.ask(0, {0x08, 0, 0, 3, 1}, 512), 0u);
  CHECK_EQ(s.driver.load<u64>(data_at), 0x1122334455667788u);
  CHECK_EQ(s.ask(0, {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1}, 512), 0u);
  CHECK_EQ(s.ask(0, {0x28, 0, 0, 0, 0, 127, 0, 0, 2}, 1024), bad_range);
  CHECK_EQ(s.ask(0, {0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 2}, 1024), bad_range);
  CHECK_EQ(s.ask(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 4}, 512), 0u);  // what fits
  CHECK_EQ(s.ask(0, {0x35}), 0u);
  CHECK_EQ(s.disk->flushes, 1u);
  CHECK_EQ(s.ask(0, {0x41, 0, 0, 0, 0, 3, 0, 0, 1}, 0, 512), 0u);
  std::vector<u8> list(24);
  list[1] = 22, list[3] = 16, list[15] = 8, list[19] = 16;
  s.driver.memory().write(GuestPhys{data_at}, list);
  CHECK_EQ(s.ask(0, {0x42, 0, 0, 0, 0, 0, 0, 0, 24}, 0, 24), 0u);
  CHECK_EQ(s.disk->discarded, 8192u);
  CHECK_EQ(s.ask(0, {0xff}), 0x200502u);
}

TEST(scsi_mode_pages_switch_the_cache) {
  Scsi s;
  (void)s.ask(0, {0});
  CHECK_EQ(s.ask(0, {0x1a, 8, 8, 0, 64}, 64), 0u);
  CHECK_EQ(s.driver.load<u8>(data_at + 4 + 2), 4);
  std::vector<u8> select(24);
  select[4] = 8, select[5] = 18;
  s.driver.memory().write(GuestPhys{data_at}, select);
  CHECK_EQ(s.ask(0, {0x15, 0x10, 0, 0, 24}, 0, 24), 0u);
  CHECK(!s.disk.backend().write_cache());
  select[7] = 1;
  s.driver.memory().write(GuestPhys{data_at}, select);
  CHECK_EQ(s.ask(0, {0x15, 0x10, 0, 0, 24}, 0, 24), 0x260502u);
}

TEST(scsi_cd_has_a_tray) {
  Scsi s;
  (void)s.ask(3, {0});
  CHECK_EQ(s.ask(3, {0x12, 0, 0, 0, 36}, 36), 0u);
  CHECK_EQ(s.driver.load<u16>(data_at), 0x8005);
  CHECK_EQ(s.ask(3, {0x25}, 8), 0u);
  CHECK_EQ(s.driver.load<u32>(data_at), 0x1f000000u);
  CHECK_EQ(s.ask(3, {0x28, 0, 0, 0, 0, 1, 0, 0, 1}, 2048), 0u);
  CHECK_EQ(s.ask(3, {0x43, 0, 0, 0, 0, 0, 0, 0, 20}, 20), 0u);
  CHECK_EQ(s.ask(3, {0x1e, 0, 0, 0, 1}), 0u);
  CHECK_EQ(s.ask(3, {0x1b, 0, 0, 0, 2}), 0x530502u);  // locked
  CHECK_EQ(s.ask(3, {0x1e, 0, 0, 0, 0}), 0u);
  CHECK_EQ(s.ask(3, {0x1b, 0, 0, 0, 2}), 0u);
  CHECK_EQ(s.ask(3, {0}), 0x3a0202u);
  CHECK_EQ(s.ask(3, {0x1b, 0, 0, 0, 3}), 0u);
  CHECK_EQ(s.ask(3, {0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 2048), 0x200502u);
}

TEST(scsi_tasks_are_managed_and_errors_told) {
  Scsi s{{{"werror", "stop"}}};
  (void)s.ask(0, {0});
  s.disk->hold = true;
  s.send(0, 0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0);
  CHECK_EQ(s.manage(6, 0), 10);    // QUERY TASK: it is there
  CHECK_EQ(s.manage(0, 0), 0xee);  // ABORT TASK waits for it
  s.disk->go_on();
  s.driver.run();
  CHECK_EQ(s.answer(), 0x8002u);
  CHECK_EQ(s.driver.load<u8>(0xa100), 0);
  CHECK_EQ(s.manage(5, 0), 0);  // LOGICAL UNIT RESET
  (void)s.driver.used(0);
  CHECK_EQ(s.ask(0, {0}), unit_attention);
  s.disk->fail_with = EIO;
  CHECK_EQ(s.ask(0, {0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 512), 0xb02u);
  CHECK_EQ(s.ask(0, {0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512), ~u32{0});  // werror=stop: kept
  CHECK_EQ(s.manage(0, 0), 0);                                          // until the guest gives it up
  CHECK_EQ(s.answer(), 0x8002u);
}

TEST(scsi_takes_stopped_requests_along) {
  std::optional<Saved> saved;
  {
    Scsi s{{{"werror", "stop"}}};
    (void)s.ask(0, {0});
    s.driver.store<u8>(data_at, 0x5a);
    s.disk->fail_with = ENOSPC;
    CHECK_EQ(s.ask(0, {0x2a, 0, 0, 0, 0, 2, 0, 0, 1}, 0, 512), ~u32{0});
    saved.emplace(s.bench);
  }
  Scsi s{{{"werror", "stop"}}};
  saved->load(s.bench);
  CHECK_EQ(s.disk->bytes[1024], 0);
  s.adapter.machine().run_state().start();
  s.driver.run();
  CHECK_EQ(s.disk->bytes[1024], 0x5a);
  s.driver.queue(2).used = 1;  // that of TEST UNIT READY came before
  CHECK_EQ(s.answer(), 0u);
  s.adapter.machine().run_state().stop(vm::Status::paused);
}

TEST(scsi_units_that_come_and_go_are_events) {
  Scsi s;
  s.driver.add(1, {{0xb000, 16, true}});
  s.driver.kick(1);
  CHECK(s.driver.used(1));
  CHECK_EQ(s.driver.load<u32>(0xb000), 0x8000'0000u);  // those that came before there were buffers
  s.driver.add(1, {{0xb000, 16, true}});
  s.driver.add(1, {{0xb100, 16, true}});
  BenchDisk third{s.bench, "third"};
  Ref<hw::Device> unit{&s.add("scsi-hd", {{"drive", "third"}, {"scsi-id", 7}})};
  CHECK(s.driver.used(1));
  CHECK_EQ(s.driver.load<u32>(0xb000), 1u);
  CHECK_EQ(s.driver.load<u8>(0xb005), 7);
  CHECK_EQ(s.driver.load<u32>(0xb00c), 1u);
  unit->detach().start(nullptr);
  CHECK(s.driver.used(1));
  CHECK_EQ(s.driver.load<u32>(0xb10c), 2u);
}

}  // namespace vmm::test
