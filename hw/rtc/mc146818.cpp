// MC146818A. Source: Motorola's data sheet; century byte 32h as in IBM's PS/2 and ACPI FADT. The square wave output does not exist.
//
// Seconds pass by the clock that -rtc clock= names, interrupts by guest time. While nobody wants update interrupts no timer runs: UF and
// AF are then worked out when register C is read.
#include "hw/rtc/mc146818.h"

#include <time.h>

#include <algorithm>
#include <cstdio>

#include "src/base/bits.h"
#include "src/control/command.h"

namespace vmm {
template <>
inline constexpr std::array enum_names<hw::LostTickPolicy> = {
    EnumNameOf<hw::LostTickPolicy>{hw::LostTickPolicy::discard, "discard"},
    EnumNameOf<hw::LostTickPolicy>{hw::LostTickPolicy::delay, "delay"},
    EnumNameOf<hw::LostTickPolicy>{hw::LostTickPolicy::slew, "slew"},
};
}  // namespace vmm

namespace vmm::hw {

namespace {
constexpr i64 second = 1'000'000'000;
constexpr i64 update_ns = 244'000;  // UIP rises this long before the update (data sheet, "Update cycle")
enum Index : u8 {
  r_seconds,
  r_alarm_seconds,
  r_minutes,
  r_alarm_minutes,
  r_hours,
  r_alarm_hours,
  r_weekday,
  r_day,
  r_month,
  r_year,
  r_a,
  r_b,
  r_c,
  r_d,
  r_century = 0x32
};
enum A : u8 { uip = 0x80 };
enum B : u8 { set = 0x80, pie = 0x40, aie = 0x20, uie = 0x10, sqwe = 0x08, binary = 0x04, hours24 = 0x02 };
enum C : u8 { irqf = 0x80, pf = 0x40, af = 0x20, uf = 0x10 };

i64 floor_div(i64 a, i64 b) { return a / b - (a % b < 0); }

constexpr control::EventInfo rtc_change{.name = "RTC_CHANGE", .doc = "The guest has set its clock.", .rate_limited = true};
control::RegisteredEvent registered_change{rtc_change};
}  // namespace

constexpr Field Mc146818::properties[] = {
    field<&Mc146818::base_year_>("base_year", "Year that year 0 of century 0 means."),
    field<&Mc146818::iobase_>("iobase", "First of two I/O ports.", {.max = 0xfffc}),
    field<&Mc146818::irq_line_>("irq", "ISA interrupt line.", {.max = 15}),
    field<&Mc146818::policy_>("lost_tick_policy", "What to do about periodic interrupts that the guest missed."),
};
constexpr Field Mc146818::state[] = {
    field<&Mc146818::cmos_>("cmos_data", "both banks of memory"),
    field<&Mc146818::index_>("cmos_index", "selected byte", {.max = 127}),
    field<&Mc146818::index2_>("cmos_index2", "selected byte of the second bank", {.min = 128}),
    field<&Mc146818::offset_ns_>("offset", "what the guest's clock is ahead of the host's"),
    field<&Mc146818::frozen_ns_>("frozen", "time at which the clock stands"),
    field<&Mc146818::frozen_>("stands", "the clock stands"),
    field<&Mc146818::second_done_>("second", "last second that was signalled"),
    field<&Mc146818::periodic_due_ns_>("periodic", "guest time of the next periodic interrupt"),
    field<&Mc146818::lost_ticks_>("lost-ticks", "periodic interrupts to make up for"),
};
constinit const TypeInfo Mc146818::type{
    .name = "mc146818rtc",
    .doc = "Real-time clock and CMOS memory.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<Mc146818>,
    .user_creatable = false,
};
static Registered registered{Mc146818::type};

// -rtc base=: utc, localtime, or a date such as 2006-06-17T16:01:21.
Result<i64> Mc146818::start_ns() const {
  const std::string& base = machine().config.rtc.base;
  const i64 host = time_domain().now(Clock::host).count();
  if (base.empty() || base == "utc") return host;
  if (base == "localtime") {
    const time_t now = host / second;
    struct tm local;
    localtime_r(&now, &local);
    return host + local.tm_gmtoff * second;
  }
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, sec = 0, used = 0;
  const int n = std::sscanf(base.c_str(), "%d-%d-%d%n", &year, &month, &day, &used);
  bool good = n == 3;
  if (good && base[used]) {
    int more = 0;
    good = (base[used] == 'T' || base[used] == ' ') &&
           std::sscanf(base.c_str() + used + 1, "%d:%d:%d%n", &hour, &minute, &sec, &more) == 3 && !base[used + 1 + more];
  }
  const std::chrono::year_month_day date{std::chrono::year{year}, std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!good || !date.ok() || year < 1970 || year > 2200 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || sec < 0 || sec > 59)
    return std::unexpected(
        Error{format("invalid datetime format '{}'", base)}.with_hint("valid formats: '2006-06-17T16:01:21' or '2006-06-17'"));
  const i64 days = std::chrono::sys_days{date}.time_since_epoch().count();
  return (((days * 24 + hour) * 60 + minute) * 60 + sec) * second;
}

Result<> Mc146818::realize() {
  offset_ns_ = TRY(start_ns()) - base_now_ns();
  cmos_[r_a] = 0x26;
  cmos_[r_b] = hours24;
  cmos_[r_c] = 0;
  cmos_[r_d] = 0x80;
  second_done_ = floor_div(now_ns(), second);
  show_time();
  ports_.init_io<&Mc146818::read, &Mc146818::write>(*this, "rtc", 2, {.min = 1, .max = 1});
  map_ports(ports_, iobase_);
  extended_ports_.init_io<&Mc146818::extended_read, &Mc146818::extended_write>(*this, "rtc-extended", 2, {.min = 1, .max = 1});
  map_ports(extended_ports_, static_cast<u16>(iobase_ + 2));
  if (!irq_.connected()) connect(irq_, irq_line_);
  arm_periodic(true);
  return map(irq_);
}

void Mc146818::reset() {
  cmos_[r_b] &= ~(pie | aie | uie | sqwe);
  cmos_[r_c] = 0;
  lost_ticks_ = 0;
  second_timer_.cancel();
  periodic_timer_.cancel();
}

Result<> Mc146818::after_load() {
  arm_second();
  arm_periodic(false);
  return {};
}

// --- Time of day ------------------------------------------------------------------------------------------------------------------------
i64 Mc146818::base_now_ns() const {
  const std::string& clock = machine().config.rtc.clock;
  return time_domain().now(clock == "vm" ? Clock::guest : clock == "rt" ? Clock::real : Clock::host).count();
}

i64 Mc146818::now_ns() const { return frozen_ ? frozen_ns_ : base_now_ns() + offset_ns_; }
i64 Mc146818::guest_seconds() const { return floor_div(now_ns(), second); }

// SET, or a divider chain that is not set for the 32 kHz crystal.
bool Mc146818::stopped_by_registers() const { return cmos_[r_b] & B::set || (cmos_[r_a] & 0x70) > 0x20; }

void Mc146818::hold_or_run() {
  const bool stop = stopped_by_registers();
  if (stop && !frozen_) {
    show_time();
    frozen_ns_ = now_ns();
    frozen_ = true;
  } else if (!stop && frozen_) {
    frozen_ = false;
    take_time();
  }
  arm_second();
}

u8 Mc146818::to_field(unsigned value) const { return static_cast<u8>(cmos_[r_b] & binary ? value : value / 10 % 10 << 4 | value % 10); }
unsigned Mc146818::from_field(u8 value) const { return cmos_[r_b] & binary ? value : (value >> 4) * 10u + (value & 15); }
unsigned Mc146818::hour_from_field(u8 value) const {
  if (cmos_[r_b] & hours24) return from_field(value);
  const unsigned hour = from_field(value & 0x7f) % 12;
  return value & 0x80 ? hour + 12 : hour;
}

void Mc146818::show_time() {
  const i64 now = floor_div(now_ns(), second);
  const i64 days = floor_div(now, 86400), rest = now - days * 86400;
  const std::chrono::sys_days date{std::chrono::days{days}};
  const std::chrono::year_month_day ymd{date};
  const unsigned hour = static_cast<unsigned>(rest / 3600);
  cmos_[r_seconds] = to_field(rest % 60);
  cmos_[r_minutes] = to_field(rest / 60 % 60);
  if (cmos_[r_b] & hours24) {
    cmos_[r_hours] = to_field(hour);
  } else {
    cmos_[r_hours] = to_field(hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
  }
  cmos_[r_weekday] = to_field(std::chrono::weekday{date}.c_encoding() + 1);
  cmos_[r_day] = to_field(static_cast<unsigned>(ymd.day()));
  cmos_[r_month] = to_field(static_cast<unsigned>(ymd.month()));
  const unsigned year = static_cast<unsigned>(std::max(0, static_cast<int>(ymd.year()) - base_year_));
  cmos_[r_year] = to_field(year % 100);
  cmos_[r_century] = to_field(year / 100 % 100);
}

void Mc146818::take_time() {
  const int year = static_cast<int>(from_field(cmos_[r_year]) + from_field(cmos_[r_century]) * 100) + base_year_;
  // Times are nanoseconds since 1970 in 64 bits: a guest's year beyond what they hold is taken for the nearest that fits.
  const std::chrono::year_month_day first{std::chrono::year{std::clamp(year, 1700, 2240)},
                                          std::chrono::month{std::clamp(from_field(cmos_[r_month]), 1u, 12u)}, std::chrono::day{1}};
  const i64 days = std::chrono::sys_days{first}.time_since_epoch().count() + std::clamp<i64>(from_field(cmos_[r_day]), 1, 31) - 1;
  const i64 seconds =
      ((days * 24 + hour_from_field(cmos_[r_hours])) * 60 + from_field(cmos_[r_minutes])) * 60 + from_field(cmos_[r_seconds]);
  const i64 fraction = now_ns() - floor_div(now_ns(), second) * second;
  offset_ns_ = seconds * second + fraction - base_now_ns();
  second_done_ = seconds;
  announce();
}

void Mc146818::announce() {
  Value data = Value::object();
  data.set("offset", floor_div(now_ns() - time_domain().now(Clock::host).count() + second / 2, second));
  data.set("qom-path", path());
  control::emit(rtc_change, std::move(data));
}

bool Mc146818::updating() const {
  if (frozen_) return false;
  const i64 now = now_ns();
  return now - floor_div(now, second) * second >= second - update_ns;
}

// --- Update and alarm -------------------------------------------------------------------------------------------------------------------
bool Mc146818::alarm_matches(i64 s) const {
  const i64 of_day = s - floor_div(s, 86400) * 86400;
  const auto field_matches = [](u8 alarm, unsigned wanted, unsigned now) { return alarm >= 0xc0 || wanted == now; };
  const u8 as = cmos_[r_alarm_seconds], am = cmos_[r_alarm_minutes], ah = cmos_[r_alarm_hours];
  return field_matches(as, from_field(as), static_cast<unsigned>(of_day % 60)) &&
         field_matches(am, from_field(am), static_cast<unsigned>(of_day / 60 % 60)) &&
         field_matches(ah, hour_from_field(ah), static_cast<unsigned>(of_day / 3600));
}

// What has happened since we looked last.
void Mc146818::pass_seconds() {
  if (frozen_) return;
  const i64 now = guest_seconds();
  if (now <= second_done_) {
    second_done_ = now;  // less only when the host's clock went back
    return;
  }
  u8 flags = uf;
  for (i64 s = std::max(second_done_ + 1, now - 86400); s <= now; s++)
    if (alarm_matches(s)) {
      flags |= af;
      break;
    }
  second_done_ = now;
  raise(flags);
}

void Mc146818::arm_second() {
  if (frozen_ || !(cmos_[r_b] & (uie | aie))) return second_timer_.cancel();
  const i64 now = now_ns();
  second_timer_.arm_in(Nanoseconds{(floor_div(now, second) + 1) * second - now});
}

void Mc146818::second_passed() {
  pass_seconds();
  arm_second();
}

// --- Periodic ---------------------------------------------------------------------------------------------------------------------------
i64 Mc146818::period_ns() const {
  unsigned rate = cmos_[r_a] & 0x0f;
  if (!rate) return 0;
  if (rate <= 2) rate += 7;
  return (second << (rate - 1)) / 32768;
}

void Mc146818::arm_periodic(bool restart) {
  const i64 period = period_ns(), now = periodic_timer_.now().count();
  if (!period) {
    periodic_due_ns_ = 0;
    return periodic_timer_.cancel();
  }
  if (restart || !periodic_due_ns_) periodic_due_ns_ = now + period;
  if (!(cmos_[r_b] & pie)) return periodic_timer_.cancel();
  periodic_timer_.arm(Nanoseconds{periodic_due_ns_});
}

void Mc146818::periodic_passed() {
  const i64 period = period_ns(), now = periodic_timer_.now().count();
  if (!period || !periodic_due_ns_) return;
  if (now < periodic_due_ns_) return arm_periodic(false);
  const i64 passed = (now - periodic_due_ns_) / period + 1;
  periodic_due_ns_ += passed * period;
  if (policy_ == LostTickPolicy::slew) {
    const i64 lost = passed - 1 + (cmos_[r_c] & pf ? 1 : 0);
    lost_ticks_ = static_cast<u32>(std::min<i64>(lost_ticks_ + lost, 10'000));
  }
  raise(pf);
  arm_periodic(false);
}

void Mc146818::raise(u8 flags) {
  cmos_[r_c] |= flags;
  update_irq();
}

void Mc146818::update_irq() {
  if (cmos_[r_c] & cmos_[r_b] & (pf | af | uf))
    cmos_[r_c] |= irqf;
  else
    cmos_[r_c] &= ~irqf;
  irq_.set(cmos_[r_c] & irqf);
}

// --- Registers --------------------------------------------------------------------------------------------------------------------------
void Mc146818::register_written(u8 index, u8 value) {
  switch (index) {
    case r_alarm_seconds:
    case r_alarm_minutes:
    case r_alarm_hours:
      pass_seconds();
      cmos_[index] = value;
      return;
    case r_seconds:
    case r_minutes:
    case r_hours:
    case r_weekday:
    case r_day:
    case r_month:
    case r_year:
    case r_century:
      if (!frozen_) show_time();
      cmos_[index] = value;
      if (!frozen_) take_time(), arm_second();
      return;
    case r_a: {
      const u8 before = cmos_[r_a];
      if (!frozen_) pass_seconds();
      cmos_[r_a] = value & 0x7f;
      hold_or_run();
      if ((before ^ value) & 0x0f) arm_periodic(true);
      return;
    }
    case r_b: {
      if (!frozen_) pass_seconds();
      const u8 before = cmos_[r_b];
      if (value & B::set) value &= ~uie;
      if (!frozen_ && value & B::set) {
        show_time();  // in the format that holds until now
        frozen_ns_ = now_ns();
        frozen_ = true;
      }
      cmos_[r_b] = value;
      hold_or_run();
      if ((before ^ value) & pie) arm_periodic(false);
      update_irq();
      return;
    }
    case r_c:
    case r_d: return;  // read only
    default: cmos_[index] = value;
  }
}

u8 Mc146818::register_read(u8 index) {
  switch (index) {
    case r_seconds:
    case r_minutes:
    case r_hours:
    case r_weekday:
    case r_day:
    case r_month:
    case r_year:
    case r_century:
      if (!frozen_) show_time();
      return cmos_[index];
    case r_a: return cmos_[r_a] | (updating() ? uip : 0);
    case r_c: {
      pass_seconds();
      if (!periodic_timer_.armed() && periodic_due_ns_) periodic_passed();
      const u8 value = cmos_[r_c];
      cmos_[r_c] = 0;
      update_irq();
      if (lost_ticks_ && cmos_[r_b] & pie && value & pf) {  // slew: the next one at once
        lost_ticks_--;
        raise(pf);
      }
      return value;
    }
    default: return cmos_[index];
  }
}

u64 Mc146818::read(u64 offset, unsigned) { return offset == 0 ? 0xff : register_read(index_); }
void Mc146818::write(u64 offset, unsigned, u64 value) {
  if (offset == 0)
    index_ = value & 0x7f;  // bit 7 masks NMI, which nothing here raises
  else
    register_written(index_, static_cast<u8>(value));
}

u64 Mc146818::extended_read(u64 offset, unsigned) { return offset == 0 ? 0xff : cmos_[index2_]; }
void Mc146818::extended_write(u64 offset, unsigned, u64 value) {
  if (offset == 0)
    index2_ = 0x80 | (value & 0x7f);
  else
    cmos_[index2_] = static_cast<u8>(value);
}

}  // namespace vmm::hw
