// nbd: a disk that a server elsewhere keeps. Source: proto.md, "Transmission phase", "Structured replies", "Metadata querying"; options as
// QEMU's driver has them. A connection that breaks is made anew by the next request; with reconnect-delay the requests under way wait for
// that, and are sent again.
#include <algorithm>
#include <map>

#include "block/core/node.h"
#include "block/core/sleep.h"
#include "block/core/throttle.h"
#include "block/nbd/address.h"
#include "block/nbd/handshake.h"

namespace vmm {
namespace block::nbd {
namespace {
struct ClientOptions {
  std::optional<Value> server;
  std::optional<std::string> host, port, path, export_name, tls_creds, tls_hostname, x_dirty_bitmap;
  std::optional<u32> reconnect_delay, open_timeout;
};
}  // namespace
}  // namespace block::nbd
template <>
inline constexpr std::array fields<block::nbd::ClientOptions> = {
    field<&block::nbd::ClientOptions::server>("server", "Where it is: type (inet, unix, fd) and its members."),
    field<&block::nbd::ClientOptions::host>("host", "Short for server.type=inet,server.host.", {.hidden = true}),
    field<&block::nbd::ClientOptions::port>("port", "Short for server.port.", {.hidden = true}),
    field<&block::nbd::ClientOptions::path>("path", "Short for server.type=unix,server.path.", {.hidden = true}),
    field<&block::nbd::ClientOptions::export_name>("export", "Name of the export; empty if absent."),
    field<&block::nbd::ClientOptions::tls_creds>("tls-creds", "Not possible.", {.hidden = true}),
    field<&block::nbd::ClientOptions::tls_hostname>("tls-hostname", "Not possible.", {.hidden = true}),
    field<&block::nbd::ClientOptions::x_dirty_bitmap>("x-dirty-bitmap", "Context that block status shows instead of base:allocation."),
    field<&block::nbd::ClientOptions::reconnect_delay>("reconnect-delay", "Seconds that requests wait for a lost server; 0: they fail."),
    field<&block::nbd::ClientOptions::open_timeout>("open-timeout", "Seconds in which opening tries again; 0: once."),
};

namespace block::nbd {
namespace {

constexpr Nanoseconds handshake_limit = 30s, between_attempts = 1s;
constexpr usize most_pieces = 1024;  // of one read's answer that do not touch

// Which bytes of a read have come: a server must neither leave one out nor send one twice.
class Coverage {
 public:
  bool add(u64 begin, u64 length) {
    if (!length) return false;
    auto next = parts_.lower_bound(begin);
    if (next != parts_.end() && next->first < begin + length) return false;
    if (next != parts_.begin()) {
      auto before = std::prev(next);
      if (before->second > begin) return false;
      if (before->second == begin) begin = before->first, length += before->second - before->first, parts_.erase(before);
    }
    u64 end = begin + length;
    if (next != parts_.end() && next->first == end) end = next->second, parts_.erase(next);
    parts_.emplace(begin, end);
    return parts_.size() <= most_pieces;
  }
  bool all(u64 length) const { return parts_.size() == 1 && parts_.begin()->first == 0 && parts_.begin()->second == length; }

 private:
  std::map<u64, u64> parts_;  // begin, end
};

struct Pending {
  Command command{};
  u64 offset = 0;
  u32 length = 0;
  u16 flags = 0;
  IoVector payload, into;
  // What came back.
  bool done = false;
  Coverage coverage;
  std::optional<std::pair<u32, u32>> extent;  // length, flags
  u32 error = 0;
  std::string message;
  WaitList changed;
};

struct Connection {
  explicit Connection(Fd socket) : stream(std::move(socket)) {}
  Stream stream;
  ExportInfo info;
  AsyncMutex sending;
  bool reading = false;  // somebody waits for replies; whoever has his own hands that on
  std::optional<Error> broken;
  u64 last_cookie = 0;
  std::map<u64, Pending*> pending;

  void break_off(Error why) {
    if (!broken) broken = std::move(why);
    stream.hang_up();
    std::vector<u64> cookies;
    for (const auto& [cookie, p] : pending) cookies.push_back(cookie);
    for (const u64 cookie : cookies)
      if (const auto at = pending.find(cookie); at != pending.end()) at->second->changed.wake_all();
  }
  void hand_on() {
    for (const auto& [cookie, p] : pending)
      if (!p->done && p->changed.wake_one()) return;
  }
};
using ConnectionRef = std::shared_ptr<Connection>;

// May requests that were meant for one export go to another that has come in its place?
bool takes_place_of(const ExportInfo& now, const ExportInfo& before) {
  using namespace export_flag;
  constexpr u16 used = flush | fua | trim | write_zeroes | fast_zero;
  return now.length_bytes == before.length_bytes && now.min_block <= before.min_block && now.max_block >= before.max_block &&
         !(before.flags & ~now.flags & used) && !(now.flags & ~before.flags & read_only) && (now.context || !before.context);
}

class Nbd final : public BlockNode {
 public:
  Task<> open(Value options) override;
  Task<> read(u64 offset, IoVector into) override;
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override;
  Task<> flush() override;
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override;
  Task<> discard(u64 offset, u64 length) override;
  Task<Extent> map(u64 offset, u64 length) override;
  Task<> close() override;
  u64 length_bytes() const override { return info_.length_bytes; }
  Limits limits() const override;
  std::string filename() const override { return name_of(address_, export_); }
  Task<u64> allocated_bytes() override { co_return u64{0}; }
  Task<> reopen(const NodeOptions& options) override {
    if (!options.read_only && info_.has(export_flag::read_only)) co_return fail_os(EROFS, "NBD export is read-only");
    co_return co_await BlockNode::reopen(options);
  }

 private:
  Task<ConnectionRef> connect_once();
  Task<ConnectionRef> connected(Nanoseconds give_up);
  Task<> transact(Pending& p);
  Task<> exchange(Connection& c, Pending& p);
  Task<> read_reply(Connection& c);
  Task<> read_chunk(Connection& c);

  Address address_;
  std::string export_, context_;
  Nanoseconds reconnect_delay_{};
  ExportInfo info_;
  ConnectionRef connection_;
  AsyncMutex connecting_;
};

std::unexpected<Error> nonsense(std::string_view what) { return fail_os(EPROTO, format("the NBD server speaks nonsense: {}", what)); }

// --- Connections

Task<> Nbd::open(Value options) {
  ClientOptions o;
  // "server.host" and the like may come as they are typed, "host" as it once was.
  if (auto ok = assign_fields(&o, fields<ClientOptions>, options); !ok) co_return ok;
  if (o.tls_creds || o.tls_hostname) co_return fail("TLS is not possible on NBD connections; use a unix socket or a tunnel");
  if (o.path && (o.host || o.port)) co_return fail("path and host may not be used at the same time");
  if (o.server && (o.path || o.host || o.port)) co_return fail("'server' and path/host/port may not be used at the same time");
  if (!o.server) {
    Value server = Value::object();
    if (o.path)
      server.set("type", "unix").set("path", *o.path);
    else if (o.host)
      server.set("type", "inet").set("host", *o.host).set("port", o.port.value_or(std::to_string(default_port)));
    else
      co_return fail("NBD server address missing");
    o.server = std::move(server);
  }
  auto address = read_address(*o.server);
  if (!address) co_return std::unexpected(std::move(address).error());
  address_ = std::move(*address);
  export_ = o.export_name.value_or("");
  context_ = o.x_dirty_bitmap.value_or("base:allocation");
  reconnect_delay_ = std::chrono::seconds{o.reconnect_delay.value_or(0)};
  const Nanoseconds give_up = monotonic_now() + std::chrono::seconds{o.open_timeout.value_or(0)};
  for (;;) {
    auto made = co_await attempt(connect_once());
    if (made) {
      connection_ = std::move(*made);
      break;
    }
    if (monotonic_now() + between_attempts >= give_up) co_return std::unexpected(std::move(made).error());
    co_await sleep_here(between_attempts);
  }
  info_ = connection_->info;
  if (o.x_dirty_bitmap && !info_.context) co_return fail("requested x-dirty-bitmap {} not found", context_);
  if (info_.has(export_flag::read_only) && !read_only()) {
    if (!this->options().auto_read_only) co_return fail_os(EROFS, "NBD export is read-only: it can be opened with read-only=on");
    set_read_only(true);
  }
  co_return Result<>{};
}

Task<ConnectionRef> Nbd::connect_once() {
  const Nanoseconds deadline = monotonic_now() + handshake_limit;
  Fd socket = co_await connect(address_, deadline);
  auto c = std::make_shared<Connection>(std::move(socket));
  c->stream.set_deadline(deadline);
  c->info = co_await enter_export(c->stream, export_, context_);
  c->stream.set_deadline(Nanoseconds::max());
  co_return std::move(c);
}

// The connection, made anew where it has broken; tries until `give_up`, once at least.
Task<ConnectionRef> Nbd::connected(Nanoseconds give_up) {
  auto guard = co_await connecting_.lock();
  while (!connection_ || connection_->broken) {
    auto made = co_await attempt(connect_once());
    if (made && !takes_place_of((*made)->info, info_))
      co_return fail_os(EIO, format("{}: the server came back with another export of that name", filename()));
    if (made) {
      connection_ = std::move(*made);
    } else {
      if (monotonic_now() + between_attempts >= give_up) co_return std::unexpected(std::move(made).error());
      co_await sleep_here(between_attempts);
    }
  }
  co_return connection_;
}

Task<> Nbd::close() {
  if (!connection_ || connection_->broken) co_return Result<>{};
  const ConnectionRef c = std::exchange(connection_, nullptr);
  Message m;
  m.u32be(request_magic).u16be(0).u16be(u16(Command::disconnect)).u64be(0).u64be(0).u32be(0);
  c->stream.set_deadline(monotonic_now() + 1s);
  (void)co_await attempt(c->stream.write(m.bytes()));
  c->stream.hang_up();
  co_return Result<>{};
}

Limits Nbd::limits() const {
  const u32 most = ~u32{0} & ~(info_.min_block - 1);
  return {.request_alignment = info_.min_block,
          .max_transfer = info_.max_block,
          .max_zero = most,
          .max_discard = most,
          .discard_granularity = info_.min_block,
          .optimal_transfer = info_.preferred_block,
          .fua = info_.has(export_flag::fua)};
}

// --- Requests

Task<> Nbd::transact(Pending& p) {
  const Nanoseconds give_up = monotonic_now() + reconnect_delay_;
  for (;;) {
    const ConnectionRef c = co_await connected(give_up);
    const Result<> done = co_await attempt(exchange(*c, p));
    if (done) break;
    if (!c->broken || monotonic_now() >= give_up) co_return done;
  }
  if (p.error)
    co_return fail_os(error_from_wire(p.error), p.message.empty() ? std::string{} : format("the NBD server says '{}'", p.message));
  co_return Result<>{};
}

// Sends the request and waits for its reply. An error: the connection has broken.
Task<> Nbd::exchange(Connection& c, Pending& p) {
  p.done = false, p.error = 0, p.coverage = {}, p.extent.reset(), p.message.clear();
  const u64 cookie = ++c.last_cookie;
  c.pending.emplace(cookie, &p);
  {
    auto guard = co_await c.sending.lock();
    if (!c.broken) {
      Message m;
      m.u32be(request_magic).u16be(p.flags).u16be(u16(p.command)).u64be(cookie).u64be(p.offset).u32be(p.length);
      IoVector all{m.bytes()};
      all.append(p.payload);
      const auto sent = co_await attempt(c.stream.write(std::move(all)));
      if (!sent) c.break_off(sent.error());
    }
  }
  // Also after a break nobody leaves while a reader may be filling his memory.
  while (!p.done) {
    if (c.reading) {
      co_await p.changed.wait();
      continue;
    }
    if (c.broken) break;
    c.reading = true;
    const auto got = co_await attempt(read_reply(c));
    c.reading = false;
    if (!got) c.break_off(got.error());
  }
  c.pending.erase(cookie);
  if (!c.reading) c.hand_on();
  if (p.done) co_return Result<>{};
  co_return std::unexpected(*c.broken);
}

// One reply, or one part of one.
Task<> Nbd::read_reply(Connection& c) {
  u8 head[simple_reply_bytes];
  co_await c.stream.read(std::span{head}.first(4));
  const u32 magic = load_be<u32>(head);
  if (magic == structured_reply_magic && c.info.structured) co_return co_await read_chunk(c);
  if (magic != simple_reply_magic) co_return nonsense("a reply begins wrongly");
  co_await c.stream.read(std::span{head}.subspan(4));
  const auto at = c.pending.find(load_be<u64>(head + 8));
  if (at == c.pending.end() || at->second->done) co_return nonsense("a reply to nobody");
  Pending& p = *at->second;
  p.error = load_be<u32>(head + 4);
  if (!p.error && p.command == Command::read) {
    if (c.info.structured) co_return nonsense("a read's data in a simple reply");
    co_await c.stream.read(p.into);
  } else if (!p.error && p.command == Command::block_status) {
    co_return nonsense("block status in a simple reply");
  }
  p.done = true;
  p.changed.wake_all();
  co_return Result<>{};
}

Task<> Nbd::read_chunk(Connection& c) {
  u8 head[chunk_header_bytes - 4];
  co_await c.stream.read(std::span{head});
  const u16 flags = load_be<u16>(head);
  const Chunk type = Chunk(load_be<u16>(head + 2));
  const auto at = c.pending.find(load_be<u64>(head + 4));
  u32 left = load_be<u32>(head + 12);
  if (at == c.pending.end() || at->second->done) co_return nonsense("a reply to nobody");
  Pending& p = *at->second;
  if (left > most_payload_bytes + 8) co_return nonsense("a reply is too long");
  u8 number[8];
  if (u16(type) & chunk_is_error) {
    if (left < 6) co_return nonsense("an error's reply is too short");
    co_await c.stream.read(std::span{number}.first(6));
    const u32 error = load_be<u32>(number);
    const u16 length = load_be<u16>(number + 4);
    left -= 6;
    if (!error || length > left || length > most_string_bytes) co_return nonsense("an error's reply");
    std::vector<u8> text(length);
    co_await c.stream.read(std::span{text});
    left -= length;
    if (left > 64) co_return nonsense("an error's reply is too long");
    co_await c.stream.skip(left);
    if (!p.error) p.error = error, p.message.assign(text.begin(), text.end());
  } else {
    switch (type) {
      case Chunk::none:
        if (left || !(flags & chunk_done)) co_return nonsense("an empty reply");
        break;
      case Chunk::offset_data:
      case Chunk::offset_hole: {
        const bool hole = type == Chunk::offset_hole;
        if (p.command != Command::read || (hole ? left != 12 : left < 9)) co_return nonsense("data that nobody asked for");
        co_await c.stream.read(std::span{number});
        const u64 offset = load_be<u64>(number);
        u32 length = left - 8;
        if (hole) {
          co_await c.stream.read(std::span{number}.first(4));
          length = load_be<u32>(number);
        }
        if (offset < p.offset || offset - p.offset > p.length || length > p.length - (offset - p.offset) ||
            !p.coverage.add(offset - p.offset, length))
          co_return nonsense("data beside what was asked for");
        const IoVector part = p.into.part(offset - p.offset, length);
        if (hole)
          part.fill(0);
        else
          co_await c.stream.read(part);
        break;
      }
      case Chunk::block_status: {
        if (p.command != Command::block_status || left < 12 || (left - 4) % 8) co_return nonsense("block status that nobody asked for");
        co_await c.stream.read(std::span{number}.first(4));
        const bool ours = c.info.context && load_be<u32>(number) == *c.info.context;
        co_await c.stream.read(std::span{number});
        if (ours && !p.extent) p.extent = {load_be<u32>(number), load_be<u32>(number + 4)};
        co_await c.stream.skip(left - 12);
        break;
      }
      default: co_return nonsense("a reply of an unknown kind");
    }
  }
  if (flags & chunk_done) {
    if (!p.error && p.command == Command::read && !p.coverage.all(p.length)) co_return nonsense("a read's answer is not whole");
    p.done = true;
    p.changed.wake_all();
  }
  co_return Result<>{};
}

Task<> Nbd::read(u64 offset, IoVector into) {
  Pending p{.command = Command::read, .offset = offset, .length = u32(into.size())};
  p.into = std::move(into);
  co_return co_await transact(p);
}
Task<> Nbd::write(u64 offset, IoVector from, WriteFlags flags) {
  Pending p{.command = Command::write, .offset = offset, .length = u32(from.size())};
  if (flags.fua && info_.has(export_flag::fua)) p.flags = command_flag::fua;
  p.payload = std::move(from);
  co_return co_await transact(p);
}
Task<> Nbd::flush() {
  if (!info_.has(export_flag::flush)) co_return Result<>{};
  Pending p{.command = Command::flush};
  co_return co_await transact(p);
}
Task<> Nbd::zero(u64 offset, u64 length, ZeroFlags flags) {
  if (!info_.has(export_flag::write_zeroes) || (flags.no_fallback && !info_.has(export_flag::fast_zero))) co_return fail_os(ENOTSUP);
  Pending p{.command = Command::write_zeroes, .offset = offset, .length = u32(length)};
  if (!flags.may_unmap) p.flags |= command_flag::no_hole;
  if (flags.no_fallback) p.flags |= command_flag::fast_zero;
  if (flags.fua && info_.has(export_flag::fua)) p.flags |= command_flag::fua;
  co_return co_await transact(p);
}
Task<> Nbd::discard(u64 offset, u64 length) {
  if (!info_.has(export_flag::trim)) co_return Result<>{};
  Pending p{.command = Command::trim, .offset = offset, .length = u32(length)};
  co_return co_await transact(p);
}
Task<Extent> Nbd::map(u64 offset, u64 length) {
  Extent e{.kind = Extent::Kind::data, .length = length, .host_offset = offset, .has_host_offset = true};
  if (!info_.context) co_return e;
  const u64 asked = std::min<u64>(length, ~u32{0} & ~(info_.min_block - 1));
  Pending p{.command = Command::block_status, .offset = offset, .length = u32(asked), .flags = command_flag::one_extent};
  co_await transact(p);
  if (!p.extent || !p.extent->first) co_return fail_os(EIO, "the NBD server answers block status without an extent");
  e.length = std::min<u64>(p.extent->first, asked);
  if (p.extent->second & extent_zero) e.kind = Extent::Kind::zero, e.present = !(p.extent->second & extent_hole), e.has_host_offset = false;
  co_return e;
}

constexpr std::string_view prefixes[] = {"nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix"};
RegisteredDriver registered{{.name = "nbd",
                             .doc = "A disk that an NBD server keeps.",
                             .kind = BlockDriver::Kind::protocol,
                             .options = fields<ClientOptions>,
                             .make = make_node<Nbd>,
                             .prefixes = prefixes,
                             .parse_filename = parse_name}};

}  // namespace
}  // namespace block::nbd
}  // namespace vmm
