// Dirty bitmaps of nodes: which granules have been written to since a moment that the manager chose. Kept in memory while the node is
// open. Named by node and bitmap; commands on the main loop, marks from the node's loop.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

class DirtyBitmap final : public WriteWatcher {
 public:
  DirtyBitmap(std::string name, u64 length_bytes, u32 granularity);
  const std::string& name() const { return name_; }
  u32 granularity() const { return granularity_; }
  u64 dirty_bytes() const;
  bool recording() const { return recording_.load(std::memory_order_relaxed); }
  void set_recording(bool on) { recording_.store(on, std::memory_order_relaxed); }
  bool busy() const { return busy_; }  // by an export or a job
  void set_busy(bool on) { busy_ = on; }

  void after_write(u64 offset, u64 length) override {
    if (recording()) set(offset, length);
  }
  void set(u64 offset, u64 length);
  // What is set at `offset`, and for how many bytes that holds, `length` at most.
  std::pair<bool, u64> run_at(u64 offset, u64 length) const;
  using Bits = std::vector<u64>;
  Bits bits() const;
  Bits exchange_bits(Bits bits);  // returns what it was before
  Bits take_bits() { return exchange_bits({}); }
  void add_bits(const Bits& bits);           // of the same granularity
  void add_bitmap(const DirtyBitmap& from);  // of any

 private:
  void set_locked(u64 offset, u64 length) REQUIRES(mutex_);
  const std::string name_;
  const u32 granularity_;
  bool busy_ = false;
  std::atomic<bool> recording_{true};
  mutable Mutex mutex_;
  Bits words_ GUARDED_BY(mutex_);  // grows with the disk
};
using BitmapRef = std::shared_ptr<DirtyBitmap>;

BitmapRef find_bitmap(const BlockNode& node, std::string_view name);
std::vector<BitmapRef> bitmaps_of(const BlockNode& node);
Result<> add_bitmap(BlockNode& node, BitmapRef bitmap);  // the name must be new; the node is at rest
void remove_bitmap(BlockNode& node, const BitmapRef& bitmap);
Value describe_bitmap(const DirtyBitmap& bitmap);  // as query-block has it

}  // namespace vmm::block
