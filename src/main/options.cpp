// Reading the command line by the table; errors point at the word they are about.
#include "src/main/options.h"

#include <algorithm>

#include "src/base/log.h"
#include "src/control/version.h"
#include "src/object/object.h"

namespace vmm::cli {

namespace {
const OptionRow* find_row(std::string_view name) {
  for (const OptionRow& r : option_rows())
    if (r.name == name) return &r;
  return nullptr;
}

// What people write out of habit, and the option that means it.
std::string_view habit(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> table[] = {{"mem", "m"},
                                                                            {"memory", "m"},
                                                                            {"ram", "m"},
                                                                            {"cpus", "smp"},
                                                                            {"vcpus", "smp"},
                                                                            {"vcpu", "smp"},
                                                                            {"ncpus", "smp"},
                                                                            {"disk", "drive"},
                                                                            {"hd", "hda"},
                                                                            {"cd", "cdrom"},
                                                                            {"iso", "cdrom"},
                                                                            {"floppy", "fda"},
                                                                            {"cmdline", "append"},
                                                                            {"args", "append"},
                                                                            {"firmware", "bios"},
                                                                            {"network", "nic"},
                                                                            {"nics", "nic"},
                                                                            {"gui", "display"},
                                                                            {"paused", "S"},
                                                                            {"v", "version"},
                                                                            {"kvm", "enable-kvm"},
                                                                            {"usb-device", "usbdevice"},
                                                                            {"daemon", "daemonize"},
                                                                            {"tcg", "accel"},
                                                                            {"headless", "nographic"}};
  for (const auto& [word, option] : table)
    if (word == name) return option;
  return {};
}

bool is_word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || std::string_view{"-_.+/"}.contains(c); }

// Where `word` stands on its own in `text`.
usize find_word(std::string_view text, std::string_view word) {
  for (usize at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const bool starts = at == 0 || !is_word_char(text[at - 1]) || text[at - 1] == '+' || text[at - 1] == '.';
    const usize end = at + word.size();
    if (starts && (end == text.size() || !is_word_char(text[end]) || text[end] == '.')) return at;
  }
  return text.npos;
}

// The quoted words of a message, the likeliest culprit first: a refused value, what follows "not ", then the rest in order.
std::vector<std::string> quoted_words(std::string_view message) {
  std::vector<std::string> words, refused;
  for (usize at = 0; at < message.size(); at++) {
    const char quote = message[at];
    if (quote != '\'' && quote != '"') continue;
    if (at && std::isalnum(static_cast<unsigned char>(message[at - 1]))) continue;  // can't, doesn't
    const usize end = message.find(quote, at + 1);
    if (end == message.npos) break;
    const bool value = message.substr(0, at).ends_with(" value ") || message.substr(0, at).ends_with(", not ");
    (value ? refused : words).emplace_back(message.substr(at + 1, end - at - 1));
    if (const std::string& last = (value ? refused : words).back(); last.contains('.')) words.push_back(last.substr(last.rfind('.') + 1));
    at = end;
  }
  if (const auto at = message.rfind(", not "); at != message.npos) refused.emplace_back(message.substr(at + 6));
  refused.insert(refused.end(), words.begin(), words.end());
  // Where nothing is quoted: paths, what stands last, numbers.
  for (usize at = message.find('/'); at != message.npos && at < message.size(); at = message.find('/', at)) {
    const usize from = message.find_last_of(" '\"", at) + 1, to = std::min(message.find_first_of(" ,'\"", at), message.size());
    std::string_view path = message.substr(from, to - from);
    while (path.ends_with(':')) path.remove_suffix(1);
    refused.emplace_back(path);
    at = to;
  }
  if (const auto at = message.rfind(": "); at != message.npos) refused.emplace_back(message.substr(at + 2));
  if (const auto at = message.rfind(' '); at != message.npos) refused.emplace_back(message.substr(at + 1));
  for (usize at = 0; at < message.size();) {  // a number by itself
    const usize end = std::min(message.find(' ', at), message.size());
    const std::string_view word = message.substr(at, end - at);
    if (!word.empty() && std::ranges::all_of(word, [](char c) { return c >= '0' && c <= '9'; })) refused.emplace_back(word);
    at = end + 1;
  }
  return refused;
}

usize columns(std::string_view text) {  // code points; good enough for a caret
  return static_cast<usize>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

// "  -smp 2,coers=2\n         ^~~~~"
std::string caret(const Given& given, std::string_view message) {
  if (given.text.size() > 160 || given.text.find_first_of("\n\t") != std::string::npos) return {};
  usize at = 0, length = given.text.size();  // all of it, if the message names no part
  for (const std::string& word : quoted_words(message)) {
    const usize found = word.empty() ? std::string::npos : find_word(given.text, word);
    if (found == std::string::npos) continue;
    at = found, length = word.size();
    break;
  }
  if (length == 0) return {};
  const usize indent = 2 + columns(given.option) + 1 + columns(given.text.substr(0, at));
  return format("  {} {}\n{}^{}", given.option, given.text, std::string(indent, ' '),
                std::string(std::max<usize>(columns(given.text.substr(at, length)), 1) - 1, '~'));
}
}  // namespace

Error place_error(const Given& given, Error error) {
  const std::string mark = caret(given, error.message);
  if (!mark.empty()) error.hint = error.hint.empty() ? mark : mark + "\n" + error.hint;
  std::string place = given.text.empty() ? given.option : format("{} {}", given.option, given.text);
  return std::move(error).within(place);
}

Result<> take_option(Options& options, std::string_view name, std::string text, std::string as_written) {
  const OptionRow* row = find_row(name);
  ASSERT(row);
  Given given{.option = std::move(as_written), .text = std::move(text), .value = {}};
  auto done = row->take(options, given);
  if (!done) return std::unexpected(place_error(given, std::move(done).error()));
  return {};
}

Result<Options> parse_command_line(std::span<const char* const> arguments) {
  Options options;
  if (!arguments.empty() && arguments[0]) {
    const std::string_view path = arguments[0];
    options.program = path.substr(path.rfind('/') + 1);
  }
  for (usize i = 1; i < arguments.size(); i++) {
    const std::string_view written = arguments[i];
    if (written.size() < 2 || written[0] != '-') {  // a disk image
      TRY(take_option(options, "hda", std::string{written}, std::string{written}));
      continue;
    }
    std::string_view name = written.substr(1);
    if (name.starts_with('-')) name.remove_prefix(1);
    const OptionRow* row = find_row(name);
    if (!row) {
      Error error{format("{}: invalid option", written)};
      std::vector<std::string> names;
      for (const OptionRow& r : option_rows()) names.emplace_back(r.name);
      const auto equals = name.find('=');
      std::string near;
      if (const std::string_view meant = habit(name.substr(0, equals)); !meant.empty())
        near = format("'-{}' is the option for that", meant);
      else if (equals != name.npos && find_row(name.substr(0, equals)))
        near = format("Write '-{} {}'", name.substr(0, equals), name.substr(equals + 1));
      else
        for (const auto& n : nearest_names(name, names)) near += format("{}'-{}'", near.empty() ? "Near names: " : ", ", n);
      error.hint = near.empty() ? format("'{} -help' lists all options", options.program) : near;
      return std::unexpected(std::move(error));
    }
    std::string text;
    if (!row->argument.empty()) {
      if (i + 1 == arguments.size())
        return std::unexpected(
            Error{format("{}: requires an argument", written)}.with_hint(format("Usage: -{} {}", row->name, row->argument)));
      text = arguments[++i];
    }
    TRY(take_option(options, name, std::move(text), std::string{written}));
    if (options.help == Options::Help::usage || options.help == Options::Help::version) return options;
  }
  return options;
}

Result<> set_option(Options& options, std::string_view text) {
  const auto first = text.find('.'), equals = text.find('=');
  const auto last = equals == text.npos ? text.npos : text.rfind('.', equals);
  if (first == text.npos || equals == text.npos || first == 0 || last == first || last + 1 == equals)
    return fail("can't parse: \"{}\"; expected group.id.key=value", text);
  const std::string_view group = text.substr(0, first), id = text.substr(first + 1, last - first - 1);
  const std::string_view key = text.substr(last + 1, equals - last - 1), value = text.substr(equals + 1);
  std::vector<Given>* list = group == "device"    ? &options.devices
                             : group == "chardev" ? &options.chardevs
                             : group == "object"  ? &options.objects
                             : group == "drive"   ? &options.drives
                                                  : nullptr;
  if (!list)
    return std::unexpected(Error{format("There is no option group '{}'", group)}.with_hint("Groups: device, chardev, drive, object"));
  for (Given& g : *list)
    if (const Value* name = g.value.find("id"); name && name->is_string() && name->get_string() == id) {
      g.value.set(std::string{key}, value);
      return {};
    }
  return fail("there is no {} \"{}\" defined", group, id);
}

std::string version_text() {
  return format("QEMU emulator version {} ({})\nCopyright (c) 2026 the vmm developers\n", control::version_text, control::package_text);
}

std::string usage_text(const Options& options) {
  std::string out = version_text();
  out += format("usage: {} [options] [disk_image]\n", options.program);
  for (const OptionRow& r : option_rows()) {
    if (r.name == "help") continue;
    if (!r.section.empty()) out += format("\n{}\n", r.section);
    std::string head = format("-{}{}{}", r.name, r.argument.empty() ? "" : " ", r.argument);
    if (r.help.empty()) {
      out += head + "\n";
      continue;
    }
    std::string_view rest = r.help;
    bool first = true;
    while (!rest.empty()) {
      const auto end = rest.find('\n');
      const std::string_view line = rest.substr(0, end);
      if (first && head.size() < 16)
        out += format("{:<16}{}\n", head, line);
      else if (first)
        out += format("{}\n{:16}{}\n", head, "", line);
      else
        out += format("{:16}{}\n", "", line);
      first = false;
      rest = end == rest.npos ? std::string_view{} : rest.substr(end + 1);
    }
  }
  out += "\nDuring emulation, Ctrl-A h on the terminal of -nographic lists its keys.\n";
  return out;
}

}  // namespace vmm::cli
