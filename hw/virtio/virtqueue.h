// A virtqueue seen from the device: split and packed rings, indirect descriptors, event index, in-order use.
// Source: virtio 1.2 §2.6 to §2.9.
//
// Everything that lies in guest memory is copied in, then checked, then used. What a driver may not do breaks the queue: the
// device asks for a reset (§2.1.2) and stops; nothing else is harmed. A queue is worked on by one thread at a time: the loop that
// its device names for it, or whoever holds the machine lock while the device is at rest.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/memory/memory.h"
#include "src/value/field.h"

namespace vmm::hw {

class VirtioDevice;
class VirtQueue;
class Chain;

namespace virtio {
inline constexpr u64 notify_on_empty = u64{1} << 24, any_layout = u64{1} << 27, indirect_desc = u64{1} << 28, event_idx = u64{1} << 29,
                     version_1 = u64{1} << 32, access_platform = u64{1} << 33, ring_packed = u64{1} << 34, in_order = u64{1} << 35,
                     order_platform = u64{1} << 36, notification_data = u64{1} << 38, ring_reset = u64{1} << 40;
inline constexpr u16 no_vector = 0xffff;
inline constexpr u16 queue_size_limit = 1024;        // what a device offers at most
inline constexpr usize chain_segments_limit = 1024;  // of one request, direct and indirect together
}  // namespace virtio

struct GuestSegment {
  u64 at = 0;
  u32 length = 0;
};

// Host memory behind a part of a chain, for zero-copy work. Spans are RAM where possible; what is not (ROM, another device, a hole)
// is bounced, 64 KiB at most. finish() makes what was written there known (dirty log, translated code); a mapping that is dropped
// without it was not written to.
class GuestMapping {
 public:
  bool ok() const { return ok_; }  // false: memory that cannot be had; fail the request
  std::span<const std::span<u8>> spans() const { return spans_; }
  u64 bytes() const { return bytes_; }
  void finish(u64 written);

 private:
  friend class Chain;
  struct Piece {
    u64 at = 0;
    memory::RamBlock* block = nullptr;  // null: bounced
    u64 offset = 0;
  };
  bool add(const memory::AddressSpace& space, GuestSegment segment, bool writable);
  bool ok_ = true;
  u64 bytes_ = 0, bounced_ = 0;
  const memory::AddressSpace* space_ = nullptr;
  std::shared_ptr<const memory::FlatView> held_;
  std::vector<std::span<u8>> spans_;
  std::vector<Piece> pieces_;
  std::vector<std::unique_ptr<u8[]>> bounce_;
};

// One request: what the driver lets us read, then what it lets us write. Copies stop at the chain's end or at the first byte that
// memory refuses, and return how much they moved.
class Chain {
 public:
  std::span<const GuestSegment> readable() const { return std::span{segments_}.first(readable_count_); }
  std::span<const GuestSegment> writable() const { return std::span{segments_}.subspan(readable_count_); }
  u64 readable_bytes() const { return readable_bytes_; }
  u64 writable_bytes() const { return writable_bytes_; }
  usize copy_in(u64 offset, std::span<u8> into) const;
  usize copy_out(u64 offset, std::span<const u8> from) const;
  template <class T>
  std::optional<T> copy_in(u64 offset) const {
    T value;
    if (copy_in(offset, std::span{reinterpret_cast<u8*>(&value), sizeof value}) != sizeof value) return std::nullopt;
    return value;
  }
  template <class T>
    requires(!std::convertible_to<const T&, std::span<const u8>>)
  bool copy_out(u64 offset, const T& value) const {
    return copy_out(offset, std::span{reinterpret_cast<const u8*>(&value), sizeof value}) == sizeof value;
  }
  GuestMapping map_readable(u64 offset, u64 length) const;
  GuestMapping map_writable(u64 offset, u64 length) const;
  bool stale() const;  // from before a reset: its answer goes nowhere
  u16 head() const { return id_; }

 private:
  friend class VirtQueue;
  GuestMapping map(std::span<const GuestSegment> segments, u64 offset, u64 length, bool writable) const;
  std::vector<GuestSegment> segments_;
  usize readable_count_ = 0;
  u64 readable_bytes_ = 0, writable_bytes_ = 0;
  const memory::AddressSpace* space_ = nullptr;
  const VirtQueue* queue_ = nullptr;
  u16 id_ = 0;          // split: index of the first descriptor; packed: buffer id
  u16 ring_slots_ = 1;  // packed: descriptors that it took of the ring
  u16 sequence_ = 0;    // number of its pop, for in-order use
  u32 epoch_ = 0;
};

// A piece of a ring in guest memory: found once for each version of the memory map, then touched directly.
class RingArea {
 public:
  void place(const memory::AddressSpace& space, u64 at, u64 bytes);
  void refresh();  // before a batch of accesses
  template <class T>
  T load(u64 offset) const;
  template <class T>
  void store(u64 offset, T value);
  void copy_in(u64 offset, std::span<u8> into) const;
  void copy_out(u64 offset, std::span<const u8> from);
  void drop() { host_ = nullptr, held_ = nullptr, space_ = nullptr; }

 private:
  const memory::AddressSpace* space_ = nullptr;
  u64 at_ = 0, bytes_ = 0, generation_ = ~u64{0};
  u8* host_ = nullptr;  // null: by way of the address space
  memory::RamBlock* block_ = nullptr;
  u64 block_offset_ = 0;
  std::shared_ptr<const memory::FlatView> held_;
};

// What a driver sets up and what a stream carries.
struct VirtQueueState {
  u16 size = 0;
  u16 vector = virtio::no_vector;
  bool enabled = false;
  u64 descriptors = 0, driver_area = 0, device_area = 0;
  u16 next_avail = 0, next_used = 0;  // split: free-running; packed: slots of the ring
  bool avail_wrap = true, used_wrap = true;
};

// A request that was taken and not answered when the state was saved; or one that was answered before its turn (in-order use).
struct ChainState {
  u16 queue = 0, id = 0, slots = 1, order = 0;  // order: place in the order of taking, from the oldest that is not answered
  bool done = false;
  u32 written = 0;
  u32 readable = 0;           // segments that the driver lets us read; the rest is for writing
  std::vector<u64> segments;  // address and length of each
};

class VirtQueue {
 public:
  VirtQueue(VirtioDevice& device, u16 index, u16 size);

  u16 index() const { return index_; }
  u16 max_size() const { return max_size_; }
  VirtioDevice& device() const { return device_; }

  // --- Set-up, by transports: machine lock held, queue at rest.
  VirtQueueState state;
  void reset();
  void place_legacy(u64 address, u64 alignment);  // one block: descriptors, driver area, device area
  u64 legacy_bytes(u64 alignment) const;
  void start(const memory::AddressSpace& space, u64 features);
  void stop();
  bool started() const { return started_; }

  // --- The device's side.
  // The next request, if there is one.
  std::optional<Chain> pop();
  bool empty();
  // Undoes the latest pop (nothing popped after it, nothing of it pushed).
  void give_back(Chain&& chain);
  // Ends a request: `written` bytes of its writable part are new. stage() may be called several times before publish() shows all of
  // them to the driver at once. A chain from before a reset is dropped.
  void stage(Chain&& chain, u64 written);
  void publish();
  void push(Chain&& chain, u64 written) {
    stage(std::move(chain), written);
    publish();
  }
  // Interrupts the driver, if it wants to hear of what was published since the last call.
  void notify();
  // Asks the driver to kick, or not to. After switching on: true means that requests came in between, and nobody will kick for them.
  bool set_notification(bool on);
  u32 epoch() const { return epoch_; }
  u16 in_flight() const { return in_flight_; }
  // State. What lives through a save stands in `taken` while it is served (Taken, below). restore(): after start(); an error if it cannot
  // be; nothing if the request was answered before.
  void save(std::vector<ChainState>& into) const;
  ChainState state_of(const Chain& chain) const;
  Result<std::optional<Chain>> restore(const ChainState& from);

  std::atomic<bool> kicked{false};  // of the device: a run of this queue is posted

 private:
  friend class TakenChain;
  std::vector<const Chain*> taken_;
  struct Descriptor {
    u64 at;
    u32 length;
    u16 flags_or_id;  // split: flags; packed: id
    u16 next_or_flags;
  };
  struct Done {
    u16 id = 0, slots = 0;
    u32 written = 0;
    bool valid = false;
  };
  std::optional<Chain> pop_split();
  std::optional<Chain> pop_packed();
  bool add_indirect(Chain& chain, u64 at, u32 length);
  bool add_segment(Chain& chain, u64 at, u32 length, bool writable);
  std::nullopt_t broken(std::string_view why);
  void put(const Done& done);
  void publish_split();
  void publish_packed();
  bool interrupt_wanted();
  void ask_for_kick();
  u64 driver_event_offset() const { return 4 + u64{2} * state.size; }
  u64 device_event_offset() const { return 4 + u64{8} * state.size; }

  VirtioDevice& device_;
  const u16 index_, max_size_;
  bool started_ = false, packed_ = false, event_idx_ = false, in_order_ = false, indirect_ = false, on_empty_ = false;
  const memory::AddressSpace* space_ = nullptr;
  RingArea descriptors_, driver_, device_area_;
  std::vector<Done> staged_;
  std::vector<Done> waiting_;  // in-order: by sequence, until it is their turn
  u16 next_sequence_ = 0, next_turn_ = 0;
  u16 seen_avail_ = 0;                 // split: driver's index as last read
  u64 published_ = 0, signalled_ = 0;  // slots (packed) or requests (split) since start
  bool signalled_valid_ = false;
  bool notification_on_ = true;
  u16 in_flight_ = 0;
  u32 epoch_ = 0;
  std::vector<std::vector<GuestSegment>> spare_;  // segment lists to use again
  std::vector<Descriptor> table_;                 // scratch of indirect tables
};

inline bool Chain::stale() const { return epoch_ != queue_->epoch(); }

// A request that is served: part of the saved state as long as this lives. In the coroutine that serves it.
class TakenChain {
 public:
  TakenChain(VirtQueue& queue, const Chain& chain) : queue_(queue), chain_(chain) { queue_.taken_.push_back(&chain_); }
  ~TakenChain() { std::erase(queue_.taken_, &chain_); }
  TakenChain(const TakenChain&) = delete;

 private:
  VirtQueue& queue_;
  const Chain& chain_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array fields<hw::ChainState> = {
    field<&hw::ChainState::queue>("queue", "its queue"),
    field<&hw::ChainState::id>("id", "first descriptor, or buffer id"),
    field<&hw::ChainState::slots>("slots", "descriptors that it took of a packed ring"),
    field<&hw::ChainState::order>("order", "place in the order of taking"),
    field<&hw::ChainState::done>("done", "answered, before its turn"),
    field<&hw::ChainState::written>("written", "bytes written, if answered"),
    field<&hw::ChainState::readable>("readable", "buffers for reading"),
    field<&hw::ChainState::segments>("segments", "address and length of each buffer"),
};
template <>
inline constexpr std::array fields<hw::VirtQueueState> = {
    field<&hw::VirtQueueState::size>("size", "entries"),
    field<&hw::VirtQueueState::vector>("vector", "MSI-X vector"),
    field<&hw::VirtQueueState::enabled>("enabled", "whether the driver uses it"),
    field<&hw::VirtQueueState::descriptors>("desc", "address of the descriptors"),
    field<&hw::VirtQueueState::driver_area>("driver", "address of the driver area"),
    field<&hw::VirtQueueState::device_area>("device", "address of the device area"),
    field<&hw::VirtQueueState::next_avail>("next-avail", "request to take next"),
    field<&hw::VirtQueueState::next_used>("next-used", "place of the next answer"),
    field<&hw::VirtQueueState::avail_wrap>("avail-wrap", "wrap counter of requests"),
    field<&hw::VirtQueueState::used_wrap>("used-wrap", "wrap counter of answers"),
};
}  // namespace vmm
