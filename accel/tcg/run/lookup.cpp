// See lookup.h. Source: translator.md §7.
#include "accel/tcg/run/lookup.h"

namespace vmm::tcg {

namespace {
unsigned link_of(const CodeBlock& block, u64 page) { return block.page == page ? 0 : 1; }
// Bytes of the block inside `page`: [first, second).
std::pair<u64, u64> extent(const CodeBlock& block, u64 page) {
  const u64 end = u64{block.offset} + block.bytes;
  if (block.page == page) return {block.offset, end < 4096 ? end : 4096};
  return {0, end - 4096};
}
}  // namespace

BlockStore::~BlockStore() {
  for (auto& [hash, block] : by_key_) delete block;
  for (const auto* list : {&dead_, &waiting_})
    for (CodeBlock* block : *list) delete block;
}

CodeBlock* BlockStore::find(u64 page, u16 offset, u64 key, u64 second_page) {
  const Lock lock(mutex_);
  const auto [from, to] = by_key_.equal_range(hash(page, offset, key));
  for (auto it = from; it != to; ++it) {
    CodeBlock* const b = it->second;
    if (b->page == page && b->offset == offset && b->key == key && (b->second_page == CodeBlock::no_page || b->second_page == second_page))
      return b;
  }
  return nullptr;
}

bool BlockStore::straddles(u64 page, u16 offset, u64 key) {
  const Lock lock(mutex_);
  const auto [from, to] = by_key_.equal_range(hash(page, offset, key));
  for (auto it = from; it != to; ++it)
    if (it->second->page == page && it->second->offset == offset && it->second->key == key) return true;
  return false;
}

void BlockStore::announce(u64 page, u16 offset, u16 bytes) {
  if (CodePage* const p = pages_.get(page))
    p->granules.fetch_or(granule_bits(offset, std::min<u64>(bytes, 4096 - offset)), std::memory_order_seq_cst);
}

CodeBlock& BlockStore::insert(std::unique_ptr<CodeBlock> block) {
  const Lock lock(mutex_);
  CodeBlock& b = *block.release();
  by_key_.emplace(hash(b.page, b.offset, b.key), &b);
  CodeBlock*& first = by_page_[b.page];
  b.next_in_page[0] = first;
  first = &b;
  if (b.second_page != CodeBlock::no_page && b.second_page != b.page) {
    CodeBlock*& second = by_page_[b.second_page];
    b.next_in_page[1] = second;
    second = &b;
  }
  live_++;
  return b;
}

void BlockStore::unlink(u64 page, CodeBlock& block) {
  const auto it = by_page_.find(page);
  if (it == by_page_.end()) return;
  for (CodeBlock** at = &it->second; *at; at = &(*at)->next_in_page[link_of(**at, page)])
    if (*at == &block) {
      *at = block.next_in_page[link_of(block, page)];
      break;
    }
  if (!it->second) by_page_.erase(it);
}

void BlockStore::kill(CodeBlock& b) {
  b.dead.store(true, std::memory_order_release);
  unlink(b.page, b);
  if (b.second_page != CodeBlock::no_page && b.second_page != b.page) unlink(b.second_page, b);
  const auto [from, to] = by_key_.equal_range(hash(b.page, b.offset, b.key));
  for (auto it = from; it != to; ++it)
    if (it->second == &b) {
      by_key_.erase(it);
      break;
    }
  dead_.push_back(&b);
  live_--;
  if (death_) death_(death_owner_, b);
}

unsigned BlockStore::invalidate(u64 page, u64 offset, u64 length) {
  const Lock lock(mutex_);
  CodePage* const state = pages_.find(page);
  if (!state || length == 0) return 0;
  const u64 hit = granule_bits(offset, std::min<u64>(length, 4096 - offset));
  if (!(state->granules.load(std::memory_order_acquire) & hit)) return 0;
  state->version.fetch_add(1, std::memory_order_release);
  unsigned killed = 0;
  u64 live = 0;  // granules of what stays
  const auto it = by_page_.find(page);
  for (CodeBlock* b = it == by_page_.end() ? nullptr : it->second; b;) {
    CodeBlock* const next = b->next_in_page[link_of(*b, page)];
    const auto [from, to] = extent(*b, page);
    const u64 bits = granule_bits(from, to - from);
    if (bits & hit) {
      kill(*b);
      killed++;
    } else {
      live |= bits;
    }
    b = next;
  }
  // Announced granules without a block yet stay marked only if the store did not touch them: their translator sees `version`.
  state->granules.store((state->granules.load(std::memory_order_relaxed) & ~hit) | live, std::memory_order_release);
  return killed;
}

void BlockStore::invalidate_all() {
  const Lock lock(mutex_);
  while (!by_key_.empty()) kill(*by_key_.begin()->second);
}

void BlockStore::add(Reader& reader) {
  const Lock lock(mutex_);
  readers_.push_back(&reader);
}
void BlockStore::remove(Reader& reader) {
  const Lock lock(mutex_);
  std::erase(readers_, &reader);
}

u64 BlockStore::oldest_reader() {
  u64 oldest = Reader::outside;
  for (const Reader* r : readers_) oldest = std::min(oldest, r->seen_.load(std::memory_order_seq_cst));
  return oldest;
}

bool BlockStore::passed(u64 mark) {
  const Lock lock(mutex_);
  if (oldest_reader() > mark) return true;
  for (Reader* r : readers_)
    if (r->seen_.load(std::memory_order_seq_cst) <= mark && r->poll_) r->poll_->store(0, std::memory_order_seq_cst);
  return false;
}

void BlockStore::bury() {
  const Lock lock(mutex_);
  if (!waiting_.empty()) {
    if (oldest_reader() <= waiting_mark_) return;
    for (CodeBlock* block : waiting_) delete block;
    waiting_.clear();
  }
  waiting_.swap(dead_);
  burials_++;
  waiting_mark_ = epoch_.fetch_add(1, std::memory_order_seq_cst);
}

}  // namespace vmm::tcg
