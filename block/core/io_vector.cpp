#include "block/core/io_vector.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace vmm::block {

void IoVector::add(std::span<u8> piece) {
  if (piece.empty()) return;
  const iovec v{.iov_base = piece.data(), .iov_len = piece.size()};
  size_ += piece.size();
  if (heap_.empty() && count_ < inline_count) {
    inline_[count_++] = v;
    return;
  }
  if (heap_.empty()) {
    heap_.assign(inline_ + first_, inline_ + count_);
    first_ = 0;
  }
  heap_.push_back(v);
}
void IoVector::append(const IoVector& other) {
  for (const iovec& v : other.pieces()) add({static_cast<u8*>(v.iov_base), v.iov_len});
}

IoVector IoVector::take(u64 bytes) {
  bytes = std::min(bytes, size_);
  if (bytes == size_) return std::exchange(*this, IoVector{});
  IoVector out;
  size_ -= bytes;
  while (bytes) {
    iovec& v = data()[first_];
    const u64 here = std::min<u64>(bytes, v.iov_len);
    out.add({static_cast<u8*>(v.iov_base), here});
    bytes -= here;
    if (here == v.iov_len) {
      first_++;
    } else {
      v.iov_base = static_cast<u8*>(v.iov_base) + here;
      v.iov_len -= here;
    }
  }
  return out;
}

IoVector IoVector::part(u64 at, u64 bytes) const {
  ASSERT(at <= size_ && bytes <= size_ - at);
  IoVector out;
  for (const iovec& v : pieces()) {
    if (!bytes) break;
    if (at >= v.iov_len) {
      at -= v.iov_len;
      continue;
    }
    const u64 here = std::min<u64>(bytes, v.iov_len - at);
    out.add({static_cast<u8*>(v.iov_base) + at, here});
    bytes -= here, at = 0;
  }
  return out;
}

void IoVector::fill(u8 byte) const {
  for (const iovec& v : pieces()) std::memset(v.iov_base, byte, v.iov_len);
}
void IoVector::copy_in(std::span<const u8> from) const {
  ASSERT(from.size() >= size_);
  const u8* at = from.data();
  for (const iovec& v : pieces()) std::memcpy(v.iov_base, at, v.iov_len), at += v.iov_len;
}
void IoVector::copy_out(std::span<u8> to) const {
  ASSERT(to.size() >= size_);
  u8* at = to.data();
  for (const iovec& v : pieces()) std::memcpy(at, v.iov_base, v.iov_len), at += v.iov_len;
}
bool IoVector::is_zero() const {
  return std::ranges::all_of(pieces(), [](const iovec& v) { return all_zero({static_cast<const u8*>(v.iov_base), v.iov_len}); });
}
bool IoVector::aligned(u64 alignment) const {
  return std::ranges::all_of(pieces(),
                             [=](const iovec& v) { return ((reinterpret_cast<u64>(v.iov_base) | v.iov_len) & (alignment - 1)) == 0; });
}
std::span<u8> IoVector::single() const {
  ASSERT(pieces().size() == 1);
  return {static_cast<u8*>(pieces()[0].iov_base), pieces()[0].iov_len};
}

bool all_zero(std::span<const u8> bytes) {
  // A few bytes tell most data apart; then memory is compared with itself, one byte on, at the speed of memcmp.
  if (bytes.empty()) return true;
  if (bytes.front() | bytes.back() | bytes[bytes.size() / 2]) return false;
  const usize head = std::min<usize>(bytes.size(), 16);
  for (usize i = 0; i < head; i++)
    if (bytes[i]) return false;
  return bytes.size() <= 16 || std::memcmp(bytes.data(), bytes.data() + 16, bytes.size() - 16) == 0;
}

Buffer::Buffer(u64 bytes, u64 alignment) : bytes_(bytes) {
  const u64 rounded = (std::max<u64>(bytes, 1) + alignment - 1) & ~(alignment - 1);
  at_.reset(static_cast<u8*>(std::aligned_alloc(std::max<u64>(alignment, sizeof(void*)), rounded)));
  ASSERT(at_);
}
void Buffer::Free::operator()(u8* p) const { std::free(p); }

}  // namespace vmm::block
