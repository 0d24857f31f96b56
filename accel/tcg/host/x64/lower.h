// From a block of native ops to host code: one pass, no allocation problem, since registers are pinned (translator.md §1, §5).
// Instructions that this tier does not take call the `interpret` thunk, one at a time, from exact state.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "accel/tcg/host/x64/access.h"
#include "accel/tcg/host/x64/interpret_argument.h"
#include "accel/tcg/ir/block.h"
#include "accel/tcg/mem/tables.h"
#include "src/base/types.h"

namespace vmm::tcg::x64 {

// Host addresses of the thunks, all within rel32 reach of generated code.
struct ThunkAddresses {
  u64 fill = 0;       // in: scratch2 = address, scratch = fill_argument; out: scratch = addend or 0
  u64 interpret = 0;  // in: scratch = InterpretArgument; returns here, goes elsewhere, or leaves
  u64 link = 0;       // in: scratch = edge index, scratch2 = target; never returns here
  u64 miss = 0;       // in: scratch2 = target: dispatch by victims, or by lookup
  u64 leave = 0;      // in: scratch2 = target: back to the run loop
  u64 polled = 0;     // the same by a call, for loops: the frame gets to know where from; 0: there is none
  u64 revive = 0;     // in: scratch2 = target: dispatch by lookup only, for entries of dead blocks
  u64 light = 0;      // as interpret, for the few instructions that light_leaf knows
  u64 x87 = 0;        // loads the guest's x87 into the host's; returns here with all but scratch as it was
};
// `group`: the extent of several accesses; asking must not set D nor raise anything.
constexpr u32 fill_argument(unsigned size, bool write, bool group = false) { return size | (write ? 0x1000u : 0) | (group ? 0x2000u : 0); }
constexpr u32 fill_size_mask = 0xfff, fill_write = 0x1000, fill_group = 0x2000;
struct LowerOptions {
  u64 base = 0;  // host address at which the code will run
  ThunkAddresses thunks;
  u32 x87_live = 0;                                // frame offset: 0 = the guest's x87 must be loaded first
  u32 x87_page = 0, x87_data = 0, x87_offset = 0;  // frame offsets of the last x87 instruction's addresses; its opcode follows its offset
  u32 jump_table_offset = 0;                       // from gs
  u32 state_pointer = 0;                           // frame offset of the pointer to the guest's state
  u32 selectors = 0, selector_stride = 0;          // in the state
  // 64-bit code of the highest level: cli, sti, pushf, swapgs are emitted in place. Offsets in the state, and of masks in the frame.
  bool supervisor64 = false;
  u32 flags = 0, gs_base = 0, kernel_gs_base = 0, fault_address = 0;
  u32 arithmetic_mask = 0, pushed_mask = 0, masked_mask = 0, direction_mask = 0, bit_mask32 = 0, bit_mask64 = 0;
  AccessLayout access;
  TableShape shape = TableShape::direct;
  u64 guess_page = 0;     // 0: no addend is guessed; else the RAM page's number plus 1
  bool cautious = false;  // islands at once: for the rare block whose misses do not reach them
  // A block that was seen running again and again: the guest's registers as it is about to be entered, by which groups are made. Null:
  // any other.
  const std::array<u64, 16>* hot = nullptr;
};

// A direct jump inside the page that can be patched to its target's entry.
struct Edge {
  u32 at = 0;      // of its rel32, aligned to four bytes
  u32 stub = 0;    // where it goes while unlinked
  i32 target = 0;  // guest offset in the page
};
// A host instruction that may raise a signal, and the code that interprets its guest instruction instead.
struct FaultSite {
  u32 pc = 0, stub = 0;
};

struct Lowered {
  u32 bytes = 0;
  u32 revive = 0;                   // code offset of the stub that a dead entry jumps to
  u32 passed = 0, interpreted = 0;  // instructions
  bool loops = false;               // again and again, left at one place only
  std::vector<Edge> edges;
  std::vector<FaultSite> faults;
  void clear() { bytes = revive = passed = interpreted = 0, loops = false, edges.clear(), faults.clear(); }
};

constexpr u32 entry_slot = 8;
// False: `space` is too small, or `cautious` is needed. Code begins with the entry slot at offset 0.
bool lower(const ir::Block& block, std::span<u8> space, const LowerOptions& options, Lowered& out);

}  // namespace vmm::tcg::x64
