// Value: what JSON can say (RFC 8259), plus raw bytes for migrated state. Members of an object keep their order.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {

class Value {
 public:
  struct Null {
    friend bool operator==(Null, Null) = default;
  };
  using List = std::vector<Value>;
  using Member = std::pair<std::string, Value>;
  using Members = std::vector<Member>;  // in order; names are unique
  using Bytes = std::vector<u8>;

  Value() = default;
  Value(bool v) : v_(v) {}
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  Value(T v) {
    if constexpr (std::signed_integral<T>)
      v_ = i64{v};
    else if (u64{v} <= u64{INT64_MAX})
      v_ = static_cast<i64>(v);
    else
      v_ = u64{v};
  }
  Value(double v) : v_(v) {}
  Value(const char* v) : v_(std::string{v}) {}
  Value(std::string_view v) : v_(std::string{v}) {}
  Value(std::string v) : v_(std::move(v)) {}
  Value(List v) : v_(std::move(v)) {}
  Value(Members v) : v_(std::move(v)) {}
  Value(Bytes v) : v_(std::move(v)) {}
  static Value object() { return Value{Members{}}; }
  static Value list() { return Value{List{}}; }

  bool is_null() const { return std::holds_alternative<Null>(v_); }
  bool is_bool() const { return std::holds_alternative<bool>(v_); }
  bool is_int() const { return std::holds_alternative<i64>(v_) || std::holds_alternative<u64>(v_); }
  bool is_double() const { return std::holds_alternative<double>(v_); }
  bool is_string() const { return std::holds_alternative<std::string>(v_); }
  bool is_list() const { return std::holds_alternative<List>(v_); }
  bool is_object() const { return std::holds_alternative<Members>(v_); }
  bool is_bytes() const { return std::holds_alternative<Bytes>(v_); }
  std::string_view type_name() const;  // "null" "boolean" "integer" "number" "string" "array" "object"

  // Checked reads; `what` names the thing in the message ("Invalid parameter type for 'x', expected: integer").
  Result<bool> as_bool(std::string_view what) const;
  Result<i64> as_i64(std::string_view what) const;
  Result<u64> as_u64(std::string_view what) const;
  Result<double> as_double(std::string_view what) const;
  Result<std::string> as_string(std::string_view what) const;

  // Unchecked access for values whose type was looked at.
  bool get_bool() const { return std::get<bool>(v_); }
  const std::string& get_string() const { return std::get<std::string>(v_); }
  const List& items() const { return std::get<List>(v_); }
  List& items() { return std::get<List>(v_); }
  const Members& members() const { return std::get<Members>(v_); }
  Members& members() { return std::get<Members>(v_); }
  const Bytes& bytes() const { return std::get<Bytes>(v_); }

  const Value* find(std::string_view name) const;  // null unless an object with that member
  Value& set(std::string name, Value value);       // adds or replaces; returns *this
  Value& append(Value value);                      // to a list; returns *this
  bool erase(std::string_view name);

  friend bool operator==(const Value&, const Value&) = default;

 private:
  std::variant<Null, bool, i64, u64, double, std::string, List, Members, Bytes> v_;
};

// Limits of what a peer may send (safety.md §2).
struct JsonLimits {
  usize depth = 1024;
  usize string_bytes = 16 * MiB;
  usize message_bytes = 64 * MiB;
};
// Exactly one value with only white space around it. Errors name the byte.
Result<Value> parse_json(std::string_view text, const JsonLimits& limits = {});
std::string to_json(const Value& value, bool pretty = false);

// Cuts a byte stream into JSON values; newlines mean nothing, values may be split or joined in any way.
class JsonStream {
 public:
  explicit JsonStream(JsonLimits limits = {}) : limits_(limits) {}
  // Feeds bytes; calls `found` with each complete value or with an error (the stream then starts afresh at the next value).
  template <class F>
  void feed(std::string_view bytes, F found) {
    for (char c : bytes) {
      if (scalar_ && ends_scalar(c)) found(take());
      if (step(c)) found(take());
    }
  }
  // The stream has ended: what is left, if anything, is a value or an error.
  template <class F>
  void finish(F found) {
    if (!idle()) found(take());
  }
  bool idle() const { return text_.empty() && error_.empty(); }

 private:
  static bool ends_scalar(char c);
  bool step(char c);  // true: a value is complete or broken
  bool broken(std::string_view why, bool skip);
  Result<Value> take();
  JsonLimits limits_;
  std::string text_;
  std::string error_;  // why the value at hand cannot be one
  usize depth_ = 0, string_bytes_ = 0;
  char quote_ = 0;  // inside a string: the character that ends it
  bool escape_ = false, scalar_ = false;
  bool skipping_ = false;  // past the limits: until the brackets close or the line ends
};

}  // namespace vmm
