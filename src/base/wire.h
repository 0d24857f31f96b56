// Bytes from outside. SpanReader never reads past its end; the numbers it yields are Wire<T>, which have no arithmetic, so
// that a size must be checked (at_most, checked add) before it can be used (safety.md §3.1).
#pragma once

#include <span>

#include "src/base/bits.h"
#include "src/base/result.h"

namespace vmm {

template <std::unsigned_integral T>
class Wire {
 public:
  constexpr Wire() = default;
  constexpr explicit Wire(T v) : value_(v) {}
  // The value, if it is in 0..limit; else an error naming `what`.
  Result<T> at_most(T limit, std::string_view what) const {
    if (value_ > limit) return fail("{} is {}, at most {} is allowed", what, value_, limit);
    return value_;
  }
  // value + other, both from outside, or an error on overflow.
  Result<T> add(T other, std::string_view what) const {
    auto sum = add_checked(value_, other);
    if (!sum) return fail("{} overflows", what);
    return *sum;
  }
  Result<T> mul(T other, std::string_view what) const {
    auto product = mul_checked(value_, other);
    if (!product) return fail("{} overflows", what);
    return *product;
  }
  // For comparing, printing and bit tests; the caller vouches that no unchecked size arithmetic follows.
  constexpr T raw() const { return value_; }
  friend constexpr bool operator==(Wire a, T b) { return a.value_ == b; }

 private:
  T value_ = 0;
};

class SpanReader {
 public:
  explicit SpanReader(std::span<const u8> bytes) : bytes_(bytes) {}
  usize position() const { return at_; }
  usize left() const { return bytes_.size() - at_; }
  Result<> seek(u64 to, std::string_view what) {
    if (to > bytes_.size()) return fail("{} lies at {:#x}, past the end ({:#x})", what, to, bytes_.size());
    at_ = to;
    return {};
  }
  template <std::unsigned_integral T>
  Result<Wire<T>> le(std::string_view what) {
    if (left() < sizeof(T)) return fail("{} is cut off at {:#x}", what, at_);
    T v = load_le<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return Wire<T>{v};
  }
  template <std::unsigned_integral T>
  Result<Wire<T>> be(std::string_view what) {
    if (left() < sizeof(T)) return fail("{} is cut off at {:#x}", what, at_);
    T v = load_be<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return Wire<T>{v};
  }
  Result<std::span<const u8>> bytes(u64 count, std::string_view what) {
    if (count > left()) return fail("{} ({} bytes at {:#x}) is cut off", what, count, at_);
    auto part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }
  Result<> skip(u64 count, std::string_view what) {
    TRY(bytes(count, what));
    return {};
  }

 private:
  std::span<const u8> bytes_;
  usize at_ = 0;
};

}  // namespace vmm
