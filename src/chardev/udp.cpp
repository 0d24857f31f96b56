// Datagrams: each write is one, and what comes is delivered as the front end takes it.
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "src/base/host.h"
#include "src/chardev/make.h"
#include "src/chardev/stream.h"

namespace vmm {

namespace {

struct UdpOptions {
  std::optional<std::string> host, port, localaddr, localport;
  std::optional<bool> ipv4, ipv6;
};

class UdpChardev final : public StreamChardev {
 public:
  static const TypeInfo type;
  ~UdpChardev() override { end(); }
  void open(EventLoop& loop, Fd socket) {
    socket_ = std::move(socket);
    open_ = true;
    use(loop, socket_.get(), socket_.get());
  }
  std::string filename() const override { return "udp"; }

 private:
  // A datagram that does not fit is kept: the rest of it would be lost otherwise.
  ssize_t receive_some(std::span<u8> into) override {
    if (at_ == length_) {
      const ssize_t n = ::recv(socket_.get(), datagram_.data(), datagram_.size(), MSG_DONTWAIT);
      if (n < 0) {
        // Nobody listened at the other end when we sent; that is no end of ours.
        if (errno == ECONNREFUSED) errno = EAGAIN;
        return n;
      }
      at_ = 0, length_ = usize(n);
      if (!n) return errno = EAGAIN, -1;
    }
    const usize n = std::min(into.size(), length_ - at_);
    std::memcpy(into.data(), datagram_.data() + at_, n);
    at_ += n;
    if (at_ < length_) loop().post([keep = Ref<UdpChardev>{this}] { keep->more(); });
    return ssize_t(n);
  }
  void more() {
    while (at_ < length_ && front_) {
      const usize n = std::min(front_->can_receive(), length_ - at_);
      if (!n) return;  // accept_input() comes back to it
      const usize from = std::exchange(at_, at_ + n);
      deliver(std::span{datagram_}.subspan(from, n));
    }
  }
  void update_input() override {
    if (at_ < length_) loop().post([keep = Ref<UdpChardev>{this}] { keep->more(); });
    StreamChardev::update_input();
  }
  ssize_t send_some(std::span<const u8> bytes) override {
    const ssize_t n = ::send(socket_.get(), bytes.data(), std::min<usize>(bytes.size(), 65000), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return ssize_t(bytes.size());  // lost, as datagrams are
    return n;
  }

  Fd socket_;
  std::array<u8, 65536> datagram_;
  usize at_ = 0, length_ = 0;
};
constinit const TypeInfo UdpChardev::type{
    .name = "chardev-udp", .doc = "Datagrams.", .parent = &Chardev::type, .make = make<UdpChardev>, .user_creatable = false};
const Registered registered{UdpChardev::type};

Result<host::Address> look_up(const std::string& host, const std::string& port, int family, int flags) {
  const auto found = host::look_up({.host = host, .port = port, .family = family, .type = SOCK_DGRAM, .flags = flags});
  if (!found) return fail("address resolution failed for {}:{}: {}", host, port, found.error().message);
  return found->front();
}

}  // namespace

template <>
inline constexpr std::array fields<UdpOptions> = {
    field<&UdpOptions::host>("host", "Where datagrams go."),
    field<&UdpOptions::port>("port", "Its port."),
    field<&UdpOptions::localaddr>("localaddr", "Where they are received."),
    field<&UdpOptions::localport>("localport", "Its port."),
    field<&UdpOptions::ipv4>("ipv4", "Use IPv4."),
    field<&UdpOptions::ipv6>("ipv6", "Use IPv6."),
};

namespace {
Result<Ref<Chardev>> make_udp(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<UdpOptions>(value));
  if (!options.port) return fail("chardev: udp: remote port not specified");
  const int family = options.ipv4.value_or(false) ? AF_INET : options.ipv6.value_or(false) ? AF_INET6 : AF_UNSPEC;
  const auto remote = TRY(look_up(options.host.value_or("localhost"), *options.port, family, 0));
  const auto local = TRY(look_up(options.localaddr.value_or(""), options.localport.value_or("0"), remote.family, AI_PASSIVE));
  Fd fd{::socket(remote.family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd) return fail_errno("Failed to create socket");
  if (::bind(fd.get(), local.get(), local.length)) return fail_errno("Failed to bind socket");
  if (::connect(fd.get(), remote.get(), remote.length)) return fail_errno("Failed to connect socket");
  auto chardev = make_object<UdpChardev>();
  chardev->open(loop, std::move(fd));
  return Ref<Chardev>{chardev};
}
const RegisteredChardev kind_udp{{.name = "udp", .doc = "datagrams", .options = fields<UdpOptions>, .make = make_udp}};
}  // namespace
}  // namespace vmm
