// qemu-xhci: registers, ports, event rings, state. Source: xHCI 1.1 (registers chapter 5, ports §4.19, events §4.9.4 and §4.17). Not
// modelled: streams, isochronous endpoints, several segments of an event ring, interrupt moderation, save and restore by the driver (it is
// told that restoring has failed, and sets the controller up anew).
#include "hw/usb/xhci.h"

#include <algorithm>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

using namespace xhci;

namespace {

constexpr u32 operational_at = 0x40, ports_at = 0x440, runtime_at = 0x1000, interrupters_at = 0x1020, doorbells_at = 0x2000;
constexpr u32 msix_table_at = 0x3000, msix_pending_at = 0x3800, bar_bytes = 0x4000, protocols_at = 0x20;

enum Operational : u32 {
  r_command = 0x00,
  r_status = 0x04,
  r_page_size = 0x08,
  r_notification = 0x14,
  r_ring = 0x18,
  r_contexts = 0x30,
  r_config = 0x38
};
enum Command : u32 { cmd_run = 1, cmd_reset = 2, cmd_interrupts = 4, cmd_errors = 8, cmd_save = 0x100, cmd_restore = 0x200 };
enum Status : u32 { st_halted = 1, st_system_error = 4, st_event = 8, st_port = 16, st_restore_error = 0x400, st_host_error = 0x1000 };
enum RingControl : u32 { ring_stop = 2, ring_abort = 4, ring_running = 8 };
enum PortBits : u32 {
  p_connected = 1,
  p_enabled = 2,
  p_reset = 0x10,
  p_power = 0x200,
  p_strobe = 1 << 16,
  p_connect_change = 1 << 17,
  p_enable_change = 1 << 18,
  p_warm_reset_change = 1 << 19,
  p_over_current_change = 1 << 20,
  p_reset_change = 1 << 21,
  p_link_change = 1 << 22,
  p_config_change = 1 << 23,
  p_wake_bits = 7u << 25,
  p_warm_reset = 1u << 31,
  p_changes = 0x7fu << 17,
};
constexpr u32 link_mask = 0xf << 5;
enum Link : u32 { l_u0 = 0, l_u3 = 3, l_disabled = 4, l_rx_detect = 5, l_polling = 7, l_resume = 15 };
constexpr u32 speed_ids[] = {2, 1, 3, 4};  // by UsbSpeed

constexpr u32 link(u32 state) { return state << 5; }
void set_half(u64& whole, bool high, u32 value) {
  whole = high ? (whole & 0xffff'ffff) | u64{value} << 32 : (whole & ~u64{0xffff'ffff}) | value;
}

}  // namespace

constexpr Field Xhci::properties[8] = {
    field<&Xhci::usb2_ports_>("p2", "Ports for USB 2 devices.", {.min = 1, .max = most_ports}),
    field<&Xhci::usb3_ports_>("p3", "Ports for USB 3 devices.", {.max = most_ports}),
    field<&Xhci::interrupters_>("intrs", "Interrupters.", {.min = 1, .max = most_interrupters}),
    field<&Xhci::slots_>("slots", "Device slots.", {.min = 1, .max = most_slots}),
    field<&Xhci::msi_>("msi", "on, off or auto: messages."),
    field<&Xhci::msix_>("msix", "on, off or auto: messages by a table."),
    field<&Xhci::streams_>("streams", "Taken for compatibility; without effect."),
    field<&Xhci::host_>("host", "Taken for compatibility; without effect.", {.hidden = true}),
};
constexpr Field Xhci::state[] = {
    computed<&Xhci::words, &Xhci::set_words>("registers", "registers, ports, slots and rings"),
};
constinit const TypeInfo Xhci::type{
    .name = "qemu-xhci",
    .doc = "A USB 3 host controller.",
    .parent = &PciDevice::type,
    .properties = properties,
    .state = state,
    .make = make<Xhci>,
    .category = "USB devices",
};
static Registered registered{Xhci::type};

Xhci::Xhci() : PciDevice({.vendor = 0x1b36, .device = 0x000d, .revision = 1, .class_code = 0x0c0330}) {}

// --- Life

Result<> Xhci::realize_pci() {
  for (const auto& [name, value] : {std::pair<std::string_view, const std::string&>{"msi", msi_}, {"msix", msix_}})
    if (value != "on" && value != "off" && value != "auto") return fail("Parameter '{}' does not accept value '{}'", name, value);
  set_interrupt_pin(1);
  set_config(0x60, 0x30, 1);  // release number of the specification
  registers_.init_io<&Xhci::read, &Xhci::write>(*this, "xhci", msix_table_at, {.min = 4, .max = 4});
  bar_.init_container(this, "xhci-bar0", bar_bytes);
  bar_.add(registers_, 0);
  add_bar(0, PciBarKind::memory64, bar_);
  if (pci().express()) add_express(0);
  if (msi_ == "on") TRY(add_msi(interrupters_, false));
  if (msix_ != "off") TRY(add_msix(interrupters_, 0, msix_table_at, msix_pending_at, bar_));
  bus_ = add_usb_bus(*this, *this);
  constexpr u8 usb2 = 1 << static_cast<u8>(UsbSpeed::low) | 1 << static_cast<u8>(UsbSpeed::full) | 1 << static_cast<u8>(UsbSpeed::high);
  constexpr u8 usb3 = 1 << static_cast<u8>(UsbSpeed::super);
  for (unsigned n = 0; n < std::max(usb2_ports_, usb3_ports_); n++) {
    sockets_[n].path = format("{}", n + 1);
    sockets_[n].speeds = static_cast<u8>((n < usb2_ports_ ? usb2 : 0) | (n < usb3_ports_ ? usb3 : 0));
    sockets_[n].owner = this;
    bus_->add_port(sockets_[n]);
  }
  return {};
}

Task<> Xhci::unrealize_pci() {
  run(false);
  for (UsbPort& s : sockets_) bus_->remove_port(s);
  bus_->controller = nullptr;
  co_return Result<>{};
}

void Xhci::reset() {
  PciDevice::reset();
  controller_reset();
}

void Xhci::settle() {
  PciDevice::settle();
  update_line();
}

void Xhci::controller_reset() {
  command_ = 0, status_ = st_halted, notification_ = config_ = 0;
  contexts_ = command_pointer_low_ = 0;
  commands_ = {};
  commands_running_ = commands_rung_ = false;
  for (Slot& s : slot_) s = {};
  for (Interrupter& i : interrupter_) i = {};
  for (unsigned n = 0; n < port_count(); n++) {
    port_[n] = {};
    refresh_port(n);
  }
  update_line();
}

// The controller gives up, as after a broken ring: only a reset helps.
void Xhci::stop_with(u32 status_bit, std::string_view why) {
  guest_error("xhci", "{}", why);
  status_ |= status_bit | st_halted;
  command_ &= ~u32{cmd_run};
  commands_running_ = false;
  if (command_ & cmd_errors) raise(0);
}

void Xhci::run(bool on) {
  if (!on) {
    status_ |= st_halted;
    commands_running_ = false;
    return;
  }
  if (status_ & st_host_error) return;
  status_ &= ~u32{st_halted};
  for (unsigned n = 0; n < port_count(); n++)
    if (port_[n].status & p_changes) port_[n].notice = true;
  work();
}

// --- Registers

u64 Xhci::read(u64 at, unsigned) {
  const u32 a = static_cast<u32>(at);
  if (a < operational_at) return capability(a);
  if (a < runtime_at) return operational(a);
  if (a < doorbells_at) return runtime(a);
  return 0;  // doorbells
}

u32 Xhci::capability(u32 at) const {
  const auto name = u32{'U'} | u32{'S'} << 8 | u32{'B'} << 16 | u32{' '} << 24;
  switch (at) {
    case 0x00: return 0x0100'0000 | operational_at;                      // version 1.0
    case 0x04: return port_count() << 24 | interrupters_ << 8 | slots_;  // structural parameters
    case 0x08: return 0x0000'000f;                                       // scheduling threshold; one segment an event ring
    case 0x0c: return 0;
    case 0x10: return (protocols_at / 4) << 16 | 1;  // 64-bit addresses; where the protocols are
    case 0x14: return doorbells_at;
    case 0x18: return runtime_at;
    // Supported protocols: USB 2 with its ports, then USB 3 with its own.
    case 0x20: return 0x0200'0002 | (usb3_ports_ ? 4 << 8 : 0);
    case 0x24: return name;
    case 0x28: return usb2_ports_ << 8 | 1;
    case 0x2c: return 0;
    case 0x30: return usb3_ports_ ? 0x0300'0002 : 0;
    case 0x34: return usb3_ports_ ? name : 0;
    case 0x38: return usb3_ports_ ? usb3_ports_ << 8 | (usb2_ports_ + 1) : 0;
    default: return 0;
  }
}

u32 Xhci::operational(u32 at) const {
  if (at >= ports_at) {
    const u32 n = (at - ports_at) / 16;
    return n < port_count() && at % 16 == 0 ? port_[n].status : 0;
  }
  switch (at - operational_at) {
    case r_command: return command_;
    case r_status: return status_;
    case r_page_size: return 1;  // 4 KiB
    case r_notification: return notification_;
    case r_ring: return commands_running_ ? ring_running : 0;
    case r_contexts: return static_cast<u32>(contexts_);
    case r_contexts + 4: return static_cast<u32>(contexts_ >> 32);
    case r_config: return config_;
    default: return 0;
  }
}

u32 Xhci::runtime(u32 at) const {
  if (at == runtime_at) return static_cast<u32>(time_domain().now(Clock::guest).count() / 125'000) & 0x3fff;  // microframes
  const u32 n = (at - interrupters_at) / 32;
  if (at < interrupters_at || n >= interrupters_) return 0;
  const Interrupter& i = interrupter_[n];
  switch ((at - interrupters_at) % 32) {
    case 0x00: return i.management;
    case 0x04: return i.moderation;
    case 0x08: return i.table_size;
    case 0x10: return static_cast<u32>(i.table);
    case 0x14: return static_cast<u32>(i.table >> 32);
    case 0x18: return static_cast<u32>(i.dequeue);
    case 0x1c: return static_cast<u32>(i.dequeue >> 32);
    default: return 0;
  }
}

void Xhci::write(u64 at, unsigned, u64 value) {
  const u32 a = static_cast<u32>(at), v = static_cast<u32>(value);
  if (a >= doorbells_at) return doorbell((a - doorbells_at) / 4, v);
  if (a >= runtime_at) return write_runtime(a, v);
  if (a >= ports_at) {
    if (const u32 n = (a - ports_at) / 16; n < port_count() && a % 16 == 0) write_port(n, v);
    return;
  }
  if (a >= operational_at) return write_operational(a - operational_at, v);
  guest_error("xhci", "write to capability register {:#x}", a);
}

void Xhci::write_operational(u32 at, u32 v) {
  switch (at) {
    case r_command: {
      if (v & cmd_reset) {
        for (unsigned n = 0; n < sockets_.size(); n++)
          if (sockets_[n].device) sockets_[n].device->reset_tree();
        return controller_reset();
      }
      if (v & cmd_restore) status_ |= st_restore_error;
      const u32 before = std::exchange(command_, v & (cmd_run | cmd_interrupts | cmd_errors | 0x0c00));
      if ((v ^ before) & cmd_run) run(v & cmd_run);
      return update_line();
    }
    case r_status: status_ &= ~(v & (st_system_error | st_event | st_port | st_restore_error)); return update_line();
    case r_notification: notification_ = v & 0xffff; return;
    case r_ring:
      if (v & (ring_stop | ring_abort) && commands_running_) {
        commands_running_ = false;
        send_event(0, {.parameter = commands_.dequeue, .status = u32{c_ring_stopped} << 24, .control = t_command_completion << 10});
        return;
      }
      command_pointer_low_ = v;
      return;
    case r_ring + 4:
      if (commands_running_) return;
      commands_ = {.dequeue = (u64{v} << 32 | command_pointer_low_) & ~u64{63}, .cycle = (command_pointer_low_ & 1) != 0};
      return;
    case r_contexts:
    case r_contexts + 4:
      set_half(contexts_, at != r_contexts, v);
      contexts_ &= ~u64{63};
      return;
    case r_config: config_ = v & 0xff; return;
    default: guest_error("xhci", "write to operational register {:#x}", at);
  }
}

void Xhci::write_runtime(u32 at, u32 v) {
  const u32 n = (at - interrupters_at) / 32;
  if (at < interrupters_at || n >= interrupters_) return guest_error("xhci", "write to runtime register {:#x}", at);
  Interrupter& i = interrupter_[n];
  switch ((at - interrupters_at) % 32) {
    case 0x00:
      if (v & 1) i.management &= ~u32{1};
      i.management = (i.management & 1) | (v & 2);
      return update_line();
    case 0x04: i.moderation = v; return;
    case 0x08: i.table_size = v & 0xffff; return;
    case 0x10: set_half(i.table, false, v & ~u32{63}); return;
    case 0x14: set_half(i.table, true, v); return load_segment(n);
    case 0x18: {
      const bool handled = v & 8, busy = i.dequeue & 8;
      set_half(i.dequeue, false, (v & ~u32{8}) | (busy && !handled ? 8 : 0));
      return;
    }
    case 0x1c: {
      set_half(i.dequeue, true, v);
      // Events that came meanwhile: another interrupt.
      if (i.entries && !(i.dequeue & 8) && (i.dequeue & ~u64{15}) != i.segment + 16 * u64{i.index}) raise(n);
      if (running()) work();
      return;
    }
    default: return;
  }
}

// --- Ports. The sockets of both speeds are the same: port n of USB 2, port p2 + n of USB 3.

unsigned Xhci::port_of(const UsbPort& port, const UsbDevice& device) const {
  const unsigned socket = static_cast<unsigned>(&port - sockets_.data());
  return device.speed() == UsbSpeed::super ? usb2_ports_ + socket : socket;
}

// After a reset, or when a device has come or gone: what the port shows of its socket.
void Xhci::refresh_port(unsigned n) {
  const bool is_usb3 = n >= usb2_ports_;
  const UsbDevice* device = sockets_[is_usb3 ? n - usb2_ports_ : n].device;
  Port& p = port_[n];
  const u32 keep = p.status & (p_changes | p_wake_bits);
  if (device && device->realized() && (device->speed() == UsbSpeed::super) == is_usb3) {
    p.status = keep | p_power | p_connected | speed_ids[static_cast<usize>(device->speed())] << 10 |
               (is_usb3 ? u32{p_enabled} | link(l_u0) : link(l_polling));
    port_changed(n, p_connect_change);
  } else {
    p.status = keep | p_power | link(l_rx_detect);
  }
}

void Xhci::port_changed(unsigned n, u32 bits) {
  Port& p = port_[n];
  if ((p.status & bits) == bits) return;
  p.status |= bits;
  status_ |= st_port;
  if (!running()) return;
  p.notice = true;
  later();
}

void Xhci::usb_attached(UsbPort& port) {
  // The device becomes real right after this.
  machine().main_loop().post([this, hold = Ref<Xhci>{this}, at = &port] {
    if (realized() && at->device) refresh_port(port_of(*at, *at->device));
  });
}

void Xhci::usb_detached(UsbPort& port) {
  const unsigned n = port_of(port, *port.device);
  Port& p = port_[n];
  p.status = (p.status & (p_changes | p_wake_bits)) | p_power | link(l_rx_detect);
  port_changed(n, p_connect_change);
}

void Xhci::usb_wakes(UsbPort& port) {
  const unsigned n = port_of(port, *port.device);
  Port& p = port_[n];
  if ((p.status & link_mask) != link(l_u3)) return;
  p.status = (p.status & ~link_mask) | link(l_resume);
  port_changed(n, p_link_change);
}

void Xhci::write_port(unsigned n, u32 v) {
  Port& p = port_[n];
  const bool is_usb3 = n >= usb2_ports_;
  p.status &= ~(v & p_changes);
  if ((v & p_enabled) && (p.status & p_enabled)) p.status = (p.status & ~(u32{p_enabled} | link_mask)) | link(l_disabled);
  p.status = (p.status & ~p_wake_bits) | (v & p_wake_bits);
  if (v & (p_reset | (is_usb3 ? p_warm_reset : 0))) {
    UsbDevice* device = sockets_[is_usb3 ? n - usb2_ports_ : n].device;
    if (!(p.status & p_connected) || !device) return;
    device->usb_reset();
    p.status = (p.status & ~link_mask) | p_enabled | link(l_u0);
    return port_changed(n, p_reset_change | (v & p_warm_reset ? p_warm_reset_change : 0));
  }
  if (v & p_strobe) {
    const u32 now = (p.status & link_mask) >> 5, wish = (v & link_mask) >> 5;
    const auto become = [&](u32 state) { p.status = (p.status & ~link_mask) | link(state); };
    if (!(p.status & p_connected)) return;
    if (wish == l_u0 && now != l_u0) {
      become(l_u0);
      port_changed(n, p_link_change);
    } else if (wish == l_u3 && now == l_u0) {
      become(l_u3);
    } else if (wish == l_resume && now == l_u3) {
      become(l_resume);
    }
  }
}

UsbDevice* Xhci::device_at(u8 root_port, u32 route) const {
  if (root_port < 1 || root_port > port_count()) return nullptr;
  const unsigned n = root_port - 1u;
  const bool is_usb3 = n >= usb2_ports_;
  UsbDevice* device = sockets_[is_usb3 ? n - usb2_ports_ : n].device;
  if (device && (device->speed() == UsbSpeed::super) != is_usb3) return nullptr;
  for (unsigned tier = 0; device && route && tier < 5; tier++, route >>= 4) device = device->downstream(route & 15);
  return device && device->realized() ? device : nullptr;
}

void Xhci::endpoint_ready(UsbDevice& device, u8 endpoint) {
  const unsigned number = 2u * (endpoint & 15) + (endpoint & 0x80 ? 1 : 0);
  if (loaded_) find_devices();
  if (number > endpoints) return;
  for (unsigned s = 1; s <= slots_; s++)
    if (slot_[s].device == &device && slot_[s].endpoints[number].state == e_running) {
      slot_[s].endpoints[number].waits = true;
      if (running()) later();
    }
}

void Xhci::device_leaves(UsbDevice& device) {
  for (Slot& s : slot_)
    if (s.device == &device) s.device = nullptr;
}

std::string Xhci::serial_part() const { return format("0000:{:02x}:{:02x}.{}", pci().number(), slot(), function()); }

// --- Events

void Xhci::load_segment(unsigned n) {
  Interrupter& i = interrupter_[n];
  i.segment = 0, i.entries = i.index = 0, i.cycle = true;
  if (!i.table_size) return;
  std::array<u8, 16> entry{};
  if (!dma_read(GuestPhys{i.table}, entry)) return stop_with(st_system_error, "the event ring's table cannot be read");
  const u32 entries = load_le<u32>(&entry[8]) & 0xffff;
  if (i.table_size != 1 || entries < 16 || entries > 4096)
    return stop_with(st_host_error, format("an event ring of {} segments, {} entries", i.table_size, entries));
  i.segment = load_le<u64>(&entry[0]) & ~u64{63};
  i.entries = entries;
}

// Events that fit now. One place stays free, so that a full ring is not an empty one.
u32 Xhci::room(unsigned n) {
  const Interrupter& i = interrupter_[n];
  if (!i.entries) return 0;
  const u64 read = ((i.dequeue & ~u64{15}) - i.segment) / 16;
  if (read >= i.entries) return i.entries - 1;  // the driver has not said yet where it reads
  return static_cast<u32>((read + i.entries - i.index - 1) % i.entries);
}

bool Xhci::send_event(unsigned n, Trb event, bool interrupt) {
  Interrupter& i = interrupter_[n];
  if (!room(n)) return false;
  std::array<u8, 16> bytes{};
  store_le<u64>(&bytes[0], event.parameter);
  store_le<u32>(&bytes[8], event.status);
  const GuestPhys at{i.segment + 16 * u64{i.index}};
  // The cycle bit last: a driver that polls sees whole events only.
  const u32 control = event.control | (i.cycle ? u32{f_cycle} : 0);
  store_le<u32>(&bytes[12], control ^ f_cycle);
  if (!dma_write(at, bytes)) return stop_with(st_system_error, "the event ring cannot be written"), false;
  std::array<u8, 4> last{};
  store_le<u32>(&last[0], control);
  dma_write(GuestPhys{at.value + 12}, last);
  if (++i.index == i.entries) i.index = 0, i.cycle = !i.cycle;
  if (interrupt) raise(n);
  return true;
}

void Xhci::raise(unsigned n) {
  Interrupter& i = interrupter_[n];
  const bool busy = i.dequeue & 8;
  i.dequeue |= 8;
  i.management |= 1;
  status_ |= st_event;
  if (busy && (msix_enabled() || msi_enabled())) return;
  if (!(i.management & 2) || !(command_ & cmd_interrupts)) return;
  if (msix_enabled()) {
    i.management &= ~u32{1};
    msix_notify(n);
  } else if (msi_enabled()) {
    i.management &= ~u32{1};
    msi_notify(n);
  } else {
    update_line();
  }
}

void Xhci::update_line() {
  if (msix_enabled() || msi_enabled()) return set_intx(false);
  set_intx((interrupter_[0].management & 3) == 3 && (command_ & cmd_interrupts));
}

// --- State

std::vector<u64> Xhci::words() const {
  std::vector<u64> w{command_,
                     status_,
                     notification_,
                     config_,
                     contexts_,
                     commands_.dequeue,
                     u64{commands_.cycle},
                     command_pointer_low_,
                     u64{commands_running_},
                     u64{commands_rung_}};
  for (const Interrupter& i : interrupter_)
    for (const u64 v : {u64{i.management}, u64{i.moderation}, u64{i.table_size}, i.table, i.dequeue, i.segment, u64{i.entries},
                        u64{i.index}, u64{i.cycle}})
      w.push_back(v);
  for (const Port& p : port_) w.push_back(u64{p.notice} << 32 | p.status);
  for (const Slot& s : slot_) {
    w.push_back(s.state);
    if (s.state == s_off) continue;
    for (const u64 v : {s.context, u64{s.root_port}, u64{s.route}}) w.push_back(v);
    for (unsigned e = 1; e <= endpoints; e++) {
      const Endpoint& p = s.endpoints[e];
      w.push_back(u64{p.state} | u64{p.type} << 8 | u64{p.waits} << 16 | u64{p.ring.cycle} << 17);
      if (p.state != e_disabled) w.push_back(p.ring.dequeue);
    }
  }
  return w;
}

Result<> Xhci::set_words(const std::vector<u64>& w) {
  usize at = 0;
  bool short_of = false;
  const auto next = [&]() -> u64 { return at < w.size() ? w[at++] : (short_of = true, 0); };
  const auto word = [&] { return static_cast<u32>(next()); };
  command_ = word(), status_ = word(), notification_ = word(), config_ = word();
  contexts_ = next(), commands_.dequeue = next(), commands_.cycle = next() != 0, command_pointer_low_ = next();
  commands_running_ = next() != 0, commands_rung_ = next() != 0;
  for (Interrupter& i : interrupter_) {
    i.management = word(), i.moderation = word(), i.table_size = word(), i.table = next(), i.dequeue = next(), i.segment = next();
    i.entries = word(), i.index = word(), i.cycle = next() != 0;
    if (i.entries > 4096 || i.index >= std::max(i.entries, 1u)) return fail("an event ring of {} entries stands at {}", i.entries, i.index);
  }
  for (Port& p : port_) {
    const u64 v = next();
    p = {.status = static_cast<u32>(v), .notice = (v >> 32 & 1) != 0};
  }
  for (Slot& s : slot_) {
    s = {};
    const u64 state = next();
    if (state == s_off) continue;
    if (state > s_configured) return fail("a USB slot is in state {}", state);
    s.state = static_cast<SlotState>(state);
    s.context = next(), s.root_port = static_cast<u8>(next()), s.route = word();
    for (unsigned e = 1; e <= endpoints; e++) {
      const u64 v = next();
      if ((v & 0xff) > e_error || (v >> 8 & 0xff) > 7) return fail("a USB endpoint is in state {:#x}", v);
      Endpoint& p = s.endpoints[e];
      p.state = static_cast<EndpointState>(v & 0xff), p.type = static_cast<u8>(v >> 8);
      p.waits = v >> 16 & 1, p.ring.cycle = v >> 17 & 1;
      if (p.state != e_disabled) p.ring.dequeue = next();
    }
  }
  if (short_of || at != w.size()) return fail("{} values of a USB controller, {} are due", w.size(), at);
  return {};
}

Result<> Xhci::after_load() {
  loaded_ = true;  // devices are found when all of them are there
  if (running()) later();
  return {};
}

}  // namespace vmm::hw
