// Helpers of vector and MMX instructions: running a native stub on the guest's registers, masked moves, gathers, MXCSR.
// Sources: SDM 2A–2D; SDM 1 §11.5 (SIMD exceptions), §8.6 and §8.7 (x87 exceptions), §9.6 (MMX and pending exceptions).
#include <atomic>
#include <cstring>

#include "accel/tcg/guest/soft_memory.h"
#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/helpers.h"
#include "accel/tcg/guest/x86/native_stub.h"
#include "accel/tcg/guest/x86/simd.h"
#include "accel/tcg/guest/x86/x87.h"
#include "accel/tcg/ir/block.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

namespace {

using ir::Access;

enum Mxcsr : u32 {
  status_invalid = 1,
  status_denormal = 2,
  status_zero = 4,
  status_overflow = 8,
  status_underflow = 16,
  status_precision = 32,
  status_all = 0x3f,
  status_before = status_invalid | status_denormal | status_zero,  // found before the operation
  mask_all = 0x1f80,
  flush_to_zero = 0x8000,
};

// An operand's bytes: within a page that is at hand by copy, else the slow way.
bool read_operand(Cpu& cpu, u64 address, void* to, unsigned size, u16 access) {
  if (const u8* host = soft_host(cpu, address, size, false)) [[likely]]
    return memory::ram_copy_out(to, host, size), true;
  return cpu.read_bytes(address, to, size, access);
}
bool write_operand(Cpu& cpu, u64 address, const void* from, unsigned size, u16 access) {
  if (u8* host = soft_host(cpu, address, size, true)) [[likely]]
    return memory::ram_copy_in(host, from, size), true;
  return cpu.write_bytes(address, from, size, access);
}

u8* register_of(State& s, unsigned n) { return reinterpret_cast<u8*>(s.vector[n].lane.data()); }

void load_vectors(StubFrame& f, State& s, u32 uses, unsigned reg, unsigned vvvv, unsigned rm, unsigned is4) {
  const u8 numbers[5] = {0, static_cast<u8>(reg), static_cast<u8>(vvvv), static_cast<u8>(rm), static_cast<u8>(is4)};
  for (unsigned n = 0; n < 5; ++n)
    if (uses >> n & 1) std::memcpy(f.vector[n], register_of(s, numbers[n]), 32);
}

// Runs under the guest's rounding with all exceptions masked. What an unmasked exception would have done is then derived: the
// status bits it sets, and #XM. True: go on. Tininess of an exact result shows only with flush-to-zero, hence the second run. Not
// exact: whether an unmasked overflow or underflow also sets PE is taken from the masked result, not from one with unbounded exponent.
bool run_with_mxcsr(Cpu& cpu, const NativeOp& op, StubFrame& f, State& s, unsigned reg, unsigned vvvv, unsigned rm, unsigned is4) {
  const u32 unmasked = ~(s.mxcsr >> 7) & status_all;
  const u32 control = s.mxcsr & ~u32{status_all} & ~(unmasked & status_underflow ? u32{flush_to_zero} : 0);  // FZ needs UM
  f.host_mxcsr = 0x1f80;
  f.mxcsr = control | mask_all;
  op.run(f);
  u32 raised = f.mxcsr & status_all;
  if (!unmasked) [[likely]]
    return s.mxcsr |= raised, true;
  if (unmasked & status_underflow && !(raised & status_underflow)) {
    StubFrame again;
    std::memcpy(again.memory, f.memory, sizeof again.memory);
    std::memcpy(again.gpr, f.gpr, sizeof again.gpr);
    again.flags = f.flags, again.host_mxcsr = 0x1f80;
    load_vectors(again, s, op.shape.uses, reg, vvvv, rm, is4);
    again.mxcsr = control | mask_all | flush_to_zero;
    if (!(op.shape.uses & StubShape::x87)) op.run(again), raised |= again.mxcsr & status_underflow;
  }
  if (!(raised & unmasked)) return s.mxcsr |= raised, true;
  if (raised & unmasked & status_before) raised &= status_before;
  s.mxcsr |= raised;
  cpu.raise(s.cr4 & cr4_osxmmexcpt ? vector_xm : vector_ud);
  return false;
}

}  // namespace

namespace helper {

// a: NativeOp; b: address, or the value of the general operand, or the flags; c: see packed_registers in emit_simd.cpp.
u64 native_stub(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const NativeOp& op = *reinterpret_cast<const NativeOp*>(a);
  const StubShape& shape = op.shape;
  const unsigned reg = c & 15, rm = c >> 4 & 15, vvvv = c >> 8 & 15, is4 = c >> 12 & 15;
  const u16 access = static_cast<u16>(c >> 32);
  const u32 uses = shape.uses;
  const u32 mxcsr = s.mxcsr;
  StubFrame f;

  if (uses & StubShape::x87 && !x87::wait(cpu)) return 0;
  if (shape.memory) {
    if (shape.memory_aligned && b & (shape.memory_bytes - 1)) return cpu.raise(vector_gp, 0), 0;
    if (!shape.memory_stored && !read_operand(cpu, b, f.memory, shape.memory_bytes, access)) return 0;
  }
  load_vectors(f, s, uses, reg, vvvv, rm, is4);
  if (uses & StubShape::load_gpr) f.gpr[0] = s.gpr[rax], f.gpr[1] = s.gpr[rcx], f.gpr[2] = uses & StubShape::gpr_rm ? b : s.gpr[rdx];
  f.flags = uses & StubShape::load_flags ? (b & arithmetic_flags) | 2 : 2;
  const bool ignoring = uses & StubShape::x87 && x87::pending(s);
  if (uses & StubShape::x87) x87::load(f, s);

  if (uses & StubShape::mxcsr) {
    if (!run_with_mxcsr(cpu, op, f, s, reg, vvvv, rm, is4)) {
      if (uses & StubShape::x87) x87::enter_mmx(s);  // cvtpi2ps and its kin have left x87 mode by then
      return 0;
    }
  } else {
    op.run(f);
  }

  if (shape.memory && shape.memory_stored) {
    // A store that an unmasked exception keeps from happening is tried nevertheless: a page fault comes first.
    const bool done = shape.x87_math && x87::store_suppressed(f)
                          ? read_operand(cpu, b, f.memory, shape.memory_bytes, static_cast<u16>(access | ir::Access::intent))
                          : write_operand(cpu, b, f.memory, shape.memory_bytes, access);
    if (!done) return s.mxcsr = mxcsr, 0;
  }
  if (uses & StubShape::x87) {
    x87::store(s, f, ignoring);
    if (shape.x87_math) x87::record(s, static_cast<u16>(c >> 16 & 0x7ff), shape.memory ? &b : nullptr, c >> 48 & 7);
  }
  const usize width = shape.vex ? 32 : 16;  // VEX forms clear what lies above
  if (uses & StubShape::store_implicit) std::memcpy(register_of(s, 0), f.vector[0], width);
  if (uses & StubShape::store_reg) std::memcpy(register_of(s, reg), f.vector[1], width);
  if (uses & StubShape::store_vvvv) std::memcpy(register_of(s, vvvv), f.vector[2], width);
  if (uses & StubShape::store_rm) std::memcpy(register_of(s, rm), f.vector[3], width);
  if (uses & StubShape::store_flags) cpu.cc_out = f.flags & arithmetic_flags;
  if (!(uses & StubShape::store_gpr)) return 0;
  if (uses & StubShape::gpr_reg) return f.gpr[0];
  if (uses & StubShape::gpr_rm) return f.gpr[2];
  return s.gpr[rcx] = f.gpr[1];
}

// a: emit_masked in emit_simd.cpp; b: address; c: access. Elements whose mask is clear are neither read, written nor checked.
u64 masked_move(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned reg = a & 15, mask = a >> 4 & 15, bytes = a >> 8 & 1 ? 8 : 4, width = a >> 9 & 1 ? 32 : 16;
  const bool store = a >> 10 & 1;
  const u16 access = static_cast<u16>(c);
  u8 data[32] = {};
  const u8* const masks = register_of(s, mask);
  const auto active = [&](unsigned i) { return masks[i + bytes - 1] & 0x80; };
  // A store touches every active element first, so that a fault leaves memory whole.
  for (unsigned i = 0; i < width; i += bytes)
    if (active(i) && !cpu.read_bytes(b + i, data + i, bytes, store ? access | Access::intent : access)) return 0;
  if (!store) {
    std::memcpy(register_of(s, reg), data, 32);
    return 0;
  }
  for (unsigned i = 0; i < width; i += bytes)
    if (active(i) && !cpu.write_bytes(b + i, register_of(s, reg) + i, bytes, access)) return 0;
  return 0;
}

u64 masked_bytes(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned reg = a & 15, rm = a >> 4 & 15;
  const bool mmx = a >> 8 & 1;
  const u16 access = static_cast<u16>(c);
  if (mmx && !x87::wait(cpu)) return 0;
  if (mmx) x87::enter_mmx(s);
  const u8* const data = mmx ? x87::mmx(s, reg & 7) : register_of(s, reg);
  const u8* const masks = mmx ? x87::mmx(s, rm & 7) : register_of(s, rm);
  const unsigned bytes = mmx ? 8 : 16;
  // The whole operand is checked, whatever the mask; the manuals leave that open, Zen does it.
  u8 scratch[16];
  if (!cpu.read_bytes(b, scratch, bytes, access | Access::intent)) return 0;
  for (unsigned i = 0; i < bytes; ++i)
    if (masks[i] & 0x80 && !cpu.write_bytes(b + i, data + i, 1, access)) return 0;
  return 0;
}

// a: emit_gather in emit_simd.cpp; b: base and displacement. A fault leaves the elements before it loaded and their masks clear.
u64 gather(GuestCpu& g, u64 a, u64 b, u64) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  const unsigned dst = a & 15, mask = a >> 4 & 15, index = a >> 8 & 15, scale = a >> 12 & 3, segment = a >> 17 & 7;
  const unsigned bytes = a >> 14 & 1 ? 8 : 4, index_bytes = a >> 15 & 1 ? 8 : 4, width = a >> 16 & 1 ? 32 : 16;
  const bool address64 = a >> 20 & 1, code64 = a >> 21 & 1;
  const u16 access = static_cast<u16>(a >> 32);
  const unsigned count = width / std::max(bytes, index_bytes), used = count * bytes;
  u8* const data = register_of(s, dst);
  u8* const masks = register_of(s, mask);
  const u8* const indices = register_of(s, index);
  for (unsigned i = 0; i < count; ++i) {
    if (!(masks[i * bytes + bytes - 1] & 0x80)) continue;
    const u64 element = index_bytes == 8 ? load_le<u64>(indices + i * 8) : sign_extend(load_le<u32>(indices + i * 4), 32);
    u64 address = b + (element << scale);
    if (!address64) address = static_cast<u32>(address);
    if (code64) {
      if (segment == fs || segment == gs) address += s.segment[segment].base;
    } else if (!segment_linear(cpu, segment, address, bytes, access, address)) {
      return 0;
    }
    u64 value;
    if (!cpu.read_bytes(address, &value, bytes, access)) return 0;
    std::memcpy(data + i * bytes, &value, bytes);
    std::memset(masks + i * bytes, 0, bytes);
  }
  std::memset(masks, 0, 32);
  std::memset(data + used, 0, 32 - used);
  return 0;
}

// a: 1 = all of it, 0 = the upper halves; b: 64-bit mode (else registers 0–7).
u64 vzero(GuestCpu& g, u64 a, u64 b, u64) {
  State& s = cpu_of(g).state;
  for (unsigned n = 0; n < (b ? 16u : 8u); ++n) {
    if (a) s.vector[n].lane[0] = s.vector[n].lane[1] = 0;
    s.vector[n].lane[2] = s.vector[n].lane[3] = 0;
  }
  return 0;
}

u64 fence(GuestCpu&, u64, u64, u64) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return 0;
}

u64 ldmxcsr(GuestCpu& g, u64 a, u64, u64) {
  Cpu& cpu = cpu_of(g);
  if (a & ~u64{0xffff}) return cpu.raise(vector_gp, 0), 0;
  cpu.state.mxcsr = static_cast<u32>(a);
  return 0;
}
u64 stmxcsr(GuestCpu& g, u64, u64, u64) { return cpu_of(g).state.mxcsr; }

}  // namespace helper
}  // namespace vmm::tcg::x86
