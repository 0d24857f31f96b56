// Split rings. Source: virtio 1.2 §2.7.
// Driver area: u16 flags, u16 idx, u16 ring[size], u16 used_event. Device area: u16 flags, u16 idx, {u32 id, u32 len} ring[size],
// u16 avail_event.
#include "hw/virtio/ring.h"
#include "hw/virtio/virtio.h"

namespace vmm::hw {

std::optional<Chain> VirtQueue::pop_split() {
  if (seen_avail_ == state.next_avail) {
    seen_avail_ = driver_.load<u16>(2);
    std::atomic_thread_fence(std::memory_order_acquire);
    const u16 waiting = static_cast<u16>(seen_avail_ - state.next_avail);
    if (!waiting) return std::nullopt;
    if (waiting > state.size) return broken("the driver's index runs ahead of the queue");
  }
  u16 i = driver_.load<u16>(4 + u64{2} * (state.next_avail % state.size));
  if (i >= state.size) return broken("a request begins beyond the end of the descriptors");
  Chain chain;
  if (!spare_.empty()) chain.segments_ = std::move(spare_.back()), spare_.pop_back();
  chain.id_ = i;
  for (u16 steps = 0;; steps++) {
    if (steps == state.size) return broken("a request has a loop");
    Descriptor d;
    descriptors_.copy_in(u64{16} * i, {reinterpret_cast<u8*>(&d), sizeof d});
    const u16 flags = d.flags_or_id;
    if (flags & ring::indirect) {
      if (flags & ring::next) return broken("an indirect table that goes on");
      if (!add_indirect(chain, d.at, d.length)) return std::nullopt;
      break;
    }
    if (!add_segment(chain, d.at, d.length, flags & ring::write)) return std::nullopt;
    if (!(flags & ring::next)) break;
    i = d.next_or_flags;
    if (i >= state.size) return broken("a descriptor links to beyond the end");
  }
  state.next_avail++;
  return chain;
}

void VirtQueue::publish_split() {
  for (const Done& done : staged_) {
    const u32 entry[2] = {done.id, done.written};
    device_area_.copy_out(4 + u64{8} * (state.next_used % state.size), {reinterpret_cast<const u8*>(entry), sizeof entry});
    state.next_used++;
    published_++;
  }
  std::atomic_thread_fence(std::memory_order_release);  // entries before the index
  device_area_.store<u16>(2, state.next_used);
}

}  // namespace vmm::hw
