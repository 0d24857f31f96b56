#include "src/ui/vnc/server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "src/base/host.h"
#include "src/base/log.h"
#include "src/chardev/address.h"
#include "src/control/command.h"
#include "src/io/websocket.h"
#include "src/ui/vnc/client.h"
#include "src/ui/vnc/commands.h"
#include "src/ui/vnc/des.h"

namespace vmm::ui::vnc {

namespace {

constexpr usize most_clients = 64, output_limit = 64 * MiB;
constexpr Nanoseconds shortest_turn{33'000'000}, longest_turn{250'000'000};

constexpr control::EventInfo connected_event{.name = "VNC_CONNECTED", .doc = "A viewer has connected. Members: server, client."};
constexpr control::EventInfo initialized_event{.name = "VNC_INITIALIZED", .doc = "A viewer was let in. Members: server, client."};
constexpr control::EventInfo disconnected_event{.name = "VNC_DISCONNECTED", .doc = "A viewer has gone. Members: server, client."};
const control::RegisteredEvent registered_events[]{control::RegisteredEvent{connected_event}, control::RegisteredEvent{initialized_event},
                                                   control::RegisteredEvent{disconnected_event}};

// Where one end of a socket is, as QMP says it.
Address address_of(int fd, bool peer) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  Address out;
  if ((peer ? ::getpeername(fd, address, &length) : ::getsockname(fd, address, &length)) != 0) return out.family = "unknown", out;
  if (storage.ss_family == AF_UNIX) return out.family = "unix", out;
  out.family = storage.ss_family == AF_INET6 ? "ipv6" : "ipv4";
  char host[NI_MAXHOST] = {}, service[NI_MAXSERV] = {};
  ::getnameinfo(address, length, host, sizeof host, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV);
  out.host = host, out.service = service;
  return out;
}

}  // namespace

class Server {
 public:
  Server(const Surroundings& around, const Options& options)
      : loop_(*around.loop), domain_(*around.domain), options_(options), timer_(Clock::real, *around.domain, [this] { turn(); }) {
    shared_.layout = &find_layout(around.layout);
    shared_.desktop_name = around.guest_name.empty() ? "QEMU" : format("QEMU ({})", around.guest_name);
    shared_.password = options.password.value_or(false) || options.password_secret;
    shared_.picture = &picture_;
    shared_.make_challenge = [] {
      std::array<u8, 16> challenge{};
      if (::getrandom(challenge.data(), challenge.size(), 0) != static_cast<ssize_t>(challenge.size()))
        report_warning("vnc: this host has no random numbers: passwords can be guessed from what was seen before");
      return challenge;
    };
    shared_.right_password = [this](const std::array<u8, 16>& challenge, const std::array<u8, 16>& answer) {
      return password_ && !expired() && challenge_answer(challenge, *password_) == answer;
    };
    draw();
  }
  ~Server() {
    listening_.stop();
    web_listening_.stop();
    while (!viewers_.empty()) drop(*viewers_.back());
    if (!unix_path_.empty()) host::remove_file(unix_path_);
  }

  Result<> listen() {
    SocketAddress address;
    u16 last = 0;
    std::string_view text = options_.vnc;
    if (text.starts_with("unix:")) {
      address.path = text.substr(5);
      if (address.path.empty()) return fail("vnc: socket: no path given");
    } else {
      const usize colon = text.rfind(':');
      u32 display = 0;
      if (colon == text.npos)
        return std::unexpected(
            Error{"no vnc port specified"}.with_hint("Write HOST:DISPLAY (port 5900 + DISPLAY), :DISPLAY, unix:PATH or none"));
      const std::string_view number = text.substr(colon + 1);
      const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), display);
      if (error != std::errc{} || stop != number.data() + number.size() || number.empty())
        return fail("can't convert to a number: {}", number);
      if (display > 65535 - 5900) return fail("port {} out of range", number);
      if (options_.to && *options_.to < display) return fail("'to' must not be smaller than the display, {}", display);
      address.host = text.substr(0, colon);
      if (address.host.starts_with('[') && address.host.ends_with(']')) address.host = address.host.substr(1, address.host.size() - 2);
      address.port = format("{}", 5900 + display);
      if (options_.to) last = static_cast<u16>(5900 + std::min<u32>(*options_.to, 65535 - 5900));
    }
    const bool v4 = options_.ipv4.value_or(false), v6 = options_.ipv6.value_or(false);
    listener_ = TRY(listen_on(address, last, v4 == v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6));
    where_ = address_of(listener_.get(), false);
    if (address.is_unix()) unix_path_ = where_.service = address.path;
    listening_.start(loop_, listener_.get(), EPOLLIN, [this](u32) { take_viewers(listener_, false); });
    if (options_.websocket && *options_.websocket != "off") TRY(listen_for_websockets(address));
    return {};
  }
  // On a port of its own: 5700 + display, or the one that was given.
  Result<> listen_for_websockets(SocketAddress address) {
    const std::string& wish = *options_.websocket;
    if (address.is_unix()) return fail("'websocket' needs a TCP address: HOST:DISPLAY");
    u32 port = 0;
    if (wish == "on") {
      std::from_chars(where_.service.data(), where_.service.data() + where_.service.size(), port);
      port = port >= 200 ? port - 200 : 0;
    } else if (const auto [stop, error] = std::from_chars(wish.data(), wish.data() + wish.size(), port);
               error != std::errc{} || stop != wish.data() + wish.size() || port > 65535) {
      return fail("'websocket' takes on, off or a port, not {}", wish);
    }
    address.port = format("{}", port);
    web_listener_ = TRY(listen_on(address, 0, AF_UNSPEC));
    web_where_ = address_of(web_listener_.get(), false);
    web_where_->websocket = true;
    web_listening_.start(loop_, web_listener_.get(), EPOLLIN, [this](u32) { take_viewers(web_listener_, true); });
    return {};
  }

  // --- What monitors ask
  const std::string& id() const { return options_.id; }
  bool asks_password() const { return shared_.password; }
  std::string_view auth() const { return shared_.password ? "vnc" : "none"; }
  void set_password(std::optional<std::string> password) { password_ = std::move(password); }
  void set_expiry(std::optional<i64> seconds) { expires_ = seconds; }
  ServerInfo info() const {
    ServerInfo out{.id = options_.id, .address = where_, .auth = std::string{auth()}, .clients = {}, .websocket = web_where_};
    for (const auto& v : viewers_)
      if (v->client->initialized()) out.clients.push_back(v->peer);
    return out;
  }
  // set_password's `connected`: who is there already.
  void disconnect_all() {
    while (!viewers_.empty()) drop(*viewers_.back());
  }
  void adopt(Fd socket) { add_viewer(std::move(socket), false); }

 private:
  struct Viewer {
    Fd socket;
    FdWatch watch;
    std::unique_ptr<Client> client;
    std::vector<u8> output;
    usize sent = 0;
    Address here, peer;
    bool initialized = false, closing = false;
    u64 number = 0;
    std::unique_ptr<WebSocket> web;
    std::vector<u8> early;  // for the viewer, before its websocket is open

    void say(std::span<const u8> bytes) {
      if (web && !web->open())
        early.insert(early.end(), bytes.begin(), bytes.end());
      else if (web)
        WebSocket::wrap(bytes, output);
      else
        output.insert(output.end(), bytes.begin(), bytes.end());
    }
    Client::Verdict take(std::span<const u8> bytes) {
      if (!web) return client->receive(bytes);
      std::vector<u8> data;
      const WebSocket::Verdict verdict = web->receive(bytes, data, output);
      if (web->open() && !early.empty()) WebSocket::wrap(std::exchange(early, {}), output);
      if (verdict == WebSocket::Verdict::close) return Client::Verdict::close;
      return data.empty() ? Client::Verdict::go_on : client->receive(data);
    }
  };

  bool expired() const {
    return expires_ && std::chrono::duration_cast<std::chrono::seconds>(domain_.now(Clock::host)).count() >= *expires_;
  }

  Value event_data(const Viewer& v) const {
    const auto describe = [](const Address& a) {
      Value out = Value::object();
      return out.set("host", a.host).set("service", a.service).set("family", a.family).set("websocket", a.websocket);
    };
    Value server = describe(v.web && web_where_ ? *web_where_ : where_);
    server.set("auth", auth());
    Value data = Value::object();
    data.set("server", std::move(server)).set("client", describe(v.peer));
    return data;
  }

  void take_viewers(const Fd& listener, bool web) {
    for (unsigned i = 0; i < 16; i++) {
      const int fd = ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      add_viewer(Fd{fd}, web);
    }
  }

  void add_viewer(Fd socket, bool web) {
    // Who has not been let in yet makes room for others, the oldest first.
    const usize waiting_limit = options_.connections.value_or(32);
    const auto waiting = static_cast<usize>(std::ranges::count(viewers_, false, [](const auto& v) { return v->initialized; }));
    if (waiting >= waiting_limit || viewers_.size() >= most_clients) {
      const auto oldest = std::ranges::find(viewers_, false, [](const auto& v) { return v->initialized; });
      if (oldest == viewers_.end()) return;  // all are in: the new one goes
      drop(**oldest);
    }
    draw();  // what it is told of the size first is of now
    const int on = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto made = std::make_unique<Viewer>();
    Viewer& v = *made;
    v.socket = std::move(socket);
    v.number = ++numbers_;
    v.peer = address_of(v.socket.get(), true);
    v.peer.websocket = web;
    if (web) v.web = std::make_unique<WebSocket>();
    viewers_.push_back(std::move(made));
    control::emit(connected_event, event_data(v));
    v.watch.start(loop_, v.socket.get(), EPOLLIN, [this, number = v.number](u32 events) { ready(number, events); });
    v.client = std::make_unique<Client>(shared_, [&v](std::span<const u8> bytes) { v.say(bytes); });
    if (!flush(v)) drop(v);
  }

  Viewer* find(u64 number) {
    const auto at = std::ranges::find(viewers_, number, [](const auto& v) { return v->number; });
    return at == viewers_.end() ? nullptr : at->get();
  }

  void drop(Viewer& v) {
    v.watch.stop();
    control::emit(disconnected_event, event_data(v));
    const auto at = std::ranges::find(viewers_, &v, [](const auto& p) { return p.get(); });
    const auto gone = std::move(*at);
    viewers_.erase(at);
  }

  // False: the other side has gone.
  bool flush(Viewer& v) {
    while (v.sent < v.output.size()) {
      const ssize_t n = ::send(v.socket.get(), &v.output[v.sent], v.output.size() - v.sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (n <= 0) return false;
      v.sent += static_cast<usize>(n);
    }
    if (v.sent == v.output.size()) v.output.clear(), v.sent = 0;
    v.watch.set_events((v.closing ? 0u : EPOLLIN) | (v.output.empty() ? 0u : u32{EPOLLOUT}));
    return !(v.closing && v.output.empty());
  }

  void ready(u64 number, u32 events) {
    Viewer* const v = find(number);
    if (!v) return;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !v->closing) {
      u8 bytes[16384];
      const ssize_t n = ::recv(v->socket.get(), bytes, sizeof bytes, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return drop(*v);
      if (n > 0 && v->take({bytes, static_cast<usize>(n)}) == Client::Verdict::close) v->closing = true;
      if (v->output.size() - v->sent > output_limit) return drop(*v);  // it asks, and never reads
      if (!v->closing && v->client->initialized() && !std::exchange(v->initialized, true)) let_in(*v);
    } else if (events & (EPOLLHUP | EPOLLERR)) {
      return drop(*v);
    }
    if (!flush(*v)) return drop(*v);
    if (v->client->wants_update()) wake();
  }

  void let_in(Viewer& v) {
    control::emit(initialized_event, event_data(v));
    const std::string_view share = options_.share ? std::string_view{*options_.share} : "allow-exclusive";
    if (!v.client->wants_to_be_alone() || share != "allow-exclusive") {
      if (v.client->wants_to_be_alone() && share == "force-shared") v.closing = true;
      return;
    }
    for (usize i = viewers_.size(); i-- > 0;)
      if (viewers_[i].get() != &v) drop(*viewers_[i]);
  }

  // --- The picture: looked at while somebody waits for changes, more seldom while there are none.

  void wake() {
    if (!timer_.armed()) timer_.arm_in(Nanoseconds{1'000'000});
    if (pause_ > shortest_turn * 3) pause_ = shortest_turn, timer_.arm_in(Nanoseconds{1'000'000});
  }

  void turn() {
    const bool anyone = std::ranges::any_of(viewers_, [](const auto& v) { return v->client->wants_update(); });
    if (!anyone) return;
    const bool changed = draw();
    pause_ = changed ? shortest_turn : std::min(pause_ + pause_ / 4, longest_turn);
    for (usize i = viewers_.size(); i-- > 0;) {
      Viewer& v = *viewers_[i];
      v.client->update(v.output.size() - v.sent < 64 * KiB);
      if (!flush(v)) drop(v);
    }
    timer_.arm_in(pause_);
  }

  // Takes the screen's picture; true if it has changed.
  bool draw() {
    Screen* const screen = find_screen({});
    const u64 generation = screen ? screen->generation() : 0;
    if (screen && screen == drawn_ && generation == drawn_generation_) return false;
    drawn_ = screen, drawn_generation_ = generation;
    Picture now = screen ? screen->picture() : Picture{};
    if (!now.width || !now.height) {  // off, or no display at all
      now = {.width = 640, .height = 480, .pixels = {}};
      now.pixels.assign(usize{now.width} * now.height, 0);
    }
    if (now.width != picture_.width || now.height != picture_.height) {
      picture_ = std::move(now);
      for (const auto& v : viewers_) v->client->size_changed();
      return true;
    }
    const unsigned columns = (now.width + Client::tile - 1) / Client::tile, rows = (now.height + Client::tile - 1) / Client::tile;
    tiles_.assign(usize{columns} * rows, 0);
    bool any = false;
    for (unsigned y = 0; y < now.height; y++) {
      const u32 *const a = &now.pixels[usize{y} * now.width], *const b = &picture_.pixels[usize{y} * now.width];
      if (std::memcmp(a, b, usize{now.width} * 4) == 0) continue;
      any = true;
      for (unsigned x = 0; x < columns; x++) {
        const usize n = std::min(Client::tile, now.width - x * Client::tile);
        if (std::memcmp(a + x * Client::tile, b + x * Client::tile, n * 4) != 0) tiles_[usize{y / Client::tile} * columns + x] = 1;
      }
    }
    if (!any) return false;
    picture_ = std::move(now);
    for (const auto& v : viewers_) v->client->tiles_changed(tiles_);
    return true;
  }

  EventLoop& loop_;
  TimeDomain& domain_;
  const Options options_;
  Shared shared_;
  Picture picture_;
  const Screen* drawn_ = nullptr;  // what `picture_` shows; never followed
  u64 drawn_generation_ = 0;
  std::vector<u8> tiles_;
  Fd listener_;
  FdWatch listening_;
  Fd web_listener_;
  FdWatch web_listening_;
  Address where_;
  std::optional<Address> web_where_;
  std::string unix_path_;
  std::vector<std::unique_ptr<Viewer>> viewers_;
  u64 numbers_ = 0;
  std::optional<std::string> password_;
  std::optional<i64> expires_;  // seconds since 1970
  Timer timer_;
  Nanoseconds pause_ = shortest_turn;
};

namespace {
// `password-secret`: what an object of type secret holds.
Result<std::string> secret_text(const std::string& id) {
  Object* const folder = root_object().child("objects");
  const Object* const secret = folder ? folder->child(id) : nullptr;
  if (!secret) return fail("No secret with id '{}'", id);
  const Value data = TRY(secret->get("data"));
  if (!data.is_string()) return fail("'{}' is not a secret", id);
  return data.get_string();
}

std::vector<std::unique_ptr<Server>>& servers() {
  static std::vector<std::unique_ptr<Server>> list;
  return list;
}
}  // namespace

Result<> open(const Surroundings& around, const Options& options) {
  if (options.share && *options.share != "allow-exclusive" && *options.share != "force-shared" && *options.share != "ignore")
    return std::unexpected(
        Error{format("unknown vnc share= option '{}'", *options.share)}.with_hint("Valid values: allow-exclusive, force-shared, ignore"));
  if (options.vnc.empty()) return fail("'vnc' is missing: HOST:DISPLAY, unix:PATH or none");
  if (find_server(options.id)) return fail("Duplicate ID '{}' for vnc", options.id);
  auto server = std::make_unique<Server>(around, options);
  if (options.password_secret) server->set_password(TRY(secret_text(*options.password_secret)));
  if (options.vnc != "none") TRY(server->listen());
  servers().push_back(std::move(server));
  return {};
}

void close_all() { servers().clear(); }

Server* find_server(std::string_view id) {
  for (const auto& s : servers())
    if (id.empty() || s->id() == id) return s.get();
  return nullptr;
}
std::vector<ServerInfo> all_servers() {
  std::vector<ServerInfo> out;
  for (const auto& s : servers()) out.push_back(s->info());
  return out;
}
Result<> change_password(Server& server, std::string password) {
  if (!server.asks_password()) return fail("If you want use passwords please enable password auth using '-vnc ${{dpy}},password'.");
  server.set_password(std::move(password));
  return {};
}
Result<> change_expiry(Server& server, std::optional<i64> seconds) {
  server.set_expiry(seconds);
  return {};
}
void disconnect_viewers(Server& server) { server.disconnect_all(); }
void adopt_viewer(Server& server, Fd socket) { server.adopt(std::move(socket)); }

}  // namespace vmm::ui::vnc
