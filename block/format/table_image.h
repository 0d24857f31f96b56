// What vdi, vpc and vmdk have in common: a table from blocks of the disk to places in the file, kept in memory; new blocks go to the end of
// the file. A block is complete in the file before its table entry names it.
#pragma once

#include "block/core/node.h"
#include "src/base/wire.h"

namespace vmm::block {

class TableImage : public BlockNode {
 public:
  Task<> read(u64 offset, IoVector into) override;
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override;
  Task<Extent> map(u64 offset, u64 length) override;
  u64 length_bytes() const final { return length_; }
  Limits limits() const final { return {.request_alignment = 512, .optimal_transfer = block_bytes_}; }
  u64 cluster_bytes() const override { return block_bytes_; }

 protected:
  static constexpr u64 absent = ~u64{0}, zero = absent - 1;  // table entries without a place
  static constexpr u64 most_entries = 8 << 20;               // 64 MiB of memory
  // Space for one more block: where its data goes. What surrounds the data is the format's business.
  virtual Task<u64> claim_block(u64 index) = 0;
  // The entry is in the file when this ends.
  virtual Task<> store_entry(u64 index) = 0;
  // Bytes at `at` of a block that are stored otherwise than plainly (compressed): true if it has answered.
  virtual Task<bool> read_block(u64 /*index*/, u64 /*at*/, IoVector /*into*/) { co_return false; }
  Edge& file() const { return *child("file"); }
  Task<> read_below(u64 offset, IoVector into);  // of the backing file, or zeros

  u64 length_ = 0, block_bytes_ = 1 * MiB;
  std::vector<u64> table_;

 private:
  AsyncMutex allocating_;
};

}  // namespace vmm::block
