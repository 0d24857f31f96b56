// A PCI function: configuration space, BARs, INTx, DMA, expansion ROM. Sources: PCI 3.0 chapter 6, PCI Express Base 5.0 chapter 7.
#include "hw/core/rom_file.h"
#include "hw/pci/messages.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

enum : u16 {
  cfg_command = 0x04,
  cfg_status = 0x06,
  cfg_cap_pointer = 0x34,
  cfg_interrupt_line = 0x3c,
  cfg_interrupt_pin = 0x3d,
};
enum : u16 { command_io = 1, command_memory = 2, command_master = 4, command_intx_off = 0x400 };
enum : u16 { status_intx = 8, status_capabilities = 0x10 };
static constexpr u64 unmapped = ~u64{0};
static constexpr unsigned rom_index = 6;

constexpr Field PciDevice::pci_properties[9] = {
    field<&PciDevice::addr_>("addr", "Slot and optional function number, example: 06.0 or 06."),
    field<&PciDevice::multifunction_>("multifunction", "More functions follow in this slot."),
    field<&PciDevice::romfile_>("romfile", "File of the expansion ROM; empty: none."),
    field<&PciDevice::rom_bar_>("rombar", "Whether the guest sees the ROM by a BAR.", {.max = 1}),
    field<&PciDevice::rom_bytes_>("romsize", "Size of the ROM BAR, a power of two; the file's own if not given."),
    field<&PciDevice::acpi_index_>("acpi-index", "Number that firmware shows for an on-board device.", {.max = 16383}),
    field<&PciDevice::failover_pair_id_>("failover_pair_id", "Id of the standby device of a failover pair."),
    field<&PciDevice::link_active_>("x-pcie-lnksta-dllla", "Report link activity."),
    field<&PciDevice::extended_init_>("x-pcie-extcap-init", "Have extended capabilities."),
};

constexpr Field PciDevice::pci_state[3] = {
    computed<&PciDevice::saved_config, &PciDevice::load_config>("config", "configuration space"),
    computed<&PciDevice::saved_messages, &PciDevice::load_messages>("messages", "MSI and MSI-X"),
    field<&PciDevice::intx_level_>("intx", "level of the interrupt pin"),
};

constinit const TypeInfo PciDevice::type{.name = "pci-device",
                                         .doc = "A PCI function.",
                                         .parent = &Device::type,
                                         .properties = pci_properties,
                                         .state = pci_state,
                                         .bus = "PCI"};
static Registered registered{PciDevice::type};

PciDevice::PciDevice(const PciIds& ids) : ids_(ids), messages_(std::make_unique<PciMessages>()) {}
PciDevice::~PciDevice() = default;

Result<> PciDevice::realize() {
  const usize size = pci().express() ? 4096 : 256;
  config_.assign(size, 0), writable_.assign(size, 0), clear_on_one_.assign(size, 0);
  bars_ = {};
  next_capability_ = 0x40, msi_cap_ = msix_cap_ = pm_cap_ = express_cap_ = 0;
  messages_->host = &pci().host();
  set_config(0x00, ids_.vendor, 2);
  set_config(0x02, ids_.device, 2);
  set_config(0x08, ids_.revision | ids_.class_code << 8, 4);
  set_config(0x0e, ids_.header_type | (multifunction_ ? 0x80 : 0), 1);
  if (ids_.header_type == 0) {
    set_config(0x2c, ids_.subsystem_vendor, 2);
    set_config(0x2e, ids_.subsystem, 2);
  }
  set_writable(cfg_command, command_io | command_memory | command_master | 0x100 | 0x40 | command_intx_off, 2);
  store_le<u16>(&clear_on_one_[cfg_status], 0xf900);
  set_writable(0x0c, 0xff, 1);  // cache line size
  set_writable(cfg_interrupt_line, 0xff, 1);
  TRY(realize_pci());
  TRY(load_rom());
  initial_config_ = config_;
  return {};
}

Task<> PciDevice::unrealize() {
  co_await unrealize_pci();
  intx_level_ = false;
  drive_intx();
  std::ranges::fill(config_, 0);
  update_bars();
  co_return Result<>{};
}

// --- Layout

void PciDevice::set_config(u16 offset, u32 value, unsigned size) {
  for (unsigned i = 0; i < size; i++) config_[offset + i] = static_cast<u8>(value >> i * 8);
}
void PciDevice::set_writable(u16 offset, u32 mask, unsigned size) {
  for (unsigned i = 0; i < size; i++) writable_[offset + i] = static_cast<u8>(mask >> i * 8);
}
void PciDevice::set_interrupt_pin(u8 pin) { config_[cfg_interrupt_pin] = pin; }

static u16 bar_offset(const PciIds& ids, unsigned index) {
  if (index == rom_index) return ids.header_type == 1 ? 0x38 : 0x30;
  return static_cast<u16>(0x10 + index * 4);
}
static bool is_io(PciBarKind k) { return k == PciBarKind::io; }
static bool is_64(PciBarKind k) { return k == PciBarKind::memory64 || k == PciBarKind::memory64_prefetch; }

void PciDevice::add_bar(unsigned index, PciBarKind kind, memory::MemoryRegion& region) {
  const u64 size = std::bit_ceil(std::max<u64>(static_cast<u64>(region.size()), is_io(kind) ? 4 : 16));
  bars_[index] = {.region = &region, .kind = kind, .size = size, .mapped_at = unmapped};
  const u16 at = bar_offset(ids_, index);
  const bool prefetch = kind == PciBarKind::memory32_prefetch || kind == PciBarKind::memory64_prefetch;
  if (index != rom_index) set_config(at, is_io(kind) ? 1 : (is_64(kind) ? 4 : 0) | (prefetch ? 8 : 0), 4);
  const u64 mask = ~(size - 1);
  set_writable(at, static_cast<u32>(mask) | (index == rom_index ? 1 : 0), 4);
  if (is_64(kind)) set_writable(at + 4, static_cast<u32>(mask >> 32), 4);
}

u8 PciDevice::add_capability(u8 id, u8 length) {
  const u8 at = next_capability_;
  ASSERT(at + length <= 256);
  next_capability_ = static_cast<u8>(align_up(at + length, 4));
  config_[at] = id;
  config_[at + 1] = config_[cfg_cap_pointer];
  config_[cfg_cap_pointer] = at;
  config_[cfg_status] |= status_capabilities;
  return at;
}

u8 PciDevice::add_power_management() {
  pm_cap_ = add_capability(0x01, 8);
  set_config(pm_cap_ + 2, 0x0003, 2);
  set_config(pm_cap_ + 4, 0x0008, 2);  // no soft reset
  set_writable(pm_cap_ + 4, 0x0003, 2);
  return pm_cap_;
}

u8 PciDevice::add_express(u8 port_type, u8 port_number) {
  const bool port = port_type == 4 || port_type == 6;
  express_cap_ = add_capability(0x10, 0x3c);
  const u8 c = express_cap_;
  set_config(c + 0x02, 0x0002u | port_type << 4 | (port_type == 4 ? 0x100u : 0u), 2);
  set_config(c + 0x04, 0x8000, 4);  // role-based error reporting
  set_config(c + 0x08, 0x0000, 2);
  set_writable(c + 0x08, 0x00ff, 2);
  if (port_type != 9) {  // root complex integrated endpoints have no link
    set_config(c + 0x0c, 0x00000011u | u32{port_number} << 24 | (port ? 0x00100000u : 0), 4);  // 2.5 GT/s, x1; active reporting
    set_config(c + 0x12, 0x0011, 2);
    set_writable(c + 0x10, 0x00c3, 2);
  }
  set_config(c + 0x24, 0x00, 4);
  set_writable(c + 0x28, 0x0000, 2);
  return c;
}

std::vector<PciDevice::BarInfo> PciDevice::bar_list() const {
  std::vector<BarInfo> list;
  for (unsigned i = 0; i < bars_.size(); i++)
    if (bars_[i].region) list.push_back({i, bars_[i].kind, bars_[i].size, bars_[i].mapped_at, bars_[i].mapped_at != unmapped});
  return list;
}

// Fits the user's file, or the type's default, into a ROM of a power of two.
Result<> PciDevice::load_rom() {
  if (romfile_.empty()) return {};
  if (!rom_bar_) {
    unimplemented(type_info().name, "rombar=0: the ROM is not handed to the firmware by fw_cfg");
    return {};
  }
  auto path = machine().find_firmware(romfile_);
  if (!path) return fail("failed to find romfile \"{}\"", romfile_);
  OptionRom image = TRY(load_option_rom(*path, rom_bytes_));
  set_option_rom_ids(image.bytes, ids_.vendor, ids_.device);
  TRY(rom_.init_rom(this, format("{}.rom", type_info().name), image.bar_bytes));
  std::memcpy(rom_.ram()->host(), image.bytes.data(), image.bytes.size());
  add_bar(rom_index, PciBarKind::memory32, rom_);
  return {};
}

// --- The guest's side

u32 PciDevice::config_read(u16 offset, unsigned size) {
  const usize limit = express_cap_ ? config_.size() : 256;
  if (offset + size > limit) return ~u32{0};
  u32 value = 0;
  for (unsigned i = 0; i < size; i++) value |= u32{config_[offset + i]} << i * 8;
  return value;
}

static bool touches(u16 offset, unsigned size, u16 from, u16 length) { return offset < from + length && offset + size > from; }

void PciDevice::config_write(u16 offset, unsigned size, u32 value) {
  const usize limit = express_cap_ ? config_.size() : 256;
  if (offset + size > limit) return;
  for (unsigned i = 0; i < size; i++) {
    const u8 byte = static_cast<u8>(value >> i * 8), w = writable_[offset + i];
    u8& c = config_[offset + i];
    c = static_cast<u8>((c & ~w) | (byte & w));
    c &= static_cast<u8>(~(byte & clear_on_one_[offset + i]));
  }
  const bool command = touches(offset, size, cfg_command, 2);
  if (command || touches(offset, size, 0x10, ids_.header_type == 1 ? 8 : 24) || touches(offset, size, bar_offset(ids_, rom_index), 4))
    update_bars();
  if (command) drive_intx();
  if (command || (msi_cap_ && touches(offset, size, msi_cap_, 0x18)) || (msix_cap_ && touches(offset, size, msix_cap_, 4)))
    messages_written();
}

void PciDevice::update_bars() {
  const u16 command = load_le<u16>(&config_[cfg_command]);
  memory::Transaction transaction;
  for (unsigned i = 0; i < bars_.size(); i++) {
    Bar& bar = bars_[i];
    if (!bar.region) continue;
    const u16 at = bar_offset(ids_, i);
    u64 address = load_le<u32>(&config_[at]);
    u64 top = 0xffff'ffff;
    if (is_64(bar.kind)) address |= u64{load_le<u32>(&config_[at + 4])} << 32, top = ~u64{0};
    bool on = command & (is_io(bar.kind) ? command_io : command_memory);
    if (i == rom_index) on = on && (address & 1);
    address &= ~(bar.size - 1);
    // A BAR that is being sized holds all ones: it must not decode at the very top, nor at 0.
    const u64 last = address + bar.size - 1;
    if (is_io(bar.kind)) top = 0x10000;
    if (address == 0 || last < address || last >= top) on = false;
    const u64 wanted = on ? address : unmapped;
    if (wanted == bar.mapped_at) continue;
    memory::MemoryRegion& window = is_io(bar.kind) ? pci().io_window() : pci().memory_window();
    if (bar.mapped_at != unmapped) window.remove(*bar.region);
    if (on) window.add(*bar.region, address, 1);
    bar.mapped_at = wanted;
  }
}

// --- Interrupts

void PciDevice::set_intx(bool level) {
  intx_level_ = level;
  drive_intx();
}

void PciDevice::drive_intx() {
  if (config_.empty()) return;
  if (intx_level_)
    config_[cfg_status] |= status_intx;
  else
    config_[cfg_status] &= static_cast<u8>(~status_intx);
  const bool wanted = intx_level_ && !(load_le<u16>(&config_[cfg_command]) & command_intx_off) && config_[cfg_interrupt_pin];
  if (wanted == intx_driven_ || !config_[cfg_interrupt_pin]) return;
  intx_driven_ = wanted;
  // Swizzle up to the root bus (PCI-to-PCI Bridge 1.2 §9.1).
  unsigned line = (config_[cfg_interrupt_pin] - 1u) & 3, device = slot();
  PciBus* bus = &pci();
  while (PciDevice* bridge = bus->bridge()) {
    line = (line + device) & 3;
    device = bridge->slot();
    bus = &bridge->pci();
  }
  bus->drive_intx(line, device, wanted);
}

// --- DMA

bool PciDevice::dma_read(GuestPhys at, std::span<u8> into) {
  if (bus_master()) return dma_space().read(at, into);
  std::ranges::fill(into, 0xff);
  return false;
}
bool PciDevice::dma_write(GuestPhys at, std::span<const u8> from) { return bus_master() && dma_space().write(at, from); }

// --- Life

Result<> PciDevice::load_config(const std::vector<u8>& bytes) {
  if (bytes.size() != config_.size()) return fail("configuration space has {} bytes, not {}", bytes.size(), config_.size());
  // Only what a guest could have changed; the rest is this device's own.
  for (usize i = 0; i < bytes.size(); i++) {
    const u8 changeable = writable_[i] | clear_on_one_[i];
    config_[i] = static_cast<u8>((initial_config_[i] & ~changeable) | (bytes[i] & changeable));
  }
  return {};
}

void PciDevice::reset() {
  if (initial_config_.empty()) return;
  config_ = initial_config_;
  intx_level_ = false;
  messages_->reset();
}

void PciDevice::settle() {
  if (config_.empty()) return;
  update_bars();
  drive_intx();
  messages_written();
}

}  // namespace vmm::hw
