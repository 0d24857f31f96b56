// q35: MCH with ICH9. Sources: Intel 316966 (3 Series), 316972 (ICH9); the published layout of QEMU's q35 machines (slots, windows).
#include "hw/pci_host/q35.h"
#include "block/core/drive.h"
#include "hw/acpi/pci_hotplug.h"
#include "hw/machine/pc_board.h"
#include "hw/southbridge/ich9.h"
#include "src/base/bits.h"

namespace vmm::hw {
namespace {

class Q35Machine final : public PcBoard {
 private:
  static constexpr u64 ecam_base = 0xb000'0000, ecam_bytes = 256 * MiB;
  Layout layout() const override { return {.low_limit = 0xb000'0000, .low_if_more = 0x8000'0000}; }
  u32 hpet_lines() const override { return 0xff0104; }
  std::string product() const override { return "Standard PC (Q35 + ICH9, 2009)"; }
  IsaBus& isa_bus() const override { return lpc_->isa(); }
  bool floppies() const override {  // boards of this age come without
    return block::find_drive(block::Drive::Interface::floppy, 0, 0) || block::find_drive(block::Drive::Interface::floppy, 0, 1);
  }
  PciBus& root_bus() const override { return host_->root_bus(); }
  memory::MemoryRegion& smm_view() override { return mch_->smm_view(); }

  Result<> make_chipset() override {
    host_ = add<Q35Host>();
    host_->wire(pci_memory_, port_root_, memory());
    host_->msi = [this](MsiMessage m) { fabric_.deliver_msi(m.address, m.data); };
    TRY(host_->attach(nullptr));

    mch_ = add<Mch>();
    mch_->set_address(0, 0);
    mch_->wire(*host_, memory_root_, pci_memory_, below_4g_);
    TRY(mch_->attach(&root_bus()));

    lpc_ = add<Ich9Lpc>();
    lpc_->set_address(31, 0);
    lpc_->wire(memory_root_, port_root_, pci_memory_, lines_.isa, lines_.pci, lines_.sci);
    host_->intx = [this](unsigned line, unsigned device, bool level) { lpc_->set_intx(line, device, level); };
    lpc_->raise_smi = [this](bool all) {
      for (const auto& v : vcpus_)
        if (all || v->index() == 0) v->post(vm::Request::smi);
    };
    lpc_->pm().before_suspend = [this] { set_rtc_suspend_byte(); };
    TRY(lpc_->set("smm-enabled", Value{smm_on()}));
    TRY(lpc_->attach(&root_bus()));
    if (sata_) {
      Ref<PciDevice> ahci{add_of_type<PciDevice>("ich9-ahci")};
      ahci->set_address(31, 2);
      ahci->set_multifunction(true);
      TRY(ahci->attach(&root_bus()));
    }
    if (smbus_) {
      Ref<PciDevice> smbus{add_of_type<PciDevice>("ICH9-SMB")};
      smbus->set_address(31, 3);
      TRY(smbus->attach(&root_bus()));
    }
    hotplug_ = add<AcpiPciHotplug>();
    hotplug_->wire(port_root_, 0xcc0, lpc_->pm());
    TRY(hotplug_->attach(nullptr));
    if (acpi_on()) TRY(add_cpu_hotplug(0xcd8, lpc_->pm()));
    root_bus().first_free_slot = 1;
    return {};
  }

  // Firmware asks for SMI features by writing what it wants, and reads back whether that was granted.
  Result<> offer_smi_features() {
    FwCfg& f = fw_cfg();
    const u64 offered = lpc_->may_broadcast() ? 1 : 0;
    std::vector<u8> bytes(8);
    store_le<u64>(bytes.data(), offered);
    TRY(f.add_file("etc/smi/supported-features", bytes));
    TRY(f.add_writable_file("etc/smi/requested-features", 8, {}));
    return f.add_file("etc/smi/features-ok", {0}, [this, offered] {
      const auto* asked = fw_cfg().file("etc/smi/requested-features");
      const u64 wanted = asked ? load_le<u64>(asked->data()) : 0;
      const bool granted = !(wanted & ~offered);
      if (granted) lpc_->set_smi_broadcast(wanted & 1);
      (void)fw_cfg().replace_file("etc/smi/features-ok", {static_cast<u8>(granted)});
    });
  }

  Result<> finish_acpi() override {
    if (smm_on()) TRY(offer_smi_features());
    AcpiInput in{.q35 = true, .ram_below_4g = below_4g_, .gpe0_bytes = 16, .acpi_enable = 2, .acpi_disable = 3};
    in.s3 = !lpc_->pm().s3_off, in.s4 = !lpc_->pm().s4_off;
    std::tie(in.hole64_first, in.hole64_last) = hole64(host_->hole64_bytes());
    in.hpet = static_cast<bool>(hpet_device_);
    in.ecam_base = ecam_base, in.ecam_bytes = ecam_bytes;
    in.i8042 = i8042_;
    in.native_hotplug = !lpc_->bridge_hotplug();
    if (!in.native_hotplug) {
      in.pci = hotplug_->take_over(root_bus(), false, true);
      in.hotplug_port = hotplug_->port();
    }
    in.pirq = [this](unsigned slot, unsigned pin) { return lpc_->pirq_of(slot, pin); };
    return add_acpi(in, !lpc_->pm().s3_off, !lpc_->pm().s4_off, lpc_->pm().s4_type);
  }

  Ref<Q35Host> host_;
  Ref<Mch> mch_;
  Ref<Ich9Lpc> lpc_;
  Ref<AcpiPciHotplug> hotplug_;
};

const RegisteredFamily registered{{.stem = "pc-q35",
                                   .alias = "q35",
                                   .description = "Standard PC (Q35 + ICH9, 2009)",
                                   .parent = &PcBoard::type,
                                   .make = make<Q35Machine>,
                                   .has_micro = true,
                                   .max_cpus = 288}};

}  // namespace
}  // namespace vmm::hw
