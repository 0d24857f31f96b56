// From bytes to a block; the table of state; the mode key; what E1 gets to know of an instruction.

#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/emitters.h"
#include "accel/tcg/guest/x86/simd.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/disassemble.h"

namespace vmm::tcg::x86 {

using ir::Native;
using ir::NativeReg;
using ir::RegFile;

std::span<const ir::StateSlot> state_slots() {
#define GPR(name) {#name, offsetof(State, gpr) + vmm::x86::name * 8, Type::i64, true}
#define BASE(name) {#name "_base", offsetof(State, segment) + vmm::x86::name * sizeof(Segment) + offsetof(Segment, base), Type::i64}
#define SELECTOR(name) {#name, offsetof(State, segment) + vmm::x86::name * sizeof(Segment) + offsetof(Segment, selector), Type::i16}
  static const ir::StateSlot slots[id_count] = {
      GPR(rax),
      GPR(rcx),
      GPR(rdx),
      GPR(rbx),
      GPR(rsp),
      GPR(rbp),
      GPR(rsi),
      GPR(rdi),
      GPR(r8),
      GPR(r9),
      GPR(r10),
      GPR(r11),
      GPR(r12),
      GPR(r13),
      GPR(r14),
      GPR(r15),
      BASE(es),
      BASE(cs),
      BASE(ss),
      BASE(ds),
      BASE(fs),
      BASE(gs),
      {"rip", offsetof(State, rip), Type::i64},
      {"rflags", offsetof(State, rflags), Type::i64},
      SELECTOR(es),
      SELECTOR(cs),
      SELECTOR(ss),
      SELECTOR(ds),
      SELECTOR(fs),
      SELECTOR(gs),
      {"tsc_aux", offsetof(State, tsc_aux), Type::i64},
  };
  return slots;
}

Cpu::Cpu(State& s) : state(s) {
  state_base = reinterpret_cast<u8*>(&s);
  ip = &s.rip;
  cc = &s.rflags;
  tlb = &supervisor_tlb;
  helpers = helper_table;
}

namespace {

bool flat_segment(const Segment& s, bool code, bool write) {
  if (!s.present() || s.base != 0 || s.limit != 0xffff'ffff || !s.code_or_data()) return false;
  if (code) return true;
  return s.code() ? !write && (s.type() & 2) : !(s.type() & 4) && (!write || (s.type() & 2));
}
bool plain_segment(const Segment& s) {
  return s.present() && s.limit == 0xffff'ffff && s.code_or_data() && !s.code() && (s.type() & 6) == 2;
}

}  // namespace

ModeKey key_of(const Cpu& cpu) {
  const State& s = cpu.state;
  u64 k = 0;
  if (s.code64()) {
    k |= ModeKey::code64 | ModeKey::flat | ModeKey::fs_plain | ModeKey::gs_plain;
  } else {
    if (s.segment[cs].big()) k |= ModeKey::code32;
    if (s.segment[ss].big()) k |= ModeKey::stack32;
    if (flat_segment(s.segment[cs], true, false) && flat_segment(s.segment[ss], false, true) && flat_segment(s.segment[ds], false, true) &&
        flat_segment(s.segment[es], false, true) && s.protected_mode() && !s.v86()) {
      k |= ModeKey::flat;
    }
    if (plain_segment(s.segment[fs])) k |= ModeKey::fs_plain;
    if (plain_segment(s.segment[gs])) k |= ModeKey::gs_plain;
  }
  if (s.protected_mode()) {
    if (s.v86())
      k |= ModeKey::v86 | ModeKey::cpl3;
    else
      k |= ModeKey::protected_ | (s.cpl() == 3 ? ModeKey::cpl3 : s.cpl() == 0 ? ModeKey::cpl0 : 0);
  } else {
    k |= ModeKey::cpl0;
  }
  if (!(s.cr0 & (cr0_em | cr0_ts))) k |= ModeKey::x87_ok;
  if ((s.cr4 & cr4_osfxsr) && !(s.cr0 & cr0_em)) k |= ModeKey::sse_ok;
  if ((k & ModeKey::protected_) && (s.cr4 & cr4_osxsave) && (s.xcr0 & 6) == 6) k |= ModeKey::avx_ok;
  if (!(s.cr0 & cr0_ne)) k |= ModeKey::ferr;
  if (s.cr0 & cr0_ts) k |= ModeKey::ts;
  if (s.cr0 & cr0_em) k |= ModeKey::em;
  if (s.cr0 & cr0_mp) k |= ModeKey::mp;
  return ModeKey{k};
}

// --- E1's view ------------------------------------------------------------------------------------------------------------------

namespace {

RegFile file_of(File f, unsigned number, unsigned width, bool rex) {
  switch (f) {
    case File::gpr: return width == 1 && !rex && number >= 4 && number < 8 ? RegFile::gpr_high : RegFile::gpr;
    case File::segment: return RegFile::segment;
    case File::control: return RegFile::control;
    case File::debug: return RegFile::debug;
    case File::vector: return RegFile::vector;
    case File::mmx: return RegFile::mmx;
    case File::x87: return RegFile::x87;
    case File::none: return RegFile::none;
  }
  return RegFile::none;
}
// A high byte register is number 0–3 of its own file.
NativeReg native_reg(const Insn& insn, const Operand& o, unsigned number, bool read, bool written) {
  const unsigned width = width_of(insn, o);
  const RegFile file = file_of(o.file, number, width, insn.rex);
  return {.file = file,
          .number = static_cast<u8>(file == RegFile::gpr_high ? number - 4 : number),
          .width = static_cast<u8>(width),
          .read = read,
          .written = written};
}

// Units must be on, or the block raises the fault by the slow way.
bool units_on(const Insn& insn, ModeKey key, bool& vector, bool& x87) {
  for (const Operand& o : insn.row->operands) vector |= o.file == File::vector, x87 |= o.file == File::mmx || o.file == File::x87;
  if (insn.row->t.kind == Kind::x87) x87 = true;
  if (insn.row->t.fp && !x87) vector = true;
  if (vector && (key.has(ModeKey::ts) || !key.has(insn.vex ? ModeKey::avx_ok : ModeKey::sse_ok))) return false;
  return !x87 || (key.has(ModeKey::x87_ok) && !key.has(ModeKey::ferr));
}

}  // namespace

ir::Native native_of(const Insn& insn, ModeKey key) {
  const Row& row = *insn.row;
  const Traits& t = row.t;
  Native n;
  n.kind = t.kind;
  n.map = static_cast<u8>(insn.map), n.opcode = insn.opcode;
  n.prefix = t.prefix == Prefix::p66 ? 0x66 : t.prefix == Prefix::f3 ? 0xf3 : t.prefix == Prefix::f2 ? 0xf2 : 0;
  if (insn.vex) n.prefix = insn.rep ? insn.rep : insn.p66 ? 0x66 : 0;
  n.w = insn.w, n.lock = insn.lock, n.vex = insn.vex, n.vex_l = insn.vex_l;
  n.has_modrm = insn.has_modrm, n.modrm = insn.modrm;
  n.imm_size = insn.imm_size, n.imm = insn.imm;
  if (std::ranges::count(row.operands, Role::imm, &Operand::role) == 2) n.imm_size = 2, n.imm |= insn.imm2 << 8;  // extrq, insertq
  n.length = insn.length, n.offset = insn.offset, n.bytes = insn.bytes;
  n.repeat = insn.rep == 0xf3 ? 1 : insn.rep == 0xf2 ? 2 : 0;
  n.address_width = insn.addrsize;
  bool uses_opsize = false;
  const Operand& first = row.operands[0];
  const bool of_immediate = first.role == Role::rel || first.role == Role::imm || first.role == Role::imm_sx;  // push imm, ret imm, jumps
  n.width = static_cast<u8>(first.role == Role::none || of_immediate ? insn.opsize : width_of(insn, first));
  for (const Operand& o : row.operands) {
    if (o.role == Role::none) break;
    const bool is_first = &o == &first;
    const bool read = !is_first || t.dst != Dst::write, written = is_first && t.dst != Dst::read;
    const bool both =
        t.kind == Kind::exchange || row.emit == &emit_xadd || (insn.map == Map::one && insn.opcode >= 0x90 && insn.opcode < 0x98);
    if (o.size == Size::v || o.size == Size::z) uses_opsize = true;
    switch (o.role) {
      case Role::modrm_rm:
        if (insn.memory) {
          n.mem_read = t.kind != Kind::load_address && read, n.mem_write = written && t.kind != Kind::load_address;
          n.mem_width = static_cast<u8>(width_of(insn, o));
        } else {
          n.rm = native_reg(insn, o, insn.rm_number(), read, written || both);
        }
        break;
      case Role::modrm_reg: n.reg = native_reg(insn, o, insn.reg_number(), read, written || both); break;
      case Role::opcode_reg: n.reg = native_reg(insn, o, insn.opcode_number(), read, written || both), n.in_opcode = true; break;
      case Role::vvvv: n.vvvv = native_reg(insn, o, insn.vvvv, read, written || row.emit == &emit_mulx); break;
      case Role::is4: n.is4 = native_reg(insn, o, static_cast<unsigned>(insn.imm >> 4) & (insn.code64 ? 15 : 7), read, written); break;
      case Role::fixed:
        if (o.file == File::gpr) {
          if (read || both) n.implicit_reads |= 1u << o.number;
          if (written || both) n.implicit_writes |= 1u << o.number;
        }
        break;
      default: break;
    }
  }
  if (insn.map == Map::one && (insn.opcode == 0x98 || insn.opcode == 0x99)) uses_opsize = true;
  n.operand_size_16 = insn.opsize == 2 && uses_opsize && t.prefix != Prefix::p66 && !insn.vex;
  n.implicit_reads |= t.reads, n.implicit_writes |= t.writes;
  if (insn.memory) {
    n.memory = true;
    n.access = insn.segment == ss ? Access::stack : Access::data;
    if (t.aligned) n.access |= Access::aligned;
    n.base = insn.base, n.index = insn.index, n.scale = insn.scale, n.disp = insn.disp;
    n.ip_relative = insn.ip_relative;
    if (insn.ip_relative) n.disp += insn.offset + insn.length;
    if (insn.segment >= fs) n.segment = insn.segment;
  }
  // Strings have no operand of their own that tells: quick forms must know of the override.
  if (t.kind == Kind::string && insn.segment_override && insn.segment >= fs) n.segment = insn.segment;
  n.flags_read = t.flags_in, n.flags_written = t.flags_out;
  n.ends = t.ends != Ends::no || t.kind == Kind::call || t.kind == Kind::call_indirect || t.kind == Kind::ret || t.kind == Kind::jump ||
           t.kind == Kind::jump_indirect || t.kind == Kind::branch || t.kind == Kind::loop_;
  // What sti and popf may unmask or trap is looked at right after them, without an end of the block.
  if (insn.map == Map::one && (insn.opcode == 0xfb || insn.opcode == 0x9d)) n.ends = false;
  // swapgs, stac and clac change bases and the address table, which are looked at anew after each interpreted instruction.
  if (insn.map == Map::two && insn.opcode == 1 && (insn.modrm == 0xf8 || insn.modrm == 0xca || insn.modrm == 0xcb)) n.ends = false;
  if (t.kind == Kind::branch) n.cond = insn.opcode & 15;
  n.target = static_cast<i32>(insn.offset + insn.length + insn.imm);
  if (t.kind == Kind::string) n.width = static_cast<u8>(width_of(insn, first));
  // xchg rax, rax: not even the upper half is cleared.
  if (insn.map == Map::one && insn.opcode == 0x90 && !insn.rex_b) n.kind = Kind::nop;

  bool pass = t.pass;
  // Forms that 64-bit code does not have, as the host's other form of the same instruction.
  if (insn.map == Map::one && !insn.vex) {
    if (insn.opcode >= 0x40 && insn.opcode < 0x50) {  // inc, dec: FF /0, /1
      n.opcode = 0xff, n.has_modrm = true, n.modrm = static_cast<u8>(0xc0 | (insn.opcode & 8) | (insn.opcode & 7));
      n.rm = n.reg, n.reg = {}, n.in_opcode = false, pass = true;
    } else if (insn.opcode == 0x82) {
      n.opcode = 0x80, pass = true;
    } else if (insn.opcode >= 0xa0 && insn.opcode <= 0xa3 &&
               (insn.addrsize == 4 || insn.disp == static_cast<i32>(insn.disp))) {  // mov with an offset
      const bool to_memory = insn.opcode & 2;
      n.opcode = static_cast<u8>((to_memory ? 0x88 : 0x8a) | (insn.opcode & 1)), n.has_modrm = true, n.modrm = 0x05;
      n.reg = native_reg(insn, row.operands[to_memory ? 1 : 0], rax, to_memory, !to_memory);
      n.implicit_reads = n.implicit_writes = 0;
      n.mem_read = !to_memory, n.mem_write = to_memory, n.mem_width = n.reg.width;
      if (insn.addrsize == 4) n.disp = static_cast<i32>(insn.disp);
      pass = true;
    }
  }
  bool vector = false, x87 = false;
  const bool units = units_on(insn, key, vector, x87);
  n.touches_vector = vector, n.touches_x87 = x87;
  // All but the control instructions (those with an emitter) leave their address in FIP, FDP and FOP.
  n.records = x87 && insn.map == Map::one && !row.emit;
  n.record = static_cast<u16>((insn.opcode & 7) << 8 | insn.modrm);
  if (n.kind == Kind::plain && vector) n.kind = Kind::vector;
  if (n.kind == Kind::plain && x87) n.kind = Kind::x87;
  const bool code64 = key.has(ModeKey::code64), flat32 = key.has(ModeKey::flat) && key.has(ModeKey::code32) && key.has(ModeKey::stack32);
  n.pass = pass && units && (code64 || flat32) && insn.addrsize >= 4;
  // Outside 64-bit mode W does not widen general registers, and only the first eight vectors are cleared.
  if (!code64)
    for (const Operand& o : row.operands)
      if (o.file == File::gpr) n.w = false;
  if (!code64 && (row.emit == &emit_vzeroall || row.emit == &emit_vzeroupper)) n.pass = false;
  // FDP's selector is that of an override, of which E1 knows FS and GS only.
  if (!code64 && n.records && insn.memory && (insn.segment == es || insn.segment == cs)) n.pass = false;
  // Offered whatever the host has: the portable form stands in.
  static const bool host_has_gfni = __builtin_cpu_supports("gfni");
  if (t.needs == Feature::gfni && !host_has_gfni) n.pass = false;
  // A store through CS is refused.
  if (!code64 && insn.memory && insn.segment == cs && n.mem_write) n.pass = false;
  // A bit offset in a register reaches memory that no address check of the operand covers.
  if (t.own && insn.memory) n.pass = false;
  if (insn.memory && insn.segment == fs) n.pass &= key.has(ModeKey::fs_plain);
  if (insn.memory && insn.segment == gs) n.pass &= key.has(ModeKey::gs_plain);
  // 16-bit forms of control flow and stack outside their usual width are rare: the interpreter's.
  if (!code64 && insn.opsize == 2 && (n.ends || t.kind == Kind::push || t.kind == Kind::pop || t.kind == Kind::leave)) n.pass = false;
  return n;
}

// --- the block ------------------------------------------------------------------------------------------------------------------

Translated translate(GuestCpu& g, u64 raw_key, std::span<const u8> bytes, u16 offset, Form form, unsigned limit, ir::Block& block) {
  std::span<const u16> cuts;
  if (raw_key & ModeKey::cuts_mask) cuts = static_cast<const System*>(cpu_of(g).owner)->debug->cuts();
  const Translated done = translate_block(cpu_of(g).features, ModeKey{raw_key}, bytes, offset, form, limit, block, cuts);
  if ((log_enabled(LogItem::in_asm) || log_enabled(LogItem::op)) && done == Translated::ok) [[unlikely]] {
    const State& s = cpu_of(g).state;
    const u64 address = s.code64() ? s.rip : static_cast<u32>(s.segment[cs].base + s.rip);
    if (!log_address_wanted(address)) return done;
    std::string text;
    if (log_enabled(LogItem::in_asm))
      text = "----------------\nIN: \n" + print_insns(raw_key, bytes.first(std::min<usize>(block.bytes, bytes.size())), address) + "\n";
    if (log_enabled(LogItem::op)) text += "OP:\n" + ir::print(block, state_slots(), helper_name) + "\n";
    log_write(text);
  }
  return done;
}

Translated translate_block(const FeatureSet& features, ModeKey key, std::span<const u8> bytes, u16 offset, Form form, unsigned limit,
                           ir::Block& block, std::span<const u16> cuts) {
  block.clear();
  block.start = offset, block.key = key.raw, block.ip_mask = key.ip_mask();
  if (key.has(ModeKey::step) || key.has(ModeKey::shadow)) limit = 1;
  const bool hot = limit > ir::Block::max_instructions;
  limit = std::min(limit, ir::Block::max_instructions);
  const usize in_page = 4096 - (offset & 0xfffu);
  Emitter e{block, key, features};
  usize at = 0;
  constexpr unsigned max_side_exits = 4, max_jumps = 2;
  const unsigned max_unrolled = hot ? ir::Block::hot_instructions : 112;
  // The kernel's loops turn a few times as a rule; their copies were a tenth of the code of a boot.
  const unsigned max_copies = key.has(ModeKey::cpl0) && !hot ? 2 : 8;
  unsigned branches = 0, jumps = 0, copies = 1;
  usize covered = 0;
  for (unsigned count = 0; !e.ended(); count++) {
    const u16 here = static_cast<u16>(offset + at);
    if (count == (copies > 1 ? max_unrolled : limit) ||
        (count && (std::ranges::binary_search(cuts, here) || at >= in_page || block.values > ir::Block::max_values - 400))) {
      e.begin(here, 0);
      e.exit(ir::ExitReason::next, here);
      break;
    }
    Insn insn;
    const auto window = bytes.subspan(at, std::min<usize>(bytes.size() - at, 16));
    const Decoded decoded = decode(window, key, features, insn);
    insn.offset = here;
    if (decoded == Decoded::more || (decoded == Decoded::ok && count && at + insn.length > in_page)) {
      if (count == 0) return Translated::more;
      e.begin(here, 0);
      e.exit(ir::ExitReason::next, here);  // it straddles: a block of its own
      break;
    }
    e.begin(here, decoded == Decoded::ok ? insn.length : 1);
    if (decoded != Decoded::ok) {
      if (form == Form::native) {
        Native n;
        n.offset = here, n.length = 1, n.ends = true;
        std::memcpy(n.bytes.data(), window.data(), std::min<usize>(window.size(), 15));
        e.native_op(OpCode::slow, e.native(n));
        e.exit_set(ir::ExitReason::next);
      } else {
        decoded == Decoded::too_long ? e.raise(vector_gp, 0) : e.raise(vector_ud);
      }
      at += std::min<usize>(window.size(), 15);  // whatever made it undefined lies in these
      if (at > in_page) block.straddles = true;
      break;
    }
    at += insn.length;
    if (form == Form::native) {
      Native n = native_of(insn, key);
      // A forward branch that is not taken does not end E1's block: state is always in place, so leaving in the middle costs nothing.
      // Nor does one that leads back to before the block; it polls once it is taken.
      const bool in_loop = n.target >= offset && n.target <= here;
      if (n.kind == Kind::branch && n.pass && n.target >= 0 && !in_loop && n.target < 4096 && at < in_page && branches < max_side_exits &&
          limit == ir::Block::max_instructions) {
        n.ends = false;
        branches++;
      }
      // What a jump skips is not looked at.
      const i32 jumped = n.target - offset;
      if (n.kind == Kind::jump && n.pass && n.target > here && n.target < 4096 && at < in_page && jumps < max_jumps &&
          static_cast<usize>(jumped) + 16 <= bytes.size() && limit == ir::Block::max_instructions) {
        n.ends = false;
        jumps++;
        covered = std::max(covered, at);
        at = static_cast<usize>(jumped);
      }
      // A loop goes on with a further copy of its body: groups then check for several turns at once. With fewer, the more exits it has,
      // which the host would have to learn copy by copy.
      if ((n.kind == Kind::branch || n.kind == Kind::jump) && n.pass && in_loop &&
          copies < (hot && !branches ? 2 : 1) * max_copies >> std::min(branches, 2u) && at < in_page &&
          limit == ir::Block::max_instructions) {
        usize begins = block.natives.size();
        while (begins > 0 && block.natives[begins - 1].offset != n.target) begins--;
        const usize body = block.natives.size() + 1 - (begins - 1);
        if (begins > 0 && block.natives.size() + 1 + body <= max_unrolled) {
          n.ends = false, n.repeats = true;
          covered = std::max(covered, at);
          at = static_cast<usize>(n.target - offset), branches = jumps = 0, copies++;
        }
      }
      const bool pass = n.pass, ends = n.ends;
      e.native_op(pass ? OpCode::pass : OpCode::slow, e.native(n));
      if (ends) e.exit_set(ir::ExitReason::next);
    } else {
      emit_insn(e, insn);
    }
    if (at > in_page) {
      block.straddles = true;
      if (!e.ended()) {
        e.begin(static_cast<u16>(offset + at), 0);
        e.exit(ir::ExitReason::next, static_cast<i32>(offset + at));
      }
      break;
    }
  }
  block.bytes = static_cast<u16>(std::max(covered, at));
  block.end = static_cast<u16>(offset + at);
  if (form == Form::portable) ir::drop_dead_flags(block);
  return Translated::ok;
}

std::string print_insns(u64 raw_key, std::span<const u8> bytes, u64 address) {
  const ModeKey key{raw_key};
  const unsigned width = key.has(ModeKey::code64) ? 64 : key.has(ModeKey::code32) ? 32 : 16;
  std::string out;
  usize done = 0;
  // Eight bytes a line.
  const auto hex = [&](usize from, usize to) {
    std::string text;
    for (usize k = from; k < to; k++) fmt::format_to(std::back_inserter(text), "{:02x} ", bytes[k]);
    return text;
  };
  for (const auto& line : vmm::x86::disassemble(bytes, address, width, vmm::x86::CodeSyntax::att)) {
    const usize size = line.bytes;
    fmt::format_to(std::back_inserter(out), "0x{:08x}:  {:<24} {:<8} {}\n", line.address, hex(done, done + std::min<usize>(size, 8)),
                   line.mnemonic, line.operands);
    if (size > 8) fmt::format_to(std::back_inserter(out), "0x{:08x}:  {}\n", line.address + 8, hex(done + 8, done + size));
    done += size;
  }
  for (; done < bytes.size(); done++)
    fmt::format_to(std::back_inserter(out), "0x{:08x}:  {:<24} .byte    0x{:02x}\n", address + done, hex(done, done + 1), bytes[done]);
  return out;
}

}  // namespace vmm::tcg::x86
