// A driver for qemu-xhci on a bench: one command ring, one event ring, a device at a time. Source: xHCI 1.1.
#pragma once

#include "hw/usb/usb.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

class XhciDriver {
 public:
  static constexpr u64 contexts = 0x1000, command_ring = 0x1400, event_table = 0x1800, event_ring = 0x2000, input = 0x3000, device = 0x4000,
                       control_ring = 0x5000, report_ring = 0x6000, data = 0x7000;
  static constexpr u32 event_entries = 64;

  struct Event {
    u64 parameter = 0;
    u32 status = 0, control = 0;
    unsigned type() const { return control >> 10 & 63; }
    unsigned code() const { return status >> 24; }
    u32 length() const { return status & 0xff'ffff; }
    unsigned slot() const { return control >> 24; }
  };

  explicit XhciDriver(DeviceBench& bench, u8 pci_slot) : bench_(bench), base_(bench.place_bars(pci_slot)[0]) {
    bench.config_write(pci_slot, 4, 2, 6);
    op_ = base_ + (bench.read32(base_) & 0xff);
    runtime_ = base_ + bench.read32(base_ + 0x18);
    doorbells_ = base_ + bench.read32(base_ + 0x14);
  }
  u64 base() const { return base_; }
  u64 port_register(unsigned port) const { return op_ + 0x400 + 16 * (port - 1); }
  u32 read(u64 at) { return bench_.read32(at); }
  void write(u64 at, u32 value) { bench_.write32(at, value); }
  u32 status() { return read(op_ + 4); }

  void start() {
    write(op_, 2);  // reset
    write(op_ + 0x38, 8);
    write(op_ + 0x30, contexts), write(op_ + 0x34, 0);
    write(op_ + 0x18, command_ring | 1), write(op_ + 0x1c, 0);
    bench_.write64(event_table, event_ring), bench_.write64(event_table + 8, event_entries);
    write(runtime_ + 0x28, 1);
    write(runtime_ + 0x38, event_ring), write(runtime_ + 0x3c, 0);
    write(runtime_ + 0x30, event_table), write(runtime_ + 0x34, 0);
    write(runtime_ + 0x20, 2);
    write(op_, 5);
    turn();
  }
  void turn() {
    for (unsigned n = 0; bench_.machine().main_loop().run_once(false) && n < 1000; n++) {
    }
  }
  // The next event, if there is one.
  std::optional<Event> event() {
    turn();
    const u64 at = event_ring + 16 * u64{event_at_};
    const Event e{bench_.read64(at), bench_.read32(at + 8), bench_.read32(at + 12)};
    if ((e.control & 1) != (event_cycle_ ? 1u : 0u)) return std::nullopt;
    if (++event_at_ == event_entries) event_at_ = 0, event_cycle_ = !event_cycle_;
    write(runtime_ + 0x38, static_cast<u32>(event_ring + 16 * u64{event_at_}) | 8), write(runtime_ + 0x3c, 0);
    return e;
  }
  // Past what is of no interest.
  std::optional<Event> event_of_type(unsigned type) {
    for (auto e = event(); e; e = event())
      if (e->type() == type) return e;
    return std::nullopt;
  }
  void put(u64& at, u64 parameter, u32 status, u32 control, bool cycle = true) {
    bench_.write64(at, parameter);
    bench_.write32(at + 8, status), bench_.write32(at + 12, control | (cycle ? 1 : 0));
    at += 16;
  }
  void ring(unsigned slot, u32 target) { write(doorbells_ + 4 * u64{slot}, target); }
  // Completion code of a command; the slot is in last_slot.
  unsigned command(u32 type, u64 parameter = 0, u32 more = 0) {
    put(command_at_, parameter, 0, type << 10 | more);
    ring(0, 0);
    const auto done = event_of_type(33);
    if (!done) return 0;
    last_slot = done->slot();
    return done->code();
  }
  unsigned last_slot = 0;

  void context(u64 at, std::initializer_list<u32> words) {
    for (u64 i = 0; const u32 w : words) bench_.write32(at + 4 * i++, w);
  }
  // Enables a slot and addresses the device on a root port.
  unsigned address(unsigned port) {
    const unsigned enabled = command(9);
    if (enabled != 1) return enabled;
    bench_.write64(contexts + 8 * u64{last_slot}, device);
    context(input, {0, 3});
    context(input + 32, {1u << 27 | (read(port_register(port)) >> 10 & 15) << 20, port << 16});
    context(input + 64, {0, 64u << 16 | 4u << 3 | 3u << 1, static_cast<u32>(control_ring) | 1, 0, 8});
    return command(11, input, last_slot << 24);
  }
  // A control transfer; its completion code, and bytes of IN data at `data`.
  struct Done {
    unsigned code = 0;
    u32 bytes = 0;
  };
  Done control(u64 setup, bool in, u16 length) {
    const u32 kind = length == 0 ? 0 : in ? 3 : 2;
    put(control_at_, setup, 8, 2u << 10 | 1 << 6 | kind << 16);
    if (length) put(control_at_, data, length, 3u << 10 | 4 | (in ? 1u << 16 : 0));
    put(control_at_, 0, 0, 4u << 10 | 32 | (in && length ? 0 : 1u << 16));
    ring(last_slot, 1);
    u32 bytes = length;
    for (auto e = event(); e; e = event()) {
      if (e->type() != 32) continue;
      if (e->code() == 13) {
        bytes = length - e->length();
        continue;
      }
      return {e->code(), bytes};
    }
    return {};
  }
  unsigned configure_reports(unsigned packet = 8) {
    context(input, {0, 1 | 1u << 3});
    context(input + 32, {3u << 27});
    context(input + 32 + 32 * 3, {0, packet << 16 | 7u << 3 | 3u << 1, static_cast<u32>(report_ring) | 1, 0, packet});
    return command(12, input, last_slot << 24);
  }
  void ask_report(u32 length = 8) {
    put(report_at_, data + 0x100, length, 1u << 10 | 32 | 4);
    ring(last_slot, 3);
  }
  u8 byte(u64 at) { return static_cast<u8>(bench_.machine().memory().load(GuestPhys{at}, 1)); }

 private:
  DeviceBench& bench_;
  u64 base_, op_ = 0, runtime_ = 0, doorbells_ = 0;
  u64 command_at_ = command_ring, control_at_ = control_ring, report_at_ = report_ring;
  u32 event_at_ = 0;
  bool event_cycle_ = true;
};

constexpr u64 setup_packet(u8 type, u8 request, u16 value, u16 index, u16 length) {
  return u64{type} | u64{request} << 8 | u64{value} << 16 | u64{index} << 32 | u64{length} << 48;
}

}  // namespace vmm::test
