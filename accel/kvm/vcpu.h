// A vCPU of KVM: a thread (src/vm/vcpu_thread.h) in KVM_RUN. Registers stay in the kernel until somebody wants to see State, and go back
// before the next entry when somebody may have changed it.
#pragma once

#include <linux/kvm.h>

#include "accel/kvm/kvm.h"
#include "src/vm/vcpu_thread.h"

namespace vmm::kvm {

class KvmVcpu final : public vm::ThreadedVcpu {
 public:
  KvmVcpu(KvmAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model);
  ~KvmVcpu() override;
  Result<> open();  // makes the kernel's side

  u64 read_tsc() override;
  u64 tsc_hz() const override { return tsc_hz_; }
  Result<GuestPhys> translate(GuestVirt address) override;
  // Makes it leave guest code soon. Any thread.
  void leave_guest() override;
  // Returns when it is not in guest code. Any other thread, with KvmAccelerator::changing() set.
  void wait_outside() { in_guest_.wait(true, std::memory_order_seq_cst); }

 private:
  Result<> prepare() override;
  void execute() override;
  void complete_state() override;
  void state_replaced() override { dirty_ = true; }
  bool wanted() const override;

  // registers.cpp
  Result<> get_registers();
  Result<> put_registers();
  Result<> get_fpu();
  Result<> put_fpu();
  Result<> get_msrs();
  Result<> put_msrs();
  void get_events();
  Result<> put_events();
  // vcpu.cpp
  Result<> set_cpuid();
  bool take_requests();  // false: nothing to run now
  void offer_interrupt();
  void finish_io();
  int enter();  // one KVM_RUN; its errno, or 0
  bool handle_exit();
  void port_io();
  void mmio();
  bool broken(std::string why);  // the machine stops; returns false
  u64 guest_nanoseconds() const;

  KvmAccelerator& accelerator_;
  std::atomic<u32> requests_{0};
  Fd fd_;
  kvm_run* run_ = nullptr;
  usize run_bytes_ = 0, xsave_bytes_ = 4096;
  u64 tsc_hz_ = 1'000'000'000;
  std::atomic<bool> in_guest_{false};
  bool fetched_ = true;     // state() holds what the CPU has
  bool dirty_ = true;       // and more than that: it must go to the kernel
  bool answering_ = false;  // a device answers an access of the guest
  bool io_open_ = false;    // an access of the guest that the next entry completes
  bool ready_ = false;      // the kernel would take an interrupt now
  u64 tsc_offset_put_ = 0;
  bool tsc_put_ = false;
};

}  // namespace vmm::kvm
