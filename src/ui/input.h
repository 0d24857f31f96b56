// Keys on their way from people and tools to the guest's keyboard. Codes are Linux input event codes (KEY_A = 30 …); names are QMP's
// QKeyCode. Main loop, machine lock held.
#pragma once

#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/event/clock.h"
#include "src/value/value.h"

namespace vmm::ui {

// A device that takes keys derives from this; it is listed while it lives, and the newest one is typed on.
class Keyboard {
 public:
  explicit Keyboard(TimeDomain& domain);
  virtual ~Keyboard();
  Keyboard(const Keyboard&) = delete;
  virtual void key(u16 code, bool down) = 0;
  virtual bool ready() const { return true; }  // the guest listens; one that does not is passed over
  // Presses all in order, holds them, releases them in reverse; after what was typed before. An error if too much waits.
  Result<> type(std::span<const u16> codes, Nanoseconds hold);
  void forget() { waiting_.clear(), timer_.cancel(); }  // reset

 private:
  struct Step {
    u16 code = 0;  // 0: wait
    bool down = false;
    Nanoseconds hold{};
  };
  void go_on();
  static constexpr usize limit = 1024;
  std::deque<Step> waiting_;
  Timer timer_;
};
Keyboard* current_keyboard();  // null if there is none

struct KeyName {
  std::string_view name;
  u16 code;
};
std::span<const KeyName> key_names();
// 0 if there is no such key. Numbers are set-1 scan codes, with bit 7 for those after 0xe0.
u16 key_by_name(std::string_view name);
u16 key_by_number(u64 number);
// QMP's KeyValue, {"type": "qcode", "data": "a"} or {"type": "number", "data": 30}; `member` names it in errors.
Result<u16> key_of_value(const Value& value, std::string_view member);

}  // namespace vmm::ui
