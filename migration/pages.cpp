// See pages.h.
#include "migration/pages.h"

#include <cstring>

#include "migration/stream.h"
#include "src/base/bits.h"
#include "src/memory/ram.h"

namespace vmm::migration {

namespace {
constexpr u64 page = memory::page_bytes;
}

__attribute__((no_sanitize("address", "thread", "undefined"), noinline)) bool page_is_zero(const u8* at) {
  const u64* p = reinterpret_cast<const u64*>(at);
  for (u64 i = 0; i < page / 8; i += 8)
    if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7]) return false;
  return true;
}

__attribute__((no_sanitize("address", "thread", "undefined"))) usize put_pages(u8* payload, u32 block, const u8* ram, u64 first, u64 count,
                                                                               u64* normal) {
  const usize head = 16 + (count + 7) / 8;
  store_le<u32>(&payload[0], block), store_le<u32>(&payload[4], static_cast<u32>(count)), store_le<u64>(&payload[8], first);
  for (usize i = 16; i < head; i++) payload[i] = 0;
  usize at = head;
  for (u64 i = 0; i < count; i++) {
    const u8* const from = ram + (first + i) * page;
    if (page_is_zero(from)) continue;
    memory::ram_copy_out(&payload[at], from, page);
    payload[16 + i / 8] |= static_cast<u8>(1 << (i % 8));
    at += page;
  }
  if (normal) *normal = (at - head) / page;
  return at;
}

}  // namespace vmm::migration
