// 16550A. Source: National PC16550D data sheet, §8 (registers and FIFO operation). The interrupt line is not gated by OUT2: guests
// that never set it get interrupts on QEMU's pc as well.
#include "hw/char/uart.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm {
template <>
inline constexpr std::array fields<hw::UartState> = {
    field<&hw::UartState::ier>("ier", "interrupt enable"),
    field<&hw::UartState::fcr>("fcr", "FIFO control"),
    field<&hw::UartState::lcr>("lcr", "line control"),
    field<&hw::UartState::mcr>("mcr", "modem control"),
    field<&hw::UartState::lsr>("lsr", "line status"),
    field<&hw::UartState::msr>("msr", "modem status"),
    field<&hw::UartState::scr>("scr", "scratch"),
    field<&hw::UartState::divisor>("divisor", "baud rate divisor"),
    field<&hw::UartState::thr_interrupt>("thr-interrupt", "transmitter-empty interrupt pending"),
    field<&hw::UartState::timed_out>("timed-out", "receive time-out interrupt pending"),
    field<&hw::UartState::rts_used>("rts-used", "the guest has raised RTS since reset"),
    field<&hw::UartState::receive>("receive", "received characters and their errors"),
    field<&hw::UartState::transmit>("transmit", "characters to send"),
    field<&hw::UartState::timeout_ns>("timeout", "time left until the receive time-out, -1 while it does not run"),
};
Value Codec<hw::Uart>::to_value(const hw::Uart& v) { return Codec<hw::UartState>::to_value(v.saved()); }
Result<> Codec<hw::Uart>::from_value(hw::Uart& to, const Value& v, std::string_view what, const FieldLimits& limits) {
  hw::UartState state;
  TRY(Codec<hw::UartState>::from_value(state, v, what, limits));
  return to.restore(std::move(state));
}
}  // namespace vmm

namespace vmm::hw {

namespace {
enum Lsr : u8 {
  data_ready = 1,
  overrun = 2,
  parity = 4,
  framing = 8,
  break_seen = 0x10,
  thr_empty = 0x20,
  all_empty = 0x40,
  fifo_error = 0x80
};
enum Ier : u8 { on_data = 1, on_thr_empty = 2, on_line = 4, on_modem = 8 };
enum Mcr : u8 { dtr = 1, rts = 2, out1 = 4, out2 = 8, loop = 0x10 };
enum Msr : u8 { cts = 0x10, dsr = 0x20, ri = 0x40, dcd = 0x80 };
enum Iir : u8 { id_none = 1, id_modem = 0, id_thr_empty = 2, id_data = 4, id_line = 6, id_timeout = 0xc };
}  // namespace

Result<> Uart::realize(Ref<Chardev> back) {
  back_ = std::move(back);
  if (back_) {
    TRY(back_->attach(*this));
    attached_ = true;
  }
  reset();
  return {};
}

void Uart::unrealize() {
  timeout_.cancel();
  if (std::exchange(attached_, false)) back_->detach(*this);
  back_ = nullptr;
}

void Uart::reset() {
  s_ = {};
  s_.divisor = 12;  // 9600 baud
  s_.lsr = thr_empty | all_empty;
  s_.mcr = out2;
  s_.msr = dcd | dsr | cts;
  receive_.clear();
  transmit_.clear();
  blocked_ = false;
  timeout_.cancel();
  irq_.lower();
  accept_input();
}

void Uart::accept_input() {
  if (attached_) back_->accept_input();
}

usize Uart::trigger_level() const {
  static constexpr u8 levels[4] = {1, 4, 8, 14};
  return levels[s_.fcr >> 6];
}

i64 Uart::character_ns() const {
  const unsigned bits = 1 + 5 + (s_.lcr & 3) + (s_.lcr & 4 ? 2 : 1) + (s_.lcr & 8 ? 1 : 0);
  return static_cast<i64>(1'000'000'000ull * bits * std::max<u16>(s_.divisor, 1) / std::max<u32>(base_hz_, 1));
}

// --- Interrupts ---------------------------------------------------------------------------------------------------------------------
u8 Uart::interrupt_id() const {
  if (s_.ier & on_line && s_.lsr & (overrun | parity | framing | break_seen)) return id_line;
  if (s_.ier & on_data && s_.lsr & data_ready) {
    if (!fifo_on() || receive_.size() >= trigger_level()) return id_data;
    if (s_.timed_out) return id_timeout;
  }
  if (s_.ier & on_thr_empty && s_.thr_interrupt) return id_thr_empty;
  if (s_.ier & on_modem && s_.msr & 0x0f) return id_modem;
  return id_none;
}

void Uart::update_irq() { irq_.set(interrupt_id() != id_none); }

// --- Receiving ----------------------------------------------------------------------------------------------------------------------
usize Uart::can_receive() {
  if (loopback()) return 0;
  if (s_.rts_used && !(s_.mcr & rts)) return 0;  // the guest has said stop
  return receive_.size() >= receive_limit() ? 0 : receive_limit() - receive_.size();
}

void Uart::receive(std::span<const u8> bytes) {
  for (const u8 b : bytes) put_received(b, 0);
  update_irq();
}

void Uart::put_received(u8 byte, u8 errors) {
  if (receive_.size() >= receive_limit()) {
    s_.lsr |= overrun;
    if (!fifo_on()) receive_.back() = byte;  // a full FIFO keeps what it has, the single register is overwritten
    return;
  }
  receive_.push_back(static_cast<u16>(errors << 8 | byte));
  s_.lsr |= data_ready;
  if (receive_.size() == 1) show_front_errors();
  if (errors && fifo_on()) s_.lsr |= fifo_error;
  s_.timed_out = false;
  arm_timeout();
}

void Uart::show_front_errors() {
  if (!receive_.empty()) s_.lsr |= receive_.front() >> 8;
}

void Uart::arm_timeout() {
  if (fifo_on() && !receive_.empty())
    timeout_.arm_in(Nanoseconds{4 * character_ns()});
  else
    timeout_.cancel();
}

void Uart::timed_out() {
  if (receive_.empty()) return;
  s_.timed_out = true;
  update_irq();
}

u8 Uart::take_received() {
  if (receive_.empty()) return 0;
  const u8 byte = static_cast<u8>(receive_.front());
  receive_.pop_front();
  s_.timed_out = false;
  if (receive_.empty()) s_.lsr &= ~data_ready;
  show_front_errors();
  arm_timeout();
  if (std::ranges::none_of(receive_, [](u16 c) { return c >> 8; })) s_.lsr &= ~fifo_error;
  update_irq();
  accept_input();
  return byte;
}

void Uart::char_event(ChardevEvent event) {
  if (event == ChardevEvent::break_ && !loopback()) {
    put_received(0, break_seen);
    update_irq();
  }
}

// --- Sending ------------------------------------------------------------------------------------------------------------------------
void Uart::write_data(u8 byte) {
  s_.thr_interrupt = false;
  if (transmit_.size() >= (fifo_on() ? fifo_size : 1)) transmit_.pop_back();  // overwritten, as on the chip
  transmit_.push_back(byte);
  s_.lsr &= ~(thr_empty | all_empty);
  transmit();
  update_irq();
}

void Uart::transmit() {
  if (transmitting_) return;  // a back end that answers from within write()
  transmitting_ = true;
  while (!transmit_.empty()) {
    if (loopback()) {
      put_received(transmit_.front(), 0);
      transmit_.pop_front();
    } else if (attached_) {
      std::array<u8, fifo_size> bytes;
      const usize n = std::min(transmit_.size(), bytes.size());
      std::copy_n(transmit_.begin(), n, bytes.begin());
      const usize taken = std::min(back_->write({bytes.data(), n}), n);
      transmit_.erase(transmit_.begin(), transmit_.begin() + static_cast<std::ptrdiff_t>(taken));
      blocked_ = taken < n;
      if (blocked_) break;  // can_send() goes on
    } else {
      transmit_.clear();
    }
  }
  transmitting_ = false;
  if (transmit_.empty() && !(s_.lsr & all_empty)) {
    s_.lsr |= thr_empty | all_empty;
    s_.thr_interrupt = true;
  }
  set_modem_inputs();
}

void Uart::can_send() {
  blocked_ = false;
  if (!transmit_.empty())
    transmit();
  else
    set_modem_inputs();
  update_irq();
}

// --- Modem lines --------------------------------------------------------------------------------------------------------------------
// What MSR shows in its upper half, with the delta bits that follow from a change.
void Uart::set_modem_inputs() {
  u8 lines = dcd | dsr | (blocked_ ? 0 : cts);
  if (loopback()) lines = (s_.mcr & rts ? cts : 0) | (s_.mcr & dtr ? dsr : 0) | (s_.mcr & out1 ? ri : 0) | (s_.mcr & out2 ? dcd : 0);
  const u8 before = s_.msr & 0xf0;
  u8 deltas = (before ^ lines) >> 4;
  if (lines & ri) deltas &= ~4;  // only the trailing edge of the ring indicator counts
  s_.msr = lines | (s_.msr & 0x0f) | deltas;
}

void Uart::write_modem_control(u8 value) {
  const u8 before = s_.mcr;
  s_.mcr = value & 0x1f;
  if (s_.mcr & rts && !loopback()) s_.rts_used = true;
  set_modem_inputs();
  if (attached_ && !loopback() && (before ^ s_.mcr) & dtr) back_->set_open(s_.mcr & dtr);
  if ((before ^ s_.mcr) & loop && !transmit_.empty()) transmit();
  update_irq();
  if ((before ^ s_.mcr) & (rts | loop)) accept_input();
}

// --- Registers ----------------------------------------------------------------------------------------------------------------------
void Uart::write_fifo_control(u8 value) {
  const bool toggled = (s_.fcr ^ value) & 1;
  if (toggled || value & 2) {
    receive_.clear();
    s_.lsr &= ~(data_ready | break_seen | fifo_error);
    s_.timed_out = false;
    timeout_.cancel();
  }
  if (toggled || value & 4) {
    transmit_.clear();
    if (!(s_.lsr & all_empty)) s_.thr_interrupt = true;
    s_.lsr |= thr_empty | all_empty;
  }
  s_.fcr = value & 1 ? value & 0xc9 : 0;
  update_irq();
  accept_input();
}

void Uart::write(u64 offset, unsigned, u64 wide) {
  const u8 value = static_cast<u8>(wide);
  switch (offset & 7) {
    case 0:
      if (s_.lcr & 0x80)
        s_.divisor = (s_.divisor & 0xff00) | value;
      else
        write_data(value);
      break;
    case 1:
      if (s_.lcr & 0x80) {
        s_.divisor = static_cast<u16>((s_.divisor & 0xff) | value << 8);
      } else {
        // Enabling the interrupt while the transmitter is empty raises it at once: drivers start sending that way.
        if (value & on_thr_empty && !(s_.ier & on_thr_empty) && s_.lsr & thr_empty) s_.thr_interrupt = true;
        s_.ier = value & 0x0f;
        update_irq();
      }
      break;
    case 2: write_fifo_control(value); break;
    case 3:
      if (attached_ && (s_.lcr ^ value) & 0x40) back_->set_break(value & 0x40);
      s_.lcr = value;
      break;
    case 4: write_modem_control(value); break;
    case 7: s_.scr = value; break;
    default: break;  // LSR and MSR are for reading; what factory tests write is ignored
  }
}

u64 Uart::read(u64 offset, unsigned) {
  switch (offset & 7) {
    case 0: return s_.lcr & 0x80 ? s_.divisor & 0xff : take_received();
    case 1: return s_.lcr & 0x80 ? s_.divisor >> 8 : s_.ier;
    case 2: {
      const u8 id = interrupt_id();
      if (id == id_thr_empty) {
        s_.thr_interrupt = false;
        update_irq();
      }
      return id | (fifo_on() ? 0xc0 : 0);
    }
    case 3: return s_.lcr;
    case 4: return s_.mcr;
    case 5: {
      const u8 value = s_.lsr;
      s_.lsr &= ~(overrun | parity | framing | break_seen);
      if (!receive_.empty()) receive_.front() &= 0xff;
      update_irq();
      return value;
    }
    case 6: {
      const u8 value = s_.msr;
      s_.msr &= 0xf0;
      update_irq();
      return value;
    }
    default: return s_.scr;
  }
}

// --- State --------------------------------------------------------------------------------------------------------------------------
UartState Uart::saved() const {
  UartState s = s_;
  s.receive.assign(receive_.begin(), receive_.end());
  s.transmit.assign(transmit_.begin(), transmit_.end());
  s.timeout_ns = timeout_.armed() ? (timeout_.due() - timeout_.now()).count() : -1;
  return s;
}

Result<> Uart::restore(UartState s) {
  if (s.receive.size() > fifo_size || s.transmit.size() > fifo_size) return fail("a FIFO holds at most {} characters", fifo_size);
  receive_.assign(s.receive.begin(), s.receive.end());
  transmit_.clear();
  for (const u16 c : s.transmit) transmit_.push_back(static_cast<u8>(c));
  if (s.timeout_ns >= 0)
    timeout_.arm_in(Nanoseconds{std::min<i64>(s.timeout_ns, 1'000'000'000'000)});
  else
    timeout_.cancel();
  s.receive.clear(), s.transmit.clear();
  s_ = std::move(s);
  blocked_ = false;
  return {};
}

}  // namespace vmm::hw
