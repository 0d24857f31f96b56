// Rules of `user` back ends as users write them: forwards and networks. Texts: contract.md §1 and what Debian's QEMU 7.2 answers.
#include <arpa/inet.h>

#include <charconv>

#include "net/user.h"

namespace vmm::net {

namespace {

// Takes the text before the first `end`; nothing if there is none.
std::optional<std::string> cut(std::string_view& rest, char end) {
  const auto at = rest.find(end);
  if (at == rest.npos) return std::nullopt;
  std::string part{rest.substr(0, at)};
  rest.remove_prefix(at + 1);
  return part;
}
std::optional<u16> port_number(std::string_view text, bool zero_too) {
  u16 port = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || error != std::errc{} || stop != text.data() + text.size() || (!port && !zero_too)) return std::nullopt;
  return port;
}
bool address(const std::string& text, in_addr& to) { return text.empty() || ::inet_pton(AF_INET, text.c_str(), &to) == 1; }

}  // namespace

Result<ForwardRule> parse_forward_rule(std::string_view text, bool with_guest) {
  ForwardRule rule;
  const auto bad = [&](std::string_view why) { return fail("Invalid host forwarding rule '{}' ({})", text, why); };
  std::string_view rest = text;
  const auto protocol = cut(rest, ':');
  if (!protocol) return bad("No : separators");
  if (*protocol != "tcp" && *protocol != "udp" && !protocol->empty()) return bad("Bad protocol name");
  rule.udp = *protocol == "udp";
  const auto host = cut(rest, ':');
  if (!host) return bad("Missing : separator");
  if (!address(*host, rule.host)) return bad("Bad host address");
  std::string_view port = rest;
  if (with_guest) {
    const auto part = rest.find('-');
    if (part == rest.npos) return bad("Bad host port separator");
    port = rest.substr(0, part), rest.remove_prefix(part + 1);
  }
  const auto host_port = port_number(port, with_guest);
  if (!host_port) return bad("Bad host port");
  rule.host_port = *host_port;
  if (!with_guest) return rule;
  const auto guest = cut(rest, ':');
  if (!guest) return bad("Missing guest address");
  if (!address(*guest, rule.guest)) return bad("Bad guest address");
  const auto guest_port = port_number(rest, false);
  if (!guest_port) return bad("Bad guest port");
  rule.guest_port = *guest_port;
  return rule;
}

Result<GuestForwardRule> parse_guest_forward_rule(std::string_view text) {
  GuestForwardRule rule;
  std::string_view rest = text;
  const auto protocol = cut(rest, ':');
  const auto server = protocol ? cut(rest, ':') : std::nullopt;
  const auto port = server ? cut(rest, '-') : std::nullopt;
  const auto number = port ? port_number(*port, false) : std::nullopt;
  if (!number || (!protocol->empty() && *protocol != "tcp") || !address(*server, rule.server) || rest.empty())
    return fail("Invalid guest forwarding rule '{}'", text);
  rule.port = *number;
  if (rest.starts_with("cmd:"))
    rule.command = rest.substr(4);
  else
    rule.chardev = rest;
  return rule;
}

Result<Network> parse_network(std::string_view text) {
  Network network;
  const auto slash = text.find('/');
  if (::inet_pton(AF_INET, std::string{text.substr(0, slash)}.c_str(), &network.address) != 1)
    return fail("Failed to parse network CIDR '{}'", text);
  const u32 host_order = ntohl(network.address.s_addr);
  u32 mask = host_order < 0x8000'0000 ? 0xff00'0000 : host_order < 0xc000'0000 ? 0xffff'0000 : 0xffff'ff00;
  if (slash != text.npos) {
    const std::string rest{text.substr(slash + 1)};
    u32 bits = 0;
    const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), bits);
    if (error == std::errc{} && stop == rest.data() + rest.size() && !rest.empty()) {
      if (bits < 4 || bits > 32) return fail("Invalid netmask provided (must be in range 4-32)");
      mask = ~u32{0} << (32 - bits);
    } else if (in_addr a; ::inet_pton(AF_INET, rest.c_str(), &a) == 1) {
      mask = ntohl(a.s_addr);
    } else {
      return fail("Failed to parse netmask '{}'", rest);
    }
  }
  network.mask.s_addr = htonl(mask);
  network.address.s_addr = htonl(host_order & mask);
  return network;
}

}  // namespace vmm::net
