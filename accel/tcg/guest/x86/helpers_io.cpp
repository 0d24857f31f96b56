// Port I/O with its rights, and INS/OUTS. Source: SDM 1 chapter 19, SDM 2.
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

bool port_allowed(Cpu& cpu, u32 port, unsigned size) {
  const State& s = cpu.state;
  if (!s.protected_mode() || (!s.v86() && s.cpl() <= (s.rflags >> 12 & 3))) return true;
  const auto refuse = [&] { return cpu.raise(vector_gp, 0), false; };
  if (!s.tr.present() || !(s.tr.type() & 8) || s.tr.limit < 0x67) return refuse();
  u64 map = 0, word = 0;
  if (!cpu.read(s.tr.base + 0x66, 2, Access::implicit, map)) return false;
  const u64 at = map + (port >> 3);
  if (at + 1 > s.tr.limit) return refuse();
  if (!cpu.read(s.tr.base + at, 2, Access::implicit, word)) return false;
  if (word >> (port & 7) & ((1u << size) - 1)) return refuse();
  return true;
}

void note_port_breakpoints(Cpu& cpu, u32 port, unsigned size) {
  System& system = system_of(cpu);
  if (!system.port_breakpoints) return;
  const State& s = cpu.state;
  for (unsigned i = 0; i < 4; ++i) {
    if (!(s.dr7 >> (2 * i) & 3) || (s.dr7 >> (16 + 4 * i) & 3) != 2) continue;
    static constexpr u8 lengths[4] = {1, 2, 8, 4};
    const u64 length = lengths[s.dr7 >> (18 + 4 * i) & 3], at = s.dr[i] & ~(length - 1);
    if (port < at + length && at < port + size) system.debug_hits |= 1u << i, cpu.leave = true;
  }
}

u64 port_read(Cpu& cpu, u32 port, unsigned size) {
  note_port_breakpoints(cpu, port, size);
  u64 value = 0;
  {
    const ParkedScope parked{system_of(cpu)};
    value = system_of(cpu).ports->load(GuestPhys{port}, size) & mask_of_size(size);
  }
  check_generation(cpu);
  return value;
}
void port_write(Cpu& cpu, u32 port, unsigned size, u64 value) {
  note_port_breakpoints(cpu, port, size);
  {
    const ParkedScope parked{system_of(cpu)};
    system_of(cpu).ports->store(GuestPhys{port}, size, value & mask_of_size(size));
  }
  check_generation(cpu);
}

}  // namespace

namespace helper {

// a: port; b: size. The value goes to rAX here, since what the device did may have changed the CPU too.
u64 in_port(GuestCpu& g, u64 port, u64 size, u64) {
  Cpu& cpu = cpu_of(g);
  const u32 number = port & 0xffff;
  const unsigned n = static_cast<unsigned>(size);
  if (!port_allowed(cpu, number, n)) return 0;
  const u64 value = port_read(cpu, number, n);
  u64& a = cpu.state.gpr[rax];
  a = n == 4 ? value : (a & ~mask_of_size(n)) | value;
  return 0;
}
u64 out_port(GuestCpu& g, u64 port, u64 size, u64 value) {
  Cpu& cpu = cpu_of(g);
  const u32 number = port & 0xffff;
  if (port_allowed(cpu, number, static_cast<unsigned>(size))) port_write(cpu, number, static_cast<unsigned>(size), value);
  return 0;
}

// a: size | address size << 8 | segment << 16 | out << 24 | repeat << 25. Sets the instruction pointer: this instruction again while
// elements are left and something wants the CPU.
u64 string_io(GuestCpu& g, u64 what, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned size = what & 0xff, address_size = what >> 8 & 0xff, segment = what >> 16 & 0xff;
  const bool out = what >> 24 & 1, repeat = what >> 25 & 1;
  const u64 mask = mask_of_size(address_size);
  const u32 port = s.gpr[rdx] & 0xffff;
  const u64 step = s.rflags & flag_df ? -u64{size} : u64{size};
  const auto update = [&](u64& reg, u64 value) {
    reg = address_size == 8 ? value : address_size == 4 ? static_cast<u32>(value) : (reg & ~mask) | (value & mask);
  };
  if (!port_allowed(cpu, port, size)) return 0;  // before the count is looked at
  for (unsigned done = 0;; ++done) {
    if (repeat && !(s.gpr[rcx] & mask)) break;
    if (done == 1024 || (done && cpu.poll.load(std::memory_order_relaxed) == 0)) {
      cpu.leave = true;
      return 0;  // the instruction pointer stays
    }
    u64& index = out ? s.gpr[rsi] : s.gpr[rdi];
    const unsigned from = out ? segment : unsigned{es};
    u64 linear = 0, value = 0;
    const u16 access = from == ss ? Access::stack : Access::data;
    if (!segment_linear(cpu, from, index & mask, size, static_cast<u16>(access | (out ? 0 : Access::write)), linear)) return 0;
    if (out) {
      if (!cpu.read(linear, size, access, value)) return 0;
      port_write(cpu, port, size, value);
    } else {
      // The destination is tried before the device is touched.
      if (!cpu.read(linear, size, static_cast<u16>(access | Access::intent), value)) return 0;
      value = port_read(cpu, port, size);
      if (!cpu.write(linear, size, access, value)) return 0;
    }
    update(index, index + step);
    if (!repeat) break;
    update(s.gpr[rcx], s.gpr[rcx] - 1);
    if (system_of(cpu).debug_hits) {
      cpu.leave = true;
      if (s.gpr[rcx] & mask) return 0;
      break;
    }
  }
  s.rip = cpu.next_ip;
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
