// The fast path to guest memory through the interpreter's small TLB.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "src/memory/ram.h"

namespace vmm::tcg {

// The host address of `size` bytes at `address`, all in one page that may be accessed without asking; null: go the slow way.
inline u8* soft_host(GuestCpu& g, u64 address, unsigned size, bool write) {
  const SoftLine& line = g.tlb->line[SoftTlb::index(address)];
  // A line holds only pages with its own index, so that the last byte's page differs from its tag if the access crosses.
  if (((address + size - 1) & ~u64{0xfff}) != (write ? line.write : line.read)) return nullptr;
  return reinterpret_cast<u8*>(address + static_cast<u64>(line.addend));
}

template <class T>
inline bool soft_read(GuestCpu& g, u64 address, u16 access, T& out) {
  if (const u8* host = soft_host(g, address, sizeof(T), access & ir::Access::intent)) [[likely]] {
    out = memory::ram_load<T>(host);
    return true;
  }
  return g.memory->read(g, address, sizeof(T), access, &out);
}
template <class T>
inline bool soft_write(GuestCpu& g, u64 address, u16 access, T value) {
  if (u8* host = soft_host(g, address, sizeof(T), true)) [[likely]] {
    memory::ram_store<T>(host, value);
    return true;
  }
  return g.memory->write(g, address, sizeof(T), access, &value);
}

}  // namespace vmm::tcg
