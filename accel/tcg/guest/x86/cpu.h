// The x86 vCPU as translated code, interpreter and helpers see it. Owned by the vCPU's thread.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "accel/tcg/guest/x86/insn.h"
#include "accel/tcg/guest/x86/mode.h"
#include "src/x86/state.h"

namespace vmm::tcg::x86 {

using vmm::x86::arithmetic_flags;
using vmm::x86::Segment, vmm::x86::State, vmm::x86::TableRegister, vmm::x86::Activity, vmm::x86::SegmentRegister;
using enum vmm::x86::Gpr;
using enum vmm::x86::SegmentRegister;
using enum vmm::x86::Eflags;
using enum vmm::x86::Cr0;
using enum vmm::x86::Cr4;
using enum vmm::x86::Efer;
using enum vmm::x86::Vector;

// Not an exception: an x87 error with CR0.NE = 0 freezes the CPU before the instruction until an interrupt comes.
inline constexpr u8 frozen_by_ferr = 0xff;

// An exception that was raised and waits for delivery (GuestCpu::fault says so).
struct Pending {
  u8 vector = 0;
  bool has_code = false;
  u32 code = 0;
  u64 cr2 = 0;            // with #PF
  u64 dr6 = 0;            // with #DB: bits to set
  bool software = false;  // int n, int3, into: DPL checked, ip after the instruction
  bool has_ip = false;    // it belongs to `ip`, not to the instruction that ran: the first one of a new task, a trap
  u64 ip = 0;
};

struct Cpu : GuestCpu {
  explicit Cpu(State& s);

  State& state;
  Pending pending;
  FeatureSet features;
  ModeKey key;            // of the running block
  void* owner = nullptr;  // the run loop's vCPU (devices, APIC, memory)
  // The interpreter's TLBs by rights; `tlb` points at the current one (walk.cpp chooses).
  SoftTlb user_tlb, supervisor_tlb, supervisor_user_tlb;  // CPL 3; CPL<3 with SMAP and AC=0; CPL<3 otherwise

  // Raise an exception of the running instruction. Nothing of its state may have been changed.
  void raise(u8 vector) { pending = {.vector = vector}, fault = true; }
  void raise(u8 vector, u32 code) { pending = {.vector = vector, .has_code = true, .code = code}, fault = true; }
  void raise_page_fault(u64 address, u32 code) {
    pending = {.vector = vector_pf, .has_code = true, .code = code, .cr2 = address}, fault = true;
  }

  // The pending exception is of another place than the instruction that ran.
  bool raised_at(u64 ip) { return pending.has_ip = true, pending.ip = ip, false; }

  // Linear memory, at most 8 bytes. False: a fault is pending. `access`: ir::Access bits.
  bool read(u64 linear, unsigned size, u16 access, u64& out) { return out = 0, memory->read(*this, linear, size, access, &out); }
  bool write(u64 linear, unsigned size, u16 access, u64 value) { return memory->write(*this, linear, size, access, &value); }
  // Any size (vectors, images); may cross pages: all of it is checked before the first byte is written.
  bool read_bytes(u64 linear, void* to, unsigned size, u16 access) { return memory->read(*this, linear, size, access, to); }
  bool write_bytes(u64 linear, const void* from, unsigned size, u16 access) { return memory->write(*this, linear, size, access, from); }
};
inline Cpu& cpu_of(GuestCpu& g) { return static_cast<Cpu&>(g); }

// segment.cpp (outside flat and 64-bit modes): offset + base after limit, type and rights checks; false: #GP or #SS pending.
bool segment_linear(Cpu& cpu, unsigned segment, u64 offset, unsigned size, u16 access, u64& linear);

// The mode key of the present state, without step, shadow and icount.
ModeKey key_of(const Cpu& cpu);

// State ids: the rows of the state table.
enum StateIds : u16 {
  id_gpr = 0,        // 16 of them
  id_seg_base = 16,  // es cs ss ds fs gs
  id_rip = 22,
  id_rflags = 23,
  id_selector = 24,  // 6 of them, i16
  id_tsc_aux = 30,
  id_count = 31,
};
std::span<const ir::StateSlot> state_slots();

extern const GuestOps guest_ops;

}  // namespace vmm::tcg::x86
