// LPT1 to LPT3: a parallel port whose bytes go to a chardev at the strobe. Source: IBM PC Technical Reference, "Printer adapter".
// Ports 378, 278, 3bc; the EPP and ECP registers behind them are not there.
#include "hw/core/chardev_property.h"
#include "hw/isa/isa.h"

namespace vmm::hw {

class IsaParallel final : public IsaDevice, public CharFrontEnd {
 public:
  static const TypeInfo type;
  void reset() override { data_ = 0, control_ = 0x0c, acknowledged_ = false; }
  void settle() override { update_irq(); }
  usize can_receive() override { return 0; }
  void receive(std::span<const u8>) override {}

 private:
  enum Control : u8 { strobe = 1, auto_feed = 2, not_init = 4, select = 8, interrupt = 0x10 };
  Result<> realize() override;
  Task<> unrealize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void update_irq() { irq_.set(acknowledged_ && control_ & interrupt); }
  static const Field properties[], state[];
  static constexpr u32 unset = 0xffff'ffff;
  u32 index_ = unset, iobase_ = unset, irq_line_ = 7;
  Ref<Chardev> chardev_;
  u8 data_ = 0, control_ = 0x0c;
  bool acknowledged_ = false;
  memory::MemoryRegion ports_;
  Irq irq_;
};

constexpr Field IsaParallel::properties[] = {
    field<&IsaParallel::index_>("index", "0 for LPT1 to 2 for LPT3; by default the first that is free."),
    field<&IsaParallel::iobase_>("iobase", "First of eight I/O ports; by default that of `index`."),
    field<&IsaParallel::irq_line_>("irq", "ISA interrupt line.", {.max = 15}),
    field<&IsaParallel::chardev_>("chardev", "ID of a chardev to use as a backend"),
};
constexpr Field IsaParallel::state[] = {
    field<&IsaParallel::data_>("dataw", "data latch"),
    field<&IsaParallel::control_>("control", "control latch"),
    field<&IsaParallel::acknowledged_>("irq_pending", "the printer has taken a byte"),
};
constinit const TypeInfo IsaParallel::type{
    .name = "isa-parallel",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<IsaParallel>,
    .category = "Input devices",
    .sample = "isa-parallel,chardev=conformance",
};
static Registered registered{IsaParallel::type};

Result<> IsaParallel::realize() {
  static constexpr u16 default_ports[3] = {0x378, 0x278, 0x3bc};
  if (!chardev_) return fail("Can't create parallel device, empty char device");
  u32 index = index_;
  if (index == unset) {
    index = 0;
    for (const auto* d : isa().devices())
      if (const auto* other = dynamic_cast<const IsaParallel*>(d); other && other != this && other->index_ != unset)
        index = std::max(index, other->index_ + 1);
  }
  if (index >= 3) return fail("Max. supported number of parallel ports is 3.");
  const u32 iobase = iobase_ == unset ? default_ports[index] : iobase_;
  if (iobase > 0xfff8) return fail("'iobase' takes 0 to 65528, not {}", iobase);
  TRY(chardev_->attach(*this));
  index_ = index, iobase_ = iobase;
  ports_.init_io<&IsaParallel::read, &IsaParallel::write>(*this, "parallel", 8, {.min = 1, .max = 1});
  map_ports(ports_, static_cast<u16>(iobase_));
  connect(irq_, irq_line_);
  return map(irq_);
}

Task<> IsaParallel::unrealize() {
  chardev_->detach(*this);
  co_return Result<>{};
}

u64 IsaParallel::read(u64 offset, unsigned) {
  switch (offset) {
    case 0: return data_;
    case 1: {  // not busy, acknowledge high, no paper fault, selected, no error; bit 2 is the interrupt, low while it is pending
      const u8 value = 0xdb | (acknowledged_ ? 0 : 4);
      acknowledged_ = false;
      update_irq();
      return value;
    }
    case 2: return 0xc0 | control_;
    default: return 0xff;
  }
}

void IsaParallel::write(u64 offset, unsigned, u64 value) {
  if (offset == 0) {
    data_ = static_cast<u8>(value);
  } else if (offset == 2) {
    const u8 before = control_;
    control_ = value & 0x3f;
    if (control_ & not_init && ~before & strobe && control_ & strobe) {
      chardev_->write_all({&data_, 1});
    } else if (before & strobe && !(control_ & strobe) && control_ & not_init) {
      acknowledged_ = true;
    }
    if (!(control_ & interrupt)) acknowledged_ = false;
    update_irq();
  }
}

}  // namespace vmm::hw
