// For those who store to RAM by its host address (rings, zero-copy reads from disks): AddressSpace::write does this by itself.
#pragma once

#include "src/memory/memory.h"

namespace vmm::memory {

// After the bytes: marks dirty pages and tells the code listener. Any thread.
void ram_stored(RamBlock& block, u64 offset, u64 length);

}  // namespace vmm::memory
