// virtio over PCI: modern, transitional and legacy functions. Source: virtio 1.2 §4.1, §4.1.4.10 (legacy).
//
// One row a device type makes three drivers: "virtio-X-pci" (both interfaces; modern only below an express port),
// "virtio-X-pci-transitional" and "virtio-X-pci-non-transitional".
#pragma once

#include "hw/pci/pci.h"
#include "hw/virtio/virtio.h"
#include "src/value/on_off_auto.h"

namespace vmm::hw {

struct VirtioPciModel {
  std::string_view stem;  // "virtio-rng-pci"
  std::string_view doc;
  u32 class_code = 0x00ff00;
  u16 legacy_id = 0;  // PCI device id of the transitional function; 0: the device has no legacy form
  // MSI-X vectors unless the user says otherwise; 0: none.
  unsigned (*vectors)(unsigned queues) = [](unsigned) { return 2u; };
  std::string_view category = "Misc devices";
  std::string_view alias{};
  std::string_view sample{};
  std::string_view romfile{};
};

class VirtioPci : public PciDevice, public VirtioTransport {
 public:
  static const TypeInfo type;  // "virtio-pci"
  enum class Kind : u8 { generic, transitional, modern };
  static const TypeInfo* base_of(Kind kind);  // which properties a driver has

  VirtioDevice& backend() const { return *backend_; }
  void reset() override;
  void settle() override;
  u32 config_read(u16 offset, unsigned size) override;
  void config_write(u16 offset, unsigned size, u32 value) override;

  // --- VirtioTransport
  void queue_interrupt(u16 vector) override;
  void config_interrupt() override;
  memory::AddressSpace& dma() override { return dma_space(); }
  bool may_dma() const override { return bus_master(); }
  Device& owner() override { return *this; }
  u64 offered() const override { return modern_ ? virtio::version_1 : 0; }

 protected:
  VirtioPci(const VirtioPciModel& model, Kind kind, Ref<VirtioDevice> backend);
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;

 private:
  static const Field properties[16], state[6], generic_properties[2];
  static const TypeInfo generic_type;
  u64 common_read(u64 offset, unsigned size);
  void common_write(u64 offset, unsigned size, u64 value);
  u64 isr_read(u64, unsigned) { return take_isr(); }
  void isr_write(u64, unsigned, u64) {}
  u64 take_isr();
  u64 device_read(u64 offset, unsigned size) { return backend_->config_load(offset, size); }
  void device_write(u64 offset, unsigned size, u64 value) { backend_->config_store(offset, size, value); }
  u64 notify_read(u64, unsigned) { return 0; }
  void notify_write(u64 offset, unsigned size, u64 value);
  void notify_port_write(u64 offset, unsigned size, u64 value);
  u64 legacy_read(u64 offset, unsigned size);
  void legacy_write(u64 offset, unsigned size, u64 value);
  void add_modern();
  void add_legacy();
  u8 add_vendor_capability(u8 config_type, u8 length, u32 offset, u32 bytes);
  void reset_by_driver();
  void raise_line(u8 bits);
  void window_access(bool is_write);
  u16 checked_vector(u64 value) const;
  u8 saved_isr() const { return isr_; }
  u16 saved_vector() const { return config_vector_; }
  Result<> load_vector(const u16& vector) { return config_vector_ = vector, Result<>{}; }
  Result<> load_isr(const u8& isr) { return isr_ = isr, Result<>{}; }

  const VirtioPciModel& model_;
  const Kind kind_;
  Ref<VirtioDevice> backend_;
  Ref<VirtioBus> bus_of_backend_;
  OnOffAuto disable_legacy_ = OnOffAuto::automatic;
  bool disable_modern_ = false, ioeventfd_ = true, migrate_extra_ = true, modern_pio_notify_ = false, disable_pcie_ = false,
       page_per_queue_ = false, ignore_backend_features_ = false, ats_ = false, ats_aligned_ = true, deverr_ = true, lnkctl_ = true,
       pcie_pm_ = true, flr_ = true, aer_ = false, master_bug_ = false;
  u32 vectors_ = ~u32{0};  // property; all ones: the model's
  u32 class_code_ = 0;     // property of some; 0: the model's
  unsigned vector_count_ = 0;

  bool legacy_ = false, modern_ = false;
  u8 window_cap_ = 0;  // PCI configuration access
  u32 feature_select_ = 0, driver_feature_select_ = 0;
  u16 queue_select_ = 0;
  std::atomic<u16> config_vector_{virtio::no_vector};
  std::atomic<u8> isr_{0};
  u64 driver_features_ = 0;
  memory::MemoryRegion legacy_bar_, modern_bar_, common_, isr_region_, device_, notify_, msix_bar_, notify_ports_;
};

// Registers the three drivers of a device type. `Backend` has `static constexpr VirtioPciModel pci`.
template <class Backend>
class VirtioPciFor final : public VirtioPci {
 public:
  template <Kind K>
  static Object* make() {
    return new VirtioPciFor{K};
  }
  explicit VirtioPciFor(Kind kind) : VirtioPci(Backend::pci, kind, make_object<Backend>()) {}
};

void register_virtio_pci(const VirtioPciModel& model, const TypeInfo& backend, std::array<Object* (*)(), 3> make);

template <class Backend>
struct RegisteredVirtioPci {
  RegisteredVirtioPci() {
    using P = VirtioPciFor<Backend>;
    register_virtio_pci(Backend::pci, Backend::type,
                        {&P::template make<VirtioPci::Kind::generic>, &P::template make<VirtioPci::Kind::transitional>,
                         &P::template make<VirtioPci::Kind::modern>});
  }
};

}  // namespace vmm::hw
