// ACPI fixed hardware. Source: ACPI 6.3 §4.8.3 (PM1, PM timer), §4.8.4.1 (GPE).
#include "hw/acpi/pm.h"

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

static constexpr i64 timer_hz = 3'579'545;

AcpiPm::AcpiPm(Device& owner, unsigned gpe_bytes)
    : gpe_registers_(gpe_bytes), owner_(owner), gpe_bytes_(gpe_bytes), overflow_(Clock::guest, on<&AcpiPm::update>, *this) {}

void AcpiPm::init_regions(std::string_view gpe_name) {
  using memory::MemoryRegion;
  events.init_io(&owner_, "acpi-evt", 4, MemoryRegion::member_ops<&AcpiPm::events_read, &AcpiPm::events_write, AcpiPm>(), this,
                 {.min = 1, .max = 2});
  control.init_io(&owner_, "acpi-cnt", 2, MemoryRegion::member_ops<&AcpiPm::control_read, &AcpiPm::control_write, AcpiPm>(), this,
                  {.min = 1, .max = 2});
  timer.init_io(&owner_, "acpi-tmr", 4, MemoryRegion::member_ops<&AcpiPm::timer_read, &AcpiPm::timer_write, AcpiPm>(), this,
                {.min = 1, .max = 4, .unaligned = true});
  gpe.init_io(&owner_, std::string{gpe_name}, gpe_bytes_, MemoryRegion::member_ops<&AcpiPm::gpe_read, &AcpiPm::gpe_write, AcpiPm>(), this,
              {.min = 1, .max = 1});
}

i64 AcpiPm::ticks() const {
  const i64 ns = owner_.time_domain().now(Clock::guest).count();
  return static_cast<i64>(static_cast<__int128>(ns) * timer_hz / 1'000'000'000);
}

// Status, interrupt and the next overflow from what is now.
void AcpiPm::update() {
  const i64 now = ticks();
  if (now >= timer_overflow_ticks_) {
    pm1_status_ |= timer_bit;
  }
  bool level = pm1_status_ & pm1_enable_ & (timer_bit | global_bit | power_button | rtc_alarm);
  for (unsigned i = 0; i < gpe_bytes_ / 2; i++) level = level || (gpe_registers_[i] & gpe_registers_[gpe_bytes_ / 2 + i]);
  sci.set(level);
  if ((pm1_enable_ & timer_bit) && !(pm1_status_ & timer_bit))
    overflow_.arm(Nanoseconds{static_cast<i64>((static_cast<__int128>(timer_overflow_ticks_) * 1'000'000'000 + timer_hz - 1) / timer_hz)});
  else
    overflow_.cancel();
}

// The top bit of a 24-bit counter changes every 2^23 ticks.
static i64 next_overflow(i64 now) { return (now + 0x80'0000) & ~i64{0x7f'ffff}; }

u64 AcpiPm::events_read(u64 offset, unsigned size) {
  update();
  const u32 all = pm1_status_ | u32{pm1_enable_} << 16;
  return all >> offset * 8 & mask_of_size(size);
}

void AcpiPm::events_write(u64 offset, unsigned size, u64 value) {
  const u64 shift = (offset & 1) * 8, mask = mask_of_size(size) << shift;
  const u16 bits = static_cast<u16>(value << shift & mask);
  if (offset < 2) {
    update();
    if (pm1_status_ & bits & timer_bit) timer_overflow_ticks_ = next_overflow(ticks());
    pm1_status_ &= static_cast<u16>(~bits);
  } else {
    pm1_enable_ = static_cast<u16>((pm1_enable_ & ~mask) | bits);
  }
  update();
}

u64 AcpiPm::control_read(u64 offset, unsigned size) { return pm1_control_ >> offset * 8 & mask_of_size(size); }

void AcpiPm::control_write(u64 offset, unsigned size, u64 value) {
  const u64 shift = offset * 8, mask = mask_of_size(size) << shift;
  const u16 now = static_cast<u16>((pm1_control_ & ~mask) | (value << shift & mask));
  pm1_control_ = now & static_cast<u16>(~sleep_enable);
  if (now & sleep_enable & mask) sleep(now >> 10 & 7);
}

void AcpiPm::sleep(unsigned type) {
  vm::RunState& run = owner_.machine().run_state();
  if (type == 0) {
    run.request_shutdown(vm::Cause::guest_shutdown);
  } else if (type == 1 && !s3_off) {
    if (before_suspend) before_suspend();
    run.request_suspend();
  } else if (type == s4_type && !s4_off) {
    run.request_shutdown(vm::Cause::guest_shutdown);
  } else {
    guest_error("acpi", "sleep type {} is not available", type);
  }
}

u64 AcpiPm::timer_read(u64 offset, unsigned size) { return (static_cast<u64>(ticks()) & 0xff'ffff) >> offset * 8 & mask_of_size(size); }

u64 AcpiPm::gpe_read(u64 offset, unsigned) { return gpe_registers_[offset]; }
void AcpiPm::gpe_write(u64 offset, unsigned, u64 value) {
  if (offset < gpe_bytes_ / 2)
    gpe_registers_[offset] &= static_cast<u8>(~value);
  else
    gpe_registers_[offset] = static_cast<u8>(value);
  update();
}

void AcpiPm::press_power_button() {
  if (!(pm1_enable_ & power_button)) return;  // nobody listens: a guest without ACPI
  pm1_status_ |= power_button;
  update();
}
void AcpiPm::woken() {
  pm1_status_ |= wake | power_button;
  update();
}
void AcpiPm::raise_gpe(unsigned n) {
  if (n / 8 >= gpe_bytes_ / 2) return;
  gpe_registers_[n / 8] |= static_cast<u8>(1u << n % 8);
  update();
}
void AcpiPm::set_acpi_enabled(bool on) { pm1_control_ = static_cast<u16>(on ? pm1_control_ | sci_enable : pm1_control_ & ~sci_enable); }

void AcpiPm::reset() {
  pm1_status_ = pm1_enable_ = pm1_control_ = 0;
  std::ranges::fill(gpe_registers_, u8{0});
  timer_overflow_ticks_ = next_overflow(ticks());
  overflow_.cancel();
}

}  // namespace vmm::hw
