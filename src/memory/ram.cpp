#include "src/memory/ram.h"

namespace vmm::memory {

// Elements of eight bytes, then the rest by halves: a naturally aligned field of a guest structure is one host access. Long runs go
// by `rep movsb`, which the tools do not see either.
__attribute__((no_sanitize("thread"))) void ram_copy_in(u8* host, const void* from, usize length) {
  const u8* source = static_cast<const u8*>(from);
  if (length >= 256) {
    asm volatile("rep movsb" : "+D"(host), "+S"(source), "+c"(length) : : "memory");
    return;
  }
  for (; length >= 8; length -= 8, host += 8, source += 8) __builtin_memcpy(host, source, 8);
  if (length & 4) __builtin_memcpy(host, source, 4), host += 4, source += 4;
  if (length & 2) __builtin_memcpy(host, source, 2), host += 2, source += 2;
  if (length & 1) *host = *source;
}

__attribute__((no_sanitize("thread"))) void ram_copy_out(void* to, const u8* host, usize length) {
  ram_copy_in(static_cast<u8*>(to), host, length);
}

}  // namespace vmm::memory
