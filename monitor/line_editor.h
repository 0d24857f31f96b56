// A line of input that is echoed and redrawn on the terminal, with history, as readers of HMP expect: every change is drawn with
// ESC [ D (cursor left) and ESC [ K (erase to the end). Source: contract.md §4; ECMA-48 for the control sequences.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "src/base/types.h"

namespace vmm::monitor {

class LineEditor {
 public:
  LineEditor(std::string prompt, std::function<void(std::string_view)> print) : prompt_(std::move(prompt)), print_(std::move(print)) {}
  // Completions of the last word of `text`: full words.
  std::function<std::vector<std::string>(std::string_view text)> complete;

  void show_prompt();
  // Takes one byte; true if `line()` is complete (the cursor is on a new line then).
  bool key(u8 byte);
  std::string take_line();
  const std::vector<std::string> history() const { return {history_.begin(), history_.end()}; }

 private:
  enum class Escape { none, escape, bracket };
  void redraw();
  void insert(char c);
  void erase(usize from, usize to);
  void show_history(bool older);
  void tab();
  bool control_key(u8 byte);
  void sequence(u8 byte);

  const std::string prompt_;
  std::function<void(std::string_view)> print_;
  std::string line_, shown_, stash_;
  usize cursor_ = 0, shown_cursor_ = 0;
  std::deque<std::string> history_;
  usize history_at_ = 0;
  Escape escape_ = Escape::none;
  unsigned parameter_ = 0;
};

}  // namespace vmm::monitor
