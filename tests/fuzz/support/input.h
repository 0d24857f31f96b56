// The bytes of a fuzzer's input, taken one value after the other; zeros once they are used up.
#pragma once

#include <cstring>
#include <string_view>

#include "src/base/types.h"

namespace vmm::fuzz {

class Input {
 public:
  Input(const u8* data, usize size) : data_(data), left_(size) {}
  bool more() const { return left_ > 0; }
  template <class T>
  T take() {
    T value = 0;
    const usize n = std::min(left_, sizeof value);
    std::memcpy(&value, data_, n);
    data_ += n, left_ -= n;
    return value;
  }
  std::string_view line() {  // without its end
    const std::string_view all{reinterpret_cast<const char*>(data_), left_};
    const auto line = all.substr(0, all.find('\n'));
    const usize n = std::min(line.size() + 1, left_);
    data_ += n, left_ -= n;
    return line;
  }

 private:
  const u8* data_;
  usize left_;
};

}  // namespace vmm::fuzz
