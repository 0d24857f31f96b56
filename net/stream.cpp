// Stream sockets between two emulators (or passt, gvproxy, …): the back ends `stream` and, in its older words, `socket`. Datagram
// forms of `socket` are in dgram.cpp. Source of the framing: QEMU's documentation of -netdev stream.
#include "net/stream.h"

#include <fcntl.h>

#include <cerrno>

#include "net/packet_fd.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/io/fd_set.h"

namespace vmm::net {

namespace {

struct StreamOptions {
  Value addr;
  bool server = false;
  std::optional<u32> reconnect;
  std::optional<u64> reconnect_ms;
};

// An inet, unix or fd address of a QAPI tree.
struct Address {
  std::optional<SocketAddress> socket;
  Fd fd;
};
Result<Address> read_address(const Value& tree, std::string_view what) {
  if (!tree.is_object()) return fail("Parameter '{}.type' is missing", what);
  const auto text = [&](std::string_view key) -> std::string {
    const Value* v = tree.find(key);
    return v && v->is_string() ? v->get_string() : std::string{};
  };
  const std::string type = text("type");
  if (type.empty()) return fail("Parameter '{}.type' is missing", what);
  Address a;
  if (type == "inet") {
    if (text("host").empty() || text("port").empty())
      return fail("Parameter '{}.{}' is missing", what, text("host").empty() ? "host" : "port");
    a.socket = SocketAddress{.path = {}, .host = text("host"), .port = text("port")};
  } else if (type == "unix") {
    if (text("path").empty()) return fail("Parameter '{}.path' is missing", what);
    a.socket = SocketAddress{.path = text("path"), .host = {}, .port = {}, .abstract = text("abstract") == "on"};
  } else if (type == "fd") {
    if (text("str").empty()) return fail("Parameter '{}.str' is missing", what);
    a.fd = TRY(io::take_named_fd(text("str")));
  } else {
    return fail("Parameter '{}.type' does not accept value '{}'", what, type);
  }
  return a;
}

struct ConnectedData {
  std::string netdev_id;
  Value addr;
};
struct DisconnectedData {
  std::string netdev_id;
};

class StreamNetdev final : public Netdev {
 public:
  static const TypeInfo type;
  ~StreamNetdev() override;
  Result<> open(EventLoop& loop, std::string_view kind, Address address, bool server, Nanoseconds reconnect);
  std::string_view kind() const override { return kind_; }
  std::string info() const override { return info_; }
  End& queue(unsigned) override { return end_; }

 private:
  void take(Fd fd);
  void lost();
  void accept_one();
  void connect_again();
  std::string kind_ = "stream", info_;
  EventLoop* loop_ = nullptr;
  std::optional<SocketAddress> address_;
  bool made_file_ = false;
  Nanoseconds reconnect_{0};
  Fd listener_, pending_;
  FdWatch listening_, connecting_;
  TimeDomain domain_;
  Timer retry_{Clock::real, domain_, [this] { connect_again(); }};
  StreamEnd end_{*this};
};
constinit const TypeInfo StreamNetdev::type{
    .name = "netdev-stream", .doc = "A stream socket.", .parent = &Netdev::type, .user_creatable = false};
const Registered registered{StreamNetdev::type};

}  // namespace
}  // namespace vmm::net

namespace vmm {
using net::ConnectedData;
using net::DisconnectedData;
using net::StreamOptions;
template <>
inline constexpr std::array fields<ConnectedData> = {
    field<&ConnectedData::netdev_id>("netdev-id", "Id of the back end."),
    field<&ConnectedData::addr>("addr", "The other side."),
};
template <>
inline constexpr std::array fields<DisconnectedData> = {field<&DisconnectedData::netdev_id>("netdev-id", "Id of the back end.")};
template <>
inline constexpr std::array fields<StreamOptions> = {
    field<&StreamOptions::addr>("addr", "Where to listen or connect: addr.type=inet|unix|fd and its keys."),
    field<&StreamOptions::server>("server", "Listen.", {.optional = true}),
    field<&StreamOptions::reconnect>("reconnect", "Seconds until a lost connection is tried again."),
    field<&StreamOptions::reconnect_ms>("reconnect-ms", "The same in milliseconds."),
};
}  // namespace vmm

namespace vmm::net {
namespace {

constexpr control::EventInfo connected_event{
    .name = "NETDEV_STREAM_CONNECTED", .doc = "A stream back end has its other side.", .data = &Codec<ConnectedData>::description};
constexpr control::EventInfo disconnected_event{.name = "NETDEV_STREAM_DISCONNECTED",
                                                .doc = "A stream back end has lost its other side.",
                                                .data = &Codec<DisconnectedData>::description};
const control::RegisteredEvent registered_events[] = {control::RegisteredEvent{connected_event},
                                                      control::RegisteredEvent{disconnected_event}};

StreamNetdev::~StreamNetdev() {
  retry_.cancel();
  listening_.stop(), connecting_.stop();
  end_.ended = nullptr;
  end_.stop();
  if (loop_) loop_->remove_time_domain(domain_);
  if (made_file_) host::remove_file(address_->path);
}

Result<> StreamNetdev::open(EventLoop& loop, std::string_view kind, Address address, bool server, Nanoseconds reconnect) {
  kind_ = kind;
  if (server && reconnect > 0ns) return fail("'reconnect' option is incompatible with socket in server listen mode");
  loop_ = &loop, reconnect_ = reconnect;
  loop.add_time_domain(domain_);
  end_.ended = [this] { lost(); };
  address_ = std::move(address.socket);
  if (server) {
    if (address.fd) {
      listener_ = std::move(address.fd);
      info_ = "listening";
    } else {
      listener_ = TRY(listen_on(*address_, 0, AF_UNSPEC));
      made_file_ = address_->is_unix() && !address_->abstract;
      info_ = "listening at " + address_->text();
    }
    ::fcntl(listener_.get(), F_SETFL, ::fcntl(listener_.get(), F_GETFL) | O_NONBLOCK);
    listening_.start(loop, listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
    return {};
  }
  if (address.fd) {
    take(std::move(address.fd));
    return {};
  }
  if (reconnect_ > 0ns)
    connect_again();
  else
    take(TRY(connect_to(*address_, AF_UNSPEC, true)));
  return {};
}

void StreamNetdev::accept_one() {
  Fd fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (!fd) return;
  listening_.stop();  // one at a time
  take(std::move(fd));
}
void StreamNetdev::take(Fd fd) {
  info_ = address_ ? "connected to " + address_->text() : format("fd={}", fd.get());
  end_.start(*loop_, std::move(fd));
  control::emit(connected_event, Value::object().set("netdev-id", name()).set("addr", Value::object().set("type", "fd").set("str", info_)));
}
void StreamNetdev::lost() {
  info_ = "disconnected";
  control::emit(disconnected_event, Value::object().set("netdev-id", name()));
  if (listener_)
    listening_.start(*loop_, listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
  else if (reconnect_ > 0ns)
    retry_.arm_in(reconnect_);
}
void StreamNetdev::connect_again() {
  auto fd = connect_to(*address_, AF_UNSPEC, false);
  if (!fd) return retry_.arm_in(reconnect_);
  pending_ = std::move(*fd);
  connecting_.start(*loop_, pending_.get(), EPOLLOUT, [this](u32) {
    connecting_.stop();
    Fd fd = std::move(pending_);
    if (connect_result(fd.get())) return retry_.arm_in(reconnect_);
    take(std::move(fd));
  });
}

Result<Ref<Netdev>> made(Ref<StreamNetdev> netdev, Result<> done) {
  if (!done) return std::unexpected(std::move(done).error());
  return Ref<Netdev>{netdev};
}

const RegisteredNetdev stream_kind{{
    .name = "stream",
    .doc = "a stream socket",
    .options = fields<StreamOptions>,
    .make = [](EventLoop& loop, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      const StreamOptions o = TRY(read_options<StreamOptions>(options));
      if (o.reconnect && o.reconnect_ms) return fail("'reconnect' and 'reconnect-ms' are mutually exclusive");
      const u64 ms = std::min<u64>(o.reconnect_ms.value_or(u64{o.reconnect.value_or(0)} * 1000), 24 * 3600 * 1000);
      Address address = TRY(read_address(o.addr, "addr"));
      const Ref<StreamNetdev> netdev = make_object<StreamNetdev>();
      return made(netdev, netdev->open(loop, "stream", std::move(address), o.server, std::chrono::milliseconds{ms}));
    },
}};

}  // namespace

Result<SocketAddress> parse_host_port(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == text.npos || colon + 1 == text.size()) return fail("host address '{}' doesn't contain ':' separating host from port", text);
  return SocketAddress{.path = {}, .host = std::string{text.substr(0, colon)}, .port = std::string{text.substr(colon + 1)}};
}

Result<Ref<Netdev>> make_stream_socket(EventLoop& loop, const std::string& address, bool server) {
  const Ref<StreamNetdev> netdev = make_object<StreamNetdev>();
  SocketAddress a = TRY(parse_host_port(address));
  if (a.host.empty() && !server) a.host = "127.0.0.1";
  return made(netdev, netdev->open(loop, "socket", {.socket = std::move(a), .fd = Fd{}}, server, 0ns));
}
Result<Ref<Netdev>> make_stream_fd(EventLoop& loop, Fd fd) {
  const Ref<StreamNetdev> netdev = make_object<StreamNetdev>();
  return made(netdev, netdev->open(loop, "socket", {.socket = {}, .fd = std::move(fd)}, false, 0ns));
}

}  // namespace vmm::net
