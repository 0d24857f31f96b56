// The framing of gdb's remote protocol: `$` data `#` two hex digits, acknowledged by `+` or `-`, and a bare 0x03 that interrupts.
// Source: "Debugging with GDB", appendix E.1 (packets, escapes, acknowledgment).
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/types.h"

namespace vmm::gdb {

// The longest packet that we take; gdb is told.
inline constexpr usize packet_bytes = 0x20000;

class PacketReader {
 public:
  enum class Event : u8 { none, packet, bad_checksum, too_long, interrupt, ack, nak };
  Event byte(u8 c);
  // After `packet`: its data with escapes undone. Valid until the next byte.
  std::string_view data() const { return data_; }
  void reset() { state_ = State::outside, data_.clear(); }

 private:
  enum class State : u8 { outside, data, escaped, first_digit, second_digit } state_ = State::outside;
  Event finish();
  std::string data_;
  u8 sum_ = 0, claimed_ = 0;
  bool digits_valid_ = true, too_long_ = false;
};

std::string frame(std::string_view data);       // "$data#sum"
std::string escape(std::string_view binary);    // `# $ } *` as `}` and the character xor 0x20
std::string to_hex(std::span<const u8> bytes);  // lower case
inline std::string to_hex(std::string_view text) { return to_hex({reinterpret_cast<const u8*>(text.data()), text.size()}); }
std::optional<std::vector<u8>> from_hex(std::string_view text);  // an even number of digits
// Takes a hexadecimal number off the front; none: nothing was taken. Too large for 64 bits: none.
std::optional<u64> take_hex(std::string_view& text);
bool take(std::string_view& text, std::string_view prefix);

}  // namespace vmm::gdb
