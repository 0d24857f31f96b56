// CPUID, model-specific registers, time stamps. Source: SDM 4 and 3A §17.17, AMD APM vol. 2 appendix A.
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/msr.h"

namespace vmm::tcg::x86 {

namespace {

using namespace vmm::x86;
using F = CpuFeature;

constexpr u64 mcg_cap = 10 | 1 << 8 | 1 << 24;  // ten banks, MCG_CTL, software error recovery
constexpr u64 mtrr_cap = 8 | 1 << 8 | 1 << 10;  // eight variable ranges, fixed ranges, write combining

// Index into State::mtrr_fixed, or −1.
int fixed_mtrr(u32 n) {
  if (n == msr_mtrr_fix64k) return 0;
  if (n == msr_mtrr_fix16k_80000 || n == msr_mtrr_fix16k_a0000) return static_cast<int>(n - msr_mtrr_fix16k_80000 + 1);
  if (n >= msr_mtrr_fix4k_c0000 && n < msr_mtrr_fix4k_c0000 + 8) return static_cast<int>(n - msr_mtrr_fix4k_c0000 + 3);
  return -1;
}
bool memory_type(u64 type) { return type == 0 || type == 1 || type == 4 || type == 5 || type == 6; }
bool pat_valid(u64 value) {
  for (unsigned i = 0; i < 8; ++i)
    if (const u64 type = value >> (8 * i) & 0xff; !memory_type(type) && type != 7) return false;
  return true;
}

// Registers of the chip around the core that kernels read and write without asking CPUID, since every part of that maker has them:
// they read 0 and writes change nothing.
bool bystander(const CpuModel& m, u32 n) {
  if (n >= msr_k7_event0 && n <= msr_k7_counter3) return m.amd();  // Xen clears the counters
  switch (n) {
    case msr_syscfg:
    case msr_hwcr:
    case msr_nb_cfg:
    case msr_patch_loader:
    case msr_int_pending:
    case msr_ls_cfg:
    case msr_ic_cfg:
    case msr_dc_cfg:
    case msr_bu_cfg:
    case msr_de_cfg:
    case msr_bu_cfg2: return m.amd();
    case msr_therm_control:
    case msr_therm_interrupt:
    case msr_therm_status: return m.has(F::acpi);
    case msr_osvw_length:
    case msr_osvw_status: return m.has(F::osvw);
    case msr_platform_id:
    case msr_ebl_cr_poweron:
    case msr_fsb_freq:
    case msr_platform_info:
    case msr_pkg_cst_config:
    case msr_misc_feature_control:
    case msr_lbr_control:
    case msr_power_ctl: return !m.amd();
    default: return false;
  }
}

// Whole groups that a model may lack.
bool exists(const CpuModel& m, u32 n) {
  if (n == msr_mtrr_cap || n == msr_mtrr_def_type || (n >= msr_mtrr_base0 && n < msr_mtrr_base0 + 16) || fixed_mtrr(n) >= 0)
    return m.has(F::mtrr);
  if ((n >= msr_mcg_cap && n <= msr_mcg_ctl) || (n >= msr_mc0_ctl && n < msr_mc0_ctl + 40)) return m.has(F::mca);
  if (n >= msr_sysenter_cs && n <= msr_sysenter_eip) return m.has(F::sep);
  return n != msr_pat || m.has(F::pat);
}

// False: #GP.
bool read_msr(Cpu& cpu, u32 n, u64& v) {
  State& s = cpu.state;
  System& system = system_of(cpu);
  const CpuModel& m = *system.model;
  v = 0;
  if (!exists(m, n)) return false;
  if (n >= msr_x2apic_first && n <= msr_x2apic_last) return system.interrupts && m.has(F::x2apic) && system.interrupts->read_x2apic(n, v);
  if (n >= msr_mtrr_base0 && n < msr_mtrr_base0 + 16) return v = (n & 1 ? s.mtrr_mask : s.mtrr_base)[(n - msr_mtrr_base0) / 2], true;
  if (const int i = fixed_mtrr(n); i >= 0) return v = s.mtrr_fixed[static_cast<unsigned>(i)], true;
  if (n >= msr_mc0_ctl && n < msr_mc0_ctl + 40) return v = s.mc_bank[(n - msr_mc0_ctl) / 4][n & 3], true;
  switch (n) {
    case msr_tsc: v = read_tsc(cpu); return true;
    case msr_apic_base: v = system.interrupts ? system.interrupts->base_msr() : 0; return true;
    case msr_feature_control: v = 1; return true;
    case msr_tsc_adjust: v = s.tsc_adjust; return m.has(F::tsc_adjust);
    case msr_spec_ctrl: v = s.spec_ctrl; return m.has(F::spec_ctrl);
    case msr_ucode_rev: v = m.amd() ? 0x0100'0065 : u64{0x1'0000'0000}; return true;
    case msr_mtrr_cap: v = mtrr_cap; return true;
    case msr_arch_capabilities: v = m.features[Word::arch_capabilities]; return m.has(F::arch_capabilities);
    case msr_sysenter_cs: v = s.sysenter_cs; return true;
    case msr_sysenter_esp: v = s.sysenter_esp; return true;
    case msr_sysenter_eip: v = s.sysenter_eip; return true;
    case msr_mcg_cap: v = mcg_cap; return true;
    case msr_mcg_status: v = s.mcg_status; return true;
    case msr_mcg_ctl: v = s.mcg_ctl; return true;
    case msr_perf_status: v = 1000; return true;
    case msr_misc_enable: v = s.misc_enable; return true;
    case msr_pat: v = s.pat; return true;
    case msr_mtrr_def_type: v = s.mtrr_def_type; return true;
    case msr_tsc_deadline: v = system.interrupts ? system.interrupts->tsc_deadline() : 0; return m.has(F::tsc_deadline);
    case msr_xss: v = s.xss; return m.has(F::xsaves);
    case msr_efer: v = s.efer; return true;
    case msr_star: v = s.star; return true;
    case msr_lstar: v = s.lstar; return m.has(F::lm);
    case msr_cstar: v = s.cstar; return m.has(F::lm);
    case msr_sfmask: v = s.sfmask; return m.has(F::lm);
    case msr_fs_base: v = s.segment[fs].base; return m.has(F::lm);
    case msr_gs_base: v = s.segment[gs].base; return m.has(F::lm);
    case msr_kernel_gs_base: v = s.kernel_gs_base; return m.has(F::lm);
    case msr_tsc_aux: v = s.tsc_aux; return m.has(F::rdtscp) || m.has(F::rdpid);
    case msr_vm_cr: v = 0x18; return true;  // SVM off and locked
    default: return bystander(m, n) || (guest_error("cpu", "rdmsr {:#x}: no such register", n), false);
  }
}

bool write_msr(Cpu& cpu, u32 n, u64 v) {
  State& s = cpu.state;
  System& system = system_of(cpu);
  const CpuModel& m = *system.model;
  if (!exists(m, n)) return false;
  const auto put_canonical = [&](u64& field) { return canonical(cpu, v) ? (field = v, true) : false; };
  if (n >= msr_x2apic_first && n <= msr_x2apic_last) {
    cpu.leave = true;
    if (n == msr_x2apic_first + 0xb) {  // EOI: the end of a level interrupt takes the machine lock
      const ParkedScope parked{system};
      return system.interrupts && m.has(F::x2apic) && system.interrupts->write_x2apic(n, v);
    }
    return system.interrupts && m.has(F::x2apic) && system.interrupts->write_x2apic(n, v);
  }
  if (n >= msr_mtrr_base0 && n < msr_mtrr_base0 + 16) {
    if (v & system.physical_mask || v >> 52 || (n & 1 ? v & 0x7ff : v & 0xf00 || !memory_type(v & 0xff))) return false;
    return (n & 1 ? s.mtrr_mask : s.mtrr_base)[(n - msr_mtrr_base0) / 2] = v, true;
  }
  if (const int i = fixed_mtrr(n); i >= 0) {
    for (unsigned b = 0; b < 8; ++b)
      if (!memory_type(v >> (8 * b) & 0xff)) return false;
    return s.mtrr_fixed[static_cast<unsigned>(i)] = v, true;
  }
  if (n >= msr_mc0_ctl && n < msr_mc0_ctl + 40) {
    if ((n & 3) == 1 && v && !m.amd()) return false;
    return s.mc_bank[(n - msr_mc0_ctl) / 4][n & 3] = v, true;
  }
  switch (n) {
    case msr_tsc: {
      const u64 change = v - read_tsc(cpu);
      s.tsc_offset += change;
      s.tsc_adjust += change;
      return true;
    }
    case msr_apic_base: {
      if (!system.interrupts) return true;
      const bool ok = system.interrupts->set_base_msr(v);
      flush_everything(cpu);
      return ok;
    }
    case msr_feature_control: return false;  // locked
    case msr_tsc_adjust:
      if (!m.has(F::tsc_adjust)) return false;
      s.tsc_offset += v - s.tsc_adjust;
      s.tsc_adjust = v;
      return true;
    case msr_spec_ctrl: return m.has(F::spec_ctrl) && !(v & ~u64{7}) ? (s.spec_ctrl = v, true) : false;
    case msr_pred_cmd: return (m.has(F::spec_ctrl) || m.has(F::ibpb)) && !(v & ~u64{1});
    case msr_flush_cmd: return !(v & ~u64{1});
    case msr_ucode_rev: return true;
    case msr_mtrr_cap:
    case msr_arch_capabilities:
    case msr_mcg_cap: return false;
    case msr_sysenter_cs: s.sysenter_cs = v & 0xffff; return true;
    case msr_sysenter_esp: return put_canonical(s.sysenter_esp);
    case msr_sysenter_eip: return put_canonical(s.sysenter_eip);
    case msr_mcg_status: s.mcg_status = v; return true;
    case msr_mcg_ctl: return v == 0 || v == ~u64{0} ? (s.mcg_ctl = v, true) : false;
    case msr_misc_enable: s.misc_enable = v; return true;
    case msr_pat: return pat_valid(v) ? (s.pat = v, true) : false;
    case msr_mtrr_def_type: return v & ~u64{0xcff} || !memory_type(v & 0xff) ? false : (s.mtrr_def_type = v, true);
    case msr_tsc_deadline:
      if (!m.has(F::tsc_deadline)) return false;
      if (system.interrupts) system.interrupts->set_tsc_deadline(v);
      cpu.leave = true;
      return true;
    case msr_xss: return m.has(F::xsaves) && !v;
    case msr_efer: return set_efer(cpu, v);
    case msr_star: s.star = v; return true;
    case msr_lstar: return m.has(F::lm) && put_canonical(s.lstar);
    case msr_cstar: return m.has(F::lm) && put_canonical(s.cstar);
    case msr_sfmask: s.sfmask = v & 0xffff'ffff; return m.has(F::lm);
    case msr_fs_base: return m.has(F::lm) && put_canonical(s.segment[fs].base);
    case msr_gs_base: return m.has(F::lm) && put_canonical(s.segment[gs].base);
    case msr_kernel_gs_base: return m.has(F::lm) && put_canonical(s.kernel_gs_base);
    case msr_tsc_aux:
      if (v >> 32 || !(m.has(F::rdtscp) || m.has(F::rdpid))) return false;
      return s.tsc_aux = v, true;
    default: return bystander(m, n) || (guest_error("cpu", "wrmsr {:#x} = {:#x}: no such register", n, v), false);
  }
}

bool time_stamp_allowed(Cpu& cpu) {
  if (!(cpu.state.cr4 & cr4_tsd) || cpu.state.cpl() == 0) return true;
  cpu.raise(vector_gp, 0);
  return false;
}

void put_pair(State& s, u64 v) { s.gpr[rax] = static_cast<u32>(v), s.gpr[rdx] = v >> 32; }

}  // namespace

bool set_efer(Cpu& cpu, u64 value) {
  State& s = cpu.state;
  const CpuModel& m = *system_of(cpu).model;
  u64 allowed = 0;
  if (m.has(F::syscall)) allowed |= efer_sce;
  if (m.has(F::lm)) allowed |= efer_lme | efer_lma;
  if (m.has(F::nx)) allowed |= efer_nxe;
  if (m.has(F::svm)) allowed |= efer_svme;
  if (m.has(F::fxsr_opt)) allowed |= efer_ffxsr;
  if (value & ~allowed) return false;
  if ((value ^ s.efer) & efer_lme && s.cr0 & cr0_pg) return false;
  value = (value & ~u64{efer_lma}) | (s.efer & efer_lma);
  const u64 changed = value ^ s.efer;
  s.efer = value;
  if (changed & efer_nxe) flush_tlb(cpu, false);
  mode_changed(cpu);
  return true;
}

namespace helper {

u64 cpuid(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const System& system = system_of(cpu);
  const CpuidInput in{.leaf = static_cast<u32>(s.gpr[rax]),
                      .subleaf = static_cast<u32>(s.gpr[rcx]),
                      .apic_id = system.apic_id,
                      .topology = system.topology,
                      .cr4 = s.cr4,
                      .xcr0 = s.xcr0,
                      .xss = s.xss,
                      .misc_enable = s.misc_enable,
                      .apic_enabled = !system.interrupts || (system.interrupts->base_msr() & 0x800)};
  const CpuidResult r = vmm::x86::cpuid(*system.model, in);
  s.gpr[rax] = r.eax, s.gpr[rbx] = r.ebx, s.gpr[rcx] = r.ecx, s.gpr[rdx] = r.edx;
  return 0;
}
u64 rdmsr(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  u64 v = 0;
  if (s.cpl() != 0 || !read_msr(cpu, static_cast<u32>(s.gpr[rcx]), v)) return cpu.raise(vector_gp, 0), 0;
  put_pair(s, v);
  return 0;
}
u64 wrmsr(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u64 v = static_cast<u32>(s.gpr[rax]) | s.gpr[rdx] << 32;
  if (s.cpl() != 0 || !write_msr(cpu, static_cast<u32>(s.gpr[rcx]), v)) cpu.raise(vector_gp, 0);
  return 0;
}
u64 rdtsc(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (time_stamp_allowed(cpu)) put_pair(cpu.state, read_tsc(cpu));
  return 0;
}
u64 rdtscp(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!time_stamp_allowed(cpu)) return 0;
  put_pair(cpu.state, read_tsc(cpu));
  cpu.state.gpr[rcx] = static_cast<u32>(cpu.state.tsc_aux);
  return 0;
}
// No counters.
u64 rdpmc(GuestCpu& g, u64, u64, u64) { return cpu_of(g).raise(vector_gp, 0), 0; }

}  // namespace helper
}  // namespace vmm::tcg::x86
