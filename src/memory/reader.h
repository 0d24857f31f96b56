// Readers of published, immutable data (flat views, doorbell lists, the table of RAM blocks): a reader pins, looks, lets go, and
// never blocks; a writer publishes the new version and retires the old one, which is destroyed once every reader that may have seen
// it has let go. Epoch-based reclamation.
#pragma once

#include <atomic>
#include <memory>

#include "src/base/types.h"

namespace vmm::memory {

class ReadPin {
 public:
  ReadPin();
  ~ReadPin() { let_go(); }
  ReadPin(const ReadPin&) = delete;
  void let_go();  // early

 private:
  struct Slot;
  friend struct Readers;
  Slot& slot_;
  bool held_ = true;
};

// Any thread. Destroys `old` when no reader can see it any more; the caller has published its successor before.
void retire(std::shared_ptr<const void> old);

}  // namespace vmm::memory
