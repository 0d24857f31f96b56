// See vcpu.h.
#include "accel/auto/vcpu.h"

#include "accel/tcg/guest/x86/system.h"

namespace vmm::both {

using kvm::KvmCpu;
using vmm::x86::Activity;

AutoVcpu::AutoVcpu(AutoAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model)
    : TcgVcpu(accelerator, machine, index, apic_id, model), owner_(accelerator), kvm_(*accelerator.kvm(), *this, system_.requests) {
  // One counter for both: at the rate of KVM's.
  system_.guest_clock = [](void* self) { return static_cast<AutoVcpu*>(self)->kvm_.ticks(); };
  system_.clock_self = this;
  turns_left_ = owner_.forced_period();
}

Result<GuestPhys> AutoVcpu::translate(GuestVirt address) {
  complete_state();
  return TcgVcpu::translate(address);
}

void AutoVcpu::drop_events() {
  TcgVcpu::drop_events();
  kvm_.take_accepted();
}

// Any thread: it is not known here which engine it is in.
void AutoVcpu::leave_guest() {
  TcgVcpu::leave_guest();
  kvm_.leave_guest();
}

void AutoVcpu::complete_state() {
  if (in_kvm_) kvm_.complete_state();
}

void AutoVcpu::state_replaced() {
  if (in_kvm_) kvm_.state_replaced();
  // Breakpoints of a debugger are looked at before each stretch, caches of the translator are empty while it is in KVM.
  TcgVcpu::state_replaced();
}

// What KVM has no place for stays in the translator: system management mode, masked A20, and who is watched by a debugger.
bool AutoVcpu::fit_for_kvm() const {
  return !state_.smm && state_.a20 && state_.activity == Activity::running && !state_.smi_pending && !state_.init_pending &&
         !state_.sipi_pending && !system_.monitor_armed && !system_.trap_after && system_.step == tcg::x86::System::Step::none &&
         !machine().debug().any();
}

void AutoVcpu::to_kvm() {
  kvm_.take_over();
  in_kvm_ = true;
  owner_.account().to_kvm.fetch_add(1, std::memory_order_relaxed);
}

void AutoVcpu::to_translator(Cause cause) {
  kvm_.complete_state();
  in_kvm_ = false;
  owner_.account().to_translator[static_cast<unsigned>(cause)].fetch_add(1, std::memory_order_relaxed);
  owner_.kvm()->harvest_all();
  TcgVcpu::state_replaced();
  // What KVM had begun to deliver, and not yet done.
  i16 exception = std::exchange(state_.pending_exception, i16{-1});
  // The kernel has queued #UD for what it did not know; whether it is one, the translator finds.
  if (cause == Cause::instruction && exception == vmm::x86::vector_ud) exception = -1;
  if (exception >= 0) {
    state_.pending_has_code ? cpu_.raise(static_cast<u8>(exception), state_.pending_code) : cpu_.raise(static_cast<u8>(exception));
    tcg::x86::deliver(cpu_);
  }
  if (const int vector = kvm_.take_accepted(); vector >= 0) {
    state_.activity = Activity::running;
    tcg::x86::deliver_external(cpu_, static_cast<u8>(vector), tcg::x86::EventKind::external);
  }
}

void AutoVcpu::execute() {
  const u64 period = owner_.forced_period();
  for (;;) {
    if (!in_kvm_) {
      if (turns_left_ == 0 && fit_for_kvm() && (period || owner_.kvm_pays())) {
        to_kvm();
        continue;
      }
      const Stretch stretch{owner_.account().translator_ns};
      if (machine().debug().any() || system_.step != tcg::x86::System::Step::none) return TcgVcpu::execute();
      if (!period && !owner_.kvm_pays()) return TcgVcpu::execute();
      const u64 turns = std::clamp<u64>(turns_left_, 1, turns_at_a_time);
      turns_left_ -= std::min(turns_left_, turns);
      if (!loop_->run_some(turns)) return;
      continue;
    }
    if (!fit_for_kvm() && state_.activity == Activity::running) {
      to_translator(machine().debug().any() ? Cause::debugger : Cause::mode);
      continue;
    }
    KvmCpu::Left left;
    u64 taken = 0;
    {
      const Stretch stretch{owner_.account().kvm_ns};
      left = kvm_.run(period ? period : ~u64{0});
      taken = stretch.taken();
    }
    switch (left) {
      case KvmCpu::Left::asked:
      case KvmCpu::Left::debug: return;
      case KvmCpu::Left::enough: to_translator(Cause::forced); break;
      case KvmCpu::Left::event: to_translator(Cause::event); break;
      case KvmCpu::Left::emulation: to_translator(Cause::instruction); break;
      case KvmCpu::Left::refused: to_translator(Cause::refused); break;
      case KvmCpu::Left::internal_error: to_translator(Cause::trouble); break;
    }
    // Who comes back soon waits longer the next time.
    patience_ = taken > 1'000'000 ? first_patience : std::min(patience_ * 2, longest_patience);
    turns_left_ = period ? period : patience_;
  }
}

}  // namespace vmm::both
