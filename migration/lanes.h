// Further connections for pages (multifd): each has a thread. Pages of one pass go over any of them; a mark at its end keeps those of the
// next from coming before them.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "migration/channel.h"
#include "migration/machine_in.h"
#include "migration/machine_out.h"
#include "migration/settings.h"

namespace vmm::migration {

// The source's side. open(), send(), mark() and finish() by one thread.
class LanesOut {
 public:
  LanesOut(MachineOut& machine, Packing packing, int level) : machine_(machine), packing_(packing), level_(level) {}
  ~LanesOut();
  Result<> open(const std::string& uri, unsigned count);
  unsigned count() const { return static_cast<unsigned>(lanes_.size()); }
  Result<> send(u32 block, u64 first, u64 count);  // waits while all are behind
  Result<> mark(u32 round);                        // when all that was sent is on its way
  u64 bytes() const;
  void cancel();
  void hang_up();  // ends all of it; open(), send() and the like may not follow

 private:
  struct Job {
    u32 block;
    u64 first, count;
  };
  struct Lane {
    Channel channel;
    Writer writer{channel};
    std::thread thread;
  };
  void work(Lane& lane);
  Result<> send_one(Lane& lane, const Job& job, std::vector<u8>& room, std::vector<u8>& packed);
  MachineOut& machine_;
  const Packing packing_;
  const int level_;
  mutable std::mutex list_mutex_;  // guards the list's growth
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  unsigned busy_ = 0;
  bool ending_ = false;
  std::optional<Error> error_;
};

// The target's side.
class LanesIn {
 public:
  explicit LanesIn(MachineIn& machine) : machine_(machine) {}
  ~LanesIn();
  // Takes `count` connections of the listener; `first` waits for them, and hears a cancel.
  Result<> open(Channel& first, int listener, unsigned count);
  // All lanes have come to the end of this pass; then they go on.
  Result<> pass(u32 round);
  void cancel();

 private:
  struct Lane {
    Channel channel;
    std::thread thread;
  };
  void work(Lane& lane);
  Result<> read(Lane& lane);
  MachineIn& machine_;
  std::mutex list_mutex_;  // guards the list's growth
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  u32 passed_ = 0;        // passes that the first connection has ended
  unsigned arrived_ = 0;  // lanes at the end of the next one
  bool ending_ = false;
  std::optional<Error> error_;
};

}  // namespace vmm::migration
