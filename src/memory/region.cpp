// Regions: the topology's nodes, and one access to an I/O region.
#include <algorithm>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/memory/memory.h"
#include "src/memory/publish.h"
#include "src/memory/reader.h"
#include "src/object/object.h"

namespace vmm::memory {

namespace {
thread_local InsideDevice* innermost = nullptr;
// The owner is asked for its name only if somebody reads it.
template <class... Args>
void mistake(const Object* owner, const std::string& name, fmt::format_string<Args...> text, Args... args) {
  if (log_enabled(LogItem::guest_errors))
    guest_error_text(owner ? owner->type_info().name : std::string_view{name},
                     format("{}: {}", name, fmt::vformat(text, fmt::make_format_args(args...))));
}
}  // namespace

InsideDevice::InsideDevice(Object* owner) : owner_(owner), outer_(innermost) { innermost = this; }
InsideDevice::~InsideDevice() { innermost = outer_; }
bool InsideDevice::active(const Object* owner) {
  for (const InsideDevice* i = innermost; i; i = i->outer_)
    if (i->owner_ == owner) return true;
  return false;
}

// --- Life

void MemoryRegion::init(Kind kind, Object* owner, std::string name, u128 size) {
  ASSERT(kind_ == Kind::none);
  kind_ = kind;
  owner_ = owner;
  name_ = std::move(name);
  size_ = std::min(size, u128{1} << 64);
}
void MemoryRegion::init_container(Object* owner, std::string name, u128 size) { init(Kind::container, owner, std::move(name), size); }
void MemoryRegion::init_io(Object* owner, std::string name, u64 size, const IoOps& ops, void* opaque, IoSizes sizes) {
  ASSERT(std::has_single_bit(sizes.min) && std::has_single_bit(sizes.max) && sizes.min <= sizes.max && sizes.max <= 8);
  ASSERT(std::has_single_bit(sizes.valid_min) && std::has_single_bit(sizes.valid_max) && sizes.valid_min <= sizes.valid_max);
  init(Kind::io, owner, std::move(name), size);
  ops_ = ops, opaque_ = opaque, sizes_ = sizes;
}
void MemoryRegion::init_ram(Object* owner, std::string name, std::shared_ptr<RamBlock> block) {
  ASSERT(block);
  init(block->read_only() ? Kind::rom : Kind::ram, owner, std::move(name), block->size_bytes());
  read_only_ = block->read_only();
  ram_ = std::move(block);
}
Result<> MemoryRegion::init_ram(Object* owner, std::string name, u64 size) {
  auto block = TRY(RamBlock::make({.name = name, .size_bytes = size}));
  init_ram(owner, std::move(name), std::move(block));
  size_ = size;
  return {};
}
Result<> MemoryRegion::init_rom(Object* owner, std::string name, u64 size) {
  auto block = TRY(RamBlock::make({.name = name, .size_bytes = size, .read_only = true}));
  init_ram(owner, std::move(name), std::move(block));
  size_ = size;
  return {};
}
Result<> MemoryRegion::init_rom_device(Object* owner, std::string name, u64 size, const IoOps& ops, void* opaque, IoSizes sizes) {
  auto block = TRY(RamBlock::make({.name = name, .size_bytes = size, .read_only = true}));
  init_io(owner, std::move(name), size, ops, opaque, sizes);
  kind_ = Kind::rom_device;
  ram_ = std::move(block);
  return {};
}
void MemoryRegion::init_alias(Object* owner, std::string name, MemoryRegion& target, u64 offset, u64 size) {
  init(Kind::alias, owner, std::move(name), size);
  alias_ = &target;
  alias_offset_ = offset;
  target.aliased_by_.push_back(this);
}

MemoryRegion::~MemoryRegion() {
  const bool in_use = container_ || !children_.empty() || !aliased_by_.empty() || is_shown(*this);
  if (!in_use && !alias_) return;
  MachineLockedIfNot lock;
  detach();
}

void MemoryRegion::detach() NO_THREAD_SAFETY_ANALYSIS {
  const bool visible = container_ || !aliased_by_.empty() || is_shown(*this);
  if (container_) std::erase(container_->children_, this);
  container_ = nullptr;
  for (MemoryRegion* child : children_) child->container_ = nullptr;
  children_.clear();
  for (MemoryRegion* alias : aliased_by_) alias->alias_ = nullptr;
  aliased_by_.clear();
  if (alias_) std::erase(alias_->aliased_by_, this);
  alias_ = nullptr;
  enabled_ = false;
  if (!visible) return;
  // Even inside a Transaction: no published view may name us from here on.
  topology_changed();
  publish_views();
  wait_for_readers();
}

// --- Topology

void MemoryRegion::add(MemoryRegion& child, u64 offset, int priority) {
  machine_lock.assert_held();
  ASSERT(!child.container_ && child.kind_ != Kind::none && &child != this);
  Transaction transaction;
  child.container_ = this;
  child.address_ = offset;
  child.priority_ = priority;
  auto at = std::ranges::find_if(children_, [&](MemoryRegion* c) { return c->priority_ <= priority; });
  children_.insert(at, &child);
  topology_changed();
}
void MemoryRegion::remove(MemoryRegion& child) {
  machine_lock.assert_held();
  if (child.container_ != this) return;
  Transaction transaction;
  std::erase(children_, &child);
  child.container_ = nullptr;
  topology_changed();
}
void MemoryRegion::set_enabled(bool on) {
  machine_lock.assert_held();
  if (enabled_ == on) return;
  Transaction transaction;
  enabled_ = on;
  topology_changed();
}
void MemoryRegion::set_address(u64 offset) {
  machine_lock.assert_held();
  if (address_ == offset) return;
  Transaction transaction;
  address_ = offset;
  // Among equals the later one wins, and a move counts as coming later.
  if (container_) {
    auto& siblings = container_->children_;
    std::erase(siblings, this);
    siblings.insert(std::ranges::find_if(siblings, [&](MemoryRegion* c) { return c->priority_ <= priority_; }), this);
  }
  topology_changed();
}
void MemoryRegion::set_size(u128 size) {
  machine_lock.assert_held();
  size = std::min(size, u128{1} << 64);
  if (ram_) size = std::min<u128>(size, ram_->size_bytes());
  if (size_ == size) return;
  Transaction transaction;
  size_ = size;
  topology_changed();
}
void MemoryRegion::set_alias_offset(u64 offset) {
  machine_lock.assert_held();
  if (alias_offset_ == offset) return;
  Transaction transaction;
  alias_offset_ = offset;
  topology_changed();
}
void MemoryRegion::set_read_only(bool on) {
  machine_lock.assert_held();
  if (read_only_ == on) return;
  Transaction transaction;
  read_only_ = on;
  topology_changed();
}
void MemoryRegion::set_romd(bool on) {
  machine_lock.assert_held();
  if (romd_ == on) return;
  Transaction transaction;
  romd_ = on;
  topology_changed();
}

// --- Doorbells

void MemoryRegion::publish_doorbells(std::vector<Doorbell> doorbells) {
  auto next = doorbells.empty() ? nullptr : std::make_shared<const std::vector<Doorbell>>(std::move(doorbells));
  rung_by_.store(next.get(), std::memory_order_seq_cst);
  std::swap(doorbells_, next);
  retire(std::move(next));
}
void MemoryRegion::add_doorbell(Doorbell doorbell) {
  machine_lock.assert_held();
  auto list = doorbells_ ? *doorbells_ : std::vector<Doorbell>{};
  list.push_back(std::move(doorbell));
  publish_doorbells(std::move(list));
}
void MemoryRegion::remove_doorbell(u64 offset) {
  machine_lock.assert_held();
  if (!doorbells_) return;
  auto list = *doorbells_;
  if (!std::erase_if(list, [&](const Doorbell& d) { return d.offset == offset; })) return;
  publish_doorbells(std::move(list));
  wait_for_readers();  // whoever rang it has finished
}
bool MemoryRegion::ring(u64 offset, unsigned size, u64 value) const {
  const auto* list = rung_by_.load(std::memory_order_seq_cst);
  if (!list) return false;
  for (const Doorbell& d : *list) {
    if (d.offset != offset || (d.size && d.size != size)) continue;
    if (d.match && (d.value ^ value) & mask_of_size(size)) continue;
    d.ring();
    return true;
  }
  return false;
}

// --- One access

u64 MemoryRegion::call_read(u64 offset, unsigned size) const {
  return ops_.read ? ops_.read(opaque_, offset, size) & mask_of_size(size) : mask_of_size(size);
}
void MemoryRegion::call_write(u64 offset, unsigned size, u64 value) const {
  if (ops_.write) ops_.write(opaque_, offset, size, value & mask_of_size(size));
}

namespace {
// Takes an access apart as the handler wants it: aligned unless it takes others, of `min` to `max` bytes. `piece(offset, size,
// shift)` gets pieces in rising order; `lane` is set where a narrower access is widened, and tells the byte within the piece.
template <class Piece>
void in_pieces(const IoSizes& sizes, u64 offset, unsigned size, Piece piece) {
  for (unsigned done = 0; done < size;) {
    const u64 at = offset + done;
    unsigned n = std::min<unsigned>(std::bit_floor(size - done), sizes.max);
    if (!sizes.unaligned)
      while (at & (n - 1)) n >>= 1;
    if (n >= sizes.min)
      piece(at, n, 0u, n, done);
    else if (const unsigned lane = sizes.unaligned ? 0 : unsigned(at & (sizes.min - 1)); true)
      piece(at - lane, sizes.min, lane, n, done);
    done += n;
  }
}
}  // namespace

bool MemoryRegion::read(u64 offset, unsigned size, u64& value) {
  value = mask_of_size(size);
  if (kind_ != Kind::io && kind_ != Kind::rom_device) return false;
  if (size < sizes_.valid_min || size > sizes_.valid_max) {
    mistake(owner_, name_, "read of {} bytes at {:#x} is not possible", size, offset);
    return false;
  }
  std::optional<MachineLockedIfNot> lock;
  if (sizes_.machine_lock) lock.emplace();
  if (owner_ && InsideDevice::active(owner_)) {
    mistake(owner_, name_, "the device reads its own register {:#x}", offset);
    return false;
  }
  InsideDevice inside{owner_};
  u64 all = 0;
  in_pieces(sizes_, offset, size, [&](u64 at, unsigned n, unsigned lane, unsigned wanted, unsigned done) {
    all |= (call_read(at, n) >> (lane * 8) & mask_of_size(wanted)) << (done * 8);
  });
  value = all;
  return true;
}

bool MemoryRegion::write(u64 offset, unsigned size, u64 value) {
  if (kind_ != Kind::io && kind_ != Kind::rom_device) return false;
  {
    ReadPin pin;
    if (ring(offset, size, value)) return true;
  }
  if (size < sizes_.valid_min || size > sizes_.valid_max) {
    mistake(owner_, name_, "write of {} bytes at {:#x} is not possible", size, offset);
    return false;
  }
  std::optional<MachineLockedIfNot> lock;
  if (sizes_.machine_lock) lock.emplace();
  if (owner_ && InsideDevice::active(owner_)) {
    mistake(owner_, name_, "the device writes its own register {:#x}", offset);
    return false;
  }
  InsideDevice inside{owner_};
  in_pieces(sizes_, offset, size, [&](u64 at, unsigned n, unsigned lane, unsigned wanted, unsigned done) {
    call_write(at, n, (value >> (done * 8) & mask_of_size(wanted)) << (lane * 8));
  });
  return true;
}

}  // namespace vmm::memory
