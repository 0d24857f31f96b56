#include "src/value/value.h"

namespace vmm {

std::string_view Value::type_name() const {
  if (is_null()) return "null";
  if (is_bool()) return "boolean";
  if (is_int()) return "integer";
  if (is_double()) return "number";
  if (is_string()) return "string";
  if (is_list()) return "array";
  if (is_object()) return "object";
  return "bytes";
}

namespace {
std::unexpected<Error> wrong_type(std::string_view what, std::string_view expected) {
  return fail("Invalid parameter type for '{}', expected: {}", what, expected);
}
}  // namespace

Result<bool> Value::as_bool(std::string_view what) const {
  if (!is_bool()) return wrong_type(what, "boolean");
  return get_bool();
}
Result<i64> Value::as_i64(std::string_view what) const {
  if (const i64* v = std::get_if<i64>(&v_)) return *v;
  if (const u64* v = std::get_if<u64>(&v_)) return fail("'{}' takes at most {}, not {}", what, INT64_MAX, *v);
  return wrong_type(what, "integer");
}
Result<u64> Value::as_u64(std::string_view what) const {
  if (const u64* v = std::get_if<u64>(&v_)) return *v;
  if (const i64* v = std::get_if<i64>(&v_)) {
    if (*v < 0) return fail("'{}' takes no negative number, not {}", what, *v);
    return static_cast<u64>(*v);
  }
  return wrong_type(what, "integer");
}
Result<double> Value::as_double(std::string_view what) const {
  if (const double* v = std::get_if<double>(&v_)) return *v;
  if (const i64* v = std::get_if<i64>(&v_)) return static_cast<double>(*v);
  if (const u64* v = std::get_if<u64>(&v_)) return static_cast<double>(*v);
  return wrong_type(what, "number");
}
Result<std::string> Value::as_string(std::string_view what) const {
  if (!is_string()) return wrong_type(what, "string");
  return get_string();
}

const Value* Value::find(std::string_view name) const {
  if (const Members* all = std::get_if<Members>(&v_))
    for (const Member& m : *all)
      if (m.first == name) return &m.second;
  return nullptr;
}
Value& Value::set(std::string name, Value value) {
  if (!is_object()) v_ = Members{};
  for (Member& m : members())
    if (m.first == name) return m.second = std::move(value), *this;
  members().emplace_back(std::move(name), std::move(value));
  return *this;
}
Value& Value::append(Value value) {
  if (!is_list()) v_ = List{};
  items().push_back(std::move(value));
  return *this;
}
bool Value::erase(std::string_view name) {
  if (Members* all = std::get_if<Members>(&v_)) return std::erase_if(*all, [&](const Member& m) { return m.first == name; }) > 0;
  return false;
}

}  // namespace vmm
