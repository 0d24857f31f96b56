// The ISA bus: I/O ports, 16 interrupt lines, DMA channels.
#pragma once

#include "hw/core/device.h"

namespace vmm::hw {

// A controller of DMA channels, as its devices use it.
class IsaDma {
 public:
  virtual ~IsaDma() = default;
  // A device on one of its four channels. `ready` is called when the guest unmasks the channel while DREQ is up.
  virtual void connect(unsigned channel, std::function<void()> ready) = 0;
  virtual void set_request(unsigned channel, bool level) = 0;
  // Device to memory, memory to device: moves at most the programmed count and returns how many bytes went. Nothing while masked.
  // `terminal` becomes true when that was the last of the programmed count.
  virtual usize write_memory(unsigned channel, std::span<const u8> from, bool* terminal = nullptr) = 0;
  virtual usize read_memory(unsigned channel, std::span<u8> into, bool* terminal = nullptr) = 0;
};

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
  // The controllers of 8-bit (0) and 16-bit channels (1); null where there is none.
  IsaDma* dma(unsigned controller) const { return dma_[controller & 1]; }
  void set_dma(unsigned controller, IsaDma* dma) { dma_[controller & 1] = dma; }

 private:
  memory::MemoryRegion* ports_ = nullptr;
  memory::MemoryRegion* memory_ = nullptr;
  IrqSink* lines_ = nullptr;
  std::array<IsaDma*, 2> dma_{};
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
