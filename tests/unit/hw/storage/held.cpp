// Writes that met a full disk (werror=stop) are part of the state of their controller: saved, loaded elsewhere, done when that machine
// runs.
#include <cerrno>

#include "tests/unit/hw/saved.h"
#include "tests/unit/hw/storage/disk_benches.h"

namespace vmm::test {

namespace {
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

struct AhciPlain : AhciBench {
  void write() { issue(0, {.command = 0x35, .lba = 3}, 0x6000, 512, true); }
  bool ended() { return port(0x38) == 0 && port(0x20) == 0x50; }
};
struct AhciQueued : AhciBench {
  void write() { issue(7, {.command = 0x61, .lba = 3}, 0x6000, 512, true); }
  bool ended() { return port(0x34) == 0; }
};
struct NvmeWrite : NvmeBench {
  void write() { send(1, {.opcode = 1, .prp1 = 0x6000, .w10 = 3}); }
  bool ended() { return bench.read32(io_done + 12) >> 16 == 1; }  // phase, no error
};
struct IdePio : IdeBench {
  void write() {
    command(0x30, 3);
    for (unsigned i = 0; i < 256; i++) bench.machine().ports().store(GuestPhys{0x1f0}, 2, 0x5a5a);
  }
  bool ended() { return status() == 0x50; }
};
struct IdeDma : IdeBench {
  void write() {
    command(0xca, 3);
    start_master(0x6000, 512, false);
  }
  bool ended() { return status() == 0x50; }
};
}  // namespace

TEST(ahci_takes_stopped_requests_along) { survives<AhciPlain>("ahci"), survives<AhciQueued>("ahci, queued"); }
TEST(nvme_takes_stopped_requests_along) { survives<NvmeWrite>("nvme"); }
TEST(ide_takes_stopped_requests_along) { survives<IdePio>("ide, programmed I/O"), survives<IdeDma>("ide, DMA"); }

}  // namespace vmm::test
