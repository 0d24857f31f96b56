#include "src/main/options.h"

#include "tests/unit/test.h"

namespace vmm::cli {

namespace {
std::string hint(std::string text, std::string message) {
  return place_error({.option = "-m", .text = std::move(text), .value = {}}, Error{std::move(message)}).hint;
}
std::string refusal(std::string_view config) {
  Options options;
  const auto done = parse_config(options, "f", config);
  return done ? std::string{} : done.error().message;
}
}  // namespace

TEST(a_caret_stands_under_the_word_that_the_message_quotes) {
  CHECK_EQ(hint("1G,slots=x", "'slots' takes a number, not 'x'"), "  -m 1G,slots=x\n              ^");
  CHECK_EQ(hint("größe=1", "'größe' is unexpected"), "  -m größe=1\n     ^~~~~");
  CHECK_EQ(hint("abc", "no word of it"), "  -m abc\n     ^~~");
  CHECK_EQ(hint("a=\x80\x80,b", "not '\x80\x80'"), "  -m a=\x80\x80,b\n       ^");  // bytes that begin no character
  CHECK_EQ(hint("a\nb", "'a' is bad"), "");
}

TEST(configuration_files_say_where_they_are_wrong) {
  CHECK_EQ(refusal("# c\n\n[machine]\r\n type = \"q35\"\r\n[device \"a\"]\ndriver=\"VGA\""), "");
  CHECK_EQ(refusal("[machine]\n\n x\n"), "f:3: parse error");
  CHECK_EQ(refusal("[machine"), "f:1: parse error");
  CHECK_EQ(refusal("\na = \"b\""), "f:2: no group defined");
  CHECK(refusal("[nope]").contains("There is no option group 'nope'"));
  CHECK(refusal("[machine]\n" + std::string(70'000, 'x')).contains("too long"));
}

}  // namespace vmm::cli
