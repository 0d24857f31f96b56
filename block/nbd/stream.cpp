#include "block/nbd/stream.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "block/core/sleep.h"
#include "block/core/throttle.h"
#include "src/base/os_error.h"

namespace vmm::block::nbd {

namespace {
constexpr usize buffer_bytes = 16 * KiB;

// Until the descriptor is ready for `events`; false: not before `deadline`.
class Ready {
 public:
  Ready(int fd, u32 events, Nanoseconds deadline) : fd_(fd), events_(events) {
    if (deadline == Nanoseconds::max()) return;
    const Nanoseconds left = deadline - monotonic_now();
    late_ = left <= 0ns;
    if (!late_) timer_.emplace(Clock::real, loop_local<LoopClock>().domain, [this] { late_ = true, go_on(); }), left_ = left;
  }
  bool await_ready() const { return late_; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    watch_.start(*current_loop(), fd_, events_, [this](u32) { go_on(); });
    if (timer_) timer_->arm_in(left_);
  }
  bool await_resume() const { return !late_; }

 private:
  void go_on() {
    watch_.stop();
    if (timer_) timer_->cancel();
    waiter_.resume();  // the last step: this ends with it
  }
  int fd_;
  u32 events_;
  bool late_ = false;
  Nanoseconds left_{};
  FdWatch watch_;
  std::optional<Timer> timer_;
  std::coroutine_handle<> waiter_;
};
}  // namespace

Task<bool> ready_for(int fd, u32 events, Nanoseconds deadline) {
  Ready wait{fd, events, deadline};
  const bool in_time = co_await wait;
  co_return in_time;
}

Stream::Stream(Fd socket) : socket_(std::move(socket)), buffer_(buffer_bytes) {
  ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on unix sockets, which have no delay
}

void Stream::hang_up() { ::shutdown(socket_.get(), SHUT_RDWR); }

Task<> Stream::ready(u32 events) {
  const bool in_time = co_await ready_for(socket_.get(), events, deadline_);
  if (in_time) co_return Result<>{};
  co_return fail_os(ETIMEDOUT, "the NBD peer does not answer");
}

Task<usize> Stream::receive(std::span<u8> into) {
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), into.data(), into.size(), MSG_DONTWAIT);
    if (n >= 0) co_return usize(n);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return fail_os(errno, "the NBD connection has broken");
    co_await ready(EPOLLIN);
  }
}

Task<bool> Stream::more() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    const usize n = co_await receive(buffer_);
    end_ = n;
  }
  co_return begin_ != end_;
}

Task<> Stream::read(std::span<u8> into) {
  while (!into.empty()) {
    if (begin_ < end_) {
      const usize n = std::min(end_ - begin_, into.size());
      std::memcpy(into.data(), &buffer_[begin_], n);
      begin_ += n;
      into = into.subspan(n);
      continue;
    }
    if (into.size() >= buffer_.size()) {
      const usize n = co_await receive(into);
      if (!n) co_return fail_os(ECONNRESET, "the NBD peer has closed the connection");
      into = into.subspan(n);
      continue;
    }
    const bool some = co_await more();
    if (!some) co_return fail_os(ECONNRESET, "the NBD peer has closed the connection");
  }
  co_return Result<>{};
}
Task<> Stream::read(IoVector into) {
  for (const iovec& piece : into.pieces()) co_await read(std::span{static_cast<u8*>(piece.iov_base), piece.iov_len});
  co_return Result<>{};
}
Task<> Stream::skip(u64 bytes) {
  std::vector<u8> away(std::min<u64>(bytes, buffer_bytes));
  while (bytes) {
    const u64 n = std::min<u64>(bytes, away.size());
    co_await read(std::span{away}.first(n));
    bytes -= n;
  }
  co_return Result<>{};
}

Task<> Stream::write(IoVector from) {
  while (!from.empty()) {
    const auto pieces = from.pieces();
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces.data()), message.msg_iovlen = std::min<usize>(pieces.size(), 1024);
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      from.take(u64(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) co_return fail_os(errno, "the NBD connection has broken");
    co_await ready(EPOLLOUT);
  }
  co_return Result<>{};
}

}  // namespace vmm::block::nbd
