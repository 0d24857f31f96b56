#include "block/nbd/handshake.h"

#include <bit>

#include "src/base/os_error.h"

namespace vmm::block::nbd {

namespace {
constexpr u32 most_reply_bytes = 16 * KiB;
constexpr usize most_replies = 1024;  // of one option: contexts, exports

struct Reply {
  OptionReply type{};
  std::vector<u8> data;
  bool is_error() const { return u32(type) & option_reply_error; }
  std::string text() const { return {data.begin(), data.end()}; }
};

std::string_view reason_of(OptionReply type) {
  switch (type) {
    case OptionReply::unsupported: return "the server does not know this option";
    case OptionReply::policy: return "the server forbids it";
    case OptionReply::invalid: return "the server took the option for invalid";
    case OptionReply::platform: return "the server's platform does not support it";
    case OptionReply::tls_required: return "the server demands TLS, which is not possible here";
    case OptionReply::unknown: return "the server has no such export";
    case OptionReply::shutdown: return "the server is shutting down";
    case OptionReply::block_size_required: return "the server demands block sizes";
    case OptionReply::too_big: return "the server found the option too big";
    default: return "the server refused";
  }
}
std::unexpected<Error> refused(const Reply& r, std::string_view what) {
  std::string text = format("{}: {}", what, reason_of(r.type));
  if (!r.data.empty()) text += format(" ('{}')", r.text().substr(0, 300));
  return fail_os(r.type == OptionReply::unknown ? ENOENT : EINVAL, std::move(text));
}
std::unexpected<Error> nonsense(std::string_view what) { return fail_os(EPROTO, format("the NBD server speaks nonsense: {}", what)); }

class Client {
 public:
  explicit Client(Stream& stream) : stream_(stream) {}

  Task<> begin() {
    u8 head[18];
    co_await stream_.read(std::span{head}.first(16));
    if (load_be<u64>(head) != hello_magic) co_return nonsense("this is no NBD server");
    if (load_be<u64>(head + 8) == oldstyle_magic)
      co_return fail_os(ENOTSUP, "the NBD server speaks the oldstyle protocol, which has no exports");
    if (load_be<u64>(head + 8) != option_magic) co_return nonsense("its greeting is unknown");
    co_await stream_.read(std::span{head}.subspan(16));
    const u16 flags = load_be<u16>(head + 16);
    if (!(flags & hello::fixed_newstyle)) co_return fail_os(ENOTSUP, "the NBD server does not speak the fixed newstyle protocol");
    no_zeroes_ = flags & hello::no_zeroes;
    Message answer;
    answer.u32be(hello::fixed_newstyle | (no_zeroes_ ? hello::no_zeroes : 0));
    co_return co_await stream_.write(answer.bytes());
  }
  bool no_zeroes() const { return no_zeroes_; }

  Task<> send(Option option, Message data = {}) {
    Message m;
    m.u64be(option_magic).u32be(u32(option)).u32be(u32(data.size()));
    IoVector all{m.bytes()};
    if (data.size()) all.add(data.bytes());
    co_return co_await stream_.write(std::move(all));
  }
  Task<Reply> receive(Option option) {
    u8 head[20];
    co_await stream_.read(std::span{head});
    if (load_be<u64>(head) != option_reply_magic) co_return nonsense("an option's reply begins wrongly");
    if (load_be<u32>(head + 8) != u32(option)) co_return nonsense("a reply to another option");
    const u32 length = load_be<u32>(head + 16);
    if (length > most_reply_bytes) co_return nonsense("an option's reply is too long");
    Reply r{.type = OptionReply(load_be<u32>(head + 12)), .data = std::vector<u8>(length)};
    co_await stream_.read(std::span{r.data});
    co_return std::move(r);
  }

  Task<bool> structured_replies() {
    co_await send(Option::structured_reply);
    const Reply r = co_await receive(Option::structured_reply);
    if (r.type == OptionReply::ack && r.data.empty()) co_return true;
    if (r.is_error() && r.type != OptionReply::tls_required) co_return false;
    co_return refused(r, "structured replies");
  }

  // The names that `query` matches, with their numbers; null where the server knows nothing of contexts.
  Task<std::vector<std::pair<u32, std::string>>> contexts(Option option, std::string name, std::string query) {
    Message m;
    m.string(name).u32be(query.empty() ? 0 : 1);
    if (!query.empty()) m.string(query);
    co_await send(option, std::move(m));
    std::vector<std::pair<u32, std::string>> found;
    while (found.size() < most_replies) {
      const Reply r = co_await receive(option);
      if (r.type == OptionReply::ack || (r.is_error() && r.type != OptionReply::tls_required)) co_return std::move(found);
      if (r.is_error()) co_return refused(r, "contexts");
      if (r.type != OptionReply::meta_context || r.data.size() < 4) co_return nonsense("a list of contexts");
      found.emplace_back(load_be<u32>(r.data.data()), r.text().substr(4));
    }
    co_return nonsense("its list of contexts has no end");
  }

  // GO or INFO. Nothing: the server does not know the option.
  Task<std::optional<ExportInfo>> inform(Option option, std::string name) {
    Message m;
    m.string(name).u16be(2).u16be(u16(Info::block_size)).u16be(u16(Info::description));
    co_await send(option, std::move(m));
    ExportInfo e;
    bool have_export = false;
    for (usize i = 0; i < most_replies; i++) {
      const Reply r = co_await receive(option);
      if (r.type == OptionReply::unsupported) co_return std::optional<ExportInfo>{};
      if (r.is_error()) co_return refused(r, format("export '{}'", name));
      if (r.type == OptionReply::ack) {
        if (!have_export) co_return nonsense("it tells nothing of the export");
        co_return std::optional<ExportInfo>{e};
      }
      if (r.type != OptionReply::info || r.data.size() < 2) co_return nonsense("what it tells of the export");
      switch (Info(load_be<u16>(r.data.data()))) {
        case Info::export_:
          if (r.data.size() != 12) co_return nonsense("the export's size");
          e.length_bytes = load_be<u64>(&r.data[2]), e.flags = load_be<u16>(&r.data[10]);
          have_export = true;
          break;
        case Info::block_size:
          if (r.data.size() != 14) co_return nonsense("the export's block sizes");
          e.min_block = load_be<u32>(&r.data[2]), e.preferred_block = load_be<u32>(&r.data[6]), e.max_block = load_be<u32>(&r.data[10]);
          break;
        case Info::description: e.description = r.text().substr(2); break;
        default: break;
      }
    }
    co_return nonsense("what it tells of the export has no end");
  }

 private:
  Stream& stream_;
  bool no_zeroes_ = false;
};

// Sizes and block sizes as the document allows them.
Result<> check(ExportInfo& e) {
  if (e.length_bytes > u64{INT64_MAX}) return fail_os(EFBIG, format("the export is {} bytes long", e.length_bytes));
  if (!(e.flags & export_flag::has_flags)) e.flags = 0;
  if (!std::has_single_bit(e.min_block) || e.min_block > 64 * KiB) return nonsense(format("a block size of {}", e.min_block));
  if (!std::has_single_bit(e.preferred_block) || e.preferred_block < e.min_block) e.preferred_block = std::max<u32>(4096, e.min_block);
  if (e.max_block < e.min_block) return nonsense(format("a largest block of {}", e.max_block));
  e.max_block = std::min(e.max_block, most_payload_bytes) & ~(e.min_block - 1);
  if (e.length_bytes & (e.min_block - 1))
    return fail_os(EINVAL, format("the export's size, {}, is no multiple of its block size, {}", e.length_bytes, e.min_block));
  return {};
}
}  // namespace

Task<ExportInfo> enter_export(Stream& stream, std::string name, std::string context) {
  if (name.size() > most_string_bytes) co_return fail("the export's name is longer than {} bytes", most_string_bytes);
  if (context.size() > most_string_bytes) co_return fail("the context's name is longer than {} bytes", most_string_bytes);
  Client client{stream};
  co_await client.begin();
  const bool structured = co_await client.structured_replies();
  std::optional<u32> number;
  if (structured && !context.empty()) {
    const auto found = co_await client.contexts(Option::set_meta_context, name, context);
    for (const auto& [id, text] : found)
      if (text == context) number = id;
  }
  auto info = co_await client.inform(Option::go, name);
  if (!info) {
    // Before GO there was a way that has no errors: an export that is not there ends the connection.
    Message m;
    m.text(name);
    co_await client.send(Option::export_name, std::move(m));
    u8 head[10];
    auto got = co_await attempt(stream.read(std::span{head}));
    if (!got) co_return fail_os(ENOENT, format("export '{}': the server has closed the connection", name));
    info.emplace();
    info->length_bytes = load_be<u64>(head), info->flags = load_be<u16>(head + 8);
    if (!client.no_zeroes()) co_await stream.skip(124);
  }
  info->structured = structured, info->context = number;
  if (auto sound = check(*info); !sound) co_return std::unexpected(std::move(sound).error());
  co_return std::move(*info);
}

Task<std::vector<ListedExport>> list_exports(Stream& stream) {
  Client client{stream};
  co_await client.begin();
  const bool structured = co_await client.structured_replies();
  co_await client.send(Option::list);
  std::vector<ListedExport> out;
  for (;;) {
    const Reply r = co_await client.receive(Option::list);
    if (r.type == OptionReply::ack) break;
    if (r.is_error()) co_return refused(r, "the list of exports");
    if (r.type != OptionReply::server || r.data.size() < 4 || out.size() == most_replies) co_return nonsense("a list of exports");
    const u32 length = load_be<u32>(r.data.data());
    if (length > r.data.size() - 4) co_return nonsense("a list of exports");
    out.push_back({.name = r.text().substr(4, length), .info = {.description = r.text().substr(4 + length)}, .contexts = {}});
  }
  for (ListedExport& e : out) {
    const auto info = co_await client.inform(Option::info, e.name);
    if (info) {
      std::string description = e.info.description;
      e.info = *info;
      if (e.info.description.empty()) e.info.description = std::move(description);
      e.info.structured = structured;
    }
    if (!structured) continue;
    const auto found = co_await client.contexts(Option::list_meta_context, e.name, "");
    for (const auto& [id, text] : found) e.contexts.push_back(text);
  }
  (void)co_await attempt(client.send(Option::abort));
  co_return std::move(out);
}

}  // namespace vmm::block::nbd
