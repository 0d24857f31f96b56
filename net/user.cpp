// The `user` back end: a network of its own, routed through this process's sockets by libslirp (libslirp.h). Its sockets and timers are
// watched by our loop: whatever happens in the stack marks it for service(), once a turn of the loop, which hands on what sockets have
// reported, and then asks what is to be watched. Frames for a card that is full wait here, and sockets are not read meanwhile.
#include "net/user.h"

#include <arpa/inet.h>
#include <slirp/libslirp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdlib>
#include <deque>
#include <unordered_map>

#include "net/merge.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/chardev/chardev.h"

namespace vmm::net {

namespace {

struct UserOptions {
  std::optional<std::string> hostname, ip, net, host, tftp, bootfile, dhcpstart, dns, domainname, ipv6_prefix, ipv6_host, ipv6_dns, smb,
      smbserver, tftp_server_name;
  std::optional<bool> restrict_, ipv4, ipv6;
  std::optional<u8> ipv6_prefixlen;
  std::optional<TextList> dnssearch, hostfwd, guestfwd;
};
constexpr usize queue_limit_bytes = 1 * MiB;

class User final : public UserNetdev {
 public:
  static const TypeInfo type;
  ~User() override;
  Result<> open(EventLoop& loop, const UserOptions& o);
  std::string_view kind() const override { return "user"; }
  std::string info() const override {
    char text[INET_ADDRSTRLEN];
    return format("net={},restrict={}", ::inet_ntop(AF_INET, &network_, text, sizeof text), restricted_ ? "on" : "off");
  }
  End& queue(unsigned) override { return end_; }
  Result<> add_forward(std::string_view rule) override;
  bool remove_forward(const ForwardRule& rule) override;
  std::string connections() override;

 private:
  // The stack's side of the cable.
  class StackEnd final : public End {
   public:
    explicit StackEnd(User& user) : user_(user) {}
    bool receive(const Packet& packet) override;
    OffloadSet takes() const override { return {.checksum = true, .tcp4 = true, .tcp6 = true}; }
    void resume() override { user_.flush(); }
    Netdev* netdev() override { return &user_; }

   private:
    User& user_;
    std::vector<u8> frame_;
  };
  // Bytes between a port of the guest's network and a character device.
  // Each connection of the guest's to one address becomes one to a socket of ours, and that the standard input and output of a program.
  struct GuestProgram {
    ~GuestProgram() {
      watch.stop();
      if (listener) host::remove_file(path);
    }
    Result<> listen(EventLoop& loop, std::string line) {
      command = std::move(line);
      const char* const folder = std::getenv("TMPDIR");
      path = host::random_path(folder && *folder ? folder : "/tmp", "vmm-guestfwd.");
      sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
      if (path.size() >= sizeof address.sun_path) return fail("the name '{}' is too long for a socket", path);
      path.copy(address.sun_path, path.size());
      Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
      if (!fd || ::fchmod(fd.get(), 0600) < 0 ||
          host::bind_socket(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 || ::listen(fd.get(), 16) < 0)
        return fail_errno("no socket for a program's guest forwarding");
      listener = std::move(fd);
      watch.start(loop, listener.get(), EPOLLIN, [this](u32) { accept(); });
      return {};
    }
    void accept() {
      const Fd fd{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
      if (!fd) return;
      const std::string words[] = {"/bin/sh", "-c", "exec " + command};
      if (auto started = host::start_program(words, fd.get(), fd.get()); !started) report_warning(started.error().message);
    }
    std::string command, path;
    Fd listener;
    FdWatch watch;
  };
  struct GuestForward final : CharFrontEnd {
    GuestForward(User& u, const GuestForwardRule& r) : user(u), rule(r) {}
    ~GuestForward() override {
      if (chardev) chardev->detach(*this);
    }
    usize can_receive() override { return user.slirp_ ? ::slirp_socket_can_recv(user.slirp_, rule.server, rule.port) : 0; }
    void receive(std::span<const u8> bytes) override {
      ::slirp_socket_recv(user.slirp_, rule.server, rule.port, bytes.data(), static_cast<int>(bytes.size()));
      user.wants_service();
    }
    User& user;
    GuestForwardRule rule;
    Ref<Chardev> chardev;
  };
  struct Watched {
    FdWatch watch;
    int index = -1;
    u32 wanted = 0, happened = 0;
    u64 round = 0;
  };

  static const SlirpCb callbacks;
  struct Waiting {
    std::vector<u8> frame;
    Offload offload;
  };
  void send_to_card(std::span<const u8> frame);
  void send_merged();
  void send_one(std::span<const u8> frame, const Offload& offload);
  bool flush();  // true: nothing waits
  void wants_service();
  void service();
  void watch_sockets();
  Result<> add_guest_forward(std::string_view rule);

  EventLoop* loop_ = nullptr;
  TimeDomain domain_;
  Slirp* slirp_ = nullptr;
  in_addr network_{};
  bool restricted_ = false, service_wanted_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  StackEnd end_{*this};
  std::deque<Waiting> waiting_;
  SegmentMerger merger_;
  usize waiting_bytes_ = 0;
  std::unordered_map<int, std::unique_ptr<Watched>> sockets_;
  std::vector<int> polled_;  // by index that the stack knows
  u64 round_ = 0;
  Timer timer_{Clock::real, domain_, [this] { wants_service(); }};
  std::vector<std::unique_ptr<GuestForward>> guest_forwards_;
  std::vector<std::unique_ptr<GuestProgram>> guest_programs_;
};

constinit const TypeInfo User::type{
    .name = "netdev-user", .doc = "Network through this process's sockets.", .parent = &Netdev::type, .user_creatable = false};

User& user_of(void* opaque) { return *static_cast<User*>(opaque); }

}  // namespace
}  // namespace vmm::net

namespace vmm {
using net::UserOptions;
template <>
inline constexpr std::array fields<UserOptions> = {
    field<&UserOptions::hostname>("hostname", "Client name that DHCP tells the guest."),
    field<&UserOptions::restrict_>("restrict", "Keep the guest from the host and the network; forwards still work."),
    field<&UserOptions::ipv4>("ipv4", "IPv4 is there."),
    field<&UserOptions::ipv6>("ipv6", "IPv6 is there."),
    field<&UserOptions::ip>("ip", "The same as net."),
    field<&UserOptions::net>("net", "The guest's network: address[/mask]."),
    field<&UserOptions::host>("host", "The host's address in it."),
    field<&UserOptions::tftp>("tftp", "Folder that the TFTP server shows."),
    field<&UserOptions::bootfile>("bootfile", "File name that BOOTP tells the guest."),
    field<&UserOptions::dhcpstart>("dhcpstart", "First of the addresses that DHCP hands out."),
    field<&UserOptions::dns>("dns", "Address of the name server that the guest sees."),
    field<&UserOptions::dnssearch>("dnssearch", "Domain to search names in; may be repeated."),
    field<&UserOptions::domainname>("domainname", "The guest's domain."),
    field<&UserOptions::ipv6_prefix>("ipv6-prefix", "The guest's IPv6 network."),
    field<&UserOptions::ipv6_prefixlen>("ipv6-prefixlen", "Length of its prefix.", {.max = 126}),
    field<&UserOptions::ipv6_host>("ipv6-host", "The host's address in it."),
    field<&UserOptions::ipv6_dns>("ipv6-dns", "The IPv6 name server that the guest sees."),
    field<&UserOptions::smb>("smb", "Folder to share by SMB: not possible here."),
    field<&UserOptions::smbserver>("smbserver", "Address of the SMB server."),
    field<&UserOptions::hostfwd>("hostfwd", "Forward [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport; may be repeated."),
    field<&UserOptions::guestfwd>("guestfwd", "Forward tcp:server:port-chardev or -cmd:command; may be repeated."),
    field<&UserOptions::tftp_server_name>("tftp-server-name", "Server name that BOOTP tells the guest."),
};
}  // namespace vmm

namespace vmm::net {
namespace {

// --- What the stack asks of us

const SlirpCb User::callbacks{
    .send_packet = [](const void* data, size_t size, void* opaque) -> ssize_t {
      user_of(opaque).send_to_card({static_cast<const u8*>(data), size});
      return static_cast<ssize_t>(size);
    },
    .guest_error = [](const char* text, void*) { guest_error("user network", "{}", text); },
    .clock_get_ns = [](void* opaque) -> int64_t { return user_of(opaque).domain_.now(Clock::real).count(); },
    .timer_new = [](SlirpTimerCb call, void* of, void* opaque) -> void* {
      return new Timer{Clock::real, user_of(opaque).domain_, [call, of, opaque] {
                         call(of);
                         user_of(opaque).wants_service();
                       }};
    },
    .timer_free = [](void* timer, void*) { delete static_cast<Timer*>(timer); },
    .timer_mod = [](void* timer, int64_t at_ms, void*) { static_cast<Timer*>(timer)->arm(std::chrono::milliseconds{at_ms}); },
    // A number that comes anew is another socket than before.
    .register_poll_fd = [](int fd, void* opaque) { user_of(opaque).sockets_.erase(fd); },
    .unregister_poll_fd = [](int fd, void* opaque) { user_of(opaque).sockets_.erase(fd); },
    .notify = [](void* opaque) { user_of(opaque).wants_service(); },
};

// Segments of one connection that come in a row are put together where the card takes that; the end of the turn sends what is there.
void User::send_to_card(std::span<const u8> frame) {
  const End* card = end_.peer();
  if (card && card->takes().tcp4 && card->takes().checksum) {
    if (merger_.add(frame)) {
      if (merger_.full()) return send_merged();
      return wants_service();
    }
    send_merged();
    if (merger_.add(frame)) {
      if (merger_.full()) return send_merged();
      return wants_service();
    }
  }
  send_merged();
  // The stack makes its own sums: nobody need look at them again.
  send_one(frame, {.checksum_good = true});
}
void User::send_merged() {
  if (merger_.empty()) return;
  const auto [frame, offload] = merger_.take();
  send_one(frame, offload);
}

void User::send_one(std::span<const u8> frame, const Offload& offload) {
  if (flush() && end_.send(FlatPacket{frame, offload})) return;
  if (waiting_bytes_ + frame.size() > queue_limit_bytes) return;  // TCP sends it again; we do not grow
  waiting_.push_back({{frame.begin(), frame.end()}, offload});
  waiting_bytes_ += frame.size();
}

bool User::flush() {
  if (waiting_.empty()) return true;
  while (!waiting_.empty()) {
    if (!end_.send(FlatPacket{waiting_.front().frame, waiting_.front().offload})) return false;
    waiting_bytes_ -= waiting_.front().frame.size();
    waiting_.pop_front();
  }
  wants_service();  // sockets may be read again
  return true;
}

bool User::StackEnd::receive(const Packet& packet) {
  if (!user_.slirp_) return true;
  // The stack reads one piece; sums it checks itself, and a segment may be as long as IP allows.
  const usize size = packet.size();
  frame_.resize(std::max<usize>(size, 64));
  packet.copy_to(frame_);
  if (packet.offload.undone()) {
    // Lengths in a packet to be segmented are those of the whole; only sums are missing.
    Offload whole = packet.offload;
    whole.segment = Offload::Segment::none;
    if (!finish_checksum(std::span{frame_}.first(size), whole)) return true;
  }
  ::slirp_input(user_.slirp_, frame_.data(), static_cast<int>(size));
  user_.wants_service();
  return true;
}

// --- Service

void User::wants_service() {
  if (std::exchange(service_wanted_, true)) return;
  loop_->post([this, alive = alive_] {
    if (*alive) service();
  });
}

void User::service() {
  service_wanted_ = false;
  if (!slirp_ || !parent()) return;
  flush();
  ::slirp_pollfds_poll(
      slirp_, 0,
      [](int index, void* opaque) -> int {
        User& u = user_of(opaque);
        if (index < 0 || usize(index) >= u.polled_.size()) return 0;
        const auto at = u.sockets_.find(u.polled_[usize(index)]);
        if (at == u.sockets_.end() || at->second->index != index) return 0;
        u32 e = std::exchange(at->second->happened, 0);
        if (!u.waiting_.empty()) e &= ~u32{EPOLLIN};
        return (e & EPOLLIN ? SLIRP_POLL_IN : 0) | (e & EPOLLOUT ? SLIRP_POLL_OUT : 0) | (e & EPOLLPRI ? SLIRP_POLL_PRI : 0) |
               (e & EPOLLERR ? SLIRP_POLL_ERR : 0) | (e & EPOLLHUP ? SLIRP_POLL_HUP : 0);
      },
      this);
  send_merged();
  for (const auto& f : guest_forwards_)
    if (f->chardev && f->can_receive()) f->chardev->accept_input();
  watch_sockets();
}

void User::watch_sockets() {
  round_++;
  polled_.clear();
  u32 timeout_ms = UINT32_MAX;
  ::slirp_pollfds_fill(
      slirp_, &timeout_ms,
      [](int fd, int events, void* opaque) -> int {
        User& u = user_of(opaque);
        auto& slot = u.sockets_[fd];
        if (!slot) slot = std::make_unique<Watched>();
        Watched& w = *slot;
        w.index = static_cast<int>(u.polled_.size()), w.round = u.round_;
        w.wanted = (events & SLIRP_POLL_IN ? u32{EPOLLIN} : 0) | (events & SLIRP_POLL_OUT ? u32{EPOLLOUT} : 0) |
                   (events & SLIRP_POLL_PRI ? u32{EPOLLPRI} : 0);
        u.polled_.push_back(fd);
        return w.index;
      },
      this);
  for (auto at = sockets_.begin(); at != sockets_.end();) {
    Watched& w = *at->second;
    u32 events = w.wanted;
    if (!waiting_.empty()) events &= ~u32{EPOLLIN};
    if (w.round != round_ || !events) {
      // Not asked for now: errors and hang-ups would be reported for ever.
      w.watch.stop();
      at = w.round != round_ ? sockets_.erase(at) : std::next(at);
      continue;
    }
    if (w.watch.active())
      w.watch.set_events(events);
    else
      w.watch.start(*loop_, at->first, events, [this, &w](u32 e) {
        w.happened |= e;
        wants_service();
      });
    ++at;
  }
  if (timeout_ms == UINT32_MAX)
    timer_.cancel();
  else
    timer_.arm_in(std::chrono::milliseconds{timeout_ms});
}

// --- Life

User::~User() {
  *alive_ = false;
  service_wanted_ = true;  // nobody is to be woken by what the stack says while it goes
  timer_.cancel();
  for (auto& f : guest_forwards_) {
    if (f->chardev && f->chardev->parent()) f->chardev->parent()->remove_child(*f->chardev);
  }
  guest_forwards_.clear();
  end_.unlink();
  if (slirp_) ::slirp_cleanup(std::exchange(slirp_, nullptr));
  sockets_.clear();
  if (loop_) loop_->remove_time_domain(domain_);
}

Result<> User::open(EventLoop& loop, const UserOptions& o) {
  if (o.smb || o.smbserver)
    return fail("'smb' is not possible here: no SMB server is started; share a folder by a forward to a server on the host, or by 9p");
  const auto ipv4 = [](const std::optional<std::string>& text, std::string_view what, in_addr& to) -> Result<> {
    if (text && ::inet_pton(AF_INET, text->c_str(), &to) != 1) return fail("Failed to parse {} '{}'", what, *text);
    return {};
  };
  const auto ipv6 = [](const std::optional<std::string>& text, std::string_view what, in6_addr& to) -> Result<> {
    if (text && ::inet_pton(AF_INET6, text->c_str(), &to) != 1) return fail("Failed to parse {} '{}'", what, *text);
    return {};
  };
  if (o.tftp) TRY(host::keep_readable(*o.tftp));
  SlirpConfig c{};
  c.version = 3;
  c.in_enabled = o.ipv4.value_or(!o.ipv6.value_or(false)), c.in6_enabled = o.ipv6.value_or(!o.ipv4.value_or(false));
  if (!o.ipv4 && !o.ipv6) c.in_enabled = c.in6_enabled = true;
  if (!c.in_enabled && !c.in6_enabled) return fail("IPv4 and IPv6 disabled");
  if (!c.in_enabled && (o.net || o.ip || o.host || o.dhcpstart || o.dns)) return fail("IPv4 disabled but netmask/host/dhcp/dns provided");
  const Network network = TRY(parse_network(o.net ? *o.net : o.ip.value_or("10.0.2.0/24")));
  network_ = network.address;
  const u32 base = ntohl(network.address.s_addr), mask = ntohl(network.mask.s_addr);
  const auto within = [&](u32 last) { return in_addr{htonl(base | (last & ~mask))}; };
  c.vnetwork = network.address, c.vnetmask = network.mask;
  c.vhost = within(0x0202), c.vdhcp_start = within(0x020f), c.vnameserver = within(0x0203);
  if (mask >= 0xffff'ff00) c.vhost = within(2), c.vdhcp_start = within(15), c.vnameserver = within(3);
  TRY(ipv4(o.host, "host", c.vhost));
  TRY(ipv4(o.dhcpstart, "DHCP start address", c.vdhcp_start));
  TRY(ipv4(o.dns, "DNS", c.vnameserver));
  const auto inside = [&](in_addr a) { return (a.s_addr & network.mask.s_addr) == network.address.s_addr; };
  if (!inside(c.vhost)) return fail("Host doesn't belong to network");
  if (!inside(c.vdhcp_start) || c.vdhcp_start.s_addr == c.vhost.s_addr || c.vdhcp_start.s_addr == c.vnameserver.s_addr)
    return fail("DNS must be different from host and DHCP start must be inside the network and different from both");
  if (!inside(c.vnameserver)) return fail("DNS server doesn't belong to network");
  if (c.vnameserver.s_addr == c.vhost.s_addr) return fail("DNS must be different from host");
  ::inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
  TRY(ipv6(o.ipv6_prefix, "IPv6 prefix", c.vprefix_addr6));
  c.vprefix_len = o.ipv6_prefixlen.value_or(64);
  c.vhost6 = c.vprefix_addr6, c.vhost6.s6_addr[15] |= 2;
  TRY(ipv6(o.ipv6_host, "IPv6 host", c.vhost6));
  c.vnameserver6 = c.vprefix_addr6, c.vnameserver6.s6_addr[15] |= 3;
  TRY(ipv6(o.ipv6_dns, "IPv6 DNS", c.vnameserver6));
  const auto text = [](const std::optional<std::string>& s) { return s ? s->c_str() : nullptr; };
  c.vhostname = text(o.hostname), c.tftp_server_name = text(o.tftp_server_name), c.tftp_path = text(o.tftp), c.bootfile = text(o.bootfile);
  c.vdomainname = text(o.domainname);
  if (o.hostname && o.hostname->size() > 255) return fail("'hostname' is too long (255 characters at most)");
  if (o.domainname && o.domainname->size() > 255) return fail("'domainname' parameter cannot exceed 255 bytes");
  if (o.tftp_server_name && o.tftp_server_name->size() > 255) return fail("'tftp-server-name' parameter cannot exceed 255 bytes");
  if (o.bootfile && o.bootfile->size() > 127) return fail("'bootfile' is too long (127 characters at most)");
  std::vector<const char*> search;
  if (o.dnssearch)
    for (const std::string& s : o.dnssearch->items) search.push_back(s.c_str());
  search.push_back(nullptr);
  if (search.size() > 1) c.vdnssearch = search.data();
  c.restricted = restricted_ = o.restrict_.value_or(false);

  loop_ = &loop;
  loop.add_time_domain(domain_);
  slirp_ = ::slirp_new(&c, &callbacks, this);
  if (!slirp_) return fail("libslirp cannot make such a network");
  if (o.hostfwd)
    for (const std::string& rule : o.hostfwd->items) TRY(add_forward(rule));
  if (o.guestfwd)
    for (const std::string& rule : o.guestfwd->items) TRY(add_guest_forward(rule));
  wants_service();
  return {};
}

Result<> User::add_forward(std::string_view text) {
  const ForwardRule rule = TRY(parse_forward_rule(text, true));
  if (::slirp_add_hostfwd(slirp_, rule.udp, rule.host, rule.host_port, rule.guest, rule.guest_port) < 0)
    return std::unexpected(Error{format("Could not set up host forwarding rule '{}'", text)}.with_hint(
        format("port {} of the host is taken, or may not be used: {}", rule.host_port, std::strerror(errno))));
  wants_service();
  return {};
}
bool User::remove_forward(const ForwardRule& rule) {
  const bool gone = ::slirp_remove_hostfwd(slirp_, rule.udp, rule.host, rule.host_port) == 0;
  wants_service();
  return gone;
}

Result<> User::add_guest_forward(std::string_view text) {
  GuestForwardRule rule = TRY(parse_guest_forward_rule(text));
  const auto conflict = [&] { return fail("Conflicting/invalid host:port in guest forwarding rule '{}'", text); };
  if (!rule.command.empty()) {
    // Not slirp_add_exec(), which forks this process: a cage denies that, and starts programs elsewhere.
    auto program = std::make_unique<GuestProgram>();
    TRY(program->listen(*loop_, rule.command));
    if (::slirp_add_unix(slirp_, program->path.c_str(), &rule.server, rule.port) < 0) return conflict();
    guest_programs_.push_back(std::move(program));
    return {};
  }
  auto forward = std::make_unique<GuestForward>(*this, rule);
  if (rule.chardev.starts_with("chardev:")) {
    Chardev* c = find_chardev(std::string_view{rule.chardev}.substr(8));
    if (!c) return fail("chardev \"{}\" not found", rule.chardev.substr(8));
    forward->chardev = Ref<Chardev>{c};
  } else {
    const Value spec = TRY(chardev_options_from_legacy(rule.chardev, format("guestfwd.tcp.{}", rule.port)));
    if (spec.is_null()) return fail("Could not open guest forwarding device '{}'", rule.chardev);
    forward->chardev = TRY(make_chardev(*loop_, spec));
  }
  const auto write = [](const void* data, size_t size, void* opaque) -> ssize_t {
    auto& f = *static_cast<GuestForward*>(opaque);
    f.chardev->write_all({static_cast<const u8*>(data), size});
    return static_cast<ssize_t>(size);
  };
  if (::slirp_add_guestfwd(slirp_, write, forward.get(), &forward->rule.server, rule.port) < 0) return conflict();
  TRY(forward->chardev->attach(*forward));
  guest_forwards_.push_back(std::move(forward));
  return {};
}

std::string User::connections() {
  char* text = ::slirp_connection_info(slirp_);
  std::string out = text ? text : "";
  std::free(text);
  return out;
}

const RegisteredNetdev user_kind{{
    .name = "user",
    .doc = "a network of the guest's own, through this process's sockets",
    .options = fields<UserOptions>,
    .make = [](EventLoop& loop, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      const UserOptions o = TRY(read_options<UserOptions>(options));
      const Ref<User> made = make_object<User>();
      TRY(made->open(loop, o));
      return Ref<Netdev>{made};
    },
}};
const Registered registered{User::type};

}  // namespace
}  // namespace vmm::net
