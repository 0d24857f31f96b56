// The shared half of E1: installing blocks, landings, edges. Source: translator.md §5, §7.
#include "accel/tcg/run/first_tier.h"

#include <sys/mman.h>

#include <algorithm>

#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/run/fault.h"
#include "accel/tcg/run/quick_leaf.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::tcg {

namespace {

constexpr u64 block_space = 48 * KiB, block_notes = 64 * KiB;  // of one block's code and records, generously
constexpr u64 least_block_bytes = 16, landing_space = 128, entry_alignment = 16;
constexpr unsigned reserve_slabs = 2, most_landings = 256;

x64::Layout layout() {
  using Frame = x86::Frame;
  using State = vmm::x86::State;
  return {.state_pointer = offsetof(Frame, state),
          .loaded_gs = offsetof(Frame, loaded_gs),
          .host_stack = offsetof(Frame, host_stack),
          .host_mxcsr = offsetof(Frame, host_mxcsr),
          .resume = offsetof(Frame, resume),
          .resume_scratch2 = offsetof(Frame, resume_scratch2),
          .reason = offsetof(Frame, reason),
          .x87_live = offsetof(Frame, x87_live),
          .x87_page = offsetof(Frame, x87_page),
          .x87_data = offsetof(Frame, x87_data),
          .x87_offset = offsetof(Frame, x87_offset),
          .x87_opcode = offsetof(Frame, x87_opcode),
          .light_rcx = offsetof(Frame, light_rcx),
          .light_r11 = offsetof(Frame, light_r11),
          .light_flags = offsetof(Frame, light_flags),
          .gpr = offsetof(State, gpr),
          .flags = offsetof(State, rflags),
          .ip = offsetof(State, rip),
          .vectors = offsetof(State, vector),
          .mxcsr = offsetof(State, mxcsr),
          .x87 = offsetof(State, x87)};
}

}  // namespace

Result<std::unique_ptr<FirstTier>> FirstTier::make(BlockStore& store, u64 cache_bytes, TableShape shape, unsigned address_bits) {
  ASSERT(address_bits == short_addresses || shape == TableShape::tagged);
  std::unique_ptr<FirstTier> t(new FirstTier(store, shape, address_bits));
  t->cache_ = TRY(CodeCache::make(cache_bytes));
  const x64::Callbacks callbacks{.fill = FirstTierCpu::fill_entry,
                                 .interpret = FirstTierCpu::interpret_entry,
                                 .quick = quick_leaf,
                                 .light = light_leaf,
                                 .link = FirstTierCpu::link_entry,
                                 .miss = FirstTierCpu::miss_entry,
                                 .x87 = FirstTierCpu::x87_entry};
  usize used = 0;
  if (!x64::emit_thunks(t->cache_->space(0), t->cache_->base(), layout(), callbacks, t->thunks_, used))
    return fail("the code cache is too small");
  t->cache_->take(used);
  t->cache_->keep();
  t->index_stride_ = static_cast<u32>(t->cache_->size() / t->cache_->slabs() / least_block_bytes);
  void* const index = mmap(nullptr, t->index_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (index == MAP_FAILED) return fail_errno("cannot map the index of the code cache");
  t->index_ = static_cast<std::atomic<FirstTierBlock*>*>(index);
  t->slabs_ = std::make_unique<Slab[]>(t->cache_->slabs());
  store.on_death(&FirstTier::died, t.get());
  register_code(*t);
  return t;
}

TableShape FirstTier::default_shape() {
#if __has_feature(thread_sanitizer)
  return TableShape::tagged;  // that tool leaves no room
#else
  return direct_shape();
#endif
}

TableShape FirstTier::direct_shape() {
#if !__has_feature(address_sanitizer)  // its shadow lies everywhere
  if (Context::room_for(TableShape::direct)) return TableShape::direct;
#endif
  return Context::room_for(TableShape::wide) ? TableShape::wide : TableShape::tagged;
}

FirstTier::~FirstTier() {
  unregister_code(*this);
  store_.on_death(nullptr, nullptr);
  store_.invalidate_all();
  if (!index_) return;
  for (unsigned i = 0; i < cache_->slabs(); i++) destroy_blocks(i);
  munmap(index_, index_bytes());
}

bool FirstTier::jump_table(u64 key, u32& table) {
  const Lock lock(mutex_);
  for (u32 i = 0; i < keys_.size(); i++)
    if (keys_[i] == key) return table = i, true;
  if (keys_.size() == jump_tables) return false;
  keys_.push_back(key);
  table = static_cast<u32>(keys_.size() - 1);
  return true;
}

// Room in the current slab, or in the next free one.
bool FirstTier::room(u64 code, u64 notes) {
  if (!cache_->space(code).empty() && cache_->room_for_notes(notes)) return true;
  if (!cache_->next()) return full_ = true, false;
  if (cache_->free_slabs() < reserve_slabs || cache_->bytes_in_use() > cache_->size()) tight_ = true;
  return true;
}

FirstTierBlock* FirstTier::install(const ir::Block& block, u64 page, u64 second_page, bool code64, u32 jump_table,
                                   const BlockStore::Claim (&claims)[2], std::optional<u64> address, const std::array<u64, 16>* hot) {
  FirstTierBlock* b = nullptr;
  {
    const Lock lock(mutex_);
    if (!room(block_space, block_notes)) return nullptr;
    // The landing stands right before the block, which it falls into.
    u8 measure[landing_space];
    const u64 start_at = cache_->cursor(), landing_bytes = address ? landing_code(measure, start_at, *address) : 0;
    const u64 lead = align_up(landing_bytes, entry_alignment);
    const std::span<u8> space = cache_->space(block_space).subspan(lead);
    x64::LowerOptions options{
        .base = start_at + lead,
        .thunks = thunks_.addresses,
        .x87_live = offsetof(x86::Frame, x87_live),
        .x87_page = offsetof(x86::Frame, x87_page),
        .x87_data = offsetof(x86::Frame, x87_data),
        .x87_offset = offsetof(x86::Frame, x87_offset),
        .jump_table_offset = jump_table * jump_slots * 8,

        .state_pointer = offsetof(x86::Frame, state),
        .selectors = offsetof(vmm::x86::State, segment) + offsetof(vmm::x86::Segment, selector),
        .selector_stride = sizeof(vmm::x86::Segment),
        .supervisor64 = code64 && x86::ModeKey{block.key}.has(x86::ModeKey::cpl0),
        .flags = offsetof(vmm::x86::State, rflags),
        .gs_base = offsetof(vmm::x86::State, segment) + vmm::x86::gs * sizeof(vmm::x86::Segment) + offsetof(vmm::x86::Segment, base),
        .kernel_gs_base = offsetof(vmm::x86::State, kernel_gs_base),
        .fault_address = offsetof(vmm::x86::State, cr2),
        .arithmetic_mask = offsetof(x86::Frame, arithmetic_mask),
        .pushed_mask = offsetof(x86::Frame, pushed_mask),
        .masked_mask = offsetof(x86::Frame, masked_mask),
        .direction_mask = offsetof(x86::Frame, direction_mask),
        .bit_mask32 = offsetof(x86::Frame, bit_mask32),
        .bit_mask64 = offsetof(x86::Frame, bit_mask64),
        .access = {.seg_base = offsetof(x86::Frame, seg_base), .code64 = code64},
        .shape = shape_,
        .hot = hot};
    const CodePage* const words = store_.pages().find(page);
    if (shape_ == TableShape::direct && words && !words->no_guess.load(std::memory_order_relaxed)) options.guess_page = page + 1;
    x64::Lowered& lowered = lowered_;
    lowered.clear();
    if (!x64::lower(block, space.first(block_space - landing_space), options, lowered)) {
      lowered.clear();
      options.cautious = true;
      if (!x64::lower(block, space.first(block_space - landing_space), options, lowered)) return nullptr;
    }
    b = new (cache_->note(sizeof(FirstTierBlock), alignof(FirstTierBlock))) FirstTierBlock;
    b->page = page;
    b->second_page = block.straddles ? second_page : CodeBlock::no_page;
    b->offset = block.start;
    b->bytes = block.bytes;
    b->key = block.key;
    b->host = options.base;
    b->host_bytes = lowered.bytes;
    b->revive = static_cast<u16>(lowered.revive);
    b->loops = lowered.loops, b->hot = hot;
    const auto notes = [&]<class T>(T*& first, u16& count, usize n) {
      if (!n) return true;
      first = static_cast<T*>(cache_->note(n * sizeof(T), alignof(T)));
      count = static_cast<u16>(n);
      return first != nullptr;
    };
    if (!notes(b->out, b->out_count, lowered.edges.size()) || !notes(b->faults, b->fault_count, lowered.faults.size())) {
      b->~FirstTierBlock();  // cannot be: block_notes is generous
      return nullptr;
    }
    const u32 start = static_cast<u32>(options.base - cache_->base());
    for (usize i = 0; i < lowered.edges.size(); i++) b->out[i] = {.at = start + lowered.edges[i].at, .stub = start + lowered.edges[i].stub};
    for (usize i = 0; i < lowered.faults.size(); i++)
      b->faults[i] = {.pc = static_cast<u16>(lowered.faults[i].pc), .stub = static_cast<u16>(lowered.faults[i].stub)};
    if (address) {
      const u64 at = options.base - landing_bytes;
      landing_code({space.data() - landing_bytes, landing_bytes}, at, *address);
      note_landing(*b, *address, at, 0);
    }
    cache_->take(lead + lowered.bytes);
    Slab& slab = slabs_[cache_->current()];
    const u32 n = slab.count.load(std::memory_order_relaxed);
    index_[u64{cache_->current()} * index_stride_ + n].store(b, std::memory_order_relaxed);
    slab.count.store(n + 1, std::memory_order_release);
    if (log_enabled(LogItem::out_asm)) [[unlikely]] {
      log_write(
          format("OUT: [size={}]\n{}\n", lowered.bytes, x86::print_insns(x86::ModeKey::code64, space.first(lowered.bytes), options.base)));
    }
    counters_.blocks++;
    if (hot) counters_.hot_blocks++;
    counters_.guest_bytes += block.bytes;
    counters_.host_bytes += lowered.bytes;
    counters_.passed += lowered.passed;
    counters_.not_passed += lowered.interpreted;
  }
  return store_.insert(*b, claims) ? b : nullptr;
}

void FirstTier::promote(FirstTierBlock& block) {
  const u64 name = promoted_name(block.page, block.offset, block.key);
  promoted_[name >> 1 & (promoted_slots - 1)].store(name, std::memory_order_relaxed);
  store_.invalidate_block(block);
}

bool FirstTier::take_promoted(u64 page, u16 offset, u64 key) {
  u64 name = promoted_name(page, offset, key);
  return all_promoted_ || promoted_[name >> 1 & (promoted_slots - 1)].compare_exchange_strong(name, 0, std::memory_order_relaxed);
}

// The block's TABLE-independent part: a landing serves every vCPU.
u64 FirstTier::landing(FirstTierBlock& block, u64 address) {
  u64 host = 0;
  bool crowded = false;
  {
    const Lock lock(mutex_);
    if (block.dead) return 0;  // what stays must not point to what goes
    for (const FirstTierBlock::Landing* l = block.landings; l; l = l->next)
      if (l->address == address) return cache_->base() + l->host;
    crowded = block.landing_count >= most_landings;
    if (!crowded && !room(landing_space, sizeof(FirstTierBlock::Landing))) return 0;
    if (!crowded) host = emit_landing(block, address);
  }
  // A new block begins with none.
  if (crowded) store_.invalidate_block(block);
  return host;
}

// Poll, exact tag check, page address; what follows is the block, or a jump there. Returns its length.
usize FirstTier::landing_code(std::span<u8> space, u64 base, u64 address) {
  x64::Buffer buffer{space};
  x64::FlagFree a{buffer};
  const auto jump = [&](usize at, u64 target) { buffer.patch32(at, static_cast<u32>(target - (base + at + 4))); };
  const auto short_form = [](u64 v) { return v == static_cast<u64>(static_cast<i64>(static_cast<i32>(v))); };
  const u64 page = address & ~page_offset_mask;
  a.mov(x64::scratch, x64::in_frame(offsetof(FrameHead, poll)));
  const usize poll = a.jrcxz();
  if (short_form(-address)) {
    a.lea(x64::scratch, {.base = x64::scratch2, .disp = static_cast<i32>(-address)});
  } else {
    a.mov(x64::scratch, -address);
    a.lea(x64::scratch, {.base = x64::scratch, .index = x64::scratch2});
  }
  const usize hit = a.jrcxz();
  jump(a.jmp(), thunks_.addresses.miss);
  const bool poll_ok = a.bind8(poll, a.here());
  jump(a.jmp(), thunks_.addresses.leave);
  const bool hit_ok = a.bind8(hit, a.here());
  if (short_form(page)) {
    a.mov_store_imm(x64::in_frame(offsetof(FrameHead, ip_page)), static_cast<i32>(page));
  } else {
    a.mov(x64::scratch, page);
    a.mov(x64::in_frame(offsetof(FrameHead, ip_page)), x64::scratch);
  }
  ASSERT(poll_ok && hit_ok && !buffer.overflowed());
  return a.here();
}

void FirstTier::note_landing(FirstTierBlock& block, u64 address, u64 host, u64 jump_at) {
  auto* const note = static_cast<FirstTierBlock::Landing*>(cache_->note(sizeof(FirstTierBlock::Landing), alignof(FirstTierBlock::Landing)));
  *note = {.address = address,
           .host = static_cast<u32>(host - cache_->base()),
           .at = jump_at ? static_cast<u32>(jump_at - cache_->base()) : 0,
           .next = block.landings};
  block.landings = note;
  block.landing_count++;
  counters_.landings++;
}

u64 FirstTier::emit_landing(FirstTierBlock& block, u64 address) {
  const u64 base = cache_->cursor();
  const std::span<u8> space = cache_->space(landing_space).first(landing_space);
  x64::Buffer buffer{space};
  x64::FlagFree a{buffer};
  for (usize n = landing_code(space, base, address); n; n--) buffer.byte(space[buffer.size()]);  // it stands there already
  while ((base + a.here() + 1) % 4) buffer.byte(0x90);
  const usize last = a.jmp();
  buffer.patch32(last, static_cast<u32>(block.host - (base + last + 4)));
  ASSERT(!buffer.overflowed());
  cache_->take(a.here());
  note_landing(block, address, base, base + last);
  return base;
}

void FirstTier::aim(u64 at, u64 target) {
  const unsigned shift = (at & 7) * 8;
  ASSERT(shift <= 32);
  auto* const word = reinterpret_cast<std::atomic<u64>*>(cache_->writable(cache_->base() + (at & ~u64{7})));
  const u64 others = word->load(std::memory_order_relaxed) & ~(u64{0xffff'ffff} << shift);
  word->store(others | u64{static_cast<u32>(target - (at + 4))} << shift, std::memory_order_release);
}

void FirstTier::link(FirstTierBlock& from, u32 edge, FirstTierBlock& to) {
  const Lock lock(mutex_);
  if (edge >= from.out_count || from.dead || to.dead || from.out[edge].to) return;
  FirstTierBlock::Out& out = from.out[edge];
  out.to = &to;
  out.next = to.in;
  to.in = &out;
  aim(out.at, to.host + x64::entry_slot - cache_->base());  // unlinked when it dies: the slot is for landings
  counters_.links++;
}

void FirstTier::unlink(FirstTierBlock& block) {
  for (const FirstTierBlock::Landing* l = block.landings; l; l = l->next)
    if (l->at) aim(l->at, thunks_.addresses.revive - cache_->base());  // else it falls into the dead entry
  while (FirstTierBlock::Out* const out = block.in) {
    block.in = out->next;
    out->to = nullptr;
    aim(out->at, out->stub);
  }
  for (FirstTierBlock::Out& out : std::span{block.out, block.out_count}) {
    if (!out.to) continue;
    for (FirstTierBlock::Out** at = &out.to->in; *at; at = &(*at)->next)
      if (*at == &out) {
        *at = out.next;
        break;
      }
    aim(out.at, out.stub);
    out.to = nullptr;
  }
}

// Under the store's lock. The entry becomes a jump to the revive stub: one store of eight bytes, which were one instruction.
void FirstTier::died(void* self, CodeBlock& dead) {
  FirstTier& t = *static_cast<FirstTier*>(self);
  if (dead.owned) return;
  auto& block = static_cast<FirstTierBlock&>(dead);
  const Lock lock(t.mutex_);
  t.counters_.killed++;
  t.unlink(block);
  const u32 distance = block.revive - 5u;
  const u64 word = u64{0xe9} | u64{distance} << 8 | u64{0x90'9090} << 40;
  reinterpret_cast<std::atomic<u64>*>(t.cache_->writable(block.host))->store(word, std::memory_order_release);
}

FirstTierBlock* FirstTier::block_at(u64 host) const {
  const unsigned slab = cache_->slab_of(host);
  if (slab >= cache_->slabs()) return nullptr;
  const std::atomic<FirstTierBlock*>* const blocks = index_ + u64{slab} * index_stride_;
  u32 low = 0, high = slabs_[slab].count.load(std::memory_order_acquire);
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (blocks[middle].load(std::memory_order_relaxed)->host <= host)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return nullptr;
  FirstTierBlock* const b = blocks[low - 1].load(std::memory_order_relaxed);
  return host - b->host <= b->host_bytes ? b : nullptr;
}

u64 FirstTier::fault_stub(u64 host) const {
  if (!cache_->contains(host)) return 0;
  const FirstTierBlock* const b = block_at(host);
  if (!b) return 0;
  for (const FirstTierBlock::Fault& f : std::span{b->faults, b->fault_count})
    if (b->host + f.pc == host) return b->host + f.stub;
  return 0;
}

// ---- eviction (translator.md §7). Landings and edges of a slab's blocks lie in it or in younger ones, and those in it belong to blocks
// of it or of older ones: slabs go in the order of filling, so that nothing that lives points into an emptied one.

void FirstTier::destroy_blocks(unsigned slab) {
  const std::span blocks{index_ + u64{slab} * index_stride_, slabs_[slab].count.load(std::memory_order_relaxed)};
  slabs_[slab].count.store(0, std::memory_order_release);
  for (auto& b : blocks) b.load(std::memory_order_relaxed)->~FirstTierBlock();
}

void FirstTier::evict_oldest() {
  unsigned slab = 0;
  {
    const Lock lock(mutex_);
    if (!cache_->oldest(slab)) return;
    cache_->retire_oldest();
  }
  const auto* const blocks = index_ + u64{slab} * index_stride_;
  store_.invalidate_blocks(slabs_[slab].count.load(std::memory_order_acquire),
                           [&](u32 i) -> CodeBlock& { return *blocks[i].load(std::memory_order_relaxed); });
  // In this order: who sees the new generation sees which slab it is about, and who enters after the mark has forgotten what it kept of it.
  slabs_[slab].evicted.store(generation_.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  slabs_[slab].mark = store_.mark();
  limbo_.push_back(slab);
  counters_.evictions++;
}

bool FirstTier::evicted_since(u64 host, u64 generation) const {
  const unsigned slab = cache_->slab_of(host);
  return slab < cache_->slabs() && slabs_[slab].evicted.load(std::memory_order_seq_cst) > generation;
}

bool FirstTier::make_room() {
  if (!tight_ && !full_) return true;
  const Lock only_one(evicting_);
  if (!tight_ && !full_) return true;
  while (!limbo_.empty() && store_.passed(slabs_[limbo_.front()].mark, full_)) {
    const Lock lock(mutex_);
    destroy_blocks(limbo_.front());
    cache_->empty(limbo_.front());
    limbo_.pop_front();
    full_ = false;
  }
  const auto free = [&] {
    const Lock lock(mutex_);
    return std::pair{cache_->free_slabs(), cache_->bytes_in_use()};
  };
  auto [slabs, bytes] = free();
  if (slabs + limbo_.size() < reserve_slabs || (limbo_.empty() && bytes > cache_->size())) evict_oldest();
  if (slabs) full_ = false;
  tight_ = !limbo_.empty() || slabs < reserve_slabs;
  return !full_;
}

}  // namespace vmm::tcg
