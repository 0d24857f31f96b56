// The ACPI fixed hardware that PIIX4 and ICH9 share: PM1 events and control, PM timer, GPE0. Source: ACPI 6.3 §4.8.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

class AcpiPm {
 public:
  // Bits of PM1 status and enable.
  enum : u16 { timer_bit = 0x0001, global_bit = 0x0020, power_button = 0x0100, sleep_button = 0x0200, rtc_alarm = 0x0400, wake = 0x8000 };
  enum : u16 { sci_enable = 1, sleep_enable = 1 << 13 };

  AcpiPm(Device& owner, unsigned gpe_bytes);
  Irq sci;
  std::function<void()> before_suspend;  // S3: CMOS shutdown byte
  // S5 value of SLP_TYP is 0, S3 is 1, S4 is s4_type; the disabled ones do nothing.
  bool s3_off = false, s4_off = false;
  u8 s4_type = 2;

  // Regions for the owner to place: events 4 bytes, control 2, timer 4; GPE0 status and enable.
  void init_regions(std::string_view gpe_name);
  memory::MemoryRegion events, control, timer, gpe;

  void press_power_button();
  void woken();  // after S3
  void raise_gpe(unsigned n);
  bool acpi_enabled() const { return pm1_control_ & sci_enable; }
  void set_acpi_enabled(bool on);
  void reset();
  void settle() { update(); }
  Result<> loaded() {
    const usize bytes = gpe_registers_.size();
    gpe_registers_.resize(gpe_bytes_);
    if (bytes != gpe_bytes_) return fail("GPE0 has {} bytes, not {}", bytes, gpe_bytes_);
    return {};
  }

  // Migrated by the owner.
  u16 pm1_status_ = 0, pm1_enable_ = 0, pm1_control_ = 0;
  std::vector<u8> gpe_registers_;  // status, then enable
  i64 timer_overflow_ticks_ = 0;   // tick at which the timer's top bit changes next

 private:
  u64 events_read(u64 offset, unsigned size);
  void events_write(u64 offset, unsigned size, u64 value);
  u64 control_read(u64 offset, unsigned size);
  void control_write(u64 offset, unsigned size, u64 value);
  u64 timer_read(u64 offset, unsigned size);
  void timer_write(u64, unsigned, u64) {}
  u64 gpe_read(u64 offset, unsigned size);
  void gpe_write(u64 offset, unsigned size, u64 value);
  i64 ticks() const;
  void update();
  void sleep(unsigned type);
  TimeDomain& time_domain() { return owner_.time_domain(); }
  friend class vmm::Timer;
  Device& owner_;
  unsigned gpe_bytes_;
  Timer overflow_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array fields<hw::AcpiPm> = {
    field<&hw::AcpiPm::pm1_status_>("status", "PM1 status"),
    field<&hw::AcpiPm::pm1_enable_>("enable", "PM1 enable"),
    field<&hw::AcpiPm::pm1_control_>("control", "PM1 control"),
    field<&hw::AcpiPm::gpe_registers_>("gpe", "GPE0 status and enable"),
    field<&hw::AcpiPm::timer_overflow_ticks_>("overflow", "tick at which the timer's top bit changes next"),
};
}  // namespace vmm
