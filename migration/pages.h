// The payload of Part::pages. Any thread, and the child of frozen.h: no lock, no allocation.
#pragma once

#include "src/base/types.h"

namespace vmm::migration {

// The guest may store into it meanwhile: what it stores after it was looked at is in a log.
bool page_is_zero(const u8* at);
// Up to pages_a_part pages of a RAM that lies at `ram`; room for longest_pages. Its length, and how many pages were not zeros.
usize put_pages(u8* payload, u32 block, const u8* ram, u64 first, u64 count, u64* normal = nullptr);

}  // namespace vmm::migration
