// The board's interrupt lines in the hands of a test. The I/O APIC's inputs are the board's lines, whoever drives them.
#include "hw/machine/pc_board.h"

namespace vmm::hw {

Result<> PcBoard::intercept(Object& device, bool inputs, std::function<void(unsigned, bool)> told) {
  if (inputs) {
    if (&device != ioapic_.get()) return fail("inputs of '{}' cannot be heard: those of the I/O APIC can", device.type_info().name);
    gsi_.intercept = std::move(told);
    return {};
  }
  auto* d = object_cast<Device>(&device);
  if (!d || d->irqs().empty()) return fail("'{}' has no lines of its own", device.type_info().name);
  listener_ = std::make_unique<IrqCall>(std::move(told));
  for (usize n = 0; n < d->irqs().size(); n++) d->irqs()[n]->connect(*listener_, static_cast<unsigned>(n));
  return {};
}

Result<> PcBoard::set_input(Object& device, std::string_view, unsigned line, bool level) {
  if (&device != ioapic_.get()) return fail("inputs of '{}' cannot be set: those of the I/O APIC can", device.type_info().name);
  if (line >= IoApic::pin_count) return fail("there is no line {}", line);
  gsi_.set_input(line, level);
  return {};
}

}  // namespace vmm::hw
