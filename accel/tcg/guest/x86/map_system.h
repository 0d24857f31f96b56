// System instructions. Source: SDM 2 and 3A, AMD APM vol. 3 (SYSCALL, SYSRET, CLZERO).
#pragma once

#include "accel/tcg/guest/x86/row.h"

namespace vmm::tcg::x86 {

void emit_argument(Emitter& e, const Insn& insn, Operands& op);
void emit_arpl(Emitter& e, const Insn& insn, Operands& op);
void emit_clzero(Emitter& e, const Insn& insn, Operands& op);
void emit_far_direct(Emitter& e, const Insn& insn, Operands& op);
void emit_far_indirect(Emitter& e, const Insn& insn, Operands& op);
void emit_far_ret(Emitter& e, const Insn& insn, Operands& op);
void emit_int(Emitter& e, const Insn& insn, Operands& op);
void emit_invlpg(Emitter& e, const Insn& insn, Operands& op);
void emit_invpcid(Emitter& e, const Insn& insn, Operands& op);
void emit_io(Emitter& e, const Insn& insn, Operands& op);
void emit_iret(Emitter& e, const Insn& insn, Operands& op);
void emit_lar(Emitter& e, const Insn& insn, Operands& op);
void emit_load_far(Emitter& e, const Insn& insn, Operands& op);
void emit_load_segment(Emitter& e, const Insn& insn, Operands& op);
void emit_mov(Emitter& e, const Insn& insn, Operands& op);
void emit_movdir64b(Emitter& e, const Insn& insn, Operands& op);
void emit_nop(Emitter& e, const Insn& insn, Operands& op);
void emit_monitor(Emitter& e, const Insn& insn, Operands& op);
void emit_pop_segment(Emitter& e, const Insn& insn, Operands& op);
void emit_push_segment(Emitter& e, const Insn& insn, Operands& op);
void emit_read_base(Emitter& e, const Insn& insn, Operands& op);
void emit_read_control(Emitter& e, const Insn& insn, Operands& op);
void emit_read_debug(Emitter& e, const Insn& insn, Operands& op);
void emit_simple(Emitter& e, const Insn& insn, Operands& op);
void emit_store_segment(Emitter& e, const Insn& insn, Operands& op);
void emit_string_io(Emitter& e, const Insn& insn, Operands& op);
void emit_table(Emitter& e, const Insn& insn, Operands& op);
void emit_transfer(Emitter& e, const Insn& insn, Operands& op);
void emit_value(Emitter& e, const Insn& insn, Operands& op);
void emit_verify(Emitter& e, const Insn& insn, Operands& op);
void emit_write_base(Emitter& e, const Insn& insn, Operands& op);
void emit_write_control(Emitter& e, const Insn& insn, Operands& op);
void emit_write_debug(Emitter& e, const Insn& insn, Operands& op);
void emit_xend(Emitter& e, const Insn& insn, Operands& op);
void emit_xtest(Emitter& e, const Insn& insn, Operands& op);

// Which helper a row without particulars calls.
enum SystemTag : i8 {
  tag_hlt,
  tag_cli,
  tag_sti,
  tag_sldt,
  tag_str,
  tag_lldt,
  tag_ltr,
  tag_sgdt,
  tag_sidt,
  tag_lgdt,
  tag_lidt,
  tag_smsw,
  tag_lmsw,
  tag_mwait,
  tag_clac,
  tag_stac,
  tag_rdpkru,
  tag_wrpkru,
  tag_swapgs,
  tag_rdtscp,
  tag_syscall,
  tag_sysret,
  tag_sysenter,
  tag_sysexit,
  tag_clts,
  tag_privileged,
  tag_wrmsr,
  tag_rdtsc,
  tag_rdmsr,
  tag_rdpmc,
  tag_cpuid,
  tag_rsm,
};

// clang-format off
inline constexpr Row rows_system_one[] = {
    {0x06, "push", {}, emit_push_segment, {.mode = Mode::no64, .tag = 0}},
    {0x0e, "push", {}, emit_push_segment, {.mode = Mode::no64, .tag = 1}},
    {0x16, "push", {}, emit_push_segment, {.mode = Mode::no64, .tag = 2}},
    {0x1e, "push", {}, emit_push_segment, {.mode = Mode::no64, .tag = 3}},
    {0x07, "pop", {}, emit_pop_segment, {.mode = Mode::no64, .ends = Ends::next, .tag = 0}},
    {0x17, "pop", {}, emit_pop_segment, {.mode = Mode::no64, .ends = Ends::next, .tag = 2}},
    {0x1f, "pop", {}, emit_pop_segment, {.mode = Mode::no64, .ends = Ends::next, .tag = 3}},
    {0x63, "arpl", {Ew, Gw}, emit_arpl, {.mode = Mode::no64, .flags_in = fl_all, .flags_out = cc_zero_bit}},
    {0x6c, "insb", {}, emit_string_io, {.ends = Ends::set, .rep = true}},
    {0x6d, "ins", {}, emit_string_io, {.ends = Ends::set, .rep = true}},
    {0x6e, "outsb", {}, emit_string_io, {.ends = Ends::set, .rep = true}},
    {0x6f, "outs", {}, emit_string_io, {.ends = Ends::set, .rep = true}},
    {0x8c, "mov", {Mw}, emit_store_segment, {.mod = Mod::memory, .dst = Dst::write}},
    {0x8c, "mov", {Rv}, emit_store_segment, {.mod = Mod::reg, .dst = Dst::write}},
    {0x8e, "mov", {Ew}, emit_load_segment, {.dst = Dst::read, .ends = Ends::next}},
    {0x9a, "callf", {Ap}, emit_far_direct, {.mode = Mode::no64, .ends = Ends::set}},
    {0xea, "jmpf", {Ap}, emit_far_direct, {.mode = Mode::no64, .ends = Ends::set}},
    {0xc4, "les", {Gv, Mp}, emit_load_far, {.mode = Mode::no64, .mod = Mod::memory, .dst = Dst::write, .ends = Ends::next, .tag = 0}},
    {0xc5, "lds", {Gv, Mp}, emit_load_far, {.mode = Mode::no64, .mod = Mod::memory, .dst = Dst::write, .ends = Ends::next, .tag = 3}},
    {0xca, "retf", {Iw}, emit_far_ret, {.dst = Dst::read, .ends = Ends::set}},
    {0xcb, "retf", {}, emit_far_ret, {.ends = Ends::set}},
    {0xcc, "int3", {}, emit_int, {.ends = Ends::set}},
    {0xcd, "int", {Ib}, emit_int, {.dst = Dst::read, .ends = Ends::set}},
    {0xce, "into", {}, emit_int, {.mode = Mode::no64, .ends = Ends::set}},
    {0xcf, "iret", {}, emit_iret, {.ends = Ends::set}},
    {0xe4, "in", {Ib}, emit_io, {.dst = Dst::read}},
    {0xe5, "in", {Ib}, emit_io, {.dst = Dst::read}},
    {0xe6, "out", {Ib}, emit_io, {.dst = Dst::read}},
    {0xe7, "out", {Ib}, emit_io, {.dst = Dst::read}},
    {0xec, "in", {}, emit_io, {}},
    {0xed, "in", {}, emit_io, {}},
    {0xee, "out", {}, emit_io, {}},
    {0xef, "out", {}, emit_io, {}},
    {0xf1, "int1", {}, emit_int, {.ends = Ends::set}},
    {0xf4, "hlt", {}, emit_simple, {.ends = Ends::next, .tag = tag_hlt}},
    {0xfa, "cli", {}, emit_simple, {.tag = tag_cli}},
    {0xfb, "sti", {}, emit_simple, {.ends = Ends::next, .tag = tag_sti}},
    {0xff, "callf", {Mp}, emit_far_indirect, {.reg = 3, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::set}},
    {0xff, "jmpf", {Mp}, emit_far_indirect, {.reg = 5, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::set}},
};
inline constexpr Row rows_system_0f[] = {
    {0x00, "sldt", {Mw}, emit_value, {.reg = 0, .mod = Mod::memory, .dst = Dst::write, .tag = tag_sldt}},
    {0x00, "sldt", {Rv}, emit_value, {.reg = 0, .mod = Mod::reg, .dst = Dst::write, .tag = tag_sldt}},
    {0x00, "str", {Mw}, emit_value, {.reg = 1, .mod = Mod::memory, .dst = Dst::write, .tag = tag_str}},
    {0x00, "str", {Rv}, emit_value, {.reg = 1, .mod = Mod::reg, .dst = Dst::write, .tag = tag_str}},
    {0x00, "lldt", {Ew}, emit_argument, {.reg = 2, .dst = Dst::read, .ends = Ends::next, .tag = tag_lldt}},
    {0x00, "ltr", {Ew}, emit_argument, {.reg = 3, .dst = Dst::read, .ends = Ends::next, .tag = tag_ltr}},
    {0x00, "verr", {Ew}, emit_verify, {.reg = 4, .dst = Dst::read, .flags_in = fl_all, .flags_out = cc_zero_bit}},
    {0x00, "verw", {Ew}, emit_verify, {.reg = 5, .dst = Dst::read, .flags_in = fl_all, .flags_out = cc_zero_bit}},
    {0x01, "sgdt", {M_}, emit_table, {.reg = 0, .mod = Mod::memory, .tag = tag_sgdt}},
    {0x01, "sidt", {M_}, emit_table, {.reg = 1, .mod = Mod::memory, .tag = tag_sidt}},
    {0x01, "lgdt", {M_}, emit_table, {.reg = 2, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::next, .tag = tag_lgdt}},
    {0x01, "lidt", {M_}, emit_table, {.reg = 3, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::next, .tag = tag_lidt}},
    {0x01, "smsw", {Mw}, emit_value, {.reg = 4, .mod = Mod::memory, .dst = Dst::write, .tag = tag_smsw}},
    {0x01, "smsw", {Rv}, emit_value, {.reg = 4, .mod = Mod::reg, .dst = Dst::write, .tag = tag_smsw}},
    {0x01, "lmsw", {Ew}, emit_argument, {.reg = 6, .dst = Dst::read, .ends = Ends::next, .tag = tag_lmsw}},
    {0x01, "invlpg", {M_}, emit_invlpg, {.reg = 7, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::next, .kind = Kind::load_address}},
    {0x01, "monitor", {}, emit_monitor, {.needs = Feature::monitor, .reg = 1, .rm = 0, .mod = Mod::reg}},
    {0x01, "mwait", {}, emit_simple, {.needs = Feature::monitor, .reg = 1, .rm = 1, .mod = Mod::reg, .ends = Ends::next, .tag = tag_mwait}},
    {0x01, "clac", {}, emit_simple, {.needs = Feature::smap, .prefix = p_none, .reg = 1, .rm = 2, .mod = Mod::reg, .ends = Ends::next, .tag = tag_clac}},
    {0x01, "stac", {}, emit_simple, {.needs = Feature::smap, .prefix = p_none, .reg = 1, .rm = 3, .mod = Mod::reg, .ends = Ends::next, .tag = tag_stac}},
    {0x01, "xend", {}, emit_xend, {.needs = Feature::rtm, .prefix = p_none, .reg = 2, .rm = 5, .mod = Mod::reg}},
    {0x01, "xtest", {}, emit_xtest, {.needs = Feature::rtm, .prefix = p_none, .reg = 2, .rm = 6, .mod = Mod::reg, .flags_out = fl_all}},
    {0x01, "serialize", {}, emit_nop, {.needs = Feature::serialize, .prefix = p_none, .reg = 5, .rm = 0, .mod = Mod::reg, .ends = Ends::next}},
    {0x01, "rdpkru", {}, emit_simple, {.needs = Feature::pku, .prefix = p_none, .reg = 5, .rm = 6, .mod = Mod::reg, .tag = tag_rdpkru}},
    {0x01, "wrpkru", {}, emit_simple, {.needs = Feature::pku, .prefix = p_none, .reg = 5, .rm = 7, .mod = Mod::reg, .ends = Ends::next, .tag = tag_wrpkru}},
    {0x01, "swapgs", {}, emit_simple, {.reg = 7, .rm = 0, .mod = Mod::reg, .mode = Mode::only64, .ends = Ends::next, .tag = tag_swapgs}},
    {0x01, "rdtscp", {}, emit_simple, {.needs = Feature::rdtscp, .reg = 7, .rm = 1, .mod = Mod::reg, .tag = tag_rdtscp}},
    {0x01, "clzero", {}, emit_clzero, {.needs = Feature::clzero, .reg = 7, .rm = 4, .mod = Mod::reg}},
    {0x02, "lar", {Gv, Ew}, emit_lar, {.flags_in = fl_all, .flags_out = cc_zero_bit}},
    {0x03, "lsl", {Gv, Ew}, emit_lar, {.flags_in = fl_all, .flags_out = cc_zero_bit}},
    {0x05, "syscall", {}, emit_transfer, {.needs = Feature::syscall, .ends = Ends::set, .tag = tag_syscall}},
    {0x06, "clts", {}, emit_simple, {.ends = Ends::next, .tag = tag_clts}},
    {0x07, "sysret", {}, emit_transfer, {.needs = Feature::syscall, .ends = Ends::set, .tag = tag_sysret}},
    {0x08, "invd", {}, emit_simple, {.tag = tag_privileged}},
    {0x09, "wbinvd", {}, emit_simple, {.tag = tag_privileged}},
    {0x20, "mov", {Rn}, emit_read_control, {.modrm = true, .dst = Dst::write, .f64 = true}},
    {0x21, "mov", {Rn}, emit_read_debug, {.modrm = true, .dst = Dst::write, .f64 = true}},
    {0x22, "mov", {Rn}, emit_write_control, {.modrm = true, .f64 = true, .dst = Dst::read, .ends = Ends::next}},
    {0x23, "mov", {Rn}, emit_write_debug, {.modrm = true, .f64 = true, .dst = Dst::read, .ends = Ends::next}},
    {0x30, "wrmsr", {}, emit_simple, {.needs = Feature::msr, .ends = Ends::next, .tag = tag_wrmsr}},
    {0x31, "rdtsc", {}, emit_simple, {.needs = Feature::tsc, .tag = tag_rdtsc}},
    {0x32, "rdmsr", {}, emit_simple, {.needs = Feature::msr, .tag = tag_rdmsr}},
    {0x33, "rdpmc", {}, emit_simple, {.tag = tag_rdpmc}},
    {0x34, "sysenter", {}, emit_transfer, {.needs = Feature::sep, .ends = Ends::set, .tag = tag_sysenter}},
    {0x35, "sysexit", {}, emit_transfer, {.needs = Feature::sep, .ends = Ends::set, .tag = tag_sysexit}},
    {0xa0, "push", {}, emit_push_segment, {.d64 = true, .tag = 4}},
    {0xa1, "pop", {}, emit_pop_segment, {.d64 = true, .ends = Ends::next, .tag = 4}},
    {0xa8, "push", {}, emit_push_segment, {.d64 = true, .tag = 5}},
    {0xa9, "pop", {}, emit_pop_segment, {.d64 = true, .ends = Ends::next, .tag = 5}},
    {0xa2, "cpuid", {}, emit_simple, {.tag = tag_cpuid}},
    {0xaa, "rsm", {}, emit_transfer, {.ends = Ends::set, .tag = tag_rsm}},
    {0xae, "rdfsbase", {Ry}, emit_read_base, {.needs = Feature::fsgsbase, .prefix = p_f3, .reg = 0, .mod = Mod::reg, .mode = Mode::only64, .dst = Dst::write, .tag = 4}},
    {0xae, "rdgsbase", {Ry}, emit_read_base, {.needs = Feature::fsgsbase, .prefix = p_f3, .reg = 1, .mod = Mod::reg, .mode = Mode::only64, .dst = Dst::write, .tag = 5}},
    {0xae, "wrfsbase", {Ry}, emit_write_base, {.needs = Feature::fsgsbase, .prefix = p_f3, .reg = 2, .mod = Mod::reg, .mode = Mode::only64, .dst = Dst::read, .ends = Ends::next, .tag = 4}},
    {0xae, "wrgsbase", {Ry}, emit_write_base, {.needs = Feature::fsgsbase, .prefix = p_f3, .reg = 3, .mod = Mod::reg, .mode = Mode::only64, .dst = Dst::read, .ends = Ends::next, .tag = 5}},
    {0xb2, "lss", {Gv, Mp}, emit_load_far, {.mod = Mod::memory, .dst = Dst::write, .ends = Ends::next, .tag = 2}},
    {0xb4, "lfs", {Gv, Mp}, emit_load_far, {.mod = Mod::memory, .dst = Dst::write, .ends = Ends::next, .tag = 4}},
    {0xb5, "lgs", {Gv, Mp}, emit_load_far, {.mod = Mod::memory, .dst = Dst::write, .ends = Ends::next, .tag = 5}},
};
inline constexpr Row rows_system_0f38[] = {
    {0xf8, "movdir64b", {Gy, M_}, emit_movdir64b, {.needs = Feature::movdir64b, .prefix = p_66, .mod = Mod::memory, .dst = Dst::read}},
    {0xf9, "movdiri", {My, Gy}, emit_mov, {.needs = Feature::movdiri, .prefix = p_none, .mod = Mod::memory, .dst = Dst::write}},
    {0x82, "invpcid", {Gy, Mdq}, emit_invpcid, {.needs = Feature::invpcid, .prefix = p_66, .mod = Mod::memory, .dst = Dst::read, .ends = Ends::next}},
};
// clang-format on

}  // namespace vmm::tcg::x86
