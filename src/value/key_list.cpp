#include "src/value/key_list.h"

#include <algorithm>

namespace vmm {

const std::string* KeyList::find(std::string_view key) const {
  for (auto it = entries.rbegin(); it != entries.rend(); ++it)
    if (it->key == key) return &it->value;
  return nullptr;
}
void KeyList::set(std::string key, std::string value) {
  std::erase_if(entries, [&](const KeyListEntry& e) { return e.key == key; });
  entries.push_back({std::move(key), std::move(value)});
}

namespace {
// Up to the next single comma, which is eaten; `,,` becomes one comma.
std::string take_value(std::string_view& text) {
  std::string out;
  while (!text.empty()) {
    const auto comma = text.find(',');
    out += text.substr(0, comma);
    if (comma == text.npos) {
      text = {};
      break;
    }
    text.remove_prefix(comma + 1);
    if (!text.starts_with(',')) break;
    out += ',';
    text.remove_prefix(1);
  }
  return out;
}
bool is_key(std::string_view key) {
  return !key.empty() && key.size() <= 127 && std::ranges::all_of(key, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view{"-_.+:"}.contains(c);
  });
}
}  // namespace

Result<KeyList> parse_key_list(std::string_view text, std::string_view implied) {
  KeyList list;
  for (bool first = true; !text.empty(); first = false) {
    const auto stop = text.find_first_of("=,");
    if (stop != text.npos && text[stop] == '=') {
      const std::string_view key = text.substr(0, stop);
      if (!is_key(key)) return fail("Invalid parameter '{}'", key);
      text.remove_prefix(stop + 1);
      list.entries.push_back({std::string{key}, take_value(text)});
      continue;
    }
    const bool lone_comma = text.starts_with(',') && !text.starts_with(",,");
    std::string word = take_value(text);
    if (word == "help" || word == "?") {
      list.help = true;
    } else if (first && !implied.empty()) {
      if (!lone_comma) list.entries.push_back({std::string{implied}, std::move(word)});
    } else if (!is_key(word)) {
      return fail("Expected 'key=value' instead of '{}'", word);
    } else if (word.starts_with("no") && word.size() > 2) {
      list.entries.push_back({word.substr(2), "off", true});
    } else {
      list.entries.push_back({std::move(word), "on", true});
    }
  }
  return list;
}

std::string print_key_list(const KeyList& list) {
  std::string out;
  for (const auto& e : list.entries) {
    if (!out.empty()) out += ',';
    out += e.key + '=';
    for (char c : e.value) {
      if (c == ',') out += ',';
      out += c;
    }
  }
  return out;
}

namespace {
bool is_index(std::string_view s) { return !s.empty() && s.size() <= 9 && s.find_first_not_of("0123456789") == s.npos; }

// Objects whose names are 0…n-1 are lists.
Result<> make_lists(Value& v, std::string_view prefix) {
  if (!v.is_object()) return {};
  for (auto& [name, member] : v.members()) TRY(make_lists(member, prefix.empty() ? name : format("{}.{}", prefix, name)));
  auto& members = v.members();
  const auto numbers = std::ranges::count_if(members, [](const Value::Member& m) { return is_index(m.first); });
  if (numbers == 0 || prefix.empty()) return {};
  if (static_cast<usize>(numbers) != members.size()) return fail("Parameters '{}.*' used inconsistently", prefix);
  Value::List items;
  for (usize i = 0; i < members.size(); i++) {
    Value* item = nullptr;
    for (auto& [name, member] : members)
      if (name == format("{}", i)) item = &member;
    if (!item) return fail("Parameter '{}.{}' is missing", prefix, i);
    items.push_back(std::move(*item));
  }
  v = Value{std::move(items)};
  return {};
}
}  // namespace

Result<Value> key_list_value(const KeyList& list, bool dotted) {
  Value out = Value::object();
  for (const auto& e : list.entries) {
    if (!dotted) {
      out.set(e.key, e.value);
      continue;
    }
    Value* at = &out;
    std::string_view rest = e.key;
    for (;;) {
      const auto dot = rest.find('.');
      const std::string part{rest.substr(0, dot)};
      if (part.empty()) return fail("Invalid parameter '{}'", e.key);
      Value* member = const_cast<Value*>(at->find(part));
      if (dot == rest.npos) {
        if (member && member->is_object()) return fail("Parameters '{}.*' used inconsistently", e.key);
        if (member)
          *member = e.value;
        else
          at->members().emplace_back(part, e.value);
        break;
      }
      if (!member) member = &at->members().emplace_back(part, Value::object()).second;
      if (!member->is_object()) return fail("Parameters '{}.*' used inconsistently", e.key.substr(0, e.key.size() - rest.size() + dot));
      at = member;
      rest.remove_prefix(dot + 1);
    }
  }
  TRY(make_lists(out, {}));
  return out;
}

Result<Value> parse_key_list_or_json(std::string_view text, std::string_view implied, bool dotted, bool* help) {
  if (text.starts_with('{')) {
    Value v = TRY(parse_json(text));
    if (!v.is_object()) return fail("expected a JSON object");
    return v;
  }
  const KeyList list = TRY(parse_key_list(text, implied));
  if (help) *help = list.help;
  return key_list_value(list, dotted);
}

}  // namespace vmm
