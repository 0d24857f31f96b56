// The shared half of E1: installing blocks, landings, edges. Source: translator.md §5, §7.
#include "accel/tcg/run/first_tier.h"

#include <sys/mman.h>

#include <algorithm>

#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/run/fault.h"
#include "accel/tcg/run/quick_leaf.h"
#include "src/base/log.h"

namespace vmm::tcg {

namespace {

constexpr usize max_blocks = usize{1} << 22;
constexpr u64 block_space = 48 * KiB;  // of one block's code, generously

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
          .gpr = offsetof(State, gpr),
          .flags = offsetof(State, rflags),
          .ip = offsetof(State, rip),
          .vectors = offsetof(State, vector),
          .mxcsr = offsetof(State, mxcsr),
          .x87 = offsetof(State, x87)};
}

}  // namespace

Result<std::unique_ptr<FirstTier>> FirstTier::make(BlockStore& store, u64 cache_bytes, TableShape shape) {
  std::unique_ptr<FirstTier> t(new FirstTier(store, shape));
  t->cache_ = TRY(CodeCache::make(cache_bytes));
  for (Half& h : t->halves_) {
    void* const at = mmap(nullptr, max_blocks * sizeof(void*), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return fail_errno("cannot map the index of the code cache");
    h.by_address = static_cast<std::atomic<FirstTierBlock*>*>(at);
  }
  const x64::Callbacks callbacks{.fill = FirstTierCpu::fill_entry,
                                 .interpret = FirstTierCpu::interpret_entry,
                                 .quick = quick_leaf,
                                 .link = FirstTierCpu::link_entry,
                                 .miss = FirstTierCpu::miss_entry,
                                 .x87 = FirstTierCpu::x87_entry};
  usize used = 0;
  if (!x64::emit_thunks(t->cache_->space(0), t->cache_->base(), layout(), callbacks, t->thunks_, used))
    return fail("the code cache is too small");
  t->cache_->take(used);
  t->cache_->keep();
  store.on_death(&FirstTier::died, t.get());
  register_code(*t);
  return t;
}

TableShape FirstTier::default_shape() {
#if __has_feature(thread_sanitizer)
  return TableShape::tagged;  // that tool leaves no room
#else
  return Context::room_for_direct() ? TableShape::direct : TableShape::tagged;
#endif
}

FirstTier::~FirstTier() {
  unregister_code(*this);
  store_.on_death(nullptr, nullptr);
  for (Half& h : halves_)
    if (h.by_address) munmap(h.by_address, max_blocks * sizeof(void*));
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

FirstTierBlock* FirstTier::install(const ir::Block& block, u64 page, u64 second_page, bool code64, u32 jump_table) {
  auto b = std::make_unique<FirstTierBlock>();
  b->page = page;
  b->second_page = block.straddles ? second_page : CodeBlock::no_page;
  b->offset = block.start;
  b->bytes = block.bytes;
  b->key = block.key;
  FirstTierBlock* const raw = b.get();
  {
    const Lock lock(mutex_);
    Half& half = halves_[cache_->half()];
    const usize n = half.count.load(std::memory_order_relaxed);
    const std::span<u8> space = cache_->space(block_space);
    if (space.empty() || n == max_blocks) return full_ = true, nullptr;
    x64::LowerOptions options{.base = cache_->cursor(),
                              .thunks = thunks_.addresses,
                              .x87_live = offsetof(x86::Frame, x87_live),
                              .jump_table_offset = jump_table * jump_slots * 8,

                              .state_pointer = offsetof(x86::Frame, state),
                              .selectors = offsetof(vmm::x86::State, segment) + offsetof(vmm::x86::Segment, selector),
                              .selector_stride = sizeof(vmm::x86::Segment),
                              .access = {.seg_base = offsetof(x86::Frame, seg_base), .code64 = code64},
                              .shape = shape_};
    x64::Lowered lowered;
    if (!x64::lower(block, space.first(block_space), options, lowered)) {
      lowered = {};
      options.cautious = true;
      if (!x64::lower(block, space.first(block_space), options, lowered)) return nullptr;
    }
    b->host = options.base;
    b->host_bytes = lowered.bytes;
    b->revive = lowered.revive;
    b->faults = std::move(lowered.faults);
    b->out.reserve(lowered.edges.size());
    for (const x64::Edge& e : lowered.edges) b->out.push_back({e, nullptr});
    cache_->take(lowered.bytes);
    half.by_address[n].store(raw, std::memory_order_relaxed);
    half.count.store(n + 1, std::memory_order_release);
    if (log_enabled(LogItem::out_asm)) [[unlikely]] {
      log_write(
          format("OUT: [size={}]\n{}\n", lowered.bytes, x86::print_insns(x86::ModeKey::code64, space.first(lowered.bytes), options.base)));
    }
    counters_.blocks++;
    counters_.guest_bytes += block.bytes;
    counters_.host_bytes += lowered.bytes;
    counters_.passed += lowered.passed;
    counters_.not_passed += lowered.interpreted;
  }
  store_.insert(std::move(b));
  return raw;
}

// Poll, exact tag check, page address, jump. The block's TABLE-independent part: a landing serves every vCPU.
u64 FirstTier::landing(FirstTierBlock& block, u64 address) {
  const Lock lock(mutex_);
  for (const FirstTierBlock::Landing& l : block.landings)
    if (l.address == address) return l.host;
  const std::span<u8> space = cache_->space(128);
  if (space.empty()) return full_ = true, 0;
  const u64 base = cache_->cursor();
  x64::Buffer buffer{space.first(128)};
  x64::FlagFree a{buffer};
  const auto jump = [&](usize at, u64 target) { buffer.patch32(at, static_cast<u32>(target - (base + at + 4))); };
  a.mov(x64::scratch, x64::in_frame(offsetof(FrameHead, poll)));
  const usize poll = a.jrcxz();
  a.mov(x64::scratch, -address);
  a.lea(x64::scratch, {.base = x64::scratch, .index = x64::scratch2});
  const usize hit = a.jrcxz();
  jump(a.jmp(), thunks_.addresses.miss);
  const bool poll_ok = a.bind8(poll, a.here());
  jump(a.jmp(), thunks_.addresses.leave);
  const bool hit_ok = a.bind8(hit, a.here());
  a.mov(x64::scratch, address & ~page_offset_mask);
  a.mov(x64::in_frame(offsetof(FrameHead, ip_page)), x64::scratch);
  jump(a.jmp(), block.host);
  ASSERT(poll_ok && hit_ok && !buffer.overflowed());
  cache_->take(a.here());
  counters_.landings++;
  if (block.landings.size() >= 64) block.landings.clear();
  block.landings.push_back({address, base});
  return base;
}

void FirstTier::aim(u64 at, u64 target) {
  auto* const word = reinterpret_cast<std::atomic<u32>*>(cache_->writable(at));
  word->store(static_cast<u32>(target - (at + 4)), std::memory_order_release);
}

void FirstTier::link(FirstTierBlock& from, u32 edge, FirstTierBlock& to) {
  const Lock lock(mutex_);
  if (edge >= from.out.size() || from.dead || to.dead || from.out[edge].to) return;
  from.out[edge].to = &to;
  to.in.push_back({&from, edge});
  aim(from.host + from.out[edge].edge.at, to.host);
  counters_.links++;
}

void FirstTier::unlink(FirstTierBlock& block) {
  for (const FirstTierBlock::In& in : block.in) {
    FirstTierBlock::Out& out = in.from->out[in.edge];
    out.to = nullptr;
    aim(in.from->host + out.edge.at, in.from->host + out.edge.stub);
  }
  block.in.clear();
  for (u32 i = 0; i < block.out.size(); i++) {
    if (!block.out[i].to) continue;
    std::erase_if(block.out[i].to->in, [&](const FirstTierBlock::In& in) { return in.from == &block && in.edge == i; });
    aim(block.host + block.out[i].edge.at, block.host + block.out[i].edge.stub);
    block.out[i].to = nullptr;
  }
}

// Under the store's lock. The entry becomes a jump to the revive stub: one store of eight bytes, which were one instruction.
void FirstTier::died(void* self, CodeBlock& dead) {
  FirstTier& t = *static_cast<FirstTier*>(self);
  auto* const block = dynamic_cast<FirstTierBlock*>(&dead);
  if (!block) return;
  const Lock lock(t.mutex_);
  t.counters_.killed++;
  t.unlink(*block);
  const u32 distance = block->revive - 5;
  const u64 word = u64{0xe9} | u64{distance} << 8 | u64{0x90'9090} << 40;
  reinterpret_cast<std::atomic<u64>*>(t.cache_->writable(block->host))->store(word, std::memory_order_release);
}

FirstTierBlock* FirstTier::block_at(u64 host) const {
  const Half& half = halves_[cache_->half_of(host)];
  usize low = 0, high = half.count.load(std::memory_order_acquire);
  while (low < high) {
    const usize middle = (low + high) / 2;
    if (half.by_address[middle].load(std::memory_order_relaxed)->host <= host)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return nullptr;
  FirstTierBlock* const b = half.by_address[low - 1].load(std::memory_order_relaxed);
  return host - b->host <= b->host_bytes ? b : nullptr;
}

u64 FirstTier::fault_stub(u64 host) const {
  if (!cache_->contains(host)) return 0;
  const FirstTierBlock* const b = block_at(host);
  if (!b) return 0;
  for (const x64::FaultSite& f : b->faults)
    if (b->host + f.pc == host) return b->host + f.stub;
  return 0;
}

bool FirstTier::recycle() {
  const Lock only_one(recycling_);
  if (!full_) return true;
  if (!store_.passed(retired_)) return false;
  {
    const Lock lock(mutex_);
    halves_[cache_->half() ^ 1].count = 0;
  }
  store_.bury();  // of the other half all are dead and left
  store_.invalidate_all();
  retired_ = store_.mark();
  const Lock lock(mutex_);
  cache_->change_half();
  full_ = false;
  generation_++;
  counters_.cache_flushes++;
  return true;
}

}  // namespace vmm::tcg
