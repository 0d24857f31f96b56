// Writes that met a full disk (werror=stop) are part of the state of their controller: saved, loaded elsewhere, done when that machine
// runs.
#include <cerrno>

#include "hw/storage/piix_ide.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/saved.h"

namespace vmm::test {

namespace {
void run(DeviceBench& bench) {
  while (bench.machine().main_loop().run_once(false)) {
  }
}
void put(DeviceBench& bench, u64 at, std::span<const u8> bytes) { bench.machine().memory().write(GuestPhys{at}, bytes); }
void make(DeviceBench& bench, std::string_view driver, std::vector<std::pair<std::string, Value>> properties) {
  Value v = Value::object();
  for (auto& [name, value] : properties) v.set(name, value);
  (void)OK(
      hw::create_device(bench.machine(), {.driver = std::string{driver}, .properties = v, .place = hw::DeviceSpec::Place::unattached}));
}

// The state of one bench into another: `set_up` makes both, `write` sends a write of a sector of 0x5a to sector 3 that must not end,
// `ended` says whether it has.
template <class Bench>
void survives(std::string_view name) {
  std::optional<Saved> saved;
  {
    Bench b;
    std::vector<u8> sector(512, 0x5a);
    put(b.bench, 0x6000, sector);
    b.disk->fail_with = ENOSPC;
    b.write();
    run(b.bench);
    if (b.ended()) failed(std::string{name}.c_str(), __FILE__, __LINE__, "the write has ended");
    saved.emplace(b.bench);
  }
  Bench b;
  saved->load(b.bench);
  run(b.bench);
  CHECK_EQ(b.disk->bytes[3 * 512], 0);
  b.bench.machine().run_state().start();
  run(b.bench);
  CHECK_EQ(b.disk->bytes[3 * 512], 0x5a);
  CHECK_EQ(b.disk->bytes[4 * 512 - 1], 0x5a);
  CHECK(b.ended());
  b.bench.machine().run_state().stop(vm::Status::paused);
}

struct AhciBench {
  AhciBench() : disk(bench, "disk") {
    bench.add("ich9-ahci", {{"addr", "5"}});
    bars = bench.place_bars(5);
    make(bench, "ide-hd", {{"drive", "disk"}, {"werror", "stop"}});
    run(bench);
    port(0x00, 0x1000), port(0x08, 0x2000), port(0x30, ~0u), port(0x18, 0x10 | 1 | 6);
  }
  void port(u32 at, u32 value) { bench.write32(bars[5] + 0x100 + at, value); }
  u32 port(u32 at) { return bench.read32(bars[5] + 0x100 + at); }
  void command(unsigned slot, bool queued) {
    const u64 header = 0x1000 + 32 * slot, table = 0x3000 + 0x100 * slot;
    bench.write32(header, 5 | 1 << 6 | 1 << 16), bench.write32(header + 8, static_cast<u32>(table)), bench.write32(header + 12, 0);
    std::array<u8, 20> fis{0x27, 0x80, static_cast<u8>(queued ? 0x61 : 0x35), 1, 3, 0, 0, 0x40};
    fis[12] = static_cast<u8>(queued ? slot << 3 : 1);
    put(bench, table, fis);
    bench.write32(table + 0x80, 0x6000), bench.write32(table + 0x84, 0), bench.write32(table + 0x8c, 511);
    if (queued) port(0x34, 1u << slot);
    port(0x38, 1u << slot);
  }
  DeviceBench bench;
  BenchDisk disk;
  std::array<u64, 6> bars{};
};
struct AhciPlain : AhciBench {
  void write() { command(0, false); }
  bool ended() { return port(0x38) == 0 && port(0x20) == 0x50; }
};
struct AhciQueued : AhciBench {
  void write() { command(7, true); }
  bool ended() { return port(0x34) == 0; }
};

struct NvmeBench {
  NvmeBench() : disk(bench, "disk") {
    bench.add("nvme", {{"addr", "5"}, {"drive", "disk"}, {"serial", "s"}, {"werror", "stop"}});
    bar = bench.place_bars(5)[0];
    bench.write32(bar + 0x24, 7 | 7 << 16), bench.write32(bar + 0x28, 0x1000), bench.write32(bar + 0x30, 0x2000);
    bench.write32(bar + 0x14, 1 | 6 << 16 | 4 << 20);
    send(0x1000, 0, 0, 5, 0x3000, 1 | 7 << 16, 1);  // completion queue 1
    send(0x1000, 1, 0, 1, 0x4000, 1 | 7 << 16, 1 | 1 << 16);
  }
  void send(u64 ring, unsigned slot, unsigned queue, u8 opcode, u64 data, u32 w10, u32 w11) {
    std::array<u8, 64> c{opcode, 0, static_cast<u8>(slot)};
    store_le<u32>(&c[4], queue ? 1 : 0), store_le<u64>(&c[24], data), store_le<u32>(&c[40], w10), store_le<u32>(&c[44], w11);
    put(bench, ring + 64 * slot, c);
    bench.write32(bar + 0x1000 + 8 * queue, slot + 1);
    run(bench);
  }
  void write() { send(0x4000, 0, 1, 1, 0x6000, 3, 0); }
  bool ended() { return bench.read32(0x3000 + 12) >> 16 == 1; }  // phase, no error
  DeviceBench bench;
  BenchDisk disk;
  u64 bar = 0;
};

struct IdeBench {
  IdeBench() : disk(bench, "disk") {
    ide = hw::make_piix3_ide();
    ide->wire(bench.machine().port_root(), bench);
    bench.machine().unattached().add_child("ide", ide);
    ide->set_address(6, 0);
    OK(ide->attach(&bench.pci()));
    master = static_cast<u16>(bench.place_bars(6)[4]);
    make(bench, "ide-hd", {{"drive", "disk"}, {"werror", "stop"}});
    bench.in8(0x1f7);
  }
  void registers(u8 command) {
    for (const auto [port, value] :
         std::initializer_list<std::pair<u16, u8>>{{0x1f6, 0xe0}, {0x1f2, 1}, {0x1f3, 3}, {0x1f4, 0}, {0x1f5, 0}})
      bench.out8(port, value);
    bench.out8(0x1f7, command);
  }
  bool ended() { return bench.in8(0x3f6) == 0x50; }
  DeviceBench bench;
  BenchDisk disk;
  Ref<hw::PiixIde> ide;
  u16 master = 0;
};
struct IdePio : IdeBench {
  void write() {
    registers(0x30);
    for (unsigned i = 0; i < 256; i++) bench.machine().ports().store(GuestPhys{0x1f0}, 2, 0x5a5a);
  }
};
struct IdeDma : IdeBench {
  void write() {
    bench.write32(0x5000, 0x6000), bench.write32(0x5004, 0x8000'0200);
    bench.machine().ports().store(GuestPhys{master + 4u}, 4, 0x5000);
    registers(0xca);
    bench.out8(master, 1);
  }
};
}  // namespace

TEST(ahci_takes_stopped_requests_along) { survives<AhciPlain>("ahci"), survives<AhciQueued>("ahci, queued"); }
TEST(nvme_takes_stopped_requests_along) { survives<NvmeBench>("nvme"); }
TEST(ide_takes_stopped_requests_along) { survives<IdePio>("ide, programmed I/O"), survives<IdeDma>("ide, DMA"); }

}  // namespace vmm::test
