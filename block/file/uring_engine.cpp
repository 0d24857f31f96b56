// aio=io_uring: one ring for each loop, handed to the kernel once a turn. io_uring(7), io_uring_enter(2).
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <mutex>
#include <vector>

#include "block/file/file.h"
#include "src/base/log.h"

namespace vmm::block {
namespace {

constexpr unsigned ring_entries = 256;

// One host call under way; lives in the frame of the task that waits for it.
struct Call {
  int result = 0;
  std::coroutine_handle<> waiter;
};

// A ring that does what disks need and nothing else, whatever is written into it: a ring is a way round the filters of a sandbox. It sleeps
// until the thread that is to use it enables it.
int make_ring(io_uring& ring) {
  io_uring_params p{};
  p.flags = IORING_SETUP_CLAMP | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED;
  int error = ::io_uring_queue_init_params(ring_entries, &ring, &p);
  if (error == -EINVAL) {
    p = {};
    p.flags = IORING_SETUP_R_DISABLED;
    error = ::io_uring_queue_init_params(ring_entries, &ring, &p);
  }
  if (error) return error;
  io_uring_restriction allowed[6] = {};
  usize n = 0;
  for (const int op : {IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_FSYNC}) {
    allowed[n].opcode = IORING_RESTRICTION_SQE_OP;
    allowed[n++].sqe_op = static_cast<u8>(op);
  }
  allowed[n].opcode = IORING_RESTRICTION_REGISTER_OP;
  allowed[n++].register_op = IORING_REGISTER_ENABLE_RINGS;
  // Debian 12's liburing declares functions for this, but has none.
  if (::syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed, n) == 0) return 0;
  error = -errno;
  ::io_uring_queue_exit(&ring);
  return error;
}

// Made while that is still allowed, for loops that begin later. Any thread.
class SpareRings {
 public:
  void fill(usize count) {
    const std::lock_guard lock{mutex_};
    while (spare_.size() < count) {
      io_uring ring{};
      if (make_ring(ring)) return;
      spare_.push_back(ring);
    }
  }
  bool take(io_uring& ring) {
    const std::lock_guard lock{mutex_};
    if (spare_.empty()) return false;
    ring = spare_.back();
    spare_.pop_back();
    return true;
  }
  static SpareRings& all() {
    static auto* rings = new SpareRings;
    return *rings;
  }

 private:
  std::mutex mutex_;
  std::vector<io_uring> spare_;
};

class Ring {
 public:
  explicit Ring(EventLoop& loop) {
    if (make_ring(ring_) && !SpareRings::all().take(ring_)) return;
    if (::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0)) {
      ::io_uring_queue_exit(&ring_);
      return;
    }
    works_ = true;
    ::io_uring_ring_dontfork(&ring_);
    watch_.start(loop, ring_.ring_fd, EPOLLIN, [this](u32) { (void)reap(); });
    before_wait([this] { return flush(); });
  }
  ~Ring() {
    watch_.stop();
    if (works_) ::io_uring_queue_exit(&ring_);
  }
  bool works() const { return works_; }

  struct Awaiter {
    Ring& ring;
    Call call;
    unsigned char op;
    int fd;
    const void* address;
    unsigned length;
    u64 offset;
    unsigned flags;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      call.waiter = waiter;
      ring.submit(*this);
    }
    int await_resume() const { return call.result; }
  };
  Awaiter call(unsigned char op, int fd, const void* address, unsigned length, u64 offset, unsigned flags) {
    return {.ring = *this, .call = {}, .op = op, .fd = fd, .address = address, .length = length, .offset = offset, .flags = flags};
  }

 private:
  void submit(Awaiter& a) {
    if (in_flight_ >= ring_entries || !waiting_.empty()) {
      waiting_.push_back(&a);  // the completion queue must have room for all
      return;
    }
    prepare(a);
  }
  void prepare(Awaiter& a) {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    if (!sqe) {
      ::io_uring_submit(&ring_);
      sqe = ::io_uring_get_sqe(&ring_);
      ASSERT(sqe);
    }
    ::io_uring_prep_rw(a.op, sqe, a.fd, a.address, a.length, a.offset);
    if (a.op == IORING_OP_FSYNC)
      sqe->fsync_flags = a.flags;
    else
      sqe->rw_flags = int(a.flags);
    ::io_uring_sqe_set_data(sqe, &a.call);
    in_flight_++, queued_++;
  }
  // Before the loop waits: what was queued goes out, what is done already comes in.
  bool flush() {
    if (!queued_) return false;
    // What the host answers at once (its page cache) may lead to more: some rounds without going through the loop.
    for (unsigned round = 0; queued_ && round < 32; round++) {
      queued_ = 0;
      const int n = ::io_uring_submit(&ring_);
      if (n == -EAGAIN || n == -EBUSY) queued_ = 1;  // again in the next turn
      if (!reap()) return queued_;
    }
    return true;
  }
  bool reap() {
    bool any = false;
    io_uring_cqe* cqe = nullptr;
    while (!::io_uring_peek_cqe(&ring_, &cqe) && cqe) {
      auto* call = static_cast<Call*>(::io_uring_cqe_get_data(cqe));
      call->result = cqe->res;
      ::io_uring_cqe_seen(&ring_, cqe);
      in_flight_--, any = true;
      if (!waiting_.empty()) {
        Awaiter* next = waiting_.front();
        waiting_.pop_front();
        prepare(*next);
      }
      call->waiter.resume();
    }
    return any;
  }

  io_uring ring_{};
  bool works_ = false;
  FdWatch watch_;
  u32 in_flight_ = 0, queued_ = 0;
  std::deque<Awaiter*> waiting_;
};

class UringEngine final : public FileEngine {
 public:
  Task<> read(EventLoop& loop, int fd, u64 offset, IoVector into) override {
    Ring& ring = loop_local<Ring>();
    if (!ring.works()) co_return co_await thread_engine().read(loop, fd, offset, std::move(into));
    while (!into.empty()) {
      const auto pieces = into.pieces();
      const bool one = pieces.size() == 1;
      const int n = co_await ring.call(
          one ? IORING_OP_READ : IORING_OP_READV, fd, one ? pieces[0].iov_base : pieces.data(),
          one ? unsigned(std::min<u64>(pieces[0].iov_len, 1 * GiB)) : unsigned(std::min<usize>(pieces.size(), IOV_MAX)), offset, 0);
      if (n == -EINTR || n == -EAGAIN) continue;
      if (n < 0) co_return fail_os(-n);
      if (n == 0) {
        into.fill(0);  // past the end
        break;
      }
      into.take(u64(n));
      offset += u64(n);
    }
    co_return Result<>{};
  }
  Task<> write(EventLoop& loop, int fd, u64 offset, IoVector from, bool fua) override {
    Ring& ring = loop_local<Ring>();
    if (!ring.works()) co_return co_await thread_engine().write(loop, fd, offset, std::move(from), fua);
    while (!from.empty()) {
      const auto pieces = from.pieces();
      const bool one = pieces.size() == 1;
      const int n =
          co_await ring.call(one ? IORING_OP_WRITE : IORING_OP_WRITEV, fd, one ? pieces[0].iov_base : pieces.data(),
                             one ? unsigned(std::min<u64>(pieces[0].iov_len, 1 * GiB)) : unsigned(std::min<usize>(pieces.size(), IOV_MAX)),
                             offset, fua ? RWF_DSYNC : 0);
      if (n == -EINTR || n == -EAGAIN) continue;
      if (n < 0) co_return fail_os(-n);
      if (n == 0) co_return fail_os(ENOSPC);
      from.take(u64(n));
      offset += u64(n);
    }
    co_return Result<>{};
  }
  Task<> sync(EventLoop& loop, int fd) override {
    Ring& ring = loop_local<Ring>();
    if (!ring.works()) co_return co_await thread_engine().sync(loop, fd);
    for (;;) {
      const int n = co_await ring.call(IORING_OP_FSYNC, fd, nullptr, 0, 0, IORING_FSYNC_DATASYNC);
      if (n == -EINTR || n == -EAGAIN) continue;
      if (n < 0) co_return fail_os(-n);
      co_return Result<>{};
    }
  }
};
}  // namespace

bool uring_works() {
  static const bool works = [] {
    io_uring ring{};
    if (make_ring(ring)) return false;
    ::io_uring_queue_exit(&ring);
    return true;
  }();
  return works;
}
void keep_spare_rings(usize count) {
  if (uring_works()) SpareRings::all().fill(count);
}
FileEngine& uring_engine() {
  static UringEngine engine;
  return engine;
}

}  // namespace vmm::block
