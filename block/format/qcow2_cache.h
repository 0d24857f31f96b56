// A bounded cache of slices (4 KiB, or the cluster if that is smaller) of L2 tables or refcount blocks. A slice in use is pinned. Dirty
// slices are written by their owner, who alone knows in which order (qcow2_writeback.cpp).
#pragma once

#include <algorithm>
#include <list>
#include <unordered_map>

#include "block/core/node.h"
#include "src/base/bits.h"

namespace vmm::block::qcow2 {

struct Slice {
  u64 offset = 0;  // in the image file
  std::vector<u8> bytes;
  bool dirty = false, loading = false, used = true;
  u32 pins = 0;
  std::list<u64>::iterator age;
};

// Keeps a slice from being dropped.
class SliceRef {
 public:
  SliceRef() = default;
  explicit SliceRef(Slice* s) : slice_(s) { slice_->pins++; }
  SliceRef(SliceRef&& o) noexcept : slice_(std::exchange(o.slice_, nullptr)) {}
  SliceRef& operator=(SliceRef&& o) noexcept {
    if (this != &o) drop(), slice_ = std::exchange(o.slice_, nullptr);
    return *this;
  }
  ~SliceRef() { drop(); }
  Slice* operator->() const { return slice_; }
  Slice& operator*() const { return *slice_; }
  explicit operator bool() const { return slice_; }

 private:
  void drop() {
    if (auto* s = std::exchange(slice_, nullptr)) s->pins--;
  }
  Slice* slice_ = nullptr;
};

// A copy of what a dirty slice held when it was taken for writing; the pin keeps readers from the stale file.
struct DirtyCopy {
  SliceRef slice;
  std::vector<u8> bytes;
};

class SliceCache {
 public:
  // Owner: writes dirty slices so that some can be dropped.
  class Owner {
   public:
    virtual Task<> make_clean(SliceCache& cache) = 0;

   protected:
    ~Owner() = default;
  };
  SliceCache(Owner& owner) : owner_(owner) {}
  void set_up(Edge& file, u64 slice_bytes, u64 limit_bytes) {
    file_ = &file, slice_bytes_ = slice_bytes;
    limit_ = std::max<u64>(limit_bytes / slice_bytes, 8);
  }
  u64 slice_bytes() const { return slice_bytes_; }
  u64 slice_start(u64 offset) const { return align_down(offset, slice_bytes_); }
  u64 limit() const { return limit_; }

  // The slice at `offset` (a multiple of the slice size), if it is here now.
  SliceRef find(u64 offset) {
    const auto at = slices_.find(offset);
    if (at == slices_.end() || at->second.loading) return {};
    ages_.splice(ages_.begin(), ages_, at->second.age);
    at->second.used = true;
    return SliceRef{&at->second};
  }
  // The same, read from the file if need be.
  Task<SliceRef> get(u64 offset);
  void mark_dirty(Slice& s) { dirty_ += !std::exchange(s.dirty, true); }
  u64 dirty() const { return dirty_; }
  u64 size() const { return slices_.size(); }
  // Copies of all dirty slices by ascending offset, which become clean.
  std::vector<DirtyCopy> take_dirty();
  // Forgets slices that no longer exist in the file (their clusters have been given up), or all; dirty ones too.
  void forget(u64 offset, u64 bytes);
  void forget_all() { forget(0, ~u64{0}); }
  // Drops clean slices that were not used since the last call (cache-clean-interval).
  void drop_unused();

 private:
  Owner& owner_;
  Edge* file_ = nullptr;
  u64 slice_bytes_ = 4096, limit_ = 8, dirty_ = 0;
  std::unordered_map<u64, Slice> slices_;
  std::list<u64> ages_;  // offsets, the last used first
  WaitList loaded_;
};

}  // namespace vmm::block::qcow2
