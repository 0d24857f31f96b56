// Exceptions and interrupts: delivery in every mode, double and triple faults, debug exceptions, INIT and SIPI. Source: SDM 3A chapters
// 6 and 17, AMD APM vol. 2 chapter 8.
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

enum class Class : u8 { benign, contributory, page_fault };
Class class_of(const Event& e) {
  if (e.kind != EventKind::exception) return Class::benign;
  switch (e.vector) {
    case vector_de:
    case vector_ts:
    case vector_np:
    case vector_ss:
    case vector_gp: return Class::contributory;
    case vector_pf: return Class::page_fault;
    default: return Class::benign;
  }
}

// Faults push RF = 1, so that an instruction breakpoint on the instruction that comes back does not hit again.
bool pushes_rf(const Event& e) {
  if (e.kind != EventKind::exception) return false;
  return e.vector != vector_db && e.vector != vector_bp && e.vector != vector_of && e.vector != vector_df && e.vector != vector_mc;
}

bool inject_real(Cpu& cpu, const Event& e, u64 table, bool limited) {
  State& s = cpu.state;
  if (limited && e.vector * 4u + 3 > s.idtr.limit) return cpu.raise(vector_gp, e.vector * 8u + 2 + e.external()), false;
  u64 entry = 0;
  if (!cpu.read(table + e.vector * 4u, 4, Access::implicit, entry)) return false;
  Stack stack = Stack::current(cpu);
  // In virtual-8086 mode by the redirection bitmap with IOPL < 3: VIF stands for IF (SDM 3A §20.3.3.4).
  const bool virtual_if = s.v86() && (s.rflags & flag_iopl) != flag_iopl;
  u64 flags = s.rflags & 0xffff;
  if (virtual_if) flags = (flags & ~u64{flag_if}) | flag_iopl | (s.rflags & flag_vif ? u64{flag_if} : 0);
  if (!stack.push(flags, 2) || !stack.push(s.segment[cs].selector, 2) || !stack.push(e.return_ip & 0xffff, 2)) return false;
  stack.commit_sp(s);
  s.rflags &= ~u64{(virtual_if ? flag_vif : flag_if) | flag_tf | flag_ac | flag_rf};
  set_real_segment(cpu, cs, static_cast<u16>(entry >> 16));
  s.rip = entry & 0xffff;
  return true;
}

bool inject_long(Cpu& cpu, const Event& e, const Descriptor& gate, const Descriptor& target, unsigned new_cpl, u64 offset) {
  State& s = cpu.state;
  const u32 ext = e.external();
  const unsigned old_cpl = s.cpl();
  const unsigned ist = gate.raw >> 32 & 7;
  u64 sp = s.gpr[rsp];
  if (ist || new_cpl != old_cpl) {
    const u64 at = ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * new_cpl;
    if (at + 7 > s.tr.limit) return cpu.raise(vector_ts, (s.tr.selector & 0xfffc) | ext), false;
    if (!cpu.read(s.tr.base + at, 8, Access::implicit, sp)) return false;
    if (!canonical(cpu, sp)) return cpu.raise(vector_ss, ext), false;
  }
  if (!canonical(cpu, offset)) return cpu.raise(vector_gp, ext), false;
  Stack stack{cpu, s.segment[ss], sp & ~u64{15}, new_cpl, true};
  stack.ext = ext;
  const u64 flags = s.rflags | (pushes_rf(e) ? u64{flag_rf} : 0);
  if (!stack.push(s.segment[ss].selector, 8) || !stack.push(s.gpr[rsp], 8) || !stack.push(flags, 8) ||
      !stack.push(s.segment[cs].selector, 8) || !stack.push(e.return_ip, 8) || (e.has_code && !stack.push(e.code, 8)))
    return false;
  if (new_cpl != old_cpl)
    s.segment[ss] = {.selector = static_cast<u16>(new_cpl), .attributes = static_cast<u16>(new_cpl << 5), .limit = 0, .base = 0};
  set_cs(cpu, target.segment(gate.gate_selector()), new_cpl);
  s.gpr[rsp] = stack.sp;
  s.rip = offset;
  return true;
}

bool inject_protected(Cpu& cpu, const Event& e) {
  State& s = cpu.state;
  const bool wide = s.long_mode();
  const u32 ext = e.external(), idt_code = e.vector * 8u + 2 + ext;
  const unsigned size = wide ? 16 : 8;
  if (e.vector * size + size - 1 > s.idtr.limit) return cpu.raise(vector_gp, idt_code), false;
  Descriptor gate;
  gate.address = s.idtr.base + e.vector * size;
  if (!cpu.read(gate.address, 8, Access::implicit, gate.raw)) return false;
  if (wide && !cpu.read(gate.address + 8, 8, Access::implicit, gate.upper)) return false;
  const unsigned type = gate.type();
  const bool interrupt = type == type_interrupt32 || type == type_interrupt16, trap = type == type_trap32 || type == type_trap16;
  const bool known = wide ? type == type_interrupt32 || type == type_trap32 : interrupt || trap || type == type_task_gate;
  if (gate.code_or_data() || !known) return cpu.raise(vector_gp, idt_code), false;
  if (!e.external() && gate.dpl() < s.cpl()) return cpu.raise(vector_gp, e.vector * 8u + 2), false;
  if (!gate.present()) return cpu.raise(vector_np, idt_code), false;
  if (type == type_task_gate) {
    Descriptor tss;
    const u16 selector = gate.gate_selector();
    const u32 code = (selector & 0xfffc) | ext;
    if (selector & 4) return cpu.raise(vector_gp, code), false;
    if (!read_descriptor(cpu, selector, vector_gp, tss, ext)) return false;
    if (tss.code_or_data() || (tss.type() != type_tss16 && tss.type() != type_tss32)) return cpu.raise(vector_gp, code), false;
    if (!tss.present()) return cpu.raise(vector_np, code), false;
    return switch_task(cpu, selector, tss, SwitchBy::gate, e.return_ip, e.has_code, e.code);
  }
  const u16 selector = gate.gate_selector();
  const u32 code = (selector & 0xfffc) | ext;
  if (!(selector & 0xfffc)) return cpu.raise(vector_gp, ext), false;
  Descriptor target;
  if (!read_descriptor(cpu, selector, vector_gp, target, ext)) return false;
  const unsigned old_cpl = s.cpl();
  if (!target.code() || target.dpl() > old_cpl) return cpu.raise(vector_gp, code), false;
  if (!target.present()) return cpu.raise(vector_np, code), false;
  if (wide && (!target.is_long() || target.big())) return cpu.raise(vector_gp, code), false;
  if (!mark_accessed(cpu, target)) return false;
  const unsigned new_cpl = target.conforming() ? old_cpl : target.dpl();
  u64 offset = gate.gate_offset();
  const u64 old_flags = s.rflags;
  if (wide) {
    offset |= gate.upper << 32;
    if (!inject_long(cpu, e, gate, target, new_cpl, offset)) return false;
  } else {
    const unsigned width = type >= 8 ? 4 : 2;
    if (width == 2) offset &= 0xffff;
    const bool v86 = s.v86();
    if (v86 && new_cpl != 0) return cpu.raise(vector_gp, code), false;
    const u64 flags = s.rflags | (pushes_rf(e) ? u64{flag_rf} : 0);
    Stack stack = Stack::current(cpu);
    stack.ext = ext;
    Segment new_ss = s.segment[ss];
    if (new_cpl < old_cpl) {
      u16 stack_selector = 0;
      u64 sp = 0;
      if (!inner_stack(cpu, new_cpl, stack_selector, sp)) return cpu.pending.code |= ext, false;
      if (!check_stack_segment(cpu, stack_selector, new_cpl, vector_ts, new_ss, ext)) return false;
      stack = Stack{cpu, new_ss, sp, new_cpl, false};
      stack.ext = (stack_selector & 0xfffc) | ext;
      if (!stack.room(width * (5 + 4 * v86 + e.has_code))) return false;
      if (v86) {
        for (const unsigned i : {unsigned{gs}, unsigned{fs}, unsigned{ds}, unsigned{es}})
          if (!stack.push(s.segment[i].selector, width)) return false;
      }
      if (!stack.push(s.segment[ss].selector, width) || !stack.push(s.gpr[rsp], width)) return false;
    } else if (!stack.room(width * (3 + e.has_code))) {
      return false;
    }
    if (offset > target.limit()) return cpu.raise(vector_gp, ext), false;
    if (!stack.push(flags, width) || !stack.push(s.segment[cs].selector, width) || !stack.push(e.return_ip, width) ||
        (e.has_code && !stack.push(e.code, width)))
      return false;
    if (v86)
      for (const unsigned i : {unsigned{gs}, unsigned{fs}, unsigned{ds}, unsigned{es}})
        s.segment[i].selector = 0, s.segment[i].attributes = 0;
    s.rflags &= ~u64{flag_vm};
    s.segment[ss] = new_ss;
    stack.commit_sp(s);
    set_cs(cpu, target.segment(selector), new_cpl);
    s.rip = offset;
  }
  s.rflags = old_flags & ~u64{flag_tf | flag_nt | flag_rf | flag_vm | (interrupt ? flag_if : 0)};
  return true;
}

void shut_down(Cpu& cpu) {
  System& system = system_of(cpu);
  const State& s = cpu.state;
  log(LogItem::interrupts, "cpu {}: triple fault at {:04x}:{:x}\n", system.apic_id, s.segment[cs].selector, s.rip);
  cpu.state.activity = Activity::shutdown;
  cpu.leave = true;
  if (system.triple_fault) system.triple_fault(system.machine_self);
}

void run_event(Cpu& cpu, Event e) {
  State& s = cpu.state;
  System& system = system_of(cpu);
  for (;;) {
    if (log_enabled(LogItem::interrupts))
      log_write(format("{:>6}: v={:02x} e={:04x} i={} cpl={} IP={:04x}:{:016x} pc={:016x} SP={:04x}:{:016x} CR2={:016x}\n",
                       system.exceptions_taken, e.vector, e.has_code ? e.code : 0, e.kind == EventKind::software, s.cpl(),
                       s.segment[cs].selector, s.rip, s.segment[cs].base + s.rip, s.segment[ss].selector, s.gpr[rsp], s.cr2));
    ++system.exceptions_taken;
    if (e.kind == EventKind::software && e.vector == vector_db) e.kind = EventKind::exception;
    if (inject(cpu, e)) break;
    cpu.fault = false;
    const Pending second = cpu.pending;
    if (e.kind == EventKind::exception && e.vector == vector_df) return shut_down(cpu);
    if (second.vector == vector_pf) s.cr2 = second.cr2;
    Event next{.vector = second.vector, .kind = EventKind::exception, .has_code = second.has_code, .code = second.code, .return_ip = s.rip};
    const Class first_class = class_of(e), second_class = class_of(next);
    const bool is_double = (first_class == Class::contributory && second_class == Class::contributory) ||
                           (first_class == Class::page_fault && second_class != Class::benign);
    if (is_double) next = {.vector = vector_df, .kind = EventKind::exception, .has_code = true, .code = 0, .return_ip = s.rip};
    e = next;
  }
  s.sti_shadow = s.mov_ss_shadow = false;
  mode_changed(cpu);
}

}  // namespace

void set_cs(Cpu& cpu, const Segment& segment, unsigned cpl) {
  cpu.state.segment[cs] = segment;
  cpu.state.segment[cs].selector = static_cast<u16>((segment.selector & ~3u) | cpl);
}

bool inject(Cpu& cpu, const Event& event) {
  const State& s = cpu.state;
  if (event.kind == EventKind::software_real_only) return inject_real(cpu, event, 0, false);
  if (!s.protected_mode()) {
    Event plain = event;
    plain.has_code = false;
    return inject_real(cpu, plain, s.idtr.base, true);
  }
  return inject_protected(cpu, event);
}

void deliver(GuestCpu& g) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  cpu.fault = false;
  const Pending p = cpu.pending;
  if (p.has_ip) s.rip = p.ip;
  if (p.vector == frozen_by_ferr && !p.software) {  // `int 0xff` is an interrupt like any other
    s.activity = Activity::halted;
    cpu.leave = true;
    const ParkedScope parked{system_of(cpu)};
    return system_of(cpu).coprocessor->assert_ferr();
  }
  Event e{.vector = p.vector, .kind = EventKind::exception, .has_code = p.has_code, .code = p.code, .return_ip = s.rip};
  if (p.software) {
    e.kind = p.dr6 == ~u64{0} ? EventKind::software_real_only : EventKind::software;
    e.return_ip = cpu.next_ip;
  } else if (p.vector == vector_pf) {
    s.cr2 = p.cr2;
  } else if (p.vector == vector_db) {
    s.dr6 |= p.dr6;
    s.dr7 &= ~u64{1 << 13};  // GD
  }
  // An instruction that faults has no trap of its own.
  system_of(cpu).debug_hits = 0;
  system_of(cpu).debug_stop = {};  // it will meet the watched data again
  run_event(cpu, e);
}

void deliver_external(Cpu& cpu, u8 vector, EventKind kind) {
  ++system_of(cpu).interrupts_taken;
  run_event(cpu, {.vector = vector, .kind = kind, .return_ip = cpu.state.rip});
}

bool leave(GuestCpu& g) {
  Cpu& cpu = cpu_of(g);
  System& system = system_of(cpu);
  State& s = cpu.state;
  using vm::Request;
  cpu.leave = false;
  cpu.poll.store(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const u32 requests = system.requests.load(std::memory_order_acquire);
  const auto take = [&](Request r) {
    const u32 mask = static_cast<u32>(r);
    if (!(requests & mask)) return false;
    system.requests.fetch_and(~mask, std::memory_order_acq_rel);
    return true;
  };
  if (requests) [[unlikely]] {
    take(Request::interrupt);
    if (take(Request::flush)) flush_everything(cpu), cpu.leave = false;
    if (requests & (static_cast<u32>(Request::stop) | static_cast<u32>(Request::work) | static_cast<u32>(Request::exit))) return false;
    if (take(Request::nmi)) s.nmi_pending = true;
    if (take(Request::smi)) s.smi_pending = true;
    if (take(Request::init)) s.init_pending = true;
    if (take(Request::sipi)) {
      if (system.sipi_vector) s.sipi_vector = system.sipi_vector->load(std::memory_order_acquire);
      s.sipi_pending = true;
    }
  }
  check_generation(cpu);
  cpu.leave = false;
  if (s.init_pending && !s.smm) take_init(cpu);
  if (s.sipi_pending) {
    s.sipi_pending = false;
    if (s.activity == Activity::wait_for_sipi) take_sipi(cpu, s.sipi_vector);
  }
  if (s.activity == Activity::shutdown || s.activity == Activity::wait_for_sipi) return false;
  if (s.mov_ss_shadow || system.step == System::Step::alone) {
    if (requests & static_cast<u32>(Request::mce)) cpu.poll.store(0, std::memory_order_relaxed);  // look again
    return s.activity == Activity::running;
  }
  if (requests && take(Request::mce)) [[unlikely]] {  // the banks are filled; CR4.MCE was looked at
    s.activity = Activity::running;
    run_event(cpu, {.vector = vector_mc, .kind = EventKind::exception, .return_ip = s.rip});
    return true;
  }
  if (s.smi_pending && !s.smm) {
    s.smi_pending = false;
    s.activity = Activity::running;
    enter_smm(cpu);
    return true;
  }
  if (s.nmi_pending && !s.nmi_blocked) {
    s.nmi_pending = false;
    s.nmi_blocked = true;
    s.activity = Activity::running;
    deliver_external(cpu, vector_nmi, EventKind::nmi);
    return true;
  }
  if (s.rflags & flag_if && !s.sti_shadow && system.interrupts && system.interrupts->pending()) {
    int vector = -1;
    {
      const ParkedScope parked{system};
      vector = system.interrupts->acknowledge();
    }
    check_generation(cpu);
    cpu.leave = false;
    if (vector >= 0) {
      s.activity = Activity::running;
      deliver_external(cpu, static_cast<u8>(vector), EventKind::external);
    }
  }
  return s.activity == Activity::running;
}

void update_breakpoints(Cpu& cpu) {
  State& s = cpu.state;
  System& system = system_of(cpu);
  const bool had_data = system.data_breakpoints;
  system.data_breakpoints = system.code_breakpoints = system.port_breakpoints = false;
  for (unsigned i = 0; i < 4; ++i) {
    if (!(s.dr7 >> (2 * i) & 3)) continue;
    switch (s.dr7 >> (16 + 4 * i) & 3) {
      case 0: system.code_breakpoints = true; break;
      case 2: system.port_breakpoints = s.cr4 & cr4_de; break;
      default: system.data_breakpoints = true;
    }
  }
  if (system.debug && system.debug->watches()) system.data_breakpoints = true;
  if (had_data || system.data_breakpoints) flush_tlb(cpu, false);
}

bool code_breakpoint(Cpu& cpu) {
  const State& s = cpu.state;
  if (!system_of(cpu).code_breakpoints || s.rflags & flag_rf) return false;
  const u64 linear = s.code64() ? s.rip : (s.segment[cs].base + s.rip) & 0xffff'ffff;
  u64 hits = 0;
  for (unsigned i = 0; i < 4; ++i)
    if (s.dr7 >> (2 * i) & 3 && !(s.dr7 >> (16 + 4 * i) & 3) && s.dr[i] == linear) hits |= 1u << i;
  if (!hits) return false;
  cpu.raise(vector_db);
  cpu.pending.dr6 = hits;
  return true;
}

void after_instruction(Cpu& cpu, bool tf) {
  System& system = system_of(cpu);
  u64 dr6 = system.debug_hits | (tf ? 1u << 14 : 0) | (system.trap_after ? 1u << 15 : 0);
  system.debug_hits = 0;
  system.trap_after = false;
  if (!dr6) return;
  cpu.raise(vector_db);
  cpu.pending.dr6 = dr6;
}

void take_init(Cpu& cpu) {
  System& system = system_of(cpu);
  State& s = cpu.state;
  const bool bootstrap = system.interrupts ? system.interrupts->base_msr() & 0x100 : system.bootstrap;
  // A start-up message that came right behind INIT is taken after it.
  const bool sipi = s.sipi_pending;
  const u8 sipi_vector = s.sipi_vector;
  vmm::x86::reset(s, true, bootstrap);
  s.sipi_pending = sipi, s.sipi_vector = sipi_vector;
  s.gpr[rdx] = system.model ? vmm::x86::cpuid(*system.model, {.leaf = 1}).eax : 0x600;
  if (system.interrupts) system.interrupts->reset(true);
  cpu.fault = false;
  update_breakpoints(cpu);
  flush_everything(cpu);
  mode_changed(cpu);
}

void take_sipi(Cpu& cpu, u8 vector) {
  State& s = cpu.state;
  s.segment[cs].selector = static_cast<u16>(vector << 8);
  s.segment[cs].base = u64{vector} << 12;
  s.rip = 0;
  s.activity = Activity::running;
  mode_changed(cpu);
}

}  // namespace vmm::tcg::x86
