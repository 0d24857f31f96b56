// aio=threads: host calls on the worker pool. preadv(2), pwritev2(2), fdatasync(2).
#include <climits>

#include "block/file/file.h"
#include "src/event/worker_pool.h"

namespace vmm::block {
namespace {

// Moves all bytes, however the host cuts them; at most IOV_MAX pieces a call.
Result<> transfer(int fd, bool writes, u64 offset, IoVector bytes, bool fua) {
  while (!bytes.empty()) {
    const auto pieces = bytes.pieces();
    const int count = int(std::min<usize>(pieces.size(), IOV_MAX));
    const ssize_t n = writes ? ::pwritev2(fd, pieces.data(), count, off_t(offset), fua ? RWF_DSYNC : 0)
                             : ::preadv(fd, pieces.data(), count, off_t(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return fail_os(errno);
    }
    if (n == 0) {
      if (writes) return fail_os(ENOSPC);
      bytes.fill(0);  // past the end
      return {};
    }
    bytes.take(u64(n));
    offset += u64(n);
  }
  return {};
}

class ThreadEngine final : public FileEngine {
 public:
  Task<> read(EventLoop& loop, int fd, u64 offset, IoVector into) override {
    return worker_pool().run<void>(loop, [=, into = std::move(into)] { return transfer(fd, false, offset, into, false); });
  }
  Task<> write(EventLoop& loop, int fd, u64 offset, IoVector from, bool fua) override {
    return worker_pool().run<void>(loop, [=, from = std::move(from)] { return transfer(fd, true, offset, from, fua); });
  }
  Task<> sync(EventLoop& loop, int fd) override {
    return worker_pool().run<void>(loop, [=]() -> Result<> {
      while (::fdatasync(fd)) {
        if (errno != EINTR) return fail_os(errno);
      }
      return {};
    });
  }
};
}  // namespace

FileEngine& thread_engine() {
  static ThreadEngine engine;
  return engine;
}

}  // namespace vmm::block
