// See vcpu.h.
#include "accel/tcg/vcpu.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "accel/tcg/tcg.h"
#include "src/base/log.h"
#include "src/base/thread_name.h"

namespace vmm::tcg {

using vm::Request;

namespace {
constexpr u32 bit_of(Request r) { return static_cast<u32>(r); }

void futex_wait(std::atomic<u32>& word, u32 seen, Nanoseconds timeout) {
  timespec ts{.tv_sec = timeout.count() / 1'000'000'000, .tv_nsec = timeout.count() % 1'000'000'000};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, timeout == Nanoseconds::max() ? nullptr : &ts, nullptr, 0);
}
void futex_wake(std::atomic<u32>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }
}  // namespace

TcgVcpu::TcgVcpu(TcgAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model)
    : Vcpu(machine, index, apic_id, model), accelerator_(accelerator), cpu_(state_), system_(cpu_) {
  const vm::Topology& smp = machine.config.smp;
  system_.model = &model;
  system_.topology = {.sockets = smp.sockets, .dies = smp.dies, .cores = smp.cores, .threads = smp.threads};
  system_.apic_id = apic_id;
  system_.index = index;
  system_.bootstrap = index == 0;
  system_.sipi_vector = &sipi_vector_;
  system_.guest_clock = [](void* self) {
    return static_cast<u64>(static_cast<vm::Machine*>(self)->time_domain().now(Clock::guest).count());
  };
  system_.clock_self = &machine;
  system_.triple_fault = [](void* self) {
    auto& m = *static_cast<vm::Machine*>(self);
    m.run_state().request_reset(vm::Cause::guest_reset);
  };
  system_.machine_self = &machine;
  system_.park = [](void* self, bool in) { in ? static_cast<TcgVcpu*>(self)->park() : static_cast<TcgVcpu*>(self)->unpark(); };
  system_.park_self = this;
  system_.exclusive = [](void* self, bool in) {
    auto& v = *static_cast<TcgVcpu*>(self);
    v.accelerator_.exclusive(v, in);
  };
  system_.code_pages = &code_pages();
  vmm::x86::reset(state_, false, index == 0);
  accelerator_.add(*this);
}

TcgVcpu::~TcgVcpu() {
  finish();
  accelerator_.remove(*this);
}

u64 TcgVcpu::read_tsc() { return static_cast<u64>(machine().time_domain().now(Clock::guest).count()) + state_.tsc_offset; }

bool TcgVcpu::on_own_thread() const { return accelerator_.current() == this; }

// ---- reached from other threads

void TcgVcpu::wake() {
  wakeups_.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst)) futex_wake(wakeups_);
}

void TcgVcpu::post(Request request) {
  system_.requests.fetch_or(bit_of(request), std::memory_order_seq_cst);
  cpu_.poll.store(0, std::memory_order_seq_cst);
  wake();
}

void TcgVcpu::run(std::function<void()> work, bool replaces_state) {
  if (on_own_thread()) {
    work();
    if (replaces_state) state_replaced();
    return;
  }
  TcgVcpu* const waiter = accelerator_.current();
  if (waiter) waiter->park();
  const bool locked = machine_lock.held_by_this_thread();
  {
    std::unique_lock lock{request_mutex_};
    if (stands_still()) {
      work();
      if (replaces_state) state_replaced();
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

Result<> TcgVcpu::start() {
  if (thread_.joinable()) return {};
  system_.memory = &memory();
  system_.smm_memory = &smm_memory();
  system_.ports = &ports();
  system_.interrupts = interrupts();
  system_.coprocessor = machine().coprocessor_error();
  x86::prepare(system_);
  loop_ = std::make_unique<VcpuLoop>(
      accelerator_.store(), system_,
      [](void* self, u64 page, const u8*) {
        auto& v = *static_cast<TcgVcpu*>(self);
        v.accelerator_.drop_writes(v, page);
      },
      this);
  thread_ = std::thread{[this] { thread_main(); }};
  thread_id_.wait(0);  // who asks for it after start() is told it
  return {};
}

void TcgVcpu::resume() {
  if (!thread_.joinable()) static_cast<void>(start());
  {
    std::unique_lock lock{request_mutex_};
    stop_asked_ = false;
    system_.requests.fetch_and(~bit_of(Request::stop));
  }
  changed_.notify_all();
}

void TcgVcpu::request_stop() {
  {
    std::unique_lock lock{request_mutex_};
    stop_asked_ = true;
  }
  post(Request::stop);
}

void TcgVcpu::wait_stopped() {
  if (!thread_.joinable()) return;
  const bool locked = machine_lock.held_by_this_thread();
  if (locked) machine_lock.unlock();
  {
    std::unique_lock lock{request_mutex_};
    changed_.wait(lock, [&] { return stopped_ || !stop_asked_; });
  }
  if (locked) machine_lock.lock();
}

void TcgVcpu::finish() {
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

Result<GuestPhys> TcgVcpu::translate(GuestVirt address) {
  u64 physical = 0;
  if (!system_.memory || !x86::debug_walk(cpu_, address.value, 0, physical)) return fail("no translation for {:#x}", address.value);
  return GuestPhys{physical};
}

void TcgVcpu::drop_writes(u64 page) {
  x86::drop_writes_of(cpu_, static_cast<memory::PageNumber>(page));
  if (loop_ && loop_->tier()) loop_->tier()->drop_writes(page);
}

// ---- parking

void TcgVcpu::serve_work() {
  while (!work_.empty()) {
    Work* const item = work_.front();
    work_.pop_front();
    (*item->f)();
    if (item->replaces_state) state_replaced();
    item->done = true;
  }
  system_.requests.fetch_and(~bit_of(Request::work));
  changed_.notify_all();
}

void TcgVcpu::park() {
  std::unique_lock lock{request_mutex_};
  ++parked_;
  if (!work_.empty()) serve_work();
  if (held_) changed_.notify_all();
}

void TcgVcpu::unpark() {
  std::unique_lock lock{request_mutex_};
  --parked_;
  if (!work_.empty()) serve_work();
  if (parked_ == 0) wait_released(lock);
}

void TcgVcpu::wait_released(std::unique_lock<std::mutex>& lock) {
  if (!held_) return;
  waiting_for_release_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !held_; });
  waiting_for_release_ = false;
}

void TcgVcpu::hold() {
  std::unique_lock lock{request_mutex_};
  held_ = true;
  if (stands_still()) return;
  lock.unlock();
  post(Request::work);
  lock.lock();
  changed_.wait(lock, [&] { return stands_still(); });
}

void TcgVcpu::let_go() {
  {
    std::unique_lock lock{request_mutex_};
    held_ = false;
  }
  changed_.notify_all();
}

void TcgVcpu::state_replaced() {
  if (!system_.memory) return;
  system_.interrupts = interrupts();
  system_.smm_memory = &smm_memory();
  x86::update_breakpoints(cpu_);
  x86::flush_everything(cpu_);
  x86::mode_changed(cpu_);
}

// ---- the thread

void TcgVcpu::wait_for_event() {
  park();
  waiting_.store(true, std::memory_order_seq_cst);
  const u32 seen = wakeups_.load(std::memory_order_seq_cst);
  const bool wanted =
      system_.requests.load(std::memory_order_seq_cst) != 0 || (state_.activity == vmm::x86::Activity::halted && system_.interrupts &&
                                                                (state_.rflags & vmm::x86::flag_if) && system_.interrupts->pending());
  // MWAIT ends with a store by another CPU to the monitored line too: that is not watched, so it never sleeps long.
  const bool monitoring = system_.monitor_armed && state_.activity == vmm::x86::Activity::halted;
  if (!wanted) futex_wait(wakeups_, seen, monitoring ? Nanoseconds{200'000} : Nanoseconds::max());
  waiting_.store(false, std::memory_order_seq_cst);
  if (monitoring) {
    system_.monitor_armed = false;
    state_.activity = vmm::x86::Activity::running;
  }
  unpark();
}

void TcgVcpu::thread_main() {
  name_this_thread(format("CPU {}/TCG", index()));
  thread_id_ = static_cast<int>(gettid());
  thread_id_.notify_all();
  accelerator_.set_current(this);
  if (FirstTier* tier = accelerator_.tier()) {
    const std::lock_guard lock{request_mutex_};  // others may ask this vCPU for something already
    if (auto added = loop_->add_tier(*tier); !added) report_warning(format("CPU {} is interpreted: {}", index(), added.error().message));
    if (accelerator_.verify() && loop_->tier()) loop_->tier()->set_verify();
  }
  for (;;) {
    {
      std::unique_lock lock{request_mutex_};
      if (!work_.empty()) serve_work();
      if (exit_asked_) break;
      if (stop_asked_) {
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
      wait_released(lock);
      system_.requests.fetch_and(~bit_of(Request::stop));
    }
    loop_->run();
    const u32 left = system_.requests.load(std::memory_order_acquire);
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

}  // namespace vmm::tcg
