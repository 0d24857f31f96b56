// A 16550A UART without a bus, shared by isa-serial and pci-serial. Source: National PC16550D data sheet. Machine lock held.
//
// Bytes move as fast as the host end takes them, whatever the divisor says. When the host end takes no more, CTS falls until it does; when
// a guest that has used RTS drops it, we read no more from the host end.
#pragma once

#include <deque>

#include "hw/core/chardev_property.h"
#include "hw/core/device.h"
#include "hw/core/register_bank.h"

namespace vmm::hw {

struct UartState {
  u8 ier = 0, fcr = 0, lcr = 0, mcr = 0, lsr = 0, msr = 0, scr = 0;
  u16 divisor = 0;
  bool thr_interrupt = false, timed_out = false, rts_used = false;
  std::vector<u16> receive, transmit;  // receive: low byte the character, high byte its error bits
  i64 timeout_ns = -1;                 // time left until the receive time-out; -1 while it does not run
};

class Uart final : public CharFrontEnd {
 public:
  explicit Uart(Device& owner) : owner_(owner) {}
  ~Uart() override { unrealize(); }

  Result<> realize(Ref<Chardev> back);  // null: nothing connected
  void unrealize();
  void reset();
  void settle() { update_irq(); }
  Irq& irq() { return irq_; }
  void set_base_hz(u32 hz) { base_hz_ = hz; }  // baud rate at divisor 1

  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);

  // --- CharFrontEnd
  usize can_receive() override;
  void receive(std::span<const u8> bytes) override;
  void char_event(ChardevEvent event) override;
  void can_send() override;

  UartState saved() const;
  Result<> restore(UartState state);
  TimeDomain& time_domain() const { return owner_.time_domain(); }

 private:
  static constexpr usize fifo_size = 16;
  bool fifo_on() const { return s_.fcr & 1; }
  bool loopback() const { return s_.mcr & 0x10; }
  usize trigger_level() const;
  usize receive_limit() const { return fifo_on() ? fifo_size : 1; }
  i64 character_ns() const;
  void put_received(u8 byte, u8 errors);
  u8 take_received();
  void show_front_errors();
  void arm_timeout();
  void timed_out();
  void write_data(u8 byte);
  void transmit();
  void write_fifo_control(u8 value);
  void write_modem_control(u8 value);
  void set_modem_inputs();
  u8 interrupt_id() const;
  void update_irq();
  void accept_input();

  Device& owner_;
  Ref<Chardev> back_;
  UartState s_;
  std::deque<u16> receive_;
  std::deque<u8> transmit_;
  u32 base_hz_ = 115200;
  bool attached_ = false, blocked_ = false, transmitting_ = false;
  Timer timeout_{Clock::guest, on<&Uart::timed_out>, *this};
  Irq irq_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
struct Codec<hw::Uart> {
  static constexpr TypeDescription description{.name = "uart", .kind = TypeDescription::Kind::structure};
  static Value to_value(const hw::Uart& v);
  static Result<> from_value(hw::Uart& to, const Value& v, std::string_view what, const FieldLimits& limits);
};
}  // namespace vmm
