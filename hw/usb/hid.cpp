#include "hw/usb/hid.h"

#include <linux/input-event-codes.h>

#include <algorithm>
#include <deque>

#include "src/ui/input.h"
#include "src/ui/pointer.h"

namespace vmm::hw {

namespace {
enum Request : u16 {
  get_report = 0xa101,
  get_idle = 0xa102,
  get_protocol = 0xa103,
  set_report = 0x2109,
  set_idle = 0x210a,
  set_protocol = 0x210b,
};
constexpr usize most_waiting = 64;  // events between two polls
}  // namespace

// --- What all share

constexpr Field UsbHid::properties[] = {
    field<&UsbHid::usb_version_>("usb_version", "1: full speed only; 2: high speed as well.", {.min = 1, .max = 2}),
    field<&UsbHid::display_>("display", "Display device that the input is for."),
    field<&UsbHid::head_>("head", "Head of that device."),
};
constexpr Field UsbHid::state[] = {
    field<&UsbHid::idle_>("idle", "time after which reports are repeated, in 4 ms"),
    field<&UsbHid::protocol_>("protocol", "1: reports as described; 0: those of boot firmware", {.max = 1}),
};
constinit const TypeInfo UsbHid::type{.name = "usb-hid",
                                      .doc = "A human interface device.",
                                      .parent = &UsbDevice::type,
                                      .properties = properties,
                                      .state = state,
                                      .category = "Input devices",
                                      .user_creatable = false};
static Registered registered_hid{UsbHid::type};

u8 UsbHid::speed_bits() const {
  const u8 full = 1 << static_cast<u8>(UsbSpeed::full), high = 1 << static_cast<u8>(UsbSpeed::high);
  return usb_version_ >= 2 ? full | high : full;
}

std::span<const u8> UsbHid::class_descriptor(u8 kind, u8 index) const {
  if (index != 0) return {};
  if (kind == 0x21) return hid_descriptor();
  if (kind == 0x22) return report_descriptor();
  return {};
}

UsbAnswer UsbHid::class_control(const UsbSetup& setup, std::span<u8> data) {
  switch (setup.code()) {
    case get_report: {
      const Report r = current_report();
      return answer(data, std::span{r.bytes}.first(r.length));
    }
    case set_report: return output_report(data), UsbAnswer{.bytes = static_cast<u32>(data.size())};
    case get_idle: return answer(data, std::span{&idle_, 1});
    case set_idle:
      idle_ = static_cast<u8>(setup.value >> 8);
      repeat_ = false;
      idle_ ? idle_timer_.arm_in(std::chrono::milliseconds{4 * idle_}) : idle_timer_.cancel();
      return {};
    case get_protocol: return answer(data, std::span{&protocol_, 1});
    case set_protocol: return protocol_ = setup.value & 1, UsbAnswer{};
    default: return {UsbStatus::stall};
  }
}

UsbAnswer UsbHid::class_transfer(u8 endpoint, std::span<u8> data) {
  if (endpoint != report_endpoint) return {UsbStatus::stall};
  std::optional<Report> r = next_report();
  if (!r && repeat_) r = current_report();
  if (!r) return {UsbStatus::nak};
  repeat_ = false;
  if (idle_) idle_timer_.arm_in(std::chrono::milliseconds{4 * idle_});
  return answer(data, std::span{r->bytes}.first(r->length));
}

void UsbHid::idle_over() {
  repeat_ = true;
  ready(report_endpoint);
}

Result<> UsbHid::after_load() {
  if (idle_) idle_timer_.arm_in(std::chrono::milliseconds{4 * idle_});
  return {};
}

void UsbHid::news() {
  wake();
  ready(report_endpoint);
}

void UsbHid::class_reset() {
  idle_ = 0, protocol_ = 1, repeat_ = false;
  idle_timer_.cancel();
  forget();
}

Task<> UsbHid::unrealize_usb() {
  idle_timer_.cancel();
  co_return Result<>{};
}

// --- Pointers: reports of buttons, place or movement, and wheel

namespace {

// A configuration of one HID interface with one interrupt endpoint.
struct HidShape {
  u8 subclass = 0, protocol = 0, report_bytes = 0, packet = 8, interval = 10, configuration_string = 0;
};
constexpr std::array<u8, 9> hid_part(const HidShape& s) { return {9, 0x21, 0x01, 0x00, 0, 1, 0x22, s.report_bytes, 0}; }
constexpr std::array<u8, 34> configuration(const HidShape& s) {
  return {9,
          2,
          34,
          0,
          1,
          1,
          s.configuration_string,
          0xa0,
          50,  // self powered no, remote wake-up, 100 mA
          9,
          4,
          0,
          0,
          1,
          3,
          s.subclass,
          s.protocol,
          0,  // interface
          9,
          0x21,
          0x01,
          0x00,
          0,
          1,
          0x22,
          s.report_bytes,
          0,  // HID
          7,
          5,
          0x81,
          3,
          s.packet,
          0,
          s.interval};  // interrupt IN
}

// Three buttons; then X, Y and wheel. The tablet's axes run from 0 to 0x7fff.
constexpr u8 tablet_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,                          // mouse: pointer
    0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01,  // three buttons of one bit
    0x81, 0x02, 0x95, 0x01, 0x75, 0x05, 0x81, 0x01,                                      // five bits unused
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02,
    0x81, 0x02, 0x05, 0x01, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06,  // wheel
    0xc0, 0xc0};
static_assert(sizeof(tablet_report) == 74);
constexpr u8 mouse_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,                          // mouse: pointer
    0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01,  // three buttons of one bit
    0x81, 0x02, 0x95, 0x01, 0x75, 0x05, 0x81, 0x01,                                      // five bits unused
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, 0xc0, 0xc0};
static_assert(sizeof(mouse_report) == 52);
// Boot keyboard: eight modifiers, a byte unused, six keys; five lights.
constexpr u8 keyboard_report[] = {0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x75, 0x01, 0x95, 0x08, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7,
                                  0x15, 0x00, 0x25, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01,
                                  0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06,
                                  0x75, 0x08, 0x15, 0x00, 0x25, 0xff, 0x05, 0x07, 0x19, 0x00, 0x29, 0xff, 0x81, 0x00, 0xc0};
static_assert(sizeof(keyboard_report) == 63);

constexpr HidShape mouse_full{1, 2, sizeof(mouse_report), 4, 10, 6}, mouse_high{1, 2, sizeof(mouse_report), 4, 7, 6};
constexpr HidShape tablet_full{0, 0, sizeof(tablet_report), 8, 10, 7}, tablet_high{0, 0, sizeof(tablet_report), 8, 4, 7};
constexpr HidShape keyboard_full{1, 1, sizeof(keyboard_report), 8, 10, 8}, keyboard_high{1, 1, sizeof(keyboard_report), 8, 7, 8};
template <const HidShape& Shape>
constexpr auto configuration_of = configuration(Shape);
template <const HidShape& Shape>
constexpr auto hid_part_of = hid_part(Shape);

struct PointerEvent {
  int dx = 0, dy = 0, wheel = 0;  // a tablet: dx, dy are its place
  u8 buttons = 0;
};

}  // namespace

class UsbPointer : public UsbHid {
 public:
  static const TypeInfo type;

 protected:
  explicit UsbPointer(bool absolute) : absolute_(absolute) {}
  Result<> realize_usb() override {
    face_.emplace(*this);
    return {};
  }
  Task<> unrealize_usb() override {
    face_.reset();
    co_return co_await UsbHid::unrealize_usb();
  }
  void configured(bool on) override {
    if (on && face_) ui::use_pointer(*face_);
  }
  void forget() override {
    waiting_.clear();
    last_ = absolute_ ? PointerEvent{last_.dx, last_.dy, 0, 0} : PointerEvent{};
    next_ = {};
  }
  std::optional<Report> next_report() override {
    if (waiting_.empty()) return std::nullopt;
    PointerEvent& e = waiting_.front();
    const auto take = [](int& sum) {
      const int part = std::clamp(sum, -127, 127);
      sum -= part;
      return part;
    };
    last_.buttons = e.buttons;
    if (absolute_) {
      last_.dx = e.dx, last_.dy = e.dy;
      last_.wheel = take(e.wheel);
      if (!e.wheel) waiting_.pop_front();
    } else {
      last_.dx = take(e.dx), last_.dy = take(e.dy), last_.wheel = take(e.wheel);
      if (!e.dx && !e.dy && !e.wheel) waiting_.pop_front();
    }
    const Report r = current_report();
    last_.wheel = 0;
    if (!absolute_) last_.dx = last_.dy = 0;
    return r;
  }
  Report current_report() const override {
    const auto byte = [](int v) { return static_cast<u8>(v); };
    if (absolute_)
      return {{last_.buttons, byte(last_.dx), byte(last_.dx >> 8), byte(last_.dy), byte(last_.dy >> 8), byte(-last_.wheel)}, 6};
    return {{last_.buttons, byte(last_.dx), byte(last_.dy), byte(-last_.wheel)}, boot_protocol() ? usize{3} : usize{4}};
  }

 private:
  static const Field state[];
  struct Face final : ui::Pointer {
    explicit Face(UsbPointer& owner) : Pointer(owner.absolute_), owner(owner) {}
    std::string_view description() const override { return owner.product(); }
    bool ready() const override { return owner.configuration() != 0; }
    void move(int dx, int dy) override {
      owner.next_.dx = std::clamp(owner.next_.dx + dx, -10'000, 10'000);
      owner.next_.dy = std::clamp(owner.next_.dy + dy, -10'000, 10'000);
    }
    void place(unsigned x, unsigned y) override {
      owner.next_.dx = static_cast<int>(std::min(x, span)), owner.next_.dy = static_cast<int>(std::min(y, span));
    }
    void button(ui::Button button, bool down) override {
      static constexpr u8 bits[ui::button_count] = {1, 4, 2, 0, 0, 8, 16, 0, 0, 1};
      const u8 bit = bits[static_cast<usize>(button)];
      owner.next_.buttons = static_cast<u8>(down ? owner.next_.buttons | bit : owner.next_.buttons & ~bit);
      if (down) owner.next_.wheel += button == ui::Button::wheel_up ? -1 : button == ui::Button::wheel_down ? 1 : 0;
    }
    void sync() override { owner.take(); }
    UsbPointer& owner;
  };
  // Movements that the guest has not fetched yet become one; presses and releases stay apart.
  void take() {
    if (!configuration()) return;
    if (!waiting_.empty() && waiting_.back().buttons == next_.buttons) {
      PointerEvent& e = waiting_.back();
      if (absolute_)
        e.dx = next_.dx, e.dy = next_.dy;
      else
        e.dx = std::clamp(e.dx + next_.dx, -10'000, 10'000), e.dy = std::clamp(e.dy + next_.dy, -10'000, 10'000);
      e.wheel = std::clamp(e.wheel + next_.wheel, -1000, 1000);
    } else {
      if (waiting_.size() >= most_waiting) waiting_.pop_front();
      waiting_.push_back(next_);
    }
    next_.wheel = 0;
    if (!absolute_) next_.dx = next_.dy = 0;
    news();
  }
  std::vector<i64> events() const {
    std::vector<i64> w;
    const auto add = [&](const PointerEvent& e) { w.insert(w.end(), {e.dx, e.dy, e.wheel, e.buttons}); };
    add(last_), add(next_);
    for (const PointerEvent& e : waiting_) add(e);
    return w;
  }
  Result<> load_events(const std::vector<i64>& w) {
    if (w.size() < 8 || w.size() % 4 || w.size() / 4 > most_waiting + 2) return fail("{} values of a pointer's events", w.size());
    std::vector<PointerEvent> list;
    for (usize i = 0; i < w.size(); i += 4) {
      const auto in = [&](usize at, i64 limit) {
        return static_cast<int>(std::clamp<i64>(w[i + at], absolute_ && at < 2 ? 0 : -limit, limit));
      };
      const i64 far = absolute_ ? i64{ui::Pointer::span} : 10'000;
      list.push_back({in(0, far), in(1, far), in(2, 1000), static_cast<u8>(w[i + 3] & 31)});
    }
    last_ = list[0], next_ = list[1];
    waiting_.assign(list.begin() + 2, list.end());
    return {};
  }

  const bool absolute_;
  PointerEvent last_{}, next_{};
  std::deque<PointerEvent> waiting_;
  std::optional<Face> face_;
};
constexpr Field UsbPointer::state[] = {
    computed<&UsbPointer::events, &UsbPointer::load_events>("events", "what was reported last, what is gathered, what waits"),
};
constinit const TypeInfo UsbPointer::type{
    .name = "usb-pointer", .doc = "A USB pointing device.", .parent = &UsbHid::type, .state = state, .user_creatable = false};
static Registered registered_pointer{UsbPointer::type};

class UsbMouse final : public UsbPointer {
 public:
  static const TypeInfo type;
  UsbMouse() : UsbPointer(false) {}
  std::string_view product() const override { return "QEMU USB Mouse"; }

 protected:
  const Descriptors& descriptors() const override {
    static constexpr Descriptors d{.vendor = 0x0627,
                                   .product = 0x0001,
                                   .manufacturer = "QEMU",
                                   .name = "QEMU USB Mouse",
                                   .serial = "89126",
                                   .configuration = "HID Mouse",
                                   .name_string = 2,
                                   .serial_string = 9,
                                   .configuration_string = 6,
                                   .high = configuration_of<mouse_high>,
                                   .full = configuration_of<mouse_full>};
    return d;
  }
  std::span<const u8> report_descriptor() const override { return mouse_report; }
  std::span<const u8> hid_descriptor() const override { return hid_part_of<mouse_full>; }
};
constinit const TypeInfo UsbMouse::type{
    .name = "usb-mouse", .doc = "A USB mouse.", .parent = &UsbPointer::type, .make = make<UsbMouse>, .category = "Input devices"};
static Registered registered_mouse{UsbMouse::type};

class UsbTablet final : public UsbPointer {
 public:
  static const TypeInfo type;
  UsbTablet() : UsbPointer(true) {}
  std::string_view product() const override { return "QEMU USB Tablet"; }

 protected:
  const Descriptors& descriptors() const override {
    static constexpr Descriptors d{.vendor = 0x0627,
                                   .product = 0x0001,
                                   .manufacturer = "QEMU",
                                   .name = "QEMU USB Tablet",
                                   .serial = "28754",
                                   .configuration = "HID Tablet",
                                   .name_string = 3,
                                   .serial_string = 10,
                                   .configuration_string = 7,
                                   .high = configuration_of<tablet_high>,
                                   .full = configuration_of<tablet_full>};
    return d;
  }
  std::span<const u8> report_descriptor() const override { return tablet_report; }
  std::span<const u8> hid_descriptor() const override { return hid_part_of<tablet_full>; }
};
constinit const TypeInfo UsbTablet::type{.name = "usb-tablet",
                                         .doc = "A USB tablet: a pointer that is placed, not moved.",
                                         .parent = &UsbPointer::type,
                                         .make = make<UsbTablet>,
                                         .category = "Input devices"};
static Registered registered_tablet{UsbTablet::type};

// --- Keyboard

namespace {
constexpr u8 u_rollover = 1;
// HID usages (page 7) by Linux key code. Source: HID Usage Tables 1.12, §10.
constexpr std::pair<u16, u8> usages[] = {{KEY_A, 4},
                                         {KEY_B, 5},
                                         {KEY_C, 6},
                                         {KEY_D, 7},
                                         {KEY_E, 8},
                                         {KEY_F, 9},
                                         {KEY_G, 10},
                                         {KEY_H, 11},
                                         {KEY_I, 12},
                                         {KEY_J, 13},
                                         {KEY_K, 14},
                                         {KEY_L, 15},
                                         {KEY_M, 16},
                                         {KEY_N, 17},
                                         {KEY_O, 18},
                                         {KEY_P, 19},
                                         {KEY_Q, 20},
                                         {KEY_R, 21},
                                         {KEY_S, 22},
                                         {KEY_T, 23},
                                         {KEY_U, 24},
                                         {KEY_V, 25},
                                         {KEY_W, 26},
                                         {KEY_X, 27},
                                         {KEY_Y, 28},
                                         {KEY_Z, 29},
                                         {KEY_1, 30},
                                         {KEY_2, 31},
                                         {KEY_3, 32},
                                         {KEY_4, 33},
                                         {KEY_5, 34},
                                         {KEY_6, 35},
                                         {KEY_7, 36},
                                         {KEY_8, 37},
                                         {KEY_9, 38},
                                         {KEY_0, 39},
                                         {KEY_ENTER, 40},
                                         {KEY_ESC, 41},
                                         {KEY_BACKSPACE, 42},
                                         {KEY_TAB, 43},
                                         {KEY_SPACE, 44},
                                         {KEY_MINUS, 45},
                                         {KEY_EQUAL, 46},
                                         {KEY_LEFTBRACE, 47},
                                         {KEY_RIGHTBRACE, 48},
                                         {KEY_BACKSLASH, 49},
                                         {KEY_SEMICOLON, 51},
                                         {KEY_APOSTROPHE, 52},
                                         {KEY_GRAVE, 53},
                                         {KEY_COMMA, 54},
                                         {KEY_DOT, 55},
                                         {KEY_SLASH, 56},
                                         {KEY_CAPSLOCK, 57},
                                         {KEY_F1, 58},
                                         {KEY_F2, 59},
                                         {KEY_F3, 60},
                                         {KEY_F4, 61},
                                         {KEY_F5, 62},
                                         {KEY_F6, 63},
                                         {KEY_F7, 64},
                                         {KEY_F8, 65},
                                         {KEY_F9, 66},
                                         {KEY_F10, 67},
                                         {KEY_F11, 68},
                                         {KEY_F12, 69},
                                         {KEY_SYSRQ, 70},
                                         {KEY_SCROLLLOCK, 71},
                                         {KEY_PAUSE, 72},
                                         {KEY_INSERT, 73},
                                         {KEY_HOME, 74},
                                         {KEY_PAGEUP, 75},
                                         {KEY_DELETE, 76},
                                         {KEY_END, 77},
                                         {KEY_PAGEDOWN, 78},
                                         {KEY_RIGHT, 79},
                                         {KEY_LEFT, 80},
                                         {KEY_DOWN, 81},
                                         {KEY_UP, 82},
                                         {KEY_NUMLOCK, 83},
                                         {KEY_KPSLASH, 84},
                                         {KEY_KPASTERISK, 85},
                                         {KEY_KPMINUS, 86},
                                         {KEY_KPPLUS, 87},
                                         {KEY_KPENTER, 88},
                                         {KEY_KP1, 89},
                                         {KEY_KP2, 90},
                                         {KEY_KP3, 91},
                                         {KEY_KP4, 92},
                                         {KEY_KP5, 93},
                                         {KEY_KP6, 94},
                                         {KEY_KP7, 95},
                                         {KEY_KP8, 96},
                                         {KEY_KP9, 97},
                                         {KEY_KP0, 98},
                                         {KEY_KPDOT, 99},
                                         {KEY_102ND, 100},
                                         {KEY_COMPOSE, 101},
                                         {KEY_POWER, 102},
                                         {KEY_KPEQUAL, 103},
                                         {KEY_F13, 104},
                                         {KEY_F14, 105},
                                         {KEY_F15, 106},
                                         {KEY_F16, 107},
                                         {KEY_F17, 108},
                                         {KEY_F18, 109},
                                         {KEY_F19, 110},
                                         {KEY_F20, 111},
                                         {KEY_F21, 112},
                                         {KEY_F22, 113},
                                         {KEY_F23, 114},
                                         {KEY_F24, 115},
                                         {KEY_OPEN, 116},
                                         {KEY_HELP, 117},
                                         {KEY_PROPS, 118},
                                         {KEY_MENU, 118},
                                         {KEY_FRONT, 119},
                                         {KEY_STOP, 120},
                                         {KEY_AGAIN, 121},
                                         {KEY_UNDO, 122},
                                         {KEY_CUT, 123},
                                         {KEY_COPY, 124},
                                         {KEY_PASTE, 125},
                                         {KEY_FIND, 126},
                                         {KEY_MUTE, 127},
                                         {KEY_VOLUMEUP, 128},
                                         {KEY_VOLUMEDOWN, 129},
                                         {KEY_KPCOMMA, 133},
                                         {KEY_RO, 135},
                                         {KEY_KATAKANAHIRAGANA, 136},
                                         {KEY_YEN, 137},
                                         {KEY_HENKAN, 138},
                                         {KEY_MUHENKAN, 139},
                                         {KEY_HANGEUL, 144},
                                         {KEY_HANJA, 145},
                                         {KEY_LEFTCTRL, 224},
                                         {KEY_LEFTSHIFT, 225},
                                         {KEY_LEFTALT, 226},
                                         {KEY_LEFTMETA, 227},
                                         {KEY_RIGHTCTRL, 228},
                                         {KEY_RIGHTSHIFT, 229},
                                         {KEY_RIGHTALT, 230},
                                         {KEY_RIGHTMETA, 231}};
u8 usage_of(u16 code) {
  const auto at = std::ranges::find(usages, code, &std::pair<u16, u8>::first);
  return at == std::end(usages) ? 0 : at->second;
}
}  // namespace

class UsbKeyboard final : public UsbHid {
 public:
  static const TypeInfo type;
  std::string_view product() const override { return "QEMU USB Keyboard"; }

 protected:
  Result<> realize_usb() override {
    face_.emplace(*this);
    return {};
  }
  Task<> unrealize_usb() override {
    face_.reset();
    co_return co_await UsbHid::unrealize_usb();
  }
  const Descriptors& descriptors() const override {
    static constexpr Descriptors d{.vendor = 0x0627,
                                   .product = 0x0001,
                                   .manufacturer = "QEMU",
                                   .name = "QEMU USB Keyboard",
                                   .serial = "68284",
                                   .configuration = "HID Keyboard",
                                   .name_string = 4,
                                   .serial_string = 11,
                                   .configuration_string = 8,
                                   .high = configuration_of<keyboard_high>,
                                   .full = configuration_of<keyboard_full>};
    return d;
  }
  std::span<const u8> report_descriptor() const override { return keyboard_report; }
  std::span<const u8> hid_descriptor() const override { return hid_part_of<keyboard_full>; }
  void forget() override {
    waiting_.clear(), down_.clear();
    modifiers_ = lights_ = 0;
    if (face_) face_->forget();
  }
  std::optional<Report> next_report() override {
    if (waiting_.empty()) return std::nullopt;
    const auto [usage, down] = waiting_.front();
    waiting_.pop_front();
    if (usage >= 0xe0) {
      const u8 bit = static_cast<u8>(1 << (usage - 0xe0));
      modifiers_ = static_cast<u8>(down ? modifiers_ | bit : modifiers_ & ~bit);
    } else if (down) {
      if (std::ranges::find(down_, usage) == down_.end() && down_.size() < most_down) down_.push_back(usage);
    } else {
      std::erase(down_, usage);
    }
    return current_report();
  }
  Report current_report() const override {
    Report r{{modifiers_}, 8};
    for (usize i = 0; i < 6; i++) r.bytes[2 + i] = down_.size() > 6 ? u_rollover : i < down_.size() ? down_[i] : 0;
    return r;
  }
  void output_report(std::span<const u8> bytes) override {
    if (!bytes.empty()) lights_ = bytes[0] & 0x1f;
  }

 private:
  static const Field properties[], state[];
  static constexpr usize most_down = 16;
  struct Face final : ui::Keyboard {
    explicit Face(UsbKeyboard& owner) : Keyboard(owner.time_domain()), owner(owner) {}
    bool ready() const override { return owner.configuration() != 0; }
    void key(u16 code, bool down) override { owner.press(code, down); }
    UsbKeyboard& owner;
  };
  void press(u16 code, bool down) {
    const u8 usage = usage_of(code);
    if (!usage || !configuration() || waiting_.size() >= most_waiting) return;
    waiting_.emplace_back(usage, down);
    news();
  }
  std::vector<u32> keys() const {
    std::vector<u32> w{modifiers_, lights_, static_cast<u32>(down_.size())};
    w.insert(w.end(), down_.begin(), down_.end());
    for (const auto& [usage, down] : waiting_) w.push_back(u32{usage} | (down ? 0x100u : 0));
    return w;
  }
  Result<> load_keys(const std::vector<u32>& w) {
    if (w.size() < 3 || w[2] > most_down || w.size() < 3 + w[2] || w.size() - 3 - w[2] > most_waiting)
      return fail("{} values of a keyboard's keys", w.size());
    modifiers_ = static_cast<u8>(w[0]), lights_ = static_cast<u8>(w[1]);
    down_.clear(), waiting_.clear();
    for (usize i = 3; i < w.size(); i++)
      if (i < 3 + w[2])
        down_.push_back(static_cast<u8>(w[i]));
      else
        waiting_.emplace_back(static_cast<u8>(w[i]), (w[i] & 0x100) != 0);
    return {};
  }

  u8 modifiers_ = 0, lights_ = 0;
  std::vector<u8> down_;
  std::deque<std::pair<u8, bool>> waiting_;
  std::optional<Face> face_;
};
constexpr Field UsbKeyboard::state[] = {
    computed<&UsbKeyboard::keys, &UsbKeyboard::load_keys>("keys", "modifiers, lights, keys that are down, keys that wait"),
};
constinit const TypeInfo UsbKeyboard::type{.name = "usb-kbd",
                                           .doc = "A USB keyboard.",
                                           .parent = &UsbHid::type,
                                           .state = state,
                                           .make = make<UsbKeyboard>,
                                           .category = "Input devices"};
static Registered registered_keyboard{UsbKeyboard::type};

}  // namespace vmm::hw
