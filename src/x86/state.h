// The architectural state of one x86 CPU: what a program, a debugger, a migration stream or another engine can see.
// Complete whenever the vCPU is parked (style.md, "Parked"). Owned by the vCPU's thread. Source: Intel SDM vol. 3A, AMD APM vol. 2.
#pragma once

#include <array>

#include "src/base/types.h"

namespace vmm::x86 {

enum Gpr : u8 { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 };
enum SegmentRegister : u8 { es, cs, ss, ds, fs, gs };
inline constexpr unsigned segment_count = 6;

enum Eflags : u64 {
  flag_cf = 1 << 0,
  flag_1 = 1 << 1,
  flag_pf = 1 << 2,
  flag_af = 1 << 4,
  flag_zf = 1 << 6,
  flag_sf = 1 << 7,
  flag_tf = 1 << 8,
  flag_if = 1 << 9,
  flag_df = 1 << 10,
  flag_of = 1 << 11,
  flag_iopl = 3 << 12,
  flag_nt = 1 << 14,
  flag_rf = 1 << 16,
  flag_vm = 1 << 17,
  flag_ac = 1 << 18,
  flag_vif = 1 << 19,
  flag_vip = 1 << 20,
  flag_id = 1 << 21,
};
inline constexpr u64 arithmetic_flags = flag_cf | flag_pf | flag_af | flag_zf | flag_sf | flag_of;

enum Cr0 : u64 {
  cr0_pe = 1 << 0,
  cr0_mp = 1 << 1,
  cr0_em = 1 << 2,
  cr0_ts = 1 << 3,
  cr0_et = 1 << 4,
  cr0_ne = 1 << 5,
  cr0_wp = 1 << 16,
  cr0_am = 1 << 18,
  cr0_nw = 1 << 29,
  cr0_cd = 1 << 30,
  cr0_pg = u64{1} << 31,
};
enum Cr4 : u64 {
  cr4_vme = 1 << 0,
  cr4_pvi = 1 << 1,
  cr4_tsd = 1 << 2,
  cr4_de = 1 << 3,
  cr4_pse = 1 << 4,
  cr4_pae = 1 << 5,
  cr4_mce = 1 << 6,
  cr4_pge = 1 << 7,
  cr4_pce = 1 << 8,
  cr4_osfxsr = 1 << 9,
  cr4_osxmmexcpt = 1 << 10,
  cr4_umip = 1 << 11,
  cr4_la57 = 1 << 12,
  cr4_fsgsbase = 1 << 16,
  cr4_pcide = 1 << 17,
  cr4_osxsave = 1 << 18,
  cr4_smep = 1 << 20,
  cr4_smap = 1 << 21,
  cr4_pke = 1 << 22,
  cr4_pks = 1 << 24,
};
enum Efer : u64 { efer_sce = 1 << 0, efer_lme = 1 << 8, efer_lma = 1 << 10, efer_nxe = 1 << 11, efer_svme = 1 << 12, efer_ffxsr = 1 << 14 };

enum Vector : u8 {
  vector_de = 0,
  vector_db = 1,
  vector_nmi = 2,
  vector_bp = 3,
  vector_of = 4,
  vector_br = 5,
  vector_ud = 6,
  vector_nm = 7,
  vector_df = 8,
  vector_ts = 10,
  vector_np = 11,
  vector_ss = 12,
  vector_gp = 13,
  vector_pf = 14,
  vector_mf = 16,
  vector_ac = 17,
  vector_mc = 18,
  vector_xm = 19,
};

// A segment register with its descriptor cache. `attributes` is the descriptor's second dword, bits 8–23 shifted down by 8:
// type 0–3, S 4, DPL 5–6, P 7, (limit bits 8–11 are zero here), AVL 12, L 13, D/B 14, G 15. `limit` is in bytes, G applied.
struct Segment {
  u16 selector = 0;
  u16 attributes = 0;
  u32 limit = 0;
  u64 base = 0;

  constexpr unsigned type() const { return attributes & 15; }
  constexpr bool code_or_data() const { return attributes & 0x10; }
  constexpr unsigned dpl() const { return (attributes >> 5) & 3; }
  constexpr bool present() const { return attributes & 0x80; }
  constexpr bool is_long() const { return attributes & 0x2000; }
  constexpr bool big() const { return attributes & 0x4000; }
  constexpr bool code() const { return (attributes & 0x18) == 0x18; }
  // Loaded with a null selector, or never: no access through it outside 64-bit mode.
  constexpr bool unusable() const { return !present(); }
};

struct TableRegister {
  u64 base = 0;
  u16 limit = 0;
};

// The FXSAVE image (64-bit form) of x87 and MMX state, as `fxrstor64` takes it: FCW, FSW (TOP within), abridged FTW, FOP, FIP,
// FDP, MXCSR (unused here: State::mxcsr counts), ST0–7. XMM bytes of the image are unused: State::vector holds them.
struct alignas(16) X87Image {
  u16 fcw = 0x37f, fsw = 0;
  u8 ftw = 0, reserved0 = 0;
  u16 fop = 0;
  u64 fip = 0, fdp = 0;
  u32 mxcsr = 0x1f80, mxcsr_mask = 0xffff;
  std::array<std::array<u8, 16>, 8> st{};
  std::array<u8, 352> rest{};
};
static_assert(sizeof(X87Image) == 512);

struct alignas(32) VectorRegister {
  std::array<u64, 4> lane{};  // 0–1: xmm, 2–3: upper half of ymm
};

enum class Activity : u8 { running, halted, wait_for_sipi, shutdown };

struct State {
  std::array<u64, 16> gpr{};
  u64 rip = 0xfff0;
  u64 rflags = flag_1;  // every bit; arithmetic bits exact when parked
  std::array<Segment, segment_count> segment{};
  Segment ldtr, tr;
  TableRegister gdtr, idtr;
  u64 cr0 = cr0_et, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;  // cr8: only without a local APIC; else the APIC's TPR counts
  u64 efer = 0;
  u64 xcr0 = 1;
  std::array<u64, 4> dr{};
  u64 dr6 = 0xffff0ff0, dr7 = 0x400;
  std::array<VectorRegister, 16> vector{};
  u32 mxcsr = 0x1f80;
  u32 pkru = 0;
  X87Image x87;

  // MSRs that hold plain state. Others (APIC base, TSC…) are reached through their owners.
  u64 star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
  u64 sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  u64 pat = 0x0007'0406'0007'0406, tsc_aux = 0, misc_enable = 1, spec_ctrl = 0, xss = 0;
  u64 tsc_offset = 0;  // guest TSC = host clock × scale + this
  u64 tsc_adjust = 0, tsc_deadline = 0;
  u64 mtrr_def_type = 0;
  std::array<u64, 11> mtrr_fixed{};
  std::array<u64, 8> mtrr_base{}, mtrr_mask{};
  u64 mcg_status = 0, mcg_ctl = ~u64{0};
  std::array<std::array<u64, 4>, 10> mc_bank{};
  u64 smbase = 0x30000;
  std::array<u64, 4> pae_pdpte{};  // loaded with CR3 under PAE paging

  Activity activity = Activity::running;
  bool smm = false;
  bool a20 = true;           // false: bit 20 of every physical address is masked
  bool nmi_blocked = false;  // until IRET
  bool nmi_pending = false, smi_pending = false, init_pending = false, sipi_pending = false;
  u8 sipi_vector = 0;
  bool sti_shadow = false, mov_ss_shadow = false;  // interrupts (and for MOV SS debug traps) held for one instruction
  i16 pending_exception = -1;                      // vector of an exception that is raised but not yet delivered (hand-over, migration)
  bool pending_has_code = false;
  u32 pending_code = 0;

  unsigned cpl() const { return segment[ss].dpl(); }
  bool long_mode() const { return efer & efer_lma; }
  bool code64() const { return long_mode() && segment[cs].is_long(); }
  bool protected_mode() const { return cr0 & cr0_pe; }
  bool v86() const { return rflags & flag_vm; }
  bool real_mode() const { return !protected_mode(); }
};

// Power-on and INIT values (SDM 3A table 10-1). `init`: keep what INIT keeps (FPU, vectors, MTRRs, TSC, SMBASE, CR0.CD/NW).
void reset(State& state, bool init, bool bootstrap_processor);

}  // namespace vmm::x86
