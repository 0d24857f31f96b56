// What filters share: a node that passes everything on to the one below. A filter overrides what it is there for.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

class Filter : public BlockNode {
 public:
  Task<> read(u64 offset, IoVector into) override { return below().read(offset, std::move(into)); }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override { return below().write(offset, std::move(from), flags); }
  Task<> flush() override { return below().flush(); }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override { return below().zero(offset, length, flags); }
  Task<> discard(u64 offset, u64 length) override { return below().discard(offset, length); }
  Task<Extent> map(u64 offset, u64 length) override { return below().map(offset, length); }
  Task<> truncate(u64 length, Preallocation preallocation) override { return below().truncate(length, preallocation); }
  u64 length_bytes() const override { return below_ ? below_->length_bytes() : 0; }
  Limits limits() const override { return below_->node().limits(); }
  bool grows() const override { return below_->node().grows(); }
  u64 cluster_bytes() const override { return below_->node().cluster_bytes(); }
  Task<> open(Value options) override {
    auto ready = find_below();
    if (ready) ready = set_options(options);
    co_return ready;
  }

 protected:
  Edge& below() const { return *below_; }
  virtual Result<> set_options(const Value& options) { return assign_fields(nullptr, {}, options); }
  Result<> find_below() {
    for (const auto& c : children())
      if (c->role() == Role::filtered) below_ = c.get();
    if (!below_) return fail("A block device must be specified for \"{}\"", driver().children.front());
    return {};
  }

 private:
  Edge* below_ = nullptr;
};

inline constexpr std::string_view filter_children[] = {"file"};

}  // namespace vmm::block
