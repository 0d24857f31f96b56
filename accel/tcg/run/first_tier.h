// E1: guest code translated instruction by instruction to the guest's own opcodes (translator.md §6). FirstTier is shared by the
// vCPUs of a machine; FirstTierCpu belongs to one vCPU's thread.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "accel/tcg/guest/guest_ops.h"
#include "accel/tcg/guest/x86/frame.h"
#include "accel/tcg/host/x64/thunks.h"
#include "accel/tcg/mem/tables.h"
#include "accel/tcg/run/cache.h"
#include "accel/tcg/run/lookup.h"
#include "accel/tcg/run/verify.h"
#include "src/base/bits.h"
#include "src/memory/ram_window.h"

namespace vmm::tcg {

// Counters of `info jit`, each declared here and nowhere else: X(name, text).
#define FIRST_TIER_COUNTERS(X)                                   \
  X(blocks, "blocks translated")                                 \
  X(hot_blocks, "of them loops that were seen to be hot")        \
  X(guest_bytes, "guest bytes translated")                       \
  X(translate_ns, "nanoseconds spent translating them")          \
  X(host_bytes, "host bytes emitted")                            \
  X(passed, "instructions passed")                               \
  X(not_passed, "instructions left to the interpreter")          \
  X(landings, "landings made")                                   \
  X(links, "edges linked")                                       \
  X(dispatch_misses, "dispatch misses")                          \
  X(fills, "address slots filled")                               \
  X(fill_misses, "accesses that no slot could serve")            \
  X(interpreted, "instructions interpreted from generated code") \
  X(spaces, "address spaces entered by PCID")                    \
  X(flushes, "address table flushes")                            \
  X(signals, "host signals taken")                               \
  X(killed, "blocks dropped: bytes changed, or evicted")         \
  X(evictions, "slabs of the code cache evicted")                \
  X(verified, "blocks compared with the interpreter")            \
  X(unverified, "blocks that could not be compared")             \
  X(left, "returns to the run loop")

struct FirstTierCounters {
#define X(name, text) std::atomic<u64> name{0};
  FIRST_TIER_COUNTERS(X)
#undef X
};

// What the tier asks of the guest beyond GuestOps; on the vCPU's thread.
struct FirstTierGuest {
  virtual ~FirstTierGuest() = default;
  // Executes the one instruction at the instruction pointer, from and to exact state. A fault stays pending.
  virtual void step() = 0;
  // The same for some frequent instructions, faster; false: not one of them, or not to its end: step() does the rest.
  virtual bool quick(x64::InterpretArgument insn) { return false; }
  // Would the guest take an interrupt now, were it not for a shadow?
  virtual bool interrupt_waits() { return false; }
  // Rights and addresses may be others: the privilege level or EFLAGS.AC is.
  virtual void mode_changed() {}
  // Is this mode's code for the tier? Which table do its accesses go through?
  virtual bool takes(u64 key) const = 0;
  virtual bool code64(u64 key) const = 0;
  // Is this no address that a branch may go to?
  virtual bool refuses(u64 target) const = 0;
  virtual Tables::Which context() const = 0;
  virtual void segment_bases(u64 (&bases)[6]) const = 0;
  // A debugger's breakpoint: code at this address must not run here. Others on its page: what they add to the key of code there.
  virtual bool stops_at(u64) const { return false; }
  virtual u64 debug_key(u64) { return 0; }
  // Is the code page at this address mapped globally?
  virtual bool global_code(u64 address) = 0;
  // Code appears on a page that may have been written without asking: every other cache of write rights must drop it.
  virtual void drop_writes(u64 page) = 0;
  virtual void drop_writes_of_all(u64 page) { drop_writes(page); }
};

// Lies in the notes of the slab that holds its code, and so do its edges, fault sites and landings: they go together.
struct FirstTierBlock final : CodeBlock {
  FirstTierBlock() { owned = false; }
  struct Out {             // an edge inside the page
    u32 at = 0, stub = 0;  // of its rel32, and where that goes while unlinked; from the beginning of the code cache
    FirstTierBlock* to = nullptr;
    Out* next = nullptr;  // of the edges to the same block
  };
  struct Fault {
    u16 pc, stub;  // from the block's entry
  };
  struct Landing {
    u64 address;
    u32 host, at;  // where it begins, and its jump to the block (0: none, it stands before it); from the beginning of the cache
    Landing* next;
  };
  u64 host = 0;  // entry
  u32 host_bytes = 0;
  u16 revive = 0, out_count = 0, fault_count = 0, landing_count = 0;
  u32 entered = 0;  // verify=on
  bool loops = false, hot = false;
  std::atomic<u8> polled{0};  // how often its polls left
  Out* out = nullptr;
  Out* in = nullptr;
  Fault* faults = nullptr;
  Landing* landings = nullptr;
  std::unique_ptr<ir::Block> oracle;  // verify=on: the same instructions in portable form
};

class FirstTier {
 public:
  static Result<std::unique_ptr<FirstTier>> make(BlockStore& store, u64 cache_bytes, TableShape shape = default_shape(),
                                                 unsigned address_bits = short_addresses);
  // direct where the host has room for it.
  static TableShape default_shape();
  static TableShape direct_shape();
  // May this address of the host be RAM? An addend that was meant for another guest address leads elsewhere.
  bool may_be_ram(u64 host) const { return host - ram_at_ < ram_bytes_; }
  u64 ram_at() const { return ram_at_; }
  u64 ram_bytes() const { return ram_bytes_; }
  // For tests, whose RAM lies where it likes.
  void trust_all_memory() { ram_at_ = 0, ram_bytes_ = u64{1} << 47; }
  TableShape shape() const { return shape_; }
  unsigned address_bits() const { return address_bits_; }
  ~FirstTier();

  const x64::Thunks& thunks() const { return thunks_; }
  BlockStore& store() { return store_; }
  CodeCache& cache() { return *cache_; }
  u64 cache_bytes_in_use() {
    const Lock lock(mutex_);
    return cache_->bytes_in_use();
  }
  FirstTierCounters& counters() { return counters_; }

  // Emits a translated block and enters it into the store; null: the cache is full (make_room() at a safe point), or the bytes are not
  // what they were (`claims`, one for each page). `address`: with a landing there.
  FirstTierBlock* install(const ir::Block& block, u64 page, u64 second_page, bool code64, u32 jump_table,
                          const BlockStore::Claim (&claims)[2], std::optional<u64> address, const std::array<u64, 16>* hot = nullptr);
  // A block whose loop runs again and again dies, to be translated at more length when it is next entered.
  void promote(FirstTierBlock& block);
  // For tests: every block is made as if it had been.
  void promote_all() { all_promoted_ = true; }
  // Is a block to be made here of such a one? Says so once.
  bool take_promoted(u64 page, u16 offset, u64 key);
  // Host address of the block's landing at a virtual address; 0: the cache is full, or the block had too many and is dead now.
  u64 landing(FirstTierBlock& block, u64 address);
  void link(FirstTierBlock& from, u32 edge, FirstTierBlock& to);
  FirstTierBlock* block_at(u64 host) const;  // lock-free
  // The code that interprets the guest instruction of a host instruction that raised a signal; 0: not ours.
  u64 fault_stub(u64 host) const;
  // Empties slabs that nobody is in any more and drops the blocks of the oldest ones while little is free. For threads that are not in
  // the cache. False: it is full, and somebody is still in there (and has been kicked); try again later.
  bool make_room();
  // Counts evictions: a vCPU that sees another number forgets what it keeps of dead blocks (evicted_since) before it enters.
  u64 generation() const { return generation_.load(std::memory_order_seq_cst); }
  bool evicted_since(u64 host, u64 generation) const;
  bool full() const { return full_; }
  // The jump table of a mode key; all tables of all vCPUs are for the same keys. More than there are tables: false.
  bool jump_table(u64 key, u32& table);

 private:
  FirstTier(BlockStore& store, TableShape shape, unsigned address_bits) : store_(store), shape_(shape), address_bits_(address_bits) {
    if (shape == TableShape::direct) ram_at_ = memory::ram_window_at, ram_bytes_ = memory::ram_window_bytes;
  }
  static void died(void* self, CodeBlock& block);
  void unlink(FirstTierBlock& block);
  // A rel32 within an aligned word; `at` from the beginning of the cache.
  void aim(u64 at, u64 target) REQUIRES(mutex_);
  bool room(u64 code, u64 notes) REQUIRES(mutex_);
  void evict_oldest() REQUIRES(evicting_);
  void destroy_blocks(unsigned slab);
  u64 emit_landing(FirstTierBlock& block, u64 address) REQUIRES(mutex_);
  usize landing_code(std::span<u8> space, u64 base, u64 address);
  void note_landing(FirstTierBlock& block, u64 address, u64 host, u64 jump_at) REQUIRES(mutex_);
  u64 index_bytes() const { return u64{cache_->slabs()} * index_stride_ * sizeof(void*); }

  BlockStore& store_;
  const TableShape shape_;
  const unsigned address_bits_;
  u64 ram_at_ = 0, ram_bytes_ = u64{1} << 47;
  std::unique_ptr<CodeCache> cache_;
  x64::Thunks thunks_;
  FirstTierCounters counters_;
  Mutex mutex_;  // emission and edges; inside the store's lock where both are held
  // The blocks of each slab in order of host address; mapped, so that only what is used takes memory.
  std::atomic<FirstTierBlock*>* index_ = nullptr;
  u32 index_stride_ = 0;
  x64::Lowered lowered_ GUARDED_BY(mutex_);  // kept for its vectors' room
  struct Slab {
    std::atomic<u32> count{0};
    std::atomic<u64> evicted{0};  // generation() when it was last evicted
    u64 mark = 0;
  };
  std::unique_ptr<Slab[]> slabs_;
  Mutex evicting_;  // outermost of the three
  std::deque<unsigned> limbo_ GUARDED_BY(evicting_);
  std::atomic<bool> full_{false}, tight_{false};
  bool all_promoted_ = false;
  static constexpr usize promoted_slots = 256;
  std::array<std::atomic<u64>, promoted_slots> promoted_{};  // by a hash of place and key; one that is lost is found hot again
  static u64 promoted_name(u64 page, u16 offset, u64 key) {
    return ((page << 12 | offset) * 0x9e37'79b9'7f4a'7c15 ^ key * 0xc2b2'ae3d'27d4'eb4f) | 1;
  }
  std::atomic<u64> generation_{0};
  std::vector<u64> keys_ GUARDED_BY(mutex_);
};

class FirstTierCpu final : public AddressCaches {
 public:
  FirstTierCpu(FirstTier& tier, GuestCpu& cpu, const GuestOps& ops, FirstTierGuest& guest, vmm::x86::State& state, unsigned index);
  ~FirstTierCpu() override;
  // Compare each block with the interpreter from now on; the process ends at the first difference.
  void set_verify() {
    verifier_ = std::make_unique<Verifier>(cpu_, state_);
    if (frame_) frame_->quick.on = false;
  }
  u64 table_bytes() const { return tables_.memory().bytes.load(std::memory_order_relaxed); }  // any thread
  Result<> start();  // reserves tables and stack; the tier cannot be used if it fails

  enum class Left {
    again,      // a fault is pending, cpu.leave or the poll word is set, or the mode has changed
    interpret,  // the code at the instruction pointer is not for this tier: interpret at least one instruction of it
  };
  // Runs guest code from the instruction pointer on. The vCPU's state is complete before and after.
  Left run();

  void flush(bool keep_global) override;
  void invalidate_page(u64 address) override;
  void enter_space(u32 name, bool keep) override;
  void flush_space(u32 name) override;
  void invalidate_page_of(u32 name, u64 address) override;
  void flush_writes() override;
  void drop_everything() override;
  // The host address of bytes inside one page, for an access as the running code makes it; null: the interpreter must do it.
  u8* host_of(u64 address, unsigned size, bool write);
  // Drops the write slots of one RAM page: code appears there.
  void drop_writes_of(u64 page, const u8* host_page);

 private:
  static u64 fill_entry(FrameHead* f, u64 argument, u64 address);
  static u64 interpret_entry(FrameHead* f, u64 argument, u64 unused, u64 site);
  static u64 link_entry(FrameHead* f, u64 edge, u64 target, u64 site);
  static u64 x87_entry(FrameHead* f, u64 unused, u64 scratch2, u64 site);
  static u64 miss_entry(FrameHead* f, u64 unused, u64 target, u64 site);
  friend class FirstTier;
  static FirstTierCpu& of(FrameHead* f);
  void follow_leaf();

  u64 fill(u64 argument, u64 address);
  void run_verified(FirstTierBlock& block);
  unsigned verifiable() const;  // leading instructions of scratch_ that both engines do alike
  u64 interpret(u64 argument, u64 site);
  u64 resolve(u64 target);   // landing, or 0
  bool take_back();          // a branch whose target is no address
  u64 go_on();               // the same for the instruction pointer, by the jump table where that knows it
  bool jump_table(u64 key);  // sets table_
  FirstTierBlock* block_for(u64 target, bool by_landing);
  FirstTierBlock* translate(const Code& code, u64 key, std::optional<u64> landing_at);
  bool take_write_rights(u64 page, u16 offset, usize length, BlockStore::Claim& claim);
  bool plain_address(u64 a) const { return sign_extend(a, tier_.address_bits()) == a; }
  void settle_guesses();
  void settle_poll();
  bool may_go_on() const { return cpu_.poll.load(std::memory_order_relaxed) != 0 && !cpu_.leave && !cpu_.fault; }
  void refresh();

  FirstTier& tier_;
  GuestCpu& cpu_;
  const GuestOps& ops_;
  FirstTierGuest& guest_;
  vmm::x86::State& state_;
  const unsigned index_;
  Tables tables_;
  void* stack_ = nullptr;
  x86::Frame* frame_ = nullptr;
  Context* context_ = nullptr;
  u64 key_ = 0;
  u32 table_ = 0;                                  // jump table of key_
  std::vector<std::pair<u64, u32>> known_tables_;  // by key; they never change
  u64 generation_ = 0;
  // Blocks lately found by address, with their landing, so that most misses of the dispatch take no lock.
  struct Recent {
    u64 address = 0, landing = 0;
    FirstTierBlock* block = nullptr;
    u32 mappings = 0;
    u32 global : 1 = 0;  // the page is mapped globally, as of `mappings`
    u32 epoch : 31 = 0;
  };
  u32 recent_epoch_ = 1;  // entries of another one are forgotten: SeaBIOS enters SMM for every sector that it reads
  u32 mappings_ = 1;      // raised when global mappings may change
  static constexpr unsigned recent_bits = 16, recent_count = 1 << recent_bits;
  std::unique_ptr<Recent[]> recent_ = std::make_unique<Recent[]>(recent_count);
  Recent& recent(u64 address) {
    Recent& r = recent_[address * 0x9e37'79b9'7f4a'7c15 >> (64 - recent_bits)];
    if (r.epoch != recent_epoch_) r = Recent{.epoch = recent_epoch_};
    return r;
  }
  void forget_recent();
  void recheck_landings();
  bool recheck_ = false;  // the kernel's landings have outlived a flush: to be looked at before any code runs
  void forget_dead();
  BlockStore::Reader reader_;
  bool not_for_us_ = false, again_ = false;
  u64 guesses_settled_ = 0;       // when, in ns
  alignas(64) u8 bounce_[2][64];  // loads from two pages, brought together; an instruction has two at most
  unsigned bounce_next_ = 0;
  ir::Block scratch_;
  std::unique_ptr<Verifier> verifier_;
};

}  // namespace vmm::tcg
