// Where the bytes of a request lie: a list of pieces of memory that belong to someone else and outlive the request. Cheap to pass by
// value. For writes the same type is used; who writes to a disk reads from the pieces only.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "src/base/assert.h"
#include "src/base/types.h"

namespace vmm::block {

class IoVector {
 public:
  IoVector() = default;
  IoVector(std::span<u8> piece) { add(piece); }
  IoVector(void* at, u64 bytes) { add({static_cast<u8*>(at), bytes}); }
  // For writing from constant memory.
  static IoVector of(std::span<const u8> piece) { return IoVector{const_cast<u8*>(piece.data()), piece.size()}; }

  void add(std::span<u8> piece);
  void append(const IoVector& other);  // all of its pieces

  u64 size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Removes and returns the first min(bytes, size()) bytes.
  IoVector take(u64 bytes);
  // The part [at, at + bytes), which must be inside.
  IoVector part(u64 at, u64 bytes) const;

  void fill(u8 byte) const;
  // To and from plain memory, of which exactly size() bytes are used; the span may not be shorter.
  void copy_in(std::span<const u8> from) const;
  void copy_out(std::span<u8> to) const;
  bool is_zero() const;  // all bytes are 0
  // Do all pieces start and end at multiples of `alignment` (a power of two)?
  bool aligned(u64 alignment) const;

  // The pieces, as preadv(2) takes them; valid until this changes.
  std::span<const iovec> pieces() const {
    return heap_.empty() ? std::span<const iovec>{inline_ + first_, count_ - first_} : std::span<const iovec>{heap_}.subspan(first_);
  }
  // The only piece; pieces() must be one (size() > 0).
  std::span<u8> single() const;

 private:
  static constexpr u32 inline_count = 2;
  iovec* data() { return heap_.empty() ? inline_ : heap_.data(); }
  iovec inline_[inline_count] = {};
  u32 first_ = 0, count_ = 0;  // of inline_; first_ also of heap_
  u64 size_ = 0;
  std::vector<iovec> heap_;  // all pieces, once they are more than inline_count
};

bool all_zero(std::span<const u8> bytes);

// Memory for bounce buffers and metadata, aligned for O_DIRECT. Not initialised.
class Buffer {
 public:
  static constexpr u64 default_alignment = 4096;
  Buffer() = default;
  explicit Buffer(u64 bytes, u64 alignment = default_alignment);
  Buffer(Buffer&& other) noexcept : at_(std::move(other.at_)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    at_ = std::move(other.at_), bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  u8* data() { return at_.get(); }
  const u8* data() const { return at_.get(); }
  u64 size() const { return bytes_; }
  std::span<u8> span() { return {at_.get(), bytes_}; }
  std::span<const u8> span() const { return {at_.get(), bytes_}; }
  IoVector vector() { return IoVector{span()}; }

 private:
  struct Free {
    void operator()(u8* p) const;
  };
  std::unique_ptr<u8, Free> at_;
  u64 bytes_ = 0;
};

}  // namespace vmm::block
