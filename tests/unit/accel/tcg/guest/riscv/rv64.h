// A second guest instruction set, for tests only: RV64I with Zicsr as far as machine mode needs it. It shows that IR, interpreter, block
// store and the loop around them are not x86's. Source: The RISC-V Instruction Set Manual, volume I (20191213) chapters 2 and 5, volume II
// chapter 3.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "src/memory/memory.h"
#include "src/memory/ram.h"

namespace vmm::tcg::riscv {

struct State {
  u64 x[32] = {};
  u64 pc = 0;
  u64 mstatus = 0, mtvec = 0, mscratch = 0, mepc = 0, mcause = 0, mtval = 0, mhartid = 0;
};

enum Cause : u64 { fetch_fault = 1, illegal = 2, breakpoint = 3, load_fault = 5, store_fault = 7, call_from_machine = 11 };

// One hart, its RAM and what it sees of devices.
struct Cpu : GuestCpu {
  explicit Cpu(memory::RamBlock& ram_block, u64 ram_base);
  State state;
  SoftTlb lines;
  memory::RamBlock& ram;
  const u64 base;
  Cause cause = illegal;
  u64 value = 0;
  // Devices: false if nothing is there.
  bool (*device_read)(void* self, u64 address, unsigned size, u64& v) = nullptr;
  bool (*device_write)(void* self, u64 address, unsigned size, u64 v) = nullptr;
  void* self = nullptr;
  // A store hit bytes that were translated: how many blocks are gone?
  unsigned (*code_written)(void* self, u64 page, u64 offset, unsigned size) = nullptr;
  bool (*holds_code)(void* self, u64 page) = nullptr;

  bool raise(Cause c, u64 v) { return cause = c, value = v, fault = true, false; }
  bool in_ram(u64 address, u64 size) const { return address >= base && address - base <= ram.size_bytes() - size; }
};

extern const GuestOps guest_ops;

}  // namespace vmm::tcg::riscv
