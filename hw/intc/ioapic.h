// The I/O APIC: 24 pins, each a redirection entry that becomes an APIC message. Source: Intel 82093AA. Machine lock held.
#pragma once

#include "hw/core/device.h"
#include "hw/intc/apic.h"

namespace vmm::hw {

class IoApic final : public Device, public IrqSink, public EoiListener {
 public:
  static const TypeInfo type;                           // "ioapic", property version
  void wire(ApicFabric& fabric) { fabric_ = &fabric; }  // before attach
  memory::MemoryRegion& region() { return region_; }    // 4 KiB, the board places it at 0xfec00000
  // GSI n; line 0 (the PIT) arrives on pin 2, as on every PC.
  void set_input(unsigned line, bool level) override;
  void end_of_interrupt(u8 vector) override;

  void reset() override;
  void settle() override;
  void before_save() override { pull(); }
  Result<> after_load() override;
  std::string describe() const override;  // `info pic`

  static constexpr unsigned pin_count = 24;

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u32 indirect_read();
  void indirect_write(u32 value);
  void service();
  // With the accelerator's twin (src/vm/irqchip.h): all of it, or the local APICs only.
  vm::Irqchip* kernel() const { return fabric_ ? fabric_->kernel() : nullptr; }
  vm::Irqchip* twin() const { return kernel() && kernel()->full() ? kernel() : nullptr; }
  void pull();
  void push() const;
  void tell(unsigned pin) const;
  static const Field properties[], state[];

  u8 version_ = 0x20;
  ApicFabric* fabric_ = nullptr;
  u8 id_ = 0, select_ = 0;
  u32 irr_ = 0, levels_ = 0;  // irr_: requests not yet sent; levels_: pins
  std::array<u64, pin_count> redirection_{};
  memory::MemoryRegion region_;
};

}  // namespace vmm::hw
