// The server's side of a websocket: the handshake, and frames both ways. Source: RFC 6455. A function of bytes; no sockets here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/types.h"

namespace vmm {

class WebSocket {
 public:
  enum class Verdict : u8 { go_on, close };
  // Bytes of the peer in any portions: what they carry goes to `data`, what must be answered to `reply`. After `close` the reply is still
  // to be sent, and nothing more is taken.
  Verdict receive(std::span<const u8> bytes, std::vector<u8>& data, std::vector<u8>& reply);
  bool open() const { return state_ != State::request; }  // the handshake is over
  // One binary frame.
  static void wrap(std::span<const u8> data, std::vector<u8>& out);

 private:
  enum class State : u8 { request, head, payload };
  Verdict handshake(std::vector<u8>& reply);
  Verdict frame_head();
  Verdict frame_end(std::vector<u8>& reply);
  State state_ = State::request;
  std::string request_;
  std::vector<u8> head_, control_;
  u8 opcode_ = 0;
  u64 left_ = 0;
  u8 mask_[4] = {};
  unsigned mask_at_ = 0;
};

// Twenty bytes.
std::vector<u8> sha1(std::span<const u8> data);

}  // namespace vmm
