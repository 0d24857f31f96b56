// A pseudo-terminal. Nobody may have its other side open: then output is dropped, and we look now and then whether somebody has come.
// Source: pty(7): while no slave is open, the master reports a hang-up and reads fail with EIO.
#include <fcntl.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <termios.h>

#include <cstdlib>

#include "src/base/host.h"
#include "src/chardev/make.h"
#include "src/chardev/stream.h"

namespace vmm {

namespace {

struct PtyOptions {
  std::optional<std::string> path;
};

class PtyChardev final : public StreamChardev {
 public:
  static const TypeInfo type;
  ~PtyChardev() override {
    end();
    look_watch_.stop();
    if (!link_.empty()) host::remove_file(link_);
  }
  Result<> open(EventLoop& loop, const std::string& link) {
    loop_ = &loop;
    master_.reset(host::open_file("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK));
    char name[128];
    if (!master_ || ::grantpt(master_.get()) || ::unlockpt(master_.get()) || ::ptsname_r(master_.get(), name, sizeof name))
      return fail_errno("Failed to create PTY");
    name_ = name;
    // Opened and closed once, so that the master knows that nobody is there; its mode stays.
    Fd slave{host::open_file(name, O_RDWR | O_NOCTTY)};
    if (!slave) return fail_errno(format("Failed to open '{}'", name));
    termios mode{};
    ::tcgetattr(slave.get(), &mode);
    ::cfmakeraw(&mode);
    ::tcsetattr(slave.get(), TCSAFLUSH, &mode);
    if (!link.empty()) {
      if (host::make_link(name, link)) return fail_errno(format("Failed to create PTY symlink '{}'", link));
      link_ = link;
    }
    timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer_) return fail_errno("cannot make a timer");
    slave.reset();
    look_again();
    return {};
  }
  std::string filename() const override { return "pty:" + name_; }
  const std::string& name() const { return name_; }

 private:
  void set_timer(i64 period_ns) {
    const itimerspec t{.it_interval = {.tv_sec = 0, .tv_nsec = period_ns}, .it_value = {.tv_sec = 0, .tv_nsec = period_ns}};
    ::timerfd_settime(timer_.get(), 0, &t, nullptr);
  }
  void look_again() {
    set_timer(200'000'000);
    if (!look_watch_.active()) look_watch_.start(*loop_, timer_.get(), EPOLLIN, [this](u32) { look(); });
  }
  void look() {
    u64 expirations;
    [[maybe_unused]] auto n = ::read(timer_.get(), &expirations, sizeof expirations);
    pollfd p{.fd = master_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&p, 1, 0) < 0 || (p.revents & POLLHUP && !(p.revents & POLLIN))) return;
    look_watch_.stop();
    set_timer(0);
    connected_ = true;
    use(*loop_, master_.get(), master_.get());
    event(ChardevEvent::opened);
  }
  void disconnect() {
    if (!connected_) return;
    connected_ = false;
    end();
    look_again();
    event(ChardevEvent::closed);
    output_ready();  // what waits is dropped with the rest
  }
  void input_ended() override { disconnect(); }
  void output_failed() override { disconnect(); }
  bool takes_output() const override { return connected_; }
  ssize_t send_some(std::span<const u8> bytes) override {
    // A pty without a reader takes some kilobytes and then no more: a hang-up is seen first.
    pollfd p{.fd = master_.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&p, 1, 0) == 1 && p.revents & POLLHUP) return errno = EIO, -1;
    return StreamChardev::send_some(bytes);
  }

  Fd master_, timer_;
  FdWatch look_watch_;
  std::string name_, link_;
  bool connected_ = false;
};
constinit const TypeInfo PtyChardev::type{
    .name = "chardev-pty", .doc = "A pseudo-terminal.", .parent = &Chardev::type, .make = make<PtyChardev>, .user_creatable = false};
const Registered registered{PtyChardev::type};

}  // namespace

template <>
inline constexpr std::array fields<PtyOptions> = {field<&PtyOptions::path>("path", "Symbolic link to make to it.")};

namespace {
Result<Ref<Chardev>> make_pty(EventLoop& loop, const std::string& id, const Value& value) {
  const auto options = TRY(read_options<PtyOptions>(value));
  auto chardev = make_object<PtyChardev>();
  TRY(chardev->open(loop, options.path.value_or("")));
  // Tools look for this line on standard output.
  const std::string line = format("char device redirected to {} (label {})\n", chardev->name(), id);
  [[maybe_unused]] auto n = ::write(1, line.data(), line.size());
  return Ref<Chardev>{chardev};
}
const RegisteredChardev kind_pty{{.name = "pty", .doc = "pseudo-terminal", .options = fields<PtyOptions>, .make = make_pty}};
}  // namespace
}  // namespace vmm
