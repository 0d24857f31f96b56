// A 16550A behind an I/O BAR.
#include "hw/char/uart.h"
#include "hw/pci/pci.h"

namespace vmm::hw {

class PciSerial final : public PciDevice {
 public:
  static const TypeInfo type;
  PciSerial() : PciDevice({.vendor = 0x1b36, .device = 0x0002, .revision = 1, .class_code = 0x070002}) {}
  void reset() override {
    PciDevice::reset();
    uart_.reset();
  }
  void settle() override {
    PciDevice::settle();
    uart_.settle();
  }

 private:
  Result<> realize_pci() override;
  Task<> unrealize_pci() override {
    uart_.unrealize();
    uart_.irq().disconnect();
    co_return Result<>{};
  }
  static const Field properties[], state[];
  u32 baud_base_ = 115200;
  u8 prog_if_ = 2;
  bool wakeup_ = false;
  Ref<Chardev> chardev_;
  Uart uart_{*this};
  IrqCall line_{[this](unsigned, bool level) { set_intx(level); }};
  memory::MemoryRegion ports_;
};

constexpr Field PciSerial::properties[] = {
    field<&PciSerial::chardev_>("chardev", "ID of a chardev to use as a backend"),
    field<&PciSerial::prog_if_>("prog_if", "Programming interface byte of the class code."),
    field<&PciSerial::baud_base_>("baudbase", "Baud rate at divisor 1.", {.min = 1}),
    field<&PciSerial::wakeup_>("wakeup", "Wake the machine when a character arrives."),
};
constexpr Field PciSerial::state[] = {field<&PciSerial::uart_>("uart", "registers and FIFOs")};
constinit const TypeInfo PciSerial::type{
    .name = "pci-serial",
    .parent = &PciDevice::type,
    .properties = properties,
    .state = state,
    .make = make<PciSerial>,
    .category = "Input devices",
};
static Registered registered{PciSerial::type};

Result<> PciSerial::realize_pci() {
  uart_.set_base_hz(baud_base_);
  TRY(uart_.realize(chardev_));
  set_config(0x09, prog_if_, 1);
  set_interrupt_pin(1);
  uart_.irq().connect(line_, 0);
  ports_.init_io(this, "serial", 8, memory::MemoryRegion::member_ops<&Uart::read, &Uart::write, Uart>(), &uart_, {.min = 1, .max = 1});
  add_bar(0, PciBarKind::io, ports_);
  return {};
}

}  // namespace vmm::hw
