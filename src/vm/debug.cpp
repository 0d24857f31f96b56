#include "src/vm/debug.h"

#include <algorithm>

namespace vmm::vm {

namespace {
constexpr u64 page_mask = ~u64{0xfff};
}

bool Debug::insert(const DebugPoint& point) {
  if (std::ranges::find(points_, point) != points_.end()) return true;
  if (points_.size() == most_points) return false;
  points_.push_back(point);
  if (holds_ && !holds_(points_)) {
    points_.pop_back();
    return false;
  }
  rebuild();
  return true;
}

bool Debug::remove(const DebugPoint& point) {
  const auto at = std::ranges::find(points_, point);
  if (at == points_.end()) return false;
  points_.erase(at);
  rebuild();
  return true;
}

void Debug::clear() {
  points_.clear();
  rebuild();
}

void Debug::rebuild() {
  watch_.clear(), code_.clear(), pages_.clear(), cuts_.clear();
  for (const DebugPoint& p : points_) {
    if (!p.code()) {
      watch_.push_back(p);
      continue;
    }
    code_.push_back(p.address);
    pages_.push_back(p.address & page_mask);
    cuts_.push_back(static_cast<u16>(p.address & ~page_mask));
  }
  const auto sort = [](auto& list) {
    std::ranges::sort(list);
    const auto rest = std::ranges::unique(list);
    list.erase(rest.begin(), rest.end());
  };
  sort(code_), sort(pages_), sort(cuts_);
  set_ = 0;
  if (cuts_.empty()) return;
  // Names are never given twice: code translated for a set that was forgotten is not found again.
  if (sets_.size() == most_sets) sets_.clear();
  const auto [it, fresh] = sets_.try_emplace(cuts_, 0);
  if (fresh) it->second = ++last_set_;
  set_ = it->second;
}

bool Debug::stops_at(u64 linear) const { return std::ranges::binary_search(code_, linear); }

u32 Debug::cuts_of(u64 linear) const { return std::ranges::binary_search(pages_, linear & page_mask) ? set_ : 0; }

const DebugPoint* Debug::watched(u64 address, u64 size, bool write) const {
  for (const DebugPoint& p : watch_) {
    if (p.kind == (write ? DebugPoint::Kind::read : DebugPoint::Kind::write)) continue;
    // Written so that ranges at the end of the address space do not wrap.
    if (address - p.address < p.length || p.address - address < size) return &p;
  }
  return nullptr;
}

bool Debug::watches_page(u64 page_address) const {
  return std::ranges::any_of(
      watch_, [&](const DebugPoint& p) { return page_address - p.address < p.length || p.address - page_address < u64{4096}; });
}

}  // namespace vmm::vm
