// pc-testdev, what kvm-unit-tests drives interrupts and port accesses with: 16 bytes at e0h that read back as written at any size, 24 ports
// at 2000h that set a line each, a memory area at ff000000h that reads back with I/O semantics.
#include "hw/isa/isa.h"
#include "src/base/bits.h"

namespace vmm::hw {

class PcTestDevice final : public IsaDevice {
 public:
  static const TypeInfo type;

 private:
  Result<> realize() override;
  u64 port_read(u64, unsigned size) { return ioport_ & mask_of_size(size); }
  void port_write(u64, unsigned size, u64 value) {
    ioport_ = static_cast<u32>((ioport_ & ~mask_of_size(size)) | (value & mask_of_size(size)));
  }
  u64 byte_read(u64 at, unsigned) { return ioport_ >> (at & 3) * 8 & 0xff; }
  void byte_write(u64 at, unsigned, u64 value) {
    const unsigned shift = (at & 3) * 8;
    ioport_ = (ioport_ & ~(0xffu << shift)) | static_cast<u32>(value & 0xff) << shift;
  }
  u64 nothing_read(u64, unsigned) { return 0; }
  void flush_write(u64, unsigned, u64) {}  // QEMU's page for tests of lazy TLB flushes under KVM
  void line_write(u64 at, unsigned, u64 value) {
    if (at < 16) lines_[at].set(value != 0);
  }
  u64 memory_read(u64 at, unsigned size) {
    u64 value = 0;
    for (unsigned i = 0; i < size; i++) value |= u64{memory_[(at + i) % memory_.size()]} << 8 * i;
    return value;
  }
  void memory_write(u64 at, unsigned size, u64 value) {
    for (unsigned i = 0; i < size; i++) memory_[(at + i) % memory_.size()] = static_cast<u8>(value >> 8 * i);
  }
  static const Field state[];
  u32 ioport_ = 0;
  std::array<u8, 0x10000> memory_{};
  std::array<Irq, 16> lines_;
  memory::MemoryRegion port_, byte_port_, flush_, irq_ports_, area_;
};

constexpr Field PcTestDevice::state[] = {field<&PcTestDevice::ioport_>("ioport", "what was written")};
constinit const TypeInfo PcTestDevice::type{
    .name = "pc-testdev",
    .parent = &IsaDevice::type,
    .state = state,
    .make = make<PcTestDevice>,
    .category = "Misc devices",
};
static Registered registered{PcTestDevice::type};

Result<> PcTestDevice::realize() {
  port_.init_io<&PcTestDevice::port_read, &PcTestDevice::port_write>(*this, "pc-testdev-ioport", 4, {.min = 1, .max = 4});
  byte_port_.init_io<&PcTestDevice::byte_read, &PcTestDevice::byte_write>(*this, "pc-testdev-ioport-byte", 4, {.min = 1, .max = 1});
  flush_.init_io<&PcTestDevice::nothing_read, &PcTestDevice::flush_write>(*this, "pc-testdev-flush-page", 4);
  irq_ports_.init_io<&PcTestDevice::nothing_read, &PcTestDevice::line_write>(*this, "pc-testdev-irq-line", 24, {.min = 1, .max = 1});
  area_.init_io<&PcTestDevice::memory_read, &PcTestDevice::memory_write>(*this, "pc-testdev-iomem", memory_.size());
  map_ports(port_, 0xe0);
  map_ports(flush_, 0xe4);
  map_ports(byte_port_, 0xe8);
  map_ports(irq_ports_, 0x2000);
  place(isa().memory(), 0xff000000, area_);
  for (unsigned n = 0; n < lines_.size(); n++) {
    if (n == 2) continue;
    connect(lines_[n], n);
    TRY(map(lines_[n]));
  }
  return {};
}

}  // namespace vmm::hw
