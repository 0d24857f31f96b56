// isa-debug-exit: a guest's write of V ends the emulator with status V * 2 + 1.
#include "hw/isa/isa.h"

namespace vmm::hw {

class DebugExit final : public IsaDevice {
 public:
  static const TypeInfo type;

 private:
  Result<> realize() override {
    port_.init_io<&DebugExit::read, &DebugExit::write>(*this, "isa-debug-exit", iosize_, {.min = 1, .max = 4});
    map_ports(port_, static_cast<u16>(iobase_));
    return {};
  }
  u64 read(u64, unsigned) { return 0; }
  void write(u64, unsigned, u64 value) {
    machine().run_state().request_shutdown(vm::Cause::guest_shutdown, static_cast<int>((value << 1 | 1) & 0xff));
  }
  static const Field properties[];
  u32 iobase_ = 0x501, iosize_ = 2;
  memory::MemoryRegion port_;
};

constexpr Field DebugExit::properties[] = {
    field<&DebugExit::iobase_>("iobase", "First I/O port.", {.max = 0xffff}),
    field<&DebugExit::iosize_>("iosize", "Number of ports.", {.min = 1, .max = 8}),
};
constinit const TypeInfo DebugExit::type{
    .name = "isa-debug-exit",
    .parent = &IsaDevice::type,
    .properties = properties,
    .make = make<DebugExit>,
    .category = "Misc devices",
};
static Registered registered{DebugExit::type};

}  // namespace vmm::hw
