// Bochs' and SeaBIOS's debug port: bytes written go to a chardev; a read tells that the port is there.
#include "hw/core/chardev_property.h"
#include "hw/isa/isa.h"

namespace vmm::hw {

class DebugConsole final : public IsaDevice, public CharFrontEnd {
 public:
  static const TypeInfo type;
  usize can_receive() override { return 0; }
  void receive(std::span<const u8>) override {}

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  u64 read(u64, unsigned) { return readback_; }
  void write(u64, unsigned, u64 value) {
    const u8 byte = static_cast<u8>(value);
    chardev_->write_all({&byte, 1});
  }
  static const Field properties[];
  u32 iobase_ = 0xe9, readback_ = 0xe9;
  Ref<Chardev> chardev_;
  memory::MemoryRegion port_;
};

constexpr Field DebugConsole::properties[] = {
    field<&DebugConsole::iobase_>("iobase", "I/O port.", {.max = 0xffff}),
    field<&DebugConsole::chardev_>("chardev", "ID of a chardev to use as a backend"),
    field<&DebugConsole::readback_>("readback", "What a read of the port gives."),
};
constinit const TypeInfo DebugConsole::type{
    .name = "isa-debugcon",
    .parent = &IsaDevice::type,
    .properties = properties,
    .make = make<DebugConsole>,
    .category = "Misc devices",
    .sample = "isa-debugcon,chardev=conformance",
};
static Registered registered{DebugConsole::type};

Result<> DebugConsole::realize() {
  if (!chardev_) return fail("Can't create debugcon device, empty char device");
  TRY(chardev_->attach(*this));
  port_.init_io<&DebugConsole::read, &DebugConsole::write>(*this, "isa-debugcon", 1, {.min = 1, .max = 1});
  map_ports(port_, static_cast<u16>(iobase_));
  return {};
}

Task<> DebugConsole::unrealize() {
  chardev_->detach(*this);
  co_return Result<>{};
}

}  // namespace vmm::hw
