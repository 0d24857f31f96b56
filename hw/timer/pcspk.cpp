// Port 61h. Bits: 0 gate of channel 2, 1 speaker data, 4 refresh toggle (changes with each read), 5 OUT of channel 2. No sound is made.
#include "hw/timer/pcspk.h"

namespace vmm::hw {

constexpr Field PcSpeaker::properties[] = {
    field<&PcSpeaker::audiodev_>("audiodev", "ID of an audiodev to use as a backend"),
    field<&PcSpeaker::iobase_>("iobase", "I/O port.", {.max = 0xffff}),
    field<&PcSpeaker::migrate_>("migrate", "Taken for compatibility; without effect."),
};
constexpr Field PcSpeaker::state[] = {
    field<&PcSpeaker::data_on_>("data_on", "speaker data"),
    field<&PcSpeaker::refresh_>("dummy_refresh_clock", "refresh toggle"),
};
constinit const TypeInfo PcSpeaker::type{
    .name = "isa-pcspk",
    .doc = "PC speaker and system control port B.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<PcSpeaker>,
    .user_creatable = false,
};
static Registered registered{PcSpeaker::type};

Result<> PcSpeaker::realize() {
  port_.init_io<&PcSpeaker::read, &PcSpeaker::write>(*this, "pcspk", 1, {.min = 1, .max = 1});
  map_ports(port_, static_cast<u16>(iobase_));
  return {};
}

void PcSpeaker::reset() { data_on_ = refresh_ = false; }

u64 PcSpeaker::read(u64, unsigned) {
  refresh_ = !refresh_;
  const bool gate = pit_ && pit_->gate(2), out = pit_ && pit_->output(2);
  return gate | data_on_ << 1 | refresh_ << 4 | out << 5;
}

void PcSpeaker::write(u64, unsigned, u64 value) {
  data_on_ = value & 2;
  if (pit_) pit_->set_gate(2, value & 1);
}

}  // namespace vmm::hw
