// A PCI host bridge: configuration access by ports 0xcf8/0xcfc and the root bus. Source: PCI 3.0 §3.2.2.3.
#pragma once

#include "hw/pci/pci.h"

namespace vmm::hw {

// Board's side: wire() before attach. Interrupts go to the sink: input = device_number * 4 + line.
class PciHostBridge : public Device, public PciHost {
 public:
  static const TypeInfo type;
  void wire(memory::MemoryRegion& memory_window, memory::MemoryRegion& ports, memory::AddressSpace& dma);
  // Who takes interrupt lines after swizzling, and messages.
  std::function<void(unsigned line, unsigned device, bool level)> intx;
  std::function<void(MsiMessage)> msi;  // any thread
  PciBus& root_bus() const { return *root_; }
  void set_intx(unsigned line, unsigned device, bool level) override {
    if (intx) intx(line, device, level);
  }
  void deliver_msi(MsiMessage message) override {
    if (msi) msi(message);
  }
  void reset() override { address_ = 0; }
  std::string firmware_node() const override { return "pci@i0cf8"; }

 protected:
  explicit PciHostBridge(bool express, std::string bus_name) : express_(express), bus_name_(std::move(bus_name)) {}
  Result<> realize() override;
  memory::MemoryRegion* memory_window_ = nullptr;
  memory::MemoryRegion* ports_ = nullptr;
  memory::AddressSpace* dma_ = nullptr;

 private:
  static const Field state[1];
  u64 index_read(u64 offset, unsigned size);
  void index_write(u64 offset, unsigned size, u64 value);
  u64 data_read(u64 offset, unsigned size);
  void data_write(u64 offset, unsigned size, u64 value);
  bool express_;
  std::string bus_name_;
  PciBus* root_ = nullptr;
  u32 address_ = 0;
  memory::MemoryRegion index_region_, data_region_;
};

// Every root bus of the machine.
std::vector<PciBus*> pci_root_buses(vm::Machine& machine);

}  // namespace vmm::hw
