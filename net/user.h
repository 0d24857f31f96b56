// What other files ask of `user` back ends: port forwards and what `info usernet` shows.
#pragma once

#include <netinet/in.h>

#include "net/net.h"

namespace vmm::net {

// "[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport"; a rule to be removed has no part from '-' on.
struct ForwardRule {
  bool udp = false;
  in_addr host{}, guest{};
  u16 host_port = 0, guest_port = 0;
};
Result<ForwardRule> parse_forward_rule(std::string_view text, bool with_guest);

// "tcp:server:port-cmd:command" or "tcp:server:port-chardev"
struct GuestForwardRule {
  in_addr server{};
  u16 port = 0;
  std::string command, chardev;
};
Result<GuestForwardRule> parse_guest_forward_rule(std::string_view text);

// "10.0.2.0/24", "10.0.2.0/255.255.255.0" or "10.0.2.0", whose class says how long the prefix is.
struct Network {
  in_addr address{}, mask{};
};
Result<Network> parse_network(std::string_view text);

class UserNetdev : public Netdev {
 public:
  virtual Result<> add_forward(std::string_view rule) = 0;
  virtual bool remove_forward(const ForwardRule& rule) = 0;
  virtual std::string connections() = 0;
};

}  // namespace vmm::net
