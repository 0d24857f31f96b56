#include "block/export/session.h"

#include <algorithm>

#include "block/core/throttle.h"
#include "src/base/trace.h"
#include "src/base/wire.h"

namespace vmm::block::nbd {

namespace {
TraceEvent negotiated{"nbd_negotiate_success"}, requested{"nbd_receive_request"}, refused{"nbd_co_send_chunk_error"};
constexpr Nanoseconds handshake_limit = 10s;
constexpr u32 most_option_bytes = 64 * KiB, most_contexts = 64;
constexpr u32 most_options = 1000;  // of one handshake
constexpr u32 most_requests = 16;   // under way, of one client
constexpr u64 most_bytes = 2 * u64{most_payload_bytes};
constexpr u64 least_sparse_bytes = 64 * KiB;  // smaller reads are not looked into for zeros
constexpr usize most_extents = 4096;
}  // namespace

void Session::start() {
  run(shared_from_this()).start([self = shared_from_this()](Result<>) { self->server_.end_of(*self); });
}

Task<> Session::run(std::shared_ptr<Session> self) {
  Session& s = *self;
  s.stream_.set_deadline(monotonic_now() + handshake_limit);
  const bool chosen = co_await s.negotiate();
  s.stream_.set_deadline(Nanoseconds::max());
  if (!chosen) co_return Result<>{};
  trace(negotiated, "export '{}'", s.export_->options().name);
  co_await s.serve();
  co_return Result<>{};
}

// --- Handshake

Task<bool> Session::negotiate() {
  Message greeting;
  greeting.u64be(hello_magic).u64be(option_magic).u16be(hello::fixed_newstyle | hello::no_zeroes);
  co_await stream_.write(greeting.bytes());
  u8 head[16];
  co_await stream_.read(std::span{head}.first(4));
  const u32 flags = load_be<u32>(head);
  if (flags & ~u32{hello::fixed_newstyle | hello::no_zeroes}) co_return fail("unknown client flags");
  no_zeroes_ = flags & hello::no_zeroes;
  for (u32 i = 0; i < most_options; i++) {
    co_await stream_.read(std::span{head});
    if (load_be<u64>(head) != option_magic) co_return fail("an option begins wrongly");
    const Option which = Option(load_be<u32>(head + 8));
    const u32 length = load_be<u32>(head + 12);
    if (length > most_payload_bytes) co_return fail("an option is too long");
    if (length > most_option_bytes) {
      co_await stream_.skip(length);
      co_await refuse(which, OptionReply::too_big, "option is too big");
      continue;
    }
    std::vector<u8> data(length);
    co_await stream_.read(std::span{data});
    if (which == Option::abort) {
      (void)co_await attempt(reply(which, OptionReply::ack));
      co_return false;
    }
    const bool done = co_await option(which, std::move(data));
    if (done) co_return true;
  }
  co_return fail("too many options");
}

Task<> Session::reply(Option option, OptionReply type, Message data) {
  Message m;
  m.u64be(option_reply_magic).u32be(u32(option)).u32be(u32(type)).u32be(u32(data.size()));
  IoVector all{m.bytes()};
  if (data.size()) all.add(data.bytes());
  co_return co_await stream_.write(std::move(all));
}

void Session::choose(ExportRef e) {
  export_ = std::move(e);
  export_->clients++;
}

// True: the transmission phase begins.
Task<bool> Session::option(Option which, std::vector<u8> data) {
  switch (which) {
    case Option::export_name: {
      const ExportRef e = server_.find({reinterpret_cast<const char*>(data.data()), data.size()});
      if (!e) co_return fail("no such export");  // this option has no errors but the end
      contexts_.clear();
      choose(e);
      Message m;
      m.u64be(e->length_bytes()).u16be(e->flags(structured_));
      if (!no_zeroes_) m.text(std::string(124, '\0'));
      co_await stream_.write(m.bytes());
      co_return true;
    }
    case Option::list:
      if (!data.empty())
        co_await refuse(which, OptionReply::invalid, "NBD_OPT_LIST has no data");
      else
        co_await list_exports();
      co_return false;
    case Option::info:
    case Option::go: co_return co_await inform(which, std::move(data));
    case Option::structured_reply:
      if (!data.empty()) {
        co_await refuse(which, OptionReply::invalid, "NBD_OPT_STRUCTURED_REPLY has no data");
      } else {
        structured_ = true;
        co_await reply(which, OptionReply::ack);
      }
      co_return false;
    case Option::list_meta_context:
    case Option::set_meta_context: co_await contexts(which, std::move(data)); co_return false;
    case Option::start_tls: co_await refuse(which, OptionReply::policy, "TLS is not possible here"); co_return false;
    default: co_await refuse(which, OptionReply::unsupported, "unknown option"); co_return false;
  }
}

Task<> Session::list_exports() {
  const auto all = server_.exports();
  for (const auto& e : all) {
    if (e->closing) continue;
    Message m;
    m.string(e->options().name).text(e->options().description);
    co_await reply(Option::list, OptionReply::server, std::move(m));
  }
  co_return co_await reply(Option::list, OptionReply::ack);
}

Task<bool> Session::inform(Option which, std::vector<u8> data) {
  SpanReader in{data};
  const auto parse = [&]() -> Result<std::pair<std::string, std::vector<u16>>> {
    const u32 length = TRY(TRY(in.be<u32>("name length")).at_most(most_string_bytes, "name length"));
    const auto text = TRY(in.bytes(length, "name"));
    const u16 count = TRY(in.be<u16>("count")).raw();
    std::vector<u16> wanted;
    for (u16 i = 0; i < count; i++) wanted.push_back(TRY(in.be<u16>("information")).raw());
    if (in.left()) return fail("data after the end");
    return std::pair{std::string{text.begin(), text.end()}, std::move(wanted)};
  };
  const auto parsed = parse();
  if (!parsed) {
    co_await refuse(which, OptionReply::invalid, parsed.error().message);
    co_return false;
  }
  const auto& [name, wanted] = *parsed;
  const ExportRef e = server_.find(name);
  if (!e) {
    co_await refuse(which, OptionReply::unknown, format("export '{}' not present", name.substr(0, 200)));
    co_return false;
  }
  bool sizes = false;
  for (const u16 w : wanted) {
    if (Info(w) == Info::name) {
      Message m;
      m.u16be(w).text(name);
      co_await reply(which, OptionReply::info, std::move(m));
    } else if (Info(w) == Info::description && !e->options().description.empty()) {
      Message m;
      m.u16be(w).text(e->options().description);
      co_await reply(which, OptionReply::info, std::move(m));
    }
    sizes |= Info(w) == Info::block_size;
  }
  // Who asks for sizes will keep to them; others get byte requests, which the graph aligns.
  const u32 unit = e->backend().limits().request_alignment;
  Message block;
  block.u16be(u16(Info::block_size))
      .u32be(sizes || which == Option::info ? std::min<u32>(unit, 64 * KiB) : 1)
      .u32be(std::max<u32>(4096, std::min<u32>(unit, 64 * KiB)))
      .u32be(most_payload_bytes);
  co_await reply(which, OptionReply::info, std::move(block));
  Message m;
  m.u16be(u16(Info::export_)).u64be(e->length_bytes()).u16be(e->flags(structured_));
  co_await reply(which, OptionReply::info, std::move(m));
  if (which == Option::go) {
    if (contexts_of_ != name) contexts_.clear();
    choose(e);
  }
  co_await reply(which, OptionReply::ack);
  co_return which == Option::go;
}

Task<> Session::contexts(Option which, std::vector<u8> data) {
  const bool set = which == Option::set_meta_context;
  if (set) contexts_.clear();
  if (!structured_) co_return co_await refuse(which, OptionReply::invalid, "structured replies come first");
  SpanReader in{data};
  const auto parse = [&]() -> Result<std::pair<std::string, std::vector<std::string>>> {
    const u32 length = TRY(TRY(in.be<u32>("name length")).at_most(most_string_bytes, "name length"));
    const auto text = TRY(in.bytes(length, "name"));
    const u32 count = TRY(in.be<u32>("count")).raw();
    std::vector<std::string> queries;
    for (u32 i = 0; i < count; i++) {
      const u32 bytes = TRY(in.be<u32>("query length")).raw();
      const auto query = TRY(in.bytes(bytes, "query"));
      queries.emplace_back(query.begin(), query.end());
    }
    if (in.left()) return fail("data after the end");
    return std::pair{std::string{text.begin(), text.end()}, std::move(queries)};
  };
  const auto parsed = parse();
  if (!parsed) co_return co_await refuse(which, OptionReply::invalid, parsed.error().message);
  const auto& [name, queries] = *parsed;
  const ExportRef e = server_.find(name);
  if (!e) co_return co_await refuse(which, OptionReply::unknown, format("export '{}' not present", name.substr(0, 200)));
  // A list may be asked for a whole name space, "base:" or "qemu:dirty-bitmap:"; without queries, for all.
  const auto all = e->contexts();
  std::vector<Context> found;
  for (u32 i = 0; i < all.size() && i < most_contexts; i++) {
    const bool wanted = std::ranges::any_of(
        queries, [&](const std::string& q) { return q == all[i] || (!set && q.ends_with(':') && all[i].starts_with(q)); });
    if (wanted || (!set && queries.empty())) found.push_back({i + 1, all[i]});
  }
  for (const Context& c : found) {
    Message m;
    m.u32be(set ? c.number : 0).text(c.name);
    co_await reply(which, OptionReply::meta_context, std::move(m));
  }
  if (set) contexts_ = std::move(found), contexts_of_ = name;
  co_return co_await reply(which, OptionReply::ack);
}

// --- Transmission

Task<> Session::serve() {
  Result<> ended;
  for (;;) {
    while (under_way_ >= most_requests || bytes_under_way_ >= most_bytes) co_await ended_.wait();
    u8 head[request_bytes];
    ended = co_await attempt(stream_.read(std::span{head}));
    if (!ended || load_be<u32>(head) != request_magic) break;
    auto r = std::make_shared<Request>();
    r->flags = load_be<u16>(head + 4), r->command = Command(load_be<u16>(head + 6));
    r->cookie = load_be<u64>(head + 8), r->offset = load_be<u64>(head + 16), r->length = load_be<u32>(head + 24);
    trace(requested, "type {} flags {:#x} from {} len {}", u16(r->command), r->flags, r->offset, r->length);
    if (r->command == Command::disconnect) break;
    if (r->command == Command::write) {
      if (r->length > most_payload_bytes) break;  // what would follow is not a request
      r->payload = Buffer{std::max<u64>(r->length, 1)};
      ended = co_await attempt(stream_.read(r->payload.span().first(r->length)));
      if (!ended) break;
    }
    const u64 bytes = r->command == Command::read || r->command == Command::write ? std::min(r->length, most_payload_bytes) : 0;
    under_way_++;
    bytes_under_way_ += bytes;
    carry_out(shared_from_this(), std::move(r)).start([self = shared_from_this(), bytes](Result<> done) {
      self->under_way_--;
      self->bytes_under_way_ -= bytes;
      if (!done) self->stream_.hang_up();  // an answer could not be sent
      self->ended_.wake_all();
    });
  }
  stream_.hang_up();
  while (under_way_) co_await ended_.wait();
  co_return Result<>{};
}

// An error: the connection is of no use any more.
Task<> Session::carry_out(std::shared_ptr<Session> self, std::shared_ptr<Request> r) {
  const Result<> done = co_await attempt(self->perform(*r));
  if (done) co_return Result<>{};
  co_return co_await self->fail_request(*r, error_number(done.error()), done.error().message);
}

// An error is the request's; what could be sent has not been finished.
Task<> Session::perform(Request& r) {
  const u64 end = export_->length_bytes();
  const bool writes = r.command == Command::write || r.command == Command::write_zeroes || r.command == Command::trim;
  const bool has_range = writes || r.command == Command::read || r.command == Command::cache || r.command == Command::block_status;
  if (has_range && (r.offset > end || r.length > end - r.offset))
    co_return fail_os(writes ? ENOSPC : EINVAL, format("operation past EOF; From: {}, Len: {}, Size: {}", r.offset, r.length, end));
  if (writes && !export_->options().writable) co_return fail_os(EPERM, "Export is read-only");
  u16 allowed = writes || r.command == Command::flush || r.command == Command::read ? command_flag::fua : 0;
  if (r.command == Command::read && structured_) allowed |= command_flag::df;
  if (r.command == Command::write_zeroes) allowed |= command_flag::no_hole | command_flag::fast_zero;
  if (r.command == Command::block_status) allowed |= command_flag::one_extent;
  if (r.flags & ~allowed) co_return fail_os(EINVAL, format("unsupported flags (got {:#x})", r.flags));
  const bool fua = r.flags & command_flag::fua;
  Backend& disk = export_->backend();
  switch (r.command) {
    case Command::read: co_return co_await read(r);
    case Command::write: co_await disk.write(r.offset, IoVector{r.payload.data(), r.length}, {.fua = fua}); co_return co_await finish(r);
    case Command::flush: co_await disk.flush(); co_return co_await finish(r);
    case Command::trim:
      co_await disk.discard(r.offset, r.length);
      if (fua) co_await disk.flush();
      co_return co_await finish(r);
    case Command::write_zeroes:
      co_await disk.zero(
          r.offset, r.length,
          {.may_unmap = !(r.flags & command_flag::no_hole), .no_fallback = bool(r.flags & command_flag::fast_zero), .fua = fua});
      co_return co_await finish(r);
    case Command::cache: {
      if (r.length > most_payload_bytes) co_return fail_os(EINVAL, "request is too long");
      Buffer away{std::min<u64>(std::max<u64>(r.length, 1), MiB)};
      for (u64 done = 0; done < r.length;) {
        const u64 n = std::min<u64>(r.length - done, away.size());
        co_await disk.read(r.offset + done, IoVector{away.data(), n});
        done += n;
      }
      co_return co_await finish(r);
    }
    case Command::block_status: co_return co_await status(r);
    default: co_return fail_os(EINVAL, format("invalid request type ({})", u16(r.command)));
  }
}

Task<> Session::send(Message head, IoVector data) {
  auto guard = co_await sending_.lock();
  IoVector all{head.bytes()};
  all.append(data);
  co_return co_await stream_.write(std::move(all));
}
Task<> Session::chunk(const Request& r, Chunk type, bool last, Message head, IoVector data) {
  Message m;
  m.u32be(structured_reply_magic).u16be(last ? chunk_done : 0).u16be(u16(type)).u64be(r.cookie).u32be(u32(head.size() + data.size()));
  m.text({reinterpret_cast<const char*>(head.bytes().data()), head.size()});
  co_return co_await send(std::move(m), std::move(data));
}
Task<> Session::finish(const Request& r) {
  if (structured_) co_return co_await chunk(r, Chunk::none, true, {});
  Message m;
  m.u32be(simple_reply_magic).u32be(0).u64be(r.cookie);
  co_return co_await send(std::move(m), {});
}
Task<> Session::fail_request(const Request& r, int os_error, std::string text) {
  trace(refused, "type {} errno {} '{}'", u16(r.command), os_error, text);
  Message m;
  if (!structured_) {
    m.u32be(simple_reply_magic).u32be(error_on_wire(os_error)).u64be(r.cookie);
    co_return co_await send(std::move(m), {});
  }
  text.resize(std::min<usize>(text.size(), most_string_bytes));
  m.u32be(error_on_wire(os_error)).u16be(u16(text.size())).text(text);
  co_return co_await chunk(r, Chunk::error, true, std::move(m));
}

Task<> Session::read(Request& r) {
  if (r.length > most_payload_bytes) co_return fail_os(EINVAL, "request is too long");
  if (structured_ && !(r.flags & command_flag::df) && r.length >= least_sparse_bytes) co_return co_await send_zeroes_apart(r);
  Buffer buffer{std::max<u64>(r.length, 1)};
  const IoVector all{buffer.data(), r.length};
  if (r.length) co_await export_->backend().read(r.offset, all);
  if (structured_) {
    if (!r.length) co_return co_await finish(r);
    Message where;
    where.u64be(r.offset);
    co_return co_await chunk(r, Chunk::offset_data, true, std::move(where), all);
  }
  Message m;
  m.u32be(simple_reply_magic).u32be(0).u64be(r.cookie);
  co_return co_await send(std::move(m), all);
}

Task<> Session::send_zeroes_apart(Request& r) {
  Buffer buffer;
  for (u64 at = r.offset, left = r.length; left;) {
    const auto [flags, run] = co_await export_->status("base:allocation", at, left);
    const u64 n = std::min(run, left);
    const bool last = n == left;
    Message where;
    where.u64be(at);
    if (flags & extent_zero) {
      where.u32be(u32(n));
      co_await chunk(r, Chunk::offset_hole, last, std::move(where));
    } else {
      if (buffer.size() < n) buffer = Buffer{n};
      const IoVector part{buffer.data(), n};
      co_await export_->backend().read(at, part);
      co_await chunk(r, Chunk::offset_data, last, std::move(where), part);
    }
    at += n, left -= n;
  }
  co_return Result<>{};
}

Task<> Session::status(Request& r) {
  if (contexts_.empty()) co_return fail_os(EINVAL, "CMD_BLOCK_STATUS not negotiated");
  if (!r.length) co_return fail_os(EINVAL, "need non-zero length");
  const usize most = r.flags & command_flag::one_extent ? 1 : most_extents;
  for (usize i = 0; i < contexts_.size(); i++) {
    struct Run {
      u32 length, flags;
    };
    std::vector<Run> runs;
    for (u64 at = r.offset, left = r.length; left;) {
      const auto [flags, run] = co_await export_->status(contexts_[i].name, at, left);
      const u64 n = std::min(run, left);
      if (!runs.empty() && runs.back().flags == flags)
        runs.back().length += u32(n);
      else if (runs.size() == most)
        break;
      else
        runs.push_back({u32(n), flags});
      at += n, left -= n;
    }
    Message m;
    m.u32be(contexts_[i].number);
    for (const Run& run : runs) m.u32be(run.length).u32be(run.flags);
    co_await chunk(r, Chunk::block_status, i + 1 == contexts_.size(), std::move(m));
  }
  co_return Result<>{};
}

}  // namespace vmm::block::nbd
