// Helpers that read and change registers or memory: division, stack frames, flags words, strings. Source: SDM 2.
#include "accel/tcg/guest/host_flags.h"
#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

const Helper helper_table[] = {
#define X(name, cls) &helper::name,
    HELPERS(X)
#undef X
};
const char* helper_name(u16 id) {
  static constexpr const char* names[] = {
#define X(name, cls) #name,
      HELPERS(X)
#undef X
  };
  return id < std::size(names) ? names[id] : "?";
}

using ir::Access;

namespace helper {

u64 raise(GuestCpu& g, u64 vector, u64, u64) { return cpu_of(g).raise(static_cast<u8>(vector)), 0; }
u64 raise_code(GuestCpu& g, u64 vector, u64 code, u64) { return cpu_of(g).raise(static_cast<u8>(vector), static_cast<u32>(code)), 0; }
// a: offset; b: segment | access << 8; c: size.
u64 linear(GuestCpu& g, u64 offset, u64 what, u64 size) {
  u64 out = 0;
  segment_linear(cpu_of(g), what & 0xff, offset, static_cast<unsigned>(size), static_cast<u16>(what >> 8), out);
  return out;
}
// A near transfer's target: canonical in 64-bit mode, else within the code segment's limit.
u64 check_ip(GuestCpu& g, u64 target, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (cpu.state.code64()) {
    const unsigned bits = cpu.state.cr4 & cr4_la57 ? 57 : 48;
    if (sign_extend(target, bits) != target) cpu.raise(vector_gp, 0);
  } else if (target > cpu.state.segment[cs].limit) {
    cpu.raise(vector_gp, 0);
  }
  return 0;
}

// --- division: the host's own instruction after a check, so that it cannot trap -------------------------------------------------------
namespace {
u64 divide_error(Cpu& cpu) {
  cpu.cc_out = *cpu.cc & ir::cc_mask;
  cpu.raise(vector_de);
  return 0;
}
}  // namespace
u64 div8(GuestCpu& g, u64 d, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64& a = cpu.state.gpr[rax];
  const u16 n = static_cast<u16>(a);
  if (d == 0 || n / d > 0xff) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = n;
  asm("movq %[q], %%r8\n\t" HOST_FLAGS_IN "movq %%r8, %%rax\n\tdivb %b[d]\n\tmovzwl %%ax, %k[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+a"(ax)
      : [d] "r"(d)
      : "r8", "cc");
  g.cc_out = cc_of_ax(ax);
  a = (a & ~u64{0xffff}) | q;
  return 0;
}
u64 idiv8(GuestCpu& g, u64 d, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64& a = cpu.state.gpr[rax];
  const i32 n = static_cast<i16>(a), by = static_cast<i8>(d);
  if (by == 0 || n / by > 127 || n / by < -128) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = static_cast<u16>(n);
  asm("movq %[q], %%r8\n\t" HOST_FLAGS_IN "movq %%r8, %%rax\n\tidivb %b[d]\n\tmovzwl %%ax, %k[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+a"(ax)
      : [d] "r"(d)
      : "r8", "cc");
  g.cc_out = cc_of_ax(ax);
  a = (a & ~u64{0xffff}) | q;
  return 0;
}
u64 div16(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  if (static_cast<u16>(d) >= by) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tdivw %w[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = (a & ~u64{0xffff}) | static_cast<u16>(q), d = (d & ~u64{0xffff}) | static_cast<u16>(r);
  return 0;
}
u64 idiv16(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  const i32 n = static_cast<i32>(u32{static_cast<u16>(d)} << 16 | static_cast<u16>(a));
  const i16 signed_by = static_cast<i16>(by);
  if (signed_by == 0 || (signed_by == -1 && n == static_cast<i32>(u32{1} << 31))) return divide_error(cpu);
  const i32 quotient = n / signed_by;
  if (quotient != static_cast<i16>(quotient)) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tidivw %w[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = (a & ~u64{0xffff}) | static_cast<u16>(q), d = (d & ~u64{0xffff}) | static_cast<u16>(r);
  return 0;
}
u64 div32(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  if (static_cast<u32>(d) >= by) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tdivl %k[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = static_cast<u32>(q), d = static_cast<u32>(r);
  return 0;
}
u64 idiv32(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  const i64 n = static_cast<i64>(u64{static_cast<u32>(d)} << 32 | static_cast<u32>(a));
  const i32 signed_by = static_cast<i32>(by);
  if (signed_by == 0 || (signed_by == -1 && n == static_cast<i64>(u64{1} << 63))) return divide_error(cpu);
  const i64 quotient = n / signed_by;
  if (quotient != static_cast<i32>(quotient)) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tidivl %k[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = static_cast<u32>(q), d = static_cast<u32>(r);
  return 0;
}
u64 div64(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  if (static_cast<u64>(d) >= by) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tdivq %q[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = q, d = r;
  return 0;
}
u64 idiv64(GuestCpu& g, u64 by, u64, u64) {
  Cpu& cpu = cpu_of(g);
  u64 &a = cpu.state.gpr[rax], &d = cpu.state.gpr[rdx];
  const __int128 n = static_cast<__int128>(u128{static_cast<u64>(d)} << 64 | static_cast<u64>(a));
  const i64 signed_by = static_cast<i64>(by);
  if (signed_by == 0 || (signed_by == -1 && n == static_cast<__int128>(u128{1} << 127))) return divide_error(cpu);
  const __int128 quotient = n / signed_by;
  if (quotient != static_cast<i64>(quotient)) return divide_error(cpu);
  u64 ax = ax_of_cc(*g.cc), q = a, r = d;
  asm(HOST_FLAGS_IN "movq %[q], %%rax\n\tidivq %q[by]\n\tmovq %%rax, %[q]" HOST_FLAGS_OUT
      : [q] "+r"(q), "+d"(r), "+a"(ax)
      : [by] "r"(by)
      : "cc");
  g.cc_out = cc_of_ax(ax);
  a = q, d = r;
  return 0;
}

// --- stack frames ---------------------------------------------------------------------------------------------------------------
namespace {

unsigned stack_bytes(const Cpu& cpu) { return cpu.state.code64() ? 8 : cpu.state.segment[ss].big() ? 4 : 2; }
// The stack slot `offset` (already wrapped) as a linear address.
bool stack_linear(Cpu& cpu, u64 offset, unsigned size, u16 access, u64& linear) {
  if (cpu.state.code64()) return linear = offset, true;
  return segment_linear(cpu, ss, offset, size, static_cast<u16>(access | Access::stack), linear);
}
bool stack_write(Cpu& cpu, u64 offset, unsigned size, u64 v) {
  u64 at;
  return stack_linear(cpu, offset, size, Access::write, at) && cpu.write(at, size, Access::stack, v);
}
bool stack_read(Cpu& cpu, u64 offset, unsigned size, u64& v) {
  u64 at;
  return stack_linear(cpu, offset, size, 0, at) && cpu.read(at, size, Access::stack, v);
}
void put(u64& reg, unsigned bytes, u64 v) {
  reg = bytes == 8 ? v : bytes == 4 ? static_cast<u32>(v) : (reg & ~mask_of_size(bytes)) | (v & mask_of_size(bytes));
}
// The stack pointer alone: a 32-bit stack in 32-bit code clears nothing that counts, a 16-bit one keeps the upper half of ESP.
void put_sp(Cpu& cpu, u64 v) { put(cpu.state.gpr[rsp], stack_bytes(cpu), v); }

}  // namespace

// a: operand size; b: bytes of locals; c: nesting level. The frame is written below the stack pointer before anything changes.
u64 enter(GuestCpu& g, u64 opsize, u64 locals, u64 level) {
  Cpu& cpu = cpu_of(g);
  const unsigned size = static_cast<unsigned>(opsize);
  const u64 mask = mask_of_size(stack_bytes(cpu));
  u64 sp = (cpu.state.gpr[rsp] - size) & mask;
  if (!stack_write(cpu, sp, size, cpu.state.gpr[rbp])) return 0;
  const u64 frame = sp;
  u64 bp = cpu.state.gpr[rbp];
  for (u64 i = 1; i < level; i++) {
    u64 v;
    bp -= size;
    if (!stack_read(cpu, bp & mask, size, v)) return 0;
    sp = (sp - size) & mask;
    if (!stack_write(cpu, sp, size, v)) return 0;
  }
  if (level > 0) {
    sp = (sp - size) & mask;
    if (!stack_write(cpu, sp, size, frame)) return 0;
  }
  sp = (sp - locals) & mask;
  // The final stack pointer must be writable (SDM, "ENTER").
  u64 at, probe;
  if (!stack_linear(cpu, sp, size, Access::write, at) || !cpu.read(at, size, Access::stack | Access::intent, probe)) return 0;
  put(cpu.state.gpr[rbp], size, frame);
  put_sp(cpu, sp);
  return 0;
}
u64 pusha(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  const unsigned size = static_cast<unsigned>(opsize);
  const u64 mask = mask_of_size(stack_bytes(cpu)), old = cpu.state.gpr[rsp];
  for (unsigned i = 0; i < 8; i++) {
    if (!stack_write(cpu, (old - u64{size} * (i + 1)) & mask, size, cpu.state.gpr[i])) return 0;
  }
  put_sp(cpu, old - u64{size} * 8);
  return 0;
}
u64 popa(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  const unsigned size = static_cast<unsigned>(opsize);
  const u64 mask = mask_of_size(stack_bytes(cpu)), old = cpu.state.gpr[rsp];
  u64 v[8];
  for (unsigned i = 0; i < 8; i++) {
    if (!stack_read(cpu, (old + u64{size} * i) & mask, size, v[7 - i])) return 0;
  }
  for (unsigned i = 0; i < 8; i++) {
    if (i != rsp) put(cpu.state.gpr[i], size, v[i]);
  }
  put_sp(cpu, old + u64{size} * 8);
  return 0;
}

// In virtual-8086 mode with IOPL < 3: #GP, unless CR4.VME offers the virtual interrupt flag to 16-bit forms.
u64 pushf(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  const unsigned size = static_cast<unsigned>(opsize);
  u64 flags = (cpu.state.rflags & ~u64{flag_vm | flag_rf}) | flag_1;
  if (cpu.state.v86() && (cpu.state.rflags & flag_iopl) != flag_iopl) {
    if (!(cpu.state.cr4 & cr4_vme) || size != 2) return cpu.raise(vector_gp, 0), 0;
    flags = (flags & ~u64{flag_if}) | flag_iopl | (cpu.state.rflags & flag_vif ? flag_if : 0);
  }
  const u64 sp = (cpu.state.gpr[rsp] - size) & mask_of_size(stack_bytes(cpu));
  if (stack_write(cpu, sp, size, flags)) put_sp(cpu, sp);
  return 0;
}
u64 popf(GuestCpu& g, u64 opsize, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned size = static_cast<unsigned>(opsize);
  const u64 iopl = (s.rflags & flag_iopl) >> 12, cpl = s.protected_mode() ? (s.v86() ? 3 : s.cpl()) : 0;
  const u64 sp = s.gpr[rsp];
  u64 v;
  const bool virtual_if = s.v86() && iopl < 3;
  if (virtual_if && (!(s.cr4 & cr4_vme) || size != 2)) return cpu.raise(vector_gp, 0), 0;
  if (!stack_read(cpu, sp & mask_of_size(stack_bytes(cpu)), size, v)) return 0;
  u64 change = arithmetic_flags | flag_tf | flag_df | flag_nt | (size > 2 ? flag_ac | flag_id : 0);
  if (virtual_if) {
    if ((v & flag_tf) || ((v & flag_if) && (s.rflags & flag_vip))) return cpu.raise(vector_gp, 0), 0;
    s.rflags = (s.rflags & ~u64{flag_vif}) | (v & flag_if ? flag_vif : 0);
  } else {
    if (cpl == 0 && !s.v86()) change |= flag_iopl;
    if (cpl <= iopl) change |= flag_if;
  }
  const u64 before = s.rflags;
  s.rflags = (s.rflags & ~change & ~u64{flag_rf}) | (v & change) | flag_1;
  put_sp(cpu, sp + size);
  if ((s.rflags ^ before) & (flag_tf | flag_ac | flag_if)) {
    mode_changed(cpu);
    cpu.leave = true;
  }
  return 0;
}

// a: linear address; b: access. Returns nothing; cc_out = the flags. Memory is written in either case.
u64 cmpxchg16b(GuestCpu& g, u64 address, u64 access, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  g.cc_out = s.rflags & ir::cc_mask;
  if (address & 15) return cpu.raise(vector_gp, 0), 0;
  u128 old = 0;
  // A read with intent makes the page writable and finds faults; the line of the small TLB then gives the host address.
  if (!cpu.read_bytes(address, &old, 16, static_cast<u16>(access | Access::intent))) return 0;
  const u128 expected = u128{s.gpr[rdx]} << 64 | s.gpr[rax], desired = u128{s.gpr[rcx]} << 64 | s.gpr[rbx];
  const SoftLine& line = cpu.tlb->line[SoftTlb::index(address)];
  if (line.write == (address & ~u64{0xfff})) {
    auto* host = reinterpret_cast<u64*>(address + static_cast<u64>(line.addend));
    u64 low = static_cast<u64>(expected), high = static_cast<u64>(expected >> 64);
    asm volatile("lock cmpxchg16b %[m]"
                 : [m] "+m"(*reinterpret_cast<u128*>(host)), "+a"(low), "+d"(high)
                 : "b"(static_cast<u64>(desired)), "c"(static_cast<u64>(desired >> 64))
                 : "cc", "memory");
    old = u128{high} << 64 | low;
  } else {  // code lies there, a dirty log runs, or it is a device
    const ExclusiveScope exclusive{cpu};
    if (!cpu.read_bytes(address, &old, 16, static_cast<u16>(access | Access::intent))) return 0;
    const u128 now = old == expected ? desired : old;
    if (!cpu.write_bytes(address, &now, 16, static_cast<u16>(access))) return 0;
  }
  if (old == expected) {
    g.cc_out |= ir::cc_zero;
  } else {
    g.cc_out &= ~ir::cc_zero;
    s.gpr[rax] = static_cast<u64>(old), s.gpr[rdx] = static_cast<u64>(old >> 64);
  }
  return 0;
}
// a: index; b: linear address of the pair; c: operand size | access << 8.
u64 bound(GuestCpu& g, u64 index, u64 at, u64 what) {
  Cpu& cpu = cpu_of(g);
  const unsigned size = what & 0xff;
  u64 low, high;
  if (!cpu.read(at, size, static_cast<u16>(what >> 8), low) || !cpu.read(at + size, size, static_cast<u16>(what >> 8), high)) return 0;
  const i64 i = static_cast<i64>(sign_extend(index, size * 8));
  if (i < static_cast<i64>(sign_extend(low, size * 8)) || i > static_cast<i64>(sign_extend(high, size * 8))) cpu.raise(vector_br);
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
