// PS/2 keyboard and mouse: what is at the other end of the wire from the i8042. Source: IBM PS/2 Technical Reference, "Keyboards" and
// "Mouse"; scan code sets as in Microsoft's "Keyboard Scan Code Specification". Machine lock held.
#pragma once

#include <deque>

#include "hw/core/device.h"

namespace vmm::hw {

// One wire: bytes that the device wants to send, and a call when there are some or none.
class Ps2Device : public Device {
 public:
  static const TypeInfo type;
  void on_change(std::function<void()> f) { changed_ = std::move(f); }
  bool has_byte() const { return !queue_.empty(); }
  u8 take_byte();
  virtual void command(u8 byte) = 0;  // from the controller
  static constexpr usize queue_limit = 256;

 protected:
  void send(std::initializer_list<u8> bytes);                 // an answer: always fits
  bool send_event(std::span<const u8> bytes, usize reserve);  // all or nothing
  void clear_queue() { queue_.clear(); }
  void changed() {
    if (changed_) changed_();
  }
  std::vector<u8> queue_state() const { return {queue_.begin(), queue_.end()}; }
  Result<> load_queue(const std::vector<u8>& bytes);
  static const Field state[];
  std::deque<u8> queue_;
  u8 awaits_ = 0;  // command whose parameter is to come

 private:
  std::function<void()> changed_;
};

class Ps2Keyboard final : public Ps2Device {
 public:
  static const TypeInfo type;  // "ps2-kbd"
  // A key goes down or up; `key` is a Linux input event code (KEY_A = 30 …). Unknown keys and a full queue lose the event.
  void press(u16 key, bool down);
  void command(u8 byte) override;
  // Set 1 for set 2, as the controller's translation would make of it.
  void set_translated(bool on) { translated_ = on; }
  void reset() override;
  u8 leds() const { return leds_; }

 private:
  static const Field state[];
  bool translated_ = false, scanning_ = true;
  u8 set_ = 2, leds_ = 0;
  u8 modifiers_ = 0;  // what Print Screen and Pause look at
};

class Ps2Mouse final : public Ps2Device {
 public:
  static const TypeInfo type;  // "ps2-mouse"
  // Relative movement (y up), wheel, buttons: bit 0 left, 1 right, 2 middle, 3 and 4 the side ones.
  void move(int dx, int dy, int dz, u8 buttons);
  void command(u8 byte) override;
  void reset() override;

 private:
  bool send_packet(bool reserve_answers);
  void set_defaults();
  static const Field state[];
  u8 id_ = 0, sample_rate_ = 100, resolution_ = 2, buttons_ = 0, knock_ = 0;
  bool reporting_ = false, remote_ = false, wrap_ = false, scaling_ = false;
  i32 dx_ = 0, dy_ = 0, dz_ = 0;
};

}  // namespace vmm::hw
