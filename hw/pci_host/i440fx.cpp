// Source: Intel 82441FX data sheet §3.2: PAM 0x59–0x5f, SMRAM 0x72.
#include "hw/pci_host/i440fx.h"

#include <algorithm>

namespace vmm::hw {

constexpr Field I440fxHost::properties[1] = {
    field<&I440fxHost::hole64_bytes_>("pci-hole64-size", "Size of the window for 64-bit BARs."),
};
constinit const TypeInfo I440fxHost::type{.name = "i440FX-pcihost",
                                          .doc = "i440FX host bridge.",
                                          .parent = &PciHostBridge::type,
                                          .properties = properties,
                                          .make = make<I440fxHost>,
                                          .user_creatable = false};
static Registered registered_host{I440fxHost::type};

constinit const TypeInfo I440fx::type{.name = "i440FX",
                                      .doc = "Host bridge",
                                      .parent = &PciDevice::type,
                                      .make = make<I440fx>,
                                      .category = "Controller/Bridge/Hub devices",
                                      .user_creatable = false};
static Registered registered{I440fx::type};

static constexpr u16 reg_pam = 0x59, reg_smram = 0x72;

Result<> I440fx::realize_pci() {
  ASSERT(system_ && pci_memory_);
  const auto& ram = machine().ram();
  set_config(0x57, static_cast<u32>(std::min<u64>(ram->size_bytes() / (8 * MiB), 255)), 1);  // DRAM row boundary, as coreboot reads it
  set_writable(reg_pam, 0x30, 1);
  for (u16 r = reg_pam + 1; r < reg_pam + 7; r++) set_writable(r, 0x33, 1);
  set_config(reg_smram, 0x02, 1);
  set_writable(reg_smram, 0x78, 1);
  pam_.init(*this, *system_, ram, *pci_memory_);
  smram_.init(*this, *system_, ram, *pci_memory_);
  return {};
}

void I440fx::config_write(u16 offset, unsigned size, u32 value) {
  const u8 smram_before = config_[reg_smram];
  PciDevice::config_write(offset, size, value);
  // D_LCK: once set, only a reset opens SMRAM again.
  u8& smram = config_[reg_smram];
  if (smram_before & SmramWindow::locked) smram = smram_before;
  if (smram & SmramWindow::locked) smram &= static_cast<u8>(~SmramWindow::open);
  if (offset < reg_pam + 7 && offset + size > reg_pam) update();
  if (offset <= reg_smram && offset + size > reg_smram) update();
}

void I440fx::update() {
  memory::Transaction transaction;
  pam_.update(std::span{config_}.subspan(reg_pam, 7));
  smram_.update(config_[reg_smram]);
}

void I440fx::settle() {
  PciDevice::settle();
  update();
}

}  // namespace vmm::hw
