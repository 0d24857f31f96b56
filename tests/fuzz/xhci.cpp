// qemu-xhci with a tablet and a keyboard in the hands of a hostile driver: registers, contexts and rings of any content. Nothing may crash,
// hang or come to no rest; after a reset of the controller it must work again. Input: operations.
#include <linux/input-event-codes.h>

#include "src/ui/input.h"
#include "src/ui/pointer.h"
#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/usb/driver.h"

using namespace vmm;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  test::DeviceBench bench;
  hw::Device& controller = bench.add("qemu-xhci", {{"addr", "5"}});
  const auto plug = [&](std::string_view driver, std::string_view port) {
    const auto made = hw::create_device(bench.machine(), {.driver = std::string{driver}, .properties = Value::object().set("port", port)});
    if (!made) test::failed("plug", __FILE__, __LINE__, made.error().message);
    return *made;
  };
  const Ref<hw::Device> tablet = plug("usb-tablet", "1");
  plug("usb-kbd", "2");
  plug("usb-hub", "3");
  plug("usb-mouse", "3.1");
  test::XhciDriver host{bench, 5};
  const u8 how = in.take<u8>();
  if (how & 1) {
    host.start();
    host.write(host.port_register(how & 2 ? 2 : 1), 0x210);
    host.address(how & 2 ? 2 : 1);
    if (how & 4) {
      host.control(test::setup_packet(0x00, 9, 1, 0, 0), false, 0);
      host.configure_reports();
      host.ask_report();
    }
  }
  const Value fresh = controller.save();
  for (unsigned steps = 0; in.more() && steps < 2048; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      case 0: bench.write32(host.base() + (in.take<u16>() & 0x2ffc), in.take<u32>()); break;
      case 1: bench.read32(host.base() + (in.take<u16>() & 0x2ffc)); break;
      case 2: bench.write32(0x1000 + (in.take<u16>() & 0x6ffc), in.take<u32>()); break;
      case 3: {  // a TRB of a known kind
        const u64 at = 0x1000 + (in.take<u16>() & 0x6ff0);
        bench.write64(at, op & 8 ? in.take<u64>() : 0x1000 + (in.take<u16>() & 0x6ff0));
        bench.write32(at + 8, op & 16 ? in.take<u32>() : in.take<u8>());
        bench.write32(at + 12, u32{in.take<u8>()} << 24 | u32{in.take<u8>()} << 16 | (in.take<u8>() & 63u) << 10 | in.take<u8>());
        break;
      }
      case 4: host.ring(op >> 3 & 3, in.take<u8>() & 31); break;
      case 5: host.turn(); break;
      case 6:
        if (op & 8) {
          if (ui::Pointer* p = ui::pointer_for((op & 16) != 0))
            p->place(in.take<u16>(), in.take<u16>()), p->button(ui::Button::left, op & 32), p->sync();
        } else if (ui::Keyboard* k = ui::current_keyboard()) {
          k->key(in.take<u8>(), op & 32);
        }
        break;
      case 7:
        if (op & 8) {
          controller.reset_tree();
        } else if (op & 16) {
          Value state = controller.save();
          if (op & 32) state.set("registers", Value::list().append(in.take<u64>()));
          (void)controller.load(state);
        } else if (op & 32) {
          (void)controller.load(fresh);
        } else {
          bench.advance(Nanoseconds{in.take<u32>() % 50'000'000});
        }
    }
  }
  // Commands or transfers for ever are a driver's right; the bench's loop goes on between their turns.
  host.turn();
  bench.config_write(5, 4, 2, 6);
  for (const u64 bar : bench.place_bars(5))
    if (bar == host.base()) break;
  return 0;
}
