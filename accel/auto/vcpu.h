// A vCPU that is in one of two engines. While it is in KVM, the registers are the kernel's, and the translator knows nothing; on the way
// back the translator forgets all that depends on page tables, and blocks of pages that were stored to.
#pragma once

#include "accel/auto/auto.h"
#include "accel/kvm/cpu.h"
#include "accel/tcg/vcpu.h"

namespace vmm::both {

class AutoVcpu final : public tcg::TcgVcpu {
 public:
  AutoVcpu(AutoAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~AutoVcpu() override { finish(); }
  Result<> open() { return kvm_.open(); }

  u64 read_tsc() override { return kvm_.read_tsc(); }
  u64 tsc_hz() const override { return kvm_.tsc_hz(); }
  Result<GuestPhys> translate(GuestVirt address) override;
  void drop_events() override;

 private:
  void execute() override;
  void leave_guest() override;
  void complete_state() override;
  void state_replaced() override;
  bool wanted() const override { return in_kvm_ ? kvm_.wanted() : TcgVcpu::wanted(); }
  Nanoseconds longest_sleep() const override { return in_kvm_ ? Nanoseconds::max() : TcgVcpu::longest_sleep(); }

  bool fit_for_kvm() const;
  void to_kvm();
  void to_translator(Cause cause);

  AutoAccelerator& owner_;
  kvm::KvmCpu kvm_;
  bool in_kvm_ = false;
  u64 patience_ = first_patience, turns_left_ = 0;
  static constexpr u64 first_patience = 64, longest_patience = 1 << 16, turns_at_a_time = 64;
};

}  // namespace vmm::both
