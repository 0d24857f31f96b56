// The command sets of disks behind their controllers: commands in good form with hostile fields, scatter lists and pages, data that lie
// anywhere, drives that fail and hold back, resets in the midst of it. Nothing may crash, hang or grow; after a reset each controller must
// work again. Input: the controller, then operations.
#include <algorithm>

#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/storage/disk_benches.h"
#include "tests/unit/hw/virtio/driver.h"

using namespace vmm;

namespace {

constexpr const char* policies[] = {"stop", "report", "ignore", "enospc"};

// Where data lie: RAM mostly; the driver's own tables, holes, the end of addresses.
u64 place(fuzz::Input& in) {
  const u16 at = in.take<u16>();
  switch (in.take<u8>() & 15) {
    case 0: return at;
    case 1: return 0xe000'0000u + at;  // the controller's registers
    case 2: return 0x7000'0000u + at;
    case 3: return ~u64{0} - at;
    default: return 0x8000 | at;
  }
}
// Addresses on the disk: within its 128 sectors mostly.
u64 sector(fuzz::Input& in) {
  const u8 kind = in.take<u8>();
  return kind < 200 ? kind % 130u : in.take<u64>();
}
u32 length(fuzz::Input& in) {
  const u8 kind = in.take<u8>();
  return kind < 240 ? u32{kind} * 128 : in.take<u32>();
}

// What every controller meets beside commands.
template <class Bench>
void misfortune(fuzz::Input& in, Bench& b, u8 op) {
  switch (op & 7) {
    case 0: b.disk->fail_with = op & 8 ? 5 : op & 16 ? 28 : 0; break;
    case 1: b.disk->hold = true; break;
    case 2: b.disk->go_on(); break;
    case 3: b.bench.advance(Nanoseconds{i64{in.take<u16>()} * 100'000}); break;
    case 4: {  // stopped and resumed: what waited is tried again
      auto& state = b.bench.machine().run_state();
      op & 8 ? state.start() : state.stop(vm::Status::paused);
      break;
    }
    case 5: {
      const u16 at = in.take<u16>();
      std::vector<u8> bytes(in.take<u8>() % 64);
      for (u8& byte : bytes) byte = in.take<u8>();
      test::put(b.bench, at, bytes);
      break;
    }
    default: break;
  }
  test::run(b.bench);
}
template <class Bench>
void end(Bench& b) {
  b.disk->fail_with = 0;
  b.disk->go_on();
  if (b.bench.machine().run_state().running()) b.bench.machine().run_state().stop(vm::Status::paused);
  test::run(b.bench);
}
void due(bool truth, const char* what) {
  if (!truth) test::failed(what, __FILE__, __LINE__, "does not work after a reset");
}

// --- ATA and ATAPI behind AHCI

void ahci(fuzz::Input& in) {
  test::AhciBench b{policies[in.take<u8>() & 3]};
  const test::BenchDisk disc{b.bench, "disc", 64 * KiB, true};
  test::make(b.bench, "ide-cd", {{"drive", "disc"}, {"bus", "ide.1"}});
  constexpr u64 list = 0x1800, received = 0x2800;
  b.port(0x00, list, 1), b.port(0x08, received, 1), b.port(0x30, ~0u, 1), b.port(0x18, 0x10 | 1 | 6, 1);
  test::run(b.bench);
  for (unsigned steps = 0; in.more() && steps < 256; steps++) {
    const u8 op = in.take<u8>();
    const unsigned port = op >> 3 & 1, slot = in.take<u8>() & 31;
    switch (op & 7) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const u64 header = (port ? list : b.list) + 32 * slot, table = b.tables + 0x80 * (slot & 15) + 0x800 * port;
        std::array<u8, 20> fis{0x27, 0x80, in.take<u8>()};
        const u64 lba = sector(in);
        fis[3] = in.take<u8>(), fis[7] = op & 16 ? 0x40 : in.take<u8>();
        for (unsigned i = 0; i < 3; i++) fis[4 + i] = static_cast<u8>(lba >> 8 * i), fis[8 + i] = static_cast<u8>(lba >> (24 + 8 * i));
        fis[12] = op & 32 ? in.take<u8>() : static_cast<u8>(slot << 3), fis[13] = op & 64 ? in.take<u8>() : 0;
        if (op & 128) fis[1] = in.take<u8>(), fis[15] = in.take<u8>();
        test::put(b.bench, table, fis);
        if (port) {
          std::array<u8, 16> packet{};
          for (u8& byte : std::span{packet}.first(12)) byte = in.take<u8>();
          test::put(b.bench, table + 0x40, packet);
          if (op & 16) b.bench.write32(table, 0x00a0'8027);
        }
        const unsigned pieces = in.take<u8>() & 3;
        for (unsigned i = 0; i < pieces; i++) {
          b.bench.write64(table + 0x80 + 16 * i, place(in));
          b.bench.write32(table + 0x8c + 16 * i, length(in));
        }
        b.bench.write32(header, 5u | pieces << 16 | u32{in.take<u8>()} << 5), b.bench.write32(header + 8, static_cast<u32>(table)),
            b.bench.write32(header + 12, 0);
        if (in.take<u8>() & 1) b.port(0x34, 1u << slot, port);
        b.port(0x38, 1u << slot, port);
        test::run(b.bench);
        break;
      }
      case 4: b.port(in.take<u8>() & 0x7c, in.take<u32>(), port); break;
      case 5: b.port(0x2c, slot & 1, port); break;
      case 6: b.bench.write32(b.bars[5] + 4, in.take<u32>()); break;
      default: misfortune(in, b, slot | (op & 0xe0)); break;
    }
    test::run(b.bench);
  }
  end(b);
  b.bench.write32(b.bars[5] + 4, 1);
  test::run(b.bench);
  b.start();
  b.issue(0, {.command = 0x25, .lba = 3}, 0x8000, 512);
  test::run(b.bench);
  due(b.port(0x38) == 0 && b.port(0x20) == 0x50, "ahci");
}

// --- NVMe

void nvme(fuzz::Input& in) {
  test::NvmeBench b{policies[in.take<u8>() & 3]};
  for (unsigned steps = 0; in.more() && steps < 256; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      case 0:
      case 1:
      case 2:
      case 3: {
        test::NvmeBench::Command c{.opcode = in.take<u8>()};
        const unsigned queue = op >> 3 & 1;
        if (op & 16) c.flags = in.take<u8>();
        if (op & 32) c.space = in.take<u32>();
        c.prp1 = place(in), c.prp2 = place(in);
        if (queue && !(op & 64)) {
          const u64 at = sector(in);
          c.w10 = static_cast<u32>(at), c.w11 = static_cast<u32>(at >> 32), c.w12 = in.take<u16>() | u32{in.take<u8>()} << 24;
        } else {
          c.w10 = in.take<u32>(), c.w11 = in.take<u32>(), c.w12 = in.take<u32>();
        }
        b.send(queue, c);
        break;
      }
      case 4:
        while (b.answer(op >> 3 & 1)) {
        }
        break;
      case 5: b.bench.write32(b.bar + (in.take<u8>() & 0x3c), in.take<u32>()); break;
      case 6: b.bench.write32(b.bar + 0x1000 + 4 * (op >> 3 & 7), in.take<u16>()); break;
      default: misfortune(in, b, in.take<u8>()); break;
    }
    test::run(b.bench);
  }
  end(b);
  b.bench.write32(b.bar + 0x14, 0);
  test::run(b.bench);
  b.start();
  b.send(1, {.opcode = 2, .prp1 = 0x8000, .w10 = 3});
  due(b.answer(1) == 0u, "nvme");
}

// --- ATA behind a channel: registers, programmed I/O, the bus master

void ide(fuzz::Input& in) {
  test::IdeBench b{policies[in.take<u8>() & 3]};
  const test::BenchDisk disc{b.bench, "disc", 64 * KiB, true};
  test::make(b.bench, "ide-cd", {{"drive", "disc"}});
  auto& ports = b.bench.machine().ports();
  for (unsigned steps = 0; in.more() && steps < 512; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      case 0: {
        const u8 command = in.take<u8>();
        b.command(command, static_cast<u32>(sector(in)), in.take<u8>());
        break;
      }
      case 1:
        for (unsigned n = in.take<u8>(); n; n--) ports.store(GuestPhys{0x1f0}, op & 8 ? 4 : 2, in.take<u16>());
        break;
      case 2:
        for (unsigned n = in.take<u8>(); n; n--) ports.load(GuestPhys{0x1f0}, op & 8 ? 4 : 2);
        break;
      case 3: {
        const u32 entries = 1 + (op >> 3 & 3);
        for (u32 i = 0; i < entries; i++) {
          b.bench.write32(b.table + 8 * i, static_cast<u32>(place(in)));
          b.bench.write32(b.table + 8 * i + 4, (in.take<u16>() & 0xfffe) | (i + 1 == entries ? 0x8000'0000 : 0));
        }
        ports.store(GuestPhys{b.master + 4u}, 4, op & 64 ? in.take<u32>() : b.table);
        b.bench.out8(b.master, op & 32 ? 1 : 9);
        break;
      }
      case 4: {  // a packet, to the drive that is selected by the bit
        b.bench.out8(0x1f6, op & 8 ? 0xb0 : 0xa0), b.bench.out8(0x1f1, op >> 4 & 1);
        b.bench.out8(0x1f4, in.take<u8>()), b.bench.out8(0x1f5, in.take<u8>()), b.bench.out8(0x1f7, 0xa0);
        for (unsigned i = 0; i < 6; i++) ports.store(GuestPhys{0x1f0}, 2, in.take<u16>());
        break;
      }
      case 5: b.bench.out8(static_cast<u16>(0x1f0 + (op >> 3 & 7)), in.take<u8>()); break;
      case 6: op & 8 ? b.bench.out8(0x3f6, in.take<u8>()) : b.bench.out8(static_cast<u16>(b.master + (op >> 4 & 3)), in.take<u8>()); break;
      default: misfortune(in, b, in.take<u8>()); break;
    }
    test::run(b.bench);
  }
  end(b);
  b.soft_reset();
  b.bench.out8(b.master, 0);
  test::run(b.bench);
  b.command(0xc8, 3);
  b.start_master(0x8000, 512, true);
  test::run(b.bench);
  due(b.status() == 0x50, "ide");
}

// --- SCSI behind virtio-scsi

struct ScsiBench {
  explicit ScsiBench(const char* werror)
      : disk(bench, "disk"),
        disc(bench, "disc", 64 * KiB, true),
        adapter(bench.add("virtio-scsi-pci", {{"addr", "5"}, {"num_queues", 1}})) {
    test::make(bench, "scsi-hd", {{"drive", "disk"}, {"werror", werror}});
    test::make(bench, "scsi-cd", {{"drive", "disc"}, {"scsi-id", 3}});
    test::run(bench);
  }
  test::DeviceBench bench;
  test::BenchDisk disk, disc;
  hw::Device& adapter;
};

void scsi(fuzz::Input& in) {
  ScsiBench b{policies[in.take<u8>() & 3]};
  constexpr u64 features = ~hw::virtio::event_idx & ~hw::virtio::ring_packed & ~hw::virtio::in_order;
  test::VirtioDriver driver{b.bench, features};
  constexpr u64 head_at = 0x6000, response_at = 0x6400;
  const auto send = [&](u8 target, std::span<const u8> cdb, u64 data, u32 bytes, bool write) {
    std::array<u8, 51> head{1, target, 0x40};
    std::ranges::copy(cdb, head.begin() + 19);
    test::put(b.bench, head_at, head);
    std::vector<test::GuestBuffer> buffers{{head_at, 51}};
    if (bytes && write) buffers.push_back({data, bytes});
    buffers.push_back({response_at, 108, true});
    if (bytes && !write) buffers.push_back({data, bytes, true});
    driver.add(2, buffers);
    driver.kick(2);
  };
  for (unsigned steps = 0; in.more() && steps < 256; steps++) {
    const u8 op = in.take<u8>();
    if ((op & 7) == 7) {
      misfortune(in, b, in.take<u8>());
      continue;
    }
    if ((op & 7) == 6) {
      driver.begin(features);
      continue;
    }
    std::array<u8, 16> cdb{in.take<u8>()};
    // Where the groups of commands keep their addresses and counts.
    for (u8& byte : std::span{cdb}.subspan(1)) byte = 0;
    if (op & 8) {
      for (u8& byte : std::span{cdb}.subspan(1)) byte = in.take<u8>();
    } else {
      const u64 at = sector(in);
      const u16 count = in.take<u8>();
      switch (cdb[0] >> 5) {
        case 0: cdb[2] = static_cast<u8>(at >> 8), cdb[3] = static_cast<u8>(at), cdb[4] = static_cast<u8>(count); break;
        case 1:
        case 2: store_be<u32>(&cdb[2], static_cast<u32>(at)), store_be<u16>(&cdb[7], count); break;
        case 5: store_be<u32>(&cdb[2], static_cast<u32>(at)), store_be<u32>(&cdb[6], count); break;
        default: store_be<u64>(&cdb[2], at), store_be<u32>(&cdb[10], count); break;
      }
      cdb[1] = in.take<u8>();
    }
    const u64 data = place(in);
    u32 bytes = length(in);
    if (bytes > 0x10000) bytes &= 0xffff;
    // Parameter lists: as given.
    if (op & 16 && data >= 0x8000 && data < 0xff00) {
      std::array<u8, 32> parameters{};
      for (u8& byte : parameters) byte = in.take<u8>();
      test::put(b.bench, data, parameters);
    }
    send(op & 32 ? 3 : 0, cdb, data, bytes, op & 64);
    driver.used(2);
  }
  end(b);
  driver.begin(features);
  // The drive tells of the reset first, or of what else has happened.
  const std::array<u8, 6> ready{};
  for (unsigned tries = 0; tries < 8; tries++) {
    driver.store<u8>(response_at + 10, 0xee);
    send(0, ready, 0, 0, false);
    driver.used(2);
    if (driver.load<u8>(response_at + 10) == 0) return;
  }
  due(false, "scsi");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  switch (in.take<u8>() & 3) {
    case 0: scsi(in); break;
    case 1: ahci(in); break;
    case 2: nvme(in); break;
    default: ide(in); break;
  }
  return 0;
}
