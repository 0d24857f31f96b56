// The code cache: one sealed memfd, mapped executable for the vCPUs and writable for the translator, never both at one address
// (translator.md §1, §7). It is filled slab by slab, and emptied so. What belongs to a slab's code (block records, edges, landings)
// lies in the slab's notes and goes with it.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::tcg {

// Not thread-safe but for contains(), slab_of() and writable().
class CodeCache {
 public:
  static Result<std::unique_ptr<CodeCache>> make(u64 bytes);
  ~CodeCache();
  CodeCache(const CodeCache&) = delete;

  u64 base() const { return run_; }
  u64 size() const { return size_; }
  bool contains(u64 host) const { return host - run_ < size_; }
  // The writable view of an executable address.
  u8* writable(u64 host) const { return reinterpret_cast<u8*>(write_ + (host - run_)); }

  // Free space of the current slab; empty when less than `least` bytes are left.
  std::span<u8> space(u64 least);
  u64 cursor() const { return run_ + used_; }
  // Takes of what space() gave.
  void take(u64 bytes);
  // What was taken until now (thunks) stays for ever; slabs begin after it.
  void keep();

  // Zeroed bytes that live until the slab is emptied; null: the slab has no room for them.
  void* note(u64 bytes, u64 alignment);
  bool room_for_notes(u64 bytes) const;

  unsigned slabs() const { return static_cast<unsigned>(states_.size()); }
  unsigned current() const { return current_; }
  unsigned slab_of(u64 host) const { return static_cast<unsigned>((host - run_ - kept_) / slab_bytes_); }
  // Goes on in a free slab; false: there is none.
  bool next();
  unsigned free_slabs() const { return static_cast<unsigned>(free_.size()); }
  // The slab filled longest ago that is not the current one; false: none.
  bool oldest(unsigned& slab) const;
  // From now on nothing is found in the oldest slab, but its bytes stay (translator.md §7, "in limbo").
  void retire_oldest();
  // Nobody is in the retired slab any more: its memory is free.
  void empty(unsigned slab);
  // Code and notes of all slabs that are not free, in bytes.
  u64 bytes_in_use() const;

 private:
  CodeCache() = default;
  void unmap_finished();
  static constexpr u64 alignment = 16;
  Fd fd_;
  u64 size_ = 0, run_ = 0, write_ = 0, notes_ = 0;
  u64 used_ = 0, kept_ = 0, end_ = 0, unmapped_ = 0, slab_bytes_ = 0;
  unsigned current_ = 0;
  struct Slab {
    u64 notes_used = 0;
  };
  std::vector<Slab> states_;
  std::deque<unsigned> free_, filled_;  // filled: oldest first, the current one last
  u64 retired_bytes_ = 0;
};

}  // namespace vmm::tcg
