// A vCPU of the TCG accelerator: one thread that runs a VcpuLoop, and the rules by which others reach it (style.md, "Parked").
#pragma once

#include <condition_variable>
#include <deque>
#include <thread>

#include "accel/tcg/run/loop.h"
#include "src/vm/machine.h"

namespace vmm::tcg {

class TcgAccelerator;

class TcgVcpu final : public vm::Vcpu {
 public:
  TcgVcpu(TcgAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~TcgVcpu() override;

  void post(vm::Request request) override;
  void run(std::function<void()> work) override { run(std::move(work), true); }
  Result<> start() override;
  void resume() override;
  void request_stop() override;
  void wait_stopped() override;
  void finish() override;
  int host_thread_id() const override { return thread_id_.load(std::memory_order_relaxed); }
  bool halted() const override { return waiting_.load(std::memory_order_relaxed); }
  u64 read_tsc() override;
  u64 tsc_hz() const override { return 1'000'000'000; }
  Result<GuestPhys> translate(GuestVirt address) override;

  // As run(), for work that leaves the architectural state alone.
  void run_quietly(std::function<void()> work) { run(std::move(work), false); }
  // Code appeared on a page: this vCPU forgets that it may write there. On its thread, or for it while it is parked.
  void drop_writes(u64 page);
  // Every right to write RAM without asking: a dirty log was switched on.
  void flush_writes() { x86::flush_writes(cpu_); }
  // The exclusive section of another vCPU: hold() returns when this one stands still, which it does until let_go().
  void hold();
  void let_go();
  u64 table_bytes() const { return loop_ && loop_->tier() ? loop_->tier()->table_bytes() : 0; }
  const x86::System& system() const { return system_; }
  u64 blocks() const { return loop_ ? loop_->blocks() : 0; }

  void drop_events() override {
    using vm::Request;
    u32 events = 0;
    for (const Request r : {Request::init, Request::sipi, Request::nmi, Request::smi, Request::mce}) events |= static_cast<u32>(r);
    system_.requests.fetch_and(~events);
  }

  // The thread's state is complete and it runs no guest code: others may run work for it meanwhile.
  void park();
  void unpark();

 private:
  void run(std::function<void()> work, bool replaces_state);
  void thread_main();
  void serve_work();  // request_mutex_ held
  void wait_released(std::unique_lock<std::mutex>& lock);
  bool stands_still() const { return parked_ || stopped_ || waiting_for_release_; }  // request_mutex_ held
  void state_replaced();                                                             // after work that may have changed anything
  void wait_for_event();
  void wake();
  bool on_own_thread() const;

  TcgAccelerator& accelerator_;
  x86::Cpu cpu_;
  x86::System system_;
  std::unique_ptr<VcpuLoop> loop_;

  std::thread thread_;
  std::atomic<int> thread_id_{0};
  std::atomic<bool> waiting_{false};  // halted, in the kernel
  std::atomic<u32> wakeups_{0};

  std::mutex request_mutex_;  // "request lock": guards the rest
  std::condition_variable changed_;
  struct Work {
    std::function<void()>* f;
    bool replaces_state;
    bool done = false;
  };
  std::deque<Work*> work_;
  unsigned parked_ = 0;  // depth
  bool stopped_ = true, stop_asked_ = true, exit_asked_ = false;
  bool held_ = false, waiting_for_release_ = false;
};

}  // namespace vmm::tcg
