#include "src/gdbstub/packet.h"

#include "src/base/format.h"

namespace vmm::gdb {
namespace {

int digit(u8 c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

PacketReader::Event PacketReader::byte(u8 c) {
  switch (state_) {
    case State::outside:
      if (c == 3) return Event::interrupt;
      if (c == '+') return Event::ack;
      if (c == '-') return Event::nak;
      if (c != '$') return Event::none;
      state_ = State::data, data_.clear(), sum_ = 0, digits_valid_ = true, too_long_ = false;
      return Event::none;
    case State::data:
      if (c == '#') return state_ = State::first_digit, Event::none;
      // The other side gave this packet up and begins anew.
      if (c == '$') return data_.clear(), sum_ = 0, too_long_ = false, Event::none;
      sum_ = static_cast<u8>(sum_ + c);
      if (c == '}') return state_ = State::escaped, Event::none;
      data_.size() < packet_bytes ? data_.push_back(static_cast<char>(c)) : void(too_long_ = true);
      return Event::none;
    case State::escaped:
      sum_ = static_cast<u8>(sum_ + c);
      data_.size() < packet_bytes ? data_.push_back(static_cast<char>(c ^ 0x20)) : void(too_long_ = true);
      state_ = State::data;
      return Event::none;
    case State::first_digit:
      digits_valid_ = digit(c) >= 0;
      claimed_ = static_cast<u8>(digit(c) << 4);
      state_ = State::second_digit;
      return Event::none;
    case State::second_digit:
      digits_valid_ = digits_valid_ && digit(c) >= 0;
      claimed_ = static_cast<u8>(claimed_ | (digit(c) & 15));
      state_ = State::outside;
      if (!digits_valid_ || claimed_ != sum_) return Event::bad_checksum;
      return too_long_ ? Event::too_long : Event::packet;
  }
  return Event::none;
}

std::string frame(std::string_view data) {
  u8 sum = 0;
  for (const char c : data) sum = static_cast<u8>(sum + static_cast<u8>(c));
  return format("${}#{:02x}", data, sum);
}

std::string escape(std::string_view binary) {
  std::string out;
  out.reserve(binary.size());
  for (const char c : binary) {
    if (c == '#' || c == '$' || c == '}' || c == '*') {
      out += '}', out += static_cast<char>(c ^ 0x20);
    } else {
      out += c;
    }
  }
  return out;
}

std::string to_hex(std::span<const u8> bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const u8 b : bytes) out += digits[b >> 4], out += digits[b & 15];
  return out;
}

std::optional<std::vector<u8>> from_hex(std::string_view text) {
  if (text.size() % 2) return std::nullopt;
  std::vector<u8> out;
  out.reserve(text.size() / 2);
  for (usize i = 0; i < text.size(); i += 2) {
    const int high = digit(static_cast<u8>(text[i])), low = digit(static_cast<u8>(text[i + 1]));
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<u8>(high << 4 | low));
  }
  return out;
}

std::optional<u64> take_hex(std::string_view& text) {
  u64 value = 0;
  usize n = 0, significant = 0;
  for (; n < text.size() && digit(static_cast<u8>(text[n])) >= 0; n++) {
    value = value << 4 | static_cast<u64>(digit(static_cast<u8>(text[n])));
    significant += value != 0;
  }
  if (n == 0 || significant > 16) return std::nullopt;
  text.remove_prefix(n);
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace vmm::gdb
