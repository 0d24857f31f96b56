// Frequent system instructions between generated code and generated code, on general registers only: the thunk saves no vectors.
// Whatever is not plain sailing returns 0 before anything has changed; the full way then does it (x86_tier.cpp).
// Sources: SDM 2B "SYSCALL", "SYSRET", "SWAPGS", "POPF", "STI", "MOVS", "STOS"; translator.md §10.
#include "accel/tcg/run/quick_leaf.h"

#include "accel/tcg/guest/x86/flat_segments.h"
#include "accel/tcg/guest/x86/frame.h"
#include "accel/tcg/guest/x86/mode.h"
#include "accel/tcg/host/x64/interpret_argument.h"

namespace vmm::tcg {

namespace {

namespace x = vmm::x86;
using x86::Frame;
using x86::ModeKey;
using x86::Quick;

// Numbers of Tables::Which.
constexpr u8 user_table = 0, strict_table = 1, kernel_table = 2, checked_table = 3;

const Quick::Mode* find_mode(const Quick& q, const x::State& s, u64 key, u64 flags) {
  const bool ac = flags & x::flag_ac;
  const u8 which = key & ModeKey::cpl3 ? (ac && s.cr0 & x::cr0_am ? checked_table : user_table)
                                       : (s.cr4 & x::cr4_smap && !ac ? strict_table : kernel_table);
  for (unsigned i = 0; i < q.count; i++)
    if (q.known[i].key == key && q.known[i].which == which) return &q.known[i];
  return nullptr;
}

void enter(Frame& f, const Quick::Mode& mode) {
  f.quick.now = mode;
  f.quick.changed = true;
  f.head.ctx_gs = mode.gs;
  f.head.ctx_mask = mode.mask;
  f.head.victims = mode.gs + f.quick.victims_at + mode.table * f.quick.victims_bytes;
}

// What the dispatch of generated code would jump to: a landing, which checks the address, or the miss thunk.
u64 dispatch(Frame& f, u64 target) {
  const Quick& q = f.quick;
  f.resume_scratch2 = target;
  return *reinterpret_cast<const u64*>(q.now.gs + q.now.table * q.jump_table_bytes + (target & f.head.jump_mask));
}

// Bytes in one page, by the address table of the running mode; null: not so simple.
u64* word_at(const Frame& f, u64 address, unsigned bytes, bool write) {
  if ((address & 4095) > 4096 - bytes || static_cast<u64>(static_cast<i64>(address << 16) >> 16) != address) return nullptr;
  const u64 p = (address & f.head.ctx_mask) >> 12;
  if (!f.head.ctx_mask) return nullptr;
  const u64 slot = write ? f.head.ctx_gs - 8 - 16 * p : f.head.ctx_gs + f.quick.header_bytes + 16 * p;
  const u64 addend = *reinterpret_cast<const u64*>(slot);
  if (!addend || address + addend - f.quick.ram_at >= f.quick.ram_bytes) return nullptr;  // none, or that of another address
  return reinterpret_cast<u64*>(address + addend);
}
u64* stack_word(const Frame& f, u64 address, bool write) { return word_at(f, address, 8, write); }

}  // namespace

u64 light_leaf(FrameHead* head, u64 argument, u64 host_flags, u64 rcx, u64 r11, u64 site) {
  Frame& f = *reinterpret_cast<Frame*>(head);
  Quick& q = f.quick;
  const x64::InterpretArgument insn{argument};
  const u64 key = q.now.key;
  if (!q.on || !insn.plain() || insn.repeat() || !(key & ModeKey::code64)) return 0;
  x::State& s = *f.state;
  const bool user = key & ModeKey::cpl3;
  if (!user && !(key & ModeKey::cpl0)) return 0;
  const u64 now = (s.rflags & ~u64{x::arithmetic_flags}) | (host_flags & x::arithmetic_flags);
  constexpr u64 level = ModeKey::cpl3 | ModeKey::cpl0;
  u64 flags = 0, to = 0;
  switch (insn.opcode()) {
    case 0x05:  // syscall
      if (!user || !(s.efer & x::efer_sce)) return 0;
      flags = (now & ~(s.sfmask | x::flag_rf)) | x::flag_1, to = (key & ~level) | ModeKey::cpl0;
      break;
    case 0x07:  // sysret
      if (user || insn.width() != 8 || !(s.efer & x::efer_sce) || rcx >> 47) return 0;
      flags = (r11 & 0x3c7fd7) | x::flag_1, to = (key & ~level) | ModeKey::cpl3;
      break;
    default:  // clac, stac
      if (user || insn.memory()) return 0;
      flags = insn.modrm() == 0xcb ? now | x::flag_ac : now & ~u64{x::flag_ac}, to = key;
      break;
  }
  // A trap is not made here, nor an interrupt that this unmasks.
  if (flags & x::flag_tf || (flags & ~s.rflags & x::flag_if && !head->quiet)) return 0;
  const Quick::Mode* const mode = find_mode(q, s, to, flags);
  if (!mode) return 0;
  s.rflags = flags;
  f.light_flags = flags, f.light_rcx = rcx, f.light_r11 = r11;
  enter(f, *mode);
  if (insn.opcode() == 0x01) return site;
  if (insn.opcode() == 0x05) {
    f.light_rcx = head->ip_page + insn.offset() + insn.length();
    f.light_r11 = now & ~u64{x::flag_rf};
    const u16 selector = static_cast<u16>(s.star >> 32) & 0xfffc;
    s.segment[x::cs] = x86::flat_code(selector, true, 0);
    s.segment[x::ss] = x86::flat_stack(static_cast<u16>(selector + 8), 0);
    return dispatch(f, s.lstar);
  }
  const u16 base = static_cast<u16>(s.star >> 48);
  s.segment[x::cs] = x86::flat_code(static_cast<u16>((base + 16) | 3), true, 3);
  s.segment[x::ss] = x86::flat_stack(static_cast<u16>((base + 8) | 3), 3);
  return dispatch(f, rcx);
}

namespace {

// rdfsbase, rdgsbase, wrfsbase, wrgsbase. Source: SDM 2B "RDFSBASE", 2D "WRFSBASE".
u64 segment_base(Frame& f, x64::InterpretArgument insn, u64 site) {
  x::State& s = *f.state;
  const unsigned which = insn.modrm() >> 3 & 7, segment = which & 1 ? x::gs : x::fs;
  if (which > 3 || !(s.cr4 & x::cr4_fsgsbase)) return 0;
  u64& reg = s.gpr[insn.rm()];
  if (which < 2) {
    const u64 base = s.segment[segment].base;
    reg = insn.width() == 8 ? base : static_cast<u32>(base);
    return insn.ends() ? 0 : site;
  }
  const u64 base = insn.width() == 8 ? reg : static_cast<u32>(reg);
  if (static_cast<u64>(static_cast<i64>(base << 16) >> 16) != base) return 0;
  s.segment[segment].base = f.seg_base[segment] = base;
  return insn.ends() ? dispatch(f, f.head.ip_page + insn.offset() + insn.length()) : site;
}

// One element of movs or stos, upwards, without repetition: GRUB's memmove is a loop of such. Source: SDM 2B "MOVS", "STOS".
u64 string_element(Frame& f, x64::InterpretArgument insn, bool wide, u64 site) {
  x::State& s = *f.state;
  const bool moves = insn.opcode() < 0xa6;
  if ((!moves && insn.opcode() != 0xaa && insn.opcode() != 0xab) || insn.repeat() || insn.ends() || s.rflags & x::flag_df ||
      (wide && !insn.plain()))
    return 0;
  const u64 mask = wide ? ~u64{0} : 0xffff'ffff;
  const unsigned width = insn.opcode() & 1 ? insn.width() : 1;
  u64 &to = s.gpr[x::rdi], &from = s.gpr[x::rsi];
  const u64* const source = moves ? word_at(f, from & mask, width, false) : &s.gpr[x::rax];
  u64* const target = word_at(f, to & mask, width, true);
  if (!source || !target) return 0;
  switch (width) {
    case 1: __builtin_memcpy(target, source, 1); break;
    case 2: __builtin_memcpy(target, source, 2); break;
    case 4: __builtin_memcpy(target, source, 4); break;
    default: *target = *source; break;
  }
  to = (to + width) & mask;
  if (moves) from = (from + width) & mask;
  return site;
}

}  // namespace

u64 quick_leaf(FrameHead* head, u64 argument, u64, u64 site) {
  Frame& f = *reinterpret_cast<Frame*>(head);
  Quick& q = f.quick;
  const x64::InterpretArgument insn{argument};
  if (!q.on) return 0;
  const bool wide = q.now.key & ModeKey::code64;
  if (insn.map() == 0 && insn.opcode() >= 0xa4 && insn.opcode() <= 0xad)
    return wide || insn.plain32() ? string_element(f, insn, wide, site) : 0;
  if (!insn.plain() || !wide) return 0;
  x::State& s = *f.state;
  if (insn.map() == 1) {
    if (insn.opcode() == 0xae && insn.repeat() == 1 && !insn.memory()) return segment_base(f, insn, site);
    if (insn.opcode() == 0x01 && insn.modrm() == 0xee && !insn.repeat()) {  // rdpkru
      if (!(s.cr4 & x::cr4_pke) || static_cast<u32>(s.gpr[x::rcx])) return 0;
      s.gpr[x::rax] = s.pkru, s.gpr[x::rdx] = 0;
      return site;
    }
    return 0;
  }
  if (insn.repeat() || !(q.now.key & ModeKey::cpl0)) return 0;
  // May this change of the flags be made here? An interrupt that it unmasks is not.
  const auto quiet = [&](u64 flags) { return !(flags & x::flag_tf) && (!(flags & ~s.rflags & x::flag_if) || f.head.quiet); };
  switch (insn.opcode()) {
    case 0xfa: return s.rflags &= ~u64{x::flag_if}, site;  // cli
    case 0xfb: {                                           // sti; the instruction after it follows at once
      const u64 flags = s.rflags | x::flag_if;
      if (!quiet(flags) || insn.ends()) return 0;
      return s.rflags = flags, site;
    }
    case 0x9c: {  // pushf
      u64* const to = insn.width() == 8 ? stack_word(f, s.gpr[x::rsp] - 8, true) : nullptr;
      if (!to) return 0;
      *to = s.rflags & ~u64{x::flag_rf | x::flag_vm};
      s.gpr[x::rsp] -= 8;
      return site;
    }
    case 0x9d: {  // popf
      const u64* const from = insn.width() == 8 ? stack_word(f, s.gpr[x::rsp], false) : nullptr;
      if (!from) return 0;
      constexpr u64 change =
          x::arithmetic_flags | x::flag_tf | x::flag_df | x::flag_nt | x::flag_ac | x::flag_id | x::flag_iopl | x::flag_if;
      const u64 flags = (s.rflags & ~change & ~u64{x::flag_rf}) | (*from & change) | x::flag_1;
      if (!quiet(flags) || (flags ^ s.rflags) & (x::flag_tf | x::flag_ac)) return 0;
      s.rflags = flags;
      s.gpr[x::rsp] += 8;
      return site;
    }
    default: return 0;
  }
}

}  // namespace vmm::tcg
