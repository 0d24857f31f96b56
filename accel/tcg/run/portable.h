// Blocks in portable form, for the interpreter: cached in the block store like those of other engines, and dropped with them.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "accel/tcg/host/interp.h"
#include "accel/tcg/run/lookup.h"

namespace vmm::tcg {

// Runs the interpreter over cached blocks. One for a vCPU, on its thread.
class PortableRunner {
 public:
  // Bit of CodeBlock::key that tells interpreter blocks from those of other engines; another one for single steps.
  static constexpr u64 key_portable = u64{1} << 62, key_single = u64{1} << 63;
  // Every other cache of write rights to a page that now holds code must be dropped: `drop(self, host page)`.
  using DropWrites = void (*)(void* self, u64 page, const u8* host_page);

  PortableRunner(BlockStore& store, GuestCpu& cpu, const GuestOps& ops, DropWrites drop, void* self)
      : store_(store), cpu_(cpu), ops_(ops), drop_(drop), self_(self) {}

  // Interprets one block of at most `limit` instructions from the instruction pointer, with `extra` added to the mode key (step,
  // shadow). False: a fault is pending and nothing ran (fetch). The block may end early with GuestCpu::fault.
  bool run(unsigned limit, u64 extra_key, ir::ExitReason& reason);

 private:
  struct Portable final : CodeBlock {
    ir::Block block;
  };
  const ir::Block* find_or_make(unsigned limit, u64 key);

  BlockStore& store_;
  GuestCpu& cpu_;
  const GuestOps& ops_;
  DropWrites drop_;
  void* self_;
  ir::Block scratch_;  // code that is not kept
};

}  // namespace vmm::tcg
