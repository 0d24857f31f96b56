// CPU models: named feature bits by one table, what each model is, and the CPUID leaves that follow from it.
// Source: SDM 2A "CPUID", AMD APM vol. 3 appendix E. Model values are those that QEMU's models of the same name show to guests.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::x86 {

// The CPUID words that hold feature bits, in the order in which missing ones are reported.
enum class Word : u8 {
  l1_edx,
  l1_ecx,
  l7_ebx,
  l7_ecx,
  l7_edx,
  l7_1_eax,
  e1_edx,
  e1_ecx,
  e7_edx,
  e8_ebx,
  xsave_eax,
  l6_eax,
  svm_edx,
  l7_1_edx,
  e21_eax,
  centaur_edx,
  sgx_eax,
  sgx_attributes,
  pt_ecx,
  arch_capabilities,  // of the MSR, like the next two
  core_capability,
  perf_capabilities,
  count
};
inline constexpr unsigned word_count = static_cast<unsigned>(Word::count);

// X(identifier, word, bit, "name as users write it")
// clang-format off
#define X86_FEATURES(X) \
  X(fpu, l1_edx, 0, "fpu") X(vme, l1_edx, 1, "vme") X(de, l1_edx, 2, "de") X(pse, l1_edx, 3, "pse") X(tsc, l1_edx, 4, "tsc") \
  X(msr, l1_edx, 5, "msr") X(pae, l1_edx, 6, "pae") X(mce, l1_edx, 7, "mce") X(cx8, l1_edx, 8, "cx8") X(apic, l1_edx, 9, "apic") \
  X(sep, l1_edx, 11, "sep") X(mtrr, l1_edx, 12, "mtrr") X(pge, l1_edx, 13, "pge") X(mca, l1_edx, 14, "mca") X(cmov, l1_edx, 15, "cmov") \
  X(pat, l1_edx, 16, "pat") X(pse36, l1_edx, 17, "pse36") X(pn, l1_edx, 18, "pn") X(clflush, l1_edx, 19, "clflush") \
  X(ds, l1_edx, 21, "ds") X(acpi, l1_edx, 22, "acpi") X(mmx, l1_edx, 23, "mmx") X(fxsr, l1_edx, 24, "fxsr") X(sse, l1_edx, 25, "sse") \
  X(sse2, l1_edx, 26, "sse2") X(ss, l1_edx, 27, "ss") X(ht, l1_edx, 28, "ht") X(tm, l1_edx, 29, "tm") X(ia64, l1_edx, 30, "ia64") \
  X(pbe, l1_edx, 31, "pbe") \
  X(sse3, l1_ecx, 0, "pni") X(pclmulqdq, l1_ecx, 1, "pclmulqdq") X(dtes64, l1_ecx, 2, "dtes64") X(monitor, l1_ecx, 3, "monitor") \
  X(ds_cpl, l1_ecx, 4, "ds-cpl") X(vmx, l1_ecx, 5, "vmx") X(smx, l1_ecx, 6, "smx") X(est, l1_ecx, 7, "est") X(tm2, l1_ecx, 8, "tm2") \
  X(ssse3, l1_ecx, 9, "ssse3") X(cid, l1_ecx, 10, "cid") X(fma, l1_ecx, 12, "fma") X(cx16, l1_ecx, 13, "cx16") X(xtpr, l1_ecx, 14, "xtpr") \
  X(pdcm, l1_ecx, 15, "pdcm") X(pcid, l1_ecx, 17, "pcid") X(dca, l1_ecx, 18, "dca") X(sse4_1, l1_ecx, 19, "sse4.1") \
  X(sse4_2, l1_ecx, 20, "sse4.2") X(x2apic, l1_ecx, 21, "x2apic") X(movbe, l1_ecx, 22, "movbe") X(popcnt, l1_ecx, 23, "popcnt") \
  X(tsc_deadline, l1_ecx, 24, "tsc-deadline") X(aes, l1_ecx, 25, "aes") X(xsave, l1_ecx, 26, "xsave") X(avx, l1_ecx, 28, "avx") \
  X(f16c, l1_ecx, 29, "f16c") X(rdrand, l1_ecx, 30, "rdrand") X(hypervisor, l1_ecx, 31, "hypervisor") \
  X(fsgsbase, l7_ebx, 0, "fsgsbase") X(tsc_adjust, l7_ebx, 1, "tsc-adjust") X(sgx, l7_ebx, 2, "sgx") X(bmi1, l7_ebx, 3, "bmi1") \
  X(hle, l7_ebx, 4, "hle") X(avx2, l7_ebx, 5, "avx2") X(smep, l7_ebx, 7, "smep") X(bmi2, l7_ebx, 8, "bmi2") X(erms, l7_ebx, 9, "erms") \
  X(invpcid, l7_ebx, 10, "invpcid") X(rtm, l7_ebx, 11, "rtm") X(mpx, l7_ebx, 14, "mpx") X(avx512f, l7_ebx, 16, "avx512f") \
  X(avx512dq, l7_ebx, 17, "avx512dq") X(rdseed, l7_ebx, 18, "rdseed") X(adx, l7_ebx, 19, "adx") X(smap, l7_ebx, 20, "smap") \
  X(avx512ifma, l7_ebx, 21, "avx512ifma") X(pcommit, l7_ebx, 22, "pcommit") X(clflushopt, l7_ebx, 23, "clflushopt") \
  X(clwb, l7_ebx, 24, "clwb") X(intel_pt, l7_ebx, 25, "intel-pt") X(avx512pf, l7_ebx, 26, "avx512pf") X(avx512er, l7_ebx, 27, "avx512er") \
  X(avx512cd, l7_ebx, 28, "avx512cd") X(sha_ni, l7_ebx, 29, "sha-ni") X(avx512bw, l7_ebx, 30, "avx512bw") X(avx512vl, l7_ebx, 31, "avx512vl") \
  X(avx512vbmi, l7_ecx, 1, "avx512vbmi") X(umip, l7_ecx, 2, "umip") X(pku, l7_ecx, 3, "pku") X(waitpkg, l7_ecx, 5, "waitpkg") \
  X(avx512vbmi2, l7_ecx, 6, "avx512vbmi2") X(gfni, l7_ecx, 8, "gfni") X(vaes, l7_ecx, 9, "vaes") X(vpclmulqdq, l7_ecx, 10, "vpclmulqdq") \
  X(avx512vnni, l7_ecx, 11, "avx512vnni") X(avx512bitalg, l7_ecx, 12, "avx512bitalg") X(avx512vpopcntdq, l7_ecx, 14, "avx512-vpopcntdq") \
  X(la57, l7_ecx, 16, "la57") X(rdpid, l7_ecx, 22, "rdpid") X(bus_lock_detect, l7_ecx, 24, "bus-lock-detect") \
  X(cldemote, l7_ecx, 25, "cldemote") X(movdiri, l7_ecx, 27, "movdiri") X(movdir64b, l7_ecx, 28, "movdir64b") X(pks, l7_ecx, 31, "pks") \
  X(avx512_4vnniw, l7_edx, 2, "avx512-4vnniw") X(avx512_4fmaps, l7_edx, 3, "avx512-4fmaps") X(fsrm, l7_edx, 4, "fsrm") \
  X(avx512vp2intersect, l7_edx, 8, "avx512-vp2intersect") X(md_clear, l7_edx, 10, "md-clear") X(serialize, l7_edx, 14, "serialize") \
  X(tsx_ldtrk, l7_edx, 16, "tsx-ldtrk") X(arch_lbr, l7_edx, 19, "arch-lbr") X(amx_bf16, l7_edx, 22, "amx-bf16") \
  X(avx512fp16, l7_edx, 23, "avx512-fp16") X(amx_tile, l7_edx, 24, "amx-tile") X(amx_int8, l7_edx, 25, "amx-int8") \
  X(spec_ctrl, l7_edx, 26, "spec-ctrl") X(stibp, l7_edx, 27, "stibp") X(arch_capabilities, l7_edx, 29, "arch-capabilities") \
  X(core_capability, l7_edx, 30, "core-capability") X(ssbd, l7_edx, 31, "ssbd") \
  X(sgxlc, l7_ecx, 30, "sgxlc") \
  X(avx_vnni, l7_1_eax, 4, "avx-vnni") X(avx512bf16, l7_1_eax, 5, "avx512-bf16") X(cmpccxadd, l7_1_eax, 7, "cmpccxadd") \
  X(fzrm, l7_1_eax, 10, "fzrm") X(fsrs, l7_1_eax, 11, "fsrs") X(fsrc, l7_1_eax, 12, "fsrc") X(amx_fp16, l7_1_eax, 21, "amx-fp16") \
  X(avx_ifma, l7_1_eax, 23, "avx-ifma") X(avx_vnni_int8, l7_1_edx, 4, "avx-vnni-int8") X(avx_ne_convert, l7_1_edx, 5, "avx-ne-convert") \
  X(prefetchiti, l7_1_edx, 14, "prefetchiti") X(mcdt_no, l7_1_edx, 30, "mcdt-no") \
  X(syscall, e1_edx, 11, "syscall") X(nx, e1_edx, 20, "nx") X(mmxext, e1_edx, 22, "mmxext") X(fxsr_opt, e1_edx, 25, "fxsr-opt") \
  X(pdpe1gb, e1_edx, 26, "pdpe1gb") X(rdtscp, e1_edx, 27, "rdtscp") X(lm, e1_edx, 29, "lm") X(_3dnowext, e1_edx, 30, "3dnowext") \
  X(_3dnow, e1_edx, 31, "3dnow") \
  X(lahf_lm, e1_ecx, 0, "lahf-lm") X(cmp_legacy, e1_ecx, 1, "cmp-legacy") X(svm, e1_ecx, 2, "svm") X(extapic, e1_ecx, 3, "extapic") \
  X(cr8legacy, e1_ecx, 4, "cr8legacy") X(abm, e1_ecx, 5, "abm") X(sse4a, e1_ecx, 6, "sse4a") X(misalignsse, e1_ecx, 7, "misalignsse") \
  X(_3dnowprefetch, e1_ecx, 8, "3dnowprefetch") X(osvw, e1_ecx, 9, "osvw") X(ibs, e1_ecx, 10, "ibs") X(xop, e1_ecx, 11, "xop") \
  X(skinit, e1_ecx, 12, "skinit") X(wdt, e1_ecx, 13, "wdt") X(lwp, e1_ecx, 15, "lwp") X(fma4, e1_ecx, 16, "fma4") X(tce, e1_ecx, 17, "tce") \
  X(nodeid_msr, e1_ecx, 19, "nodeid-msr") X(tbm, e1_ecx, 21, "tbm") X(topoext, e1_ecx, 22, "topoext") \
  X(perfctr_core, e1_ecx, 23, "perfctr-core") X(perfctr_nb, e1_ecx, 24, "perfctr-nb") \
  X(invtsc, e7_edx, 8, "invtsc") \
  X(no_nested_data_bp, e21_eax, 0, "no-nested-data-bp") X(lfence_serializing, e21_eax, 2, "lfence-always-serializing") \
  X(null_sel_clr_base, e21_eax, 6, "null-sel-clr-base") X(auto_ibrs, e21_eax, 8, "auto-ibrs") \
  X(clzero, e8_ebx, 0, "clzero") X(xsaveerptr, e8_ebx, 2, "xsaveerptr") X(wbnoinvd, e8_ebx, 9, "wbnoinvd") X(ibpb, e8_ebx, 12, "ibpb") \
  X(ibrs, e8_ebx, 14, "ibrs") X(amd_stibp, e8_ebx, 15, "amd-stibp") X(amd_ssbd, e8_ebx, 24, "amd-ssbd") X(virt_ssbd, e8_ebx, 25, "virt-ssbd") \
  X(amd_no_ssb, e8_ebx, 26, "amd-no-ssb") X(stibp_always_on, e8_ebx, 17, "stibp-always-on") X(amd_psfd, e8_ebx, 28, "amd-psfd") \
  X(xsaveopt, xsave_eax, 0, "xsaveopt") X(xsavec, xsave_eax, 1, "xsavec") X(xgetbv1, xsave_eax, 2, "xgetbv1") X(xsaves, xsave_eax, 3, "xsaves") \
  X(xfd, xsave_eax, 4, "xfd") \
  X(arat, l6_eax, 2, "arat") \
  X(npt, svm_edx, 0, "npt") X(lbrv, svm_edx, 1, "lbrv") X(svm_lock, svm_edx, 2, "svm-lock") X(nrip_save, svm_edx, 3, "nrip-save") \
  X(tsc_scale, svm_edx, 4, "tsc-scale") X(vmcb_clean, svm_edx, 5, "vmcb-clean") X(flushbyasid, svm_edx, 6, "flushbyasid") \
  X(decodeassists, svm_edx, 7, "decodeassists") X(pause_filter, svm_edx, 10, "pause-filter") X(pfthreshold, svm_edx, 12, "pfthreshold") \
  X(avic, svm_edx, 13, "avic") X(v_vmsave_vmload, svm_edx, 15, "v-vmsave-vmload") X(vgif, svm_edx, 16, "vgif") \
  X(vnmi, svm_edx, 25, "vnmi") \
  X(svme_addr_chk, svm_edx, 28, "svme-addr-chk") \
  X(xstore, centaur_edx, 2, "xstore") X(xstore_en, centaur_edx, 3, "xstore-en") X(xcrypt, centaur_edx, 6, "xcrypt") \
  X(xcrypt_en, centaur_edx, 7, "xcrypt-en") X(ace2, centaur_edx, 8, "ace2") X(ace2_en, centaur_edx, 9, "ace2-en") \
  X(phe, centaur_edx, 10, "phe") X(phe_en, centaur_edx, 11, "phe-en") X(pmm, centaur_edx, 12, "pmm") X(pmm_en, centaur_edx, 13, "pmm-en") \
  X(sgx1, sgx_eax, 0, "sgx1") X(sgx2, sgx_eax, 1, "sgx2") X(sgx_debug, sgx_attributes, 1, "sgx-debug") \
  X(sgx_mode64, sgx_attributes, 2, "sgx-mode64") X(sgx_provisionkey, sgx_attributes, 4, "sgx-provisionkey") \
  X(sgx_tokenkey, sgx_attributes, 5, "sgx-tokenkey") X(sgx_kss, sgx_attributes, 7, "sgx-kss") X(sgx_exinfo, sgx_eax, 31, "sgx-exinfo") \
  X(intel_pt_lip, pt_ecx, 31, "intel-pt-lip") \
  X(rdctl_no, arch_capabilities, 0, "rdctl-no") X(ibrs_all, arch_capabilities, 1, "ibrs-all") X(rsba, arch_capabilities, 2, "rsba") \
  X(skip_l1dfl_vmentry, arch_capabilities, 3, "skip-l1dfl-vmentry") X(ssb_no, arch_capabilities, 4, "ssb-no") \
  X(mds_no, arch_capabilities, 5, "mds-no") X(pschange_mc_no, arch_capabilities, 6, "pschange-mc-no") \
  X(tsx_ctrl, arch_capabilities, 7, "tsx-ctrl") X(taa_no, arch_capabilities, 8, "taa-no") X(sbdr_ssdp_no, arch_capabilities, 13, "sbdr-ssdp-no") \
  X(fbsdp_no, arch_capabilities, 14, "fbsdp-no") X(psdp_no, arch_capabilities, 15, "psdp-no") \
  X(split_lock_detect, core_capability, 5, "split-lock-detect") X(full_width_write, perf_capabilities, 13, "full-width-write")
// clang-format on

enum class CpuFeature : u16 {
#define X(id, word, number, name) id = static_cast<u16>(static_cast<unsigned>(Word::word) * 32 + number),
  X86_FEATURES(X)
#undef X
};

struct FeatureName {
  CpuFeature feature;
  std::string_view name;
};
std::span<const FeatureName> feature_names();  // one line a bit, no aliases
std::string_view name_of(CpuFeature feature);
// By any spelling: "sse4.1", "sse4_1", "sse4-1", "SSE3" no; false: unknown.
bool feature_by_name(std::string_view name, CpuFeature& feature);

struct FeatureWords {
  std::array<u32, word_count> word{};
  constexpr bool has(CpuFeature f) const { return word[static_cast<unsigned>(f) / 32] >> (static_cast<unsigned>(f) % 32) & 1; }
  constexpr void set(CpuFeature f, bool on = true) {
    const u32 mask = u32{1} << (static_cast<unsigned>(f) % 32);
    u32& w = word[static_cast<unsigned>(f) / 32];
    w = on ? w | mask : w & ~mask;
  }
  constexpr u32 operator[](Word w) const { return word[static_cast<unsigned>(w)]; }
};

// How a machine's CPUs lie: threads within cores within dies within sockets. Powers of two are made of each for APIC ids.
struct Topology {
  unsigned sockets = 1, dies = 1, cores = 1, threads = 1;
  unsigned thread_bits() const;
  unsigned core_bits() const;
  unsigned die_bits() const;
  // APIC id of the CPU with this index, and back.
  u32 apic_id(unsigned index) const;
};

// A resolved CPU: what -cpu asked for and the accelerator can give. Immutable after resolve_model().
struct CpuModel {
  std::string name;      // "Haswell"
  std::string vendor;    // 12 characters
  std::string model_id;  // brand string, at most 47 characters
  unsigned family = 6, model = 6, stepping = 3;
  u32 level = 0xd, xlevel = 0x8000'0008;
  unsigned physical_bits = 40, linear_bits = 48;
  FeatureWords features;
  bool intel_caches = true;  // leaf 4; else 0x8000001d (AMD with topoext)
  bool announce_vmm = true;  // leaves 0x40000000…
  u64 tsc_hz = 1'000'000'000;
  std::vector<std::string> missing;  // asked for by the model or the user, not given by the accelerator

  bool has(CpuFeature f) const { return features.has(f); }
  bool amd() const { return vendor == "AuthenticAMD" || vendor == "HygonGenuine"; }
};

// What a leaf depends on besides the model.
struct CpuidInput {
  u32 leaf = 0, subleaf = 0;
  u32 apic_id = 0;
  Topology topology;
  u64 cr4 = 0, xcr0 = 1, xss = 0, misc_enable = 1;
  bool apic_enabled = true;
};
struct CpuidResult {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};
CpuidResult cpuid(const CpuModel& model, const CpuidInput& in);

// Size of the XSAVE area: standard form for these components; with `compact`, the compacted form.
u32 xsave_bytes(u64 components, bool compact);
struct XsaveComponent {
  u32 size, offset;
  bool aligned;
};
// Components 2 and up that we know (2: AVX, 9: PKRU); size 0: none.
XsaveComponent xsave_component(unsigned number);
// XCR0 bits that this model has.
u64 xcr0_mask(const CpuModel& model);

// Parses "MODEL[,+f][,-f][,f=on|off][,level=N]…" and removes what `supported` lacks, naming it in `missing`.
// `accelerator`: its name in messages ("tcg").
Result<CpuModel> resolve_model(std::string_view text, const FeatureWords& supported, std::string_view accelerator);
// The line "tcg does not support: x, y" for report_warning; empty if nothing is missing.
std::string missing_line(const CpuModel& model, std::string_view accelerator);
// The text of `-cpu help`.
std::string cpu_help();
std::vector<std::string> model_names();  // with versions: "Haswell", "Haswell-v1"

// What our translator gives on this host.
FeatureWords tcg_features();

}  // namespace vmm::x86
