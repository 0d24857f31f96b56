// Intel 8254. Source: its data sheet (order 231164). Counters are computed from guest time when they are asked for. A count written while
// modes 2 and 3 run takes effect at once rather than at the end of the period; OUT's one-clock low pulses reach only the interrupt line.
#include "hw/timer/i8254.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm {
template <>
inline constexpr std::array fields<hw::I8254::Channel> = {
    field<&hw::I8254::Channel::count>("count", "as loaded", {.min = 1, .max = 0x10000}),
    field<&hw::I8254::Channel::latched_count>("latched_count", "latched by command"),
    field<&hw::I8254::Channel::latched_bytes>("count_latched", "bytes of it still to be read", {.max = 3}),
    field<&hw::I8254::Channel::status_latched>("status_latched", "status is read next"),
    field<&hw::I8254::Channel::status>("status", "latched status"),
    field<&hw::I8254::Channel::read_high>("read_high", "the high byte is read next"),
    field<&hw::I8254::Channel::write_high>("write_high", "the high byte is written next"),
    field<&hw::I8254::Channel::write_low>("write_latch", "low byte written"),
    field<&hw::I8254::Channel::access>("rw_mode", "access mode", {.min = 1, .max = 3}),
    field<&hw::I8254::Channel::mode>("mode", "counting mode", {.max = 5}),
    field<&hw::I8254::Channel::bcd>("bcd", "counts in BCD"),
    field<&hw::I8254::Channel::gate>("gate", "gate input"),
    field<&hw::I8254::Channel::loaded>("loaded", "a count has been written"),
    field<&hw::I8254::Channel::counting>("counting", "the count runs"),
    field<&hw::I8254::Channel::start_ns>("start", "guest time of its start, or how long it had run", {.min = 0, .max = u64{1} << 62}),
};
}  // namespace vmm

namespace vmm::hw {

// Guests that count ticks (Linux, when it tries its timer, for one) get late ones in quick succession, but no quicker than this.
constexpr i64 shortest_ns = 100'000;

constexpr Field I8254::properties[] = {field<&I8254::iobase_>("iobase", "First of four I/O ports.")};
constexpr Field I8254::state[] = {
    field<&I8254::channels_>("channels", "the three counters"),
    field<&I8254::irq_enabled_>("irq-enabled", "the HPET has not taken the line"),
};
constinit const TypeInfo I8254::type{
    .name = "isa-pit",
    .doc = "8254 interval timer.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<I8254>,
    .sample = "isa-pit,iobase=64",
    .user_creatable = false,
};
static Registered registered{I8254::type};

Result<> I8254::realize() {
  if (iobase_ > 0xfffc) return fail("'iobase' takes 0 to 65532, not {}", iobase_);
  ports_.init_io<&I8254::read, &I8254::write>(*this, "pit", 4, {.min = 1, .max = 1});
  map_ports(ports_, static_cast<u16>(iobase_));
  if (!irq_.connected()) connect(irq_, 0);
  if (vm::Irqchip* const chips = machine().irqchip(); chips && chips->full()) {
    twin_ = chips;
    TRY(twin_->begin_pit(true));
    // The twin counts on in the host's time while the machine stands still.
    pausing_ = std::make_shared<bool>(true);
    machine().run_state().on_change([this, alive = std::weak_ptr{pausing_}](bool running) {
      if (alive.expired()) return;
      running ? push() : pull();
      twin_counts_ = running;
    });
  }
  reset();
  return map(irq_);
}

void I8254::reset() {
  for (unsigned n = 0; n < 3; n++) {
    channels_[n] = {};
    channels_[n].mode = 3;
    channels_[n].gate = channels_[n].counting = n != 2;
    channels_[n].loaded = n == 0;  // firmware of old left channel 0 running; guests without any set-up expect ticks
    channels_[n].start_ns = n != 2 ? timer_.now().count() : 0;
  }
  irq_enabled_ = true;
  timer_.cancel();
  push();
}

void I8254::settle() { update_irq(); }

Result<> I8254::after_load() {
  arm();
  push();
  return {};
}

// --- The accelerator's twin

void I8254::pull() {
  if (!twin_counts_) return;
  const vm::PitImage k = twin_->pit();
  irq_enabled_ = !k.hpet_legacy;
  for (unsigned n = 0; n < 3; n++) {
    const vm::PitImage::Channel& from = k.channel[n];
    Channel& c = channels_[n];
    c.count = from.count, c.latched_count = from.latched_count, c.latched_bytes = from.count_latched,
    c.status_latched = from.status_latched;
    c.status = from.status, c.write_low = from.write_latch, c.bcd = from.bcd, c.gate = from.gate;
    // Its states of an access: 1 low byte, 2 high byte, 3 and 4 low and high of a word.
    c.read_high = from.read_state == 4, c.write_high = from.write_state == 4;
    c.access = std::clamp<u8>(from.rw_mode, 1, 3), c.mode = from.mode > 5 ? 3 : from.mode;
    c.loaded = from.mode <= 5, c.counting = c.gate || c.mode == 1 || c.mode == 5;
    c.start_ns = c.counting ? std::max<i64>(0, timer_.now().count() - from.ran_ns) : 0;
  }
}

void I8254::push() const {
  if (!twin_) return;
  vm::PitImage k{.hpet_legacy = !irq_enabled_};
  for (unsigned n = 0; n < 3; n++) {
    const Channel& c = channels_[n];
    const auto state = [&](bool high) { return c.access == 3 ? high ? u8{4} : u8{3} : c.access; };
    k.channel[n] = {.count = c.count,
                    .latched_count = c.latched_count,
                    .count_latched = c.latched_bytes,
                    .status_latched = c.status_latched,
                    .status = c.status,
                    .read_state = state(c.read_high),
                    .write_state = state(c.write_high),
                    .write_latch = c.write_low,
                    .rw_mode = c.access,
                    .mode = c.mode,
                    .bcd = c.bcd,
                    .gate = c.gate,
                    .ran_ns = c.counting ? timer_.now().count() - c.start_ns : c.start_ns};
  }
  twin_->set_pit(k);
}

// --- Counting -----------------------------------------------------------------------------------------------------------------------
// Input clocks since the count began.
u64 I8254::ticks(const Channel& c) const {
  const i64 ns = c.counting ? timer_.now().count() - c.start_ns : c.start_ns;
  return ns <= 0 ? 0 : static_cast<u64>(u128{static_cast<u64>(ns)} * hz / 1'000'000'000);
}

u16 I8254::counter(const Channel& c) const {
  const u64 t = ticks(c);
  const u64 wrap = c.bcd ? 10000 : 0x10000;
  u64 value = 0;
  switch (c.mode) {
    case 2: value = c.count - t % c.count; break;
    case 3: value = c.count - (2 * t) % c.count; break;
    default: value = (c.count + wrap - t % wrap) % wrap;  // runs on through zero
  }
  value %= wrap;
  if (!c.bcd) return static_cast<u16>(value);
  return static_cast<u16>(value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10);
}

bool I8254::output_of(const Channel& c, u64 t) {
  switch (c.mode) {
    case 0: return c.loaded && t >= c.count;
    case 1: return !c.loaded || !c.counting || t >= c.count;
    case 2: return !c.loaded || !c.gate || t % c.count != c.count - 1 || c.count == 1;
    case 3: return !c.loaded || !c.gate || t % c.count < (c.count + 1) / 2;
    default: return !c.loaded || t != c.count;  // strobes
  }
}

void I8254::set_gate(unsigned n, bool level) {
  Channel& c = channels_[n];
  if (c.gate == level) return;
  c.gate = level;
  const i64 now = timer_.now().count();
  switch (c.mode) {
    case 0:
    case 4:  // low holds the count where it is
      if (level != c.counting) {
        c.start_ns = now - c.start_ns;
        c.counting = level;
      }
      break;
    case 1:
    case 5:
      if (level) c.counting = true, c.start_ns = now;
      break;
    default:
      if (level) c.start_ns = now;
      c.counting = level;
      if (!level) c.start_ns = 0;
  }
  if (n == 0) update_irq();
}

void I8254::load_count(unsigned n, u32 value) {
  Channel& c = channels_[n];
  if (c.bcd) {
    const auto digit = [&](unsigned shift) { return std::min<u32>(value >> shift & 15, 9); };
    value = digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0);
  }
  c.count = value ? value : c.bcd ? 10000 : 0x10000;
  const bool waits = c.mode == 1 || c.mode == 5;
  if (!waits || !c.loaded) {
    c.counting = c.gate && !waits;
    c.start_ns = c.counting ? timer_.now().count() : 0;
  }
  c.loaded = true;
  if (n == 0) {
    owed_ = 0;
    update_irq();
  }
}

// --- The line -------------------------------------------------------------------------------------------------------------------------
// The next rising edge of channel 0.
void I8254::arm() {
  const Channel& c = channels_[0];
  timer_.cancel();
  if (twin_) return;
  if (!c.loaded || !c.counting) return;
  const u64 t = ticks(c);
  u64 edge = 0;
  switch (c.mode) {
    case 0:
    case 1: edge = c.count; break;
    case 2:
    case 3: edge = (t / c.count + 1) * c.count; break;
    default: edge = c.count + u64{1};
  }
  if (edge <= t) return;
  armed_edge_ = edge;
  i64 at = c.start_ns + static_cast<i64>((u128{edge} * 1'000'000'000 + hz - 1) / hz);
  if (owed_) at = std::min(at, timer_.now().count() + std::max<i64>(shortest_ns, i64{c.count} * 1'000'000'000 / i64{hz} / 4));
  timer_.arm(Nanoseconds{at});
}

void I8254::expired() {
  const Channel& c = channels_[0];
  const u64 now = ticks(c);
  if (c.mode != 2 && c.mode != 3)
    owed_ = 0;
  else if (now >= armed_edge_)
    owed_ = std::min<u64>(owed_ + (now - armed_edge_) / c.count, hz / c.count);  // what is a second old is forgotten
  else if (owed_)
    owed_--;
  else
    return arm();
  if (irq_enabled_) {
    irq_.lower();
    irq_.raise();  // the rising edge that the timer was armed for
  }
  arm();
}

void I8254::update_irq() {
  if (twin_) return;
  irq_.set(irq_enabled_ && output(0));
  arm();
}

void I8254::set_irq_enabled(bool on) {
  pull();
  irq_enabled_ = on;
  push();
  update_irq();
}

// --- Ports ----------------------------------------------------------------------------------------------------------------------------
void I8254::latch_count(Channel& c) {
  if (c.latched_bytes) return;  // an earlier latch holds until it is read
  c.latched_count = counter(c);
  c.latched_bytes = c.access;
}

void I8254::latch_status(Channel& c) {
  if (c.status_latched) return;
  c.status = static_cast<u8>(output_of(c, ticks(c)) << 7 | !c.loaded << 6 | c.access << 4 | c.mode << 1 | c.bcd);
  c.status_latched = true;
}

void I8254::control_written(u8 value) {
  const unsigned select = value >> 6;
  if (select == 3) {  // read-back
    for (unsigned n = 0; n < 3; n++) {
      if (!(value & 2 << n)) continue;
      if (!(value & 0x20)) latch_count(channels_[n]);
      if (!(value & 0x10)) latch_status(channels_[n]);
    }
    return;
  }
  Channel& c = channels_[select];
  const u8 access = value >> 4 & 3;
  if (access == 0) return latch_count(c);
  const u8 mode = value >> 1 & 7;
  c.access = access;
  c.mode = mode > 5 ? mode - 4 : mode;
  c.bcd = value & 1;
  if (!c.bcd && !c.count) c.count = 0x10000;
  c.read_high = c.write_high = c.status_latched = false;
  c.latched_bytes = 0;
  c.loaded = false;
  c.counting = false;
  c.start_ns = 0;
  if (select == 0) update_irq();
}

void I8254::write(u64 offset, unsigned, u64 wide) {
  const u8 value = static_cast<u8>(wide);
  if (offset == 3) return control_written(value);
  Channel& c = channels_[offset];
  switch (c.access) {
    case 1: return load_count(offset, value);
    case 2: return load_count(offset, value << 8);
    default:
      if (!c.write_high) {
        c.write_low = value;
        c.write_high = true;
        if (c.mode == 0) {  // the first byte stops the count, OUT goes low
          c.loaded = false;
          if (offset == 0) update_irq();
        }
      } else {
        c.write_high = false;
        load_count(offset, value << 8 | c.write_low);
      }
  }
}

u64 I8254::read(u64 offset, unsigned) {
  if (offset == 3) return 0;
  Channel& c = channels_[offset];
  if (c.status_latched) {
    c.status_latched = false;
    return c.status;
  }
  if (c.latched_bytes) {
    if (c.latched_bytes == 3) {
      c.latched_bytes = 2;
      return c.latched_count & 0xff;
    }
    const bool high = c.latched_bytes == 2;
    c.latched_bytes = 0;
    return high ? c.latched_count >> 8 : c.latched_count & 0xff;
  }
  const u16 now = counter(c);
  if (c.access == 3) {
    c.read_high = !c.read_high;
    return c.read_high ? now & 0xff : now >> 8;
  }
  return c.access == 2 ? now >> 8 : now & 0xff;
}

std::string I8254::describe() const {
  std::string text;
  for (unsigned n = 0; n < 3; n++) {
    const Channel& c = channels_[n];
    text += format("channel {}: mode {} count {:#x} counter {:#x} out {} gate {}\n", n, c.mode, c.count, counter(c), int{output(n)},
                   int{c.gate});
  }
  return text;
}

}  // namespace vmm::hw
