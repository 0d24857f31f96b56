// Type 1 functions. Source: PCI-to-PCI Bridge 1.2, chapter 3 (registers), §4 (address decoding).
#include "hw/pci/bridge.h"

#include "src/base/bits.h"

namespace vmm::hw {

constinit const TypeInfo PciBridge::type{.name = "base-pci-bridge", .doc = "A bridge to another PCI bus.", .parent = &PciDevice::type};
static Registered registered{PciBridge::type};

enum : u16 { bridge_vga = 8, bridge_reset = 0x40 };

Result<> PciBridge::realize_pci() {
  set_writable(0x18, 0x00ff'ffff, 4);  // primary, secondary, subordinate
  set_writable(0x1c, 0xf0f0, 2);
  set_config(0x1c, 0x0101, 2);  // 32-bit I/O decoding
  set_writable(0x30, 0xffff'ffff, 4);
  store_le<u16>(&clear_on_one_[0x1e], 0xf900);
  set_writable(0x20, 0xfff0'fff0, 4);
  set_writable(0x24, 0xfff0'fff0, 4);
  set_config(0x24, 0x0001'0001, 4);  // 64-bit prefetchable window
  set_writable(0x28, 0xffff'ffff, 4);
  set_writable(0x2c, 0xffff'ffff, 4);
  set_writable(0x3e, 0x0e7f, 2);
  store_le<u16>(&clear_on_one_[0x3e], 0x0400);
  writable_[0x3f] &= static_cast<u8>(~0x04);

  memory_.init_container(this, format("{}-memory", id().empty() ? "pci_bridge" : id()), u128{1} << 64);
  io_.init_container(this, format("{}-io", id().empty() ? "pci_bridge" : id()), 0x10000);
  window_memory_.alias.init_alias(this, "pci_bridge_mem", memory_, 0, MiB);
  window_prefetch_.alias.init_alias(this, "pci_bridge_pref_mem", memory_, 0, MiB);
  window_io_.alias.init_alias(this, "pci_bridge_io", io_, 0, 4096);
  window_vga_memory_.alias.init_alias(this, "pci_bridge_vga_mem", memory_, 0xa0000, 0x20000);
  window_vga_io_low_.alias.init_alias(this, "pci_bridge_vga_io_lo", io_, 0x3b0, 0xc);
  window_vga_io_high_.alias.init_alias(this, "pci_bridge_vga_io_hi", io_, 0x3c0, 0x20);

  Ref<PciBus> bus = express_ ? Ref<PciBus>{make_object<PcieBus>()} : make_object<PciBus>();
  secondary_ = bus.get();
  secondary_->wire_secondary(*this, memory_, io_);
  // A bus takes the name that the user gave to its bridge.
  std::string bus_name = id();
  if (bus_name.empty()) {
    static constexpr std::string_view stem = "pci.";
    unsigned n = 1;
    while (find_bus(machine(), format("{}{}", stem, n))) n++;
    bus_name = format("{}{}", stem, n);
  }
  add_bus(std::move(bus_name), std::move(bus));
  return realize_bridge();
}

// Red Hat's vendor capability, type 1 (QEMU's docs/pcie_pci_bridge.txt); SeaBIOS and OVMF read it. All ones: not said.
Result<> PciBridge::add_reserve() {
  const u64 io = io_reserve_, memory = memory_reserve_, low = prefetch32_reserve_, high = prefetch64_reserve_;
  constexpr u64 none = ~u64{0};
  if (bus_reserve_ == ~u32{0} && io == none && memory == none && low == none && high == none) return {};
  if (bus_reserve_ != ~u32{0} && bus_reserve_ > 255) return fail("'bus-reserve' takes 0 to 255, not {}", bus_reserve_);
  if (low != none && high != none) return fail("'pref32-reserve' and 'pref64-reserve' exclude one another: firmware makes one such window");
  for (const auto& [name, value] : {std::pair{"mem-reserve", memory}, std::pair{"pref32-reserve", low}})
    if (value != none && value > 0xffff'ffff) return fail("'{}' must be less than 4G", name);
  const u8 at = add_capability(0x09, 32);
  set_config(at + 2, 32, 1), set_config(at + 3, 1, 1);
  set_config(at + 4, bus_reserve_, 4);
  set_config(at + 8, static_cast<u32>(io), 4), set_config(at + 12, static_cast<u32>(io >> 32), 4);
  set_config(at + 16, static_cast<u32>(memory), 4);
  set_config(at + 20, static_cast<u32>(low), 4);
  set_config(at + 24, static_cast<u32>(high), 4), set_config(at + 28, static_cast<u32>(high >> 32), 4);
  return {};
}

Task<> PciBridge::unrealize_pci() {
  set_config(0x04, 0, 2), set_config(0x3e, 0, 2);
  update_windows();
  co_return Result<>{};
}

void PciBridge::config_write(u16 offset, unsigned size, u32 value) {
  const u16 control_before = load_le<u16>(&config_[0x3e]);
  PciDevice::config_write(offset, size, value);
  if (offset < 0x40) update_windows();
  if (!(control_before & bridge_reset) && (load_le<u16>(&config_[0x3e]) & bridge_reset)) {
    const std::vector<Device*> below = secondary_->devices();
    for (Device* d : below) d->reset_tree();
  }
}

void PciBridge::settle() {
  PciDevice::settle();
  if (secondary_) update_windows();
}

void PciBridge::set_window(Window& w, memory::MemoryRegion& parent, bool on, u64 first, u64 last) {
  if (w.placed) parent.remove(w.alias), w.placed = false;
  if (!on || last < first) return;
  w.alias.set_size(u128{last - first} + 1);
  w.alias.set_alias_offset(first);
  parent.add(w.alias, first, 1);
  w.placed = true;
}

void PciBridge::update_windows() {
  const u16 command = load_le<u16>(&config_[0x04]), control = load_le<u16>(&config_[0x3e]);
  const bool io = command & 1, memory = command & 2, vga = control & bridge_vga;
  memory::Transaction transaction;
  memory::MemoryRegion& m = pci().memory_window();
  memory::MemoryRegion& p = pci().io_window();
  const u64 io_first = (config_[0x1c] & 0xf0u) << 8 | u64{load_le<u16>(&config_[0x30])} << 16;
  const u64 io_last = (config_[0x1d] & 0xf0u) << 8 | 0xfff | u64{load_le<u16>(&config_[0x32])} << 16;
  set_window(window_io_, p, io && io_last <= 0xffff, io_first, io_last);
  const u64 first = u64{load_le<u16>(&config_[0x20]) & 0xfff0u} << 16, last = u64{load_le<u16>(&config_[0x22]) & 0xfff0u} << 16 | 0xfffff;
  set_window(window_memory_, m, memory, first, last);
  const u64 pref_first = u64{load_le<u16>(&config_[0x24]) & 0xfff0u} << 16 | u64{load_le<u32>(&config_[0x28])} << 32;
  const u64 pref_last = u64{load_le<u16>(&config_[0x26]) & 0xfff0u} << 16 | 0xfffff | u64{load_le<u32>(&config_[0x2c])} << 32;
  set_window(window_prefetch_, m, memory, pref_first, pref_last);
  set_window(window_vga_memory_, m, memory && vga, 0xa0000, 0xbffff);
  set_window(window_vga_io_low_, p, io && vga, 0x3b0, 0x3bb);
  set_window(window_vga_io_high_, p, io && vga, 0x3c0, 0x3df);
}

}  // namespace vmm::hw
