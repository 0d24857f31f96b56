// See vcpu_thread.h.
#include "src/vm/vcpu_thread.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/host.h"
#include "src/base/thread_name.h"

namespace vmm::vm {

namespace {
constexpr u32 bit_of(Request r) { return static_cast<u32>(r); }

void futex_wait(std::atomic<u32>& word, u32 seen, Nanoseconds timeout) {
  timespec ts{.tv_sec = timeout.count() / 1'000'000'000, .tv_nsec = timeout.count() % 1'000'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, timeout == Nanoseconds::max() ? nullptr : &ts, nullptr, 0);
}
void futex_wake(std::atomic<u32>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }

thread_local ThreadedVcpu* current_vcpu = nullptr;
}  // namespace

ThreadedVcpu* ThreadedVcpu::current() { return current_vcpu; }

// ---- reached from other threads

void ThreadedVcpu::wake() {
  wakeups_.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst)) futex_wake(wakeups_);
}

void ThreadedVcpu::post(Request request) {
  requests_.fetch_or(bit_of(request), std::memory_order_seq_cst);
  leave_guest();
  wake();
}

void ThreadedVcpu::drop_events() {
  u32 events = 0;
  for (const Request r : {Request::init, Request::sipi, Request::nmi, Request::smi, Request::mce}) events |= bit_of(r);
  requests_.fetch_and(~events);
}

void ThreadedVcpu::perform(std::function<void()>& work, bool replaces_state) {
  if (replaces_state) complete_state();
  work();
  if (replaces_state) state_replaced();
}

void ThreadedVcpu::run(std::function<void()> work, bool replaces_state) {
  ThreadedVcpu* const waiter = current();
  if (waiter == this) return perform(work, replaces_state);
  if (waiter) waiter->park();
  const bool locked = machine_lock.held_by_this_thread();
  {
    std::unique_lock lock{request_mutex_};
    if (stands_still()) {
      perform(work, replaces_state);
    } else {
      Work item{&work, replaces_state};
      work_.push_back(&item);
      lock.unlock();
      post(Request::work);
      if (locked) machine_lock.unlock();
      lock.lock();
      changed_.wait(lock, [&] { return item.done; });
      lock.unlock();
      if (locked) machine_lock.lock();
    }
  }
  if (waiter) waiter->unpark();
}

Result<> ThreadedVcpu::start() {
  if (thread_.joinable()) return {};
  TRY(prepare());
  thread_ = std::thread{[this] { thread_main(); }};
  thread_id_.wait(0);  // who asks for it after start() is told it
  return {};
}

void ThreadedVcpu::resume() { go_on(std::nullopt); }
void ThreadedVcpu::step(StepOptions options) { go_on(options); }

void ThreadedVcpu::go_on(std::optional<StepOptions> step) {
  if (!thread_.joinable()) static_cast<void>(start());
  {
    std::unique_lock lock{request_mutex_};
    stop_asked_ = false;
    step_ = step;
    requests_.fetch_and(~bit_of(Request::stop));
  }
  changed_.notify_all();
}

void ThreadedVcpu::request_stop() {
  {
    std::unique_lock lock{request_mutex_};
    stop_asked_ = true;
  }
  post(Request::stop);
}

void ThreadedVcpu::wait_stopped() {
  if (!thread_.joinable()) return;
  const bool locked = machine_lock.held_by_this_thread();
  if (locked) machine_lock.unlock();
  {
    std::unique_lock lock{request_mutex_};
    changed_.wait(lock, [&] { return stopped_ || !stop_asked_; });
  }
  if (locked) machine_lock.lock();
}

void ThreadedVcpu::finish() {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock{request_mutex_};
    exit_asked_ = true;
  }
  post(Request::exit);
  changed_.notify_all();
  const bool locked = machine_lock.held_by_this_thread();
  if (locked) machine_lock.unlock();
  thread_.join();
  if (locked) machine_lock.lock();
}

// ---- parking

void ThreadedVcpu::serve_work() {
  while (!work_.empty()) {
    Work* const item = work_.front();
    work_.pop_front();
    perform(*item->f, item->replaces_state);
    item->done = true;
  }
  requests_.fetch_and(~bit_of(Request::work));
  changed_.notify_all();
}

void ThreadedVcpu::park() {
  std::unique_lock lock{request_mutex_};
  ++parked_;
  if (!work_.empty()) serve_work();
  if (held_) changed_.notify_all();
}

void ThreadedVcpu::unpark() {
  std::unique_lock lock{request_mutex_};
  --parked_;
  if (!work_.empty()) serve_work();
  if (parked_ == 0) wait_released(lock);
}

void ThreadedVcpu::wait_released(std::unique_lock<std::mutex>& lock) {
  if (!held_) return;
  waiting_for_release_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !held_; });
  waiting_for_release_ = false;
}

void ThreadedVcpu::hold() {
  std::unique_lock lock{request_mutex_};
  held_++;
  if (stands_still()) return;
  lock.unlock();
  post(Request::work);
  lock.lock();
  changed_.wait(lock, [&] { return stands_still(); });
}

void ThreadedVcpu::let_go() {
  {
    std::unique_lock lock{request_mutex_};
    held_--;
  }
  changed_.notify_all();
}

// ---- the thread

void ThreadedVcpu::wait_for_event() {
  park();
  waiting_.store(true, std::memory_order_seq_cst);
  const u32 seen = wakeups_.load(std::memory_order_seq_cst);
  if (requests_.load(std::memory_order_seq_cst) == 0 && !wanted()) futex_wait(wakeups_, seen, longest_sleep());
  waiting_.store(false, std::memory_order_seq_cst);
  slept();
  unpark();
}

void ThreadedVcpu::thread_main() {
  host::begin_thread(host::ThreadKind::vcpu);
  name_this_thread(format("CPU {}/{}", index(), kind_));
  current_vcpu = this;
  thread_id_ = static_cast<int>(gettid());
  thread_id_.notify_all();
  {
    const std::lock_guard lock{request_mutex_};
    thread_begins();
  }
  for (;;) {
    {
      std::unique_lock lock{request_mutex_};
      if (!work_.empty()) serve_work();
      if (exit_asked_) break;
      if (stop_asked_) {
        complete_state();
        stopped_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return !stop_asked_ || exit_asked_ || !work_.empty(); });
        if (!work_.empty()) serve_work();
        if (exit_asked_) break;
        if (stop_asked_) continue;
      }
      // Also when resume() came before this thread first looked.
      if (stopped_) {
        stopped_ = false;
        state_replaced();
      }
      set_step(step_ ? &*step_ : nullptr);
      wait_released(lock);
      // Asked meanwhile: the request must not be taken for one that is done, or who asked waits for ever.
      if (stop_asked_ || exit_asked_ || !work_.empty()) continue;
      requests_.fetch_and(~bit_of(Request::stop));
    }
    execute();
    if (const DebugStop stop = take_debug_stop(); stop.why != DebugStop::Why::none) {
      // It stops like one that was asked to; the debugger then stops the others.
      {
        const std::lock_guard lock{request_mutex_};
        stop_asked_ = true;
      }
      machine().debug().report(*this, stop);
      continue;
    }
    const u32 left = requests_.load(std::memory_order_acquire);
    if (left & (bit_of(Request::stop) | bit_of(Request::work) | bit_of(Request::exit))) {
      if (left & bit_of(Request::work)) {
        std::unique_lock lock{request_mutex_};
        serve_work();
      }
      continue;
    }
    wait_for_event();
  }
  std::unique_lock lock{request_mutex_};
  stopped_ = true;
  serve_work();
}

}  // namespace vmm::vm
