// Every x87, MMX and vector row against the host CPU: the same bytes run natively and in an engine of ours, and all registers,
// flags, MXCSR, x87 state and memory must agree bit for bit. Operand shapes and edge values come from the row itself.
#pragma once

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/map_sse.h"
#include "accel/tcg/guest/x86/map_vex.h"
#include "accel/tcg/guest/x86/map_x87.h"
#include "accel/tcg/guest/x86/native_stub.h"
#include "accel/tcg/host/interp.h"
#include "src/base/bits.h"
#include "tests/unit/accel/tcg/guest/x86/host_cpu.h"
#include "tests/unit/test.h"

namespace vmm::tcg::x86 {
namespace simd_cases {

using test::HostCpu;
using test::HostState;

// Guest memory is the host's own; addresses below 64 KiB fault.
inline bool reachable(GuestCpu& g, u64 address, u16 access) {
  if (address >= 0x10000) return true;
  cpu_of(g).raise_page_fault(address, access & (Access::write | Access::intent) ? 2 : 0);
  return false;
}
inline bool read_host(GuestCpu& g, u64 address, unsigned size, u16 access, void* to) {
  if (!reachable(g, address, access)) return false;
  std::memcpy(to, reinterpret_cast<const void*>(address), size);
  return true;
}
inline bool write_host(GuestCpu& g, u64 address, unsigned size, u16, const void* from) {
  if (!reachable(g, address, Access::write)) return false;
  std::memcpy(reinterpret_cast<void*>(address), from, size);
  return true;
}
inline constexpr MemoryOps host_memory{.read = read_host, .write = write_host, .rmw = nullptr};

inline constexpr ModeKey key64{ModeKey::code64 | ModeKey::flat | ModeKey::fs_plain | ModeKey::gs_plain | ModeKey::x87_ok | ModeKey::sse_ok |
                               ModeKey::avx_ok | ModeKey::protected_};

struct Random {
  u64 s = 0x9e3779b97f4a7c15;
  u64 next() {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s * 0x2545f4914f6cdd1d;
  }
  u64 below(u64 n) { return next() % n; }
};

// Numbers that instructions trip over: zeros, ones, least and greatest, denormals, infinities, quiet and signalling NaNs, integers
// at the edges of conversions; as doubles and as pairs of floats.
inline constexpr u64 edge_doubles[] = {0,
                                       0x8000000000000000,
                                       0x3ff0000000000000,
                                       0xbff8000000000000,
                                       1,
                                       0x800fffffffffffff,
                                       0x0010000000000000,
                                       0x7fefffffffffffff,
                                       0x7ff0000000000000,
                                       0xfff0000000000000,
                                       0x7ff8000000000001,
                                       0xfff4000000000000,
                                       0x41dfffffffc00000,
                                       0x41e0000000000000,
                                       0xc3e0000000000000,
                                       0x3ca0000000000000,
                                       0x4008000000000000,
                                       0x3fe0000000000000,
                                       0x36a0000000000000,
                                       0x47efffffe0000000};
inline constexpr u32 edge_floats[] = {0,          0x80000000, 0x3f800000, 0xbfc00000, 1,          0x807fffff, 0x00800000,
                                      0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00001, 0xffa00000, 0x4effffff, 0x4f000000,
                                      0xcf000000, 0x33800000, 0x3f000000, 0x7fff8000, 0x00ff00ff, 0xffffffff};

inline u64 edge(Random& r) {
  switch (r.below(4)) {
    case 0: return edge_doubles[r.below(std::size(edge_doubles))];
    case 1: return edge_floats[r.below(std::size(edge_floats))] | u64{edge_floats[r.below(std::size(edge_floats))]} << 32;
    case 2: return r.next();
    default: return r.next() & 0x0103070f1f3f7fff;
  }
}

inline void random_extended(Random& r, u8* to) {
  constexpr u16 exponents[] = {0, 0x8000, 1, 0x3fff, 0xbfff, 0x7fff, 0xffff, 0x7ffe, 0x403e, 0xc03e, 0x3fc0, 0x4010};
  constexpr u64 mantissas[] = {0, u64{1} << 63, u64{3} << 62, ~u64{0}, (u64{1} << 63) | 1, 1, 0xa000000000000000, 0xc90fdaa22168c235};
  store_le<u64>(to, mantissas[r.below(std::size(mantissas))]);
  store_le<u16>(to + 8, exponents[r.below(std::size(exponents))]);
  std::memset(to + 10, 0, 6);
}

struct Bench {
  State state;
  Cpu cpu{state};
  alignas(64) u8 memory[4096];

  Bench() {
    cpu.memory = &host_memory;
    for (unsigned i = 1; i < static_cast<unsigned>(Feature::count); ++i) cpu.features.add(static_cast<Feature>(i));
    state.cr0 = cr0_pe | cr0_pg | cr0_ne | cr0_mp, state.cr4 = cr4_osfxsr | cr4_osxmmexcpt | cr4_osxsave | cr4_pae;
    state.efer = efer_lme | efer_lma, state.xcr0 = 7;
    state.segment[cs].attributes = 0xa09b, state.segment[ss].attributes = 0xc093;
  }
  // One instruction; false: a fault is pending.
  bool step(std::span<const u8> bytes, ModeKey key = key64) {
    Insn insn;
    cpu.fault = false, cpu.pending = {};
    if (decode(bytes, key, cpu.features, insn) != Decoded::ok) return cpu.raise(vector_ud), false;
    ir::Block block;
    Emitter e(block, key, cpu.features);
    e.begin(0, insn.length);
    emit_insn(e, insn);
    if (!e.ended()) e.next(insn, ir::ExitReason::next);
    interpret(cpu, block);
    return !cpu.fault;
  }
};

// How a row is put to the test: which fields name what, memory or register, VEX.L, W.
struct Shape {
  const Row* row;
  Map map;
  bool memory, l, w, aliased;
};

inline bool has(const Row& row, Role role, File file) {
  return std::any_of(row.operands.begin(), row.operands.end(), [&](const Operand& o) { return o.role == role && o.file == file; });
}
inline bool takes(const Row& row, bool memory) {
  if (row.t.mod != Mod::any && (row.t.mod == Mod::memory) != memory) return false;
  bool rm = row.t.mod == Mod::reg;
  for (const Operand& o : row.operands) {
    if (o.role != Role::modrm_rm) continue;
    rm = true;
    if (o.form != Operand::any && (o.form == Operand::mem_only) != memory) return false;
  }
  return rm || !memory;
}

inline constexpr u8 vsib_index = 14;

inline std::vector<u8> encode(const Shape& s, u8 imm, bool vsib) {
  const Row& row = *s.row;
  std::vector<u8> out;
  const bool vector_reg = has(row, Role::modrm_reg, File::vector), vector_rm = has(row, Role::modrm_rm, File::vector);
  bool modrm = row.t.modrm || row.t.reg >= 0 || row.t.rm >= 0 || row.t.mod != Mod::any;
  for (const Operand& o : row.operands) modrm |= o.role == Role::modrm_reg || o.role == Role::modrm_rm;
  unsigned reg = row.t.reg >= 0 ? row.t.reg : vector_reg ? 9 : has(row, Role::modrm_reg, File::mmx) ? 3 : 8;
  unsigned rm = row.t.rm >= 0                         ? row.t.rm
                : s.memory                            ? 3
                : vector_rm                           ? 10
                : s.map == Map::one                   ? 2
                : has(row, Role::modrm_rm, File::mmx) ? 5
                                                      : 6;
  unsigned vvvv = 11;
  if (s.aliased) {
    if (row.t.reg < 0 && vector_reg) reg = 1;
    if (row.t.rm < 0 && !s.memory) rm = 1;
    vvvv = 1;
  }
  const u8 prefix = row.t.prefix == Prefix::p66 ? 0x66 : row.t.prefix == Prefix::f3 ? 0xf3 : row.t.prefix == Prefix::f2 ? 0xf2 : 0;
  if (row.t.vex) {
    if (!has(row, Role::vvvv, File::vector)) vvvv = 0;
    out.push_back(0xc4);
    out.push_back(static_cast<u8>((reg < 8 ? 0x80 : 0) | (vsib ? 0 : 0x40) | (rm < 8 ? 0x20 : 0) | static_cast<unsigned>(s.map)));
    out.push_back(static_cast<u8>(s.w << 7 | (~vvvv & 15) << 3 | s.l << 2 |
                                  (prefix == 0x66   ? 1
                                   : prefix == 0xf3 ? 2
                                   : prefix == 0xf2 ? 3
                                                    : 0)));
  } else {
    if (prefix) out.push_back(prefix);
    if (const u8 rex = static_cast<u8>(s.w << 3 | (reg >> 3) << 2 | rm >> 3)) out.push_back(0x40 | rex);
    if (s.map != Map::one) out.push_back(0x0f);
    if (s.map == Map::m38) out.push_back(0x38);
    if (s.map == Map::m3a) out.push_back(0x3a);
  }
  out.push_back(row.opcode);
  if (modrm) {
    if (vsib) {
      out.push_back(static_cast<u8>(0x44 | (reg & 7) << 3)), out.push_back(static_cast<u8>(2 << 6 | (vsib_index & 7) << 3 | 3)),
          out.push_back(0x40);
    } else {
      out.push_back(static_cast<u8>((s.memory ? 0x40 : 0xc0) | (reg & 7) << 3 | (rm & 7)));
      if (s.memory) out.push_back(0x40);
    }
  }
  for (const Operand& o : row.operands) {
    if (o.role == Role::imm) out.push_back(imm);
    if (o.role == Role::is4) out.push_back(12 << 4);
  }
  return out;
}

// The state before: the same for the host and for us.
inline void prepare(Bench& b, Random& r, const Shape& s, bool gather) {
  State& st = b.state;
  for (unsigned i = 0; i < 16; ++i) st.gpr[i] = edge(r);
  if (r.below(2)) st.gpr[rax] &= 31, st.gpr[rdx] &= 31;
  st.gpr[rbx] = reinterpret_cast<u64>(b.memory) + 1024;
  st.gpr[rdi] = st.gpr[rbx] + r.below(64);
  st.rflags = 2 | (r.next() & arithmetic_flags);
  for (auto& v : st.vector)
    for (u64& lane : v.lane) lane = edge(r);
  if (r.below(3) == 0) st.vector[9] = st.vector[10];
  if (gather)
    for (u64& lane : st.vector[vsib_index].lane)
      lane =
          s.row->opcode & 1 ? static_cast<u64>(static_cast<i64>(r.below(64)) - 32) : (r.below(64) | (u64{0xffffffff} - r.below(64)) << 32);
  st.mxcsr = 0x1f80 | (r.next() & 0xe040) | (r.next() & 0x3f);
  st.x87 = {};
  st.x87.fcw = 0x037f & ~(r.below(4) << 8);
  st.x87.fcw |= static_cast<u16>(r.below(4) << 10);
  st.x87.fsw = static_cast<u16>(r.next() & 0x7f3f);
  if (r.below(3) == 0) {  // unmasked exceptions: #XM here and now, #MF at the next waiting instruction
    st.mxcsr &= ~(r.next() & 0x1f80);
    st.x87.fcw &= ~(r.next() & 0x3f);
    if (r.below(4)) st.x87.fsw &= ~0x3f;
  }
  if (st.x87.fsw & ~st.x87.fcw & 0x3f) st.x87.fsw |= 0x8080;
  st.x87.ftw = r.below(3) ? 0xff : static_cast<u8>(r.next());
  for (auto& reg : st.x87.st) random_extended(r, reg.data());
  for (usize i = 0; i < sizeof b.memory; i += 8) store_le<u64>(b.memory + i, edge(r));
  if (r.below(4) == 0) random_extended(r, b.memory + 1024 + 0x40);
}

// Images in memory, and the masks of XSAVE: mostly valid, sometimes not.
inline void prepare_image(Bench& b, Random& r, std::string_view name) {
  State& st = b.state;
  u8* const image = b.memory + 1024 + 0x40;
  if (name.contains("xsave") || name.contains("xrstor")) {
    st.gpr[rax] &= 7, st.gpr[rdx] = 0;  // all three are in use: what a processor says of idle ones is its own affair
  }
  if (name.contains("rstor") && !name.starts_with("frstor")) {
    if (r.below(8)) store_le<u32>(image + 24, load_le<u32>(image + 24) & 0xffff);
    image[26] &= ~2;  // AMD knows this bit of MXCSR
    for (unsigned i = 0; i < 64; ++i) image[512 + i] = 0;
    image[512] = r.next() & 7;
    if (r.below(2) || name == "xrstors") image[520] = image[512], image[527] = 0x80;
    if (r.below(8) == 0) image[512 + r.below(64)] ^= 1 << r.below(8);
  }
  if (name.ends_with("ldmxcsr") && r.below(4)) store_le<u32>(image, load_le<u32>(image) & 0xffff);
  if (name.ends_with("ldmxcsr")) image[2] &= ~2;
  if (name == "fldenv" || name == "frstor" || name.contains("rstor")) {
    store_le<u16>(image, load_le<u16>(image) | 0x3f);
    if (name.contains("fxr") || name.contains("xrstor")) image[2] &= 0x7f, image[3] &= 0x7f;
  }
}

inline HostState host_state(const Bench& b) {
  HostState h;
  std::memset(&h, 0, sizeof h);
  for (unsigned i = 0; i < 16; ++i) h.gpr[i] = b.state.gpr[i], std::memcpy(h.ymm[i], b.state.vector[i].lane.data(), 32);
  h.flags = b.state.rflags, h.mxcsr = b.state.mxcsr;
  std::memcpy(h.x87, &b.state.x87, 512);
  return h;
}

// Empty, or what differs.
inline std::string differences(const Bench& b, const HostState& h, bool x87) {
  const State& s = b.state;
  for (unsigned i = 0; i < 16; ++i)
    if (i != 4 && s.gpr[i] != h.gpr[i]) return format("gpr {}: {:x}, host {:x}", i, s.gpr[i], h.gpr[i]);
  for (unsigned i = 0; i < 16; ++i) {
    u64 host[4];
    std::memcpy(host, h.ymm[i], 32);
    for (unsigned k = 0; k < 4; ++k)
      if (s.vector[i].lane[k] != host[k]) return format("ymm{}[{}]: {:016x}, host {:016x}", i, k, s.vector[i].lane[k], host[k]);
  }
  if ((s.rflags ^ h.flags) & arithmetic_flags)
    return format("flags {:x}, host {:x}", s.rflags & arithmetic_flags, h.flags & arithmetic_flags);
  if (s.mxcsr != h.mxcsr) return format("mxcsr {:x}, host {:x}", s.mxcsr, h.mxcsr);
  if (!x87) return {};
  const u8* const image = reinterpret_cast<const u8*>(&s.x87);
  if (std::memcmp(image, h.x87, 5))
    return format("fcw {:x} fsw {:x} ftw {:x}, host {:x} {:x} {:x}", s.x87.fcw, s.x87.fsw, s.x87.ftw, load_le<u16>(h.x87),
                  load_le<u16>(h.x87 + 2), h.x87[4]);
  for (unsigned i = 0; i < 8; ++i)
    if (std::memcmp(image + 32 + i * 16, h.x87 + 32 + i * 16, 10))
      return format("st{}: {:04x}:{:016x}, host {:04x}:{:016x}", i, load_le<u16>(image + 40 + i * 16), load_le<u64>(image + 32 + i * 16),
                    load_le<u16>(h.x87 + 40 + i * 16), load_le<u64>(h.x87 + 32 + i * 16));
  return {};
}

// Bytes in memory that hold instruction pointers of the x87, which differ by nature.
inline bool pointer_byte(std::string_view name, usize at) {
  if (at < 1024 + 0x40) return false;
  at -= 1024 + 0x40;
  if (name == "fnstenv" || name == "fnsave") return at >= 12 && at < 28;
  if (name == "fxsave" || name.starts_with("xsave"))
    return (at >= 6 && at < 24) || (at >= 28 && at < 32);  // MXCSR_MASK: AMD has one bit more
  return false;
}

struct Outcome {
  unsigned ran = 0, absent = 0;
};

inline void check_row(HostCpu& host, const Row& row, Map map, Bench& bench, Random& r, Outcome& outcome,
                      const std::function<bool(std::span<const u8>)>& step) {
  const std::string_view name = row.name;
  const bool gather = map == Map::m38 && row.t.vex && row.opcode >= 0x90 && row.opcode <= 0x93;
  const bool immediate = has(row, Role::imm, File::none);
  const bool general = has(row, Role::modrm_rm, File::gpr) || has(row, Role::modrm_reg, File::gpr) || row.t.reads;
  bool ran = false;
  for (unsigned form = 0; form < 16; ++form) {
    const Shape s{
        .row = &row, .map = map, .memory = (form & 1) != 0, .l = (form & 2) != 0, .w = (form & 4) != 0, .aliased = (form & 8) != 0};
    if (!takes(row, s.memory)) continue;
    if (row.t.vex ? (row.t.l >= 0 && s.l != (row.t.l != 0)) : s.l) continue;
    if (row.t.w >= 0 ? s.w != (row.t.w != 0) : s.w && !general) continue;
    if (s.aliased && (gather || map == Map::one)) continue;
    const unsigned rounds = row.t.fp ? 24 : immediate ? 16 : 6;
    for (unsigned i = 0; i < rounds; ++i) {
      prepare(bench, r, s, gather);
      prepare_image(bench, r, name);
      if (s.memory && i + 1 == rounds) ++bench.state.gpr[rbx];  // misaligned: #GP or nothing, as the row says
      const std::vector<u8> bytes = encode(s, static_cast<u8>(i < 2 ? i * 0xff : r.next()), gather);
      const HostState before = host_state(bench);
      HostState h = before;
      u8 old_memory[sizeof bench.memory], host_memory[sizeof bench.memory];
      std::memcpy(old_memory, bench.memory, sizeof old_memory);
      std::vector<u8> host_bytes = bytes;  // the supervisor forms have user twins
      if (name == "xsaves") host_bytes = {0x0f, 0xc7, 0x63, 0x40};
      if (name == "xrstors") host_bytes = {0x0f, 0xae, 0x6b, 0x40};
      const int signal = host.run(host_bytes, h);
      std::memcpy(host_memory, bench.memory, sizeof host_memory);
      std::memcpy(bench.memory, old_memory, sizeof old_memory);
      if (signal == SIGILL) {
        ++outcome.absent;
        break;
      }
      const bool stepped = step(bytes);
      std::string text;
      for (const u8 byte : bytes) text += format("{:02x} ", byte);
      if (signal == SIGFPE && name.contains("dpp")) h.mxcsr = bench.state.mxcsr;  // stops between its products and its sums
      if (signal == SIGFPE && h.mxcsr & ~(before.mxcsr >> 7) & 0x18)
        h.mxcsr = (h.mxcsr & ~0x20u) | (bench.state.mxcsr & 0x20);  // helpers_simd.cpp
      const bool x87 = row.t.kind == ir::NativeKind::x87 || map == Map::one;
      const int vector = stepped ? 0 : bench.cpu.pending.vector;
      const bool same = signal == SIGFPE    ? vector == vector_xm || vector == vector_mf
                        : signal == SIGSEGV ? vector == vector_gp
                                            : signal == vector;
      if (!same) test::failed(row.name, __FILE__, __LINE__, format("{}: host signal {}, our vector {}", text, signal, vector));
      if (const std::string d = differences(bench, h, x87); !d.empty())
        test::failed(row.name, __FILE__, __LINE__, format("{}: {}", text, d));
      for (usize at = 0; at < sizeof bench.memory; ++at)
        if (bench.memory[at] != host_memory[at] && !pointer_byte(name, at))
          test::failed(row.name, __FILE__, __LINE__,
                       format("{}: memory +{:x}: {:02x}, host {:02x}", text, at, bench.memory[at], host_memory[at]));
      ran = true;
    }
  }
  outcome.ran += ran;
}

inline bool needs_own_test(std::string_view name) {
  static const std::set<std::string_view> names{"xsetbv", "xgetbv"};
  return names.contains(name);
}

// All rows through `step`, which runs one instruction on bench.state and is false if a fault is pending.
inline Outcome check_rows(Bench& bench, const std::function<bool(std::span<const u8>)>& step) {
  HostCpu* const host = HostCpu::get();
  if (!host) test::skip("no x86-64 host with AVX2");
  Random r;
  Outcome outcome;
  const auto check = [&](const auto& table, Map map) {
    for (const Row& row : table) {
      if (row.t.undefined || needs_own_test(row.name)) continue;
      const unsigned ran = outcome.ran, absent = outcome.absent;
      check_row(*host, row, map, bench, r, outcome, step);
      if (outcome.ran == ran && outcome.absent == absent) test::failed(row.name, __FILE__, __LINE__, "no form of this row was reached");
    }
  };
  check(rows_x87, Map::one);
  check(rows_sse_0f, Map::two), check(rows_sse_0f38, Map::m38), check(rows_sse_0f3a, Map::m3a);
  check(rows_vex_0f, Map::two), check(rows_vex_0f38, Map::m38), check(rows_vex_0f3a, Map::m3a);
  return outcome;
}

}  // namespace simd_cases
}  // namespace vmm::tcg::x86
