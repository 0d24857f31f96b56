// 82093AA I/O APIC. Source: Intel 82093AA data sheet (order 290566); the EOI register at 40h is that of version 20h parts. Polarity is
// stored and not looked at: our lines are active high throughout. Edges on masked pins are lost, as the data sheet says (§3.2.4).
#include "hw/intc/ioapic.h"

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
constexpr u64 e_masked = 1 << 16, e_level = 1 << 15, e_remote_irr = 1 << 14, e_status = 1 << 12, e_logical = 1 << 11;
constexpr u64 e_read_only = e_remote_irr | e_status;
}  // namespace

constexpr Field IoApic::properties[] = {field<&IoApic::version_>("version", "Version register, 0x11 or 0x20.")};
constexpr Field IoApic::state[] = {
    field<&IoApic::id_>("id", "APIC id"),
    field<&IoApic::select_>("ioregsel", "selected register"),
    field<&IoApic::irr_>("irr", "requests not yet sent"),
    field<&IoApic::levels_>("levels", "pins"),
    field<&IoApic::redirection_>("ioredtbl", "redirection table"),
};
constinit const TypeInfo IoApic::type{
    .name = "ioapic",
    .doc = "I/O APIC with 24 pins.",
    .parent = &Device::type,
    .properties = properties,
    .state = state,
    .make = make<IoApic>,
    .sample = "ioapic",
    .user_creatable = false,
    .bus = "System",
};
static Registered registered{IoApic::type};

Result<> IoApic::realize() {
  if (version_ != 0x11 && version_ != 0x20) return fail("'version' takes 0x11 or 0x20, not {:#x}", version_);
  region_.init_io<&IoApic::read, &IoApic::write>(*this, "ioapic", 0x1000, {.min = 1, .max = 4});
  if (fabric_) fabric_->add_eoi_listener(*this);
  reset();
  return map(region_);
}

Task<> IoApic::unrealize() {
  if (fabric_) fabric_->remove_eoi_listener(*this);
  co_return Result<>{};
}

void IoApic::reset() {
  id_ = select_ = 0;
  irr_ = 0;
  redirection_.fill(e_masked);
  push();
}

Result<> IoApic::after_load() {
  push();
  return {};
}

void IoApic::pull() {
  if (!twin()) return;
  const vm::IoApicImage k = twin()->io_apic();
  id_ = k.id & 15, select_ = static_cast<u8>(k.select), irr_ = k.irr, redirection_ = k.redirection;
}

void IoApic::push() const {
  if (twin()) return twin()->set_io_apic({.id = id_, .select = select_, .irr = irr_, .redirection = redirection_});
  for (unsigned pin = 0; pin < pin_count; pin++) tell(pin);
}

// The local APICs elsewhere: they say when an interrupt of this pin has ended only if they know what it sends.
void IoApic::tell(unsigned pin) const {
  if (!kernel() || twin()) return;
  const u64 e = redirection_[pin];
  kernel()->set_pin(pin, 0xfee0'0000 | e >> 56 << 12 | (e & e_logical ? 4 : 0), static_cast<u32>(e & (0x7ff | e_level)) | 1u << 14);
}

// Levels are still there after a reset or load.
void IoApic::settle() {
  if (twin()) {
    for (unsigned pin = 0; pin < pin_count; pin++) twin()->set_line(pin == 2 ? 0 : pin, levels_ >> pin & 1);
    return;
  }
  for (unsigned pin = 0; pin < pin_count; pin++)
    if (redirection_[pin] & e_level && levels_ >> pin & 1) irr_ |= u32{1} << pin;
  service();
}

void IoApic::set_input(unsigned line, bool level) {
  const unsigned pin = line == 0 ? 2 : line;
  if (pin >= pin_count) return;
  const u32 mask = u32{1} << pin;
  const u64 entry = redirection_[pin];
  const bool before = levels_ & mask;
  levels_ = level ? levels_ | mask : levels_ & ~mask;
  if (twin()) return twin()->set_line(line, level);
  if (entry & e_level) {
    irr_ = level ? irr_ | mask : irr_ & ~mask;
    if (level) service();
  } else if (level && !before && !(entry & e_masked)) {
    irr_ |= mask;
    service();
  }
}

void IoApic::service() {
  if (twin()) return;
  for (unsigned pin = 0; pin < pin_count; pin++) {
    const u32 mask = u32{1} << pin;
    u64& entry = redirection_[pin];
    if (!(irr_ & mask) || entry & e_masked) continue;
    if (entry & e_level) {
      if (entry & e_remote_irr) continue;  // one at a time, until its EOI
      entry |= e_remote_irr;
    } else {
      irr_ &= ~mask;
    }
    const auto destination = static_cast<u32>(entry >> 56);
    if (fabric_)
      fabric_->deliver({.destination = destination == 0xff && !(entry & e_logical) ? ~u32{0} : destination,
                        .logical = (entry & e_logical) != 0,
                        .mode = static_cast<DeliveryMode>(bits(entry, 10, 8)),
                        .vector = static_cast<u8>(entry),
                        .level = (entry & e_level) != 0});
  }
}

void IoApic::end_of_interrupt(u8 vector) {
  bool again = false;
  for (unsigned pin = 0; pin < pin_count; pin++) {
    u64& entry = redirection_[pin];
    if (static_cast<u8>(entry) != vector || !(entry & e_level) || !(entry & e_remote_irr)) continue;
    entry &= ~e_remote_irr;
    again |= irr_ >> pin & 1;
  }
  if (again) service();
}

u32 IoApic::indirect_read() {
  switch (select_) {
    case 0: return id_ << 24;
    case 1: return version_ | (pin_count - 1) << 16;
    case 2: return id_ << 24;
    default: break;
  }
  const unsigned pin = (select_ - 0x10) >> 1;
  if (select_ < 0x10 || pin >= pin_count) return 0;
  return static_cast<u32>(redirection_[pin] >> (select_ & 1 ? 32 : 0));
}

void IoApic::indirect_write(u32 value) {
  if (select_ == 0) {
    id_ = value >> 24 & 0xf;
    return;
  }
  const unsigned pin = (select_ - 0x10) >> 1;
  if (select_ < 0x10 || pin >= pin_count) return guest_error(type.name, "write of {:#x} to register {:#x}", value, select_);
  u64& entry = redirection_[pin];
  if (select_ & 1) {
    entry = (entry & 0xffff'ffff) | u64{value & 0xff00'0000} << 32;
  } else {
    entry = (entry & 0xffff'ffff'0000'0000) | (entry & e_read_only) | (value & 0x1ffff & ~e_read_only);
    const u32 mask = u32{1} << pin;
    if (!(entry & e_level)) {
      entry &= ~e_remote_irr;  // how Linux ends a level interrupt whose EOI was lost
      if (entry & e_masked) irr_ &= ~mask;
    } else if (levels_ & mask) {
      irr_ |= mask;
    }
  }
  tell(pin);
  service();
}

u64 IoApic::read(u64 offset, unsigned size) {
  switch (offset & 0xff) {
    case 0x00: return select_;
    case 0x10: return size == 4 ? indirect_read() : 0;
    default: return 0;
  }
}

void IoApic::write(u64 offset, unsigned size, u64 value) {
  switch (offset & 0xff) {
    case 0x00: select_ = static_cast<u8>(value); break;
    case 0x10:
      if (size == 4) indirect_write(static_cast<u32>(value));
      break;
    case 0x40:
      if (version_ == 0x20 && size == 4) end_of_interrupt(static_cast<u8>(value));
      break;
    default: guest_error(type.name, "write of {:#x} to offset {:#x}", value, offset);
  }
}

std::string IoApic::describe() const {
  static constexpr std::string_view modes[8] = {"fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"};
  std::string text = format("ioapic0: ver=0x{:x} id=0x{:02x} sel=0x{:02x}", version_, id_, select_);
  if (select_ >= 0x10) text += format(" (redir[{}])", (select_ - 0x10) >> 1);
  text += '\n';
  for (unsigned pin = 0; pin < pin_count; pin++) {
    const u64 e = redirection_[pin];
    text += format("  pin {:<2} 0x{:016x} dest={:x} vec={:<3} {} {:<5} {:<6} {:<8} {}\n", pin, e, e >> 56, e & 0xff,
                   e & 1 << 13 ? "active-lo" : "active-hi", e & e_level ? "level" : "edge", e & e_masked ? "masked" : "",
                   e & e_logical ? "logical" : "physical", modes[bits(e, 10, 8)]);
  }
  text += "  IRR" + (irr_ ? std::string{} : std::string{" (none)"});
  for (unsigned pin = 0; pin < pin_count; pin++)
    if (irr_ >> pin & 1) text += format(" {}", pin);
  text += "\n  Remote IRR";
  std::string remote;
  for (unsigned pin = 0; pin < pin_count; pin++)
    if (redirection_[pin] & e_remote_irr) remote += format(" {}", pin);
  return text + (remote.empty() ? " (none)" : remote) + "\n";
}

}  // namespace vmm::hw
