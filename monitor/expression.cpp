// Expressions of the human monitor. 64-bit unsigned arithmetic; precedence as in C.
#include <charconv>

#include "monitor/human.h"
#include "src/vm/cpu_registers.h"

namespace vmm::monitor {
namespace {

class Evaluator {
 public:
  Evaluator(control::Context& context, std::string_view text) : context_(context), text_(text) {}
  Result<u64> whole() {
    const u64 v = TRY(binary(0));
    blanks();
    if (at_ < text_.size()) return fail("unexpected '{}' in the expression", text_.substr(at_, 40));
    return v;
  }

 private:
  void blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) at_++;
  }
  // The operator of this level that comes next.
  std::string_view take_operator(unsigned level) {
    static constexpr std::string_view levels[][4] = {{"|"}, {"^"}, {"&"}, {"<<", ">>"}, {"+", "-"}, {"*", "/", "%"}};
    blanks();
    for (std::string_view op : levels[level])
      if (!op.empty() && text_.substr(at_).starts_with(op)) return at_ += op.size(), op;
    return {};
  }
  Result<u64> binary(unsigned level) {
    if (level == 6) return unary();
    u64 v = TRY(binary(level + 1));
    for (std::string_view op; !(op = take_operator(level)).empty();) {
      const u64 r = TRY(binary(level + 1));
      if ((op == "/" || op == "%") && r == 0) return fail("division by zero");
      if (op == "|")
        v |= r;
      else if (op == "^")
        v ^= r;
      else if (op == "&")
        v &= r;
      else if (op == "<<")
        v = r < 64 ? v << r : 0;
      else if (op == ">>")
        v = r < 64 ? v >> r : 0;
      else if (op == "+")
        v += r;
      else if (op == "-")
        v -= r;
      else if (op == "*")
        v *= r;
      else if (op == "/")
        v /= r;
      else
        v %= r;
    }
    return v;
  }
  Result<u64> unary() {
    if (++depth_ > 200) return fail("the expression is nested too deeply");
    const auto value = operand();
    depth_--;
    return value;
  }
  Result<u64> operand() {
    blanks();
    if (at_ == text_.size()) return fail("unexpected end of expression");
    const char c = text_[at_];
    if (c == '+') return at_++, unary();
    if (c == '-') return at_++, 0 - TRY(unary());
    if (c == '~') return at_++, ~TRY(unary());
    if (c == '(') {
      at_++;
      const u64 v = TRY(binary(0));
      blanks();
      if (at_ == text_.size() || text_[at_] != ')') return fail("')' expected");
      return at_++, v;
    }
    if (c == '\'') {
      if (text_.size() - at_ < 3 || text_[at_ + 2] != '\'') return fail("missing terminating ' character");
      const u8 v = static_cast<u8>(text_[at_ + 1]);
      return at_ += 3, v;
    }
    if (c == '$') {
      const usize start = ++at_;
      while (at_ < text_.size() && (std::isalnum(static_cast<u8>(text_[at_])) || text_[at_] == '_' || text_[at_] == '.')) at_++;
      return vm::read_register(context_.cpu_index(), text_.substr(start, at_ - start));
    }
    int base = 10;
    usize start = at_;
    if (text_.substr(at_).starts_with("0x") || text_.substr(at_).starts_with("0X")) base = 16, start += 2;
    u64 v = 0;
    const auto [end, ec] = std::from_chars(text_.data() + start, text_.data() + text_.size(), v, base);
    if (ec == std::errc::result_out_of_range) return fail("number too large");
    if (ec != std::errc{}) return fail("invalid char '{}' in expression", c);
    at_ = static_cast<usize>(end - text_.data());
    return v;
  }

  control::Context& context_;
  std::string_view text_;
  usize at_ = 0;
  unsigned depth_ = 0;
};

}  // namespace

Result<u64> evaluate(control::Context& context, std::string_view expression) { return Evaluator{context, expression}.whole(); }

}  // namespace vmm::monitor
