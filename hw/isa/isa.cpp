// The ISA bus and what its devices share.
#include "hw/isa/isa.h"

namespace vmm::hw {

constinit const TypeInfo IsaBus::type{
    .name = "ISA", .doc = "Industry Standard Architecture bus.", .parent = &Bus::type, .make = make<IsaBus>, .user_creatable = false};
constinit const TypeInfo IsaDevice::type{.name = "isa-device", .doc = "A device on the ISA bus.", .parent = &Device::type, .bus = "ISA"};
static Registered registered_bus{IsaBus::type};
static Registered registered_device{IsaDevice::type};

}  // namespace vmm::hw
