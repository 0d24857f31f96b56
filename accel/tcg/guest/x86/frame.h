// The frame of an x86 vCPU: the common head and what x86 adds (translator.md §2). Lives at the top of the vCPU's own host stack for
// generated code.
#pragma once

#include "accel/tcg/mem/frame.h"
#include "src/x86/state.h"

namespace vmm::tcg::x86 {

// What quick_leaf.cpp needs to carry out frequent system instructions without leaving general registers.
struct Quick {
  // A mode that this vCPU has run in: its jump table is there.
  struct Mode {
    u64 key = 0;
    u64 gs = 0, mask = 0;
    u32 table = 0;
    u8 which = 0;  // Tables::Which
  };
  static constexpr unsigned max_modes = 12;
  bool on = false;
  bool changed = false;  // the leaf went to `now`; the C++ side does not know yet
  u8 count = 0;
  Mode now;
  Mode known[max_modes];
  u64 jump_table_bytes = 0, header_bytes = 0, victims_at = 0, victims_bytes = 0, ram_at = 0, ram_bytes = 0;
};

struct Frame {
  FrameHead head;
  u64 seg_base[6] = {};  // es cs ss ds fs gs, as the running code adds them
  vmm::x86::State* state = nullptr;
  void* engine = nullptr;  // the engine that runs this frame
  u64 loaded_gs = 0;       // what gs base holds on this thread
  u64 host_stack = 0;      // rsp of the C++ that entered
  u32 host_mxcsr = 0x1f80;
  u64 resume = 0, resume_scratch2 = 0;
  u64 reason = 0;
  Quick quick;
  u64 x87_live = 0;  // 1: the guest's x87 is in the host's registers; 0: in the state, the host's is C++'s
  // The last x87 instruction while it is live: its page (selector in bits 32-47 outside 64-bit mode), its operand, and offset in the
  // page and opcode in one word, so that one store of a constant tells both.
  u64 x87_page = 0, x87_data = 0;
  u16 x87_offset = 0, x87_opcode = 0;
  // pext/pdep masks of system instructions emitted in place: they change bits of a word without touching the host's flags.
  u64 arithmetic_mask = vmm::x86::arithmetic_flags;
  u64 pushed_mask = ~u64{vmm::x86::arithmetic_flags | vmm::x86::flag_rf | vmm::x86::flag_vm};
  u64 masked_mask = ~u64{vmm::x86::flag_if}, direction_mask = ~u64{vmm::x86::flag_df};
  u64 bit_mask32 = 31, bit_mask64 = 63;
  u64 light_rcx = 0, light_r11 = 0, light_flags = 0;  // what a light leaf leaves in them
};

}  // namespace vmm::tcg::x86
