// pc: i440FX with PIIX3. Sources: Intel 82441FX, 82371SB, 82371AB; the published layout of QEMU's pc machines (slots, ports).
#include "hw/acpi/pci_hotplug.h"
#include "hw/machine/pc_board.h"
#include "hw/pci_host/i440fx.h"
#include "hw/southbridge/piix.h"
#include "hw/storage/piix_ide.h"

namespace vmm::hw {
namespace {

class I440fxMachine final : public PcBoard {
 public:
  I440fxMachine() = default;

 private:
  Layout layout() const override { return {.low_limit = 0xe000'0000, .low_if_more = 0xc000'0000}; }
  u32 hpet_lines() const override { return 0x4; }
  std::string product() const override { return "Standard PC (i440FX + PIIX, 1996)"; }
  IsaBus& isa_bus() const override { return bridge_->isa(); }
  PciBus& root_bus() const override { return host_->root_bus(); }
  memory::MemoryRegion& smm_view() override { return north_->smm_view(); }

  Result<> make_chipset() override {
    host_ = add<I440fxHost>();
    host_->wire(pci_memory_, port_root_, memory());
    host_->msi = [this](MsiMessage m) { fabric_.deliver_msi(m.address, m.data); };
    TRY(host_->attach(nullptr));

    north_ = add<I440fx>();
    north_->set_address(0, 0);
    north_->wire(memory_root_, pci_memory_);
    TRY(north_->attach(&root_bus()));

    bridge_ = add<Piix3>();
    bridge_->set_address(1, 0);
    bridge_->wire(port_root_, pci_memory_, lines_.isa, lines_.pci);
    host_->intx = [this](unsigned line, unsigned device, bool level) { bridge_->set_intx(line, device, level); };
    TRY(bridge_->attach(&root_bus()));

    ide_ = make_piix3_ide();
    unattached().add_child("device[*]", ide_);
    ide_->set_address(1, 1);
    ide_->wire(port_root_, lines_.isa);
    TRY(ide_->attach(&root_bus()));

    if (acpi_on()) {
      pm_ = add<Piix4Pm>();
      pm_->set_address(1, 3);
      pm_->wire(port_root_);
      pm_->parallel_port = !config.parallel_chardevs.empty();
      pm_->serial_ports = static_cast<u8>(config.serial_chardevs.size());
      pm_->raise_smi = [this] { raise_smi(); };
      TRY(pm_->set("smm-enabled", Value{smm_on()}));
      pm_->pm().sci.connect(lines_.sci, 9);
      pm_->pm().before_suspend = [this] { set_rtc_suspend_byte(); };
      TRY(pm_->attach(&root_bus()));
      hotplug_ = add<AcpiPciHotplug>();
      hotplug_->wire(port_root_, 0xae00, pm_->pm());
      TRY(hotplug_->attach(nullptr));
      TRY(add_cpu_hotplug(0xaf00, pm_->pm()));
    }
    root_bus().first_free_slot = 2;
    return {};
  }

  u16 acpi_ports() const override { return pm_ ? static_cast<u16>(pm_->config_read(0x40, 4) & 0xffc0) : 0; }

  Result<> finish_acpi() override {
    AcpiInput in{.ram_below_4g = below_4g_, .gpe0_base = 0xafe0, .gpe0_bytes = 4};
    in.s3 = !pm_->pm().s3_off, in.s4 = !pm_->pm().s4_off;
    std::tie(in.hole64_first, in.hole64_last) = hole64(host_->hole64_bytes());
    in.hpet = static_cast<bool>(hpet_device_);
    in.i8042 = i8042_;
    in.pci = hotplug_->take_over(root_bus(), pm_->root_hotplug(), pm_->bridge_hotplug());
    in.hotplug_port = hotplug_->port();
    in.pirq = [](unsigned slot, unsigned pin) { return (slot + 3 + pin) & 3; };
    return add_acpi(in, !pm_->pm().s3_off, !pm_->pm().s4_off, pm_->pm().s4_type);
  }

  Ref<I440fxHost> host_;
  Ref<I440fx> north_;
  Ref<Piix3> bridge_;
  Ref<Piix4Pm> pm_;
  Ref<AcpiPciHotplug> hotplug_;
  Ref<PiixIde> ide_;
};

const RegisteredFamily registered{{.stem = "pc-i440fx",
                                   .alias = "pc",
                                   .description = "Standard PC (i440FX + PIIX, 1996)",
                                   .parent = &PcBoard::type,
                                   .make = make<I440fxMachine>,
                                   .is_default = true}};

}  // namespace
}  // namespace vmm::hw
