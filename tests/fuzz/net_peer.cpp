// What a hostile peer sends: bytes on a stream with lengths before the frames, datagrams with the header of a tap before them. Every frame
// that comes in could be on a cable, whatever the offload words say; an end that is now and then full holds the peer and loses nothing in
// between.
#include <sys/socket.h>

#include <algorithm>

#include "net/packet_fd.h"
#include "src/base/assert.h"

namespace {
using namespace vmm;

class Card final : public net::End {
 public:
  explicit Card(u8 kind) : kind_(kind) {}
  bool receive(const net::Packet& packet) override {
    ASSERT(packet.size() >= 14 && packet.size() <= net::max_packet_bytes);
    ASSERT(takes().takes(packet.offload) || !packet.offload.undone());
    return ++count_ % 4 != 0;
  }
  net::OffloadSet takes() const override { return {.checksum = (kind_ & 1) != 0, .tcp4 = (kind_ & 2) != 0, .tcp6 = (kind_ & 4) != 0}; }

 private:
  u8 kind_;
  unsigned count_ = 0;
};
class Owner final : public net::Netdev {
 public:
  std::string_view kind() const override { return "fuzz"; }
  std::string info() const override { return {}; }
  net::End& queue(unsigned) override { return *end; }
  net::End* end = nullptr;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  if (size < 2) return 0;
  const bool stream = data[0] & 1, header = data[0] & 2;
  EventLoop loop;
  const Ref<Owner> owner = make_object<Owner>();
  int pair[2];
  ASSERT(::socketpair(AF_UNIX, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
  const Fd peer{pair[0]};
  net::StreamEnd over_stream{*owner};
  net::PacketFdEnd by_packet{*owner};
  net::End& end = stream ? static_cast<net::End&>(over_stream) : by_packet;
  owner->end = &end;
  Card card{data[1]};
  net::End::link(end, card);
  if (stream)
    over_stream.start(loop, Fd{pair[1]});
  else
    by_packet.start(loop, Fd{pair[1]}, header);
  for (usize at = 2; at < size;) {
    const usize n = std::min<usize>(usize{data[at]} * 8 + 1, size - at);
    (void)::send(peer.get(), data + at, n, MSG_NOSIGNAL);
    loop.run_once(false);
    if (data[at] & 1) card.ready();
    if (data[at] & 2) card.send(std::span{data, std::min<usize>(size, 200)});
    at += n;
  }
  for (unsigned i = 0; i < 8; i++) loop.run_once(false), card.ready();
  over_stream.stop(), by_packet.stop();
  end.unlink();
  return 0;
}
