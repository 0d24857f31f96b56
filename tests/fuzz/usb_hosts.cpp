// UHCI and EHCI with its companion, tablet, keyboard and hub below them, in the hands of a hostile driver: registers and schedules of any
// content. Nothing may crash, hang or come to no rest; states that were saved or made up are loaded or refused. Input: operations.
#include <linux/input-event-codes.h>

#include "src/ui/input.h"
#include "src/ui/pointer.h"
#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/bench.h"

using namespace vmm;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  test::DeviceBench bench;
  hw::Device* hosts[] = {&bench.add("ich9-usb-ehci1", {{"addr", "5"}}),
                         &bench.add("ich9-usb-uhci1", {{"addr", "6"}, {"masterbus", "usb-bus.0"}}),
                         &bench.add("piix3-usb-uhci", {{"addr", "7"}})};
  const auto plug = [&](std::string_view driver, std::string_view bus, std::string_view port) {
    const auto made = hw::create_device(
        bench.machine(), {.driver = std::string{driver}, .bus = std::string{bus}, .properties = Value::object().set("port", port)});
    if (!made) test::failed("plug", __FILE__, __LINE__, made.error().message);
  };
  plug("usb-tablet", "usb-bus.0", "1");
  plug("usb-hub", "usb-bus.0", "2");
  plug("usb-kbd", "usb-bus.0", "2.1");
  plug("usb-hub", "usb-bus.1", "1");
  plug("usb-mouse", "usb-bus.1", "1.3");
  plug("usb-tablet", "usb-bus.1", "2");
  const auto turn = [&] {
    for (unsigned n = 0; n < 100 && bench.machine().main_loop().run_once(false); n++) {
    }
  };
  turn();
  const u64 ehci = bench.place_bars(5)[0], ports[] = {bench.place_bars(6)[4], bench.place_bars(7)[4]};
  for (const u8 slot : {5, 6, 7}) bench.config_write(slot, 4, 2, 7);
  const auto out = [&](unsigned host, u64 at, unsigned bytes, u64 value) {
    bench.machine().ports().store(GuestPhys{ports[host & 1] + at}, bytes, value);
  };
  const u8 how = in.take<u8>();
  if (how & 1) {  // as drivers begin: lists, ports on
    for (u32 n = 0; n < 1024; n += 1) bench.write32(0x1000 + 4 * n, 0x3000 | 2);
    for (unsigned host : {0u, 1u}) {
      out(host, 8, 4, 0x1000);
      for (u64 port : {0x10u, 0x12u}) out(host, port, 2, 0x200), out(host, port, 2, 0), out(host, port, 2, 0xe);
      out(host, 4, 2, 15), out(host, 0, 2, 1);
    }
    if (how & 2) bench.write32(ehci + 0x60, 1);
    for (u64 port : {0x64u, 0x68u}) bench.write32(ehci + port, 0x1100), bench.write32(ehci + port, 0x1000);
    bench.write32(ehci + 0x34, 0x1000), bench.write32(ehci + 0x38, 0x3000), bench.write32(ehci + 0x28, 0x3f),
        bench.write32(ehci + 0x20, 0x31);
  }
  const u32 structures = 0x3000;  // everything that links lead to lies here, and data
  const auto place = [&] { return structures + (in.take<u8>() & 0x7fu) * 32; };
  for (unsigned steps = 0; in.more() && steps < 1024; steps++) {
    const u8 op = in.take<u8>();
    switch (op & 7) {
      case 0:
        if (op & 8)
          bench.write32(ehci + 0x20 + (in.take<u8>() & 0x5cu), in.take<u32>());
        else
          out(op >> 4, in.take<u8>() & 31, op & 32 ? 2 : op & 64 ? 4 : 1, in.take<u32>());
        break;
      case 1:
        if (op & 8)
          bench.read32(ehci + (in.take<u8>() & 0xfcu));
        else
          bench.machine().ports().load(GuestPhys{ports[op >> 4 & 1] + (in.take<u8>() & 31)}, op & 32 ? 2 : 4);
        break;
      case 2: bench.write32(place() + 4 * (in.take<u8>() & 15), in.take<u32>()); break;
      case 3: {  // a transfer descriptor of UHCI
        const u32 at = place();
        bench.write32(at, place() | (in.take<u8>() & 7u)), bench.write32(at + 4, u32{in.take<u8>()} << 24 | 1 << 23);
        constexpr u8 packets[] = {0x69, 0xe1, 0x2d, 0x69};
        bench.write32(at + 8, u32{in.take<u8>()} << 21 | (op >> 3 & 3) << 15 | (in.take<u8>() & 3u) << 8 | packets[op >> 5 & 3]);
        bench.write32(at + 12, place());
        break;
      }
      case 4: {  // a queue of UHCI, at the lists' place or elsewhere
        const u32 at = op & 8 ? structures : place();
        bench.write32(at, place() | (in.take<u8>() & 3u)), bench.write32(at + 4, place() | (in.take<u8>() & 3u));
        break;
      }
      case 5: {  // a queue head and a transfer of EHCI
        const u32 at = op & 8 ? structures : place(), transfer = place();
        bench.write32(at, place() | 2), bench.write32(at + 4, in.take<u32>() & 0x07ff'ff03), bench.write32(at + 16, transfer);
        bench.write32(at + 24, op & 16 ? in.take<u32>() : 0);
        bench.write32(transfer, place() | (in.take<u8>() & 1u)), bench.write32(transfer + 4, place() | (in.take<u8>() & 1u));
        bench.write32(transfer + 8, (op & 32 ? in.take<u32>() & 0xffff'ff00 : u32{in.take<u8>()} << 16 | (in.take<u8>() & 3u) << 8) | 0x80);
        for (u32 n = 0; n < 5; n++) bench.write32(transfer + 12 + 4 * n, op & 64 ? in.take<u32>() : place());
        break;
      }
      case 6:
        if (op & 8) {
          if (ui::Pointer* p = ui::pointer_for(true))
            p->place(in.take<u16>(), in.take<u16>()), p->button(ui::Button::left, op & 32), p->sync();
        } else if (ui::Keyboard* k = ui::current_keyboard()) {
          k->key(in.take<u8>(), op & 32);
        }
        turn();
        break;
      default: {
        hw::Device& host = *hosts[(op >> 5) % 3];
        if (op & 8) {
          bench.advance(Nanoseconds{(in.take<u8>() & 15u) * 1'000'000});
        } else if (op & 16) {
          Value state = host.save();
          if (const u8 words = in.take<u8>()) {
            Value made = Value::list();
            for (u8 n = 0; n < words && in.more(); n++) made.append(u64{in.take<u8>()} | (n & 1 ? u64{in.take<u8>()} << 8 : 0));
            state.set("registers", made);
          }
          (void)host.load(state);
        } else {
          host.reset_tree();
        }
      }
    }
  }
  bench.advance(Nanoseconds{20'000'000});
  turn();
  return 0;
}
