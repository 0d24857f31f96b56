// The high precision event timer, one block. Source: IA-PC HPET 1.0a. Machine lock held.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

class Hpet final : public Device, public IrqSink {
 public:
  static const TypeInfo type;  // "hpet", properties timers, msi, hpet-intcap
  // The board places region(), connects outputs, and passes the outputs of PIT (input 0) and RTC (input 1) through set_input.
  memory::MemoryRegion& region() { return region_; }
  void connect_gsi(IrqSink& lines) { lines_ = &lines; }  // 32 outputs
  void set_input(unsigned line, bool level) override;
  // Called with false when legacy replacement takes IRQ 0 and 8 from PIT and RTC, with true when it gives them back.
  void on_pit_enable(std::function<void(bool)> f) { pit_enable_ = std::move(f); }
  u64 counter() const;

  void reset() override;
  void settle() override;

  struct Comparator {
    u64 config = 0, cmp = 0, fsb = 0, period = 0;
    bool raised = false;  // its line is driven
    u8 raised_line = 0;
    u64 owed = 0;  // periods that passed while the main loop had no time: their ticks come soon, one at a time
  };

 private:
  Result<> realize() override;
  Result<> after_load() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u64 register_at(u64 at);
  void write_timer(unsigned n, u64 reg, u64 value, u64 lanes);
  void config_written(u64 before);
  Result<> load_counter(const u64& value);
  u64 distance(const Comparator& c) const;
  void arm(unsigned n);
  template <unsigned N>
  void expired() {
    fire(N);
  }
  void fire(unsigned n);
  void set_line(unsigned n, bool level);
  unsigned route(unsigned n) const;
  bool enabled() const { return config_ & 1; }
  bool legacy() const { return config_ & 2; }
  Timer& timer(unsigned n) { return n == 0 ? timer0_ : n == 1 ? timer1_ : timer2_; }
  static const Field properties[], state[];

  u8 timers_ = 3;
  bool msi_ = false, offset_saved_ = true;
  u32 intcap_ = 4;
  u64 config_ = 0, status_ = 0, counter_ = 0;  // counter_: while halted, else its value at start_ns_
  i64 start_ns_ = 0;
  std::array<Comparator, 3> comparators_;
  bool pit_level_ = false, rtc_level_ = false;
  IrqSink* lines_ = nullptr;
  std::function<void(bool)> pit_enable_;
  Timer timer0_{Clock::guest, on<&Hpet::expired<0>>, *this};
  Timer timer1_{Clock::guest, on<&Hpet::expired<1>>, *this};
  Timer timer2_{Clock::guest, on<&Hpet::expired<2>>, *this};
  memory::MemoryRegion region_;
};

}  // namespace vmm::hw
