// The same bytes from the same CPU state and memory by the interpreter and by E1; everything a guest could see afterwards is compared.
// A case is made from numbers (a fuzzer's or a generator's), so that a failing one can be run again.
#pragma once

#include <signal.h>
#include <sys/time.h>
#include <algorithm>

#include <span>

#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/guest/x86/translate.h"
#include "tests/unit/accel/tcg/bench.h"
#include "tests/unit/accel/tcg/guest/x86/random_code.h"

namespace vmm::tcg::differential {

using namespace vmm::x86;

inline constexpr u64 ram_bytes = 320 * KiB, code_at = 0x30000, data_at = 0x40000, data_bytes = 0x8000, handlers_at = 0x6000;

// Modes that code is tried in.
enum class Mode : u8 { long_0, long_3, flat32_0, flat32_3, based32, segments16, real, count };

struct Case {
  Mode mode = Mode::long_0;
  u64 seed = 1;
  u16 offset = 0;  // of the code in its page
  std::span<const u8> code;
};

// An endless loop in generated code is ended by a signal; such a case tells nothing. One timer for all runs: setting one for each would
// cost more than most cases.
inline X86Bench* running = nullptr;
inline std::atomic<bool> endless{false};
inline std::atomic<unsigned> ticks{0};
inline void on_tick(int) {
  if (!running || ++ticks < 4) return;
  endless = true;
  running->system.requests.fetch_or(static_cast<u32>(vm::Request::stop));
  running->cpu.poll.store(0, std::memory_order_seq_cst);
}
class Ticker {
 public:
  Ticker() {
    struct sigaction action = {};
    action.sa_handler = on_tick;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    sigaction(SIGVTALRM, &action, nullptr);
    set(5000);
  }
  ~Ticker() { set(0); }
  Ticker(const Ticker&) = delete;

 private:
  static void set(suseconds_t microseconds) {
    const itimerval interval{.it_interval = {.tv_sec = 0, .tv_usec = microseconds}, .it_value = {.tv_sec = 0, .tv_usec = microseconds}};
    setitimer(ITIMER_VIRTUAL, &interval, nullptr);
  }
};

// Until an event halts the CPU; false if that took too long.
inline bool go(X86Bench& b) {
  endless = false, ticks = 0, running = &b;
  const bool ended = b.run(4000);
  running = nullptr;
  b.system.requests = 0;
  return ended && !endless;
}

// All that a program could see of two states, as lines.
inline std::string state_differences(const State& a, const State& b) {
  std::string out;
  const auto differ = [&](const std::string_view what, unsigned number, u64 x, u64 y) {
    if (x != y) out += format("  {}{}: interpreter {:#x}, E1 {:#x}\n", what, number, x, y);
  };
  for (unsigned i = 0; i < 16; ++i) differ("gpr ", i, a.gpr[i], b.gpr[i]);
  differ("rip ", 0, a.rip, b.rip), differ("rflags ", 0, a.rflags, b.rflags);
  for (unsigned i = 0; i < 6; ++i) {
    const Segment &p = a.segment[i], &q = b.segment[i];
    differ("segment ", i, p.selector | u64{p.attributes} << 16 | u64{p.limit} << 32,
           q.selector | u64{q.attributes} << 16 | u64{q.limit} << 32);
    differ("base ", i, p.base, q.base);
  }
  differ("cr", 0, a.cr0, b.cr0), differ("cr", 2, a.cr2, b.cr2), differ("cr", 3, a.cr3, b.cr3), differ("cr", 4, a.cr4, b.cr4);
  differ("efer ", 0, a.efer, b.efer), differ("xcr", 0, a.xcr0, b.xcr0), differ("dr", 6, a.dr6, b.dr6), differ("dr", 7, a.dr7, b.dr7);
  differ("mxcsr ", 0, a.mxcsr, b.mxcsr), differ("pkru ", 0, a.pkru, b.pkru), differ("gs base ", 0, a.kernel_gs_base, b.kernel_gs_base);
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned k = 0; k < 4; ++k) differ("ymm ", i * 10 + k, a.vector[i].lane[k], b.vector[i].lane[k]);
  differ("fcw ", 0, a.x87.fcw, b.x87.fcw), differ("fsw ", 0, a.x87.fsw, b.x87.fsw), differ("ftw ", 0, a.x87.ftw, b.x87.ftw);
  differ("fop ", 0, a.x87.fop, b.x87.fop), differ("fip ", 0, a.x87.fip, b.x87.fip), differ("fdp ", 0, a.x87.fdp, b.x87.fdp);
  for (unsigned i = 0; i < 8; ++i)
    if (std::memcmp(a.x87.st[i].data(), b.x87.st[i].data(), 10) != 0) out += format("  st{} differs\n", i);
  return out;
}

// A repeated string instruction among these bytes: where it overwrites itself, how far it gets is nobody's rule.
inline bool repeats_a_string(std::span<const u8> code) {
  const auto string = [](u8 b) { return (b & 0xf4) == 0xa4 || (b & 0xfe) == 0xaa || (b & 0xfe) == 0x6c; };
  for (usize i = 0; i + 1 < code.size(); ++i)
    if ((code[i] | 1) == 0xf3 && std::ranges::any_of(code.subspan(i + 1, std::min<usize>(4, code.size() - i - 1)), string)) return true;
  return false;
}

class Pair {
 public:
  Pair()
      : interp_(ram_bytes, "max,-rdrand,-rdseed", "interp"),
        e1_(ram_bytes, "max,-rdrand,-rdseed", getenv("VMM_GUEST_VERIFY") ? "verify" : "e1") {}

  // Empty: no difference, or nothing to compare.
  std::string run(const Case& c) {
    for (X86Bench* b : {&interp_, &e1_}) prepare(*b, c);
    interp_.cpu.cc_out = 0, e1_.cpu.cc_out = arithmetic_flags;  // of no account, so it may differ
    const bool ended = go(interp_);
    const bool ended_too = go(e1_);
    cases++;
    if (!ended || !ended_too) return endless_cases++, std::string{};
    if (overwrote_itself(c)) return overwriting_cases++, std::string{};
    return differences(c);
  }
  u64 cases = 0, endless_cases = 0, overwriting_cases = 0;

 private:
  static void prepare(X86Bench& b, const Case& c) {
    Numbers n{.s = c.seed * 0x9e37'79b9'7f4a'7c15 + 1};
    if (c.mode >= Mode::segments16) n.near = 0;
    State& s = b.state;
    std::memset(b.ram(0), 0, ram_bytes);
    const bool bootstrap = true;
    s = State{};
    vmm::x86::reset(s, false, bootstrap);
    b.shut_down = false;
    b.cpu.fault = b.cpu.leave = false;
    b.system.debug_hits = 0, b.system.trap_after = b.system.monitor_armed = false;
    b.system.step_trap = vmm::tcg::x86::System::StepTrap::by_old_flags;
    const bool wide = c.mode == Mode::long_0 || c.mode == Mode::long_3;
    wide ? b.start_long(code_at) : b.start_protected(code_at);
    s.cr0 |= cr0_ne | cr0_mp, s.cr4 |= cr4_osfxsr | cr4_osxmmexcpt | cr4_osxsave | cr4_pae | cr4_fsgsbase;
    if (!wide) s.cr4 &= ~u64{cr4_pae | cr4_fsgsbase};
    s.xcr0 = 7;
    // Events end the case: HLT, one for each vector. The stack of level 0 and the TSS are the bench's.
    for (unsigned v = 0; v < 256; ++v) {
      *b.ram(handlers_at + v * 2) = 0xf4, *b.ram(handlers_at + v * 2 + 1) = 0xf4;
      if (v < (wide ? 128 : 256)) b.interrupt_gate(v, 8, handlers_at + v * 2, v == 3 || v == 4 ? 0xee : 0x8e);
    }
    b.put<u64>(0x2004, 0x7000);
    for (u64 at = 0; at < data_bytes; at += 8) b.put<u64>(data_at + at, n.below(3) ? n.next() : n.edge());
    for (unsigned i = 0; i < 16; ++i) s.gpr[i] = wide ? n.edge() : static_cast<u32>(n.edge());
    s.gpr[rsp] = data_at + 0x4000 + n.below(64) * 8;
    s.rflags = flag_1 | (n.next() & (arithmetic_flags | (n.below(4) ? 0 : u64{flag_df})));
    for (VectorRegister& v : s.vector)
      for (u64& lane : v.lane) lane = n.edge();
    s.mxcsr = 0x1f80 | (n.below(3) ? 0 : static_cast<u32>(n.next()) & 0xe07f);
    s.x87.fcw = 0x37f, s.x87.ftw = static_cast<u8>(n.next());
    if (n.below(3) == 0) s.x87.fcw = static_cast<u16>((n.next() & 0xf00) | 0x7f);
    for (auto& r : s.x87.st) {
      const u64 mantissa = n.edge();
      const u16 exponent = static_cast<u16>(n.below(3) ? 0x3fff + n.below(40) - 20 : n.next());
      std::memcpy(r.data(), &mantissa, 8), std::memcpy(r.data() + 8, &exponent, 2);
    }
    s.rip = code_at + c.offset;
    const Segment code3{.selector = 0x1b, .attributes = 0xc0fb, .limit = 0xffff'ffff, .base = 0},
        data3{.selector = 0x23, .attributes = 0xc0f3, .limit = 0xffff'ffff, .base = 0};
    switch (c.mode) {
      case Mode::long_3:
        s.segment.fill(data3);
        s.segment[cs] = {.selector = 0x33, .attributes = 0xa0fb, .limit = 0xffff'ffff, .base = 0};
        break;
      case Mode::flat32_3:
        s.segment.fill(data3);
        s.segment[cs] = code3;
        break;
      case Mode::based32:
        for (const unsigned i : {unsigned{ds}, unsigned{es}, unsigned{fs}})
          s.segment[i].base = n.below(0x100), s.segment[i].limit = data_at + n.below(data_bytes);
        break;
      case Mode::segments16:
        s.segment[cs].attributes &= ~0x4000, s.segment[cs].base = code_at & ~u64{0xffff}, s.segment[cs].limit = 0xffff;
        s.segment[ss].attributes &= ~0x4000, s.segment[ss].base = data_at, s.segment[ss].limit = 0xffff;
        s.segment[ds].base = s.segment[es].base = data_at, s.segment[ds].limit = data_bytes - 1;
        s.rip = (code_at & 0xffff) + c.offset;
        break;
      case Mode::real:
        s.cr0 &= ~u64{cr0_pe};
        s.segment.fill({.selector = data_at >> 4, .attributes = 0x93, .limit = 0xffff, .base = data_at});
        s.segment[cs] = {.selector = code_at >> 4, .attributes = 0x9b, .limit = 0xffff, .base = code_at};
        s.rip = c.offset;
        for (unsigned v = 0; v < 256; ++v) b.put<u32>(0x1800 + v * 4, static_cast<u32>(handlers_at + v * 2));
        s.idtr = {.base = 0x1800, .limit = 0x3ff};
        break;
      default: break;
    }
    std::memcpy(b.ram(code_at + c.offset), c.code.data(), c.code.size());
    std::memset(b.ram(code_at + c.offset + c.code.size()), 0xf4, 16);
    {
      MachineLocked locked;
      // Code of the case before lay there.
      memory_changed(b);
    }
    vmm::tcg::x86::update_breakpoints(b.cpu);
    vmm::tcg::x86::flush_tlb(b.cpu, false);
    vmm::tcg::x86::mode_changed(b.cpu);
    b.cpu.leave = false;
  }
  bool overwrote_itself(const Case& c) {
    if (!repeats_a_string(c.code)) return false;
    for (X86Bench* b : {&interp_, &e1_})
      if (std::memcmp(b->ram(code_at + c.offset), c.code.data(), c.code.size()) != 0) return true;
    return false;
  }
  static void memory_changed(X86Bench& b) { b.drop_blocks(); }

  std::string differences(const Case& c) {
    std::string out = state_differences(interp_.state, e1_.state);
    if (interp_.shut_down != e1_.shut_down) out += format("  shut down: interpreter {}, E1 {}\n", interp_.shut_down, e1_.shut_down);
    // A CPU may set A bits ahead of an access that then faults otherwise.
    if (c.mode <= Mode::long_3)
      for (X86Bench* bench : {&interp_, &e1_})
        for (u64 at = 0x10000; at < 0x13000; at += 8) *bench->ram(at) &= ~0x20;
    if (std::memcmp(interp_.ram(0), e1_.ram(0), ram_bytes) != 0) {
      u64 at = 0;
      while (*interp_.ram(at) == *e1_.ram(at)) ++at;
      out += format("  memory at {:#x}: interpreter {:#x}, E1 {:#x}\n", at, *interp_.ram(at), *e1_.ram(at));
    }
    if (out.empty()) return out;
    std::string head = format("mode {}, seed {:#x}, offset {:#x}, bytes", static_cast<unsigned>(c.mode), c.seed, c.offset);
    for (u8 byte : c.code) head += format(" {:02x}", byte);
    const u64 key = c.mode <= Mode::long_3 ? vmm::tcg::x86::ModeKey::code64 : c.mode <= Mode::based32 ? vmm::tcg::x86::ModeKey::code32 : 0;
    return head + "\n" + vmm::tcg::x86::print_insns(key, c.code, code_at + c.offset) + out;
  }

  X86Bench interp_, e1_;
  Ticker ticker_;
};

}  // namespace vmm::tcg::differential
