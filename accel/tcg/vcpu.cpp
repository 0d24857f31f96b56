// See vcpu.h.
#include "accel/tcg/vcpu.h"

#include "accel/tcg/tcg.h"
#include "src/base/log.h"

namespace vmm::tcg {

TcgVcpu::TcgVcpu(TcgAccelerator& accelerator, vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model)
    : ThreadedVcpu(machine, index, apic_id, model, system_.requests, "TCG"), accelerator_(accelerator), cpu_(state_), system_(cpu_) {
  const vm::Topology& smp = machine.config.smp;
  system_.model = &model;
  system_.topology = {.sockets = smp.sockets, .dies = smp.dies, .cores = smp.cores, .threads = smp.threads};
  system_.apic_id = apic_id;
  system_.index = index;
  system_.bootstrap = index == 0;
  system_.sipi_vector = &sipi_vector_;
  system_.guest_clock = [](void* self) {
    return static_cast<u64>(static_cast<vm::Machine*>(self)->time_domain().now(Clock::guest).count());
  };
  system_.clock_self = &machine;
  system_.triple_fault = [](void* self) {
    auto& m = *static_cast<vm::Machine*>(self);
    m.run_state().request_reset(vm::Cause::guest_reset);
  };
  system_.machine_self = &machine;
  system_.park = [](void* self, bool in) { in ? static_cast<TcgVcpu*>(self)->park() : static_cast<TcgVcpu*>(self)->unpark(); };
  system_.park_self = this;
  system_.exclusive = [](void* self, bool in) {
    auto& v = *static_cast<TcgVcpu*>(self);
    v.accelerator_.exclusive(v, in);
  };
  system_.code_pages = &code_pages();
  vmm::x86::reset(state_, false, index == 0);
  accelerator_.add(*this);
}

TcgVcpu::~TcgVcpu() {
  finish();
  accelerator_.remove(*this);
}

u64 TcgVcpu::read_tsc() { return static_cast<u64>(machine().time_domain().now(Clock::guest).count()) + state_.tsc_offset; }

Result<> TcgVcpu::prepare() {
  system_.memory = &memory();
  system_.smm_memory = &smm_memory();
  system_.ports = &ports();
  system_.interrupts = interrupts();
  system_.coprocessor = machine().coprocessor_error();
  x86::prepare(system_);
  loop_ = std::make_unique<VcpuLoop>(
      accelerator_.store(), system_,
      [](void* self, u64 page, const u8*) {
        auto& v = *static_cast<TcgVcpu*>(self);
        v.accelerator_.drop_writes(v, page);
      },
      this);
  return {};
}

Result<GuestPhys> TcgVcpu::translate(GuestVirt address) {
  u64 physical = 0;
  if (!system_.memory || !x86::debug_walk(cpu_, address.value, 0, physical)) return fail("no translation for {:#x}", address.value);
  return GuestPhys{physical};
}

void TcgVcpu::drop_writes(u64 page) {
  x86::drop_writes_of(cpu_, static_cast<memory::PageNumber>(page));
  if (loop_ && loop_->tier()) loop_->tier()->drop_writes(page);
}

void TcgVcpu::state_replaced() {
  if (!system_.memory) return;
  system_.interrupts = interrupts();
  system_.smm_memory = &smm_memory();
  system_.debug = machine().debug().any() ? &machine().debug() : nullptr;
  x86::update_breakpoints(cpu_);
  x86::flush_everything(cpu_);
  x86::mode_changed(cpu_);
}

bool TcgVcpu::wanted() const {
  return state_.activity == vmm::x86::Activity::halted && system_.interrupts && (state_.rflags & vmm::x86::flag_if) &&
         system_.interrupts->pending();
}

// MWAIT ends with a store by another CPU to the monitored line too: that is not watched, so it never sleeps long.
Nanoseconds TcgVcpu::longest_sleep() const { return monitoring() ? Nanoseconds{200'000} : Nanoseconds::max(); }

void TcgVcpu::slept() {
  if (!monitoring()) return;
  system_.monitor_armed = false;
  state_.activity = vmm::x86::Activity::running;
}

void TcgVcpu::thread_begins() {
  FirstTier* const tier = accelerator_.tier();
  if (!tier) return;
  if (auto added = loop_->add_tier(*tier); !added) report_warning(format("CPU {} is interpreted: {}", index(), added.error().message));
  if (accelerator_.verify() && loop_->tier()) loop_->tier()->set_verify();
}

}  // namespace vmm::tcg
