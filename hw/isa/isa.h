// The ISA bus: I/O ports, 16 interrupt lines, DMA channels.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

class IsaBus final : public Bus {
 public:
  static const TypeInfo type;
  std::string_view bus_type() const override { return "ISA"; }
  // The board: where ports and memory are, and the 16 inputs.
  void wire(memory::MemoryRegion& ports, memory::MemoryRegion& memory, IrqSink& lines) {
    ports_ = &ports, memory_ = &memory, lines_ = &lines;
  }
  memory::MemoryRegion& ports() { return *ports_; }
  memory::MemoryRegion& memory() { return *memory_; }
  void connect(Irq& irq, unsigned line) { irq.connect(*lines_, line); }

 private:
  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion* memory_ = nullptr;
  IrqSink* lines_ = nullptr;
};

class IsaDevice : public Device {
 public:
  static const TypeInfo type;
  IsaBus& isa() const { return static_cast<IsaBus&>(*bus()); }

 protected:
  // In realize(): ports at `at`, taken away at unrealize.
  void map_ports(memory::MemoryRegion& region, u16 at, int priority = 0) { place(isa().ports(), at, region, priority); }
  void connect(Irq& irq, unsigned line) { isa().connect(irq, line); }
};

}  // namespace vmm::hw
