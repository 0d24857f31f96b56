// UHCI and EHCI with HID devices, as drivers see them; companions; schedules that no driver makes.
#include "hw/usb/usb.h"
#include "src/base/bits.h"
#include "src/event/async.h"
#include "src/ui/pointer.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {

constexpr u32 list = 0x1000, queue = 0x3000, td = 0x4000, setup = 0x5000, data = 0x6000;
constexpr u64 get_device_descriptor = 0x0012'0000'0100'0680;

struct Uhci {
  explicit Uhci(std::string_view device) {
    bench.add("piix3-usb-uhci", {{"addr", "5"}});
    OK(hw::create_device(bench.machine(), {.driver = std::string{device}, .place = hw::DeviceSpec::Place::unattached}));
    while (bench.machine().main_loop().run_once(false)) {
    }
    base = static_cast<u16>(bench.place_bars(5)[4]);
    bench.config_write(5, 4, 2, 5);
    out(0x10, 0x200), out(0x10, 0), out(0x10, 0xe);  // reset, then on
    for (u32 n = 0; n < 1024; n++) bench.write32(list + 4 * n, queue | 2);
    bench.write32(queue, 1), bench.write32(queue + 4, 1);
    bench.machine().ports().store(GuestPhys{base + 8u}, 4, list);
    out(4, 15);
    out(0, 1);
  }
  void out(u16 at, u16 value) { bench.machine().ports().store(GuestPhys{u64{base} + at}, 2, value); }
  u16 in(u16 at) { return static_cast<u16>(bench.machine().ports().load(GuestPhys{u64{base} + at}, 2)); }
  void put(u32 at, u32 link, u32 control, u8 pid, u32 endpoint, u32 length, u32 buffer) {
    bench.write32(at, link), bench.write32(at + 4, control | 1 << 23 | 3 << 27);
    bench.write32(at + 8, ((length - 1) & 0x7ff) << 21 | endpoint << 15 | pid), bench.write32(at + 12, buffer);
  }
  // SETUP, three packets of data and the status stage, as a full-speed device with packets of eight bytes has them.
  void ask_for_descriptor() {
    bench.write64(setup, get_device_descriptor);
    put(td, (td + 16) | 4, 0, 0x2d, 0, 8, setup);
    for (u32 n = 0; n < 3; n++) put(td + 16 + 16 * n, (td + 32 + 16 * n) | 4, 0, 0x69, 0, n == 2 ? 2 : 8, data + 8 * n);
    put(td + 64, 1, 1 << 24, 0xe1, 0, 0, 0);
    bench.write32(queue + 4, td);
  }
  void frames(unsigned n) {
    for (; n; n--) bench.advance(Nanoseconds{1'000'000});
  }
  DeviceBench bench;
  u16 base = 0;
};

struct Ehci {
  static constexpr u32 head = 0x3000, qtd = 0x4000;
  explicit Ehci(std::string_view device) {
    bench.add("ich9-usb-ehci1", {{"addr", "5"}});
    companion = &bench.add("ich9-usb-uhci1", {{"addr", "6"}, {"masterbus", "usb-bus.0"}});
    OK(hw::create_device(bench.machine(), {.driver = std::string{device}, .place = hw::DeviceSpec::Place::unattached}));
    while (bench.machine().main_loop().run_once(false)) {
    }
    base = bench.place_bars(5)[0];
    bench.config_write(5, 4, 2, 6);
    io = static_cast<u16>(bench.place_bars(6)[4]);
  }
  u32 port() { return bench.read32(base + 0x64); }
  u16 companion_port() { return static_cast<u16>(bench.machine().ports().load(GuestPhys{io + 0x10u}, 2)); }
  void start() {
    bench.write32(base + 0x60, 1);
    bench.write32(base + 0x64, port() | 0x100), bench.write32(base + 0x64, port() & ~0x100u);
    bench.write32(head, head | 2), bench.write32(head + 4, 0x40u << 16 | 1 << 15 | 1 << 14 | 2 << 12), bench.write32(head + 8, 1u << 30);
    bench.write32(head + 16, 1), bench.write32(head + 20, 1), bench.write32(head + 24, 0);
    bench.write32(base + 0x38, head), bench.write32(base + 0x28, 0x37);
    bench.write32(base + 0x20, 0x21);
  }
  void put(u32 at, u32 next, u8 pid, u32 length, u32 buffer, bool notice = false) {
    bench.write32(at, next), bench.write32(at + 4, 1);
    bench.write32(at + 8, length << 16 | (notice ? 1 << 15 : 0) | 3 << 10 | u32{pid} << 8 | 0x80), bench.write32(at + 12, buffer);
    for (u32 n = 1; n < 5; n++) bench.write32(at + 12 + 4 * n, (buffer & ~0xfffu) + 0x1000 * n);
  }
  DeviceBench bench;
  hw::Device* companion = nullptr;
  u64 base = 0;
  u16 io = 0;
};

}  // namespace

TEST(uhci_carries_a_control_transfer_packet_by_packet) {
  Uhci usb{"usb-tablet"};
  CHECK_EQ(usb.in(0x10) & 0x105, 5);  // there, on, not low speed
  usb.ask_for_descriptor();
  usb.frames(10);
  CHECK_EQ(usb.bench.read32(queue + 4), 1u);  // all of it is done
  CHECK_EQ(usb.bench.read32(data) & 0xff, 18u);
  CHECK_EQ(usb.bench.read32(data + 8), 0x0001'0627u);
  CHECK_EQ(usb.bench.read32(td + 16 + 4) & 0x00ff'07ff, 7u);      // eight bytes, no error, done
  CHECK_EQ(usb.bench.read32(td + 64 + 4) & 0x00ff'07ff, 0x7ffu);  // none
  CHECK_EQ(usb.in(2) & 3, 1);
  CHECK(usb.bench.line(16 + 3));
  usb.out(2, 1);
  CHECK(!usb.bench.line(16 + 3));
}

TEST(uhci_tells_a_device_that_stalls_from_one_that_is_not_there) {
  Uhci usb{"usb-tablet"};
  usb.put(td, 1, 0, 0x69, 1, 8, data);  // a report, before there is a configuration
  usb.bench.write32(queue + 4, td);
  usb.frames(2);
  CHECK_EQ(usb.bench.read32(td + 4) >> 16 & 0xff, 0x40u);
  CHECK_EQ(usb.bench.read32(queue + 4), td);
  CHECK_EQ(usb.in(2) & 2, 2);
  usb.put(td, 1, 0, 0x69, 1, 8, data);
  usb.bench.write32(td + 8, usb.bench.read32(td + 8) | 5 << 8);  // another address
  usb.frames(10);
  CHECK_EQ(usb.bench.read32(td + 4) >> 16 & 0xff, 0x44u);
}

TEST(uhci_lists_that_have_no_end_and_packets_that_cannot_be) {
  Uhci usb{"usb-tablet"};
  usb.bench.write32(queue, queue | 2);  // to itself
  usb.frames(4);
  CHECK_EQ(usb.in(2) & 0x30, 0);
  for (u32 n = 0; n < 8; n++) usb.bench.write32(td + 16 * n, td + 16 * ((n + 1) % 8)), usb.bench.write32(td + 16 * n + 4, 0);
  usb.bench.write32(queue, td);
  usb.frames(4);
  CHECK_EQ(usb.in(2) & 0x30, 0);
  usb.put(td, 1, 0, 0x69, 0, 0x600, data);
  usb.bench.write32(queue + 4, td);
  usb.frames(10);
  CHECK_EQ(usb.in(2) & 0x30, 0x30);  // stopped with a process error
  usb.out(0, 2);
  CHECK_EQ(usb.in(2), 0x20);
}

TEST(ehci_carries_a_control_transfer_and_tells_of_it) {
  Ehci usb{"usb-tablet"};
  usb.start();
  CHECK_EQ(usb.port() & 0x2005, 5u);  // there, on, its own
  usb.bench.write64(setup, get_device_descriptor);
  usb.put(Ehci::qtd, Ehci::qtd + 0x20, 2, 8, setup);
  usb.put(Ehci::qtd + 0x20, Ehci::qtd + 0x40, 1, 64, data + 0xff8);  // more than there is; over a page's end
  usb.put(Ehci::qtd + 0x40, 1, 0, 0, 0, true);
  usb.bench.write32(Ehci::head + 16, Ehci::qtd);
  for (int n = 0; n < 10; n++) usb.bench.advance(Nanoseconds{1'000'000});
  CHECK_EQ(usb.bench.read32(data + 0xff8) & 0xff, 18u);
  CHECK_EQ(usb.bench.read32(data + 0x1000), 0x0001'0627u);
  CHECK_EQ(usb.bench.read32(Ehci::qtd + 0x28) & 0x7fff'00ff, (64u - 18) << 16);  // the rest, no error
  CHECK_EQ(usb.bench.read32(Ehci::qtd + 0x48) & 0xff, 0u);
  CHECK_EQ(usb.bench.read32(usb.base + 0x24) & 0x3, 1u);
  CHECK(usb.bench.line(16 + 3));
  usb.bench.write32(usb.base + 0x20, 0x61);  // the doorbell
  usb.bench.advance(Nanoseconds{8'000'000});
  CHECK(usb.bench.read32(usb.base + 0x24) & 0x20);
  // Nobody at that address: the queue stops, and what stands in it.
  usb.bench.write32(Ehci::head + 4, usb.bench.read32(Ehci::head + 4) | 9);
  usb.put(Ehci::qtd, 1, 2, 8, setup);
  usb.bench.write32(Ehci::head + 16, Ehci::qtd);
  for (int n = 0; n < 10; n++) usb.bench.advance(Nanoseconds{1'000'000});
  CHECK_EQ(usb.bench.read32(Ehci::head + 24) & 0xff, 0x48u);
  CHECK(usb.bench.read32(usb.base + 0x24) & 2);
}

TEST(ehci_hands_its_ports_to_a_companion_and_takes_them_back) {
  Ehci usb{"usb-tablet"};
  CHECK_EQ(usb.bench.read32(usb.base + 4), 0x1206u);
  CHECK_EQ(usb.port() & 0x2001, 0x2000u);  // nobody has said that high speed is wanted
  CHECK(usb.companion_port() & 1);
  usb.start();
  CHECK_EQ(usb.port() & 0x2005, 5u);
  CHECK(!(usb.companion_port() & 1));
  usb.bench.write32(usb.base + 0x64, usb.port() | 0x2000);
  CHECK_EQ(usb.port() & 0x2005, 0x2000u);
  CHECK_EQ(usb.companion_port() & 3, 3);
  // The companion goes.
  OK(run_task(usb.bench.machine().main_loop(), usb.companion->detach()));
  CHECK_EQ(usb.port() & 0x2001, 1u);
  CHECK_EQ(usb.bench.read32(usb.base + 4), 6u);
}

TEST(ehci_queues_that_have_no_end_and_transfers_that_cannot_be) {
  Ehci usb{"usb-tablet"};
  usb.start();
  usb.bench.write32(Ehci::head, (Ehci::head + 0x80) | 2);
  usb.bench.write32(Ehci::head + 0x80, (Ehci::head + 0x80) | 2), usb.bench.write32(Ehci::head + 0x98, 0x40);  // away from the list's head
  usb.put(Ehci::qtd, 1, 1, 0x7fff, 0x6fff);
  usb.bench.write32(Ehci::head + 16, Ehci::qtd);
  for (int n = 0; n < 10; n++) usb.bench.advance(Nanoseconds{1'000'000});
  CHECK_EQ(usb.bench.read32(Ehci::head + 24) & 0xff, 0x48u);
  CHECK(!(usb.bench.read32(usb.base + 0x24) & 0x1000));
  usb.bench.write32(usb.base + 0x38, 0xfff0'0000);  // where there is no memory
  for (int n = 0; n < 10; n++) usb.bench.advance(Nanoseconds{1'000'000});
  usb.bench.write32(usb.base + 0x20, 2);
  CHECK_EQ(usb.bench.read32(usb.base + 0x20), 0x8'0000u);
}

}  // namespace vmm::test
