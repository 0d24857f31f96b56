// JSON text in and out. Source: RFC 8259. Two liberties that management tools use: strings may stand in single quotes, and 0xff
// between or inside values makes a stream start afresh. Everything is bounded by JsonLimits; numbers that do not fit are refused.
#include <charconv>
#include <cmath>
#include <unordered_set>

#include "src/value/value.h"

namespace vmm {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The length of the well-formed UTF-8 sequence at `at` (Unicode 15, table 3-7); 0 if there is none.
usize utf8_length(std::string_view text, usize at) {
  const auto byte = [&](usize i) { return at + i < text.size() ? static_cast<u8>(text[at + i]) : 0; };
  const auto tail = [&](usize i) { return (byte(i) & 0xc0) == 0x80; };
  const u8 b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xc2 && b <= 0xdf) return tail(1) ? 2 : 0;
  if (b >= 0xe0 && b <= 0xef) {
    if (!tail(1) || !tail(2) || (b == 0xe0 && byte(1) < 0xa0) || (b == 0xed && byte(1) > 0x9f)) return 0;
    return 3;
  }
  if (b >= 0xf0 && b <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3) || (b == 0xf0 && byte(1) < 0x90) || (b == 0xf4 && byte(1) > 0x8f)) return 0;
    return 4;
  }
  return 0;
}

void append_utf8(std::string& to, u32 c) {
  if (c < 0x80) {
    to += static_cast<char>(c);
  } else if (c < 0x800) {
    to += static_cast<char>(0xc0 | c >> 6);
    to += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    to += static_cast<char>(0xe0 | c >> 12);
    to += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    to += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    to += static_cast<char>(0xf0 | c >> 18);
    to += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    to += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    to += static_cast<char>(0x80 | (c & 0x3f));
  }
}

// Recursive descent; the depth is bounded by the limits, and so is the stack.
class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Result<Value> whole() {
    if (text_.size() > limits_.message_bytes) return fail("JSON message is longer than {} bytes", limits_.message_bytes);
    Value v = TRY(value(0));
    skip_space();
    if (at_ != text_.size()) return wrong("expected nothing more");
    return v;
  }

 private:
  std::unexpected<Error> wrong(std::string_view why) const { return fail("JSON parse error at byte {}: {}", at_, why); }
  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) at_++;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    return at_++, true;
  }

  Result<Value> value(usize depth) {
    skip_space();
    if (at_ == text_.size()) return wrong("expected a value");
    const char c = text_[at_];
    if (c == '{' || c == '[') {
      if (depth >= limits_.depth) return wrong(format("more than {} levels of nesting", limits_.depth));
      return c == '{' ? object(depth + 1) : list(depth + 1);
    }
    if (c == '"' || c == '\'') return Value{TRY(string())};
    if (c == '-' || is_digit(c)) return number();
    for (auto [word, v] : {std::pair{std::string_view{"true"}, Value{true}}, {"false", Value{false}}, {"null", Value{}}})
      if (text_.substr(at_).starts_with(word)) {
        const usize end = at_ + word.size();
        if (end < text_.size() && (std::isalnum(static_cast<u8>(text_[end])) || text_[end] == '_')) break;
        at_ = end;
        return v;
      }
    return wrong("expected a value");
  }

  Result<Value> object(usize depth) {
    Value::Members members;
    std::unordered_set<std::string> seen;  // filled only once a walk would be slow
    at_++;
    skip_space();
    if (take('}')) return Value{std::move(members)};
    for (;;) {
      skip_space();
      if (peek() != '"' && peek() != '\'') return wrong("expected a member's name in quotes");
      const usize name_at = at_;
      std::string name = TRY(string());
      bool twice = false;
      if (members.size() < 16) {
        for (const auto& m : members) twice |= m.first == name;
      } else {
        if (seen.empty())
          for (const auto& m : members) seen.insert(m.first);
        twice = !seen.insert(name).second;
      }
      if (twice) return at_ = name_at, wrong(format("member '{}' stands there twice", name));
      skip_space();
      if (!take(':')) return wrong("expected ':' after a member's name");
      Value v = TRY(value(depth));
      members.emplace_back(std::move(name), std::move(v));
      skip_space();
      if (take('}')) return Value{std::move(members)};
      if (!take(',')) return wrong("expected ',' or '}'");
    }
  }

  Result<Value> list(usize depth) {
    Value::List items;
    at_++;
    skip_space();
    if (take(']')) return Value{std::move(items)};
    for (;;) {
      items.push_back(TRY(value(depth)));
      skip_space();
      if (take(']')) return Value{std::move(items)};
      if (!take(',')) return wrong("expected ',' or ']'");
    }
  }

  Result<u32> hex4() {
    u32 v = 0;
    if (text_.size() - at_ < 4) return wrong("\\u takes four hexadecimal digits");
    const auto [end, ec] = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, v, 16);
    if (ec != std::errc{} || end != text_.data() + at_ + 4) return wrong("\\u takes four hexadecimal digits");
    at_ += 4;
    return v;
  }

  Result<std::string> string() {
    const char quote = text_[at_++];
    std::string out;
    for (;;) {
      if (at_ == text_.size()) return wrong("the string does not end");
      if (out.size() > limits_.string_bytes) return wrong(format("a string is longer than {} bytes", limits_.string_bytes));
      const char c = text_[at_];
      if (c == quote) return at_++, std::move(out);
      if (static_cast<u8>(c) < 0x20) return wrong("a control character in a string must be escaped");
      if (c != '\\') {
        const usize n = utf8_length(text_, at_);
        if (!n) return wrong("invalid UTF-8 in a string");
        out.append(text_, at_, n);
        at_ += n;
        continue;
      }
      at_++;
      const char e = peek();
      at_++;
      switch (e) {
        case '"':
        case '\'':
        case '\\':
        case '/': out += e; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          u32 u = TRY(hex4());
          if (u >= 0xdc00 && u <= 0xdfff) return wrong("half of a surrogate pair");
          if (u >= 0xd800 && u <= 0xdbff) {
            if (!take('\\') || !take('u')) return wrong("half of a surrogate pair");
            const u32 low = TRY(hex4());
            if (low < 0xdc00 || low > 0xdfff) return wrong("half of a surrogate pair");
            u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
          }
          if (u == 0) return wrong("\\u0000 cannot be part of a string");
          append_utf8(out, u);
          break;
        }
        default: return at_--, wrong("unknown escape in a string");
      }
    }
  }

  Result<Value> number() {
    const usize start = at_;
    const bool negative = take('-');
    bool whole = true;
    if (!is_digit(peek())) return wrong("expected a digit");
    if (take('0')) {
      if (is_digit(peek())) return wrong("a number has no leading zeros");
    } else {
      while (is_digit(peek())) at_++;
    }
    if (take('.')) {
      whole = false;
      if (!is_digit(peek())) return wrong("expected a digit after '.'");
      while (is_digit(peek())) at_++;
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      if (!is_digit(peek())) return wrong("expected a digit in the exponent");
      while (is_digit(peek())) at_++;
    }
    const char *from = text_.data() + start, *to = text_.data() + at_;
    if (whole) {
      if (negative) {
        i64 v = 0;
        if (std::from_chars(from, to, v).ec == std::errc{}) return Value{v};
      } else {
        u64 v = 0;
        if (std::from_chars(from, to, v).ec == std::errc{}) return Value{v};
      }
      return at_ = start, wrong("the number does not fit into 64 bits");
    }
    double v = 0;
    if (std::from_chars(from, to, v).ec != std::errc{} || !std::isfinite(v)) return at_ = start, wrong("the number is out of range");
    return Value{v};
  }

  std::string_view text_;
  const JsonLimits& limits_;
  usize at_ = 0;
};

void print_string(std::string& out, std::string_view text) {
  out += '"';
  for (usize i = 0; i < text.size();) {
    const char c = text[i];
    switch (c) {
      case '"': out += "\\\"", i++; continue;
      case '\\': out += "\\\\", i++; continue;
      case '\b': out += "\\b", i++; continue;
      case '\f': out += "\\f", i++; continue;
      case '\n': out += "\\n", i++; continue;
      case '\r': out += "\\r", i++; continue;
      case '\t': out += "\\t", i++; continue;
    }
    if (static_cast<u8>(c) < 0x20 || c == 0x7f) {
      format_to(std::back_inserter(out), "\\u{:04x}", static_cast<u8>(c));
      i++;
    } else if (const usize n = utf8_length(text, i)) {
      out.append(text, i, n);
      i += n;
    } else {
      out += "\\ufffd";
      i++;
    }
  }
  out += '"';
}

void print(std::string& out, const Value& v, bool pretty, unsigned level) {
  const auto new_line = [&](unsigned l) {
    out += '\n';
    out.append(4 * l, ' ');
  };
  const auto separate = [&](bool first) {
    if (!first) out += pretty ? "," : ", ";
    if (pretty) new_line(level + 1);
  };
  if (v.is_null()) {
    out += "null";
  } else if (v.is_bool()) {
    out += v.get_bool() ? "true" : "false";
  } else if (v.is_int()) {
    if (const auto s = v.as_i64(""))
      format_to(std::back_inserter(out), "{}", *s);
    else
      format_to(std::back_inserter(out), "{}", *v.as_u64(""));
  } else if (v.is_double()) {
    const double d = *v.as_double("");
    if (!std::isfinite(d)) {
      out += "null";
      return;
    }
    const std::string text = format("{}", d);
    out += text;
    if (text.find_first_of(".e") == text.npos) out += ".0";  // stays a number that is no integer
  } else if (v.is_string()) {
    print_string(out, v.get_string());
  } else if (v.is_bytes()) {
    out += '"';
    for (u8 b : v.bytes()) format_to(std::back_inserter(out), "{:02x}", b);
    out += '"';
  } else if (v.is_list()) {
    out += '[';
    bool first = true;
    for (const Value& item : v.items()) {
      separate(first);
      first = false;
      print(out, item, pretty, level + 1);
    }
    if (pretty && !first) new_line(level);
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const auto& [name, member] : v.members()) {
      separate(first);
      first = false;
      print_string(out, name);
      out += ": ";
      print(out, member, pretty, level + 1);
    }
    if (pretty && !first) new_line(level);
    out += '}';
  }
}
}  // namespace

Result<Value> parse_json(std::string_view text, const JsonLimits& limits) { return Parser{text, limits}.whole(); }

std::string to_json(const Value& value, bool pretty) {
  std::string out;
  print(out, value, pretty, 0);
  return out;
}

bool JsonStream::ends_scalar(char c) { return is_space(c) || std::string_view{"{}[],:\"'\xff"}.contains(c); }

bool JsonStream::broken(std::string_view why, bool skip) {
  error_ = why;
  text_.clear();
  skipping_ = skip;
  return true;
}

bool JsonStream::step(char c) {
  if (skipping_) {  // an oversized value: its error is told, its rest is dropped
    if (quote_) {
      if (escape_)
        escape_ = false;
      else if (c == '\\')
        escape_ = true;
      else if (c == quote_)
        quote_ = 0;
    } else if (c == '"' || c == '\'') {
      quote_ = c;
    } else if (c == '{' || c == '[') {
      depth_++;
    } else if ((c == '}' || c == ']') && depth_) {
      depth_--;
    }
    if (c == '\n' || c == '\xff' || (depth_ == 0 && !quote_)) skipping_ = escape_ = false, depth_ = 0, quote_ = 0;
    return false;
  }
  if (c == '\xff') {
    const bool lost = !text_.empty();
    depth_ = 0, quote_ = 0, escape_ = false, scalar_ = false;
    return lost && broken("JSON parse error: a value was cut off", false);
  }
  if (text_.empty()) {
    if (is_space(c)) return false;
    depth_ = 0, quote_ = 0, escape_ = false, string_bytes_ = 0;
    scalar_ = false;
    if (c != '{' && c != '[' && c != '"' && c != '\'') {
      text_ += c;
      if (c == '}' || c == ']' || c == ',' || c == ':') return true;
      scalar_ = true;
      return false;
    }
  }
  text_ += c;
  if (text_.size() > limits_.message_bytes)
    return scalar_ = false, broken(format("JSON message is longer than {} bytes", limits_.message_bytes), true);
  if (quote_) {
    if (static_cast<u8>(c) < 0x20) {
      depth_ = 0, quote_ = 0;
      return broken("JSON parse error: a control character in a string must be escaped", false);
    }
    if (++string_bytes_ > limits_.string_bytes) return broken(format("a string is longer than {} bytes", limits_.string_bytes), true);
    if (escape_) {
      escape_ = false;
      return false;
    }
    if (c == '\\') return escape_ = true, false;
    if (c != quote_) return false;
    quote_ = 0;
    return depth_ == 0;
  }
  switch (c) {
    case '"':
    case '\'': quote_ = c, string_bytes_ = 0; return false;
    case '{':
    case '[':
      if (++depth_ > limits_.depth) return broken(format("more than {} levels of nesting in JSON", limits_.depth), true);
      return false;
    case '}':
    case ']': return --depth_ == 0;
  }
  return false;
}

Result<Value> JsonStream::take() {
  scalar_ = false;
  if (!error_.empty()) return fail("{}", std::exchange(error_, {}));
  const std::string text = std::exchange(text_, {});
  return parse_json(text, limits_);
}

}  // namespace vmm
