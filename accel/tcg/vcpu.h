// A vCPU of the TCG accelerator: a thread (src/vm/vcpu_thread.h) that runs a VcpuLoop.
#pragma once

#include "accel/tcg/run/loop.h"
#include "src/vm/vcpu_thread.h"

namespace vmm::tcg {

class TcgAccelerator;

class TcgVcpu : public vm::ThreadedVcpu {
 public:
  TcgVcpu(TcgAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~TcgVcpu() override;

  u64 read_tsc() override;
  u64 tsc_hz() const override { return 1'000'000'000; }
  Result<GuestPhys> translate(GuestVirt address) override;

  // Code appeared on a page: this vCPU forgets that it may write there. On its thread, or for it while it is parked.
  void drop_writes(u64 page);
  // Every right to write RAM without asking: a dirty log was switched on.
  void flush_writes() { x86::flush_writes(cpu_); }
  u64 table_bytes() const { return loop_ && loop_->tier() ? loop_->tier()->table_bytes() : 0; }
  const x86::System& system() const { return system_; }
  u64 blocks() const { return loop_ ? loop_->blocks() : 0; }

 protected:  // a vCPU with two engines derives
  Result<> prepare() override;
  void thread_begins() override;
  void execute() override { loop_->run(); }
  void leave_guest() override { cpu_.poll.store(0, std::memory_order_seq_cst); }
  void state_replaced() override;
  void set_step(const vm::StepOptions* step) override {
    using Step = x86::System::Step;
    system_.step = !step ? Step::none : step->hold_interrupts ? Step::alone : Step::plain;
  }
  vm::DebugStop take_debug_stop() override { return std::exchange(system_.debug_stop, {}); }
  bool wanted() const override;
  Nanoseconds longest_sleep() const override;
  void slept() override;

 private:
  bool monitoring() const { return system_.monitor_armed && state_.activity == vmm::x86::Activity::halted; }

  TcgAccelerator& accelerator_;

 protected:
  x86::Cpu cpu_;
  x86::System system_;
  std::unique_ptr<VcpuLoop> loop_;
};

}  // namespace vmm::tcg
