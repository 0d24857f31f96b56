// aio=native: Linux AIO, which waits for nothing only with O_DIRECT. io_submit(2), io_getevents(2); the numbers and structures are the
// kernel's (linux/aio_abi.h), called without libaio.
#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <climits>

#include "block/file/file.h"

namespace vmm::block {
namespace {

constexpr unsigned context_entries = 128;

class Context {
 public:
  explicit Context(EventLoop& loop) : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_ || ::syscall(SYS_io_setup, context_entries, &context_)) return;
    works_ = true;
    watch_.start(loop, event_.get(), EPOLLIN, [this](u32) {
      u64 count;
      [[maybe_unused]] auto n = ::read(event_.get(), &count, sizeof count);
      reap();
    });
    before_wait([this] { return flush(); });
  }
  ~Context() {
    watch_.stop();
    if (works_) ::syscall(SYS_io_destroy, context_);
  }
  bool works() const { return works_; }

  struct Awaiter {
    Context& context;
    iocb control{};
    i64 result = 0;
    std::coroutine_handle<> waiter{};
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> w) {
      waiter = w;
      control.aio_data = reinterpret_cast<u64>(this);
      control.aio_flags = IOCB_FLAG_RESFD, control.aio_resfd = u32(context.event_.get());
      context.queue_.push_back(this);
    }
    i64 await_resume() const { return result; }
  };
  Awaiter call(u16 op, int fd, const IoVector& bytes, u64 offset, int flags) {
    Awaiter a{.context = *this};
    const auto pieces = bytes.pieces();
    a.control.aio_lio_opcode = op, a.control.aio_fildes = u32(fd), a.control.aio_rw_flags = flags;
    a.control.aio_buf = reinterpret_cast<u64>(pieces.data()), a.control.aio_nbytes = std::min<u64>(pieces.size(), IOV_MAX);
    a.control.aio_offset = i64(offset);
    return a;
  }

 private:
  bool flush() {
    bool any = false;
    while (!queue_.empty() && in_flight_ < context_entries) {
      std::array<iocb*, 32> batch;
      usize count = 0;
      for (; count < batch.size() && count < queue_.size() && in_flight_ + count < context_entries; count++)
        batch[count] = &queue_[count]->control;
      const long n = ::syscall(SYS_io_submit, context_, long(count), batch.data());
      if (n > 0) {
        in_flight_ += u32(n);
        queue_.erase(queue_.begin(), queue_.begin() + n);
        continue;
      }
      const int error = errno;
      if (error == EAGAIN && in_flight_) break;  // when some have ended
      if (error == EINTR || error == EAGAIN) continue;
      Awaiter* refused = queue_.front();
      queue_.pop_front();
      refused->result = -error;
      any = true;
      refused->waiter.resume();
    }
    return any;
  }
  void reap() {
    std::array<io_event, 32> events;
    for (;;) {
      timespec none{};
      const long n = ::syscall(SYS_io_getevents, context_, 0L, long(events.size()), events.data(), &none);
      if (n <= 0) return;
      in_flight_ -= u32(n);
      for (long i = 0; i < n; i++) {
        auto* a = reinterpret_cast<Awaiter*>(events[usize(i)].data);
        a->result = events[usize(i)].res;
        a->waiter.resume();
      }
    }
  }
  Fd event_;
  aio_context_t context_ = 0;
  bool works_ = false;
  FdWatch watch_;
  u32 in_flight_ = 0;
  std::deque<Awaiter*> queue_;
};

class NativeEngine final : public FileEngine {
 public:
  Task<> read(EventLoop& loop, int fd, u64 offset, IoVector into) override {
    return transfer(loop, false, fd, offset, std::move(into), false);
  }
  Task<> write(EventLoop& loop, int fd, u64 offset, IoVector from, bool fua) override {
    return transfer(loop, true, fd, offset, std::move(from), fua);
  }
  Task<> sync(EventLoop& loop, int fd) override { return thread_engine().sync(loop, fd); }

 private:
  Task<> transfer(EventLoop& loop, bool writes, int fd, u64 offset, IoVector bytes, bool fua) {
    Context& context = loop_local<Context>();
    if (!context.works()) {
      if (writes) co_return co_await thread_engine().write(loop, fd, offset, std::move(bytes), fua);
      co_return co_await thread_engine().read(loop, fd, offset, std::move(bytes));
    }
    while (!bytes.empty()) {
      const i64 n = co_await context.call(writes ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV, fd, bytes, offset, fua ? RWF_DSYNC : 0);
      if (n == -EINTR || n == -EAGAIN) continue;
      if (n < 0) co_return fail_os(int(-n));
      if (n == 0) {
        if (writes) co_return fail_os(ENOSPC);
        bytes.fill(0);  // past the end
        break;
      }
      bytes.take(u64(n));
      offset += u64(n);
      // The end of a file need not lie on a sector: the rest of this one is zeros, and what follows starts on a boundary again.
      if (!writes && offset % 512 && !bytes.empty()) {
        bytes.fill(0);
        break;
      }
    }
    co_return Result<>{};
  }
};
}  // namespace

FileEngine& native_engine() {
  static NativeEngine engine;
  return engine;
}

}  // namespace vmm::block
