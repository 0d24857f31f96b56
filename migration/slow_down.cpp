// See slow_down.h.
#include "migration/slow_down.h"

#include <chrono>
#include <vector>

#include "src/base/thread_name.h"
#include "src/vm/vcpu_thread.h"

namespace vmm::migration {

void SlowDown::set(unsigned percent) {
  percent_ = percent;
  if (percent && !thread_.joinable())
    thread_ = std::thread{[this] {
      name_this_thread("slow-down");
      work();
    }};
}

void SlowDown::end() {
  {
    const std::lock_guard lock{mutex_};
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  percent_ = 0;
}

void SlowDown::work() {
  constexpr auto turn = std::chrono::milliseconds{20};
  std::vector<vm::ThreadedVcpu*> cpus;
  for (const auto& v : machine_.vcpus())
    if (auto* const threaded = dynamic_cast<vm::ThreadedVcpu*>(v.get())) cpus.push_back(threaded);
  std::unique_lock lock{mutex_};
  while (!ending_) {
    const auto still = turn * percent() / 100;
    lock.unlock();
    for (vm::ThreadedVcpu* cpu : cpus) cpu->hold();
    lock.lock();
    changed_.wait_for(lock, still, [&] { return ending_; });
    lock.unlock();
    for (vm::ThreadedVcpu* cpu : cpus) cpu->let_go();
    lock.lock();
    changed_.wait_for(lock, turn - still, [&] { return ending_; });
  }
}

}  // namespace vmm::migration
