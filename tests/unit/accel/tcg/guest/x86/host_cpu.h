// The host CPU as a reference: runs one guest instruction's own bytes on a complete register state and tells what became of it.
// x86-64 hosts only. Guest addresses are host addresses here.
#pragma once

#include <optional>
#include <span>

#include "src/base/types.h"

namespace vmm::test {

struct HostState {
  u64 gpr[16];  // rsp is not loaded
  u64 flags;
  u64 host_rsp;
  u32 mxcsr, host_mxcsr;
  alignas(64) u8 x87[512];  // FXSAVE64 image; XMM part unused
  alignas(64) u8 ymm[16][32];
};

class HostCpu {
 public:
  // Null where there is no such host.
  static HostCpu* get();
  // Runs `bytes` on `state`. 0, or the signal (SIGFPE, SIGSEGV, SIGILL) that it ended with; the state is then that of the fault.
  int run(std::span<const u8> bytes, HostState& state);

 private:
  HostCpu() = default;
  bool open();
  u8 *rw_ = nullptr, *rx_ = nullptr;
};

}  // namespace vmm::test
