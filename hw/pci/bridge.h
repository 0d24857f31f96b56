// PCI-to-PCI bridges: type 1 configuration header, address windows, bus numbers, secondary reset. Source: PCI-to-PCI Bridge 1.2.
#pragma once

#include "hw/pci/pci.h"

namespace vmm::hw {

class PciBridge : public PciDevice {
 public:
  static const TypeInfo type;
  u8 secondary_number() const { return config_[0x19]; }
  PciBus& secondary() const { return *secondary_; }
  void config_write(u16 offset, unsigned size, u32 value) override;
  void settle() override;

 protected:
  PciBridge(const PciIds& ids, bool express) : PciDevice(ids), express_(express) {}
  Result<> realize_pci() final;
  virtual Result<> realize_bridge() { return {}; }
  Task<> unrealize_pci() override;
  // What firmware shall keep free behind the bridge for devices that come later, where the user says so; in realize_bridge().
  Result<> add_reserve();
  u32 bus_reserve_ = ~u32{0};
  Bytes64 io_reserve_{~u64{0}}, memory_reserve_{~u64{0}}, prefetch32_reserve_{~u64{0}}, prefetch64_reserve_{~u64{0}};

 private:
  struct Window {
    memory::MemoryRegion alias;
    bool placed = false;
  };
  void update_windows();
  void set_window(Window& window, memory::MemoryRegion& parent, bool on, u64 first, u64 last);
  bool express_;
  PciBus* secondary_ = nullptr;
  memory::MemoryRegion memory_, io_;  // the secondary side's address spaces
  Window window_memory_, window_prefetch_, window_io_, window_vga_memory_, window_vga_io_low_, window_vga_io_high_;
};

}  // namespace vmm::hw
