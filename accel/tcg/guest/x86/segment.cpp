// Segments: limit and type checks of accesses, descriptor loads, the stack as system instructions use it. Source: SDM 3A chapters 3
// and 5.
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

// Offset [offset, offset + size) against the limit; expand-down data counts from the other end.
bool within(const Segment& s, u64 offset, unsigned size) {
  const u64 last = offset + size - 1;
  const bool expand_down = (s.attributes & 0x1c) == 0x14;
  if (!expand_down) return last <= s.limit;
  return offset > s.limit && last <= (s.big() ? 0xffff'ffff : 0xffff);
}

}  // namespace

bool segment_linear(Cpu& cpu, unsigned segment, u64 offset, unsigned size, u16 access, u64& linear) {
  const State& s = cpu.state;
  const Segment& seg = s.segment[segment];
  if (s.code64()) {
    linear = segment >= fs ? seg.base + offset : offset;
    return true;
  }
  offset &= 0xffff'ffff;
  // Zen looks at the alignment of vectors before segments are looked at.
  if (access & ir::Access::aligned && (seg.base + offset) & (size - 1)) return cpu.raise(vector_gp, 0), false;
  bool ok = within(seg, offset, size ? size : 1);
  if (s.protected_mode() && !s.v86()) {
    if (!seg.present()) ok = false;
    if (access & Access::write) {
      ok = ok && !seg.code() && (seg.type() & 2);
    } else {
      ok = ok && (!seg.code() || (seg.type() & 2));
    }
  }
  if (!ok) {
    cpu.raise(segment == ss ? vector_ss : vector_gp, 0);
    return false;
  }
  linear = (seg.base + offset) & 0xffff'ffff;
  return true;
}

bool read_descriptor(Cpu& cpu, u16 selector, u8 vector, Descriptor& out, u32 ext) {
  const State& s = cpu.state;
  const u32 code = (selector & 0xfffc) | ext;
  u64 base = s.gdtr.base;
  u32 limit = s.gdtr.limit;
  if (selector & 4) {
    if (!s.ldtr.present()) return cpu.raise(vector, code), false;
    base = s.ldtr.base, limit = s.ldtr.limit;
  }
  const u32 index = selector & 0xfff8;
  if (index + 7 > limit) return cpu.raise(vector, code), false;
  out = {};
  out.address = base + index;
  return cpu.read(out.address, 8, Access::implicit, out.raw);
}

bool read_descriptor_upper(Cpu& cpu, u16 selector, u8 vector, Descriptor& out, u32 ext) {
  const State& s = cpu.state;
  if ((selector & 0xfff8u) + 15 > (selector & 4 ? s.ldtr.limit : s.gdtr.limit)) return cpu.raise(vector, (selector & 0xfffc) | ext), false;
  if (!cpu.read(out.address + 8, 8, Access::implicit, out.upper)) return false;
  if (out.upper >> 40 & 0x1f) return cpu.raise(vector, (selector & 0xfffc) | ext), false;
  out.upper &= 0xffff'ffff;
  return true;
}

bool mark_accessed(Cpu& cpu, Descriptor& d) {
  if (d.raw >> 40 & 1) return true;
  u64 old = 0;
  if (!cpu.memory->rmw(cpu, d.address + 5, 1, Access::implicit, ir::RmwKind::or_, 1, 0, old)) return false;
  d.raw |= u64{1} << 40;
  return true;
}

bool check_stack_segment(Cpu& cpu, u16 selector, unsigned cpl, u8 vector, Segment& out, u32 ext) {
  const State& s = cpu.state;
  const u32 code = (selector & 0xfffc) | ext;
  if (!(selector & 0xfffc)) {
    if (s.code64() && cpl < 3 && (selector & 3) == cpl && vector == vector_gp) {
      out = {.selector = selector, .attributes = static_cast<u16>(cpl << 5), .limit = 0, .base = 0};
      return true;
    }
    return cpu.raise(vector, ext), false;
  }
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector, d, ext)) return false;
  if (!d.writable() || (selector & 3) != cpl || d.dpl() != cpl) return cpu.raise(vector, code), false;
  if (!d.present()) return cpu.raise(vector_ss, code), false;
  if (!mark_accessed(cpu, d)) return false;
  out = d.segment(selector);
  return true;
}

bool check_data_segment(Cpu& cpu, u16 selector, Segment& out, u8 vector) {
  if (!(selector & 0xfffc)) {
    out = {.selector = selector};
    return true;
  }
  const u32 code = selector & 0xfffc;
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector, d)) return false;
  if (!d.code_or_data() || !d.readable()) return cpu.raise(vector, code), false;
  if (!d.conforming() && std::max<unsigned>(selector & 3, cpu.state.cpl()) > d.dpl()) return cpu.raise(vector, code), false;
  if (!d.present()) return cpu.raise(vector_np, code), false;
  if (!mark_accessed(cpu, d)) return false;
  out = d.segment(selector);
  return true;
}

void set_real_segment(Cpu& cpu, unsigned segment, u16 selector) {
  Segment& seg = cpu.state.segment[segment];
  seg.selector = selector;
  seg.base = u64{selector} << 4;
  if (cpu.state.v86()) {
    seg.limit = 0xffff, seg.attributes = 0xf3;
  } else if (!seg.present() || !seg.code_or_data()) {
    seg.attributes = segment == cs ? 0x9b : 0x93;
  }
  // Otherwise limit and type stay what they were: "big real" mode lives on that.
}

bool load_segment(Cpu& cpu, unsigned segment, u16 selector) {
  State& s = cpu.state;
  if (!s.protected_mode() || s.v86()) {
    set_real_segment(cpu, segment, selector);
  } else {
    Segment loaded;
    if (segment == ss) {
      if (!check_stack_segment(cpu, selector, s.cpl(), vector_gp, loaded)) return false;
    } else {
      if (!check_data_segment(cpu, selector, loaded)) return false;
      if (!loaded.present()) loaded.limit = s.segment[segment].limit;  // of no account, until real mode
    }
    s.segment[segment] = loaded;
  }
  if (segment == ss) s.mov_ss_shadow = true;
  mode_changed(cpu);
  return true;
}

bool load_ldt(Cpu& cpu, u16 selector, u8 vector) {
  State& s = cpu.state;
  if (!(selector & 0xfffc)) {
    s.ldtr = {.selector = selector};
    return true;
  }
  const u32 code = selector & 0xfffc;
  if (selector & 4) return cpu.raise(vector, code), false;
  Descriptor d;
  if (!read_descriptor(cpu, selector, vector, d)) return false;
  if (d.code_or_data() || d.type() != type_ldt) return cpu.raise(vector, code), false;
  if (!d.present()) return cpu.raise(vector == vector_ts ? vector_ts : vector_np, code), false;
  if (s.long_mode() && !read_descriptor_upper(cpu, selector, vector, d)) return false;
  s.ldtr = d.segment(selector);
  return true;
}

void drop_inner_segments(Cpu& cpu, unsigned cpl) {
  for (const unsigned i : {unsigned{es}, unsigned{ds}, unsigned{fs}, unsigned{gs}}) {
    Segment& seg = cpu.state.segment[i];
    const bool conforming = (seg.attributes & 0x1c) == 0x1c;
    if (seg.present() && !conforming && seg.dpl() < cpl) {
      seg.selector = 0;
      seg.attributes = 0;
    }
  }
}

// --- stack

Stack Stack::current(Cpu& cpu) {
  const State& s = cpu.state;
  return Stack{cpu, s.segment[ss], s.gpr[rsp], s.cpl(), s.code64()};
}

bool Stack::linear(u64 offset, unsigned size, bool write, u64& out) {
  Cpu& cpu = *owner;
  if (wide) {
    out = offset;
    return true;
  }
  offset &= mask();
  bool ok = within(segment, offset, size);
  if (cpu.state.protected_mode() && !cpu.state.v86()) ok = ok && segment.present() && (!write || (segment.type() & 2));
  if (!ok) {
    cpu.raise(vector_ss, ext);
    return false;
  }
  out = (segment.base + offset) & 0xffff'ffff;
  return true;
}

bool Stack::push(u64 value, unsigned size) {
  const u64 at = (sp - size) & mask();
  u64 where = 0;
  if (!linear(at, size, true, where)) return false;
  if (!write_linear(*owner, where, &value, size, cpl == 3 ? Privilege::user : Privilege::supervisor, Access::stack)) return false;
  sp = (sp & ~mask()) | at;
  return true;
}

bool Stack::pop(u64& value, unsigned size) {
  if (!peek(0, value, size)) return false;
  sp = (sp & ~mask()) | ((sp + size) & mask());
  return true;
}

bool Stack::peek(u64 offset, u64& value, unsigned size) {
  u64 where = 0;
  if (!linear((sp + offset) & mask(), size, false, where)) return false;
  value = 0;
  return read_linear(*owner, where, &value, size, cpl == 3 ? Privilege::user : Privilege::supervisor, Access::stack);
}

bool Stack::room(unsigned bytes) {
  u64 where = 0;
  return linear((sp - bytes) & mask(), bytes, true, where);
}

}  // namespace vmm::tcg::x86
