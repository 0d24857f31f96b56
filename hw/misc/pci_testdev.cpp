// pci-testdev, what kvm-unit-tests measures port and memory accesses with (docs/specs/pci-testdev of QEMU): the guest writes a test number
// to byte 0 of a BAR, reads where and what to write, and counts what arrived.
#include "hw/pci/pci.h"
#include "src/base/bits.h"

namespace vmm::hw {

class PciTestDevice final : public PciDevice {
 public:
  static const TypeInfo type;
  PciTestDevice() : PciDevice({.vendor = 0x1b36, .device = 0x0005, .class_code = 0x00ff00}) {}
  void reset() override {
    PciDevice::reset();
    selected_ = -1;
    count_ = 0;
  }

 private:
  static constexpr u32 memory_half = 2048, io_half = 128;
  static constexpr u8 match_byte = 0xfa;
  static constexpr std::string_view names[6] = {"mmio-no-eventfd",   "mmio-wildcard-eventfd",   "mmio-datamatch-eventfd",
                                                "portio-no-eventfd", "portio-wildcard-eventfd", "portio-datamatch-eventfd"};
  Result<> realize_pci() override;
  // The header of the selected test: test, width, two bytes, offset, data, count, name.
  u8 header_byte(u64 at, bool memory) const;
  u64 read_header(u64 offset, unsigned size, bool memory) const {
    u64 value = 0;
    for (unsigned i = 0; i < size; i++) value |= u64{header_byte(offset + i, memory)} << 8 * i;
    return value;
  }
  void write_at(u64 offset, unsigned size, u64 value, bool memory);
  u64 memory_read(u64 offset, unsigned size) { return read_header(offset, size, true); }
  void memory_write(u64 offset, unsigned size, u64 value) { write_at(offset, size, value, true); }
  u64 io_read(u64 offset, unsigned size) { return read_header(offset, size, false); }
  void io_write(u64 offset, unsigned size, u64 value) { write_at(offset, size, value, false); }
  bool selected_here(bool memory) const { return selected_ >= 0 && (selected_ < 3) == memory; }
  static const Field properties[], state[];

  Bytes64 membar_;
  i32 selected_ = -1;
  u32 count_ = 0;
  memory::MemoryRegion memory_region_, io_region_, membar_region_;
};

constexpr Field PciTestDevice::properties[] = {
    field<&PciTestDevice::membar_>("membar", "Size of a memory BAR without contents; 0 for none.")};
constexpr Field PciTestDevice::state[] = {
    field<&PciTestDevice::selected_>("test", "selected test, -1 for none", {.min = -1, .max = 5}),
    field<&PciTestDevice::count_>("count", "writes that counted"),
};
constinit const TypeInfo PciTestDevice::type{
    .name = "pci-testdev",
    .doc = "PCI Test Device",
    .parent = &PciDevice::type,
    .properties = properties,
    .state = state,
    .make = make<PciTestDevice>,
    .category = "Misc devices",
};
static Registered registered{PciTestDevice::type};

Result<> PciTestDevice::realize_pci() {
  memory_region_.init_io<&PciTestDevice::memory_read, &PciTestDevice::memory_write>(*this, "pci-testdev-mmio", memory_half * 2);
  io_region_.init_io<&PciTestDevice::io_read, &PciTestDevice::io_write>(*this, "pci-testdev-portio", io_half * 2);
  add_bar(0, PciBarKind::memory32, memory_region_);
  add_bar(1, PciBarKind::io, io_region_);
  if (membar_.value) {
    const u64 size = std::bit_ceil(std::max<u64>(membar_.value, 4096));
    if (membar_.value > u64{1} << 46) return fail("'membar' takes at most 64T, not {}", membar_.value);
    membar_region_.init_container(this, "pci-testdev-membar", size);
    add_bar(2, PciBarKind::memory64_prefetch, membar_region_);
  }
  return {};
}

u8 PciTestDevice::header_byte(u64 at, bool memory) const {
  if (!selected_here(memory)) return 0;
  const u32 offset = memory ? memory_half : io_half;
  const std::string_view name = names[selected_];
  const auto byte_of = [&](u32 word) { return static_cast<u8>(word >> 8 * (at & 3)); };
  switch (at / 4) {
    case 0: return at == 0 ? static_cast<u8>(selected_ % 3) : at == 1 ? 1 : 0;
    case 1: return byte_of(offset);
    case 2: return byte_of(match_byte);
    case 3: return byte_of(count_);
    default: return at - 16 < name.size() ? static_cast<u8>(name[at - 16]) : 0;
  }
}

void PciTestDevice::write_at(u64 offset, unsigned size, u64 value, bool memory) {
  if (offset == 0) {
    count_ = 0;
    selected_ = (value & 0xff) < 3 ? static_cast<i32>(value & 0xff) + (memory ? 0 : 3) : -1;
    return;
  }
  if (!selected_here(memory) || size != 1 || offset != (memory ? memory_half : io_half)) return;
  if (selected_ % 3 == 2 && (value & 0xff) != match_byte) return;
  count_++;
}

}  // namespace vmm::hw
