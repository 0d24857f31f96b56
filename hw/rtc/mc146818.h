// The MC146818 real-time clock with 128 bytes of CMOS RAM and a second bank of 128. Source: Motorola MC146818A data sheet.
// Machine lock held.
#pragma once

#include "hw/isa/isa.h"

namespace vmm::hw {

enum class LostTickPolicy : u8 { discard, delay, slew };

class Mc146818 final : public IsaDevice {
 public:
  static const TypeInfo type;  // "mc146818rtc", properties base_year, iobase, irq, lost_tick_policy
  // CMOS bytes that firmware reads; indices 0x00–0xff (from 0x80 on: the second bank). Kept over resets.
  void set_cmos(u8 index, u8 value) { cmos_[index] = value; }
  u8 cmos(u8 index) const { return cmos_[index]; }
  // IRQ output. Connected by the board (HPET); if it is not at realize, to ISA line `irq`.
  Irq& irq() { return irq_; }
  i64 guest_seconds() const;  // seconds since 1970 that the guest's clock shows

  void reset() override;
  void settle() override { update_irq(); }

 private:
  Result<> realize() override;
  Result<> after_load() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u64 extended_read(u64 offset, unsigned size);
  void extended_write(u64 offset, unsigned size, u64 value);
  void register_written(u8 index, u8 value);
  u8 register_read(u8 index);
  i64 base_now_ns() const;  // the clock that -rtc clock= chose
  i64 now_ns() const;       // what the guest's clock shows, nanoseconds since 1970
  Result<i64> start_ns() const;
  bool stopped_by_registers() const;
  void hold_or_run();
  void show_time();  // fields from the clock
  void take_time();  // clock from the fields
  void announce();
  bool updating() const;
  u8 to_field(unsigned value) const;
  unsigned from_field(u8 value) const;
  unsigned hour_from_field(u8 value) const;
  bool alarm_matches(i64 second) const;
  void pass_seconds();
  void arm_second();
  void second_passed();
  void arm_periodic(bool restart);
  void periodic_passed();
  i64 period_ns() const;
  void raise(u8 flags);
  void update_irq();
  static const Field properties[], state[];

  i32 base_year_ = 0;
  u16 iobase_ = 0x70;
  u8 irq_line_ = 8;
  LostTickPolicy policy_ = LostTickPolicy::discard;

  std::array<u8, 256> cmos_{};
  u8 index_ = 0, index2_ = 0x80;
  i64 offset_ns_ = 0;  // guest time of day = base clock + this
  i64 frozen_ns_ = 0;  // time of day while SET or a stopped divider holds the clock
  bool frozen_ = false;
  i64 second_done_ = 0;  // the last second whose update has been signalled
  i64 periodic_due_ns_ = 0;
  u32 lost_ticks_ = 0;
  Timer second_timer_{Clock::guest, on<&Mc146818::second_passed>, *this};
  Timer periodic_timer_{Clock::guest, on<&Mc146818::periodic_passed>, *this};
  memory::MemoryRegion ports_, extended_ports_;
  Irq irq_;
};

}  // namespace vmm::hw
