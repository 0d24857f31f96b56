// Memory for what one lowering needs and forgets: some twenty vectors a block, whose calls to malloc cost more than the lowering itself.
// A thread's arena is empty again when the outermost ArenaScope ends.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "src/base/types.h"

namespace vmm::tcg::x64 {

class Arena {
 public:
  static constexpr usize bytes = 256 * KiB;
  static Arena& of_thread() {
    static thread_local Arena arena;
    return arena;
  }
  // Null: no room; the caller takes it from the heap.
  void* take(usize size) {
    size = (size + 15) & ~usize{15};
    if (!space_) space_ = std::make_unique_for_overwrite<u8[]>(bytes);
    if (depth_ == 0 || size > bytes - used_) return nullptr;
    return space_.get() + std::exchange(used_, used_ + size);
  }
  bool holds(const void* p) const {
    const auto at = reinterpret_cast<u64>(p), start = reinterpret_cast<u64>(space_.get());
    return at >= start && at < start + bytes;
  }

 private:
  friend class ArenaScope;
  std::unique_ptr<u8[]> space_;
  usize used_ = 0;
  unsigned depth_ = 0;
};

class ArenaScope {
 public:
  ArenaScope() : arena_(Arena::of_thread()), before_(arena_.used_) { arena_.depth_++; }
  ~ArenaScope() { arena_.depth_--, arena_.used_ = before_; }
  ArenaScope(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  const usize before_;
};

template <class T>
struct ArenaAllocator {
  using value_type = T;
  ArenaAllocator() = default;
  template <class U>
  ArenaAllocator(const ArenaAllocator<U>&) {}
  T* allocate(usize n) {
    if (void* const p = Arena::of_thread().take(n * sizeof(T))) return static_cast<T*>(p);
    return static_cast<T*>(::operator new(n * sizeof(T)));
  }
  void deallocate(T* p, usize) {
    if (!Arena::of_thread().holds(p)) ::operator delete(p);
  }
  bool operator==(const ArenaAllocator&) const = default;
};

// Dies before the ArenaScope that it was made in.
template <class T>
using ArenaVector = std::vector<T, ArenaAllocator<T>>;

}  // namespace vmm::tcg::x64
