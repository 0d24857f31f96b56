// Accessors for guest RAM. The guest's other CPUs touch the same bytes at any time, so every access is a relaxed atomic of its element
// and out of ThreadSanitizer's sight; what that tool then prints is ours.
#pragma once

#include <atomic>
#include <cstring>

#include "src/base/types.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VMM_UNSEEN_RAM 1  // the attribute is lost where a function is inlined, and the tool knows memcpy: by assembler there
#endif
#endif

namespace vmm::memory {

template <class T>
__attribute__((no_sanitize("thread"), always_inline)) inline T ram_load(const u8* host) {
  T value;
#ifdef VMM_UNSEEN_RAM
  asm volatile("mov %[from], %[to]" : [to] "=q"(value) : [from] "m"(*reinterpret_cast<const T*>(host)));
#else
  __builtin_memcpy(&value, host, sizeof value);  // one host access for 1, 2, 4, 8 bytes
#endif
  return value;
}
template <class T>
__attribute__((no_sanitize("thread"), always_inline)) inline void ram_store(u8* host, T value) {
#ifdef VMM_UNSEEN_RAM
  asm volatile("mov %[from], %[to]" : [to] "=m"(*reinterpret_cast<T*>(host)) : [from] "q"(value));
#else
  __builtin_memcpy(host, &value, sizeof value);
#endif
}
__attribute__((no_sanitize("thread"))) void ram_copy_in(u8* host, const void* from, usize length);
__attribute__((no_sanitize("thread"))) void ram_copy_out(void* to, const u8* host, usize length);

// Between places in RAM that may overlap.
inline void ram_move(u8* to, const u8* from, usize length) {
#ifdef VMM_UNSEEN_RAM
  if (to <= from || to >= from + length)
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
  else
    for (usize i = length; i-- > 0;) ram_store<u8>(to + i, ram_load<u8>(from + i));
#else
  std::memmove(to, from, length);
#endif
}
template <class T>
inline void ram_fill(u8* host, T value, usize count) {
#ifndef VMM_UNSEEN_RAM
  if constexpr (sizeof(T) == 1) {
    std::memset(host, value, count);
    return;
  }
#endif
  for (usize i = 0; i < count; i++) ram_store<T>(host + i * sizeof(T), value);
}
inline bool ram_equal(const u8* host, const void* bytes, usize length) {
#ifdef VMM_UNSEEN_RAM
  for (usize i = 0; i < length; i++)
    if (ram_load<u8>(host + i) != static_cast<const u8*>(bytes)[i]) return false;
  return true;
#else
  return std::memcmp(host, bytes, length) == 0;
#endif
}

}  // namespace vmm::memory
