// Source: translator.md §4.3. Values of registers are numbered; a register is {number of a value, constant added to it}.
#include "accel/tcg/host/x64/groups.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace vmm::tcg::x64 {

using ir::Native;
using ir::NativeKind;
using ir::NativeReg;
using ir::RegFile;

namespace {

Address stack(i64 disp) { return {.base = guest_stack_pointer, .disp = disp}; }

struct Value {
  u32 id = 0;
  i64 add = 0;
};

struct Key {
  u32 base = 0, index = 0;  // value ids, 0: none
  u8 scale = 0, segment = ir::no_reg;
  bool ip_relative = false, by_addend = false;
  bool operator==(const Key&) const = default;
};

class Planner {
 public:
  Planner(std::span<const Native* const> block, const ArenaVector<bool>& barrier, const ArenaVector<bool>& label,
          const std::array<u64, 16>* registers)
      : block_(block), barrier_(barrier), label_(label), registers_(registers) {
    for (Value& v : value_) v = {next_id_++, 0};
  }
  GroupPlan run();

 private:
  struct Open {
    Key key;
    u16 group;
    bool branched;  // a branch may leave the block before what comes now
    i64 latest;     // offset of the member before
  };
  void add(u16 instruction, unsigned nth, const PlannedAccess& a);
  std::optional<u64> base_at_entry(const Key& key) const;
  bool page_ends(const Open& open, i64 low, i64 high, i64 offset) const;
  bool too_long(const Open& open, i64 low, i64 high, i64 offset) const;
  void guess_in_loops();
  void effects(const Native& n);
  void write(u8 reg) { value_[reg & 15] = {next_id_++, 0}; }
  void written(const NativeReg& r) {
    if (r.written && (r.file == RegFile::gpr || r.file == RegFile::gpr_high)) write(r.number);
  }
  void settle();
  void find_chains();
  bool feeds_jump(usize load) const;

  std::span<const Native* const> block_;
  const ArenaVector<bool>&barrier_, &label_;
  const std::array<u64, 16>* registers_;  // null too where nothing repeats
  GroupPlan plan_;
  ArenaVector<Open> open_;
  u32 next_id_ = 1;
  Value value_[16];
};

// The value that a key's offsets count from, if it is made of registers that nothing has changed but by constants.
std::optional<u64> Planner::base_at_entry(const Key& key) const {
  if (!registers_ || key.ip_relative || key.segment != ir::no_reg) return std::nullopt;
  u64 sum = 0;
  for (const auto& [id, scale] : {std::pair{key.base, u8{0}}, std::pair{key.index, key.scale}}) {
    if (id > registers_->size()) return std::nullopt;
    if (id) sum += (*registers_)[id - 1] << scale;
  }
  return sum;
}

// A loop over an array mostly begins near where it began before. Going through it by long steps, it would have one extent in two pages
// in each turn of the loop around it; so a group ends where a page will, and what lies within most of a step of that end is a group of its
// own.
bool Planner::page_ends(const Open& open, i64 low, i64 high, i64 offset) const {
  const std::optional<u64> base = base_at_entry(open.key);
  const i64 step = offset > open.latest ? offset - open.latest : open.latest - offset;
  const i64 spare = step >= 16 ? step * 2 / 3 - 1 : 0;
  return base && (*base + static_cast<u64>(low - spare)) >> 12 != (*base + static_cast<u64>(high - 1 + spare)) >> 12;
}

bool Planner::too_long(const Open& open, i64 low, i64 high, i64 offset) const {
  if (page_ends(open, low, high, offset)) return true;
  return high - low > (base_at_entry(open.key) ? GroupPlan::max_hot_extent : GroupPlan::max_extent);
}

void Planner::add(u16 instruction, unsigned nth, const PlannedAccess& a) {
  const Address& at = a.address;
  if (at.width != 8) return;
  Key key{.scale = at.scale, .segment = at.segment, .ip_relative = at.ip_relative};
  i64 offset = at.disp;
  if (!at.ip_relative) {
    if (at.base != ir::no_reg) key.base = value_[at.base].id, offset += value_[at.base].add;
    if (at.index != ir::no_reg)
      key.index = value_[at.index].id, offset += static_cast<i64>(static_cast<u64>(value_[at.index].add) << at.scale);
    else
      key.scale = 0;
  }
  if (offset != static_cast<i32>(offset)) return;
  key.by_addend = at.segment == ir::no_reg && !at.ip_relative && at.base != ir::no_reg && at.index == ir::no_reg && !spilled(at.base) &&
                  AccessEmitter::fits(at.disp - GroupPlan::max_hot_extent) && AccessEmitter::fits(at.disp + GroupPlan::max_hot_extent);
  for (usize i = 0; i < open_.size(); i++) {
    if (!(open_[i].key == key)) continue;
    GroupPlan::Group& g = plan_.groups[open_[i].group];
    const i64 low = std::min(g.low, offset), high = std::max<i64>(g.high, offset + a.size);
    // A store that may not be reached must not ask for the right to write.
    if (too_long(open_[i], low, high, offset) || (a.write && !g.write && open_[i].branched)) {
      open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
    g.low = low, g.high = high, g.write |= a.write, g.last = instruction, g.members++;
    open_[i].latest = offset;
    plan_.access[instruction][nth] = {.group = open_[i].group, .offset = offset};
    return;
  }
  const u16 group = static_cast<u16>(plan_.groups.size());
  plan_.groups.push_back({.first = instruction,
                          .last = instruction,
                          .members = 1,
                          .low = offset,
                          .high = offset + a.size,
                          .write = a.write,
                          .by_addend = key.by_addend});
  plan_.access[instruction][nth] = {.group = group, .leader = true, .offset = offset};
  open_.push_back({key, group, false, offset});
}

void Planner::effects(const Native& n) {
  const auto wide = [](const NativeReg& r) { return r.file == RegFile::gpr && r.width == 8; };
  Value& sp = value_[guest_stack_pointer];
  switch (n.kind) {
    case NativeKind::push: sp.add -= n.width; return;
    case NativeKind::pop: {
      sp.add += n.width;
      const NativeReg& to = n.in_opcode ? n.reg : n.rm;
      if (to.file == RegFile::gpr) write(to.number);
      return;
    }
    case NativeKind::leave:
      sp = {value_[guest_frame_pointer].id, value_[guest_frame_pointer].add + n.width};
      return write(guest_frame_pointer);
    case NativeKind::load_address:
      if (wide(n.reg) && n.base != ir::no_reg && n.index == ir::no_reg && !n.ip_relative && n.address_width == 8) {
        const Value from = value_[n.base];
        value_[n.reg.number] = {from.id, from.add + n.disp};
        return;
      }
      break;
    default: break;
  }
  if (n.map == 0 && !n.vex && !n.memory && n.kind == NativeKind::plain) {
    if ((n.opcode == 0x81 || n.opcode == 0x83) && wide(n.rm)) {
      const u8 which = (n.modrm >> 3) & 7;
      if (which == 0) return void(value_[n.rm.number].add += static_cast<i64>(n.imm));
      if (which == 5) return void(value_[n.rm.number].add -= static_cast<i64>(n.imm));
    }
    if (n.opcode == 0x89 && wide(n.rm) && wide(n.reg)) return void(value_[n.rm.number] = value_[n.reg.number]);
    if (n.opcode == 0x8b && wide(n.rm) && wide(n.reg)) return void(value_[n.reg.number] = value_[n.rm.number]);
  }
  written(n.reg), written(n.rm), written(n.vvvv), written(n.is4);
  for (u8 r = 0; r < 16; r++)
    if (n.implicit_writes >> r & 1) write(r);
}

// Drops groups of one and those without a window; finds the regions.
void Planner::settle() {
  std::array<u16, GroupPlan::windows> free_after{};
  std::array<bool, GroupPlan::windows> used{};
  ArenaVector<bool> kept(plan_.groups.size(), false);
  for (usize i = 0; i < plan_.groups.size(); i++) {  // in order of their first instruction
    GroupPlan::Group& g = plan_.groups[i];
    if (g.members < 2) continue;
    for (u8 w = 0; w < GroupPlan::windows && !kept[i]; w++) {
      if (used[w] && free_after[w] >= g.first) continue;
      used[w] = true, free_after[w] = g.last, g.window = w, kept[i] = true;
    }
  }
  for (auto& both : plan_.access)
    for (GroupPlan::Access& a : both) {
      if (a.group == GroupPlan::none) continue;
      if (kept[a.group])
        a.offset -= plan_.groups[a.group].low;
      else
        a = {};
    }
  u16 region = 0;
  int end = -1;
  for (usize i = 0; i < plan_.groups.size(); i++) {
    if (!kept[i]) continue;
    const GroupPlan::Group& g = plan_.groups[i];
    if (g.first > end) region++;
    for (usize k = g.first; k <= g.last; k++) plan_.region[k] = region;
    end = std::max<int>(end, g.last);
  }
}

// Which addresses come out of memory: a list's next element, a field of what a field points to. Such loads wait for each other, each
// for its check too. Registers that the block counts up itself are known early; those it does not write are, in a loop.
void Planner::find_chains() {
  plan_.chained.assign(block_.size(), false);
  u32 from_memory = 0, own = 0;
  bool loop = false;
  // Where stores come thick, loads wait for them; else a store can wait for its check.
  const auto turns = std::ranges::count_if(block_, [](const Native* n) { return n->repeats; });
  constexpr u32 stack_registers = 1u << guest_stack_pointer | 1u << guest_frame_pointer;
  for (int pass = 0; pass < 2; pass++)
    for (usize i = 0; i < block_.size(); i++) {
      const Native& n = *block_[i];
      u32 reads = n.implicit_reads, writes = n.implicit_writes;
      for (const NativeReg* r : {&n.reg, &n.rm, &n.vvvv, &n.is4}) {
        if (r->file != RegFile::gpr && r->file != RegFile::gpr_high) continue;
        if (r->read) reads |= 1u << (r->number & 15);
        if (r->written) writes |= 1u << (r->number & 15);
      }
      loop |= n.repeats || (n.ends && n.kind == NativeKind::branch && n.target == block_[0]->offset);
      u32 of = 0;
      if (n.memory && !n.ip_relative) {
        if (n.base != ir::no_reg) of |= 1u << (n.base & 15);
        if (n.index != ir::no_reg) of |= 1u << (n.index & 15);
      }
      if (pass == 1 && n.memory && n.pass && n.segment == ir::no_reg && (!n.mem_write || turns >= 4))
        plan_.chained[i] = (of & from_memory & ~stack_registers) || (of && !(of & (own | stack_registers))) || (of && feeds_jump(i));
      const bool load = n.memory && n.mem_read && !n.mem_write && n.kind == NativeKind::plain;
      if (n.kind == NativeKind::load_address) reads |= of;
      if (n.kind == NativeKind::pop || (load && n.map == 0 && n.opcode == 0x8b) || reads & from_memory)
        from_memory |= writes & ~stack_registers;
      else
        from_memory &= ~writes;
      if (pass == 0 || !loop) own |= writes;
      if (pass == 0 && i + 1 == block_.size() && !loop) from_memory = own = 0;
    }
}

// A table of targets: what is loaded says where to go on, at once or after an addition.
bool Planner::feeds_jump(usize load) const {
  const NativeReg& to = block_[load]->reg;
  if (block_[load]->kind == NativeKind::jump_indirect) return true;
  if (to.file != RegFile::gpr || !to.written) return false;
  for (usize i = load + 1; i < block_.size() && i <= load + 3; i++) {
    const Native& n = *block_[i];
    if (n.kind == NativeKind::jump_indirect) return !n.memory && n.rm.number == to.number;
    if (n.memory || n.kind != NativeKind::plain) return false;
  }
  return false;
}

// What a loop reads waits for its check turn by turn; the more of them wait, the sooner the host has no room for more. A loop that
// stores too may take twice as long with loads that run ahead of its stores (matmul.c does).
void Planner::guess_in_loops() {
  bool loop = false, stores = false;
  for (const Native* n : block_) loop |= n->repeats, stores |= n->mem_write;
  if (!loop || stores) return;
  for (usize i = 0; i < block_.size(); i++) {
    const Native& n = *block_[i];
    const GroupPlan::Access& a = plan_.access[i][0];
    if (!n.memory || !n.pass || n.mem_write || n.segment != ir::no_reg || n.ip_relative) continue;
    const GroupPlan::Group* const g = a.group == GroupPlan::none ? nullptr : &plan_.groups[a.group];
    if (g ? a.leader && !g->write && (registers_ || g->high - g->low >= 16) : registers_ != nullptr) plan_.chained[i] = true;
  }
}

GroupPlan Planner::run() {
  find_chains();
  if (std::ranges::none_of(block_, [](const Native* n) { return n->repeats; })) registers_ = nullptr;
  plan_.access.resize(block_.size());
  plan_.region.assign(block_.size(), GroupPlan::none);
  for (u16 i = 0; i < block_.size(); i++) {
    const Native& n = *block_[i];
    if (label_[i]) {
      open_.clear();
      for (u8 r = 0; r < 16; r++) write(r);
    }
    if (barrier_[i] || !n.pass) {
      open_.clear();
      for (u8 r = 0; r < 16; r++) write(r);
      continue;
    }
    // A jump's own accesses come before it; a pushed register is read before rsp moves.
    PlannedAccess all[2];
    const unsigned count = accesses_of(n, all);
    for (unsigned k = 0; k < count; k++) add(i, k, all[k]);
    effects(n);
    if (n.kind == NativeKind::branch)
      for (Open& o : open_) o.branched = true;
  }
  settle();
  guess_in_loops();
  return std::move(plan_);
}

}  // namespace

unsigned accesses_of(const Native& n, PlannedAccess (&out)[2]) {
  unsigned count = 0;
  const i64 width = n.width;
  const auto own = [&](unsigned size, bool write) {
    if (n.memory) out[count++] = {address_of(n), size, write};
  };
  switch (n.kind) {
    case NativeKind::plain:
    case NativeKind::divide:
    case NativeKind::exchange:
    case NativeKind::vector:
    case NativeKind::x87:
      if (n.mem_width >= 1 && n.mem_width <= 64) own(n.mem_width, n.mem_write);
      break;
    case NativeKind::push:
      own(n.width, false);
      out[count++] = {stack(-width), n.width, true};
      break;
    case NativeKind::call_indirect:
      own(n.width, false);
      out[count++] = {stack(-width), n.width, true};
      break;
    case NativeKind::call: out[count++] = {stack(-width), n.width, true}; break;
    case NativeKind::jump_indirect: own(n.width, false); break;
    case NativeKind::ret: out[count++] = {stack(0), n.width, false}; break;
    case NativeKind::pop:
      if (!n.memory) out[count++] = {stack(0), n.width, false};
      break;
    case NativeKind::leave: out[count++] = {{.base = guest_frame_pointer}, n.width, false}; break;
    case NativeKind::load_address:
    case NativeKind::nop:
    case NativeKind::jump:
    case NativeKind::branch:
    case NativeKind::loop_:
    case NativeKind::string: break;
  }
  return count;
}

GroupPlan plan_groups(std::span<const Native* const> block, const ArenaVector<bool>& barrier, const ArenaVector<bool>& label,
                      const std::array<u64, 16>* registers) {
  return Planner{block, barrier, label, registers}.run();
}

}  // namespace vmm::tcg::x64
