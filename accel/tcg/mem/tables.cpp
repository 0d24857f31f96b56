// Sources: translator.md §4.2 (contexts, logs, bounds); mmap(2), madvise(2).
#include "accel/tcg/mem/tables.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "src/base/assert.h"
#include "src/base/bits.h"
#include "src/memory/ram_window.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace vmm::tcg {

namespace {
constexpr u64 chunk_bytes = 16 * KiB, reach_bytes = 2 * MiB;
// A log longer than cheap_log costs more to walk than the context to map anew. log_limit: 4 GiB touched page by page.
constexpr usize cheap_log = 64 * 1024, log_limit = 1536 * 1024, landing_limit = 64 * 1024;

void* map_sparse(u64 bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  madvise(at, bytes, MADV_NOHUGEPAGE);
  madvise(at, bytes, MADV_DONTDUMP);
  madvise(at, bytes, MADV_DONTFORK);
  return at;
}
bool test_bit(const u64* bits, u64 n) { return bits[n / 64] >> (n % 64) & 1; }
void set_bit(u64* bits, u64 n) { bits[n / 64] |= u64{1} << (n % 64); }
u64 filter_bit(u64 page) { return (page ^ page >> 12) & 4095; }
}  // namespace

u64 Context::total_bytes() const { return half_bytes() * 2 + header_bytes + 2 * chunk_bytes; }

Context::~Context() {
  if (start_) munmap(reinterpret_cast<void*>(start_), total_bytes());
  if (chunk_bits_) munmap(chunk_bits_, align_up(total_bytes() / chunk_bytes / 8 + 8, page_bytes));
  if (reach_bits_) munmap(reach_bits_, align_up(total_bytes() / reach_bytes / 8 + 8, page_bytes));
}

Result<> Context::reserve() {
  void* const at = map_sparse(total_bytes());
  if (!at) return fail_errno(format("cannot reserve {} MiB of address space for an address table", total_bytes() / MiB));
  start_ = reinterpret_cast<u64>(at);
  gs_ = align_up(start_ + half_bytes(), chunk_bytes);
  chunk_bits_ = static_cast<u64*>(map_sparse(align_up(total_bytes() / chunk_bytes / 8 + 8, page_bytes)));
  reach_bits_ = static_cast<u64*>(map_sparse(align_up(total_bytes() / reach_bytes / 8 + 8, page_bytes)));
  if (!chunk_bits_ || !reach_bits_) return fail_errno("cannot reserve the bitmaps of an address table");
  if (shape_ == TableShape::tagged) clear_tags();
  return {};
}

bool Context::populated(const u64* at) const { return test_bit(chunk_bits_, (reinterpret_cast<u64>(at) - start_) / chunk_bytes); }

void Context::populate(u64* at) {
  const u64 chunk = (reinterpret_cast<u64>(at) - start_) / chunk_bytes;
  if (test_bit(chunk_bits_, chunk)) return;
  madvise(reinterpret_cast<void*>(start_ + chunk * chunk_bytes), chunk_bytes, MADV_POPULATE_WRITE);  // older hosts fault instead
  set_bit(chunk_bits_, chunk);
  account(chunk_bytes);
}

void Context::clear_tags() {
  for (const u64 at : {tagged_read_tags, tagged_write_tags}) std::fill_n(reinterpret_cast<u64*>(gs_ + at), tagged_entries, no_tag);
}

bool Context::room_for(TableShape shape) {
  TableMemory held;
  Context probe{36, held, shape};
  return probe.reserve().has_value() && (shape != TableShape::direct || memory::ram_window_is_alone());
}

bool Context::note_miss(u64 q, AccessKind kind) {
  if (shape_ == TableShape::tagged) return true;
  const u64 reach = (reinterpret_cast<u64>(slot(q, kind)) - start_) / reach_bytes;
  if (!test_bit(reach_bits_, reach)) {
    set_bit(reach_bits_, reach);
    account(page_bytes);
  }
  return memory_.bytes <= memory_.cap;
}

void Context::fill(u64 q, AccessKind kind, u64 addend, bool global) {
  if (!index_bits_) return;
  const u64 last = (u64{2} << index_bits_) - 1;
  // Pairs that wrap or cross a half sum to the last cross slot, or to those of pages 2^35−1 and 2^34−1 (2^44−1 and 2^43−1 with 57 bits);
  // 32-bit pairs to that of page 0xfffff.
  constexpr auto forbidden = [](u64 page) {
    return page == (u64{1} << 35) - 1 || page == (u64{1} << 34) - 1 || page == (u64{1} << 44) - 1 || page == (u64{1} << 43) - 1 ||
           page == 0xfffff;
  };
  if (q >= last || (q & 1 && forbidden(q / 2))) return;
  auto& log = log_[static_cast<int>(kind)][global];
  if (log.size() >= log_limit) reset();
  if (shape_ == TableShape::tagged) {
    u64* const entry = tag(q, kind);
    entry[0] = -q;
    entry[tagged_entries] = addend;
  } else {
    u64* const at = slot(q, kind);
    populate(at);
    *at = addend;
  }
  const usize room = log.capacity();
  log.push_back(q / 2);
  if (log.capacity() != room) account((log.capacity() - room) * sizeof(u64));
}

void Context::account(u64 bytes) {
  own_bytes_ += bytes;
  memory_.bytes += bytes;
}

void Context::free_logs() {
  for (auto& kind : log_)
    for (auto& log : kind) {
      account(-(log.capacity() * sizeof(u64)));
      log = {};
    }
}

void Context::zero_around(u64 p, AccessKind kind) {
  if (p) zero(2 * p - 1, kind);  // p = 0 has none: there the header begins
  zero(2 * p, kind);
  zero(2 * p + 1, kind);
}

void Context::drop(u64 p) {
  if (!index_bits_) return;
  zero_around(p, AccessKind::read);
  zero_around(p, AccessKind::write);
}
void Context::drop_write(u64 p) {
  if (index_bits_) zero_around(p, AccessKind::write);
}

void Context::drop_range(u64 first_p, u64 count) {
  if (!index_bits_) return;
  const u64 limit = u64{1} << index_bits_;
  if (first_p >= limit) return;
  count = std::min(count, limit - first_p);
  if (shape_ == TableShape::tagged) {
    if (count > tagged_entries) return clear_tags();
    for (u64 p = first_p; p < first_p + count; p++) drop(p);
    return;
  }
  const u64 from = first_p ? 2 * first_p - 1 : 0, to = 2 * (first_p + count);
  for (const AccessKind kind : {AccessKind::read, AccessKind::write}) {
    u64 low = reinterpret_cast<u64>(slot(kind == AccessKind::read ? from : to - 1, kind));
    const u64 high = reinterpret_cast<u64>(slot(kind == AccessKind::read ? to - 1 : from, kind)) + 8;
    while (low < high) {
      const u64 end = std::min(high, start_ + ((low - start_) / chunk_bytes + 1) * chunk_bytes);
      if (populated(reinterpret_cast<u64*>(low))) std::memset(reinterpret_cast<void*>(low), 0, end - low);
      low = end;
    }
  }
}

void Context::clear_log(std::vector<u64>& log, AccessKind kind) {
  for (const u64 p : log) zero_around(p, kind);
  log.clear();
}

void Context::flush(bool keep_global, bool keep_landings) {
  if (!keep_global && log_[0][0].size() + log_[0][1].size() + log_[1][0].size() + log_[1][1].size() > cheap_log) return reset();
  if (index_bits_) {
    for (const AccessKind kind : {AccessKind::read, AccessKind::write})
      for (int global = 0; global <= (keep_global ? 0 : 1); global++) clear_log(log_[static_cast<int>(kind)][global], kind);
  }
  if (!keep_global) {
    large_4m_ = large_1g_ = {};
    if (!keep_landings) clear_jumps();
    return;
  }
  forget_landings(false);  // the filter stays: it may only say too much
}

void Context::forget_landings(bool global) {
  if (!std::exchange(landing_count_[global], 0)) return;
  for (auto& list : landings_[global]) {
    for (const Landing& l : list) clear_slot(l.slot);
    list.clear();
  }
}

void Context::flush_writes() {
  for (auto& log : log_[static_cast<int>(AccessKind::write)]) clear_log(log, AccessKind::write);
}

void Context::reset() {
  if (shape_ == TableShape::tagged) {
    clear_tags();
    free_logs();
    large_4m_ = large_1g_ = {};
    return clear_jumps();
  }
  void* const at = mmap(reinterpret_cast<void*>(start_), total_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  ASSERT(at != MAP_FAILED);
  madvise(at, total_bytes(), MADV_NOHUGEPAGE);
  madvise(at, total_bytes(), MADV_DONTDUMP);
  madvise(at, total_bytes(), MADV_DONTFORK);
  madvise(chunk_bits_, align_up(total_bytes() / chunk_bytes / 8 + 8, page_bytes), MADV_DONTNEED);
  madvise(reach_bits_, align_up(total_bytes() / reach_bytes / 8 + 8, page_bytes), MADV_DONTNEED);
  free_logs();
  memory_.bytes -= own_bytes_;
  own_bytes_ = 0;
  large_4m_ = large_1g_ = {};
  for (auto& lists : landings_)
    for (auto& list : lists) list.clear();
  landing_pages_ = {}, landing_count_ = {};
  for (u32 table = 0; table < jump_tables; table++)
    if (tables_enabled_ >> table & 1) enable_jump_table(table);
}

void Context::note_large_page(u64 address, u64 size) {
  address &= mask();
  if (size > 4 * MiB)
    set_bit(large_1g_.data(), address >> 30 & 4095);
  else
    set_bit(large_4m_.data(), address >> 22 & 4095);
}

void Context::drop_around(u64 address) {
  if (!index_bits_) return clear_jumps();
  const u64 masked = address & mask();
  const auto region = [&](u64 bytes) {
    drop_range(align_down(masked, bytes) >> page_bits, bytes >> page_bits);
    clear_jumps_of_pages(align_down(address, bytes), bytes);
  };
  if (test_bit(large_1g_.data(), masked >> 30 & 4095)) return region(GiB);
  if (test_bit(large_4m_.data(), masked >> 22 & 4095)) return region(4 * MiB);
  drop(masked >> page_bits);
  clear_jumps_of_pages(align_down(address, page_bytes), page_bytes);
}

void Context::enable_jump_table(u32 table) {
  u64* const slots = reinterpret_cast<u64*>(gs_ + jump_table_offset(table));
  std::fill_n(slots, jump_slots, miss_target_);
  u64* const victims = reinterpret_cast<u64*>(gs_ + victims_at + table * victims_bytes);
  for (u32 i = 0; i < victim_slots; i++)  // fresh memory stays untouched
    if (victims[2 * i + 1]) victims[2 * i + 1] = 0;
  tables_enabled_ |= 1u << table;
}

void Context::note_landing(const Landing& l, bool global) {
  set_bit(landing_pages_.data(), filter_bit(l.page));
  landings_[global][l.page % landing_lists].push_back(l);
  landing_count_[global]++;
}

void Context::set_jump(u32 table, u64 address, u64 landing, bool global, u32 code_page) {
  if (landing_count_[global] >= landing_limit) clear_jumps();
  const u64 page = address >> page_bits;
  const auto note = [&](u32 slot) {
    note_landing({slot, code_page, page}, global);
    if (code_page == no_code_page) note_landing({slot, code_page, page + 1}, global);  // it may go on there
  };
  const u32 slot = table * jump_slots + static_cast<u32>(jump_slot(address));
  u64& owner = *word(jump_addresses_at / 8 + slot);
  const u32 victim = static_cast<u32>((victims_at + table * victims_bytes) / 8 + 2 * victim_slot(address));
  const bool here = *word(slot) == miss_target_ || owner == address;
  const bool there = !here && (!word(victim)[1] || *word(victim) == -address);
  if (here || (!there && (victim_goes_ = !victim_goes_))) {
    if (*word(slot) == landing && owner == address) return;  // it is in the lists
    *word(slot) = landing, owner = address;
    return note(slot);
  }
  if (*word(victim) == -address && word(victim)[1] == landing) return;
  word(victim)[0] = -address, word(victim)[1] = landing;
  note(victim);
}

void Context::clear_jumps() {
  forget_landings(false), forget_landings(true);
  landing_pages_ = {};
}

void Context::clear_jumps_of_pages(u64 address, u64 bytes) {
  const u64 first = address >> page_bits, count = bytes >> page_bits;
  if (count == 1 && !test_bit(landing_pages_.data(), filter_bit(first))) return;
  const usize lists = std::min<u64>(count, landing_lists);
  for (auto& of : landings_)
    for (usize i = 0; i < lists; i++)
      std::erase_if(of[(first + i) % landing_lists],
                    [&](const Landing& l) { return l.page - first < count ? clear_slot(l.slot), true : false; });
}

// ---- the contexts of a vCPU

namespace {
// Address space that further user contexts of all vCPUs may reserve together: the first four contexts of a CPU that comes later need
// theirs too.
std::atomic<i64> spare_tib{40};
}  // namespace

Tables::Tables(TableShape shape, unsigned address_bits)
    : shape_(shape),
      address_bits_(address_bits),
      user_(address_bits - page_bits - 1, memory_, shape),
      kernel_strict_(address_bits - page_bits, memory_, shape),
      kernel_user_(address_bits - page_bits, memory_, shape),
      checked_(0, memory_, shape),
      all_{&user_, &kernel_strict_, &kernel_user_, &checked_} {}

Tables::~Tables() { spare_tib += static_cast<i64>(more_.size()); }

Result<> Tables::reserve() {
  for (Context* c : all_) TRY(c->reserve());
  return {};
}

void Tables::set_miss_target(u64 target) {
  miss_target_ = target;
  for (Context* c : all_) c->set_miss_target(target);
}

Context* Tables::find_space(u32 pcid) {
  for (unsigned i = 0; i < all_.size(); i++)
    if (is_user(i) && users_[i].pcid == pcid) return all_[i];
  return nullptr;
}

// An empty one: unused, fresh, or the one not used for longest.
unsigned Tables::user_for_new_space() {
  unsigned oldest = current_;
  for (unsigned i = 0; i < all_.size(); i++) {
    if (!is_user(i)) continue;
    if (users_[i].pcid == no_space) return all_[i]->flush(false), i;
    if (users_[i].used < users_[oldest].used) oldest = i;
  }
  if (more_.size() + 1 < limit_) {
    auto fresh = std::make_unique<Context>(address_bits_ - page_bits - 1, memory_, shape_);
    if (spare_tib.fetch_sub(1) > 0 && fresh->reserve()) {
      fresh->set_miss_target(miss_target_);
      all_.push_back(fresh.get());
      more_.push_back(std::move(fresh));
      return static_cast<unsigned>(all_.size() - 1);
    }
    spare_tib++;
    limit_ = static_cast<unsigned>(more_.size() + 1);
  }
  all_[oldest]->flush(false);
  return oldest;
}

void Tables::enter_space(u32 pcid, bool keep) {
  kernel_strict_.flush(true);
  kernel_user_.flush(true);
  checked_.flush(false);
  Context* const known = find_space(pcid);
  if (!known)
    current_ = user_for_new_space();
  else
    for (current_ = 0; all_[current_] != known;) current_++;
  if (known && !keep) known->flush(false);
  users_[current_] = {.pcid = pcid, .used = ++clock_};
}

void Tables::flush_space(u32 pcid) {
  if (Context* const c = find_space(pcid)) c->flush(false);
}
void Tables::invalidate_page_of(u32 pcid, u64 address) {
  if (Context* const c = find_space(pcid)) c->drop_around(address);
}

// The current context goes on without a name: the bits of CR3 may mean something else now, and it is nearly empty anyway.
void Tables::flush(bool keep_global, bool keep_landings) {
  for (unsigned i = 0; i < all_.size(); i++) {
    const bool kernel = !is_user(i) && i != UA;
    all_[i]->flush(keep_global && kernel, keep_landings && kernel);
  }
  for (User& u : users_) u.pcid = no_space;
}
void Tables::invalidate_page(u64 address) {
  for (unsigned i = 0; i < all_.size(); i++)
    if (!is_user(i) || i == current_ || all_[i]->holds_global()) all_[i]->drop_around(address);
}
void Tables::flush_writes() {
  for (Context* c : all_) c->flush_writes();
}
void Tables::drop_everything() { flush(false); }
void Tables::trim(Which current) {
  const unsigned keep = number(current);
  while (over_cap()) {
    unsigned victim = keep;
    u64 oldest = ~u64{0};
    for (unsigned i = 0; i < all_.size(); i++) {
      const u64 used = is_user(i) ? users_[i].used : clock_;
      if (i != keep && all_[i]->held_bytes() && used < oldest) victim = i, oldest = used;
    }
    all_[victim]->reset();
    if (victim == keep) return;
  }
}

}  // namespace vmm::tcg
