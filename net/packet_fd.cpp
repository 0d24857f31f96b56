#include "net/packet_fd.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/base/bits.h"

namespace vmm::net {

namespace {
constexpr unsigned frames_a_turn = 64;  // then other descriptors have their turn
// The header before frames of a tap: virtio 1.2 §5.1.6, without num_buffers.
struct VnetHeader {
  u8 flags = 0, segment = 0;
  u16 header_bytes = 0, segment_bytes = 0, checksum_start = 0, checksum_offset = 0;
};
static_assert(sizeof(VnetHeader) == 10);
constexpr std::pair<u8, Offload::Segment> segments[] = {{0, Offload::Segment::none},
                                                        {1, Offload::Segment::tcp4},
                                                        {3, Offload::Segment::udp_fragment},
                                                        {4, Offload::Segment::tcp6},
                                                        {5, Offload::Segment::udp4_or_6}};
VnetHeader header_of(const Offload& o) {
  VnetHeader h;
  if (o.needs_checksum)
    h.flags = 1, h.checksum_start = o.checksum_start, h.checksum_offset = o.checksum_offset;
  else if (o.checksum_good)
    h.flags = 2;
  if (o.segment == Offload::Segment::none) return h;
  for (const auto& [code, segment] : segments)
    if (segment == o.segment) h.segment = static_cast<u8>(code | (o.ecn ? 0x80 : 0));
  h.header_bytes = o.header_bytes, h.segment_bytes = o.segment_bytes;
  return h;
}
Offload offload_of(const VnetHeader& h) {
  Offload o{.needs_checksum = (h.flags & 1) != 0,
            .checksum_good = (h.flags & 2) != 0,
            .ecn = (h.segment & 0x80) != 0,
            .header_bytes = h.header_bytes,
            .segment_bytes = h.segment_bytes,
            .checksum_start = h.checksum_start,
            .checksum_offset = h.checksum_offset};
  for (const auto& [code, segment] : segments)
    if (code == (h.segment & 0x7f)) o.segment = segment;
  return o;
}
void no_waiting(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }
}  // namespace

// --- One frame a call

void PacketFdEnd::start(EventLoop& loop, Fd fd, bool vnet_header) {
  stop();
  loop_ = &loop, fd_ = std::move(fd), vnet_header_ = vnet_header;
  no_waiting(fd_.get());
  buffer_.resize(sizeof(VnetHeader) + max_packet_bytes);
  in_.start(loop, fd_.get(), EPOLLIN, [this](u32) { readable(); });
}
void PacketFdEnd::stop() {
  in_.stop(), out_.stop();
  fd_.reset();
  has_frame_ = false;
}

bool PacketFdEnd::hand_on() {
  has_frame_ = true;
  const usize header = vnet_header_ ? sizeof(VnetHeader) : 0;
  VnetHeader h;
  std::memcpy(&h, buffer_.data(), header);
  if (!send(FlatPacket{std::span{buffer_}.subspan(header, frame_bytes_ - header), offload_of(h)})) {
    in_.stop();  // until resume()
    return false;
  }
  has_frame_ = false;
  return true;
}
void PacketFdEnd::readable() {
  for (unsigned n = 0; n < frames_a_turn && fd_; n++) {
    const ssize_t got = ::read(fd_.get(), buffer_.data(), buffer_.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      // A tap whose interface is gone, a socket whose other end is: errors that would come for ever. ECONNREFUSED passes.
      if (got < 0 && (errno == EBADFD || errno == EIO)) in_.stop();
      return;
    }
    frame_bytes_ = static_cast<usize>(got);
    if (frame_bytes_ <= (vnet_header_ ? sizeof(VnetHeader) : 0)) continue;
    if (!hand_on()) return;
  }
}
void PacketFdEnd::resume() {
  if (!fd_) return;
  if (has_frame_ && !hand_on()) return;
  if (!in_.active()) in_.start(*loop_, fd_.get(), EPOLLIN, [this](u32) { readable(); });
}

bool PacketFdEnd::receive(const Packet& packet) {
  if (!fd_) return true;
  if (out_.active()) return false;
  VnetHeader h = header_of(packet.offload);
  std::array<iovec, 64> parts;
  usize used = 0;
  if (vnet_header_) parts[used++] = {&h, sizeof h};
  std::vector<u8> flat;
  if (packet.parts.size() + used <= parts.size()) {
    for (const iovec& p : packet.parts) parts[used++] = p;
  } else {
    flat.resize(packet.size());
    packet.copy_to(flat);
    parts[used++] = {flat.data(), flat.size()};
  }
  ssize_t done;
  do {
    if (to_length_) {
      msghdr m{};
      m.msg_name = &to_, m.msg_namelen = to_length_, m.msg_iov = parts.data(), m.msg_iovlen = used;
      done = ::sendmsg(fd_.get(), &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      done = ::writev(fd_.get(), parts.data(), static_cast<int>(used));
    }
  } while (done < 0 && errno == EINTR);
  if (done >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return true;  // other errors lose the frame, as a cable may
  out_.start(*loop_, fd_.get(), EPOLLOUT, [this](u32) {
    out_.stop();
    ready();
  });
  return false;
}

// --- Streams

void StreamEnd::start(EventLoop& loop, Fd fd) {
  stop();
  loop_ = &loop, fd_ = std::move(fd);
  no_waiting(fd_.get());
  input_.resize(4 + max_packet_bytes);
  taken_ = filled_ = written_ = 0;
  output_.clear();
  in_.start(loop, fd_.get(), EPOLLIN, [this](u32) { readable(); });
  ready();
}
void StreamEnd::stop() {
  in_.stop(), out_.stop();
  fd_.reset();
  taken_ = filled_ = written_ = 0;
  output_.clear();
}
void StreamEnd::over() {
  stop();
  if (ended) ended();
  ready();  // what is sent now is dropped
}

bool StreamEnd::hand_on() {
  while (filled_ - taken_ >= 4) {
    const u8* at = input_.data() + taken_;
    const usize length = usize{at[0]} << 24 | at[1] << 16 | at[2] << 8 | at[3];
    if (length > max_packet_bytes) return over(), false;
    if (filled_ - taken_ - 4 < length) break;
    if (!send(std::span{input_}.subspan(taken_ + 4, length))) return in_.stop(), false;
    if (!fd_) return false;
    taken_ += 4 + length;
  }
  if (taken_) std::memmove(input_.data(), input_.data() + taken_, filled_ - taken_);
  filled_ -= std::exchange(taken_, 0);
  return true;
}
void StreamEnd::readable() {
  const Ref<Netdev> keep{&owner_};
  for (unsigned n = 0; n < 8 && fd_; n++) {
    const ssize_t got = ::read(fd_.get(), input_.data() + filled_, input_.size() - filled_);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) return over();
    filled_ += static_cast<usize>(got);
    if (!hand_on()) return;
  }
}
void StreamEnd::resume() {
  if (!fd_) return;
  if (!hand_on()) return;
  if (!in_.active()) in_.start(*loop_, fd_.get(), EPOLLIN, [this](u32) { readable(); });
}

bool StreamEnd::write_rest() {
  while (written_ < output_.size()) {
    const ssize_t n = ::send(fd_.get(), output_.data() + written_, output_.size() - written_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n <= 0) {
      output_.clear(), written_ = 0;
      return true;  // reading finds out that the other side has gone
    }
    written_ += static_cast<usize>(n);
  }
  output_.clear(), written_ = 0;
  return true;
}
bool StreamEnd::receive(const Packet& packet) {
  if (!fd_) return true;
  if (!output_.empty()) return false;
  const usize size = packet.size();
  output_.resize(4 + size);
  for (unsigned i = 0; i < 4; i++) output_[i] = static_cast<u8>(size >> (24 - 8 * i));
  packet.copy_to(std::span{output_}.subspan(4));
  if (!write_rest())
    out_.start(*loop_, fd_.get(), EPOLLOUT, [this](u32) {
      if (!write_rest()) return;
      out_.stop();
      ready();
    });
  return true;
}

}  // namespace vmm::net
