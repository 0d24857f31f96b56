// Control and debug registers, descriptor-table registers, segment loads and tests, flags that govern the CPU, address-cache control,
// HLT and MWAIT. Source: SDM 2 (each instruction), SDM 3A chapters 2 and 5.
#include "accel/tcg/guest/x86/control.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/memory/ram.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

bool supervisor_only(Cpu& cpu) {
  if (cpu.state.cpl() == 0) return true;
  cpu.raise(vector_gp, 0);
  return false;
}
bool protected_only(Cpu& cpu) {
  if (cpu.state.protected_mode() && !cpu.state.v86()) return true;
  cpu.raise(vector_ud);
  return false;
}
bool umip_blocks(Cpu& cpu) {
  if (!(cpu.state.cr4 & cr4_umip) || cpu.state.cpl() == 0) return false;
  cpu.raise(vector_gp, 0);
  return true;
}

u64 cr4_allowed(const CpuModel& m) {
  using F = CpuFeature;
  u64 mask = cr4_tsd | cr4_de | cr4_pse | cr4_pae | cr4_mce | cr4_pge | cr4_pce | cr4_osfxsr | cr4_osxmmexcpt;
  if (m.has(F::vme)) mask |= cr4_vme | cr4_pvi;
  if (m.has(F::umip)) mask |= cr4_umip;
  if (m.has(F::la57)) mask |= cr4_la57;
  if (m.has(F::fsgsbase)) mask |= cr4_fsgsbase;
  if (m.has(F::pcid)) mask |= cr4_pcide;
  if (m.has(F::xsave)) mask |= cr4_osxsave;
  if (m.has(F::smep)) mask |= cr4_smep;
  if (m.has(F::smap)) mask |= cr4_smap;
  if (m.has(F::pku)) mask |= cr4_pke;
  return mask;
}

bool pae_paging(u64 cr0, u64 cr4, u64 efer) { return cr0 & cr0_pg && cr4 & cr4_pae && !(efer & efer_lma); }

bool write_cr0(Cpu& cpu, u64 value) {
  State& s = cpu.state;
  const auto refuse = [&] { return cpu.raise(vector_gp, 0), false; };
  if (value >> 32) return refuse();
  value = (value | cr0_et) & 0xe005'003f;
  if ((value & cr0_pg && !(value & cr0_pe)) || (value & cr0_nw && !(value & cr0_cd))) return refuse();
  u64 efer = s.efer;
  if (value & cr0_pg && !(s.cr0 & cr0_pg)) {
    if (efer & efer_lme) {
      if (!(s.cr4 & cr4_pae) || s.segment[cs].is_long()) return refuse();
      efer |= efer_lma;
    }
  } else if (!(value & cr0_pg) && s.cr0 & cr0_pg) {
    if (s.code64() || s.cr4 & cr4_pcide) return refuse();
    efer &= ~u64{efer_lma};
  }
  if (pae_paging(value, s.cr4, efer) && (!pae_paging(s.cr0, s.cr4, s.efer) || (s.cr0 ^ value) & (cr0_cd | cr0_nw))) {
    std::array<u64, 4> entries;
    if (!load_pdptes(cpu, s.cr3, entries)) return refuse();
    s.pae_pdpte = entries;
  }
  const u64 changed = s.cr0 ^ value;
  s.cr0 = value;
  s.efer = efer;
  if (changed & (cr0_pg | cr0_wp | cr0_pe)) flush_tlb(cpu, false);
  mode_changed(cpu);
  cpu.leave = true;
  return true;
}

bool write_cr3(Cpu& cpu, u64 value) {
  State& s = cpu.state;
  bool keep = false;
  if (s.long_mode()) {
    keep = s.cr4 & cr4_pcide && value >> 63;
    if (s.cr4 & cr4_pcide) value &= ~(u64{1} << 63);
    if (value & (system_of(cpu).physical_mask | u64{0xfff} << 52)) return cpu.raise(vector_gp, 0), false;
  } else {
    value &= 0xffff'ffff;
    if (pae_paging(s.cr0, s.cr4, s.efer)) {
      std::array<u64, 4> entries;
      if (!load_pdptes(cpu, value, entries)) return cpu.raise(vector_gp, 0), false;
      s.pae_pdpte = entries;
    }
  }
  s.cr3 = value;
  if (s.cr4 & cr4_pcide)
    enter_space(cpu, value & 0xfff, keep);
  else
    flush_tlb(cpu, true);
  return true;
}

bool write_cr4(Cpu& cpu, u64 value) {
  State& s = cpu.state;
  const auto refuse = [&] { return cpu.raise(vector_gp, 0), false; };
  if (value & ~cr4_allowed(*system_of(cpu).model)) return refuse();
  if (s.long_mode() && (!(value & cr4_pae) || (value ^ s.cr4) & cr4_la57)) return refuse();
  if (value & cr4_pcide && !(s.cr4 & cr4_pcide) && (!s.long_mode() || s.cr3 & 0xfff)) return refuse();
  constexpr u64 paging = cr4_pge | cr4_pse | cr4_pae | cr4_la57 | cr4_pcide | cr4_smep | cr4_smap | cr4_pke;
  if (pae_paging(s.cr0, value, s.efer) && (s.cr4 ^ value) & (cr4_pae | cr4_pge | cr4_pse)) {
    std::array<u64, 4> entries;
    if (!load_pdptes(cpu, s.cr3, entries)) return refuse();
    s.pae_pdpte = entries;
  }
  const u64 changed = s.cr4 ^ value;
  s.cr4 = value;
  if (changed & paging) flush_tlb(cpu, false);
  if (changed & cr4_de) update_breakpoints(cpu);
  mode_changed(cpu);
  cpu.leave = true;
  return true;
}

// A descriptor for LAR, LSL, VERR, VERW: no faults of its own but those of memory. False: not visible.
bool visible_descriptor(Cpu& cpu, u16 selector, Descriptor& d) {
  if (!(selector & 0xfffc)) return false;
  if (!read_descriptor(cpu, selector, vector_gp, d)) {
    if (cpu.pending.vector == vector_gp) cpu.fault = false;
    return false;
  }
  if (d.code_or_data() && d.conforming()) return true;
  return d.dpl() >= std::max<unsigned>(cpu.state.cpl(), selector & 3);
}
void set_zero(Cpu& cpu, bool on) { cpu.cc_out = (*cpu.cc & ir::cc_mask & ~ir::cc_zero) | (on ? ir::cc_zero : 0); }

void store_table(Cpu& cpu, const TableRegister& t, u64 address, u64 what) {
  // what: Access | operand bytes << 8. 64-bit mode: 2 + 8 bytes, else 2 + 4.
  u8 image[10];
  store_le(image, t.limit);
  store_le(image + 2, t.base);
  cpu.write_bytes(address, image, cpu.state.code64() ? 10 : 6, static_cast<u16>(what & 0xff));
}
bool read_table(Cpu& cpu, u64 address, u64 what, TableRegister& t) {
  u8 image[10] = {};
  const bool wide = cpu.state.code64();
  if (!cpu.read_bytes(address, image, wide ? 10 : 6, static_cast<u16>(what & 0xff))) return false;
  t.limit = load_le<u16>(image);
  t.base = load_le<u64>(image + 2);
  if (!wide) t.base &= (what >> 8) == 2 ? 0xff'ffff : 0xffff'ffff;
  if (wide && !canonical(cpu, t.base)) return cpu.raise(vector_gp, 0), false;
  return true;
}

}  // namespace

bool write_cr(Cpu& cpu, unsigned number, u64 value) {
  State& s = cpu.state;
  switch (number) {
    case 0: return write_cr0(cpu, value);
    case 2: s.cr2 = value; return true;
    case 3: return write_cr3(cpu, value);
    case 4: return write_cr4(cpu, value);
    case 8:
      if (value >> 4) return cpu.raise(vector_gp, 0), false;
      if (system_of(cpu).interrupts) {
        system_of(cpu).interrupts->set_tpr(static_cast<u8>(value << 4));
      } else {
        s.cr8 = value;
      }
      cpu.leave = true;
      return true;
    default: cpu.raise(vector_ud); return false;
  }
}

u64 read_tsc(Cpu& cpu) {
  System& system = system_of(cpu);
  const u64 ns = system.guest_clock ? system.guest_clock(system.clock_self) : 0;
  return ns + cpu.state.tsc_offset;
}

namespace helper {

// a: segment register; b: selector; c: 1 = an interrupt shadow follows (MOV SS, POP SS).
u64 load_segment(GuestCpu& g, u64 number, u64 selector, u64 shadow) {
  Cpu& cpu = cpu_of(g);
  if (!x86::load_segment(cpu, static_cast<unsigned>(number), static_cast<u16>(selector))) return 0;
  if (number == ss) cpu.state.mov_ss_shadow = shadow;
  return 0;
}

// LOCK MOV CR0, where the model has it; else #UD.
static bool control_exists(Cpu& cpu, u64& number) {
  if (!(number & locked_control)) return true;
  number &= ~locked_control;
  if (!system_of(cpu).model->has(CpuFeature::cr8legacy)) return cpu.raise(vector_ud), false;
  return true;
}
u64 read_cr(GuestCpu& g, u64 number, u64, u64) {
  Cpu& cpu = cpu_of(g);
  const State& s = cpu.state;
  if (!control_exists(cpu, number)) return 0;
  if (!supervisor_only(cpu)) return 0;
  switch (number) {
    case 0: return s.cr0;
    case 2: return s.cr2;
    case 3: return s.cr3;
    case 4: return s.cr4;
    case 8: return system_of(cpu).interrupts ? system_of(cpu).interrupts->tpr() >> 4 : s.cr8;
    default: cpu.raise(vector_ud); return 0;
  }
}
u64 write_cr(GuestCpu& g, u64 number, u64 value, u64) {
  Cpu& cpu = cpu_of(g);
  if (control_exists(cpu, number) && supervisor_only(cpu)) x86::write_cr(cpu, static_cast<unsigned>(number), value);
  return 0;
}
namespace {
bool debug_access(Cpu& cpu, u64& number) {
  State& s = cpu.state;
  if (number == 4 || number == 5) {
    if (s.cr4 & cr4_de) return cpu.raise(vector_ud), false;
    number += 2;
  }
  if (!supervisor_only(cpu)) return false;
  if (s.dr7 & 1 << 13) {
    cpu.raise(vector_db);
    cpu.pending.dr6 = 1 << 13;
    return false;
  }
  return true;
}
}  // namespace
u64 read_dr(GuestCpu& g, u64 number, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!debug_access(cpu, number)) return 0;
  return number < 4 ? cpu.state.dr[number] : number == 6 ? cpu.state.dr6 : cpu.state.dr7;
}
u64 write_dr(GuestCpu& g, u64 number, u64 value, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!debug_access(cpu, number)) return 0;
  if (number >= 6 && value >> 32) return cpu.raise(vector_gp, 0), 0;
  if (number < 4) {
    s.dr[number] = value;
  } else if (number == 6) {
    s.dr6 = (value & 0xe00f) | 0xffff'0ff0;
    return 0;
  } else {
    s.dr7 = (value & 0xffff'2bff) | 0x400;
  }
  update_breakpoints(cpu);
  cpu.leave = true;
  return 0;
}
u64 clts(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!supervisor_only(cpu)) return 0;
  cpu.state.cr0 &= ~u64{cr0_ts};
  mode_changed(cpu);
  return 0;
}
u64 lmsw(GuestCpu& g, u64 value, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!supervisor_only(cpu)) return 0;
  // PE can be set, not cleared.
  write_cr0(cpu, (cpu.state.cr0 & ~u64{0xe}) | (value & 0xf));
  return 0;
}
u64 smsw(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  return umip_blocks(cpu) ? 0 : cpu.state.cr0;
}

// a: linear address; b: Access | operand size << 8.
u64 lgdt(GuestCpu& g, u64 address, u64 what, u64) {
  Cpu& cpu = cpu_of(g);
  TableRegister t;
  if (supervisor_only(cpu) && read_table(cpu, address, what, t)) cpu.state.gdtr = t;
  return 0;
}
u64 lidt(GuestCpu& g, u64 address, u64 what, u64) {
  Cpu& cpu = cpu_of(g);
  TableRegister t;
  if (supervisor_only(cpu) && read_table(cpu, address, what, t)) cpu.state.idtr = t;
  return 0;
}
u64 sgdt(GuestCpu& g, u64 address, u64 what, u64) {
  Cpu& cpu = cpu_of(g);
  if (!umip_blocks(cpu)) store_table(cpu, cpu.state.gdtr, address, what);
  return 0;
}
u64 sidt(GuestCpu& g, u64 address, u64 what, u64) {
  Cpu& cpu = cpu_of(g);
  if (!umip_blocks(cpu)) store_table(cpu, cpu.state.idtr, address, what);
  return 0;
}
u64 lldt(GuestCpu& g, u64 selector, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (protected_only(cpu) && supervisor_only(cpu)) load_ldt(cpu, static_cast<u16>(selector));
  return 0;
}
u64 ltr(GuestCpu& g, u64 value, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u16 selector = static_cast<u16>(value);
  const u32 code = selector & 0xfffc;
  if (!protected_only(cpu) || !supervisor_only(cpu)) return 0;
  if (!code) return cpu.raise(vector_gp, 0), 0;
  if (selector & 4) return cpu.raise(vector_gp, code), 0;
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector_gp, d)) return 0;
  if (d.code_or_data() || (d.type() != type_tss32 && (d.type() != type_tss16 || s.long_mode()))) return cpu.raise(vector_gp, code), 0;
  if (!d.present()) return cpu.raise(vector_np, code), 0;
  if (s.long_mode() && !read_descriptor_upper(cpu, selector, vector_gp, d)) return 0;
  u64 old = 0;
  if (!cpu.memory->rmw(cpu, d.address + 5, 1, Access::implicit, ir::RmwKind::or_, 2, 0, old)) return 0;
  s.tr = d.segment(selector);
  s.tr.attributes |= 2;
  return 0;
}
u64 sldt(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu) || umip_blocks(cpu)) return 0;
  return cpu.state.ldtr.selector;
}
u64 str(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu) || umip_blocks(cpu)) return 0;
  return cpu.state.tr.selector;
}

// a: selector; b: the destination's old value, given back if the descriptor is not visible. ZF in cc_out.
u64 lar(GuestCpu& g, u64 selector, u64 old, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu)) return old;
  Descriptor d;
  bool ok = visible_descriptor(cpu, static_cast<u16>(selector), d);
  if (cpu.fault) return old;
  if (ok && !d.code_or_data()) {
    const u32 legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12, wide = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12;
    ok = (cpu.state.long_mode() ? wide : legacy) >> d.type() & 1;
  }
  set_zero(cpu, ok);
  return ok ? d.raw >> 32 & 0x00ff'ff00 : old;
}
u64 lsl(GuestCpu& g, u64 selector, u64 old, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu)) return old;
  Descriptor d;
  bool ok = visible_descriptor(cpu, static_cast<u16>(selector), d);
  if (cpu.fault) return old;
  if (ok && !d.code_or_data()) {
    const u32 legacy = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11, wide = 1 << 2 | 1 << 9 | 1 << 11;
    ok = (cpu.state.long_mode() ? wide : legacy) >> d.type() & 1;
  }
  set_zero(cpu, ok);
  return ok ? d.limit() : old;
}
u64 verr(GuestCpu& g, u64 selector, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu)) return 0;
  Descriptor d;
  const bool ok = visible_descriptor(cpu, static_cast<u16>(selector), d) && d.code_or_data() && d.readable();
  set_zero(cpu, ok);
  return 0;
}
u64 verw(GuestCpu& g, u64 selector, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!protected_only(cpu)) return 0;
  Descriptor d;
  const bool ok = visible_descriptor(cpu, static_cast<u16>(selector), d) && d.writable();
  set_zero(cpu, ok);
  return 0;
}
// a: destination selector, b: source selector, c: cc.
u64 arpl(GuestCpu& g, u64 destination, u64 source, u64 cc) {
  const bool raise = (destination & 3) < (source & 3);
  g.cc_out = (cc & ~ir::cc_zero) | (raise ? ir::cc_zero : 0);
  return raise ? (destination & ~u64{3}) | (source & 3) : destination;
}

// #GP(0) above level 0: INVD, WBINVD.
u64 privileged(GuestCpu& g, u64, u64, u64) { return supervisor_only(cpu_of(g)), 0; }

u64 hlt(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!supervisor_only(cpu)) return 0;
  cpu.state.activity = Activity::halted;
  system_of(cpu).monitor_armed = false;
  return 0;
}
// a: linear address of the operand.
u64 invlpg(GuestCpu& g, u64 address, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (supervisor_only(cpu)) flush_page(cpu, address);
  return 0;
}
// a: type; b: linear address of the descriptor; c: Access.
u64 invpcid(GuestCpu& g, u64 type, u64 address, u64 access) {
  Cpu& cpu = cpu_of(g);
  const State& s = cpu.state;
  if (!supervisor_only(cpu)) return 0;
  u64 descriptor[2] = {};
  if (!cpu.read_bytes(address, descriptor, 16, static_cast<u16>(access))) return 0;
  const u64 pcid = descriptor[0] & 0xfff;
  if (type > 3 || descriptor[0] >> 12 || (type <= 1 && pcid && !(s.cr4 & cr4_pcide)) || (type == 0 && !canonical(cpu, descriptor[1])))
    return cpu.raise(vector_gp, 0), 0;
  const u32 current = s.cr4 & cr4_pcide ? s.cr3 & 0xfff : 0;
  switch (type) {
    case 0:
      if (pcid == current)
        flush_page(cpu, descriptor[1]);
      else if (cpu.caches)
        cpu.caches->invalidate_page_of(static_cast<u32>(pcid), descriptor[1]);
      break;
    case 1:
      if (pcid == current)
        s.cr4& cr4_pcide ? enter_space(cpu, current, false) : flush_tlb(cpu, true);
      else if (cpu.caches)
        cpu.caches->flush_space(static_cast<u32>(pcid));
      break;
    case 2: flush_tlb(cpu, false); break;
    default: flush_tlb(cpu, true);
  }
  return 0;
}
// a: linear address of the monitored byte.
u64 monitor(GuestCpu& g, u64 address, u64 access, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.cpl() != 0) return cpu.raise(vector_ud), 0;
  if (cpu.state.gpr[rcx] & 0xffff'ffff) return cpu.raise(vector_gp, 0), 0;
  u64 ignored = 0;
  if (!cpu.read(address, 1, static_cast<u16>(access), ignored)) return 0;
  system_of(cpu).monitor_address = address;
  return 0;
}
u64 mwait(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.cpl() != 0) return cpu.raise(vector_ud), 0;
  if (cpu.state.gpr[rcx] & 0xffff'fffe) return cpu.raise(vector_gp, 0), 0;
  // As a HLT that any event ends, and that ends soon by itself: stores by others to the line are not watched.
  system_of(cpu).monitor_armed = true;
  cpu.state.activity = Activity::halted;
  return 0;
}
u64 swapgs(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (supervisor_only(cpu)) std::swap(cpu.state.segment[gs].base, cpu.state.kernel_gs_base);
  return 0;
}
// a: segment register.
u64 read_fsgs_base(GuestCpu& g, u64 number, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!(cpu.state.cr4 & cr4_fsgsbase)) return cpu.raise(vector_ud), 0;
  return cpu.state.segment[number & 7].base;
}
u64 write_fsgs_base(GuestCpu& g, u64 number, u64 value, u64) {
  Cpu& cpu = cpu_of(g);
  if (!(cpu.state.cr4 & cr4_fsgsbase)) return cpu.raise(vector_ud), 0;
  if (!canonical(cpu, value)) return cpu.raise(vector_gp, 0), 0;
  cpu.state.segment[number & 7].base = value;
  return 0;
}
u64 clac(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.cpl() != 0) return cpu.raise(vector_ud), 0;
  cpu.state.rflags &= ~u64{flag_ac};
  mode_changed(cpu);
  return 0;
}
u64 stac(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.cpl() != 0) return cpu.raise(vector_ud), 0;
  cpu.state.rflags |= flag_ac;
  mode_changed(cpu);
  return 0;
}
u64 cli(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned iopl = s.rflags >> 12 & 3;
  if (s.cpl() <= iopl || !s.protected_mode()) {
    s.rflags &= ~u64{flag_if};
  } else if (s.v86() ? s.cr4 & cr4_vme : s.cpl() == 3 && s.cr4 & cr4_pvi) {
    s.rflags &= ~u64{flag_vif};
  } else {
    cpu.raise(vector_gp, 0);
  }
  return 0;
}
u64 sti(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned iopl = s.rflags >> 12 & 3;
  if (s.cpl() <= iopl || !s.protected_mode()) {
    if (!(s.rflags & flag_if)) s.sti_shadow = true;
    s.rflags |= flag_if;
  } else if ((s.v86() ? s.cr4 & cr4_vme : s.cpl() == 3 && s.cr4 & cr4_pvi) && !(s.rflags & flag_vip)) {
    s.rflags |= flag_vif;
  } else {
    cpu.raise(vector_gp, 0);
  }
  return 0;
}

u64 rdpkru(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!(s.cr4 & cr4_pke)) return cpu.raise(vector_ud), 0;
  if (static_cast<u32>(s.gpr[rcx])) return cpu.raise(vector_gp, 0), 0;
  s.gpr[rax] = s.pkru, s.gpr[rdx] = 0;
  return 0;
}
u64 wrpkru(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!(s.cr4 & cr4_pke)) return cpu.raise(vector_ud), 0;
  if (static_cast<u32>(s.gpr[rcx]) || static_cast<u32>(s.gpr[rdx])) return cpu.raise(vector_gp, 0), 0;
  const u32 rights = static_cast<u32>(s.gpr[rax]);
  if (rights == s.pkru) return 0;  // each exec writes the default anew
  s.pkru = rights;
  flush_tlb(cpu, false);
  return 0;
}
// a: linear address of the destination; b: of the source; c: Access of the source.
u64 movdir64b(GuestCpu& g, u64 to, u64 from, u64 access) {
  Cpu& cpu = cpu_of(g);
  u8 bytes[64];
  if (to & 63) return cpu.raise(vector_gp, 0), 0;
  if (cpu.read_bytes(from, bytes, 64, static_cast<u16>(access))) cpu.write_bytes(to, bytes, 64, Access::data);
  return 0;
}
// a: linear address of a byte of the line; b: Access.
u64 clzero(GuestCpu& g, u64 address, u64 access, u64) {
  static constexpr u8 zeros[64] = {};
  cpu_of(g).write_bytes(address & ~u64{63}, zeros, 64, static_cast<u16>(access));
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
