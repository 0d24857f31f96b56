// qemu-xhci with HID devices, as a driver sees them; and rings that no driver makes.
#include "src/ui/input.h"
#include "src/ui/pointer.h"
#include "tests/unit/hw/usb/driver.h"

#include <linux/input-event-codes.h>

namespace vmm::test {

namespace {

struct Usb {
  explicit Usb(std::string_view driver, std::string_view port = "1")
      : controller(bench.add("qemu-xhci", {{"addr", "5"}, {"p2", 4}, {"p3", 4}})), host(bench, 5) {
    plug(driver, port);
    host.start();
  }
  hw::Device& plug(std::string_view driver, std::string_view port) {
    return *OK(hw::create_device(
        bench.machine(),
        {.driver = std::string{driver}, .properties = Value::object().set("port", port), .place = hw::DeviceSpec::Place::unattached}));
  }
  // As a driver does: reset of the port, an address, a configuration, the report endpoint.
  void bring_up() {
    host.write(host.port_register(1), 0x210);
    CHECK(host.read(host.port_register(1)) & 2);
    host.write(host.port_register(1), 0x00fe'0200);  // what has changed is known
    CHECK_EQ(host.address(1), 1u);
    CHECK_EQ(host.control(setup_packet(0x00, 9, 1, 0, 0), false, 0).code, 1u);
    CHECK_EQ(host.configure_reports(), 1u);
  }
  DeviceBench bench;
  hw::Device& controller;
  XhciDriver host;
};

}  // namespace

TEST(xhci_shows_its_ports_and_who_is_plugged_in) {
  Usb usb{"usb-tablet"};
  CHECK_EQ(usb.host.read(usb.host.base() + 4) >> 24, 8u);
  const u32 port = usb.host.read(usb.host.port_register(1));
  CHECK(port & 1);
  CHECK_EQ(port >> 10 & 15, 3u);  // high speed
  CHECK(!(usb.host.read(usb.host.port_register(2)) & 1));
  const auto e = usb.host.event_of_type(34);
  CHECK(e && e->parameter >> 24 == 1);
}

TEST(a_usb_tablet_describes_itself_and_reports_where_it_is) {
  Usb usb{"usb-tablet"};
  usb.bring_up();
  const auto device = usb.host.control(setup_packet(0x80, 6, 0x0100, 0, 64), true, 64);
  CHECK_EQ(device.code, 1u);
  CHECK_EQ(device.bytes, 18u);
  CHECK_EQ(usb.host.byte(XhciDriver::data + 8), 0x27);
  CHECK_EQ(usb.host.byte(XhciDriver::data + 9), 0x06);
  const auto reports = usb.host.control(setup_packet(0x81, 6, 0x2200, 0, 200), true, 200);
  CHECK_EQ(reports.bytes, 74u);
  CHECK_EQ(usb.host.control(setup_packet(0x80, 6, 0x0f00, 0, 5), true, 5).code, 6u);  // no such descriptor: stall

  usb.host.ask_report();
  CHECK(!usb.host.event_of_type(32));  // nothing has happened
  ui::Pointer* tablet = ui::pointer_for(true);
  CHECK(tablet);
  tablet->place(0x1234, 0x4567);
  tablet->button(ui::Button::left, true);
  tablet->sync();
  const auto e = usb.host.event_of_type(32);
  CHECK(e && e->code() == 13 && e->length() == 2);  // six bytes of eight
  const u8 want[6] = {1, 0x34, 0x12, 0x67, 0x45, 0};
  for (unsigned i = 0; i < 6; i++) CHECK_EQ(usb.host.byte(XhciDriver::data + 0x100 + i), want[i]);
}

TEST(keys_of_a_usb_keyboard_arrive_in_order) {
  Usb usb{"usb-kbd"};
  usb.bring_up();
  ui::Keyboard* keyboard = ui::current_keyboard();
  CHECK(keyboard);
  keyboard->key(KEY_LEFTSHIFT, true);
  keyboard->key(KEY_A, true);
  keyboard->key(KEY_A, false);
  const u8 modifiers[] = {2, 2, 2}, keys[] = {0, 4, 0};
  for (unsigned i = 0; i < 3; i++) {
    usb.host.ask_report();
    const auto e = usb.host.event_of_type(32);
    CHECK(e && e->code() == 1);
    CHECK_EQ(usb.host.byte(XhciDriver::data + 0x100), modifiers[i]);
    CHECK_EQ(usb.host.byte(XhciDriver::data + 0x102), keys[i]);
  }
}

TEST(a_usb_mouse_moves_far_in_several_reports) {
  Usb usb{"usb-mouse"};
  usb.bring_up();
  ui::pointer_for(false)->move(200, -5);
  ui::pointer_for(false)->sync();
  int x = 0;
  for (unsigned i = 0; i < 2; i++) {
    usb.host.ask_report(4);
    CHECK(usb.host.event_of_type(32));
    x += static_cast<i8>(usb.host.byte(XhciDriver::data + 0x101));
  }
  CHECK_EQ(x, 200);
}

TEST(a_usb_machine_goes_on_where_it_was_saved) {
  Usb usb{"usb-tablet"};
  usb.bring_up();
  usb.host.ask_report();
  CHECK(!usb.host.event_of_type(32));
  const Value state = usb.controller.save();
  hw::Device* tablet = nullptr;
  hw::for_each_device(usb.bench.machine(), [&](hw::Device& d) {
    if (d.type_info().name == "usb-tablet") tablet = &d;
  });
  const Value below = tablet->save();
  CHECK(tablet->load(below));
  CHECK(usb.controller.load(state));
  usb.controller.settle();
  CHECK(usb.controller.save() == state);
  ui::pointer_for(true)->place(5, 6);
  ui::pointer_for(true)->sync();
  CHECK(usb.host.event_of_type(32));
}

TEST(a_usb_device_that_leaves_is_seen_to_leave) {
  Usb usb{"usb-tablet"};
  usb.bring_up();
  while (usb.host.event()) {
  }
  hw::Device* tablet = nullptr;
  hw::for_each_device(usb.bench.machine(), [&](hw::Device& d) {
    if (d.type_info().name == "usb-tablet") tablet = &d;
  });
  tablet->detach().start({});
  const auto e = usb.host.event_of_type(34);
  CHECK(e && e->parameter >> 24 == 1);
  CHECK(!(usb.host.read(usb.host.port_register(1)) & 1));
  usb.host.ask_report();
  const auto error = usb.host.event_of_type(32);
  CHECK(error && error->code() == 4);  // transaction error
}

TEST(rings_without_end_stop_the_controller_not_the_emulator) {
  {  // links only
    Usb usb{"usb-tablet"};
    u64 at = XhciDriver::command_ring;
    usb.host.put(at, XhciDriver::command_ring, 0, 6u << 10);
    usb.host.ring(0, 0);
    CHECK(usb.host.status() & 0x1000);
    usb.host.start();
    CHECK(!(usb.host.status() & 0x1001));
  }
  {  // one TD of links and chained TRBs, for ever
    Usb usb{"usb-tablet"};
    usb.bring_up();
    u64 at = XhciDriver::report_ring;
    usb.host.put(at, XhciDriver::data, 1, 1u << 10 | 16);
    usb.host.put(at, XhciDriver::report_ring, 0, 6u << 10 | 16);
    usb.host.ring(usb.host.last_slot, 3);
    CHECK(usb.host.status() & 0x1000);
  }
  {  // commands for ever: the driver's next turn comes nevertheless
    Usb usb{"usb-tablet"};
    u64 at = XhciDriver::command_ring;
    usb.host.put(at, 0, 0, 23u << 10);
    usb.host.put(at, XhciDriver::command_ring, 0, 6u << 10);
    usb.host.ring(0, 0);
    for (unsigned n = 0; n < 1000; n++)
      if (!usb.host.event()) break;
    CHECK(!(usb.host.status() & 0x1000));
  }
}

TEST(commands_in_the_wrong_state_are_refused) {
  Usb usb{"usb-tablet"};
  CHECK_EQ(usb.host.command(23), 1u);
  CHECK_EQ(usb.host.command(11, XhciDriver::input, 1u << 24), 11u);  // slot not enabled
  CHECK_EQ(usb.host.command(11, XhciDriver::input, 200u << 24), 5u);
  CHECK_EQ(usb.host.command(63), 5u);
  usb.bring_up();
  CHECK_EQ(usb.host.command(14, 0, usb.host.last_slot << 24 | 3u << 16), 19u);  // reset of an endpoint that has not halted
  const unsigned slot = usb.host.last_slot;
  CHECK_EQ(usb.host.command(15, 0, slot << 24 | 3u << 16), 1u);
  CHECK_EQ(usb.host.command(16, XhciDriver::report_ring | 1, slot << 24 | 3u << 16), 1u);
  CHECK_EQ(usb.host.command(10, 0, slot << 24), 1u);
  CHECK_EQ(usb.host.command(10, 0, slot << 24), 11u);
}

TEST(a_usb_port_that_is_taken_or_absent_is_named_with_those_that_are_free) {
  Usb usb{"usb-tablet"};
  const auto taken = hw::create_device(usb.bench.machine(), {.driver = "usb-kbd", .properties = Value::object().set("port", "1")});
  CHECK(!taken);
  CHECK(taken.error().message.contains("is taken by") && taken.error().hint.contains("2"));
  CHECK(!hw::create_device(usb.bench.machine(), {.driver = "usb-kbd", .properties = Value::object().set("port", "99")}));
}

}  // namespace vmm::test
