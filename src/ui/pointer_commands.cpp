// input-send-event, and what monitors say of mice. Source: contract.md §2.5, QMP's InputEvent.
#include <algorithm>
#include <charconv>

#include "src/control/command.h"
#include "src/ui/input.h"
#include "src/ui/pointer.h"
#include "src/ui/screen.h"

namespace vmm {
namespace ui {
enum class EventKind { key, btn, rel, abs, mtt };
enum class Axis { x, y };
struct InputEvent {
  EventKind type = EventKind::key;
  Value data;
};
struct InputSendEventArgs {
  std::optional<std::string> device;
  std::optional<i64> head;
  std::vector<InputEvent> events;
};
struct MouseInfo {
  std::string name;
  i64 index = 0;
  bool current = false, absolute = false;
};
struct ButtonEvent {
  Button button = Button::left;
  bool down = false;
};
struct MoveEvent {
  Axis axis = Axis::x;
  i64 value = 0;
};
struct KeyEvent {
  Value key;
  bool down = false;
};
}  // namespace ui
template <>
inline constexpr std::array enum_names<ui::EventKind> = {
    EnumNameOf<ui::EventKind>{ui::EventKind::key, "key"}, EnumNameOf<ui::EventKind>{ui::EventKind::btn, "btn"},
    EnumNameOf<ui::EventKind>{ui::EventKind::rel, "rel"}, EnumNameOf<ui::EventKind>{ui::EventKind::abs, "abs"},
    EnumNameOf<ui::EventKind>{ui::EventKind::mtt, "mtt"}};
template <>
inline constexpr std::array enum_names<ui::Axis> = {EnumNameOf<ui::Axis>{ui::Axis::x, "x"}, EnumNameOf<ui::Axis>{ui::Axis::y, "y"}};
template <>
inline constexpr std::array enum_names<ui::Button> = {EnumNameOf<ui::Button>{ui::Button::left, "left"},
                                                      EnumNameOf<ui::Button>{ui::Button::middle, "middle"},
                                                      EnumNameOf<ui::Button>{ui::Button::right, "right"},
                                                      EnumNameOf<ui::Button>{ui::Button::wheel_up, "wheel-up"},
                                                      EnumNameOf<ui::Button>{ui::Button::wheel_down, "wheel-down"},
                                                      EnumNameOf<ui::Button>{ui::Button::side, "side"},
                                                      EnumNameOf<ui::Button>{ui::Button::extra, "extra"},
                                                      EnumNameOf<ui::Button>{ui::Button::wheel_left, "wheel-left"},
                                                      EnumNameOf<ui::Button>{ui::Button::wheel_right, "wheel-right"},
                                                      EnumNameOf<ui::Button>{ui::Button::touch, "touch"}};
template <>
inline constexpr std::array fields<ui::InputEvent> = {
    field<&ui::InputEvent::type>("type", "What happens."),
    field<&ui::InputEvent::data>("data", "Its particulars: a key, a button, or an axis and a value."),
};
template <>
inline constexpr std::array fields<ui::InputSendEventArgs> = {
    field<&ui::InputSendEventArgs::device>("device", "Display device that the input is for."),
    field<&ui::InputSendEventArgs::head>("head", "Head of that device.", {.min = 0}),
    field<&ui::InputSendEventArgs::events>("events", "What happens, all at once."),
};
template <>
inline constexpr std::array fields<ui::MouseInfo> = {
    field<&ui::MouseInfo::name>("name", "The device."),
    field<&ui::MouseInfo::index>("index", "Its number."),
    field<&ui::MouseInfo::current>("current", "It is the one in use."),
    field<&ui::MouseInfo::absolute>("absolute", "It is placed, not moved."),
};
template <>
inline constexpr std::array fields<ui::ButtonEvent> = {
    field<&ui::ButtonEvent::button>("button", "Which."),
    field<&ui::ButtonEvent::down>("down", "Pressed, or released."),
};
template <>
inline constexpr std::array fields<ui::MoveEvent> = {
    field<&ui::MoveEvent::axis>("axis", "x or y."),
    field<&ui::MoveEvent::value>("value", "How far, or where (0 to 0x7fff)."),
};
template <>
inline constexpr std::array fields<ui::KeyEvent> = {
    field<&ui::KeyEvent::key>("key", "As for send-key."),
    field<&ui::KeyEvent::down>("down", "Pressed, or released."),
};

namespace ui {

namespace {
constexpr usize most_events = 1024;

// One checked event, ready to be carried out.
struct Ready {
  EventKind kind;
  u16 code = 0;
  ButtonEvent button;
  MoveEvent move;
  bool down = false;
};

Result<Ready> check(const InputEvent& event) {
  Ready out{.kind = event.type};
  switch (event.type) {
    case EventKind::key: {
      KeyEvent key;
      TRY(assign_fields(&key, fields<KeyEvent>, event.data));
      out.code = TRY(key_of_value(key.key, "key"));
      out.down = key.down;
      return out;
    }
    case EventKind::btn: TRY(assign_fields(&out.button, fields<ButtonEvent>, event.data)); return out;
    case EventKind::rel:
    case EventKind::abs: TRY(assign_fields(&out.move, fields<MoveEvent>, event.data)); return out;
    case EventKind::mtt: break;
  }
  return fail("Input handler not found for event type mtt");
}

Pointer* any_pointer() { return current_pointer(); }
}  // namespace

static Result<> input_send_event(control::Context&, const InputSendEventArgs& args) {
  if (args.events.size() > most_events) return fail("Too many events: at most {} at once", most_events);
  if (args.device && !find_screen(*args.device)) return fail(ErrorClass::device_not_found, "Device '{}' not found", *args.device);
  std::vector<Ready> events;
  for (const InputEvent& event : args.events) {
    Ready ready = TRY(check(event));
    const bool there = ready.kind == EventKind::key   ? current_keyboard() != nullptr
                       : ready.kind == EventKind::btn ? any_pointer() != nullptr
                                                      : pointer_for(ready.kind == EventKind::abs) != nullptr;
    static constexpr std::string_view names[] = {"key", "btn", "rel", "abs", "mtt"};
    if (!there) return fail("Input handler not found for event type {}", names[static_cast<usize>(ready.kind)]);
    events.push_back(std::move(ready));
  }
  std::vector<Pointer*> touched;
  static unsigned last_x = Pointer::span / 2, last_y = Pointer::span / 2;  // an event names one axis
  const auto touch = [&](Pointer* p) -> Pointer& {
    if (std::ranges::find(touched, p) == touched.end()) touched.push_back(p);
    return *p;
  };
  for (const Ready& e : events) {
    switch (e.kind) {
      case EventKind::key: current_keyboard()->key(e.code, e.down); break;
      case EventKind::btn: touch(any_pointer()).button(e.button.button, e.button.down); break;
      case EventKind::rel: {
        const int by = static_cast<int>(std::clamp<i64>(e.move.value, -10'000, 10'000));
        touch(pointer_for(false)).move(e.move.axis == Axis::x ? by : 0, e.move.axis == Axis::y ? by : 0);
        break;
      }
      case EventKind::abs:
        (e.move.axis == Axis::x ? last_x : last_y) = static_cast<unsigned>(std::clamp<i64>(e.move.value, 0, Pointer::span));
        touch(pointer_for(true)).place(last_x, last_y);
        break;
      case EventKind::mtt: break;
    }
  }
  for (Pointer* p : touched) p->sync();
  return {};
}
static control::Registered registered_input_send_event{control::command<input_send_event>(
    {.name = "input-send-event", .doc = "Moves and presses the guest's keys and mice.", .since = "2.6"})};

static Result<std::vector<MouseInfo>> query_mice(control::Context&) {
  std::vector<MouseInfo> out;
  for (const Pointer* p : all_pointers())
    out.push_back(
        {.name = std::string{p->description()}, .index = p->number(), .current = p == current_pointer(), .absolute = p->absolute()});
  return out;
}
static std::string print_mice(const Value& answer) {
  std::string out;
  for (const Value& m : answer.items())
    out += format("{} Mouse #{}: {}{}\n", m.find("current")->get_bool() ? '*' : ' ', to_json(*m.find("index")),
                  m.find("name")->get_string(), m.find("absolute")->get_bool() ? " (absolute)" : "");
  return out.empty() ? "No mouse devices connected\n" : out;
}
static control::Registered registered_query_mice{
    control::command<query_mice>({.name = "query-mice",
                                  .doc = "The pointing devices.",
                                  .since = "0.14",
                                  .human = "info mice",
                                  .human_help = "info mice -- show which guest mouse is receiving events",
                                  .human_print = print_mice})};

static Result<int> number(std::span<const std::string> words, usize at, std::string_view name) {
  if (at >= words.size()) return fail("{}: an argument is missing", name);
  int value = 0;
  const std::string& text = words[at];
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size()) return fail("'{}' takes a number, not '{}'", name, text);
  return std::clamp(value, -10'000, 10'000);
}

static Result<std::string> mouse_move(control::Context&, std::span<const std::string> words) {
  const int dx = TRY(number(words, 0, "dx_str")), dy = TRY(number(words, 1, "dy_str"));
  const int dz = words.size() > 2 ? TRY(number(words, 2, "dz_str")) : 0;
  Pointer* const pointer = pointer_for(false);
  if (!pointer) return fail("There is no mouse");
  pointer->move(dx, dy);
  if (dz) {
    const Button wheel = dz > 0 ? Button::wheel_up : Button::wheel_down;
    pointer->button(wheel, true), pointer->button(wheel, false);
  }
  pointer->sync();
  return std::string{};
}
static Result<std::string> mouse_button(control::Context&, std::span<const std::string> words) {
  const int state = TRY(number(words, 0, "button_state"));
  Pointer* const pointer = any_pointer();
  if (!pointer) return fail("There is no mouse");
  for (const auto& [bit, button] : {std::pair{1, Button::left}, {2, Button::middle}, {4, Button::right}})
    pointer->button(button, state & bit);
  pointer->sync();
  return std::string{};
}
static Result<std::string> mouse_set(control::Context&, std::span<const std::string> words) {
  const int index = TRY(number(words, 0, "index"));
  for (Pointer* p : all_pointers())
    if (static_cast<int>(p->number()) == index) return use_pointer(*p), std::string{};
  return fail("Mouse at index '{}' not found", index);
}
static control::Registered registered_mouse[] = {
    control::Registered{
        control::human<mouse_move>({.human = "mouse_move", .human_help = "mouse_move dx dy [dz] -- send mouse move events"})},
    control::Registered{control::human<mouse_button>(
        {.human = "mouse_button", .human_help = "mouse_button state -- change mouse button state (1=L, 2=M, 4=R)"})},
    control::Registered{
        control::human<mouse_set>({.human = "mouse_set", .human_help = "mouse_set index -- set which mouse device receives events"})},
};

}  // namespace ui
}  // namespace vmm
