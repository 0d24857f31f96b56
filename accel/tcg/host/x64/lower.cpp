// Blocks: entry slot, instructions one after the other (control flow: flow.cpp), islands and cold stubs (translator.md §4.1, §5, §8).
#include "accel/tcg/host/x64/lower.h"

#include <algorithm>

#include "accel/tcg/host/x64/lowering.h"

namespace vmm::tcg::x64 {

using ir::Native;
using ir::NativeKind;
using ir::RegFile;

bool lower(const ir::Block& block, std::span<u8> space, const LowerOptions& options, Lowered& out) {
  const ArenaScope scope;
  ArenaVector<bool> barrier;
  for (;;) {
    Lowering lowering{block, space, options, out, barrier};
    if (lowering.run()) return true;
    if (!lowering.again()) return false;
    out.clear();
  }
}

namespace {

constexpr i32 longest_instruction = 15;

bool flows(NativeKind k) {
  switch (k) {
    case NativeKind::call:
    case NativeKind::call_indirect:
    case NativeKind::ret:
    case NativeKind::jump:
    case NativeKind::jump_indirect:
    case NativeKind::branch:
    case NativeKind::loop_: return true;
    default: return false;
  }
}

constexpr u8 push_flags_opcode = 0x9c;
constexpr unsigned guess_bytes = 32;  // more than a check that does not guess

// An upper bound of an instruction's hot code up to the point where islands may stand again.
unsigned bytes_ahead(const Native& n, bool member) {
  const bool stack = n.kind == NativeKind::push || n.kind == NativeKind::pop || n.kind == NativeKind::leave || n.kind == NativeKind::call ||
                     n.kind == NativeKind::ret;
  const auto is_spilled = [](u8 r) { return r != ir::no_reg && r >= first_spilled; };
  if (!n.memory && !stack) {
    if (!n.pass && n.map == 0 && n.opcode == push_flags_opcode) return 140;
    if (flows(n.kind) || !n.pass) return 72;
    return ((n.implicit_reads | n.implicit_writes) & 2 || is_spilled(n.reg.number) || is_spilled(n.rm.number) || is_spilled(n.vvvv.number)
                ? 40
                : 16);
  }
  if (!n.pass) return 150;  // bit_string
  if (member && !flows(n.kind)) return 44;
  const bool built = n.ip_relative || n.segment != ir::no_reg || n.address_width != 8 || is_spilled(n.base) || is_spilled(n.index) ||
                     (n.base == ir::no_reg && n.index == ir::no_reg);
  const bool moves = n.reg.number >= first_spilled || n.vvvv.number >= first_spilled || n.implicit_reads & 2;
  return 84 + (built ? 30 : n.index != ir::no_reg ? 8 : 0) + (moves ? 20 : 0);
}

}  // namespace

bool Lowering::run() {
  natives_.reserve(block_.natives.size());
  for (const ir::Op& op : block_.ops)
    if (op.code == ir::OpCode::pass || op.code == ir::OpCode::slow) natives_.push_back(&block_.natives[op.imm]);
  const usize count = natives_.size();
  next_.reserve(count), x87_live_after_.reserve(count), held_.reserve(count), spill2_after_.reserve(count);
  sites_.reserve(count), faults_.reserve(2 * count), edges_.reserve(8);
  if (barrier_.empty()) barrier_.assign(natives_.size(), false);
  find_labels();
  result_.loops = is_plain_loop();
  if (code64() && !options_.cautious) {
    plan_ = plan_groups(natives_, barrier_, label_, options_.hot);
  } else {
    plan_.chained.assign(natives_.size(), false);
    plan_.access.resize(natives_.size());
    plan_.region.assign(natives_.size(), GroupPlan::none);
  }
  twin_.assign(natives_.size(), 0);
  out_.nop(entry_slot);  // the patchable entry: one instruction
  for (const Native* const n : natives_) {
    const auto& accesses = plan_.access[current_];
    islands_before(bytes_ahead(*n, accesses[0].group != GroupPlan::none && !accesses[0].leader && accesses[1].group == GroupPlan::none &&
                                       n->kind != NativeKind::push && n->kind != NativeKind::call_indirect) +
                   x87_bytes(*n) + (guesses(current_) ? guess_bytes : 0));
    if (label_[current_]) {
      label_at_[current_] = static_cast<u32>(out_.here());
      x87_live_ = x87_page_known_ = false;
      forget_windows();
    }
    poll_early();
    one(*n);
    next_.push_back(static_cast<u32>(out_.here()));
    x87_live_after_.push_back(x87_live_);
    held_.push_back({cached_, cached2_});
    spill2_after_.push_back(spill2_);
    current_++;
    if (buffer_.overflowed() || again_) return false;
  }
  if (!ended_) go_to(block_.end, -1);
  twins();
  if (again_) return false;
  own_twins();
  if (again_) return false;
  stubs();
  for (const Fixup& f : fixups_) out_.bind32(f.at, label_at_[f.label]);
  result_.bytes = static_cast<u32>(out_.here());
  return !buffer_.overflowed() && !failed_;
}

// One that is left at its end alone: more turns in a block are more exits that the host has to learn. Nor does one that stores gain.
bool Lowering::is_plain_loop() const {
  const auto closes = std::ranges::find_if(natives_, [](const Native* n) { return n->repeats; });
  if (closes == natives_.end()) return false;
  return std::ranges::none_of(natives_, [&](const Native* n) {
    return n->mem_write || (n->kind == NativeKind::branch && n->offset >= (*closes)->target && n->offset < (*closes)->offset);
  });
}

void Lowering::find_labels() {
  label_.assign(natives_.size(), false);
  label_at_.assign(natives_.size(), 0);
  for (usize i = 0; i < natives_.size(); i++) {
    if (natives_[i]->kind != NativeKind::branch || !natives_[i]->pass || natives_[i]->target <= natives_[i]->offset) continue;
    for (usize k = i + 1; k < natives_.size(); k++) {
      if (natives_[k]->offset != natives_[i]->target) continue;
      label_[k] = true;
      break;
    }
  }
}

// Nothing but general registers and flags, so that its code may stand anywhere and cannot leave the block.
bool Lowering::register_only(const Native& n) {
  return n.pass && n.kind == NativeKind::plain && !n.memory && !n.touches_vector && !n.touches_x87;
}

// A loop's poll stands before the comparison that ends its turn.
void Lowering::poll_early() {
  const usize next = current_ + 1u;
  if (next >= natives_.size() || label_[next] || !register_only(*natives_[current_])) return;
  const Native& b = *natives_[next];
  if (!b.pass || b.kind != NativeKind::branch || !b.ends || !in_page(b.target) || b.target > b.offset) return;
  islands_before(bytes_ahead(*natives_[current_], false) + bytes_ahead(b, false) + 16);
  poll(natives_[current_]->offset);
  polled_at_ = static_cast<u16>(next);
}

// One instruction, passed or interpreted.
void Lowering::one(const Native& n) {
  const usize size = buffer_.size(), sites = sites_.size(), waiting = first_waiting_, faults = faults_.size();
  const usize edges = edges_.size(), polls = polls_.size(), fixups = fixups_.size(), backs = backs_.size();
  nth_access_ = 0;
  keeps_scratch_ = keeps_scratch2_ = second_free_ = false;
  spill2_made_ = ir::no_reg;
  const bool moves = register_only(n);
  if (n.pass ? instruction(n) : selector(n) || in_place(n)) {
    if (!keeps_scratch_) cached_ = GroupPlan::none;
    if (!keeps_scratch2_) cached2_ = GroupPlan::none, spill2_ = in_twin_ ? ir::no_reg : spill2_made_;
    if (!in_twin_) result_.passed++;
    movable_ = size, movable_end_ = moves ? out_.here() : ~usize{0};
    ended_ = flows(n.kind) && n.ends;
    return;
  }
  // What was planned on its passing is void.
  if (n.pass && !barrier_[current_] && plan_.region[current_] != GroupPlan::none) {
    barrier_[current_] = again_ = true;
    return;
  }
  // Take back what was tried, islands included.
  buffer_.truncate(size);
  sites_.resize(sites), faults_.resize(faults), edges_.resize(edges), polls_.resize(polls), fixups_.resize(fixups), backs_.resize(backs);
  waiting_polls_.clear();
  first_waiting_ = waiting;
  if (!n.ends && (n.repeats || n.kind == NativeKind::jump)) failed_ = true;  // its next is elsewhere
  interpret(n);
  forget_windows();
  x87_live_ = x87_page_known_ = false;
  result_.interpreted++;
  ended_ = n.ends;
}

// The regions once more, without groups: for extents that lie in two pages, and for what follows an instruction that C++ did.
void Lowering::twins() {
  in_twin_ = true;
  forget_windows();
  for (u16 i = 0; i < natives_.size(); i++) {
    if (plan_.region[i] == GroupPlan::none) continue;
    const bool first = i == 0 || plan_.region[i - 1] != plan_.region[i];
    if (first) polled_at_ = 0xffff, movable_end_ = ~usize{0};
    if (first) x87_live_ = i && !label_[i] && x87_live_after_[i - 1], x87_page_known_ = false;
    current_ = i;
    islands_before(bytes_ahead(*natives_[i], false) + x87_bytes(*natives_[i]));
    twin_[i] = static_cast<u32>(out_.here());
    poll_early();
    one(*natives_[i]);
    if (again_) return;
    if (natives_[i]->repeats) {  // the loop's start is where groups are made
      poll(natives_[i]->target);
      edge_jump(natives_[i]->target);
      poll_islands();
      islands(false);
      continue;
    }
    const bool last = i + 1u == natives_.size() || plan_.region[i + 1] != plan_.region[i];
    if (!last || ended_) continue;
    if (i + 1u == natives_.size()) {
      go_to(block_.end, -1);
    } else {
      resume_after(i);
      islands(false);
    }
  }
  in_twin_ = false;
}

// An unrolled loop walks through memory by long steps, so that extents of many turns lie in two pages now and then; its other groups
// need not suffer for that.
bool Lowering::wants_own_twin(u16 group) const {
  constexpr i64 long_extent = 96;
  constexpr usize room = 6000;
  const GroupPlan::Group& g = plan_.groups[group];
  if (g.high - g.low < long_extent || out_.here() + room > buffer_.capacity()) return false;
  for (usize i = g.first; i < g.last; i++)
    if (natives_[i]->repeats) return true;
  return false;
}

void Lowering::own_twins() {
  own_twin_.assign(plan_.groups.size(), 0);
  in_twin_ = true;
  for (u16 i = 0; i < natives_.size() && !again_; i++)
    for (const GroupPlan::Access& a : plan_.access[i])
      if (a.leader && wants_own_twin(a.group)) own_twin(a.group);
  in_twin_ = false, own_ = GroupPlan::none;
}

void Lowering::own_twin(u16 group) {
  const GroupPlan::Group& g = plan_.groups[group];
  own_ = group;
  own_twin_[group] = static_cast<u32>(out_.here());
  forget_windows();
  polled_at_ = 0xffff, movable_end_ = ~usize{0};
  x87_live_ = g.first && !label_[g.first] && x87_live_after_[g.first - 1u], x87_page_known_ = false;
  for (current_ = g.first; current_ <= g.last; current_++) {
    islands_before(bytes_ahead(*natives_[current_], false) + x87_bytes(*natives_[current_]));
    poll_early();
    one(*natives_[current_]);
    if (again_) return;
  }
  if (ended_) return;
  const auto hold = [&](Reg in, u16 held) {
    if (held != GroupPlan::none && held != group) out_.mov(in, window_slot(plan_.groups[held].window));
  };
  hold(scratch, held_[g.last][0]);
  hold(scratch2, held_[g.last][1]);
  resume_after(g.last);
  islands(false);
}

void Lowering::resume_after(u16 instruction) {
  if (const u8 held = spill2_after_[instruction]; held != ir::no_reg) out_.mov(scratch2, spill_slot(held));
  out_.bind32(out_.jmp(), next_[instruction]);
}

// Encodings of 32-bit code that a host in 64-bit mode reads otherwise.
static Native for_long_mode(const Native& n) {
  Native m = n;
  if (n.map == 0 && n.in_opcode && n.opcode >= 0x40 && n.opcode <= 0x4f) {  // inc, dec
    m.in_opcode = false;
    m.has_modrm = true;
    m.modrm = static_cast<u8>(0xc0 | (n.opcode & 8));
    m.rm = n.reg;
    m.reg = {};
    m.opcode = 0xff;
  }
  if (n.map == 0 && n.opcode == 0x82) m.opcode = 0x80;
  return m;
}

bool Lowering::instruction(const Native& n) {
  switch (n.kind) {
    case NativeKind::nop: return keep_both(), true;
    case NativeKind::plain:
    case NativeKind::divide:
    case NativeKind::exchange:
    case NativeKind::vector: return plain(code64() ? n : for_long_mode(n));
    case NativeKind::load_address: return load_address(n);
    case NativeKind::push: return push(n);
    case NativeKind::pop: return pop(n);
    case NativeKind::leave: return leave(n);
    case NativeKind::call: return call(n);
    case NativeKind::call_indirect: return call_indirect(n);
    case NativeKind::ret: return ret(n);
    case NativeKind::jump:
      if (n.ends)
        go_to(n.target, n.offset);
      else
        keep_both();  // its target follows
      return true;
    case NativeKind::jump_indirect: return jump_indirect(n);
    case NativeKind::branch: return branch(n);
    case NativeKind::loop_: return loop(n);
    case NativeKind::x87: return x87(n);
    case NativeKind::string: return false;
  }
  return false;
}

// The guest's x87 is loaded by the first instruction of a block that needs it (thunks.cpp); only calls to C++ that do not come
// back by `fill` take it away.
bool Lowering::x87(const Native& n) {
  if (!x87_live_) {
    forget_windows();
    out_.mov(scratch, in_frame(options_.x87_live));
    const usize absent = out_.jrcxz();
    const usize present = out_.jmp_short();
    if (!out_.bind8(absent, out_.here())) return false;
    call_address(options_.thunks.x87);
    if (!out_.bind8(present, out_.here())) return false;
  }
  if (!plain(code64() ? n : for_long_mode(n))) return false;
  if (n.records) record_x87(n);
  return x87_live_ = true;
}

unsigned Lowering::x87_bytes(const Native& n) const {
  if (n.kind != NativeKind::x87) return 0;
  const bool fresh = label_[current_];  // nothing is known there
  const unsigned live = x87_live_ && !fresh ? 0 : 16, wide = code64() ? 0 : 24;
  if (!n.records) return live;
  const bool easy = code64() && n.address_width == 8 && n.segment == ir::no_reg && !n.ip_relative && n.base < first_spilled;
  return live + 11 + (x87_page_known_ && !fresh ? 0 : 13 + wide) + (n.memory ? (easy ? 16 : 40) + wide : 0);
}

// Outside 64-bit mode the selector stands above the 32-bit offset.
void Lowering::selector_to(usize slot, unsigned segment) {
  const Mem from{.base = scratch, .disp = static_cast<i32>(options_.selectors + options_.selector_stride * segment)};
  out_.mov(scratch, in_frame(options_.state_pointer));
  out_.instruction({.map = 1, .opcode = 0xb7}, number(scratch), Rm::of(from));  // movzx
  out_.mov32(in_frame(slot + 4), scratch);
}

// FIP, FOP, FDP are architectural and the host's own are of no use: after the instruction, since a fault leaves them as they were.
void Lowering::record_x87(const Native& n) {
  constexpr unsigned code_segment = 1, stack_segment = 2, data_segment = 3;
  keeps_scratch2_ = false, spill2_made_ = ir::no_reg;
  if (!x87_page_known_) {
    out_.mov(scratch2, in_frame(offsetof(FrameHead, ip_page)));
    out_.mov(in_frame(options_.x87_page), scratch2);
    if (!code64()) selector_to(options_.x87_page, code_segment);
    x87_page_known_ = true;
  }
  out_.mov_store_imm32(in_frame(options_.x87_offset), static_cast<i32>((n.offset & 0xfffu) | u32{n.record} << 16));
  if (!n.memory) return;
  access_.effective(address_of(n), scratch2, code64());
  out_.mov(in_frame(options_.x87_data), scratch2);
  keeps_scratch_ = false;
  if (!code64())
    selector_to(options_.x87_data, n.segment != ir::no_reg ? n.segment : n.access & ir::Access::stack ? stack_segment : data_segment);
}

// mov from a segment register: the selector stands in the state.
bool Lowering::selector(const Native& n) {
  const unsigned segment = (n.modrm >> 3) & 7;
  if (n.map != 0 || n.opcode != 0x8c || n.vex || n.memory || n.lock || n.rm.file != RegFile::gpr || n.rm.width < 4 || n.operand_size_16 ||
      segment > 5)
    return false;
  const Mem from{.base = scratch, .disp = static_cast<i32>(options_.selectors + options_.selector_stride * segment)};
  out_.mov(scratch, in_frame(options_.state_pointer));
  const Reg to = spilled(n.rm.number) ? scratch2 : pin(n.rm.number);
  out_.instruction({.map = 1, .opcode = 0xb7}, number(to), Rm::of(from));  // movzx
  if (spilled(n.rm.number)) out_.mov(spill_slot(n.rm.number), scratch2);
  return true;
}

void Lowering::interpret(const Native& n) {
  const bool light = options_.thunks.light && !n.pass && n.map == 1 && !n.vex &&
                     (n.opcode == 0x05 || n.opcode == 0x07 || (n.opcode == 0x01 && (n.modrm == 0xca || n.modrm == 0xcb)));
  interpret_here(n, light ? options_.thunks.light : options_.thunks.interpret);  // syscall, sysret, clac, stac
}

void Lowering::interpret_here(const Native& n, u64 thunk) {
  out_.mov(scratch, InterpretArgument::of(n).raw);
  call_address(thunk);
}

// ---- instructions with a meaning beyond the host's, in place. Bits of a word change by pext and pdep, which leave the flags alone.
// Sources: SDM 2A "BT", "CLD", "CLI", 2B "MOV—Control Registers", "PUSHF", "SERIALIZE", "STI", "SWAPGS", 2C "XTEST".

bool Lowering::in_place(const Native& n) {
  if (!code64() || n.vex || n.repeat || n.map > 1) return false;
  if (n.map == 1 && n.memory) return bit_string(n);
  if (n.lock || n.memory) return false;
  const auto state = [&](u32 offset) { return Mem{.base = scratch, .disp = static_cast<i32>(offset)}; };
  const auto clear = [&](u32 mask, i32 then_add) {
    out_.mov(scratch, in_frame(options_.state_pointer));
    out_.mov(scratch2, state(options_.flags));
    out_.pext(scratch2, scratch2, in_frame(mask));
    out_.pdep(scratch2, scratch2, in_frame(mask));
    if (then_add) out_.lea(scratch2, {.base = scratch2, .disp = then_add});
    out_.mov(state(options_.flags), scratch2);
    return true;
  };
  if (n.map == 0 && n.opcode == 0xfc) return clear(options_.direction_mask, 0);  // cld
  if (n.map == 1 && n.opcode == 0x01 && n.modrm == 0xd6) {                       // xtest, never in a transaction: ZF alone
    out_.mov(scratch, Reg::rax);
    code_.test(scratch, scratch);  // OF
    out_.mov_imm32(Reg::rax, 0x4000);
    code_.sahf();
    out_.mov(Reg::rax, scratch);
    return true;
  }
  if (n.map == 1 && n.opcode == 0x01 && n.modrm == 0xe8) return n.ends;  // serialize: the next instruction is looked up anew
  if (!options_.supervisor64) return false;
  if (n.map == 1 && n.opcode == 0x01 && n.modrm == 0xf8) {  // swapgs
    const Mem running = in_frame(options_.access.seg_base + 8u * 5);
    out_.mov(scratch, in_frame(options_.state_pointer));
    out_.mov(scratch2, state(options_.kernel_gs_base));
    out_.mov(running, scratch2);
    out_.mov(scratch2, state(options_.gs_base));
    out_.mov(state(options_.kernel_gs_base), scratch2);
    out_.mov(scratch2, running);
    out_.mov(state(options_.gs_base), scratch2);
    return true;
  }
  if (n.map == 1 && n.opcode == 0x20 && (n.modrm & 0x38) == 0x10 && n.rm.file == RegFile::gpr) {  // mov from cr2
    const bool rex = (n.bytes[0] & 0xf0) == 0x40;
    if (n.modrm >> 6 != 3 || (rex && n.bytes[0] & 4) || n.bytes[rex] != 0x0f) return false;  // cr10 is none
    const Reg to = spilled(n.rm.number) ? scratch2 : pin(n.rm.number);
    out_.mov(scratch, in_frame(options_.state_pointer));
    out_.mov(to, state(options_.fault_address));
    if (to == scratch2) out_.mov(spill_slot(n.rm.number), scratch2);
    return true;
  }
  if (n.map != 0) return false;
  switch (n.opcode) {
    case 0xfa: return clear(options_.masked_mask, 0);  // cli
    case 0xfb:                                         // sti
      x87_live_ = x87_page_known_ = false;
      return allow_interrupts(n) && clear(options_.masked_mask, 0x200);
    case push_flags_opcode: return push_flags(n);
    default: return false;
  }
}

// A bit number in a register reaches beyond the operand: the word of that bit is what is checked.
bool Lowering::bit_string(const Native& n) {
  if (n.opcode != 0xa3 && n.opcode != 0xab && n.opcode != 0xb3 && n.opcode != 0xbb) return false;
  if ((n.width != 4 && n.width != 8) || n.address_width != 8 || n.reg.file != RegFile::gpr) return false;
  const bool wide = n.width == 8;
  const Reg number_in = spilled(n.reg.number) ? scratch2 : pin(n.reg.number);
  const auto load = [&] {
    if (number_in == scratch2) out_.mov(scratch2, spill_slot(n.reg.number));
  };
  load();
  wide ? out_.mov(scratch2, number_in) : out_.movsxd(scratch2, number_in);
  out_.mov_imm32(scratch, wide ? 6 : 5);
  out_.sarx(scratch2, scratch2, scratch);
  out_.mov(saved_slot(1), scratch2);
  access_.build(address_of(n));
  out_.mov(scratch, saved_slot(1));
  out_.lea(scratch2, {.base = scratch2, .index = scratch, .scale = wide ? u8{3} : u8{2}});
  MissSite site;
  site.instruction = current_;
  const Mem m = access_.check_built(n.width, n.opcode != 0xa3, site);
  sites_.push_back(site);
  out_.lea(scratch, m);
  load();
  out_.pext(scratch2, number_in, in_frame(wide ? options_.bit_mask64 : options_.bit_mask32));
  may_fault();
  code_.instruction({.map = 1, .opcode = n.opcode, .lock = n.lock, .w = wide}, number(scratch2), Rm::of(Mem{.base = scratch}));
  return true;
}

// What sti needs besides: no interrupt waits, and the next instruction, before which none may come, follows at once.
bool Lowering::allow_interrupts(const Native& n) {
  if (current_ + 1u >= natives_.size() || flows(natives_[current_ + 1u]->kind)) return false;
  out_.mov(scratch, in_frame(offsetof(FrameHead, quiet)));
  const usize waits = out_.jrcxz();
  const usize over = out_.jmp_short();
  bool ok = out_.bind8(waits, out_.here());
  interpret_here(n, options_.thunks.interpret);
  ok &= out_.bind8(over, out_.here());  // once more does no harm: it is set
  return ok;
}

bool Lowering::push_flags(const Native& n) {
  if (n.width != 8) return false;
  out_.pushfq();
  out_.pop(scratch2);
  out_.pext(scratch2, scratch2, in_frame(options_.arithmetic_mask));
  out_.pdep(scratch2, scratch2, in_frame(options_.arithmetic_mask));
  out_.mov(scratch, in_frame(options_.state_pointer));
  out_.mov(scratch, Mem{.base = scratch, .disp = static_cast<i32>(options_.flags)});
  out_.pext(scratch, scratch, in_frame(options_.pushed_mask));
  out_.pdep(scratch, scratch, in_frame(options_.pushed_mask));
  out_.lea(scratch2, {.base = scratch2, .index = scratch});
  out_.mov(saved_slot(1), scratch2);
  const Mem to = check(stack_address(-8), 8, true);
  out_.mov(scratch2, saved_slot(1));
  may_fault();
  out_.mov(to, scratch2);
  move_stack(-8);
  return true;
}

// ---- checks and islands

// The copies of an unrolled loop's body reach for different pages, turn by turn.
u32 Lowering::guess_slot(bool grouped) const {
  const u64 copy = grouped && result_.loops ? current_ * 29u : 0;
  return static_cast<u32>(offsetof(FrameHead, guess) +
                          8 * ((natives_[current_]->offset * 5u + options_.guess_page * 53 + copy) % FrameHead::guess_slots));
}

Mem Lowering::check(const Address& a, unsigned size, bool write) {
  GroupPlan::Access planned = plan_.access[current_][std::min(nth_access_, 1u)];
  if (in_twin_ && (own_ == GroupPlan::none || planned.group == own_)) planned = {};
  nth_access_++;
  MissSite site;
  site.instruction = current_;
  access_.guess(guesses(current_) && nth_access_ == 1 ? guess_slot(planned.group != GroupPlan::none) : 0);
  if (planned.group != GroupPlan::none && !planned.leader) return member(a, planned);
  access_.hold(spill2_);
  if (planned.group == GroupPlan::none) {
    forget_windows();
    const Mem m = access_.check(a, size, write, site);
    access_.hold(ir::no_reg);
    sites_.push_back(site);
    return m;
  }
  const GroupPlan::Group& g = plan_.groups[planned.group];
  Address low = a;
  low.disp -= planned.offset;
  if (!in_twin_) site.own_twin = planned.group;
  const Mem m = access_.check_group(low, static_cast<unsigned>(g.high - g.low), g.write, planned.offset, g.by_addend, site);
  access_.hold(ir::no_reg);
  out_.mov(window_slot(g.window), scratch);
  sites_.push_back(site);
  cached_ = planned.group, cached2_ = GroupPlan::none, spill2_ = ir::no_reg;
  second_next_ = true;
  return m;
}

// Loops mostly walk along two things at a time, so two windows stay in registers.
Mem Lowering::member(const Address& a, const GroupPlan::Access& planned) {
  const GroupPlan::Group& g = plan_.groups[planned.group];
  bool second = second_free_ && cached_ != planned.group && (cached2_ == planned.group || second_next_);
  if (second && cached2_ != planned.group)
    out_.mov(scratch2, window_slot(g.window)), spill2_ = ir::no_reg;
  else if (!second && cached_ != planned.group)
    out_.mov(scratch, window_slot(g.window));
  (second ? cached2_ : cached_) = planned.group;
  second_next_ = !second;
  return access_.member(a, planned.offset, g.by_addend, second ? scratch2 : scratch);
}

void Lowering::islands_before(unsigned bytes_ahead) {
  while (first_waiting_ < sites_.size() && sites_[first_waiting_].has_island) first_waiting_++;
  if (first_waiting_ >= sites_.size()) return;
  const usize waiting = sites_.size() - first_waiting_;
  const usize reach = out_.here() + bytes_ahead + 2 + 5 * waiting - sites_[first_waiting_].jrcxz_at;
  if (reach > 120 || options_.cautious) islands(true);
}

void Lowering::islands(bool fallthrough) {
  while (first_waiting_ < sites_.size() && sites_[first_waiting_].has_island) first_waiting_++;
  if (first_waiting_ >= sites_.size()) return;
  if (options_.shape == TableShape::tagged) {
    first_waiting_ = sites_.size();  // its misses have long jumps
    return;
  }
  usize over = 0;
  if (fallthrough) over = out_.jmp_short();
  for (; first_waiting_ < sites_.size(); first_waiting_++) {
    MissSite& site = sites_[first_waiting_];
    if (site.has_island) continue;
    if (!out_.bind8(site.jrcxz_at, out_.here())) failed_ = true;
    site.island = out_.jmp();
    site.has_island = true;
  }
  if (fallthrough && !out_.bind8(over, out_.here())) failed_ = true;
}

// ---- cold code

// Where the table has another addend than was guessed, or none: the latter goes on behind this.
void Lowering::guess_stub(const MissSite& site) {
  out_.not_(scratch);
  out_.lea(scratch, {.base = scratch, .index = scratch2, .disp = 1});
  const usize none = out_.jrcxz();
  out_.mov(in_frame(site.guess), scratch);
  out_.mov(scratch2, scratch);
  const Mem budget = in_frame(offsetof(FrameHead, guess_budget));
  out_.mov(scratch, budget);
  out_.lea(scratch, {.base = scratch, .disp = -1});
  out_.mov(budget, scratch);
  const usize spent = out_.jrcxz();
  const usize again = out_.here();
  out_.mov(scratch, scratch2);
  out_.bind32(out_.jmp(), site.resume);
  bool ok = out_.bind8(spent, out_.here());
  out_.mov_store_imm(in_frame(offsetof(FrameHead, guess_page)), static_cast<i32>(options_.guess_page));
  out_.mov_store_imm(in_frame(offsetof(FrameHead, poll)), 0);
  out_.bind32(out_.jmp(), again);
  ok &= out_.bind8(none, out_.here());
  if (!ok) failed_ = true;
}

void Lowering::stubs() {
  islands(false);
  // Interpreting an instruction from exact state; shared by its misses and its signals.
  ArenaVector<u32> slow(next_.size(), 0);
  const auto slow_stub = [&](u16 instruction) {
    if (!slow[instruction]) {
      slow[instruction] = static_cast<u32>(out_.here());
      interpret(*natives_[instruction]);
      if (!natives_[instruction]->ends) {
        if (x87_live_after_[instruction]) call_address(options_.thunks.x87);  // what follows relies on it
        const bool region_goes_on = plan_.region[instruction] != GroupPlan::none && instruction + 1u < natives_.size() &&
                                    plan_.region[instruction + 1u] == plan_.region[instruction];
        if (region_goes_on)
          out_.bind32(out_.jmp(), twin_[instruction + 1u]);
        else
          resume_after(instruction);
      }
    }
    return slow[instruction];
  };
  for (const MissSite& site : sites_) {
    // Each access of a twin of its own asks for itself, so that nothing is to be found out here.
    const u32 own = site.own_twin == GroupPlan::none ? 0 : own_twin_[site.own_twin];
    if (own && !site.guess) {
      out_.bind32(site.island, own);
      continue;
    }
    out_.bind32(site.island, out_.here());
    if (site.guess) guess_stub(site);
    if (own) {
      out_.bind32(out_.jmp(), own);
      continue;
    }
    access_.recompute(site);
    if (site.group) {  // in two pages whose slot is empty: not worth asking
      access_.in_one_page(site.size - 1);
      const usize one_page = out_.jrcxz();
      const usize away = out_.jmp();
      out_.bind32(away, twin_[site.instruction]);
      if (!out_.bind8(one_page, out_.here())) failed_ = true;
      access_.recompute(site);
    }
    out_.mov_imm32(scratch, fill_argument(site.size, site.write, site.group));
    call_address(options_.thunks.fill);
    const usize nothing = out_.jrcxz();
    const usize resume = out_.jmp();
    out_.bind32(resume, site.resume);
    if (!out_.bind8(nothing, out_.here())) failed_ = true;
    if (site.group) {
      const usize at = out_.jmp();
      out_.bind32(at, twin_[site.instruction]);
    } else if (slow[site.instruction]) {
      const usize at = out_.jmp();
      out_.bind32(at, slow[site.instruction]);
    } else {
      slow_stub(site.instruction);
    }
  }
  for (const Fault& f : faults_) result_.faults.push_back({f.pc, slow_stub(f.instruction)});
  for (const PollSite& p : polls_) {
    out_.bind32(p.at, out_.here());
    ip_to_scratch2(p.target);
    result_.loops&& options_.thunks.polled ? call_address(options_.thunks.polled) : jump_to_address(options_.thunks.leave);
  }
  for (const BackSite& b : backs_) {
    out_.bind32(b.at, out_.here());
    out_.mov(scratch, in_frame(offsetof(FrameHead, poll)));
    const usize leave = out_.jrcxz();
    edge_jump(b.target);
    if (!out_.bind8(leave, out_.here())) failed_ = true;
    ip_to_scratch2(b.target);
    jump_to_address(options_.thunks.leave);
  }
  for (const PendingEdge& e : edges_) {
    const u32 stub = static_cast<u32>(out_.here());
    out_.bind32(e.at, stub);
    ip_to_scratch2(e.target);
    if (e.target > 4096 - longest_instruction) {  // what begins there may go on in the next page, and such blocks are never linked
      dispatch_bare();
      continue;
    }
    out_.mov_imm32(scratch, static_cast<u32>(result_.edges.size()));
    call_address(options_.thunks.link);
    result_.edges.push_back({static_cast<u32>(e.at), stub, e.target});
  }
  result_.revive = static_cast<u32>(out_.here());
  ip_to_scratch2(block_.start);
  jump_to_address(options_.thunks.revive);
}

}  // namespace vmm::tcg::x64
