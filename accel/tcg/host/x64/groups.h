// Access groups (translator.md §4.3): inside a block, accesses off one unchanged base share one check of the whole extent. The plan
// is made before anything is emitted; it follows constants added to registers and copies of them, so that push, pop and
// `sub rsp, n` stay in one group.
#pragma once

#include <array>
#include <span>

#include "accel/tcg/host/x64/access.h"
#include "accel/tcg/host/x64/arena.h"

namespace vmm::tcg::x64 {

struct GroupPlan {
  static constexpr u16 none = 0xffff;
  static constexpr i64 max_extent = 256;       // the longer, the more often it lies in two pages
  static constexpr i64 max_hot_extent = 1792;  // where it is known which pages
  static constexpr unsigned windows = 6;
  struct Access {
    u16 group = none;
    bool leader = false;
    i64 offset = 0;  // from the group's first byte
  };
  struct Group {
    u16 first = 0, last = 0;  // instructions
    u16 members = 0;
    i64 low = 0, high = 0;  // bytes [low, high) relative to the base as it was at the block's start
    bool write = false;
    bool by_addend = false;  // the window holds the addend, else the host address of the first byte
    u8 window = 0;
  };
  ArenaVector<Group> groups;
  ArenaVector<std::array<Access, 2>> access;  // by instruction, in the order in which lowering checks them
  // By instruction: the address comes from memory, or from before the block, so that it is worth guessing the addend.
  ArenaVector<bool> chained;
  ArenaVector<u16> region;  // by instruction: a stretch of overlapping groups, or none
};

// One memory access of an instruction as lowering will make it.
struct PlannedAccess {
  Address address;
  unsigned size = 0;
  bool write = false;
};
// In order; at most two.
unsigned accesses_of(const ir::Native& n, PlannedAccess (&out)[2]);

// `barrier[i]`: no group lives across instruction i. `label[i]`: it is reached by jumps too, so none lives into it. `registers`: the
// guest's where a hot block is about to be entered, or null; a hint where pages will end.
GroupPlan plan_groups(std::span<const ir::Native* const> block, const ArenaVector<bool>& barrier, const ArenaVector<bool>& label,
                      const std::array<u64, 16>* registers);

}  // namespace vmm::tcg::x64
