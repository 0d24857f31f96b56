// Numbers and names of the model-specific registers that our CPUs have. Source: SDM 4, AMD APM vol. 2 appendix A.
#pragma once

#include <string_view>

#include "src/base/types.h"

namespace vmm::x86 {

enum Msr : u32 {
  msr_tsc = 0x10,
  msr_platform_id = 0x17,
  msr_apic_base = 0x1b,
  msr_feature_control = 0x3a,
  msr_tsc_adjust = 0x3b,
  msr_spec_ctrl = 0x48,
  msr_pred_cmd = 0x49,
  msr_ucode_rev = 0x8b,
  msr_mtrr_cap = 0xfe,
  msr_arch_capabilities = 0x10a,
  msr_flush_cmd = 0x10b,
  msr_sysenter_cs = 0x174,
  msr_sysenter_esp = 0x175,
  msr_sysenter_eip = 0x176,
  msr_mcg_cap = 0x179,
  msr_mcg_status = 0x17a,
  msr_mcg_ctl = 0x17b,
  msr_perf_status = 0x198,
  msr_misc_enable = 0x1a0,
  msr_mtrr_base0 = 0x200,
  msr_mtrr_fix64k = 0x250,
  msr_mtrr_fix16k_80000 = 0x258,
  msr_mtrr_fix16k_a0000 = 0x259,
  msr_mtrr_fix4k_c0000 = 0x268,
  msr_pat = 0x277,
  msr_mtrr_def_type = 0x2ff,
  msr_mc0_ctl = 0x400,
  msr_tsc_deadline = 0x6e0,
  msr_x2apic_first = 0x800,
  msr_x2apic_last = 0x8ff,
  msr_xss = 0xda0,
  msr_efer = 0xc000'0080,
  msr_star = 0xc000'0081,
  msr_lstar = 0xc000'0082,
  msr_cstar = 0xc000'0083,
  msr_sfmask = 0xc000'0084,
  msr_fs_base = 0xc000'0100,
  msr_gs_base = 0xc000'0101,
  msr_kernel_gs_base = 0xc000'0102,
  msr_tsc_aux = 0xc000'0103,
  msr_hwcr = 0xc001'0015,
  msr_vm_cr = 0xc001'0114,
};

struct MsrName {
  u32 number;
  std::string_view name;
};
inline constexpr MsrName msr_names[] = {
    {msr_tsc, "IA32_TIME_STAMP_COUNTER"},
    {msr_platform_id, "IA32_PLATFORM_ID"},
    {msr_apic_base, "IA32_APIC_BASE"},
    {msr_feature_control, "IA32_FEATURE_CONTROL"},
    {msr_tsc_adjust, "IA32_TSC_ADJUST"},
    {msr_spec_ctrl, "IA32_SPEC_CTRL"},
    {msr_pred_cmd, "IA32_PRED_CMD"},
    {msr_ucode_rev, "IA32_BIOS_SIGN_ID"},
    {msr_mtrr_cap, "IA32_MTRRCAP"},
    {msr_arch_capabilities, "IA32_ARCH_CAPABILITIES"},
    {msr_flush_cmd, "IA32_FLUSH_CMD"},
    {msr_sysenter_cs, "IA32_SYSENTER_CS"},
    {msr_sysenter_esp, "IA32_SYSENTER_ESP"},
    {msr_sysenter_eip, "IA32_SYSENTER_EIP"},
    {msr_mcg_cap, "IA32_MCG_CAP"},
    {msr_mcg_status, "IA32_MCG_STATUS"},
    {msr_mcg_ctl, "IA32_MCG_CTL"},
    {msr_perf_status, "IA32_PERF_STATUS"},
    {msr_misc_enable, "IA32_MISC_ENABLE"},
    {msr_mtrr_base0, "IA32_MTRR_PHYSBASE0"},
    {msr_mtrr_fix64k, "IA32_MTRR_FIX64K_00000"},
    {msr_pat, "IA32_PAT"},
    {msr_mtrr_def_type, "IA32_MTRR_DEF_TYPE"},
    {msr_mc0_ctl, "IA32_MC0_CTL"},
    {msr_tsc_deadline, "IA32_TSC_DEADLINE"},
    {msr_xss, "IA32_XSS"},
    {msr_efer, "IA32_EFER"},
    {msr_star, "IA32_STAR"},
    {msr_lstar, "IA32_LSTAR"},
    {msr_cstar, "IA32_CSTAR"},
    {msr_sfmask, "IA32_FMASK"},
    {msr_fs_base, "IA32_FS_BASE"},
    {msr_gs_base, "IA32_GS_BASE"},
    {msr_kernel_gs_base, "IA32_KERNEL_GS_BASE"},
    {msr_tsc_aux, "IA32_TSC_AUX"},
    {msr_hwcr, "HWCR"},
    {msr_vm_cr, "VM_CR"},
};
constexpr std::string_view msr_name(u32 number) {
  for (const MsrName& m : msr_names)
    if (m.number == number) return m.name;
  return "?";
}

}  // namespace vmm::x86
