// Datagram sockets: the back end `dgram`, and `socket` with mcast= and udp=. One frame a datagram. Sources: udp(7), ip(7), unix(7).
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "net/packet_fd.h"
#include "net/stream.h"
#include "src/base/host.h"
#include "src/io/fd_set.h"

namespace vmm::net {

namespace {

struct DgramOptions {
  std::optional<Value> local, remote;
};
struct SocketOptions {
  std::optional<std::string> fd, listen, connect, mcast, localaddr, udp;
};

class DgramNetdev final : public Netdev {
 public:
  static const TypeInfo type;
  ~DgramNetdev() override {
    end_.stop();
    if (!path_.empty()) host::remove_file(path_);
  }
  std::string_view kind() const override { return kind_; }
  std::string info() const override { return info_; }
  End& queue(unsigned) override { return end_; }
  Result<> open_inet(EventLoop& loop, const std::optional<SocketAddress>& local, const std::optional<SocketAddress>& remote);
  Result<> open_multicast(EventLoop& loop, const SocketAddress& group, const std::string& interface);
  Result<> open_unix(EventLoop& loop, const std::string& local, const std::string& remote);
  Result<> open_fd(EventLoop& loop, Fd fd);
  std::string kind_ = "dgram";

 private:
  std::string info_, path_;
  PacketFdEnd end_{*this};
};
constinit const TypeInfo DgramNetdev::type{
    .name = "netdev-dgram", .doc = "A datagram socket.", .parent = &Netdev::type, .user_creatable = false};
const Registered registered{DgramNetdev::type};

Result<sockaddr_in> ipv4(const SocketAddress& a) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  const auto found =
      host::look_up({.host = a.host, .port = a.port, .family = AF_INET, .type = SOCK_DGRAM, .flags = a.host.empty() ? AI_PASSIVE : 0});
  if (!found) return fail("can't resolve host address '{}:{}': {}", a.host, a.port, found.error().message);
  std::memcpy(&to, found->front().get(), sizeof to);
  return to;
}
sockaddr_storage storage(const void* from, usize bytes) {
  sockaddr_storage s{};
  std::memcpy(&s, from, bytes);
  return s;
}
Result<Fd> udp_socket() {
  Fd fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd) return fail_errno("can't create datagram socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  return fd;
}

Result<> DgramNetdev::open_inet(EventLoop& loop, const std::optional<SocketAddress>& local, const std::optional<SocketAddress>& remote) {
  Fd fd = TRY(udp_socket());
  if (local) {
    const sockaddr_in at = TRY(ipv4(*local));
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) < 0)
      return fail_errno(format("can't bind ip={}:{} to socket", local->host, local->port));
  }
  if (remote) {
    const sockaddr_in to = TRY(ipv4(*remote));
    end_.send_to(storage(&to, sizeof to), sizeof to);
    info_ = format("udp={}:{}", remote->host, remote->port);
  }
  end_.start(loop, std::move(fd), false);
  return {};
}
Result<> DgramNetdev::open_multicast(EventLoop& loop, const SocketAddress& group, const std::string& interface) {
  const sockaddr_in to = TRY(ipv4(group));
  if (!IN_MULTICAST(ntohl(to.sin_addr.s_addr))) return fail("specified mcastaddr {} does not contain a multicast address", group.host);
  Fd fd = TRY(udp_socket());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) < 0)
    return fail_errno(format("can't bind ip={}:{} to socket", group.host, group.port));
  ip_mreq join{};
  join.imr_multiaddr = to.sin_addr;
  if (!interface.empty() && ::inet_pton(AF_INET, interface.c_str(), &join.imr_interface) != 1)
    return fail("localaddr '{}' is not an IPv4 address", interface);
  if (::setsockopt(fd.get(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) < 0)
    return fail_errno(format("can't add socket to multicast group {}", group.host));
  const int on = 1;  // two emulators of one host are to hear each other
  ::setsockopt(fd.get(), IPPROTO_IP, IP_MULTICAST_LOOP, &on, sizeof on);
  if (!interface.empty()) ::setsockopt(fd.get(), IPPROTO_IP, IP_MULTICAST_IF, &join.imr_interface, sizeof join.imr_interface);
  end_.send_to(storage(&to, sizeof to), sizeof to);
  end_.start(loop, std::move(fd), false);
  info_ = format("mcast={}:{}", group.host, group.port);
  return {};
}
Result<> DgramNetdev::open_unix(EventLoop& loop, const std::string& local, const std::string& remote) {
  sockaddr_un at{};
  if (local.size() >= sizeof at.sun_path || remote.size() >= sizeof at.sun_path)
    return fail("a socket's path has {} characters at most", sizeof at.sun_path - 1);
  Fd fd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd) return fail_errno("can't create datagram socket");
  at.sun_family = AF_UNIX;
  local.copy(at.sun_path, local.size());
  host::remove_file(local);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) < 0)
    return fail_errno(format("can't bind unix={} to socket", local));
  path_ = local;
  if (!remote.empty()) {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    remote.copy(to.sun_path, remote.size());
    end_.send_to(storage(&to, sizeof to), sizeof to);
  }
  end_.start(loop, std::move(fd), false);
  info_ = format("udp={}:{}", local, remote);
  return {};
}
Result<> DgramNetdev::open_fd(EventLoop& loop, Fd fd) {
  info_ = format("fd={}", fd.get());
  end_.start(loop, std::move(fd), false);
  return {};
}

std::string text(const Value& tree, std::string_view key) {
  const Value* v = tree.find(key);
  return v && v->is_string() ? v->get_string() : std::string{};
}
Result<> open_dgram(DgramNetdev& n, EventLoop& loop, const DgramOptions& o) {
  const Value local = o.local.value_or(Value::object()), remote = o.remote.value_or(Value::object());
  const auto address = [](const Value& v) { return SocketAddress{.path = {}, .host = text(v, "host"), .port = text(v, "port")}; };
  const std::string type = text(o.local ? local : remote, "type");
  if (type == "fd") return n.open_fd(loop, TRY(io::take_named_fd(text(local, "str"))));
  if (type == "unix") {
    if (!o.local || text(local, "path").empty()) return fail("type=unix requires a local parameter");
    if (!o.remote || text(remote, "path").empty()) return fail("type=unix requires remote parameter");
    return n.open_unix(loop, text(local, "path"), text(remote, "path"));
  }
  if (type != "inet") return fail("dgram requires local= or remote= parameter");
  if (o.remote) {
    const SocketAddress to = address(remote);
    const sockaddr_in at = TRY(ipv4(to));
    if (IN_MULTICAST(ntohl(at.sin_addr.s_addr))) return n.open_multicast(loop, to, text(local, "host"));
    if (!o.local) return fail("type=inet requires remote parameter and a local one, unless it is multicast");
    return n.open_inet(loop, address(local), to);
  }
  return n.open_inet(loop, address(local), std::nullopt);
}

Result<Ref<Netdev>> make_socket(EventLoop& loop, const SocketOptions& o) {
  if (o.fd.has_value() + o.listen.has_value() + o.connect.has_value() + o.mcast.has_value() + o.udp.has_value() != 1)
    return fail("exactly one of listen=, connect=, mcast= or udp= is required");
  if (o.localaddr && !o.mcast && !o.udp) return fail("localaddr= is only valid with mcast= or udp=");
  if (o.listen) return make_stream_socket(loop, *o.listen, true);
  if (o.connect) return make_stream_socket(loop, *o.connect, false);
  const Ref<DgramNetdev> netdev = make_object<DgramNetdev>();
  netdev->kind_ = "socket";
  if (o.fd) {
    Fd fd = TRY(io::take_named_fd(*o.fd));
    int kind = 0;
    socklen_t size = sizeof kind;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &kind, &size) < 0) return fail_errno("descriptor is no socket");
    if (kind == SOCK_STREAM) return make_stream_fd(loop, std::move(fd));
    TRY(netdev->open_fd(loop, std::move(fd)));
  } else if (o.mcast) {
    TRY(netdev->open_multicast(loop, TRY(parse_host_port(*o.mcast)), o.localaddr.value_or("")));
  } else {
    if (!o.localaddr) return fail("localaddr= is mandatory with udp=");
    TRY(netdev->open_inet(loop, TRY(parse_host_port(*o.localaddr)), TRY(parse_host_port(*o.udp))));
  }
  return Ref<Netdev>{netdev};
}

}  // namespace
}  // namespace vmm::net

namespace vmm {
using net::DgramOptions;
template <>
inline constexpr std::array fields<DgramOptions> = {
    field<&DgramOptions::local>("local", "Our own address: local.type=inet|unix|fd and its keys."),
    field<&DgramOptions::remote>("remote", "Where frames go: remote.type=inet|unix and its keys."),
};
template <>
inline constexpr std::array fields<net::SocketOptions> = {
    field<&net::SocketOptions::fd>("fd", "An open socket: a number, or a name given by getfd."),
    field<&net::SocketOptions::listen>("listen", "Wait for a connection at [host]:port."),
    field<&net::SocketOptions::connect>("connect", "Connect to host:port."),
    field<&net::SocketOptions::mcast>("mcast", "Multicast group: address:port."),
    field<&net::SocketOptions::localaddr>("localaddr", "Our own address, or that of the interface."),
    field<&net::SocketOptions::udp>("udp", "Datagrams to host:port."),
};
}  // namespace vmm

namespace vmm::net {
namespace {
const RegisteredNetdev dgram_kind{{
    .name = "dgram",
    .doc = "a datagram socket",
    .options = fields<DgramOptions>,
    .make = [](EventLoop& loop, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      const DgramOptions o = TRY(read_options<DgramOptions>(options));
      const Ref<DgramNetdev> made = make_object<DgramNetdev>();
      TRY(open_dgram(*made, loop, o));
      return Ref<Netdev>{made};
    },
}};
const RegisteredNetdev socket_kind{{
    .name = "socket",
    .doc = "stream or datagram sockets, in older words",
    .options = fields<SocketOptions>,
    .make = [](EventLoop& loop, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      return make_socket(loop, TRY(read_options<SocketOptions>(options)));
    },
}};
}  // namespace
}  // namespace vmm::net
