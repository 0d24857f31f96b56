// Blocks: entry slot, instructions one after the other, control flow, islands and cold stubs (translator.md §4.1, §5, §8).
#include "accel/tcg/host/x64/lower.h"

#include "accel/tcg/host/x64/lowering.h"

namespace vmm::tcg::x64 {

using ir::Native;
using ir::NativeKind;
using ir::RegFile;

bool lower(const ir::Block& block, std::span<u8> space, const LowerOptions& options, Lowered& out) {
  return Lowering{block, space, options, out}.run();
}

namespace {

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

// An upper bound of an instruction's hot code up to the point where islands may stand again.
unsigned bytes_ahead(const Native& n) {
  const bool stack = n.kind == NativeKind::push || n.kind == NativeKind::pop || n.kind == NativeKind::leave || n.kind == NativeKind::call ||
                     n.kind == NativeKind::ret;
  const unsigned x87 = n.kind == NativeKind::x87 ? 16 : 0;
  if (!n.memory && !stack) return 40 + x87;
  const auto is_spilled = [](u8 r) { return r != ir::no_reg && r >= first_spilled; };
  const bool built = n.ip_relative || n.segment != ir::no_reg || n.address_width != 8 || is_spilled(n.base) || is_spilled(n.index) ||
                     (n.base == ir::no_reg && n.index == ir::no_reg);
  const bool moves = n.reg.number >= first_spilled || n.vvvv.number >= first_spilled || n.implicit_reads & 2;
  return 60 + x87 + (built ? 30 : n.index != ir::no_reg ? 8 : 0) + (moves ? 20 : 0);
}

}  // namespace

bool Lowering::run() {
  out_.nop(8);  // the patchable entry: one instruction
  bool ended = false;
  for (const ir::Op& op : block_.ops) {
    if (op.code != ir::OpCode::pass && op.code != ir::OpCode::slow) continue;
    const Native& n = block_.natives[op.imm];
    islands_before(bytes_ahead(n));
    const usize size = buffer_.size(), sites = sites_.size(), waiting = first_waiting_, faults = faults_.size();
    if ((op.code == ir::OpCode::pass && n.pass) ? instruction(n) : selector(n)) {
      result_.passed++;
      ended = flows(n.kind);
    } else {  // take back what was tried, islands included
      buffer_.truncate(size);
      sites_.resize(sites), faults_.resize(faults);
      first_waiting_ = waiting;
      interpret(n);
      x87_live_ = false;
      result_.interpreted++;
      ended = n.ends;
    }
    next_.push_back(static_cast<u32>(out_.here()));
    x87_live_after_.push_back(x87_live_);
    current_++;
    if (buffer_.overflowed()) return false;
  }
  if (!ended) go_to(block_.start + block_.bytes, -1);
  stubs();
  result_.bytes = static_cast<u32>(out_.here());
  return !buffer_.overflowed() && !failed_;
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
    case NativeKind::nop: return true;
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
    case NativeKind::jump: return go_to(n.target, n.offset), true;
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
    out_.mov(scratch, in_frame(options_.x87_live));
    const usize absent = out_.jrcxz();
    const usize present = out_.jmp_short();
    if (!out_.bind8(absent, out_.here())) return false;
    call_address(options_.thunks.x87);
    if (!out_.bind8(present, out_.here())) return false;
  }
  if (!plain(code64() ? n : for_long_mode(n))) return false;
  return x87_live_ = true;
}

// mov from a segment register: the selector stands in the state.
bool Lowering::selector(const Native& n) {
  if (n.map != 0 || n.opcode != 0x8c || n.vex || n.memory || n.rm.file != RegFile::gpr || n.reg.file != RegFile::segment ||
      n.rm.width < 4 || n.operand_size_16 || n.reg.number > 5)
    return false;
  const Mem from{.base = scratch, .disp = static_cast<i32>(options_.selectors + options_.selector_stride * n.reg.number)};
  out_.mov(scratch, in_frame(options_.state_pointer));
  const Reg to = spilled(n.rm.number) ? scratch2 : pin(n.rm.number);
  out_.instruction({.map = 1, .opcode = 0xb7}, number(to), Rm::of(from));  // movzx
  if (spilled(n.rm.number)) out_.mov(spill_slot(n.rm.number), scratch2);
  return true;
}

void Lowering::interpret(const Native& n) {
  out_.mov_imm32(scratch, InterpretArgument::of(n).raw);
  call_address(options_.thunks.interpret);
}

// ---- checks and islands

Mem Lowering::check(const Address& a, unsigned size, bool write) {
  MissSite site;
  const Mem m = access_.check(a, size, write, site);
  site.instruction = current_;
  sites_.push_back(site);
  return m;
}

void Lowering::islands_before(unsigned bytes_ahead) {
  if (first_waiting_ >= sites_.size()) return;
  const usize waiting = sites_.size() - first_waiting_;
  const usize reach = out_.here() + bytes_ahead + 2 + 5 * waiting - sites_[first_waiting_].jrcxz_at;
  if (reach > 120 || options_.cautious) islands(true);
}

void Lowering::islands(bool fallthrough) {
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

// ---- control flow

void Lowering::ip_to_scratch2(i32 offset) {
  out_.mov(scratch2, in_frame(offsetof(FrameHead, ip_page)));
  const Mem m{.base = scratch2, .disp = offset};
  code64() ? out_.lea(scratch2, m) : out_.lea32(scratch2, m);
}

void Lowering::dispatch() {
  out_.pext(scratch, scratch2, in_frame(offsetof(FrameHead, jump_mask)));
  out_.jmp({.index = scratch, .scale = 3, .disp = static_cast<i32>(options_.jump_table_offset), .gs = true});
  islands(false);
}

void Lowering::edge_jump(i32 target) {
  out_.nop(-(options_.base + out_.here() + 1) & 3);
  edges_.push_back({out_.jmp(), target});
}

void Lowering::go_to(i32 target, i32 from) {
  if (!in_page(target)) {
    ip_to_scratch2(target);
    return dispatch();
  }
  if (target <= from) {
    out_.mov(scratch, in_frame(offsetof(FrameHead, poll)));
    out_.mov(scratch, Mem{.base = scratch});
    const usize at = out_.jrcxz();
    edge_jump(target);
    if (!out_.bind8(at, out_.here())) failed_ = true;
    polls_.push_back({out_.jmp(), target});
  } else {
    edge_jump(target);
  }
  islands(false);
}

bool Lowering::branch(const Native& n) {
  if (n.cond > 15) return false;
  const usize not_taken = out_.jcc_short(static_cast<Condition>(n.cond ^ 1));
  go_to(n.target, n.offset);
  if (!out_.bind8(not_taken, out_.here())) return false;
  go_to(n.offset + n.length, -1);
  return true;
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

bool Lowering::call(const Native& n) {
  const unsigned width = stack_width();
  if (n.width != width) return false;
  Mem to = check(stack_address(-static_cast<i64>(width)), width, true);
  if (!code64()) {
    out_.lea(scratch, to);
    to = {.base = scratch};
  }
  ip_to_scratch2(n.offset + n.length);
  may_fault();
  width == 8 ? out_.mov(to, scratch2) : out_.mov32(to, scratch2);
  move_stack(-static_cast<i64>(width));
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

bool Lowering::jump_indirect(const Native& n) {
  if (!load_target(n)) return false;
  dispatch();
  return true;
}

bool Lowering::call_indirect(const Native& n) {
  const unsigned width = stack_width();
  if (!load_target(n)) return false;
  out_.mov(saved_slot(2), scratch2);
  islands_before(100);
  Mem to = check(stack_address(-static_cast<i64>(width)), width, true);
  if (!code64()) {
    out_.lea(scratch, to);
    to = {.base = scratch};
  }
  ip_to_scratch2(n.offset + n.length);
  may_fault();
  width == 8 ? out_.mov(to, scratch2) : out_.mov32(to, scratch2);
  move_stack(-static_cast<i64>(width));
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
  dispatch();
  return true;
}

// ---- cold code

void Lowering::stubs() {
  islands(false);
  // Interpreting an instruction from exact state; shared by its misses and its signals.
  std::vector<u32> slow(next_.size(), 0);
  std::vector<const Native*> natives;
  for (const ir::Op& op : block_.ops)
    if (op.code == ir::OpCode::pass || op.code == ir::OpCode::slow) natives.push_back(&block_.natives[op.imm]);
  const auto slow_stub = [&](u16 instruction) {
    if (!slow[instruction]) {
      slow[instruction] = static_cast<u32>(out_.here());
      interpret(*natives[instruction]);
      if (!natives[instruction]->ends) {
        if (x87_live_after_[instruction]) call_address(options_.thunks.x87);  // what follows relies on it
        const usize at = out_.jmp();
        out_.bind32(at, next_[instruction]);
      }
    }
    return slow[instruction];
  };
  for (const MissSite& site : sites_) {
    out_.bind32(site.island, out_.here());
    access_.recompute(site);
    out_.mov_imm32(scratch, fill_argument(site.size, site.write));
    call_address(options_.thunks.fill);
    const usize nothing = out_.jrcxz();
    const usize resume = out_.jmp();
    out_.bind32(resume, site.resume);
    if (!out_.bind8(nothing, out_.here())) failed_ = true;
    if (slow[site.instruction]) {
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
    jump_to_address(options_.thunks.leave);
  }
  for (const PendingEdge& e : edges_) {
    const u32 stub = static_cast<u32>(out_.here());
    out_.bind32(e.at, stub);
    ip_to_scratch2(e.target);
    out_.mov_imm32(scratch, static_cast<u32>(result_.edges.size()));
    call_address(options_.thunks.link);
    result_.edges.push_back({static_cast<u32>(e.at), stub, e.target});
  }
  result_.revive = static_cast<u32>(out_.here());
  ip_to_scratch2(block_.start);
  jump_to_address(options_.thunks.revive);
}

}  // namespace vmm::tcg::x64
