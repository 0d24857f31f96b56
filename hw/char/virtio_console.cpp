// Ports of the virtio serial bus: virtconsole (a terminal, hvcN) and virtserialport (a named channel). Source: virtio 1.2 §5.3.6.
#include "hw/char/virtio_serial.h"
#include "hw/core/chardev_property.h"
#include "src/base/log.h"
#include "src/control/command.h"

namespace vmm {
namespace hw {
struct PortChangeData {
  std::string id;
  bool open = false;
};
}  // namespace hw
template <>
inline constexpr std::array fields<hw::PortChangeData> = {
    field<&hw::PortChangeData::id>("id", "The port's device."),
    field<&hw::PortChangeData::open>("open", "Whether the guest has opened it."),
};
}  // namespace vmm

namespace vmm::hw {

namespace {
constexpr control::EventInfo port_change{.name = "VSERPORT_CHANGE",
                                         .doc = "The guest has opened or closed a port.",
                                         .data = &Codec<PortChangeData>::description,
                                         .rate_limited = true};
control::RegisteredEvent registered_change{port_change};
constexpr usize piece_bytes = 32 * 1024;
constexpr unsigned requests_a_turn = 64;
}  // namespace

constexpr Field VirtioSerialPort::properties[3] = {
    field<&VirtioSerialPort::number_>("nr", "Number of the port; the first free one if not given."),
    field<&VirtioSerialPort::port_name_>("name", "Name that the guest sees: /dev/virtio-ports/NAME."),
    field<&VirtioSerialPort::chardev_>("chardev", "ID of a chardev to use as a backend"),
};
constexpr Field VirtioSerialPort::state[3] = {
    field<&VirtioSerialPort::guest_open_>("guest-open", "opened by the guest"),
    field<&VirtioSerialPort::told_open_>("host-open", "opened by the host, as the guest knows"),
    field<&VirtioSerialPort::out_done_>("out-done", "bytes of the first request that are written already"),
};
constinit const TypeInfo VirtioSerialPort::type{.name = "virtio-serial-port",
                                                .doc = "A port of bytes.",
                                                .parent = &Device::type,
                                                .properties = properties,
                                                .state = state,
                                                .user_creatable = false,
                                                .bus = "virtio-serial-bus"};
static Registered registered{VirtioSerialPort::type};

namespace {
class VirtSerialPort final : public VirtioSerialPort {
 public:
  static const TypeInfo type;
};
constinit const TypeInfo VirtSerialPort::type{.name = "virtserialport",
                                              .doc = "A named channel of bytes to the guest.",
                                              .parent = &VirtioSerialPort::type,
                                              .make = make<VirtSerialPort>,
                                              .category = "Input devices"};
Registered registered_port{VirtSerialPort::type};

class VirtConsole final : public VirtioSerialPort {
 public:
  static const TypeInfo type;
  bool is_console() const override { return true; }
};
constinit const TypeInfo VirtConsole::type{.name = "virtconsole",
                                           .doc = "A terminal of the guest: hvc0 and so on.",
                                           .parent = &VirtioSerialPort::type,
                                           .make = make<VirtConsole>,
                                           .category = "Input devices"};
Registered registered_console{VirtConsole::type};
}  // namespace

// --- Life

Result<> VirtioSerialPort::realize() {
  auto& serial = *static_cast<VirtioSerialBus*>(bus())->serial;
  host_open_ = chardev_ && chardev_->connected();
  TRY(serial.add_port(*this));
  if (chardev_)
    if (auto attached = chardev_->attach(*this); !attached) return serial.remove_port(*this), attached;
  return {};
}

Task<> VirtioSerialPort::unrealize() {
  serial_->remove_port(*this);
  if (chardev_) chardev_->detach(*this);
  co_return Result<>{};
}

void VirtioSerialPort::device_reset() {
  in_ = out_ = std::nullopt;
  out_done_ = 0;
  told_open_ = false;
  set_guest_open(false);
}

void VirtioSerialPort::set_guest_open(bool open) {
  if (guest_open_ == open) return;
  guest_open_ = open;
  show_guest_open();
}

void VirtioSerialPort::show_guest_open() {
  shown_open_ = guest_open_;
  if (chardev_) {
    chardev_->set_open(guest_open_);
    if (guest_open_) chardev_->accept_input();
  }
  if (!is_console() && !id().empty()) control::emit(port_change, Codec<PortChangeData>::to_value({.id = id(), .open = guest_open_}));
}

void VirtioSerialPort::settle() {
  if (shown_open_ != guest_open_) show_guest_open();
  serial_->tell_host_side(*this);
}

// A request is saved as not taken yet; what it has brought so far is remembered.
void VirtioSerialPort::hold_nothing() {
  if (in_) serial_->input_of(number_)->give_back(std::move(*in_)), in_ = std::nullopt;
  if (out_) serial_->output_of(number_)->give_back(std::move(*out_)), out_ = std::nullopt;
}

// --- From the guest

void VirtioSerialPort::output() {
  if (!serial_->running()) return;
  VirtQueue& q = *serial_->output_of(number_);
  bool any = false;
  for (unsigned budget = requests_a_turn; budget; budget--) {
    if (!out_) {
      out_ = q.pop();
      if (!out_) break;
    }
    // Nobody there: bytes go nowhere, as on a line without a plug.
    bool full = false;
    while (chardev_ && host_open_ && out_done_ < out_->readable_bytes()) {
      std::array<u8, piece_bytes> piece;
      const usize here = out_->copy_in(out_done_, std::span{piece}.first(std::min<u64>(piece.size(), out_->readable_bytes() - out_done_)));
      if (!here) break;  // memory that is none
      const usize taken = chardev_->write(std::span{piece}.first(here));
      out_done_ += taken;
      if (taken < here) {
        full = true;
        break;
      }
    }
    if (full) {
      if (any) q.notify();
      return;  // can_send() goes on
    }
    q.push(std::move(*out_), 0);
    out_ = std::nullopt, out_done_ = 0;
    any = true;
    if (budget == 1) serial_->kick(q.index());
  }
  if (any) q.notify();
}

// --- To the guest

bool VirtioSerialPort::take_input() {
  if (!serial_ || !serial_->running() || (!guest_open_ && serial_->multiport() && !is_console())) return false;
  if (in_) return true;
  in_ = serial_->input_of(number_)->pop();
  return in_.has_value();
}

usize VirtioSerialPort::can_receive() {
  if (!take_input()) return 0;
  return std::max<u64>(1, std::min<u64>(in_->writable_bytes(), piece_bytes));
}

void VirtioSerialPort::receive(std::span<const u8> bytes) {
  VirtQueue* q = serial_ ? serial_->input_of(number_) : nullptr;
  while (!bytes.empty() && take_input()) {
    const usize written = in_->copy_out(0, bytes);
    q->push(std::move(*in_), written);
    in_ = std::nullopt;
    if (!written) continue;  // a buffer that can hold nothing
    bytes = bytes.subspan(written);
  }
  if (q) q->notify();
}

void VirtioSerialPort::input_possible() {
  if (chardev_) chardev_->accept_input();
}

void VirtioSerialPort::char_event(ChardevEvent event) {
  if (event != ChardevEvent::opened && event != ChardevEvent::closed) return;
  const bool open = event == ChardevEvent::opened;
  if (host_open_ == open) return;
  host_open_ = open;
  if (!serial_) return;
  serial_->tell_host_side(*this);
  output();  // what waited for the other side goes on, or nowhere
}

}  // namespace vmm::hw
