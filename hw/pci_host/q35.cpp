// Source: Intel 316966 §5.1: PCIEXBAR 0x60, PAM 0x90–0x96, SMRAM 0x9d, ESMRAMC 0x9e; extended TSEG 0x50 is a convention of virtual
// machines (QEMU docs, "extended-tseg-mbytes").
#include "hw/pci_host/q35.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm::hw {

// --- Host bridge

constexpr Field Q35Host::properties[1] = {field<&Q35Host::hole64_bytes_>("pci-hole64-size", "Size of the window for 64-bit BARs.")};
constinit const TypeInfo Q35Host::type{.name = "q35-pcihost",
                                       .doc = "Q35 host bridge.",
                                       .parent = &PciHostBridge::type,
                                       .properties = properties,
                                       .make = make<Q35Host>,
                                       .user_creatable = false};
static Registered registered_host{Q35Host::type};

void Q35Host::place_ecam(memory::MemoryRegion& system, bool on, u64 base, u64 size) {
  if (ecam_.kind() == memory::MemoryRegion::Kind::none)
    ecam_.init_io<&Q35Host::ecam_read, &Q35Host::ecam_write>(*this, "pcie-mmcfg-mmio", 256 * MiB, {.min = 1, .max = 4});
  memory::Transaction transaction;
  if (ecam_.container()) ecam_.container()->remove(ecam_);
  if (!on) return;
  ecam_.set_size(size);
  system.add(ecam_, base);
}

// Bus in bits 20–27, devfn in 12–19, register in 0–11.
u64 Q35Host::ecam_read(u64 offset, unsigned size) {
  return root_bus().config_read(static_cast<u8>(offset >> 20), static_cast<u8>(offset >> 12), static_cast<u16>(offset & 0xfff), size);
}
void Q35Host::ecam_write(u64 offset, unsigned size, u64 value) {
  root_bus().config_write(static_cast<u8>(offset >> 20), static_cast<u8>(offset >> 12), static_cast<u16>(offset & 0xfff), size,
                          static_cast<u32>(value));
}

// --- Memory controller

constexpr Field Mch::properties[2] = {
    field<&Mch::extended_tseg_mib_>("extended-tseg-mbytes", "Size of an extended TSEG, in MiB; 0: none.", {.max = 0xfff}),
    field<&Mch::smbase_smram_>("smbase-smram", "SMRAM at the default SMBASE."),
};
constinit const TypeInfo Mch::type{.name = "mch",
                                   .doc = "Host bridge",
                                   .parent = &PciDevice::type,
                                   .properties = properties,
                                   .make = make<Mch>,
                                   .category = "Controller/Bridge/Hub devices",
                                   .user_creatable = false};
static Registered registered{Mch::type};

// Tops of memory, bases of graphics memory and of TSEG: nothing here depends on them, but firmware keeps there what it has found
// (§5.1.22–29).
static constexpr u16 reg_memory_map = 0xa0, memory_map_bytes = 18;
static constexpr u16 reg_ext_tseg = 0x50, reg_pciexbar = 0x60, reg_pam = 0x90, reg_smram = 0x9d, reg_esmramc = 0x9e;
enum : u8 { esmramc_tseg = 0x01, esmramc_high = 0x80 };
static constexpr u64 high_smram_base = 0xfeda'0000;

Result<> Mch::realize_pci() {
  ASSERT(host_ && system_);
  const auto& ram = machine().ram();
  set_config(reg_ext_tseg, extended_tseg_mib_, 2);
  set_config(reg_pciexbar, 0xb000'0000, 4);
  set_writable(reg_pciexbar, 0xf000'0007, 4);
  set_writable(reg_pciexbar + 4, 0x0000'000f, 4);
  set_writable(reg_pam, 0x30, 1);
  for (u16 r = reg_pam + 1; r < reg_pam + 7; r++) set_writable(r, 0x33, 1);
  set_config(reg_smram, 0x02, 1), set_writable(reg_smram, 0x78, 1);
  set_config(reg_esmramc, 0x38, 1), set_writable(reg_esmramc, 0x87, 1);
  set_writable(reg_ext_tseg, 0xffff, 2);
  static constexpr u16 map_masks[memory_map_bytes / 2] = {0x03ff, 0xffff, 0, 0xfff0, 0, 0xfff0, 0, 0xfff0, 0xfff0};
  for (u16 i = 0; i < memory_map_bytes / 2; i++) set_writable(reg_memory_map + i * 2, map_masks[i], 2);
  pam_.init(*this, *system_, ram, *pci_memory_);
  smram_.init(*this, *system_, ram, *pci_memory_);
  // TSEG: RAM at the top of low memory that only CPUs in SMM see; a compatible segment's alias at 0xfeda0000.
  memory::Transaction transaction;
  ram_.init_ram(this, ram->name(), ram);
  open_high_smram_.init_alias(this, "smram-open-high", ram_, 0xa0000, 0x20000);
  open_high_smram_.set_enabled(false);
  system_->add(open_high_smram_, high_smram_base, 1);
  high_smram_.init_alias(this, "smram-high", ram_, 0xa0000, 0x20000);
  high_smram_.set_enabled(false);
  smm_view().add(high_smram_, high_smram_base);
  tseg_hole_.init_io<&Mch::hole_read, &Mch::hole_write>(*this, "tseg-blackhole", MiB, {.min = 1, .max = 8});
  tseg_hole_.set_enabled(false);
  system_->add(tseg_hole_, 0, 1);
  tseg_window_.init_alias(this, "tseg-window", ram_, 0, MiB);
  tseg_window_.set_enabled(false);
  smm_view().add(tseg_window_, 0);
  return {};
}

void Mch::config_write(u16 offset, unsigned size, u32 value) {
  const u8 smram_before = config_[reg_smram], esmramc_before = config_[reg_esmramc];
  std::array<u8, memory_map_bytes> map_before;
  std::copy_n(&config_[reg_memory_map], memory_map_bytes, map_before.begin());
  PciDevice::config_write(offset, size, value);
  if (smram_before & SmramWindow::locked) {
    std::ranges::copy(map_before, &config_[reg_memory_map]);
    config_[reg_smram] = smram_before, config_[reg_esmramc] = esmramc_before;
    config_[reg_smram] &= static_cast<u8>(~SmramWindow::open);
  } else if (config_[reg_smram] & SmramWindow::locked) {
    config_[reg_smram] &= static_cast<u8>(~SmramWindow::open);
  }
  // Firmware asks for the size of the extended TSEG by writing all ones.
  if (offset <= reg_ext_tseg + 1 && offset + size > reg_ext_tseg) set_config(reg_ext_tseg, extended_tseg_mib_, 2);
  if (offset < 0xa0 && offset + size > reg_pciexbar) update();
}

void Mch::update() {
  memory::Transaction transaction;
  pam_.update(std::span{config_}.subspan(reg_pam, 7));
  const u8 smram = config_[reg_smram], esmramc = config_[reg_esmramc];
  smram_.update(smram);
  const bool on = smram & SmramWindow::enabled;
  open_high_smram_.set_enabled(on && (esmramc & esmramc_high) && (smram & SmramWindow::open));
  high_smram_.set_enabled(on && (esmramc & esmramc_high));

  static constexpr u64 sizes[3] = {1 * MiB, 2 * MiB, 8 * MiB};
  const unsigned choice = esmramc >> 1 & 3;
  const u64 tseg = on && (esmramc & esmramc_tseg) ? choice < 3 ? sizes[choice] : extended_tseg_mib_ * MiB : 0;
  const bool tseg_on = tseg && tseg <= ram_below_4g_;
  tseg_hole_.set_enabled(tseg_on);
  tseg_window_.set_enabled(tseg_on);
  if (tseg_on) {
    const u64 at = ram_below_4g_ - tseg;
    tseg_hole_.set_size(tseg), tseg_hole_.set_address(at);
    tseg_window_.set_size(tseg), tseg_window_.set_alias_offset(at), tseg_window_.set_address(at);
  }

  const u64 bar = load_le<u64>(&config_[reg_pciexbar]);
  static constexpr u64 ecam_sizes[4] = {256 * MiB, 128 * MiB, 64 * MiB, 0};
  const u64 ecam_size = ecam_sizes[bar >> 1 & 3];
  host_->place_ecam(*system_, (bar & 1) && ecam_size, ecam_size ? bar & 0xf'f000'0000 & ~(ecam_size - 1) : 0, ecam_size);
}

void Mch::settle() {
  PciDevice::settle();
  update();
}

}  // namespace vmm::hw
