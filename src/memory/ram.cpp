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
  for (; length >= 8; length -= 8, host += 8, source += 8) ram_store<u64>(host, ram_load<u64>(source));
  if (length & 4) ram_store<u32>(host, ram_load<u32>(source)), host += 4, source += 4;
  if (length & 2) ram_store<u16>(host, ram_load<u16>(source)), host += 2, source += 2;
  if (length & 1) ram_store<u8>(host, ram_load<u8>(source));
}

__attribute__((no_sanitize("thread"))) void ram_copy_out(void* to, const u8* host, usize length) {
  ram_copy_in(static_cast<u8*>(to), host, length);
}

}  // namespace vmm::memory
