// A vCPU of the translator's whose programs KVM runs while they neither enter their kernel nor are interrupted: for hosts where KVM has no
// hardware under it and interprets kernels, and programs run natively.
#pragma once

#include "accel/auto/auto.h"
#include "accel/auto/user_cpu.h"
#include "accel/tcg/vcpu.h"

namespace vmm::both {

class ProgramVcpu final : public tcg::TcgVcpu {
 public:
  ProgramVcpu(AutoAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~ProgramVcpu() override { finish(); }
  Result<> open() { return user_.open(); }
  const UserSpace& space() const { return user_.space(); }

 private:
  void execute() override;
  void leave_guest() override;
  void state_replaced() override;
  void stretch();

  AutoAccelerator& owner_;
  UserCpu user_;
  // In interrupts: how long not to try again; and how long a stretch must be to be worth it.
  u64 patience_ = 1;
  static constexpr u64 longest_patience = 64, worth_ns = 400'000;
};

}  // namespace vmm::both
