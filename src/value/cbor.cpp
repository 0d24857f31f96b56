// See cbor.h.
#include "src/value/cbor.h"

#include <bit>
#include <cmath>

namespace vmm {

namespace {

enum Major : u8 { unsigned_int, negative_int, byte_string, text_string, array, map, tag, simple };
constexpr u8 false_ = 20, true_ = 21, null_ = 22, double_ = 27;

void head(std::vector<u8>& out, Major major, u64 n) {
  const u8 top = static_cast<u8>(major << 5);
  const auto tail = [&](unsigned bytes) {
    for (unsigned i = bytes; i-- > 0;) out.push_back(static_cast<u8>(n >> (8 * i)));
  };
  if (n < 24)
    out.push_back(static_cast<u8>(top | n));
  else if (n <= 0xff)
    out.push_back(top | 24), tail(1);
  else if (n <= 0xffff)
    out.push_back(top | 25), tail(2);
  else if (n <= 0xffff'ffff)
    out.push_back(top | 26), tail(4);
  else
    out.push_back(top | 27), tail(8);
}

void text(std::vector<u8>& out, std::string_view s) {
  head(out, text_string, s.size());
  out.insert(out.end(), s.begin(), s.end());
}

class Reader {
 public:
  Reader(std::span<const u8> bytes, const CborLimits& limits) : bytes_(bytes), limits_(limits) {}
  Result<Value> whole() {
    Value v = TRY(item(0));
    if (at_ != bytes_.size()) return wrong("more follows the item");
    return v;
  }

 private:
  std::unexpected<Error> wrong(std::string_view why) const { return fail("not CBOR at byte {}: {}", at_, why); }
  usize left() const { return bytes_.size() - at_; }

  Result<u64> argument(u8 low) {
    if (low < 24) return u64{low};
    if (low > 27) return wrong("a length that is not given");
    const usize n = usize{1} << (low - 24);
    if (left() < n) return wrong("it ends within a number");
    u64 v = 0;
    for (usize i = 0; i < n; i++) v = v << 8 | bytes_[at_++];
    return v;
  }
  Result<std::span<const u8>> string(u8 low) {
    const u64 n = TRY(argument(low));
    if (n > left()) return wrong("it ends within a string");
    const auto part = bytes_.subspan(at_, n);
    at_ += n;
    return part;
  }
  // Each element takes a byte at least, so a count beyond what is left is a lie.
  Result<u64> count(u8 low, usize bytes_each) {
    const u64 n = TRY(argument(low));
    if (n > left() / bytes_each) return wrong("it ends within a list");
    if ((items_ += n) > limits_.items) return wrong("too many elements");
    return n;
  }

  Result<Value> item(usize depth) {
    if (depth > limits_.depth) return wrong("nested too deeply");
    if (!left()) return wrong("it ends too early");
    const u8 first = bytes_[at_++], low = first & 31;
    switch (static_cast<Major>(first >> 5)) {
      case unsigned_int: return Value{TRY(argument(low))};
      case negative_int: {
        const u64 n = TRY(argument(low));
        if (n > u64{INT64_MAX}) return wrong("a number below all that we have");
        return Value{-1 - static_cast<i64>(n)};
      }
      case byte_string: {
        const auto part = TRY(string(low));
        return Value{Value::Bytes{part.begin(), part.end()}};
      }
      case text_string: {
        const auto part = TRY(string(low));
        return Value{std::string{part.begin(), part.end()}};
      }
      case array: {
        Value list = Value::list();
        for (u64 n = TRY(count(low, 1)); n > 0; n--) list.append(TRY(item(depth + 1)));
        return list;
      }
      case map: {
        Value::Members members;
        for (u64 n = TRY(count(low, 2)); n > 0; n--) {
          if (!left() || bytes_[at_] >> 5 != text_string) return wrong("a name that is not text");
          const u8 key = bytes_[at_++];
          const auto name = TRY(string(key & 31));
          members.emplace_back(std::string{name.begin(), name.end()}, TRY(item(depth + 1)));
        }
        return Value{std::move(members)};
      }
      case simple:
        switch (low) {
          case false_: return Value{false};
          case true_: return Value{true};
          case null_: return Value{};
          case double_: return Value{std::bit_cast<double>(TRY(argument(low)))};
          default: return wrong("a simple value that we do not have");
        }
      default: return wrong("a tag");
    }
  }

  std::span<const u8> bytes_;
  CborLimits limits_;
  usize at_ = 0;
  u64 items_ = 0;
};

}  // namespace

void append_cbor(std::vector<u8>& out, const Value& value) {
  if (value.is_null()) {
    out.push_back(simple << 5 | null_);
  } else if (value.is_bool()) {
    out.push_back(static_cast<u8>(simple << 5 | (value.get_bool() ? true_ : false_)));
  } else if (value.is_int()) {
    if (const auto n = value.as_u64(""); n)
      head(out, unsigned_int, *n);
    else
      head(out, negative_int, static_cast<u64>(-1 - value.as_i64("").value_or(-1)));
  } else if (value.is_double()) {
    out.push_back(simple << 5 | double_);
    const u64 bits = std::bit_cast<u64>(value.as_double("").value_or(0));
    for (unsigned i = 8; i-- > 0;) out.push_back(static_cast<u8>(bits >> (8 * i)));
  } else if (value.is_string()) {
    text(out, value.get_string());
  } else if (value.is_bytes()) {
    head(out, byte_string, value.bytes().size());
    out.insert(out.end(), value.bytes().begin(), value.bytes().end());
  } else if (value.is_list()) {
    head(out, array, value.items().size());
    for (const Value& v : value.items()) append_cbor(out, v);
  } else {
    head(out, map, value.members().size());
    for (const auto& [name, v] : value.members()) text(out, name), append_cbor(out, v);
  }
}

std::vector<u8> to_cbor(const Value& value) {
  std::vector<u8> out;
  append_cbor(out, value);
  return out;
}

Result<Value> parse_cbor(std::span<const u8> bytes, const CborLimits& limits) { return Reader{bytes, limits}.whole(); }

}  // namespace vmm
