// The code cache: one sealed memfd, mapped executable for the vCPUs and writable for the translator, never both at one address
// (translator.md §1, §7).
#pragma once

#include <memory>
#include <span>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::tcg {

class CodeCache {
 public:
  static Result<std::unique_ptr<CodeCache>> make(u64 bytes);
  ~CodeCache();
  CodeCache(const CodeCache&) = delete;

  u64 base() const { return run_; }
  u64 size() const { return size_; }
  u64 used() const { return used_; }
  bool contains(u64 host) const { return host - run_ < size_; }
  // The writable view of an executable address.
  u8* writable(u64 host) const { return reinterpret_cast<u8*>(write_ + (host - run_)); }
  // Free space at the end, aligned; empty when less than `least` bytes are left.
  std::span<u8> space(u64 least);
  u64 cursor() const { return run_ + used_; }
  void take(u64 bytes);  // of what space() gave
  // Everything from here on survives flushes (thunks).
  void keep() { kept_ = used_; }
  void flush() { used_ = kept_; }

 private:
  CodeCache() = default;
  static constexpr u64 alignment = 16;
  Fd fd_;
  u64 size_ = 0, run_ = 0, write_ = 0, used_ = 0, kept_ = 0;
};

}  // namespace vmm::tcg
