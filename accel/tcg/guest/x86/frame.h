// The frame of an x86 vCPU: the common head and what x86 adds (translator.md §2). Lives at the top of the vCPU's own host stack for
// generated code.
#pragma once

#include "accel/tcg/mem/frame.h"
#include "src/x86/state.h"

namespace vmm::tcg::x86 {

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
  u64 x87_live = 0;  // 1: the guest's x87 is in the host's registers; 0: in the state, the host's is C++'s
};

}  // namespace vmm::tcg::x86
