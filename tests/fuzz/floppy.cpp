// The floppy controller with a drive, the DMA controller and a medium that now and then fails, in the hands of a hostile driver. Nothing
// may crash, hang or write outside the medium; after a reset it must work again. Input: size and protection of the medium, then operations.
#include <cerrno>

#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/bench_disk.h"

using namespace vmm;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  static constexpr u64 sizes[] = {1440 * KiB, 720 * KiB, 2880 * KiB, 360 * KiB, 512, 1000 * KiB, 160 * KiB, 1200 * KiB};
  const u8 kind = in.take<u8>();
  test::DeviceBench bench;
  test::BenchDisk disk{bench, "disk", sizes[kind & 7], (kind & 8) != 0};
  bench.add("i8257");
  hw::Device& controller = bench.add("isa-fdc");
  const auto drive = hw::create_device(bench.machine(), {.driver = "floppy",
                                                         .properties = Value::object().set("drive", "disk").set("werror", "auto"),
                                                         .place = hw::DeviceSpec::Place::unattached});
  if (!drive) test::failed("floppy", __FILE__, __LINE__, drive.error().message);
  const Value fresh = controller.save();
  const auto run = [&] {
    for (unsigned turns = 0; bench.machine().main_loop().run_once(false); turns++)
      if (turns > 100'000) test::failed("turns", __FILE__, __LINE__, "it does not come to rest");
  };
  for (unsigned steps = 0; in.more() && steps < 4096; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      case 0: bench.out8(static_cast<u16>(0x3f0 + (op >> 3 & 7)), in.take<u8>()); break;
      case 1:
        for (unsigned n = 0; n <= op >> 3u; n++) bench.out8(0x3f5, in.take<u8>());
        run();
        break;
      case 2:
        for (unsigned n = 0; n <= op >> 3u; n++) bench.in8(0x3f5);
        break;
      case 3: bench.in8(static_cast<u16>(0x3f0 + (op >> 3 & 7))); break;
      case 4: {  // the DMA channel
        const u16 length = in.take<u16>();
        bench.out8(0x0c, 0);
        bench.out8(0x04, in.take<u8>()), bench.out8(0x04, in.take<u8>());
        bench.out8(0x05, static_cast<u8>(length)), bench.out8(0x05, static_cast<u8>(length >> 8));
        bench.out8(0x0b, op & 8 ? 0x46 : op & 16 ? 0x4a : in.take<u8>());
        bench.out8(0x0a, op & 32 ? 6 : 2);
        run();
        break;
      }
      case 5:
        disk->fail_with = op & 8 ? op & 16 ? ENOSPC : EIO : 0;
        disk->hold = op & 32;
        if (!disk->hold) disk->go_on();
        run();
        break;
      case 6: run(); break;
      default:
        if (op & 8) {
          controller.reset_tree();
        } else if (op & 16) {
          Value state = controller.save();
          const auto& members = fresh.members();
          if (op & 32) state.set(members[(op >> 6) % members.size()].first, in.take<u64>());
          (void)controller.load(state);
        } else {
          bench.machine().run_state().start();
          run();
          bench.machine().run_state().stop(vm::Status::paused);
        }
    }
  }
  // After a reset it answers.
  disk->fail_with = 0;
  disk->go_on();
  run();
  bench.out8(0x3f2, 0x18), bench.out8(0x3f2, 0x1c);
  run();
  for (unsigned unit = 0; unit < 4; unit++) {
    bench.out8(0x3f5, 8);
    const u8 status = bench.in8(0x3f5);
    bench.in8(0x3f5);
    if (status != (0xc0 | unit)) test::failed("status", __FILE__, __LINE__, format("unit {}: {:#x}", unit, status));
  }
  return 0;
}
