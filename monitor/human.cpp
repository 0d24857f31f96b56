#include "monitor/human.h"

#include <algorithm>

#include "monitor/monitor.h"
#include "src/base/log.h"

namespace vmm::monitor {

using namespace control;

Result<std::vector<std::string>> split_words(std::string_view line) {
  std::vector<std::string> words;
  for (usize i = 0; i < line.size();) {
    if (line[i] == ' ' || line[i] == '\t') {
      i++;
      continue;
    }
    std::string word;
    if (line[i] == '"') {
      for (i++;; i++) {
        if (i >= line.size()) return fail("unterminated string");
        if (line[i] == '"') break;
        if (line[i] == '\\' && i + 1 < line.size()) {
          i++;
          word += line[i] == 'n' ? '\n' : line[i] == 'r' ? '\r' : line[i];
        } else {
          word += line[i];
        }
      }
      i++;
    } else {
      while (i < line.size() && line[i] != ' ' && line[i] != '\t') word += line[i++];
    }
    words.push_back(std::move(word));
  }
  return words;
}

namespace {
// A human name may list other names: "cont|c".
bool answers_to(std::string_view names, std::string_view word) {
  while (!names.empty()) {
    const auto bar = names.find('|');
    if (names.substr(0, bar) == word) return true;
    names = bar == names.npos ? std::string_view{} : names.substr(bar + 1);
  }
  return false;
}
bool is_info(std::string_view human) { return human.starts_with("info "); }

const Command* find_human(std::string_view name, std::string_view topic) {
  for (const Command* c : all_commands()) {
    if (c->info.human.empty()) continue;
    if (name == "info") {
      if (is_info(c->info.human) && answers_to(c->info.human.substr(5), topic)) return c;
    } else if (!is_info(c->info.human) && answers_to(c->info.human, name)) {
      return c;
    }
  }
  return nullptr;
}

struct Argument {
  std::string_view name, type;
  bool optional = false, flag = false;
};
std::vector<Argument> parse_pattern(std::string_view pattern) {
  std::vector<Argument> out;
  while (!pattern.empty()) {
    const auto comma = pattern.find(',');
    std::string_view part = pattern.substr(0, comma);
    pattern = comma == pattern.npos ? std::string_view{} : pattern.substr(comma + 1);
    Argument a;
    if (part.ends_with('?')) a.optional = true, part.remove_suffix(1);
    const auto colon = part.find(':');
    a.name = part.substr(0, colon);
    a.type = colon == part.npos ? "s" : part.substr(colon + 1);
    a.flag = a.type.starts_with('-');
    out.push_back(a);
  }
  return out;
}

// The text after the n-th word.
std::string_view after_words(std::string_view line, usize n) {
  usize i = 0;
  const auto blanks = [&] {
    while (i < line.size() && (line[i] == ' ' || line[i] == '\t')) i++;
  };
  blanks();
  for (; n > 0; n--) {
    if (i < line.size() && line[i] == '"') {
      for (i++; i < line.size() && line[i] != '"'; i++) i += line[i] == '\\';
      i += i < line.size();
    } else {
      while (i < line.size() && line[i] != ' ' && line[i] != '\t') i++;
    }
    blanks();
  }
  return line.substr(std::min(i, line.size()));
}

// "device [type]" for "device:s,type:s?".
std::string shown_arguments(std::string_view pattern) {
  std::string out;
  for (const Argument& a : parse_pattern(pattern))
    out += a.flag ? format(" [{}{}]", a.type.substr(0, 2), a.type.size() > 2 ? format(" {}", a.name) : std::string{})
                  : (a.optional ? format(" [{}]", a.name) : format(" {}", a.name));
  return out;
}

std::string help(std::string_view topic) {
  std::vector<std::string> lines;
  for (const Command* c : all_commands()) {
    if (c->info.human.empty()) continue;
    const bool info = is_info(c->info.human);
    if (topic.empty() ? info : topic == "info" ? !info : !answers_to(info ? c->info.human.substr(5) : c->info.human, topic)) continue;
    const std::string_view text = c->info.human_help;
    if (text.starts_with(c->info.human))
      lines.emplace_back(text);
    else if (text.empty())
      lines.emplace_back(c->info.human);
    else
      lines.push_back(format("{}{} -- {}", c->info.human, shown_arguments(c->info.human_args), text));
  }
  if (topic.empty()) {
    lines.push_back("help|? [cmd] -- show the help");
    lines.push_back("info [subcommand] -- show various information about the system state");
  }
  std::ranges::sort(lines);
  std::string out;
  for (const auto& l : lines) out += l + "\n";
  return out;
}

std::string error_text(const Error& error) {
  std::string out = format("Error: {}\n", error.message);
  if (!error.hint.empty()) out += error.hint + "\n";
  return out;
}
}  // namespace

Result<Value> human_arguments(Context& context, std::string_view pattern, std::span<const std::string> words, std::string_view line) {
  const auto arguments = parse_pattern(pattern);
  Value out = Value::object();
  usize at = 0;
  const auto flags = [&]() -> Result<> {
    while (at < words.size() && words[at].size() == 2 && words[at][0] == '-' && !std::isdigit(static_cast<u8>(words[at][1]))) {
      const Argument* match = nullptr;
      for (const Argument& a : arguments)
        if (a.flag && a.type.size() > 1 && a.type[1] == words[at][1]) match = &a;
      if (!match) return {};
      at++;
      if (match->type.size() > 2) {
        if (at == words.size()) return fail("-{} takes a word", match->type[1]);
        out.set(std::string{match->name}, words[at++]);
      } else {
        out.set(std::string{match->name}, true);
      }
    }
    return {};
  };
  for (const Argument& a : arguments) {
    TRY(flags());
    if (a.flag) continue;
    if (at == words.size()) {
      if (!a.optional) return fail("{}: an argument is missing", a.name);
      continue;
    }
    switch (a.type[0]) {
      case 'S': out.set(std::string{a.name}, after_words(line, at)), at = words.size(); break;
      case 'i':
      case 'l': {
        // An expression may hold blanks: the last argument takes all that is left.
        const bool last = &a == &arguments.back() || std::all_of(&a + 1, &arguments.back() + 1, [](const Argument& o) { return o.flag; });
        const std::string text = last ? std::string{after_words(line, at)} : words[at];
        out.set(std::string{a.name}, static_cast<i64>(TRY(evaluate(context, text))));
        at = last ? words.size() : at + 1;
        break;
      }
      case 'o':
        if (words[at] != "on" && words[at] != "off") return fail("{} takes 'on' or 'off', not '{}'", a.name, words[at]);
        out.set(std::string{a.name}, words[at++] == "on");
        break;
      default: out.set(std::string{a.name}, words[at++]); break;
    }
  }
  TRY(flags());
  if (at < words.size()) return fail("unexpected argument '{}'", words[at]);
  return out;
}

std::string run_human_line(Context& context, std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  auto split = split_words(line);
  if (!split) return error_text(split.error());
  if (split->empty() || split->front().starts_with('#')) return {};
  std::string name = split->front();
  // "x/4xb" is "x /4xb".
  std::string spaced;
  if (const auto slash = name.find('/'); slash != name.npos && slash > 0) {
    spaced = std::string{line};
    spaced.insert(spaced.find('/'), 1, ' ');
    line = spaced;
    split = split_words(line);
    name = split->front();
  }
  usize used = 1;
  if (name == "help" || name == "?") {
    const std::string text = help(split->size() > 1 ? (*split)[1] : std::string{});
    return text.empty() ? format("unknown command: '{}'\n", (*split)[1]) : text;
  }
  if (name == "info") {
    if (split->size() == 1) return help("info");
    used = 2;
  }
  const std::string topic = used == 2 ? (*split)[1] : std::string{};
  const Command* command = find_human(name, topic);
  if (!command) return used == 2 ? format("unknown command: 'info {}'\n", topic) : format("unknown command: '{}'\n", name);
  const std::span<const std::string> words = std::span{*split}.subspan(used);
  if (command->run_human) {
    auto text = command->run_human(context, words);
    return text ? *text : error_text(text.error());
  }
  auto arguments = human_arguments(context, command->info.human_args, words, after_words(line, used));
  if (!arguments) return error_text(arguments.error()) + format("Try \"help {}\" for more information\n", name);
  if (!command->run) {
    // What takes time goes on by itself; its end shows in events and in `info`.
    if (command->run_slow)
      command->run_slow(context, std::move(*arguments)).start([](Result<Value> result) {
        if (!result) report_error(result.error());
      });
    return {};
  }
  auto answer = command->run(context, *arguments);
  if (!answer) return error_text(answer.error());
  return command->info.human_print ? command->info.human_print(*answer) : std::string{};
}

std::vector<std::string> complete_human(std::string_view text) {
  const auto space = text.find_last_of(' ');
  const std::string_view word = space == text.npos ? text : text.substr(space + 1);
  const bool info = text.starts_with("info ") && space == 4;
  if (space != text.npos && !info) return {};
  std::vector<std::string> names;
  if (!info) names = {"help", "info"};
  for (const Command* c : all_commands()) {
    std::string_view human = c->info.human;
    if (human.empty() || is_info(human) != info) continue;
    if (info) human.remove_prefix(5);
    while (!human.empty()) {
      const auto bar = human.find('|');
      names.emplace_back(human.substr(0, bar));
      human = bar == human.npos ? std::string_view{} : human.substr(bar + 1);
    }
  }
  std::erase_if(names, [&](const std::string& n) { return !n.starts_with(word); });
  return names;
}

}  // namespace vmm::monitor
