// Far transfers: jumps, calls and returns through segments and gates, IRET in every form, INT n, the fast system calls. Source: SDM 2
// (each instruction's "Operation"), SDM 3A chapters 5, 6 and 20; AMD APM vol. 3 for SYSCALL and SYSRET.
#include "accel/tcg/guest/x86/flat_segments.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

u64 width_mask(unsigned bytes) { return mask_of_size(bytes); }

bool real_like(const State& s) { return !s.protected_mode() || s.v86(); }

// The flags that a pop of `size` bytes may change at this level.
u64 poppable(const State& s, unsigned size) {
  u64 mask = arithmetic_flags | flag_tf | flag_df | flag_nt;
  if (size > 2) mask |= flag_rf | flag_ac | flag_id;
  if (s.cpl() == 0) mask |= flag_iopl;
  if (s.cpl() <= (s.rflags >> 12 & 3)) mask |= flag_if;
  return mask;
}

bool check_offset(Cpu& cpu, const Segment& target, bool wide, u64 offset) {
  if (wide) {
    if (canonical(cpu, offset)) return true;
  } else if (offset <= target.limit) {
    return true;
  }
  cpu.raise(vector_gp, 0);
  return false;
}

// A code descriptor as the direct target of JMP or CALL.
bool check_code_target(Cpu& cpu, u16 selector, const Descriptor& d) {
  const State& s = cpu.state;
  const u32 code = selector & 0xfffc;
  const unsigned cpl = s.cpl();
  if (d.conforming() ? d.dpl() > cpl : ((selector & 3) > cpl || d.dpl() != cpl)) return cpu.raise(vector_gp, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  if (s.long_mode() && d.is_long() && d.big()) return cpu.raise(vector_gp, code), false;
  return true;
}

struct Gate {
  u16 selector = 0;
  u64 offset = 0;
  unsigned parameters = 0, width = 4;
  Descriptor target;
};
// Reads and checks a call gate (descriptor `d` at `selector`) and its code segment.
bool open_call_gate(Cpu& cpu, u16 selector, Descriptor& d, bool call, Gate& gate) {
  const State& s = cpu.state;
  const u32 code = selector & 0xfffc;
  if (d.dpl() < std::max<unsigned>(s.cpl(), selector & 3)) return cpu.raise(vector_gp, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  gate.offset = d.gate_offset();
  gate.selector = d.gate_selector();
  gate.parameters = d.raw >> 32 & 31;
  gate.width = s.long_mode() ? 8 : d.type() == type_call32 ? 4 : 2;
  if (s.long_mode()) {
    if (!read_descriptor_upper(cpu, selector, vector_gp, d)) return false;
    gate.offset |= d.upper << 32;
    gate.parameters = 0;
  } else if (gate.width == 2) {
    gate.offset &= 0xffff;
  }
  const u32 target_code = gate.selector & 0xfffc;
  if (!target_code) return cpu.raise(vector_gp, 0), false;
  if (!read_descriptor(cpu, gate.selector, vector_gp, gate.target)) return false;
  const Descriptor& t = gate.target;
  if (!t.code() || t.dpl() > s.cpl()) return cpu.raise(vector_gp, target_code), false;
  if (s.long_mode() && (!t.is_long() || t.big())) return cpu.raise(vector_gp, target_code), false;
  if (!call && !t.conforming() && t.dpl() != s.cpl()) return cpu.raise(vector_gp, target_code), false;
  if (!t.present()) return cpu.raise(vector_np, target_code), false;
  return true;
}

// TSS or task gate as the target of JMP or CALL.
bool task_target(Cpu& cpu, u16 selector, const Descriptor& d, SwitchBy by) {
  State& s = cpu.state;
  const u32 code = selector & 0xfffc;
  if (d.dpl() < std::max<unsigned>(s.cpl(), selector & 3)) return cpu.raise(vector_gp, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  u16 tss_selector = selector;
  Descriptor tss = d;
  if (d.type() == type_task_gate) {
    tss_selector = d.gate_selector();
    const u32 tss_code = tss_selector & 0xfffc;
    if (tss_selector & 4) return cpu.raise(vector_gp, tss_code), false;
    if (!read_descriptor(cpu, tss_selector, vector_gp, tss)) return false;
    if (tss.code_or_data() || (tss.type() != type_tss16 && tss.type() != type_tss32)) return cpu.raise(vector_gp, tss_code), false;
    if (!tss.present()) return cpu.raise(vector_np, tss_code), false;
  } else if (selector & 4) {
    return cpu.raise(vector_gp, code), false;
  }
  return switch_task(cpu, tss_selector, tss, by, cpu.next_ip);
}

bool is_task(const Descriptor& d) { return d.type() == type_tss16 || d.type() == type_tss32 || d.type() == type_task_gate; }
bool is_call_gate(const State& s, const Descriptor& d) { return d.type() == type_call32 || (d.type() == type_call16 && !s.long_mode()); }

// Return to `cs_selector`:`ip` at the level of its RPL, the outer stack lying `skip` bytes above the present SP. Used by RET and IRET.
bool return_far(Cpu& cpu, Stack& stack, u16 cs_selector, u64 ip, unsigned width, u64 release, bool always_stack, u64 flags,
                bool with_flags) {
  State& s = cpu.state;
  const u32 code = cs_selector & 0xfffc;
  const unsigned cpl = s.cpl(), rpl = cs_selector & 3;
  const u64 flags_mask = poppable(s, width) | (cpl == 0 && width > 2 ? u64{flag_vif | flag_vip} : 0);  // by the old level
  if (!code) return cpu.raise(vector_gp, 0), false;
  Descriptor d;
  if (!read_descriptor(cpu, cs_selector, vector_gp, d)) return false;
  if (!d.code() || rpl < cpl || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) return cpu.raise(vector_gp, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  const bool target_wide = s.long_mode() && d.is_long();
  if (target_wide && d.big()) return cpu.raise(vector_gp, code), false;
  if (!mark_accessed(cpu, d)) return false;
  const Segment target = d.segment(cs_selector);
  stack.sp = (stack.sp & ~stack.mask()) | ((stack.sp + release) & stack.mask());
  if (rpl == cpl && !always_stack) {
    if (!check_offset(cpu, target, target_wide, ip)) return false;
    stack.commit_sp(s);
  } else {
    u64 sp = 0, ss_raw = 0;
    if (!stack.pop(sp, width) || !stack.pop(ss_raw, width)) return false;
    const u16 ss_selector = static_cast<u16>(ss_raw);
    Segment new_ss;
    if (!(ss_selector & 0xfffc)) {
      if (!target_wide || rpl == 3 || (ss_selector & 3) != rpl) return cpu.raise(vector_gp, 0), false;
      new_ss = {.selector = ss_selector, .attributes = static_cast<u16>(rpl << 5), .limit = 0, .base = 0};
    } else if (!check_stack_segment(cpu, ss_selector, rpl, vector_gp, new_ss)) {
      return false;
    }
    if (!check_offset(cpu, target, target_wide, ip)) return false;
    s.segment[ss] = new_ss;
    const u64 mask = target_wide ? ~u64{0} : new_ss.big() ? 0xffff'ffff : 0xffff;
    if (!with_flags) sp += release;  // RET n drops the outer stack's parameters too
    // To a 64-bit or 32-bit stack the upper half is as popped or zero; a 16-bit one keeps it.
    s.gpr[rsp] = mask == 0xffff ? (s.gpr[rsp] & ~mask) | (sp & mask) : sp & mask;
  }
  if (with_flags) {
    s.rflags = (s.rflags & ~flags_mask) | (flags & flags_mask) | flag_1;
    s.rflags &= ~u64{flag_vm};
  }
  set_cs(cpu, target, rpl);
  s.rip = ip;
  if (rpl != cpl) drop_inner_segments(cpu, rpl);
  mode_changed(cpu);
  return true;
}

void iret_v86_mode(Cpu& cpu, unsigned width) {
  State& s = cpu.state;
  const bool vme = (s.rflags >> 12 & 3) < 3;
  if (vme && !(s.cr4 & cr4_vme && width == 2)) return cpu.raise(vector_gp, 0);
  Stack stack = Stack::current(cpu);
  u64 ip = 0, selector = 0, flags = 0;
  if (!stack.pop(ip, width) || !stack.pop(selector, width) || !stack.pop(flags, width)) return;
  if (ip > 0xffff) return cpu.raise(vector_gp, 0);
  u64 mask = poppable(s, width) & ~u64{flag_iopl};
  if (vme) {
    const bool wants_if = flags & flag_if;
    if ((wants_if && s.rflags & flag_vip) || flags & flag_tf) return cpu.raise(vector_gp, 0);
    mask &= ~u64{flag_if};
    s.rflags = (s.rflags & ~u64{flag_vif}) | (wants_if ? u64{flag_vif} : 0);
  }
  stack.commit_sp(s);
  s.rflags = (s.rflags & ~mask) | (flags & mask) | flag_1;
  set_real_segment(cpu, cs, static_cast<u16>(selector));
  s.rip = ip;
  s.nmi_blocked = false;
  mode_changed(cpu);
}

void decide_step(Cpu& cpu) {
  using StepTrap = System::StepTrap;
  system_of(cpu).step_trap = cpu.state.rflags & flag_tf ? StepTrap::yes : StepTrap::no;
}

}  // namespace

namespace helper {

// a: selector; b: offset; c: operand size.
u64 far_jump(GuestCpu& g, u64 selector_value, u64 offset, u64 opsize) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u16 selector = static_cast<u16>(selector_value);
  offset &= width_mask(static_cast<unsigned>(opsize));
  if (real_like(s)) {
    if (offset > s.segment[cs].limit) return cpu.raise(vector_gp, 0), 0;
    set_real_segment(cpu, cs, selector);
    s.rip = offset;
    return 0;
  }
  if (!(selector & 0xfffc)) return cpu.raise(vector_gp, 0), 0;
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector_gp, d)) return 0;
  if (d.code()) {
    if (!check_code_target(cpu, selector, d)) return 0;
    const Segment target = d.segment(selector);
    if (!check_offset(cpu, target, s.long_mode() && d.is_long(), offset) || !mark_accessed(cpu, d)) return 0;
    set_cs(cpu, d.segment(selector), s.cpl());
    s.rip = offset;
    mode_changed(cpu);
    return 0;
  }
  if (!d.code_or_data() && is_call_gate(s, d)) {
    Gate gate;
    if (!open_call_gate(cpu, selector, d, false, gate)) return 0;
    const Segment target = gate.target.segment(gate.selector);
    if (!check_offset(cpu, target, s.long_mode(), gate.offset) || !mark_accessed(cpu, gate.target)) return 0;
    set_cs(cpu, gate.target.segment(gate.selector), s.cpl());
    s.rip = gate.offset;
    mode_changed(cpu);
    return 0;
  }
  if (!d.code_or_data() && is_task(d) && !s.long_mode()) return task_target(cpu, selector, d, SwitchBy::jump), 0;
  return cpu.raise(vector_gp, selector & 0xfffc), 0;
}

u64 far_call(GuestCpu& g, u64 selector_value, u64 offset, u64 opsize) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u16 selector = static_cast<u16>(selector_value);
  const unsigned size = static_cast<unsigned>(opsize);
  offset &= width_mask(size);
  const u64 back = cpu.next_ip;
  Stack stack = Stack::current(cpu);
  if (real_like(s)) {
    if (offset > s.segment[cs].limit) return cpu.raise(vector_gp, 0), 0;
    if (!stack.push(s.segment[cs].selector, size) || !stack.push(back, size)) return 0;
    stack.commit_sp(s);
    set_real_segment(cpu, cs, selector);
    s.rip = offset;
    return 0;
  }
  if (!(selector & 0xfffc)) return cpu.raise(vector_gp, 0), 0;
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector_gp, d)) return 0;
  if (d.code()) {
    if (!check_code_target(cpu, selector, d)) return 0;
    if (!stack.room(2 * size)) return 0;
    if (!check_offset(cpu, d.segment(selector), s.long_mode() && d.is_long(), offset) || !mark_accessed(cpu, d)) return 0;
    if (!stack.push(s.segment[cs].selector, size) || !stack.push(back, size)) return 0;
    stack.commit_sp(s);
    set_cs(cpu, d.segment(selector), s.cpl());
    s.rip = offset;
    mode_changed(cpu);
    return 0;
  }
  if (!d.code_or_data() && is_task(d) && !s.long_mode()) return task_target(cpu, selector, d, SwitchBy::call), 0;
  if (d.code_or_data() || !is_call_gate(s, d)) return cpu.raise(vector_gp, selector & 0xfffc), 0;
  Gate gate;
  if (!open_call_gate(cpu, selector, d, true, gate)) return 0;
  const unsigned width = gate.width, old_cpl = s.cpl();
  const Descriptor& t = gate.target;
  const unsigned new_cpl = t.conforming() ? old_cpl : t.dpl();
  if (!check_offset(cpu, t.segment(gate.selector), s.long_mode(), gate.offset) || !mark_accessed(cpu, gate.target)) return 0;
  if (new_cpl == old_cpl) {
    if (!stack.push(s.segment[cs].selector, width) || !stack.push(back, width)) return 0;
    stack.commit_sp(s);
  } else {
    Segment new_ss;
    u64 sp = 0;
    if (s.long_mode()) {
      const u64 at = 4 + 8 * new_cpl;
      if (at + 7 > s.tr.limit) return cpu.raise(vector_ts, s.tr.selector & 0xfffc), 0;
      if (!cpu.read(s.tr.base + at, 8, Access::implicit, sp)) return 0;
      new_ss = {.selector = static_cast<u16>(new_cpl), .attributes = static_cast<u16>(new_cpl << 5), .limit = 0, .base = 0};
    } else {
      u16 stack_selector = 0;
      if (!inner_stack(cpu, new_cpl, stack_selector, sp)) return 0;
      if (!check_stack_segment(cpu, stack_selector, new_cpl, vector_ts, new_ss)) return 0;
    }
    Stack inner{cpu, new_ss, sp, new_cpl, s.long_mode()};
    inner.ext = new_ss.selector & 0xfffc;
    u64 parameter[31] = {};
    for (unsigned i = 0; i < gate.parameters; ++i)
      if (!stack.peek(u64{i} * width, parameter[i], width)) return 0;
    if (!inner.room(width * (4 + gate.parameters))) return 0;
    if (!inner.push(s.segment[ss].selector, width) || !inner.push(s.gpr[rsp], width)) return 0;
    for (unsigned i = gate.parameters; i-- > 0;)
      if (!inner.push(parameter[i], width)) return 0;
    if (!inner.push(s.segment[cs].selector, width) || !inner.push(back, width)) return 0;
    s.segment[ss] = new_ss;
    inner.commit_sp(s);
  }
  set_cs(cpu, gate.target.segment(gate.selector), new_cpl);
  s.rip = gate.offset;
  mode_changed(cpu);
  return 0;
}

// a: operand size; b: bytes to release.
u64 far_ret(GuestCpu& g, u64 opsize, u64 release, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned size = static_cast<unsigned>(opsize);
  Stack stack = Stack::current(cpu);
  u64 ip = 0, selector = 0;
  if (!stack.pop(ip, size) || !stack.pop(selector, size)) return 0;
  if (real_like(s)) {
    if (ip > s.segment[cs].limit) return cpu.raise(vector_gp, 0), 0;
    stack.sp = (stack.sp & ~stack.mask()) | ((stack.sp + release) & stack.mask());
    stack.commit_sp(s);
    set_real_segment(cpu, cs, static_cast<u16>(selector));
    s.rip = ip;
    return 0;
  }
  return_far(cpu, stack, static_cast<u16>(selector), ip, size, release, false, 0, false);
  return 0;
}

// a: operand size.
u64 iret(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned size = static_cast<unsigned>(opsize);
  if (s.v86()) return iret_v86_mode(cpu, size), 0;
  Stack stack = Stack::current(cpu);
  u64 ip = 0, selector = 0, flags = 0;
  if (!s.protected_mode()) {
    if (!stack.pop(ip, size) || !stack.pop(selector, size) || !stack.pop(flags, size)) return 0;
    if (ip > s.segment[cs].limit) return cpu.raise(vector_gp, 0), 0;
    stack.commit_sp(s);
    const u64 mask = poppable(s, size);
    s.rflags = (s.rflags & ~mask) | (flags & mask) | flag_1;
    set_real_segment(cpu, cs, static_cast<u16>(selector));
    s.rip = ip;
    s.nmi_blocked = false;
    mode_changed(cpu);
    return 0;
  }
  if (s.rflags & flag_nt) {
    if (s.long_mode()) return cpu.raise(vector_gp, 0), 0;
    u64 link = 0;
    if (!cpu.read(s.tr.base, 2, Access::implicit, link)) return 0;
    const u16 tss_selector = static_cast<u16>(link);
    const u32 code = tss_selector & 0xfffc;
    Descriptor tss;
    if (tss_selector & 4 || !code) return cpu.raise(vector_ts, code), 0;
    if (!read_descriptor(cpu, tss_selector, vector_ts, tss)) return 0;
    if (tss.code_or_data() || (tss.type() != type_tss16_busy && tss.type() != type_tss32_busy)) return cpu.raise(vector_ts, code), 0;
    if (!tss.present()) return cpu.raise(vector_np, code), 0;
    switch_task(cpu, tss_selector, tss, SwitchBy::iret, cpu.next_ip);
    s.nmi_blocked = false;
    return 0;
  }
  if (!stack.pop(ip, size) || !stack.pop(selector, size) || !stack.pop(flags, size)) return 0;
  if (flags & flag_vm && s.cpl() == 0 && size == 4 && !s.long_mode()) {
    u64 sp = 0, segment[6] = {};
    if (!stack.pop(sp, 4)) return 0;
    for (const unsigned i : {unsigned{ss}, unsigned{es}, unsigned{ds}, unsigned{fs}, unsigned{gs}})
      if (!stack.pop(segment[i], 4)) return 0;
    if (ip > 0xffff) return cpu.raise(vector_gp, 0), 0;
    segment[cs] = selector;
    s.rflags = (flags & 0x3f7fd5) | flag_1;
    for (unsigned i = 0; i < 6; ++i) set_real_segment(cpu, i, static_cast<u16>(segment[i]));
    s.gpr[rsp] = static_cast<u32>(sp);
    s.rip = ip;
    s.nmi_blocked = false;
    mode_changed(cpu);
    return 0;
  }
  if (return_far(cpu, stack, static_cast<u16>(selector), ip, size, 0, s.code64(), flags, true)) {
    s.nmi_blocked = false;
    if (System& system = system_of(cpu); s.cpl() == 3 && system.interrupts_taken >= system.program_at) system.at_program = cpu.leave = true;
  }
  return 0;
}

namespace {
void software_interrupt(Cpu& cpu, u8 vector, bool real_form = false) {
  cpu.pending = {.vector = vector, .dr6 = real_form ? ~u64{0} : 0, .software = true};
  cpu.fault = true;
}
}  // namespace

u64 int_n(GuestCpu& g, u64 vector, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (s.protected_mode() && s.v86()) {
    const bool low_iopl = (s.rflags >> 12 & 3) < 3;
    if (s.cr4 & cr4_vme) {
      // The redirection bitmap: the 32 bytes before the I/O map; a clear bit means the virtual machine's own handler.
      u64 map = 0, byte = 0;
      if (!cpu.read(s.tr.base + 0x66, 2, Access::implicit, map)) return 0;
      const u64 at = map - 32 + (vector >> 3);
      if (map >= 32 && at <= s.tr.limit) {
        if (!cpu.read(s.tr.base + at, 1, Access::implicit, byte)) return 0;
        if (!(byte >> (vector & 7) & 1)) return software_interrupt(cpu, static_cast<u8>(vector), true), 0;
      }
    }
    if (low_iopl) return cpu.raise(vector_gp, 0), 0;
  }
  software_interrupt(cpu, static_cast<u8>(vector));
  return 0;
}
u64 int3(GuestCpu& g, u64, u64, u64) { return software_interrupt(cpu_of(g), vector_bp), 0; }
u64 into(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.rflags & flag_of) {
    software_interrupt(cpu, vector_of);
  } else {
    cpu.state.rip = cpu.next_ip;
  }
  return 0;
}
// ICEBP: a trap, without DPL check.
u64 int1(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  cpu.raise(vector_db);
  return cpu.raised_at(cpu.next_ip);
}

u64 syscall(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!(s.efer & efer_sce) || !s.protected_mode()) return cpu.raise(vector_ud), 0;
  const u16 selector = static_cast<u16>(s.star >> 32) & 0xfffc;
  if (s.long_mode()) {
    const bool wide = s.code64();
    if (!wide && !system_of(cpu).model->amd()) return cpu.raise(vector_ud), 0;  // Intel's: in 64-bit mode only
    s.gpr[rcx] = cpu.next_ip;
    s.gpr[r11] = s.rflags & ~u64{flag_rf};
    s.rip = wide ? s.lstar : s.cstar;
    s.rflags = (s.rflags & ~(s.sfmask | flag_rf)) | flag_1;
    s.segment[cs] = flat_code(selector, true, 0);
  } else {
    if (!system_of(cpu).model->amd()) return cpu.raise(vector_ud), 0;
    s.gpr[rcx] = static_cast<u32>(cpu.next_ip);
    s.rip = static_cast<u32>(s.star);
    s.rflags &= ~u64{flag_vm | flag_if | flag_rf};
    s.segment[cs] = flat_code(selector, false, 0);
  }
  s.segment[ss] = flat_stack(static_cast<u16>(selector + 8), 0);
  decide_step(cpu);
  mode_changed(cpu);
  return 0;
}

// a: operand size.
u64 sysret(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!(s.efer & efer_sce)) return cpu.raise(vector_ud), 0;
  if (!s.protected_mode() || s.cpl() != 0) return cpu.raise(vector_gp, 0), 0;
  const u16 base = static_cast<u16>(s.star >> 48);
  if (s.long_mode()) {
    if (opsize == 8) {
      // A non-canonical RCX: #GP here with Intel, in user mode with AMD; ours is the safer of the two for kernels.
      if (!canonical(cpu, s.gpr[rcx])) return cpu.raise(vector_gp, 0), 0;
      s.segment[cs] = flat_code(static_cast<u16>((base + 16) | 3), true, 3);
      s.rip = s.gpr[rcx];
    } else {
      s.segment[cs] = flat_code(static_cast<u16>(base | 3), false, 3);
      s.rip = static_cast<u32>(s.gpr[rcx]);
    }
    s.rflags = (s.gpr[r11] & 0x3c7fd7) | flag_1;
  } else {
    if (!system_of(cpu).model->amd()) return cpu.raise(vector_ud), 0;
    s.segment[cs] = flat_code(static_cast<u16>(base | 3), false, 3);
    s.rip = static_cast<u32>(s.gpr[rcx]);
    s.rflags |= flag_if;
  }
  s.segment[ss] = flat_stack(static_cast<u16>((base + 8) | 3), 3);
  decide_step(cpu);
  mode_changed(cpu);
  return 0;
}

u64 sysenter(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u16 selector = static_cast<u16>(s.sysenter_cs) & 0xfffc;
  if (!s.protected_mode() || !selector) return cpu.raise(vector_gp, 0), 0;
  const bool wide = s.long_mode();
  s.rflags &= ~u64{flag_vm | flag_if | flag_rf};
  s.segment[cs] = flat_code(selector, wide, 0);
  s.segment[ss] = flat_stack(static_cast<u16>(selector + 8), 0);
  s.gpr[rsp] = wide ? s.sysenter_esp : static_cast<u32>(s.sysenter_esp);
  s.rip = wide ? s.sysenter_eip : static_cast<u32>(s.sysenter_eip);
  mode_changed(cpu);
  return 0;
}

// a: operand size.
u64 sysexit(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const u16 selector = static_cast<u16>(s.sysenter_cs) & 0xfffc;
  if (!s.protected_mode() || !selector || s.cpl() != 0) return cpu.raise(vector_gp, 0), 0;
  const bool wide = opsize == 8 && s.long_mode();
  if (wide && (!canonical(cpu, s.gpr[rcx]) || !canonical(cpu, s.gpr[rdx]))) return cpu.raise(vector_gp, 0), 0;
  const u16 code = static_cast<u16>(selector + (wide ? 32 : 16)), stack = static_cast<u16>(selector + (wide ? 40 : 24));
  s.segment[cs] = flat_code(code | 3, wide, 3);
  s.segment[ss] = flat_stack(stack | 3, 3);
  s.gpr[rsp] = wide ? s.gpr[rcx] : static_cast<u32>(s.gpr[rcx]);
  s.rip = wide ? s.gpr[rdx] : static_cast<u32>(s.gpr[rdx]);
  mode_changed(cpu);
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
