// Field: how one C++ member is shown, read, set, migrated and described. The one idea behind properties, migrated state, command
// arguments, block and net options. A Codec says how a C++ type becomes a Value; a Field binds it to a member.
#pragma once

#include <array>
#include <limits>
#include <optional>
#include <span>

#include "src/value/value.h"

namespace vmm {

// For enumerations: template <> inline constexpr std::array enum_names<Policy> = {EnumName{Policy::report, "report"}, …};
template <class E>
struct EnumNameOf {
  E value;
  std::string_view name;
};
template <class E>
inline constexpr std::array<EnumNameOf<E>, 0> enum_names{};

struct Field;
// What is known of a type without an object of it: introspection, help texts, schema.
struct TypeDescription {
  std::string_view name;  // as users see it: "uint32", "bool", "str", "size", "OnOffAuto"
  enum class Kind : u8 { boolean, integer, number, string, enumeration, list, structure, any } kind = Kind::any;
  std::span<const std::string_view> (*values)() = nullptr;  // enumeration
  std::span<const Field> (*fields)() = nullptr;             // structure
  const TypeDescription* (*element)() = nullptr;            // list
  bool is_unsigned = false;
};

// Ranges and other facts that a Field adds to its type.
struct FieldLimits {
  i64 min = std::numeric_limits<i64>::min();
  u64 max = std::numeric_limits<u64>::max();
};

// Specialise for each type that may be a field:
//   static const TypeDescription description;
//   static Value to_value(const T&);
//   static Result<> from_value(T&, const Value&, std::string_view what, const FieldLimits&);   // also accepts strings as users type them
template <class T>
struct Codec;

struct FieldOptions {
  i64 min = std::numeric_limits<i64>::min();
  u64 max = std::numeric_limits<u64>::max();
  bool live = false;  // property may be set after realize
  bool read_only = false;
  bool optional = false;                         // command argument that may be absent (also implied by std::optional)
  bool hidden = false;                           // not in help texts
  unsigned since = 1;                            // state version that brought the field
  bool (*needed)(const void* object) = nullptr;  // state: saved only if true
  Result<> (*check)(void* object) = nullptr;     // state: after all fields are parsed, before they count
  void (*changed)(void* object) = nullptr;       // property: after a set on a live object
};

// `object` is the address of the class's FieldRoot (Object for everything in the tree), else of the struct itself.
struct Field {
  std::string_view name, doc;
  const TypeDescription* type = nullptr;
  Value (*get)(const void* object) = nullptr;
  Result<> (*set)(void* object, const Value& value, const Field& field) = nullptr;
  FieldOptions options{};
};

template <class C>
struct FieldRootOf {
  using type = C;
};
template <class C>
  requires requires { typename C::FieldRoot; }
struct FieldRootOf<C> {
  using type = typename C::FieldRoot;
};

template <class M>
struct MemberOf;
template <class C, class T>
struct MemberOf<T C::*> {
  using Class = C;
  using Type = T;
};
template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

template <auto Member>
constexpr Field field(std::string_view name, std::string_view doc, FieldOptions options = {}) {
  using C = typename MemberOf<decltype(Member)>::Class;
  using T = typename MemberOf<decltype(Member)>::Type;
  using Root = typename FieldRootOf<C>::type;
  if constexpr (is_optional<T>) options.optional = true;
  return Field{
      .name = name,
      .doc = doc,
      .type = &Codec<T>::description,
      .get = [](const void* o) -> Value { return Codec<T>::to_value(static_cast<const C*>(static_cast<const Root*>(o))->*Member); },
      .set = [](void* o, const Value& v, const Field& f) -> Result<> {
        return Codec<T>::from_value(static_cast<C*>(static_cast<Root*>(o))->*Member, v, f.name, FieldLimits{f.options.min, f.options.max});
      },
      .options = options};
}
// A computed property: get is `T C::f() const`, set (optional, nullptr) is `Result<> C::f(const T&)`.
template <auto Get, auto Set = nullptr, class C, class T>
constexpr Field computed_of(std::string_view name, std::string_view doc, FieldOptions options, T (C::*)() const) {
  using Root = typename FieldRootOf<C>::type;
  Field f{.name = name,
          .doc = doc,
          .type = &Codec<T>::description,
          .get = [](const void* o) -> Value { return Codec<T>::to_value((static_cast<const C*>(static_cast<const Root*>(o))->*Get)()); },
          .options = options};
  if constexpr (!std::is_same_v<decltype(Set), std::nullptr_t>) {
    f.set = [](void* o, const Value& v, const Field& field) -> Result<> {
      T value{};
      TRY(Codec<T>::from_value(value, v, field.name, FieldLimits{field.options.min, field.options.max}));
      return (static_cast<C*>(static_cast<Root*>(o))->*Set)(value);
    };
  } else {
    f.options.read_only = true;
  }
  return f;
}
template <auto Get, auto Set = nullptr>
constexpr Field computed(std::string_view name, std::string_view doc, FieldOptions options = {}) {
  return computed_of<Get, Set>(name, doc, options, Get);
}

// For structs that are command arguments, answers, options: template <> inline constexpr std::array fields<Args> = {field<…>(…), …};
template <class T>
inline constexpr std::array<Field, 0> fields{};
template <class T>
inline constexpr bool has_fields = !fields<T>.empty();

// Assigns members of `object` by `table` from a Value of kind object. Unknown members: "Parameter 'x' is unexpected"; missing ones:
// "Parameter 'x' is missing". Nested names are joined by dots in messages.
Result<> assign_fields(void* object, std::span<const Field> table, const Value& from, std::string_view prefix = {});
Value show_fields(const void* object, std::span<const Field> table);  // absent optionals are left out
const Field* find_field(std::span<const Field> table, std::string_view name);

// --- Codecs of the plain types --------------------------------------------------------------------------------------------------
namespace codec_detail {
Result<u64> parse_unsigned(const Value& v, std::string_view what, std::string_view type, const FieldLimits& limits, u64 type_max);
Result<i64> parse_signed(const Value& v, std::string_view what, std::string_view type, const FieldLimits& limits, i64 type_min,
                         i64 type_max);
Result<bool> parse_bool(const Value& v, std::string_view what);  // on off yes no true false y n, or a JSON boolean
Result<u64> parse_size(const Value& v, std::string_view what, const FieldLimits& limits);  // 1.5G
Result<usize> parse_enum(const Value& v, std::string_view what, std::span<const std::string_view> names);
template <class E>
std::span<const std::string_view> names_of() {
  static constexpr auto names = [] {
    std::array<std::string_view, enum_names<E>.size()> n{};
    for (usize i = 0; i < n.size(); i++) n[i] = enum_names<E>[i].name;
    return n;
  }();
  return names;
}
}  // namespace codec_detail

template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>)
struct Codec<T> {
  static constexpr TypeDescription description{.name = sizeof(T) == 1   ? "uint8"
                                                       : sizeof(T) == 2 ? "uint16"
                                                       : sizeof(T) == 4 ? "uint32"
                                                                        : "uint64",
                                               .kind = TypeDescription::Kind::integer,
                                               .is_unsigned = true};
  static Value to_value(const T& v) { return Value{v}; }
  static Result<> from_value(T& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    to = static_cast<T>(TRY(codec_detail::parse_unsigned(v, what, description.name, limits, std::numeric_limits<T>::max())));
    return {};
  }
};
template <std::signed_integral T>
struct Codec<T> {
  static constexpr TypeDescription description{.name = sizeof(T) == 1   ? "int8"
                                                       : sizeof(T) == 2 ? "int16"
                                                       : sizeof(T) == 4 ? "int32"
                                                                        : "int",
                                               .kind = TypeDescription::Kind::integer};
  static Value to_value(const T& v) { return Value{v}; }
  static Result<> from_value(T& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    to = static_cast<T>(
        TRY(codec_detail::parse_signed(v, what, description.name, limits, std::numeric_limits<T>::min(), std::numeric_limits<T>::max())));
    return {};
  }
};
template <>
struct Codec<bool> {
  static constexpr TypeDescription description{.name = "bool", .kind = TypeDescription::Kind::boolean};
  static Value to_value(const bool& v) { return Value{v}; }
  static Result<> from_value(bool& to, const Value& v, std::string_view what, const FieldLimits&) {
    to = TRY(codec_detail::parse_bool(v, what));
    return {};
  }
};
template <>
struct Codec<double> {
  static constexpr TypeDescription description{.name = "number", .kind = TypeDescription::Kind::number};
  static Value to_value(const double& v) { return Value{v}; }
  static Result<> from_value(double& to, const Value& v, std::string_view what, const FieldLimits&) {
    to = TRY(v.as_double(what));
    return {};
  }
};
template <>
struct Codec<std::string> {
  static constexpr TypeDescription description{.name = "str", .kind = TypeDescription::Kind::string};
  static Value to_value(const std::string& v) { return Value{v}; }
  static Result<> from_value(std::string& to, const Value& v, std::string_view what, const FieldLimits&) {
    to = TRY(v.as_string(what));
    return {};
  }
};
template <>
struct Codec<Value> {
  static constexpr TypeDescription description{.name = "any", .kind = TypeDescription::Kind::any};
  static Value to_value(const Value& v) { return v; }
  static Result<> from_value(Value& to, const Value& v, std::string_view, const FieldLimits&) {
    to = v;
    return {};
  }
};
// A number of bytes, typed with a suffix by users.
struct Bytes64 {
  u64 value = 0;
  constexpr operator u64() const { return value; }
};
template <>
struct Codec<Bytes64> {
  static constexpr TypeDescription description{.name = "size", .kind = TypeDescription::Kind::integer, .is_unsigned = true};
  static Value to_value(const Bytes64& v) { return Value{v.value}; }
  static Result<> from_value(Bytes64& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    to.value = TRY(codec_detail::parse_size(v, what, limits));
    return {};
  }
};
template <class E>
  requires std::is_enum_v<E>
struct Codec<E> {
  static constexpr TypeDescription description{
      .name = "enum", .kind = TypeDescription::Kind::enumeration, .values = &codec_detail::names_of<E>};
  static Value to_value(const E& v) {
    for (const auto& n : enum_names<E>)
      if (n.value == v) return Value{n.name};
    return Value{static_cast<i64>(v)};
  }
  static Result<> from_value(E& to, const Value& v, std::string_view what, const FieldLimits&) {
    to = enum_names<E>[TRY(codec_detail::parse_enum(v, what, codec_detail::names_of<E>()))].value;
    return {};
  }
};
template <class T>
struct Codec<std::optional<T>> {
  static constexpr const TypeDescription& description = Codec<T>::description;
  static Value to_value(const std::optional<T>& v) { return v ? Codec<T>::to_value(*v) : Value{}; }
  static Result<> from_value(std::optional<T>& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    T value{};
    TRY(Codec<T>::from_value(value, v, what, limits));
    to = std::move(value);
    return {};
  }
};
template <class T>
struct Codec<std::vector<T>> {
  static constexpr TypeDescription description{
      .name = "list", .kind = TypeDescription::Kind::list, .element = []() -> const TypeDescription* { return &Codec<T>::description; }};
  static Value to_value(const std::vector<T>& v) {
    Value list = Value::list();
    for (const auto& e : v) list.append(Codec<T>::to_value(e));
    return list;
  }
  static Result<> from_value(std::vector<T>& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    if (!v.is_list()) return fail("Invalid parameter type for '{}', expected: array", what);
    std::vector<T> result;
    for (const auto& e : v.items()) {
      T item{};
      TRY(Codec<T>::from_value(item, e, what, limits));
      result.push_back(std::move(item));
    }
    to = std::move(result);
    return {};
  }
};
template <class T, usize N>
struct Codec<std::array<T, N>> {
  static constexpr TypeDescription description{
      .name = "list", .kind = TypeDescription::Kind::list, .element = []() -> const TypeDescription* { return &Codec<T>::description; }};
  static Value to_value(const std::array<T, N>& v) {
    Value list = Value::list();
    for (const auto& e : v) list.append(Codec<T>::to_value(e));
    return list;
  }
  static Result<> from_value(std::array<T, N>& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    if (!v.is_list() || v.items().size() != N) return fail("'{}' must be an array of {} elements", what, N);
    std::array<T, N> result{};
    for (usize i = 0; i < N; i++) TRY(Codec<T>::from_value(result[i], v.items()[i], what, limits));
    to = std::move(result);
    return {};
  }
};
template <class T>
  requires has_fields<T>
struct Codec<T> {
  static constexpr TypeDescription description{
      .name = "struct", .kind = TypeDescription::Kind::structure, .fields = []() -> std::span<const Field> { return fields<T>; }};
  static Value to_value(const T& v) { return show_fields(&v, fields<T>); }
  static Result<> from_value(T& to, const Value& v, std::string_view what, const FieldLimits&) {
    if (!v.is_object()) return fail("Invalid parameter type for '{}', expected: object", what);
    return assign_fields(&to, fields<T>, v, what);
  }
};

}  // namespace vmm
