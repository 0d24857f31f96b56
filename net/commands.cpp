// netdev_add, netdev_del, set_link, query-rx-filter, announce-self, hostfwd-add, hostfwd-remove, info network, info usernet.
// RARP: RFC 903.
#include <algorithm>

#include "net/net.h"
#include "net/user.h"
#include "src/control/command.h"

namespace vmm::net {

namespace {

struct NetdevAddArgs {  // for the schema; the kind's own options come as well
  std::string type, id;
};
struct IdArgs {
  std::string id;
};
struct SetLinkArgs {
  std::string name;
  bool up = false;
};
struct RxFilterArgs {
  std::optional<std::string> name;
};
struct AnnounceArgs {
  i64 initial = 50, max = 550, rounds = 5, step = 100;
  std::optional<std::vector<std::string>> interfaces;
  std::optional<std::string> id;
};
struct ForwardArgs {
  std::string rule;
  std::optional<std::string> id;
};

}  // namespace
}  // namespace vmm::net

namespace vmm {
using namespace net;
template <>
inline constexpr std::array enum_names<RxState> = {EnumNameOf{RxState::normal, std::string_view{"normal"}},
                                                   EnumNameOf{RxState::none, std::string_view{"none"}},
                                                   EnumNameOf{RxState::all, std::string_view{"all"}}};
template <>
inline constexpr std::array fields<RxFilter> = {
    field<&RxFilter::name>("name", "Id of the card."),
    field<&RxFilter::promiscuous>("promiscuous", "Whether it takes everything."),
    field<&RxFilter::multicast>("multicast", "What multicast it takes."),
    field<&RxFilter::unicast>("unicast", "What unicast it takes."),
    field<&RxFilter::vlan>("vlan", "What VLANs it takes."),
    field<&RxFilter::broadcast_allowed>("broadcast-allowed", "Whether it takes broadcasts."),
    field<&RxFilter::multicast_overflow>("multicast-overflow", "Its multicast table was too small."),
    field<&RxFilter::unicast_overflow>("unicast-overflow", "Its unicast table was too small."),
    field<&RxFilter::main_mac>("main-mac", "Its own address."),
    field<&RxFilter::vlan_table>("vlan-table", "VLANs that it takes."),
    field<&RxFilter::unicast_table>("unicast-table", "Unicast addresses that it takes."),
    field<&RxFilter::multicast_table>("multicast-table", "Multicast addresses that it takes."),
};
template <>
inline constexpr std::array fields<NetdevAddArgs> = {
    field<&NetdevAddArgs::type>("type", "Kind of back end."),
    field<&NetdevAddArgs::id>("id", "Id of the new back end."),
};
template <>
inline constexpr std::array fields<net::IdArgs> = {field<&net::IdArgs::id>("id", "Id of the back end.")};
template <>
inline constexpr std::array fields<SetLinkArgs> = {
    field<&SetLinkArgs::name>("name", "Id of a card or a back end."),
    field<&SetLinkArgs::up>("up", "Whether its cable is in."),
};
template <>
inline constexpr std::array fields<RxFilterArgs> = {field<&RxFilterArgs::name>("name", "Id of a card.")};
template <>
inline constexpr std::array fields<AnnounceArgs> = {
    field<&AnnounceArgs::initial>("initial", "Milliseconds to the second announcement.", {.min = 1, .max = 100000, .optional = true}),
    field<&AnnounceArgs::max>("max", "Most milliseconds between announcements.", {.min = 1, .max = 100000, .optional = true}),
    field<&AnnounceArgs::rounds>("rounds", "How many announcements.", {.min = 1, .max = 1000, .optional = true}),
    field<&AnnounceArgs::step>("step", "Milliseconds by which the pause grows.", {.min = 0, .max = 10000, .optional = true}),
    field<&AnnounceArgs::interfaces>("interfaces", "Ids of cards; absent: all."),
    field<&AnnounceArgs::id>("id", "Name of this series."),
};
template <>
inline constexpr std::array fields<ForwardArgs> = {
    field<&ForwardArgs::rule>("rule", "[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport; to remove: up to the host port."),
    field<&ForwardArgs::id>("id", "Id of a `user` back end; absent: the only one."),
};
}  // namespace vmm

namespace vmm::net {

std::string describe_network() {
  const auto back_end = [](Netdev& n, unsigned queue) { return format("{}: index={},type={},{}\n", n.id(), queue, n.kind(), n.info()); };
  const std::vector<Card*> cards = all_cards();
  const auto card_line = [](Card& c, unsigned queue) {
    return format("{}: index={},type=nic,model={},macaddr={}\n", c.card_name(), queue, c.model(), mac_text(c.mac()));
  };
  const auto card_of = [&](const End* end) -> Card* {
    for (Card* c : cards)
      for (unsigned i = 0; i < c->ends(); i++)
        if (&c->end(i) == end) return c;
    return nullptr;
  };
  std::string text;
  std::vector<int> hubs;
  for (Netdev* n : all_netdevs())
    if (n->hub() >= 0 && std::ranges::find(hubs, n->hub()) == hubs.end()) hubs.push_back(n->hub());
  for (const int hub : hubs) {
    text += format("hub {}\n", hub);
    std::vector<Netdev*> ports;
    for (Netdev* n : all_netdevs())
      if (n->hub() == hub) ports.push_back(n);
    for (auto port = ports.rbegin(); port != ports.rend(); ++port) {
      End* peer = (*port)->queue(0).peer();
      text += format(" \\ {}", (*port)->id());
      if (peer && peer->netdev())
        text += ": " + back_end(*peer->netdev(), 0);
      else if (Card* c = card_of(peer))
        text += ": " + card_line(*c, 0);
      else
        text += "\n";
    }
  }
  for (Card* c : cards)
    for (unsigned i = 0; i < c->ends(); i++) {
      End* peer = c->end(i).peer();
      if (peer && peer->netdev() && peer->netdev()->hub() >= 0) continue;
      text += card_line(*c, i);
      if (peer && peer->netdev()) text += " \\ " + back_end(*peer->netdev(), i);
    }
  for (Netdev* n : all_netdevs())
    if (n->hub() < 0 && !n->queue(0).peer()) text += back_end(*n, 0);
  return text;
}

void Card::announce() {
  std::array<u8, 60> frame{};
  std::fill_n(frame.begin(), 6, u8{0xff});
  std::ranges::copy(mac(), frame.begin() + 6);
  static constexpr u8 rest[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};  // RARP, Ethernet, IPv4, request
  std::ranges::copy(rest, frame.begin() + 12);
  std::ranges::copy(mac(), frame.begin() + 22);
  std::ranges::copy(mac(), frame.begin() + 32);
  end(0).send(frame);
}

namespace {

Card* find_card(std::string_view name) {
  for (Card* c : all_cards())
    if (c->card_name() == name) return c;
  return nullptr;
}

Result<> add(const Value& options) {
  EventLoop* loop = netdev_loop();
  if (!loop) return fail("network back ends cannot be added before the main loop is there");
  auto made = make_netdev(*loop, options);
  if (made) return {};
  if (made.error().message.starts_with("Duplicate ID"))
    made.error().message = made.error().message.substr(0, made.error().message.find(" for "));
  return std::unexpected(std::move(made).error());
}
Result<Value> netdev_add(control::Context&, const Value& arguments) {
  if (!arguments.is_object()) return fail("Invalid parameter type for 'arguments', expected: object");
  TRY(add(arguments));
  return Value::object();
}
Result<std::string> netdev_add_human(control::Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("netdev_add takes one word: KIND,id=ID[,option=value…]");
  bool help = false;
  const Value options = TRY(parse_netdev_options(words[0], &help));
  if (help) {
    std::string text = "Available netdev backend types:\n";
    for (const NetdevKind* k : all_netdev_kinds()) text += format("{}\n", k->name);
    return text;
  }
  TRY(add(options));
  return std::string{};
}
Result<void> netdev_del(control::Context&, const IdArgs& args) { return remove_netdev(args.id); }

Result<void> set_link(control::Context&, const SetLinkArgs& args) {
  if (Card* card = find_card(args.name)) {
    for (unsigned i = 0; i < card->ends(); i++) card->end(i).set_link(args.up);
    return {};
  }
  if (Netdev* netdev = find_netdev(args.name)) {
    for (unsigned i = 0; i < netdev->queues(); i++) netdev->queue(i).set_link(args.up);
    return {};
  }
  return fail(ErrorClass::device_not_found, "Device '{}' not found", args.name);
}

Result<std::vector<RxFilter>> query_rx_filter(control::Context&, const RxFilterArgs& args) {
  std::vector<RxFilter> answer;
  if (args.name) {
    Card* card = find_card(*args.name);
    if (!card) {
      if (find_netdev(*args.name)) return fail("net client({}) isn't a NIC", *args.name);
      return fail("invalid net client name: {}", *args.name);
    }
    auto filter = card->rx_filter();
    if (!filter) return fail("net client({}) doesn't support rx-filter querying", *args.name);
    answer.push_back(std::move(*filter));
    return answer;
  }
  for (Card* card : all_cards())
    if (auto filter = card->rx_filter()) answer.push_back(std::move(*filter));
  return answer;
}

// One series of announcements; lives until its last one.
class Announcer : public std::enable_shared_from_this<Announcer> {
 public:
  Announcer(EventLoop& loop, AnnounceArgs args) : loop_(loop), args_(std::move(args)), pause_ms_(args_.initial) {
    loop_.add_time_domain(domain_);
  }
  ~Announcer() {
    timer_.cancel();
    loop_.remove_time_domain(domain_);
  }
  void round() {
    for (Card* card : all_cards())
      if (!args_.interfaces || std::ranges::find(*args_.interfaces, card->card_name()) != args_.interfaces->end()) card->announce();
    if (--args_.rounds <= 0) return loop_.post([self = std::move(self_)] {});
    timer_.arm_in(std::chrono::milliseconds{pause_ms_});
    pause_ms_ = std::min(pause_ms_ + args_.step, args_.max);
  }
  void keep() { self_ = shared_from_this(); }

 private:
  EventLoop& loop_;
  AnnounceArgs args_;
  i64 pause_ms_;
  TimeDomain domain_;
  std::shared_ptr<Announcer> self_;
  Timer timer_{Clock::real, domain_, [this] { round(); }};
};
Result<void> announce_self(control::Context&, const AnnounceArgs& args) {
  EventLoop* loop = netdev_loop();
  if (!loop) return {};
  const auto series = std::make_shared<Announcer>(*loop, args);
  series->keep();
  series->round();
  return {};
}
Result<std::string> announce_human(control::Context& context, std::span<const std::string> words) {
  AnnounceArgs args;
  if (!words.empty()) {
    args.interfaces.emplace();
    for (std::string_view rest = words[0]; !rest.empty();) {
      const auto comma = std::min(rest.find(','), rest.size());
      args.interfaces->emplace_back(rest.substr(0, comma));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  TRY(announce_self(context, args));
  return std::string{};
}

// --- Forwards of `user` back ends

Result<UserNetdev*> user_netdev(const std::optional<std::string>& id) {
  if (id) {
    Netdev* found = find_netdev(*id);
    if (!found) return fail("unrecognized netdev id '{}'", *id);
    auto* user = dynamic_cast<UserNetdev*>(found);
    if (!user) return fail("{} is not a 'user' back end", *id);
    return user;
  }
  for (Netdev* n : all_netdevs())
    if (auto* user = dynamic_cast<UserNetdev*>(n)) return user;
  return fail("user mode network stack not in use");
}
Result<void> forward_add(control::Context&, const ForwardArgs& args) {
  UserNetdev* user = TRY(user_netdev(args.id));
  return user->add_forward(args.rule);
}
Result<void> forward_remove(control::Context&, const ForwardArgs& args) {
  UserNetdev* user = TRY(user_netdev(args.id));
  const ForwardRule rule = TRY(parse_forward_rule(args.rule, false));
  if (!user->remove_forward(rule)) return fail("host forwarding rule for {} not found", args.rule);
  return {};
}
// [id] rule: their answers are plain text.
Result<std::string> forward_add_human(control::Context&, std::span<const std::string> words) {
  if (words.empty() || words.size() > 2) return fail("hostfwd_add takes [id] and a rule");
  auto user = user_netdev(words.size() == 2 ? std::optional{words[0]} : std::nullopt);
  if (!user) return user.error().message + "\n";
  auto done = (*user)->add_forward(words.back());
  return done ? std::string{} : done.error().message + "\n";
}
Result<std::string> forward_remove_human(control::Context&, std::span<const std::string> words) {
  if (words.empty() || words.size() > 2) return fail("hostfwd_remove takes [id] and a rule");
  auto user = user_netdev(words.size() == 2 ? std::optional{words[0]} : std::nullopt);
  if (!user) return user.error().message + "\n";
  const auto rule = parse_forward_rule(words.back(), false);
  if (!rule) return std::string{"invalid format\n"};
  return format("host forwarding rule for {} {}\n", words.back(), (*user)->remove_forward(*rule) ? "removed" : "not found");
}

Result<std::string> info_network(control::Context&, std::span<const std::string>) { return describe_network(); }
Result<std::string> info_usernet(control::Context&, std::span<const std::string>) {
  std::string text;
  for (Netdev* n : all_netdevs())
    if (auto* user = dynamic_cast<UserNetdev*>(n)) {
      End* peer = user->queue(0).peer();
      const int hub = peer && peer->netdev() ? peer->netdev()->hub() : -1;
      text += format("Hub {} ({}):\n{}", hub, user->id(), user->connections());
    }
  return text;
}

using control::command;
using control::human;
const control::Registered commands[] = {
    control::Registered{[] {
      control::Command c{.info = {.name = "netdev_add", .doc = "Makes a network back end.", .since = "0.14"},
                         .arguments = fields<NetdevAddArgs>};
      c.run = netdev_add;
      return c;
    }()},
    control::Registered{human<netdev_add_human>(
        {.doc = "Makes a network back end.", .human = "netdev_add", .human_args = "netdev:S", .human_help = "add host network device"})},
    control::Registered{command<netdev_del>({.name = "netdev_del",
                                             .doc = "Removes a network back end; the card that has it loses its link.",
                                             .since = "0.14",
                                             .human = "netdev_del",
                                             .human_args = "id:s",
                                             .human_help = "remove host network device"})},
    control::Registered{command<set_link>({.name = "set_link",
                                           .doc = "Pulls out or puts in the cable of a card or a back end.",
                                           .since = "0.14",
                                           .human = "set_link",
                                           .human_args = "name:s,up:o",
                                           .human_help = "change the link status of a network adapter"})},
    control::Registered{command<query_rx_filter>({.name = "query-rx-filter", .doc = "What packets cards let in.", .since = "1.6"})},
    control::Registered{command<announce_self>({.name = "announce-self", .doc = "Cards tell the network where they are.", .since = "4.0"})},
    control::Registered{human<announce_human>({.doc = "Cards tell the network where they are.",
                                               .human = "announce_self",
                                               .human_args = "interfaces:s?,id:s?",
                                               .human_help = "Trigger GARP/RARP announcements"})},
    control::Registered{command<forward_add>({.name = "hostfwd-add", .doc = "Forwards a port of the host to the guest."})},
    control::Registered{command<forward_remove>({.name = "hostfwd-remove", .doc = "Takes back a forward."})},
    control::Registered{
        human<forward_add_human>({.doc = "Forwards a port of the host to the guest.",
                                  .human = "hostfwd_add",
                                  .human_args = "arg1:s,arg2:s?",
                                  .human_help = "redirect TCP or UDP connections from host to guest (requires -net user)"})},
    control::Registered{human<forward_remove_human>({.doc = "Takes back a forward.",
                                                     .human = "hostfwd_remove",
                                                     .human_args = "arg1:s,arg2:s?",
                                                     .human_help = "remove host-to-guest TCP or UDP redirection"})},
    control::Registered{
        human<info_network>({.doc = "Cards and back ends.", .human = "info network", .human_help = "show the network state"})},
    control::Registered{human<info_usernet>(
        {.doc = "Connections of `user` back ends.", .human = "info usernet", .human_help = "show user network stack connection states"})},
};

}  // namespace

}  // namespace vmm::net
