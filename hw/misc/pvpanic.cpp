// pvpanic on the ISA bus (port 505h).
#include "hw/misc/pvpanic.h"

#include "hw/isa/isa.h"
#include "src/base/log.h"
#include "src/control/command.h"

namespace vmm::hw {

namespace {
constexpr control::EventInfo crash_loaded{.name = "GUEST_CRASHLOADED", .doc = "The guest has panicked and its crash kernel takes over."};
control::RegisteredEvent registered_event{crash_loaded};
}  // namespace

void pvpanic_written(Device& device, u8 events) {
  if (events & ~(pvpanic_panicked | pvpanic_crash_loaded)) guest_error(device.type_info().name, "unknown events {:#x}", events);
  if (events & pvpanic_panicked) return device.machine().run_state().guest_panicked({});
  if (events & pvpanic_crash_loaded) {
    Value data = Value::object();
    data.set("action", "run");
    control::emit(crash_loaded, std::move(data));
  }
}

class PvPanic final : public IsaDevice {
 public:
  static const TypeInfo type;

 private:
  Result<> realize() override {
    port_.init_io<&PvPanic::read, &PvPanic::write>(*this, "pvpanic", 1, {.min = 1, .max = 1});
    map_ports(port_, ioport_);
    return {};
  }
  u64 read(u64, unsigned) { return events_; }
  void write(u64, unsigned, u64 value) { pvpanic_written(*this, static_cast<u8>(value)); }
  static const Field properties[];
  u16 ioport_ = 0x505;
  u8 events_ = pvpanic_panicked | pvpanic_crash_loaded;
  memory::MemoryRegion port_;
};

constexpr Field PvPanic::properties[] = {
    field<&PvPanic::ioport_>("ioport", "I/O port."),
    field<&PvPanic::events_>("events", "Events that the guest is told of."),
};
constinit const TypeInfo PvPanic::type{
    .name = "pvpanic",
    .parent = &IsaDevice::type,
    .properties = properties,
    .make = make<PvPanic>,
    .category = "Misc devices",
};
static Registered registered{PvPanic::type};

}  // namespace vmm::hw
