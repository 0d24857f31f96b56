// virtio block device. Source: virtio 1.2 §5.2.
//
// Each request is a task: it maps the guest's buffers, sends them to the drive, and answers. Requests of one queue run side by side.
// A request that the drive refuses follows werror and rerror: where that says stop, it waits in its task until the machine runs again.
// Not modelled: zoned devices, lifetime and secure erase, SCSI commands (VIRTIO_BLK_F_SCSI, gone with virtio 1.0).
#include <bit>
#include <cstring>

#include "block/core/iothread.h"
#include "hw/storage/disk.h"
#include "hw/virtio/virtio_pci.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
enum Feature : u64 {
  f_seg_max = 1 << 2,
  f_geometry = 1 << 4,
  f_read_only = 1 << 5,
  f_block_size = 1 << 6,
  f_flush = 1 << 9,
  f_topology = 1 << 10,
  f_config_wce = 1 << 11,
  f_multi_queue = 1 << 12,
  f_discard = 1 << 13,
  f_write_zeroes = 1 << 14,
};
enum Type : u32 { t_in = 0, t_out = 1, t_flush = 4, t_get_id = 8, t_discard = 11, t_write_zeroes = 13 };
enum Status : u8 { s_ok = 0, s_error = 1, s_unsupported = 2 };
constexpr u64 sector_bytes = 512;
constexpr usize id_bytes = 20;

struct Header {
  u32 type, priority;
  u64 sector;
};
struct Range {  // of discard and write-zeroes
  u64 sector;
  u32 sectors, flags;
};
struct [[gnu::packed]] Config {
  u64 capacity;
  u32 size_max, seg_max;
  u16 cylinders;
  u8 heads, sectors;
  u32 block_size;
  u8 physical_exponent, alignment_offset;
  u16 min_io;
  u32 opt_io;
  u8 write_cache, unused;
  u16 queues;
  u32 max_discard_sectors, max_discard_segments, discard_alignment, max_zero_sectors, max_zero_segments;
  u8 zero_may_unmap, unused_too[3];
};
static_assert(sizeof(Config) == 60);
}  // namespace

class VirtioBlk final : public VirtioDevice, public block::BackendClient {
 public:
  static const TypeInfo type;
  static constexpr VirtioPciModel pci{.stem = "virtio-blk-pci",
                                      .doc = "A disk.",
                                      .class_code = 0x010000,
                                      .legacy_id = 0x1001,
                                      .vectors = [](unsigned queues) { return queues + 1; },
                                      .category = "Storage devices",
                                      .alias = "virtio-blk",
                                      .sample = "virtio-blk-pci,drive=conformance"};
  VirtioBlk() : VirtioDevice(2) {}

 private:
  Result<> realize_virtio() override;
  Task<> unrealize_virtio() override;
  u64 device_features() const override;
  usize config_bytes() const override { return sizeof(Config); }
  void read_config(std::span<u8> image) const override;
  void write_config(std::span<const u8> image, usize first, usize count) override;
  void driver_ready() override;
  void reset_virtio() override;
  void queue_notified(unsigned n) override;
  void serve_again(unsigned n, Chain&& chain) override {
    active_++;
    serve(Ref{this}, n, std::move(chain)).start(nullptr);
  }
  bool busy() const override { return active_ > 0; }
  std::vector<BootEntry> boot_entries() const override { return disk_.boot_entries("/disk@0,0"); }

  std::string qom_path() const override { return path(); }
  void resized() override { config_changed(); }
  void medium_changed() override { config_changed(); }

  static Task<> serve(Ref<VirtioBlk> self, unsigned n, Chain chain);
  Task<u8> carry_out(const Header& header, const Chain& chain, u64& written);
  Task<u8> transfer(bool write, u64 offset, const Chain& chain, u64& written);
  Task<bool> read_by_copy(u64 offset, u64 length, const Chain& chain);
  Task<u8> clear(bool zeroes, const Chain& chain);
  bool in_range(u64 sector, u64 sectors) const;

  static const std::array<Field, disk_field_count + 12> properties;
  DiskProperties disk_;
  Ref<block::IoThread> iothread_;
  bool config_wce_ = true, discard_ = true, write_zeroes_ = true, scsi_ = false, request_merging_ = true, seg_max_adjust_ = true,
       report_granularity_ = true;
  u16 queue_count_ = 0xffff, queue_size_ = 256;
  u32 max_discard_sectors_ = 0x3fffff, max_zero_sectors_ = 0x3fffff;
  bool original_cache_ = true;
  std::atomic<u32> active_{0};  // tasks; those of before a reset as well
  DiskRequests requests_;
};

constexpr std::array<Field, disk_field_count + 12> VirtioBlk::properties =
    disk_fields<&VirtioBlk::disk_>() +
    std::array{
        field<&VirtioBlk::config_wce_>("config-wce", "The guest may switch the write cache."),
        field<&VirtioBlk::scsi_>("scsi", "Accepted: SCSI commands are not offered."),
        field<&VirtioBlk::request_merging_>("request-merging", "Accepted."),
        field<&VirtioBlk::queue_count_>("num-queues", "Queues; by default as many as CPUs.", {.min = 1}),
        field<&VirtioBlk::queue_size_>("queue-size", "Entries of a queue, a power of two.", {.min = 3, .max = 1024}),
        field<&VirtioBlk::seg_max_adjust_>("seg-max-adjust", "The limit of segments follows the queue's size."),
        field<&VirtioBlk::discard_>("discard", "Offer discards."),
        field<&VirtioBlk::iothread_>("iothread", "Thread that the drive's requests run on."),
        field<&VirtioBlk::report_granularity_>("report-discard-granularity", "Tell the unit of discards."),
        field<&VirtioBlk::write_zeroes_>("write-zeroes", "Offer writing of zeros."),
        field<&VirtioBlk::max_discard_sectors_>("max-discard-sectors", "Longest discard.", {.min = 1, .max = 0x3fffff}),
        field<&VirtioBlk::max_zero_sectors_>("max-write-zeroes-sectors", "Longest write of zeros.", {.min = 1, .max = 0x3fffff}),
    };
constinit const TypeInfo VirtioBlk::type{.name = "virtio-blk-device",
                                         .doc = "A disk.",
                                         .parent = &VirtioDevice::type,
                                         .properties = properties,
                                         .make = make<VirtioBlk>,
                                         .category = "Storage devices"};
static Registered registered{VirtioBlk::type};
static RegisteredVirtioPci<VirtioBlk> registered_pci;

// --- Life

Result<> VirtioBlk::realize_virtio() {
  TRY(disk_.settle(65535, 255, 255));
  if (!std::has_single_bit(queue_size_)) return fail("'queue-size' takes a power of two from 4 to 1024, not {}", queue_size_);
  if (!disk_.drive->has_medium()) return fail("Device needs media, but drive is empty");
  if (queue_count_ == 0xffff) queue_count_ = static_cast<u16>(std::clamp<usize>(machine().vcpus().size(), 1, 64));
  if (queue_count_ > 1024) return fail("'num-queues' takes 1 to 1024, not {}", queue_count_);
  TRY(requests_.open(machine(), *this, disk_, true));
  if (iothread_) {
    iothread_->add_user(path());
    disk_.drive->set_loop(iothread_->loop());
  }
  original_cache_ = disk_.drive->write_cache();
  for (unsigned n = 0; n < queue_count_; n++) add_queue(queue_size_);
  return {};
}

Task<> VirtioBlk::unrealize_virtio() {
  co_await requests_.close();
  if (iothread_) {
    disk_.drive->set_loop(machine().main_loop());
    iothread_->remove_user(path());
  }
  co_return Result<>{};
}

void VirtioBlk::driver_ready() {
  // A driver that cannot flush must not lose what it wrote (virtio 1.2 §5.2.6.2).
  if (!has(f_config_wce)) disk_.drive->set_write_cache(has(f_flush) && original_cache_);
}

void VirtioBlk::reset_virtio() {
  requests_.give_up();
  if (realized()) disk_.drive->set_write_cache(original_cache_);
}

u64 VirtioBlk::device_features() const {
  u64 f = f_seg_max | f_geometry | f_topology | f_block_size;
  if (disk_.drive->read_only()) f |= f_read_only;
  if (original_cache_ || config_wce_) f |= f_flush;
  if (config_wce_) f |= f_config_wce;
  if (queue_count_ > 1) f |= f_multi_queue;
  if (discard_) f |= f_discard;
  if (write_zeroes_) f |= f_write_zeroes;
  return f;
}

void VirtioBlk::read_config(std::span<u8> image) const {
  const u64 block = disk_.logical_block;
  const u64 granularity = disk_.discard_granularity.value == ~u32{0} ? block : disk_.discard_granularity.value;
  const Config c{
      .capacity = disk_.drive->length_bytes() / sector_bytes,
      .size_max = 0,
      .seg_max = seg_max_adjust_ ? queue_size_ - 2u : 126,
      .cylinders = static_cast<u16>(disk_.cylinders),
      .heads = static_cast<u8>(disk_.heads),
      .sectors = static_cast<u8>(disk_.sectors),
      .block_size = static_cast<u32>(block),
      .physical_exponent = static_cast<u8>(std::countr_zero(disk_.physical_block.value / block)),
      .alignment_offset = 0,
      .min_io = static_cast<u16>(disk_.min_io / block),
      .opt_io = static_cast<u32>(disk_.opt_io / block),
      .write_cache = disk_.drive->write_cache(),
      .unused = 0,
      .queues = queue_count_,
      .max_discard_sectors = discard_ ? max_discard_sectors_ : 0,
      .max_discard_segments = discard_,
      .discard_alignment = static_cast<u32>(discard_ ? (report_granularity_ ? granularity : block) / sector_bytes : 0),
      .max_zero_sectors = write_zeroes_ ? max_zero_sectors_ : 0,
      .max_zero_segments = write_zeroes_,
      .zero_may_unmap = write_zeroes_,
      .unused_too = {},
  };
  std::memcpy(image.data(), &c, sizeof c);
}

void VirtioBlk::write_config(std::span<const u8> image, usize first, usize count) {
  constexpr usize wce = offsetof(Config, write_cache);
  if (first <= wce && wce < first + count && has(f_config_wce)) disk_.drive->set_write_cache(image[wce] & 1);
}

// --- Requests

void VirtioBlk::queue_notified(unsigned n) {
  VirtQueue& q = *queue(n);
  unsigned budget = 2u * q.state.size;
  do {
    q.set_notification(false);
    while (auto chain = q.pop()) {
      active_++;
      serve(Ref{this}, n, std::move(*chain)).start(nullptr);
      if (!running()) return;
      if (!--budget) return kick(n);  // others want their turn
    }
  } while (q.set_notification(true));
}

Task<> VirtioBlk::serve(Ref<VirtioBlk> self, unsigned n, Chain chain) {
  const TakenChain taken{*self->queue(n), chain};
  const auto header = chain.copy_in<Header>(0);
  const u64 room = chain.writable_bytes();
  u64 written = 0;
  if (!header || !room) {
    self->active_--;
    self->broken("a request without a header or without a place for its status");
    co_return Result<>{};
  }
  const u8 status = co_await self->carry_out(*header, chain, written);
  self->active_--;
  if (chain.stale() || !self->running()) co_return Result<>{};
  chain.copy_out(room - 1, status);
  VirtQueue& q = *self->queue(n);
  // The driver looks at the first `written` bytes only; what lies between data and status counts as written (§2.7.8.2).
  q.push(std::move(chain), written ? written + 1 : (room == 1 ? 1 : 0));
  q.notify();
  co_return Result<>{};
}

Task<u8> VirtioBlk::carry_out(const Header& header, const Chain& chain, u64& written) {
  switch (header.type) {
    case t_in:
    case t_out: {
      const bool write = header.type == t_out;
      if (header.sector > ~u64{0} / sector_bytes || (write && disk_.drive->read_only())) co_return u8{s_error};
      co_return co_await transfer(write, header.sector * sector_bytes, chain, written);
    }
    case t_flush: {
      const Result<> done = co_await attempt(requests_.flush());
      co_return u8{done ? s_ok : s_error};
    }
    case t_get_id: {
      std::array<u8, id_bytes> id{};
      std::memcpy(id.data(), disk_.serial.data(), std::min(disk_.serial.size(), id.size()));
      written = chain.copy_out(0, std::span{id}.first(std::min<u64>(id.size(), chain.writable_bytes() - 1)));
      co_return u8{s_ok};
    }
    case t_discard:
    case t_write_zeroes:
      if (!(header.type == t_discard ? discard_ : write_zeroes_)) co_return u8{s_unsupported};
      co_return co_await clear(header.type == t_write_zeroes, chain);
    default: co_return u8{s_unsupported};
  }
}

bool VirtioBlk::in_range(u64 sector, u64 sectors) const {
  const u64 block = disk_.logical_block / sector_bytes, capacity = disk_.drive->length_bytes() / sector_bytes;
  return sector <= capacity && sectors <= capacity - sector && sector % block == 0 && sectors % block == 0;
}

Task<u8> VirtioBlk::transfer(bool write, u64 offset, const Chain& chain, u64& written) {
  const u64 length = write ? chain.readable_bytes() - sizeof(Header) : chain.writable_bytes() - 1;
  if (length % sector_bytes || !in_range(offset / sector_bytes, length / sector_bytes)) {
    disk_.drive->statistics(write ? block::Operation::write : block::Operation::read).invalid++;
    co_return u8{s_error};
  }
  if (!length) co_return u8{s_ok};
  if (!write && !has(virtio::version_1)) {
    const bool done = co_await read_by_copy(offset, length, chain);
    if (done) written = length;
    co_return u8{done ? s_ok : s_error};
  }
  GuestMapping memory = write ? chain.map_readable(sizeof(Header), length) : chain.map_writable(0, length);
  if (!memory.ok()) co_return u8{s_error};
  block::IoVector vector;
  for (const auto span : memory.spans()) vector.add(span);
  Task<> request = write ? requests_.write(offset, std::move(vector)) : requests_.read(offset, std::move(vector));
  const Result<> done = co_await attempt(std::move(request));
  if (!write && done) memory.finish(length), written = length;
  co_return u8{done ? s_ok : s_error};
}

// A legacy driver takes its memory back when it resets the device, and asks nobody: no drive may still be writing there. So what is read
// goes by way of a buffer of ours, a piece at a time.
Task<bool> VirtioBlk::read_by_copy(u64 offset, u64 length, const Chain& chain) {
  block::Buffer buffer{std::min<u64>(length, 256 * KiB)};
  for (u64 at = 0; at < length;) {
    const u64 n = std::min<u64>(length - at, buffer.size());
    const Result<> done = co_await attempt(requests_.read(offset + at, buffer.vector().part(0, n)));
    if (!done || chain.stale() || chain.copy_out(at, buffer.span().first(n)) != n) co_return false;
    at += n;
  }
  co_return true;
}

Task<u8> VirtioBlk::clear(bool zeroes, const Chain& chain) {
  const auto range = chain.copy_in<Range>(sizeof(Header));
  if (!range || chain.readable_bytes() != sizeof(Header) + sizeof(Range))
    co_return u8{s_unsupported};  // one range a request is what we offer
  const bool unmap = range->flags & 1;
  if (range->flags & ~1u || (!zeroes && unmap)) co_return u8{s_unsupported};
  if (range->sectors > (zeroes ? max_zero_sectors_ : max_discard_sectors_) || !in_range(range->sector, range->sectors) ||
      disk_.drive->read_only())
    co_return u8{s_error};
  if (!range->sectors) co_return u8{s_ok};
  const u64 offset = range->sector * sector_bytes, length = u64{range->sectors} * sector_bytes;
  Task<> request = zeroes ? requests_.zero(offset, length, {.may_unmap = unmap}) : requests_.discard(offset, length);
  const Result<> done = co_await attempt(std::move(request));
  co_return u8{done ? s_ok : s_error};
}

}  // namespace vmm::hw
