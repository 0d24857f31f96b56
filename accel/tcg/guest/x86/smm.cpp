// System-management mode: entry, the save state in its 32-bit and 64-bit forms, RSM. Source: SDM 3C chapter 31, AMD APM vol. 2 chapter
// 10 (tables 10-1 and 10-2); revision identifiers 0x20000 and 0x20064: SMBASE can be moved, no I/O restart.
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::tcg::x86 {

namespace {

constexpr unsigned area = 0x200;  // the image is 0xfe00–0xffff of the SMRAM
struct Image {
  u8 bytes[area] = {};
  template <class T>
  void put(unsigned at, u64 v) {
    store_le(bytes + (at - 0xfe00), static_cast<T>(v));
  }
  template <class T>
  T get(unsigned at) const {
    return load_le<T>(bytes + (at - 0xfe00));
  }
};

// 64-bit form: offsets of AMD's table 10-1, relative to SMBASE + 0x8000 (so 0x7e00 up); here + 0x8000.
constexpr unsigned segment_at(unsigned i) { return 0xfe00 + i * 0x10; }  // es cs ss ds fs gs, as our numbers go

void put_segment64(Image& m, unsigned at, const Segment& s) {
  m.put<u16>(at, s.selector), m.put<u16>(at + 2, s.attributes & 0xf0ff), m.put<u32>(at + 4, s.limit), m.put<u64>(at + 8, s.base);
}
Segment get_segment64(const Image& m, unsigned at) {
  return {.selector = m.get<u16>(at), .attributes = m.get<u16>(at + 2), .limit = m.get<u32>(at + 4), .base = m.get<u64>(at + 8)};
}

void save64(const State& s, Image& m) {
  for (unsigned i = 0; i < 6; ++i) put_segment64(m, segment_at(i), s.segment[i]);
  m.put<u32>(0xfe64, s.gdtr.limit), m.put<u64>(0xfe68, s.gdtr.base);
  put_segment64(m, 0xfe70, s.ldtr);
  m.put<u32>(0xfe84, s.idtr.limit), m.put<u64>(0xfe88, s.idtr.base);
  put_segment64(m, 0xfe90, s.tr);
  m.put<u8>(0xfec9, s.activity == Activity::halted);
  m.put<u64>(0xfed0, s.efer);
  static constexpr u8 order[16] = {rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15};
  for (unsigned i = 0; i < 16; ++i) m.put<u64>(0xfff8 - 8 * i, s.gpr[order[i]]);
  m.put<u64>(0xff78, s.rip), m.put<u64>(0xff70, s.rflags);
  m.put<u64>(0xff68, s.dr6), m.put<u64>(0xff60, s.dr7);
  m.put<u64>(0xff58, s.cr0), m.put<u64>(0xff50, s.cr3), m.put<u64>(0xff48, s.cr4);
  m.put<u32>(0xfefc, 0x20064), m.put<u32>(0xff00, s.smbase);
}

// 32-bit form: SDM 3C table 31-1.
void put_segment32(Image& m, unsigned at, const Segment& s) {
  m.put<u32>(at + 8, (s.attributes & 0xf0ff) << 8), m.put<u32>(at + 4, s.base), m.put<u32>(at, s.limit);
}
Segment get_segment32(const Image& m, unsigned at, u16 selector) {
  return {.selector = selector,
          .attributes = static_cast<u16>(m.get<u32>(at + 8) >> 8 & 0xf0ff),
          .limit = m.get<u32>(at),
          .base = m.get<u32>(at + 4)};
}
constexpr u16 selector32_at(unsigned i) { return static_cast<u16>(0xffa8 + 4 * i); }
constexpr u16 cache32_at(unsigned i) { return static_cast<u16>(i < 3 ? 0xff84 + i * 12 : 0xff2c + (i - 3) * 12); }

void save32(const State& s, Image& m) {
  m.put<u32>(0xfffc, s.cr0), m.put<u32>(0xfff8, s.cr3), m.put<u32>(0xfff4, s.rflags), m.put<u32>(0xfff0, s.rip);
  static constexpr u8 order[8] = {rdi, rsi, rbp, rsp, rbx, rdx, rcx, rax};
  for (unsigned i = 0; i < 8; ++i) m.put<u32>(0xffec - 4 * i, s.gpr[order[i]]);
  m.put<u32>(0xffcc, s.dr6), m.put<u32>(0xffc8, s.dr7);
  m.put<u32>(0xffc4, s.tr.selector), m.put<u32>(0xffc0, s.ldtr.selector);
  for (unsigned i = 0; i < 6; ++i) m.put<u32>(selector32_at(i), s.segment[i].selector), put_segment32(m, cache32_at(i), s.segment[i]);
  m.put<u32>(0xff64, s.tr.base), m.put<u32>(0xff60, s.tr.limit), m.put<u32>(0xff5c, (s.tr.attributes & 0xf0ff) << 8);
  m.put<u32>(0xff80, s.ldtr.base), m.put<u32>(0xff7c, s.ldtr.limit), m.put<u32>(0xff78, (s.ldtr.attributes & 0xf0ff) << 8);
  m.put<u32>(0xff74, s.gdtr.base), m.put<u32>(0xff70, s.gdtr.limit);
  m.put<u32>(0xff58, s.idtr.base), m.put<u32>(0xff54, s.idtr.limit);
  m.put<u32>(0xff14, s.cr4);
  m.put<u16>(0xff02, s.activity == Activity::halted);
  m.put<u32>(0xfefc, 0x20000), m.put<u32>(0xfef8, s.smbase);
}

bool move_image(Cpu& cpu, Image& m, bool write) {
  // By physical address, in pages; the area never crosses one when SMBASE is aligned to 512 bytes, which it need not be.
  for (unsigned i = 0; i < area; ++i) {
    const u64 at = (cpu.state.smbase + 0xfe00 + i) & 0xffff'ffff;
    if (write) {
      write_physical(cpu, at, m.bytes + i, 1);
    } else {
      read_physical(cpu, at, m.bytes + i, 1);
    }
  }
  return true;
}

}  // namespace

void enter_smm(Cpu& cpu) {
  State& s = cpu.state;
  Image image;
  const bool wide = system_of(cpu).model && system_of(cpu).model->has(CpuFeature::lm);
  log(LogItem::interrupts, "cpu {}: SMM entry at {:x}\n", system_of(cpu).apic_id, s.rip);
  s.smm = true;
  flush_everything(cpu);
  wide ? save64(s, image) : save32(s, image);
  move_image(cpu, image, true);
  s.rflags = flag_1;
  s.rip = 0x8000;
  s.cr0 &= ~u64{cr0_pe | cr0_em | cr0_ts | cr0_pg};
  s.cr4 = 0;
  s.efer = 0;
  s.dr7 = 0x400;
  s.segment.fill({.selector = 0, .attributes = 0x8093, .limit = 0xffff'ffff, .base = 0});
  s.segment[cs] = {.selector = static_cast<u16>(s.smbase >> 4), .attributes = 0x8093, .limit = 0xffff'ffff, .base = s.smbase};
  s.nmi_blocked = true;
  s.sti_shadow = s.mov_ss_shadow = false;
  update_breakpoints(cpu);
  mode_changed(cpu);
}

namespace helper {

u64 rsm(GuestCpu& g, u64, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  if (!s.smm) return cpu.raise(vector_ud), 0;
  Image m;
  move_image(cpu, m, false);
  const bool wide = system_of(cpu).model && system_of(cpu).model->has(CpuFeature::lm);
  u64 cr0 = 0;
  u32 revision = m.get<u32>(0xfefc);
  s.cr4 = 0;
  if (wide) {
    s.efer = m.get<u64>(0xfed0);
    for (unsigned i = 0; i < 6; ++i) s.segment[i] = get_segment64(m, segment_at(i));
    s.gdtr = {.base = m.get<u64>(0xfe68), .limit = m.get<u16>(0xfe64)};
    s.idtr = {.base = m.get<u64>(0xfe88), .limit = m.get<u16>(0xfe84)};
    s.ldtr = get_segment64(m, 0xfe70), s.tr = get_segment64(m, 0xfe90);
    for (unsigned i = 0; i < 16; ++i) s.gpr[i] = m.get<u64>(0xfff8 - 8 * i);
    s.rip = m.get<u64>(0xff78), s.rflags = m.get<u32>(0xff70) | flag_1;
    s.dr6 = m.get<u32>(0xff68), s.dr7 = m.get<u32>(0xff60);
    s.cr3 = m.get<u64>(0xff50), s.cr4 = m.get<u32>(0xff48);
    cr0 = m.get<u32>(0xff58);
    s.activity = m.get<u8>(0xfec9) ? Activity::halted : Activity::running;
    if (revision & 0x20000) s.smbase = m.get<u32>(0xff00);
  } else {
    cr0 = m.get<u32>(0xfffc), s.cr3 = m.get<u32>(0xfff8), s.rflags = m.get<u32>(0xfff4) | flag_1, s.rip = m.get<u32>(0xfff0);
    static constexpr u8 order[8] = {rdi, rsi, rbp, rsp, rbx, rdx, rcx, rax};
    for (unsigned i = 0; i < 8; ++i) s.gpr[order[i]] = m.get<u32>(0xffec - 4 * i);
    s.dr6 = m.get<u32>(0xffcc), s.dr7 = m.get<u32>(0xffc8);
    for (unsigned i = 0; i < 6; ++i) s.segment[i] = get_segment32(m, cache32_at(i), m.get<u16>(selector32_at(i)));
    s.tr = {.selector = m.get<u16>(0xffc4),
            .attributes = static_cast<u16>(m.get<u32>(0xff5c) >> 8 & 0xf0ff),
            .limit = m.get<u32>(0xff60),
            .base = m.get<u32>(0xff64)};
    s.ldtr = {.selector = m.get<u16>(0xffc0),
              .attributes = static_cast<u16>(m.get<u32>(0xff78) >> 8 & 0xf0ff),
              .limit = m.get<u32>(0xff7c),
              .base = m.get<u32>(0xff80)};
    s.gdtr = {.base = m.get<u32>(0xff74), .limit = static_cast<u16>(m.get<u32>(0xff70))};
    s.idtr = {.base = m.get<u32>(0xff58), .limit = static_cast<u16>(m.get<u32>(0xff54))};
    s.cr4 = m.get<u32>(0xff14);
    s.activity = m.get<u16>(0xff02) ? Activity::halted : Activity::running;
    if (revision & 0x20000) s.smbase = m.get<u32>(0xfef8);
  }
  s.cr0 = (cr0 & 0xe005'003f) | cr0_et;
  s.smm = false;
  s.nmi_blocked = false;
  // What no CPU can be in ends in shutdown; here the worst of it is put right instead.
  if (s.cr0 & cr0_pg && !(s.cr0 & cr0_pe)) s.cr0 &= ~u64{cr0_pg};
  s.efer = s.efer & efer_lme && s.cr0 & cr0_pg ? s.efer | efer_lma : s.efer & ~u64{efer_lma};
  if (s.cr0 & cr0_pg && s.cr4 & cr4_pae && !s.long_mode()) {
    std::array<u64, 4> entries;
    if (load_pdptes(cpu, s.cr3, entries)) s.pae_pdpte = entries;
  }
  update_breakpoints(cpu);
  flush_everything(cpu);
  mode_changed(cpu);
  cpu.leave = true;
  return 0;
}

}  // namespace helper
}  // namespace vmm::tcg::x86
