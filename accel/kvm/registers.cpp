// State from the kernel and back. Source: Linux, Documentation/virt/kvm/api.rst §4; layouts of XSAVE: SDM 1 chapter 13.
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "accel/kvm/convert.h"
#include "accel/kvm/cpu.h"
#include "src/base/bits.h"
#include "src/x86/msr.h"

namespace vmm::kvm {

using vmm::x86::Segment;
using vmm::x86::State;

namespace {

// Plain MSRs of State, each with its place there; visit(number, place).
template <class S, class Visit>
void each_msr(S& s, Visit visit) {
  using namespace vmm::x86;
  visit(msr_star, s.star), visit(msr_lstar, s.lstar), visit(msr_cstar, s.cstar), visit(msr_sfmask, s.sfmask);
  visit(msr_kernel_gs_base, s.kernel_gs_base);
  visit(msr_sysenter_cs, s.sysenter_cs), visit(msr_sysenter_esp, s.sysenter_esp), visit(msr_sysenter_eip, s.sysenter_eip);
  visit(msr_pat, s.pat), visit(msr_tsc_aux, s.tsc_aux), visit(msr_misc_enable, s.misc_enable);
  visit(msr_spec_ctrl, s.spec_ctrl);
  visit(msr_mtrr_def_type, s.mtrr_def_type);
  for (u32 i = 0; i < 8; i++) visit(msr_mtrr_base0 + 2 * i, s.mtrr_base[i]), visit(msr_mtrr_base0 + 2 * i + 1, s.mtrr_mask[i]);
  visit(msr_mtrr_fix64k, s.mtrr_fixed[0]);
  visit(msr_mtrr_fix16k_80000, s.mtrr_fixed[1]), visit(msr_mtrr_fix16k_a0000, s.mtrr_fixed[2]);
  for (u32 i = 0; i < 8; i++) visit(msr_mtrr_fix4k_c0000 + i, s.mtrr_fixed[3 + i]);
}

}  // namespace

// SPEC_CTRL and others are there only with their feature; the kernel's list says what it keeps at all.
static bool offered(const KvmAccelerator& kvm, const vmm::x86::CpuModel& model, u32 number) {
  using F = vmm::x86::CpuFeature;
  switch (number) {
    case vmm::x86::msr_spec_ctrl: return kvm.has_msr(number) && (model.has(F::spec_ctrl) || model.has(F::ibrs));
    case vmm::x86::msr_tsc_aux: return kvm.has_msr(number) && (model.has(F::rdtscp) || model.has(F::rdpid));
    case vmm::x86::msr_star: return kvm.has_msr(number);
    case vmm::x86::msr_lstar:
    case vmm::x86::msr_cstar:
    case vmm::x86::msr_sfmask:
    case vmm::x86::msr_kernel_gs_base: return kvm.has_msr(number) && model.has(F::lm);
    default:
      // MTRRs need no entry in the list.
      if (number >= vmm::x86::msr_mtrr_base0 && number <= vmm::x86::msr_mtrr_def_type && number != vmm::x86::msr_pat)
        return model.has(F::mtrr);
      return kvm.has_msr(number) || number == vmm::x86::msr_pat;
  }
}

Result<> KvmCpu::get_registers() {
  State& s = state_;
  kvm_regs r;
  kvm_sregs2 k;
  kvm_debugregs d;
  if (::ioctl(fd_.get(), KVM_GET_REGS, &r) < 0 || ::ioctl(fd_.get(), KVM_GET_SREGS2, &k) < 0 ||
      ::ioctl(fd_.get(), KVM_GET_DEBUGREGS, &d) < 0)
    return fail("registers cannot be read: {}", std::strerror(errno));
  s.gpr = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  s.rip = r.rip, s.rflags = r.rflags;
  const kvm_segment* const segments[] = {&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs};
  for (unsigned i = 0; i < 6; i++) s.segment[i] = from(*segments[i]);
  s.ldtr = from(k.ldt), s.tr = from(k.tr);
  s.gdtr = {k.gdt.base, k.gdt.limit}, s.idtr = {k.idt.base, k.idt.limit};
  s.cr0 = k.cr0, s.cr2 = k.cr2, s.cr3 = k.cr3, s.cr4 = k.cr4, s.cr8 = k.cr8, s.efer = k.efer;
  if (k.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) std::memcpy(s.pae_pdpte.data(), k.pdptrs, sizeof k.pdptrs);
  for (unsigned i = 0; i < 4; i++) s.dr[i] = d.db[i];
  s.dr6 = d.dr6, s.dr7 = d.dr7;
  if (model().has(vmm::x86::CpuFeature::xsave)) {
    kvm_xcrs x{};
    if (::ioctl(fd_.get(), KVM_GET_XCRS, &x) < 0) return fail("XCR0 cannot be read: {}", std::strerror(errno));
    for (u32 i = 0; i < x.nr_xcrs; i++)
      if (x.xcrs[i].xcr == 0) s.xcr0 = x.xcrs[i].value;
  }
  TRY(get_fpu());
  TRY(get_msrs());
  TRY(get_activity());
  get_events();
  return {};
}

Result<> KvmCpu::put_registers() {
  State& s = state_;
  if (interrupts() && !apic_in_kernel_) s.cr8 = interrupts()->tpr() >> 4;
  kvm_sregs2 k{};
  kvm_segment* const segments[] = {&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs};
  for (unsigned i = 0; i < 6; i++) *segments[i] = to(s.segment[i]);
  // Intel's hardware insists that CPL is that of SS, also where SS is null.
  k.ldt = to(s.ldtr), k.tr = to(s.tr);
  k.gdt = {.base = s.gdtr.base, .limit = s.gdtr.limit}, k.idt = {.base = s.idtr.base, .limit = s.idtr.limit};
  k.cr0 = s.cr0, k.cr2 = s.cr2, k.cr3 = s.cr3, k.cr4 = s.cr4, k.cr8 = apic_in_kernel_ ? cr8_ : s.cr8, k.efer = s.efer;
  k.apic_base = apic_in_kernel_ ? apic_base_ : interrupts() ? interrupts()->base_msr() : 0;
  if ((s.cr0 & vmm::x86::cr0_pg) && (s.cr4 & vmm::x86::cr4_pae) && !s.long_mode()) {
    k.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    std::memcpy(k.pdptrs, s.pae_pdpte.data(), sizeof k.pdptrs);
  }
  if (model().has(vmm::x86::CpuFeature::xsave)) {
    kvm_xcrs x{.nr_xcrs = 1, .flags = 0, .xcrs = {{.xcr = 0, .reserved = 0, .value = s.xcr0}}, .padding = {}};
    if (::ioctl(fd_.get(), KVM_SET_XCRS, &x) < 0) return fail("XCR0 {:#x} is refused: {}", s.xcr0, std::strerror(errno));
  }
  TRY(put_fpu());
  if (::ioctl(fd_.get(), KVM_SET_SREGS2, &k) < 0) return fail("system registers are refused: {}", std::strerror(errno));
  const kvm_regs r{.rax = s.gpr[0],
                   .rbx = s.gpr[3],
                   .rcx = s.gpr[1],
                   .rdx = s.gpr[2],
                   .rsi = s.gpr[6],
                   .rdi = s.gpr[7],
                   .rsp = s.gpr[4],
                   .rbp = s.gpr[5],
                   .r8 = s.gpr[8],
                   .r9 = s.gpr[9],
                   .r10 = s.gpr[10],
                   .r11 = s.gpr[11],
                   .r12 = s.gpr[12],
                   .r13 = s.gpr[13],
                   .r14 = s.gpr[14],
                   .r15 = s.gpr[15],
                   .rip = s.rip,
                   .rflags = s.rflags};
  if (::ioctl(fd_.get(), KVM_SET_REGS, &r) < 0) return fail("registers are refused: {}", std::strerror(errno));
  kvm_debugregs d{};
  for (unsigned i = 0; i < 4; i++) d.db[i] = s.dr[i];
  d.dr6 = s.dr6, d.dr7 = s.dr7;
  if (::ioctl(fd_.get(), KVM_SET_DEBUGREGS, &d) < 0) return fail("debug registers are refused: {}", std::strerror(errno));
  TRY(put_msrs());
  TRY(put_activity());
  return put_events();
}

Result<> KvmCpu::get_fpu() {
  const auto area = std::make_unique<u64[]>(xsave_bytes_ / 8);
  u8* const at = reinterpret_cast<u8*>(area.get());
  if (::ioctl(fd_.get(), xsave_bytes_ > 4096 ? get_xsave2 : get_xsave, at) < 0)
    return fail("the FPU cannot be read: {}", std::strerror(errno));
  from_xsave(at, state_);
  return {};
}

Result<> KvmCpu::put_fpu() {
  const auto area = std::make_unique<u64[]>(xsave_bytes_ / 8);
  u8* const at = reinterpret_cast<u8*>(area.get());
  to_xsave(state_, vmm::x86::xcr0_mask(model()), at);
  if (::ioctl(fd_.get(), set_xsave, at) < 0) return fail("the FPU is refused: {}", std::strerror(errno));
  return {};
}

Result<> KvmCpu::get_msrs() {
  MsrTable list;
  const auto add = [&](u32 number) { list.entry[list.count++] = {.index = number, .reserved = 0, .data = 0}; };
  add(vmm::x86::msr_tsc);
  if (accelerator_.has_msr(vmm::x86::msr_tsc_adjust)) add(vmm::x86::msr_tsc_adjust);
  each_msr(state_, [&](u32 number, u64&) {
    if (offered(accelerator_, model(), number)) add(number);
  });
  const u32 wanted = list.count;
  const u64 before = ticks();
  if (const int n = ::ioctl(fd_.get(), get_msrs_request, &list); n != static_cast<int>(wanted))
    return fail("MSR {:#x} cannot be read", list.entry[n < 0 ? 0 : n].index);
  state_.tsc_offset = list.entry[0].data - before;
  tsc_offset_put_ = state_.tsc_offset;
  u32 i = 1;
  if (accelerator_.has_msr(vmm::x86::msr_tsc_adjust)) state_.tsc_adjust = list.entry[i++].data;
  each_msr(state_, [&](u32 number, u64& place) {
    if (offered(accelerator_, model(), number)) place = list.entry[i++].data;
  });
  return {};
}

Result<> KvmCpu::put_msrs() {
  MsrTable list;
  const auto add = [&](u32 number, u64 value) { list.entry[list.count++] = {.index = number, .reserved = 0, .data = value}; };
  each_msr(state_, [&](u32 number, u64& place) {
    if (offered(accelerator_, model(), number)) add(number, place);
  });
  // The counter goes on by itself; it is set only when it must differ (after a stop, a reset, a loaded state), so that those of several
  // CPUs stay together.
  const bool adjust = accelerator_.has_msr(vmm::x86::msr_tsc_adjust);
  if (!tsc_put_ || (!helper_ && tsc_offset_put_ != state_.tsc_offset)) {
    add(vmm::x86::msr_tsc, read_tsc());
    if (adjust) add(vmm::x86::msr_tsc_adjust, state_.tsc_adjust);
    tsc_put_ = true, tsc_offset_put_ = state_.tsc_offset;
  } else if (helper_) {
    if (adjust) add(vmm::x86::msr_tsc_adjust, state_.tsc_adjust);
    put_counter();
  }
  // After the counter.
  if (const auto deadline = std::exchange(deadline_due_, std::nullopt); deadline && *deadline) add(vmm::x86::msr_tsc_deadline, *deadline);
  if (const int n = ::ioctl(fd_.get(), set_msrs_request, &list); n != static_cast<int>(list.count))
    return fail("MSR {:#x} is refused the value {:#x}", list.entry[n < 0 ? 0 : n].index, list.entry[n < 0 ? 0 : n].data);
  return {};
}

// The other engine's clock and the kernel's run at the same rate but for their rounding: the guest's counter never goes back, and what lies
// far off (the machine stood still meanwhile) is set. A write of the MSR would not do: the kernel takes small steps for an attempt to bring
// CPUs together, and ignores them.
void KvmCpu::put_counter() {
  MsrTable now{.count = 1};
  now.entry[0].index = vmm::x86::msr_tsc;
  const u64 wanted = read_tsc();
  if (::ioctl(fd_.get(), get_msrs_request, &now) != 1) return;
  const i64 behind = static_cast<i64>(wanted - now.entry[0].data), far = static_cast<i64>(tsc_hz_ / 1000);
  if (behind <= 0 && behind > -far) return;
  u64 offset = 0;
  const kvm_device_attr attribute{
      .flags = 0, .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = reinterpret_cast<u64>(&offset)};
  if (::ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) == 0) {
    offset += static_cast<u64>(behind);
    if (::ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute) == 0) return;
  }
  now.entry[0].data = wanted;
  static_cast<void>(::ioctl(fd_.get(), set_msrs_request, &now));
}

// The kernel's local APIC knows whether its CPU waits; else State alone does.
Result<> KvmCpu::get_activity() {
  if (!apic_in_kernel_ || state_.activity == vmm::x86::Activity::shutdown) return {};
  kvm_mp_state now{};
  if (::ioctl(fd_.get(), KVM_GET_MP_STATE, &now) < 0) return fail("whether it waits cannot be read: {}", std::strerror(errno));
  state_.activity = now.mp_state == KVM_MP_STATE_HALTED     ? vmm::x86::Activity::halted
                    : now.mp_state == KVM_MP_STATE_RUNNABLE ? vmm::x86::Activity::running
                                                            : vmm::x86::Activity::wait_for_sipi;
  return {};
}

Result<> KvmCpu::put_activity() {
  if (!apic_in_kernel_) return {};
  using vmm::x86::Activity;
  const kvm_mp_state now{.mp_state = state_.activity == Activity::halted          ? u32{KVM_MP_STATE_HALTED}
                                     : state_.activity == Activity::wait_for_sipi ? u32{KVM_MP_STATE_UNINITIALIZED}
                                                                                  : u32{KVM_MP_STATE_RUNNABLE}};
  if (::ioctl(fd_.get(), KVM_SET_MP_STATE, &now) < 0) return fail("its waiting is refused: {}", std::strerror(errno));
  return {};
}

void KvmCpu::get_events() {
  kvm_vcpu_events e{};
  if (::ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, &e) < 0) return;
  State& s = state_;
  accepted_ = e.interrupt.injected && !e.interrupt.soft ? e.interrupt.nr : -1;
  s.nmi_blocked = e.nmi.masked;
  s.nmi_pending = e.nmi.pending || e.nmi.injected;
  s.sti_shadow = e.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
  s.mov_ss_shadow = e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
  s.pending_exception = e.exception.injected ? static_cast<i16>(e.exception.nr) : i16{-1};
  s.pending_has_code = e.exception.injected && e.exception.has_error_code;
  s.pending_code = e.exception.error_code;
}

Result<> KvmCpu::put_events() {
  const State& s = state_;
  kvm_vcpu_events e{};
  e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  e.nmi.masked = s.nmi_blocked;
  e.nmi.pending = s.nmi_pending;
  e.interrupt.shadow = static_cast<u8>((s.sti_shadow ? KVM_X86_SHADOW_INT_STI : 0) | (s.mov_ss_shadow ? KVM_X86_SHADOW_INT_MOV_SS : 0));
  // Acknowledged, and not delivered yet.
  if (accepted_ >= 0) e.interrupt.injected = 1, e.interrupt.nr = static_cast<u8>(accepted_);
  if (s.pending_exception >= 0) {
    e.exception.injected = 1;
    e.exception.nr = static_cast<u8>(s.pending_exception);
    e.exception.has_error_code = s.pending_has_code;
    e.exception.error_code = s.pending_code;
  }
  if (::ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &e) < 0) return fail("events are refused: {}", std::strerror(errno));
  return {};
}

}  // namespace vmm::kvm
