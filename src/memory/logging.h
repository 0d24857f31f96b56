// Who must hear that a dirty log begins or is read: engines that keep rights to write RAM without telling, or keep a log of their own.
#pragma once

#include <atomic>

namespace vmm::memory {

class RamBlock;

struct LoggingListener {
  virtual ~LoggingListener() = default;
  // A dirty log of the block was switched on. When this returns, no store of a CPU goes unseen any more. It may give up the machine lock
  // meanwhile.
  virtual void logging_started(RamBlock& block) = 0;
  virtual void logging_stopped(RamBlock&) {}
  // The log is about to be read: what the engine knows of must be in it (RamBlock::mark_dirty). Machine lock held.
  virtual void harvest(RamBlock&) {}
};
extern std::atomic<LoggingListener*> logging_listener;

}  // namespace vmm::memory
