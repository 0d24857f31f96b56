// FXSAVE, FXRSTOR, the XSAVE family, XGETBV and XSETBV. Source: SDM 1 §10.5 (FXSAVE image) and chapter 13 (XSAVE areas, init and
// modified optimisations, compaction), SDM 2. Components: x87 (0), SSE (1), AVX (2), PKRU (9). No supervisor component is offered.
#include <cstring>
#include <utility>

#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/simd.h"
#include "accel/tcg/guest/x86/simd_state.h"
#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/guest/x86/x87.h"
#include "src/base/bits.h"
#include "src/x86/model.h"

namespace vmm::tcg::x86 {

namespace {
enum Component : u64 { component_x87 = 1, component_sse = 2, component_avx = 4, component_pkru = 1 << 9 };
constexpr unsigned avx_bytes = 256;
}  // namespace

u64 supported_xcr0(const Cpu& cpu) {
  return component_x87 | component_sse | (cpu.features.has(Feature::avx) ? component_avx : 0) |
         (cpu.features.has(Feature::pku) ? component_pkru : 0);
}

namespace {

using ir::Access;
constexpr u32 mxcsr_mask = 0xffff;

struct Form {
  bool w, code64;
  SaveForm save;
  u16 access;
  explicit Form(u64 packed)
      : w(packed >> 8 & 1),
        code64(packed >> 9 & 1),
        save(static_cast<SaveForm>(packed >> 16 & 0xff)),
        access(static_cast<u16>(packed >> 32)) {}
};

unsigned xmm_count(const Form& form) { return form.code64 ? 16 : 8; }

// The x87 part: bytes 0–23 and 32–159.
void put_x87(const State& s, const Form& form, u8* to) {
  const auto& x = s.x87;
  store_le<u16>(to, x.fcw), store_le<u16>(to + 2, x.fsw), to[4] = x.ftw, to[5] = 0, store_le<u16>(to + 6, x.fop);
  if (form.w) {
    store_le<u64>(to + 8, x.fip), store_le<u64>(to + 16, x.fdp);
  } else {
    const u64 keep = form.code64 ? 0xffff'ffff : 0xffff'ffff'ffff;
    store_le<u64>(to + 8, x.fip & keep), store_le<u64>(to + 16, x.fdp & keep);
  }
  for (unsigned i = 0; i < 8; ++i) std::memcpy(to + 32 + i * 16, x.st[i].data(), 10), std::memset(to + 42 + i * 16, 0, 6);
}
void get_x87(State& s, const Form& form, const u8* from) {
  auto& x = s.x87;
  x.fcw = (load_le<u16>(from) & 0x1f3f) | 0x40, x.fsw = load_le<u16>(from + 2), x.ftw = from[4], x.fop = load_le<u16>(from + 6) & 0x7ff;
  const u64 keep = form.w ? ~u64{0} : form.code64 ? 0xffff'ffff : 0xffff'ffff'ffff;
  x.fip = load_le<u64>(from + 8) & keep, x.fdp = load_le<u64>(from + 16) & keep;
  for (unsigned i = 0; i < 8; ++i) x.st[i] = {}, std::memcpy(x.st[i].data(), from + 32 + i * 16, 10);
  x87::settle(s);
}
void init_x87(State& s) { s.x87.fcw = 0x37f, s.x87.fsw = 0, s.x87.ftw = 0, s.x87.fop = 0, s.x87.fip = s.x87.fdp = 0, s.x87.st = {}; }

void put_xmm(const State& s, const Form& form, u8* to) {
  for (unsigned i = 0; i < xmm_count(form); ++i) std::memcpy(to + 160 + i * 16, s.vector[i].lane.data(), 16);
}
void get_xmm(State& s, const Form& form, const u8* from) {
  for (unsigned i = 0; i < xmm_count(form); ++i) {
    if (from)
      std::memcpy(s.vector[i].lane.data(), from + 160 + i * 16, 16);
    else
      s.vector[i].lane[0] = s.vector[i].lane[1] = 0;
  }
}
void put_ymm(const State& s, const Form& form, u8* to) {
  for (unsigned i = 0; i < xmm_count(form); ++i) std::memcpy(to + i * 16, &s.vector[i].lane[2], 16);
}
void get_ymm(State& s, const Form& form, const u8* from) {
  for (unsigned i = 0; i < xmm_count(form); ++i) {
    if (from)
      std::memcpy(&s.vector[i].lane[2], from + i * 16, 16);
    else
      s.vector[i].lane[2] = s.vector[i].lane[3] = 0;
  }
}

// Components that differ from their initial state (XINUSE).
u64 in_use(const State& s, const Form& form) {
  const auto& x = s.x87;
  u64 used = s.pkru ? component_pkru : 0;
  bool x87 = x.fcw != 0x37f || x.fsw || x.ftw || x.fop || x.fip || x.fdp;
  for (unsigned i = 0; i < 8; ++i) x87 |= load_le<u64>(x.st[i].data()) || load_le<u16>(x.st[i].data() + 8);
  if (x87) used |= component_x87;
  for (unsigned i = 0; i < xmm_count(form); ++i) {
    const auto& lane = s.vector[i].lane;
    if (lane[0] | lane[1]) used |= component_sse;
    if (lane[2] | lane[3]) used |= component_avx;
  }
  return used;
}

// #GP unless aligned; before any access.
bool aligned(Cpu& cpu, u64 address, unsigned alignment) {
  if (!(address & (alignment - 1))) return true;
  cpu.raise(vector_gp, 0);
  return false;
}
bool xsave_enabled(Cpu& cpu) {
  if (!(cpu.state.cr4 & cr4_osxsave)) return cpu.raise(vector_ud), false;
  if (cpu.state.cr0 & cr0_ts) return cpu.raise(vector_nm), false;
  return true;
}

// FXSAVE and FXRSTOR answer to CR0.EM too.
bool fxsave_enabled(Cpu& cpu) {
  if (cpu.state.cr0 & (cr0_ts | cr0_em)) return cpu.raise(vector_nm), false;
  return true;
}

struct Area {
  u8 legacy[576];  // FXSAVE image and XSAVE header
  u8 avx[256], pkru[8];
};
u64& header(Area& area, unsigned at) { return *reinterpret_cast<u64*>(area.legacy + 512 + at); }

// A component beyond the header: where it lies, by form.
unsigned offset_of(u64 component, u64 compaction) {
  const bool compact = compaction >> 63;
  if (component == component_avx) return vmm::x86::xsave_component(2).offset;
  return compact ? 576 + (compaction & component_avx ? avx_bytes : 0) : vmm::x86::xsave_component(9).offset;
}

}  // namespace

namespace helper {

// a: address; b: image_form of emit_simd.cpp.
u64 fxsave(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  const State& s = cpu.state;
  const Form form(b);
  if (!fxsave_enabled(cpu) || !aligned(cpu, a, 16)) return 0;
  u8 image[512];
  // Bytes 464–511 are left as they are; so are the XMM registers with EFER.FFXSR at CPL 0 in 64-bit mode.
  if (!cpu.read_bytes(a, image, 512, form.access | Access::intent)) return 0;
  put_x87(s, form, image);
  store_le<u32>(image + 24, s.mxcsr), store_le<u32>(image + 28, mxcsr_mask);
  if (!(s.efer & efer_ffxsr && form.code64 && s.cpl() == 0)) put_xmm(s, form, image);
  cpu.write_bytes(a, image, 464, form.access);
  return 0;
}

u64 fxrstor(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const Form form(b);
  if (!fxsave_enabled(cpu) || !aligned(cpu, a, 16)) return 0;
  u8 image[512];
  if (!cpu.read_bytes(a, image, 512, form.access)) return 0;
  const u32 mxcsr = load_le<u32>(image + 24);
  if (mxcsr & ~mxcsr_mask) return cpu.raise(vector_gp, 0), 0;
  s.mxcsr = mxcsr;
  get_x87(s, form, image);
  if (!(s.efer & efer_ffxsr && form.code64 && s.cpl() == 0)) get_xmm(s, form, image);
  return 0;
}

// a: address; b: mask EDX:EAX; c: form.
u64 xsave(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  const State& s = cpu.state;
  const Form form(c);
  if (!xsave_enabled(cpu)) return 0;
  if (form.save == save_supervisor && s.cpl() != 0) return cpu.raise(vector_gp, 0), 0;
  if (!aligned(cpu, a, 64)) return 0;
  const bool compact = form.save == save_compacted || form.save == save_supervisor;
  const u64 wanted = b & s.xcr0, used = in_use(s, form) & wanted;
  const u64 compaction = compact ? wanted | u64{1} << 63 : 0;
  u64 stored = form.save == save_plain ? wanted : used;
  if (compact && wanted & component_sse && s.mxcsr != 0x1f80) stored |= component_sse;
  const u64 avx_at = a + offset_of(component_avx, compaction), pkru_at = a + offset_of(component_pkru, compaction);

  // Everything that will be written is read first as a store would be: no fault comes halfway.
  Area area;
  if (!cpu.read_bytes(a, area.legacy, 576, form.access | Access::intent)) return 0;
  if (stored & component_avx && !cpu.read_bytes(avx_at, area.avx, avx_bytes, form.access | Access::intent)) return 0;
  if (stored & component_pkru && !cpu.read_bytes(pkru_at, area.pkru, 8, form.access | Access::intent)) return 0;

  if (stored & component_x87) put_x87(s, form, area.legacy);
  if (stored & component_sse) put_xmm(s, form, area.legacy);
  if (compact ? stored & component_sse : wanted & (component_sse | component_avx))
    store_le<u32>(area.legacy + 24, s.mxcsr), store_le<u32>(area.legacy + 28, mxcsr_mask);
  if (compact)
    header(area, 0) = used | (stored & component_sse), header(area, 8) = compaction;
  else
    header(area, 0) = (header(area, 0) & ~wanted) | used;
  if (!cpu.write_bytes(a, area.legacy, 576, form.access)) return 0;
  if (stored & component_avx) {
    put_ymm(s, form, area.avx);
    if (!cpu.write_bytes(avx_at, area.avx, avx_bytes, form.access)) return 0;
  }
  if (stored & component_pkru) {
    store_le<u64>(area.pkru, s.pkru);
    cpu.write_bytes(pkru_at, area.pkru, 8, form.access);
  }
  return 0;
}

u64 xrstor(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const Form form(c);
  if (!xsave_enabled(cpu)) return 0;
  if (form.save == save_supervisor && s.cpl() != 0) return cpu.raise(vector_gp, 0), 0;
  if (!aligned(cpu, a, 64)) return 0;
  Area area;
  if (!cpu.read_bytes(a, area.legacy, 576, form.access)) return 0;

  const u64 present = header(area, 0), compaction = header(area, 8);
  const bool compact = compaction >> 63;
  bool valid = !(present & ~s.xcr0);
  if (compact) {
    valid &= cpu.features.has(Feature::xsavec) && !(compaction & ~(u64{1} << 63) & ~s.xcr0) && !(present & ~compaction);
    for (unsigned i = 16; i < 64; i += 8) valid &= header(area, i) == 0;
  } else {
    valid &= form.save != save_supervisor && compaction == 0 && header(area, 16) == 0;
  }
  const u64 wanted = b & s.xcr0, loaded = wanted & present;
  const u32 mxcsr = load_le<u32>(area.legacy + 24);
  const bool load_mxcsr = compact ? loaded & component_sse : wanted & (component_sse | component_avx);
  if (!valid || (load_mxcsr && mxcsr & ~mxcsr_mask)) return cpu.raise(vector_gp, 0), 0;
  if (loaded & component_avx && !cpu.read_bytes(a + offset_of(component_avx, compaction), area.avx, avx_bytes, form.access)) return 0;
  if (loaded & component_pkru && !cpu.read_bytes(a + offset_of(component_pkru, compaction), area.pkru, 8, form.access)) return 0;

  if (loaded & component_x87)
    get_x87(s, form, area.legacy);
  else if (wanted & component_x87)
    init_x87(s);
  if (wanted & component_sse) get_xmm(s, form, loaded & component_sse ? area.legacy : nullptr);
  if (load_mxcsr)
    s.mxcsr = mxcsr;
  else if (compact && wanted & component_sse)
    s.mxcsr = 0x1f80;
  if (wanted & component_avx) get_ymm(s, form, loaded & component_avx ? area.avx : nullptr);
  if (wanted & component_pkru) {
    const u32 pkru = loaded & component_pkru ? load_le<u32>(area.pkru) : 0;
    if (pkru != std::exchange(s.pkru, pkru)) flush_tlb(cpu, false);
  }
  return 0;
}

u64 xgetbv(GuestCpu& g, u64 a, u64, u64) {
  Cpu& cpu = cpu_of(g);
  const State& s = cpu.state;
  if (!(s.cr4 & cr4_osxsave)) return cpu.raise(vector_ud), 0;
  if (a == 0) return s.xcr0;
  if (a == 1 && cpu.features.has(Feature::xsavec)) return s.xcr0 & in_use(s, Form(u64{s.code64()} << 9));
  return cpu.raise(vector_gp, 0), 0;
}

u64 xsetbv(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!(s.cr4 & cr4_osxsave)) return cpu.raise(vector_ud), 0;
  const bool valid =
      a == 0 && s.cpl() == 0 && b & component_x87 && !(b & ~supported_xcr0(cpu)) && !((b & component_avx) && !(b & component_sse));
  if (!valid) return cpu.raise(vector_gp, 0), 0;
  s.xcr0 = b;
  mode_changed(cpu);
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
