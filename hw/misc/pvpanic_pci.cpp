// pvpanic as a PCI function: the same event byte in a memory BAR.
#include "hw/misc/pvpanic.h"
#include "hw/pci/pci.h"

namespace vmm::hw {

class PvPanicPci final : public PciDevice {
 public:
  static const TypeInfo type;
  PvPanicPci() : PciDevice({.vendor = 0x1b36, .device = 0x0011, .revision = 1, .class_code = 0x088000}) {}

 private:
  Result<> realize_pci() override {
    region_.init_io<&PvPanicPci::read, &PvPanicPci::write>(*this, "pvpanic", 16, {.min = 1, .max = 1});
    add_bar(0, PciBarKind::memory32, region_);
    return {};
  }
  u64 read(u64 offset, unsigned) { return offset == 0 ? events_ : 0; }
  void write(u64 offset, unsigned, u64 value) {
    if (offset == 0) pvpanic_written(*this, static_cast<u8>(value));
  }
  static const Field properties[];
  u8 events_ = pvpanic_panicked | pvpanic_crash_loaded;
  memory::MemoryRegion region_;
};

constexpr Field PvPanicPci::properties[] = {field<&PvPanicPci::events_>("events", "Events that the guest is told of.")};
constinit const TypeInfo PvPanicPci::type{
    .name = "pvpanic-pci",
    .parent = &PciDevice::type,
    .properties = properties,
    .make = make<PvPanicPci>,
    .category = "Misc devices",
};
static Registered registered{PvPanicPci::type};

}  // namespace vmm::hw
