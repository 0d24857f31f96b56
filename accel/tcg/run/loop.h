// The loop of one vCPU: leave (requests, interrupts), then blocks by the engine until something asks again. Without threads, machine or
// waiting, so that tests run it on bare memory.
#pragma once

#include <memory>

#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/run/portable.h"
#include "accel/tcg/run/x86_tier.h"

namespace vmm::tcg {

class VcpuLoop {
 public:
  // `drop`: takes write rights to a page that now holds code away from every vCPU (PortableRunner).
  VcpuLoop(BlockStore& store, x86::System& system, PortableRunner::DropWrites drop, void* self);
  // E1 for this vCPU, on its own thread; without it, or where it fails, the interpreter does all.
  Result<> add_tier(FirstTier& tier);
  X86Tier* tier() { return tier_.get(); }

  // Until the vCPU must stop running: halted, shut down, waiting for SIPI, or a request that is not the CPU's own (stop, work, exit).
  void run();
  // As run(); true: it ended where a program goes on (System::program_at).
  bool run_to_program();
  // At most about `blocks` blocks; false when it stopped earlier. For tests.
  bool run_some(u64 blocks);

  u64 blocks() const { return blocks_; }

 private:
  void slice(u64 limit);
  void step();
  bool stop_for_debugger();
  void log_turn();

  x86::System& system_;
  x86::Cpu& cpu_;
  PortableRunner portable_;
  std::unique_ptr<X86Tier> tier_;
  u64 blocks_ = 0;
};

// The seam's table for x86.
extern const GuestOps x86_guest_ops;

}  // namespace vmm::tcg
