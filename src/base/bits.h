// Bit and byte-order helpers; overflow-checked arithmetic for sizes that come from outside.
#pragma once

#include <bit>
#include <concepts>
#include <cstring>
#include <optional>

#include "src/base/types.h"

namespace vmm {

// Bits low..high (inclusive) of value, shifted down.
constexpr u64 bits(u64 value, unsigned high, unsigned low) {
  return (value >> low) & (high - low == 63 ? ~u64{0} : (u64{1} << (high - low + 1)) - 1);
}
constexpr bool bit(u64 value, unsigned n) { return (value >> n) & 1; }
constexpr u64 mask_of_size(unsigned bytes) { return bytes >= 8 ? ~u64{0} : (u64{1} << (bytes * 8)) - 1; }
constexpr u64 sign_extend(u64 value, unsigned from_bits) {
  return static_cast<u64>(static_cast<i64>(value << (64 - from_bits)) >> (64 - from_bits));
}
// Alignments are powers of two.
constexpr u64 align_down(u64 value, u64 alignment) { return value & ~(alignment - 1); }
constexpr u64 align_up(u64 value, u64 alignment) { return (value + alignment - 1) & ~(alignment - 1); }

template <std::unsigned_integral T>
T load_le(const void* from) {
  T v;
  std::memcpy(&v, from, sizeof v);
  return v;  // hosts are little endian; a big-endian host is refused by CMake
}
template <std::unsigned_integral T>
void store_le(void* to, T v) {
  std::memcpy(to, &v, sizeof v);
}
template <std::unsigned_integral T>
T load_be(const void* from) {
  return std::byteswap(load_le<T>(from));
}
template <std::unsigned_integral T>
void store_be(void* to, T v) {
  store_le<T>(to, std::byteswap(v));
}

template <std::unsigned_integral T>
constexpr std::optional<T> add_checked(T a, T b) {
  T r;
  return __builtin_add_overflow(a, b, &r) ? std::nullopt : std::optional<T>{r};
}
template <std::unsigned_integral T>
constexpr std::optional<T> mul_checked(T a, T b) {
  T r;
  return __builtin_mul_overflow(a, b, &r) ? std::nullopt : std::optional<T>{r};
}

}  // namespace vmm
