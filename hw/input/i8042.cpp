// PS/2 controller. Source: IBM PS/2 Technical Reference; the commands that PCs kept (20–2f … ff). One byte waits in the output buffer;
// the wires and the controller's own answers queue behind it.
#include "hw/input/i8042.h"

#include "src/base/log.h"

namespace vmm::hw {

namespace {
enum Mode : u8 { keyboard_interrupt = 1, mouse_interrupt = 2, system_flag = 4, keyboard_off = 0x10, mouse_off = 0x20, translate = 0x40 };
enum Status : u8 { output_full = 1, self_tested = 4, last_was_command = 8, unlocked = 0x10, mouse_data = 0x20 };
enum OutputPort : u8 { not_reset = 1, a20_open = 2, port_keyboard_full = 0x10, port_mouse_full = 0x20, port_ones = 0xcc };
constexpr usize answer_limit = 16;
}  // namespace

constexpr Field I8042::properties[] = {
    field<&I8042::extended_state_>("extended-state", "Taken for compatibility; without effect."),
    field<&I8042::throttle_>("kbd-throttle", "Taken for compatibility; without effect."),
    field<&I8042::keyboard_line_>("kbd-irq", "ISA interrupt line of the keyboard.", {.max = 15}),
    field<&I8042::mouse_line_>("mouse-irq", "ISA interrupt line of the mouse.", {.max = 15}),
};
constexpr Field I8042::state[] = {
    field<&I8042::mode_>("mode", "command byte"),
    field<&I8042::output_port_>("outport", "output port"),
    field<&I8042::awaits_>("write_cmd", "command that waits for its parameter"),
    field<&I8042::data_>("obdata", "output buffer"),
    field<&I8042::full_>("full", "the output buffer has not been read"),
    field<&I8042::full_from_mouse_>("obsrc", "it came from the mouse"),
    field<&I8042::tested_>("tested", "the self test has passed"),
    field<&I8042::command_last_>("command-last", "the last write was a command"),
    computed<&I8042::answers, &I8042::load_answers>("answers", "answers of the controller that wait"),
    field<&I8042::ram_>("ram", "memory of the controller"),
};
constinit const TypeInfo I8042::type{
    .name = "i8042",
    .doc = "PS/2 controller with keyboard and mouse.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<I8042>,
    .category = "Input devices",
};
static Registered registered{I8042::type};

I8042::I8042() : keyboard_(make_object<Ps2Keyboard>()), mouse_(make_object<Ps2Mouse>()) {
  add_child("ps2kbd", keyboard_);
  add_child("ps2mouse", mouse_);
  keyboard_->on_change([this] { pump(); });
  mouse_->on_change([this] { pump(); });
}

Result<> I8042::realize() {
  TRY(keyboard_->attach(nullptr));
  TRY(mouse_->attach(nullptr));
  data_port_.init_io<&I8042::data_read, &I8042::data_write>(*this, "i8042-data", 1, {.min = 1, .max = 1});
  command_port_.init_io<&I8042::status_read, &I8042::command_write>(*this, "i8042-cmd", 1, {.min = 1, .max = 1});
  map_ports(data_port_, 0x60);
  map_ports(command_port_, 0x64);
  connect(keyboard_irq_, keyboard_line_);
  connect(mouse_irq_, mouse_line_);
  keys_.emplace(*this);
  pointer_.emplace(*this);
  return map(keyboard_irq_, mouse_irq_, a20_);
}

Task<> I8042::unrealize() {
  keys_.reset();
  pointer_.reset();
  keyboard_->on_change({});
  mouse_->on_change({});
  co_await keyboard_->detach();
  co_await mouse_->detach();
  co_return Result<>{};
}

void I8042::Mouse::button(ui::Button button, bool down) {
  static constexpr u8 bits[ui::button_count] = {1, 4, 2, 0, 0, 8, 16, 0, 0, 1};  // left middle right … side extra … touch
  const u8 bit = bits[static_cast<usize>(button)];
  buttons = static_cast<u8>(down ? buttons | bit : buttons & ~bit);
  if (down) wheel += button == ui::Button::wheel_up ? 1 : button == ui::Button::wheel_down ? -1 : 0;
}

void I8042::reset() {
  mode_ = keyboard_interrupt | mouse_interrupt;
  output_port_ = not_reset | a20_open | port_ones;
  awaits_ = data_ = 0;
  full_ = full_from_mouse_ = tested_ = false;
  command_last_ = true;
  answers_.clear();
  if (keys_) keys_->forget();
}

void I8042::settle() { update_irqs(); }

Result<> I8042::load_answers(const std::vector<u16>& list) {
  if (list.size() > answer_limit) return fail("at most {} answers wait", answer_limit);
  answers_.assign(list.begin(), list.end());
  return {};
}

// --- The output buffer ------------------------------------------------------------------------------------------------------------------
void I8042::update_irqs() {
  keyboard_irq_.set(full_ && !full_from_mouse_ && mode_ & keyboard_interrupt && !(mode_ & keyboard_off));
  mouse_irq_.set(full_ && full_from_mouse_ && mode_ & mouse_interrupt && !(mode_ & mouse_off));
}

void I8042::fill(u8 byte, bool from_mouse) {
  data_ = byte;
  full_ = true;
  full_from_mouse_ = from_mouse;
  output_port_ &= ~(port_keyboard_full | port_mouse_full);
  output_port_ |= from_mouse ? port_mouse_full : port_keyboard_full;
  update_irqs();
}

// Answers first, then the keyboard, then the mouse: who comes while the buffer is full waits.
void I8042::pump() {
  if (full_) return;
  if (!answers_.empty()) {
    const u16 a = answers_.front();
    answers_.pop_front();
    fill(static_cast<u8>(a), a & 0x100);
  } else if (!(mode_ & keyboard_off) && keyboard_->has_byte()) {
    fill(keyboard_->take_byte(), false);
  } else if (!(mode_ & mouse_off) && mouse_->has_byte()) {
    fill(mouse_->take_byte(), true);
  }
}

void I8042::answer(u8 byte, bool from_mouse) {
  if (answers_.size() < answer_limit) answers_.push_back(static_cast<u16>(byte | from_mouse << 8));
  pump();
}

u64 I8042::data_read(u64, unsigned) {
  const u8 byte = data_;
  if (full_) {
    full_ = false;
    output_port_ &= ~(port_keyboard_full | port_mouse_full);
    update_irqs();  // the line falls, so that the next byte makes an edge
    pump();
  }
  return byte;
}

// --- Commands ---------------------------------------------------------------------------------------------------------------------------
u8 I8042::status() const {
  return (full_ ? output_full : 0) | (full_ && full_from_mouse_ ? mouse_data : 0) | (tested_ || mode_ & system_flag ? self_tested : 0) |
         (command_last_ ? last_was_command : 0) | unlocked;
}

u64 I8042::status_read(u64, unsigned) { return status(); }

void I8042::set_output_port(u8 value) {
  output_port_ = (value & ~(port_keyboard_full | port_mouse_full)) | (output_port_ & (port_keyboard_full | port_mouse_full));
  a20_.set(value & a20_open);
  if (!(value & not_reset)) machine().run_state().request_reset(vm::Cause::guest_reset);
}

void I8042::set_mode(u8 value) {
  mode_ = value;
  keyboard_->set_translated(mode_ & translate);
  update_irqs();
  pump();
}

void I8042::controller_command(u8 command) {
  if (command >= 0x20 && command <= 0x3f) return answer(command == 0x20 ? mode_ : ram_[command - 0x20]);
  if (command >= 0x40 && command <= 0x5f) command += 0x20;  // the same, without decoding bit 5
  if (command >= 0x60 && command <= 0x7f) {
    awaits_ = command;
    return;
  }
  switch (command) {
    case 0xa7: return set_mode(mode_ | mouse_off);
    case 0xa8: return set_mode(mode_ & ~mouse_off);
    case 0xa9:
    case 0xab: return answer(0);  // no fault on the wire
    case 0xaa: tested_ = true; return answer(0x55);
    case 0xad: return set_mode(mode_ | keyboard_off);
    case 0xae: return set_mode(mode_ & ~keyboard_off);
    case 0xc0: return answer(0x80);  // keyboard not locked
    case 0xd0: return answer(output_port_);
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: awaits_ = command; return;
    case 0xdd: return set_output_port(output_port_ & ~a20_open);
    case 0xdf: return set_output_port(output_port_ | a20_open);
    default: break;
  }
  if (command >= 0xf0) {  // pulses the low four output bits whose bit is zero; bit 0 is the CPU's reset
    if (!(command & 1)) machine().run_state().request_reset(vm::Cause::guest_reset);
    return;
  }
  guest_error(type.name, "unknown command {:#x}", command);
}

void I8042::parameter_written(u8 command, u8 value) {
  if (command == 0x60) return set_mode(value);
  if (command > 0x60 && command <= 0x7f) {
    ram_[command - 0x60] = value;
    return;
  }
  switch (command) {
    case 0xd1: return set_output_port(value);
    case 0xd2: return answer(value);
    case 0xd3: return answer(value, true);
    case 0xd4: return mouse_->command(value);
    default: return;
  }
}

void I8042::command_write(u64, unsigned, u64 value) {
  command_last_ = true;
  awaits_ = 0;
  controller_command(static_cast<u8>(value));
}

void I8042::data_write(u64, unsigned, u64 value) {
  command_last_ = false;
  if (const u8 command = std::exchange(awaits_, 0)) return parameter_written(command, static_cast<u8>(value));
  if (mode_ & keyboard_off) set_mode(mode_ & ~keyboard_off);  // writing to the keyboard opens its wire
  keyboard_->command(static_cast<u8>(value));
}

}  // namespace vmm::hw
