#include "src/ui/vnc/client.h"

#include <linux/input-event-codes.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "src/base/bits.h"
#include "src/base/format.h"
#include "src/ui/input.h"

namespace vmm::ui::vnc {

namespace {
enum Security : u8 { security_none = 1, security_vnc = 2 };
enum Incoming : u8 {
  set_pixel_format = 0,
  set_encodings_ = 2,
  update_request = 3,
  key_event = 4,
  pointer_event = 5,
  cut_text = 6,
  set_desktop_size = 251,
  qemu = 255
};
constexpr std::string_view our_version = "RFB 003.008\n";
constexpr usize most_encodings = 1024;
}  // namespace

Client::Client(const Shared& shared, std::function<void(std::span<const u8>)> out) : shared_(shared), out_(std::move(out)) {
  width_ = shared_.picture->width, height_ = shared_.picture->height;
  send({reinterpret_cast<const u8*>(our_version.data()), our_version.size()});
}

Client::~Client() { release_all(); }

Client::Verdict Client::receive(std::span<const u8> bytes) {
  input_.insert(input_.end(), bytes.begin(), bytes.end());
  std::span<const u8> in{input_};
  Verdict verdict = Verdict::go_on;
  for (bool starved = false; verdict == Verdict::go_on && !in.empty() && !starved;) verdict = step(in, starved);
  input_.erase(input_.begin(), input_.end() - static_cast<std::ptrdiff_t>(in.size()));
  return verdict;
}

// One part of the handshake, or one message; `starved`: more bytes must come first.
Client::Verdict Client::step(std::span<const u8>& in, bool& starved) {
  const auto need = [&](usize n) -> std::span<const u8> {
    if (in.size() < n) return starved = true, std::span<const u8>{};
    const auto part = in.first(n);
    in = in.subspan(n);
    return part;
  };
  switch (state_) {
    case State::version: {
      const auto line = need(12);
      return starved ? Verdict::go_on : version(line);
    }
    case State::security_choice: {
      const auto type = need(1);
      return starved ? Verdict::go_on : choose(type[0]);
    }
    case State::answer: {
      const auto answer = need(16);
      return starved ? Verdict::go_on : check_answer(answer);
    }
    case State::initialization: {
      const auto shared = need(1);
      return starved ? Verdict::go_on : begin(shared[0] != 0);
    }
    case State::messages: return message(in, starved);
  }
  return Verdict::close;
}

// --- The handshake

Client::Verdict Client::version(std::span<const u8> line) {
  const std::string_view text{reinterpret_cast<const char*>(line.data()), line.size()};
  unsigned major = 0;
  const auto number = [&](usize at, unsigned& value) {
    return std::from_chars(text.data() + at, text.data() + at + 3, value).ptr == text.data() + at + 3;
  };
  if (!text.starts_with("RFB ") || text[7] != '.' || text[11] != '\n' || !number(4, major) || !number(8, minor_)) return fail("not RFB");
  // 3.4 to 3.6 were never defined, and mean 3.3; who knows more than we do speaks 3.8.
  if (major != 3 || minor_ < 3) return fail("a version of RFB that is not known");
  minor_ = minor_ >= 8 ? 8 : minor_ == 7 ? 7 : 3;
  const u8 type = shared_.password ? security_vnc : security_none;
  std::vector<u8> out;
  if (minor_ == 3) {
    put32(out, type);
    send(out);
    return choose(type);
  }
  out = {1, type};
  send(out);
  state_ = State::security_choice;
  return Verdict::go_on;
}

Client::Verdict Client::choose(u8 type) {
  if (type != (shared_.password ? security_vnc : security_none)) {
    send_result(false, "Authentication failed");
    return fail("a kind of security that was not offered");
  }
  if (type == security_none) return admit(minor_ >= 8);
  challenge_ = shared_.make_challenge();
  send(challenge_);
  state_ = State::answer;
  return Verdict::go_on;
}

Client::Verdict Client::check_answer(std::span<const u8> given) {
  std::array<u8, 16> answer;
  std::ranges::copy(given, answer.begin());
  if (!shared_.right_password(challenge_, answer)) {
    send_result(false, "Authentication failed");
    return fail("wrong password");
  }
  return admit(true);
}

void Client::send_result(bool good, std::string_view why) {
  std::vector<u8> out;
  put32(out, good ? 0 : 1);
  if (!good && minor_ >= 8) {
    put32(out, static_cast<u32>(why.size()));
    out.insert(out.end(), why.begin(), why.end());
  }
  send(out);
}

Client::Verdict Client::admit(bool security_result) {
  if (security_result) send_result(true, {});
  state_ = State::initialization;
  return Verdict::go_on;
}

Client::Verdict Client::begin(bool shared) {
  exclusive_ = !shared;
  width_ = shared_.picture->width, height_ = shared_.picture->height;
  dirty_.assign(usize{columns()} * rows(), 1);
  std::vector<u8> out;
  put16(out, width_), put16(out, height_);
  write_format(encoder_.format(), out);
  put32(out, static_cast<u32>(shared_.desktop_name.size()));
  out.insert(out.end(), shared_.desktop_name.begin(), shared_.desktop_name.end());
  send(out);
  state_ = State::messages;
  return Verdict::go_on;
}

// --- Messages

Client::Verdict Client::message(std::span<const u8>& in, bool& starved) {
  // The whole message, once it is there; its length may stand in its first bytes.
  usize length = 0;
  const auto has = [&](usize n) { return in.size() >= n; };
  switch (in[0]) {
    case set_pixel_format: length = 20; break;
    case set_encodings_: length = has(4) ? 4 + 4 * usize{load_be<u16>(&in[2])} : 4; break;
    case update_request: length = 10; break;
    case key_event: length = 8; break;
    case pointer_event: length = 6; break;
    case cut_text: {
      length = 8;
      if (!has(8)) break;
      // A negative length is the extended clipboard's, which nobody was offered.
      const u32 bytes = load_be<u32>(&in[4]);
      if (bytes > longest_message) return fail("a clipboard that is too large");
      length = 8 + usize{bytes};
      break;
    }
    case set_desktop_size: length = has(8) ? 8 + 16 * usize{in[6]} : 8; break;
    case qemu:
      if (!has(2)) {
        length = 2;
      } else if (in[1] == 0) {
        length = 12;
      } else {
        return fail("an extension that is not known");
      }
      break;
    default: return fail(format("a message of type {}", in[0]));
  }
  if (in.size() < length) return starved = true, Verdict::go_on;
  const auto m = in.first(length);
  in = in.subspan(length);
  switch (m[0]) {
    case set_pixel_format: return set_format(m.subspan(4));
    case set_encodings_: set_encodings(m.subspan(4)); break;
    case update_request: return ask(m);
    case key_event: key(load_be<u32>(&m[4]), m[1] != 0); break;
    case pointer_event: pointer(m[1], load_be<u16>(&m[2]), load_be<u16>(&m[4])); break;
    case set_desktop_size:  // the guest's mode is the guest's; "prohibited" (1), to the one who asked (1)
      if (knows_extended_size_) tell_size_ = true, size_reason_ = 1, size_status_ = 1;
      break;
    case qemu: raw_key(load_be<u32>(&m[4]), load_be<u32>(&m[8]), load_be<u16>(&m[2]) != 0); break;
    default: break;
  }
  return Verdict::go_on;
}

Client::Verdict Client::set_format(std::span<const u8> body) {
  const auto f = read_format(body.data());
  if (!f) return fail(f.error().message);
  encoder_.set_format(*f);
  std::ranges::fill(dirty_, u8{1});
  if (f->true_colour) return Verdict::go_on;
  // A palette of 8 x 8 x 4 colours (SetColourMapEntries).
  std::vector<u8> out{1, 0};
  put16(out, 0), put16(out, 256);
  for (unsigned i = 0; i < 256; i++)
    put16(out, (i & 7) * 65535 / 7), put16(out, (i >> 3 & 7) * 65535 / 7), put16(out, (i >> 6) * 65535 / 3);
  send(out);
  return Verdict::go_on;
}

void Client::set_encodings(std::span<const u8> list) {
  knows_size_ = knows_extended_size_ = knows_pointer_type_ = false;
  i32 chosen = encoding_raw;
  bool decided = false;
  for (usize i = 0; i + 4 <= std::min(list.size(), 4 * most_encodings); i += 4) {
    const i32 e = static_cast<i32>(load_be<u32>(&list[i]));
    switch (e) {
      case encoding_raw:
      case encoding_hextile:
      case encoding_zlib:
      case encoding_tight:
      case encoding_zrle:  // the first one that we know is the one it likes best
        if (!decided) chosen = e, decided = true;
        break;
      case encoding_desktop_size: knows_size_ = true; break;
      case encoding_extended_desktop_size:
        if (!knows_extended_size_) tell_size_ = true, size_reason_ = size_status_ = 0;
        knows_extended_size_ = true;
        break;
      case encoding_pointer_type: knows_pointer_type_ = tell_pointer_ = true; break;
      case encoding_extended_key: tell_keys_ = true; break;
      default:
        if (e >= -256 && e <= -247) encoder_.set_level(e + 256);
        break;
    }
  }
  encoder_.set_encoding(chosen);
}

Client::Verdict Client::ask(std::span<const u8> m) {
  asked_ = true;
  asked_for_ = {load_be<u16>(&m[2]), load_be<u16>(&m[4]), load_be<u16>(&m[6]), load_be<u16>(&m[8])};
  if (m[1]) return Verdict::go_on;  // incremental
  for (unsigned y = asked_for_.y / tile; y < rows() && y * tile < asked_for_.y + asked_for_.height; y++)
    for (unsigned x = asked_for_.x / tile; x < columns() && x * tile < asked_for_.x + asked_for_.width; x++)
      dirty_[usize{y} * columns() + x] = 1;
  return Verdict::go_on;
}

// --- The picture

void Client::tiles_changed(std::span<const u8> tiles) {
  if (!initialized() || tiles.size() != dirty_.size()) return;
  for (usize i = 0; i < tiles.size(); i++) dirty_[i] |= tiles[i];
}

void Client::size_changed() {
  if (!initialized()) return;
  dirty_.assign(usize{columns()} * rows(), 1);
  resized_ = true;
}

// False: this viewer cannot be told.
bool Client::announce_size(unsigned reason, unsigned status, std::vector<u8>& out, unsigned& count) {
  const Rectangle whole{0, 0, shared_.picture->width, shared_.picture->height};
  if (knows_extended_size_) {
    Rectangle header = whole;
    header.x = reason, header.y = status;
    put_header(out, header, encoding_extended_desktop_size);
    out.insert(out.end(), {1, 0, 0, 0});  // one screen; libvncclient takes no screen 0
    put32(out, 1), put16(out, 0), put16(out, 0), put16(out, whole.width), put16(out, whole.height), put32(out, 0);
  } else if (knows_size_) {
    put_header(out, whole, encoding_desktop_size);
  } else {
    return false;
  }
  width_ = whole.width, height_ = whole.height;
  count++;
  return true;
}

void Client::update(bool room) {
  if (!asked_ || !room || !initialized()) return;
  std::vector<u8> body;
  unsigned count = 0;
  if (resized_) announce_size(0, 0, body, count);
  if (tell_size_) announce_size(size_reason_, size_status_, body, count);
  resized_ = tell_size_ = false;
  const bool absolute = pointer_for(true) != nullptr;
  if (knows_pointer_type_ && (tell_pointer_ || absolute != absolute_told_)) {
    put_header(body, {absolute, 0, width_, height_}, encoding_pointer_type);
    absolute_told_ = absolute, tell_pointer_ = false, count++;
  }
  if (std::exchange(tell_keys_, false)) put_header(body, {0, 0, width_, height_}, encoding_extended_key), count++;

  // Runs of changed tiles in a row, grown downwards while the rows below have the same run.
  const unsigned wide = columns();
  const unsigned right = std::min({shared_.picture->width, width_, asked_for_.x + asked_for_.width});
  const unsigned bottom = std::min({shared_.picture->height, height_, asked_for_.y + asked_for_.height});
  const auto run_at = [&](unsigned x, unsigned y) {
    unsigned n = 0;
    while ((x + n) * tile < right && dirty_[usize{y} * wide + x + n] && (n + 1) * tile <= encoder_.most_width()) n++;
    return n;
  };
  constexpr unsigned most_rectangles = 0xff00;
  for (unsigned y = asked_for_.y / tile; y * tile < bottom && count < most_rectangles; y++)
    for (unsigned x = asked_for_.x / tile; x * tile < right && count < most_rectangles; x++) {
      const unsigned n = run_at(x, y);
      if (!n) continue;
      unsigned high = 1;
      while ((y + high) * tile < bottom && u64{high + 1} * n * tile * tile <= encoder_.most_pixels() && run_at(x, y + high) == n &&
             (x == 0 || !dirty_[usize{y + high} * wide + x - 1]))
        high++;
      for (unsigned j = y; j < y + high; j++) std::fill_n(&dirty_[usize{j} * wide + x], n, u8{0});
      // Whole tiles, so that what is marked clean has been sent; but nothing outside what the viewer has.
      const Rectangle r{x * tile, y * tile, std::min((x + n) * tile, std::min(shared_.picture->width, width_)) - x * tile,
                        std::min((y + high) * tile, std::min(shared_.picture->height, height_)) - y * tile};
      encoder_.rectangle(*shared_.picture, r, body);
      count++;
    }
  if (!count) return;
  asked_ = false;
  std::vector<u8> head{0, 0};
  put16(head, count);
  send(head);
  send(body);
}

// --- Keys

void Client::press(u16 code, bool down) {
  const auto at = std::ranges::find(pressed_, code);
  if (down && at == pressed_.end() && pressed_.size() < 64) pressed_.push_back(code);
  if (!down && at == pressed_.end()) return;  // it was never pressed
  if (!down) pressed_.erase(at);
  if (code == KEY_CAPSLOCK && down) caps_ = !caps_;
  if (Keyboard* const keyboard = current_keyboard()) keyboard->key(code, down);
}

// A character is typed with the modifiers that the guest's layout needs for it, whatever the viewer's keyboard needed.
void Client::key(u32 keysym, bool down) {
  if (!down) {
    const auto at = std::ranges::find(characters_, keysym, &Synthetic::keysym);
    if (at != characters_.end()) {
      const u16 code = at->code;
      characters_.erase(at);
      return press(code, false);
    }
  }
  const auto stroke = find_stroke(*shared_.layout, keysym);
  if (!stroke) return;
  if (!stroke->character) return press(stroke->code, down);
  if (!down) return press(stroke->code, false);
  Keyboard* const keyboard = current_keyboard();
  if (!keyboard) return;
  const auto held = [&](u16 code) { return std::ranges::find(pressed_, code) != pressed_.end(); };
  const bool shifted = held(KEY_LEFTSHIFT) || held(KEY_RIGHTSHIFT);
  const char32_t c = keysym_to_unicode(keysym);
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  // Shortcuts are about keys: Ctrl and Alt leave the character's own modifiers to whoever presses them.
  const bool shortcut = held(KEY_LEFTCTRL) || held(KEY_RIGHTCTRL) || held(KEY_LEFTALT) || held(KEY_LEFTMETA);
  const bool want_shift = stroke->shift != (letter && caps_);
  const bool add_shift = !shortcut && want_shift && !shifted, add_alt_gr = !shortcut && stroke->alt_gr && !held(KEY_RIGHTALT);
  std::vector<u16> lifted;  // a Shift that the viewer needed and the guest must not see
  if (!shortcut && !want_shift && shifted && !(letter && caps_))
    for (const u16 code : {u16{KEY_LEFTSHIFT}, u16{KEY_RIGHTSHIFT}})
      if (held(code)) lifted.push_back(code);
  for (const u16 code : lifted) keyboard->key(code, false);
  if (add_shift) keyboard->key(KEY_LEFTSHIFT, true);
  if (add_alt_gr) keyboard->key(KEY_RIGHTALT, true);
  press(stroke->code, true);
  if (characters_.size() < 64) characters_.push_back({keysym, stroke->code});
  if (add_alt_gr) keyboard->key(KEY_RIGHTALT, false);
  if (add_shift) keyboard->key(KEY_LEFTSHIFT, false);
  for (const u16 code : lifted) keyboard->key(code, true);
}

// QEMU's extension: the key itself, as a set-1 scan code (0xe0 prefix in the second byte or in bit 7).
void Client::raw_key(u32 keysym, u32 scan, bool down) {
  const u32 number = (scan & 0xff00) == 0xe000 ? (scan & 0x7f) | 0x80 : scan;
  if (const u16 code = key_by_number(number)) return press(code, down);
  key(keysym, down);
}

void Client::release_all() {
  Keyboard* const keyboard = current_keyboard();
  for (const u16 code : pressed_)
    if (keyboard) keyboard->key(code, false);
  pressed_.clear();
  if (buttons_) pointer(0, static_cast<unsigned>(std::max(last_x_, 0)), static_cast<unsigned>(std::max(last_y_, 0)));
}

// --- The mouse

void Client::pointer(u8 buttons, unsigned x, unsigned y) {
  Pointer* const tablet = pointer_for(true);
  Pointer* const target = tablet ? tablet : pointer_for(false);
  const int old_x = std::exchange(last_x_, static_cast<int>(x)), old_y = std::exchange(last_y_, static_cast<int>(y));
  const u8 changed = std::exchange(buttons_, buttons) ^ buttons;
  if (!target) return;
  static constexpr Button meaning[8] = {Button::left,       Button::middle,     Button::right,       Button::wheel_up,
                                        Button::wheel_down, Button::wheel_left, Button::wheel_right, Button::side};
  for (unsigned i = 0; i < 8; i++)
    if (changed >> i & 1) target->button(meaning[i], buttons >> i & 1);
  if (tablet) {
    const auto scale = [](unsigned at, unsigned size) { return size > 1 ? std::min(at, size - 1) * Pointer::span / (size - 1) : 0; };
    tablet->place(scale(x, width_), scale(y, height_));
  } else if (absolute_told_ || !knows_pointer_type_) {
    if (old_x >= 0) target->move(static_cast<int>(x) - old_x, static_cast<int>(y) - old_y);
  } else {  // it was told that the mouse is moved: 0x7fff is no movement
    target->move(static_cast<int>(x) - 0x7fff, static_cast<int>(y) - 0x7fff);
  }
  target->sync();
}

}  // namespace vmm::ui::vnc
