#include "block/format/qcow2_cache.h"

namespace vmm::block::qcow2 {

Task<SliceRef> SliceCache::get(u64 offset) {
  for (;;) {
    const auto at = slices_.find(offset);
    if (at != slices_.end()) {
      if (!at->second.loading) co_return find(offset);
      co_await loaded_.wait();
      continue;
    }
    if (slices_.size() < limit_) break;
    // The oldest that nobody uses goes; where all are dirty, the owner writes them. More than the limit is held only while as many are
    // pinned.
    bool dropped = false, all_pinned = true;
    for (auto age = ages_.rbegin(); age != ages_.rend() && !dropped; ++age) {
      const auto old = slices_.find(*age);
      if (old->second.pins || old->second.loading) continue;
      all_pinned = false;
      if (old->second.dirty) continue;
      ages_.erase(old->second.age);
      slices_.erase(old);
      dropped = true;
    }
    if (dropped || all_pinned) break;
    co_await owner_.make_clean(*this);
  }
  Slice& s = slices_[offset];
  s.offset = offset, s.loading = true;
  s.bytes.resize(slice_bytes_);
  ages_.push_front(offset);
  s.age = ages_.begin();
  SliceRef ref{&s};
  const Result<> read = co_await attempt(file_->read(offset, IoVector{std::span{s.bytes}}));
  s.loading = false;
  if (!read) {
    ref = {};
    ages_.erase(s.age);
    slices_.erase(offset);
    loaded_.wake_all();
    co_return std::unexpected(read.error());
  }
  loaded_.wake_all();
  co_return std::move(ref);
}

std::vector<DirtyCopy> SliceCache::take_dirty() {
  std::vector<DirtyCopy> list;
  if (!dirty_) return list;
  list.reserve(dirty_);
  for (auto& [offset, s] : slices_) {
    if (!s.dirty) continue;
    s.dirty = false;
    list.push_back({SliceRef{&s}, s.bytes});
  }
  dirty_ = 0;
  std::ranges::sort(list, {}, [](const DirtyCopy& c) { return c.slice->offset; });
  return list;
}

void SliceCache::forget(u64 offset, u64 bytes) {
  const auto drop = [this](auto at) {
    Slice& s = at->second;
    if (s.pins || s.loading) return std::next(at);
    dirty_ -= s.dirty;
    ages_.erase(s.age);
    return slices_.erase(at);
  };
  if (bytes / slice_bytes_ <= slices_.size()) {
    for (u64 at = slice_start(offset); at < offset + bytes; at += slice_bytes_)
      if (const auto found = slices_.find(at); found != slices_.end()) drop(found);
    return;
  }
  for (auto at = slices_.begin(); at != slices_.end();) at = at->first >= offset && at->first - offset < bytes ? drop(at) : std::next(at);
}

void SliceCache::drop_unused() {
  for (auto at = slices_.begin(); at != slices_.end();) {
    Slice& s = at->second;
    if (std::exchange(s.used, false) || s.dirty || s.pins || s.loading) {
      ++at;
      continue;
    }
    ages_.erase(s.age);
    at = slices_.erase(at);
  }
}

}  // namespace vmm::block::qcow2
