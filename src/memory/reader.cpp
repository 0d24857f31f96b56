#include "src/memory/reader.h"

#include <thread>
#include <vector>

#include "src/base/lock.h"
#include "src/base/log.h"
#include "src/memory/memory.h"

namespace vmm::memory {

struct alignas(64) ReadPin::Slot {
  std::atomic<u64> epoch{0};  // 0: not reading
  unsigned depth = 0;         // own thread only
  bool taken = false;         // under Readers::mutex
};

struct Readers {
  struct Retired {
    u64 epoch;
    std::shared_ptr<const void> what;
  };
  std::atomic<u64> epoch{1};
  Mutex mutex;
  std::vector<std::unique_ptr<ReadPin::Slot>> slots GUARDED_BY(mutex);
  std::vector<Retired> retired GUARDED_BY(mutex);

  static Readers& all() {
    static auto* readers = new Readers;  // outlives every thread
    return *readers;
  }
  ReadPin::Slot* take() {
    Lock lock{mutex};
    for (auto& slot : slots)
      if (!slot->taken) return slot->taken = true, slot.get();
    slots.push_back(std::make_unique<ReadPin::Slot>());
    slots.back()->taken = true;
    return slots.back().get();
  }
  void give_back(ReadPin::Slot* slot) {
    Lock lock{mutex};
    slot->taken = false;
  }
  static ReadPin::Slot*& mine() {
    struct Mine {
      ReadPin::Slot* slot = all().take();
      ~Mine() { all().give_back(slot); }
    };
    thread_local Mine mine;
    return mine.slot;
  }
  // True when every reader but this thread began after `before` was retired.
  bool passed(u64 before, const ReadPin::Slot* self) REQUIRES(mutex) {
    for (auto& slot : slots) {
      if (slot.get() == self) continue;
      const u64 seen = slot->epoch.load(std::memory_order_seq_cst);
      if (seen && seen <= before) return false;
    }
    return true;
  }
  void collect() {
    std::vector<Retired> dead;  // destroyed outside the lock
    Lock lock{mutex};
    std::erase_if(retired, [&](Retired& r) {
      lock_is_held();
      if (!passed(r.epoch, nullptr)) return false;
      dead.push_back(std::move(r));
      return true;
    });
  }
  void lock_is_held() ASSERT_CAPABILITY(mutex) {}
};

ReadPin::ReadPin() : slot_(*Readers::mine()) {
  if (slot_.depth++ == 0) slot_.epoch.exchange(Readers::all().epoch.load(std::memory_order_acquire), std::memory_order_seq_cst);
}
void ReadPin::let_go() {
  if (std::exchange(held_, false) && --slot_.depth == 0) slot_.epoch.store(0, std::memory_order_release);
}

void retire(std::shared_ptr<const void> old) {
  Readers& all = Readers::all();
  if (old) {
    Lock lock{all.mutex};
    all.retired.push_back({all.epoch.fetch_add(1, std::memory_order_seq_cst), std::move(old)});
  }
  all.collect();
}

void wait_for_readers() {
  using Steady = std::chrono::steady_clock;
  Readers& all = Readers::all();
  const u64 before = all.epoch.fetch_add(1, std::memory_order_seq_cst);
  const auto* self = Readers::mine();
  const auto give_up = Steady::now() + 1s;
  for (unsigned turn = 0;; turn++) {
    {
      Lock lock{all.mutex};
      if (all.passed(before, self)) break;
    }
    if (turn > 100) std::this_thread::sleep_for(50us);
    if (Steady::now() > give_up) {
      report_warning("a reader of the memory map has not let go within a second");
      break;
    }
    std::this_thread::yield();
  }
  all.collect();
}

}  // namespace vmm::memory
