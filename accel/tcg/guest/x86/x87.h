// The x87 unit's state as the helpers handle it: pending exceptions, the trip through a stub, the pointers of the last instruction.
#pragma once

#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/native_stub.h"

namespace vmm::tcg::x86::x87 {

inline constexpr u16 status_summary = 0x8080;  // ES and its twin, B
inline constexpr u16 exception_bits = 0x3f;

inline bool pending(const State& s) { return s.x87.fsw & ~s.x87.fcw & exception_bits; }
// ES and B follow from the flags and the masks.
inline void settle(State& s) { s.x87.fsw = pending(s) ? s.x87.fsw | status_summary : s.x87.fsw & ~status_summary; }
// What a waiting instruction does first. An unmasked exception is pending: #MF; with CR0.NE = 0 the CPU freezes and FERR# raises
// IRQ 13, unless IGNNE# is asserted (SDM 1 §8.7.2). False: not to be executed now.
bool wait(Cpu& cpu);
// After an instruction that may have cleared the pending exceptions: FERR# goes, and IGNNE# with it.
void settle_ferr(Cpu& cpu);

// MMX register n is physical register n; the image is in stack order.
inline u8* mmx(State& s, unsigned n) { return s.x87.st[(n - (s.x87.fsw >> 11)) & 7].data(); }
// Another TOP: the registers stay, their order in the image follows.
inline void set_status(State& s, u16 fsw) {
  const unsigned turn = ((fsw >> 11) - (s.x87.fsw >> 11)) & 7;
  std::rotate(s.x87.st.begin(), s.x87.st.begin() + turn, s.x87.st.end());
  s.x87.fsw = fsw;
}
// An MMX instruction: TOP = 0, all registers in use.
inline void enter_mmx(State& s) { set_status(s, s.x87.fsw & ~0x3800), s.x87.ftw = 0xff; }

// A stub must never trap: a summary bit without its cause, which a stream may bring, is dropped, and an exception that IGNNE# makes
// the CPU ignore is masked for this run.
inline void load(StubFrame& f, const State& s) {
  std::memcpy(f.x87, &s.x87, 160);
  const u16 fsw = s.x87.fsw & ~status_summary, fcw = s.x87.fcw | (pending(s) ? exception_bits : 0);
  std::memcpy(f.x87, &fcw, 2), std::memcpy(f.x87 + 2, &fsw, 2);
  const u32 masked = 0x1f80;
  std::memcpy(f.x87 + 24, &masked, 4);
}
inline void store(State& s, const StubFrame& f, bool ignoring) {
  const u16 fcw = s.x87.fcw;
  std::memcpy(&s.x87, f.x87, 5);  // FCW, FSW, FTW
  std::memcpy(s.x87.st.data(), f.x87 + 32, 128);
  if (ignoring) s.x87.fcw = fcw, settle(s);
}
// An unmasked invalid operation, overflow or underflow keeps a store from happening (SDM 1 §8.5).
inline bool store_suppressed(const StubFrame& f) {
  u16 fcw, fsw;
  std::memcpy(&fcw, f.x87, 2), std::memcpy(&fsw, f.x87 + 2, 2);
  return fsw & ~fcw & 0x19;
}
// FOP, FIP and FDP. Outside 64-bit mode the selector stands above the 32-bit offset, as FXSAVE has it.
inline void record(State& s, u16 fop, const u64* linear, unsigned segment) {
  const bool code64 = s.code64();
  s.x87.fop = fop;
  s.x87.fip = code64 ? s.rip : static_cast<u32>(s.rip) | u64{s.segment[cs].selector} << 32;
  if (!linear) return;
  const u64 offset = *linear - (code64 && segment < fs ? 0 : s.segment[segment].base);
  s.x87.fdp = code64 ? offset : static_cast<u32>(offset) | u64{s.segment[segment].selector} << 32;
}

}  // namespace vmm::tcg::x86::x87
