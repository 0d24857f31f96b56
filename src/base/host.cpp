#include "src/base/host.h"

#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <spawn.h>
#include <sys/random.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "src/base/format.h"

namespace vmm::host {

namespace {
std::atomic<Broker*> broker{nullptr};
std::atomic<bool> names_refused{false};
std::atomic<void (*)(ThreadKind)> thread_begins{nullptr};

int refused() { return errno = EPERM, -1; }
std::vector<char*> pointers(std::span<const std::string> words) {
  std::vector<char*> out;
  for (const std::string& w : words) out.push_back(const_cast<char*>(w.c_str()));
  out.push_back(nullptr);
  return out;
}
}  // namespace

int open_file(const std::string& path, int flags, unsigned mode) {
  if (names_refused) return refused();
  Broker* const b = broker;
  return b ? b->open_file(path, flags | O_CLOEXEC, mode) : ::open(path.c_str(), flags | O_CLOEXEC, mode);
}

int remove_file(const std::string& path) {
  if (names_refused) return refused();
  Broker* const b = broker;
  return b ? b->remove_file(path) : ::unlink(path.c_str());
}

int make_link(const std::string& target, const std::string& path) {
  if (names_refused) return refused();
  Broker* const b = broker;
  return b ? b->make_link(target, path) : ::symlink(target.c_str(), path.c_str());
}

int bind_socket(int fd, const sockaddr* address, socklen_t length) {
  // Without a name in the file system there is nothing to ask for.
  const bool named = address->sa_family == AF_UNIX && length > sizeof(sa_family_t) && address->sa_data[0];
  if (!named) return ::bind(fd, address, length);
  if (names_refused) return refused();
  Broker* const b = broker;
  return b ? b->bind_socket(fd, address, length) : ::bind(fd, address, length);
}

std::string random_path(const std::string& folder, std::string_view prefix) {
  u64 number = 0;
  while (::getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return format("{}/{}{:016x}", folder, prefix, number);
}

std::string read_text(const std::string& path) {
  std::string text;
  const Fd fd{open_file(path, O_RDONLY)};
  if (!fd) return text;
  char bytes[4096];
  while (text.size() < 1 * MiB) {
    const ssize_t n = ::read(fd.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(bytes, static_cast<usize>(n));
  }
  return text;
}

namespace {
// getaddrinfo's answer: its error, and what was found.
int look_up_here(const LookUp& what, std::vector<Address>& found) {
  constexpr usize most = 64;
  addrinfo hints{}, *list = nullptr;
  hints.ai_family = what.family, hints.ai_socktype = what.type, hints.ai_flags = what.flags;
  const int error = ::getaddrinfo(what.host.empty() ? nullptr : what.host.c_str(), what.port.c_str(), &hints, &list);
  if (error) return error;
  for (const addrinfo* i = list; i && found.size() < most; i = i->ai_next) {
    Address a{.family = i->ai_family, .type = i->ai_socktype, .protocol = i->ai_protocol, .length = i->ai_addrlen, .bytes = {}};
    if (a.length > sizeof a.bytes) continue;
    std::memcpy(&a.bytes, i->ai_addr, a.length);
    found.push_back(a);
  }
  ::freeaddrinfo(list);
  return found.empty() ? EAI_NONAME : 0;
}
bool read_whole(int fd, void* into, usize bytes) {
  for (usize done = 0; done < bytes;) {
    const ssize_t n = ::read(fd, static_cast<u8*>(into) + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<usize>(n);
  }
  return true;
}
}  // namespace

void answer_look_up(const LookUp& what, int answer) {
  std::vector<Address> found;
  const i32 error = look_up_here(what, found);
  std::vector<u8> bytes(sizeof error + found.size() * sizeof(Address));
  std::memcpy(bytes.data(), &error, sizeof error);
  if (!found.empty()) std::memcpy(bytes.data() + sizeof error, found.data(), found.size() * sizeof(Address));
  (void)!::write(answer, bytes.data(), bytes.size());  // less than a pipe holds
}

Result<std::vector<Address>> look_up(const LookUp& what) {
  std::vector<Address> found;
  i32 error = 0;
  if (names_refused) return fail("names are not looked up in a strict sandbox");
  if (Broker* const b = broker) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("cannot make a pipe");
    const Fd ours{ends[0]};
    Fd theirs{ends[1]};
    if (b->look_up(what, theirs.get()) < 0) return fail_errno("the broker does not answer");
    theirs.reset();
    if (!read_whole(ours.get(), &error, sizeof error)) return fail("nobody answers");
    for (Address a; !error && read_whole(ours.get(), &a, sizeof a);) found.push_back(a);
    if (!error && found.empty()) error = EAI_NONAME;
  } else {
    error = look_up_here(what, found);
  }
  if (error) return fail("{}", ::gai_strerror(error));
  return found;
}

Result<int> Program::wait() {
  int status = 0;
  if (child_ > 0) {
    const int child = std::exchange(child_, -1);
    while (::waitpid(child, &status, 0) < 0)
      if (errno != EINTR) return fail_errno("the program cannot be waited for");
    return status;
  }
  ssize_t n;
  do n = ::read(status_.get(), &status, sizeof status);
  while (n < 0 && errno == EINTR);
  status_.reset();
  if (n != sizeof status) return fail("the one that waited for it has ended");
  return status;
}

Result<Program> start_program(std::span<const std::string> words, int in, int out) {
  const auto failed = [&] { return fail_errno(format("could not start {}", words[0])); };
  if (in < 0) in = STDIN_FILENO;
  if (out < 0) out = STDOUT_FILENO;
  if (names_refused) return refused(), failed();
  if (Broker* const b = broker) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("cannot make a pipe");
    Fd ours{ends[0]};
    const Fd theirs{ends[1]};
    if (b->start_program(words, in, out, STDERR_FILENO, theirs.get()) < 0) return failed();
    return Program{std::move(ours)};
  }
  std::vector<char*> arguments = pointers(words);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (in != STDIN_FILENO) posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  if (out != STDOUT_FILENO) posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  pid_t child = -1;
  const int error = ::posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error) return errno = error, failed();
  return Program{child};
}

int start_program_here(std::span<const std::string> words, int in, int out, int err, int status) {
  std::vector<char*> arguments = pointers(words);
  int ends[2];  // why it did not start
  if (::pipe2(ends, O_CLOEXEC) < 0) return -1;
  Fd tells{ends[0]}, told{ends[1]};
  const pid_t waiter = ::fork();
  if (waiter < 0) return -1;
  if (waiter == 0) {
    // From here on only what may follow fork() in a process with threads.
    if (::fork() != 0) ::_exit(0);  // nobody has to wait for the one that waits
    ::signal(SIGCHLD, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    const pid_t child = ::fork();
    if (child == 0) {
      for (const int s : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGSYS}) ::signal(s, SIG_DFL);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      // Above the standard ones first: they may stand for one another.
      const int sources[] = {::fcntl(in, F_DUPFD_CLOEXEC, 10), ::fcntl(out, F_DUPFD_CLOEXEC, 10), ::fcntl(err, F_DUPFD_CLOEXEC, 10)};
      for (int i = 0; i < 3; i++)
        if (sources[i] >= 0) ::dup2(sources[i], i);
      ::execv(arguments[0], arguments.data());
      const int number = errno;
      (void)!::write(told.get(), &number, sizeof number);
      ::_exit(127);
    }
    const int number = child < 0 ? errno : 0;
    if (number) (void)!::write(told.get(), &number, sizeof number);
    // All but what it tells by: the ends of pipes that are watched for their closing.
    ::dup2(status, 0);
    ::close_range(1, ~0u, 0);
    int end = 0;
    if (child > 0)
      while (::waitpid(child, &end, 0) < 0 && errno == EINTR) {
      }
    if (!number) (void)!::write(0, &end, sizeof end);
    ::_exit(0);
  }
  while (::waitpid(waiter, nullptr, 0) < 0 && errno == EINTR) {
  }
  told.reset();
  int number = 0;
  ssize_t n;
  do n = ::read(tells.get(), &number, sizeof number);
  while (n < 0 && errno == EINTR);
  if (n == sizeof number) return errno = number, -1;
  return 0;
}

void set_broker(Broker* b) { broker = b; }
namespace {
struct Readable {
  std::vector<std::string> folders;
  bool closed = false;
};
Readable& readable() {
  static Readable all;
  return all;
}
}  // namespace
Result<> keep_readable(const std::string& folder) {
  if (!readable().closed) return readable().folders.push_back(folder), Result<>{};
  if (const Fd fd{::open(folder.c_str(), O_RDONLY | O_CLOEXEC)}; fd || errno != EACCES) return {};
  return std::unexpected(Error{format("'{}' cannot be read any more: the sandbox has closed", folder)}.with_hint(
      format("Start with -sandbox files={}", folder)));
}
std::vector<std::string> close_readable() {
  readable().closed = true;
  return readable().folders;
}
void refuse_names() { names_refused = true; }

void begin_thread(ThreadKind kind) {
  if (const auto enter = thread_begins.load()) enter(kind);
}
void on_thread_begin(void (*enter)(ThreadKind)) { thread_begins = enter; }

}  // namespace vmm::host
