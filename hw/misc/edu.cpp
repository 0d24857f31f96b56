// The educational device of QEMU's documentation (docs/specs/edu): a factorial engine, a small DMA buffer, INTx and MSI.
#include <algorithm>

#include "hw/pci/pci.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

class Edu final : public PciDevice {
 public:
  static const TypeInfo type;
  Edu() : PciDevice({.vendor = 0x1234, .device = 0x11e8, .revision = 0x10, .class_code = 0x00ff00}) {}
  void reset() override;
  void settle() override;
  Result<> after_load() override { return check_dma(), Result<>{}; }

 private:
  static constexpr u64 buffer_at = 0x40000, buffer_bytes = 4096;
  enum Status : u32 { computing = 1, interrupt_when_done = 0x80 };
  enum DmaCommand : u64 { dma_run = 1, dma_to_memory = 2, dma_interrupt = 4 };
  static constexpr u32 factorial_interrupt = 1, dma_interrupt_bit = 0x100;

  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  void raise(u32 bits);
  void computed_factorial();
  void moved();
  void check_dma() {
    if (!(dma_command_ & dma_run)) move_timer_.cancel();
  }
  static const Field properties[], state[];

  u64 dma_mask_ = (u64{1} << 28) - 1;
  u32 check_ = 0, factorial_ = 0, status_ = 0, interrupts_ = 0;
  u64 dma_source_ = 0, dma_destination_ = 0, dma_count_ = 0, dma_command_ = 0;
  std::array<u8, buffer_bytes> buffer_{};
  Timer factorial_timer_{Clock::guest, on<&Edu::computed_factorial>, *this};
  Timer move_timer_{Clock::guest, on<&Edu::moved>, *this};
  memory::MemoryRegion region_;
};

constexpr Field Edu::properties[] = {field<&Edu::dma_mask_>("dma_mask", "Addresses that DMA can reach.")};
constexpr Field Edu::state[] = {
    field<&Edu::check_>("addr4", "liveness check"),    field<&Edu::factorial_>("fact", "factorial"),
    field<&Edu::status_>("status", "status"),          field<&Edu::interrupts_>("irq_status", "interrupt status"),
    field<&Edu::dma_source_>("dma-src", "DMA source"), field<&Edu::dma_destination_>("dma-dst", "DMA destination"),
    field<&Edu::dma_count_>("dma-cnt", "DMA count"),   field<&Edu::dma_command_>("dma-cmd", "DMA command"),
    field<&Edu::buffer_>("dma_buf", "DMA buffer"),
};
constinit const TypeInfo Edu::type{
    .name = "edu",
    .parent = &PciDevice::type,
    .properties = properties,
    .state = state,
    .make = make<Edu>,
    .category = "Misc devices",
};
static Registered registered{Edu::type};

Result<> Edu::realize_pci() {
  region_.init_io<&Edu::read, &Edu::write>(*this, "edu-mmio", 1 * MiB, {.min = 4, .max = 8, .valid_min = 4});
  set_interrupt_pin(1);
  TRY(add_msi(1, false));
  add_bar(0, PciBarKind::memory32, region_);
  return {};
}

Task<> Edu::unrealize_pci() {
  factorial_timer_.cancel();
  move_timer_.cancel();
  co_return Result<>{};
}

void Edu::reset() {
  PciDevice::reset();
  check_ = factorial_ = status_ = interrupts_ = 0;
  dma_source_ = dma_destination_ = dma_count_ = dma_command_ = 0;
  buffer_.fill(0);
  factorial_timer_.cancel();
  move_timer_.cancel();
}

void Edu::settle() {
  PciDevice::settle();
  if (!msi_enabled()) set_intx(interrupts_ != 0);
}

void Edu::raise(u32 bits) {
  interrupts_ |= bits;
  if (!interrupts_) return;
  if (msi_enabled())
    msi_notify(0);
  else
    set_intx(true);
}

void Edu::computed_factorial() {
  u32 value = 1;
  if (factorial_ < 34)  // from 34! on, 2^32 divides the product
    for (u32 n = 2; n <= factorial_; n++) value *= n;
  else
    value = 0;
  factorial_ = value;
  status_ &= ~computing;
  if (status_ & interrupt_when_done) raise(factorial_interrupt);
}

void Edu::moved() {
  if (!(dma_command_ & dma_run)) return;
  dma_command_ &= ~u64{dma_run};
  const bool to_memory = dma_command_ & dma_to_memory;
  const u64 inside = to_memory ? dma_source_ : dma_destination_, outside = (to_memory ? dma_destination_ : dma_source_) & dma_mask_;
  if (inside < buffer_at || inside - buffer_at > buffer_bytes || dma_count_ > buffer_bytes - (inside - buffer_at)) {
    guest_error(type.name, "DMA of {} bytes at {:#x} leaves the buffer", dma_count_, inside);
  } else {
    const auto part = std::span{buffer_}.subspan(inside - buffer_at, dma_count_);
    if (to_memory)
      dma_write(GuestPhys{outside}, part);
    else
      dma_read(GuestPhys{outside}, part);
  }
  if (dma_command_ & dma_interrupt) raise(dma_interrupt_bit);
}

u64 Edu::read(u64 offset, unsigned size) {
  if (offset < 0x80 && size != 4) return ~u64{0};
  switch (offset) {
    case 0x00: return 0x0100'00ed;
    case 0x04: return check_;
    case 0x08: return factorial_;
    case 0x20: return status_;
    case 0x24: return interrupts_;
    case 0x80: return dma_source_;
    case 0x88: return dma_destination_;
    case 0x90: return dma_count_;
    case 0x98: return dma_command_;
    default: return ~u64{0};
  }
}

void Edu::write(u64 offset, unsigned size, u64 value) {
  if (offset < 0x80 && size != 4) return;
  const bool idle = !(dma_command_ & dma_run);
  switch (offset) {
    case 0x04: check_ = ~static_cast<u32>(value); break;
    case 0x08:
      if (status_ & computing) break;
      factorial_ = static_cast<u32>(value);
      status_ |= computing;
      factorial_timer_.arm_in(10us);
      break;
    case 0x20: status_ = (status_ & ~interrupt_when_done) | (value & interrupt_when_done); break;
    case 0x60: raise(static_cast<u32>(value)); break;
    case 0x64:
      interrupts_ &= ~static_cast<u32>(value);
      if (!interrupts_ && !msi_enabled()) set_intx(false);
      break;
    case 0x80:
      if (idle) dma_source_ = value;
      break;
    case 0x88:
      if (idle) dma_destination_ = value;
      break;
    case 0x90:
      if (idle) dma_count_ = value;
      break;
    case 0x98:
      if (!(value & dma_run) || !idle) break;
      dma_command_ = value & 7;
      move_timer_.arm_in(100us);
      break;
    default: guest_error(type.name, "write of {:#x} to offset {:#x}", value, offset);
  }
}

}  // namespace vmm::hw
