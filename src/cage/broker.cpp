#include "src/cage/broker.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "src/base/format.h"

namespace vmm::cage {

namespace {

constexpr usize message_bytes = 128 * KiB, descriptors = 4;
constexpr int socket_number = 3;  // in the broker
enum class Kind : u32 { open, remove, link, bind, look_up, program, follow, become };
struct Head {
  Kind kind{};
  i32 flags = 0;
  u32 mode = 0, words = 0;  // `words` texts follow, each with a 0 behind it
};
struct Answer {
  i32 result = -1, error = 0;
};

// A datagram with descriptors. -1 and errno.
ssize_t send_with(int socket, std::span<const u8> bytes, std::span<const int> fds) {
  iovec piece{.iov_base = const_cast<u8*>(bytes.data()), .iov_len = bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(descriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece, message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control, message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
  }
  ssize_t n;
  do n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n;
}
ssize_t receive_with(int socket, std::span<u8> bytes, std::array<Fd, descriptors>& fds) {
  iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(descriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  ssize_t n;
  do n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n <= 0) return n;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    const usize count = std::min<usize>((head->cmsg_len - CMSG_LEN(0)) / sizeof(int), descriptors);
    for (usize i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
      fds[i].reset(fd);
    }
  }
  return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? (errno = EMSGSIZE, -1) : n;
}

std::function<bool()>& become_function() {
  static std::function<bool()> function;
  return function;
}

// Memory of other processes and of the host: no machine has a disk or a log there.
bool never(int fd) {
  char path[PATH_MAX];
  const ssize_t n = ::readlink(format("/proc/self/fd/{}", fd).c_str(), path, sizeof path);
  if (n < 0) return true;
  const std::string_view name{path, static_cast<usize>(n)};
  for (const std::string_view whole :
       {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger"})
    if (name == whole) return true;
  if (!name.starts_with("/proc/")) return false;
  const std::string_view last = name.substr(name.rfind('/') + 1);
  return name.starts_with("/proc/sys/") || last == "mem" || last == "environ" || last == "auxv" || last == "pagemap";
}

int perform(const Head& head, std::span<const std::string> words, std::span<Fd> fds, bool programs, Fd& opened) {
  const auto wrong = [] { return errno = EINVAL, -1; };
  switch (head.kind) {
    case Kind::open: {
      if (words.size() != 1) return wrong();
      opened.reset(::open(words[0].c_str(), head.flags | O_CLOEXEC, head.mode));
      if (!opened) return -1;
      if (never(opened.get())) return opened.reset(), errno = EACCES, -1;
      return 0;
    }
    case Kind::remove: return words.size() == 1 ? ::unlink(words[0].c_str()) : wrong();
    case Kind::link: return words.size() == 2 ? ::symlink(words[0].c_str(), words[1].c_str()) : wrong();
    case Kind::bind: {
      sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
      if (words.size() != 1 || !fds[0] || words[0].empty() || words[0].size() > sizeof address.sun_path) return wrong();
      words[0].copy(address.sun_path, words[0].size());
      return ::bind(fds[0].get(), reinterpret_cast<const sockaddr*>(&address),
                    static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::min(words[0].size() + 1, sizeof address.sun_path)));
    }
    case Kind::look_up: {
      if (words.size() != 2 || !fds[0]) return wrong();
      // In a process of its own: it may take its time, and others wait for their files.
      const pid_t child = ::fork();
      if (child < 0) return -1;
      if (child > 0) return 0;
      ::close(socket_number);  // or a broker that ended would seem to be there
      ::alarm(300);
      host::answer_look_up({.host = words[0],
                            .port = words[1],
                            .family = static_cast<int>(head.mode >> 16),
                            .type = static_cast<int>(head.mode & 0xFFFF),
                            .flags = head.flags},
                           fds[0].get());
      ::_exit(0);
    }
    case Kind::program:
      if (words.empty() || !fds[3]) return wrong();
      if (!programs) return errno = EPERM, -1;
      return host::start_program_here(words, fds[0].get(), fds[1].get(), fds[2].get(), fds[3].get());
    case Kind::follow: return words.size() == 1 ? ::chdir(words[0].c_str()) : wrong();
    case Kind::become: return become_function() && become_function()() ? 0 : (errno = EPERM, -1);
  }
  return wrong();
}

[[noreturn]] void serve(int socket, bool programs) {
  ::prctl(PR_SET_NAME, "vmm-broker");
  // Who ends the emulator ends us; a terminal's Ctrl-C is the emulator's to answer.
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD}) ::signal(s, SIG_IGN);
  // Nothing else of the emulator's, so that the other ends of its pipes see it end.
  ::dup2(socket, socket_number);
  ::close_range(socket_number + 1, ~0u, 0);
  socket = socket_number;
  ::fcntl(socket, F_SETFD, FD_CLOEXEC);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {0, 1, 2}) ::dup2(null, fd);
  std::vector<u8> bytes(message_bytes);
  for (;;) {
    std::array<Fd, descriptors> fds;
    const ssize_t n = receive_with(socket, bytes, fds);
    if (n == 0 || (n < 0 && errno != EMSGSIZE)) ::_exit(0);
    Answer answer;
    Fd opened;
    Head head;
    std::vector<std::string> words;
    if (n >= static_cast<ssize_t>(sizeof head)) {
      std::memcpy(&head, bytes.data(), sizeof head);
      for (auto at = bytes.begin() + sizeof head, end = bytes.begin() + n; words.size() < head.words;) {
        const auto stop = std::find(at, end, u8{0});
        if (stop == end) break;
        words.emplace_back(at, stop);
        at = stop + 1;
      }
    }
    errno = EINVAL;
    if (n > 0 && words.size() == head.words) answer.result = perform(head, words, fds, programs, opened);
    answer.error = answer.result < 0 ? errno : 0;
    const int fd = opened.get();
    const std::span reply{reinterpret_cast<const u8*>(&answer), sizeof answer};
    if (send_with(socket, reply, opened ? std::span{&fd, 1} : std::span<const int>{}) < 0) ::_exit(0);
  }
}

}  // namespace

void set_become(std::function<bool()> become) { become_function() = std::move(become); }

Result<BrokerClient*> BrokerClient::start(bool programs) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return fail_errno("no broker");
  Fd ours{ends[0]}, theirs{ends[1]};
  const int room = 2 * message_bytes;
  for (const int fd : ends) ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("no broker");
  if (child == 0) serve(theirs.get(), programs);
  static auto* const client = new BrokerClient;  // threads may outlive main()
  client->socket_ = std::move(ours);
  client->pid_ = child;
  return client;
}

struct BrokerClient::Asked {
  Head head;
  std::span<const std::string> words;
  std::span<const int> fds;
};

int BrokerClient::ask(const Asked& asked, int* got) {
  std::vector<u8> bytes(sizeof(Head));
  Head head = asked.head;
  head.words = static_cast<u32>(asked.words.size());
  std::memcpy(bytes.data(), &head, sizeof head);
  for (const std::string& w : asked.words) {
    if (w.contains('\0')) return errno = EINVAL, -1;
    bytes.insert(bytes.end(), w.begin(), w.end());
    bytes.push_back(0);
  }
  if (bytes.size() > message_bytes) return errno = E2BIG, -1;
  Answer answer;
  std::array<Fd, descriptors> fds;
  const std::lock_guard lock{mutex_};
  if (send_with(socket_.get(), bytes, asked.fds) < 0) return -1;
  const ssize_t n = receive_with(socket_.get(), {reinterpret_cast<u8*>(&answer), sizeof answer}, fds);
  if (n != sizeof answer) return errno = EPIPE, -1;
  if (answer.result < 0) return errno = answer.error, -1;
  if (got) {
    if (!fds[0]) return errno = EMFILE, -1;  // no number was free for it
    *got = fds[0].release();
  }
  return answer.result;
}

int BrokerClient::open_file(const std::string& path, int flags, unsigned mode) {
  // Our own descriptors, which the broker has not: they stay with us.
  constexpr std::string_view own[] = {"/proc/self/", "/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr"};
  if (std::ranges::any_of(own, [&](std::string_view w) { return path.starts_with(w); })) return ::open(path.c_str(), flags, mode);
  int fd = -1;
  if (ask({.head = {.kind = Kind::open, .flags = flags, .mode = mode}, .words = {&path, 1}, .fds = {}}, &fd) < 0) return -1;
  return fd;
}
int BrokerClient::remove_file(const std::string& path) { return ask({.head = {.kind = Kind::remove}, .words = {&path, 1}, .fds = {}}); }
int BrokerClient::make_link(const std::string& target, const std::string& path) {
  const std::string words[] = {target, path};
  return ask({.head = {.kind = Kind::link}, .words = words, .fds = {}});
}
int BrokerClient::bind_socket(int fd, const sockaddr* address, socklen_t length) {
  const auto* const un = reinterpret_cast<const sockaddr_un*>(address);
  const std::string path{un->sun_path, ::strnlen(un->sun_path, length - offsetof(sockaddr_un, sun_path))};
  return ask({.head = {.kind = Kind::bind}, .words = {&path, 1}, .fds = {&fd, 1}});
}
int BrokerClient::look_up(const host::LookUp& what, int answer) {
  const std::string words[] = {what.host, what.port};
  const u32 kind = static_cast<u32>(what.family) << 16 | static_cast<u32>(what.type);
  return ask({.head = {.kind = Kind::look_up, .flags = what.flags, .mode = kind}, .words = words, .fds = {&answer, 1}});
}
int BrokerClient::start_program(std::span<const std::string> words, int in, int out, int err, int status) {
  const int fds[] = {in, out, err, status};
  return ask({.head = {.kind = Kind::program}, .words = words, .fds = fds});
}
int BrokerClient::follow(const std::string& folder) { return ask({.head = {.kind = Kind::follow}, .words = {&folder, 1}, .fds = {}}); }
int BrokerClient::become() { return ask({.head = {.kind = Kind::become}, .words = {}, .fds = {}}); }
void BrokerClient::end() {
  const std::lock_guard lock{mutex_};
  socket_.reset();
}

}  // namespace vmm::cage
