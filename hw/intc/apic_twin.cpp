// A local APIC whose twin is in the accelerator (src/vm/irqchip.h): its registers there and back. Layout of the page: SDM 3A table 11-1.
#include "hw/intc/apic.h"

namespace vmm::hw {

namespace {
enum Page : u32 {
  p_id = 0x20,
  p_version = 0x30,
  p_tpr = 0x80,
  p_ldr = 0xd0,
  p_dfr = 0xe0,
  p_svr = 0xf0,
  p_isr = 0x100,
  p_tmr = 0x180,
  p_irr = 0x200,
  p_esr = 0x280,
  p_icr = 0x300,
  p_icr_high = 0x310,
  p_lvt = 0x320,
  p_initial = 0x380,
  p_current = 0x390,
  p_divide = 0x3e0,
};
constexpr u32 divisor_of(u32 divide) {
  const u32 code = (divide & 3) | (divide >> 1 & 4);
  return code == 7 ? 1 : 2u << code;
}
}  // namespace

// The twin counts in the host's time; State's timer says when it is due in the guest's.
void Apic::pull() {
  if (!kernel()) return;
  const vm::LocalApicImage k = kernel()->local_apic(*vcpu_);
  ApicState s;
  s.base = k.base, s.tsc_deadline = k.tsc_deadline;
  s.icr = k.at(p_icr) | u64{k.at(p_icr_high)} << 32;
  s.tpr = k.at(p_tpr), s.ldr = k.at(p_ldr), s.dfr = k.at(p_dfr), s.svr = k.at(p_svr), s.esr = k.at(p_esr);
  s.divide = k.at(p_divide), s.initial_count = k.at(p_initial);
  for (u32 i = 0; i < 6; i++) s.lvt[i] = k.at(p_lvt + 16 * i);
  for (u32 i = 0; i < 8; i++) s.isr[i] = k.at(p_isr + 16 * i), s.tmr[i] = k.at(p_tmr + 16 * i), s.irr[i] = k.at(p_irr + 16 * i);
  const i64 now = timer_.now().count(), unit = divisor_of(s.divide), left = i64{k.at(p_current)} * unit;
  s.timer_start_ns = std::max<i64>(0, now + left - i64{s.initial_count} * unit);
  if (left && !(s.lvt[0] & 1 << 16)) s.timer_due_ns = now + left;
  if (s.tsc_deadline) {
    const u64 tsc = vcpu_->read_tsc(), ticks = s.tsc_deadline > tsc ? s.tsc_deadline - tsc : 0;
    s.timer_due_ns = now + static_cast<i64>(std::min<u128>(u128{ticks} * 1'000'000'000 / std::max<u64>(vcpu_->tsc_hz(), 1), u64{1} << 61));
  }
  static_cast<void>(restore(s));
}

void Apic::push() {
  if (!kernel()) return;
  vm::LocalApicImage k;
  const ApicState s = saved();
  k.base = s.base, k.tsc_deadline = s.tsc_deadline;
  k.at(p_id) = id_ << 24, k.at(p_version) = version_ | 5 << 16;
  k.at(p_tpr) = s.tpr, k.at(p_ldr) = s.ldr, k.at(p_dfr) = s.dfr, k.at(p_svr) = s.svr, k.at(p_esr) = s.esr;
  k.at(p_icr) = static_cast<u32>(s.icr), k.at(p_icr_high) = static_cast<u32>(s.icr >> 32);
  k.at(p_divide) = s.divide, k.at(p_initial) = s.initial_count;
  for (u32 i = 0; i < 6; i++) k.at(p_lvt + 16 * i) = s.lvt[i];
  for (u32 i = 0; i < 8; i++) k.at(p_isr + 16 * i) = s.isr[i], k.at(p_tmr + 16 * i) = s.tmr[i], k.at(p_irr + 16 * i) = s.irr[i];
  // One that has counted down would begin anew: it says nothing of its count then, which no guest asks for.
  const i64 now = timer_.now().count(), unit = divisor_of(s.divide), period = i64{s.initial_count} * unit;
  if (const unsigned mode = s.lvt[0] >> 17 & 3; mode == 0 && period) {
    const i64 left = s.timer_start_ns + period - now;
    k.at(p_current) = left > 0 ? static_cast<u32>(left / unit) : 0;
    if (!k.at(p_current)) k.at(p_initial) = 0;
  } else if (mode == 1 && period) {
    k.at(p_current) = static_cast<u32>((period - (now - s.timer_start_ns) % period) / unit);
  }
  kernel()->set_local_apic(*vcpu_, k);
}

}  // namespace vmm::hw
