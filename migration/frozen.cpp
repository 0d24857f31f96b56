// See frozen.h. Host interfaces: clone(2), pipe(7).
#include "migration/frozen.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migration/pages.h"
#include "migration/stream.h"
#include "src/base/bits.h"

namespace vmm::migration {

namespace {

constexpr int pipe_bytes = 1 << 20;

struct Range {
  const u8* host;
  u64 pages;
};

// From here on the child: a thread of a process whose other threads are gone in the midst of anything. It takes no lock and allocates
// nothing.
__attribute__((no_sanitize("address", "thread", "undefined"))) bool put(int to, const u8* from, usize bytes) {
  while (bytes) {
    const long n = ::syscall(SYS_write, to, from, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    from += n, bytes -= static_cast<usize>(n);
  }
  return true;
}

[[noreturn]] __attribute__((no_sanitize("address", "thread", "undefined"))) void be_the_child(int to, const Range* ranges, u32 count,
                                                                                              u8* buffer) {
  // Neither the images' locks nor anybody's connection shall last as long as we do.
  // Numbers are given out from below: after many that are free there are no more.
  for (int fd = 0, free = 0; free < 1024; fd++)
    if (fd != to) free = ::syscall(SYS_close, fd) == 0 ? 0 : free + 1;
  bool there = true;
  for (u32 n = 0; n < count && there; n++)
    for (u64 first = 0; first < ranges[n].pages && there; first += pages_a_part) {
      const u64 pages = std::min<u64>(pages_a_part, ranges[n].pages - first);
      const usize bytes = put_pages(buffer + 4, n, ranges[n].host, first, pages);
      store_le<u32>(buffer, static_cast<u32>(bytes));
      there = put(to, buffer, 4 + bytes);
    }
  store_le<u32>(buffer, 0);
  if (there) put(to, buffer, 4);
  for (;;) ::syscall(SYS_exit_group, 0);
}

}  // namespace

Result<std::unique_ptr<FrozenRam>> FrozenRam::take(const std::vector<memory::RamBlock*>& blocks) {
  std::vector<Range> ranges;
  for (const memory::RamBlock* b : blocks) {
    if (b->fd() >= 0 && !b->read_only()) return fail("RAM '{}' is a file's, which others may have, too", b->name());
    ranges.push_back({b->host(), b->size_bytes() / memory::page_bytes});
  }
  std::unique_ptr<FrozenRam> out{new FrozenRam};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("cannot make a pipe");
  out->pipe_.reset(ends[0]);
  const Fd to{ends[1]};
  (void)::fcntl(ends[0], F_SETPIPE_SZ, pipe_bytes);  // a user may have less
  std::vector<u8> buffer(4 + longest_pages);
  // No signal at its end: it is waited for by its number.
  const long child = ::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (child < 0) return fail_errno("cannot make a copy of the process");
  if (child == 0) be_the_child(ends[1], ranges.data(), static_cast<u32>(ranges.size()), buffer.data());
  out->child_ = static_cast<int>(child);
  return out;
}

FrozenRam::~FrozenRam() {
  pipe_.reset();
  if (child_ < 0) return;
  while (::waitpid(child_, nullptr, __WALL) < 0 && errno == EINTR) continue;
}

Result<> FrozenRam::read(u8* to, usize bytes) {
  while (bytes) {
    const ssize_t n = ::read(pipe_.get(), to, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read the copy of RAM");
    if (n == 0) return fail("the process with the copy of RAM has ended: the host may have too little memory for it");
    to += n, bytes -= static_cast<usize>(n);
  }
  return {};
}

Result<std::span<const u8>> FrozenRam::next() {
  u8 head[4];
  TRY(read(head, sizeof head));
  const u32 bytes = load_le<u32>(head);
  if (bytes > longest_pages) return fail("the copy of RAM is damaged");
  payload_.resize(bytes);
  TRY(read(payload_.data(), bytes));
  return std::span<const u8>{payload_};
}

}  // namespace vmm::migration
