#include "src/io/websocket.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <optional>
#include <string_view>

#include "src/base/bits.h"
#include "src/base/format.h"
#include "src/value/base64.h"

namespace vmm {

namespace {

constexpr usize longest_request = 8192;
constexpr std::string_view guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
enum Opcode : u8 { op_continuation = 0, op_text = 1, op_binary = 2, op_close = 8, op_ping = 9, op_pong = 10 };

bool same_word(std::string_view a, std::string_view b) {
  return std::ranges::equal(
      a, b, [](char x, char y) { return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y)); });
}
std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}
// One of a header's comma-separated words.
bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const usize comma = std::min(list.find(','), list.size());
    if (same_word(trimmed(list.substr(0, comma)), word)) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}
std::optional<std::string_view> header(std::string_view request, std::string_view name) {
  while (!request.empty()) {
    const usize end = std::min(request.find('\n'), request.size());
    const std::string_view line = request.substr(0, end);
    request.remove_prefix(std::min(end + 1, request.size()));
    const usize colon = line.find(':');
    if (colon != line.npos && same_word(trimmed(line.substr(0, colon)), name)) return trimmed(line.substr(colon + 1));
  }
  return std::nullopt;
}
void append(std::vector<u8>& out, std::string_view text) { out.insert(out.end(), text.begin(), text.end()); }

}  // namespace

// FIPS 180-4, §6.1.
std::vector<u8> sha1(std::span<const u8> data) {
  u32 h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  std::vector<u8> text{data.begin(), data.end()};
  text.push_back(0x80);
  while (text.size() % 64 != 56) text.push_back(0);
  text.resize(text.size() + 8);
  store_be<u64>(&text[text.size() - 8], u64{data.size()} * 8);
  for (usize block = 0; block < text.size(); block += 64) {
    u32 w[80];
    for (unsigned i = 0; i < 16; i++) w[i] = load_be<u32>(&text[block + 4 * i]);
    for (unsigned i = 16; i < 80; i++) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    u32 a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (unsigned i = 0; i < 80; i++) {
      const u32 f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
      static constexpr u32 k[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
      const u32 next = std::rotl(a, 5) + f + e + k[i / 20] + w[i];
      e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
  }
  std::vector<u8> out(20);
  for (unsigned i = 0; i < 5; i++) store_be<u32>(&out[4 * i], h[i]);
  return out;
}

void WebSocket::wrap(std::span<const u8> data, std::vector<u8>& out) {
  out.push_back(0x80 | op_binary);
  if (data.size() < 126) {
    out.push_back(static_cast<u8>(data.size()));
  } else if (data.size() < 65536) {
    out.push_back(126);
    out.resize(out.size() + 2);
    store_be<u16>(&out[out.size() - 2], static_cast<u16>(data.size()));
  } else {
    out.push_back(127);
    out.resize(out.size() + 8);
    store_be<u64>(&out[out.size() - 8], data.size());
  }
  out.insert(out.end(), data.begin(), data.end());
}

WebSocket::Verdict WebSocket::handshake(std::vector<u8>& reply) {
  const auto key = header(request_, "Sec-WebSocket-Key"), upgrade = header(request_, "Upgrade"),
             connection = header(request_, "Connection"), version = header(request_, "Sec-WebSocket-Version"),
             protocol = header(request_, "Sec-WebSocket-Protocol");
  if (!request_.starts_with("GET ") || !key || !upgrade || !connection || !same_word(*upgrade, "websocket") ||
      !has_word(*connection, "upgrade")) {
    append(reply, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    return Verdict::close;
  }
  if (!version || *version != "13") {
    append(reply, "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    return Verdict::close;
  }
  const std::string joined = std::string{*key} + std::string{guid};
  const auto sum = sha1({reinterpret_cast<const u8*>(joined.data()), joined.size()});
  append(reply,
         format("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n{}\r\n",
                to_base64(sum), protocol && has_word(*protocol, "binary") ? "Sec-WebSocket-Protocol: binary\r\n" : ""));
  request_.clear();
  state_ = State::head;
  return Verdict::go_on;
}

// All of a frame's head has come.
WebSocket::Verdict WebSocket::frame_head() {
  const u8 reserved = head_[0] & 0x70;
  opcode_ = head_[0] & 0x0f;
  const u8 size = head_[1] & 0x7f;
  const bool masked = head_[1] & 0x80, known = opcode_ <= op_binary || (opcode_ >= op_close && opcode_ <= op_pong);
  left_ = size == 126 ? load_be<u16>(&head_[2]) : size == 127 ? load_be<u64>(&head_[2]) : size;
  // What clients send is masked (§5.1); control frames are short and whole (§5.5).
  if (reserved || !masked || !known || (opcode_ >= op_close && (left_ > 125 || !(head_[0] & 0x80))) || left_ >> 63) return Verdict::close;
  std::copy_n(&head_[head_.size() - 4], 4, mask_);
  mask_at_ = 0;
  head_.clear(), control_.clear();
  state_ = State::payload;
  return Verdict::go_on;
}

WebSocket::Verdict WebSocket::frame_end(std::vector<u8>& reply) {
  state_ = State::head;
  if (opcode_ != op_close && opcode_ != op_ping) return Verdict::go_on;
  reply.push_back(static_cast<u8>(0x80 | (opcode_ == op_ping ? op_pong : op_close)));
  reply.push_back(static_cast<u8>(control_.size()));
  reply.insert(reply.end(), control_.begin(), control_.end());
  return opcode_ == op_close ? Verdict::close : Verdict::go_on;
}

WebSocket::Verdict WebSocket::receive(std::span<const u8> bytes, std::vector<u8>& data, std::vector<u8>& reply) {
  for (usize at = 0; at < bytes.size();) {
    if (state_ == State::request) {
      request_ += static_cast<char>(bytes[at++]);
      if (request_.ends_with("\r\n\r\n")) {
        if (handshake(reply) == Verdict::close) return Verdict::close;
      } else if (request_.size() >= longest_request) {
        append(reply, "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        return Verdict::close;
      }
    } else if (state_ == State::head) {
      head_.push_back(bytes[at++]);
      if (head_.size() < 2) continue;
      const u8 size = head_[1] & 0x7f;
      const usize due = 2 + (size == 126 ? 2u : size == 127 ? 8u : 0u) + (head_[1] & 0x80 ? 4u : 0u);
      if (head_.size() < due) continue;
      if (frame_head() == Verdict::close) return Verdict::close;
      if (left_ == 0 && frame_end(reply) == Verdict::close) return Verdict::close;
    } else {
      const usize n = static_cast<usize>(std::min<u64>(left_, bytes.size() - at));
      std::vector<u8>& to = opcode_ >= op_close ? control_ : data;
      for (usize i = 0; i < n; i++) to.push_back(bytes[at + i] ^ mask_[mask_at_++ & 3]);
      at += n, left_ -= n;
      if (left_ == 0 && frame_end(reply) == Verdict::close) return Verdict::close;
    }
  }
  return Verdict::go_on;
}

}  // namespace vmm
