// What every disk device has: its drive, block sizes, error policy, geometry. A device holds one DiskProperties as a member and shows
// disk_fields<&Device::disk_> among its properties.
#pragma once

#include <atomic>

#include "block/core/backend.h"
#include "hw/core/device.h"
#include "hw/core/when_running.h"
#include "src/value/on_off_auto.h"

namespace vmm::hw {

struct DiskProperties {
  block::BackendRef drive;
  Bytes64 logical_block, physical_block, min_io, opt_io, discard_granularity{~u32{0}};  // 0, all ones: by default
  OnOffAuto write_cache = OnOffAuto::automatic, account_invalid = OnOffAuto::automatic, account_failed = OnOffAuto::automatic,
            backend_defaults = OnOffAuto::automatic;
  block::ErrorPolicy rerror = block::ErrorPolicy::automatic, werror = block::ErrorPolicy::automatic;
  bool share_rw = false;
  i32 boot_index = -1;
  u32 cylinders = 0, heads = 0, sectors = 0, legacy_cylinders = 0, legacy_heads = 0, legacy_sectors = 0;
  std::string serial;

  // Checks, fills in what was left open, gives the drive its policies. `most_heads` and so on: of the interface.
  Result<> settle(u32 most_cylinders, u32 most_heads, u32 most_sectors);
  std::vector<Device::BootEntry> boot_entries(std::string tail) const {
    return {
        {.index = boot_index, .tail = std::move(tail), .cylinders = legacy_cylinders, .heads = legacy_heads, .sectors = legacy_sectors}};
  }
};

namespace disk_detail {
template <class>
struct MemberOf;
template <class C, class T>
struct MemberOf<T C::*> {
  using Class = C;
  using Type = T;
};
// A member of a member as a Field.
template <auto Outer, auto Inner>
constexpr Field inner_field(std::string_view name, std::string_view doc, FieldOptions options = {}) {
  using C = typename MemberOf<decltype(Outer)>::Class;
  using T = typename MemberOf<decltype(Inner)>::Type;
  return Field{
      .name = name,
      .doc = doc,
      .type = &Codec<T>::description,
      .get = [](const void* o) -> Value { return Codec<T>::to_value(static_cast<const C*>(static_cast<const Object*>(o))->*Outer.*Inner); },
      .set = [](void* o, const Value& v, const Field& f) -> Result<> {
        return Codec<T>::from_value(static_cast<C*>(static_cast<Object*>(o))->*Outer.*Inner, v, f.name,
                                    FieldLimits{f.options.min, f.options.max});
      },
      .options = options};
}
}  // namespace disk_detail

inline constexpr usize disk_field_count = 21;
template <auto Disk>
constexpr std::array<Field, disk_field_count> disk_fields() {
  using D = DiskProperties;
  using disk_detail::inner_field;
  return {
      inner_field<Disk, &D::drive>("drive", "Node name or ID of a block device to use as a backend"),
      inner_field<Disk, &D::logical_block>("logical_block_size", "A power of two between 512 B and 2 MiB"),
      inner_field<Disk, &D::physical_block>("physical_block_size", "A power of two between 512 B and 2 MiB"),
      inner_field<Disk, &D::min_io>("min_io_size", "Smallest preferred transfer, in bytes."),
      inner_field<Disk, &D::opt_io>("opt_io_size", "Best transfer, in bytes."),
      inner_field<Disk, &D::discard_granularity>("discard_granularity", "Unit of discards, in bytes; 0: none; all ones: the block size."),
      inner_field<Disk, &D::write_cache>("write-cache", "Whether writes may wait in a cache until a flush."),
      inner_field<Disk, &D::share_rw>("share-rw", "Others may write to the image as well."),
      inner_field<Disk, &D::account_invalid>("account-invalid", "Count invalid requests."),
      inner_field<Disk, &D::account_failed>("account-failed", "Count failed requests."),
      inner_field<Disk, &D::backend_defaults>("backend_defaults", "Take block sizes from the host's device."),
      inner_field<Disk, &D::rerror>("rerror", "Error handling policy, report/ignore/enospc/stop/auto"),
      inner_field<Disk, &D::werror>("werror", "Error handling policy, report/ignore/enospc/stop/auto"),
      inner_field<Disk, &D::boot_index>("bootindex", "Place in the boot order."),
      inner_field<Disk, &D::cylinders>("cyls", "Cylinders."),
      inner_field<Disk, &D::heads>("heads", "Heads."),
      inner_field<Disk, &D::sectors>("secs", "Sectors of a track."),
      inner_field<Disk, &D::legacy_cylinders>("lcyls", "Cylinders as the BIOS shows them."),
      inner_field<Disk, &D::legacy_heads>("lheads", "Heads as the BIOS shows them."),
      inner_field<Disk, &D::legacy_sectors>("lsecs", "Sectors of a track as the BIOS shows them."),
      inner_field<Disk, &D::serial>("serial", "Serial number."),
  };
}

template <usize N, usize M>
constexpr std::array<Field, N + M> operator+(const std::array<Field, N>& a, const std::array<Field, M>& b) {
  std::array<Field, N + M> all;
  std::ranges::copy(a, all.begin());
  std::ranges::copy(b, all.begin() + N);
  return all;
}

// Requests to a device's drive, by the error policy. One that the policy keeps (werror=stop) waits here until the machine runs again, on
// the loop that it came from; what the policy ignores counts as done. Every attempt is accounted.
class DiskRequests {
 public:
  ~DiskRequests();  // a machine that ends lets go of its drives without unrealizing
  // At realize: takes the drive and its medium. On failure nothing is held.
  Result<> open(vm::Machine& machine, block::BackendClient& client, const DiskProperties& disk, bool writes);
  void abandon();  // a realize that fails after open()
  Task<> close();  // at unrealize: what waits fails, what is under way ends, the drive is free
  void give_up();  // a reset: what waits now fails

  Task<> read(u64 offset, block::IoVector into);
  Task<> read(u64 offset, std::span<u8> into) { return read(offset, block::IoVector{into}); }
  Task<> write(u64 offset, block::IoVector from, bool fua = false);
  Task<> write(u64 offset, std::span<const u8> from, bool fua = false) { return write(offset, block::IoVector::of(from), fua); }
  Task<> flush();
  Task<> zero(u64 offset, u64 length, block::ZeroFlags flags);
  Task<> discard(u64 offset, u64 length);
  // A command that the medium's node carries out by itself; asked again as the policy wants.
  Task<> ask(block::Operation operation, u64 bytes, std::function<Task<>(block::Edge&)> question);

 private:
  struct Kept;
  template <class F>
  Task<> send(block::Operation operation, u64 bytes, F request);
  void go_on();
  void shut();
  block::BackendRef drive_;
  block::BackendClient* client_ = nullptr;
  std::atomic<u32> era_{0};  // times that give_up() was called
  std::atomic<bool> open_{false};
  Mutex mutex_;
  std::vector<std::pair<EventLoop*, std::coroutine_handle<>>> kept_ GUARDED_BY(mutex_);
  WhenRunning when_running_;
};

}  // namespace vmm::hw
