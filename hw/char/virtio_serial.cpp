// The device: control messages, numbering of ports. Source: virtio 1.2 §5.3.6.2.
#include "hw/char/virtio_serial.h"

#include <algorithm>
#include <cstring>

#include "src/base/log.h"
#include "src/control/command.h"

namespace vmm::hw {

namespace {
enum Event : u16 { device_ready, port_add, port_remove, port_ready, console_port, resize_console, port_open, port_name };
enum Feature : u64 { f_size = 1, f_multiport = 2, f_emergency_write = 4 };
struct Control {
  u32 port;
  u16 event, value;
};
constexpr u16 data_queue_size = 128, control_queue_size = 32;
constexpr usize control_limit = 256;  // messages that wait for the driver
constexpr unsigned control_in = 2, control_out = 3;
}  // namespace

// --- The bus

constinit const TypeInfo VirtioSerialBus::type{.name = "virtio-serial-bus",
                                               .doc = "Ports of a virtio serial device.",
                                               .parent = &Bus::type,
                                               .make = make<VirtioSerialBus>,
                                               .user_creatable = false};
static Registered registered_bus{VirtioSerialBus::type};

Result<> VirtioSerialBus::may_plug(Device& device) {
  if (!dynamic_cast<VirtioSerialPort*>(&device)) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  return {};
}

std::vector<std::string> VirtioSerialBus::describe(const Device& device) const {
  const auto& port = static_cast<const VirtioSerialPort&>(device);
  return {
      format("port {}, guest {}, host {}, throttle off", port.number(), port.guest_open() ? "on" : "off", port.host_open() ? "on" : "off")};
}

// --- The device

constexpr Field VirtioSerial::properties[2] = {
    field<&VirtioSerial::max_ports_>("max_ports", "Ports that there may be.", {.min = 1, .max = ports_limit}),
    field<&VirtioSerial::emergency_write_>("emergency-write", "Offer output by the configuration space."),
};
constexpr Field VirtioSerial::state[2] = {
    field<&VirtioSerial::driver_knows_ports_>("driver-knows-ports", "the driver has asked for the ports", {.since = 2}),
    field<&VirtioSerial::control_>("control", "messages that wait for the driver's buffers",
                                   {.since = 2,
                                    .check = [](void* object) -> Result<> {
                                      const auto& messages = static_cast<VirtioSerial*>(static_cast<Object*>(object))->control_;
                                      if (messages.size() > control_limit) return fail("'control' has more messages than a device keeps");
                                      return {};
                                    }}),
};
constinit const TypeInfo VirtioSerial::type{.name = "virtio-serial-device",
                                            .doc = "Ports of bytes between guest and host.",
                                            .parent = &VirtioDevice::type,
                                            .properties = properties,
                                            .state = state,
                                            .make = make<VirtioSerial>,
                                            .category = "Input devices"};
static Registered registered{VirtioSerial::type};
static RegisteredVirtioPci<VirtioSerial> registered_pci;

Result<> VirtioSerial::realize_virtio() {
  add_queue(data_queue_size), add_queue(data_queue_size);  // port 0
  add_queue(control_queue_size), add_queue(control_queue_size);
  for (u32 n = 1; n < max_ports_; n++) add_queue(data_queue_size), add_queue(data_queue_size);
  bus_ = make_object<VirtioSerialBus>();
  bus_->serial = this;
  // Users name it by the outer device's id: "virtio-serial0.0".
  const auto* outer = object_cast<const Device>(parent());
  static unsigned number = 0;
  add_bus(outer && !outer->id().empty() ? format("{}.0", outer->id()) : format("virtio-serial-bus.{}", number++), bus_);
  return {};
}

u64 VirtioSerial::device_features() const { return (max_ports_ > 1 ? f_multiport : 0) | (emergency_write_ ? f_emergency_write : 0); }

void VirtioSerial::read_config(std::span<u8> image) const {
  std::memcpy(image.data() + 4, &max_ports_, 4);  // before it columns and rows, which we do not know
}

void VirtioSerial::write_config(std::span<const u8> image, usize first, usize count) {
  if (!emergency_write_ || first > 8 || first + count <= 8) return;
  if (VirtioSerialPort* p = port(0); p && p->is_console() && p->chardev_) p->chardev_->write_all(image.subspan(8, 1));
}

void VirtioSerial::reset_virtio() {
  driver_knows_ports_ = false;
  control_.clear();
  for (auto* p : ports_)
    if (p) p->device_reset();
}

void VirtioSerial::driver_ready() {
  if (multiport()) return;  // it will say so itself
  if (VirtioSerialPort* p = port(0)) p->set_guest_open(true);
}

void VirtioSerial::before_save() {
  for (auto* p : ports_)
    if (p) p->hold_nothing();
}

Result<> VirtioSerial::add_port(VirtioSerialPort& p) {
  if (p.number_ == ~u32{0}) {
    const bool first_console = p.is_console() && !ports_[0];
    p.number_ = first_console ? 0 : 1;
    while (!first_console && p.number_ < max_ports_ && ports_[p.number_]) p.number_++;
    if (p.number_ >= max_ports_) return p.number_ = ~u32{0}, fail("virtio-serial-bus: Maximum port limit for this device reached");
  }
  if (p.number_ >= max_ports_) return fail("virtio-serial-bus: Out-of-range port id specified, max. allowed: {}", max_ports_ - 1);
  if (p.number_ == 0 && !p.is_console())
    return fail("Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.");
  if (ports_[p.number_]) return fail("virtio-serial-bus: A port already exists at id {}", p.number_);
  if (!p.port_name_.empty())
    for (const auto* other : ports_)
      if (other && other->port_name_ == p.port_name_) return fail("virtio-serial-bus: A port already exists by name {}", p.port_name_);
  ports_[p.number_] = &p;
  p.serial_ = this;
  if (driver_knows_ports_) send_control(p.number_, port_add, 1);
  return {};
}

void VirtioSerial::remove_port(VirtioSerialPort& p) {
  if (port(p.number_) != &p) return;
  p.device_reset();
  ports_[p.number_] = nullptr;
  if (driver_knows_ports_) send_control(p.number_, port_remove, 1);
}

void VirtioSerial::tell_host_side(VirtioSerialPort& p) {
  if (!driver_knows_ports_ || p.told_open_ == p.host_open_) return;
  p.told_open_ = p.host_open_;
  send_control(p.number_, port_open, p.host_open_);
}

// --- Control messages

void VirtioSerial::send_control(u32 number, u16 event, u16 value, std::string name) {
  if (!running() || !multiport()) return;
  if (control_.size() >= control_limit) return guest_error(type.name, "the driver takes no control messages");
  control_.push_back({number, event, value, std::move(name)});
  flush_control();
}

void VirtioSerial::flush_control() {
  VirtQueue& q = *queue(control_in);
  usize sent = 0;
  for (; sent < control_.size(); sent++) {
    auto chain = q.pop();
    if (!chain) break;
    const SerialMessage& m = control_[sent];
    const Control head{m.port, m.event, m.value};
    std::vector<u8> bytes(sizeof head + m.name.size());
    std::memcpy(bytes.data(), &head, sizeof head);
    std::ranges::copy(m.name, bytes.begin() + sizeof head);
    const usize written = chain->copy_out(0, bytes);
    q.push(std::move(*chain), written);
  }
  if (!sent) return;
  control_.erase(control_.begin(), control_.begin() + static_cast<std::ptrdiff_t>(sent));
  q.notify();
}

void VirtioSerial::control_received(const Chain& chain) {
  const auto message = chain.copy_in<Control>(0);
  if (!message) return;
  if (message->event == device_ready) {
    if (!message->value) return guest_error(type.name, "the driver could not set the device up");
    driver_knows_ports_ = true;
    for (const auto* p : ports_)
      if (p) send_control(p->number_, port_add, 1);
    return;
  }
  VirtioSerialPort* p = port(message->port);
  if (!p) return guest_error(type.name, "message for port {}, which is not there", message->port);
  switch (message->event) {
    case port_ready:
      if (!message->value) return guest_error(type.name, "the driver could not set port {} up", p->number_);
      if (p->is_console()) send_control(p->number_, console_port, 1);
      if (!p->port_name_.empty()) send_control(p->number_, port_name, 1, p->port_name_);
      p->told_open_ = p->host_open_;
      if (p->host_open_) send_control(p->number_, port_open, 1);
      break;
    case port_open: p->set_guest_open(message->value); break;
    default: guest_error(type.name, "control message {}", message->event);
  }
}

// --- Queues

void VirtioSerial::queue_notified(unsigned n) {
  VirtQueue& q = *queue(n);
  if (n == control_in) return flush_control();
  if (n == control_out) {
    for (unsigned budget = 2 * control_queue_size; auto chain = q.pop();) {
      control_received(*chain);
      q.push(std::move(*chain), 0);
      if (!running()) return;
      if (!--budget) {
        kick(n);
        break;
      }
    }
    return q.notify();
  }
  const u32 number = n < 2 ? 0 : n / 2 - 1;
  VirtioSerialPort* p = port(number);
  if (n & 1) {
    if (p) return p->output();
    while (auto chain = q.pop()) q.push(std::move(*chain), 0);  // nobody listens
    return q.notify();
  }
  if (p) p->input_possible();
}

}  // namespace vmm::hw
