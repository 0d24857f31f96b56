// Sockets: unix and TCP, listening or connecting, with the telnet protocol's few codes where wanted (RFC 854, 857, 858, 856).
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>

#include "src/base/host.h"
#include "src/base/log.h"
#include "src/chardev/address.h"
#include "src/chardev/make.h"
#include "src/chardev/stream.h"
#include "src/io/fd_set.h"

namespace vmm {

namespace {

struct SocketOptions {
  std::optional<std::string> path, host, port, fd;
  std::optional<bool> server, wait, nodelay, delay, telnet, tn3270, websocket, abstract, tight, ipv4, ipv6, keep_alive;
  std::optional<u32> reconnect;
  std::optional<u64> reconnect_ms;
  std::optional<u16> to;
  std::optional<std::string> tls_creds, tls_authz;
};
constexpr usize descriptor_limit = 16;

class SocketChardev final : public StreamChardev {
 public:
  static const TypeInfo type;
  ~SocketChardev() override {
    end();
    connecting_.stop(), listening_.stop(), retry_.stop();
    if (listener_ && made_socket_file_) host::remove_file(address_.path);
  }

  Result<> open(EventLoop& loop, const SocketOptions& o);
  std::string filename() const override {
    if (!socket_) return (connecting_.active() ? "connecting:" : "disconnected:") + listening_name();
    if (address_.is_unix()) return address_.text() + suffix();
    if (address_.port.empty()) return "fd:" + suffix();
    return format("tcp:{}{} <-> {}", socket_name(socket_.get(), !server_), suffix(), socket_name(socket_.get(), server_));
  }
  Fd take_fd() override {
    if (descriptors_.empty()) return Fd{};
    Fd first = std::move(descriptors_.front());
    descriptors_.erase(descriptors_.begin());
    return first;
  }
  void keep_to_own_user() override {
    if (!made_socket_file_) return;  // a listener that was handed down is its maker's to guard
    own_user_ = true;
    // Never more than the umask has left.
    struct stat info{};
    if (::stat(address_.path.c_str(), &info) == 0) ::chmod(address_.path.c_str(), info.st_mode & 0600);
    if (socket_ && !may_command(socket_.get())) disconnect();
  }

 private:
  bool may_command(int fd) {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == 0 || peer.uid == ::getuid() || peer.uid == maker_))
      return true;
    // Once a user: who may not command us may not fill our log either.
    if (std::exchange(refused_, peer.uid) != peer.uid)
      report_warning(
          format("{}: refused a connection by user {}: only user {} and root may command this machine", address_.path, peer.uid, maker_));
    return false;
  }
  std::string suffix() const { return server_ ? ",server=on" : ""; }
  std::string listening_name() const {
    if (!address_.is_unix() && address_.port.empty()) return "fd" + suffix();
    return (telnet_ ? "telnet" + address_.text().substr(3) : address_.text()) + suffix();
  }
  void take(Fd socket);
  void accept_one();
  void try_to_connect();
  void retry_later();
  void disconnect();
  void watch_hang_up();

  bool takes_output() const override { return bool(socket_); }
  ssize_t send_some(std::span<const u8> bytes) override {
    return ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  ssize_t receive_some(std::span<u8> into) override;
  usize filter_input(std::span<u8> bytes) override;
  void input_ended() override { disconnect(); }
  void output_failed() override { disconnect(); }

  SocketAddress address_;
  int family_ = AF_UNSPEC;
  bool server_ = false, telnet_ = false, nodelay_ = false, made_socket_file_ = false, own_user_ = false;
  uid_t refused_ = 0;               // root is not
  const uid_t maker_ = ::getuid();  // before -run-with user=
  Nanoseconds reconnect_{0};
  Fd listener_, socket_, pending_, timer_;
  FdWatch listening_, connecting_, retry_, hang_up_;
  std::vector<Fd> descriptors_;
  enum class Telnet : u8 { data, command, option } telnet_state_ = Telnet::data;
};
constinit const TypeInfo SocketChardev::type{
    .name = "chardev-socket", .doc = "Stream sockets.", .parent = &Chardev::type, .make = make<SocketChardev>, .user_creatable = false};
const Registered registered{SocketChardev::type};

// --- Connecting

void set_blocking_off(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

Result<> SocketChardev::open(EventLoop& loop, const SocketOptions& o) {
  loop_ = &loop;
  server_ = o.server.value_or(false);
  telnet_ = o.telnet.value_or(false);
  nodelay_ = o.nodelay.value_or(!o.delay.value_or(true));
  const bool wait = o.wait.value_or(server_);
  if (o.websocket.value_or(false) || o.tn3270.value_or(false))
    return fail("websocket and tn3270 are not possible here; plain sockets and telnet are");
  if (o.tls_creds || o.tls_authz) return fail("TLS is not possible on character devices yet; use a unix socket or a tunnel");
  if (!server_ && o.wait.value_or(false)) return fail("'wait' option is incompatible with socket in client connect mode");
  if (server_ && (o.reconnect.value_or(0) || o.reconnect_ms.value_or(0)))
    return fail("'reconnect' option is incompatible with socket in server listen mode");
  if (o.reconnect && o.reconnect_ms) return fail("'reconnect' and 'reconnect-ms' are mutually exclusive");
  const u64 ms = std::min<u64>(o.reconnect_ms.value_or(u64{o.reconnect.value_or(0)} * 1000), 24 * 3600 * 1000);
  reconnect_ = std::chrono::milliseconds{ms};
  if (o.ipv4 || o.ipv6) {
    const bool four = o.ipv4.value_or(!o.ipv6.value_or(false)), six = o.ipv6.value_or(!o.ipv4.value_or(false));
    family_ = four && !six ? AF_INET : six && !four ? AF_INET6 : AF_UNSPEC;
  }
  if (o.path) {
    if (o.path->empty()) return fail("chardev: socket: no path given");
    address_.path = *o.path;
    address_.abstract = o.abstract.value_or(false);
    address_.tight = o.tight.value_or(true);
  } else if (o.fd) {
    // A number is one that our parent handed down, a name one that QMP's getfd has taken.
    Fd fd;
    int number = -1;
    if (o.fd->empty() || std::isdigit(static_cast<unsigned char>((*o.fd)[0]))) {
      auto [stop, error] = std::from_chars(o.fd->data(), o.fd->data() + o.fd->size(), number);
      if (error != std::errc{} || stop != o.fd->data() + o.fd->size() || number < 0) return fail("Unable to parse FD number {}", *o.fd);
    } else {
      fd = TRY(io::take_named_fd(*o.fd));
      number = fd.get();
    }
    int kind = 0;
    socklen_t size = sizeof kind;
    if (::getsockopt(number, SOL_SOCKET, SO_TYPE, &kind, &size)) return fail("File descriptor '{}' is not a socket", *o.fd);
    if (!fd) fd = Fd{number};
    ::fcntl(number, F_SETFD, FD_CLOEXEC);
    set_blocking_off(number);
    sockaddr_storage name{};
    size = sizeof name;
    if (!::getsockname(number, reinterpret_cast<sockaddr*>(&name), &size) && name.ss_family == AF_UNIX) {
      // A pathname tells people where it is; descriptors without one are shown as they came.
      const char* path = reinterpret_cast<const char*>(&name) + offsetof(sockaddr_storage, __ss_padding);
      address_.path = size > offsetof(sockaddr_storage, __ss_padding) && *path ? std::string{path} : std::string{};
    } else if (const std::string text = socket_name(number, false); text.contains(':')) {
      address_.host = text.substr(0, text.rfind(':')), address_.port = text.substr(text.rfind(':') + 1);
    }
    if (server_) {
      listener_ = std::move(fd);
    } else {
      take(std::move(fd));
      return {};
    }
  } else if (o.port) {
    address_.host = o.host.value_or(server_ ? "" : "localhost");
    address_.port = *o.port;
  } else {
    return fail("chardev: socket: one of 'path', 'host' and 'port', or 'fd' is needed");
  }

  if (!server_) {
    if (reconnect_ > 0ns) {
      try_to_connect();
      return {};
    }
    take(TRY(connect_to(address_, family_, true)));
    return {};
  }
  if (!listener_) {
    listener_ = TRY(listen_on(address_, o.to.value_or(0), family_));
    made_socket_file_ = address_.is_unix() && !address_.abstract;
  }
  if (wait) {
    report_info(format("QEMU waiting for connection on: {}", filename()));
    while (!socket_) {
      pollfd p{.fd = listener_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&p, 1, -1) < 0 && errno != EINTR) return fail_errno("cannot wait for a connection");
      accept_one();
    }
    return {};
  }
  listening_.start(*loop_, listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
  return {};
}

void SocketChardev::accept_one() {
  Fd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (!socket || (own_user_ && !may_command(socket.get()))) return;
  listening_.stop();  // one at a time: the next one waits in the backlog
  take(std::move(socket));
}

void SocketChardev::take(Fd socket) {
  const Ref<Chardev> keep{this};
  socket_ = std::move(socket);
  if (nodelay_) {
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (telnet_) {
    telnet_state_ = Telnet::data;
    // IAC WILL ECHO, WILL SUPPRESS-GO-AHEAD, WILL BINARY, DO BINARY
    static constexpr u8 hello[] = {255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0};
    ::send(socket_.get(), hello, sizeof hello, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  use(*loop_, socket_.get(), socket_.get());
  // Told apart from input, which may be off: a peer that has gone is seen even while nobody reads.
  hang_up_.start(*loop_, socket_.get(), EPOLLRDHUP | EPOLLHUP, [this](u32) { watch_hang_up(); });
  event(ChardevEvent::opened);
}

void SocketChardev::watch_hang_up() {
  hang_up_.stop();
  // What the peer sent before it went is still to be read, if somebody wants it.
  u8 one;
  const ssize_t n = ::recv(socket_.get(), &one, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n > 0 && front_) return;
  disconnect();
}

void SocketChardev::disconnect() {
  if (!socket_) return;
  const Ref<Chardev> keep{this};
  hang_up_.stop();
  end();
  socket_.reset();
  descriptors_.clear();
  if (listener_)
    listening_.start(*loop_, listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
  else if (reconnect_ > 0ns)
    retry_later();
  event(ChardevEvent::closed);
  output_ready();  // what waits is dropped with the rest
}

void SocketChardev::try_to_connect() {
  auto fd = connect_to(address_, family_, false);
  if (!fd) return retry_later();
  pending_ = std::move(*fd);
  connecting_.start(*loop_, pending_.get(), EPOLLOUT, [this](u32) {
    connecting_.stop();
    Fd fd = std::move(pending_);
    if (connect_result(fd.get())) return retry_later();
    take(std::move(fd));
  });
}

void SocketChardev::retry_later() {
  if (!timer_) timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  const itimerspec t{.it_interval = {},
                     .it_value = {.tv_sec = reconnect_.count() / 1'000'000'000, .tv_nsec = reconnect_.count() % 1'000'000'000}};
  ::timerfd_settime(timer_.get(), 0, &t, nullptr);
  retry_.start(*loop_, timer_.get(), EPOLLIN, [this](u32) {
    retry_.stop();
    try_to_connect();
  });
}

// --- Bytes

ssize_t SocketChardev::receive_some(std::span<u8> into) {
  iovec part{.iov_base = into.data(), .iov_len = into.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * descriptor_limit)];
  msghdr message{};
  message.msg_iov = &part, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return n;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const usize count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (usize i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      if (descriptors_.size() >= descriptor_limit) descriptors_.erase(descriptors_.begin());
      descriptors_.emplace_back(fd);
    }
  }
  return n;
}

usize SocketChardev::filter_input(std::span<u8> bytes) {
  if (!telnet_) return bytes.size();
  usize kept = 0;
  for (const u8 b : bytes) {
    switch (telnet_state_) {
      case Telnet::data:
        if (b == 255)
          telnet_state_ = Telnet::command;
        else
          bytes[kept++] = b;
        break;
      case Telnet::command:
        telnet_state_ = Telnet::data;
        if (b == 255)
          bytes[kept++] = b;
        else if (b == 243)
          event(ChardevEvent::break_);
        else if (b >= 251 && b <= 254)
          telnet_state_ = Telnet::option;
        break;
      case Telnet::option: telnet_state_ = Telnet::data; break;
    }
  }
  return kept;
}

}  // namespace

template <>
inline constexpr std::array fields<SocketOptions> = {
    field<&SocketOptions::path>("path", "Unix socket."),
    field<&SocketOptions::host>("host", "Address or name."),
    field<&SocketOptions::port>("port", "TCP port."),
    field<&SocketOptions::fd>("fd", "A socket that was handed to us: listening with server=on, else connected."),
    field<&SocketOptions::server>("server", "Listen instead of connecting."),
    field<&SocketOptions::wait>("wait", "Wait at the start until somebody connects."),
    field<&SocketOptions::nodelay>("nodelay", "Send small packets at once."),
    field<&SocketOptions::delay>("delay", "The opposite of nodelay."),
    field<&SocketOptions::telnet>("telnet", "Speak telnet."),
    field<&SocketOptions::tn3270>("tn3270", "Speak tn3270."),
    field<&SocketOptions::websocket>("websocket", "Speak websocket."),
    field<&SocketOptions::abstract>("abstract", "The path is an abstract name."),
    field<&SocketOptions::tight>("tight", "Abstract names are not padded."),
    field<&SocketOptions::ipv4>("ipv4", "Use IPv4."),
    field<&SocketOptions::ipv6>("ipv6", "Use IPv6."),
    field<&SocketOptions::keep_alive>("keep-alive", "Probe idle connections."),
    field<&SocketOptions::reconnect>("reconnect", "Seconds until a lost connection is tried again."),
    field<&SocketOptions::reconnect_ms>("reconnect-ms", "The same in thousandths."),
    field<&SocketOptions::to>("to", "Last port to try."),
    field<&SocketOptions::tls_creds>("tls-creds", "TLS credentials."),
    field<&SocketOptions::tls_authz>("tls-authz", "TLS authorisation."),
};

namespace {
Result<Ref<Chardev>> make_socket(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<SocketOptions>(value));
  auto chardev = make_object<SocketChardev>();
  TRY(chardev->open(loop, options));
  return Ref<Chardev>{chardev};
}
const RegisteredChardev kind_socket{{.name = "socket", .doc = "unix or TCP socket", .options = fields<SocketOptions>, .make = make_socket}};
}  // namespace
}  // namespace vmm
