// virtio-pci: layout of the function, the modern interface, interrupts. Source: virtio 1.2 §4.1. The arrangement of BARs and
// capabilities is QEMU's, as observed: some firmware counts on it.
#include "hw/virtio/virtio_pci.h"

#include <bit>
#include <deque>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/object/forward.h"

namespace vmm::hw {

namespace {
enum ConfigType : u8 { cfg_common = 1, cfg_notify = 2, cfg_isr = 3, cfg_device = 4, cfg_window = 5 };
constexpr u32 common_at = 0, isr_at = 0x1000, device_at = 0x2000, notify_at = 0x3000, part_bytes = 0x1000;
constexpr unsigned modern_bar = 4, msix_bar = 1, legacy_bar = 0, notify_io_bar = 2;
constexpr u16 virtio_vendor = 0x1af4;
}  // namespace

constexpr Field VirtioPci::generic_properties[2] = {
    field<&VirtioPci::disable_legacy_>("disable-legacy", "Without the legacy interface; auto: below an express port only."),
    field<&VirtioPci::disable_modern_>("disable-modern", "Without the modern interface."),
};
constexpr Field VirtioPci::properties[16] = {
    field<&VirtioPci::ioeventfd_>("ioeventfd", "Accepted: kicks never wait for the machine lock."),
    field<&VirtioPci::vectors_>("vectors", "MSI-X vectors; 0: none."),
    field<&VirtioPci::master_bug_>("virtio-pci-bus-master-bug-migration", "Accepted."),
    field<&VirtioPci::migrate_extra_>("migrate-extra", "Accepted: state beyond the legacy registers is always saved."),
    field<&VirtioPci::modern_pio_notify_>("modern-pio-notify", "Kicks by an I/O port as well."),
    field<&VirtioPci::disable_pcie_>("x-disable-pcie", "Without the express capability on an express bus."),
    field<&VirtioPci::page_per_queue_>("page-per-vq", "A page of the notification area for each queue."),
    field<&VirtioPci::ignore_backend_features_>("x-ignore-backend-features", "Accepted."),
    field<&VirtioPci::ats_>("ats", "Accepted: address translation services are not offered."),
    field<&VirtioPci::ats_aligned_>("x-ats-page-aligned", "Accepted."),
    field<&VirtioPci::deverr_>("x-pcie-deverr-init", "Accepted."),
    field<&VirtioPci::lnkctl_>("x-pcie-lnkctl-init", "Accepted."),
    field<&VirtioPci::pcie_pm_>("x-pcie-pm-init", "Power management capability on an express bus."),
    field<&VirtioPci::flr_>("x-pcie-flr-init", "Accepted."),
    field<&VirtioPci::aer_>("aer", "Accepted: error reporting is not offered."),
    field<&VirtioPci::class_code_>("class", "Class code; 0: the usual one.", {.max = 0xffffff}),
};
constexpr Field VirtioPci::state[6] = {
    field<&VirtioPci::feature_select_>("feature-select", "half of the device's features that is shown"),
    field<&VirtioPci::driver_feature_select_>("driver-feature-select", "half of the driver's features"),
    field<&VirtioPci::driver_features_>("driver-features", "features as the driver wrote them"),
    field<&VirtioPci::queue_select_>("queue-select", "queue that is shown"),
    computed<&VirtioPci::saved_vector, &VirtioPci::load_vector>("config-vector", "MSI-X vector of configuration changes"),
    computed<&VirtioPci::saved_isr, &VirtioPci::load_isr>("isr", "interrupt status"),
};
constinit const TypeInfo VirtioPci::type{.name = "virtio-pci",
                                         .doc = "A virtio device on PCI.",
                                         .parent = &PciDevice::type,
                                         .properties = properties,
                                         .state = state,
                                         .user_creatable = false};
static Registered registered{VirtioPci::type};
namespace {
constinit const TypeInfo pci_bus_type{.name = "virtio-pci-bus",
                                      .doc = "Place of the device behind virtio-pci.",
                                      .parent = &VirtioBus::type,
                                      .make = make<VirtioBus>,
                                      .user_creatable = false};
Registered registered_bus{pci_bus_type};
}  // namespace
constinit const TypeInfo VirtioPci::generic_type{.name = "virtio-pci-generic",
                                                 .doc = "A virtio device on PCI whose interfaces are chosen by properties.",
                                                 .parent = &VirtioPci::type,
                                                 .properties = generic_properties,
                                                 .user_creatable = false};

// --- Types

void register_virtio_pci(const VirtioPciModel& model, const TypeInfo& backend, std::array<Object* (*)(), 3> make) {
  struct Entry {
    std::string name;
    TypeInfo type;
  };
  static auto& all = *new std::deque<Entry>;
  static constexpr std::string_view suffix[3] = {"", "-transitional", "-non-transitional"};
  for (unsigned kind = 0; kind < 3; kind++) {
    if (kind == 1 && !model.legacy_id) continue;
    Entry& e = all.emplace_back();
    e.name = format("{}{}", model.stem, suffix[kind]);
    e.type = {.name = e.name,
              .doc = model.doc,
              .parent = VirtioPci::base_of(static_cast<VirtioPci::Kind>(kind)),
              .make = make[kind],
              .alias = kind == 0 ? model.alias : std::string_view{},
              .category = model.category,
              .sample = model.sample};
    forward_properties(e.type, backend, "virtio-backend");
    register_type(e.type);
  }
}

const TypeInfo* VirtioPci::base_of(Kind kind) { return kind == Kind::generic ? &generic_type : &type; }
static Registered registered_generic{*VirtioPci::base_of(VirtioPci::Kind::generic)};

VirtioPci::VirtioPci(const VirtioPciModel& model, Kind kind, Ref<VirtioDevice> backend)
    : PciDevice({.vendor = virtio_vendor, .class_code = model.class_code}), model_(model), kind_(kind), backend_(std::move(backend)) {
  add_child("virtio-backend", backend_);
  if (!model.romfile.empty()) romfile_ = model.romfile;
}

// --- Layout

Result<> VirtioPci::realize_pci() {
  const bool below_port = pci().express() && pci().bridge();
  legacy_ = kind_ != Kind::modern && model_.legacy_id &&
            (kind_ == Kind::transitional || disable_legacy_ == OnOffAuto::off || (disable_legacy_ == OnOffAuto::automatic && !below_port));
  modern_ = kind_ != Kind::generic || !disable_modern_;
  if (!legacy_ && !modern_) {
    return std::unexpected(Error{"device cannot work as neither modern nor legacy mode is enabled"}.with_hint(
        "Set either disable-modern or disable-legacy to off"));
  }
  ids_.device = legacy_ ? model_.legacy_id : static_cast<u16>(0x1040 + backend_->device_id());
  ids_.revision = legacy_ ? 0 : 1;
  ids_.subsystem_vendor = virtio_vendor;
  ids_.subsystem = legacy_ ? backend_->device_id() : 0x1100;
  if (class_code_) ids_.class_code = class_code_;
  set_config(0x02, ids_.device, 2);
  set_config(0x08, ids_.revision | ids_.class_code << 8, 4);
  set_config(0x2c, ids_.subsystem_vendor | u32{ids_.subsystem} << 16, 4);
  set_interrupt_pin(1);

  bus_of_backend_ = object_cast<VirtioBus>(make_object(pci_bus_type));
  bus_of_backend_->transport = this;
  add_bus("virtio-bus", bus_of_backend_);
  TRY(backend_->attach(bus_of_backend_.get()));

  if (below_port && modern_ && !disable_pcie_) {
    add_express(0);
    if (pcie_pm_) add_power_management();
  }
  if (modern_) add_modern();
  vector_count_ = vectors_ != ~u32{0} ? vectors_ : model_.vectors(backend_->queue_count());
  if (vector_count_ > 2048) return fail("'vectors' takes 0 to 2048, not {}", vector_count_);
  if (vector_count_) {
    const u64 table = std::max<u64>(0x800, std::bit_ceil(u64{16} * vector_count_));
    msix_bar_.init_container(this, format("{}-msix", type_info().name), std::max<u64>(0x1000, 2 * table));
    TRY(add_msix(vector_count_, msix_bar, 0, static_cast<u32>(table), msix_bar_));
    add_bar(msix_bar, PciBarKind::memory32, msix_bar_);
  }
  if (legacy_) add_legacy();
  return {};
}

u8 VirtioPci::add_vendor_capability(u8 config_type, u8 length, u32 offset, u32 bytes) {
  const u8 at = add_capability(0x09, length);
  set_config(at + 2, length, 1);
  set_config(at + 3, config_type, 1);
  set_config(at + 4, config_type == cfg_window ? 0 : modern_bar, 1);
  set_config(at + 8, offset, 4);
  set_config(at + 12, bytes, 4);
  return at;
}

void VirtioPci::add_modern() {
  const std::string_view stem = backend_->type_info().name.substr(0, backend_->type_info().name.rfind('-'));
  const u32 stride = page_per_queue_ ? 0x1000 : 4;
  const u32 notify_bytes = std::max<u32>(part_bytes, stride * virtio::queue_size_limit);
  modern_bar_.init_container(this, "virtio-pci", std::bit_ceil(u64{notify_at} + notify_bytes));
  common_.init_io<&VirtioPci::common_read, &VirtioPci::common_write>(*this, format("virtio-pci-common-{}", stem), part_bytes);
  isr_region_.init_io(this, format("virtio-pci-isr-{}", stem), part_bytes,
                      memory::MemoryRegion::member_ops<&VirtioPci::isr_read, &VirtioPci::isr_write, VirtioPci>(), this);
  device_.init_io<&VirtioPci::device_read, &VirtioPci::device_write>(*this, format("virtio-pci-device-{}", stem), part_bytes);
  notify_.init_io<&VirtioPci::notify_read, &VirtioPci::notify_write>(*this, format("virtio-pci-notify-{}", stem), notify_bytes,
                                                                     {.machine_lock = false});
  modern_bar_.add(common_, common_at);
  modern_bar_.add(isr_region_, isr_at);
  modern_bar_.add(device_, device_at);
  modern_bar_.add(notify_, notify_at);
  add_vendor_capability(cfg_common, 16, common_at, part_bytes);
  add_vendor_capability(cfg_isr, 16, isr_at, part_bytes);
  add_vendor_capability(cfg_device, 16, device_at, part_bytes);
  const u8 notify = add_vendor_capability(cfg_notify, 20, notify_at, notify_bytes);
  set_config(notify + 16, stride, 4);
  if (modern_pio_notify_) {
    notify_ports_.init_io<&VirtioPci::notify_read, &VirtioPci::notify_port_write>(*this, format("virtio-pci-notify-pio-{}", stem), 4,
                                                                                  {.machine_lock = false});
    add_bar(notify_io_bar, PciBarKind::io, notify_ports_);
    const u8 port = add_vendor_capability(cfg_notify, 20, 0, 4);
    set_config(port + 4, notify_io_bar, 1);
  }
  window_cap_ = add_vendor_capability(cfg_window, 20, 0, 0);
  set_writable(window_cap_ + 4, 0xff, 1);
  set_writable(window_cap_ + 8, ~u32{0}, 4);
  set_writable(window_cap_ + 12, ~u32{0}, 4);
  set_writable(window_cap_ + 16, ~u32{0}, 4);
  add_bar(modern_bar, PciBarKind::memory64_prefetch, modern_bar_);
}

Task<> VirtioPci::unrealize_pci() {
  if (backend_->parent()) co_await backend_->detach();
  co_return Result<>{};
}

// --- Life

void VirtioPci::reset() {
  PciDevice::reset();
  feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  config_vector_ = virtio::no_vector;
  isr_ = 0;
}

void VirtioPci::settle() {
  PciDevice::settle();
  if (realized() && !msix_enabled()) set_intx(isr_ != 0);
}

// The driver writes 0 to the status: configuration space stays.
void VirtioPci::reset_by_driver() {
  backend_->driver_reset();
  feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  config_vector_ = virtio::no_vector;
  isr_ = 0;
  set_intx(false);
}

// --- Interrupts

void VirtioPci::raise_line(u8 bits) {
  isr_.fetch_or(bits);
  if (machine_lock.held_by_this_thread()) return set_intx(true);
  machine().main_loop().post([self = Ref{this}] {
    if (self->realized() && self->isr_) self->set_intx(true);
  });
}

void VirtioPci::queue_interrupt(u16 vector) {
  if (!msix_enabled()) return raise_line(1);
  if (vector != virtio::no_vector) msix_notify(vector);
}

void VirtioPci::config_interrupt() {
  if (!msix_enabled()) return raise_line(2);
  if (const u16 vector = config_vector_; vector != virtio::no_vector) msix_notify(vector);
}

u64 VirtioPci::take_isr() {
  const u8 was = isr_.exchange(0);
  if (was) set_intx(false);
  return was;
}

u16 VirtioPci::checked_vector(u64 value) const { return value < vector_count_ ? static_cast<u16>(value) : virtio::no_vector; }

// --- Modern interface (virtio 1.2 §4.1.4.3)

enum Common : u64 {
  c_feature_select = 0,
  c_feature = 4,
  c_driver_feature_select = 8,
  c_driver_feature = 12,
  c_config_vector = 16,
  c_queue_count = 18,
  c_status = 20,
  c_generation = 21,
  c_queue_select = 22,
  c_queue_size = 24,
  c_queue_vector = 26,
  c_queue_enable = 28,
  c_notify_offset = 30,
  c_descriptors = 32,
  c_driver_area = 40,
  c_device_area = 48,
  c_notify_data = 56,
  c_queue_reset = 58,
};

u64 VirtioPci::common_read(u64 offset, unsigned size) {
  const VirtQueue* q = backend_->queue(queue_select_);
  switch (offset) {
    case c_feature_select: return feature_select_;
    case c_feature: return feature_select_ < 2 ? static_cast<u32>(backend_->offered_features() >> 32 * feature_select_) : 0;
    case c_driver_feature_select: return driver_feature_select_;
    case c_driver_feature: return driver_feature_select_ < 2 ? static_cast<u32>(driver_features_ >> 32 * driver_feature_select_) : 0;
    case c_config_vector: return config_vector_;
    case c_queue_count: return backend_->queue_count();
    case c_status: return backend_->status();
    case c_generation: return backend_->config_generation();
    case c_queue_select: return queue_select_;
    case c_queue_size: return q ? q->state.size : 0;
    case c_queue_vector: return q ? q->state.vector : virtio::no_vector;
    case c_queue_enable: return q && q->state.enabled;
    case c_notify_offset: return queue_select_;
    case c_descriptors: return q ? static_cast<u32>(q->state.descriptors) : 0;
    case c_descriptors + 4: return q ? q->state.descriptors >> 32 : 0;
    case c_driver_area: return q ? static_cast<u32>(q->state.driver_area) : 0;
    case c_driver_area + 4: return q ? q->state.driver_area >> 32 : 0;
    case c_device_area: return q ? static_cast<u32>(q->state.device_area) : 0;
    case c_device_area + 4: return q ? q->state.device_area >> 32 : 0;
    case c_notify_data: return queue_select_;
    default: return 0;
  }
}

void VirtioPci::common_write(u64 offset, unsigned size, u64 value) {
  VirtQueue* q = backend_->queue(queue_select_);
  const bool set_up = q && !q->state.enabled;  // addresses and size are the driver's until it enables the queue
  const auto half = [&](u64& address, bool high) {
    if (set_up) address = high ? (address & 0xffff'ffff) | value << 32 : (address & ~u64{0xffff'ffff}) | static_cast<u32>(value);
  };
  switch (offset) {
    case c_feature_select: feature_select_ = static_cast<u32>(value); break;
    case c_driver_feature_select: driver_feature_select_ = static_cast<u32>(value); break;
    case c_driver_feature:
      if (driver_feature_select_ >= 2) break;
      driver_features_ = driver_feature_select_ ? (driver_features_ & 0xffff'ffff) | value << 32
                                                : (driver_features_ & ~u64{0xffff'ffff}) | static_cast<u32>(value);
      backend_->set_driver_features(driver_features_);
      break;
    case c_config_vector: config_vector_ = checked_vector(value); break;
    case c_status:
      if (!static_cast<u8>(value)) return reset_by_driver();
      backend_->set_status(static_cast<u8>(value));
      break;
    case c_queue_select: queue_select_ = static_cast<u16>(value); break;
    case c_queue_size:
      if (set_up && value && value <= q->max_size() && (std::has_single_bit(value) || backend_->has(virtio::ring_packed)))
        q->state.size = static_cast<u16>(value);
      else
        guest_error(type_info().name, "size {} for queue {}", value, queue_select_);
      break;
    case c_queue_vector:
      if (q) q->state.vector = checked_vector(value);
      break;
    case c_queue_enable:
      if (value == 1) backend_->enable_queue(queue_select_);
      break;
    case c_descriptors:
    case c_descriptors + 4:
      if (q) half(q->state.descriptors, offset & 4);
      break;
    case c_driver_area:
    case c_driver_area + 4:
      if (q) half(q->state.driver_area, offset & 4);
      break;
    case c_device_area:
    case c_device_area + 4:
      if (q) half(q->state.device_area, offset & 4);
      break;
    case c_queue_reset:
      if (value == 1) backend_->reset_queue(queue_select_);
      break;
    default: break;
  }
}

void VirtioPci::notify_write(u64 offset, unsigned, u64) { backend_->kick(static_cast<unsigned>(offset / (page_per_queue_ ? 0x1000 : 4))); }
void VirtioPci::notify_port_write(u64, unsigned, u64 value) { backend_->kick(static_cast<u16>(value)); }

// --- Access by configuration space (virtio 1.2 §4.1.4.9)

void VirtioPci::window_access(bool is_write) {
  u8* c = &config_[window_cap_];
  const u32 offset = load_le<u32>(c + 8), length = load_le<u32>(c + 12);
  if ((length != 1 && length != 2 && length != 4) || offset % length) return;
  u64 value = is_write ? load_le<u32>(c + 16) & mask_of_size(length) : ~u64{0};
  const auto part = [&](auto read, auto write, u64 at) {
    if (is_write)
      write(at, length, value);
    else
      value = read(at, length);
  };
  if (c[4] == legacy_bar && legacy_ && offset < legacy_bar_.size()) {
    part([&](u64 a, unsigned n) { return legacy_read(a, n); }, [&](u64 a, unsigned n, u64 v) { legacy_write(a, n, v); }, offset);
  } else if (c[4] == modern_bar && offset < isr_at) {
    part([&](u64 a, unsigned n) { return common_read(a, n); }, [&](u64 a, unsigned n, u64 v) { common_write(a, n, v); }, offset);
  } else if (c[4] == modern_bar && offset < device_at) {
    part([&](u64 a, unsigned n) { return isr_read(a, n); }, [](u64, unsigned, u64) {}, offset - isr_at);
  } else if (c[4] == modern_bar && offset < notify_at) {
    part([&](u64 a, unsigned n) { return device_read(a, n); }, [&](u64 a, unsigned n, u64 v) { device_write(a, n, v); },
         offset - device_at);
  } else if (c[4] == modern_bar && offset < modern_bar_.size()) {
    part([](u64, unsigned) { return u64{0}; }, [&](u64 a, unsigned n, u64 v) { notify_write(a, n, v); }, offset - notify_at);
  }
  if (!is_write) store_le<u32>(c + 16, static_cast<u32>(value & mask_of_size(length)));
}

u32 VirtioPci::config_read(u16 offset, unsigned size) {
  if (window_cap_ && offset < window_cap_ + 20 && offset + size > window_cap_ + 16u) window_access(false);
  return PciDevice::config_read(offset, size);
}

void VirtioPci::config_write(u16 offset, unsigned size, u32 value) {
  const bool was_master = bus_master();
  PciDevice::config_write(offset, size, value);
  if (window_cap_ && offset < window_cap_ + 20 && offset + size > window_cap_ + 16u) window_access(true);
  if (!was_master && bus_master())
    for (unsigned n = 0; n < backend_->queue_count(); n++) backend_->kick(n);  // what had to wait
}

}  // namespace vmm::hw
