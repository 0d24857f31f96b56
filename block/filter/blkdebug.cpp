// blkdebug: makes requests fail by rule, to see what is above it deal with errors; and takes the node's limits from its options.
// Rules as in qemu-iotests' configuration files: [inject-error] and [set-state] groups, or "inject-error" and "set-state" lists.
#include <cctype>
#include <cstring>

#include "block/filter/filter.h"
#include "src/io/fd_set.h"

namespace vmm::block {
namespace {

enum class IoType : u8 { read, write, write_zeroes, discard, flush, block_status };
struct InjectRule {
  std::string event;
  std::optional<IoType> iotype;
  std::optional<i64> state, sector;
  std::optional<i32> error;
  std::optional<bool> once, immediately;
};
struct StateRule {
  std::string event;
  std::optional<i64> state;
  i64 new_state = 0;
};
struct DebugOptions {
  std::optional<std::string> config;
  std::optional<Bytes64> align, max_transfer, opt_write_zero, max_write_zero, opt_discard, max_discard;
  std::optional<std::vector<InjectRule>> inject_error;
  std::optional<std::vector<StateRule>> set_state;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::IoType> = {EnumNameOf<block::IoType>{block::IoType::read, "read"},
                                                         EnumNameOf<block::IoType>{block::IoType::write, "write"},
                                                         EnumNameOf<block::IoType>{block::IoType::write_zeroes, "write-zeroes"},
                                                         EnumNameOf<block::IoType>{block::IoType::discard, "discard"},
                                                         EnumNameOf<block::IoType>{block::IoType::flush, "flush"},
                                                         EnumNameOf<block::IoType>{block::IoType::block_status, "block-status"}};
template <>
inline constexpr std::array fields<block::InjectRule> = {
    field<&block::InjectRule::event>("event", "What arms the rule: a request's name, or none: always armed."),
    field<&block::InjectRule::iotype>("iotype", "Which requests fail; all but block-status if absent."),
    field<&block::InjectRule::state>("state", "Only in this state."),
    field<&block::InjectRule::error>("errno", "The error; EIO if absent.", {.min = 1, .max = 4095}),
    field<&block::InjectRule::sector>("sector", "Only requests that touch this 512-byte sector."),
    field<&block::InjectRule::once>("once", "Only the first."),
    field<&block::InjectRule::immediately>("immediately", "Fail without going through the loop."),
};
template <>
inline constexpr std::array fields<block::StateRule> = {
    field<&block::StateRule::event>("event", "The request that changes the state."),
    field<&block::StateRule::state>("state", "Only from this state."),
    field<&block::StateRule::new_state>("new_state", "The next state."),
};
template <>
inline constexpr std::array fields<block::DebugOptions> = {
    field<&block::DebugOptions::config>("config", "File with rules."),
    field<&block::DebugOptions::align>("align", "Alignment of requests.", {.min = 1, .max = 1 << 24}),
    field<&block::DebugOptions::max_transfer>("max-transfer", "Longest read or write."),
    field<&block::DebugOptions::opt_write_zero>("opt-write-zero", "Unit of zero requests."),
    field<&block::DebugOptions::max_write_zero>("max-write-zero", "Longest zero request."),
    field<&block::DebugOptions::opt_discard>("opt-discard", "Unit of discards."),
    field<&block::DebugOptions::max_discard>("max-discard", "Longest discard."),
    field<&block::DebugOptions::inject_error>("inject-error", "Rules that make requests fail."),
    field<&block::DebugOptions::set_state>("set-state", "Rules that change the state."),
};
}  // namespace vmm

namespace vmm::block {
namespace {

// Requests as events, by the names that rules use.
constexpr struct {
  std::string_view event;
  IoType type;
} events[] = {{"read", IoType::read},
              {"read_aio", IoType::read},
              {"write", IoType::write},
              {"write_aio", IoType::write},
              {"pwritev", IoType::write},
              {"pwritev_done", IoType::write},
              {"pwritev_zero", IoType::write_zeroes},
              {"flush_to_os", IoType::flush},
              {"flush_to_disk", IoType::flush},
              {"discard", IoType::discard}};

class BlkDebug final : public Filter {
 public:
  Task<> read(u64 offset, IoVector into) override {
    co_await judge(IoType::read, offset, into.size());
    co_return co_await below().read(offset, std::move(into));
  }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    co_await judge(IoType::write, offset, from.size());
    co_return co_await below().write(offset, std::move(from), flags);
  }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override {
    co_await judge(IoType::write_zeroes, offset, length);
    co_return co_await below().zero(offset, length, flags);
  }
  Task<> discard(u64 offset, u64 length) override {
    co_await judge(IoType::discard, offset, length);
    co_return co_await below().discard(offset, length);
  }
  Task<> flush() override {
    co_await judge(IoType::flush, 0, 0);
    co_return co_await below().flush();
  }
  Task<Extent> map(u64 offset, u64 length) override {
    co_await judge(IoType::block_status, offset, length);
    const Extent e = co_await below().map(offset, length);
    co_return e;
  }
  Limits limits() const override {
    Limits l = Filter::limits();
    if (o_.align) l.request_alignment = std::max(l.request_alignment, u32(*o_.align));
    if (o_.max_transfer) l.max_transfer = *o_.max_transfer;
    if (o_.max_write_zero) l.max_zero = *o_.max_write_zero;
    if (o_.max_discard) l.max_discard = *o_.max_discard;
    if (o_.opt_discard) l.discard_granularity = *o_.opt_discard;
    return l;
  }

 protected:
  Result<> set_options(const Value& options) override;

 private:
  struct Rule {
    InjectRule rule;
    bool armed = false, spent = false;
  };
  Result<> read_config(const std::string& path);
  Result<> check_event(const std::string& event) const;
  Task<> judge(IoType type, u64 offset, u64 length);
  DebugOptions o_;
  std::vector<Rule> rules_;
  std::vector<StateRule> states_;
  i64 state_ = 1;
};

Result<> BlkDebug::check_event(const std::string& event) const {
  if (event == "none") return {};
  std::string names = "none";
  for (const auto& e : events) {
    if (e.event == event) return {};
    names += format(", {}", e.event);
  }
  return std::unexpected(Error{format("Invalid event name \"{}\"", event)}.with_hint(format("Events: {}", names)));
}

// [group] and key = "value" lines, # comments.
Result<> BlkDebug::read_config(const std::string& path) {
  Fd fd = TRY(io::open_file(path, 0));
  std::string text;
  char piece[4096];
  for (ssize_t n; (n = ::read(fd.get(), piece, sizeof piece)) > 0 && text.size() < 1 * MiB;) text.append(piece, usize(n));
  std::string group;
  Value current = Value::object();
  const auto finish = [&]() -> Result<> {
    if (group == "inject-error") {
      Rule r;
      TRY(assign_fields(&r.rule, fields<InjectRule>, current));
      rules_.push_back(std::move(r));
    } else if (group == "set-state") {
      StateRule s;
      TRY(assign_fields(&s, fields<StateRule>, current));
      states_.push_back(std::move(s));
    } else if (!group.empty()) {
      return fail("{}: There is no option group '{}'", path, group);
    }
    current = Value::object();
    return {};
  };
  const auto trim = [](std::string_view s) {
    while (!s.empty() && std::isspace(u8(s.front()))) s.remove_prefix(1);
    while (!s.empty() && std::isspace(u8(s.back()))) s.remove_suffix(1);
    return s;
  };
  for (usize at = 0; at < text.size();) {
    const usize end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trim(std::string_view{text}.substr(at, end - at));
    at = end + 1;
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == '[') {
      TRY(finish());
      group = std::string{line.substr(1, line.find_first_of(" ]") - 1)};
      continue;
    }
    const auto equals = line.find('=');
    if (equals == line.npos || group.empty()) return fail("{}: '{}' is neither [group] nor key = \"value\"", path, line);
    std::string_view value = trim(line.substr(equals + 1));
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    current.set(std::string{trim(line.substr(0, equals))}, value);
  }
  return finish();
}

Result<> BlkDebug::set_options(const Value& options) {
  TRY(assign_fields(&o_, fields<DebugOptions>, options));
  if (o_.align && (*o_.align & (*o_.align - 1))) return fail("Cannot meet constraints with align {}", o_.align->value);
  if (o_.config && !o_.config->empty()) TRY(read_config(*o_.config));
  if (o_.inject_error)
    for (auto& r : *o_.inject_error) rules_.push_back({r});
  if (o_.set_state)
    for (auto& s : *o_.set_state) states_.push_back(s);
  for (const Rule& r : rules_) TRY(check_event(r.rule.event));
  for (const StateRule& s : states_) TRY(check_event(s.event));
  return {};
}

Task<> BlkDebug::judge(IoType type, u64 offset, u64 length) {
  // The request is an event first: it arms rules and changes the state.
  const auto happens = [&](const std::string& event) {
    for (const auto& e : events)
      if (e.type == type && e.event == event) return true;
    return false;
  };
  const i64 before = state_;
  for (Rule& r : rules_)
    if (r.rule.event == "none" || (happens(r.rule.event) && (!r.rule.state || *r.rule.state == before))) r.armed = true;
  for (const StateRule& s : states_)
    if (happens(s.event) && (!s.state || *s.state == before)) state_ = s.new_state;
  for (Rule& r : rules_) {
    if (!r.armed || r.spent || (r.rule.event == "none" && r.rule.state && *r.rule.state != before)) continue;
    if (r.rule.iotype ? *r.rule.iotype != type : type == IoType::block_status) continue;
    if (r.rule.sector) {
      const u64 at = u64(*r.rule.sector) * 512;
      if (offset >= at + 512 || offset + length <= at) continue;
    }
    if (r.rule.once.value_or(false)) r.spent = true;
    co_return fail_os(r.rule.error.value_or(EIO));
  }
  co_return Result<>{};
}

Result<Value> parse_name(std::string_view name) {
  // blkdebug:CONFIG:IMAGE
  name.remove_prefix(name.find(':') + 1);
  const auto colon = name.find(':');
  if (colon == name.npos) return fail("blkdebug requires a config file and an image: blkdebug:CONFIG:IMAGE");
  Value image = TRY(options_of_filename(name.substr(colon + 1)));
  Value tree = Value::object();
  if (colon > 0) tree.set("config", name.substr(0, colon));
  tree.set("image", std::move(image));
  return tree;
}

constexpr std::string_view image_children[] = {"image"}, prefix[] = {"blkdebug"};
RegisteredDriver registered{{.name = "blkdebug",
                             .doc = "Makes requests fail by rule.",
                             .kind = BlockDriver::Kind::filter,
                             .options = fields<DebugOptions>,
                             .children = image_children,
                             .make = make_node<BlkDebug>,
                             .prefixes = prefix,
                             .parse_filename = parse_name}};
}  // namespace
}  // namespace vmm::block
