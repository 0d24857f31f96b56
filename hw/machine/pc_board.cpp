// Memory layout, CPUs, ISA devices, firmware and reset of the PC boards. Sources: IBM PC/AT technical reference (ports, lines), Intel
// 82441FX and 3 Series (memory map), the published interface of QEMU's pc machines (window sizes, fw_cfg).
#include "hw/machine/pc_board.h"

#include <algorithm>
#include <fstream>

#include "block/core/drive.h"
#include "hw/dma/i8257.h"
#include "hw/input/i8042.h"
#include "hw/misc/port92.h"
#include "hw/storage/pflash.h"
#include "hw/timer/pcspk.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/model.h"

namespace vmm::hw {

constexpr Field PcBoard::properties[26] = {
    field<&PcBoard::acpi_>("acpi", "Enable ACPI"),
    field<&PcBoard::hpet_>("hpet", "Enable/disable high precision event timer emulation"),
    field<&PcBoard::smm_>("smm", "Enable SMM"),
    field<&PcBoard::vmport_>("vmport", "Enable vmport (pc & q35)"),
    field<&PcBoard::usb_>("usb", "Set on/off to enable/disable usb"),
    field<&PcBoard::sata_>("sata", "Enable/disable Serial ATA bus"),
    field<&PcBoard::smbus_>("smbus", "Enable/disable system management bus"),
    field<&PcBoard::i8042_>("i8042", "Enable the keyboard controller"),
    field<&PcBoard::pit_on_>("pit", "Enable i8254 PIT"),
    field<&PcBoard::pic_on_>("pic", "Enable i8259 PIC"),
    field<&PcBoard::graphics_>("graphics", "Set on/off to enable/disable graphics emulation"),
    field<&PcBoard::fd_bootchk_>("fd-bootchk", "Check the boot signature of floppies"),
    field<&PcBoard::max_ram_below_4g_>("max-ram-below-4g", "Maximum ram below the 4G boundary (32bit boundary)"),
    field<&PcBoard::max_firmware_>("max-fw-size", "Maximum combined firmware size"),
    field<&PcBoard::kernel_irqchip_>("kernel-irqchip", "Configure KVM in-kernel irqchip"),
    field<&PcBoard::dump_guest_core_>("dump-guest-core", "Include guest memory in a core dump"),
    field<&PcBoard::mem_merge_>("mem-merge", "Enable/disable memory merge support"),
    field<&PcBoard::suppress_vmdesc_>("suppress-vmdesc", "Set on to disable self-describing migration"),
    field<&PcBoard::bypass_iommu_>("default-bus-bypass-iommu", "The root bus is not behind an IOMMU"),
    field<&PcBoard::nvdimm_>("nvdimm", "Set on/off to enable/disable NVDIMM instantiation"),
    field<&PcBoard::entry_point_type_>("smbios-entry-point-type", "SMBIOS Entry Point type [32, 64]"),
    field<&PcBoard::oem_id_>("x-oem-id", "Override the default value of field OEMID in ACPI table header."),
    field<&PcBoard::oem_table_id_>("x-oem-table-id", "Override the default value of field OEM Table ID in ACPI table header."),
    computed<&PcBoard::memory_backend, &PcBoard::set_memory_backend>("memory-backend", "Set RAM backend; its id"),
    field<&PcBoard::pflash0_>("pflash0", "Node name or id of a drive with the firmware"),
    field<&PcBoard::pflash1_>("pflash1", "Node name or id of a drive with the firmware's variables"),
};

constinit const TypeInfo PcBoard::type{
    .name = "generic-pc-machine", .doc = "A PC.", .parent = &vm::Machine::type, .properties = properties, .user_creatable = false};
static Registered registered{PcBoard::type};

// --- Life

Result<> PcBoard::realize() {
  if (smm_ == OnOffAuto::on && !accelerator().has_smm())
    return fail("smm=on: SMM is not what the accelerator {} has here", accelerator().short_name());
  memory::Transaction transaction;
  add_compat_properties();
  TRY(make_memory());
  fabric_.set_kernel(irqchip());
  TRY(make_cpus());
  gsi_.wire(pic_, nullptr);
  lines_.wire(gsi_);
  TRY(make_chipset());
  // In SMM a CPU sees SMRAM over everything else.
  smm_root_.init_container(this, "memory", u128{1} << 64);
  smm_ram_.init_alias(this, "smram", smm_view(), 0, 4 * GiB);
  smm_rest_.init_alias(this, "memory", memory_root_, 0, ~u64{0});
  smm_root_.add(smm_rest_, 0, 0);
  smm_root_.add(smm_ram_, 0, 1);
  smm_space_ = std::make_unique<memory::AddressSpace>("cpu-smm-0", smm_root_);
  for (const auto& vcpu : vcpus_) vcpu->set_smm_memory(*smm_space_);
  ioapic_ = add<IoApic>();
  ioapic_->wire(fabric_);
  TRY(ioapic_->attach(nullptr));
  memory_root_.add(ioapic_->region(), 0xfec0'0000);
  memory_root_.add(fabric_.msi_region(), 0xfee0'0000, 4096);
  TRY(load_firmware());
  TRY(option_roms_.init_rom(this, "pc.rom", 0x20000));
  pci_memory_.add(option_roms_, 0xc0000, 1);
  fw_cfg_ = make_object<FwCfg>();
  add_child("fw_cfg", fw_cfg_);
  TRY(fw_cfg_->attach(nullptr));
  TRY(make_isa_devices());
  gsi_.wire(pic_, ioapic_.get());
  if (config.vga != "none" && !(config.no_defaults && !config.vga_given)) {
    if (config.vga != "std") return fail("-vga {}: not available; use -vga std or -vga none", config.vga);
    TRY(add_by_name("VGA", Value::object()));
  }
  return {};
}

// Reset is two walks over all devices, then the CPUs; all are parked.
void PcBoard::reset(vm::Cause) {
  memory::Transaction transaction;
  std::vector<Device*> devices;
  for_each_device(*this, [&](Device& d) {
    if (d.realized()) devices.push_back(&d);
  });
  a20_.reset();
  coprocessor_.reset();
  // -boot once=: only the first start.
  if (starts_++ == 1 && !config.boot.once.empty()) (void)set_boot_order(config.boot.order);
  if (finished_) (void)set_boot_paths();
  if (finished_) (void)renew_acpi();
  for (Device* d : devices) d->reset();
  for (Device* d : devices) d->settle();
  for (const auto& vcpu : vcpus_) {
    vm::Vcpu* v = vcpu.get();
    v->run([v] {
      v->drop_events();  // a SIPI of before would start an AP in the firmware's memory
      x86::reset(v->state(), false, v->index() == 0);
      v->state().a20 = true;
      v->state().gpr[x86::rdx] = x86::cpuid(v->model(), {.leaf = 1}).eax;
    });
    v->post(vm::Request::flush);
  }
}

void PcBoard::inject_nmi() { fabric_.inject_nmi(); }

std::string PcBoard::describe(std::string_view topic) {
  // What an accelerator has of them is asked for first.
  if (irqchip())
    for_each_device(*this, [&](Device& d) {
      const std::string_view name = d.type_info().name;
      if (name == "apic" || name == "ioapic" || name == "isa-i8259" || name == "isa-pit") d.before_save();
    });
  if (topic == "pic" || topic == "irqchip") return pic_.describe() + (ioapic_ ? ioapic_->describe() : std::string{});
  if (topic == "irq") return pic_.describe_counts();
  if (topic.starts_with("lapic ")) {  // of one CPU
    for (const auto& vcpu : vcpus())
      if (topic.substr(6) == format("{}", vcpu->index()) && vcpu->object())
        if (const Device* apic = object_cast<Device>(vcpu->object()->child("lapic"))) return apic->describe();
    return {};
  }
  std::string text;
  for_each_device(*this, [&](Device& d) {
    if (topic == "lapic" ? d.type_info().name == "apic" : topic == "screen" && d.type_info().name == "VGA") text += d.describe();
  });
  return text;
}

std::optional<std::string> PcBoard::compat(std::string_view driver, std::string_view property) const {
  const MachineVersion mine = version();
  for (const CompatRow& row : compat_table())
    if (row.driver == driver && row.property == property && mine <= row.until) return std::string{row.value};
  return std::nullopt;
}

// What older versions set otherwise, unless the user's -global says something else. make_object() applies it.
void PcBoard::add_compat_properties() {
  const MachineVersion mine = version();
  for (const CompatRow& row : compat_table()) {
    if (mine > row.until || row.driver == "machine") continue;
    const bool users = std::ranges::any_of(global_properties(),
                                           [&](const GlobalProperty& g) { return g.type == row.driver && g.property == row.property; });
    if (!users) add_global_property({.type = std::string{row.driver}, .property = std::string{row.property}, .value = Value{row.value}});
  }
}

Result<> PcBoard::add_by_name(std::string driver, Value properties, std::string bus) {
  TRY(create_device(
      *this,
      {.driver = std::move(driver), .bus = std::move(bus), .properties = std::move(properties), .place = DeviceSpec::Place::unattached}));
  return {};
}

// --- Memory and CPUs

Result<> PcBoard::make_memory() {
  TRY(make_ram("pc.ram"));
  const u64 size = ram_->size_bytes();
  Layout l = layout();
  if (max_ram_below_4g_) {
    if (max_ram_below_4g_ > 4 * GiB) return fail("'max-ram-below-4g' takes at most 4 GiB");
    if (max_ram_below_4g_ < MiB) return fail("'max-ram-below-4g' takes at least 1 MiB");
    l.low_limit = std::min(l.low_limit, align_down(max_ram_below_4g_.value, 4096)), l.low_if_more = std::min(l.low_if_more, l.low_limit);
  }
  below_4g_ = size < l.low_limit ? size : l.low_if_more;
  ram_region_.init_ram(this, "pc.ram", ram_);
  ram_low_.init_alias(this, "ram-below-4g", ram_region_, 0, below_4g_);
  memory_root_.add(ram_low_, 0);
  if (size > below_4g_) {
    ram_high_.init_alias(this, "ram-above-4g", ram_region_, below_4g_, size - below_4g_);
    memory_root_.add(ram_high_, 4 * GiB);
  }
  pci_memory_.init_container(this, "pci", u128{1} << 64);
  memory_root_.add(pci_memory_, 0, -1);
  return {};
}

// --- Firmware

Result<> PcBoard::load_firmware() {
  const std::array flash{TRY(flash_drive(0, pflash0_)), TRY(flash_drive(1, pflash1_))};
  if (flash[1] && !flash[0]) return fail("pflash1 requires pflash0");
  if (flash[0]) return load_flash(flash);
  const std::string name = config.bios.empty() ? "bios-256k.bin" : config.bios;
  const std::string path = TRY(find_firmware(name));
  std::ifstream file{path, std::ios::binary};
  std::vector<char> bytes{std::istreambuf_iterator<char>{file}, {}};
  if (!file || bytes.empty()) return fail("could not load PC BIOS '{}'", path);
  if (bytes.size() % (64 * KiB) != 0 || bytes.size() > 16 * MiB)
    return fail("could not load PC BIOS '{}': {} bytes, but firmware takes a multiple of 64 KiB up to 16 MiB", path, bytes.size());
  TRY(bios_.init_rom(this, "pc.bios", bytes.size()));
  std::memcpy(bios_.ram()->host(), bytes.data(), bytes.size());
  pci_memory_.add(bios_, 4 * GiB - bytes.size());
  // What a CPU in real mode sees: the last 128 KiB below 1 MiB.
  const u64 window = std::min<u64>(bytes.size(), 128 * KiB);
  isa_bios_.init_alias(this, "isa-bios", bios_, bytes.size() - window, window);
  isa_bios_.set_read_only(true);
  pci_memory_.add(isa_bios_, 0x10'0000 - window, 1);
  return {};
}

// The drive of a flash unit: what -machine pflashN= names, or -drive if=pflash,unit=N.
Result<block::BackendRef> PcBoard::flash_drive(u32 unit, const std::string& name) {
  if (!name.empty()) return block::backend_for_device(name);
  const block::Drive* drive = block::find_drive(block::Drive::Interface::pflash, 0, unit);
  return drive ? drive->backend : block::BackendRef{};
}

// Firmware in flash: unit 0 ends at 4 GiB, unit 1 lies below it. A CPU in real mode sees a copy.
Result<> PcBoard::load_flash(std::span<const block::BackendRef> drives) {
  u64 end = 4 * GiB;
  unsigned number = 0;
  for (const block::BackendRef& drive : drives) {
    if (!drive) continue;
    const u64 size = drive->length_bytes();
    if (size == 0 || size % 4096)
      return fail("system firmware block device {} has invalid size {}: it takes a multiple of 4096", drive->id(), size);
    if (size > max_firmware_ || 4 * GiB - end + size > max_firmware_)
      return fail("combined size of system firmware exceeds {} bytes (machine property 'max-fw-size')", max_firmware_.value);
    end -= size;
    Ref<Pflash> flash = make_object<Pflash>();
    flash->set_drive(drive, format("system.flash{}", number));
    add_child(format("system.flash{}", number), flash);
    TRY(flash->attach(nullptr));
    memory_root_.add(flash->region(), end);
    if (memory::MemoryRegion* smm = flash->smm_region()) smm_root_.add(*smm, end, 2);
    if (number++ == 0) {
      const u64 window = std::min<u64>(size, 128 * KiB);
      TRY(isa_bios_.init_rom(this, "isa-bios", window));
      std::memcpy(isa_bios_.ram()->host(), flash->region().ram()->host() + size - window, window);
      pci_memory_.add(isa_bios_, 0x10'0000 - window, 1);
    }
  }
  return {};
}

// --- ISA

Result<> PcBoard::make_isa_devices() {
  IsaBus& isa = isa_bus();
  TRY(pic_.make(*this, isa));
  fabric_.set_pic(pic_);
  rtc_ = add<Mc146818>();
  pit_ = add<I8254>();
  TRY(pit_->set("iobase", Value{0x40}));
  if (hpet_) hpet_device_ = add_of_type<Hpet>("hpet");
  if (hpet_device_) {
    // The timer block takes the lines of PIT and RTC, and passes them on unless it replaces them.
    TRY(hpet_device_->set("hpet-intcap", Value{hpet_lines()}));
    hpet_device_->connect_gsi(lines_.isa);
    hpet_device_->on_pit_enable([this](bool on) { pit_->set_irq_enabled(on); });
    TRY(hpet_device_->attach(nullptr));
    memory_root_.add(hpet_device_->region(), 0xfed0'0000);
    pit_->irq().connect(*hpet_device_, 0);
    rtc_->irq().connect(*hpet_device_, 1);
  }
  TRY(rtc_->attach(&isa));
  if (pit_on_ != OnOffAuto::off) TRY(pit_->attach(&isa));
  auto speaker = add<PcSpeaker>();
  speaker->wire(*pit_);
  TRY(speaker->attach(&isa));
  for (unsigned n = 0; n < 2; n++) {
    auto dma = add<I8257>();
    TRY(dma->set("base", Value{n ? 0xc0 : 0x00}));
    TRY(dma->set("page-base", Value{n ? 0x88 : 0x80}));
    TRY(dma->set("dshift", Value{n}));
    TRY(dma->set("pageh-base", Value{-1}));
    TRY(dma->attach(&isa));
  }
  if (floppies()) TRY(add_by_name("isa-fdc", Value::object()));
  if (Ref<I8042> keyboard = i8042_ ? add_of_type<I8042>("i8042") : nullptr) {
    keyboard->a20().connect(a20_, 0);
    TRY(keyboard->attach(&isa));
  }
  auto port92 = add<Port92>();
  port92->a20().connect(a20_, 1);
  TRY(port92->attach(&isa));
  port80_.init_io<&PcBoard::port_read, &PcBoard::port_write>(*this, "ioport80", 1);
  port_root_.add(port80_, 0x80);
  coprocessor_.irq.connect(lines_.isa, 13);
  portf0_.init_io<&PcBoard::port_read, &PcBoard::coprocessor_write>(*this, "ioportF0", 1);
  port_root_.add(portf0_, 0xf0);
  for (usize n = 0; n < config.serial_chardevs.size(); n++) {
    if (config.serial_chardevs[n].empty()) continue;
    if (n >= 4) return fail("a PC has four serial ports, -serial was given {} times", config.serial_chardevs.size());
    TRY(add_by_name("isa-serial", Value::object().set("index", Value{n}).set("chardev", Value{config.serial_chardevs[n]})));
  }
  for (usize n = 0; n < config.parallel_chardevs.size(); n++) {
    if (config.parallel_chardevs[n].empty() || !find_type("isa-parallel")) continue;
    if (n >= 3) return fail("a PC has three parallel ports, -parallel was given {} times", config.parallel_chardevs.size());
    TRY(add_by_name("isa-parallel", Value::object().set("index", Value{n}).set("chardev", Value{config.parallel_chardevs[n]})));
  }
  return {};
}

}  // namespace vmm::hw
