// Layout of rings, and typed access to them. Source: virtio 1.2 §2.7 (split), §2.8 (packed).
#pragma once

#include "hw/virtio/virtqueue.h"
#include "src/memory/ram.h"
#include "src/memory/stored.h"

namespace vmm::hw {

namespace ring {
enum : u16 { next = 1, write = 2, indirect = 4 };                  // descriptor flags
enum : u16 { no_interrupt = 1, no_notify = 1 };                    // split: flags of the two areas
enum : u16 { packed_avail = 1 << 7, packed_used = 1 << 15 };       // packed: more descriptor flags
enum : u16 { event_enable = 0, event_disable = 1, event_at = 2 };  // packed: event suppression
}  // namespace ring

template <class T>
T RingArea::load(u64 offset) const {
  if (host_) [[likely]]
    return memory::ram_load<T>(host_ + offset);
  T value;
  space_->read(GuestPhys{at_ + offset}, {reinterpret_cast<u8*>(&value), sizeof value});
  return value;
}

template <class T>
void RingArea::store(u64 offset, T value) {
  if (host_) [[likely]] {
    memory::ram_store<T>(host_ + offset, value);
    memory::ram_stored(*block_, block_offset_ + offset, sizeof value);
  } else {
    space_->write(GuestPhys{at_ + offset}, {reinterpret_cast<const u8*>(&value), sizeof value});
  }
}

}  // namespace vmm::hw
