// What the translator knows of each RAM and ROM page, by page number (rpn): which 64-byte granules hold translated code, who may
// write the page without asking (translator.md §7). Any thread; the words are atomic.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "src/base/types.h"
#include "src/memory/memory.h"

namespace vmm::tcg {

struct CodePage {
  std::atomic<u64> granules{0};       // bit n: bytes 64n … 64n+63 hold translated code
  std::atomic<u64> writers{0};        // vCPUs (index modulo 64) that filled a write slot or line since the last drop
  std::atomic<u32> version{0};        // raised by each store to a granule with code
  std::atomic<u32> dropping{0};       // translators that mark the page and wait for write rights to be gone; blocks are made only at 0
  std::atomic<u32> fills{0};          // write slots of E1 filled since the last drop
  std::atomic<bool> no_guess{false};  // its code guesses no addends: too many were wrong (frame.h)
  std::atomic<u64> hint{0};           // the last of them: vCPU << 40 | page number << 4 | context
};

// Bits of the granules that [offset, offset + length) of a page touches; length at most to the page's end.
constexpr u64 granule_bits(u64 offset, u64 length) {
  if (length == 0) return 0;
  const u64 first = offset >> 6, last = (offset + length - 1) >> 6;
  return (last >= 63 ? ~u64{0} : (u64{2} << last) - 1) & ~((u64{1} << first) - 1);
}

class CodePages {
 public:
  CodePages() = default;
  CodePages(const CodePages&) = delete;
  ~CodePages() {
    for (auto& c : chunks_) delete[] c.load(std::memory_order_relaxed);
  }
  // Null: nothing was ever noted of this page.
  CodePage* find(u64 rpn) const {
    if (rpn >= limit) return nullptr;
    CodePage* const chunk = chunks_[rpn / chunk_pages].load(std::memory_order_acquire);
    return chunk ? chunk + rpn % chunk_pages : nullptr;
  }
  // Makes it; null only beyond the limit (16 TiB of RAM), where nothing is kept.
  CodePage* get(u64 rpn) {
    if (rpn >= limit) return nullptr;
    auto& slot = chunks_[rpn / chunk_pages];
    CodePage* chunk = slot.load(std::memory_order_acquire);
    if (!chunk) {
      auto* fresh = new CodePage[chunk_pages];
      if (slot.compare_exchange_strong(chunk, fresh, std::memory_order_acq_rel))
        chunk = fresh;
      else
        delete[] fresh;
    }
    return chunk + rpn % chunk_pages;
  }
  // May a write slot or line of this page be filled? No while it holds code: each store must come by the slow path.
  bool writable_without_asking(u64 rpn) const {
    const CodePage* const page = find(rpn);
    return !page || page->granules.load(std::memory_order_acquire) == 0;
  }
  // Does a store to these bytes hit translated code? For writers, after the bytes are stored and a fence.
  bool hit(u64 rpn, u64 offset, u64 length) const {
    const CodePage* const page = find(rpn);
    return page && page->granules.load(std::memory_order_acquire) & granule_bits(offset, length);
  }

 private:
  static constexpr u64 chunk_pages = 4096, limit = u64{1} << 26;
  std::array<std::atomic<CodePage*>, limit / chunk_pages> chunks_{};
};

}  // namespace vmm::tcg
