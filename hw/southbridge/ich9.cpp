// Source: Intel 316972 §13.1 (LPC configuration), §13.8 (power management I/O), §10.1 (chip set configuration, DnIR).
#include "hw/southbridge/ich9.h"

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

constexpr Field Ich9Lpc::properties[10] = {
    field<&Ich9Lpc::no_reboot_>("noreboot", "The watchdog does not reset the machine."),
    field<&Ich9Lpc::disable_s3_>("disable_s3", "Do not offer suspend to RAM.", {.max = 1}),
    field<&Ich9Lpc::disable_s4_>("disable_s4", "Do not offer suspend to disk.", {.max = 1}),
    field<&Ich9Lpc::s4_value_>("s4_val", "SLP_TYP of suspend to disk.", {.max = 7}),
    field<&Ich9Lpc::smm_enabled_>("smm-enabled", "SMIs reach the CPU."),
    field<&Ich9Lpc::smm_compat_>("smm-compat", "SMM state as older versions have it."),
    field<&Ich9Lpc::broadcast_offered_>("x-smi-broadcast", "Firmware may ask for SMIs to all CPUs."),
    field<&Ich9Lpc::smi_hotplug_>("x-smi-cpu-hotplug", "Firmware may ask for SMIs at CPU hotplug."),
    field<&Ich9Lpc::smi_hotunplug_>("x-smi-cpu-hotunplug", "Firmware may ask for SMIs at CPU unplug."),
    field<&Ich9Lpc::bridge_hotplug_>("acpi-pci-hotplug-with-bridge-support", "ACPI hotplug behind bridges."),
};
constexpr Field Ich9Lpc::state[7] = {
    field<&Ich9Lpc::pm_>("pm", "ACPI registers"),
    field<&Ich9Lpc::smi_enable_>("smi-enable", "SMI_EN"),
    field<&Ich9Lpc::smi_status_>("smi-status", "SMI_STS"),
    field<&Ich9Lpc::apm_command_>("apm-command", "port 0xb2"),
    field<&Ich9Lpc::apm_status_>("apm-status", "port 0xb3"),
    field<&Ich9Lpc::broadcast_>("smi-broadcast", "what firmware has negotiated"),
    computed<&Ich9Lpc::saved_rcba, &Ich9Lpc::load_rcba>("rcba", "root complex registers"),
};
constinit const TypeInfo Ich9Lpc::type{.name = "ICH9-LPC",
                                       .doc = "ICH9 LPC bridge",
                                       .parent = &PciDevice::type,
                                       .properties = properties,
                                       .state = state,
                                       .make = make<Ich9Lpc>,
                                       .category = "Controller/Bridge/Hub devices",
                                       .user_creatable = false};
static Registered registered{Ich9Lpc::type};

static constexpr u16 reg_pmbase = 0x40, reg_acpi_control = 0x44, reg_pirq_a = 0x60, reg_pirq_e = 0x68, reg_gen_pmcon1 = 0xa0,
                     reg_rcba = 0xf0;
static constexpr u8 apm_acpi_enable = 0x02, apm_acpi_disable = 0x03;
enum : u32 { smi_global = 1, smi_apmc = 1 << 5, smi_tco = 1 << 13 };
static constexpr u64 rcba_size = 0x4000;

Result<> Ich9Lpc::realize_pci() {
  ASSERT(ports_);
  pm_.s3_off = disable_s3_, pm_.s4_off = disable_s4_, pm_.s4_type = s4_value_;
  set_config(reg_pmbase, 0x1, 4), set_writable(reg_pmbase, 0xff80, 4);
  set_writable(reg_acpi_control, 0x87, 1);
  set_config(reg_pirq_a, 0x8080'8080, 4), set_writable(reg_pirq_a, 0x8f8f'8f8f, 4);
  set_config(reg_pirq_e, 0x8080'8080, 4), set_writable(reg_pirq_e, 0x8f8f'8f8f, 4);
  set_config(0x82, 0x05, 1);
  set_writable(0x80, 0xffff'ffff, 4);
  set_writable(0x84, 0xffff'ffff, 4), set_writable(0x88, 0xffff'ffff, 4), set_writable(0x8c, 0xffff'ffff, 4);
  set_writable(reg_gen_pmcon1, 0xffff'ffff, 4), set_writable(reg_gen_pmcon1 + 4, 0xffff'ffff, 4);
  set_writable(reg_rcba, 0xffff'c001, 4);
  auto bus = make_object<IsaBus>();
  isa_ = bus.get();
  isa_->wire(*ports_, *isa_memory_, *isa_irqs_);
  add_bus("isa.0", bus);
  reset_control_.init(*this, "lpc-reset-control");
  place(*ports_, 0xcf9, reset_control_.region, 1);

  pm_io_.init_container(this, "ich9-pm", 128);
  pm_.init_regions("acpi-gpe0");
  pm_.sci.connect(sci_call_, 0);
  smi_.init_io<&Ich9Lpc::smi_read, &Ich9Lpc::smi_write>(*this, "acpi-smi", 8, {.min = 4, .max = 4});
  pm_io_.add(pm_.events, 0x00), pm_io_.add(pm_.control, 0x04), pm_io_.add(pm_.timer, 0x08);
  pm_io_.add(pm_.gpe, 0x20), pm_io_.add(smi_, 0x30);
  pm_io_.set_enabled(false);
  place(*ports_, 0, pm_io_);
  apm_.init_io<&Ich9Lpc::apm_read, &Ich9Lpc::apm_write>(*this, "apm-io", 2, {.min = 1, .max = 1});
  place(*ports_, 0xb2, apm_);
  rcba_bytes_.assign(rcba_size, 0);
  reset_rcba();
  rcba_.init_io<&Ich9Lpc::rcba_read, &Ich9Lpc::rcba_write>(*this, "lpc-rcrb-mmio", rcba_size, {.min = 1, .max = 4});
  rcba_.set_enabled(false);
  place(*system_, 0, rcba_, 1);
  machine().run_state().on_powerdown([this] { pm_.press_power_button(); });
  machine().run_state().on_wakeup([this] { pm_.woken(); });
  return {};
}

// --- Interrupt routing

// DnIR registers of devices 25 to 31 (30, the PCI bridge, has none).
static constexpr u16 interrupt_route(unsigned device) {
  constexpr u16 at[7] = {0x3150, 0x314c, 0x3148, 0x3146, 0x3144, 0, 0x3140};
  return device >= 25 && device <= 31 ? at[device - 25] : u16{0};
}

void Ich9Lpc::reset_rcba() {
  std::ranges::fill(rcba_bytes_, u8{0});
  for (unsigned device = 25; device < 32; device++)
    if (const u16 at = interrupt_route(device)) store_le<u16>(&rcba_bytes_[at], 0x3210);
  store_le<u32>(&rcba_bytes_[0x3410], no_reboot_ ? 0x20 : 0);  // GCS
}

unsigned Ich9Lpc::pirq_of(unsigned device, unsigned pin) const {
  if (const u16 at = interrupt_route(device)) return load_le<u16>(&rcba_bytes_[at]) >> pin * 4 & 7;
  if (device == 30) return 4 + pin;
  return 4 + ((device + pin) & 3);
}

void Ich9Lpc::set_intx(unsigned line, unsigned device, bool level) {
  u16& count = pirq_[pirq_of(device, line)];
  count = static_cast<u16>(level ? count + 1 : count - (count > 0));
  route();
}

// Each PIRQ drives its own GSI, 16 and up, and by its routing register one of the 16 ISA lines.
void Ich9Lpc::route() {
  u32 wanted = 0;
  for (unsigned i = 0; i < 8; i++) {
    if (!pirq_[i]) continue;
    wanted |= 1u << (16 + i);
    const u8 r = config_[(i < 4 ? reg_pirq_a : reg_pirq_e - 4) + i];
    if (!(r & 0x80)) wanted |= 1u << (r & 15);
  }
  const u32 changed = wanted ^ levels_;
  levels_ = wanted;
  for (unsigned n = 0; n < 24; n++)
    if (changed >> n & 1) pirq_irqs_->set_input(n, wanted >> n & 1);
}

unsigned Ich9Lpc::sci_gsi() const {
  static constexpr u8 choices[8] = {9, 10, 11, 9, 20, 21, 20, 21};
  return choices[config_[reg_acpi_control] & 7];
}

void Ich9Lpc::sci_changed(unsigned, bool level) {
  sci_level_ = level;
  const unsigned line = sci_gsi();
  if (line != sci_line_) sci_irqs_->set_input(sci_line_, false);
  sci_line_ = line;
  sci_irqs_->set_input(line, level);
}

// --- Configuration

void Ich9Lpc::config_write(u16 offset, unsigned size, u32 value) {
  const u8 lock_before = config_[reg_gen_pmcon1] & 0x10;
  PciDevice::config_write(offset, size, value);
  config_[reg_gen_pmcon1] |= lock_before;  // SMI_LOCK stays until reset
  if (offset < reg_pirq_e + 4 && offset + size > reg_pirq_a) route();
  update_io();
  sci_changed(0, sci_level_);
}

void Ich9Lpc::update_io() {
  memory::Transaction transaction;
  pm_io_.set_address(load_le<u32>(&config_[reg_pmbase]) & 0xff80);
  pm_io_.set_enabled(config_[reg_acpi_control] & 0x80);
  const u32 base = load_le<u32>(&config_[reg_rcba]);
  rcba_.set_address(base & 0xffff'c000);
  rcba_.set_enabled(base & 1);
}

// --- SMI and APM

u64 Ich9Lpc::apm_read(u64 offset, unsigned) { return offset == 0 ? apm_command_ : apm_status_; }

void Ich9Lpc::apm_write(u64 offset, unsigned, u64 value) {
  if (offset == 1) {
    apm_status_ = static_cast<u8>(value);
    return;
  }
  apm_command_ = static_cast<u8>(value);
  if (apm_command_ == apm_acpi_enable || apm_command_ == apm_acpi_disable) pm_.set_acpi_enabled(apm_command_ == apm_acpi_enable);
  if ((smi_enable_ & smi_apmc) && smm_enabled_ && raise_smi) {
    smi_status_ |= smi_apmc;
    raise_smi(broadcast_);
  }
}

u64 Ich9Lpc::smi_read(u64 offset, unsigned) { return offset == 0 ? smi_enable_ : smi_status_; }

void Ich9Lpc::smi_write(u64 offset, unsigned, u64 value) {
  if (offset == 4) {
    smi_status_ &= ~static_cast<u32>(value);
    return;
  }
  u32 now = static_cast<u32>(value);
  if (config_[reg_gen_pmcon1] & 0x10) now = (now & ~u32{smi_global}) | (smi_enable_ & smi_global);  // locked
  smi_enable_ = now;
}

// --- Root complex registers

u64 Ich9Lpc::rcba_read(u64 offset, unsigned size) {
  u64 value = 0;
  for (unsigned i = 0; i < size; i++) value |= u64{rcba_bytes_[offset + i]} << i * 8;
  return value;
}

void Ich9Lpc::rcba_write(u64 offset, unsigned size, u64 value) {
  // Lines that are up move with their routing: taken down before, put up after.
  const bool routes = offset + size > 0x3140 && offset < 0x3152;
  if (routes && std::ranges::any_of(pirq_, [](u16 n) { return n != 0; })) {
    guest_error("ICH9-LPC", "interrupt routes changed while lines are up; ignored");
    return;
  }
  for (unsigned i = 0; i < size; i++) rcba_bytes_[offset + i] = static_cast<u8>(value >> i * 8);
}

// --- Reset

void Ich9Lpc::reset() {
  PciDevice::reset();
  pm_.reset();
  reset_control_.value = 0;
  reset_rcba();
  smi_enable_ = smm_enabled_ ? 0 : smi_apmc | smi_global;  // without SMM firmware must find "already set up"
  smi_status_ = 0;
  apm_command_ = apm_status_ = 0;
  broadcast_ = false;
}

void Ich9Lpc::settle() {
  PciDevice::settle();
  update_io();
  for (unsigned n = 0; n < 24; n++) pirq_irqs_->set_input(n, levels_ >> n & 1);
  route();
  pm_.settle();
}

}  // namespace vmm::hw
