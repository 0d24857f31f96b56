// vmm nbd (qemu-nbd): offers an image to NBD clients, or lists what a server offers. Words and texts as qemu-nbd 7.2 has them (observed).
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>

#include "block/core/throttle.h"
#include "block/export/server.h"
#include "block/nbd/handshake.h"
#include "src/base/log.h"
#include "src/event/async.h"
#include "src/tools/tool.h"
#include "src/value/key_list.h"

namespace vmm::tools {
namespace {

using block::nbd::Server;

constexpr const char* usage =
    "Usage: vmm nbd [OPTIONS] FILE\n"
    "  or:  vmm nbd -L [OPTIONS]\n"
    "QEMU Disk Network Block Device Utility\n\n"
    "  -h, --help                display this help and exit\n"
    "  -V, --version             output version information and exit\n\n"
    "Connection properties:\n"
    "  -p, --port=PORT           port to listen on (default `10809')\n"
    "  -b, --bind=IFACE          interface to bind to (default `0.0.0.0')\n"
    "  -k, --socket=PATH         path to the unix socket\n"
    "  -e, --shared=NUM          device can be shared by NUM clients (default '1')\n"
    "  -t, --persistent          don't exit on the last connection\n"
    "  -v, --verbose             display extra debugging information\n"
    "  -x, --export-name=NAME    expose export by name (default is empty string)\n"
    "  -D, --description=TEXT    export a human-readable description\n\n"
    "Exposing part of the image:\n"
    "  -o, --offset=OFFSET       offset into the image\n"
    "  -A, --allocation-depth    expose the allocation depth\n\n"
    "General purpose options:\n"
    "  -L, --list                list exports available from another NBD server\n"
    "  --fork                    fork off the server process and exit the parent once the server is running\n"
    "  --pid-file=PATH           store the server's process ID in the given file\n\n"
    "Block device options:\n"
    "  -f, --format=FORMAT       set image format (raw, qcow2, ...)\n"
    "  -r, --read-only           export read-only\n"
    "  -n, --nocache             disable host cache\n"
    "      --cache=MODE          none, writeback, writethrough, directsync, unsafe\n"
    "      --aio=MODE            threads, native, io_uring\n"
    "      --discard=MODE        ignore, unmap\n"
    "      --detect-zeroes=MODE  off, on, unmap\n"
    "      --image-opts          treat FILE as a full set of image options\n";

struct Words {
  std::string file, format, name, description, bind = "0.0.0.0", socket, pid_file;
  u16 port = block::nbd::default_port;
  u32 shared = 1;
  u64 offset = 0;
  bool persistent = false, list = false, fork = false, read_only = false, image_options = false, depth = false, help = false,
       version = false, bind_given = false, port_given = false, writethrough = false;
  Value common = Value::object();
};

struct Option {
  char letter;
  std::string_view name;
  bool has_value;
  Result<> (*take)(Words&, const std::string& value);
};
template <class T>
Result<T> number(const std::string& text, std::string_view what) {
  T n = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, n);
  if (error != std::errc{} || stop != end) return fail("Invalid {} '{}'", what, text);
  return n;
}
Result<> take_cache(Words& w, const std::string& mode) {
  if (mode != "none" && mode != "off" && mode != "writeback" && mode != "writethrough" && mode != "directsync" && mode != "unsafe")
    return fail("Invalid cache mode `{}'", mode);
  Value cache = Value::object();
  cache.set("direct", mode == "none" || mode == "off" || mode == "directsync").set("no-flush", mode == "unsafe");
  w.common.set("cache", std::move(cache));
  w.writethrough = mode == "writethrough" || mode == "directsync";
  return {};
}
Result<> not_possible(Words&, const std::string&) { return fail("this option is not possible here"); }

constexpr Option options[] = {
    {'h', "help", false, [](Words& w, const std::string&) -> Result<> { return w.help = true, Result<>{}; }},
    {'V', "version", false, [](Words& w, const std::string&) -> Result<> { return w.version = true, Result<>{}; }},
    {'v', "verbose", false, [](Words&, const std::string&) -> Result<> { return {}; }},
    {'t', "persistent", false, [](Words& w, const std::string&) -> Result<> { return w.persistent = true, Result<>{}; }},
    {'L', "list", false, [](Words& w, const std::string&) -> Result<> { return w.list = true, Result<>{}; }},
    {'r', "read-only", false, [](Words& w, const std::string&) -> Result<> { return w.read_only = true, Result<>{}; }},
    {'A', "allocation-depth", false, [](Words& w, const std::string&) -> Result<> { return w.depth = true, Result<>{}; }},
    {'n', "nocache", false, [](Words& w, const std::string&) -> Result<> { return take_cache(w, "none"); }},
    {0, "image-opts", false, [](Words& w, const std::string&) -> Result<> { return w.image_options = true, Result<>{}; }},
    {0, "fork", false, [](Words& w, const std::string&) -> Result<> { return w.fork = true, Result<>{}; }},
    {0, "pid-file", true, [](Words& w, const std::string& v) -> Result<> { return w.pid_file = v, Result<>{}; }},
    {'f', "format", true, [](Words& w, const std::string& v) -> Result<> { return w.format = v, Result<>{}; }},
    {'x', "export-name", true, [](Words& w, const std::string& v) -> Result<> { return w.name = v, Result<>{}; }},
    {'D', "description", true, [](Words& w, const std::string& v) -> Result<> { return w.description = v, Result<>{}; }},
    {'b', "bind", true, [](Words& w, const std::string& v) -> Result<> { return w.bind = v, w.bind_given = true, Result<>{}; }},
    {'k', "socket", true,
     [](Words& w, const std::string& v) -> Result<> {
       if (!v.starts_with('/')) return fail("socket path must be absolute");
       return w.socket = v, Result<>{};
     }},
    {'p', "port", true,
     [](Words& w, const std::string& v) -> Result<> {
       return w.port = TRY(number<u16>(v, "port number")), w.port_given = true, Result<>{};
     }},
    {'e', "shared", true,
     [](Words& w, const std::string& v) -> Result<> { return w.shared = TRY(number<u32>(v, "shared device number")), Result<>{}; }},
    {'o', "offset", true,
     [](Words& w, const std::string& v) -> Result<> {
       return w.offset = TRY(codec_detail::parse_size(Value{v}, "offset", {})), Result<>{};
     }},
    {0, "cache", true, take_cache},
    {0, "aio", true,
     [](Words& w, const std::string& v) -> Result<> {
       Value file = Value::object();
       file.set("aio", v);
       return w.common.set("file", std::move(file)), Result<>{};
     }},
    {0, "discard", true, [](Words& w, const std::string& v) -> Result<> { return w.common.set("discard", v), Result<>{}; }},
    {0, "detect-zeroes", true, [](Words& w, const std::string& v) -> Result<> { return w.common.set("detect-zeroes", v), Result<>{}; }},
    {'T', "trace", true, [](Words&, const std::string&) -> Result<> { return {}; }},
    {0, "object", true, not_possible},
    {0, "tls-creds", true, not_possible},
    {'c', "connect", true, not_possible},
    {'d', "disconnect", false, not_possible},
    {'s', "snapshot", false, not_possible},
    {'l', "load-snapshot", true, not_possible},
    {'B', "bitmap", true, not_possible},
};

Result<Words> parse(std::span<const char* const> words) {
  Words out;
  for (usize i = 0; i < words.size(); i++) {
    std::string w = words[i];
    if (w.size() < 2 || w[0] != '-') {
      if (!out.file.empty()) return fail("one image at a time, not '{}' too", w);
      out.file = w;
      continue;
    }
    // --name, --name=value, --name value; -x, -xvalue, -x value, -rt.
    std::string value;
    bool has_value = false;
    const bool is_long = w.starts_with("--");
    if (is_long)
      if (const auto equals = w.find('='); equals != w.npos) value = w.substr(equals + 1), w.resize(equals), has_value = true;
    for (usize k = 1; k < (is_long ? 2 : w.size()); k++) {
      const Option* found = nullptr;
      for (const Option& o : options)
        if (is_long ? w.substr(2) == o.name : o.letter && w[k] == o.letter) found = &o;
      if (!found)
        return std::unexpected(Error{format("unrecognized option '{}'", w)}.with_hint("Try `vmm nbd --help' for more information."));
      const bool last = is_long || !found->has_value;
      if (found->has_value && !is_long && k + 1 < w.size()) value = w.substr(k + 1), has_value = true;
      if (found->has_value && !has_value) {
        if (++i == words.size()) return fail("option '{}' requires an argument", w);
        value = words[i];
      }
      if (auto taken = found->take(out, value); !taken) return std::unexpected(std::move(taken).error().within(w));
      if (!last) break;
    }
  }
  return out;
}

// The parent's half of --fork: its exit status is the child's word that it listens, or its message.
class Parting {
 public:
  Result<> begin() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC)) return fail_errno("cannot make a pipe");
    Fd from{ends[0]};
    to_parent_ = Fd{ends[1]};
    const pid_t child = ::fork();
    if (child < 0) return fail_errno("Failed to fork");
    if (child) {
      to_parent_.reset();
      char word = 1;
      const ssize_t n = ::read(from.get(), &word, 1);
      std::fflush(nullptr);
      ::_exit(n == 1 ? word : 1);
    }
    ::setsid();
    return {};
  }
  void done() {
    if (!to_parent_) return;
    const Fd nothing{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    for (int i = 0; i < 3; i++) ::dup2(nothing.get(), i);
    (void)::chdir("/");
    const char word = 0;
    (void)!::write(to_parent_.get(), &word, 1);
    to_parent_.reset();
  }

 private:
  Fd to_parent_;
};

Task<block::NodeRef> open_image(EventLoop& loop, Words w) {
  Value common = std::move(w.common);
  common.set("read-only", w.read_only);
  if (!common.find("discard")) common.set("discard", "unmap");
  block::NodeRef node;
  if (w.image_options) {
    auto tree = parse_key_list_or_json(w.file, "", true);
    if (!tree) co_return std::unexpected(std::move(tree).error());
    for (const auto& [name, value] : common.members())
      if (!tree->find(name) && name != "file") tree->set(name, value);
    node = co_await block::open_node(loop, std::move(*tree));
  } else {
    node = co_await block::open_image(loop, w.file, w.format, std::move(common));
  }
  if (!w.offset) co_return std::move(node);
  Value window = Value::object();
  window.set("driver", "raw").set("offset", w.offset).set("read-only", w.read_only).set("file", node->node_name());
  co_return co_await block::open_node(loop, std::move(window));
}

block::nbd::Address address_of(const Words& w) {
  block::nbd::Address a;
  if (!w.socket.empty())
    a.socket.path = w.socket;
  else
    a.socket.host = w.bind, a.socket.port = std::to_string(w.port);
  return a;
}

Result<Fd> write_pid_file(const std::string& path) {
  if (path.empty()) return Fd{};
  Fd file{::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)};
  if (!file) return fail_errno(format("Cannot open pid file '{}'", path));
  if (::flock(file.get(), LOCK_EX | LOCK_NB)) return fail_errno(format("Cannot lock pid file '{}'", path));
  const std::string text = format("{}\n", ::getpid());
  if (::ftruncate(file.get(), 0) || ::write(file.get(), text.data(), text.size()) != ssize_t(text.size()))
    return fail_errno(format("Cannot write pid file '{}'", path));
  return file;
}

Result<> serve(Words w) {
  if (w.file.empty()) return fail("Invalid number of arguments: an image is needed");
  if (!w.socket.empty() && (w.bind_given || w.port_given)) return fail("Unix socket can't be used with -b or -p");
  Parting parting;
  if (w.fork) TRY(parting.begin());
  // Before any thread is there that could take them.
  sigset_t ends;
  sigemptyset(&ends);
  for (const int s : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&ends, s);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  const Fd signals{::signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK)};
  EventLoop loop;
  bool ending = false, had_client = false;
  FdWatch watch;
  watch.start(loop, signals.get(), EPOLLIN, [&](u32) {
    signalfd_siginfo info;
    if (::read(signals.get(), &info, sizeof info) > 0) ending = true;
  });
  Server server{loop, {.most_clients = w.shared ? w.shared : ~u32{0}, .client_gone = [&] {
                         had_client = true;
                         if (!w.persistent && !server.clients()) ending = true;
                       }}};
  block::NodeRef node = TRY(run_task(loop, open_image(loop, w)));
  Result<> done;
  {
    auto e = block::Export::make(node, {.id = "nbd",
                                        .name = w.name,
                                        .description = w.description,
                                        .writable = !w.read_only && !node->read_only(),
                                        .writethrough = w.writethrough,
                                        .allocation_depth = w.depth,
                                        .multi_conn = w.shared != 1});
    done = e ? server.add(std::move(*e)) : std::unexpected(std::move(e).error());
  }
  Fd pid_file;
  if (done) done = server.listen(address_of(w));
  if (done) {
    auto written = write_pid_file(w.pid_file);
    if (written)
      pid_file = std::move(*written);
    else
      done = std::unexpected(std::move(written).error());
  }
  if (done) {
    parting.done();
    while (!ending) loop.run_once(true);
  }
  (void)run_task(loop, server.stop());
  // The export's back end closes its medium by itself; what stands under a window goes with it.
  while (block::backends_closing()) loop.run_once(true);
  Result<> closed = run_task(loop, block::release(std::move(node)));
  if (pid_file) ::unlink(w.pid_file.c_str());
  return done ? std::move(closed) : std::move(done);
}

std::string flag_words(u16 flags) {
  static constexpr std::pair<u16, std::string_view> names[] = {{block::nbd::export_flag::read_only, "readonly"},
                                                               {block::nbd::export_flag::flush, "flush"},
                                                               {block::nbd::export_flag::fua, "fua"},
                                                               {block::nbd::export_flag::rotational, "rotational"},
                                                               {block::nbd::export_flag::trim, "trim"},
                                                               {block::nbd::export_flag::write_zeroes, "zeroes"},
                                                               {block::nbd::export_flag::df, "df"},
                                                               {block::nbd::export_flag::multi_conn, "multi"},
                                                               {block::nbd::export_flag::resize, "resize"},
                                                               {block::nbd::export_flag::cache, "cache"},
                                                               {block::nbd::export_flag::fast_zero, "fast-zero"}};
  std::string out;
  for (const auto& [bit, name] : names)
    if (flags & bit) out += format(" {}", name);
  return out;
}
Task<std::vector<block::nbd::ListedExport>> ask(Words w) {
  if (w.socket.empty() && !w.bind_given) w.bind = "localhost";
  const Nanoseconds deadline = block::monotonic_now() + 30s;
  Fd socket = co_await block::nbd::connect(address_of(w), deadline);
  block::nbd::Stream stream{std::move(socket)};
  stream.set_deadline(deadline);
  co_return co_await block::nbd::list_exports(stream);
}
Result<> list(Words w) {
  EventLoop loop;
  const auto all = TRY(run_task(loop, ask(std::move(w))));
  std::printf("exports available: %zu\n", all.size());
  for (const auto& e : all) {
    std::printf(" export: '%s'\n", e.name.c_str());
    if (!e.info.description.empty()) std::printf("  description: %s\n", e.info.description.c_str());
    if (!(e.info.flags & block::nbd::export_flag::has_flags)) continue;
    std::printf("  size:  %llu\n  flags: 0x%x (%s )\n", static_cast<unsigned long long>(e.info.length_bytes), e.info.flags,
                flag_words(e.info.flags).c_str());
    std::printf("  min block: %u\n  opt block: %u\n  max block: %u\n", e.info.min_block, e.info.preferred_block, e.info.max_block);
    std::printf("  available meta contexts: %zu\n", e.contexts.size());
    for (const auto& c : e.contexts) std::printf("   %s\n", c.c_str());
  }
  return {};
}

int run_nbd(std::span<const char* const> words) {
  auto w = parse(words);
  if (!w) return report_error(w.error()), 1;
  if (w->help) return std::fputs(usage, stdout), 0;
  if (w->version) return std::puts("qemu-nbd 8.2.0 (vmm)"), 0;
  const auto done = w->list ? list(std::move(*w)) : serve(std::move(*w));
  if (!done) return report_error(done.error()), 1;
  return 0;
}
RegisteredTool registered{{.name = "nbd", .program = "qemu-nbd", .doc = "Offer an image to NBD clients.", .run = run_nbd}};

}  // namespace
}  // namespace vmm::tools
