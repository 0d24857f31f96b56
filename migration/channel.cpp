// See channel.h.
#include "migration/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "src/base/host.h"
#include "src/chardev/address.h"
#include "src/io/fd_set.h"

extern char** environ;

namespace vmm::migration {

namespace {

struct FileAddress {
  std::string path;
  u64 offset = 0;
};
Result<FileAddress> parse_file(std::string_view text) {
  FileAddress a{.path = std::string{text}};
  if (const auto comma = text.rfind(",offset="); comma != text.npos) {
    const std::string_view number = text.substr(comma + 8);
    const bool hex = number.starts_with("0x");
    const auto [end, error] = std::from_chars(number.data() + (hex ? 2 : 0), number.data() + number.size(), a.offset, hex ? 16 : 10);
    if (error != std::errc{} || end != number.data() + number.size()) return fail("file URI has bad offset {}", number);
    a.path = text.substr(0, comma);
  }
  return a;
}

}  // namespace

Channel::Channel() : cancel_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
Channel::~Channel() { static_cast<void>(finish()); }

void Channel::adopt(Fd fd, bool answers) {
  fd_ = std::move(fd), answers_ = answers;
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  struct stat s;
  base_ = ::fstat(fd_.get(), &s) == 0 && (S_ISREG(s.st_mode) || S_ISBLK(s.st_mode)) ? ::lseek(fd_.get(), 0, SEEK_CUR) : -1;
}

// Files and pipes have no way back.
void Channel::adopt_given(Fd fd) {
  struct stat s;
  const bool socket = ::fstat(fd.get(), &s) == 0 && S_ISSOCK(s.st_mode);
  adopt(std::move(fd), socket);
}

static std::unexpected<Error> unknown_protocol(const std::string& uri) {
  return std::unexpected(
      Error{format("unknown migration protocol: {}", uri)}.with_hint("Write tcp:HOST:PORT, unix:PATH, fd:NAME, exec:COMMAND or file:PATH"));
}

Result<> Channel::spawn(const std::string& command, bool write) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail("no pipe: {}", std::strerror(errno));
  Fd theirs{ends[write ? 0 : 1]}, ours{ends[write ? 1 : 0]};
  const std::string words[] = {"/bin/sh", "-c", command};
  auto started = host::start_program(words, write ? theirs.get() : -1, write ? -1 : theirs.get());
  if (!started) return fail("'{}' cannot be started: {}", command, std::strerror(errno));
  program_ = std::move(*started);
  adopt(std::move(ours), false);
  return {};
}

Result<> Channel::connect(const std::string& uri) {
  const std::string_view u = uri;
  if (u.starts_with("exec:")) return spawn(uri.substr(5), true);
  if (u.starts_with("fd:")) {
    return adopt_given(TRY(io::take_named_fd(uri.substr(3)))), Result<>{};
  }
  if (u.starts_with("file:")) {
    const FileAddress file = TRY(parse_file(u.substr(5)));
    Fd fd = TRY(io::open_file(file.path, O_CREAT | O_WRONLY, 0660));
    struct stat s;  // what stands before the offset is somebody else's header
    if (::fstat(fd.get(), &s) == 0 && S_ISREG(s.st_mode) && ::ftruncate(fd.get(), static_cast<off_t>(file.offset)) < 0)
      return fail("the file cannot be emptied: {}", std::strerror(errno));
    if (file.offset && ::lseek(fd.get(), static_cast<off_t>(file.offset), SEEK_SET) < 0)
      return fail("offset {}: {}", file.offset, std::strerror(errno));
    return adopt(std::move(fd), false), Result<>{};
  }
  SocketAddress address;
  if (u.starts_with("unix:")) {
    address.path = uri.substr(5);
  } else if (u.starts_with("tcp:")) {
    const auto colon = u.rfind(':');
    if (colon < 4) return fail("no port in '{}'", uri);
    address.host = uri.substr(4, colon - 4), address.port = uri.substr(colon + 1);
    if (address.host.starts_with('[') && address.host.ends_with(']')) address.host = address.host.substr(1, address.host.size() - 2);
  } else {
    return unknown_protocol(uri);
  }
  adopt(TRY(connect_to(address, AF_UNSPEC, true)), true);
  return {};
}

Result<> Channel::open(const std::string& uri) {
  const std::string_view u = uri;
  if (u.starts_with("exec:")) return spawn(uri.substr(5), false);
  if (u.starts_with("fd:")) return adopt_given(TRY(io::take_named_fd(uri.substr(3)))), Result<>{};
  if (!u.starts_with("file:")) return unknown_protocol(uri);
  const FileAddress file = TRY(parse_file(u.substr(5)));
  Fd fd = TRY(io::open_file(file.path, O_RDONLY));
  if (file.offset && ::lseek(fd.get(), static_cast<off_t>(file.offset), SEEK_SET) < 0)
    return fail("offset {}: {}", file.offset, std::strerror(errno));
  return adopt(std::move(fd), false), Result<>{};
}

Result<Fd> Channel::accept(int listener) {
  for (;;) {
    TRY(wait_ready(POLLIN, listener));
    if (Fd fd{::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)}) return fd;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) return fail("no further connection: {}", std::strerror(errno));
  }
}

Result<> Channel::wait_ready(short events, int fd) {
  pollfd watched[] = {{.fd = fd < 0 ? fd_.get() : fd, .events = events, .revents = 0},
                      {.fd = cancel_.get(), .events = POLLIN, .revents = 0}};
  while (::poll(watched, 2, -1) < 0)
    if (errno != EINTR) return fail("poll: {}", std::strerror(errno));
  if (watched[1].revents) return fail(ErrorClass::cancelled, "cancelled");
  return {};
}

Result<> Channel::write(std::span<const u8> bytes) {
  while (!bytes.empty()) {
    TRY(wait_ready(POLLOUT));
    ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK) n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR) continue;
      return fail("the stream cannot be written: {}", std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<usize>(n));
    bytes_.fetch_add(static_cast<u64>(n), std::memory_order_relaxed);
  }
  return {};
}

Result<usize> Channel::read_some(std::span<u8> bytes) {
  for (;;) {
    TRY(wait_ready(POLLIN));
    const ssize_t n = ::read(fd_.get(), bytes.data(), bytes.size());
    if (n >= 0) return static_cast<usize>(n);
    if (errno != EAGAIN && errno != EINTR) return fail("the stream cannot be read: {}", std::strerror(errno));
  }
}

Result<> Channel::read(std::span<u8> bytes) {
  while (!bytes.empty()) {
    const usize n = TRY(read_some(bytes));
    if (!n) return fail("the stream ends too early");
    bytes = bytes.subspan(n);
  }
  return {};
}

Result<> Channel::write_at(u64 at, std::span<const u8> bytes) {
  while (!bytes.empty()) {
    TRY(wait_ready(POLLOUT));
    const ssize_t n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), base_ + static_cast<i64>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail("the stream cannot be written: {}", std::strerror(errno));
    bytes = bytes.subspan(static_cast<usize>(n)), at += static_cast<u64>(n);
    bytes_.fetch_add(static_cast<u64>(n), std::memory_order_relaxed);
  }
  return {};
}

Result<> Channel::read_at(u64 at, std::span<u8> bytes) {
  while (!bytes.empty()) {
    TRY(wait_ready(POLLIN));
    const ssize_t n = ::pread(fd_.get(), bytes.data(), bytes.size(), base_ + static_cast<i64>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("the stream cannot be read: {}", std::strerror(errno));
    if (n == 0) return fail("the stream ends too early");
    bytes = bytes.subspan(static_cast<usize>(n)), at += static_cast<u64>(n);
  }
  return {};
}

Result<> Channel::go_to(u64 at) {
  if (at > furthest_place) return fail("place {} of the stream lies beyond the end of any file", at);
  if (::lseek(fd_.get(), base_ + static_cast<i64>(at), SEEK_SET) < 0)
    return fail("no place {} in the stream: {}", at, std::strerror(errno));
  return {};
}

Result<> Channel::finish() {
  fd_.reset();
  if (!program_) return {};
  const auto ended = program_.wait();
  if (!ended) return fail("the command cannot be waited for: {}", ended.error().message);
  const int status = *ended;
  if (status) return fail("the command ended with status {}", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return {};
}

void Channel::cancel() {
  const u64 one = 1;
  static_cast<void>(!::write(cancel_.get(), &one, sizeof one));
}

}  // namespace vmm::migration
