// One thread a vCPU, and the rules by which other threads reach it (style.md, "Parked"): what every accelerator shares. An accelerator
// derives its vCPU from this and says how guest code runs, how it is made to leave it, and how the state becomes complete.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "src/event/clock.h"
#include "src/vm/machine.h"

namespace vmm::vm {

class ThreadedVcpu : public Vcpu {
 public:
  void post(Request request) override;
  void run(std::function<void()> work) override { run(std::move(work), true); }
  void drop_events() override;
  Result<> start() override;
  void resume() override;
  void step(StepOptions options) override;
  void request_stop() override;
  void wait_stopped() override;
  void finish() override;
  int host_thread_id() const override { return thread_id_.load(std::memory_order_relaxed); }
  bool halted() const override { return waiting_.load(std::memory_order_relaxed); }

  // As run(), for work that leaves the architectural state alone.
  void run_quietly(std::function<void()> work) { run(std::move(work), false); }
  // The exclusive section of another vCPU, or who slows the guest down: hold() returns when this one stands still, which it does until
  // everybody who holds it has called let_go().
  void hold();
  void let_go();
  // The thread runs no guest code: others may run work for it meanwhile. On its own thread; nests.
  void park();
  void unpark();
  // The vCPU whose thread this is, or null.
  static ThreadedVcpu* current();

 protected:
  // `requests`: where posted requests are collected (bits of Request). `kind`: of the thread's name, "CPU 0/KIND".
  ThreadedVcpu(Machine& machine, unsigned index, u32 apic_id, const x86::CpuModel& model, std::atomic<u32>& requests, std::string_view kind)
      : Vcpu(machine, index, apic_id, model), requests_(requests), kind_(kind) {}
  // Derived destructors call finish() first.

  // Before the thread exists; machine lock held.
  virtual Result<> prepare() { return {}; }
  // First thing on the thread; others may ask this vCPU for something already, and wait.
  virtual void thread_begins() {}
  // Guest code, until stop, work or exit is requested or there is nothing to run (halted, waiting for SIPI, shut down).
  virtual void execute() = 0;
  // execute() must look at the requests again soon. Any thread.
  virtual void leave_guest() = 0;
  // Somebody is about to look at state(): complete it. On the thread, or for it while it stands still.
  virtual void complete_state() {}
  // Anything in state() may have been changed: by work, by a reset, while it was stopped. The same.
  virtual void state_replaced() = 0;
  // execute() shall do one instruction, or (null) go on; said before each. What it ended for, if that is a debugger's business.
  virtual void set_step(const StepOptions* step) {}
  virtual DebugStop take_debug_stop() { return {}; }
  // A halted CPU: is there something to do? How long may it sleep at most? And it has slept. On the thread.
  virtual bool wanted() const = 0;
  virtual Nanoseconds longest_sleep() const { return Nanoseconds::max(); }
  virtual void slept() {}

 private:
  struct Work {
    std::function<void()>* f;
    bool replaces_state;
    bool done = false;
  };
  void run(std::function<void()> work, bool replaces_state);
  void perform(std::function<void()>& work, bool replaces_state);
  void go_on(std::optional<StepOptions> step);
  void thread_main();
  void serve_work();  // request_mutex_ held
  void wait_released(std::unique_lock<std::mutex>& lock);
  bool stands_still() const { return parked_ || stopped_ || waiting_for_release_; }  // request_mutex_ held
  void wait_for_event();
  void wake();

  std::atomic<u32>& requests_;
  std::string_view kind_;
  std::thread thread_;
  std::atomic<int> thread_id_{0};
  std::atomic<bool> waiting_{false};  // halted, in the kernel
  std::atomic<u32> wakeups_{0};

  std::mutex request_mutex_;  // "request lock": guards the rest
  std::condition_variable changed_;
  std::deque<Work*> work_;
  unsigned parked_ = 0;  // depth
  bool stopped_ = true, stop_asked_ = true, exit_asked_ = false;
  unsigned held_ = 0;  // by so many
  bool waiting_for_release_ = false;
  std::optional<StepOptions> step_;  // as resumed
};

}  // namespace vmm::vm
