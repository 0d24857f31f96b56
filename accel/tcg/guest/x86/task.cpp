// Hardware task switch and the stacks in the TSS. Source: SDM 3A chapter 7.
#include <cstring>

#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

struct TssLayout {
  unsigned size, width, ip, flags, registers, segments, segment_count, segment_stride, ldt;
};
constexpr TssLayout tss32{0x68, 4, 0x20, 0x24, 0x28, 0x48, 6, 4, 0x60};
constexpr TssLayout tss16{0x2c, 2, 0x0e, 0x10, 0x12, 0x22, 4, 2, 0x2a};

u64 get(const u8* image, unsigned at, unsigned width) { return width == 4 ? load_le<u32>(image + at) : load_le<u16>(image + at); }
void put(u8* image, unsigned at, unsigned width, u64 value) {
  if (width == 4) {
    store_le(image + at, static_cast<u32>(value));
  } else {
    store_le(image + at, static_cast<u16>(value));
  }
}

bool set_busy(Cpu& cpu, u64 descriptor, bool busy) {
  u64 old = 0;
  return cpu.memory->rmw(cpu, descriptor + 5, 1, Access::implicit, busy ? ir::RmwKind::or_ : ir::RmwKind::and_, busy ? 2 : 0xfd, 0, old);
}

// Segment loads in the new task: faults are #TS, in its context.
bool load_task_segments(Cpu& cpu, const u16 (&selector)[6]) {
  State& s = cpu.state;
  const u16 code_selector = selector[cs];
  Descriptor d;
  if (!(code_selector & 0xfffc)) return cpu.raise(vector_ts, 0), false;
  const u32 code = code_selector & 0xfffc;
  if (!read_descriptor(cpu, code_selector, vector_ts, d)) return false;
  const unsigned cpl = code_selector & 3;
  if (!d.code() || (d.conforming() ? d.dpl() > cpl : d.dpl() != cpl)) return cpu.raise(vector_ts, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  if (!mark_accessed(cpu, d)) return false;
  s.segment[cs] = d.segment(code_selector);
  Segment stack;
  if (!check_stack_segment(cpu, selector[ss], cpl, vector_ts, stack)) return false;
  s.segment[ss] = stack;
  for (const unsigned i : {unsigned{es}, unsigned{ds}, unsigned{fs}, unsigned{gs}}) {
    Segment data;
    if (!check_data_segment(cpu, selector[i], data, vector_ts)) return false;
    s.segment[i] = data;
  }
  if (s.rip > s.segment[cs].limit) return cpu.raise(vector_gp, 0), false;
  return true;
}

}  // namespace

bool inner_stack(Cpu& cpu, unsigned level, u16& selector, u64& sp) {
  const State& s = cpu.state;
  const bool wide = s.tr.type() & 8;
  const u64 at = wide ? 4 + 8 * level : 2 + 4 * level;
  const unsigned width = wide ? 4 : 2;
  if (at + 2 * width - 1 > s.tr.limit) return cpu.raise(vector_ts, s.tr.selector & 0xfffc), false;
  u64 raw = 0;
  if (!cpu.read(s.tr.base + at, width, Access::implicit, sp) || !cpu.read(s.tr.base + at + width, 2, Access::implicit, raw)) return false;
  selector = static_cast<u16>(raw);
  return true;
}

bool switch_task(Cpu& cpu, u16 new_selector, const Descriptor& tss, SwitchBy by, u64 next_ip, bool has_code, u32 code) {
  State& s = cpu.state;
  const TssLayout& to = tss.type() & 8 ? tss32 : tss16;
  const TssLayout& from = s.tr.type() & 8 ? tss32 : tss16;
  if (tss.limit() + 1 < to.size) return cpu.raise(vector_ts, new_selector & 0xfffc), false;
  u8 incoming[0x68] = {}, outgoing[0x68] = {};
  // All that can fault before the point of no return: both images are read (the outgoing as if for writing).
  if (!cpu.read_bytes(tss.base(), incoming, to.size, Access::implicit)) return false;
  if (!cpu.read_bytes(s.tr.base, outgoing, from.size, Access::implicit | Access::intent)) return false;
  const bool nested = by == SwitchBy::call || by == SwitchBy::gate;
  if (nested) {
    const u16 link = s.tr.selector;
    if (!cpu.write_bytes(tss.base(), &link, 2, Access::implicit)) return false;
  }
  u64 flags = s.rflags;
  if (by == SwitchBy::iret) flags &= ~u64{flag_nt};
  put(outgoing, from.ip, from.width, next_ip);
  put(outgoing, from.flags, from.width, flags);
  for (unsigned i = 0; i < 8; ++i) put(outgoing, from.registers + i * from.width, from.width, s.gpr[i]);
  for (unsigned i = 0; i < from.segment_count; ++i)
    store_le<u16>(outgoing + from.segments + i * from.segment_stride, s.segment[i].selector);
  // The static fields (link, stacks, CR3, LDT, I/O map) are left alone.
  const unsigned end = from.segments + from.segment_count * from.segment_stride;
  if (!cpu.write_bytes(s.tr.base + from.ip, outgoing + from.ip, end - from.ip, Access::implicit)) return false;
  if (by == SwitchBy::jump || by == SwitchBy::iret) {
    if (!set_busy(cpu, s.gdtr.base + (s.tr.selector & 0xfff8), false)) return false;
  }
  if (by != SwitchBy::iret && !set_busy(cpu, tss.address, true)) return false;

  s.tr = tss.segment(new_selector);
  s.tr.attributes |= 2;
  s.cr0 |= cr0_ts;
  const u64 new_cr3 = load_le<u32>(incoming + 0x1c);
  if (to.width == 4 && s.cr0 & cr0_pg) {
    s.cr3 = new_cr3;
    if (s.cr4 & cr4_pae) {
      std::array<u64, 4> entries;
      if (load_pdptes(cpu, new_cr3, entries)) s.pae_pdpte = entries;
    }
    flush_tlb(cpu, true);
  }
  s.rip = get(incoming, to.ip, to.width);
  u64 new_flags = get(incoming, to.flags, to.width);
  if (to.width == 2) new_flags |= s.rflags & 0xffff'0000 & ~u64{flag_vm | flag_rf};
  s.rflags = (new_flags & 0x3f7fd5) | flag_1;
  if (nested) s.rflags |= flag_nt;
  for (unsigned i = 0; i < 8; ++i) {
    const u64 value = get(incoming, to.registers + i * to.width, to.width);
    s.gpr[i] = to.width == 2 ? value | 0xffff'0000 : value;
  }
  s.dr7 &= ~u64{0x55};  // local enables
  update_breakpoints(cpu);
  u16 selectors[6] = {};
  for (unsigned i = 0; i < to.segment_count; ++i) selectors[i] = load_le<u16>(incoming + to.segments + i * to.segment_stride);
  // Until loaded, all are marked invalid but hold their selectors.
  const bool v86 = s.rflags & flag_vm && to.width == 4;
  for (unsigned i = 0; i < 6; ++i) {
    s.segment[i].selector = selectors[i];
    s.segment[i].attributes = i == ss ? static_cast<u16>((selectors[cs] & 3) << 5) : i == cs ? s.segment[i].attributes : u16{0};
  }
  cpu.leave = true;
  mode_changed(cpu);
  const u16 ldt = load_le<u16>(incoming + to.ldt);
  s.ldtr = {.selector = ldt};
  // What comes now is of the new task.
  if (!load_ldt(cpu, ldt, vector_ts)) return cpu.raised_at(s.rip);
  if (v86) {
    for (unsigned i = 0; i < 6; ++i) set_real_segment(cpu, i, selectors[i]);
  } else if (!load_task_segments(cpu, selectors)) {
    return cpu.raised_at(s.rip);
  }
  mode_changed(cpu);
  if (has_code) {
    Stack stack = Stack::current(cpu);
    if (!stack.push(code, to.width)) return cpu.raised_at(s.rip);
    stack.commit_sp(s);
  }
  if (to.width == 4 && incoming[0x64] & 1) system_of(cpu).trap_after = true;
  return true;
}

}  // namespace vmm::tcg::x86
