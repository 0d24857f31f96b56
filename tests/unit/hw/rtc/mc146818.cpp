// The RTC: time fields, update in progress, alarm, periodic and update interrupts, SET.
#include "hw/rtc/mc146818.h"

#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
struct Rtc {
  DeviceBench bench;
  hw::Mc146818* rtc = nullptr;
  explicit Rtc(std::string base = "2006-06-17T16:01:21") {
    bench.machine().config.rtc.base = std::move(base);
    bench.add("mc146818rtc");
    rtc = &bench.device<hw::Mc146818>();
  }
  u8 in(u8 index) { return bench.out8(0x70, index), bench.in8(0x71); }
  void out(u8 index, u8 value) { bench.out8(0x70, index), bench.out8(0x71, value); }
};
}  // namespace

TEST(rtc_shows_the_date_in_bcd_and_in_binary) {
  Rtc r;
  CHECK_EQ(r.in(0x00), 0x21);
  CHECK_EQ(r.in(0x02), 0x01);
  CHECK_EQ(r.in(0x04), 0x16);
  CHECK_EQ(r.in(0x06), 7);  // a Saturday
  CHECK_EQ(r.in(0x07), 0x17);
  CHECK_EQ(r.in(0x08), 0x06);
  CHECK_EQ(r.in(0x09), 0x06);
  CHECK_EQ(r.in(0x32), 0x20);
  r.out(0x0b, 0x06);
  CHECK_EQ(r.in(0x04), 16);
  r.out(0x0b, 0x04);
  CHECK_EQ(r.in(0x04), 0x84);
  r.bench.advance(86400s);
  CHECK_EQ(r.in(0x07), 18);
}

TEST(rtc_update_in_progress_precedes_the_second) {
  Rtc r;
  CHECK_EQ(r.in(0x0a), 0x26);
  r.bench.advance(999'800us);
  CHECK_EQ(r.in(0x0a), 0xa6);
  r.bench.advance(300us);
  CHECK_EQ(r.in(0x0a), 0x26);
  CHECK_EQ(r.in(0x00), 0x22);
  CHECK_EQ(r.in(0x0c) & 0xb0, 0x10);  // UF without interrupt
}

TEST(rtc_alarm_and_update_interrupt) {
  Rtc r;
  r.out(0x01, 0x23), r.out(0x03, 0xff), r.out(0x05, 0xff);
  r.in(0x0c);
  r.out(0x0b, 0x22);
  r.bench.advance(1500ms);
  CHECK(!r.bench.line(8));
  r.bench.advance(1s);
  CHECK(r.bench.line(8));
  CHECK_EQ(r.in(0x0c) & 0xb0, 0xb0);
  CHECK(!r.bench.line(8));
  r.out(0x0b, 0x12);
  r.bench.advance(1s);
  CHECK_EQ(r.in(0x0c) & 0xb0, 0x90);
}

TEST(rtc_periodic_interrupt_at_1024_hz) {
  Rtc r;
  r.out(0x0b, 0x42);
  unsigned seen = 0;
  for (int i = 0; i < 1000; i++) {
    r.bench.advance(1ms);
    if (r.bench.line(8)) seen++, r.in(0x0c);
  }
  CHECK(seen >= 998 && seen <= 1000);
  CHECK(!r.bench.line(8) || r.in(0x0c));
}

TEST(rtc_stands_while_set_and_takes_what_was_written) {
  Rtc r;
  r.out(0x0b, 0x82);
  r.out(0x00, 0x59), r.out(0x02, 0x59), r.out(0x04, 0x23), r.out(0x07, 0x31), r.out(0x08, 0x12), r.out(0x09, 0x99), r.out(0x32, 0x19);
  r.bench.advance(10s);
  CHECK_EQ(r.in(0x00), 0x59);
  r.out(0x0b, 0x02);
  r.bench.advance(1s);
  CHECK_EQ(r.in(0x00), 0x00);
  CHECK_EQ(r.in(0x32), 0x20);
  CHECK_EQ(r.in(0x09), 0x00);
  CHECK_EQ(r.in(0x08), 0x01);
}

TEST(rtc_both_banks_of_memory_survive_reset) {
  Rtc r;
  r.out(0x40, 0x5a);
  r.bench.out8(0x72, 0x10), r.bench.out8(0x73, 0xa5);
  r.bench.device().reset_tree();
  CHECK_EQ(r.in(0x40), 0x5a);
  CHECK_EQ(r.rtc->cmos(0x90), 0xa5);
  CHECK_EQ(r.in(0x0d), 0x80);
}

TEST(rtc_refuses_a_date_that_does_not_exist) {
  DeviceBench bench;
  bench.machine().config.rtc.base = "2006-02-30";
  auto made = hw::create_device(bench.machine(), {.driver = "mc146818rtc", .place = hw::DeviceSpec::Place::unattached});
  CHECK(!made && made.error().message == "invalid datetime format '2006-02-30'");
}

}  // namespace vmm::test
