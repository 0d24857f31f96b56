// Who must hear that a dirty log begins: engines that keep rights to write RAM without telling.
#pragma once

#include <atomic>

namespace vmm::memory {

class RamBlock;

struct LoggingListener {
  virtual ~LoggingListener() = default;
  // A dirty log of the block was switched on. When this returns, no store of a CPU goes unseen any more. It may give up the machine lock
  // meanwhile.
  virtual void logging_started(RamBlock& block) = 0;
};
extern std::atomic<LoggingListener*> logging_listener;

}  // namespace vmm::memory
