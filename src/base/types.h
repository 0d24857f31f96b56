// The integer types and literal units that the whole tree uses. Floor 0; standard library only.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace vmm {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using u128 = unsigned __int128;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using usize = std::size_t;

// A span of time, or a point in time of the clock that its context names; signed, never wraps within 292 years.
using Nanoseconds = std::chrono::nanoseconds;
using namespace std::chrono_literals;

inline constexpr u64 KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB, TiB = 1024 * GiB;

// A guest-physical address. Arithmetic is by explicit offsets only, so that host and guest addresses cannot be mixed.
struct GuestPhys {
  u64 value = 0;
  constexpr GuestPhys() = default;
  constexpr explicit GuestPhys(u64 v) : value(v) {}
  friend constexpr auto operator<=>(GuestPhys, GuestPhys) = default;
  friend constexpr GuestPhys operator+(GuestPhys a, u64 b) { return GuestPhys{a.value + b}; }
  friend constexpr u64 operator-(GuestPhys a, GuestPhys b) { return a.value - b.value; }
};

// A guest linear ("virtual") address.
struct GuestVirt {
  u64 value = 0;
  constexpr GuestVirt() = default;
  constexpr explicit GuestVirt(u64 v) : value(v) {}
  friend constexpr auto operator<=>(GuestVirt, GuestVirt) = default;
  friend constexpr GuestVirt operator+(GuestVirt a, u64 b) { return GuestVirt{a.value + b}; }
};

}  // namespace vmm
