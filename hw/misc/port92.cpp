// Port 92h. Bits: 0 fast reset (a rising edge resets), 1 A20.
#include "hw/misc/port92.h"

namespace vmm::hw {

constexpr Field Port92::state[] = {field<&Port92::value_>("outport", "last value written")};
constinit const TypeInfo Port92::type{
    .name = "port92",
    .doc = "System control port A: fast A20 and reset.",
    .parent = &IsaDevice::type,
    .state = state,
    .make = make<Port92>,
    .user_creatable = false,
};
static Registered registered{Port92::type};

Result<> Port92::realize() {
  port_.init_io<&Port92::read, &Port92::write>(*this, "port92", 1, {.min = 1, .max = 1});
  map_ports(port_, 0x92);
  return map(a20_);
}

void Port92::reset() { value_ &= ~1; }

u64 Port92::read(u64, unsigned) { return value_; }

void Port92::write(u64, unsigned, u64 value) {
  const u8 before = value_;
  value_ = static_cast<u8>(value);
  a20_.set(value_ & 2);
  if (value_ & 1 && !(before & 1)) machine().run_state().request_reset(vm::Cause::guest_reset);
}

}  // namespace vmm::hw
