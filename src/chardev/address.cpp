#include "src/chardev/address.h"

#include "src/base/host.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>
#include <memory>

namespace vmm {

namespace {
Result<u16> port_number(const std::string& text) {
  u16 port = 0;
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || stop != text.data() + text.size()) return fail("port '{}' is not a number from 0 to 65535", text);
  return port;
}

Result<std::pair<sockaddr_un, socklen_t>> unix_address(const SocketAddress& a) {
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  const usize lead = a.abstract ? 1 : 0;
  if (a.path.size() + 1 > sizeof un.sun_path) {
    return std::unexpected(Error{format("UNIX socket path '{}' is too long", a.path)}.with_hint(
        format("Path must be less than {} bytes", sizeof un.sun_path)));
  }
  std::memcpy(un.sun_path + lead, a.path.data(), a.path.size());
  const usize length = a.abstract && a.tight ? offsetof(sockaddr_un, sun_path) + lead + a.path.size() : sizeof un;
  return std::pair{un, socklen_t(length)};
}

Result<std::vector<host::Address>> look_up(const SocketAddress& a, int family, bool passive) {
  auto found = host::look_up({.host = a.host, .port = a.port, .family = family, .type = SOCK_STREAM, .flags = passive ? AI_PASSIVE : 0});
  if (!found) return fail("address resolution failed for {}:{}: {}", a.host, a.port, found.error().message);
  return found;
}
}  // namespace

std::string SocketAddress::text() const {
  return is_unix() ? "unix:" + path : format("tcp:{}:{}", host.contains(':') ? "[" + host + "]" : host, port);
}

Result<Fd> listen_on(SocketAddress& a, u16 to, int family) {
  if (a.is_unix()) {
    const auto [un, length] = TRY(unix_address(a));
    Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!fd) return fail_errno("Failed to create Unix socket");
    // A socket that an earlier run left behind goes; anything else stays.
    struct stat info{};
    if (!a.abstract && ::stat(a.path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) host::remove_file(a.path);
    if (host::bind_socket(fd.get(), reinterpret_cast<const sockaddr*>(&un), length))
      return fail_errno(format("Failed to bind socket to {}", a.path));
    if (::listen(fd.get(), 1)) return fail_errno("Failed to listen on socket");
    return fd;
  }
  const u16 first = TRY(port_number(a.port));
  std::string reason = "no address";
  int number = 0;
  for (u32 port = first; port <= std::max<u32>(first, to); port++) {
    a.port = std::to_string(port);
    const auto list = TRY(look_up(a, family, true));
    for (const host::Address& i : list) {
      Fd fd{::socket(i.family, i.type | SOCK_CLOEXEC | SOCK_NONBLOCK, i.protocol)};
      const int on = 1, off = 0;
      if (fd) {
        ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (i.family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, family == AF_INET6 ? &on : &off, sizeof on);
      }
      if (fd && !::bind(fd.get(), i.get(), i.length) && !::listen(fd.get(), 1)) {
        sockaddr_storage got{};
        socklen_t size = sizeof got;
        if (!port && !::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&got), &size)) {
          const u16 be =
              got.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(got).sin6_port : reinterpret_cast<sockaddr_in&>(got).sin_port;
          a.port = std::to_string(ntohs(be));
        }
        return fd;
      }
      number = errno;
    }
  }
  errno = number;
  return fail_errno("Failed to find an available port");
}

Result<Fd> connect_to(const SocketAddress& a, int family, bool wait) {
  const auto attempt = [&](int fd, const sockaddr* to, socklen_t length) {
    if (::connect(fd, to, length) == 0) return true;
    if (errno != EINPROGRESS) return false;
    if (!wait) return true;
    pollfd p{.fd = fd, .events = POLLOUT, .revents = 0};
    while (::poll(&p, 1, -1) < 0 && errno == EINTR) {
    }
    errno = connect_result(fd);
    return errno == 0;
  };
  if (a.is_unix()) {
    const auto [un, length] = TRY(unix_address(a));
    Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!fd) return fail_errno("Failed to create Unix socket");
    if (!attempt(fd.get(), reinterpret_cast<const sockaddr*>(&un), length)) return fail_errno(format("Failed to connect to '{}'", a.path));
    return fd;
  }
  const auto list = TRY(look_up(a, family, false));
  int number = 0;
  for (const host::Address& i : list) {
    Fd fd{::socket(i.family, i.type | SOCK_CLOEXEC | SOCK_NONBLOCK, i.protocol)};
    if (fd && attempt(fd.get(), i.get(), i.length)) return fd;
    number = errno;
  }
  errno = number;
  return fail_errno(format("Failed to connect to '{}:{}'", a.host, a.port));
}

int connect_result(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) ? errno : error;
}

std::string socket_name(int fd, bool of_the_peer) {
  sockaddr_storage a{};
  socklen_t size = sizeof a;
  auto* at = reinterpret_cast<sockaddr*>(&a);
  if (of_the_peer ? ::getpeername(fd, at, &size) : ::getsockname(fd, at, &size)) return "";
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (::getnameinfo(at, size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV)) return "";
  return a.ss_family == AF_INET6 ? format("[{}]:{}", host, port) : format("{}:{}", host, port);
}

}  // namespace vmm
