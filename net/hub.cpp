// Hubs: what comes in at one port goes out at all others. `-net` puts everything on hub 0; `-netdev hubport` names hub and port.
#include <algorithm>

#include "net/net.h"

namespace vmm::net {

namespace {

struct HubPortOptions {
  i64 hubid = 0;
  std::optional<std::string> netdev;
};
class HubPort;
struct Hub {
  std::vector<HubPort*> ports;
};

class HubPort final : public Netdev {
 public:
  static const TypeInfo type;
  ~HubPort() override {
    end_.unlink();
    if (hub_) std::erase(hub_->ports, this);
  }
  Result<> open(const HubPortOptions& o);
  std::string_view kind() const override { return "hubport"; }
  std::string info() const override { return format("hubid={}", number_); }
  End& queue(unsigned) override { return end_; }
  int hub() const override { return number_; }

 private:
  class PortEnd final : public End {
   public:
    explicit PortEnd(HubPort& port) : port_(port) {}
    // Taken as soon as one other port has it; a slow port among several loses packets, as on a real hub.
    bool receive(const Packet& packet) override {
      bool taken = false, anyone = false;
      for (HubPort* other : port_.hub_->ports) {
        if (other == &port_ || !other->end_.connected()) continue;
        anyone = true;
        taken |= other->end_.send(packet);
      }
      return taken || !anyone;
    }
    void resume() override {
      for (HubPort* other : port_.hub_->ports)
        if (other != &port_) other->end_.ready();
    }
    Netdev* netdev() override { return &port_; }

   private:
    HubPort& port_;
  };
  int number_ = -1;
  std::shared_ptr<Hub> hub_;
  PortEnd end_{*this};
};
constinit const TypeInfo HubPort::type{
    .name = "netdev-hubport", .doc = "A port of a hub.", .parent = &Netdev::type, .user_creatable = false};

Result<> HubPort::open(const HubPortOptions& o) {
  Netdev* other = nullptr;
  if (o.netdev) {
    other = find_netdev(*o.netdev);
    if (!other) return fail("netdev '{}' not found", *o.netdev);
    if (other->queue(0).peer()) return fail("netdev '{}' is in use", *o.netdev);
  }
  number_ = static_cast<int>(o.hubid);
  for (Netdev* n : all_netdevs())
    if (auto* port = object_cast<HubPort>(n); port && port->number_ == number_) hub_ = port->hub_;
  if (!hub_) hub_ = std::make_shared<Hub>();
  if (hub_->ports.size() >= 256) return fail("hub {} has 256 ports already", number_);
  hub_->ports.push_back(this);
  if (other) End::link(end_, other->queue(0));
  return {};
}

}  // namespace
}  // namespace vmm::net

namespace vmm {
using net::HubPortOptions;
template <>
inline constexpr std::array fields<HubPortOptions> = {
    field<&HubPortOptions::hubid>("hubid", "Number of the hub.", {.min = 0, .max = 65535}),
    field<&HubPortOptions::netdev>("netdev", "Back end to put on it; absent: a card takes it."),
};
}  // namespace vmm

namespace vmm::net {
namespace {
const RegisteredNetdev hub_kind{{
    .name = "hubport",
    .doc = "a port of a hub",
    .options = fields<HubPortOptions>,
    .make = [](EventLoop&, const std::string&, const Value& options) -> Result<Ref<Netdev>> {
      const HubPortOptions o = TRY(read_options<HubPortOptions>(options));
      const Ref<HubPort> made = make_object<HubPort>();
      TRY(made->open(o));
      return Ref<Netdev>{made};
    },
}};
const Registered registered{HubPort::type};
}  // namespace
}  // namespace vmm::net
