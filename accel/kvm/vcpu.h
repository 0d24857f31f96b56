// A vCPU of KVM alone: a thread (src/vm/vcpu_thread.h) that runs a KvmCpu. What the kernel cannot do stops the machine.
#pragma once

#include "accel/kvm/cpu.h"

namespace vmm::kvm {

class KvmVcpu final : public vm::ThreadedVcpu {
 public:
  KvmVcpu(KvmAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~KvmVcpu() override { finish(); }
  Result<> open() { return cpu_.open(); }
  KvmCpu& cpu() { return cpu_; }

  u64 read_tsc() override { return cpu_.read_tsc(); }
  u64 tsc_hz() const override { return cpu_.tsc_hz(); }
  Result<GuestPhys> translate(GuestVirt address) override { return cpu_.translate(address); }
  void drop_events() override;

 private:
  Result<> prepare() override;
  void execute() override;
  void leave_guest() override { cpu_.leave_guest(); }
  void complete_state() override { cpu_.complete_state(); }
  void state_replaced() override { cpu_.state_replaced(); }
  bool wanted() const override { return cpu_.wanted(); }
  void set_step(const vm::StepOptions* step) override { cpu_.set_debug(machine().debug().points(), step); }
  vm::DebugStop take_debug_stop() override { return cpu_.take_debug_stop(); }

  std::atomic<u32> requests_{0};
  KvmCpu cpu_;
};

}  // namespace vmm::kvm
