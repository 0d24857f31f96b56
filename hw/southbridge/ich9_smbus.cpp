// ICH9-SMB: the ICH9's SMBus host controller, with nothing on its bus: every transfer ends with a device error, as on a board whose slaves
// do not answer. Source: Intel ICH9 data sheet 316972, §§19.1–19.2. Not modelled: the slave interface, packet error codes.
#include "hw/pci/pci.h"

namespace vmm::hw {

namespace {
enum Status : u8 { finished = 0x02, device_error = 0x04, failed = 0x10, in_use = 0x40 };
enum Control : u8 { interrupts = 0x01, kill = 0x02, start = 0x40 };
}  // namespace

class Ich9Smbus final : public PciDevice {
 public:
  static const TypeInfo type;
  Ich9Smbus() : PciDevice({.vendor = 0x8086, .device = 0x2930, .revision = 2, .class_code = 0x0c0500}) { set_multifunction(true); }
  void reset() override {
    PciDevice::reset();
    registers_ = {};
  }
  void settle() override {
    PciDevice::settle();
    update_line();
  }

 private:
  static const Field state[];
  Result<> realize_pci() override {
    set_interrupt_pin(1);
    set_writable(0x40, 0x0f, 1);  // host configuration: SMBus, SMI and I2C enables
    io_.init_io<&Ich9Smbus::read, &Ich9Smbus::write>(*this, "pm-smbus", 64, {.min = 1, .max = 1});
    add_bar(4, PciBarKind::io, io_);
    return {};
  }
  u8& status() { return registers_[0]; }
  u8& control() { return registers_[2]; }
  void update_line() { set_intx((control() & interrupts) && (status() & (finished | device_error | failed))); }
  u64 read(u64 at, unsigned) {
    if (at >= registers_.size()) return 0;
    const u8 value = registers_[at];
    if (at == 0) status() |= in_use;  // reading takes the semaphore
    return at == 2 ? value & ~start : value;
  }
  void write(u64 at, unsigned, u64 value) {
    if (at >= registers_.size()) return;
    const u8 v = static_cast<u8>(value);
    if (at == 0) {
      status() &= static_cast<u8>(~v);  // ones clear
    } else {
      registers_[at] = v;
      if (at == 2 && (v & kill)) status() |= failed;
      if (at == 2 && (v & start) && !(v & kill)) status() |= device_error;
    }
    update_line();
  }
  memory::MemoryRegion io_;
  std::array<u8, 16> registers_{};
  std::vector<u8> saved() const { return {registers_.begin(), registers_.end()}; }
  Result<> load_registers(const std::vector<u8>& bytes) {
    if (bytes.size() != registers_.size()) return fail("{} registers of an SMBus controller, {} are due", bytes.size(), registers_.size());
    std::ranges::copy(bytes, registers_.begin());
    return {};
  }
};

constexpr Field Ich9Smbus::state[] = {computed<&Ich9Smbus::saved, &Ich9Smbus::load_registers>("registers", "host controller registers")};
constinit const TypeInfo Ich9Smbus::type{
    .name = "ICH9-SMB",
    .doc = "The ICH9's SMBus host controller.",
    .parent = &PciDevice::type,
    .state = state,
    .make = make<Ich9Smbus>,
    .category = "Misc devices",
    .user_creatable = false,
};
static Registered registered{Ich9Smbus::type};

}  // namespace vmm::hw
