// Source: Intel 82371SB §2.2 (PIRQRC 0x60–0x63), §2.5.4 (RC, 0xcf9); 82371AB §7 (power management), PMBA 0x40, PMREGMISC 0x80.
#include "hw/southbridge/piix.h"

#include "src/base/bits.h"

namespace vmm::hw {

// --- Reset control

void ResetControl::init(Device& owner, std::string_view name) {
  owner_ = &owner;
  region.init_io(&owner, std::string{name}, 1, memory::MemoryRegion::member_ops<&ResetControl::read, &ResetControl::write, ResetControl>(),
                 this, {.min = 1, .max = 1});
}
void ResetControl::write(u64, unsigned, u64 v) {
  const bool fire = v & 4;
  value = v & 2;
  if (fire) owner_->machine().run_state().request_reset(vm::Cause::guest_reset);
}

// --- PIIX3

constexpr Field Piix3::state[1] = {field<&Piix3::irq_levels_>("irq-levels", "levels driven on the 16 lines")};

constinit const TypeInfo Piix3::type{.name = "PIIX3",
                                     .doc = "ISA bridge",
                                     .parent = &PciDevice::type,
                                     .state = state,
                                     .make = make<Piix3>,
                                     .category = "Controller/Bridge/Hub devices",
                                     .user_creatable = false};
static Registered registered_piix3{Piix3::type};

static constexpr u16 reg_pirq = 0x60;

Result<> Piix3::realize_pci() {
  ASSERT(ports_);
  set_config(0x06, 0x0200, 2);
  set_config(0x4c, 0x4d, 1);
  set_config(0x4e, 0x03, 1);
  set_config(0x60, 0x80808080, 4);
  set_config(0x69, 0x02, 1);
  set_config(0x70, 0x80, 1);
  set_config(0x76, 0x0c, 1), set_config(0x77, 0x0c, 1);
  set_config(0x78, 0x02, 1);
  set_config(0xa0, 0x08, 1), set_config(0xa8, 0x0f, 1);
  for (u16 at = 0x40; at < 0x100; at++) set_writable(at, 0xff, 1);
  auto bus = make_object<IsaBus>();
  isa_ = bus.get();
  isa_->wire(*ports_, *isa_memory_, *isa_irqs_);
  add_bus("isa.0", bus);
  reset_control_.init(*this, "piix3-reset-control");
  place(*ports_, 0xcf9, reset_control_.region, 1);
  return {};
}

void Piix3::set_intx(unsigned line, unsigned device, bool level) {
  u16& count = pirq_[(device + 3 + line) & 3];  // the slots are wired in rotation, slot 1 INTA to PIRQA
  count = static_cast<u16>(level ? count + 1 : count - (count > 0));
  route();
}

void Piix3::route() {
  u16 wanted = 0;
  for (unsigned i = 0; i < 4; i++) {
    const u8 r = config_[reg_pirq + i];
    if (!(r & 0x80) && pirq_[i]) wanted |= static_cast<u16>(1u << (r & 15));
  }
  const u16 changed = wanted ^ irq_levels_;
  irq_levels_ = wanted;
  for (unsigned n = 0; n < 16; n++)
    if (changed >> n & 1) pirq_irqs_->set_input(n, wanted >> n & 1);
}

void Piix3::config_write(u16 offset, unsigned size, u32 value) {
  PciDevice::config_write(offset, size, value);
  if (offset < reg_pirq + 4 && offset + size > reg_pirq) route();
}

void Piix3::reset() {
  PciDevice::reset();
  reset_control_.value = 0;
}
void Piix3::settle() {
  PciDevice::settle();
  for (unsigned n = 0; n < 16; n++) pirq_irqs_->set_input(n, irq_levels_ >> n & 1);
  route();
}

// --- PIIX4 PM

constexpr Field Piix4Pm::properties[7] = {
    field<&Piix4Pm::smb_io_base_>("smb_io_base", "I/O base of the SMBus controller."),
    field<&Piix4Pm::disable_s3_>("disable_s3", "Do not offer suspend to RAM.", {.max = 1}),
    field<&Piix4Pm::disable_s4_>("disable_s4", "Do not offer suspend to disk.", {.max = 1}),
    field<&Piix4Pm::s4_value_>("s4_val", "SLP_TYP of suspend to disk.", {.max = 7}),
    field<&Piix4Pm::smm_enabled_>("smm-enabled", "SMIs reach the CPU."),
    field<&Piix4Pm::bridge_hotplug_>("acpi-pci-hotplug-with-bridge-support", "ACPI hotplug behind bridges."),
    field<&Piix4Pm::root_hotplug_>("acpi-root-pci-hotplug", "ACPI hotplug on the first bus."),
};
constexpr Field Piix4Pm::state[3] = {
    field<&Piix4Pm::pm_>("pm", "ACPI registers"),
    field<&Piix4Pm::apm_command_>("apm-command", "port 0xb2"),
    field<&Piix4Pm::apm_status_>("apm-status", "port 0xb3"),
};

constinit const TypeInfo Piix4Pm::type{.name = "PIIX4_PM",
                                       .doc = "PM",
                                       .parent = &PciDevice::type,
                                       .properties = properties,
                                       .state = state,
                                       .make = make<Piix4Pm>,
                                       .category = "Controller/Bridge/Hub devices",
                                       .user_creatable = false};
static Registered registered_pm{Piix4Pm::type};

static constexpr u16 reg_pmba = 0x40, reg_pmregmisc = 0x80, reg_devactb = 0x58, gpe_port = 0xafe0;
static constexpr u8 apm_acpi_enable = 0xf1, apm_acpi_disable = 0xf0;

Piix4Pm::Piix4Pm() : PciDevice({.vendor = 0x8086, .device = 0x7113, .revision = 3, .class_code = 0x068000}) {}

Result<> Piix4Pm::realize_pci() {
  ASSERT(ports_);
  pm_.s3_off = disable_s3_, pm_.s4_off = disable_s4_, pm_.s4_type = s4_value_;
  set_config(0x06, 0x0280, 2);
  set_config(0x09, 0x00, 1);
  set_interrupt_pin(1);
  set_config(reg_pmba, 0x01, 4);
  set_writable(reg_pmba, 0xffc0, 4);
  set_writable(reg_devactb, 0xffff'ffff, 4);
  set_writable(reg_pmregmisc, 0x01, 1);
  set_config(0x5f, (parallel_port ? 0x80 : 0) | 0x10, 1);
  set_config(0x63, 0x60, 1);
  set_config(0x67, (serial_ports > 0 ? 0x08 : 0) | (serial_ports > 1 ? 0x90 : 0), 1);
  set_config(0x90, smb_io_base_ | 1, 4);
  set_config(0xd2, 0x09, 1);
  io_.init_container(this, "piix4-pm", 64);
  pm_.init_regions("acpi-gpe0");
  io_.add(pm_.events, 0);
  io_.add(pm_.control, 4);
  io_.add(pm_.timer, 8);
  io_.set_enabled(false);
  place(*ports_, 0, io_);
  place(*ports_, gpe_port, pm_.gpe);
  apm_.init_io<&Piix4Pm::apm_read, &Piix4Pm::apm_write>(*this, "apm-io", 2, {.min = 1, .max = 1});
  place(*ports_, 0xb2, apm_);
  machine().run_state().on_powerdown([this] { pm_.press_power_button(); });
  machine().run_state().on_wakeup([this] { pm_.woken(); });
  return {};
}

void Piix4Pm::config_write(u16 offset, unsigned size, u32 value) {
  PciDevice::config_write(offset, size, value);
  update_io();
}

void Piix4Pm::update_io() {
  memory::Transaction transaction;
  io_.set_address(load_le<u32>(&config_[reg_pmba]) & 0xffc0);
  io_.set_enabled(config_[reg_pmregmisc] & 1);
}

u64 Piix4Pm::apm_read(u64 offset, unsigned) { return offset == 0 ? apm_command_ : apm_status_; }

// 0xb2 carries a command to the SMI handler; turning ACPI on and off is done here, as no handler of ours would.
void Piix4Pm::apm_write(u64 offset, unsigned, u64 value) {
  if (offset == 1) {
    apm_status_ = static_cast<u8>(value);
    return;
  }
  apm_command_ = static_cast<u8>(value);
  if (apm_command_ == apm_acpi_enable || apm_command_ == apm_acpi_disable) {
    pm_.set_acpi_enabled(apm_command_ == apm_acpi_enable);
    return;
  }
  const bool apmc_enabled = config_[reg_devactb + 3] & 2;
  if (apmc_enabled && smm_enabled_ && raise_smi) raise_smi();
}

void Piix4Pm::reset() {
  PciDevice::reset();
  pm_.reset();
  apm_command_ = apm_status_ = 0;
  // Firmware without SMM takes this as "the handler is there already" and leaves SMM alone.
  if (!smm_enabled_) config_[reg_devactb + 3] |= 2;
}

void Piix4Pm::settle() {
  PciDevice::settle();
  update_io();
  pm_.settle();
}

}  // namespace vmm::hw
