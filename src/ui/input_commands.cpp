// send-key and sendkey. Source: contract.md §2.5.
#include <algorithm>

#include "src/control/command.h"
#include "src/ui/input.h"

namespace vmm {
namespace ui {
enum class KeyKind { number, qcode };
struct KeyValue {
  KeyKind type = KeyKind::qcode;
  Value data;
};
struct SendKeyArgs {
  std::vector<KeyValue> keys;
  std::optional<i64> hold_time;
};
constexpr i64 longest_hold_ms = 60'000;
constexpr usize most_keys = 16;
}  // namespace ui
template <>
inline constexpr std::array enum_names<ui::KeyKind> = {EnumNameOf<ui::KeyKind>{ui::KeyKind::number, "number"},
                                                       EnumNameOf<ui::KeyKind>{ui::KeyKind::qcode, "qcode"}};
template <>
inline constexpr std::array fields<ui::KeyValue> = {
    field<&ui::KeyValue::type>("type", "How the key is named."),
    field<&ui::KeyValue::data>("data", "Its scan code in set 1 (bit 7 for those after 0xe0), or its name."),
};
template <>
inline constexpr std::array fields<ui::SendKeyArgs> = {
    field<&ui::SendKeyArgs::keys>("keys", "Keys that are pressed together."),
    field<&ui::SendKeyArgs::hold_time>("hold-time", "Milliseconds until they are released; 100 if absent.",
                                       {.min = 0, .max = ui::longest_hold_ms}),
};

namespace ui {
static Result<> press(const std::vector<u16>& codes, std::optional<i64> hold_ms) {
  if (codes.size() > most_keys) return fail("Too many keys: at most {} are pressed together", most_keys);
  Keyboard* keyboard = current_keyboard();
  if (!keyboard) return fail("There is no keyboard");
  return keyboard->type(codes, std::chrono::milliseconds{hold_ms.value_or(100)});
}

static Result<u16> code_of(const KeyValue& key, std::string_view member) {
  u16 code = 0;
  if (key.type == KeyKind::qcode && key.data.is_string())
    code = key_by_name(key.data.get_string());
  else if (key.type == KeyKind::number && key.data.is_int())
    code = key_by_number(TRY(key.data.as_u64("data")));
  else
    return fail("Invalid parameter type for '{}.data', expected: {}", member, key.type == KeyKind::qcode ? "string" : "integer");
  if (!code) return fail("Parameter '{}.data' does not accept value '{}'", member, to_json(key.data).substr(0, 100));
  return code;
}
Result<u16> key_of_value(const Value& value, std::string_view member) {
  KeyValue key;
  TRY(assign_fields(&key, fields<KeyValue>, value));
  return code_of(key, member);
}

static Result<> send_key(control::Context&, const SendKeyArgs& args) {
  std::vector<u16> codes;
  for (const KeyValue& key : args.keys) codes.push_back(TRY(code_of(key, format("keys[{}]", codes.size()))));
  return press(codes, args.hold_time);
}
static control::Registered registered_send_key{
    control::command<send_key>({.name = "send-key", .doc = "Types keys on the guest's keyboard.", .since = "1.3"})};

// "ctrl-alt-f1", "0x1e-spc", "<" as people type it.
static Result<std::string> sendkey(control::Context&, std::span<const std::string> words) {
  if (words.empty() || words.size() > 2) return fail("Usage: sendkey keys [hold_ms]");
  std::vector<u16> codes;
  std::string_view rest = words[0];
  while (!rest.empty()) {
    const auto name = rest.substr(0, rest.find('-', 1));
    rest.remove_prefix(std::min(name.size() + 1, rest.size()));
    u16 code = key_by_name(name == "<" ? "less" : name);
    if (!code && name.starts_with("0x")) code = key_by_number(std::strtoull(std::string{name}.c_str(), nullptr, 16));
    if (!code) return fail("invalid parameter: {}", name);
    codes.push_back(code);
  }
  std::optional<i64> hold;
  if (words.size() == 2) {
    char* end = nullptr;
    hold = std::strtoll(words[1].c_str(), &end, 0);
    if (*end || *hold < 0 || *hold > longest_hold_ms) return fail("'hold_ms' takes 0 to {}, not {}", longest_hold_ms, words[1]);
  }
  TRY(press(codes, hold));
  return std::string{};
}
static control::Registered registered_sendkey{control::human<sendkey>(
    {.human = "sendkey", .human_help = "sendkey keys [hold_ms] -- type keys ('sendkey ctrl-alt-f1'; they go up after 100 ms)"})};
}  // namespace ui
}  // namespace vmm
