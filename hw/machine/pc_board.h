// What the i440FX and Q35 boards have in common: memory layout, firmware, CPUs and interrupt controllers, the ISA devices of a PC,
// CMOS, fw_cfg, reset. Addresses and lines are the PC's own; sizes of RAM windows are those of QEMU's boards.
#pragma once

#include "block/core/backend.h"
#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/tables.h"
#include "hw/core/a20.h"
#include "hw/firmware/fw_cfg.h"
#include "hw/intc/apic.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/machine/coprocessor.h"
#include "hw/machine/versions.h"
#include "hw/pci/host.h"
#include "hw/rtc/mc146818.h"
#include "hw/timer/hpet.h"
#include "hw/timer/i8254.h"
#include "src/value/on_off_auto.h"
#include "src/vm/cpu_hotplug.h"
#include "src/vm/irq_access.h"
#include "src/vm/machine.h"

namespace vmm::hw {

// The 24 global interrupts: the I/O APIC hears all, the PIC pair the first 16.
class GsiLines final : public IrqSink {
 public:
  void wire(PicPair& pic, IoApic* ioapic) { pic_ = &pic, ioapic_ = ioapic; }
  void set_input(unsigned line, bool level) override {
    if (intercept && line < IoApic::pin_count) {
      if (bool(levels_ >> line & 1) != level) levels_ ^= 1u << line, intercept(line, level);
      return;
    }
    if (line < 16 && pic_) pic_->set_input(line, level);
    if (line < IoApic::pin_count && ioapic_) ioapic_->set_input(line, level);
  }
  std::function<void(unsigned line, bool level)> intercept;  // tests: hears of changes in the controllers' place

 private:
  u32 levels_ = 0;  // as the interceptor knows them
  PicPair* pic_ = nullptr;
  IoApic* ioapic_ = nullptr;
};

// One leg of lines that several drive (ISA devices, PCI interrupts, the SCI): a line is high while any leg is.
class SharedLines {
 public:
  static constexpr unsigned lines = 24;
  void wire(IrqSink& target) {
    for (unsigned n = 0; n < lines; n++) ors_[n].out.connect(target, n);
  }
  class Leg final : public IrqSink {
   public:
    Leg(SharedLines& owner, unsigned n) : owner_(owner), n_(n) {}
    void set_input(unsigned line, bool level) override {
      if (line < lines) owner_.ors_[line].set_input(n_, level);
    }

   private:
    SharedLines& owner_;
    unsigned n_;
  };
  Leg isa{*this, 0}, pci{*this, 1}, sci{*this, 2};

 private:
  std::array<IrqOr, lines> ors_;
};

class PcBoard : public vm::Machine, public vm::IrqAccess, public vm::CpuHotplug {
 public:
  Result<> plug_cpu(const TypeInfo& type, const std::string& id, const Value& properties) override;
  Result<> ask_cpu_to_leave(vm::X86Cpu& cpu) override;
  Result<> intercept(Object& device, bool inputs, std::function<void(unsigned, bool)> told) override;
  Result<> set_input(Object& device, std::string_view name, unsigned line, bool level) override;
  static const TypeInfo type;  // "generic-pc-machine"
  Result<> realize() override;
  Result<> finish() override;
  void reset(vm::Cause cause) override;
  void inject_nmi() override;
  vm::CoprocessorError* coprocessor_error() override { return &coprocessor_; }
  A20Gate& a20_gate() { return a20_; }
  CoprocessorWiring& coprocessor() { return coprocessor_; }
  std::string describe(std::string_view topic) override;
  FwCfg& fw_cfg() const { return *fw_cfg_; }
  MachineVersion version() const { return version_of_type(type_info().name); }

 protected:
  // --- The boards' part
  struct Layout {
    u64 low_limit = 0;    // RAM from here on moves above 4 GiB …
    u64 low_if_more = 0;  // … and then RAM below is cut to this
  };
  virtual Layout layout() const = 0;
  virtual Result<> make_chipset() = 0;  // host bridge, ISA bridge with its bus
  virtual IsaBus& isa_bus() const = 0;
  virtual PciBus& root_bus() const = 0;
  virtual Result<> finish_acpi() = 0;
  virtual u32 hpet_lines() const = 0;
  virtual memory::MemoryRegion& smm_view() = 0;
  virtual std::string product() const = 0;

  // For the boards.
  template <class T>
  Ref<T> add(std::string name = "device[*]") {
    return make_device<T>(*this, std::move(name));
  }
  // The same by the name of its type; null if this build has no such device.
  template <class T>
  Ref<T> add_of_type(std::string_view name) {
    const TypeInfo* t = find_type(name);
    if (!t) return nullptr;
    Ref<Object> object = make_object(*t);
    unattached().add_child("device[*]", object);
    return Ref<T>{static_cast<T*>(object.get())};
  }
  void add_compat_properties();
  Result<> add_by_name(std::string driver, Value properties, std::string bus = {});
  std::optional<std::string> compat(std::string_view driver, std::string_view property) const;
  void set_rtc_suspend_byte() { rtc_->set_cmos(0x0f, 0xfe); }
  void raise_smi() {
    if (!vcpus_.empty()) vcpus_[0]->post(vm::Request::smi);
  }
  bool smm_on() const { return smm_ != OnOffAuto::off && accelerator().has_smm(); }
  // CPUs that come and go: registers at `port`, and what the tables say.
  Result<> add_cpu_hotplug(u16 port, AcpiPm& pm);
  void describe_cpus(AcpiInput& in) const;
  vm::Vcpu* cpu_at(unsigned index) const;  // null: not there now
  bool acpi_on() const { return acpi_ != OnOffAuto::off; }
  // Tables, and what sleep states there are: "etc/system-states" (index S-state; 0x80 and the SLP_TYP, or 0).
  Result<> add_acpi(AcpiInput input, bool s3, bool s4, u8 s4_type);
  // The window for 64-bit BARs: above RAM, in whole GiB.
  std::pair<u64, u64> hole64(u64 bytes) const {
    const u64 first = (4 * GiB + ram_above_4g() + GiB - 1) & ~(GiB - 1);
    return bytes ? std::pair{first, first + bytes - 1} : std::pair{u64{0}, u64{0}};
  }
  u64 ram_below_4g() const { return below_4g_; }
  u64 ram_above_4g() const { return ram_->size_bytes() - below_4g_; }

  memory::MemoryRegion pci_memory_, ram_region_, ram_low_, ram_high_;
  u64 below_4g_ = 0;
  ApicFabric fabric_;
  PicPair pic_;
  GsiLines gsi_;
  std::unique_ptr<IrqCall> listener_;  // of a test
  SharedLines lines_;
  Ref<IoApic> ioapic_;
  Ref<Hpet> hpet_device_;
  Ref<Mc146818> rtc_;
  Ref<I8254> pit_;
  Ref<FwCfg> fw_cfg_;
  A20Gate a20_{*this};
  CoprocessorWiring coprocessor_;

  // --- Machine properties
  bool hpet_ = true, usb_ = false, sata_ = true, smbus_ = true, i8042_ = true, graphics_ = true, fd_bootchk_ = true;
  OnOffAuto smm_ = OnOffAuto::automatic, acpi_ = OnOffAuto::automatic, vmport_ = OnOffAuto::automatic, pit_on_ = OnOffAuto::automatic,
            pic_on_ = OnOffAuto::automatic;
  Bytes64 max_ram_below_4g_{0}, max_firmware_{8 * MiB};
  std::string pflash0_, pflash1_, kernel_irqchip_, oem_id_, oem_table_id_, entry_point_type_;
  bool dump_guest_core_ = true, mem_merge_ = true, suppress_vmdesc_ = false, bypass_iommu_ = false, nvdimm_ = false;

 private:
  static const Field properties[26];
  std::string memory_backend() const { return config.ram_backend; }
  Result<> set_memory_backend(const std::string& id) {
    config.ram_backend = id;
    return {};
  }
  Result<> make_memory();
  Result<> make_cpus();
  Result<> add_cpu(unsigned index, const std::string& id);
  void remove_cpu(unsigned index);
  void count_cpus();
  Result<> renew_acpi();
  virtual u16 acpi_ports() const { return 0; }  // where the firmware has put power management; 0: nowhere yet, or always the same place
  Result<> load_firmware();
  Result<block::BackendRef> flash_drive(u32 unit, const std::string& name);
  Result<> load_flash(std::span<const block::BackendRef> drives);
  Result<> make_isa_devices();
  virtual bool floppies() const { return true; }  // is there a controller?
  Result<> set_cmos();
  Result<> set_boot_order(const std::string& order);
  u32 cpu_id_limit() const;
  Result<> fill_fw_cfg();
  Result<> fill_smbios();
  Result<> fill_kernel();
  Result<> set_boot_paths();
  std::string boot_rom_path_;  // of -kernel: before all else
  u64 port_read(u64, unsigned size) { return mask_of(size); }
  void port_write(u64, unsigned, u64) {}
  void coprocessor_write(u64, unsigned, u64) { coprocessor_.acknowledge(); }
  static u64 mask_of(unsigned size) { return size >= 8 ? ~u64{0} : (u64{1} << size * 8) - 1; }
  memory::MemoryRegion bios_, isa_bios_, option_roms_, port80_, portf0_;
  memory::MemoryRegion smm_root_, smm_ram_, smm_rest_;
  std::unique_ptr<memory::AddressSpace> smm_space_;
  bool finished_ = false;
  unsigned starts_ = 0;
  Ref<AcpiCpuHotplug> cpu_hotplug_;
  // CPUs that have left: parked, and kept for their return.
  struct AwayCpu {
    std::unique_ptr<vm::Vcpu> vcpu;
    Ref<Apic> apic;
  };
  std::vector<AwayCpu> away_;
  std::optional<AcpiInput> acpi_input_;  // of the tables, which are made anew at a reset: CPUs come and go
};

}  // namespace vmm::hw
