// The frame of vmm img: words, options, opening, progress.
#include "src/tools/img.h"

#include <csignal>
#include <cstdio>

#include "src/control/version.h"
#include "src/tools/tool.h"
#include "src/value/key_list.h"

namespace vmm::tools::img {

EventLoop& loop() {
  static EventLoop it;
  return it;
}

// --- Words ----------------------------------------------------------------------------------------------------------------------------

Result<Arguments> Arguments::parse(std::span<const char* const> words, std::span<const OptionSpec> specs) {
  Arguments out;
  const auto key = [](const OptionSpec& s) { return s.name.empty() ? std::string(1, s.letter) : std::string{s.name}; };
  for (usize i = 0; i < words.size(); i++) {
    const std::string_view word = words[i];
    if (word == "--") {
      for (i++; i < words.size(); i++) out.words.emplace_back(words[i]);
      break;
    }
    if (word.size() < 2 || word[0] != '-') {
      out.words.emplace_back(word);
      continue;
    }
    if (word[1] == '-') {
      const auto equals = word.find('=');
      const std::string_view name = word.substr(2, equals == word.npos ? word.npos : equals - 2);
      const auto spec = std::ranges::find(specs, name, &OptionSpec::name);
      if (spec == specs.end() || name.empty()) return fail("unrecognized option '{}'", word);
      std::string value;
      if (spec->takes_value) {
        if (equals != word.npos)
          value = word.substr(equals + 1);
        else if (i + 1 < words.size())
          value = words[++i];
        else
          return fail("missing argument for option '{}'", word);
      } else if (equals != word.npos) {
        return fail("option '--{}' takes no value", name);
      }
      out.values_[key(*spec)].push_back(std::move(value));
      continue;
    }
    for (usize at = 1; at < word.size(); at++) {
      const auto spec = std::ranges::find(specs, word[at], &OptionSpec::letter);
      if (spec == specs.end()) return fail("unrecognized option '{}'", word);
      std::string value;
      if (spec->takes_value) {
        if (at + 1 < word.size())
          value = word.substr(at + 1);
        else if (i + 1 < words.size())
          value = words[++i];
        else
          return fail("missing argument for option '-{}'", word[at]);
        at = word.size();
      }
      out.values_[key(*spec)].push_back(std::move(value));
    }
  }
  return out;
}
std::string Arguments::get(std::string_view option, std::string otherwise) const {
  const auto at = values_.find(std::string{option});
  return at == values_.end() ? std::move(otherwise) : at->second.back();
}
std::vector<std::string> Arguments::all(std::string_view option) const {
  const auto at = values_.find(std::string{option});
  return at == values_.end() ? std::vector<std::string>{} : at->second;
}

Result<u64> parse_size(const std::string& text) {
  const auto size = codec_detail::parse_size(Value{text}, "size", {});
  if (!size)
    return fail(
        "Invalid image size specified. You may use k, M, G, T, P or E suffixes for\n{}: kilobytes, megabytes, gigabytes, terabytes, "
        "petabytes and exabytes.",
        program_name());
  if (*size > u64{INT64_MAX}) return fail("Image size must be less than 8 EiB!");
  return *size;
}

Result<Value> parse_options(const std::vector<std::string>& lists, bool* help) {
  Value all = Value::object();
  for (const std::string& text : lists) {
    const KeyList list = TRY(parse_key_list(text, ""));
    if (list.help && help) *help = true;
    const Value tree = TRY(key_list_value(list, false));
    for (const auto& [name, value] : tree.members())
      if (name != "help" && name != "?") all.set(name, value);
  }
  return all;
}

std::string size_text(u64 bytes) {
  constexpr std::string_view units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  usize i = 0;
  while (i + 1 < std::size(units) && static_cast<double>(bytes) / static_cast<double>(u64{1} << (10 * i)) >= 1000) i++;
  return format("{:.3g} {}B", static_cast<double>(bytes) / static_cast<double>(u64{1} << (10 * i)), units[i]);
}

// --- Images ---------------------------------------------------------------------------------------------------------------------------

OpenOptions open_options(const Arguments& args) {
  OpenOptions o;
  o.format = args.get("f");
  o.cache = args.get("T", args.get("t", "writeback"));
  o.image_options = args.has("image-opts");
  o.force_share = args.has("force-share");
  return o;
}

Result<Image> Image::open(const std::string& name, const OpenOptions& o) {
  Value common = Value::object();
  common.set("read-only", Value{!o.writes});
  Value cache = Value::object();
  if (o.cache == "none" || o.cache == "off" || o.cache == "directsync")
    cache.set("direct", Value{true});
  else if (o.cache == "unsafe")
    cache.set("no-flush", Value{true});
  else if (o.cache != "writeback" && o.cache != "writethrough")
    return fail("Invalid cache option: {}", o.cache);
  if (!cache.members().empty()) common.set("cache", std::move(cache));
  if (o.force_share) common.set("force-share", Value{true});
  if (o.writes && o.discard) common.set("discard", Value{"unmap"});
  if (o.no_backing) common.set("backing", Value{});
  const auto protocol = block::options_of_filename(name);
  const Value* protocol_name = protocol ? protocol->find("driver") : nullptr;
  if (!o.aio.empty() && protocol_name && *protocol_name == Value{"file"}) common.set("file", Value{Value::Members{{"aio", Value{o.aio}}}});
  const auto in_context = [&](Error e) -> Result<Image> {
    e.message = o.image_options ? format("Could not open '{}': {}", name, e.message) : format("Could not open '{}': {}", name, e.message);
    return std::unexpected(std::move(e));
  };
  Result<block::NodeRef> node;
  if (o.image_options) {
    auto tree = parse_key_list_or_json(name, "", true);
    if (!tree) return in_context(std::move(tree).error());
    for (const auto& [key, value] : common.members())
      if (!tree->find(key)) tree->set(key, value);
    if (!tree->find("driver") && tree->find("file.driver")) tree->set("driver", Value{"raw"});
    node = wait(block::open_node(loop(), std::move(*tree)));
  } else {
    if (o.inspect) common.set("inspect", Value{true});
    if ((o.inspect || o.no_backing) && o.format.empty()) {
      // Options of qcow2 only make sense to qcow2.
      Value plain = common;
      plain.erase("inspect"), plain.erase("backing"), plain.set("read-only", Value{true});
      auto probed = wait(
          block::open_image(loop(), name, "", Value{Value::Members{{"read-only", Value{true}}, {"force-share", Value{o.force_share}}}}));
      if (!probed) {
        // Perhaps only the backing file is missing, or the image is damaged: qcow2 will say.
        node = wait(block::open_image(loop(), name, "qcow2", common));
      } else {
        const std::string format{(*probed)->driver().name};
        (void)wait(block::release(std::move(*probed)));
        node = wait(block::open_image(loop(), name, format, format == "qcow2" ? common : plain));
        if (format != "qcow2" && o.writes) {
          Value writable = plain;
          writable.set("read-only", Value{false});
          if (node) (void)wait(block::release(std::move(*node)));
          node = wait(block::open_image(loop(), name, format, writable));
        }
      }
    } else {
      if (o.format != "qcow2") common.erase("inspect");
      if (o.format != "qcow2") common.erase("backing");  // the other formats have none
      node = wait(block::open_image(loop(), name, o.format, common));
    }
  }
  if (!node) return in_context(std::move(node).error());
  Image image;
  image.name_ = name;
  const u8 needs = u8(block::permit_read | (o.writes ? block::permit_write : 0) | (o.resizes ? block::permit_resize : 0));
  const u8 shares = o.force_share ? u8(block::permit_all) : u8(block::permit_read | block::permit_write_unchanged | (o.resizes ? 0 : 0));
  auto edge = block::Edge::make(*node, "root", "the image tool", block::Role::user, needs, shares);
  if (!edge) {
    (void)wait(block::release(std::move(*node)));
    return in_context(std::move(edge).error());
  }
  image.edge_ = std::move(*edge);
  if (!o.snapshot.empty()) {
    auto* q = image.qcow2();
    if (!q) return fail("Could not open snapshot '{}' in '{}': the format has none", o.snapshot, name);
    if (auto ok = wait(q->read_snapshot(o.snapshot)); !ok) return fail("Could not load snapshot '{}': {}", o.snapshot, ok.error().message);
  }
  return image;
}

Result<> Image::close() {
  if (!edge_) return {};
  block::NodeRef node = edge_->ref();
  edge_.reset();
  Result<> closed = wait(node->close());
  if (auto done = wait(block::release(std::move(node))); closed && !done) closed = done;
  return closed;
}

namespace {
// Is less than nine tenths of the file on the disk? Asked once a node.
Task<bool> has_holes(block::BlockNode& file) {
  static std::map<const block::BlockNode*, bool> known;
  if (const auto at = known.find(&file); at != known.end()) co_return at->second;
  const auto allocated = co_await attempt(file.allocated_bytes());
  co_return known[&file] = allocated && *allocated < file.length_bytes() / 10 * 9;
}
}  // namespace

Task<Status> status_at(block::BlockNode& top, u64 offset, u64 length, bool top_only) {
  block::BlockNode* node = &top;
  Status s;
  for (;;) {
    while (block::BlockNode* below = node->filtered()) node = below;
    const u64 end = node->length_bytes();
    if (offset >= end) {
      // A backing file that is shorter: zeros up to the end of what was asked.
      s.kind = Status::Kind::zero, s.length = length, s.present = s.depth != 0, s.node = node;
      co_return s;
    }
    length = std::min(length, end - offset);
    const block::Extent e = co_await node->map(offset, length);
    length = std::min(length, e.length);
    s.length = length, s.node = node;
    if (e.kind != block::Extent::Kind::backing) {
      s.kind = e.kind == block::Extent::Kind::data ? Status::Kind::data : Status::Kind::zero;
      s.present = e.kind == block::Extent::Kind::data || e.present;
      s.compressed = e.compressed, s.has_offset = e.has_host_offset, s.offset = e.host_offset;
      // Holes of the file below read as zeros, too; only files that have any are asked, which is not cheap.
      if (s.kind == Status::Kind::data && !e.compressed && node->driver().name != "raw" && e.has_host_offset) {
        block::Edge* file = node->child("data-file") ? node->child("data-file") : node->child("file");
        const bool holey = file && file->node().driver().kind == block::BlockDriver::Kind::protocol && co_await has_holes(file->node());
        if (holey) {
          const block::Extent below = co_await file->map(e.host_offset, length);
          if (below.kind == block::Extent::Kind::zero) s.kind = Status::Kind::zero, s.hole = true;
          if (below.length) s.length = std::min(s.length, below.length);
        }
      }
      co_return s;
    }
    const block::Edge* backing = node->child("backing");
    if (!backing || top_only) {
      s.kind = Status::Kind::zero, s.present = false;
      co_return s;
    }
    node = &backing->node();
    s.depth++;
  }
}

// --- Progress -------------------------------------------------------------------------------------------------------------------------

namespace {
volatile std::sig_atomic_t progress_wanted = 0;
}
Progress::Progress(bool on, u64 total) : on_(on), total_(total) {
  std::signal(SIGUSR1, [](int) { progress_wanted = 1; });
  if (on_) print(0);
}
Progress::~Progress() { finish(); }
void Progress::print(double percent) {
  std::printf("    (%3.2f/100%%)\r", percent);
  std::fflush(stdout);
  shown_ = percent;
}
void Progress::add(u64 done) {
  done_ += done;
  const double percent = total_ ? std::min(100.0, 100.0 * static_cast<double>(done_) / static_cast<double>(total_)) : 100.0;
  if (on_ && percent - shown_ >= 0.5) print(percent);
  if (progress_wanted) {
    progress_wanted = 0;
    if (!on_) std::printf("    (%3.2f/100%%)\n", percent), std::fflush(stdout);
  }
}
void Progress::finish() {
  if (std::exchange(finished_, true)) return;
  if (!on_) return;
  print(100);
  std::printf("\n");
  std::fflush(stdout);
}

// --- The tool -------------------------------------------------------------------------------------------------------------------------

namespace {
const Command* const commands[] = {&amend_command,   &bench_command,   &bitmap_command, &check_command,  &commit_command,
                                   &compare_command, &convert_command, &create_command, &dd_command,     &info_command,
                                   &map_command,     &measure_command, &rebase_command, &resize_command, &snapshot_command};

std::string version_line() { return format("qemu-img version {} ({})\n", vmm::control::version_text, vmm::control::package_text); }

void print_help() {
  std::string text = version_line();
  text += "Copyright (c) the vmm authors\n";
  text += format("usage: {} [standard options] command [command options]\nimage utility\n\n", program_name());
  text +=
      "    '-h', '--help'       display this help and exit\n    '-V', '--version'    output version information and exit\n\nCommand "
      "syntax:\n";
  for (const Command* c : commands) text += format("  {} {}\n", c->name, c->usage);
  text += "\nSupported formats:";
  for (const block::BlockDriver* d : block::all_drivers()) text += format(" {}", d->name);
  text += "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

int run_img(std::span<const char* const> words) {
  const auto usage_error = [](std::string_view text) {
    report_error(text);
    std::fprintf(stderr, "Try '%s --help' for more information\n", std::string{program_name()}.c_str());
    return 1;
  };
  if (words.empty()) return usage_error("Not enough arguments");
  const std::string_view first = words[0];
  if (first == "--version" || first == "-V") {
    const std::string line = version_line();
    return std::fwrite(line.data(), 1, line.size(), stdout), 0;
  }
  if (first == "--help" || first == "-h" || first == "help") return print_help(), 0;
  for (const Command* c : commands) {
    if (c->name != first) continue;
    for (const char* word : words.subspan(1))
      if (std::string_view{word} == "--help" || std::string_view{word} == "-h") return print_help(), 0;
    const auto args = Arguments::parse(words.subspan(1), c->options);
    if (!args) return usage_error(args.error().message);
    const Result<int> status = c->run(*args);
    std::fflush(stdout);
    if (status) return *status;
    if (status.error().hint == "usage") return usage_error(status.error().message);
    report_error(status.error());
    return c == &compare_command ? 2 : 1;
  }
  return usage_error(format("Command not found: {}", first));
}
RegisteredTool registered{{.name = "img", .program = "qemu-img", .doc = "Make, describe, check and copy disk images.", .run = run_img}};
}  // namespace

}  // namespace vmm::tools::img
