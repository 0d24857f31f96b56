// movs, cmps, stos, lods, scas, with and without repetition. Registers are exact after each element, so that a fault or an
// interrupt in the middle can be resumed. Source: SDM 2.
#include "accel/tcg/guest/host_flags.h"
#include "accel/tcg/guest/soft_memory.h"
#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

namespace {

constexpr u64 max_elements = 4096;  // between two looks at interrupts

struct Job {
  unsigned segment, addrsize, repeat;
  u64 mask;  // of the address size
  u64 base_src, base_dst;
  bool plain_src, plain_dst;  // no limit check needed
  bool code64;
  i64 step;
};

void put(u64& reg, unsigned bytes, u64 v) { reg = bytes == 8 ? v : bytes == 4 ? static_cast<u32>(v) : (reg & ~u64{0xffff}) | (v & 0xffff); }

bool is_plain(const Segment& s, bool write) {
  if (!s.present() || s.limit != 0xffff'ffff || !s.code_or_data()) return false;
  if (s.code()) return !write && (s.type() & 2);
  return !(s.type() & 4) && (!write || (s.type() & 2));
}
// Linear address of an element, or a fault.
bool source(Cpu& cpu, const Job& j, unsigned width, u64 offset, u64& at) {
  if (!j.plain_src) return segment_linear(cpu, j.segment, offset, width, 0, at);
  at = j.base_src + offset;
  if (!j.code64) at = static_cast<u32>(at);
  return true;
}
bool destination(Cpu& cpu, const Job& j, unsigned width, u64 offset, u16 access, u64& at) {
  if (!j.plain_dst) return segment_linear(cpu, es, offset, width, access, at);
  at = j.base_dst + offset;
  if (!j.code64) at = static_cast<u32>(at);
  return true;
}
// How many elements from `offset` on stay in the page of linear `at` and do not wrap the address size; at least 0.
u64 run_length(const Job& j, unsigned width, u64 offset, u64 at) {
  const u64 in_page = (4096 - (at & 0xfff)) / width;
  const u64 before_wrap = j.addrsize == 8 ? in_page : (j.mask - offset + 1) / width;
  return std::min(in_page, before_wrap);
}

// Compares set the flags of a − b; false = the repetition ends.
template <class T>
bool compare(Cpu& cpu, const Job& j, T a, T b) {
  u64 cc;
  host_sub<T>(a, b, cc);
  *cpu.cc = (*cpu.cc & ~ir::cc_mask) | cc;
  return j.repeat == 1 ? a == b : a != b;
}

// 0 = done (or a fault is pending), 1 = more to do.
template <class T>
u64 run(Cpu& cpu, unsigned kind, const Job& j) {
  State& s = cpu.state;
  constexpr unsigned width = sizeof(T);
  const u16 src_access = j.segment == ss ? ir::Access::stack : ir::Access::data;
  u64 left = j.repeat ? s.gpr[rcx] & j.mask : 1;
  auto advance = [&](bool src, bool dst, u64 n) {
    if (src) put(s.gpr[rsi], j.addrsize, s.gpr[rsi] + static_cast<u64>(j.step) * n);
    if (dst) put(s.gpr[rdi], j.addrsize, s.gpr[rdi] + static_cast<u64>(j.step) * n);
    left -= n;
    if (j.repeat) put(s.gpr[rcx], j.addrsize, left);
  };
  // Single steps, the guest's or a debugger's, are of one iteration (SDM 2B "REP").
  const auto* const system = static_cast<const System*>(cpu.owner);
  const bool single = s.rflags & flag_tf || (system && system->step != System::Step::none);
  for (u64 done = 0; left;) {
    if (done >= max_elements) return 1;
    const u64 si = s.gpr[rsi] & j.mask, di = s.gpr[rdi] & j.mask;
    u64 from = 0, to = 0;
    T v, w;
    u64 n = 1;
    switch (kind) {
      case 0:  // movs
        if (!source(cpu, j, width, si, from) || !destination(cpu, j, width, di, ir::Access::write, to)) return 0;
        if (left > 1 && !single && j.step > 0 && j.plain_src && j.plain_dst) {
          const u64 run = std::min({left, max_elements, run_length(j, width, si, from), run_length(j, width, di, to)});
          u8* const d = run ? soft_host(cpu, to, width, true) : nullptr;
          const u8* const f = d ? soft_host(cpu, from, width, false) : nullptr;
          if (f && (d <= f || d >= f + run * width)) {
            memory::ram_move(d, f, run * width);
            n = run;
          } else if (f) {  // overlap ahead: the pattern repeats, element by element
            for (u64 i = 0; i < run; i++) memory::ram_store<T>(d + i * width, memory::ram_load<T>(f + i * width));
            n = run;
          }
          if (f) {
            advance(true, true, n), done += n;
            continue;
          }
        }
        if (!soft_read<T>(cpu, from, src_access, v) || !soft_write<T>(cpu, to, ir::Access::data, v)) return 0;
        advance(true, true, 1);
        break;
      case 1: {  // cmps
        if (!source(cpu, j, width, si, from) || !destination(cpu, j, width, di, 0, to)) return 0;
        if (!soft_read<T>(cpu, from, src_access, v) || !soft_read<T>(cpu, to, ir::Access::data, w)) return 0;
        const bool go = compare<T>(cpu, j, v, w);
        advance(true, true, 1);
        if (!go) return 0;
        break;
      }
      case 2:  // stos
        if (!destination(cpu, j, width, di, ir::Access::write, to)) return 0;
        v = static_cast<T>(s.gpr[rax]);
        if (left > 1 && !single && j.step > 0 && j.plain_dst) {
          const u64 run = std::min({left, max_elements, run_length(j, width, di, to)});
          if (u8* const d = run ? soft_host(cpu, to, width, true) : nullptr) {
            memory::ram_fill<T>(d, v, run);
            advance(false, true, run), done += run;
            continue;
          }
        }
        if (!soft_write<T>(cpu, to, ir::Access::data, v)) return 0;
        advance(false, true, 1);
        break;
      case 3:  // lods
        if (!source(cpu, j, width, si, from) || !soft_read<T>(cpu, from, src_access, v)) return 0;
        put(s.gpr[rax], 8, width >= 4 ? u64{v} : (s.gpr[rax] & ~mask_of_size(width)) | v);
        advance(true, false, 1);
        break;
      default: {  // scas
        if (!destination(cpu, j, width, di, 0, to) || !soft_read<T>(cpu, to, ir::Access::data, w)) return 0;
        const bool go = compare<T>(cpu, j, static_cast<T>(s.gpr[rax]), w);
        advance(false, true, 1);
        if (!go) return 0;
        break;
      }
    }
    done++;
    if ((cpu.leave || single) && left) return 1;  // a store hit code
  }
  return 0;
}

}  // namespace

namespace helper {

// what: kind | width << 8 | address size << 16 | source segment << 24 | repeat << 32.
u64 string_step(GuestCpu& g, u64 what, u64, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned kind = what & 0xff, width = (what >> 8) & 0xff;
  Job j{.segment = static_cast<unsigned>(what >> 24) & 0xff,
        .addrsize = static_cast<unsigned>(what >> 16) & 0xff,
        .repeat = static_cast<unsigned>(what >> 32) & 3};
  j.mask = mask_of_size(j.addrsize);
  j.code64 = s.code64();
  j.plain_src = j.code64 || is_plain(s.segment[j.segment], false);
  j.plain_dst = j.code64 || is_plain(s.segment[es], true);
  j.base_src = j.code64 && j.segment < fs ? 0 : s.segment[j.segment].base;
  j.base_dst = j.code64 ? 0 : s.segment[es].base;
  j.step = s.rflags & flag_df ? -static_cast<i64>(width) : static_cast<i64>(width);
  switch (width) {
    case 1: return run<u8>(cpu, kind, j);
    case 2: return run<u16>(cpu, kind, j);
    case 4: return run<u32>(cpu, kind, j);
    default: return run<u64>(cpu, kind, j);
  }
}

}  // namespace helper
}  // namespace vmm::tcg::x86
