// COM1 to COM4: a 16550A on the ISA bus. Ports and interrupts as on every PC: 3f8/4, 2f8/3, 3e8/4, 2e8/3.
#include "hw/char/uart.h"
#include "hw/isa/isa.h"

namespace vmm::hw {

class IsaSerial final : public IsaDevice {
 public:
  static const TypeInfo type;
  void reset() override { uart_.reset(); }
  void settle() override { uart_.settle(); }

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  static const Field properties[], state[];
  static constexpr u32 unset = 0xffff'ffff;
  u32 index_ = unset, iobase_ = unset, irq_line_ = unset, baud_base_ = 115200;
  bool wakeup_ = false;
  Ref<Chardev> chardev_;
  Uart uart_{*this};
  memory::MemoryRegion ports_;
};

constexpr Field IsaSerial::properties[] = {
    field<&IsaSerial::index_>("index", "0 for COM1 to 3 for COM4; by default the first that is free."),
    field<&IsaSerial::iobase_>("iobase", "First of eight I/O ports; by default that of `index`."),
    field<&IsaSerial::irq_line_>("irq", "ISA interrupt line; by default that of `index`."),
    field<&IsaSerial::chardev_>("chardev", "ID of a chardev to use as a backend"),
    field<&IsaSerial::baud_base_>("baudbase", "Baud rate at divisor 1.", {.min = 1}),
    field<&IsaSerial::wakeup_>("wakeup", "Wake the machine when a character arrives."),
};
constexpr Field IsaSerial::state[] = {field<&IsaSerial::uart_>("uart", "registers and FIFOs")};
constinit const TypeInfo IsaSerial::type{
    .name = "isa-serial",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<IsaSerial>,
    .category = "Input devices",
};
static Registered registered{IsaSerial::type};

Result<> IsaSerial::realize() {
  static constexpr u16 default_ports[4] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
  static constexpr u8 default_lines[4] = {4, 3, 4, 3};
  u32 index = index_;
  if (index == unset) {
    index = 0;
    for (const auto* d : isa().devices())
      if (const auto* other = dynamic_cast<const IsaSerial*>(d); other && other != this && other->index_ != unset)
        index = std::max(index, other->index_ + 1);
  }
  if (index >= 4) return fail("Max. supported number of ISA serial ports is 4.");
  const u32 iobase = iobase_ == unset ? default_ports[index] : iobase_;
  const u32 line = irq_line_ == unset ? default_lines[index] : irq_line_;
  if (iobase > 0xfff8) return fail("'iobase' takes 0 to 65528, not {}", iobase);
  if (line > 15) return fail("'irq' takes 0 to 15, not {}", line);
  uart_.set_base_hz(baud_base_);
  TRY(uart_.realize(chardev_));
  index_ = index, iobase_ = iobase, irq_line_ = line;
  ports_.init_io(this, "serial", 8, memory::MemoryRegion::member_ops<&Uart::read, &Uart::write, Uart>(), &uart_, {.min = 1, .max = 1});
  map_ports(ports_, static_cast<u16>(iobase_));
  connect(uart_.irq(), irq_line_);
  return map(uart_.irq());
}

Task<> IsaSerial::unrealize() {
  uart_.unrealize();
  co_return Result<>{};
}

}  // namespace vmm::hw
