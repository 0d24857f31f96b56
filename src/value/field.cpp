#include "src/value/field.h"

#include <charconv>
#include <cmath>

#include "src/value/near.h"

namespace vmm {

const Field* find_field(std::span<const Field> table, std::string_view name) {
  for (const Field& f : table)
    if (f.name == name) return &f;
  return nullptr;
}

Result<> assign_fields(void* object, std::span<const Field> table, const Value& from, std::string_view prefix) {
  const auto full_name = [&](std::string_view name) { return prefix.empty() ? std::string{name} : format("{}.{}", prefix, name); };
  if (!from.is_object() && !from.is_null())
    return fail("Invalid parameter type for '{}', expected: object", prefix.empty() ? "arguments" : prefix);
  if (from.is_object())
    for (const auto& [name, value] : from.members())
      if (!find_field(table, name)) {
        std::vector<std::string> names;
        for (const Field& f : table) names.emplace_back(f.name);
        return std::unexpected(Error{format("Parameter '{}' is unexpected", full_name(name))}.with_hint(near_hint(name, names)));
      }
  for (const Field& f : table) {
    const Value* value = from.find(f.name);
    const std::string name = full_name(f.name);
    if (!value) {
      if (!f.options.optional) return fail("Parameter '{}' is missing", name);
      continue;
    }
    if (!f.set) return fail("Parameter '{}' is read-only", name);
    Field named = f;
    named.name = name;
    TRY(f.set(object, *value, named));
  }
  return {};
}

Value show_fields(const void* object, std::span<const Field> table) {
  Value out = Value::object();
  for (const Field& f : table) {
    if (!f.get) continue;
    Value v = f.get(object);
    if (f.options.optional && v.is_null()) continue;
    out.members().emplace_back(std::string{f.name}, std::move(v));
  }
  return out;
}

namespace codec_detail {
namespace {
struct Number {
  bool negative = false;
  u64 magnitude = 0;
  bool too_large = false;
};
// Decimal or 0x…, with a sign; nothing else around it.
std::optional<Number> parse_number(std::string_view text) {
  Number n;
  if (text.starts_with('-'))
    n.negative = true, text.remove_prefix(1);
  else if (text.starts_with('+'))
    text.remove_prefix(1);
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2), base = 16;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n.magnitude, base);
  if (ec == std::errc::invalid_argument || end != text.data() + text.size() || text.empty()) return {};
  n.too_large = ec == std::errc::result_out_of_range;
  return n;
}
std::string shown(const Value& v) {
  if (v.is_string()) return v.get_string().size() > 100 ? v.get_string().substr(0, 100) + "…" : v.get_string();
  return to_json(v);
}
template <class Low, class High>
std::unexpected<Error> out_of_range(std::string_view what, Low low, High high, const Value& v) {
  return fail("'{}' takes {} to {}, not {}", what, low, high, shown(v));
}
}  // namespace

Result<u64> parse_unsigned(const Value& v, std::string_view what, std::string_view, const FieldLimits& limits, u64 type_max) {
  const u64 low = limits.min > 0 ? static_cast<u64>(limits.min) : 0, high = std::min(limits.max, type_max);
  u64 n = 0;
  if (v.is_int()) {
    const auto u = v.as_u64(what);
    if (!u) return out_of_range(what, low, high, v);
    n = *u;
  } else if (v.is_string()) {
    const auto parsed = parse_number(v.get_string());
    if (!parsed) return fail("'{}' takes a number, not '{}'", what, shown(v));
    if (parsed->too_large || (parsed->negative && parsed->magnitude)) return out_of_range(what, low, high, v);
    n = parsed->magnitude;
  } else {
    return fail("Invalid parameter type for '{}', expected: integer", what);
  }
  if (n < low || n > high) return out_of_range(what, low, high, v);
  return n;
}

Result<i64> parse_signed(const Value& v, std::string_view what, std::string_view, const FieldLimits& limits, i64 type_min, i64 type_max) {
  const i64 low = std::max(limits.min, type_min);
  const i64 high = limits.max > static_cast<u64>(type_max) ? type_max : static_cast<i64>(limits.max);
  i64 n = 0;
  if (v.is_int()) {
    const auto s = v.as_i64(what);
    if (!s) return out_of_range(what, low, high, v);
    n = *s;
  } else if (v.is_string()) {
    const auto parsed = parse_number(v.get_string());
    if (!parsed) return fail("'{}' takes a number, not '{}'", what, shown(v));
    const u64 most = parsed->negative ? u64{1} << 63 : u64{INT64_MAX};
    if (parsed->too_large || parsed->magnitude > most) return out_of_range(what, low, high, v);
    n = static_cast<i64>(parsed->negative ? 0 - parsed->magnitude : parsed->magnitude);
  } else {
    return fail("Invalid parameter type for '{}', expected: integer", what);
  }
  if (n < low || n > high) return out_of_range(what, low, high, v);
  return n;
}

Result<bool> parse_bool(const Value& v, std::string_view what) {
  if (v.is_bool()) return v.get_bool();
  if (!v.is_string()) return fail("Invalid parameter type for '{}', expected: boolean", what);
  for (std::string_view yes : {"on", "yes", "true", "y"})
    if (v.get_string() == yes) return true;
  for (std::string_view no : {"off", "no", "false", "n"})
    if (v.get_string() == no) return false;
  return fail("'{}' takes 'on' or 'off', not '{}'", what, shown(v));
}

Result<u64> parse_size(const Value& v, std::string_view what, const FieldLimits& limits) {
  const u64 low = limits.min > 0 ? static_cast<u64>(limits.min) : 0;
  u64 n = 0;
  if (v.is_int()) {
    const auto u = v.as_u64(what);
    if (!u) return out_of_range(what, low, limits.max, v);
    n = *u;
  } else if (!v.is_string()) {
    return fail("Invalid parameter type for '{}', expected: integer", what);
  } else {
    const auto no_size = [&] { return fail("'{}' takes a size such as 512M, 1.5G or 0x100000, not '{}'", what, shown(v)); };
    std::string_view text = v.get_string();
    unsigned shift = 0;
    bool suffixed = false;
    const bool hex = text.starts_with("0x") || text.starts_with("0X");
    if (!text.empty() && !(hex && (text.back() == 'E' || text.back() == 'e' || text.back() == 'B' || text.back() == 'b'))) {
      const char last = text.back();
      const usize place = std::string_view{"bBkKmMgGtTpPeE"}.find(last);
      if (place != std::string_view::npos) {
        shift = 10 * static_cast<unsigned>(place / 2);
        suffixed = true;
        text.remove_suffix(1);
      }
    }
    u128 exact = 0;
    if (const auto dot = text.find('.'); dot != text.npos) {
      if (!suffixed || shift == 0 || hex) return no_size();
      // Whole part and fraction apart, so that no precision is lost.
      const std::string_view whole = text.substr(0, dot), fraction = text.substr(dot + 1);
      const auto digits = [](std::string_view s) { return std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; }); };
      if (!digits(whole) || !digits(fraction) || (whole.empty() && fraction.empty()) || fraction.size() > 18) return no_size();
      const auto w = whole.empty() ? Number{} : parse_number(whole).value_or(Number{.too_large = true});
      if (w.too_large) return out_of_range(what, low, limits.max, v);
      exact = u128{w.magnitude} << shift;
      if (!fraction.empty()) {
        u128 scale = 1;
        for (usize i = 0; i < fraction.size(); i++) scale *= 10;
        exact += (u128{parse_number(fraction)->magnitude} << shift) / scale;
      }
    } else {
      const auto parsed = parse_number(text);
      if (!parsed || text.starts_with('+')) return no_size();
      if (parsed->too_large || (parsed->negative && parsed->magnitude)) return out_of_range(what, low, limits.max, v);
      exact = u128{parsed->magnitude} << shift;
    }
    if (exact > limits.max) return out_of_range(what, low, limits.max, v);
    n = static_cast<u64>(exact);
  }
  if (n < low || n > limits.max) return out_of_range(what, low, limits.max, v);
  return n;
}

Result<usize> parse_enum(const Value& v, std::string_view what, std::span<const std::string_view> names) {
  if (!v.is_string()) return fail("Invalid parameter type for '{}', expected: string", what);
  for (usize i = 0; i < names.size(); i++)
    if (names[i] == v.get_string()) return i;
  std::string valid;
  for (std::string_view name : names) valid += format("{}{}", valid.empty() ? "" : ", ", name);
  return std::unexpected(
      Error{format("Parameter '{}' does not accept value '{}'", what, shown(v))}.with_hint(format("Valid values: {}", valid)));
}
}  // namespace codec_detail

}  // namespace vmm
