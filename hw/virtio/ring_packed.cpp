// Packed rings. Source: virtio 1.2 §2.8. Event suppression areas: u16 offset and wrap bit, u16 flags.
#include "hw/virtio/ring.h"
#include "hw/virtio/virtio.h"

namespace vmm::hw {

namespace {
bool available(u16 flags, bool wrap) { return bool(flags & ring::packed_avail) == wrap && bool(flags & ring::packed_used) != wrap; }
}  // namespace

std::optional<Chain> VirtQueue::pop_packed() {
  u16 i = state.next_avail;
  bool wrap = state.avail_wrap;
  if (!available(descriptors_.load<u16>(u64{16} * i + 14), wrap)) return std::nullopt;
  std::atomic_thread_fence(std::memory_order_acquire);
  Chain chain;
  if (!spare_.empty()) chain.segments_ = std::move(spare_.back()), spare_.pop_back();
  chain.ring_slots_ = 0;
  for (;;) {
    if (chain.ring_slots_ == state.size) return broken("a request has a loop");
    Descriptor d;
    descriptors_.copy_in(u64{16} * i, {reinterpret_cast<u8*>(&d), sizeof d});
    const u16 flags = d.next_or_flags;
    chain.id_ = d.flags_or_id;  // that of the last one counts
    chain.ring_slots_++;
    if (++i == state.size) i = 0, wrap = !wrap;
    if (flags & ring::indirect) {
      if (flags & ring::next || chain.ring_slots_ > 1) return broken("an indirect table within a list");
      if (!add_indirect(chain, d.at, d.length)) return std::nullopt;
      break;
    }
    if (!add_segment(chain, d.at, d.length, flags & ring::write)) return std::nullopt;
    if (!(flags & ring::next)) break;
  }
  state.next_avail = i, state.avail_wrap = wrap;
  return chain;
}

void VirtQueue::publish_packed() {
  // The driver looks at the first one's flags: they come last, so that all are seen at once.
  u64 first_at = 0;
  u16 first_flags = 0;
  bool first = true;
  for (const Done& done : staged_) {
    const u16 flags = static_cast<u16>((state.used_wrap ? ring::packed_avail | ring::packed_used : 0) | (done.written ? ring::write : 0));
    const u64 at = u64{16} * state.next_used;
    descriptors_.store<u32>(at + 8, done.written);
    descriptors_.store<u16>(at + 12, done.id);
    if (std::exchange(first, false))
      first_at = at, first_flags = flags;
    else
      std::atomic_thread_fence(std::memory_order_release), descriptors_.store<u16>(at + 14, flags);
    const u32 next = u32{state.next_used} + done.slots;
    if (next >= state.size) state.used_wrap = !state.used_wrap;
    state.next_used = static_cast<u16>(next >= state.size ? next - state.size : next);
    published_ += done.slots;
  }
  std::atomic_thread_fence(std::memory_order_release);
  descriptors_.store<u16>(first_at + 14, first_flags);
}

// --- Who wants to hear (both kinds)

bool VirtQueue::interrupt_wanted() {
  if (!packed_) {
    if (on_empty_ && !in_flight_ && empty()) return true;
    if (!event_idx_) return !(driver_.load<u16>(0) & ring::no_interrupt);
    if (!signalled_valid_) return true;
    const u16 event = driver_.load<u16>(driver_event_offset());
    // Was the answer with number `event` among those since the last time?
    const u16 now = state.next_used, fresh = static_cast<u16>(published_ - signalled_);
    return static_cast<u16>(now - event - 1) < fresh;
  }
  const u16 flags = driver_.load<u16>(2);
  if (flags == ring::event_disable) return false;
  if (flags != ring::event_at || !event_idx_) return true;
  if (!signalled_valid_) return true;
  const u16 place = driver_.load<u16>(0);
  // Slots counted since start; this lap began at slot number `lap`. A place with the other wrap bit is of the lap before.
  const i64 lap = static_cast<i64>(published_) - state.next_used;
  const i64 event = lap + (place & 0x7fff) - (bool(place >> 15) == state.used_wrap ? 0 : state.size);
  return event >= static_cast<i64>(signalled_) && event < static_cast<i64>(published_);
}

bool VirtQueue::empty() {
  if (!started_) return true;
  driver_.refresh(), descriptors_.refresh();
  if (packed_) return !available(descriptors_.load<u16>(u64{16} * state.next_avail + 14), state.avail_wrap);
  return seen_avail_ == state.next_avail && driver_.load<u16>(2) == state.next_avail;
}

void VirtQueue::ask_for_kick() {
  if (!packed_) return device_area_.store<u16>(device_event_offset(), state.next_avail);
  device_area_.store<u16>(0, static_cast<u16>(state.next_avail | (state.avail_wrap ? 0x8000 : 0)));
  std::atomic_thread_fence(std::memory_order_release);
  device_area_.store<u16>(2, ring::event_at);
}

bool VirtQueue::set_notification(bool on) {
  if (!started_) return false;
  device_area_.refresh();
  notification_on_ = on;
  if (event_idx_) {
    if (on)
      ask_for_kick();
    else if (packed_)
      device_area_.store<u16>(2, ring::event_disable);
  } else if (packed_) {
    device_area_.store<u16>(2, on ? ring::event_enable : ring::event_disable);
  } else {
    const u16 flags = device_area_.load<u16>(0);
    device_area_.store<u16>(0, static_cast<u16>(on ? flags & ~ring::no_notify : flags | ring::no_notify));
  }
  if (!on) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !empty();
}

void VirtQueue::give_back(Chain&& chain) {
  if (!started_ || chain.epoch_ != epoch_) return;
  ASSERT(in_flight_ > 0 && static_cast<u16>(chain.sequence_ + 1) == next_sequence_);
  in_flight_--;
  next_sequence_--;
  if (!packed_) {
    state.next_avail--;
    return;
  }
  if (state.next_avail < chain.ring_slots_) state.avail_wrap = !state.avail_wrap, state.next_avail += state.size;
  state.next_avail -= chain.ring_slots_;
}

}  // namespace vmm::hw
