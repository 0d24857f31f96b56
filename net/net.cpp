// Ends and how packets go between them.
#include "net/net.h"

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace vmm::net {

bool OffloadSet::takes(const Offload& o) const {
  if (o.needs_checksum && !checksum) return false;
  if (o.ecn && !ecn) return false;
  switch (o.segment) {
    case Offload::Segment::none: return true;
    case Offload::Segment::tcp4: return tcp4;
    case Offload::Segment::tcp6: return tcp6;
    case Offload::Segment::udp_fragment: return udp_fragment;
    case Offload::Segment::udp4_or_6: return udp_segment;
  }
  return false;
}

usize Packet::size() const {
  usize total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  return total;
}
usize Packet::copy_to(std::span<u8> into, usize from) const {
  usize done = 0;
  for (const iovec& part : parts) {
    if (from >= part.iov_len) {
      from -= part.iov_len;
      continue;
    }
    const usize n = std::min(part.iov_len - from, into.size() - done);
    if (n) std::memcpy(into.data() + done, static_cast<const u8*>(part.iov_base) + from, n);
    done += n, from = 0;
    if (done == into.size()) break;
  }
  return done;
}

std::string mac_text(const Mac& mac) {
  return format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}
std::optional<Mac> parse_mac(std::string_view text) {
  if (text.size() != 17) return std::nullopt;
  Mac mac{};
  for (unsigned i = 0; i < 6; i++) {
    const char* at = text.data() + i * 3;
    if (i && at[-1] != ':' && at[-1] != '-') return std::nullopt;
    const auto [stop, error] = std::from_chars(at, at + 2, mac[i], 16);
    if (error != std::errc{} || stop != at + 2) return std::nullopt;
  }
  return mac;
}
u32 ethernet_crc(std::span<const u8> bytes) { return ~static_cast<u32>(::crc32(0, bytes.data(), static_cast<uInt>(bytes.size()))); }

// --- Ends

End::~End() { unlink(); }

void End::link(End& a, End& b) {
  a.unlink(), b.unlink();
  a.peer_ = &b, b.peer_ = &a;
  a.refused_ = b.refused_ = false;
  a.link_changed(), b.link_changed();
}

void End::unlink() {
  End* other = std::exchange(peer_, nullptr);
  segments_.clear(), next_segment_ = 0;
  if (!other) return;
  other->peer_ = nullptr;
  other->segments_.clear(), other->next_segment_ = 0;
  other->link_changed();
  other->resume();  // what it sends now is dropped, and it need not wait for that
}

void End::set_link(bool up) {
  if (link_up_ == up) return;
  link_up_ = up;
  link_changed();
  if (peer_) peer_->link_changed();
  if (up) return;
  // Nobody waits at a cable that is out.
  resume();
  if (peer_) peer_->resume();
}

bool End::deliver(const Packet& packet) {
  End& to = *peer_;
  if (!to.receive(packet)) return to.refused_ = true, false;
  for (Tap* tap : taps_) tap->passed(packet, true);
  for (Tap* tap : to.taps_) tap->passed(packet, false);
  return true;
}

bool End::send_segments() {
  while (sending()) {
    if (!connected()) break;
    if (!deliver(FlatPacket{segments_[next_segment_]})) return false;
    next_segment_++;
  }
  segments_.clear(), next_segment_ = 0;
  return true;
}

bool End::send(const Packet& packet) {
  if (sending() && !send_segments()) return false;
  if (!connected()) return true;
  const usize bytes = packet.size();
  if (bytes < 14 || bytes > max_packet_bytes) return true;  // no frame: nobody could read its header
  if (!packet.offload.undone() || peer_->takes().takes(packet.offload)) return deliver(packet);
  std::vector<u8> frame(bytes);
  packet.copy_to(frame);
  if (packet.offload.segment == Offload::Segment::none) {
    if (!finish_checksum(frame, packet.offload)) return true;
    return deliver(FlatPacket{frame, {.checksum_good = true}});
  }
  segments_ = segment(frame, packet.offload), next_segment_ = 0;
  send_segments();
  return true;  // it is ours now
}

void End::ready() {
  if (!peer_) return;
  refused_ = false;
  End& from = *peer_;
  if (from.sending() && !from.send_segments()) return;
  from.resume();
}

// --- Back ends and cards by name

constinit const TypeInfo Netdev::type{.name = "netdev", .doc = "Network back end.", .parent = &Object::type, .user_creatable = false};

namespace {
const NetdevKind* kinds = nullptr;  // head of the registry
EventLoop* main_loop = nullptr;

Object& folder() {
  Object& root = root_object();
  if (Object* found = root.child("netdevs")) return *found;
  root.add_child("netdevs", make_folder());
  return *root.child("netdevs");
}
}  // namespace

RegisteredNetdev::RegisteredNetdev(NetdevKind k) : kind(k) {
  kind.next = kinds;
  kinds = &kind;
}
std::vector<const NetdevKind*> all_netdev_kinds() {
  std::vector<const NetdevKind*> all;
  for (const NetdevKind* k = kinds; k; k = k->next) all.push_back(k);
  std::ranges::sort(all, {}, &NetdevKind::name);
  return all;
}
const NetdevKind* find_netdev_kind(std::string_view name) {
  for (const NetdevKind* k = kinds; k; k = k->next)
    if (k->name == name) return k;
  return nullptr;
}
EventLoop* netdev_loop() { return main_loop; }
void set_netdev_loop(EventLoop* loop) { main_loop = loop; }

Netdev* find_netdev(std::string_view id) {
  Object* in = root_object().child("netdevs");
  return in ? object_cast<Netdev>(in->child(id)) : nullptr;
}
std::vector<Netdev*> all_netdevs() {
  std::vector<Netdev*> all;
  if (Object* in = root_object().child("netdevs"))
    for (const auto& child : in->children())
      if (auto* netdev = object_cast<Netdev>(child.get())) all.push_back(netdev);
  return all;
}

Result<Ref<Netdev>> make_netdev(EventLoop& loop, const Value& options) {
  main_loop = &loop;
  Value rest = options;
  const auto take = [&](std::string_view key) -> Result<std::string> {
    const Value* v = rest.find(key);
    if (!v) return fail("Parameter '{}' is missing", key);
    std::string text = TRY(v->as_string(key));
    rest.erase(key);
    return text;
  };
  const std::string name = TRY(take("type"));
  const NetdevKind* kind = find_netdev_kind(name);
  if (!kind) {
    std::vector<std::string> names;
    for (const NetdevKind* k : all_netdev_kinds()) names.emplace_back(k->name);
    std::string all;
    for (const auto& n : names) all += (all.empty() ? "" : ", ") + n;
    return std::unexpected(Error{format("Parameter 'type' does not accept value '{}'", name)}.with_hint("Network back ends: " + all));
  }
  const std::string id = TRY(take("id"));
  if (find_netdev(id)) return fail("Duplicate ID '{}' for netdev", id);
  auto made = kind->make(loop, id, rest);
  if (!made) {
    Error& error = made.error();
    constexpr std::string_view unexpected = "Parameter '", end = "' is unexpected";
    if (error.message.starts_with(unexpected) && error.message.ends_with(end)) {
      const std::string key = error.message.substr(unexpected.size(), error.message.size() - unexpected.size() - end.size());
      error.message = format("Invalid parameter '{}'", key);
      std::vector<std::string> names;
      for (const Field& f : kind->options) names.emplace_back(f.name);
      std::string near;
      for (const auto& n : nearest_names(key, names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
      error.hint = near;
    }
    return made;
  }
  folder().add_child(id, *made);
  return made;
}

Result<> remove_netdev(std::string_view id) {
  Netdev* netdev = find_netdev(id);
  if (!netdev) return fail(ErrorClass::device_not_found, "Device '{}' not found", id);
  const Ref<Netdev> keep{netdev};
  for (unsigned i = 0; i < netdev->queues(); i++) netdev->queue(i).unlink();
  netdev->parent()->remove_child(*netdev);
  return {};
}

std::vector<Card*> all_cards() {
  std::vector<Card*> cards;
  const auto walk = [&](auto&& self, Object& at) -> void {
    if (auto* card = dynamic_cast<Card*>(&at)) cards.push_back(card);
    for (const auto& child : at.children()) self(self, *child);
  };
  if (Object* machine = root_object().child("machine")) walk(walk, *machine);
  return cards;
}

Mac unused_mac() {
  const std::vector<Card*> cards = all_cards();
  for (unsigned n = 0x56;; n++) {
    const Mac mac{0x52, 0x54, 0, 0x12, static_cast<u8>(0x34 + (n >> 8)), static_cast<u8>(n)};
    if (std::ranges::none_of(cards, [&](Card* c) { return c->mac() == mac; })) return mac;
  }
}

void go_on_after_stop() {
  for (Card* card : all_cards())
    for (unsigned i = 0; i < card->ends(); i++) card->end(i).ready();
}

}  // namespace vmm::net
