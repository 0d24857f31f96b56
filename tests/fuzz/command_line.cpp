// The command line and -readconfig's files: every input is taken or refused with a message. Input: "conf\n" and a configuration file, or
// the words of a command line, one a line. Options that open files by themselves are left out.
#include <algorithm>

#include "src/base/assert.h"
#include "src/main/options.h"

using namespace vmm;

namespace {
// What tests/fuzz/run asks of the kept corpus: most edges of these functions, part by part.
[[maybe_unused]] constexpr const char* parts[] = {
    "command line: parse_command_line, find_row, find_word, quoted_words, columns, caret, place_error, take_option, set_option",
    "configuration: parse_config, trim",
    "key lists: parse_key_list, parse_key_list_or_json, key_list_value",
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (text.starts_with("conf\n")) {
    cli::Options options;
    if (const auto done = cli::parse_config(options, "fuzz", text.substr(5)); !done) ASSERT(!done.error().message.empty());
    return 0;
  }
  std::vector<std::string> words{"vmm"};
  for (usize at = 0; at < text.size() && words.size() < 64;) {
    const usize end = std::min(text.find('\n', at), text.size());
    words.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  std::vector<const char*> arguments;
  for (const std::string& word : words) {
    const std::string_view name = std::string_view{word.c_str()}.substr(std::min<usize>(word.find_first_not_of('-'), word.size()));
    if (name == "readconfig" || name == "add-fd" || name == "chroot" || name == "runas") return 0;
    arguments.push_back(word.c_str());
  }
  if (const auto options = cli::parse_command_line(arguments); !options) ASSERT(!options.error().message.empty());
  return 0;
}
