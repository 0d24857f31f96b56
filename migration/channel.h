// Where a machine's state goes to or comes from: `tcp:HOST:PORT`, `unix:PATH`, `fd:NAME`, `exec:COMMAND`, `file:PATH[,offset=N]`.
// Source of the words: contract.md §2.5.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <span>
#include <string>

#include "migration/stream.h"
#include "src/base/fd.h"
#include "src/base/host.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::migration {

// One end of a stream. Used by one thread, which waits; cancel() from any other makes every wait fail from then on.
class Channel final : public Sink, public Source {
 public:
  Channel();
  ~Channel() override;
  Channel(const Channel&) = delete;

  Result<> connect(const std::string& uri);  // to write; waits for the other side
  // To read. For tcp and unix the caller has accepted the connection itself.
  Result<> open(const std::string& uri);
  void adopt(Fd fd, bool answers);

  Result<> write(std::span<const u8> bytes) override;
  Result<> read(std::span<u8> bytes) override;   // the end of the stream is an error
  Result<usize> read_some(std::span<u8> bytes);  // 0: the end
  bool answers() const { return answers_; }      // the other side can be heard
  // Of a file: places count from where the stream began.
  bool has_places() const { return base_ >= 0; }
  Result<> write_at(u64 at, std::span<const u8> bytes);
  Result<> read_at(u64 at, std::span<u8> bytes);
  Result<> go_to(u64 at);  // the next read() or write() is there; any number, from a stream too
  static constexpr u64 furthest_place = u64{1} << 60;
  // Closes; for exec: waits for the command, whose status counts.
  Result<> finish();
  void hang_up() { fd_.reset(); }  // the other side sees the end; what reads or writes here must have ended
  void cancel();
  // The next connection to a listener, which is not closed by this.
  Result<Fd> accept(int listener);
  u64 bytes() const { return bytes_.load(std::memory_order_relaxed); }  // written so far

 private:
  void adopt_given(Fd fd);
  Result<> spawn(const std::string& command, bool write);
  Result<> wait_ready(short events, int fd = -1);
  Fd fd_, cancel_;
  host::Program program_;
  bool answers_ = false;
  i64 base_ = -1;
  std::atomic<u64> bytes_{0};
};

}  // namespace vmm::migration
