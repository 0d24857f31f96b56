// Configuration mechanism 1. Source: PCI 3.0 §3.2.2.3.2.
#include "hw/pci/host.h"

#include "src/base/bits.h"

namespace vmm::hw {

constexpr Field PciHostBridge::state[1] = {field<&PciHostBridge::address_>("address", "configuration address register")};

constinit const TypeInfo PciHostBridge::type{.name = "pci-host-bridge",
                                             .doc = "A PCI host bridge.",
                                             .parent = &Device::type,
                                             .state = state,
                                             .user_creatable = false,
                                             .bus = "System"};
static Registered registered{PciHostBridge::type};

void PciHostBridge::wire(memory::MemoryRegion& memory_window, memory::MemoryRegion& ports, memory::AddressSpace& dma) {
  memory_window_ = &memory_window, ports_ = &ports, dma_ = &dma;
  // The bus exists before realize, so that the board's own functions can be plugged in order.
  Ref<PciBus> bus = express_ ? Ref<PciBus>{make_object<PcieBus>()} : make_object<PciBus>();
  root_ = bus.get();
  root_->wire_root(*this, memory_window, ports, dma);
  add_bus(bus_name_, std::move(bus));
}

Result<> PciHostBridge::realize() {
  // Only a 32-bit access at 0xcf8 is the address register; others are passed on (0xcf9 is somebody else's).
  index_region_.init_io<&PciHostBridge::index_read, &PciHostBridge::index_write>(*this, "pci-conf-idx", 4,
                                                                                 {.min = 1, .max = 4, .unaligned = true});
  data_region_.init_io<&PciHostBridge::data_read, &PciHostBridge::data_write>(*this, "pci-conf-data", 4,
                                                                              {.min = 1, .max = 4, .unaligned = true});
  place(*ports_, 0xcf8, index_region_);
  place(*ports_, 0xcfc, data_region_);
  return {};
}

u64 PciHostBridge::index_read(u64 offset, unsigned size) {
  if (offset != 0 || size != 4) return mask_of_size(size);
  return address_;
}
void PciHostBridge::index_write(u64 offset, unsigned size, u64 value) {
  if (offset == 0 && size == 4) address_ = static_cast<u32>(value);
}
u64 PciHostBridge::data_read(u64 offset, unsigned size) {
  if (!bit(address_, 31) || offset + size > 4) return mask_of_size(size);
  return root_->config_read(static_cast<u8>(address_ >> 16), static_cast<u8>(address_ >> 8), static_cast<u16>((address_ & 0xfc) + offset),
                            size);
}
void PciHostBridge::data_write(u64 offset, unsigned size, u64 value) {
  if (!bit(address_, 31) || offset + size > 4) return;
  root_->config_write(static_cast<u8>(address_ >> 16), static_cast<u8>(address_ >> 8), static_cast<u16>((address_ & 0xfc) + offset), size,
                      static_cast<u32>(value));
}

std::vector<PciBus*> pci_root_buses(vm::Machine& machine) {
  std::vector<PciBus*> list;
  for_each_device(machine, [&](Device& d) {
    for (Bus* b : d.buses())
      if (auto* pci = dynamic_cast<PciBus*>(b); pci && !pci->bridge()) list.push_back(pci);
  });
  return list;
}

}  // namespace vmm::hw
