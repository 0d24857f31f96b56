// The 8254 interval timer with the PC's wiring: gates 0 and 1 high, gate 2 from port 61h. Source: Intel 8254 data sheet.
// Machine lock held.
#pragma once

#include "hw/isa/isa.h"

namespace vmm::hw {

class I8254 final : public IsaDevice {
 public:
  static const TypeInfo type;  // "isa-pit", property iobase
  // Output of channel 0. Connected by the board; if it is not at realize, to ISA line 0.
  Irq& irq() { return irq_; }
  void set_irq_enabled(bool on);  // the HPET's legacy mode takes the line away
  bool gate(unsigned channel) const { return channels_[channel].gate; }
  void set_gate(unsigned channel, bool level);
  bool output(unsigned channel) const { return output_of(channels_[channel], ticks(channels_[channel])); }  // OUT pin now
  u8 mode(unsigned channel) const { return channels_[channel].mode; }
  u32 initial_count(unsigned channel) const { return channels_[channel].count; }

  void reset() override;
  void before_save() override { pull(); }
  void settle() override;
  std::string describe() const override;

  static constexpr u64 hz = 1'193'182;

  struct Channel {
    u32 count = 0x10000;  // what was loaded; 0 counts as 65536 (or 10000 in BCD)
    u16 latched_count = 0;
    u8 latched_bytes = 0;  // which bytes of it are still to be read: an access mode, 0 for none
    bool status_latched = false;
    u8 status = 0;
    bool read_high = false, write_high = false;  // access mode 3: the high byte is next
    u8 write_low = 0;
    u8 access = 3, mode = 0;
    bool bcd = false, gate = true;
    bool loaded = false;   // a count has been written since the control word
    bool counting = true;  // the gate lets it run, and modes 1 and 5 have been triggered
    i64 start_ns = 0;      // guest time at which the count began; while not counting: how long it had run
  };

 private:
  Result<> realize() override;
  Result<> after_load() override;
  void pull();
  void push() const;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void control_written(u8 value);
  void load_count(unsigned channel, u32 value);
  void latch_count(Channel& c);
  void latch_status(Channel& c);
  u64 ticks(const Channel& c) const;
  u16 counter(const Channel& c) const;
  static bool output_of(const Channel& c, u64 ticks);
  void arm();
  void update_irq();
  void expired();
  static const Field properties[], state[];

  u32 iobase_ = 0xffff'ffff;
  bool irq_enabled_ = true;
  u64 armed_edge_ = 0;  // input clock of the rising edge that the timer waits for
  u64 owed_ = 0;        // periods that passed while the main loop had no time: their ticks come soon, one at a time
  std::array<Channel, 3> channels_;
  Timer timer_{Clock::guest, on<&I8254::expired>, *this};
  // The accelerator's (src/vm/irqchip.h), which then counts and has port 61h too, while the machine runs.
  vm::Irqchip* twin_ = nullptr;
  bool twin_counts_ = false;
  std::shared_ptr<bool> pausing_;  // held: this hears of pauses
  memory::MemoryRegion ports_;
  Irq irq_;
};

}  // namespace vmm::hw
