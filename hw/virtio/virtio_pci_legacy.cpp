// The legacy interface: registers in I/O space, rings of whole pages. Source: virtio 1.2 §4.1.4.10, virtio 0.9.5 §2.3.
#include <bit>

#include "hw/virtio/virtio_pci.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
constexpr u64 legacy_page = 4096;
enum Legacy : u64 {
  l_features = 0,
  l_driver_features = 4,
  l_queue_page = 8,
  l_queue_size = 12,
  l_queue_select = 14,
  l_kick = 16,
  l_status = 18,
  l_isr = 19,
  l_config_vector = 20,
  l_queue_vector = 22,
};
}  // namespace

void VirtioPci::add_legacy() {
  const u64 header = vector_count_ ? 24 : 20;
  legacy_bar_.init_io<&VirtioPci::legacy_read, &VirtioPci::legacy_write>(*this, "virtio-pci",
                                                                         std::bit_ceil(header + backend_->config_size()));
  for (unsigned n = 0; n < backend_->queue_count(); n++)
    legacy_bar_.add_doorbell({.offset = l_kick, .size = 2, .match = true, .value = n, .ring = [b = backend_, n] { b->kick(n); }});
  add_bar(0, PciBarKind::io, legacy_bar_);
}

u64 VirtioPci::legacy_read(u64 offset, unsigned size) {
  const VirtQueue* q = backend_->queue(queue_select_);
  const u64 header = msix_enabled() ? 24 : 20;  // the vectors are there only while MSI-X is on
  if (offset >= header) return backend_->config_load(offset - header, size);
  switch (offset) {
    case l_features: return static_cast<u32>(backend_->offered_features());
    case l_driver_features: return static_cast<u32>(backend_->driver_features());
    case l_queue_page: return q ? static_cast<u32>(q->state.descriptors / legacy_page) : 0;
    case l_queue_size: return q ? q->max_size() : 0;
    case l_queue_select: return queue_select_;
    case l_status: return backend_->status();
    case l_isr: return take_isr();
    case l_config_vector: return config_vector_;
    case l_queue_vector: return q ? q->state.vector : virtio::no_vector;
    default: return mask_of_size(size);
  }
}

void VirtioPci::legacy_write(u64 offset, unsigned size, u64 value) {
  VirtQueue* q = backend_->queue(queue_select_);
  const u64 header = msix_enabled() ? 24 : 20;
  if (offset >= header) return backend_->config_store(offset - header, size, value);
  switch (offset) {
    case l_driver_features: backend_->set_driver_features(static_cast<u32>(value)); break;
    case l_queue_page:
      if (!value) return reset_by_driver();  // how the first drivers said it
      if (!q || q->state.enabled) break;
      q->place_legacy(value * legacy_page, legacy_page);
      backend_->queue_placed(queue_select_);
      break;
    case l_queue_select: queue_select_ = static_cast<u16>(value); break;
    case l_kick: backend_->kick(static_cast<u16>(value)); break;
    case l_status:
      if (!static_cast<u8>(value)) return reset_by_driver();
      backend_->set_status(static_cast<u8>(value));
      break;
    case l_config_vector: config_vector_ = checked_vector(value); break;
    case l_queue_vector:
      if (q) q->state.vector = checked_vector(value);
      break;
    default: guest_error(type_info().name, "write of {:#x} to legacy register {}", value, offset);
  }
}

}  // namespace vmm::hw
