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
  invalidate_all();
  for (const auto* list : {&dead_, &waiting_})
    for (CodeBlock* block : *list) delete block;
}

CodeBlock* BlockStore::find(u64 page, u16 offset, u64 key, u64 second_page) {
  const Lock lock(mutex_);
  for (CodeBlock* b = bucket(page, offset, key); b; b = b->next_in_bucket)
    if (b->page == page && b->offset == offset && b->key == key && (b->second_page == CodeBlock::no_page || b->second_page == second_page))
      return b;
  return nullptr;
}

bool BlockStore::straddles(u64 page, u16 offset, u64 key) {
  const Lock lock(mutex_);
  for (const CodeBlock* b = bucket(page, offset, key); b; b = b->next_in_bucket)
    if (b->page == page && b->offset == offset && b->key == key) return true;
  return false;
}

BlockStore::Claim BlockStore::announce(u64 page, u16 offset, u16 bytes) {
  CodePage* const p = pages_.get(page);
  if (!p) return {};
  const Claim claim{page, p->version.load(std::memory_order_acquire)};
  p->granules.fetch_or(granule_bits(offset, std::min<u64>(bytes, 4096 - offset)), std::memory_order_seq_cst);
  return claim;
}

void BlockStore::grow() {
  std::vector<CodeBlock*> old(buckets_.size() * 2);
  old.swap(buckets_);
  bucket_shift_--;
  for (CodeBlock* first : old)
    while (CodeBlock* const b = first) {
      first = b->next_in_bucket;
      CodeBlock*& to = bucket(b->page, b->offset, b->key);
      b->next_in_bucket = to;
      to = b;
    }
}

bool BlockStore::insert(CodeBlock& b, std::span<const Claim> claims) {
  const Lock lock(mutex_);
  if (b.dead) return false;  // evicted before it came here
  for (const Claim& claim : claims) {
    const CodePage* const page = pages_.find(claim.page);
    if (page && page->version.load(std::memory_order_acquire) != claim.version) {
      b.dead = true;
      if (b.owned) bury_later(b);
      return false;
    }
  }
  // What the interpreter keeps has a bound too.
  if (b.owned && ++owned_ > most_owned)
    for (CodeBlock*& first : buckets_)
      for (CodeBlock *block = first, *next; block; block = next) {
        next = block->next_in_bucket;
        if (block->owned) kill(*block);
      }
  if (live_ >= buckets_.size()) grow();
  CodeBlock*& chain = bucket(b.page, b.offset, b.key);
  b.next_in_bucket = chain;
  chain = &b;
  CodeBlock*& first = by_page_[b.page];
  b.next_in_page[0] = first;
  first = &b;
  if (b.second_page != CodeBlock::no_page && b.second_page != b.page) {
    CodeBlock*& second = by_page_[b.second_page];
    b.next_in_page[1] = second;
    second = &b;
  }
  live_++;
  return true;
}

void BlockStore::unlink(u64 page, CodeBlock& block) {
  const auto it = by_page_.find(page);
  if (it == by_page_.end()) return;
  for (CodeBlock** at = &it->second; *at; at = &(*at)->next_in_page[link_of(**at, page)])
    if (*at == &block) {
      *at = block.next_in_page[link_of(block, page)];
      break;
    }
  if (it->second) return;
  by_page_.erase(it);
  // Nothing is left there: stores need not ask any more. A translator that is reading the page must begin again.
  if (CodePage* const words = pages_.find(page)) {
    words->granules.store(0, std::memory_order_seq_cst);
    words->version.fetch_add(1, std::memory_order_seq_cst);
  }
}

void BlockStore::bury_later(CodeBlock& b) {
  dead_.push_back(&b);
  buriable_.store(dead_.size(), std::memory_order_relaxed);
}

void BlockStore::kill(CodeBlock& b) {
  if (b.dead.exchange(true, std::memory_order_acq_rel)) return;
  CodeBlock** at = &bucket(b.page, b.offset, b.key);
  while (*at && *at != &b) at = &(*at)->next_in_bucket;
  if (!*at) return;  // not inserted yet, and it never will be
  *at = b.next_in_bucket;
  unlink(b.page, b);
  if (b.second_page != CodeBlock::no_page && b.second_page != b.page) unlink(b.second_page, b);
  live_--;
  if (b.owned) owned_--, bury_later(b);
  if (death_) death_(death_owner_, b);
}

unsigned BlockStore::invalidate(u64 page, u64 offset, u64 length) {
  const Lock lock(mutex_);
  CodePage* const state = pages_.find(page);
  if (!state || length == 0) return 0;
  const u64 hit = granule_bits(offset, std::min<u64>(length, 4096 - offset));
  if (!(state->granules.load(std::memory_order_acquire) & hit)) return 0;
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
  // Granules that were announced and have no block yet lose their mark if the store touched them. First the marks, then the version: who
  // announces before both are done is refused at insert(), who announces later sees the new bytes.
  state->granules.fetch_and(~(hit & ~live), std::memory_order_seq_cst);
  state->version.fetch_add(1, std::memory_order_seq_cst);
  return killed;
}

void BlockStore::invalidate_block(CodeBlock& block) {
  const Lock lock(mutex_);
  kill(block);
}

void BlockStore::invalidate_all() {
  const Lock lock(mutex_);
  for (CodeBlock*& first : buckets_)
    while (first) kill(*first);
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

bool BlockStore::passed(u64 mark, bool kick) {
  const Lock lock(mutex_);
  if (oldest_reader() > mark) return true;
  if (!kick) return false;
  for (Reader* r : readers_)
    if (r->seen_.load(std::memory_order_seq_cst) <= mark && r->poll_) r->poll_->store(0, std::memory_order_seq_cst);
  return false;
}

void BlockStore::bury() {
  const Lock lock(mutex_);
  if (!waiting_.empty()) {
    if (oldest_reader() <= waiting_mark_) {
      buriable_.store(0, std::memory_order_relaxed);  // again when more have died
      return;
    }
    for (CodeBlock* block : waiting_) delete block;
    waiting_.clear();
  }
  waiting_.swap(dead_);
  if (waiting_.capacity() > 16 * burial_size) dead_ = {};
  buriable_.store(dead_.size(), std::memory_order_relaxed);
  burials_++;
  waiting_mark_ = epoch_.fetch_add(1, std::memory_order_seq_cst);
}

}  // namespace vmm::tcg
