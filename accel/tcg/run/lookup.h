// The blocks of all engines, found by RAM address and mode key, and dropped when their bytes change (translator.md §5, §7).
// One store for a machine. Methods lock for themselves; block records die at a safe point only.
#pragma once

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "accel/tcg/ir/block.h"
#include "accel/tcg/mem/frame.h"
#include "accel/tcg/mem/pages.h"
#include "src/base/lock.h"
#include "src/base/types.h"

namespace vmm::tcg {

// One translated block. An engine derives from it what it needs to run it.
struct CodeBlock {
  static constexpr u64 no_page = ~u64{0};
  virtual ~CodeBlock() = default;
  u64 page = no_page;             // rpn of the first byte
  u64 second_page = no_page;      // of the bytes that a straddling instruction has in the next page
  u16 offset = 0, bytes = 0;      // guest bytes; may run past the page if it straddles
  std::atomic<bool> dead{false};  // bytes changed: do not enter
  bool owned = true;              // by the store: deleted when nobody is in it any more; else whoever made it sees to that
  u64 key = 0;
  CodeBlock* next_in_page[2] = {nullptr, nullptr};
  CodeBlock* next_in_bucket = nullptr;
};

class BlockStore {
 public:
  // A thread that may hold pointers to blocks or run their code does so between enter() and exit(). What dies meanwhile is kept.
  class Reader {
   public:
    explicit Reader(BlockStore& store, PollWord* poll = nullptr) : poll_(poll), store_(store) { store.add(*this); }
    ~Reader() { store_.remove(*this); }
    Reader(const Reader&) = delete;
    void enter() { seen_.store(store_.epoch_.load(std::memory_order_seq_cst), std::memory_order_seq_cst); }
    void exit() { seen_.store(outside, std::memory_order_release); }

   private:
    friend class BlockStore;
    static constexpr u64 outside = ~u64{0};
    std::atomic<u64> seen_{outside};
    PollWord* poll_;  // stored 0 when others wait for this reader
    BlockStore& store_;
  };
  explicit BlockStore(CodePages& pages) : pages_(pages) {}
  ~BlockStore();
  BlockStore(const BlockStore&) = delete;

  CodePages& pages() { return pages_; }
  // `second_page`: rpn of the page after, for straddling blocks (checked only if the block has one).
  CodeBlock* find(u64 page, u16 offset, u64 key, u64 second_page = CodeBlock::no_page);
  // Is there a block here that goes on in the next page, whichever page that is?
  bool straddles(u64 page, u16 offset, u64 key);
  // What a translator believes of a page while it reads it.
  struct Claim {
    u64 page = CodeBlock::no_page;
    u32 version = 0;
  };
  // Before the bytes of a block are read: marks their granules, so that later stores come by the slow path. The caller then has
  // the write slots of all vCPUs dropped if the page had writers, and only then reads.
  Claim announce(u64 page, u16 offset, u16 bytes);
  // False: code of a claimed page was stored to, or dropped, since the claim: what was read may be old.
  bool insert(CodeBlock& block, std::span<const Claim> claims);
  // Bytes [offset, offset + length) of the page were stored: kills the blocks there. Number killed.
  unsigned invalidate(u64 page, u64 offset, u64 length);
  void invalidate_all();
  void invalidate_block(CodeBlock& block);
  // Of `count` blocks, block_at(i) being one of them; those that were not inserted yet will not be.
  template <class F>
  void invalidate_blocks(u32 count, F&& block_at) {
    const Lock lock(mutex_);
    for (u32 i = 0; i < count; i++) kill(block_at(i));
  }
  // Frees, in two calls, the records that died: the first makes readers forget what they keep (burials), a later one, when all who
  // were inside then have left, frees.
  void bury();
  // The same if it is worth it. For threads that are outside.
  void bury_some() {
    if (buriable_.load(std::memory_order_relaxed) >= burial_size) bury();
  }
  // A point in time: passed(mark()) is true once no reader is inside since before it. `kick`: readers that stay are asked to leave.
  u64 mark() { return epoch_.fetch_add(1, std::memory_order_seq_cst); }
  bool passed(u64 mark, bool kick = true);
  u64 size() const { return live_; }
  // Changes whenever records are freed: pointers kept from before are void.
  u64 burials() const { return burials_.load(std::memory_order_relaxed); }
  // Called under the store's lock for each block that dies.
  void on_death(void (*f)(void*, CodeBlock&), void* owner) { death_ = f, death_owner_ = owner; }

 private:
  static constexpr usize burial_size = 512, most_owned = 1 << 18;
  static u64 hash(u64 page, u16 offset, u64 key) { return (page << 12 | offset) * 0x9e37'79b9'7f4a'7c15 ^ key * 0xc2b2'ae3d'27d4'eb4f; }
  CodeBlock*& bucket(u64 page, u16 offset, u64 key) REQUIRES(mutex_) { return buckets_[hash(page, offset, key) >> bucket_shift_]; }
  void grow() REQUIRES(mutex_);
  void kill(CodeBlock& block) REQUIRES(mutex_);
  void bury_later(CodeBlock& block) REQUIRES(mutex_);
  void add(Reader& reader);
  void remove(Reader& reader);
  u64 oldest_reader() REQUIRES(mutex_);
  void unlink(u64 page, CodeBlock& block) REQUIRES(mutex_);

  Mutex mutex_;
  CodePages& pages_;
  std::unordered_map<u64, CodeBlock*> by_page_ GUARDED_BY(mutex_);
  std::vector<CodeBlock*> buckets_ GUARDED_BY(mutex_) = std::vector<CodeBlock*>(4096);  // by hash, linked by next_in_bucket
  unsigned bucket_shift_ GUARDED_BY(mutex_) = 52;
  usize owned_ GUARDED_BY(mutex_) = 0;  // live ones
  std::vector<CodeBlock*> dead_ GUARDED_BY(mutex_), waiting_ GUARDED_BY(mutex_);
  u64 waiting_mark_ GUARDED_BY(mutex_) = 0;
  std::vector<Reader*> readers_ GUARDED_BY(mutex_);
  std::atomic<u64> epoch_{1};
  std::atomic<u64> live_{0}, burials_{0};
  std::atomic<usize> buriable_{0};
  void (*death_)(void*, CodeBlock&) = nullptr;
  void* death_owner_ = nullptr;
};

}  // namespace vmm::tcg
