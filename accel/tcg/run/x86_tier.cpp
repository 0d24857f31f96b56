// See x86_tier.h.
#include "accel/tcg/run/x86_tier.h"

#include <cstring>

#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/run/fault.h"
#include "src/base/bits.h"
#include "src/memory/memory.h"
#include "src/memory/ram.h"

namespace vmm::tcg {

using x86::ModeKey;

Result<> X86Tier::start() {
  TRY(engine_.start());
  TRY(prepare_signal_stack());
  cpu_.caches = &engine_;
  return {};
}

bool X86Tier::takes(u64 raw) const {
  const ModeKey key{raw};
  const x86::State& s = cpu_.state;
  if (s.rflags & x86::flag_tf || s.sti_shadow || s.mov_ss_shadow || s.activity != vmm::x86::Activity::running) return false;
  for (unsigned i = 0; i < 4; i++)
    if (s.dr7 >> (2 * i) & 3 && (s.dr7 >> (16 + 4 * i) & 3) == 0) return false;  // an instruction breakpoint
  if (!key.has(ModeKey::protected_) || !(raw & (ModeKey::cpl3 | ModeKey::cpl0))) return false;
  if (key.has(ModeKey::code64)) return true;
  return key.has(ModeKey::flat) && key.has(ModeKey::code32) && key.has(ModeKey::stack32);
}

Tables::Which X86Tier::context() const {
  const x86::State& s = cpu_.state;
  const bool ac = s.rflags & x86::flag_ac;
  if (s.cpl() == 3) return ac && s.cr0 & x86::cr0_am ? Tables::UA : Tables::U;
  return s.cr4 & x86::cr4_smap && !ac ? Tables::KS : Tables::KU;
}

bool X86Tier::global_code(u64 address) {
  if (!(address >> 63)) return false;
  PageView view;
  return cpu_.memory->probe(cpu_, address, ir::Access::fetch, view) && view.global;
}

void X86Tier::step() {
  ir::ExitReason reason = ir::ExitReason::next;
  if (!portable_.run(1, 0, reason)) return;
  if (reason != ir::ExitReason::next) cpu_.leave = true;
}

bool X86Tier::interrupt_waits() {
  const vm::LocalInterrupts* const interrupts = x86::system_of(cpu_).interrupts;
  return interrupts && interrupts->pending();
}

// movs and stos, upwards, in runs that stay inside pages. Registers are exact after each run. Source: SDM 2B "MOVS", "STOS".
bool X86Tier::quick_string(x64::InterpretArgument insn) {
  x86::State& s = cpu_.state;
  // Outside 64-bit mode this engine runs in flat segments of 4 GiB only.
  const u64 mask = s.code64() ? ~u64{0} : 0xffff'ffff;
  u64 &count = s.gpr[x86::rcx], &to = s.gpr[x86::rdi], &from = s.gpr[x86::rsi];
  const u64 width = insn.opcode() & 1 ? insn.width() : 1;
  const bool moves = insn.opcode() < 0xa8;
  if (s.rflags & x86::flag_df) return false;
  for (u64 left = insn.repeat() ? count & mask : 1; left;) {
    to &= mask, from &= mask;
    u64 n = std::min(left, (page_bytes - (to & page_offset_mask)) / width);
    if (moves) n = std::min(n, (page_bytes - (from & page_offset_mask)) / width);
    if (n == 0) return false;  // an element over two pages
    const u64 bytes = n * width;
    const u8* const source = moves ? engine_.host_of(from, 1, false) : nullptr;
    u8* const target = engine_.host_of(to, 1, true);
    if (!target || (moves && !source)) return false;
    if (!moves) {
      switch (width) {
        case 1: memory::ram_fill(target, static_cast<u8>(s.gpr[x86::rax]), n); break;
        case 2: memory::ram_fill(target, static_cast<u16>(s.gpr[x86::rax]), n); break;
        case 4: memory::ram_fill(target, static_cast<u32>(s.gpr[x86::rax]), n); break;
        default: memory::ram_fill(target, s.gpr[x86::rax], n); break;
      }
    } else if (target <= source || target >= source + bytes) {
      memory::ram_move(target, source, bytes);
    } else {  // the pattern repeats
      for (u64 i = 0; i < bytes; i += width) memory::ram_move(target + i, source + i, width);
    }
    to = (to + bytes) & mask;
    if (moves) from = (from + bytes) & mask;
    left -= n;
    if (insn.repeat()) count = left;
    if (left && cpu_.poll.load(std::memory_order_relaxed) == 0) return true;  // to be resumed: the instruction pointer stays
  }
  s.rip = (s.rip + insn.length()) & mask;
  return true;
}

bool X86Tier::quick(x64::InterpretArgument insn) {
  x86::State& s = cpu_.state;
  if (!s.code64()) {
    const bool string = (insn.opcode() & 0xfe) == 0xa4 || (insn.opcode() & 0xfe) == 0xaa;
    return string && insn.map() == 0 && insn.plain32() && quick_string(insn);
  }
  if (!insn.plain()) return false;
  const unsigned cpl = s.cpl();
  // A helper that does it all; the instruction pointer moves on by itself unless the helper sets it.
  const auto by = [&](Helper helper, bool moves_on, u64 a = 0, u64 b = 0) {
    cpu_.next_ip = s.rip + insn.length();
    helper(cpu_, a, b, 0);
    if (moves_on && !cpu_.fault) s.rip += insn.length();
    return true;
  };
  if (insn.map() == 1) {
    switch (insn.opcode()) {
      case 0x01:
        if (insn.repeat() || insn.memory()) return false;
        if (insn.modrm() == 0xf8) return by(x86::helper::swapgs, true);
        if (insn.modrm() == 0xf9) {  // rdtscp
          if (cpl && s.cr4 & x86::cr4_tsd) return false;
          const u64 tsc = x86::read_tsc(cpu_);
          s.gpr[x86::rax] = static_cast<u32>(tsc), s.gpr[x86::rdx] = tsc >> 32, s.gpr[x86::rcx] = static_cast<u32>(s.tsc_aux);
          s.rip += insn.length();
          return true;
        }
        if (insn.modrm() == 0xca) return by(x86::helper::clac, true);
        if (insn.modrm() == 0xcb) return by(x86::helper::stac, true);
        return false;
      case 0x05: return !insn.repeat() && by(x86::helper::syscall, false, insn.width());
      case 0x07: return !insn.repeat() && by(x86::helper::sysret, false, insn.width());
      case 0x30: return !insn.repeat() && by(x86::helper::wrmsr, true);
      case 0x32: return !insn.repeat() && by(x86::helper::rdmsr, true);
      default: break;
    }
    if (insn.opcode() != 0x31 || (cpl && s.cr4 & x86::cr4_tsd)) return false;  // rdtsc
    const u64 tsc = x86::read_tsc(cpu_);
    s.gpr[x86::rax] = static_cast<u32>(tsc), s.gpr[x86::rdx] = tsc >> 32;
    s.rip += insn.length();
    return true;
  }
  switch (insn.opcode()) {
    case 0xa4:
    case 0xa5:
    case 0xaa:
    case 0xab: return quick_string(insn);
    case 0x9c: {  // pushf
      u8* const at = insn.width() == 8 ? engine_.host_of(s.gpr[x86::rsp] - 8, 8, true) : nullptr;
      if (!at) return false;
      memory::ram_store<u64>(at, s.rflags & ~u64{x86::flag_rf | x86::flag_vm});
      s.gpr[x86::rsp] -= 8;
      break;
    }
    case 0x9d: {  // popf, without changes of TF or AC
      const u8* const at = insn.width() == 8 ? engine_.host_of(s.gpr[x86::rsp], 8, false) : nullptr;
      if (!at) return false;
      const u64 v = memory::ram_load<u64>(at), iopl = (s.rflags & x86::flag_iopl) >> 12;
      u64 change = x86::arithmetic_flags | x86::flag_tf | x86::flag_df | x86::flag_nt | x86::flag_ac | x86::flag_id;
      if (cpl == 0) change |= x86::flag_iopl;
      if (cpl <= iopl) change |= x86::flag_if;
      if ((s.rflags ^ v) & (x86::flag_tf | x86::flag_ac)) return false;
      s.rflags = (s.rflags & ~change & ~u64{x86::flag_rf}) | (v & change) | x86::flag_1;
      s.gpr[x86::rsp] += 8;
      break;
    }
    case 0xfa:  // cli
      if (cpl) return false;
      s.rflags &= ~u64{x86::flag_if};
      break;
    case 0xfb:  // sti
      if (cpl) return false;
      if (!(s.rflags & x86::flag_if)) s.sti_shadow = true;
      s.rflags |= x86::flag_if;
      break;
    case 0xcf: return !insn.repeat() && by(x86::helper::iret, false, insn.width());
    default: return false;
  }
  s.rip += insn.length();
  return true;
}

void X86Tier::drop_writes(u64 page) {
  const memory::RamBlock* const block = memory::block_of(static_cast<memory::PageNumber>(page));
  if (!block) return;
  const u8* const host_page = block->host() + (page - block->first_page()) * page_bytes;
  x86::drop_writes_of(cpu_, static_cast<memory::PageNumber>(page));
  engine_.drop_writes_of(page, host_page);
}

}  // namespace vmm::tcg
