// What both kinds of ring share: memory, chains, order of use. Source: virtio 1.2 §2.6, §2.7.
#include "hw/virtio/virtqueue.h"

#include <cstring>

#include "hw/virtio/ring.h"
#include "hw/virtio/virtio.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

static constexpr u64 bounce_limit = 64 * KiB;

// --- Rings in guest memory

void RingArea::place(const memory::AddressSpace& space, u64 at, u64 bytes) {
  space_ = &space, at_ = at, bytes_ = bytes, generation_ = ~space.generation();
  refresh();
}

void RingArea::refresh() {
  if (!space_ || space_->generation() == generation_) [[likely]]
    return;
  generation_ = space_->generation();
  held_ = space_->view();
  host_ = nullptr;
  const memory::FlatRange* r = held_->find(at_);
  if (!r || !r->ram || r->read_only || r->last - at_ < bytes_ - 1) return;
  block_ = r->ram, block_offset_ = r->ram_offset + (at_ - r->first);
  host_ = block_->host() + block_offset_;
}

void RingArea::copy_in(u64 offset, std::span<u8> into) const {
  if (host_)
    memory::ram_copy_out(into.data(), host_ + offset, into.size());
  else
    space_->read(GuestPhys{at_ + offset}, into);
}

void RingArea::copy_out(u64 offset, std::span<const u8> from) {
  if (!host_) {
    space_->write(GuestPhys{at_ + offset}, from);
    return;
  }
  memory::ram_copy_in(host_ + offset, from.data(), from.size());
  memory::ram_stored(*block_, block_offset_ + offset, from.size());
}

// --- Mappings

bool GuestMapping::add(const memory::AddressSpace& space, GuestSegment segment, bool writable) {
  u64 at = segment.at, left = segment.length;
  while (left) {
    const memory::FlatRange* r = held_->find(at);
    if (r && r->ram && !(writable && r->read_only)) {
      const u64 here = std::min<u64>(left - 1, r->last - at) + 1;
      const u64 offset = r->ram_offset + (at - r->first);
      spans_.emplace_back(r->ram->host() + offset, here);
      pieces_.push_back({at, r->ram, offset});
      at += here, left -= here;
      continue;
    }
    // Not RAM: a page at a time, so that RAM behind it is found again.
    const u64 here = std::min<u64>(left, memory::page_bytes - at % memory::page_bytes);
    if (bounced_ += here; bounced_ > bounce_limit) return false;
    auto& buffer = bounce_.emplace_back(new u8[here]());
    if (!writable && !space.read(GuestPhys{at}, {buffer.get(), here})) return false;
    if (writable && !r) return false;
    spans_.emplace_back(buffer.get(), here);
    pieces_.push_back({at, nullptr, 0});
    at += here, left -= here;
  }
  return true;
}

void GuestMapping::finish(u64 written) {
  for (usize i = 0; i < pieces_.size() && written; i++) {
    const u64 here = std::min<u64>(written, spans_[i].size());
    if (pieces_[i].block)
      memory::ram_stored(*pieces_[i].block, pieces_[i].offset, here);
    else
      space_->write(GuestPhys{pieces_[i].at}, spans_[i].first(here));
    written -= here;
  }
}

// --- Chains

namespace {
// Calls `piece(guest address, position, length)` for the parts of [offset, offset + length) in turn, until it returns false.
template <class Piece>
void walk(std::span<const GuestSegment> segments, u64 offset, u64 length, Piece piece) {
  u64 done = 0;
  for (const GuestSegment& s : segments) {
    if (done == length) return;
    if (offset >= s.length) {
      offset -= s.length;
      continue;
    }
    const u64 here = std::min<u64>(s.length - offset, length - done);
    if (!piece(s.at + offset, done, here)) return;
    done += here, offset = 0;
  }
}
}  // namespace

usize Chain::copy_in(u64 offset, std::span<u8> into) const {
  usize moved = 0;
  walk(readable(), offset, into.size(), [&](u64 at, u64 done, u64 n) {
    if (!space_->read(GuestPhys{at}, into.subspan(done, n))) return false;
    return moved += n, true;
  });
  return moved;
}

usize Chain::copy_out(u64 offset, std::span<const u8> from) const {
  usize moved = 0;
  walk(writable(), offset, from.size(), [&](u64 at, u64 done, u64 n) {
    if (!space_->write(GuestPhys{at}, from.subspan(done, n))) return false;
    return moved += n, true;
  });
  return moved;
}

GuestMapping Chain::map(std::span<const GuestSegment> segments, u64 offset, u64 length, bool writable) const {
  GuestMapping m;
  m.space_ = space_;
  m.held_ = space_->view();
  walk(segments, offset, length, [&](u64 at, u64, u64 n) {
    m.ok_ = m.add(*space_, {at, static_cast<u32>(n)}, writable);
    return m.bytes_ += n, m.ok_;
  });
  if (m.bytes_ != length) m.ok_ = false;
  return m;
}
GuestMapping Chain::map_readable(u64 offset, u64 length) const { return map(readable(), offset, length, false); }
GuestMapping Chain::map_writable(u64 offset, u64 length) const { return map(writable(), offset, length, true); }

// --- Life of a queue

VirtQueue::VirtQueue(VirtioDevice& device, u16 index, u16 size) : device_(device), index_(index), max_size_(size) { state.size = size; }

void VirtQueue::reset() {
  stop();
  state = {.size = max_size_};
  kicked = false;
}

void VirtQueue::stop() {
  started_ = false;
  epoch_++;
  in_flight_ = 0;
  staged_.clear(), waiting_.clear();
  descriptors_.drop(), driver_.drop(), device_area_.drop();
}

u64 VirtQueue::legacy_bytes(u64 alignment) const {
  return align_up(u64{16} * state.size + 6 + u64{2} * state.size, alignment) + 6 + u64{8} * state.size;
}

void VirtQueue::place_legacy(u64 address, u64 alignment) {
  state.descriptors = address;
  state.driver_area = address + u64{16} * state.size;
  state.device_area = align_up(state.driver_area + 6 + u64{2} * state.size, alignment);
  state.enabled = address != 0;
}

void VirtQueue::start(const memory::AddressSpace& space, u64 features) {
  if (!state.enabled || !state.size) return;
  space_ = &space;
  packed_ = features & virtio::ring_packed;
  event_idx_ = features & virtio::event_idx;
  in_order_ = features & virtio::in_order;
  indirect_ = features & virtio::indirect_desc;
  on_empty_ = features & virtio::notify_on_empty;
  const u64 n = state.size;
  descriptors_.place(space, state.descriptors, 16 * n);
  driver_.place(space, state.driver_area, packed_ ? 4 : 6 + 2 * n);
  device_area_.place(space, state.device_area, packed_ ? 4 : 6 + 8 * n);
  staged_.clear();
  waiting_.assign(in_order_ ? std::bit_ceil(n) : 0, {});  // sequence numbers wrap at 65536: so must places
  next_sequence_ = next_turn_ = 0;
  seen_avail_ = state.next_avail;
  published_ = signalled_ = 0;
  signalled_valid_ = false;
  notification_on_ = true;
  in_flight_ = 0;
  started_ = true;
}

std::nullopt_t VirtQueue::broken(std::string_view why) {
  started_ = false;
  device_.queue_broken(index_, why);
  return std::nullopt;
}

// --- Requests

std::optional<Chain> VirtQueue::pop() {
  if (!started_ || in_flight_ >= state.size) return std::nullopt;
  descriptors_.refresh(), driver_.refresh(), device_area_.refresh();
  auto chain = packed_ ? pop_packed() : pop_split();
  if (!chain) return std::nullopt;
  if (event_idx_ && notification_on_) ask_for_kick();  // for the next one
  chain->space_ = space_;
  chain->queue_ = this;
  chain->epoch_ = epoch_;
  chain->sequence_ = next_sequence_++;
  in_flight_++;
  return chain;
}

bool VirtQueue::add_segment(Chain& chain, u64 at, u32 length, bool writable) {
  if (!writable && chain.segments_.size() != chain.readable_count_) return broken("a readable buffer follows a writable one"), false;
  if (chain.segments_.size() >= virtio::chain_segments_limit) return broken("a request has too many buffers"), false;
  if (!length) return true;  // of no use, but no harm
  if (at + (length - 1) < at) return broken("a buffer reaches past the end of addresses"), false;
  chain.segments_.push_back({at, length});
  if (!writable) chain.readable_count_++;
  u64& total = writable ? chain.writable_bytes_ : chain.readable_bytes_;
  total += length;
  if (total > u64{1} << 32) return broken("a request is longer than 4 GiB"), false;
  return true;
}

bool VirtQueue::add_indirect(Chain& chain, u64 at, u32 length) {
  if (!indirect_) return broken("an indirect table without the feature"), false;
  const usize count = length / 16;
  if (!count || length % 16 || count > virtio::chain_segments_limit) return broken("an indirect table of a wrong size"), false;
  table_.resize(count);
  if (!space_->read(GuestPhys{at}, {reinterpret_cast<u8*>(table_.data()), length}))
    return broken("an indirect table is not in memory"), false;
  if (packed_) {  // in order, without links
    for (const Descriptor& d : table_) {
      if (d.next_or_flags & ring::indirect) return broken("an indirect table within another"), false;
      if (!add_segment(chain, d.at, d.length, d.next_or_flags & ring::write)) return false;
    }
    return true;
  }
  usize i = 0;
  for (usize steps = 0;; steps++) {
    if (steps == count) return broken("an indirect table has a loop"), false;
    const Descriptor& d = table_[i];
    if (d.flags_or_id & ring::indirect) return broken("an indirect table within another"), false;
    if (!add_segment(chain, d.at, d.length, d.flags_or_id & ring::write)) return false;
    if (!(d.flags_or_id & ring::next)) return true;
    i = d.next_or_flags;
    if (i >= count) return broken("an indirect table links to beyond its end"), false;
  }
}

// --- Answers

void VirtQueue::stage(Chain&& chain, u64 written) {
  if (!started_ || chain.epoch_ != epoch_) return;
  ASSERT(in_flight_ > 0);
  in_flight_--;
  const Done done{.id = chain.id_, .slots = chain.ring_slots_, .written = static_cast<u32>(std::min<u64>(written, ~u32{0})), .valid = true};
  chain.segments_.clear();
  if (spare_.size() < 64) spare_.push_back(std::move(chain.segments_));
  if (!in_order_) return staged_.push_back(done);
  // Its turn comes when all that were popped before it are done.
  waiting_[chain.sequence_ % waiting_.size()] = done;
  for (;;) {
    Done& next = waiting_[next_turn_ % waiting_.size()];
    if (!next.valid) return;
    staged_.push_back(std::exchange(next, {}));
    next_turn_++;
  }
}

// --- State

ChainState VirtQueue::state_of(const Chain& c) const {
  ChainState s{.queue = index_,
               .id = c.id_,
               .slots = c.ring_slots_,
               .order = in_order_ ? static_cast<u16>(c.sequence_ - next_turn_) : u16{0},
               .readable = static_cast<u32>(c.readable_count_)};
  for (const GuestSegment& g : c.segments_) s.segments.insert(s.segments.end(), {g.at, g.length});
  return s;
}

void VirtQueue::save(std::vector<ChainState>& into) const {
  for (const Chain* c : taken_)
    if (!c->stale()) into.push_back(state_of(*c));
  for (usize i = 0; i < waiting_.size(); i++)
    if (const Done& d = waiting_[(next_turn_ + i) % waiting_.size()]; d.valid)
      into.push_back({.queue = index_, .id = d.id, .slots = d.slots, .order = static_cast<u16>(i), .done = true, .written = d.written});
}

Result<std::optional<Chain>> VirtQueue::restore(const ChainState& from) {
  if (!started_) return fail("a request of queue {}, which is not in use", index_);
  if (from.id >= state.size && !packed_) return fail("a request of queue {} begins beyond its end", index_);
  if (!from.slots || from.slots > state.size || from.order >= state.size) return fail("a request of queue {} is out of range", index_);
  if (in_order_) next_sequence_ = std::max<u16>(next_sequence_, static_cast<u16>(from.order + 1));
  if (from.done) {
    if (!in_order_ || waiting_[from.order].valid) return fail("an answered request of queue {}", index_);
    waiting_[from.order] = {.id = from.id, .slots = from.slots, .written = from.written, .valid = true};
    return std::optional<Chain>{};
  }
  if (in_flight_ >= state.size) return fail("queue {} has more requests than places", index_);
  if (from.segments.size() % 2 || from.segments.size() / 2 > virtio::chain_segments_limit) return fail("buffers of a request");
  Chain c;
  for (usize i = 0; i < from.segments.size(); i += 2) {
    const u64 at = from.segments[i], length = from.segments[i + 1];
    if (!length || length > ~u32{0} || at + (length - 1) < at) return fail("a request has a buffer of {} bytes", length);
    const bool writable = i / 2 >= from.readable;
    c.segments_.push_back({at, static_cast<u32>(length)});
    if (!writable) c.readable_count_++;
    (writable ? c.writable_bytes_ : c.readable_bytes_) += length;
  }
  if (c.readable_bytes_ > u64{1} << 32 || c.writable_bytes_ > u64{1} << 32) return fail("a request is longer than 4 GiB");
  c.space_ = space_, c.queue_ = this, c.epoch_ = epoch_;
  c.id_ = from.id, c.ring_slots_ = from.slots;
  c.sequence_ = in_order_ ? from.order : next_sequence_++;
  in_flight_++;
  return std::optional{std::move(c)};
}

void VirtQueue::publish() {
  if (!started_ || staged_.empty()) return;
  device_area_.refresh(), descriptors_.refresh();
  if (packed_)
    publish_packed();
  else
    publish_split();
  staged_.clear();
}

void VirtQueue::notify() {
  if (!started_) return;
  driver_.refresh();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // answers are out before we ask whether to tell
  const bool wanted = interrupt_wanted();
  signalled_ = published_, signalled_valid_ = true;
  if (wanted) device_.interrupt(*this);
}

}  // namespace vmm::hw
