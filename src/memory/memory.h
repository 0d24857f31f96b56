// The memory API: RAM blocks, regions, address spaces and their flat views.
//
// Topology (adding, moving, enabling regions) changes under the machine lock and is published at the end of the outermost
// Transaction; readers look up the published view without locks and never block. RAM is touched by C++ only through the accessors
// of ram.h (relaxed atomics), and every write from outside the vCPU goes through AddressSpace, which sets dirty bits and
// invalidates translated code (translator.md §9).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/lock.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {
class Object;
class EventLoop;
}  // namespace vmm

namespace vmm::memory {

inline constexpr u64 page_bytes = 4096;
// A page's number among all RAM and ROM pages of the process: dense, given when the block is made, shared by aliases.
using PageNumber = u32;
inline constexpr PageNumber no_page = ~PageNumber{0};

enum class DirtyClient : u8 { migration, display, code };
inline constexpr unsigned dirty_client_count = 3;

// Anonymous, memfd or file memory that guests see. Made under the machine lock; its address never changes while it lives.
class RamBlock {
 public:
  struct Options {
    std::string name;        // unique in the machine: "pc.ram", "pc.bios", "vga.vram"
    u64 size_bytes = 0;      // rounded up to a page
    bool read_only = false;  // ROM: guests cannot write
    bool share = false;
    bool prealloc = false;
    std::string path;    // file-backed (-mem-path, memory-backend-file); a directory means a temporary file in it
    bool memfd = false;  // behind a memfd even if private
    bool seal = true;    // memfd: its size stays
    bool hugetlb = false;
    u64 hugetlb_bytes = 0;  // page size; 0: the host's default
    u64 alignment = 0;      // of the size and the mapping; 0: the natural one
    Fd fd;                  // an open memfd or file to map instead
  };
  static Result<std::shared_ptr<RamBlock>> make(Options options);
  ~RamBlock();
  RamBlock(const RamBlock&) = delete;

  const std::string& name() const { return name_; }
  u64 size_bytes() const { return size_; }
  u8* host() const { return host_; }  // size_bytes() long
  std::span<u8> bytes() const { return {host_, size_}; }
  PageNumber first_page() const { return first_page_; }
  bool read_only() const { return read_only_; }
  int fd() const { return fd_.get(); }                // -1: anonymous
  u64 host_page_bytes() const { return host_page_; }  // huge pages: more than page_bytes

  // Dirty log, one atomic bitmap a client. Logging of a client costs writers only while it is on.
  void set_dirty_logging(DirtyClient client, bool on);
  bool dirty_logging(DirtyClient client) const { return logging_.load(std::memory_order_relaxed) >> unsigned(client) & 1; }
  u8 dirty_logging_mask() const { return logging_.load(std::memory_order_relaxed); }
  void mark_dirty(u64 offset, u64 length);  // for every active client
  bool dirty(DirtyClient client, u64 page_index) const;
  // Reads and clears [first, first+count) pages into `out` (one bit a page); the caller then drops write slots (translator.md §9).
  void fetch_and_clear_dirty(DirtyClient client, u64 first, u64 count, std::vector<u64>& out);

 private:
  RamBlock() = default;
  std::string name_;
  u64 size_ = 0;
  u8* host_ = nullptr;
  PageNumber first_page_ = 0;
  u64 host_page_ = page_bytes;
  bool read_only_ = false;
  Fd fd_;
  std::atomic<u8> logging_{0};
  std::unique_ptr<std::atomic<u64>[]> dirty_[dirty_client_count];
};

// What a write to RAM from outside the translator must tell it; and what an engine must hear when a view changes. Registered once by
// an accelerator that keeps translated code; called on any thread, after the bytes are stored.
struct CodeListener {
  virtual ~CodeListener() = default;
  // Bytes [offset, offset+length) of the block have been stored. Cheap when no code was translated there.
  virtual void ram_written(RamBlock& block, u64 offset, u64 length) = 0;
  // The block is about to be unmapped; its page numbers may be given to another one later.
  virtual void ram_gone(RamBlock& block) {}
};
extern std::atomic<CodeListener*> code_listener;

// Handlers of an I/O region. `size` is 1, 2, 4 or 8; `offset` is relative to the region. Called with the machine lock held unless the
// region says otherwise. `opaque` is the object given to the region.
struct IoOps {
  u64 (*read)(void* opaque, u64 offset, unsigned size) = nullptr;               // null: reads as all ones
  void (*write)(void* opaque, u64 offset, unsigned size, u64 value) = nullptr;  // null: ignored
};
// Which sizes the device answers itself (wider accesses are split, narrower ones widened), and which it accepts at all.
struct IoSizes {
  u8 min = 1, max = 4;              // handler is called with these sizes only
  u8 valid_min = 1, valid_max = 8;  // other accesses: reads all ones, writes ignored, guest error logged
  bool unaligned = false;           // handler takes unaligned accesses
  bool machine_lock = true;         // false: handler has its own locking, and must not take the machine lock
};

class MemoryRegion;
class AddressSpace;

// A write of `size` bytes at `offset` of an I/O region that wakes an event loop instead of calling the handler (ioeventfd-shaped).
struct Doorbell {
  u64 offset = 0;
  unsigned size = 0;  // 0: any size
  bool match = false;
  u64 value = 0;               // with match: only this value
  std::function<void()> ring;  // any thread; must only post
};

// A node of the memory topology. A region is a member of its device; destruction takes it out of its container.
// Coordinates are u64; `size` may be 2^64 (written as 0 with whole = true, see container()).
class MemoryRegion {
 public:
  enum class Kind : u8 { none, container, io, ram, rom, rom_device, alias };

  MemoryRegion() = default;
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  // Initialise exactly once, before the region is added anywhere. `owner` is the device (for guest-error texts, re-entry guard,
  // `info mtree`); `name` as QEMU's `info mtree` shows it.
  void init_container(Object* owner, std::string name, u128 size);
  void init_io(Object* owner, std::string name, u64 size, const IoOps& ops, void* opaque, IoSizes sizes = {});
  void init_ram(Object* owner, std::string name, std::shared_ptr<RamBlock> block);  // RAM, or ROM if the block is read-only
  Result<> init_ram(Object* owner, std::string name, u64 size);                     // makes a block of that name
  Result<> init_rom(Object* owner, std::string name, u64 size);
  // Reads come from RAM while `romd` is on, else from ops; writes always go to ops.
  Result<> init_rom_device(Object* owner, std::string name, u64 size, const IoOps& ops, void* opaque, IoSizes sizes = {});
  void init_alias(Object* owner, std::string name, MemoryRegion& target, u64 offset, u64 size);

  // Members with handlers: region.init_io<&Dev::read, &Dev::write>(*this, "name", 0x100).
  template <auto Read, auto Write, class C>
  void init_io(C& device, std::string name, u64 size, IoSizes sizes = {}) {
    init_io(&device, std::move(name), size, member_ops<Read, Write, C>(), &device, sizes);
  }
  template <auto Read, auto Write, class C>
  static IoOps member_ops() {
    return {[](void* o, u64 at, unsigned n) -> u64 { return (static_cast<C*>(o)->*Read)(at, n); },
            [](void* o, u64 at, unsigned n, u64 v) { (static_cast<C*>(o)->*Write)(at, n, v); }};
  }

  // Topology; machine lock held. Higher priority wins where siblings overlap; equal priority: the later one wins.
  void add(MemoryRegion& child, u64 offset, int priority = 0) REQUIRES(machine_lock);
  void remove(MemoryRegion& child) REQUIRES(machine_lock);
  void set_enabled(bool on) REQUIRES(machine_lock);
  void set_address(u64 offset) REQUIRES(machine_lock);
  void set_size(u128 size) REQUIRES(machine_lock);
  void set_alias_offset(u64 offset) REQUIRES(machine_lock);
  void set_read_only(bool on) REQUIRES(machine_lock);  // RAM or alias: writes are dropped
  void set_romd(bool on) REQUIRES(machine_lock);
  void add_doorbell(Doorbell doorbell) REQUIRES(machine_lock);
  void remove_doorbell(u64 offset) REQUIRES(machine_lock);

  Kind kind() const { return kind_; }
  const std::string& name() const { return name_; }
  u128 size() const { return size_; }
  u64 address() const { return address_; }
  bool enabled() const { return enabled_; }
  int priority() const { return priority_; }
  Object* owner() const { return owner_; }
  MemoryRegion* container() const { return container_; }
  const std::shared_ptr<RamBlock>& ram() const { return ram_; }
  const std::vector<MemoryRegion*>& children() const { return children_; }
  MemoryRegion* alias_target() const { return alias_; }
  u64 alias_offset() const { return alias_offset_; }
  bool read_only() const { return read_only_; }
  bool romd() const { return romd_; }

  // One access by the guest: splits, widens, checks sizes, takes the machine lock if the region wants it, guards against re-entry
  // of a device into itself. False: no such access (bus error; reads give all ones).
  bool read(u64 offset, unsigned size, u64& value);
  bool write(u64 offset, unsigned size, u64 value);

 private:
  friend class AddressSpace;
  friend struct ViewBuilder;
  Kind kind_ = Kind::none;
  bool enabled_ = true, read_only_ = false, romd_ = true;
  int priority_ = 0;
  u128 size_ = 0;
  u64 address_ = 0;
  std::string name_;
  Object* owner_ = nullptr;
  MemoryRegion* container_ = nullptr;
  std::vector<MemoryRegion*> children_;  // highest priority first
  std::shared_ptr<RamBlock> ram_;
  MemoryRegion* alias_ = nullptr;
  u64 alias_offset_ = 0;
  IoOps ops_;
  void* opaque_ = nullptr;
  IoSizes sizes_;
  std::vector<MemoryRegion*> aliased_by_;
  std::shared_ptr<const std::vector<Doorbell>> doorbells_;
  std::atomic<const std::vector<Doorbell>*> rung_by_{nullptr};  // what writers look at, under a ReadPin

  void init(Kind kind, Object* owner, std::string name, u128 size);
  bool ring(u64 offset, unsigned size, u64 value) const;
  bool wants_lock() const { return sizes_.machine_lock; }
  unsigned largest_access() const { return sizes_.valid_max; }
  u64 call_read(u64 offset, unsigned size) const;
  void call_write(u64 offset, unsigned size, u64 value) const;
  void publish_doorbells(std::vector<Doorbell> doorbells);
  void detach();
};

// While it lives, accesses of this thread to regions of `owner` answer all ones: for work that a device does outside its handlers
// (timers, posted functions) and that touches guest memory. Handlers are inside one by themselves.
class InsideDevice {
 public:
  explicit InsideDevice(Object* owner);
  ~InsideDevice();
  InsideDevice(const InsideDevice&) = delete;
  static bool active(const Object* owner);

 private:
  Object* owner_;
  InsideDevice* outer_;
};

// Threads that may never take the machine lock (iothreads): their accesses to I/O regions fail as bus errors and are logged.
void set_thread_ram_only(bool on);

// Batches topology changes: views are rebuilt and published when the outermost one ends. Machine lock held throughout.
class Transaction {
 public:
  Transaction();
  ~Transaction();
  Transaction(const Transaction&) = delete;
};

// One run of addresses of a flat view: all of it goes to one place.
struct FlatRange {
  u64 first = 0, last = 0;         // inclusive guest-physical addresses
  MemoryRegion* region = nullptr;  // never null in a view's list
  u64 offset = 0;                  // of `first` within the region
  RamBlock* ram = nullptr;         // RAM, ROM and ROM devices in read mode: bytes at ram->host() + ram_offset
  u64 ram_offset = 0;
  bool read_only = false;  // writes do not reach `ram` (ROM: dropped; ROM device: go to the region)
};

// An immutable map of an address space. Lives while pinned; keeps its RAM blocks alive.
class FlatView : public std::enable_shared_from_this<FlatView> {
 public:
  const std::vector<FlatRange>& ranges() const { return ranges_; }
  // The range that holds the address, or null (nothing there: reads all ones, writes ignored). O(log n), lock-free.
  const FlatRange* find(u64 address) const;
  u64 generation() const { return generation_; }

 private:
  friend struct ViewBuilder;
  std::vector<FlatRange> ranges_;
  std::vector<std::shared_ptr<RamBlock>> held_;
  const MemoryRegion* root_ = nullptr;  // what was rendered: an address space that only aliases another region shows that one
  u64 generation_ = 0;
  friend std::string describe_tree(bool flat);
};

// What a page of guest-physical memory is, for engines that keep addends (translator.md §4.2).
struct PageInfo {
  u8* host = nullptr;  // null: not RAM/ROM for the whole page (I/O, subpage, nothing)
  RamBlock* block = nullptr;
  u64 block_offset = 0;
  PageNumber page = no_page;
  bool read_only = false;
};

// A root region with its published view. One for memory and one for I/O ports of the machine, one for each CPU (SMM) and each
// bus master.
class AddressSpace {
 public:
  AddressSpace(std::string name, MemoryRegion& root);
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;

  const std::string& name() const { return name_; }
  MemoryRegion& root() const { return root_; }
  // The published view, kept alive by the pointer. Any thread.
  std::shared_ptr<const FlatView> view() const;
  // Changes whenever a new view is published; engines compare it to drop what they cached. Any thread, relaxed.
  u64 generation() const { return generation_.load(std::memory_order_acquire); }

  PageInfo page(GuestPhys address) const;

  // Reads and writes of any length, RAM or I/O, split as needed; false if any byte met nothing (reads give all ones there).
  // Writes to RAM mark dirty pages and tell the code listener. Writes to ROM are dropped. Any thread; I/O takes the machine lock.
  bool read(GuestPhys address, std::span<u8> into) const;
  bool write(GuestPhys address, std::span<const u8> from) const;
  // As `write`, and ROM contents change too: for loaders and debuggers.
  bool write_rom(GuestPhys address, std::span<const u8> from) const;
  // One naturally sized access as a CPU makes it (I/O regions see exactly this size).
  u64 load(GuestPhys address, unsigned size) const;
  void store(GuestPhys address, unsigned size, u64 value) const;

  template <class T>
  Result<T> read(GuestPhys address) const {  // copies a guest structure in
    T value;
    if (!read(address, std::span<u8>{reinterpret_cast<u8*>(&value), sizeof value})) return fail("no memory at {:#x}", address.value);
    return value;
  }
  template <class T>
  bool write_object(GuestPhys address, const T& value) const {
    return write(address, std::span<const u8>{reinterpret_cast<const u8*>(&value), sizeof value});
  }

  // Called (machine lock held) after each new view of this space is published.
  void on_change(std::function<void()> changed);

 private:
  friend class Transaction;
  friend struct ViewBuilder;
  std::string name_;
  MemoryRegion& root_;
  enum class Step : u8 { done, nothing, split, lock };
  Step try_load(u64 at, unsigned size, u64& value) const;
  Step try_store(u64 at, unsigned size, u64 value, bool into_rom) const;
  bool load_any(u64 at, unsigned size, u64& value) const;
  bool store_any(u64 at, unsigned size, u64 value, bool into_rom) const;
  bool write_any(GuestPhys address, std::span<const u8> from, bool into_rom) const;

  std::shared_ptr<const FlatView> current_;  // machine lock
  std::atomic<const FlatView*> view_{nullptr};
  std::atomic<u64> generation_{0};
  std::vector<std::function<void()>> changed_;
};

// Every RAM block, in order of page numbers; machine lock held.
std::vector<RamBlock*> ram_blocks() REQUIRES(machine_lock);
// Block that holds a page number, or null. Any thread, lock-free.
RamBlock* block_of(PageNumber page);
PageNumber page_number_limit();  // one more than the highest page number given so far

// Waits until every reader that looked at memory maps before this call has let go (a second at most): what was taken out of the
// published views before may then be destroyed. Readers never wait for locks while they look.
void wait_for_readers();

// `info mtree` and `info mtree -f` as text; machine lock held.
std::string describe_tree(bool flat);

}  // namespace vmm::memory
