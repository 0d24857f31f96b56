// PS/2 keyboard and mouse. Sources: see ps2.h. Key repeat is left to the user's own keyboard.
#include "hw/input/ps2.h"

#include <algorithm>

namespace vmm::hw {

namespace {

constexpr u8 ack = 0xfa, resend = 0xfe, test_passed = 0xaa;

// A key in set 1; `extended` ones have an E0 prefix. The set 2 and 3 codes derive from it.
struct Key {
  u8 code = 0;
  bool extended = false;
};

// Linux input event codes: 1 to 88 are the set 1 codes themselves.
constexpr Key key_of(u16 event) {
  if (event >= 1 && event <= 88 && event != 84 && event != 85) return {static_cast<u8>(event), false};
  switch (event) {
    case 89: return {0x73, false};   // Ro
    case 92: return {0x79, false};   // Henkan
    case 93: return {0x70, false};   // Katakana/Hiragana
    case 94: return {0x7b, false};   // Muhenkan
    case 96: return {0x1c, true};    // keypad Enter
    case 97: return {0x1d, true};    // right Ctrl
    case 98: return {0x35, true};    // keypad /
    case 100: return {0x38, true};   // right Alt
    case 102: return {0x47, true};   // Home
    case 103: return {0x48, true};   // Up
    case 104: return {0x49, true};   // Page Up
    case 105: return {0x4b, true};   // Left
    case 106: return {0x4d, true};   // Right
    case 107: return {0x4f, true};   // End
    case 108: return {0x50, true};   // Down
    case 109: return {0x51, true};   // Page Down
    case 110: return {0x52, true};   // Insert
    case 111: return {0x53, true};   // Delete
    case 113: return {0x20, true};   // Mute
    case 114: return {0x2e, true};   // Volume down
    case 115: return {0x30, true};   // Volume up
    case 116: return {0x5e, true};   // Power
    case 117: return {0x59, false};  // keypad =
    case 121: return {0x7e, false};  // keypad ,
    case 124: return {0x7d, false};  // Yen
    case 125: return {0x5b, true};   // left Meta
    case 126: return {0x5c, true};   // right Meta
    case 127: return {0x5d, true};   // Menu
    case 142: return {0x5f, true};   // Sleep
    case 143: return {0x63, true};   // Wake
    default: return {};
  }
}
constexpr u16 key_print = 99, key_pause = 119, key_left_alt = 56, key_right_alt = 100, key_left_ctrl = 29, key_right_ctrl = 97;

constexpr u8 set2_of_set1[128] = {
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,  // 00
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b,  // 10
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a,  // 20
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03,  // 30
    0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69,  // 40
    0x72, 0x7a, 0x70, 0x71, 0x84, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f,  // 50
    0x47, 0x4f, 0x56, 0x5e, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6f,  // 60
    0x13, 0x19, 0x39, 0x51, 0x53, 0x5c, 0x5f, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6a, 0x6d, 0x6e,  // 70
};

// Set 3 differs from set 2 in these; all its codes are single bytes.
constexpr struct {
  u8 set1;
  bool extended;
  u8 set3;
} set3_special[] = {
    {0x01, false, 0x08}, {0x1d, false, 0x11}, {0x3a, false, 0x14}, {0x38, false, 0x19}, {0x2b, false, 0x5c}, {0x45, false, 0x76},
    {0x46, false, 0x5f}, {0x37, false, 0x7e}, {0x4a, false, 0x84}, {0x4e, false, 0x7c}, {0x3b, false, 0x07}, {0x3c, false, 0x0f},
    {0x3d, false, 0x17}, {0x3e, false, 0x1f}, {0x3f, false, 0x27}, {0x40, false, 0x2f}, {0x41, false, 0x37}, {0x42, false, 0x3f},
    {0x43, false, 0x47}, {0x44, false, 0x4f}, {0x57, false, 0x56}, {0x58, false, 0x5e}, {0x56, false, 0x13}, {0x1d, true, 0x58},
    {0x38, true, 0x39},  {0x1c, true, 0x79},  {0x35, true, 0x77},  {0x47, true, 0x6e},  {0x48, true, 0x63},  {0x49, true, 0x6f},
    {0x4b, true, 0x61},  {0x4d, true, 0x6a},  {0x4f, true, 0x65},  {0x50, true, 0x60},  {0x51, true, 0x6d},  {0x52, true, 0x67},
    {0x53, true, 0x64},  {0x5b, true, 0x8b},  {0x5c, true, 0x8c},  {0x5d, true, 0x8d},
};
constexpr u8 set3_of(Key key) {
  for (const auto& s : set3_special)
    if (s.set1 == key.code && s.extended == key.extended) return s.set3;
  return set2_of_set1[key.code & 0x7f];
}

class Codes {
 public:
  void add(u8 byte) { bytes_[count_++] = byte; }
  std::span<const u8> bytes() const { return {bytes_, count_}; }

 private:
  u8 bytes_[16];
  usize count_ = 0;
};

void add_key(Codes& out, Key key, bool down, unsigned set) {
  if (set == 3) {
    if (!down) out.add(0xf0);
    return out.add(set3_of(key));
  }
  if (key.extended) out.add(0xe0);
  if (set == 1) return out.add(static_cast<u8>(key.code | (down ? 0 : 0x80)));
  if (!down) out.add(0xf0);
  out.add(set2_of_set1[key.code & 0x7f]);
}

}  // namespace

// --- The wire ---------------------------------------------------------------------------------------------------------------------------
constexpr Field Ps2Device::state[] = {
    computed<&Ps2Device::queue_state, &Ps2Device::load_queue>("queue", "bytes to be sent"),
    field<&Ps2Device::awaits_>("write_cmd", "command that waits for its parameter"),
};
constinit const TypeInfo Ps2Device::type{
    .name = "ps2-device", .doc = "A device with a PS/2 plug.", .parent = &Device::type, .state = state};
static Registered registered_device{Ps2Device::type};

u8 Ps2Device::take_byte() {
  if (queue_.empty()) return 0;
  const u8 byte = queue_.front();
  queue_.pop_front();
  return byte;
}

void Ps2Device::send(std::initializer_list<u8> bytes) {
  if (queue_.size() + bytes.size() <= queue_limit) queue_.insert(queue_.end(), bytes);
  changed();
}

bool Ps2Device::send_event(std::span<const u8> bytes, usize reserve) {
  if (queue_.size() + bytes.size() + reserve > queue_limit) return false;
  queue_.insert(queue_.end(), bytes.begin(), bytes.end());
  changed();
  return true;
}

Result<> Ps2Device::load_queue(const std::vector<u8>& bytes) {
  if (bytes.size() > queue_limit) return fail("a PS/2 queue holds at most {} bytes", queue_limit);
  queue_.assign(bytes.begin(), bytes.end());
  return {};
}

// --- Keyboard ---------------------------------------------------------------------------------------------------------------------------
constexpr Field Ps2Keyboard::state[] = {
    field<&Ps2Keyboard::translated_>("translate", "the controller wants set 1"),
    field<&Ps2Keyboard::scanning_>("scan_enabled", "keys are reported"),
    field<&Ps2Keyboard::set_>("scancode_set", "scan code set", {.min = 1, .max = 3}),
    field<&Ps2Keyboard::leds_>("ledstate", "lights"),
    field<&Ps2Keyboard::modifiers_>("modifiers", "Alt and Ctrl keys that are down"),
};
constinit const TypeInfo Ps2Keyboard::type{
    .name = "ps2-kbd",
    .doc = "PS/2 keyboard.",
    .parent = &Ps2Device::type,
    .state = state,
    .make = make<Ps2Keyboard>,
    .user_creatable = false,
};
static Registered registered_keyboard{Ps2Keyboard::type};

void Ps2Keyboard::reset() {
  clear_queue();
  awaits_ = 0;
  set_ = 2;
  leds_ = modifiers_ = 0;
  scanning_ = true;
  translated_ = false;
}

void Ps2Keyboard::press(u16 event, bool down) {
  const u8 modifier = event == key_left_alt || event == key_right_alt ? 1 : event == key_left_ctrl || event == key_right_ctrl ? 2 : 0;
  modifiers_ = down ? modifiers_ | modifier : modifiers_ & ~modifier;
  if (!scanning_) return;
  const unsigned set = translated_ && set_ == 2 ? 1 : set_;
  Codes codes;
  if (event == key_pause && set != 3) {
    if (!down) return;  // Pause has no break code
    if (modifiers_ & 2) {
      add_key(codes, {0x46, true}, true, set);
      add_key(codes, {0x46, true}, false, set);
    } else {
      for (const bool press : {true, false}) {
        codes.add(0xe1);
        add_key(codes, {0x1d, false}, press, set);
        add_key(codes, {0x45, false}, press, set);
      }
    }
  } else if (event == key_print && set != 3) {
    if (modifiers_ & 1) {
      add_key(codes, {0x54, false}, down, set);
    } else {
      if (down && !(modifiers_ & 2)) add_key(codes, {0x2a, true}, true, set);
      add_key(codes, {0x37, true}, down, set);
      if (!down && !(modifiers_ & 2)) add_key(codes, {0x2a, true}, false, set);
    }
  } else if (event == key_pause || event == key_print) {
    if (!down) codes.add(0xf0);
    codes.add(event == key_pause ? 0x62 : 0x57);
  } else {
    const Key key = key_of(event);
    if (!key.code) return;
    add_key(codes, key, down, set);
  }
  send_event(codes.bytes(), 16);
}

void Ps2Keyboard::command(u8 byte) {
  switch (std::exchange(awaits_, 0)) {
    case 0xed: return leds_ = byte & 7, send({ack});
    case 0xf3: return send({ack});
    case 0xf0:
      if (byte == 0) {  // which set?  A translating controller turns the answer into set 1 as well
        static constexpr u8 translated[4] = {0, 0x43, 0x41, 0x3f};
        return send({ack, translated_ ? translated[set_] : set_});
      }
      if (byte > 3) return send({resend});
      return set_ = byte, send({ack});
    default: break;
  }
  switch (byte) {
    case 0xed:
    case 0xf0:
    case 0xf3: return awaits_ = byte, send({ack});
    case 0xee: return send({0xee});
    case 0xf2: return send({ack, 0xab, static_cast<u8>(translated_ ? 0x41 : 0x83)});
    case 0xf4: return scanning_ = true, clear_queue(), send({ack});
    case 0xf5:
    case 0xf6: {
      set_ = 2, leds_ = 0;
      scanning_ = byte == 0xf6;
      clear_queue();
      return send({ack});
    }
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: return send({ack});
    case 0xff:
      set_ = 2, leds_ = 0, scanning_ = true;
      clear_queue();
      return send({ack, test_passed});
    default: return send({resend});
  }
}

// --- Mouse ------------------------------------------------------------------------------------------------------------------------------
constexpr Field Ps2Mouse::state[] = {
    field<&Ps2Mouse::id_>("mouse_type", "0 plain, 3 with wheel, 4 with five buttons", {.max = 4}),
    field<&Ps2Mouse::sample_rate_>("mouse_sample_rate", "reports a second"),
    field<&Ps2Mouse::resolution_>("mouse_resolution", "counts a millimetre, as an exponent"),
    field<&Ps2Mouse::buttons_>("mouse_buttons", "buttons that are down"),
    field<&Ps2Mouse::knock_>("mouse_detect_state", "how far the sequence that unlocks the wheel has come", {.max = 4}),
    field<&Ps2Mouse::reporting_>("reporting", "movement is reported"),
    field<&Ps2Mouse::remote_>("remote", "only on request"),
    field<&Ps2Mouse::wrap_>("wrap", "what is sent comes back"),
    field<&Ps2Mouse::scaling_>("scaling", "2:1 scaling"),
    field<&Ps2Mouse::dx_>("mouse_dx", "movement not yet reported"),
    field<&Ps2Mouse::dy_>("mouse_dy", "movement not yet reported"),
    field<&Ps2Mouse::dz_>("mouse_dz", "wheel movement not yet reported"),
};
constinit const TypeInfo Ps2Mouse::type{
    .name = "ps2-mouse",
    .doc = "PS/2 mouse with wheel and five buttons.",
    .parent = &Ps2Device::type,
    .state = state,
    .make = make<Ps2Mouse>,
    .user_creatable = false,
};
static Registered registered_mouse{Ps2Mouse::type};

void Ps2Mouse::set_defaults() {
  sample_rate_ = 100, resolution_ = 2;
  reporting_ = remote_ = scaling_ = false;
  dx_ = dy_ = dz_ = 0;
}

void Ps2Mouse::reset() {
  clear_queue();
  awaits_ = 0;
  id_ = knock_ = buttons_ = 0;
  wrap_ = false;
  set_defaults();
}

bool Ps2Mouse::send_packet(bool reserve_answers) {
  const auto take = [](i32& sum, i32 low, i32 high) {
    const i32 part = std::clamp(sum, low, high);
    sum -= part;
    return part;
  };
  const i32 save[3] = {dx_, dy_, dz_};
  const i32 x = take(dx_, -255, 255), y = take(dy_, -255, 255), z = id_ == 4 ? take(dz_, -7, 7) : take(dz_, -127, 127);
  u8 packet[4] = {static_cast<u8>(8 | (buttons_ & 7) | (x < 0) << 4 | (y < 0) << 5), static_cast<u8>(x), static_cast<u8>(y), 0};
  usize length = 3;
  if (id_ == 3) packet[length++] = static_cast<u8>(z);
  if (id_ == 4) packet[length++] = static_cast<u8>((z & 0x0f) | (buttons_ & 0x18) << 1);
  if (id_ == 0) dz_ = 0;
  if (send_event({packet, length}, reserve_answers ? 16 : 0)) return true;
  dx_ = save[0], dy_ = save[1], dz_ = save[2];
  return false;
}

void Ps2Mouse::move(int dx, int dy, int dz, u8 buttons) {
  const auto sum = [](i32& to, int by) { to = std::clamp(to + std::clamp(by, -10'000, 10'000), -10'000, 10'000); };
  const bool same_buttons = buttons == buttons_;
  sum(dx_, dx), sum(dy_, dy), sum(dz_, -dz);
  buttons_ = buttons;
  if (!reporting_ || remote_) return;
  if (same_buttons && !dx_ && !dy_ && !dz_) return;
  for (int packets = 0; packets < 8 && send_packet(true) && (dx_ || dy_ || dz_); packets++) {
  }
}

void Ps2Mouse::command(u8 byte) {
  if (wrap_ && byte != 0xec && byte != 0xff) return send({byte});
  switch (std::exchange(awaits_, 0)) {
    case 0xe8: return resolution_ = byte & 3, send({ack});
    case 0xf3: {  // 200, 100, 80 makes a wheel mouse of it; then 200, 200, 80 gives five buttons
      sample_rate_ = byte;
      if (byte == 200)
        knock_ = knock_ == 1 || knock_ == 3 ? 3 : 1;
      else if (byte == 100 && knock_ == 1)
        knock_ = 2;
      else if (byte == 80 && knock_ == 2)
        id_ = 3, knock_ = 0;
      else if (byte == 80 && knock_ == 3)
        id_ = 4, knock_ = 0;
      else
        knock_ = 0;
      return send({ack});
    }
    default: break;
  }
  switch (byte) {
    case 0xe6: return scaling_ = false, send({ack});
    case 0xe7: return scaling_ = true, send({ack});
    case 0xe8:
    case 0xf3: return awaits_ = byte, send({ack});
    case 0xe9: {
      const u8 buttons = static_cast<u8>((buttons_ & 1) << 2 | (buttons_ & 4) >> 1 | (buttons_ & 2) >> 1);
      return send({ack, static_cast<u8>(remote_ << 6 | reporting_ << 5 | scaling_ << 4 | buttons), resolution_, sample_rate_});
    }
    case 0xea: return remote_ = false, send({ack});
    case 0xeb:
      send({ack});
      send_packet(false);
      return;
    case 0xec: return wrap_ = false, send({ack});
    case 0xee: return wrap_ = true, send({ack});
    case 0xf0: return remote_ = true, send({ack});
    case 0xf2: return send({ack, id_});
    case 0xf4: return reporting_ = true, send({ack});
    case 0xf5: return reporting_ = false, send({ack});
    case 0xf6: return set_defaults(), send({ack});
    case 0xff: reset(); return send({ack, test_passed, 0});
    default: return send({resend});
  }
}

}  // namespace vmm::hw
