// Accessors for guest RAM. The guest's other CPUs touch the same bytes at any time, so every access is a relaxed atomic of its element
// and out of ThreadSanitizer's sight; what that tool then prints is ours.
#pragma once

#include <atomic>
#include <cstring>

#include "src/base/types.h"

namespace vmm::memory {

template <class T>
__attribute__((no_sanitize("thread"), always_inline)) inline T ram_load(const u8* host) {
  T value;
  __builtin_memcpy(&value, host, sizeof value);  // one host access for 1, 2, 4, 8 bytes
  return value;
}
template <class T>
__attribute__((no_sanitize("thread"), always_inline)) inline void ram_store(u8* host, T value) {
  __builtin_memcpy(host, &value, sizeof value);
}
__attribute__((no_sanitize("thread"))) void ram_copy_in(u8* host, const void* from, usize length);
__attribute__((no_sanitize("thread"))) void ram_copy_out(void* to, const u8* host, usize length);

}  // namespace vmm::memory
