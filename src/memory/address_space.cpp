// Accesses through an address space: by CPUs (one naturally sized access) and by bus masters (any length).
#include <algorithm>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/memory/memory.h"
#include "src/memory/ram.h"
#include "src/memory/reader.h"
#include "src/memory/stored.h"

namespace vmm::memory {

namespace {
thread_local bool ram_only = false;

u64 load_sized(const u8* host, unsigned size) {
  switch (size) {
    case 1: return ram_load<u8>(host);
    case 2: return ram_load<u16>(host);
    case 4: return ram_load<u32>(host);
    default: return ram_load<u64>(host);
  }
}
void store_sized(u8* host, unsigned size, u64 value) {
  switch (size) {
    case 1: return ram_store<u8>(host, u8(value));
    case 2: return ram_store<u16>(host, u16(value));
    case 4: return ram_store<u32>(host, u32(value));
    default: return ram_store<u64>(host, value);
  }
}
// The largest aligned access at `at` that is not longer than `left`.
unsigned natural(u64 at, u64 left) {
  unsigned n = at & 7 ? 1u << std::countr_zero(at & 7) : 8;
  while (n > left) n >>= 1;
  return n;
}
}  // namespace

// After the bytes: whoever syncs the dirty log or translates code either sees them, or is seen by us (translator.md §7, §9).
void ram_stored(RamBlock& block, u64 offset, u64 length) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  block.mark_dirty(offset, length);
  if (CodeListener* listener = code_listener.load(std::memory_order_acquire)) listener->ram_written(block, offset, length);
}

void set_thread_ram_only(bool on) { ram_only = on; }

PageInfo AddressSpace::page(GuestPhys address) const {
  ReadPin pin;
  const u64 first = align_down(address.value, page_bytes);
  const FlatRange* r = view_.load(std::memory_order_seq_cst)->find(first);
  if (!r || !r->ram || r->last - first < page_bytes - 1) return {};
  const u64 offset = r->ram_offset + (first - r->first);
  if (offset % page_bytes || offset + page_bytes > r->ram->size_bytes()) return {};
  return {.host = r->ram->host() + offset,
          .block = r->ram,
          .block_offset = offset,
          .page = r->ram->first_page() + PageNumber(offset / page_bytes),
          .read_only = r->read_only};
}

// --- One access. I/O regions see it whole even where a smaller region lies on top of its tail (ports 0xcf8 and 0xcf9), as long as it
// stays within their own size; else it is taken in halves.

AddressSpace::Step AddressSpace::try_load(u64 at, unsigned size, u64& value) const {
  ReadPin pin;
  const FlatRange* r = view_.load(std::memory_order_seq_cst)->find(at);
  if (!r) return size == 1 ? Step::nothing : Step::split;
  const u64 within = at - r->first;
  if (r->ram) {
    if (r->last - at < size - 1) return Step::split;
    value = load_sized(r->ram->host() + r->ram_offset + within, size);
    return Step::done;
  }
  MemoryRegion& region = *r->region;
  if (region.size() - (r->offset + within) < size) return Step::split;
  if (ram_only) return Step::nothing;
  if (region.wants_lock()) {
    if (!machine_lock.held_by_this_thread()) return Step::lock;
    const u64 offset = r->offset + within;
    pin.let_go();  // the lock holds the topology
    return region.read(offset, size, value) ? Step::done : Step::nothing;
  }
  return region.read(r->offset + within, size, value) ? Step::done : Step::nothing;
}

AddressSpace::Step AddressSpace::try_store(u64 at, unsigned size, u64 value, bool into_rom) const {
  ReadPin pin;
  const FlatRange* r = view_.load(std::memory_order_seq_cst)->find(at);
  if (!r) return size == 1 ? Step::nothing : Step::split;
  const u64 within = at - r->first;
  MemoryRegion& region = *r->region;
  if (r->ram && (!r->read_only || into_rom || region.kind() != MemoryRegion::Kind::rom_device)) {
    if (r->last - at < size - 1) return Step::split;
    if (r->read_only && !into_rom) return Step::done;
    store_sized(r->ram->host() + r->ram_offset + within, size, value);
    ram_stored(*r->ram, r->ram_offset + within, size);
    return Step::done;
  }
  if (region.size() - (r->offset + within) < size) return Step::split;
  if (region.ring(r->offset + within, size, value)) return Step::done;
  if (ram_only) return Step::nothing;
  if (region.wants_lock()) {
    if (!machine_lock.held_by_this_thread()) return Step::lock;
    const u64 offset = r->offset + within;
    pin.let_go();
    return region.write(offset, size, value) ? Step::done : Step::nothing;
  }
  return region.write(r->offset + within, size, value) ? Step::done : Step::nothing;
}

bool AddressSpace::load_any(u64 at, unsigned size, u64& value) const {
  value = mask_of_size(size);
  Step step = try_load(at, size, value);
  if (step == Step::lock) {
    // Not while pinned: who holds the lock may be waiting for readers. What the view says is asked anew, since it may have changed.
    MachineLocked lock;
    step = try_load(at, size, value);
  }
  if (step == Step::done) return true;
  if (step == Step::split && size > 1) {
    const unsigned half = size / 2;
    u64 low, high;
    const bool low_met = load_any(at, half, low), high_met = load_any(at + half, half, high);
    value = low | high << (half * 8);
    return low_met && high_met;
  }
  if (ram_only) guest_error(name_, "bus master outside the main loop reads {:#x}, which is not RAM", at);
  value = mask_of_size(size);
  return false;
}

bool AddressSpace::store_any(u64 at, unsigned size, u64 value, bool into_rom) const {
  Step step = try_store(at, size, value, into_rom);
  if (step == Step::lock) {
    MachineLocked lock;
    step = try_store(at, size, value, into_rom);
  }
  if (step == Step::done) return true;
  if (step == Step::split && size > 1) {
    const unsigned half = size / 2;
    const bool low_met = store_any(at, half, value & mask_of_size(half), into_rom);
    return store_any(at + half, half, value >> (half * 8), into_rom) && low_met;
  }
  if (ram_only) guest_error(name_, "bus master outside the main loop writes {:#x}, which is not RAM", at);
  return false;
}

u64 AddressSpace::load(GuestPhys address, unsigned size) const {
  u64 value;
  load_any(address.value, size, value);
  return value;
}
void AddressSpace::store(GuestPhys address, unsigned size, u64 value) const { store_any(address.value, size, value, false); }

// --- Any length

bool AddressSpace::read(GuestPhys address, std::span<u8> into) const {
  bool met = true;
  u64 at = address.value;
  while (!into.empty()) {
    usize done = 0, piece = 8;
    {
      ReadPin pin;
      const FlatView& view = *view_.load(std::memory_order_seq_cst);
      const FlatRange* r = view.find(at);
      if (r && r->ram) {
        done = std::min<u64>(into.size() - 1, r->last - at) + 1;
        ram_copy_out(into.data(), r->ram->host() + r->ram_offset + (at - r->first), done);
      } else if (!r) {  // up to what comes next
        auto next = std::ranges::lower_bound(view.ranges(), at, {}, &FlatRange::first);
        done = std::min<u64>(into.size() - 1, (next == view.ranges().end() ? ~u64{0} : next->first - 1) - at) + 1;
        std::memset(into.data(), 0xff, done);
        met = false;
      } else {
        piece = r->region->largest_access();
      }
    }
    if (!done) {
      done = natural(at, std::min(into.size(), piece));
      u64 value;
      met &= load_any(at, unsigned(done), value);
      std::memcpy(into.data(), &value, done);
    }
    at += done;
    into = into.subspan(done);
    if (!at && !into.empty()) {  // past the end of addresses
      std::ranges::fill(into, 0xff);
      return false;
    }
  }
  return met;
}

bool AddressSpace::write_any(GuestPhys address, std::span<const u8> from, bool into_rom) const {
  bool met = true;
  u64 at = address.value;
  while (!from.empty()) {
    usize done = 0, piece = 8;
    {
      ReadPin pin;
      const FlatView& view = *view_.load(std::memory_order_seq_cst);
      const FlatRange* r = view.find(at);
      if (r && r->ram && (!r->read_only || into_rom || r->region->kind() != MemoryRegion::Kind::rom_device)) {
        done = std::min<u64>(from.size() - 1, r->last - at) + 1;
        if (!r->read_only || into_rom) {
          const u64 offset = r->ram_offset + (at - r->first);
          ram_copy_in(r->ram->host() + offset, from.data(), done);
          ram_stored(*r->ram, offset, done);
        }
      } else if (!r) {
        auto next = std::ranges::lower_bound(view.ranges(), at, {}, &FlatRange::first);
        done = std::min<u64>(from.size() - 1, (next == view.ranges().end() ? ~u64{0} : next->first - 1) - at) + 1;
        met = false;
      } else {
        piece = r->region->largest_access();
      }
    }
    if (!done) {
      done = natural(at, std::min(from.size(), piece));
      u64 value = 0;
      std::memcpy(&value, from.data(), done);
      met &= store_any(at, unsigned(done), value, into_rom);
    }
    at += done;
    from = from.subspan(done);
    if (!at && !from.empty()) return false;
  }
  return met;
}

bool AddressSpace::write(GuestPhys address, std::span<const u8> from) const { return write_any(address, from, false); }
bool AddressSpace::write_rom(GuestPhys address, std::span<const u8> from) const { return write_any(address, from, true); }

}  // namespace vmm::memory
