// 82574L on PCI Express (sources: intel.h). One queue each way; MSI-X vectors by IVAR. Not modelled: receive-side scaling, headers in
// buffers of their own, time stamps, wake-up, the flash.
#include "hw/net/intel.h"

namespace vmm::hw {

using namespace intel;

namespace {

class E1000e final : public IntelNic {
 public:
  static const TypeInfo type;
  E1000e()
      : IntelNic({.vendor = 0x8086, .device = 0x10d3, .revision = 0, .class_code = 0x020000, .subsystem_vendor = 0x8086, .subsystem = 0},
                 "efi-e1000e.rom", 0x0141, 0x0cb1) {}
  void reset() override;

 private:
  static constexpr unsigned vectors = 5;
  static constexpr u32 message_causes = RXQ0 | 1 << 21 | TXQ0 | 1 << 23 | OTHER;
  Result<> realize_nic() override;
  void update_interrupt() override;
  u32 register_read(u32 at) override;
  void register_write(u32 at, u32 value) override;
  u16 phy_read(unsigned r) override { return paged(r) ? 0 : IntelNic::phy_read(r); }
  void phy_write(unsigned r, u16 value) override {
    if (!paged(r)) IntelNic::phy_write(r, value);
  }
  // Registers above 15 have pages, chosen by register 22; only page 0 is there.
  bool paged(unsigned r) const { return r > 15 && r != 22 && phy_[22]; }
  bool extended_receive() const override { return true; }
  void send_messages();
  static const Field own_properties[4], own_state[1];

  u32 sent_ = 0;  // causes whose message has gone out and that are still there
  bool no_vnet_header_ = false, init_vet_ = true;
  u16 subsystem_vendor_ = 0x8086, subsystem_ = 0;
  memory::MemoryRegion flash_, messages_region_;
};

constexpr Field E1000e::own_properties[4] = {
    field<&E1000e::no_vnet_header_>("disable_vnet_hdr", "Sums and segments are done here even if the back end could."),
    field<&E1000e::subsystem_vendor_>("subsys_ven", "PCI subsystem vendor."),
    field<&E1000e::subsystem_>("subsys", "PCI subsystem."),
    field<&E1000e::init_vet_>("init-vet", "The VLAN type register starts as 0x8100; it always does."),
};
constexpr Field E1000e::own_state[1] = {field<&E1000e::sent_>("sent", "causes whose message has gone out")};
constinit const TypeInfo E1000e::type{
    .name = "e1000e",
    .doc = "Intel 82574L GbE Controller",
    .parent = &IntelNic::type,
    .properties = own_properties,
    .state = own_state,
    .make = make<E1000e>,
    .category = "Network devices",
};
const Registered registered{E1000e::type};

Result<> E1000e::realize_nic() {
  TRY(IntelNic::realize_nic());
  set_config(0x2c, subsystem_vendor_, 2);
  set_config(0x2e, subsystem_, 2);
  flash_.init_io(this, "e1000e-flash", bar_bytes, memory::IoOps{}, this);
  add_bar(1, PciBarKind::memory32, flash_);
  messages_region_.init_container(this, "e1000e-msix", 16 * KiB);
  add_bar(3, PciBarKind::memory32, messages_region_);
  add_power_management();
  TRY(add_msi(1, false));
  if (pci().express()) add_express(0);
  TRY(add_msix(vectors, 3, 0, 0x2000, messages_region_));
  return {};
}

void E1000e::reset() {
  std::array<u16, 64> words{};
  words[3] = 0x0420, words[4] = 0xf746, words[5] = 0x2010, words[6] = 0xffff, words[7] = 0xffff;
  words[10] = 0x026b, words[11] = subsystem_, words[12] = subsystem_vendor_, words[13] = 0x10d3, words[14] = 0x8086, words[15] = 0x0004;
  words[0x10] = 0x0000, words[0x14] = 0x40c1, words[0x15] = 0x0000;
  fill_eeprom(words);
  sent_ = 0;
  IntelNic::reset();
}

u32 E1000e::register_read(u32 at) {
  switch (at) {
    case EECD: return IntelNic::register_read(at) | 0x200;  // the EEPROM has been read
    case EEMNGCTL: return reg(EEMNGCTL) | 3 << 18;          // and the PHY configured from it
    case MANC: return 0;
    default: return IntelNic::register_read(at);
  }
}
void E1000e::register_write(u32 at, u32 value) {
  IntelNic::register_write(at, value);
  if (at == IVAR || at == EIAC) update_interrupt();
}

void E1000e::update_interrupt() {
  if (reg(ICR) & (LSC | RXO | MDAC)) reg(ICR) |= OTHER;
  if (msix_enabled()) return send_messages();
  if (!msi_enabled()) return IntelNic::update_interrupt();
  const u32 pending = reg(ICR) & reg(IMS) & ~INT_ASSERTED;
  reg(ICR) = pending ? reg(ICR) | INT_ASSERTED : reg(ICR) & ~INT_ASSERTED;
  if (pending & ~sent_) msi_notify(0);
  sent_ = pending;
}

void E1000e::send_messages() {
  const u32 pending = reg(ICR) & reg(IMS) & message_causes;
  reg(ICR) = pending ? reg(ICR) | INT_ASSERTED : reg(ICR) & ~INT_ASSERTED;
  sent_ &= pending;
  for (unsigned i = 0; i < 5; i++) {
    const u32 cause = 1u << (20 + i);
    if (!(pending & ~sent_ & cause)) continue;
    const u32 entry = reg(IVAR) >> i * 4 & 15;
    if (entry & 8 && (entry & 7) < vectors) msix_notify(entry & 7);
    if (reg(EIAC) & cause)
      reg(ICR) &= ~cause;
    else
      sent_ |= cause;
  }
}

}  // namespace

}  // namespace vmm::hw
