// See user_space.h. Source: SDM 3A §4.5 (tables of four and five levels), §4.10 (what a TLB may keep).
#include "accel/auto/user_space.h"

#include <cstring>

#include "accel/tcg/mem/pages.h"
#include "src/memory/ram.h"

namespace vmm::both {

using memory::ram_load;
using tcg::x86::physical_page;
using tcg::x86::System;

namespace {
constexpr u64 present = 1, writable = 2, user = 4, accessed = 0x20, dirty = 0x40, large = 0x80, nx = u64{1} << 63;
constexpr u64 frame = 0x000f'ffff'ffff'f000, large_frame = 0x000f'ffff'ffe0'0000;
constexpr u64 upper_entry = present | writable | user | accessed;
// Blocks of no engine, one for each page that a program executes under KVM: they die when it is stored to.
constexpr u64 scanned_key = u64{1} << 61 | u64{1} << 60, counter_key = scanned_key | 1;
struct Scanned final : tcg::CodeBlock {};
}  // namespace

u64 TablePages::take() {
  if (used_ == count_) return 0;
  const u64 at = physical_ + used_++ * bytes;
  std::memset(this->at(at), 0, bytes);
  return at;
}

void UserSpace::forget() {
  for (Space& s : spaces_) s = {};
  now_ = nullptr;
}

// The guest's entry of the second level, and what the levels down to it allow. False: none, or of another kind.
bool UserSpace::walk(u64 address, Walked& out) {
  const System& system = tcg::x86::system_of(cpu_);
  u64 table = cpu_.state.cr3 & frame;
  out = {};
  for (unsigned shift = cpu_.state.cr4 & vmm::x86::cr4_la57 ? 48 : 39;; shift -= 9) {
    const memory::PageInfo& page = physical_page(cpu_, table);
    if (!page.host) return false;
    const u64 e = ram_load<u64>(page.host + (address >> shift & 511) * 8);
    if ((e & (present | user | accessed)) != (present | user | accessed) || e & system.physical_mask) return false;
    out.write = out.write && e & writable, out.nx = out.nx || e & nx;
    if (shift == 21) return out.entry = e & ~dirty, out.dirty = e & dirty, true;
    if (e & large) return false;
    table = e & frame;
  }
}

// The guest's table of the last level; null for a large page.
const u8* UserSpace::table_of(const Leaf& leaf) { return leaf.entry & large ? nullptr : physical_page(cpu_, leaf.entry & frame).host; }

bool UserSpace::still(const Leaf& leaf, const u8* guest, unsigned i) {
  const u64 ours = pages_.at(leaf.table)[i];
  const u64 e = guest ? ram_load<u64>(guest + i * 8u) : leaf.guest[i] & (leaf.dirty ? ~u64{0} : ~dirty);
  if ((e | dirty) != leaf.guest[i] || (ours & writable && !(e & dirty))) return false;
  if (ours & writable) {
    if (!store_.pages().writable_without_asking(leaf.page[i])) return false;
    const memory::RamBlock* const block = memory::block_of(leaf.page[i]);
    if (!block || block->dirty_logging_mask()) return false;
  }
  if (ours & nx) return true;
  return (store_.find(leaf.page[i], 0, scanned_key) || store_.find(leaf.page[i], 0, counter_key)) &&
         (!(leaf.open[i / 64] >> i % 64 & 1) || end_is_fine(leaf, guest, i));
}

// What the guest has there now; null: nothing that is like code.
const u8* UserSpace::host_of(const Leaf& leaf, const u8* guest, unsigned i) {
  const u64 e = guest ? ram_load<u64>(guest + i * 8u) : leaf.entry;
  if ((e & (present | user)) != (present | user)) return nullptr;
  return physical_page(cpu_, guest ? e & frame : (e & large_frame) + i * memory::page_bytes).host;
}

bool UserSpace::end_is_fine(const Leaf& leaf, const u8* guest, unsigned i) {
  const u8* const page = host_of(leaf, guest, i);
  u8 last[2] = {}, next[2] = {};
  if (!page) return false;
  memory::ram_copy_out(last, page + memory::page_bytes - 2, 2);
  if (!ends_open(last)) return true;
  const u8* const following = i < 511 ? host_of(leaf, guest, i + 1) : nullptr;
  if (!following) return false;
  memory::ram_copy_out(next, following, 2);
  return !shown_over_the_end(last, next);
}

u64 UserSpace::refresh() {
  const System& system = tcg::x86::system_of(cpu_);
  const u64 cr3 = cpu_.state.cr3 & frame;
  static_cast<void>(physical_page(cpu_, cr3));
  if (system.generation != generation_) {
    forget();
    generation_ = system.generation;
  }
  if (!now_ || now_->cr3 != cr3) {
    now_ = &spaces_[0];
    for (Space& s : spaces_) {
      if (s.cr3 == cr3) {
        now_ = &s;
        break;
      }
      if (s.used < now_->used) now_ = &s;
    }
    if (now_->cr3 != cr3) *now_ = {}, now_->cr3 = cr3;
  }
  now_->used = ++uses_;
  for (int attempt = 0; attempt < 2; attempt++) {
    bool changed = now_->top == 0, full = false;
    for (auto it = now_->leaves.begin(); it != now_->leaves.end() && !full;) {
      Leaf& leaf = *it->second;
      Walked w;
      if (!walk(it->first << 21, w) || w.entry != leaf.entry || w.write != leaf.write || w.nx != leaf.nx) {
        it = now_->leaves.erase(it);
        changed = true;
        continue;
      }
      leaf.dirty = w.dirty;
      const u8* const guest = table_of(leaf);
      const u64* const ours = pages_.at(leaf.table);
      u64 lost[8] = {};
      bool any = false;
      for (unsigned i = 0; i < 512; i++)
        if (ours[i] & present && !still(leaf, guest, i)) lost[i / 64] |= u64{1} << i % 64, any = true;
      if (any) {
        const u64 fresh = pages_.take();
        if (!fresh) {
          full = true;
          break;
        }
        u64* const to = pages_.at(fresh);
        for (unsigned i = 0; i < 512; i++)
          if (!(lost[i / 64] >> i % 64 & 1)) to[i] = ours[i];
        leaf.table = fresh;
        changed = true;
      }
      ++it;
    }
    if (!full && (!changed || build(*now_))) return now_->top;
    forget();
    pages_.reset();
    if (!renew_()) return 0;
    now_ = &spaces_[0];
    now_->cr3 = cr3, now_->used = uses_;
  }
  return 0;
}

// The tables above those of the leaves, all new.
bool UserSpace::build(Space& space) {
  rebuilt_++;
  const u64 top = pages_.take();
  if (!top) return false;
  pages_.at(top)[511] = kernel_;
  for (const auto& [region, leaf] : space.leaves) {
    u64 table = top;
    for (const unsigned shift : {39u, 30u}) {
      u64& e = pages_.at(table)[region << 21 >> shift & 511];
      if (!e) {
        const u64 fresh = pages_.take();
        if (!fresh) return false;
        e = fresh | upper_entry;
      }
      table = e & frame;
    }
    pages_.at(table)[region & 511] = leaf->table | upper_entry;
  }
  space.top = top;
  return true;
}

UserSpace::Leaf* UserSpace::leaf_for(u64 address) {
  const u64 region = address >> 21;
  if (const auto known = now_->leaves.find(region); known != now_->leaves.end()) return known->second.get();
  Walked w;
  if (!walk(address, w)) return nullptr;
  if (now_->leaves.size() >= most_leaves) now_->leaves.clear(), now_->top = 0;
  auto leaf = std::make_unique<Leaf>();
  leaf->entry = w.entry, leaf->write = w.write, leaf->nx = w.nx;
  leaf->table = pages_.take();
  if (!leaf->table) return nullptr;
  Leaf& made = *leaf;
  now_->leaves[region] = std::move(leaf);
  if (!now_->top) return &made;  // refresh() builds all
  // Into the tables above: only what was empty is stored to.
  u64 table = now_->top;
  for (const unsigned shift : {39u, 30u}) {
    u64& e = pages_.at(table)[address >> shift & 511];
    if (!e) {
      const u64 fresh = pages_.take();
      if (!fresh) return now_->top = 0, &made;
      e = fresh | upper_entry;
    }
    table = e & frame;
  }
  u64& e = pages_.at(table)[region & 511];
  if (e)
    now_->top = 0;
  else
    e = made.table | upper_entry;
  return &made;
}

// What the page's code shows a program of the host. What was found holds until the page is stored to.
Shows UserSpace::shown(Leaf& leaf, const u8* guest, unsigned i, u64 page, const u8* host) {
  if (store_.find(page, 0, scanned_key)) return Shows::nothing;
  if (store_.find(page, 0, counter_key)) return Shows::counter;
  tcg::CodePage* const words = store_.pages().get(page);
  if (!words) return Shows::host;
  constexpr u32 most_killed = 64;
  if (const auto known = refused_.find(page); known != refused_.end() && known->second == words->version.load(std::memory_order_acquire))
    return Shows::host;
  if (refused_.size() > 4096 || killed_.size() > 4096) refused_.clear(), killed_.clear();
  if (++killed_[page] > most_killed) return Shows::host;  // code that is made while it runs
  words->dropping.fetch_add(1, std::memory_order_seq_cst);
  const bool fresh = words->granules.load(std::memory_order_seq_cst) == 0;
  const tcg::BlockStore::Claim claim = store_.announce(page, 0, memory::page_bytes);
  if (fresh) drop_(self_, page);
  const bool settled = words->dropping.fetch_sub(1, std::memory_order_seq_cst) == 1;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  constexpr usize before = 128;
  u8 bytes[before + memory::page_bytes];
  const u8* const below = i > 0 ? host_of(leaf, guest, i - 1) : nullptr;
  if (below) memory::ram_copy_out(bytes, below + memory::page_bytes - before, before);
  memory::ram_copy_out(bytes + before, host, memory::page_bytes);
  const usize first = below ? 0 : before;
  const Shows shows = shown_by(std::span{bytes}.subspan(first), before - first, tcg::x86::key_of(cpu_), cpu_.features);
  if (shows == Shows::host) {
    refused_[page] = claim.version;
    refused_code_++;
    return shows;
  }
  if (!settled) return Shows::host;
  auto block = std::make_unique<Scanned>();
  block->page = page, block->bytes = memory::page_bytes, block->key = shows == Shows::counter ? counter_key : scanned_key;
  Scanned& made = *block.release();  // the store's, also when it refuses
  return store_.insert(made, {&claim, 1}) ? shows : Shows::host;
}

void UserSpace::enter(Leaf& leaf, const u8* guest, unsigned i, bool execute) {
  const System& system = tcg::x86::system_of(cpu_);
  const u64 e = guest ? ram_load<u64>(guest + i * 8u) : leaf.entry | (leaf.dirty ? dirty : 0);
  if ((e & (present | user | accessed)) != (present | user | accessed) || e & system.physical_mask) return;
  if (cpu_.state.cr4 & vmm::x86::cr4_pke && e >> 59 & 15) return;
  const u64 at = guest ? e & frame : (leaf.entry & large_frame) + i * memory::page_bytes;
  const memory::PageInfo info = physical_page(cpu_, at);
  if (!info.host || tcg::x86::is_apic_page(cpu_, at) || !machine_.add(*info.block)) return;
  u64& ours = pages_.at(leaf.table)[i];
  // Of another time: refresh() has not looked since.
  if (ours & present && ((leaf.guest[i] ^ e) & ~dirty || leaf.page[i] != info.page)) return;
  u64 made = UserMachine::physical(info.page) | present | user | accessed | nx | (ours & present ? ours & (writable | dirty) : 0);
  if (ours & present && !(ours & nx)) made &= ~nx;
  const bool may_write = leaf.write && e & writable && e & dirty && !info.read_only && !info.block->dirty_logging_mask();
  tcg::CodePage* const words = store_.pages().get(info.page);
  if (may_write && words && !(made & writable)) {
    words->writers.fetch_or(u64{1} << system.index % 64, std::memory_order_seq_cst);
    if (!words->granules.load(std::memory_order_seq_cst) && !info.block->dirty_logging_mask()) made |= writable | dirty;
  }
  if (execute && !leaf.nx && !(e & nx)) {
    const Shows shows = shown(leaf, guest, i, info.page, info.host);
    u8 last[2];
    memory::ram_copy_out(last, info.host + memory::page_bytes - 2, 2);
    const u64 bit = u64{1} << i % 64;
    leaf.open[i / 64] = (leaf.open[i / 64] & ~bit) | (ends_open(last) ? bit : 0);
    if (shows != Shows::host && end_is_fine(leaf, guest, i)) {
      made &= ~nx;
      if (shows == Shows::counter) now_->counter = true;
    }
  }
  leaf.guest[i] = e | dirty, leaf.page[i] = info.page;
  ours = made;
}

bool UserSpace::fill(u64 address, u32 error_code) {
  constexpr u32 code_write = 2, code_fetch = 16;
  refused_now_ = false;
  if (address >> 47 || !now_) return false;
  const bool fetch = error_code & code_fetch, write = error_code & code_write;
  tcg::PageView view;
  const u16 access = fetch ? tcg::ir::Access::fetch : write ? tcg::ir::Access::write : tcg::ir::Access::data;
  if (!cpu_.memory->probe(cpu_, address, access, view) || !view.host) return false;
  Leaf* const leaf = leaf_for(address);
  Walked w;
  if (!leaf || !walk(address, w) || w.entry != leaf->entry) return false;
  leaf->dirty = w.dirty;
  const u8* const guest = table_of(*leaf);
  if (!guest && !(leaf->entry & large)) return false;
  const unsigned wanted = address >> 12 & 511;
  const u64 before = pages_.at(leaf->table)[wanted];
  enter(*leaf, guest, wanted, fetch);
  const u64 now = pages_.at(leaf->table)[wanted];
  refused_now_ = fetch && now & present && now & nx;
  if (!(now & present) || (fetch && now & nx) || (write && !(now & writable))) return false;
  // Seen once already as it is: something else is amiss.
  if (before == now) return false;
  fills_++;
  // Its neighbours, as far as the guest has used them: that changes nothing that the guest could see.
  const unsigned reach = fetch ? 16 : 512, first = wanted & ~(reach - 1);
  for (unsigned i = first; i < first + reach; i++)
    if (i != wanted && !(pages_.at(leaf->table)[i] & present)) {
      const bool text = fetch && guest && !(ram_load<u64>(guest + i * 8u) & writable);
      enter(*leaf, guest, i, text);
    }
  return true;
}

}  // namespace vmm::both
