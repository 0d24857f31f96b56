// One vCPU of E1: entering, leaving, filling address slots, finding blocks. Source: translator.md §4.2, §5, §8.
#include <sys/auxv.h>
#include <sys/mman.h>

#include <chrono>

#include "accel/tcg/run/fault.h"
#include "accel/tcg/run/first_tier.h"
#include "src/base/bits.h"
#include "src/memory/ram.h"

namespace vmm::tcg {

namespace {
constexpr u64 stack_bytes = 512 * KiB;
// CodePage::hint: vCPU, page number, context.
constexpr unsigned hint_index_shift = 52, hint_page_shift = 4;
constexpr u32 verify_always = 100, verify_every = 61;
constexpr u64 hint_mask = (u64{1} << hint_index_shift) - 1;
}  // namespace

FirstTierCpu::FirstTierCpu(FirstTier& tier, GuestCpu& cpu, const GuestOps& ops, FirstTierGuest& guest, vmm::x86::State& state,
                           unsigned index)
    : tier_(tier),
      cpu_(cpu),
      ops_(ops),
      guest_(guest),
      state_(state),
      index_(index),
      tables_(tier.shape(), tier.address_bits()),
      reader_(tier.store(), &cpu.poll) {}

FirstTierCpu::~FirstTierCpu() {
  cpu_.poll.aim(nullptr);
  if (stack_) munmap(stack_, stack_bytes);
}

Result<> FirstTierCpu::start() {
  constexpr unsigned long host_fsgsbase = 2;  // AT_HWCAP2: the kernel lets programs write gs base
  if (!(getauxval(AT_HWCAP2) & host_fsgsbase) || !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("avx2"))
    return fail("this host has no FSGSBASE, BMI2 or AVX2 for the translator's first tier");
  TRY(tables_.reserve());
  tables_.set_miss_target(tier_.thunks().addresses.miss);
  void* const at = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (at == MAP_FAILED) return fail_errno("cannot map the stack of generated code");
  stack_ = at;
  mprotect(stack_, page_bytes, PROT_NONE);
  const u64 top = reinterpret_cast<u64>(stack_) + stack_bytes - align_up(sizeof(x86::Frame), 64) - 64;
  frame_ = new (reinterpret_cast<void*>(align_down(top, 64))) x86::Frame;
  // Of no page: a guess of 0 would equal the entry of a page that the table does not know, and read the host's memory at that address.
  for (u64& guess : frame_->head.guess) guess = 1;
  cpu_.poll.aim(&frame_->head.poll);
  cpu_.poll.store(1, std::memory_order_seq_cst);  // the loop looks at requests before it runs anything
  frame_->head.jump_mask = jump_hash_mask;
  frame_->head.tag_mask = tagged_entries - 1;
  frame_->state = &state_;
  frame_->engine = this;
  generation_ = tier_.generation();
  frame_->quick.on = !verifier_ && tier_.shape() != TableShape::tagged;
  frame_->quick.ram_at = tier_.ram_at(), frame_->quick.ram_bytes = tier_.ram_bytes();
  frame_->quick.jump_table_bytes = jump_slots * 8;
  frame_->quick.header_bytes = header_bytes;
  frame_->quick.victims_at = victims_at, frame_->quick.victims_bytes = victims_bytes;
  frame_->head.victim_mask = victim_hash_mask;
  return {};
}

FirstTierCpu& FirstTierCpu::of(FrameHead* f) {
  FirstTierCpu& c = *static_cast<FirstTierCpu*>(reinterpret_cast<x86::Frame*>(f)->engine);
  c.follow_leaf();
  return c;
}

// The mode may have changed by quick_leaf.
void FirstTierCpu::follow_leaf() {
  x86::Quick& q = frame_->quick;
  if (!q.changed) [[likely]]
    return;
  q.changed = false;
  key_ = q.now.key, table_ = q.now.table;
  context_ = &tables_[static_cast<Tables::Which>(q.now.which)];
  guest_.mode_changed();
}

// The context and the segment bases of the present mode.
void FirstTierCpu::refresh() {
  if (recheck_) recheck_landings();
  context_ = &tables_[guest_.context()];
  frame_->head.ctx_gs = context_->gs();
  frame_->head.ctx_mask = context_->mask();
  frame_->head.victims = context_->gs() + victims_at + table_ * victims_bytes;
  guest_.segment_bases(frame_->seg_base);
  if (!context_->jump_table_enabled(table_)) context_->enable_jump_table(table_);
  x86::Quick& q = frame_->quick;
  q.now = {.key = key_, .gs = context_->gs(), .mask = context_->mask(), .table = table_, .which = guest_.context()};
  for (unsigned i = 0; i < q.count; i++)
    if (q.known[i].key == key_ && q.known[i].which == q.now.which) return;
  if (q.count < x86::Quick::max_modes) q.known[q.count++] = q.now;
}

// After evictions: landings and blocks in slabs that were emptied, or will be.
void FirstTierCpu::forget_dead() {
  const u64 before = std::exchange(generation_, tier_.generation());
  for (Context* c : tables_.all()) c->clear_jumps_if([&](u64 landing) { return tier_.evicted_since(landing, before); });
  forget_recent();
}

// A flush of everything leaves the kernel where it was as a rule: its landings, thousands of them, stay if a walk (one a page) says so.
void FirstTierCpu::recheck_landings() {
  recheck_ = false;
  struct Seen {
    u64 page = ~u64{0};
    u32 code_page = Context::no_code_page;
    bool global = false;
  };
  constexpr usize seen_count = 256;
  std::array<Seen, seen_count> seen;
  const auto still = [&](u64 page, u32 code_page, bool& global) {
    Seen& s = seen[page % seen_count];
    if (s.page != page) {
      s = {.page = page};
      PageView view;
      if (cpu_.memory->probe(cpu_, page << page_bits, ir::Access::fetch, view))
        s.code_page = static_cast<u32>(view.page), s.global = view.global;
    }
    return global = s.global, s.code_page == code_page;
  };
  for (const Tables::Which kernel : {Tables::KS, Tables::KU}) tables_[kernel].recheck_jumps(still);
}

void FirstTierCpu::forget_recent() {
  if (++recent_epoch_ >> 31) std::fill_n(recent_.get(), recent_count, Recent{}), recent_epoch_ = 1;
}

FirstTierCpu::Left FirstTierCpu::run() {
  if (!tier_.make_room()) return Left::interpret;
  reader_.enter();
  if (generation_ != tier_.generation()) forget_dead();
  not_for_us_ = again_ = false;
  frame_->loaded_gs = 0;  // another vCPU of this thread may have run meanwhile
  if (verifier_) {
    if (FirstTierBlock* const block = may_go_on() ? block_for(state_.rip, false) : nullptr) run_verified(*block);
  } else if (const u64 landing = go_on()) {
    frame_->head.quiet = !guest_.interrupt_waits();
    tier_.thunks().enter(&frame_->head, landing);
    follow_leaf();
    frame_->head.left++;
    tier_.counters().left++;
    not_for_us_ = false;  // something ran: the loop looks first (halt, shadows, traps)
  }
  if (frame_->head.polled) settle_poll();
  reader_.exit();
  if (frame_->head.guess_page) [[unlikely]]
    settle_guesses();
  return not_for_us_ ? Left::interpret : Left::again;
}

// The poll of a loop left. Requests come when they will, timer ticks among them, so that where they find the vCPU again and again
// is where its time goes.
void FirstTierCpu::settle_poll() {
  constexpr u8 hot_polls = 4;
  FirstTierBlock* const block = tier_.block_at(std::exchange(frame_->head.polled, 0));
  if (!block || block->hot || !block->loops || block->dead.load(std::memory_order_acquire)) return;
  if (block->second_page != CodeBlock::no_page || block->polled.fetch_add(1, std::memory_order_relaxed) + 1 < hot_polls) return;
  tier_.promote(*block);
}

// A budget of wrong guesses is spent. Soon after the last one: the page whose load spent it, most likely that with most of them, guesses
// no more. Its code is made anew.
void FirstTierCpu::settle_guesses() {
  constexpr u64 wrong_guess_ns = 80;  // as often as that they cost a tenth of the time
  const u64 page = std::exchange(frame_->head.guess_page, 0) - 1;
  frame_->head.guess_budget = FrameHead::guess_budget_full;
  const u64 now = static_cast<u64>(std::chrono::steady_clock::now().time_since_epoch().count());
  if (now - std::exchange(guesses_settled_, now) > wrong_guess_ns * FrameHead::guess_budget_full) return;
  CodePage* const words = tier_.store().pages().find(page);
  if (!words || words->no_guess.exchange(true, std::memory_order_relaxed)) return;
  tier_.store().invalidate(page, 0, page_bytes);
}

// ---- callbacks of the thunks; the state is complete in all but fill

u64 FirstTierCpu::fill_entry(FrameHead* f, u64 argument, u64 address) { return of(f).fill(argument, address); }
u64 FirstTierCpu::interpret_entry(FrameHead* f, u64 argument, u64, u64 site) { return of(f).interpret(argument, site); }
u64 FirstTierCpu::miss_entry(FrameHead* f, u64, u64 target, u64) {
  FirstTierCpu& c = of(f);
  c.tier_.counters().dispatch_misses++;
  if (c.guest_.refuses(target) && c.take_back()) return 0;
  if (c.verifier_) return c.state_.rip = target, 0;
  return c.resolve(target);
}

// An indirect jump or a return went to no address: #GP is the branch's, with nothing changed, as Zen 3 does it (and the manuals say; some
// processors fault at the target). Only direct branches over the edge of the canonical half fault there, in the interpreter too.
bool FirstTierCpu::take_back() {
  constexpr u64 reach = u64{3} << 30;
  const u64 edge = u64{1} << (state_.cr4 & vmm::x86::cr4_la57 ? long_addresses - 1 : short_addresses - 1);
  const u64 page = frame_->head.ip_page, branch = frame_->head.branch;
  if (!guest_.code64(key_) || page - (edge - reach) < 2 * reach || page - (0 - edge - reach) < 2 * reach) return false;
  if (branch & branch_is_return) state_.gpr[vmm::x86::rsp] -= 8 + (branch >> 16 & 0xffff);
  state_.rip = page + (branch & page_offset_mask);
  guest_.step();
  return true;
}

u64 FirstTierCpu::x87_entry(FrameHead* f, u64, u64 scratch2, u64 site) {
  FirstTierCpu& c = of(f);
  c.state_.x87.mxcsr = 0x1f80;  // fxrstor64 looks at it, the guest never sees it
  c.frame_->x87_live = 1;
  const vmm::x86::X87Image& image = c.state_.x87;
  c.frame_->x87_page = image.fip & ~page_offset_mask;
  c.frame_->x87_offset = image.fip & page_offset_mask;
  c.frame_->x87_opcode = image.fop;
  c.frame_->x87_data = image.fdp;
  c.frame_->resume_scratch2 = scratch2;
  return site;
}

u64 FirstTierCpu::link_entry(FrameHead* f, u64 edge, u64 target, u64 site) {
  FirstTierCpu& c = of(f);
  FirstTierBlock* const from = c.tier_.block_at(site);
  c.state_.rip = target;
  if (c.verifier_ || !c.may_go_on()) return 0;
  FirstTierBlock* const to = c.block_for(target, false);
  if (!to) return 0;
  if (!from || from->dead || from->page != to->page || to->second_page != CodeBlock::no_page || from->second_page != CodeBlock::no_page ||
      from->key != to->key)
    return c.resolve(target);
  c.tier_.link(*from, static_cast<u32>(edge), *to);
  return to->host;
}

u64 FirstTierCpu::fill(u64 argument, u64 address) {
  const unsigned size = argument & x64::fill_size_mask;
  const bool write = argument & x64::fill_write, group = argument & x64::fill_group;
  const AccessKind kind = write ? AccessKind::write : AccessKind::read;
  Context& context = *context_;
  const u64 last = address + size - 1, q = context.slot_of(address, size);
  tier_.counters().fill_misses++;
  if (!context.note_miss(q, kind)) tables_.trim(guest_.context());
  if (!plain_address(address) || last < address || !plain_address(last)) return 0;
  const bool cross = (address ^ last) >> page_bits;
  const auto one = [&](u64 at, u64& addend) {
    PageView view;
    const u64 page = at & ~page_offset_mask;
    if (!cpu_.memory->probe(cpu_, at, write ? ir::Access::write : ir::Access::data, view) || !view.host || (write && !view.writable))
      return false;
    if (!tier_.may_be_ram(reinterpret_cast<u64>(view.host))) return false;
    addend = reinterpret_cast<u64>(view.host) - page;
    if (view.mapped_bytes > page_bytes) context.note_large_page(page, view.mapped_bytes);
    CodePage* const words = write ? tier_.store().pages().get(view.page) : nullptr;
    // Refused as it stands: nothing is to be counted that a translator would then look for in every log.
    if (words && words->granules.load(std::memory_order_relaxed)) return false;
    if (words) {
      words->hint.store(u64{index_} << hint_index_shift | context.page_of(page) << hint_page_shift | tables_.number(guest_.context()),
                        std::memory_order_relaxed);
      words->fills.fetch_add(1, std::memory_order_seq_cst);
      words->writers.fetch_or(u64{1} << index_ % 64, std::memory_order_seq_cst);
    }
    const u64 slot = context.page_of(page) * 2;
    context.fill(slot, kind, addend, view.global);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (words && words->granules.load(std::memory_order_relaxed)) return context.drop_write(context.page_of(page)), false;
    tier_.counters().fills++;
    return true;
  };
  if (group && (cross || write)) return 0;
  u64 first = 0, second = 0;
  if (!cross) return one(address, first) ? first : 0;
  const auto half = [&](u64 at, u64& addend) {
    addend = context.get(context.page_of(at) * 2, kind);
    return (addend && tier_.may_be_ram(at + addend)) || one(at, addend);
  };
  if (!half(address, first) || !half(last, second)) return 0;
  if (second == first) return context.fill(q, kind, first, false), first;
  if (write) return 0;
  // Two pages apart in the host: the bytes are brought together for this one load.
  u8* const bounce = bounce_[bounce_next_++ & 1];
  const u64 before = page_bytes - (address & page_offset_mask);
  memory::ram_copy_out(bounce, reinterpret_cast<const u8*>(address + first), before);
  memory::ram_copy_out(bounce + before, reinterpret_cast<const u8*>(address + before + second), size - before);
  return reinterpret_cast<u64>(bounce) - address;
}

u8* FirstTierCpu::host_of(u64 address, unsigned size, bool write) {
  const u64 slot = context_->slot_of(address, size);
  u64 addend = plain_address(address) ? context_->get(slot, write ? AccessKind::write : AccessKind::read) : 0;
  if (addend && !tier_.may_be_ram(address + addend)) return nullptr;  // that of another address
  if (!addend) addend = fill(x64::fill_argument(size, write), address);
  return addend ? reinterpret_cast<u8*>(address + addend) : nullptr;
}

u64 FirstTierCpu::interpret(u64 argument, u64 site) {
  const x64::InterpretArgument insn{argument};
  const bool wide = guest_.code64(key_);
  const u64 ip = frame_->head.ip_page + insn.offset();
  state_.rip = wide ? ip : static_cast<u32>(ip);
  const u64 next = wide ? ip + insn.length() : static_cast<u32>(ip + insn.length());
  const u64 killed = tier_.counters().killed.load(std::memory_order_relaxed), flags = state_.rflags;
  if (verifier_ || !guest_.quick(insn)) {
    tier_.counters().interpreted++;
    guest_.step();
  }
  // rdtsc and rdtscp changed registers only.
  const bool reads_clock = insn.map() == 1 && (insn.opcode() == 0x31 || (insn.opcode() == 0x01 && insn.modrm() == 0xf9));
  if (reads_clock && !insn.ends() && !verifier_ && state_.rip == next && may_go_on()) return site;
  if (verifier_ && (cpu_.fault || cpu_.leave || state_.rip != next)) return 0;
  if (!verifier_ && !may_go_on()) return 0;
  frame_->head.quiet = !guest_.interrupt_waits();                           // an EOI may have changed it
  if (!(flags & vmm::x86::flag_if) && state_.rflags & vmm::x86::flag_if) {  // unmasked
    if (!frame_->head.quiet) return 0;
    if (!insn.ends() && state_.rip == next) state_.sti_shadow = false;  // the next instruction follows at once
  }
  // The block's own bytes may have changed under it.
  const auto alive = [&] {
    if (tier_.counters().killed.load(std::memory_order_relaxed) == killed) return true;
    const FirstTierBlock* const block = tier_.block_at(site);
    return block && !block->dead;
  };
  if (!insn.ends() && state_.rip == next && ops_.key(cpu_) == key_ && guest_.takes(key_) && alive()) {
    refresh();
    return site;
  }
  return verifier_ ? 0 : go_on();
}

// ---- verify=on: blocks run one at a time, without landings and links, and hold only what both engines do alike

unsigned FirstTierCpu::verifiable() const {
  unsigned n = 0;
  for (const ir::Op& op : scratch_.ops) {
    if (op.code == ir::OpCode::slow) break;
    if (op.code != ir::OpCode::pass) continue;
    const ir::Native& native = scratch_.natives[op.imm];
    if (native.map == 1 && native.opcode == 0xc7 && !native.memory) break;  // rdrand, rdseed
    n++;
    if (native.kind == ir::NativeKind::branch || native.kind == ir::NativeKind::jump) break;  // the oracle's block ends there
  }
  return std::min<unsigned>(n, ir::Block::max_instructions - 1);  // of that many E1's block would follow jumps and repeat loops
}

void FirstTierCpu::run_verified(FirstTierBlock& block) {
  const u64 ip = state_.rip;
  // A hot loop is compared often enough; else a boot would take hours.
  const u32 times = block.entered++;
  const bool due = times < verify_always || times % verify_every == 0;
  const bool predicted = block.oracle && due && verifier_->predict(*block.oracle);
  predicted ? tier_.counters().verified++ : tier_.counters().unverified++;
  frame_->head.ip_page = ip & ~page_offset_mask;
  frame_->resume_scratch2 = ip;
  tier_.thunks().enter(&frame_->head, block.host);
  tier_.counters().left++;
  if (!predicted || frame_->reason == static_cast<u64>(x64::LeaveReason::poll)) return;  // a poll leaves before the block's end
  const std::string text = verifier_->compare();
  if (text.empty()) return;
  Code code;
  const u64 now = state_.rip;
  state_.rip = ip;
  std::string guest;
  if (ops_.fetch(cpu_, false, code)) guest = ops_.print(key_, code.bytes.first(std::min<usize>(block.bytes, code.bytes.size())), ip);
  state_.rip = now;
  fmt::print(stderr, "verify: E1 and the interpreter differ after the block at {:#x}:\n{}guest code:\n{}operations:\n{}host code:\n{}", ip,
             text, guest, ir::print(*block.oracle, ops_.states()),
             print_host_code(block.host, {tier_.cache().writable(block.host), block.host_bytes}));
  std::_Exit(1);
}

// ---- blocks

// At the instruction pointer, in what may be another mode: what the dispatch of generated code would find there, or a look-up. A landing
// checks its address itself.
u64 FirstTierCpu::go_on() {
  if (!may_go_on()) return 0;
  key_ = ops_.key(cpu_);
  if (!guest_.takes(key_) || !jump_table(key_)) return not_for_us_ = true, 0;
  refresh();
  const u64 landing = context_->jump(table_, state_.rip);
  if (!landing) return resolve(state_.rip);
  frame_->resume_scratch2 = state_.rip;
  return landing;
}

bool FirstTierCpu::jump_table(u64 key) {
  for (const auto& [known, table] : known_tables_)
    if (known == key) return table_ = table, true;
  if (!tier_.jump_table(key, table_)) return false;
  known_tables_.push_back({key, table_});
  return true;
}

u64 FirstTierCpu::resolve(u64 target) {
  state_.rip = target;
  if (!may_go_on()) return 0;
  FirstTierBlock* const block = block_for(target, true);
  if (!block) return 0;
  Recent& r = recent(target);
  if (r.block == block && r.address == target) {
    if (r.mappings != mappings_) r.mappings = mappings_, r.global = guest_.global_code(target);
  } else {
    const u64 landing = tier_.landing(*block, target);
    if (!landing) return 0;
    r = Recent{.address = target,
               .landing = landing,
               .block = block,
               .mappings = mappings_,
               .global = guest_.global_code(target),
               .epoch = recent_epoch_};
  }
  const bool one_page = block->second_page == CodeBlock::no_page;
  context_->set_jump(table_, target, r.landing, r.global, one_page ? static_cast<u32>(block->page) : Context::no_code_page);
  frame_->resume_scratch2 = target;
  return r.landing;
}

// The block at the instruction pointer (= target) for the present mode. Null: not for us, a fault, or no room.
FirstTierBlock* FirstTierCpu::block_for(u64 target, bool by_landing) {
  key_ = ops_.key(cpu_);
  if (!guest_.takes(key_) || !jump_table(key_)) return not_for_us_ = true, nullptr;
  refresh();
  if (guest_.stops_at(target)) return not_for_us_ = true, nullptr;
  const u64 key = key_ | guest_.debug_key(target);
  Code code;
  if (!ops_.fetch(cpu_, false, code)) return nullptr;
  if (code.page == Code::no_page) return not_for_us_ = true, nullptr;
  if (const Recent& r = recent(target); r.address == target && r.block && r.block->key == key && r.block->page == code.page &&
                                        r.block->second_page == CodeBlock::no_page && !r.block->dead.load(std::memory_order_acquire))
    return r.block;
  CodeBlock* found = tier_.store().find(code.page, code.offset, key);
  if (!found && code.offset > page_bytes - 16) {  // it may straddle
    Code second;
    // Only a block that is known to straddle may fetch the next page: that fetch may fault.
    if (tier_.store().straddles(code.page, code.offset, key)) {
      if (!ops_.fetch(cpu_, true, second)) return nullptr;
      found = tier_.store().find(code.page, code.offset, key, second.page);
    }
  }
  if (found) {
    auto* const block = dynamic_cast<FirstTierBlock*>(found);
    if (!block) not_for_us_ = true;
    return block;
  }
  const auto begun = std::chrono::steady_clock::now();
  FirstTierBlock* const block = translate(code, key, by_landing ? std::optional{target} : std::nullopt);
  tier_.counters().translate_ns += static_cast<u64>((std::chrono::steady_clock::now() - begun).count());
  if (!block && !again_ && !tier_.full() && !cpu_.fault) not_for_us_ = true;
  return block;
}

// Marks bytes as code; false while another vCPU still waits for write rights to this page to be dropped.
bool FirstTierCpu::take_write_rights(u64 page, u16 offset, usize length, BlockStore::Claim& claim) {
  CodePage* const words = tier_.store().pages().get(page);
  if (!words) return false;
  words->dropping.fetch_add(1, std::memory_order_seq_cst);
  const bool fresh = words->granules.load(std::memory_order_seq_cst) == 0;
  claim = tier_.store().announce(page, offset, static_cast<u16>(length));
  const u64 others = words->writers.load(std::memory_order_seq_cst) & ~(u64{1} << index_ % 64);
  if (fresh && others) {
    // To wait for them is to stand still oneself, so all that is known here may be void: the code is looked for anew.
    guest_.drop_writes_of_all(page);
    words->dropping.fetch_sub(1, std::memory_order_seq_cst);
    return false;
  }
  if (fresh) {
    guest_.drop_writes(page);
    // Who comes now sees the mark and withdraws. Counted on, the next drop would look through every log.
    words->fills.store(0, std::memory_order_seq_cst);
  }
  return words->dropping.fetch_sub(1, std::memory_order_seq_cst) == 1;
}

FirstTierBlock* FirstTierCpu::translate(const Code& code, u64 key, std::optional<u64> landing_at) {
  BlockStore& store = tier_.store();
  if (!store.pages().get(code.page)) return nullptr;
  u8 bytes[1024 + 16];
  bool hot = !verifier_ && tier_.take_promoted(code.page, code.offset, key);
  for (unsigned attempt = 0; attempt < 4; attempt++) {
    usize have = std::min<usize>(code.bytes.size(), 1024);
    memory::ram_copy_out(bytes, code.bytes.data(), have);
    Code second;
    scratch_.clear();
    Translated done = ops_.translate(cpu_, key, {bytes, have}, code.offset, Form::native,
                                     hot ? ir::Block::hot_instructions : ir::Block::max_instructions, scratch_);
    if (done == Translated::more) {
      if (!ops_.fetch(cpu_, true, second)) return nullptr;
      if (second.page == Code::no_page) return nullptr;
      const usize extra = std::min<usize>(second.bytes.size(), 16);
      memory::ram_copy_out(bytes + have, second.bytes.data(), extra);
      scratch_.clear();
      if (ops_.translate(cpu_, key, {bytes, have + extra}, code.offset, Form::native, 1, scratch_) != Translated::ok) return nullptr;
    }
    std::unique_ptr<ir::Block> oracle;
    if (const unsigned n = verifier_ ? verifiable() : 0) {
      oracle = std::make_unique<ir::Block>();
      const std::span<const u8> all{bytes, have + (done == Translated::more ? 16 : 0)};
      for (const Form form : {Form::native, Form::portable}) {
        ir::Block& block = form == Form::native ? scratch_ : *oracle;
        block.clear();
        if (ops_.translate(cpu_, key, all, code.offset, form, n, block) != Translated::ok) return nullptr;
      }
    } else if (verifier_) {
      const std::span<const u8> all{bytes, have + (done == Translated::more ? 16 : 0)};
      scratch_.clear();
      if (ops_.translate(cpu_, key, all, code.offset, Form::native, 1, scratch_) != Translated::ok) return nullptr;
    }
    if (scratch_.instructions.empty() || scratch_.bytes == 0) return nullptr;
    scratch_.key = key;
    // Mark, take write rights away, and look whether the bytes are still those.
    const usize here = std::min<usize>(scratch_.bytes, page_bytes - code.offset);
    BlockStore::Claim claims[2];
    bool settled = take_write_rights(code.page, code.offset, here, claims[0]);
    if (here < scratch_.bytes) settled &= take_write_rights(second.page, 0, scratch_.bytes - here, claims[1]);
    if (!settled) return again_ = true, nullptr;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!memory::ram_equal(code.bytes.data(), bytes, std::min<usize>(here, have))) continue;
    if (here < scratch_.bytes && !memory::ram_equal(second.bytes.data(), bytes + here, scratch_.bytes - here)) continue;
    FirstTierBlock* const made =
        tier_.install(scratch_, code.page, second.page, guest_.code64(key), table_, claims, landing_at, hot ? &state_.gpr : nullptr);
    if (!made && !tier_.full()) {
      hot = false;
      continue;
    }
    if (made) made->oracle = std::move(oracle);
    return made;
  }
  return nullptr;
}

// ---- invalidation

void FirstTierCpu::flush(bool keep_global) {
  tier_.counters().flushes++;
  if (!keep_global) mappings_++;
  tables_.flush(keep_global, !keep_global);
  if (!keep_global) recheck_ = true;
}
void FirstTierCpu::enter_space(u32 name, bool keep) {
  tier_.counters().spaces++;
  tables_.enter_space(name, keep);
  // What quick_leaf knows of user modes is about another context now.
  Context& user = tables_[Tables::U];
  x86::Quick& q = frame_->quick;
  for (unsigned i = 0; i < q.count; i++) {
    if (q.known[i].which != Tables::U) continue;
    q.known[i].gs = user.gs();
    if (!user.jump_table_enabled(q.known[i].table)) user.enable_jump_table(q.known[i].table);
  }
}
void FirstTierCpu::flush_space(u32 name) { tables_.flush_space(name); }
void FirstTierCpu::invalidate_page_of(u32 name, u64 address) { tables_.invalidate_page_of(name, address); }
void FirstTierCpu::invalidate_page(u64 address) {
  if (address >> 63) mappings_++;
  tables_.invalidate_page(address);
}
void FirstTierCpu::flush_writes() { tables_.flush_writes(); }
void FirstTierCpu::drop_everything() {
  forget_recent();
  recheck_ = false;
  tables_.drop_everything();
}

// The caller asks only vCPUs that were writers, and sets `fills` to 0 when all are done.
void FirstTierCpu::drop_writes_of(u64 page, const u8* host_page) {
  const CodePage* const words = tier_.store().pages().find(page);
  if (!words) return;
  const u32 fills = words->fills.load(std::memory_order_seq_cst);
  const u64 hint = words->hint.load(std::memory_order_relaxed);
  if (fills == 0) return;  // an interpreter's line made it a writer
  if (fills == 1) {
    if (hint >> hint_index_shift == index_) tables_.all()[hint & 15]->drop_write((hint & hint_mask) >> hint_page_shift);
    return;
  }
  const u64 host = reinterpret_cast<u64>(host_page);
  for (Context* c : tables_.all()) {
    const u64 mask = c->mask();
    c->drop_writes_if([&](u64 p, u64 addend) { return ((addend + (p << page_bits)) & mask) == (host & mask); });
  }
}

}  // namespace vmm::tcg
