// piix3-ide: the IDE function of the PIIX3. Source: Intel 82371SB data sheet, §§2.4–2.5 and 5. Timing registers are kept and have no
// effect; both channels always decode their legacy ports.
#include "hw/storage/piix_ide.h"
#include "hw/pci/pci.h"
#include "hw/storage/ide_channel.h"
#include "src/base/bits.h"

namespace vmm::hw {

class PiixIdeFunction final : public PiixIde {
 public:
  static const TypeInfo type;
  void wire(memory::MemoryRegion& ports, IrqSink& lines) override { ports_ = &ports, lines_ = &lines; }
  void reset() override {
    PciDevice::reset();
    for (IdeChannel& c : channels_) c.reset();
  }
  void settle() override {
    PciDevice::settle();
    for (IdeChannel& c : channels_) c.settle();
  }
  Result<> after_load() override {
    for (const IdeChannel& c : channels_) TRY(c.loaded());
    return {};
  }

 private:
  static const Field state[];
  Result<> realize_pci() override;
  u64 master_read(u64 at, unsigned size) { return channels_[at >> 3 & 1].master_read(at & 7, size); }
  void master_write(u64 at, unsigned size, u64 value) { channels_[at >> 3 & 1].master_write(at & 7, size, value); }
  template <unsigned N>
  std::vector<u64> words() const {
    return channels_[N].words();
  }
  template <unsigned N>
  Result<> set_words(const std::vector<u64>& w) {
    return channels_[N].set_words(w);
  }
  template <unsigned N>
  std::vector<u8> bytes() const {
    return channels_[N].bytes();
  }
  template <unsigned N>
  Result<> set_bytes(const std::vector<u8>& b) {
    return channels_[N].set_bytes(b);
  }
  memory::MemoryRegion* ports_ = nullptr;
  IrqSink* lines_ = nullptr;
  std::array<IdeChannel, 2> channels_;
  WhenRunning when_running_;
  memory::MemoryRegion master_;
};

constexpr Field PiixIdeFunction::state[] = {
    computed<&PiixIdeFunction::words<0>, &PiixIdeFunction::set_words<0>>("channel0", "registers of the first channel"),
    computed<&PiixIdeFunction::bytes<0>, &PiixIdeFunction::set_bytes<0>>("data0", "bytes under way on the first channel"),
    computed<&PiixIdeFunction::words<1>, &PiixIdeFunction::set_words<1>>("channel1", "registers of the second channel"),
    computed<&PiixIdeFunction::bytes<1>, &PiixIdeFunction::set_bytes<1>>("data1", "bytes under way on the second channel"),
};
constinit const TypeInfo PiixIde::type{.name = "pci-ide", .doc = "An IDE function with two channels.", .parent = &PciDevice::type};
constinit const TypeInfo PiixIdeFunction::type{
    .name = "piix3-ide",
    .doc = "The PIIX3's IDE function.",
    .parent = &PiixIde::type,
    .state = state,
    .make = make<PiixIdeFunction>,
    .category = "Storage devices",
    .user_creatable = false,
};
static Registered registered_base{PiixIde::type};
static Registered registered{PiixIdeFunction::type};

PiixIde::PiixIde() : PciDevice({.vendor = 0x8086, .device = 0x7010, .class_code = 0x010180}) {}

Ref<PiixIde> make_piix3_ide() { return make_object<PiixIdeFunction>(); }

Result<> PiixIdeFunction::realize_pci() {
  // Timing registers; bit 15 of each channel's says that its ports decode.
  set_writable(0x40, 0xffff'ffff, 4);
  set_writable(0x44, 0xff, 1);
  master_.init_io<&PiixIdeFunction::master_read, &PiixIdeFunction::master_write>(*this, "piix-bmdma", 16, {.min = 1, .max = 4});
  add_bar(4, PciBarKind::io, master_);
  when_running_.start(machine(), [this] {
    for (IdeChannel& c : channels_) c.go_on();
  });
  constexpr u16 bases[] = {0x1f0, 0x170}, lines[] = {14, 15};
  for (unsigned n = 0; n < 2; n++) {
    IdeChannel& c = channels_[n];
    c.init(*this, id().empty() ? format("ide.{}", n) : format("{}.{}", id(), n), n,
           [this]() -> memory::AddressSpace* { return bus_master() ? &dma_space() : nullptr; });
    if (!ports_) continue;
    place(*ports_, bases[n], c.command_ports);
    place(*ports_, bases[n] + 0x206, c.control_port);
    c.irq.connect(*lines_, lines[n]);
  }
  return {};
}

}  // namespace vmm::hw
