// See program_vcpu.h.
#include "accel/auto/program_vcpu.h"

#include <algorithm>

namespace vmm::both {

ProgramVcpu::ProgramVcpu(AutoAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model)
    : TcgVcpu(accelerator, machine, index, apic_id, model),
      owner_(accelerator),
      user_(
          *accelerator.programs(), *this, cpu_, accelerator.store(),
          [](void* self, u64 page) {
            auto& v = *static_cast<ProgramVcpu*>(self);
            v.owner_.drop_writes(v, page);
          },
          this) {
  system_.program_at = 0;
}

// Any thread.
void ProgramVcpu::leave_guest() {
  TcgVcpu::leave_guest();
  user_.leave_guest();
}

void ProgramVcpu::state_replaced() {
  user_.state_replaced();
  TcgVcpu::state_replaced();
}

void ProgramVcpu::execute() {
  if (machine().debug().any() || system_.step != tcg::x86::System::Step::none) {
    const Stretch time{owner_.account().translator_ns};
    return TcgVcpu::execute();
  }
  for (;;) {
    {
      const Stretch time{owner_.account().translator_ns};
      if (!loop_->run_to_program()) return;
    }
    const bool interrupted = system_.interrupts && system_.interrupts->pending();
    if (!interrupted && user_.fits()) stretch();
  }
}

void ProgramVcpu::stretch() {
  Account& account = owner_.account();
  UserCpu::Left left;
  u64 taken;
  account.to_kvm.fetch_add(1, std::memory_order_relaxed);
  {
    const Stretch time{account.kvm_ns};
    left = user_.run();
    taken = time.taken();
  }
  static constexpr Cause causes[] = {Cause::event,     Cause::call,      Cause::fault,  Cause::code,
                                     Cause::exception, Cause::exception, Cause::trouble};
  account.to_translator[static_cast<unsigned>(causes[static_cast<unsigned>(left)])].fetch_add(1, std::memory_order_relaxed);
  tcg::x86::mode_changed(cpu_);
  if (left == UserCpu::Left::trap) {
    tcg::x86::after_instruction(cpu_, true);
    tcg::x86::deliver(cpu_);
  }
  // Who comes back soon waits longer the next time; a program that is interrupted goes on there when its kernel is done.
  patience_ = taken >= worth_ns && left != UserCpu::Left::trouble ? 1 : std::min(patience_ * 2, longest_patience);
  system_.program_at = owner_.programs_always() ? 0 : system_.interrupts_taken + patience_;
}

}  // namespace vmm::both
