// The process's own standard input and output.
#include <fcntl.h>
#include <sys/stat.h>

#include "src/base/host.h"
#include "src/chardev/make.h"
#include "src/chardev/stream.h"
#include "src/chardev/terminal.h"

namespace vmm {

namespace {

struct StdioOptions {
  bool signal = true;
};

// A descriptor of our own without blocking: the flag belongs to the open file, which our shell and others share, so terminals and
// pipes are opened anew. Where that cannot be, the flag is set until we end.
Fd without_blocking(int fd, int access) {
  struct stat info{};
  if (::fstat(fd, &info)) return Fd{};
  if (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode)) {
    Fd fresh{host::open_file(format("/proc/self/fd/{}", fd), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)};
    if (fresh) return fresh;
  }
  if (!S_ISREG(info.st_mode)) set_nonblocking_until_end(fd);
  return Fd{::fcntl(fd, F_DUPFD_CLOEXEC, 3)};
}

class StdioChardev final : public StreamChardev {
 public:
  static const TypeInfo type;
  ~StdioChardev() override {
    end();
    if (owns_) restore_terminals(), taken = false;
  }
  Result<> open(EventLoop& loop, bool signals) {
    if (taken) return fail("cannot use stdio by multiple character devices");
    taken = owns_ = true;
    signals_ = signals;
    in_fd_ = without_blocking(0, O_RDONLY);
    out_fd_ = without_blocking(1, O_WRONLY);
    set_echo(false);
    open_ = true;
    use(loop, in_fd_.get(), out_fd_.get());
    return {};
  }
  void set_echo(bool on) override { set_terminal(0, {.echo = on, .signals = signals_}); }
  std::string filename() const override { return "stdio"; }

 private:
  static inline bool taken = false;  // the process has one
  bool owns_ = false, signals_ = true;
  Fd in_fd_, out_fd_;
};
constinit const TypeInfo StdioChardev::type{.name = "chardev-stdio",
                                            .doc = "Standard input and output.",
                                            .parent = &Chardev::type,
                                            .make = make<StdioChardev>,
                                            .user_creatable = false};
const Registered registered{StdioChardev::type};

}  // namespace

template <>
inline constexpr std::array fields<StdioOptions> = {
    field<&StdioOptions::signal>("signal", "Ctrl-C ends the emulator (else the guest gets it).", {.optional = true})};

namespace {
Result<Ref<Chardev>> make_stdio(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<StdioOptions>(value));
  auto chardev = make_object<StdioChardev>();
  TRY(chardev->open(loop, options.signal));
  return Ref<Chardev>{chardev};
}
const RegisteredChardev kind_stdio{
    {.name = "stdio", .doc = "standard input and output", .options = fields<StdioOptions>, .make = make_stdio}};
}  // namespace
}  // namespace vmm
