// Pointing devices: mice, which move, and tablets, which are placed. Who moves them (monitors, remote screens) picks one by kind.
// Main loop, machine lock held.
#pragma once

#include <string>
#include <vector>

#include "src/base/types.h"

namespace vmm::ui {

// As QMP's InputButton.
enum class Button : u8 { left, middle, right, wheel_up, wheel_down, side, extra, wheel_left, wheel_right, touch };
inline constexpr unsigned button_count = 10;

// A device that takes movement derives from this; it is listed while it lives.
class Pointer {
 public:
  Pointer(bool absolute);
  virtual ~Pointer();
  Pointer(const Pointer&) = delete;
  bool absolute() const { return absolute_; }
  unsigned number() const { return number_; }
  virtual std::string_view description() const = 0;  // "QEMU PS/2 Mouse"
  virtual void move(int dx, int dy) {}               // right and down; mice only
  virtual void place(unsigned x, unsigned y) {}      // 0 to `span`; tablets only
  virtual void button(Button button, bool down) = 0;
  virtual void sync() = 0;                     // what came since the last one belongs together
  virtual bool ready() const { return true; }  // the guest listens; one that does not is passed over
  static constexpr unsigned span = 0x7fff;

 private:
  const bool absolute_;
  const unsigned number_;
};

const std::vector<Pointer*>& all_pointers();  // the one in use first
void use_pointer(Pointer& pointer);
// The first of this kind, one that the guest listens to before all others; null: none.
Pointer* pointer_for(bool absolute);
Pointer* current_pointer();

}  // namespace vmm::ui
