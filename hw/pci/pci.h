// PCI: configuration space, BARs, interrupts, bridges. Sources: PCI Local Bus 3.0, PCI Express Base 5.0 (configuration), PCI-to-PCI
// Bridge 1.2. Machine lock held; MSI delivery is lock-free.
#pragma once

#include <array>
#include <functional>

#include "hw/core/hotplug.h"

namespace vmm::hw {

class PciBus;
class PciDevice;

// Constant facts of a device type, as configuration space shows them.
struct PciIds {
  u16 vendor = 0x1234, device = 0;
  u8 revision = 0;
  u32 class_code = 0xff0000;  // 24 bits: class, subclass, programming interface
  u16 subsystem_vendor = 0x1af4, subsystem = 0x1100;
  u8 header_type = 0;  // 0 device, 1 bridge
};

enum class PciBarKind : u8 { memory32, memory64, io, memory32_prefetch, memory64_prefetch };

struct MsiMessage {
  u64 address = 0;
  u32 data = 0;
};

// Where a root bus leads: interrupts and address spaces of the machine.
class PciHost {
 public:
  virtual ~PciHost() = default;
  virtual void set_intx(unsigned line_0_to_3, unsigned device_number, bool level) = 0;  // after swizzling up to the root bus
  virtual void deliver_msi(MsiMessage message) = 0;                                     // any thread
};

// Who tells the guest about cards that come and go on a bus: ACPI, or the root port itself.
class PciHotplug {
 public:
  virtual ~PciHotplug() = default;
  virtual void plugged(PciBus& bus, PciDevice& device) = 0;
  virtual Result<> ask_to_leave(PciBus& bus, PciDevice& device) = 0;
  virtual void left(PciBus&, PciDevice&) {}
  virtual void forget(PciBus&) {}  // the bus goes
};

class PciBus : public Bus, public HotplugBus {
 public:
  ~PciBus() override;
  static const TypeInfo type;  // "PCI"; PcieBus derives ("PCIE")
  std::string_view bus_type() const override { return "PCI"; }
  // Root bus: the host and the windows that BARs are mapped into.
  void wire_root(PciHost& host, memory::MemoryRegion& memory_window, memory::MemoryRegion& io_window, memory::AddressSpace& dma);
  // Secondary bus of a bridge.
  void wire_secondary(PciDevice& bridge, memory::MemoryRegion& memory_window, memory::MemoryRegion& io_window);
  u8 number() const;  // bus number now (root 0, else the bridge's secondary number)
  bool express() const { return express_; }
  void set_express(bool on) { express_ = on; }
  PciDevice* at(u8 devfn) const { return slots_[devfn]; }
  PciHost& host() const { return *host_; }
  PciDevice* bridge() const { return bridge_; }
  memory::MemoryRegion& memory_window() const { return *memory_window_; }
  memory::MemoryRegion& io_window() const { return *io_window_; }
  memory::AddressSpace& dma() const { return *dma_; }
  // Configuration access by bus number below (and including) this bus; absent devices read all ones.
  u32 config_read(u8 bus, u8 devfn, u16 offset, unsigned size);
  void config_write(u8 bus, u8 devfn, u16 offset, unsigned size, u32 value);
  Result<> may_plug(Device& device) override;
  Result<> plugged(Device& device) override;  // takes `addr`, or the first free slot from first_free_slot
  void unplugged(Device& device) override;
  std::string address_of(const Device& device) const override;
  std::vector<std::string> describe(const Device& device) const override;
  unsigned first_free_slot = 0;
  // --- Hot plug; without somebody who tells the guest there is none.
  void set_hotplug(PciHotplug* teller) { hotplug_ = teller; }
  PciHotplug* hotplug() const { return hotplug_; }
  Result<> may_hotplug() const override;
  void hotplugged(Device& device) override;
  Result<bool> ask_to_leave(Device& device) override;
  // Root bus: one function's pin (after swizzling) rises or falls; the host hears of a line when the first or last of them moves.
  void drive_intx(unsigned line_0_to_3, unsigned device_number, bool level);

 private:
  std::array<PciDevice*, 256> slots_{};
  std::array<u16, 128> intx_levels_{};  // how many functions hold (device, line) high
  PciHost* host_ = nullptr;
  PciDevice* bridge_ = nullptr;
  memory::MemoryRegion* memory_window_ = nullptr;
  memory::MemoryRegion* io_window_ = nullptr;
  memory::AddressSpace* dma_ = nullptr;
  bool express_ = false;
  PciHotplug* hotplug_ = nullptr;
};

// The same with extended configuration space; ports and express devices plug here.
class PcieBus final : public PciBus {
 public:
  static const TypeInfo type;  // "PCIE"
  PcieBus() { set_express(true); }
};

// Messages of one function and what holds them back: MSI and MSI-X. Its own lock, since interrupts are sent from any thread.
struct PciMessages;

class PciDevice : public Device {
 public:
  ~PciDevice() override;
  static const TypeInfo type;
  // properties: addr, multifunction, romfile, rombar, x-…; user sets addr "2.1" or "0x2"
  PciBus& pci() const { return static_cast<PciBus&>(*bus()); }
  u8 devfn() const { return devfn_; }
  u8 slot() const { return devfn_ >> 3; }
  u8 function() const { return devfn_ & 7; }
  bool multifunction() const { return multifunction_; }
  void set_multifunction(bool on) { multifunction_ = on; }  // before attach
  void set_address(u8 slot, u8 function) { addr_ = format("{:02x}.{:x}", slot, function); }
  // Where a BAR decodes now; empty while it does not.
  struct BarInfo {
    unsigned index = 0;
    PciBarKind kind = PciBarKind::memory32;
    u64 size = 0, address = ~u64{0};
    bool mapped = false;
  };
  std::vector<BarInfo> bar_list() const;
  const PciIds& ids() const { return ids_; }
  // May it be taken out while the machine runs? What the board is made of stays, and so do bridges that hold others.
  bool removable() const;
  std::span<u8> config() { return config_; }  // raw bytes, 256 or 4096 long

  // --- The guest's side of configuration space. Overridden by bridges and chip sets, which call the base.
  virtual u32 config_read(u16 offset, unsigned size);
  virtual void config_write(u16 offset, unsigned size, u32 value);

  // --- Interrupts and DMA
  void set_intx(bool level);  // pin of config 0x3d; honours command.INTxDisable and status bit
  bool msi_enabled() const;
  bool msix_enabled() const;
  void msi_notify(unsigned vector);   // any thread
  void msix_notify(unsigned vector);  // any thread; honours masks and pending bits
  bool bus_master() const { return config_[4] & 4; }
  // DMA as this function: fails (all ones) while bus mastering is off.
  bool dma_read(GuestPhys at, std::span<u8> into);
  bool dma_write(GuestPhys at, std::span<const u8> from);
  memory::AddressSpace& dma_space() const { return pci().dma(); }

  void reset() override;  // configuration registers; derived classes call it first
  void settle() override;
  std::string firmware_node() const override;  // "scsi@4", "ide@1,1", "pci8086,5845@3"

 protected:
  explicit PciDevice(const PciIds& ids);
  Result<> realize() final;  // lays out config space, then realize_pci()
  Task<> unrealize() final;  // unrealize_pci(), then off the bus's lines
  virtual Result<> realize_pci() { return {}; }
  virtual Task<> unrealize_pci() { co_return Result<>{}; }
  // In realize_pci():
  void set_interrupt_pin(u8 pin);                                               // 1 = INTA
  void add_bar(unsigned index, PciBarKind kind, memory::MemoryRegion& region);  // size from the region, a power of two
  u8 add_capability(u8 id, u8 length);                                          // offset; bytes zeroed, writable bits by `writable_`
  Result<> add_msi(unsigned vectors, bool maskable);
  Result<> add_msix(unsigned vectors, unsigned bar, u32 table_offset, u32 pba_offset, memory::MemoryRegion& bar_region);
  // PCI Express capability of an endpoint (0), root port (4), … on an express bus; gives 4 KiB of configuration space.
  u8 add_express(u8 port_type, u8 port_number = 0);
  u8 add_power_management();
  void set_writable(u16 offset, u32 mask, unsigned size);
  void set_config(u16 offset, u32 value, unsigned size);
  void update_bars();  // maps by command register and BAR values

  PciIds ids_;
  std::vector<u8> config_, writable_, clear_on_one_;
  struct Bar {
    memory::MemoryRegion* region = nullptr;
    PciBarKind kind = PciBarKind::memory32;
    u64 size = 0, mapped_at = ~u64{0};
  };
  std::array<Bar, 7> bars_{};  // 6: expansion ROM
  u8 devfn_ = 0;
  std::string addr_;  // property; empty: first free
  bool multifunction_ = false;
  std::string romfile_;
  u32 rom_bar_ = 1, rom_bytes_ = ~u32{0}, acpi_index_ = 0;
  std::string failover_pair_id_;
  bool link_active_ = true, extended_init_ = true;
  u8 msi_cap_ = 0, msix_cap_ = 0, pm_cap_ = 0, express_cap_ = 0;
  bool intx_level_ = false;   // what the device wants
  bool intx_driven_ = false;  // what the bus sees of it
  u8 next_capability_ = 0x40;
  std::vector<u8> initial_config_;  // as realize left it: what reset goes back to
  std::unique_ptr<PciMessages> messages_;

 private:
  static const Field pci_properties[9], pci_state[3];
  std::vector<u8> saved_config() const { return config_; }
  Result<> load_config(const std::vector<u8>& bytes);
  std::vector<u64> saved_messages() const;  // MSI pending bits; MSI-X: two words an entry, then pending words
  Result<> load_messages(const std::vector<u64>& words);
  Result<> load_rom();
  void drive_intx();
  void messages_written();
  memory::MemoryRegion rom_;
  friend class PciBus;
};

}  // namespace vmm::hw
