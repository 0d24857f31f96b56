// The cage: denied calls end the process with a word about them; what a machine needs goes on, by the broker where it has a name.
#include "src/main/sandbox.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "src/base/host.h"
#include "src/event/worker_pool.h"
#include "tests/unit/test.h"

namespace vmm::test {

namespace {
struct Ended {
  int status = 0;
  std::string text;
  bool by_a_word(std::string_view call, std::string_view who) const {
    return WIFEXITED(status) && WEXITSTATUS(status) == 159 && text.contains("denies") && text.contains(call) && text.contains(who) &&
           text.contains("-sandbox off");
  }
};
// In a process of its own, since a cage cannot be left: begun, and with `closed` the main thread's narrow filter too.
Ended caged(void (*work)(), bool closed = false, const cage::Options& options = {}) {
  int ends[2];
  CHECK(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 2);
    ::close(ends[0]);
    if (!cage::begin(options)) ::_exit(3);
    if (closed && !cage::close()) ::_exit(5);
    work();
    ::_exit(0);
  }
  ::close(ends[1]);
  Ended out;
  char bytes[512];
  for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;) out.text.append(bytes, static_cast<usize>(n));
  ::close(ends[0]);
  ::waitpid(child, &out.status, 0);
  if (out.status != 0) std::fputs(out.text.c_str(), stderr);
  return out;
}
// The sanitizers' builds have the wide filter alone (src/cage/cage.cpp).
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool narrow = false;
#else
constexpr bool narrow = true;
#endif
#endif
}  // namespace

TEST(a_denied_call_is_named_and_ends_the_process) {
  CHECK(caged([] { ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr); }).by_a_word("ptrace", "at the start"));
}

TEST(programs_run_outside_of_the_cage) {
  const Ended ended = caged([] {
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(2);
    const std::string words[] = {"/bin/sh", "-c", "echo heard; grep NoNewPrivs /proc/self/status; exit 7"};
    auto program = host::start_program(words, -1, ends[1]);
    if (!program) ::_exit(4);
    ::close(ends[1]);
    std::string text;
    char bytes[256];
    for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<usize>(n));
    const auto status = program->wait();
    ::_exit(text == "heard\nNoNewPrivs:\t0\n" && status && WIFEXITED(*status) && WEXITSTATUS(*status) == 7 ? 0 : 5);
  });
  CHECK_EQ(ended.status, 0);
  // Not by the process itself, and not at all with spawn=deny.
  CHECK_EQ(caged([] { ::_exit(::fork() < 0 && errno == EPERM ? 0 : 1); }).status, 0);
  CHECK_EQ(caged([] { ::_exit(::execl("/bin/true", "true", nullptr) < 0 && errno == EPERM ? 0 : 1); }).status, 0);
  const auto refused = [] {
    const std::string words[] = {"/bin/true"};
    ::_exit(!host::start_program(words) && errno == EPERM ? 0 : 1);
  };
  CHECK_EQ(caged(refused, true, {.programs = false}).status, 0);
  // One that is not there is an error, not a status.
  CHECK_EQ(caged([] {
             const std::string words[] = {"/no/such/program"};
             ::_exit(!host::start_program(words) && errno == ENOENT ? 0 : 1);
           }).status,
           0);
}

TEST(names_are_the_brokers) {
  const auto work = [] {
    // What a thread that was taken over would do, and what the emulator does.
    const std::string path = format("/tmp/vmm-cage-{}", ::getpid());
    if (narrow && (::open(path.c_str(), O_RDWR | O_CREAT, 0600) >= 0 || errno != EACCES)) ::_exit(2);
    if (narrow && ::open("/root/.profile", O_RDONLY) >= 0) ::_exit(3);
    const Fd file{host::open_file(path, O_RDWR | O_CREAT | O_EXCL, 0640)};
    struct stat info;
    if (!file || ::write(file.get(), "kept", 4) != 4 || ::fstat(file.get(), &info) != 0 || (info.st_mode & 0777) != 0640) ::_exit(4);
    if (host::open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600) >= 0 || errno != EEXIST) ::_exit(5);
    if (host::read_text(path) != "kept" || host::remove_file(path) != 0 || host::remove_file(path) == 0 || errno != ENOENT) ::_exit(6);
    const Fd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(address.sun_path, path.size());
    if (host::bind_socket(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) ::_exit(7);
    if (::stat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode) || host::remove_file(path) != 0) ::_exit(8);
    if (host::open_file("/proc/1/mem", O_RDWR) >= 0 || host::open_file("/proc/sys/kernel/core_pattern", O_WRONLY) >= 0) ::_exit(9);
    const auto addresses = host::look_up({.host = "127.0.0.1", .port = "80", .type = SOCK_STREAM});
    if (!addresses || addresses->size() != 1 || addresses->front().length != sizeof(sockaddr_in)) ::_exit(11);
    if (host::look_up({.host = "no such name", .port = "80"})) ::_exit(12);
    // Many at once: each gets its own.
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 8; t++)
      threads.emplace_back([&] {
        for (int i = 0; i < 50; i++)
          if (!host::read_text("/proc/version").starts_with("Linux") && ++wrong) break;
      });
    for (auto& t : threads) t.join();
    ::_exit(wrong ? 10 : 0);
  };
  CHECK_EQ(caged(work, true).status, 0);
}

TEST(the_broker_bears_any_message) {
  const auto work = [] {
    int broker = -1;
    for (int fd = 3; fd < 64 && broker < 0; fd++) {
      int kind = 0;
      socklen_t size = sizeof kind;
      if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 && kind == SOCK_SEQPACKET) broker = fd;
    }
    if (broker < 0) ::_exit(4);
    u64 seed = 88172645463325252;
    const auto random = [&] { return seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; };
    std::vector<u8> bytes;
    for (int i = 0; i < 3000; i++) {
      // Opening to read, what wants descriptors that do not come, and kinds beyond the last; noise for words, their count right or not.
      constexpr u32 kinds[] = {0, 3, 4, 5, 8, 1u << 31};
      bytes.resize(i % 7 == 0 ? 1 + random() % 15 : 16 + random() % 600);
      for (u8& b : bytes) b = random() % 3 ? static_cast<u8>(random()) : u8{0};
      const u32 head[] = {kinds[random() % std::size(kinds)], 0, 0, static_cast<u32>(i % 5 ? random() % 4 : random())};
      if (bytes.size() >= sizeof head) std::memcpy(bytes.data(), head, sizeof head);
      u8 answer[64];
      if (::send(broker, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 || ::recv(broker, answer, sizeof answer, 0) != 8) ::_exit(5);
    }
    if (!host::read_text("/proc/version").starts_with("Linux")) ::_exit(6);
  };
  CHECK_EQ(caged(work).status, 0);
}

TEST(each_kind_of_thread_has_its_own_filter) {
  if (!narrow) skip("sanitizers ask for more calls than the narrow filters allow");
  const auto on = [](host::ThreadKind kind, void (*work)()) {
    std::thread{[&] {
      host::begin_thread(kind);
      work();
    }}.join();
  };
  static const auto run = on;
  CHECK(caged([] { run(host::ThreadKind::vcpu, [] { (void)::open("/etc/passwd", O_RDONLY); }); }, true).by_a_word("openat", "virtual CPU"));
  CHECK(caged([] { run(host::ThreadKind::vcpu, [] { (void)::socket(AF_INET, SOCK_STREAM, 0); }); }).by_a_word("socket", "virtual CPU"));
  CHECK(caged([] { run(host::ThreadKind::io, [] { (void)::socket(AF_PACKET, SOCK_RAW, 0); }); }).by_a_word("socket", "I/O"));
  CHECK(caged([] { run(host::ThreadKind::io, [] { (void)::chmod("/tmp", 0777); }); }).by_a_word("chmod", "I/O"));
  CHECK(caged([] { (void)::chroot("/"); }, true).by_a_word("chroot", "main"));
  CHECK(caged([] { (void)::kill(1, 0); }, true).by_a_word("kill", "main"));
  const auto both = [] { ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); };
  CHECK(caged(both, true).by_a_word("mmap", "main"));
  // Threads of the pool are not those of the one that asks.
  const Ended pool = caged(
      [] {
        run(host::ThreadKind::vcpu, [] {
          std::atomic<int> done{0};
          worker_pool().submit([&] {
            done = ::fsync(-1) < 0 && errno == EBADF ? 1 : 2;  // not a call of a virtual CPU's
            done.notify_all();
          });
          done.wait(0);
          if (done != 1) ::_exit(4);
        });
      },
      true);
  CHECK_EQ(pool.status, 0);
}

TEST(the_strict_cage_opens_nothing) {
  const cage::Options strict{.policy = {.strict = true}};
  const auto work = [] {
    if (host::open_file("/etc/hostname", O_RDONLY) >= 0 || errno != EPERM) ::_exit(4);
    const std::string words[] = {"/bin/true"};
    if (host::start_program(words)) ::_exit(5);
    if (narrow && (::open("/etc/hostname", O_RDONLY) >= 0 || ::socket(AF_INET, SOCK_STREAM, 0) >= 0)) ::_exit(6);
  };
  CHECK_EQ(caged(work, true, strict).status, 0);
}

TEST(an_audit_prints_and_goes_on) {
  const Ended ended =
      caged([] { ::_exit(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1); }, false, {.policy = {.audit = true}});
  CHECK(ended.status == 0 && ended.text.contains("ptrace") && ended.text.contains("would deny"));
}

}  // namespace vmm::test
