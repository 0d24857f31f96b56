// vmm io (qemu-io): reads, writes and checks an image by commands; the exerciser of our own tests. The words and the answers are those
// of qemu-io, observed in version 7.2.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "block/core/node.h"
#include "src/base/log.h"
#include "src/tools/tool.h"
#include "src/value/key_list.h"

namespace vmm::tools {
namespace {

using block::Buffer;
using block::IoVector;

constexpr u64 largest_request = 2 * GiB - 512;

// "1.465 KiB", "64 KiB", "512 bytes"
std::string size_text(double value) {
  static constexpr std::string_view units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  unsigned unit = 0;
  while (value >= 1024 && unit < 6) value /= 1024, unit++;
  if (value == double(u64(value))) return format("{} {}", u64(value), units[unit]);
  return format("{:.3f} {}", value, units[unit]);
}

struct OpenOptions {
  std::string format, filename;
  bool read_only = false, force_share = false, image_options = false, misaligned = false, copy_on_read = false, snapshot = false;
  Value common = Value::object();
};

class Io {
 public:
  Result<> open(OpenOptions options);
  Result<> close();
  bool is_open() const { return edge_ != nullptr; }
  bool run_line(std::string_view line);  // false: quit
  bool failed() const { return failed_; }
  const OpenOptions& opened() const { return opened_; }

 private:
  struct Arguments {
    std::vector<std::string> words;  // without options
    std::string options;             // letters that were given
    std::optional<u8> pattern;
    std::string source;
    u64 pattern_from = 0;
    std::optional<u64> pattern_length;
    std::string preallocation, cache;
    bool has(char c) const { return options.contains(c); }
  };
  struct Command {
    std::string_view name, alias, letters, arguments, help;
    usize least, most;
    void (Io::*run)(const Arguments&);
    bool needs_file = true;
  };
  static const Command commands[];

  void say(std::string text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  void fault(std::string text) {
    failed_ = true;
    say(text + "\n");
  }
  std::optional<u64> number(const std::string& text);
  std::optional<Arguments> parse(const Command& command, std::span<const std::string> words);
  bool range_ok(u64 length);
  void report(std::string_view verb, u64 done, u64 asked, u64 offset, Nanoseconds took, const Arguments& a);

  struct Data {
    Buffer buffer;
    IoVector vector;
    u64 offset = 0;
  };
  std::optional<Data> data_of(const Arguments& a, bool vectored, bool fill);
  void verify(const Data& data, const Arguments& a);
  void dump(const Data& data);
  Task<> transfer(std::shared_ptr<Data> data, bool writes, Arguments a);
  void submit(const Arguments& a, bool writes, bool vectored, bool asynchronous);

  void cmd_open(const Arguments& a);
  void cmd_close(const Arguments&);
  void cmd_read(const Arguments& a) { submit(a, false, false, false); }
  void cmd_readv(const Arguments& a) { submit(a, false, true, false); }
  void cmd_write(const Arguments& a) { submit(a, true, false, false); }
  void cmd_writev(const Arguments& a) { submit(a, true, true, false); }
  void cmd_aio_read(const Arguments& a) { submit(a, false, true, true); }
  void cmd_aio_write(const Arguments& a) { submit(a, true, true, true); }
  void cmd_aio_flush(const Arguments&);
  void cmd_flush(const Arguments&);
  void cmd_discard(const Arguments& a);
  void cmd_map(const Arguments&);
  void cmd_alloc(const Arguments& a);
  void cmd_length(const Arguments&);
  void cmd_info(const Arguments&);
  void cmd_truncate(const Arguments& a);
  void cmd_reopen(const Arguments& a);
  void cmd_sleep(const Arguments& a);
  void cmd_quit(const Arguments&) { quitting_ = true; }
  void cmd_help(const Arguments& a);
  void cmd_abort(const Arguments&) { std::abort(); }
  void cmd_sigraise(const Arguments& a);

  EventLoop loop_;
  OpenOptions opened_;
  block::NodeRef node_;
  block::Child edge_;
  u32 in_flight_ = 0;
  bool failed_ = false, quitting_ = false;
};

const Io::Command Io::commands[] = {
    {"abort", "", "", "", "simulate a program crash using abort(3)", 0, 0, &Io::cmd_abort, false},
    {"aio_flush", "", "", "", "completes all outstanding aio requests", 0, 0, &Io::cmd_aio_flush},
    {"aio_read", "", "CiqvP:", "[-Ciqv] [-P pattern] off len [len..]", "asynchronously reads a number of bytes", 2, 99, &Io::cmd_aio_read},
    {"aio_write", "", "CfiquzP:", "[-Cfiquz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes", 2, 99,
     &Io::cmd_aio_write},
    {"alloc", "", "", "offset [count]", "checks if offset is allocated in the file", 1, 2, &Io::cmd_alloc},
    {"close", "c", "", "", "close the current open file", 0, 0, &Io::cmd_close},
    {"discard", "d", "Cq", "[-Cq] off len", "discards a number of bytes at a specified offset", 2, 2, &Io::cmd_discard},
    {"flush", "f", "", "", "flush all in-core file state to disk", 0, 0, &Io::cmd_flush},
    {"help", "?", "", "[command]", "help for one or all commands", 0, 1, &Io::cmd_help, false},
    {"info", "i", "", "", "prints information about the current file", 0, 0, &Io::cmd_info},
    {"length", "l", "", "", "gets the length of the current file", 0, 0, &Io::cmd_length},
    {"map", "", "", "", "prints the allocated areas of a file", 0, 0, &Io::cmd_map},
    {"open", "o", "rsCnkUt:d:o:", "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "open the file specified by path", 0, 1,
     &Io::cmd_open, false},
    {"pread", "", "abCqvP:s:l:", "off len", "reads a number of bytes at a specified offset", 2, 2, &Io::cmd_read},
    {"pwrite", "", "bcCfnpquzP:s:", "off len", "writes a number of bytes at a specified offset", 2, 2, &Io::cmd_write},
    {"quit", "q", "", "", "exit the program", 0, 0, &Io::cmd_quit, false},
    {"read", "r", "abCpqvP:s:l:", "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads a number of bytes at a specified offset", 2, 2,
     &Io::cmd_read},
    {"readv", "", "CqvP:", "[-Cqv] [-P pattern] off len [len..]", "reads a number of bytes at a specified offset", 2, 99, &Io::cmd_readv},
    {"reopen", "", "rwc:", "[(-r|-w)] [-c cache]", "reopens an image with new options", 0, 0, &Io::cmd_reopen},
    {"sigraise", "", "", "signal", "raises a signal", 1, 1, &Io::cmd_sigraise, false},
    {"sleep", "", "", "", "waits for the given value in milliseconds", 1, 1, &Io::cmd_sleep, false},
    {"truncate", "t", "m:", "[-m prealloc_mode] off", "truncates the current file at the given offset", 1, 1, &Io::cmd_truncate},
    {"write", "w", "bcCfnpquzP:s:", "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes a number of bytes at a specified offset",
     2, 2, &Io::cmd_write},
    {"writev", "", "CfqP:", "[-Cfq] [-P pattern] off len [len..]", "writes a number of bytes at a specified offset", 2, 99,
     &Io::cmd_writev},
};

// --- Files

Result<> Io::open(OpenOptions o) {
  if (edge_) return fail("file open already, try 'help close'");
  Value common = o.common;
  if (!o.read_only)
    common.set("read-only", false);
  else
    common.set("read-only", true);
  if (o.force_share) common.set("force-share", true);
  Result<block::NodeRef> node = fail("");
  if (o.image_options) {
    Value tree = TRY(parse_key_list_or_json(o.filename, "", true));
    for (const auto& [name, value] : common.members())
      if (!tree.find(name)) tree.set(name, value);
    if (!tree.find("driver")) {
      // "file.filename=x" alone: a format is guessed as for a name.
      const Value* file = tree.find("file");
      const Value* name = file ? file->find("filename") : nullptr;
      if (!o.format.empty())
        tree.set("driver", o.format);
      else if (name && name->is_string())
        node = run_task(loop_, block::open_image(loop_, name->get_string(), "", common));
      else
        return fail("Must specify 'driver'");
    }
    if (tree.find("driver")) node = run_task(loop_, block::open_node(loop_, std::move(tree)));
  } else {
    node = run_task(loop_, block::open_image(loop_, o.filename, o.format, std::move(common)));
  }
  auto named = [&](Error e) -> Result<> {
    return std::unexpected(std::move(e).within(format("can't open{}{}", o.filename.empty() ? "" : " device ", o.filename)));
  };
  if (!node) return named(std::move(node).error());
  const u8 needs =
      o.read_only || (*node)->read_only() ? block::permit_read : block::permit_read | block::permit_write | block::permit_resize;
  const u8 shares = o.force_share ? block::permit_all : block::permit_read | block::permit_write_unchanged;
  auto edge = block::Edge::make(*node, "root", "vmm io", block::Role::user, needs, shares);
  if (!edge) {
    (void)run_task(loop_, block::release(std::move(*node)));
    return named(std::move(edge).error());
  }
  node_ = std::move(*node), edge_ = std::move(*edge), opened_ = std::move(o);
  return {};
}

Result<> Io::close() {
  if (!edge_) return {};
  while (in_flight_) loop_.run_once(true);
  Result<> flushed;
  if (edge_->needs() & block::permit_write) flushed = run_task(loop_, edge_->flush());
  edge_.reset();
  auto closed = run_task(loop_, block::release(std::move(node_)));
  node_ = nullptr;
  return flushed ? std::move(closed) : std::move(flushed);
}

// --- Words

std::optional<u64> Io::number(const std::string& text) {
  auto n = codec_detail::parse_size(Value{text}, "number", {});
  if (n && *n <= u64{INT64_MAX}) return *n;
  fault(format("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {}", text));
  return {};
}

std::optional<Io::Arguments> Io::parse(const Command& command, std::span<const std::string> words) {
  Arguments a;
  const auto bad = [&](std::string text) -> std::optional<Arguments> {
    fault(std::move(text));
    return {};
  };
  for (usize i = 0; i < words.size(); i++) {
    const std::string& w = words[i];
    if (w.size() < 2 || w[0] != '-') {
      a.words.push_back(w);
      continue;
    }
    for (usize k = 1; k < w.size(); k++) {
      const auto at = command.letters.find(w[k]);
      if (at == command.letters.npos || w[k] == ':') return bad(format("{}: invalid option -- '{}'", command.name, w[k]));
      if (at + 1 >= command.letters.size() || command.letters[at + 1] != ':') {
        a.options += w[k];
        continue;
      }
      std::string value = w.substr(k + 1);
      if (value.empty()) {
        if (++i == words.size()) return bad(format("{}: option requires an argument -- '{}'", command.name, w[k]));
        value = words[i];
      }
      a.options += w[k];
      const bool writes = command.letters.contains('f');
      if (w[k] == 'P') {
        const auto n = number(value);
        if (!n) return {};
        if (*n > 255) return bad(format("{} is not a valid pattern byte", value));
        a.pattern = u8(*n);
      } else if (w[k] == 's' && writes) {
        a.source = value;
      } else if (w[k] == 's') {
        const auto n = number(value);
        if (!n) return {};
        a.pattern_from = *n;
      } else if (w[k] == 'l') {
        a.pattern_length = number(value);
        if (!a.pattern_length) return {};
      } else if (w[k] == 'm') {
        a.preallocation = value;
      } else {
        a.cache = value;
      }
      break;
    }
  }
  if (a.words.size() < command.least || a.words.size() > command.most)
    return bad(command.most == command.least
                   ? format("bad argument count {} to {}, expected {}{} arguments", a.words.size(), command.name,
                            command.least == 2 && a.words.size() < 2 ? "at least " : "exactly ", command.least)
                   : format("bad argument count {} to {}, expected at least {} arguments", a.words.size(), command.name, command.least));
  return a;
}

bool Io::run_line(std::string_view line) {
  std::vector<std::string> words;
  for (usize at = 0; at < line.size();) {
    const usize from = line.find_first_not_of(" \t\r\n", at);
    if (from == line.npos) break;
    at = std::min(line.find_first_of(" \t\r\n", from), line.size());
    words.emplace_back(line.substr(from, at - from));
  }
  if (words.empty() || words[0].starts_with('#')) return true;
  const auto command =
      std::ranges::find_if(commands, [&](const Command& c) { return c.name == words[0] || (!c.alias.empty() && c.alias == words[0]); });
  if (command == std::end(commands)) {
    fault(format("command \"{}\" not found", words[0]));
    return true;
  }
  if (command->needs_file && !edge_) {
    fault("no file open, try 'help open'");
    return true;
  }
  if (auto a = parse(*command, std::span{words}.subspan(1))) (this->*command->run)(*a);
  return !quitting_;
}

// --- Transfers

bool Io::range_ok(u64 length) {
  if (length <= largest_request) return true;
  fault(format("length cannot exceed {}, given {}", largest_request, length));
  return false;
}

void Io::report(std::string_view verb, u64 done, u64 asked, u64 offset, Nanoseconds took, const Arguments& a) {
  if (a.has('q')) return;
  const double seconds = std::max(double(took.count()) / 1e9, 1e-9);
  if (a.has('C')) {
    say(format("{},1,{}:{:02}:{:05.2f},{:.3f},{:.3f}\n", done, u64(seconds) / 3600, u64(seconds) / 60 % 60,
               seconds - double(u64(seconds) / 60 * 60), double(done) / seconds, 1 / seconds));
    return;
  }
  say(format("{} {}/{} bytes at offset {}\n{}, 1 ops; {:05.2f} sec ({}/sec and {:.4f} ops/sec)\n", verb, done, asked, offset,
             size_text(double(done)), seconds, size_text(double(done) / seconds), 1 / seconds));
}

std::optional<Io::Data> Io::data_of(const Arguments& a, bool vectored, bool fill) {
  Data data;
  const auto offset = number(a.words[0]);
  if (!offset) return {};
  data.offset = *offset;
  std::vector<u64> lengths;
  u64 total = 0;
  for (usize i = 1; i < (vectored ? a.words.size() : 2); i++) {
    const auto n = number(a.words[i]);
    if (!n || !range_ok(*n)) return {};
    lengths.push_back(*n);
    total += *n;
    if (!range_ok(total)) return {};
  }
  if (a.has('z')) {
    data.vector = IoVector{nullptr, total};  // only its size is used
    return data;
  }
  const u64 skew = opened_.misaligned ? 16 : 0;
  data.buffer = Buffer{total + skew};
  u64 at = skew;
  for (const u64 n : lengths) {
    data.vector.add(data.buffer.span().subspan(at, n));
    at += n;
  }
  if (!fill) return data;
  data.vector.fill(a.pattern.value_or(0xcd));
  if (!a.source.empty()) {
    std::ifstream file{a.source, std::ios::binary};
    std::string bytes{std::istreambuf_iterator<char>{file}, {}};
    if (!file && bytes.empty()) {
      fault(format("{}: could not be read", a.source));
      return {};
    }
    for (u64 i = 0; i < total && !bytes.empty(); i++) data.buffer.data()[skew + i] = u8(bytes[i % bytes.size()]);
  }
  return data;
}

void Io::verify(const Data& data, const Arguments& a) {
  const u64 size = data.vector.size(), from = a.pattern_from;
  const u64 length = a.pattern_length.value_or(from <= size ? size - from : 0);
  if (from > size || length > size - from) return fault("pattern verification range exceeds end of read data");
  const u8* bytes = data.buffer.data() + (opened_.misaligned ? 16 : 0) + from;
  if (std::all_of(bytes, bytes + length, [&](u8 b) { return b == *a.pattern; })) return;
  failed_ = true;
  say(format("Pattern verification failed at offset {}, {} bytes\n", data.offset + from, length));
}

void Io::dump(const Data& data) {
  std::string out;
  const u8* bytes = data.buffer.data() + (opened_.misaligned ? 16 : 0);
  for (u64 row = 0; row < data.vector.size(); row += 16) {
    out += format("{:08x}:  ", data.offset + row);
    std::string text;
    for (u64 i = row; i < std::min(row + 16, data.vector.size()); i++) {
      out += format("{:02x} ", bytes[i]);
      text += bytes[i] >= 0x20 && bytes[i] < 0x7f ? char(bytes[i]) : '.';
    }
    out += format(" {}\n", text);
  }
  say(out);
}

Task<> Io::transfer(std::shared_ptr<Data> data, bool writes, Arguments a) {
  if (!writes) co_return co_await edge_->read(data->offset, data->vector);
  if (a.has('z'))
    co_return co_await edge_->zero(data->offset, data->vector.size(),
                                   {.may_unmap = a.has('u'), .no_fallback = a.has('n'), .fua = a.has('f')});
  co_return co_await edge_->write(data->offset, data->vector, {.fua = a.has('f'), .compressed = a.has('c')});
}

void Io::submit(const Arguments& a, bool writes, bool vectored, bool asynchronous) {
  if (a.has('z') && (a.pattern || !a.source.empty())) return fault("-z and -P/-s cannot be specified at the same time");
  if (a.has('u') && !a.has('z')) return fault("-u requires -z to be specified");
  if (a.has('n') && !a.has('z')) return fault("-n requires -z to be specified");
  if (a.has('b')) return fault("vmstate access is not supported by this image");
  if (a.has('i')) return;  // accounts an invalid request, of a device that is not there
  auto made = data_of(a, vectored, writes);
  if (!made) return;
  const auto data = std::make_shared<Data>(std::move(*made));
  const auto begin = std::chrono::steady_clock::now();
  bool done = false;
  in_flight_++;
  transfer(data, writes, a).start([this, data, writes, a, begin, asynchronous, &done](Result<> r) {
    in_flight_--;
    if (!asynchronous) done = true;
    const Nanoseconds took = std::chrono::steady_clock::now() - begin;
    if (!r) return fault(format("{}{} failed: {}", asynchronous ? "aio_" : "", writes ? "write" : "read", r.error().message));
    if (!writes && a.pattern) verify(*data, a);
    if (!writes && a.has('v')) dump(*data);
    report(writes ? "wrote" : "read", data->vector.size(), data->vector.size(), data->offset, took, a);
  });
  if (!asynchronous)
    while (!done) loop_.run_once(true);
}

void Io::cmd_aio_flush(const Arguments&) {
  while (in_flight_) loop_.run_once(true);
}
void Io::cmd_flush(const Arguments&) {
  if (auto done = run_task(loop_, edge_->flush()); !done) fault(format("flush failed: {}", done.error().message));
}
void Io::cmd_discard(const Arguments& a) {
  const auto offset = number(a.words[0]), length = number(a.words[1]);
  if (!offset || !length || !range_ok(*length)) return;
  const auto begin = std::chrono::steady_clock::now();
  if (auto done = run_task(loop_, edge_->discard(*offset, *length)); !done)
    return fault(format("discard failed: {}", done.error().message));
  report("discard", *length, *length, *offset, std::chrono::steady_clock::now() - begin, a);
}

// --- Facts

void Io::cmd_map(const Arguments&) {
  const u64 end = edge_->length_bytes();
  for (u64 at = 0; at < end;) {
    // Neighbours of one kind are one line.
    u64 from = at;
    std::optional<bool> kind;
    while (at < end) {
      auto e = run_task(loop_, edge_->map(at, end - at));
      if (!e) return fault(format("Failed to query allocation status: {}", e.error().message));
      const bool allocated = e->kind == block::Extent::Kind::data || (e->kind == block::Extent::Kind::zero && e->present) ||
                             (e->kind == block::Extent::Kind::zero && !node_->child("backing") && node_->driver().name == "raw");
      if (kind && *kind != allocated) break;
      kind = allocated;
      at += e->length;
    }
    say(format("{} ({:#x}) bytes {} allocated at offset {} ({:#x})\n", size_text(double(at - from)), at - from, *kind ? "   " : "not",
               size_text(double(from)), from));
  }
}
void Io::cmd_alloc(const Arguments& a) {
  const auto offset = number(a.words[0]);
  std::optional<u64> count = 512;
  if (a.words.size() == 2) count = number(a.words[1]);
  if (!offset || !count) return;
  u64 sum = 0;
  for (u64 at = *offset; at < *offset + *count && at < edge_->length_bytes();) {
    auto e = run_task(loop_, edge_->map(at, *offset + *count - at));
    if (!e) return fault(format("is_allocated failed: {}", e.error().message));
    if (e->kind != block::Extent::Kind::backing && (e->kind == block::Extent::Kind::data || e->present)) sum += e->length;
    at += e->length;
  }
  say(format("{}/{} bytes allocated at offset {}\n", sum, *count, size_text(double(*offset))));
}
void Io::cmd_length(const Arguments&) { say(size_text(double(edge_->length_bytes())) + "\n"); }
void Io::cmd_info(const Arguments&) {
  say(format("format name: {}\n", node_->driver().name));
  say(format("cluster size: {}\n", size_text(double(node_->cluster_bytes()))));
  const Value info = node_->specific_info();
  if (const Value* data = info.find("data"); data && data->is_object()) {
    say("Format specific information:\n");
    for (auto [name, value] : data->members()) {
      std::ranges::replace(name, '-', ' ');
      say(format("    {}: {}\n", name, value.is_string() ? value.get_string() : to_json(value)));
    }
  }
}
void Io::cmd_truncate(const Arguments& a) {
  const auto length = number(a.words[0]);
  if (!length) return;
  block::Preallocation mode = block::Preallocation::off;
  if (!a.preallocation.empty())
    if (auto ok = Codec<block::Preallocation>::from_value(mode, Value{a.preallocation}, "m", {}); !ok) return fault(ok.error().message);
  if (auto done = run_task(loop_, edge_->truncate(*length, mode)); !done) fault(done.error().message);
}
void Io::cmd_sleep(const Arguments& a) {
  u64 ms = 0;
  const auto [end, error] = std::from_chars(a.words[0].data(), a.words[0].data() + a.words[0].size(), ms);
  if (error != std::errc{} || ms > 3'600'000) return fault(format("{} is not a valid number of milliseconds", a.words[0]));
  // Requests under way go on meanwhile.
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds{ms};
  TimeDomain clock;
  loop_.add_time_domain(clock);
  bool over = false;
  Timer timer{Clock::real, clock, [&] { over = true; }};
  timer.arm_in(until - std::chrono::steady_clock::now());
  while (!over) loop_.run_once(true);
  loop_.remove_time_domain(clock);
}
void Io::cmd_sigraise(const Arguments& a) {
  const auto n = number(a.words[0]);
  if (n && *n <= 64) ::raise(int(*n));
}
void Io::cmd_help(const Arguments& a) {
  for (const Command& c : commands)
    if (a.words.empty() || a.words[0] == c.name) say(format("{} {} -- {}\n", c.name, c.arguments, c.help));
}

void Io::cmd_open(const Arguments& a) {
  OpenOptions o = opened_;
  o.read_only |= a.has('r');
  o.force_share |= a.has('U');
  if (!a.words.empty()) o.filename = a.words[0];
  if (o.filename.empty()) return fault("a file name is needed");
  if (auto done = open(std::move(o)); !done) report_error(done.error()), failed_ = true;
}
void Io::cmd_close(const Arguments&) {
  if (auto done = close(); !done) fault(done.error().message);
}
void Io::cmd_reopen(const Arguments& a) {
  if (a.has('r') && a.has('w')) return fault("Only one of -r/-c and -w can be given");
  OpenOptions o = opened_;
  if (a.has('r')) o.read_only = true;
  if (a.has('w')) o.read_only = false;
  if (auto done = close(); !done) return fault(done.error().message);
  if (auto done = open(std::move(o)); !done) report_error(done.error()), failed_ = true;
}

// --- The command line

constexpr const char* usage =
    "Usage: vmm io [OPTIONS]... [-c STRING]... [file]\n"
    "QEMU Disk exerciser\n\n"
    "      --image-opts         treat file as option string\n"
    "  -c, --cmd STRING         execute command with its arguments\n"
    "  -f, --format FMT         specifies the block driver to use\n"
    "  -r, --read-only          export read-only\n"
    "  -s, --snapshot           use snapshot file\n"
    "  -n, --nocache            disable host cache, short for -t none\n"
    "  -m, --misalign           misalign allocations for O_DIRECT\n"
    "  -t, --cache=MODE         none, writeback, writethrough, directsync, unsafe\n"
    "  -i, --aio=MODE           threads, native, io_uring\n"
    "  -d, --discard=MODE       ignore, unmap\n"
    "  -U, --force-share        bear other writers\n"
    "  -h, --help               display this help and exit\n"
    "  -V, --version            output version information and exit\n";

int run_io(std::span<const char* const> words) {
  OpenOptions o;
  std::vector<std::string> commands;
  Value cache = Value::object(), file = Value::object();
  for (usize i = 0; i < words.size(); i++) {
    std::string w = words[i], value;
    bool has_value = false;
    if (w.starts_with("--"))
      if (const auto equals = w.find('='); equals != w.npos) value = w.substr(equals + 1), w.resize(equals), has_value = true;
    const auto take = [&](std::string_view short_name, std::string_view long_name) {
      if (!short_name.empty() && w.size() > 2 && w.starts_with(short_name)) {
        value = w.substr(2), has_value = true;
        return true;
      }
      if (w != short_name && w != long_name) return false;
      if (!has_value && i + 1 < words.size()) value = words[++i], has_value = true;
      return true;
    };
    if (take("-c", "--cmd"))
      commands.push_back(value);
    else if (take("-f", "--format"))
      o.format = value;
    else if (take("-t", "--cache")) {
      if (value != "none" && value != "off" && value != "writeback" && value != "writethrough" && value != "directsync" &&
          value != "unsafe") {
        report_error(format("Invalid cache option: {}", value));
        return 1;
      }
      cache.set("direct", value == "none" || value == "off" || value == "directsync").set("no-flush", value == "unsafe");
    } else if (take("-i", "--aio"))
      file.set("aio", value);
    else if (take("-d", "--discard"))
      o.common.set("discard", value);
    else if (take("-T", "--trace") || take("", "--object"))
      continue;
    else if (w == "-r" || w == "--read-only")
      o.read_only = true;
    else if (w == "-n" || w == "--nocache")
      cache.set("direct", true);
    else if (w == "-U" || w == "--force-share")
      o.force_share = true;
    else if (w == "-m" || w == "--misalign")
      o.misaligned = true;
    else if (w == "--image-opts")
      o.image_options = true;
    else if (w == "-h" || w == "--help")
      return std::fputs(usage, stdout), 0;
    else if (w == "-V" || w == "--version")
      return std::puts("qemu-io version 8.2.0 (vmm)"), 0;
    else if (w.starts_with('-') && w.size() > 1) {
      report_error(Error{format("unrecognized option '{}'", w)}.with_hint("Try 'vmm io --help' for more information"));
      return 1;
    } else if (!o.filename.empty()) {
      report_error(format("one image at a time, not '{}' too", w));
      return 1;
    } else {
      o.filename = w;
    }
  }
  if (!o.common.find("discard")) o.common.set("discard", "unmap");
  if (!cache.members().empty()) o.common.set("cache", std::move(cache));
  if (!file.members().empty() && !o.image_options) o.common.set("file", std::move(file));
  Io io;
  if (!o.filename.empty())
    if (auto done = io.open(std::move(o)); !done) return report_error(done.error()), 1;
  bool going = true;
  for (const auto& c : commands)
    if (!(going = io.run_line(c))) break;
  if (commands.empty()) {
    const bool terminal = ::isatty(0);
    char* line = nullptr;
    size_t room = 0;
    if (terminal) std::fputs("qemu-io> ", stdout), std::fflush(stdout);
    while (going && ::getline(&line, &room, stdin) > 0) {
      going = io.run_line(line);
      if (going && terminal) std::fputs("qemu-io> ", stdout), std::fflush(stdout);
    }
    std::free(line);
  }
  if (auto done = io.close(); !done) return report_error(done.error()), 1;
  return io.failed() ? 1 : 0;
}
RegisteredTool registered{{.name = "io", .program = "qemu-io", .doc = "Read, write and check an image by commands.", .run = run_io}};

}  // namespace
}  // namespace vmm::tools
