// Where an image keeps L2 tables and refcount blocks, so that no write for anything else ever lands there (qcow2.h, "Overlap checks"). A
// sorted list made from the tables, and what has come and gone since.
#pragma once

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "src/base/types.h"

namespace vmm::block::qcow2 {

enum class Region : u8 { none, header, active_l1, active_l2, refcount_block, refcount_table, snapshot_table, inactive_l1, inactive_l2 };
std::string_view region_name(Region region);

class ClusterSet {
 public:
  // Offsets of whole clusters, in any order.
  void assign(std::vector<u64> all) {
    sorted_ = std::move(all);
    std::ranges::sort(sorted_);
    added_.clear(), removed_.clear();
  }
  void add(u64 offset) {
    removed_.erase(offset);
    added_.insert(offset);
    if (added_.size() > 4096 && added_.size() > sorted_.size() / 8) {
      std::erase_if(sorted_, [this](u64 o) { return removed_.contains(o); });
      sorted_.insert(sorted_.end(), added_.begin(), added_.end());
      assign(std::move(sorted_));
    }
  }
  void remove(u64 offset) {
    if (!added_.erase(offset)) removed_.insert(offset);
  }
  // The first one in [begin, end), or end.
  u64 find(u64 begin, u64 end, u64 cluster_bytes) const {
    for (auto at = std::ranges::lower_bound(sorted_, begin); at != sorted_.end() && *at < end; ++at)
      if (!removed_.contains(*at)) return *at;
    if (!added_.empty())
      for (u64 o = begin; o < end; o += cluster_bytes)
        if (added_.contains(o)) return o;
    return end;
  }

 private:
  std::vector<u64> sorted_;
  std::unordered_set<u64> added_, removed_;
};

}  // namespace vmm::block::qcow2
