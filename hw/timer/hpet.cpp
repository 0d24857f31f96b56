// HPET. Source: IA-PC HPET 1.0a §2.3 (registers), §2.4 (timers). The counter runs at 100 MHz, 64 bits wide. A comparator written behind
// the counter fires at once, where hardware would wait for the wrap: what guests that lose that race hope for.
#include "hw/timer/hpet.h"

#include <algorithm>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm {
template <>
inline constexpr std::array fields<hw::Hpet::Comparator> = {
    field<&hw::Hpet::Comparator::config>("config", "configuration and capabilities"),
    field<&hw::Hpet::Comparator::cmp>("cmp", "comparator"),
    field<&hw::Hpet::Comparator::fsb>("fsb", "message address and data"),
    field<&hw::Hpet::Comparator::period>("period", "last value written in periodic mode"),
};
}  // namespace vmm

namespace vmm::hw {

namespace {
constexpr u64 tick_ns = 10;
constexpr u64 c_level = 1 << 1, c_enable = 1 << 2, c_periodic = 1 << 3, c_periodic_cap = 1 << 4, c_size_cap = 1 << 5, c_set_value = 1 << 6,
              c_32bit = 1 << 8, c_fsb_enable = 1 << 14, c_fsb_cap = 1 << 15;
constexpr u64 c_writable = 0x7f4e;
// A guest may ask for a period of 10 ns; ticks that nobody could tell apart are merged.
constexpr u64 shortest_ticks = 2000;
// Late ticks of a periodic comparator come in quick succession, but no quicker than this: guests count them.
constexpr u64 owed_ticks = 10'000;
constexpr u64 hz = 100'000'000;
}  // namespace

constexpr Field Hpet::properties[] = {
    field<&Hpet::timers_>("timers", "Number of comparators.", {.min = 3, .max = 3}),
    field<&Hpet::msi_>("msi", "Comparators may send messages instead of raising lines."),
    field<&Hpet::intcap_>("hpet-intcap", "Lines that comparators may be routed to, a bit each."),
    field<&Hpet::offset_saved_>("hpet-offset-saved", "Taken for compatibility; without effect."),
};
constexpr Field Hpet::state[] = {
    field<&Hpet::config_>("config", "general configuration", {.max = 3}),
    field<&Hpet::status_>("isr", "interrupt status", {.max = 7}),
    computed<&Hpet::counter, &Hpet::load_counter>("hpet_counter", "main counter"),
    field<&Hpet::comparators_>("timers", "comparators"),
};
constinit const TypeInfo Hpet::type{
    .name = "hpet",
    .doc = "High precision event timer.",
    .parent = &Device::type,
    .properties = properties,
    .state = state,
    .make = make<Hpet>,
    .sample = "hpet",
    .user_creatable = false,
    .bus = "System",
};
static Registered registered{Hpet::type};

Result<> Hpet::realize() {
  region_.init_io<&Hpet::read, &Hpet::write>(*this, "hpet", 0x400, {.min = 4, .max = 8, .valid_min = 4});
  reset();
  return map(region_);
}

void Hpet::reset() {
  config_ = status_ = counter_ = 0;
  for (unsigned n = 0; n < 3; n++) {
    timer(n).cancel();
    comparators_[n] = {.config = c_periodic_cap | c_size_cap | (msi_ ? c_fsb_cap : 0) | u64{intcap_} << 32, .cmp = ~u64{0}};
  }
  if (pit_enable_) pit_enable_(true);
}

void Hpet::settle() {
  for (unsigned n = 0; n < 3; n++) set_line(n, status_ >> n & 1);
}

Result<> Hpet::load_counter(const u64& value) {
  counter_ = value;
  start_ns_ = timer0_.now().count();
  return {};
}

Result<> Hpet::after_load() {
  for (unsigned n = 0; n < 3; n++) {
    comparators_[n].config &= c_writable | c_periodic_cap | c_size_cap | c_fsb_cap | ~u64{0} << 32;
    arm(n);
  }
  if (pit_enable_) pit_enable_(!legacy());
  // What the PIT and the RTC of a machine that has just begun said on these lines is not of the machine that has come.
  for (const unsigned line : {0u, 8u})
    if (legacy() && lines_) lines_->set_input(line, false);
  return {};
}

u64 Hpet::counter() const {
  if (!enabled()) return counter_;
  return counter_ + static_cast<u64>(std::max<i64>(0, timer0_.now().count() - start_ns_)) / tick_ns;
}

// --- Lines ------------------------------------------------------------------------------------------------------------------------------
void Hpet::set_input(unsigned line, bool level) {
  (line == 0 ? pit_level_ : rtc_level_) = level;
  if (!legacy() && lines_) lines_->set_input(line == 0 ? 0 : 8, level);
}

unsigned Hpet::route(unsigned n) const {
  if (legacy() && n < 2) return n == 0 ? 0 : 8;
  return comparators_[n].config >> 9 & 31;
}

void Hpet::set_line(unsigned n, bool level) {
  Comparator& c = comparators_[n];
  const u64 bit = u64{1} << n;
  if (!level || !(c.config & c_enable) || !enabled()) {
    status_ &= ~bit;
    if (c.raised && lines_) lines_->set_input(c.raised_line, false);
    c.raised = false;
  } else if (c.config & c_fsb_enable) {
    machine().memory().store(GuestPhys{c.fsb >> 32}, 4, c.fsb & 0xffff'ffff);
  } else if (c.config & c_level) {
    status_ |= bit;
    c.raised = true;
    c.raised_line = static_cast<u8>(route(n));
    if (lines_) lines_->set_input(c.raised_line, true);
  } else if (lines_) {
    const unsigned line = route(n);
    lines_->set_input(line, true);
    lines_->set_input(line, false);
  }
}

// --- Comparators ------------------------------------------------------------------------------------------------------------------------
// Ticks until the comparator matches.
u64 Hpet::distance(const Comparator& c) const {
  if (c.config & c_32bit) {
    const auto d = static_cast<i32>(static_cast<u32>(c.cmp) - static_cast<u32>(counter()));
    return d > 0 ? static_cast<u64>(d) : 0;
  }
  const auto d = static_cast<i64>(c.cmp - counter());
  return d > 0 ? static_cast<u64>(d) : 0;
}

void Hpet::arm(unsigned n) {
  Comparator& c = comparators_[n];
  if (!enabled() || (c.cmp == ~u64{0} && !(c.config & c_periodic))) return timer(n).cancel();
  u64 ticks = std::min<u64>(distance(c), u64{1} << 56);
  if (c.owed) ticks = std::min(ticks, std::max(owed_ticks, c.period / 4));
  timer(n).arm_in(Nanoseconds{static_cast<i64>(ticks * tick_ns)});
}

void Hpet::fire(unsigned n) {
  Comparator& c = comparators_[n];
  if (!enabled()) return;
  if (distance(c) > 0) {
    if (!c.owed) return arm(n);
    c.owed--;
    arm(n);
    return set_line(n, true);
  }
  if (c.config & c_periodic && c.period) {
    const u64 mask = c.config & c_32bit ? 0xffff'ffff : ~u64{0};
    const u64 behind = (counter() - c.cmp) & mask;
    const u64 least = c.period < shortest_ticks ? (shortest_ticks + c.period - 1) / c.period : 1;
    const u64 steps = std::max<u64>(behind / c.period + 1, least);
    c.owed = std::min(c.owed + (steps - least), hz / std::max(c.period, shortest_ticks));  // what is a second old is forgotten
    c.cmp = (c.cmp + steps * c.period) & mask;
    arm(n);
  }
  set_line(n, true);
}

// --- Registers --------------------------------------------------------------------------------------------------------------------------
void Hpet::config_written(u64 before) {
  const i64 now = timer0_.now().count();
  if (!(before & 1) && enabled()) {
    start_ns_ = now;
    for (unsigned n = 0; n < 3; n++) arm(n);
  } else if (before & 1 && !enabled()) {
    counter_ += static_cast<u64>(std::max<i64>(0, now - start_ns_)) / tick_ns;
    for (unsigned n = 0; n < 3; n++) timer(n).cancel();
  }
  if ((before ^ config_) & 2) {
    if (pit_enable_) pit_enable_(!legacy());
    if (lines_) {  // the old sources let go, or come back
      lines_->set_input(0, !legacy() && pit_level_);
      lines_->set_input(8, !legacy() && rtc_level_);
    }
  }
}

u64 Hpet::register_at(u64 at) {
  switch (at) {
    case 0x000: return u64{tick_ns * 1'000'000} << 32 | 0x8086'a001 | u64{timers_ - 1u} << 8;
    case 0x010: return config_;
    case 0x020: return status_;
    case 0x0f0: return counter();
    default: break;
  }
  const u64 n = (at - 0x100) / 0x20;
  if (at < 0x100 || n >= timers_) return 0;
  switch (at & 0x18) {
    case 0x00: return comparators_[n].config;
    case 0x08: return comparators_[n].cmp;
    case 0x10: return comparators_[n].fsb;
    default: return 0;
  }
}

u64 Hpet::read(u64 offset, unsigned size) {
  const u64 value = register_at(offset & ~u64{7});
  return size == 8 ? value : static_cast<u32>(value >> (offset & 4 ? 32 : 0));
}

void Hpet::write_timer(unsigned n, u64 reg, u64 value, u64 lanes) {
  Comparator& c = comparators_[n];
  const auto merged = [&](u64 before) { return (before & ~lanes) | (value & lanes); };
  switch (reg) {
    case 0x00: {
      const u64 before = c.config;
      u64 writable = c_writable & lanes;
      if (!(before & c_fsb_cap)) writable &= ~c_fsb_enable;
      c.config = (before & ~writable) | (value & writable);
      if (c.config & c_32bit) c.cmp &= 0xffff'ffff, c.period &= 0xffff'ffff;
      if ((before & ~c.config) & (c_enable | c_level) || route(n) != (before >> 9 & 31)) set_line(n, false);
      if ((before ^ c.config) & (c_periodic | c_32bit)) arm(n);
      break;
    }
    case 0x08: {
      const bool narrow = c.config & c_32bit;
      if (narrow && !(lanes & 0xffff'ffff)) break;
      if (!(c.config & c_periodic) || c.config & c_set_value) c.cmp = narrow ? static_cast<u32>(value) : merged(c.cmp);
      c.owed = 0;
      if (c.config & c_periodic) c.period = narrow ? static_cast<u32>(value) : merged(c.period);
      if (lanes >> 32 || narrow || !(c.config & c_set_value)) c.config &= ~c_set_value;
      arm(n);
      break;
    }
    case 0x10: c.fsb = merged(c.fsb); break;
    default: break;
  }
}

void Hpet::write(u64 offset, unsigned size, u64 value) {
  const u64 at = offset & ~u64{7};
  const unsigned shift = offset & 4 ? 32 : 0;
  const u64 lanes = size == 8 ? ~u64{0} : u64{0xffff'ffff} << shift;
  value <<= shift;
  switch (at) {
    case 0x010: {
      const u64 before = config_;
      config_ = ((before & ~lanes) | (value & lanes)) & 3;
      if (before & ~config_ & 1) {  // stop with the old time base
        config_ |= 1;
        counter_ = counter();
        start_ns_ = timer0_.now().count();
        config_ &= ~u64{1};
      }
      return config_written(before);
    }
    case 0x020:
      for (unsigned n = 0; n < 3; n++)
        if (value & lanes & status_ & u64{1} << n) set_line(n, false);
      return;
    case 0x0f0:
      if (enabled()) guest_error(type.name, "main counter written while it runs");
      counter_ = (counter() & ~lanes) | (value & lanes);
      start_ns_ = timer0_.now().count();
      return;
    default: break;
  }
  const u64 n = (at - 0x100) / 0x20;
  if (at < 0x100 || n >= timers_) return guest_error(type.name, "write of {:#x} to offset {:#x}", value, offset);
  write_timer(static_cast<unsigned>(n), at & 0x18, value, lanes);
}

}  // namespace vmm::hw
