// See user_code.h. VMM_USER_SECONDS makes the test go on for that long from the seed in VMM_USER_SEED (tests/long/guest); VMM_USER_CASE
// runs the one case of a seed.
#include "tests/unit/accel/tcg/guest/x86/user_code.h"
#include "src/x86/disassemble.h"

#include <sys/mman.h>

#include <chrono>
#include <ctime>

namespace vmm::tcg::differential {

using namespace vmm::x86;

namespace {

constexpr u64 gdt_at = 0x1000, ldt_at = 0x1400, tss64_at = 0x2000, tss32_at = 0x2200, stack_top = 0x7000, idt64_at = 0x8000,
              idt32_at = 0x9000, pml4_at = 0x10000, pdpt_at = 0x11000, directory_at = 0x12000, table_at = 0x13000, legacy_pdpt_at = 0x14000;
// As Linux has them; visible to LAR and LSL where level 3 may name them.
constexpr u16 kernel32_cs = 0x08, kernel_cs = 0x10, kernel_ds = 0x18, user32_cs = 0x23, user_ds = 0x2b, user_cs = 0x33, tss_selector = 0x40,
              ldt_selector = 0x50, cpu_number = 0x78, gdt_limit = 0x7f;

constexpr test::LdtEntry ldt[] = {
    {.base = 0, .limit = 0xfffff, .contents = 2, .big = true, .pages = true},
    {.base = Users::code_at, .limit = 0x1fff, .contents = 2, .big = true},
    {.base = Users::code_at, .limit = 0xffff, .contents = 2},
    {.base = 0, .limit = 0xfffff, .contents = 0, .big = true, .pages = true},
    {.base = Users::data_at, .limit = 0x3fff, .contents = 0, .big = true},
    {.base = Users::data_at, .limit = 0xffff, .contents = 0},
    {.base = Users::data_at, .limit = 0x0fff, .contents = 1},
    {.base = Users::data_at, .limit = 0x00ff, .contents = 1, .big = true},
    {.base = Users::data_at + 16, .limit = 0x2ffe, .contents = 0, .read_or_execute_only = true},
    {.base = Users::code_at, .limit = 0xffff, .contents = 2, .read_or_execute_only = true},
    {.base = Users::data_at, .limit = 0x3fff, .contents = 0, .absent = true},
    {.base = Users::code_at, .limit = 0x1fff, .contents = 3, .absent = true},
    {.base = Users::data_at, .limit = 3, .contents = 0, .pages = true},
    {.base = Users::data_at + 8, .limit = 0x1234, .contents = 0},
    {.base = 0x20000, .limit = 0x11fff, .contents = 2, .big = true},
    {.base = Users::code_at, .limit = 0x1fff, .contents = 2, .big = true, .read_or_execute_only = true},
};
constexpr u16 local(unsigned number) { return static_cast<u16>(number << 3 | 7); }

u64 descriptor(const test::LdtEntry& e) {
  const unsigned type = unsigned{!e.read_or_execute_only} << 1 | unsigned{e.contents} << 2 | 1;  // accessed from the beginning
  const u64 attributes = type | (e.absent ? 0x70 : 0xf0);
  return (e.limit & 0xffff) | u64{e.base & 0xff'ffff} << 16 | attributes << 40 | u64{e.limit >> 16 & 15} << 48 | u64{e.big} << 54 |
         u64{e.pages} << 55 | u64{e.base >> 24} << 56;
}

// A segment register that holds a descriptor.
Segment loaded(u16 selector, u64 d) {
  u32 limit = static_cast<u32>((d & 0xffff) | (d >> 32 & 0xf'0000));
  const u16 attributes = static_cast<u16>(d >> 40 & 0xf0ff);
  if (attributes & 0x8000) limit = limit << 12 | 0xfff;
  return {.selector = selector, .attributes = attributes, .limit = limit, .base = (d >> 16 & 0xff'ffff) | (d >> 32 & 0xff00'0000)};
}

// What a program at level 3 sees otherwise on the host: the clock, CPUID, tables of the kernel, system calls, state that the guest has not.
bool of_the_host(std::span<const u8> code, unsigned bits) {
  for (usize i = 0; i + 1 < code.size(); i++) {
    if (code[i] == 0xcd && code[i + 1] == 0x80) return true;
    // AMD cuts the targets of such near branches to 16 bits, Intel ignores the prefix, and so do we.
    if (bits == 64 && code[i] == 0x66) {
      usize at = i + 1;
      while (at + 1 < code.size() && ((code[at] & 0xf0) == 0x40 || code[at] == 0x67 || (code[at] | 1) == 0xf3 || (code[at] & 0xfe) == 0x64))
        at++;
      if (at == code.size()) return true;
      const u8 b = code[at];
      if ((b & 0xf0) == 0x70 || (b & 0xfc) == 0xe0 || (b & 0xfd) == 0xe9 || b == 0xe8 || (b & 0xfe) == 0xc2 || b == 0xff) return true;
      if (b == 0x0f && at + 1 < code.size() && (code[at + 1] & 0xf0) == 0x80) return true;
    }
    // Far pointers of 80 bits are Intel's alone; limits under a mask, reads before ARPL's write are each CPU's own.
    const u8 next = code[i + 1], third = i + 2 < code.size() ? code[i + 2] : u8{0};
    if (bits == 64 && (code[i] & 0xf8) == 0x48 && (next == 0xff || (next == 0x0f && (third == 0xb2 || third == 0xb4 || third == 0xb5))))
      return true;
    if (bits != 64 && code[i] == 0xc4 && (next & 0x1f) == 2 && i + 3 < code.size()) {
      const u8 opcode = code[i + 3];
      if ((opcode >= 0x2c && opcode <= 0x2f) || opcode == 0x8c || opcode == 0x8e) return true;
    }
    // Lengths of strings with a W that 32-bit code has no use for.
    if (bits != 64 && code[i] == 0xc4 && (next & 0x1f) == 3 && third & 0x80 && i + 3 < code.size() && (code[i + 3] & 0xfe) == 0x60)
      return true;
    if (bits != 64 && code[i] == 0x63) return true;
    // What FNSTENV and FNSAVE write of pointers; how far a far call gets before it faults.
    if ((code[i] == 0xd9 || code[i] == 0xdd) && next < 0xc0 && (next >> 3 & 7) == 6) return true;
    if (bits != 64 && code[i] == 0x9a) return true;
    if (code[i] != 0x0f) continue;
    const unsigned reg = i + 2 < code.size() ? code[i + 2] >> 3 & 7 : 8;
    switch (code[i + 1]) {
      case 0x00:
        if (reg < 4 || reg > 5) return true;
        break;
      case 0xae:  // FXSAVE's pointers too
        if (reg < 2 || (reg > 3 && reg < 7)) return true;
        break;
      case 0xc7:
        if (reg != 1) return true;
        break;
      case 0x01:
      case 0x05:
      case 0x07:
      case 0x31:
      case 0x33:
      case 0x34:
      case 0x35:
      case 0xa2: return true;
      default: break;
    }
  }
  return false;
}

bool has_error_code(int vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

// Instructions that this host has not, though we offer them; numbers that are random.
const char* const model = "max,-rdrand,-rdseed,-rtm,-hle,-movdiri,-movdir64b,-serialize,-pku";

}  // namespace

test::HostUser* Users::host(std::string& why) { return test::HostUser::get(code_at, code_bytes, data_at, data_bytes, ldt, why); }

Users::Users(test::HostUser* host)
    : rows_(all_choices()), host_(host), interp_(ram_bytes, model, "interp"), e1_(ram_bytes, model, "e1"), data_(data_bytes) {
  Numbers n{.s = 0x1234'5678'9abc'def1, .near = data_at, .near_bytes = data_bytes};
  for (unsigned i = 0; i < 2 * data_bytes / 8; i++) {
    const u64 v = n.below(3) ? n.next() : n.edge();
    for (unsigned k = 0; k < 8; k++) pool_.push_back(static_cast<u8>(v >> (8 * k)));
  }
  lay_out(interp_), lay_out(e1_);
}

void Users::lay_out(X86Bench& b) {
  std::memset(b.ram(0), 0, ram_bytes);
  b.put<u64>(gdt_at + kernel32_cs, 0x00cf'9b00'0000'ffff), b.put<u64>(gdt_at + kernel_cs, 0x00af'9b00'0000'ffff);
  b.put<u64>(gdt_at + kernel_ds, 0x00cf'9300'0000'ffff), b.put<u64>(gdt_at + (user32_cs & ~7), 0x00cf'fb00'0000'ffff);
  b.put<u64>(gdt_at + (user_ds & ~7), 0x00cf'f300'0000'ffff), b.put<u64>(gdt_at + (user_cs & ~7), 0x00af'fb00'0000'ffff);
  b.put<u64>(gdt_at + tss_selector, u64{0x8b} << 40 | tss64_at << 16 | 0x67);
  b.put<u64>(gdt_at + ldt_selector, u64{0x82} << 40 | ldt_at << 16 | (sizeof ldt / sizeof *ldt * 8 - 1));
  b.put<u64>(gdt_at + cpu_number, 0x0040'f500'0000'0000);
  for (unsigned i = 0; i < std::size(ldt); i++) b.put<u64>(ldt_at + 8 * i, descriptor(ldt[i]));
  b.put<u64>(tss64_at + 4, stack_top), b.put<u16>(tss64_at + 0x66, 0x68);
  b.put<u32>(tss32_at + 4, stack_top), b.put<u16>(tss32_at + 8, kernel_ds), b.put<u16>(tss32_at + 0x66, 0x68);
  for (unsigned v = 0; v < 256; ++v) {
    b.put<u16>(handlers_at + v * 2, 0xf4f4);
    const u64 low = (handlers_at + v * 2) | u64{v == 3 || v == 4 ? 0xeeu : 0x8eu} << 40;
    b.put<u64>(idt64_at + v * 16, low | u64{kernel_cs} << 16), b.put<u64>(idt32_at + v * 8, low | u64{kernel32_cs} << 16);
  }
  b.put<u64>(pml4_at, pdpt_at | 7), b.put<u64>(pdpt_at, directory_at | 7), b.put<u64>(legacy_pdpt_at, directory_at | 1);
  b.put<u64>(directory_at, table_at | 7);
  for (u64 at = 0; at < 0x20000; at += 0x1000) b.put<u64>(table_at + at / 0x1000 * 8, at | 3);
  for (u64 at = 0; at < code_bytes; at += 0x1000) b.put<u64>(table_at + (code_at + at) / 0x1000 * 8, (code_at + at) | 7);
  for (u64 at = 0; at < data_bytes; at += 0x1000) b.put<u64>(table_at + (data_at + at) / 0x1000 * 8, (data_at + at) | 7 | u64{1} << 63);
}

UserCase Users::make(u64 seed) const {
  Numbers n{.s = seed | 1, .near = data_at, .near_bytes = data_bytes};
  constexpr UserMode modes[] = {UserMode::code64, UserMode::code64,   UserMode::code64,  UserMode::code64, UserMode::flat32,
                                UserMode::flat32, UserMode::legacy32, UserMode::based32, UserMode::code16, UserMode::legacy16};
  for (unsigned i = 0; i < 4; i++) n.next();
  UserCase c{.seed = seed, .mode = modes[n.below(std::size(modes))], .at = code_at, .code = {}};
  if (c.mode >= UserMode::based32) n.near = 0;
  const unsigned place = n.below(8);
  c.at += place < 5 ? n.below(64) : place < 7 ? 4096 - n.below(24) : code_bytes - 1 - n.below(48);
  if (n.below(8) == 0) {
    for (unsigned i = 2 + n.below(40); i > 0; --i) c.code.push_back(static_cast<u8>(n.next() >> 13));
  } else {
    std::vector<u8> one;
    for (unsigned i = 1 + n.below(40); i > 0 && c.code.size() < 400; --i) {
      one.clear();
      append(rows_[n.below(static_cast<unsigned>(rows_.size()))], n, c.bits(), c.at + c.code.size(), one);
      // Most of the others would end the sequence, or its comparison.
      if (of_the_host(one, c.bits()) && n.below(64)) continue;
      c.code.insert(c.code.end(), one.begin(), one.end());
    }
  }
  if (c.at + c.code.size() > code_at + code_bytes) c.code.resize(code_at + code_bytes - c.at);
  return c;
}

State Users::start(const UserCase& c, Numbers& n) {
  const bool legacy = c.mode == UserMode::legacy32 || c.mode == UserMode::legacy16, wide = c.mode == UserMode::code64;
  State s;
  vmm::x86::reset(s, false, true);
  s.cr0 = cr0_pe | cr0_pg | cr0_ne | cr0_et | cr0_mp | cr0_wp | cr0_am;
  s.cr4 = cr4_pae | cr4_osfxsr | cr4_osxmmexcpt | cr4_osxsave | cr4_fsgsbase;
  s.efer = efer_nxe | efer_sce | (legacy ? 0 : efer_lme | efer_lma);
  s.cr3 = legacy ? legacy_pdpt_at : pml4_at;
  s.pae_pdpte = {directory_at | 1, 0, 0, 0};
  s.xcr0 = 7;
  s.gdtr = {.base = gdt_at, .limit = gdt_limit};
  s.idtr = legacy ? TableRegister{.base = idt32_at, .limit = 0x7ff} : TableRegister{.base = idt64_at, .limit = 0xfff};
  s.ldtr = {.selector = ldt_selector, .attributes = 0x82, .limit = sizeof ldt / sizeof *ldt * 8 - 1, .base = ldt_at};
  s.tr = {.selector = tss_selector, .attributes = 0x8b, .limit = 0x67, .base = legacy ? tss32_at : tss64_at};
  const auto segment = [&](unsigned which, u16 selector) {
    u64 d = 0;
    if (selector & 4)
      d = descriptor(ldt[selector >> 3]);
    else if (selector > 3)
      d = interp_.get<u64>(gdt_at + (selector & ~7u));
    s.segment[which] = loaded(selector, d);
  };
  const auto one_of = [&](std::initializer_list<u16> list) { return list.begin()[n.below(static_cast<unsigned>(list.size()))]; };
  u64 code_base = 0;
  switch (c.mode) {
    case UserMode::code64:
      segment(cs, user_cs), segment(ss, user_ds), segment(ds, one_of({0, user_ds})), segment(es, one_of({0, user_ds}));
      segment(fs, 0), segment(gs, 0);
      s.segment[fs].base = n.below(2) ? data_at + n.below(0x1000) : n.edge() & 0x7fff'ffff'ffff;
      s.segment[gs].base = data_at + n.below(0x1000);
      break;
    case UserMode::flat32:
    case UserMode::legacy32:
      segment(cs, user32_cs), segment(ss, user_ds), segment(ds, user_ds), segment(es, user_ds);
      segment(fs, one_of({user_ds, local(3), local(4), 0})), segment(gs, one_of({local(3), local(5), local(7)}));
      break;
    case UserMode::based32:
      segment(cs, one_of({local(1), local(14), local(15), user32_cs}));
      segment(ss, one_of({local(4), local(7)}));
      segment(ds, one_of({local(4), local(7), local(8), local(5)})), segment(es, one_of({local(4), local(7), local(12), local(6)}));
      segment(fs, one_of({local(8), local(13), 0})), segment(gs, one_of({local(1), local(12), local(3)}));
      break;
    default:
      segment(cs, one_of({local(2), local(9)}));
      segment(ss, one_of({local(5), local(6), local(12), local(4)}));
      segment(ds, one_of({local(5), local(4), local(8), local(12)})), segment(es, one_of({local(5), local(7), local(12), local(6)}));
      segment(fs, one_of({local(8), local(13), 0})), segment(gs, one_of({local(2), local(13), local(3)}));
      break;
  }
  code_base = s.segment[cs].base;
  if (!wide && c.mode != UserMode::flat32 && c.mode != UserMode::legacy32) n.near = 0;
  for (unsigned i = 0; i < (wide ? 16u : 8u); ++i) {
    s.gpr[i] = n.edge();
    if (!wide && n.below(10) == 0) s.gpr[i] = local(n.below(std::size(ldt) + 2));
    if (!wide) s.gpr[i] = static_cast<u32>(s.gpr[i]);
    if (n.near == 0 && n.below(2)) s.gpr[i] &= 0xffff;
  }
  s.gpr[rsp] = n.near + 0x2000 + n.below(64) * 8;
  if (c.bits() == 16 && n.below(4) == 0) s.gpr[rsp] |= n.next() & 0xffff'0000;
  s.rip = c.at - code_base;
  s.rflags = 0x202 | (n.next() & (arithmetic_flags | (n.below(4) ? 0 : u64{flag_df})));
  if (n.below(12) == 0) s.rflags |= flag_ac;
  if (n.below(40) == 0) s.rflags |= flag_tf;
  for (VectorRegister& v : s.vector)
    for (u64& lane : v.lane) lane = n.edge();
  s.mxcsr = 0x1f80 | (n.below(3) ? 0 : static_cast<u32>(n.next()) & 0xe07f);
  s.x87.ftw = static_cast<u8>(n.next());
  if (n.below(3) == 0) s.x87.fcw = static_cast<u16>((n.next() & 0xf00) | 0x7f);
  for (auto& r : s.x87.st) {
    const u64 mantissa = n.edge();
    const u16 exponent = static_cast<u16>(n.below(3) ? 0x3fff + n.below(40) - 20 : n.next());
    std::memcpy(r.data(), &mantissa, 8), std::memcpy(r.data() + 8, &exponent, 2);
  }
  const unsigned turn = n.below(data_bytes / 8) * 8;
  std::memcpy(data_.data(), pool_.data() + turn, data_bytes);
  return s;
}

void Users::place(X86Bench& b, const UserCase& c, const State& from) {
  b.state = from;
  b.shut_down = false;
  b.cpu.fault = false;
  b.system.debug_hits = 0, b.system.trap_after = b.system.monitor_armed = false;
  b.system.step_trap = vmm::tcg::x86::System::StepTrap::by_old_flags;
  b.cpu.cc_out = 0;
  std::memset(b.ram(code_at), 0, code_bytes);
  std::ranges::copy(c.code, b.ram(c.at));
  std::memset(b.ram(c.at + c.code.size()), 0xf4, std::min<u64>(16, code_at + code_bytes - c.at - c.code.size()));
  std::memcpy(b.ram(data_at), data_.data(), data_bytes);
  std::memset(b.ram(stack_top - 64), 0, 64);
  {
    MachineLocked locked;
    b.drop_blocks();
  }
  vmm::tcg::x86::update_breakpoints(b.cpu);
  vmm::tcg::x86::flush_tlb(b.cpu, false);
  vmm::tcg::x86::mode_changed(b.cpu);
  b.cpu.leave = false;
}

std::string Users::once(const UserCase& c) {
  Numbers n{.s = (c.seed ^ 0x5555) * 0x9e37'79b9'7f4a'7c15 | 1, .near = data_at, .near_bytes = data_bytes};
  const State from = start(c, n);
  place(interp_, c, from), place(e1_, c, from);
  const bool ended = go(interp_), ended_too = go(e1_);
  if (!ended || !ended_too) return endless_cases++, std::string{};
  const auto overwritten = [&](X86Bench& b) { return !std::ranges::equal(c.code, std::span{b.ram(c.at), c.code.size()}); };
  if ((overwritten(interp_) || overwritten(e1_)) && repeats_a_string(c.code)) return {};
  std::string out = state_differences(interp_.state, e1_.state);
  if (interp_.shut_down != e1_.shut_down) out += format("  shut down: interpreter {}, E1 {}\n", interp_.shut_down, e1_.shut_down);
  constexpr std::pair<u64, u64> areas[] = {{stack_top - 64, 64}, {code_at, code_bytes}, {data_at, data_bytes}, {gdt_at, 0x600}};
  for (const auto [at, bytes] : areas)
    for (u64 i = at; std::memcmp(interp_.ram(at), e1_.ram(at), bytes) != 0; i++) {
      if (*interp_.ram(i) == *e1_.ram(i)) continue;
      out += format("  memory at {:#x}: interpreter {:#x}, E1 {:#x}\n", i, *interp_.ram(i), *e1_.ram(i));
      break;
    }
  if (host_ && !of_the_host(c.code, c.bits()))
    out += against_host(c, from);
  else
    not_for_host++;
  return out;
}

// Would the host meet memory of this process where the guest has none?
bool Users::comparable(const UserCase&, const State& guest, int vector) const {
  if (vector != vector_pf || guest.cr2 >> 47) return true;
  unsigned char there[2];
  return ::mincore(reinterpret_cast<void*>(guest.cr2 & ~u64{4095}), 4096, there) != 0 ||
         (guest.cr2 >= code_at && guest.cr2 < data_at + data_bytes);
}

std::string Users::against_host(const UserCase& c, const State& from) {
  const State& s = interp_.state;
  const bool legacy = c.mode == UserMode::legacy32 || c.mode == UserMode::legacy16;
  if (interp_.shut_down || s.rip <= handlers_at || s.rip > handlers_at + 512 || s.cpl() != 0)
    return format("  the guest does not stand in a handler: rip {:#x}, shut down {}\n", s.rip, interp_.shut_down);
  const int vector = static_cast<int>((s.rip - 1 - handlers_at) / 2);
  if (!comparable(c, s, vector)) return other_memory++, std::string{};
  // The frame of the exception.
  const u64 word = legacy ? 4 : 8;
  const auto frame = [&](unsigned number) {
    return legacy ? interp_.get<u32>(stack_top - number * 4) : interp_.get<u64>(stack_top - number * 8);
  };
  const u64 error = has_error_code(vector) ? interp_.get<u32>(stack_top - 6 * word) : 0;
  State host = from;
  std::memset(host_->code(), 0, code_bytes);
  std::ranges::copy(c.code, host_->code() + (c.at - code_at));
  std::memset(host_->code() + (c.at - code_at) + c.code.size(), 0xf4, std::min<u64>(16, code_at + code_bytes - c.at - c.code.size()));
  std::memcpy(host_->data(), data_.data(), data_bytes);
  const test::HostUser::End end = host_->run(host);
  if (end.vector < 0) return system_calls++, std::string{};
  if (vector == vector_ud && end.vector != vector_ud) return unknown_to_guest++, std::string{};
  on_host++;
  // What this kind of host does in its own way, and no program can rely on.
  const auto opcode_at = [&](u64 ip) {
    u64 at = ip + (c.bits() == 64 ? 0 : from.segment[cs].base);
    const auto byte = [&] { return at >= code_at && at < code_at + code_bytes ? host_->code()[at - code_at] : u8{0}; };
    constexpr std::string_view prefixes = "\x66\x67\xf0\xf2\xf3\x26\x2e\x36\x3e\x64\x65";
    while (prefixes.contains(static_cast<char>(byte())) || (c.bits() == 64 && (byte() & 0xf0) == 0x40)) at++;
    return byte();
  };
  // INT1 under a hypervisor; in which order far returns, IRET and CMPS read; which faults an alignment check comes before.
  if (vector == vector_db && end.vector == vector_db && opcode_at(frame(5) - 1) == 0xf1) return quirks++, std::string{};
  const u8 opcode = opcode_at(frame(5));
  const auto of_data = [](int v) { return v == vector_ss || v == vector_gp || v == vector_pf; };
  const bool reads_twice = (opcode & 0xfe) == 0xca || opcode == 0xcf || (opcode & 0xfe) == 0xa6;
  if (reads_twice && of_data(vector) && of_data(end.vector)) return quirks++, std::string{};
  if (vector != end.vector && (vector == vector_ac || end.vector == vector_ac)) return quirks++, std::string{};
  std::string out;
  const auto differ = [&](const std::string_view what, unsigned number, u64 ours, u64 theirs) {
    if (ours != theirs) out += format("  {}{}: host {:#x}, interpreter {:#x}\n", what, number, theirs, ours);
  };
  differ("vector ", 0, static_cast<u64>(vector), static_cast<u64>(end.vector));
  // Beside a 16-bit stack the host keeps of its own what the guest's CPU has above 32 bits.
  const u64 stack_mask = host.segment[ss].selector & 4 ? 0xffff'ffff : ~u64{0};
  // Linux does not say of its own half whether a page is there; what lies below the code is the guest's kernel, and nothing on the host.
  const bool blurred = vector == vector_pf && (s.cr2 >> 47 || s.cr2 < code_at);
  differ("error ", 0, error & ~u64{blurred}, end.error & ~u64{blurred});
  if (vector == vector_pf) differ("cr", 2, s.cr2, end.cr2);
  for (unsigned i = 0; i < 16; ++i) differ("gpr ", i, i == rsp ? frame(2) : s.gpr[i], i == rsp ? host.gpr[i] & stack_mask : host.gpr[i]);
  differ("rip ", 0, frame(5), host.rip), differ("rflags ", 0, frame(3), host.rflags);
  // The way into the handler clears null selectors wholly.
  const auto not_null = [](u16 selector) { return selector > 3 ? selector : u16{0}; };
  differ("cs ", 0, frame(4), host.segment[cs].selector), differ("ss ", 0, frame(1), host.segment[ss].selector);
  for (const unsigned i : {unsigned{ds}, unsigned{es}, unsigned{fs}, unsigned{gs}})
    differ("segment ", i, not_null(s.segment[i].selector), not_null(host.segment[i].selector));
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned k = 0; k < 4; ++k) differ("ymm ", i * 10 + k, s.vector[i].lane[k], host.vector[i].lane[k]);
  differ("mxcsr ", 0, s.mxcsr, host.mxcsr);
  differ("fcw ", 0, s.x87.fcw, host.x87.fcw), differ("fsw ", 0, s.x87.fsw, host.x87.fsw), differ("ftw ", 0, s.x87.ftw, host.x87.ftw);
  for (unsigned i = 0; i < 8; ++i)
    if (std::memcmp(s.x87.st[i].data(), host.x87.st[i].data(), 10) != 0)
      differ("st", i, load_le<u64>(s.x87.st[i].data()), load_le<u64>(host.x87.st[i].data()));
  const std::tuple<u64, const u8*, u64> areas[] = {{code_at, host_->code(), code_bytes}, {data_at, host_->data(), data_bytes}};
  for (const auto [at, host_at, bytes] : areas) {
    if (std::memcmp(interp_.ram(at), host_at, bytes) == 0) continue;
    u64 i = 0;
    while (*interp_.ram(at + i) == host_at[i]) ++i;
    differ("memory ", static_cast<unsigned>(at + i), *interp_.ram(at + i), host_at[i]);
  }
  return out;
}

std::string Users::run(const UserCase& c) {
  cases++;
  std::string text = once(c);
  if (text.empty()) return text;
  UserCase shorter = c;
  for (usize length = 1; length < c.code.size(); ++length) {
    shorter.code.assign(c.code.begin(), c.code.begin() + static_cast<std::ptrdiff_t>(length));
    if (std::string found = once(shorter); !found.empty()) {
      text = std::move(found);
      break;
    }
    shorter.code = c.code;
  }
  constexpr const char* names[] = {"64-bit", "32-bit", "32-bit without long mode", "32-bit, based", "16-bit", "16-bit without long mode"};
  std::string head = format("case {:#x}, {}, at {:#x}, bytes", c.seed, names[static_cast<unsigned>(c.mode)], c.at);
  for (const u8 byte : shorter.code) head += format(" {:02x}", byte);
  const u64 key = c.bits() == 64 ? vmm::tcg::x86::ModeKey::code64 : c.bits() == 32 ? vmm::tcg::x86::ModeKey::code32 : 0;
  vmm::x86::load_disassembler();
  return head + "\n" + vmm::tcg::x86::print_insns(key, shorter.code, c.at) + text;
}

}  // namespace vmm::tcg::differential

using namespace vmm;
using namespace vmm::tcg::differential;

TEST(user_code_of_any_width_does_what_the_host_does_in_both_engines) {
  const char* const seconds = getenv("VMM_USER_SECONDS");
  const char* const from = getenv("VMM_USER_SEED");
  const char* const one = getenv("VMM_USER_CASE");
  const char* const most = getenv("VMM_USER_FAILURES");
  std::string why;
  test::HostUser* host = nullptr;
#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
  host = Users::host(why);
#else
  why = "a sanitizer's shadow memory lies where the guest has none";
#endif
  if (!host) fmt::print("the host is not asked: {}\n", why);
  Users users{host};
  using Clock = std::chrono::steady_clock;
  const std::clock_t begun = std::clock();
  const Clock::time_point end = Clock::now() + std::chrono::seconds{seconds ? atoi(seconds) : 0};
  const u64 base = from ? strtoull(from, nullptr, 0) << 32 : 20261122;
  std::string failures;
  int failed = 0;
  for (u64 round = 0; one ? round < 1 : seconds ? Clock::now() < end : round < 2000; ++round) {
    const u64 seed = one ? strtoull(one, nullptr, 0) : (base + round) * 0x9e37'79b9'7f4a'7c15;
    const std::string text = users.run(users.make(seed));
    if (text.empty()) continue;
    failures += text;
    if (++failed == (most ? atoi(most) : 5)) break;
  }
  if (seconds)
    fmt::print(
        "user code: {} cases, {} by the host too, {} without an end, {} unknown to the guest, {} not for the host, {} in memory of ours, "
        "{} system calls, {} quirks, "
        "{:.0f} a second of CPU time\n",
        users.cases, users.on_host, users.endless_cases, users.unknown_to_guest, users.not_for_host, users.other_memory, users.system_calls,
        users.quirks, static_cast<double>(users.cases) * CLOCKS_PER_SEC / static_cast<double>(std::clock() - begun));
  if (failed) test::failed("all engines agree", __FILE__, __LINE__, format("{} differ\n{}", failed, failures));
}
