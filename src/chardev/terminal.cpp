// Source: termios(3), signal-safety(7): tcsetattr and fcntl are safe in signal handlers.
#include "src/chardev/terminal.h"

#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>

#include "src/chardev/chardev.h"

namespace vmm {

namespace {
struct Saved {
  std::atomic<bool> valid{false};
  int fd = -1;
  bool terminal = false;
  termios mode{};
  bool flags_changed = false;
  int flags = 0;
};
std::array<Saved, 4> saved;

Saved* remember(int fd) {
  for (Saved& s : saved)
    if (s.valid.load() && s.fd == fd) return &s;
  for (Saved& s : saved) {
    if (s.valid.load()) continue;
    s.fd = fd;
    s.terminal = ::tcgetattr(fd, &s.mode) == 0;
    s.flags = ::fcntl(fd, F_GETFL);
    s.flags_changed = false;
    s.valid.store(true);
    static const bool at_exit = (std::atexit([] { restore_terminals(); }), true);
    (void)at_exit;
    return &s;
  }
  return nullptr;
}
}  // namespace

void set_terminal(int fd, TerminalMode mode) {
  if (!::isatty(fd)) return;
  const Saved* s = remember(fd);
  if (!s || !s->terminal) return;
  termios t = s->mode;
  if (!mode.echo) {
    t.c_iflag &= ~tcflag_t(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= ~tcflag_t(ECHO | ECHONL | ICANON | IEXTEN);
    t.c_cflag = (t.c_cflag & ~tcflag_t(CSIZE | PARENB)) | CS8;
    t.c_oflag |= OPOST;
    t.c_cc[VMIN] = 1, t.c_cc[VTIME] = 0;
  }
  if (!mode.signals) t.c_lflag &= ~tcflag_t(ISIG);
  ::tcsetattr(fd, TCSANOW, &t);
}

void set_nonblocking_until_end(int fd) {
  if (Saved* s = remember(fd); s && s->flags >= 0) {
    s->flags_changed = true;
    ::fcntl(fd, F_SETFL, s->flags | O_NONBLOCK);
  }
}

void restore_terminals() noexcept {
  for (Saved& s : saved) {
    if (!s.valid.exchange(false)) continue;
    if (s.terminal) ::tcsetattr(s.fd, TCSANOW, &s.mode);
    if (s.flags_changed) ::fcntl(s.fd, F_SETFL, s.flags);
  }
}

}  // namespace vmm
