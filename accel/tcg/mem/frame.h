// The head of the frame that generated code works on, common to all guests (translator.md §2). rsp points to it while generated
// code runs; hot fields lie within a signed 8-bit displacement. A frame belongs to one vCPU thread; only `poll` is written by
// others.
#pragma once

#include <atomic>
#include <cstddef>

#include "src/base/types.h"

namespace vmm::tcg {

// What other threads store 0 into so that a vCPU leaves generated code. It is a word of the frame once there is one, so that a poll
// is one load.
class PollWord {
 public:
  u64 load(std::memory_order order) const { return word_.load(std::memory_order_acquire)->load(order); }
  void store(u64 v, std::memory_order order) { word_.load(std::memory_order_acquire)->store(v, order); }
  // Null: the word of its own. Whoever stored into the old word is heard: the new one says "leave".
  void aim(std::atomic<u64>* word) {
    if (!word) word = &own_;
    word->store(0, std::memory_order_seq_cst);
    word_.store(word, std::memory_order_seq_cst);
  }

 private:
  std::atomic<u64> own_{1};
  std::atomic<std::atomic<u64>*> word_{&own_};
};

struct alignas(64) FrameHead {
  std::atomic<u64> poll{1};  // the word behind GuestCpu::poll; 0: leave generated code
  u64 quiet = 1;             // 0: an interrupt is pending but masked; instructions that may unmask leave
  u64 ip_page = 0;           // guest virtual address of the running code page
  u64 jump_mask = 0;         // pext mask of the dispatch
  u64 touched = 0;           // not 0: tables flushed or code dropped since the last entry; helpers do not return into the block
  u64 left = 0;              // how often this vCPU left generated code (limbo of evicted slabs)
  u64 spilled[3] = {};       // guest registers without a host register
  u64 window[6] = {};        // addends of access groups
  u64 saved[12] = {};        // scratch of thunks and of long access forms
  u64 flags_ax = 0;
  u64 ctx_gs = 0;                    // gs base of the current context
  u64 ctx_mask = 0;                  // its page mask
  u64 victims = 0, victim_mask = 0;  // second landings of the running mode's jump table (tables.h), and the pext mask that finds one
  u64 tag_mask = 0;                  // low bits of q that find an entry of a tagged table
  // The last indirect jump or return: its offset in the page, `branch_is_return`, bytes that it popped beside the address << 16.
  u64 branch = 0;
  // Addends that loads whose address comes from memory found last, by a hash of their place: generated code goes on with one while the
  // table's is on its way. A wrong one costs a mispredicted jump and one of `guess_budget`; the load that spends the last leaves its RAM
  // page's number plus 1 in `guess_page`, and stores 0 into `poll`.
  static constexpr u64 guess_slots = 256, guess_budget_full = 1024;
  u64 guess[guess_slots] = {};
  u64 guess_budget = guess_budget_full, guess_page = 0;
  u64 polled = 0;  // where the poll of a loop's block stands that left last; 0: none
};
inline constexpr u32 branch_is_return = 1 << 12;
static_assert(offsetof(FrameHead, window) + sizeof(FrameHead::window) <= 128);

}  // namespace vmm::tcg
