// Ends that are descriptors: one frame a read or write (tap, datagram sockets), or frames with a length before them (streams).
#pragma once

#include <sys/socket.h>

#include "net/net.h"

namespace vmm::net {

// One frame a call. With `vnet_header` each has the ten bytes of virtio's header before it.
class PacketFdEnd : public End {
 public:
  explicit PacketFdEnd(Netdev& owner) : owner_(owner) {}
  ~PacketFdEnd() override { stop(); }
  void start(EventLoop& loop, Fd fd, bool vnet_header);
  void stop();
  int fd() const { return fd_.get(); }
  void set_takes(const OffloadSet& set) { takes_ = set; }
  // Datagram sockets: where frames go; none: the socket is connected, or not a socket.
  void send_to(const sockaddr_storage& to, socklen_t length) { to_ = to, to_length_ = length; }

  bool receive(const Packet& packet) override;
  OffloadSet takes() const override { return takes_; }
  void resume() override;
  Netdev* netdev() override { return &owner_; }

 private:
  void readable();
  bool hand_on();  // the frame at hand; false: the peer is full
  Netdev& owner_;
  EventLoop* loop_ = nullptr;
  Fd fd_;
  bool vnet_header_ = false, has_frame_ = false;
  OffloadSet takes_;
  sockaddr_storage to_{};
  socklen_t to_length_ = 0;
  FdWatch in_, out_;
  std::vector<u8> buffer_;
  usize frame_bytes_ = 0;
};

// Frames after a 32-bit big-endian length, on a stream socket.
class StreamEnd : public End {
 public:
  explicit StreamEnd(Netdev& owner) : owner_(owner) {}
  ~StreamEnd() override { stop(); }
  void start(EventLoop& loop, Fd fd);
  void stop();
  bool active() const { return static_cast<bool>(fd_); }
  int fd() const { return fd_.get(); }
  std::function<void()> ended;  // the other side has gone; the end is stopped

  bool receive(const Packet& packet) override;
  void resume() override;
  Netdev* netdev() override { return &owner_; }

 private:
  void readable();
  bool hand_on();  // whole frames in the buffer; false: the peer is full, or the connection is over
  bool write_rest();
  void over();
  Netdev& owner_;
  EventLoop* loop_ = nullptr;
  Fd fd_;
  FdWatch in_, out_;
  std::vector<u8> input_, output_;
  usize taken_ = 0, filled_ = 0, written_ = 0;
};

}  // namespace vmm::net
