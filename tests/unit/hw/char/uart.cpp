// 16550A: FIFO thresholds, time-outs, loopback, flow control.
#include "tests/unit/hw/bench_chardev.h"

namespace vmm::test {

namespace {
enum : u16 { thr = 0x3f8, ier, iir, lcr, mcr, lsr, msr, scr };
struct Serial {
  DeviceBench bench;
  HostEnd host{"host"};
  Serial() { bench.add("isa-serial", {{"chardev", "host"}}); }
  u8 in(u16 port) { return bench.in8(port); }
  void out(u16 port, u8 v) { bench.out8(port, v); }
};
}  // namespace

TEST(uart_sends_what_is_written_and_tells_when_it_is_empty) {
  Serial s;
  CHECK_EQ(s.in(lsr), 0x60);
  s.out(thr, 'h'), s.out(thr, 'i');
  CHECK_EQ(s.host->output, "hi");
  CHECK(!s.bench.line(4));
  s.out(ier, 2);
  CHECK(s.bench.line(4));
  CHECK_EQ(s.in(iir), 0x02);
  CHECK(!s.bench.line(4));  // reading IIR took the interrupt away
  CHECK_EQ(s.in(iir), 0x01);
  s.out(thr, 'x');
  CHECK(s.bench.line(4));
}

TEST(uart_fifo_interrupts_at_the_threshold_and_after_four_character_times) {
  Serial s;
  s.out(iir, 0x81);  // FIFO on, trigger at 8
  s.out(ier, 1);
  s.out(lcr, 0x83), s.out(thr, 1), s.out(ier, 0), s.out(lcr, 0x03);  // 115200 8N1
  s.host->feed("1234567");
  CHECK(!s.bench.line(4));
  s.host->feed("8");
  CHECK_EQ(s.in(iir), 0xc4);
  CHECK_EQ(s.in(thr), '1');
  CHECK(!s.bench.line(4));
  s.bench.advance(300us);
  CHECK(!s.bench.line(4));
  s.bench.advance(50us);  // 40 bits at 115200 baud are 347 us
  CHECK_EQ(s.in(iir), 0xcc);
  for (char c = '2'; c <= '8'; c++) CHECK_EQ(s.in(thr), static_cast<u8>(c));
  CHECK(!s.bench.line(4));
  CHECK_EQ(s.in(lsr), 0x60);
}

TEST(uart_takes_no_more_than_its_fifo_holds) {
  Serial s;
  s.host->feed("ab");
  CHECK_EQ(s.host->waiting, "b");  // without FIFO: one character
  CHECK_EQ(s.in(thr), 'a');
  CHECK_EQ(s.in(thr), 'b');
  s.out(iir, 1);
  s.host->feed("0123456789abcdefgh");
  CHECK_EQ(s.host->waiting, "gh");
  CHECK_EQ(s.in(lsr) & 0x03, 0x01);
  s.in(thr);
  CHECK_EQ(s.host->waiting, "h");
}

TEST(uart_full_host_end_drops_cts_and_loses_nothing) {
  Serial s;
  s.out(iir, 1);
  s.out(ier, 8);
  s.in(msr);
  s.host->room = 1;
  s.out(thr, 'a'), s.out(thr, 'b'), s.out(thr, 'c');
  CHECK_EQ(s.host->output, "a");
  CHECK_EQ(s.in(lsr) & 0x60, 0);
  CHECK(s.bench.line(4));
  CHECK_EQ(s.in(msr), 0xa1);
  s.host->make_room(100);
  CHECK_EQ(s.host->output, "abc");
  CHECK_EQ(s.in(lsr) & 0x60, 0x60);
  CHECK_EQ(s.in(msr), 0xb1);
}

TEST(uart_rts_stops_the_host_end_once_the_guest_uses_it) {
  Serial s;
  s.out(iir, 1);
  s.host->feed("a");  // never used: not obeyed
  CHECK_EQ(s.in(thr), 'a');
  s.out(mcr, 0x0b);
  s.out(mcr, 0x09);
  s.host->feed("b");
  CHECK_EQ(s.host->waiting, "b");
  s.out(mcr, 0x0b);
  CHECK_EQ(s.in(thr), 'b');
}

TEST(uart_loopback_turns_the_modem_lines_round) {
  Serial s;
  s.in(msr);
  s.out(mcr, 0x1a);  // loop, RTS, OUT2
  CHECK_EQ(s.in(msr) & 0xf0, 0x90);
  s.out(thr, 'q');
  CHECK_EQ(s.host->output, "");
  CHECK_EQ(s.in(thr), 'q');
}

TEST(uart_break_is_a_line_status_interrupt) {
  Serial s;
  s.out(ier, 4);
  s.host->send_break();
  CHECK_EQ(s.in(iir), 0x06);
  CHECK_EQ(s.in(lsr) & 0x11, 0x11);
  CHECK(!s.bench.line(4));
}

TEST(isa_serial_takes_the_next_free_index_and_says_when_there_is_none) {
  DeviceBench bench;
  for (int i = 0; i < 4; i++) bench.add("isa-serial");
  bench.out8(0x2e8 + 7, 0x5a);
  CHECK_EQ(bench.in8(0x2e8 + 7), 0x5a);
  auto fifth = hw::create_device(bench.machine(), {.driver = "isa-serial"});
  CHECK(!fifth && fifth.error().message == "Max. supported number of ISA serial ports is 4.");
  auto unknown = hw::create_device(bench.machine(), {.driver = "isa-serial", .properties = Value::object().set("nosuch", 1)});
  CHECK(!unknown && unknown.error().message == "Property 'isa-serial.nosuch' not found");
  auto chardev = hw::create_device(bench.machine(), {.driver = "isa-serial", .properties = Value::object().set("chardev", "zz")});
  CHECK(!chardev && chardev.error().message == "Property 'isa-serial.chardev' can't find value 'zz'");
  auto driver = hw::create_device(bench.machine(), {.driver = "isa-seral"});
  CHECK(!driver && driver.error().message == "'isa-seral' is not a valid device model name");
}

TEST(debug_console_passes_bytes_and_reads_back) {
  DeviceBench bench;
  const HostEnd host{"host"};
  bench.add("isa-debugcon", {{"chardev", "host"}, {"iobase", "0x402"}});
  bench.out8(0x402, 'Z');
  CHECK_EQ(host->output, "Z");
  CHECK_EQ(bench.in8(0x402), 0xe9);
}

}  // namespace vmm::test
