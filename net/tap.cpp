// The `tap` back end: an interface of the host's. Source: Linux Documentation/networking/tuntap, if_tun.h.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <algorithm>

#include "net/packet_fd.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/io/fd_set.h"

extern char** environ;

namespace vmm::net {

namespace {

struct TapOptions {
  std::optional<std::string> ifname, fd, fds, script, downscript, br, helper, vhostfd, vhostfds;
  std::optional<Bytes64> sndbuf;
  std::optional<bool> vnet_hdr, vhost, vhostforce;
  std::optional<u32> queues, poll_us;
};
constexpr unsigned queue_limit = 256;

class TapNetdev final : public Netdev {
 public:
  static const TypeInfo type;
  ~TapNetdev() override;
  Result<> open(EventLoop& loop, const TapOptions& o);
  std::string_view kind() const override { return "tap"; }
  std::string info() const override { return info_; }
  unsigned queues() const override { return static_cast<unsigned>(ends_.size()); }
  End& queue(unsigned n) override { return *ends_[n]; }
  bool has_vnet_header() const override { return vnet_header_; }
  void peer_takes(const OffloadSet& set) override;

 private:
  Result<Fd> open_queue(std::string& name, const TapOptions& o, bool several);
  Result<> add_queue(EventLoop& loop, Fd fd);
  std::vector<std::unique_ptr<PacketFdEnd>> ends_;
  bool vnet_header_ = false;
  std::string info_, name_, down_script_;
};
constinit const TypeInfo TapNetdev::type{
    .name = "netdev-tap", .doc = "An interface of the host's.", .parent = &Netdev::type, .user_creatable = false};

Result<> run_script(const std::string& path, const std::string& interface) {
  const std::string words[] = {path, interface};
  auto program = host::start_program(words);
  if (!program) return fail_errno(format("could not launch network script {}", path));
  const int status = TRY(program->wait());
  if (status) return fail("network script {} failed with status {}", path, WIFEXITED(status) ? WEXITSTATUS(status) : status);
  return {};
}
std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  for (;;) {
    const auto stop = text.find(at);
    parts.emplace_back(text.substr(0, stop));
    if (stop == text.npos) return parts;
    text.remove_prefix(stop + 1);
  }
}

TapNetdev::~TapNetdev() {
  ends_.clear();
  if (!down_script_.empty())
    if (auto done = run_script(down_script_, name_); !done) report_warning(done.error().message);
}

Result<Fd> TapNetdev::open_queue(std::string& name, const TapOptions& o, bool several) {
  Fd fd{host::open_file("/dev/net/tun", O_RDWR | O_NONBLOCK)};
  if (!fd) return fail_errno("could not open /dev/net/tun");
  unsigned features = 0;
  ::ioctl(fd.get(), TUNGETFEATURES, &features);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (several) request.ifr_flags |= IFF_MULTI_QUEUE;
  vnet_header_ = o.vnet_hdr.value_or(true) && features & IFF_VNET_HDR;
  if (o.vnet_hdr.value_or(false) && !vnet_header_) return fail("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR available");
  if (vnet_header_) request.ifr_flags |= IFF_VNET_HDR;
  if (name.size() >= IFNAMSIZ) return fail("the interface name '{}' is longer than {} characters", name, IFNAMSIZ - 1);
  std::ranges::copy(name.empty() ? std::string_view{"tap%d"} : std::string_view{name}, request.ifr_name);
  if (::ioctl(fd.get(), TUNSETIFF, &request) < 0)
    return fail_errno(name.empty() ? "could not configure /dev/net/tun" : format("could not configure /dev/net/tun ({})", name));
  name = request.ifr_name;
  return fd;
}

Result<> TapNetdev::add_queue(EventLoop& loop, Fd fd) {
  ifreq request{};
  if (::ioctl(fd.get(), TUNGETIFF, &request) < 0) return fail_errno("descriptor is no tap interface");
  if (!(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_NO_PI))
    return fail("descriptor is no tap interface without packet information");
  const bool header = request.ifr_flags & IFF_VNET_HDR;
  if (!ends_.empty() && header != vnet_header_) return fail("vnet_hdr not consistent across given tap fds");
  vnet_header_ = header;
  if (header) {
    int bytes = 10;
    if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &bytes) < 0) return fail_errno("cannot set the size of the tap's header");
    ::ioctl(fd.get(), TUNSETOFFLOAD, 0);
  }
  auto end = std::make_unique<PacketFdEnd>(*this);
  if (header) end->set_takes({.checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true});
  end->start(loop, std::move(fd), header);
  ends_.push_back(std::move(end));
  return {};
}

void TapNetdev::peer_takes(const OffloadSet& set) {
  if (!vnet_header_) return;
  unsigned flags = 0;
  if (set.checksum) {
    flags = TUN_F_CSUM | (set.tcp4 ? TUN_F_TSO4 : 0) | (set.tcp6 ? TUN_F_TSO6 : 0);
    if (set.ecn && (set.tcp4 || set.tcp6)) flags |= TUN_F_TSO_ECN;
  }
  for (const auto& end : ends_)
    if (end->fd() >= 0) ::ioctl(end->fd(), TUNSETOFFLOAD, flags);
}

Result<> TapNetdev::open(EventLoop& loop, const TapOptions& o) {
  if (o.vhost.value_or(false) || o.vhostforce.value_or(false) || o.vhostfd || o.vhostfds)
    return fail("vhost is not possible here: leave it out, or say vhost=off");
  if (o.helper || o.br)
    return fail("bridge helpers are not possible here: make the tap interface first and name it by ifname=, or pass it by fd=");
  const u32 queues = o.queues.value_or(1);
  if (o.fd || o.fds) {
    if (o.fd && o.fds) return fail("fd= and fds= are mutually exclusive");
    if (o.ifname || o.script || o.downscript || o.vnet_hdr || o.queues)
      return fail("ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=");
    const std::vector<std::string> names = o.fd ? std::vector{*o.fd} : split(*o.fds, ':');
    if (names.size() > queue_limit) return fail("{} queues are the limit", queue_limit);
    for (const std::string& name : names) TRY(add_queue(loop, TRY(io::take_named_fd(name))));
    info_ = format("fd={}", ends_[0]->fd());
    return {};
  }
  if (!queues || queues > queue_limit) return fail("'queues' takes 1 to {}, not {}", queue_limit, queues);
  name_ = o.ifname.value_or("");
  for (u32 i = 0; i < queues; i++) {
    Fd fd = TRY(open_queue(name_, o, queues > 1));
    if (o.sndbuf) {
      const int bytes = static_cast<int>(std::min<u64>(*o.sndbuf ? u64{*o.sndbuf} : INT32_MAX, INT32_MAX));
      if (::ioctl(fd.get(), TUNSETSNDBUF, &bytes) < 0) return fail_errno("TUNSETSNDBUF failed");
    }
    TRY(add_queue(loop, std::move(fd)));
  }
  constexpr const char* usual = "/etc/qemu-ifup";
  const std::string script = o.script.value_or(::access(usual, X_OK) == 0 ? usual : "no");
  if (script != "no" && !script.empty()) TRY(run_script(script, name_));
  constexpr const char* usual_down = "/etc/qemu-ifdown";
  const std::string down = o.downscript.value_or(::access(usual_down, X_OK) == 0 ? usual_down : "no");
  if (down != "no") down_script_ = down;
  info_ = format("ifname={},script={},downscript={}", name_, script, down);
  return {};
}

}  // namespace
}  // namespace vmm::net

namespace vmm {
using net::TapOptions;
template <>
inline constexpr std::array fields<TapOptions> = {
    field<&TapOptions::ifname>("ifname", "Name of the interface; absent: the next tapN."),
    field<&TapOptions::fd>("fd", "An open tap: a number, or a name given by getfd."),
    field<&TapOptions::fds>("fds", "The same for several queues, by colons."),
    field<&TapOptions::script>("script", "Program that sets the interface up; no: none."),
    field<&TapOptions::downscript>("downscript", "Program that takes it down; no: none."),
    field<&TapOptions::br>("br", "Bridge, of a helper: not possible here."),
    field<&TapOptions::helper>("helper", "Bridge helper: not possible here."),
    field<&TapOptions::sndbuf>("sndbuf", "Most bytes that wait in the kernel; 0: no limit."),
    field<&TapOptions::vnet_hdr>("vnet_hdr", "Sums and segmentation may be left to the kernel."),
    field<&TapOptions::vhost>("vhost", "Queues in the kernel: not possible here."),
    field<&TapOptions::vhostfd>("vhostfd", "The same."),
    field<&TapOptions::vhostfds>("vhostfds", "The same."),
    field<&TapOptions::vhostforce>("vhostforce", "The same."),
    field<&TapOptions::queues>("queues", "Number of queues."),
    field<&TapOptions::poll_us>("poll-us", "Of vhost: not used."),
};
}  // namespace vmm

namespace vmm::net {
namespace {
const RegisteredNetdev tap_kind{{
    .name = "tap",
    .doc = "an interface of the host's",
    .options = fields<TapOptions>,
    .make = [](EventLoop& loop, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      const TapOptions o = TRY(read_options<TapOptions>(options));
      const Ref<TapNetdev> made = make_object<TapNetdev>();
      TRY(made->open(loop, o));
      return Ref<Netdev>{made};
    },
}};
const Registered registered{TapNetdev::type};
}  // namespace
}  // namespace vmm::net
