// See vcpu.h.
#include "accel/kvm/vcpu.h"

namespace vmm::kvm {

KvmVcpu::KvmVcpu(KvmAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model)
    : ThreadedVcpu(machine, index, apic_id, model, requests_, "KVM"), cpu_(accelerator, *this, requests_) {
  vmm::x86::reset(state_, false, index == 0);
}

Result<> KvmVcpu::prepare() {
  cpu_.state_replaced();
  return {};
}

void KvmVcpu::drop_events() {
  ThreadedVcpu::drop_events();
  cpu_.take_accepted();
}

void KvmVcpu::execute() {
  const KvmCpu::Left left = cpu_.run(~u64{0});
  if (left == KvmCpu::Left::asked || left == KvmCpu::Left::debug) return;
  machine().run_state().internal_error(format("KVM: CPU {}: {}", index(), cpu_.why()));
  // The main loop stops the machine soon; until then there is nothing to run.
  cpu_.complete_state();
  state_.activity = vmm::x86::Activity::shutdown;
}

}  // namespace vmm::kvm
