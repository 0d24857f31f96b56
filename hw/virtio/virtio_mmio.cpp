// virtio over memory-mapped registers. Source: virtio 1.2 §4.2 (version 2), §4.2.4 (legacy, version 1). Boards place it; the device behind
// it comes by -device virtio-X-device,bus=virtio-mmio-bus.N.
#include <bit>

#include "hw/virtio/virtio.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
enum Register : u64 {
  r_magic = 0x00,
  r_version = 0x04,
  r_device = 0x08,
  r_vendor = 0x0c,
  r_features = 0x10,
  r_features_select = 0x14,
  r_driver_features = 0x20,
  r_driver_features_select = 0x24,
  r_page_bytes = 0x28,  // legacy
  r_queue_select = 0x30,
  r_queue_size_max = 0x34,
  r_queue_size = 0x38,
  r_queue_alignment = 0x3c,  // legacy
  r_queue_page = 0x40,       // legacy
  r_queue_ready = 0x44,
  r_kick = 0x50,
  r_interrupts = 0x60,
  r_acknowledge = 0x64,
  r_status = 0x70,
  r_descriptors = 0x80,
  r_driver_area = 0x90,
  r_device_area = 0xa0,
  r_memory_length = 0xb0,  // shared memory: there is none
  r_memory_base = 0xb8,
  r_queue_reset = 0xc0,
  r_generation = 0xfc,
  r_config = 0x100,
};
constexpr u32 magic = 0x74726976, vendor = 0x554d4551;  // "virt", "QEMU": what its drivers have always seen
constexpr u64 region_bytes = 0x200;

constinit const TypeInfo mmio_bus_type{.name = "virtio-mmio-bus",
                                       .doc = "Place of the device behind virtio-mmio.",
                                       .parent = &VirtioBus::type,
                                       .make = make<VirtioBus>,
                                       .user_creatable = false};
Registered registered_bus{mmio_bus_type};
}  // namespace

class VirtioMmio final : public Device, public VirtioTransport {
 public:
  static const TypeInfo type;
  void reset() override;
  void settle() override { irq_.set(interrupts_ != 0); }

  // --- VirtioTransport
  void queue_interrupt(u16) override { raise(1); }
  void config_interrupt() override { raise(2); }
  memory::AddressSpace& dma() override { return machine().memory(); }
  Device& owner() override { return *this; }
  u64 offered() const override { return legacy_ ? 0 : virtio::version_1; }

 private:
  Result<> realize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void legacy_write(VirtioDevice& d, VirtQueue* q, u64 offset, u32 value);
  void modern_write(VirtioDevice& d, VirtQueue* q, u64 offset, u32 value);
  void raise(u32 bits);
  void driver_reset();
  VirtioDevice* backend() const {
    return bus_->devices().empty() || !bus_->devices()[0]->realized() ? nullptr : static_cast<VirtioDevice*>(bus_->devices()[0]);
  }
  u32 saved_interrupts() const { return interrupts_; }
  Result<> load_interrupts(const u32& bits) { return interrupts_ = bits, Result<>{}; }
  static const Field properties[3], state[6];

  bool legacy_ = true, ioeventfd_ = true, format_address_ = true;
  u32 features_select_ = 0, driver_features_select_ = 0, queue_select_ = 0, page_bytes_ = 0;
  u64 driver_features_ = 0;
  u32 alignment_ = 4096;  // of the selected legacy queue
  std::atomic<u32> interrupts_{0};
  Ref<VirtioBus> bus_;
  memory::MemoryRegion region_;
  Irq irq_;
};

constexpr Field VirtioMmio::properties[3] = {
    field<&VirtioMmio::legacy_>("force-legacy", "Version 1 of the registers."),
    field<&VirtioMmio::ioeventfd_>("ioeventfd", "Accepted: kicks never wait for the device."),
    field<&VirtioMmio::format_address_>("format_transport_address", "Accepted."),
};
constexpr Field VirtioMmio::state[6] = {
    field<&VirtioMmio::features_select_>("features-select", "half of the device's features that is shown"),
    field<&VirtioMmio::driver_features_select_>("driver-features-select", "half of the driver's features"),
    field<&VirtioMmio::driver_features_>("driver-features", "features as the driver wrote them"),
    field<&VirtioMmio::queue_select_>("queue-select", "queue that is shown"),
    field<&VirtioMmio::page_bytes_>("page-bytes", "page size of a legacy driver"),
    computed<&VirtioMmio::saved_interrupts, &VirtioMmio::load_interrupts>("interrupts", "interrupt status"),
};
constinit const TypeInfo VirtioMmio::type{.name = "virtio-mmio",
                                          .doc = "A virtio device behind memory-mapped registers.",
                                          .parent = &Device::type,
                                          .properties = properties,
                                          .state = state,
                                          .make = make<VirtioMmio>,
                                          .sample = "virtio-mmio",
                                          .user_creatable = false,
                                          .bus = "System"};
static Registered registered{VirtioMmio::type};

Result<> VirtioMmio::realize() {
  region_.init_io<&VirtioMmio::read, &VirtioMmio::write>(*this, "virtio-mmio", region_bytes);
  bus_ = object_cast<VirtioBus>(make_object(mmio_bus_type));
  bus_->transport = this;
  static unsigned number = 0;
  add_bus(format("virtio-mmio-bus.{}", number++), bus_);
  return map(region_, irq_);
}

void VirtioMmio::reset() {
  features_select_ = driver_features_select_ = queue_select_ = page_bytes_ = 0;
  driver_features_ = 0;
  alignment_ = 4096;
  interrupts_ = 0;
}

void VirtioMmio::driver_reset() {
  if (VirtioDevice* d = backend()) d->driver_reset();
  reset();
  settle();
}

void VirtioMmio::raise(u32 bits) {
  interrupts_.fetch_or(bits);
  if (machine_lock.held_by_this_thread()) return settle();
  machine().main_loop().post([self = Ref{this}] {
    if (self->realized()) self->settle();
  });
}

u64 VirtioMmio::read(u64 offset, unsigned size) {
  VirtioDevice* d = backend();
  if (!d) return offset == r_magic ? magic : offset == r_version ? (legacy_ ? 1 : 2) : offset == r_vendor ? vendor : 0;
  if (offset >= r_config) return d->config_load(offset - r_config, size);
  if (size != 4) return guest_error(type.name, "read of {} bytes at {:#x}", size, offset), 0;
  const VirtQueue* q = d->queue(queue_select_);
  switch (offset) {
    case r_magic: return magic;
    case r_version: return legacy_ ? 1 : 2;
    case r_device: return d->device_id();
    case r_vendor: return vendor;
    case r_features: return features_select_ < 2 ? static_cast<u32>(d->offered_features() >> 32 * features_select_) : 0;
    case r_queue_size_max: return q ? q->max_size() : 0;
    case r_queue_page: return legacy_ && q && page_bytes_ ? q->state.descriptors / page_bytes_ : 0;
    case r_queue_ready: return !legacy_ && q && q->state.enabled;
    case r_interrupts: return interrupts_;
    case r_status: return d->status();
    case r_memory_length:
    case r_memory_length + 4:
    case r_memory_base:
    case r_memory_base + 4: return ~u32{0};
    case r_generation: return legacy_ ? 0 : d->config_generation();
    default: return 0;
  }
}

void VirtioMmio::write(u64 offset, unsigned size, u64 wide) {
  VirtioDevice* d = backend();
  if (!d) return;
  if (offset >= r_config) return d->config_store(offset - r_config, size, wide);
  if (size != 4) return guest_error(type.name, "write of {} bytes at {:#x}", size, offset);
  const u32 value = static_cast<u32>(wide);
  VirtQueue* q = d->queue(queue_select_);
  switch (offset) {
    case r_features_select: features_select_ = value; break;
    case r_driver_features_select: driver_features_select_ = value; break;
    case r_driver_features:
      if (driver_features_select_ >= 2) break;
      driver_features_ =
          driver_features_select_ ? (driver_features_ & 0xffff'ffff) | u64{value} << 32 : (driver_features_ & ~u64{0xffff'ffff}) | value;
      d->set_driver_features(driver_features_);
      break;
    case r_queue_select: queue_select_ = value, alignment_ = 4096; break;
    case r_queue_size:
      if (q && !q->state.enabled && value && value <= q->max_size() && (std::has_single_bit(value) || d->has(virtio::ring_packed)))
        q->state.size = static_cast<u16>(value);
      else
        guest_error(type.name, "size {} for queue {}", value, queue_select_);
      break;
    case r_kick: d->kick(value & 0xffff); break;
    case r_acknowledge:
      interrupts_.fetch_and(~value);
      settle();
      break;
    case r_status:
      if (!static_cast<u8>(value)) return driver_reset();
      d->set_status(static_cast<u8>(value));
      break;
    default: legacy_ ? legacy_write(*d, q, offset, value) : modern_write(*d, q, offset, value);
  }
}

void VirtioMmio::legacy_write(VirtioDevice& d, VirtQueue* q, u64 offset, u32 value) {
  switch (offset) {
    case r_page_bytes:
      if (std::has_single_bit(value)) page_bytes_ = value;
      break;
    case r_queue_alignment:
      if (std::has_single_bit(value) && value <= 1 << 20) alignment_ = value;
      break;
    case r_queue_page:
      if (!value) return driver_reset();
      if (!q || q->state.enabled || !page_bytes_) break;
      q->place_legacy(u64{value} * page_bytes_, alignment_);
      d.queue_placed(queue_select_);
      break;
    default: guest_error(type.name, "write of {:#x} to register {:#x}", value, offset);
  }
}

void VirtioMmio::modern_write(VirtioDevice& d, VirtQueue* q, u64 offset, u32 value) {
  const auto half = [&](u64 VirtQueueState::* member) {
    if (!q || q->state.enabled) return;
    u64& address = q->state.*member;
    address = offset & 4 ? (address & 0xffff'ffff) | u64{value} << 32 : (address & ~u64{0xffff'ffff}) | value;
  };
  switch (offset) {
    case r_queue_ready:
      if (value & 1)
        d.enable_queue(queue_select_);
      else if (q && q->state.enabled)
        d.reset_queue(queue_select_);
      break;
    case r_queue_reset:
      if (value == 1) d.reset_queue(queue_select_);
      break;
    case r_descriptors:
    case r_descriptors + 4: half(&VirtQueueState::descriptors); break;
    case r_driver_area:
    case r_driver_area + 4: half(&VirtQueueState::driver_area); break;
    case r_device_area:
    case r_device_area + 4: half(&VirtQueueState::device_area); break;
    default: guest_error(type.name, "write of {:#x} to register {:#x}", value, offset);
  }
}

}  // namespace vmm::hw
