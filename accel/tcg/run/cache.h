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
  // Code is emitted into one half while the other is empty or its last users leave it.
  unsigned half() const { return half_; }
  unsigned half_of(u64 host) const { return host - run_ < middle_ ? 0 : 1; }
  // Free space of the half, aligned; empty when less than `least` bytes are left.
  std::span<u8> space(u64 least);
  u64 cursor() const { return run_ + used_; }
  // Takes of what space() gave. The writable view of what is finished is unmapped now and then (it comes back when patched): each
  // view's pages count as resident memory and have page tables of their own.
  void take(u64 bytes);
  // What was taken until now (thunks) stays for ever; the halves begin after it.
  void keep();
  // Goes on in the other half, from its beginning.
  void change_half();

 private:
  CodeCache() = default;
  static constexpr u64 alignment = 16;
  Fd fd_;
  u64 size_ = 0, run_ = 0, write_ = 0, used_ = 0, kept_ = 0, middle_ = 0, end_ = 0, unmapped_ = 0;
  unsigned half_ = 0;
};

}  // namespace vmm::tcg
