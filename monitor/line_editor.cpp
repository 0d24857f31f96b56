#include "monitor/line_editor.h"

#include <algorithm>

#include "src/base/format.h"

namespace vmm::monitor {

namespace {
constexpr usize line_bytes = 4095, history_lines = 64;
}

void LineEditor::show_prompt() {
  line_.clear(), shown_.clear();
  cursor_ = shown_cursor_ = 0;
  history_at_ = history_.size();
  escape_ = Escape::none;
  print_(prompt_);
}

// The whole line is drawn again at every change: what reads HMP by program skips just that.
void LineEditor::redraw() {
  std::string out;
  if (line_ != shown_) {
    for (; shown_cursor_ > 0; shown_cursor_--) out += "\033[D";
    out += line_ + "\033[K";
    shown_ = line_;
    shown_cursor_ = line_.size();
  }
  for (; shown_cursor_ > cursor_; shown_cursor_--) out += "\033[D";
  for (; shown_cursor_ < cursor_; shown_cursor_++) out += "\033[C";
  if (!out.empty()) print_(out);
}

void LineEditor::insert(char c) {
  if (line_.size() >= line_bytes) return;
  line_.insert(cursor_++, 1, c);
  redraw();
}

void LineEditor::erase(usize from, usize to) {
  line_.erase(from, to - from);
  cursor_ = from;
  redraw();
}

void LineEditor::show_history(bool older) {
  if (older ? history_at_ == 0 : history_at_ >= history_.size()) return;
  if (history_at_ == history_.size()) stash_ = line_;
  history_at_ += older ? -1 : 1;
  line_ = history_at_ == history_.size() ? stash_ : history_[history_at_];
  cursor_ = line_.size();
  redraw();
}

void LineEditor::tab() {
  if (!complete || cursor_ != line_.size()) return;
  auto found = complete(line_);
  if (found.empty()) return;
  const usize word = line_.find_last_of(' ') == line_.npos ? 0 : line_.find_last_of(' ') + 1;
  const usize have = line_.size() - word;
  std::string common = found[0];
  for (const auto& f : found) {
    usize n = 0;
    while (n < common.size() && n < f.size() && common[n] == f[n]) n++;
    common.resize(n);
  }
  if (common.size() < have) return;
  const bool progress = common.size() > have;
  line_ += common.substr(have);
  if (found.size() == 1) line_ += ' ';
  cursor_ = line_.size();
  redraw();
  if (found.size() == 1 || progress) return;
  std::ranges::sort(found);
  std::string out = "\r\n";
  for (usize i = 0; i < found.size(); i++) out += format("{:<20}{}", found[i], i % 4 == 3 ? "\r\n" : "");
  if (found.size() % 4) out += "\r\n";
  print_(out + prompt_);
  shown_.clear(), shown_cursor_ = 0;
  redraw();
}

bool LineEditor::control_key(u8 byte) {
  switch (byte) {
    case 1: cursor_ = 0; break;             // Ctrl-A
    case 2: cursor_ -= cursor_ > 0; break;  // Ctrl-B
    case 4:
      if (cursor_ < line_.size()) erase(cursor_, cursor_ + 1);
      break;                                           // Ctrl-D
    case 5: cursor_ = line_.size(); break;             // Ctrl-E
    case 6: cursor_ += cursor_ < line_.size(); break;  // Ctrl-F
    case 8:
    case 127:
      if (cursor_ > 0) erase(cursor_ - 1, cursor_);
      break;
    case 9: tab(); break;
    case 10:
    case 13: print_("\r\n"); return true;
    case 11: erase(cursor_, line_.size()); break;  // Ctrl-K
    case 14: show_history(false); break;           // Ctrl-N
    case 16: show_history(true); break;            // Ctrl-P
    case 21: erase(0, cursor_); break;             // Ctrl-U
    case 23: {                                     // Ctrl-W
      usize from = cursor_;
      while (from > 0 && line_[from - 1] == ' ') from--;
      while (from > 0 && line_[from - 1] != ' ') from--;
      erase(from, cursor_);
      break;
    }
    case 27: escape_ = Escape::escape; break;
  }
  redraw();
  return false;
}

void LineEditor::sequence(u8 byte) {
  if (escape_ == Escape::escape) {
    escape_ = byte == '[' || byte == 'O' ? Escape::bracket : Escape::none;
    parameter_ = 0;
    return;
  }
  if (byte >= '0' && byte <= '9') {
    parameter_ = std::min(parameter_ * 10 + (byte - '0'), 1000u);
    return;
  }
  escape_ = Escape::none;
  switch (byte) {
    case 'A': show_history(true); break;
    case 'B': show_history(false); break;
    case 'C': control_key(6); break;
    case 'D': control_key(2); break;
    case 'H': control_key(1); break;
    case 'F': control_key(5); break;
    case '~':
      if (parameter_ == 1) control_key(1);
      if (parameter_ == 3) control_key(4);
      if (parameter_ == 4) control_key(5);
      break;
  }
}

bool LineEditor::key(u8 byte) {
  if (escape_ != Escape::none) return sequence(byte), false;
  if (byte < 32 || byte == 127) return control_key(byte);
  insert(static_cast<char>(byte));
  return false;
}

std::string LineEditor::take_line() {
  std::string line = std::exchange(line_, {});
  cursor_ = 0;
  if (line.find_first_not_of(' ') != line.npos) {
    std::erase(history_, line);
    history_.push_back(line);
    if (history_.size() > history_lines) history_.pop_front();
  }
  return line;
}

}  // namespace vmm::monitor
