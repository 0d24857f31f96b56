// The PS/2 keyboard controller with keyboard and mouse. Source: IBM PS/2 Technical Reference, "Keyboard and auxiliary device
// controller". Machine lock held.
#pragma once

#include "hw/input/ps2.h"
#include "hw/isa/isa.h"
#include "src/ui/input.h"
#include "src/ui/pointer.h"

namespace vmm::hw {

class I8042 final : public IsaDevice {
 public:
  static const TypeInfo type;  // "i8042", properties kbd-irq, mouse-irq, extended-state, kbd-throttle
  Irq& a20() { return a20_; }  // the board connects it to the A20Gate; interrupts go to the ISA lines by themselves
  Ps2Keyboard& keyboard() { return *keyboard_; }
  Ps2Mouse& mouse() { return *mouse_; }

  void reset() override;
  void settle() override;

  I8042();

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  u64 data_read(u64 offset, unsigned size);
  void data_write(u64 offset, unsigned size, u64 value);
  u64 status_read(u64 offset, unsigned size);
  void command_write(u64 offset, unsigned size, u64 value);
  void answer(u8 byte, bool from_mouse = false);
  void controller_command(u8 command);
  void parameter_written(u8 command, u8 value);
  void fill(u8 byte, bool from_mouse);
  u8 status() const;
  std::vector<u16> answers() const { return {answers_.begin(), answers_.end()}; }
  Result<> load_answers(const std::vector<u16>& list);
  void set_output_port(u8 value);
  void set_mode(u8 value);
  void pump();
  void update_irqs();
  static const Field properties[], state[];

  // Where people's keys come in, while the controller lives.
  struct Keys final : ui::Keyboard {
    explicit Keys(I8042& owner) : Keyboard(owner.time_domain()), owner(owner) {}
    void key(u16 code, bool down) override { owner.keyboard_->press(code, down); }
    I8042& owner;
  };
  struct Mouse final : ui::Pointer {
    explicit Mouse(I8042& owner) : Pointer(false), owner(owner) {}
    std::string_view description() const override { return "QEMU PS/2 Mouse"; }
    void move(int dx, int dy) override { x += dx, y += dy; }
    void button(ui::Button button, bool down) override;
    void sync() override { owner.mouse_->move(std::exchange(x, 0), -std::exchange(y, 0), std::exchange(wheel, 0), buttons); }
    I8042& owner;
    int x = 0, y = 0, wheel = 0;
    u8 buttons = 0;
  };

  bool extended_state_ = true, throttle_ = false;
  u8 keyboard_line_ = 1, mouse_line_ = 12;
  u8 mode_ = 0, output_port_ = 0, awaits_ = 0, data_ = 0;
  bool tested_ = false, command_last_ = false, full_ = false, full_from_mouse_ = false;
  std::deque<u16> answers_;  // of the controller, waiting for the buffer; bit 8: as if from the mouse
  std::array<u8, 32> ram_{};
  Ref<Ps2Keyboard> keyboard_;
  Ref<Ps2Mouse> mouse_;
  std::optional<Keys> keys_;
  std::optional<Mouse> pointer_;
  memory::MemoryRegion data_port_, command_port_;
  Irq keyboard_irq_, mouse_irq_, a20_;
};

}  // namespace vmm::hw
