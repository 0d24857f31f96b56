// Control flow of a block: polls, edges that are linked, branches, calls and returns (translator.md §5, §8).
#include <algorithm>

#include "accel/tcg/host/x64/lowering.h"

namespace vmm::tcg::x64 {

using ir::Native;
using ir::NativeKind;
using ir::RegFile;

void Lowering::ip_to_scratch2(i32 offset) {
  out_.mov(scratch2, in_frame(offsetof(FrameHead, ip_page)));
  const Mem m{.base = scratch2, .disp = offset};
  code64() ? out_.lea(scratch2, m) : out_.lea32(scratch2, m);
}

void Lowering::dispatch_bare() {
  out_.pext(scratch, scratch2, in_frame(offsetof(FrameHead, jump_mask)));
  out_.jmp({.index = scratch, .scale = 3, .disp = static_cast<i32>(options_.jump_table_offset), .gs = true});
}
void Lowering::dispatch() {
  dispatch_bare();
  poll_islands();
  islands(false);
}

// The four bytes that linking replaces lie in one aligned word, so that it is one store.
unsigned Lowering::edge_padding(unsigned opcode_bytes) const {
  const unsigned at = (options_.base + out_.here() + opcode_bytes) & 7;
  return at > 4 ? 8 - at : 0;
}

void Lowering::edge_jump(i32 target) {
  out_.nop(edge_padding(1));
  edges_.push_back({out_.jmp(), target});
}

void Lowering::edge_branch(Condition c, i32 target) {
  // A comparison and its branch are one operation of the host if nothing stands between.
  const unsigned padding = edge_padding(2);
  if (padding && movable_end_ == out_.here() && !label_[current_]) {
    buffer_.move_up(movable_, padding);
    const usize end = out_.here();
    buffer_.truncate(movable_);
    out_.nop(padding);
    buffer_.truncate(end);
    if (in_twin_ && own_ == GroupPlan::none)
      twin_[current_] += padding;
    else if (!in_twin_)
      next_.back() += padding;
  } else {
    out_.nop(padding);
  }
  edges_.push_back({out_.jcc(c), target});
}

void Lowering::poll(i32 resume) {
  out_.mov(scratch, in_frame(offsetof(FrameHead, poll)));
  waiting_polls_.push_back({out_.jrcxz(), resume});
  cached_ = GroupPlan::none;
}

// After an unconditional jump: the way out of what polled before it.
void Lowering::poll_islands() {
  for (const PollSite& p : waiting_polls_) {
    if (!out_.bind8(p.at, out_.here())) failed_ = true;
    polls_.push_back({out_.jmp(), p.target});
  }
  waiting_polls_.clear();
}

void Lowering::go_to(i32 target, i32 from) {
  if (!in_page(target)) {
    ip_to_scratch2(target);
    return dispatch();
  }
  if (target <= from) poll(target);
  edge_jump(target);
  poll_islands();
  islands(false);
}

bool Lowering::branch(const Native& n) {
  if (n.cond > 15) return false;
  const auto condition = static_cast<Condition>(n.cond);
  if (n.repeats) {
    keep_both();
    const i32 exit = n.offset + n.length;
    if (!in_page(exit)) return false;
    return edge_branch(static_cast<Condition>(n.cond ^ 1), exit), true;
  }
  if (!in_page(n.target)) {
    const usize not_taken = out_.jcc_short(static_cast<Condition>(n.cond ^ 1));
    ip_to_scratch2(n.target);
    dispatch_bare();
    if (!out_.bind8(not_taken, out_.here())) return false;
  } else if (n.target <= n.offset && !n.ends) {
    backs_.push_back({out_.jcc(condition), n.target});
  } else if (n.target <= n.offset) {
    if (polled_at_ != current_) poll(n.offset);  // leaves before the branch: the flags stand
    edge_branch(condition, n.target);
  } else if (const usize label = label_of(n.target); label < natives_.size()) {
    fixups_.push_back({out_.jcc(condition), static_cast<u16>(label)});
  } else {
    edge_branch(condition, n.target);
  }
  if (n.ends)
    go_to(n.offset + n.length, -1);
  else
    keep_both();
  return true;
}

// An instruction after the present one, by its offset in the page.
usize Lowering::label_of(i32 target) const {
  for (usize i = current_ + 1u; i < natives_.size(); i++)
    if (natives_[i]->offset == target && label_[i]) return i;
  return natives_.size();
}

// The count register is scratch's job; it lives in its pin. loope and loopne look at ZF besides.
bool Lowering::loop(const Native& n) {
  if (n.address_width == 2) return false;
  const Reg count = pin(guest_count_register);
  const bool wide = n.address_width == 8;
  if (n.opcode == 0xe3) {  // jcxz: taken if zero
    wide ? out_.mov(scratch, count) : out_.mov32(scratch, count);
    const usize zero = out_.jrcxz();
    const usize over = out_.jmp_short();
    if (!out_.bind8(zero, out_.here())) return false;
    go_to(n.target, n.offset);
    if (!out_.bind8(over, out_.here())) return false;
    go_to(n.offset + n.length, -1);
    return true;
  }
  wide ? out_.lea(count, {.base = count, .disp = -1}) : out_.lea32(count, {.base = count, .disp = -1});
  wide ? out_.mov(scratch, count) : out_.mov32(scratch, count);
  const usize zero = out_.jrcxz();
  usize flags = 0;
  if (n.opcode == 0xe0) flags = out_.jcc_short(Condition::e);  // loopne ends on ZF
  if (n.opcode == 0xe1) flags = out_.jcc_short(Condition::ne);
  go_to(n.target, n.offset);
  if (!out_.bind8(zero, out_.here())) return false;
  if (flags && !out_.bind8(flags, out_.here())) return false;
  go_to(n.offset + n.length, -1);
  return true;
}

// The address after the call, onto the stack.
void Lowering::push_return(const Native& n) {
  const unsigned width = stack_width();
  Mem to = check(stack_address(-static_cast<i64>(width)), width, true);
  if (!code64()) {
    out_.lea(scratch, to);
    to = {.base = scratch};
  }
  ip_to_scratch2(n.offset + n.length);
  may_fault();
  width == 8 ? out_.mov(to, scratch2) : out_.mov32(to, scratch2);
  move_stack(-static_cast<i64>(width));
}

bool Lowering::call(const Native& n) {
  if (n.width != stack_width()) return false;
  push_return(n);
  go_to(n.target, n.offset);
  return true;
}

// The target of an indirect jump or call.
bool Lowering::load_target(const Native& n) {
  if (n.width != stack_width() || n.address_width == 2) return false;
  if (n.memory) {
    const Mem from = check(address_of(n), n.width, false);
    may_fault();
    n.width == 8 ? out_.mov(scratch2, from) : out_.mov32(scratch2, from);
    return true;
  }
  if (n.rm.file != RegFile::gpr) return false;
  if (spilled(n.rm.number))
    out_.mov(scratch2, spill_slot(n.rm.number));
  else
    n.width == 8 ? out_.mov(scratch2, pin(n.rm.number)) : out_.mov32(scratch2, pin(n.rm.number));
  return true;
}

// A target that is no address is refused at the branch, not where it leads. The dispatch finds out too late, so it tells where it came
// from.
void Lowering::note_branch(const Native& n) {
  if (!code64()) return;
  const u32 popped = n.kind == NativeKind::ret ? branch_is_return | (n.imm_size ? static_cast<u32>(n.imm & 0xffff) << 16 : 0) : 0;
  out_.mov_store_imm32(in_frame(offsetof(FrameHead, branch)), static_cast<i32>(n.offset | popped));
}
// A call must know before it writes its return address: bits 47 to 63 of the target are equal, or a load from there faults.
bool Lowering::refuse_target() {
  if (!code64()) return true;
  forget_windows();  // or the return address goes where a window of 0 leads: into our own memory
  out_.mov_imm32(scratch, 47);
  out_.sarx(scratch, scratch2, scratch);
  const usize lower = out_.jrcxz();
  out_.not_(scratch);
  const usize upper = out_.jrcxz();
  may_fault();
  out_.mov(scratch, Mem{.base = scratch2});
  return out_.bind8(lower, out_.here()) && out_.bind8(upper, out_.here());
}

bool Lowering::jump_indirect(const Native& n) {
  if (!load_target(n)) return false;
  note_branch(n);
  dispatch();
  return true;
}

bool Lowering::call_indirect(const Native& n) {
  if (!load_target(n) || !refuse_target()) return false;
  out_.mov(saved_slot(2), scratch2);
  islands_before(100);
  push_return(n);
  out_.mov(scratch2, saved_slot(2));
  dispatch();
  return true;
}

bool Lowering::ret(const Native& n) {
  const unsigned width = stack_width();
  if (n.width != width) return false;
  const Mem from = check(stack_address(0), width, false);
  may_fault();
  width == 8 ? out_.mov(scratch2, from) : out_.mov32(scratch2, from);
  move_stack(width + static_cast<i64>(n.imm_size ? n.imm & 0xffff : 0));
  note_branch(n);
  dispatch();
  return true;
}

}  // namespace vmm::tcg::x64
