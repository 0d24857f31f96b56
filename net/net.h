// Packets between two ends: a network card and a back end, or two ports of a hub. Everything here is on the main loop with the machine
// lock held. No queue grows without bound: a receiver that is full says so, and the sender keeps its packet until it hears resume().
// Source of the offload words: virtio 1.2 §5.1.6.2 (the virtio-net header); checksums: RFC 1071; segmentation: RFC 9293, RFC 791, 8200.
#pragma once

#include <sys/uio.h>

#include <span>
#include <string>
#include <vector>

#include "src/event/event_loop.h"
#include "src/object/object.h"
#include "src/value/field.h"

namespace vmm::net {

inline constexpr usize max_packet_bytes = 65536 + 64;  // what any end may be handed: a whole IP packet with its link header

// What the sender left to the receiver (or to us, if the receiver cannot).
struct Offload {
  enum class Segment : u8 { none, tcp4, udp_fragment, tcp6, udp4_or_6 };
  bool needs_checksum = false;  // sum bytes from checksum_start to the end into checksum_start + checksum_offset
  bool checksum_good = false;   // somebody has looked
  bool ecn = false;
  Segment segment = Segment::none;
  u16 header_bytes = 0, segment_bytes = 0, checksum_start = 0, checksum_offset = 0;
  bool undone() const { return needs_checksum || segment != Segment::none; }
};
// What an end takes undone.
struct OffloadSet {
  bool checksum = false, tcp4 = false, tcp6 = false, ecn = false, udp_fragment = false, udp_segment = false;
  bool takes(const Offload& o) const;
  friend bool operator==(const OffloadSet&, const OffloadSet&) = default;
};

// One Ethernet frame without its check sequence; the bytes live as long as the call.
struct Packet {
  std::span<const iovec> parts;
  Offload offload{};
  usize size() const;
  usize copy_to(std::span<u8> into, usize from = 0) const;  // how many bytes
};
// A packet in one piece, for the span of a call.
class FlatPacket {
 public:
  explicit FlatPacket(std::span<const u8> bytes, const Offload& offload = {})
      : part_{const_cast<u8*>(bytes.data()), bytes.size()}, packet_{{&part_, 1}, offload} {}
  FlatPacket(const FlatPacket&) = delete;
  operator const Packet&() const { return packet_; }

 private:
  iovec part_;
  Packet packet_;
};

using Mac = std::array<u8, 6>;
std::string mac_text(const Mac& mac);
std::optional<Mac> parse_mac(std::string_view text);
inline bool is_multicast(const u8* mac) { return mac[0] & 1; }
u32 ethernet_crc(std::span<const u8> bytes);  // IEEE 802.3 CRC-32, as multicast hashes use it (not inverted at the end: `~` for the FCS)

// Hears what passes an end (filter-dump).
class Tap {
 public:
  virtual ~Tap() = default;
  virtual void passed(const Packet& packet, bool from_this_end) = 0;
};

class Netdev;

// One queue of a card or of a back end.
class End {
 public:
  End() = default;
  virtual ~End();
  End(const End&) = delete;

  End* peer() const { return peer_; }
  static void link(End& a, End& b);
  void unlink();

  // To the peer. False: it is full; keep the packet, send nothing until resume(). True: taken, or dropped (no peer, link down).
  bool send(const Packet& packet);
  bool send(std::span<const u8> frame) { return send(FlatPacket{frame}); }
  // What left this end and was cut into segments, of which the peer has not taken all.
  bool sending() const { return next_segment_ < segments_.size(); }
  // This end has room again: its peer goes on.
  void ready();

  bool link_up() const { return link_up_; }
  void set_link(bool up);  // tells both ends
  // Whether packets can flow: both ends up, and there is a peer.
  bool connected() const { return peer_ && link_up_ && peer_->link_up_; }

  void add_tap(Tap& tap) { taps_.push_back(&tap); }
  void remove_tap(Tap& tap) { std::erase(taps_, &tap); }

  // Takes a packet; false: no room now, and ready() is called when there is.
  virtual bool receive(const Packet& packet) = 0;
  // Offloads that it takes in received packets.
  virtual OffloadSet takes() const { return {}; }
  virtual void resume() {}
  virtual void link_changed() {}  // of this end, of the peer, or the peer has come or gone
  virtual Netdev* netdev() { return nullptr; }

 private:
  bool deliver(const Packet& packet);
  bool send_segments();
  End* peer_ = nullptr;
  bool link_up_ = true, refused_ = false;
  std::vector<Tap*> taps_;
  std::vector<std::vector<u8>> segments_;  // of one packet
  usize next_segment_ = 0;
};

// A back end: an object under /netdevs/ID.
class Netdev : public Object {
 public:
  static const TypeInfo type;
  virtual std::string_view kind() const = 0;  // "user"
  virtual std::string info() const = 0;       // "net=10.0.2.0,restrict=off", as `info network` shows it
  virtual End& queue(unsigned index) = 0;
  virtual unsigned queues() const { return 1; }
  const std::string& id() const { return name(); }
  // Of all queues: offloads that the peer may send undone; more than `takes` of a queue only says while it is running.
  virtual bool has_vnet_header() const { return false; }
  // The card says what it takes undone (tap passes that to the kernel).
  virtual void peer_takes(const OffloadSet&) {}
  // -net's hub number and this end's name there; none: -1.
  virtual int hub() const { return -1; }
};

// What a card lets in (query-rx-filter).
enum class RxState : u8 { normal, none, all };
struct RxFilter {
  std::string name;
  bool promiscuous = false;
  RxState multicast = RxState::normal, unicast = RxState::normal, vlan = RxState::all;
  bool broadcast_allowed = true, multicast_overflow = false, unicast_overflow = false;
  std::string main_mac;
  std::vector<i64> vlan_table;
  std::vector<std::string> unicast_table, multicast_table;
};

// A card, for `info network`, set_link and MAC allocation; a device derives from it.
class Card {
 public:
  virtual ~Card() = default;
  virtual std::string card_name() const = 0;  // the device's id, or "e1000.0"
  virtual std::string_view model() const = 0;
  virtual const Mac& mac() const = 0;
  virtual unsigned ends() const { return 1; }
  virtual End& end(unsigned index) = 0;
  virtual std::optional<RxFilter> rx_filter() const { return std::nullopt; }  // nothing: cannot say
  virtual void announce();                                                    // tells the network where it is (RARP)
};
std::vector<Card*> all_cards();  // in the order of the tree
Mac unused_mac();                // 52:54:00:12:34:56 and up

// --- Back ends by kind
struct NetdevKind {
  std::string_view name, doc;
  std::span<const Field> options;
  Result<Ref<Netdev>> (*make)(EventLoop& loop, const std::string& id, const Value& options);
  const NetdevKind* next = nullptr;
};
struct RegisteredNetdev {
  explicit RegisteredNetdev(NetdevKind kind);
  NetdevKind kind;
};
std::vector<const NetdevKind*> all_netdev_kinds();  // by name
const NetdevKind* find_netdev_kind(std::string_view name);
// Makes a back end of `-netdev`'s or netdev_add's options ("type", "id" and the kind's own) and puts it under /netdevs.
Result<Ref<Netdev>> make_netdev(EventLoop& loop, const Value& options);
EventLoop* netdev_loop();  // what netdev_add makes them on; null before make_netdev or set_netdev_loop
void set_netdev_loop(EventLoop* loop);
Netdev* find_netdev(std::string_view id);
std::vector<Netdev*> all_netdevs();
Result<> remove_netdev(std::string_view id);
// `user,id=x,hostfwd=…,hostfwd=…` as make_netdev takes it; repeated keys become lists.
Result<Value> parse_netdev_options(std::string_view text, bool* help = nullptr);
void go_on_after_stop();  // the machine runs again: cards take packets

template <class Options>
Result<Options> read_options(const Value& value) {
  Options options;
  TRY(assign_fields(&options, fields<Options>, value));
  return options;
}

// What `info network` prints.
std::string describe_network();

// Text of one option or a list of texts, also as [{"str": …}].
struct TextList {
  std::vector<std::string> items;
};

// --- Offloads in software (offload.cpp)
// The 16-bit one's complement sum of bytes, not inverted; `sum` goes on from an earlier even-sized part.
u32 internet_sum(std::span<const u8> bytes, u32 sum = 0);
inline u16 internet_checksum(u32 sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<u16>(~sum);
}
// Does the checksum that was left undone; false: its place is outside the frame (nothing is changed).
bool finish_checksum(std::span<u8> frame, const Offload& offload);
// For cards whose drivers give a template of headers: mends lengths and sums of the whole and says what is left to do. Nothing: this is
// no TCP or UDP frame.
std::optional<Offload> prepare_segmentation(std::span<u8> frame, u16 segment_bytes);
// The frames that a segmentation offload stands for, with all sums done. Empty: the headers do not make sense.
std::vector<std::vector<u8>> segment(std::span<const u8> frame, const Offload& offload);

}  // namespace vmm::net

namespace vmm {
template <>
struct Codec<net::Mac> {
  static constexpr TypeDescription description{.name = "str", .kind = TypeDescription::Kind::string};
  static Value to_value(const net::Mac& v) { return Value{net::mac_text(v)}; }
  static Result<> from_value(net::Mac& to, const Value& v, std::string_view what, const FieldLimits&) {
    const std::string text = TRY(v.as_string(what));
    const auto mac = net::parse_mac(text);
    if (!mac) return fail("doesn't take value '{}'", text);
    to = *mac;
    return {};
  }
};
// `netdev=ID`: a link to a back end that no card has yet.
template <>
struct Codec<Ref<net::Netdev>> {
  static constexpr TypeDescription description{.name = "str", .kind = TypeDescription::Kind::string};
  static Value to_value(const Ref<net::Netdev>& v) { return Value{v ? v->id() : std::string{}}; }
  static Result<> from_value(Ref<net::Netdev>& to, const Value& v, std::string_view what, const FieldLimits&) {
    const std::string id = TRY(v.as_string(what));
    if (id.empty()) return to = nullptr, Result<>{};
    net::Netdev* found = net::find_netdev(id);
    if (!found) return fail("can't find value '{}'", id);
    if (found->queue(0).peer()) return fail("can't take value '{}', it's in use", id);
    to = Ref<net::Netdev>{found};
    return {};
  }
};
template <>
struct Codec<net::TextList> {
  static constexpr TypeDescription description{.name = "list",
                                               .kind = TypeDescription::Kind::list,
                                               .element = []() -> const TypeDescription* { return &Codec<std::string>::description; }};
  static Value to_value(const net::TextList& v) {
    Value list = Value::list();
    for (const auto& text : v.items) list.append(Value{text});
    return list;
  }
  static Result<> from_value(net::TextList& to, const Value& v, std::string_view what, const FieldLimits&) {
    net::TextList result;
    const auto take = [&](const Value& item) -> Result<> {
      const Value* text = item.find("str");
      result.items.push_back(TRY((text ? *text : item).as_string(what)));
      return {};
    };
    if (v.is_list()) {
      for (const Value& item : v.items()) TRY(take(item));
    } else {
      TRY(take(v));
    }
    to = std::move(result);
    return {};
  }
};
}  // namespace vmm
