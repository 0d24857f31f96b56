// x87 control instructions: control, status and tag words, the environment and the whole state in memory.
// Sources: SDM 1 §8.1 (figures 8-9 to 8-12: images), SDM 2A "FLDENV", "FNSAVE", "FNINIT".
#include "accel/tcg/guest/x86/x87.h"

#include <array>

#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

bool x87::wait(Cpu& cpu) {
  if (!pending(cpu.state)) [[likely]]
    return true;
  if (cpu.state.cr0 & cr0_ne || !cpu.owner) return cpu.raise(vector_mf), false;
  const System& system = system_of(cpu);
  if (!system.coprocessor) return cpu.raise(vector_mf), false;
  if (system.coprocessor->ignored()) return true;
  return cpu.raise(frozen_by_ferr), false;
}
void x87::settle_ferr(Cpu& cpu) {
  if (!cpu.owner || pending(cpu.state)) return;
  const System& system = system_of(cpu);
  if (!system.coprocessor || !system.coprocessor->ignored()) return;
  const ParkedScope parked{system};
  system.coprocessor->release_ferr();
}

namespace {

// The image keeps one bit a register; the full tag word is derived from the contents (SDM 1 §8.1.7).
u16 full_tags(const State& s) {
  u16 tags = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    const unsigned top = s.x87.fsw >> 11 & 7;
    const auto& r = s.x87.st[(physical - top) & 7];
    unsigned tag = 3;
    if (s.x87.ftw >> physical & 1) {
      const u64 mantissa = load_le<u64>(r.data());
      const unsigned exponent = load_le<u16>(r.data() + 8) & 0x7fff;
      if (!exponent && !mantissa)
        tag = 1;
      else
        tag = exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
    }
    tags |= static_cast<u16>(tag << physical * 2);
  }
  return tags;
}
u8 short_tags(u16 tags) {
  u8 used = 0;
  for (unsigned i = 0; i < 8; ++i)
    if ((tags >> i * 2 & 3) != 3) used |= static_cast<u8>(1 << i);
  return used;
}

struct Form {
  bool wide, real, code64;  // 28-byte image; real-mode pointers
  u16 access;
  unsigned bytes() const { return wide ? 28 : 14; }
};
Form form_of(const State& s, u64 c) {
  return {
      .wide = (c & 0xff) != 2, .real = !s.protected_mode() || s.v86(), .code64 = (c >> 9 & 1) != 0, .access = static_cast<u16>(c >> 32)};
}

void write_environment(const State& s, const Form& form, u8* to) {
  const auto& x = s.x87;
  const u32 fip = static_cast<u32>(x.fip), fdp = static_cast<u32>(x.fdp);
  const u16 fcs = form.code64 ? 0 : static_cast<u16>(x.fip >> 32), fds = form.code64 ? 0 : static_cast<u16>(x.fdp >> 32);
  if (form.wide) {
    u32 words[7] = {x.fcw | 0xffff0000u, x.fsw | 0xffff0000u, full_tags(s) | 0xffff0000u};
    if (form.real) {
      const u32 ip = fip + u32{fcs} * 16, dp = fdp + u32{fds} * 16;
      words[3] = (ip & 0xffff) | 0xffff0000u, words[4] = (ip >> 16) << 12 | x.fop;
      words[5] = (dp & 0xffff) | 0xffff0000u, words[6] = (dp >> 16) << 12;
    } else {
      words[3] = fip, words[4] = fcs | u32{x.fop} << 16, words[5] = fdp, words[6] = fds | 0xffff0000u;
    }
    std::memcpy(to, words, 28);
    return;
  }
  u16 words[7] = {x.fcw, x.fsw, full_tags(s)};
  if (form.real) {
    const u32 ip = fip + u32{fcs} * 16, dp = fdp + u32{fds} * 16;
    words[3] = static_cast<u16>(ip), words[4] = static_cast<u16>((ip >> 16 & 15) << 12 | x.fop);
    words[5] = static_cast<u16>(dp), words[6] = static_cast<u16>((dp >> 16 & 15) << 12);
  } else {
    words[3] = static_cast<u16>(fip), words[4] = fcs, words[5] = static_cast<u16>(fdp), words[6] = fds;
  }
  std::memcpy(to, words, 14);
}

void read_environment(State& s, const Form& form, const u8* from) {
  auto& x = s.x87;
  u32 w[7];
  for (unsigned i = 0; i < 7; ++i) w[i] = form.wide ? load_le<u32>(from + i * 4) : load_le<u16>(from + i * 2);
  x.fcw = static_cast<u16>((w[0] & 0x1f3f) | 0x40), x87::set_status(s, static_cast<u16>(w[1]));
  x.ftw = short_tags(static_cast<u16>(w[2]));
  if (form.real) {
    x.fip = (w[3] & 0xffff) | (w[4] >> 12) << 16, x.fdp = (w[5] & 0xffff) | (w[6] >> 12) << 16;
    x.fop = w[4] & 0x7ff;
  } else if (form.wide) {
    x.fip = w[3] | (form.code64 ? 0 : u64{w[4] & 0xffff} << 32), x.fdp = w[5] | (form.code64 ? 0 : u64{w[6] & 0xffff} << 32);
    x.fop = w[4] >> 16 & 0x7ff;
  } else {
    x.fip = w[3] | u64{w[4]} << 32, x.fdp = w[5] | u64{w[6]} << 32, x.fop = 0;
  }
  x87::settle(s);
}

void initialise(State& s) { x87::set_status(s, 0), s.x87.fcw = 0x37f, s.x87.ftw = 0, s.x87.fop = 0, s.x87.fip = s.x87.fdp = 0; }

}  // namespace

namespace helper {

u64 fpu_wait(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  constexpr u64 both = cr0_mp | cr0_ts;
  if ((cpu.state.cr0 & both) == both)
    cpu.raise(vector_nm);
  else
    x87::wait(cpu);
  return 0;
}
u64 fpu_store_control(GuestCpu& g, u64, u64, u64) { return cpu_of(g).state.x87.fcw; }
u64 fpu_store_status(GuestCpu& g, u64, u64, u64) { return cpu_of(g).state.x87.fsw; }
u64 fpu_load_control(GuestCpu& g, u64 a, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (!x87::wait(cpu)) return 0;
  cpu.state.x87.fcw = static_cast<u16>((a & 0x1f3f) | 0x40);
  x87::settle(cpu.state);
  return 0;
}
u64 fpu_clear(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  cpu.state.x87.fsw &= 0x7f00;
  return x87::settle_ferr(cpu), 0;
}
u64 fpu_init(GuestCpu& g, u64, u64, u64) {
  initialise(cpu_of(g).state);
  return x87::settle_ferr(cpu_of(g)), 0;
}

// a: address; b: image_form of emit_simd.cpp.
u64 fpu_store_environment(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  const Form form = form_of(cpu.state, b);
  u8 image[28];
  write_environment(cpu.state, form, image);
  if (!cpu.write_bytes(a, image, form.bytes(), form.access)) return 0;
  cpu.state.x87.fcw |= x87::exception_bits;
  x87::settle(cpu.state);
  return 0;
}
u64 fpu_load_environment(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  if (!x87::wait(cpu)) return 0;
  const Form form = form_of(cpu.state, b);
  u8 image[28];
  if (!cpu.read_bytes(a, image, form.bytes(), form.access)) return 0;
  read_environment(cpu.state, form, image);
  return x87::settle_ferr(cpu), 0;
}
u64 fpu_save(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const Form form = form_of(s, b);
  u8 image[28 + 80];
  write_environment(s, form, image);
  for (unsigned i = 0; i < 8; ++i) std::memcpy(image + form.bytes() + i * 10, s.x87.st[i].data(), 10);
  if (!cpu.write_bytes(a, image, form.bytes() + 80, form.access)) return 0;
  initialise(s);
  return x87::settle_ferr(cpu), 0;
}
u64 fpu_restore(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!x87::wait(cpu)) return 0;
  const Form form = form_of(s, b);
  u8 image[28 + 80];
  if (!cpu.read_bytes(a, image, form.bytes() + 80, form.access)) return 0;
  read_environment(s, form, image);
  for (unsigned i = 0; i < 8; ++i) s.x87.st[i] = {}, std::memcpy(s.x87.st[i].data(), image + form.bytes() + i * 10, 10);
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
