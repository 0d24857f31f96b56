// A connection as tasks read and write it. One reader and one writer at a time; all on the loop that they run on, which may be another one
// when nobody waits.
#pragma once

#include "block/core/io_vector.h"
#include "src/base/fd.h"
#include "src/event/event_loop.h"
#include "src/event/task.h"

namespace vmm::block::nbd {

// Until the descriptor is ready for `events` (EPOLL*); false: not before `deadline`, a moment of the monotonic clock.
Task<bool> ready_for(int fd, u32 events, Nanoseconds deadline);

class Stream {
 public:
  explicit Stream(Fd socket);  // non-blocking from now on
  Stream(const Stream&) = delete;
  // All of it, or an error; the peer's end in the midst of it is ECONNRESET.
  Task<> read(std::span<u8> into);
  Task<> read(IoVector into);
  Task<> skip(u64 bytes);
  // Is there another byte to come? False at the peer's end.
  Task<bool> more();
  Task<> write(IoVector from);
  // Waits that begin from now on fail with ETIMEDOUT after that moment (of the monotonic clock). Nanoseconds::max(): never.
  void set_deadline(Nanoseconds moment) { deadline_ = moment; }
  // Whoever waits, now or later, fails.
  void hang_up();
  int fd() const { return socket_.get(); }

 private:
  Task<usize> receive(std::span<u8> into);  // some bytes; 0: the peer's end
  Task<> ready(u32 events);
  Fd socket_;
  Nanoseconds deadline_ = Nanoseconds::max();
  // What has come already: small reads are served from here.
  std::vector<u8> buffer_;
  usize begin_ = 0, end_ = 0;
};

}  // namespace vmm::block::nbd
