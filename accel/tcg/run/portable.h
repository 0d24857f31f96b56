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
      : store_(store), cpu_(cpu), ops_(ops), drop_(drop), self_(self), reader_(store, &cpu.poll) {}

  // Interprets one block of at most `limit` instructions from the instruction pointer, with `extra` added to the mode key (step,
  // shadow). False: a fault is pending and nothing ran (fetch). The block may end early with GuestCpu::fault.
  bool run(unsigned limit, u64 extra_key, ir::ExitReason& reason);
  void drop_writes(u64 page) {
    if (drop_) drop_(self_, page, nullptr);
  }

 private:
  struct Portable final : CodeBlock {
    ir::Block block;
  };
  const ir::Block* find_or_make(unsigned limit, u64 key);
  const ir::Block* remember(CodeBlock& block);

  // Blocks lately run that lie in one page: found without the store's lock. Void after a burial.
  struct Recent {
    u64 page = CodeBlock::no_page, key = 0;
    u16 offset = 0;
    Portable* block = nullptr;
  };
  static constexpr unsigned recent_count = 16384;
  static unsigned recent_slot(u64 page, u16 offset, u64 key) {
    return static_cast<unsigned>(((page << 12 | offset) * 0x9e37'79b9'7f4a'7c15 + key * 0xc2b2'ae3d'27d4'eb4f) >> 50);
  }
  std::unique_ptr<Recent[]> recent_ = std::make_unique<Recent[]>(recent_count);
  u64 burials_ = 0;

  BlockStore& store_;
  GuestCpu& cpu_;
  const GuestOps& ops_;
  DropWrites drop_;
  void* self_;
  BlockStore::Reader reader_;
  ir::Block scratch_;  // code that is not kept
};

}  // namespace vmm::tcg
