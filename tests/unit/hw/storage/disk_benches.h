// Disks on a bench, behind the controllers that are no virtio: registers and queues set up as a driver does, and commands by hand. Data may
// lie from 0x8000 on; what is below belongs to the driver.
#pragma once

#include "hw/storage/piix_ide.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench_disk.h"

namespace vmm::test {

inline void run(DeviceBench& bench) {
  while (bench.machine().main_loop().run_once(false)) {
  }
}
inline void put(DeviceBench& bench, u64 at, std::span<const u8> bytes) { bench.machine().memory().write(GuestPhys{at}, bytes); }
inline std::vector<u8> get(DeviceBench& bench, u64 at, usize bytes) {
  std::vector<u8> out(bytes);
  bench.machine().memory().read(GuestPhys{at}, out);
  return out;
}
inline void make(DeviceBench& bench, std::string_view driver, std::vector<std::pair<std::string, Value>> properties) {
  Value v = Value::object();
  std::string bus;
  for (auto& [name, value] : properties) {
    if (name == "bus")
      bus = value.get_string();
    else
      v.set(name, value);
  }
  (void)OK(hw::create_device(bench.machine(),
                             {.driver = std::string{driver}, .bus = bus, .properties = v, .place = hw::DeviceSpec::Place::unattached}));
}

struct AhciBench {
  static constexpr u64 list = 0x1000, received = 0x2000, tables = 0x3000;  // a table is 0x100 bytes: 8 entries of its list
  explicit AhciBench(const char* werror = "stop") : disk(bench, "disk") {
    bench.add("ich9-ahci", {{"addr", "5"}});
    bars = bench.place_bars(5);
    make(bench, "ide-hd", {{"drive", "disk"}, {"werror", werror}});
    run(bench);
    start();
  }
  void start() { port(0x00, list), port(0x08, received), port(0x30, ~0u), port(0x10, ~0u), port(0x18, 0x10 | 1 | 6); }
  void port(u32 at, u32 value, unsigned n = 0) { bench.write32(bars[5] + 0x100 + 0x80 * n + at, value); }
  u32 port(u32 at) { return bench.read32(bars[5] + 0x100 + at); }
  struct Ata {
    u8 command = 0;
    u64 lba = 0;
    u16 count = 1, features = 0;
    u8 device = 0x40;
  };
  // One piece of data. A queued command's tag is its slot.
  void issue(unsigned slot, Ata c, u64 data = 0, u32 bytes = 0, bool write = false) {
    const u64 header = list + 32 * slot, table = tables + 0x100 * slot;
    bench.write32(header, 5 | (write ? 1 << 6 : 0) | (bytes ? 1 << 16 : 0)), bench.write32(header + 4, 0);
    bench.write32(header + 8, static_cast<u32>(table)), bench.write32(header + 12, 0);
    const bool queued = c.command == 0x60 || c.command == 0x61;
    if (queued) c.features = c.count, c.count = static_cast<u16>(slot << 3);
    std::array<u8, 20> fis{0x27, 0x80, c.command, static_cast<u8>(c.features), 0, 0, 0, c.device};
    for (unsigned i = 0; i < 3; i++) fis[4 + i] = static_cast<u8>(c.lba >> 8 * i), fis[8 + i] = static_cast<u8>(c.lba >> (24 + 8 * i));
    fis[11] = static_cast<u8>(c.features >> 8), fis[12] = static_cast<u8>(c.count), fis[13] = static_cast<u8>(c.count >> 8);
    put(bench, table, fis);
    bench.write32(table + 0x80, static_cast<u32>(data)), bench.write32(table + 0x84, 0), bench.write32(table + 0x8c, bytes - 1);
    if (queued) port(0x34, 1u << slot);
    port(0x38, 1u << slot);
  }
  void comreset() { port(0x18, 0x10 | 6), port(0x2c, 1), port(0x2c, 0); }
  DeviceBench bench;
  BenchDisk disk;
  std::array<u64, 6> bars{};
};

struct NvmeBench {
  static constexpr u64 admin = 0x1000, admin_done = 0x2000, io_done = 0x3000, io = 0x4000;
  static constexpr u16 entries = 8;
  explicit NvmeBench(const char* werror = "stop") : disk(bench, "disk") {
    bench.add("nvme", {{"addr", "5"}, {"drive", "disk"}, {"serial", "s"}, {"werror", werror}});
    bar = bench.place_bars(5)[0];
    start();
  }
  // Enables the controller and makes a pair of queues.
  void start() {
    for (u64 at = admin; at < io + 0x1000; at += 4) bench.write32(at, 0);
    tails = {}, heads = {};
    bench.write32(bar + 0x24, (entries - 1) | (entries - 1) << 16), bench.write32(bar + 0x28, admin), bench.write32(bar + 0x30, admin_done);
    bench.write32(bar + 0x2c, 0), bench.write32(bar + 0x34, 0);
    bench.write32(bar + 0x14, 1 | 6 << 16 | 4 << 20);
    send(0, {.opcode = 5, .prp1 = io_done, .w10 = 1 | u32{entries - 1} << 16, .w11 = 1});
    send(0, {.opcode = 1, .prp1 = io, .w10 = 1 | u32{entries - 1} << 16, .w11 = 1 | 1 << 16});
    answer(0), answer(0);
  }
  struct Command {
    u8 opcode = 0, flags = 0;
    u32 space = 1;
    u64 prp1 = 0, prp2 = 0;
    u32 w10 = 0, w11 = 0, w12 = 0, w13 = 0, w14 = 0, w15 = 0;
  };
  // Its id is its place in the ring.
  u16 send(unsigned queue, Command c) {
    const u16 slot = tails[queue];
    std::array<u8, 64> bytes{c.opcode, c.flags, static_cast<u8>(slot)};
    store_le<u32>(&bytes[4], queue ? c.space : 0), store_le<u64>(&bytes[24], c.prp1), store_le<u64>(&bytes[32], c.prp2);
    const u32 words[] = {c.w10, c.w11, c.w12, c.w13, c.w14, c.w15};
    for (usize i = 0; i < 6; i++) store_le<u32>(&bytes[40 + 4 * i], words[i]);
    put(bench, (queue ? io : admin) + 64 * slot, bytes);
    tails[queue] = static_cast<u16>((slot + 1) % entries);
    bench.write32(bar + 0x1000 + 8 * queue, tails[queue]);
    run(bench);
    return slot;
  }
  // The next completion: id, and status above it.
  std::optional<u32> answer(unsigned queue) {
    const u64 at = (queue ? io_done : admin_done) + 16 * (heads[queue] % entries);
    const u32 word = bench.read32(at + 12);
    if ((word >> 16 & 1) != (heads[queue] / entries % 2 == 0)) return std::nullopt;
    heads[queue]++;
    bench.write32(bar + 0x1004 + 8 * queue, static_cast<u32>(heads[queue] % entries));
    run(bench);
    return (word & 0xffff) | word >> 17 << 16;
  }
  u32 status() { return bench.read32(bar + 0x1c); }
  DeviceBench bench;
  BenchDisk disk;
  u64 bar = 0;
  std::array<u16, 2> tails{};
  std::array<u32, 2> heads{};
};

struct IdeBench {
  static constexpr u64 table = 0x5000;
  explicit IdeBench(const char* werror = "stop") : disk(bench, "disk") {
    ide = hw::make_piix3_ide();
    ide->wire(bench.machine().port_root(), bench);
    bench.machine().unattached().add_child("ide", ide);
    ide->set_address(6, 0);
    OK(ide->attach(&bench.pci()));
    master = static_cast<u16>(bench.place_bars(6)[4]);
    make(bench, "ide-hd", {{"drive", "disk"}, {"werror", werror}});
    bench.in8(0x1f7);
  }
  // The first drive, by LBA.
  void command(u8 command, u32 lba, u8 count = 1) {
    bench.out8(0x1f6, static_cast<u8>(0xe0 | (lba >> 24 & 15))), bench.out8(0x1f2, count);
    bench.out8(0x1f3, static_cast<u8>(lba)), bench.out8(0x1f4, static_cast<u8>(lba >> 8)), bench.out8(0x1f5, static_cast<u8>(lba >> 16));
    bench.out8(0x1f7, command);
  }
  void start_master(u64 data, u32 bytes, bool to_memory) {
    bench.write32(table, static_cast<u32>(data)), bench.write32(table + 4, 0x8000'0000 | bytes);
    bench.machine().ports().store(GuestPhys{master + 4u}, 4, table);
    bench.out8(master, 0);
    bench.out8(master, to_memory ? 9 : 1);
  }
  void soft_reset() { bench.out8(0x3f6, 4), bench.out8(0x3f6, 0); }
  u8 status() { return bench.in8(0x3f6); }
  DeviceBench bench;
  BenchDisk disk;
  Ref<hw::PiixIde> ide;
  u16 master = 0;
};

}  // namespace vmm::test
