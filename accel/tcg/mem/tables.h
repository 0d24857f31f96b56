// Address tables: for each context one sparse region, directly indexed by page number, that gives host − guest ("addend") in one
// load (translator.md §4.1, §4.2). A table belongs to one vCPU thread; nobody else reads or writes it.
//
//   gs − 8 − 8q: write slot        gs + header_bytes + 8q: read slot        gs … gs + header_bytes: jump tables
//   A jump table has one landing a slot; a second one that falls there stands in the table's victims, {−address, landing}, which the
//   dispatch looks at when the first landing says no.
//   q = 2p: an access inside page p;  q = 2p + 1: one that starts in p and ends in p + 1;  0: miss
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::tcg {

enum class AccessKind : u8 { read, write };
// direct: a sparse region of 64 GiB, one load. Page numbers are bits 12–42 of an address, so that an address may find the addend of one
// that is k·2^43 away: it then reaches k·2^43 beyond guest RAM, where nothing of this process may lie (memory::ram_window_at). wide: bits
// 12–46 or 47, 1 or 2 TiB, for processes that cannot promise that. tagged: 8192 entries a kind, {−q, addend} in two arrays behind the jump
// tables.
enum class TableShape : u8 { direct, wide, tagged };
// How many bits of an address count. 57: for guests with five levels of page tables; only tagged tables can hold so many pages.
inline constexpr unsigned short_addresses = 48, long_addresses = 57;

inline constexpr u64 page_bits = 12, page_bytes = 4096, page_offset_mask = page_bytes - 1;
inline constexpr u64 header_bytes = 9 * MiB;
inline constexpr u32 jump_slots = 16384, jump_tables = 15;
// The pext mask of the dispatch: bits 3–16 of the target. Functions begin at multiples of 16, so that lower bits would leave most of them
// a part of the table; few returns are less than 8 bytes apart.
inline constexpr u64 jump_hash_mask = u64{jump_slots - 1} << 3;
constexpr u64 jump_slot(u64 address) { return (address & jump_hash_mask) >> 3; }

// Landings that share the bits above differ in higher ones, a megabyte apart as a rule.
inline constexpr u32 victim_slots = 4096;
inline constexpr u64 victims_at = 4 * MiB, victims_bytes = victim_slots * 16, jump_addresses_at = 5 * MiB;
inline constexpr u64 victim_hash_mask = u64{0x1f} << 5 | u64{0x7f} << 16;
constexpr u64 victim_slot(u64 address) { return (address >> 5 & 0x1f) | (address >> 16 & 0x7f) << 5; }
static_assert(jump_tables * jump_slots * 8 <= victims_at && victims_at + jump_tables * victims_bytes <= jump_addresses_at &&
              jump_addresses_at + jump_tables * jump_slots * 8 <= header_bytes);

inline constexpr u64 tagged_entries = 8192, tagged_array = tagged_entries * 8;
inline constexpr u64 tagged_read_tags = header_bytes, tagged_read_addends = header_bytes + tagged_array;
inline constexpr u64 tagged_write_tags = header_bytes + 2 * tagged_array, tagged_write_addends = header_bytes + 3 * tagged_array;

// Bytes of host memory that the tables of one vCPU hold, chunks and host page tables together.
struct TableMemory {
  std::atomic<u64> bytes{0};  // written by the vCPU's thread only
  u64 cap = 96 * MiB;
};

class Context {
 public:
  // `index_bits`: width of p: 36 for the kernel (mask bits 12–47), 35 for users (12–46), 0 for a context that holds nothing.
  Context(unsigned index_bits, TableMemory& memory, TableShape shape = TableShape::direct)
      : index_bits_(shape == TableShape::direct && index_bits ? direct_bits : index_bits),
        table_bits_(shape == TableShape::direct ? direct_bits : index_bits),
        shape_(shape),
        memory_(memory) {}
  ~Context();
  Context(const Context&) = delete;
  Result<> reserve();

  u64 gs() const { return gs_; }
  u64 mask() const { return index_bits_ ? ((u64{1} << index_bits_) - 1) << page_bits : 0; }
  // The slot number of an access of `size` bytes at `address`, as generated code computes it.
  u64 slot_of(u64 address, u64 size) const {
    if (shape_ == TableShape::direct) return static_cast<u32>((address >> page_bits) + ((address + size - 1) >> page_bits));
    return page_of(address) + page_of(address + size - 1);
  }
  u64 page_of(u64 address) const { return (address & mask()) >> page_bits; }

  u64 get(u64 q, AccessKind kind) const {
    if (shape_ != TableShape::tagged) return *slot(q, kind);
    return *tag(q, kind) == -q ? *(tag(q, kind) + tagged_entries) : 0;
  }
  // Fills a slot. Cross slots that would alias (§4.1, "Why it is safe without a tag") are refused silently.
  void fill(u64 q, AccessKind kind, u64 addend, bool global);
  // Notes that generated code read this slot: a read costs host memory too. Call at each miss; false: over the cap.
  bool note_miss(u64 q, AccessKind kind);

  void drop(u64 p);  // invlpg: both kinds, slots 2p−1, 2p, 2p+1
  void drop_write(u64 p);
  void drop_range(u64 first_p, u64 count);  // a large page
  // Drops what was filled: all, or all but global pages. `keep_landings`: the caller looks at those before any code runs (recheck_jumps).
  void flush(bool keep_global, bool keep_landings = false);
  void flush_writes();  // write slots only (CR0.WP, dirty log)
  void reset();         // gives the host memory back, header preset anew
  // Can this host reserve such a table, and does the process lie as it asks?
  static bool room_for(TableShape shape);
  // Drops write slots of the pages for which `wanted(p, addend)` says so.
  template <class F>
  u64 drop_writes_if(F&& wanted);
  // Remembers (for ever, by a filter) that slots were filled from a large page here.
  void note_large_page(u64 address, u64 size);
  // invlpg: drops the page, and what was filled from a large page that may hold it.
  void drop_around(u64 address);

  // Jump tables (§5). `landing` 0 restores the preset.
  void enable_jump_table(u32 table);
  bool jump_table_enabled(u32 table) const { return tables_enabled_ >> table & 1; }
  void set_miss_target(u64 target) { miss_target_ = target; }
  u64 held_bytes() const { return own_bytes_; }
  bool holds_global() const { return !log_[0][1].empty() || !log_[1][1].empty() || landing_count_[1]; }
  u64 jump_table_offset(u32 table) const { return u64{table} * jump_slots * 8; }
  // `code_page`: the RAM page of a block that lies in one page, else no_code_page.
  static constexpr u32 no_code_page = ~u32{0};
  void set_jump(u32 table, u64 address, u64 landing, bool global, u32 code_page = no_code_page);
  // 0: the preset.
  u64 jump(u32 table, u64 address) const {
    const u64 landing = reinterpret_cast<const u64*>(gs_)[table * jump_slots + jump_slot(address)];
    return landing == miss_target_ ? 0 : landing;
  }
  void clear_jumps();  // every entry of every table in use
  // Those whose landing `f` picks.
  template <class F>
  void clear_jumps_if(F&& f) {
    for (auto& lists : landings_)
      for (auto& list : lists)
        std::erase_if(list, [&](const Landing& l) {
          const u64 landing = landing_at(l.slot);
          if (landing == miss_target_) return true;
          return f(landing) ? clear_slot(l.slot), true : false;
        });
  }
  void clear_jumps_of_pages(u64 address, u64 bytes);
  // Keeps the landings whose page number `f` still finds at the same RAM page: f(page, code page, bool& global).
  template <class F>
  void recheck_jumps(F&& f) {
    Landings before[2];
    std::swap(before, landings_);
    landing_pages_ = {}, landing_count_ = {};
    for (const auto& lists : before)
      for (const auto& list : lists)
        for (const Landing& l : list) {
          bool global = false;
          if (l.code_page != no_code_page && f(l.page, l.code_page, global))
            note_landing(l, global);
          else
            clear_slot(l.slot);
        }
  }

 private:
  struct Landing {
    u32 slot, code_page;
    u64 page;
  };
  // By the low bits of the page: invlpg asks for one page of thousands.
  static constexpr usize landing_lists = 64;
  using Landings = std::array<std::vector<Landing>, landing_lists>;
  void note_landing(const Landing& l, bool global);
  // Slots are counted in words from gs; that of a victim is its first word.
  u64* word(u64 slot) const { return reinterpret_cast<u64*>(gs_) + slot; }
  static bool is_victim(u32 slot) { return slot >= victims_at / 8; }
  u64 landing_at(u32 slot) const {
    if (!is_victim(slot)) return *word(slot);
    return word(slot)[1] ? word(slot)[1] : miss_target_;
  }
  void clear_slot(u32 slot) {
    if (is_victim(slot))
      word(slot)[1] = 0;
    else
      *word(slot) = miss_target_;
  }
  u64* slot(u64 q, AccessKind kind) const {
    return kind == AccessKind::read ? reinterpret_cast<u64*>(gs_ + header_bytes + q * 8) : reinterpret_cast<u64*>(gs_ - 8 - q * 8);
  }
  bool populated(const u64* at) const;
  void populate(u64* at);
  u64* tag(u64 q, AccessKind kind) const {
    return reinterpret_cast<u64*>(gs_ + (kind == AccessKind::read ? tagged_read_tags : tagged_write_tags)) + q % tagged_entries;
  }
  void zero(u64 q, AccessKind kind) {
    if (shape_ == TableShape::tagged) {
      if (u64* const at = tag(q, kind); *at == -q) *at = no_tag;
      return;
    }
    u64* const at = slot(q, kind);
    if (populated(at)) *at = 0;
  }
  void clear_tags();
  void account(u64 bytes);
  void free_logs();
  void zero_around(u64 p, AccessKind kind);
  void forget_landings(bool global);
  void clear_log(std::vector<u64>& log, AccessKind kind);
  u64 half_bytes() const { return shape_ == TableShape::tagged ? 4 * tagged_array : (u64{2} << table_bits_) * 8; }
  u64 total_bytes() const;

  static constexpr u64 no_tag = 1;  // −q is never 1
  static constexpr unsigned direct_bits = 31;
  const unsigned index_bits_, table_bits_;
  const TableShape shape_;
  TableMemory& memory_;
  u64 start_ = 0, gs_ = 0;     // the mapping, and where gs points
  u64* chunk_bits_ = nullptr;  // one bit for each 16 KiB chunk that is populated
  u64* reach_bits_ = nullptr;  // one bit for each 2 MiB of table that was touched: a host page-table page
  u64 own_bytes_ = 0;
  std::vector<u64> log_[2][2];                   // [kind][global]: p
  Landings landings_[2];                         // [global]
  std::array<usize, 2> landing_count_{};         // noted since the lists were empty, [global]
  std::array<u64, 64> landing_pages_{};          // a filter of 4096 bits over the pages in landings_
  std::array<u64, 64> large_4m_{}, large_1g_{};  // filters of 4096 bits over the 4 MiB and 1 GiB regions that large pages lie in
  u32 tables_enabled_ = 0;
  bool victim_goes_ = false;  // of three landings for two places
  u64 miss_target_ = 0;
};

// The contexts of one vCPU. U: CPL 3, one for each address space (PCID) in use, least recently used first out. KS: CPL < 3 with SMAP
// shut, and implicit supervisor accesses. KU: CPL < 3 otherwise. UA: CPL 3 with alignment checks, holds nothing. KS and KU hold the
// current space and global pages only.
class Tables {
 public:
  enum Which : u8 { U, KS, KU, UA, count };
  static constexpr unsigned most_users = 6;  // as many as Linux keeps warm on a CPU
  explicit Tables(TableShape shape = TableShape::direct, unsigned address_bits = short_addresses);
  ~Tables();
  Result<> reserve();
  Context& operator[](Which w) { return *all_[number(w)]; }
  std::span<Context* const> all() { return all_; }
  // The place in all() of what `w` stands for now; less than 16.
  unsigned number(Which w) const { return w == U ? current_ : w; }
  TableMemory& memory() { return memory_; }
  const TableMemory& memory() const { return memory_; }
  void set_miss_target(u64 target);

  // CR3 was written: another address space, whose translations may be kept from when it was last here.
  void enter_space(u32 pcid, bool keep);
  void flush_space(u32 pcid);                      // one that is not the current one
  void invalidate_page_of(u32 pcid, u64 address);  // in one that is not the current one
  // In all spaces: PGE toggle, INVPCID. `keep_landings`: of the kernel contexts, see Context::flush.
  void flush(bool keep_global, bool keep_landings = false);
  void invalidate_page(u64 address);  // invlpg: the current space, and global pages
  void flush_writes();
  void drop_everything();  // topology, A20, SMM
  bool over_cap() const { return memory_.bytes > memory_.cap; }
  void trim(Which current);  // back under the cap

 private:
  static constexpr u32 no_space = ~u32{0};
  struct User {
    u32 pcid = no_space;  // whose translations it holds; no_space: nobody asks for them again
    u64 used = 0;         // when it was last entered
  };
  bool is_user(unsigned number) const { return number == U || number >= count; }
  unsigned user_for_new_space();
  Context* find_space(u32 pcid);

  TableMemory memory_;
  const TableShape shape_;
  const unsigned address_bits_;
  Context user_, kernel_strict_, kernel_user_, checked_;
  std::vector<std::unique_ptr<Context>> more_;  // further user contexts, made when they are needed
  std::vector<Context*> all_;                   // [Which], then more_
  User users_[count + most_users];              // by place in all_; only those of user contexts are used
  unsigned current_ = U, limit_ = most_users;
  u64 clock_ = 0, miss_target_ = 0;
};

template <class F>
u64 Context::drop_writes_if(F&& wanted) {
  u64 dropped = 0;
  for (auto& log : log_[static_cast<int>(AccessKind::write)]) {
    usize kept = 0;
    for (const u64 p : log) {
      u64 addend = 0;
      for (const u64 q : {2 * p, 2 * p + 1, p ? 2 * p - 1 : 2 * p})
        if (!addend && (shape_ == TableShape::tagged || populated(slot(q, AccessKind::write)))) addend = get(q, AccessKind::write);
      if (addend && wanted(p, addend)) {
        drop_write(p);
        dropped++;
      } else if (addend) {
        log[kept++] = p;
      }
    }
    log.resize(kept);
  }
  return dropped;
}

}  // namespace vmm::tcg
