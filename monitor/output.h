// Bytes on their way to a chardev: what the host end does not take now waits, up to a limit.
#pragma once

#include <string>
#include <string_view>

#include "src/chardev/chardev.h"

namespace vmm::monitor {

class Output {
 public:
  explicit Output(Chardev& chardev) : chardev_(chardev) {}
  void add(std::string_view text) {
    waiting_ += text;
    flush();
  }
  void flush() {
    while (sent_ < waiting_.size()) {
      const std::string_view rest = std::string_view{waiting_}.substr(sent_);
      const usize n = chardev_.write({reinterpret_cast<const u8*>(rest.data()), rest.size()});
      if (n == 0 || waiting_.empty()) break;
      sent_ += n;
    }
    if (sent_ == waiting_.size())
      waiting_.clear(), sent_ = 0;
    else if (sent_ > 64 * KiB)
      waiting_.erase(0, sent_), sent_ = 0;
  }
  void clear() { waiting_.clear(), sent_ = 0; }
  usize size() const { return waiting_.size() - sent_; }
  // Beyond this no more input is read; beyond the second no more events are sent to a client that does not read.
  bool crowded() const { return size() > 1 * MiB; }
  bool full() const { return size() > 16 * MiB; }

 private:
  Chardev& chardev_;
  std::string waiting_;
  usize sent_ = 0;
};

// Terminal lines end in CR LF.
inline std::string with_crlf(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 32);
  for (char c : text) {
    if (c == '\n' && !out.ends_with('\r')) out += '\r';
    out += c;
  }
  return out;
}

}  // namespace vmm::monitor
