#include "src/main/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "src/base/host.h"
#include "src/base/log.h"
#include "src/chardev/chardev.h"

namespace vmm::cli {

Result<> Daemon::begin() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("cannot make a pipe");
  Fd read_end{ends[0]}, write_end{ends[1]};
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot fork");
  if (child > 0) {
    write_end.reset();
    char status = 1;
    ssize_t n;
    do n = ::read(read_end.get(), &status, 1);
    while (n < 0 && errno == EINTR);
    ::_exit(n == 1 && status == 0 ? 0 : 1);
  }
  ::setsid();
  ::umask(027);
  pipe_ = std::move(write_end);
  return {};
}

Result<> Daemon::report_ready() {
  if (!pipe_) return {};
  const Fd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  if (!null) return fail_errno("Could not open '/dev/null'");
  if (::chdir("/") < 0) return fail_errno("cannot change to '/'");
  for (int fd : {0, 1, 2})
    if (::dup2(null.get(), fd) < 0) return fail_errno("cannot replace the standard descriptors");
  const char good = 0;
  while (::write(pipe_.get(), &good, 1) < 0 && errno == EINTR) {
  }
  pipe_.reset();
  return {};
}

Result<> PidFile::write(const std::string& path) {
  for (;;) {
    Fd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    if (!file) return fail_errno(format("cannot create PID file: Could not create '{}'", path));
    struct flock lock{};
    lock.l_type = F_WRLCK;
    if (::fcntl(file.get(), F_SETLK, &lock) < 0)
      return fail_errno(format("cannot create PID file: '{}' is locked; does its process still run?", path));
    // The file may have been removed between open and lock, by an owner that ended.
    struct stat ours, named;
    if (::fstat(file.get(), &ours) < 0) return fail_errno(format("cannot create PID file '{}'", path));
    if (::stat(path.c_str(), &named) < 0 || named.st_ino != ours.st_ino || named.st_dev != ours.st_dev) continue;
    const std::string text = format("{}\n", ::getpid());
    if (::ftruncate(file.get(), 0) < 0 || ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
      return fail_errno(format("cannot create PID file: Could not write '{}'", path));
    path_ = path;
    file_ = std::move(file);
    return {};
  }
}
void PidFile::remove() {
  if (file_) host::remove_file(path_);
  file_.reset();
}

namespace {
sigset_t end_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, s);
  return set;
}
}  // namespace

Signals::Signals() {
  ::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = end_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void Signals::start(std::function<void(int, int)> first, std::function<void()> again) {
  thread_ = std::jthread{[first = std::move(first), again = std::move(again)](std::stop_token stop) {
    host::begin_thread(host::ThreadKind::io);
    const sigset_t set = end_signals();
    bool ending = false;
    while (!stop.stop_requested()) {
      siginfo_t info;
      const int signal = ::sigwaitinfo(&set, &info);
      if (signal < 0 || stop.stop_requested()) continue;
      if (std::exchange(ending, true)) {
        restore_terminals();
        again();
        ::_exit(1);
      }
      first(signal, info.si_code <= 0 ? info.si_pid : 0);
    }
  }};
}
Signals::~Signals() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  ::pthread_kill(thread_.native_handle(), SIGTERM);
}

std::string process_name(int pid) {
  const std::string line = host::read_text(format("/proc/{}/cmdline", pid));
  const std::string name = line.substr(0, line.find('\0'));
  return name.empty() ? format("{}", pid) : format("{} ({})", pid, name);
}

void set_process_name(const std::string& name) { ::prctl(PR_SET_NAME, name.substr(0, 15).c_str()); }

}  // namespace vmm::cli
