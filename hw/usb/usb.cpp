// What all USB devices and buses share. Sources: USB 2.0 §9.4 (standard requests), §9.6 (descriptors); names and texts: QEMU 7.2, observed.
#include "hw/usb/usb.h"

#include <algorithm>
#include <bit>

#include "src/control/command.h"

namespace vmm::hw {

namespace {
enum Request : u16 {
  get_device_status = 0x8000,
  clear_device_feature = 0x0001,
  set_device_feature = 0x0003,
  set_address_request = 0x0005,
  get_device_descriptor = 0x8006,
  get_configuration = 0x8008,
  set_configuration = 0x0009,
  get_interface_status = 0x8100,
  get_interface_descriptor = 0x8106,
  get_interface = 0x810a,
  set_interface = 0x010b,
  get_endpoint_status = 0x8200,
  clear_endpoint_feature = 0x0201,
  set_endpoint_feature = 0x0203,
};
enum DescriptorKind : u8 { d_device = 1, d_configuration = 2, d_string = 3, d_qualifier = 6, d_other_speed = 7 };
constexpr u16 f_endpoint_halt = 0, f_remote_wakeup = 1;

constexpr std::string_view speed_names[] = {"1.5", "12", "480", "5000"};

u32 halt_bit(u8 endpoint) { return u32{1} << ((endpoint & 15) + (endpoint & 0x80 ? 16 : 0)); }
}  // namespace

// --- Bus

constinit const TypeInfo UsbBus::type{
    .name = "usb-bus", .doc = "A USB bus.", .parent = &Bus::type, .make = make<UsbBus>, .user_creatable = false};
static Registered registered_bus{UsbBus::type};

Ref<UsbBus> add_usb_bus(Device& controller, UsbController& wire) {
  Ref<UsbBus> bus = make_object<UsbBus>();
  bus->controller = &wire;
  std::vector<unsigned> taken;
  std::vector<std::string> names;
  for_each_device(controller.machine(), [&](Device& device) {
    for (Bus* other : device.buses())
      if (auto* usb = dynamic_cast<UsbBus*>(other)) taken.push_back(usb->number), names.push_back(usb->name());
  });
  while (std::ranges::find(taken, bus->number) != taken.end()) bus->number++;
  controller.add_bus(controller.id().empty() ? format("usb-bus.{}", bus->number) : format("{}.0", controller.id()), bus);
  return bus;
}

UsbPort* UsbBus::port(std::string_view path) const {
  const auto at = std::ranges::find(ports_, path, [](const UsbPort* p) { return std::string_view{p->path}; });
  return at == ports_.end() ? nullptr : *at;
}

Result<> UsbBus::may_plug(Device& device) {
  if (!dynamic_cast<UsbDevice*>(&device)) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  return {};
}

Result<> UsbBus::plugged(Device& device) {
  auto& d = static_cast<UsbDevice&>(device);
  UsbPort* to = nullptr;
  if (!d.wanted_port_.empty()) {
    to = port(d.wanted_port_);
    if (!to || to->device) {
      std::string free;
      for (const UsbPort* p : ports_)
        if (!p->device) free += format("{}{}", free.empty() ? "" : ", ", p->path);
      return std::unexpected(Error{to ? format("usb port {} (bus {}) is taken by {}", d.wanted_port_, name(), to->device->path())
                                      : format("usb port {} (bus {}) not found (in use?)", d.wanted_port_, name())}
                                 .with_hint(free.empty() ? std::string{"This bus has no free port"} : format("Free ports: {}", free)));
    }
  } else {
    for (UsbPort* p : ports_)
      if (!p->device && !to) to = p;
    if (!to) return fail("tried to attach usb device {} to a bus with no free ports", d.product());
  }
  const u8 both = d.speed_bits() & to->speeds;
  if (!both)
    return fail("Warning: speed mismatch trying to attach usb device \"{}\" to bus \"{}\", port \"{}\"", d.product(), name(), to->path);
  d.speed_ = static_cast<UsbSpeed>(std::bit_width(unsigned{both}) - 1);
  d.port_ = to;
  to->device = &d;
  return {};
}

void UsbBus::unplugged(Device& device) {
  auto& d = static_cast<UsbDevice&>(device);
  if (!d.port_) return;
  UsbPort& port = *std::exchange(d.port_, nullptr);
  port.device = nullptr;
}

std::string UsbBus::address_of(const Device& device) const {
  const auto& d = static_cast<const UsbDevice&>(device);
  return d.port_ ? d.port_->path : std::string{};
}

std::vector<std::string> UsbBus::describe(const Device& device) const {
  const auto& d = static_cast<const UsbDevice&>(device);
  return {format("addr {}.{}, port {}, speed {}, name {}{}", number, d.address_, d.port_ ? d.port_->path : "-",
                 speed_names[static_cast<usize>(d.speed_)], d.product(), d.port_ ? ", attached" : "")};
}

// --- Device

constexpr Field UsbDevice::properties[] = {
    field<&UsbDevice::wanted_port_>("port", "Port of the bus: 1, or 1.2 behind a hub; the first free one if not given."),
    field<&UsbDevice::serial_>("serial", "Serial number that the guest reads."),
    field<&UsbDevice::full_path_>("full-path", "Serial numbers name the whole place."),
    field<&UsbDevice::msos_>("msos-desc", "Taken for compatibility; without effect."),
    field<&UsbDevice::pcap_>("pcap", "Taken for compatibility; must be empty."),
};
constexpr Field UsbDevice::state[] = {
    field<&UsbDevice::address_>("address", "address that the host has given", {.max = 127}),
    field<&UsbDevice::configuration_>("configuration", "configuration that the host has chosen", {.max = 1}),
    field<&UsbDevice::remote_wakeup_>("remote-wakeup", "may wake the host"),
    field<&UsbDevice::halted_>("halted", "endpoints that stall"),
};
constinit const TypeInfo UsbDevice::type{.name = "usb-device",
                                         .doc = "A USB device.",
                                         .parent = &Device::type,
                                         .properties = properties,
                                         .state = state,
                                         .user_creatable = false,
                                         .bus = "usb-bus"};
static Registered registered{UsbDevice::type};

Result<> UsbDevice::realize() {
  if (!pcap_.empty()) return fail("'pcap' is not built in: this device's packets are not recorded");
  TRY(realize_usb());
  if (port_ && port_->owner) port_->owner->usb_attached(*port_);
  return {};
}

Task<> UsbDevice::unrealize() {
  if (bus() && usb().controller) usb().controller->device_leaves(*this);
  if (port_ && port_->owner) port_->owner->usb_detached(*port_);
  co_return co_await unrealize_usb();
}

void UsbDevice::usb_reset() {
  address_ = 0;
  halted_ = 0;
  remote_wakeup_ = false;
  if (std::exchange(configuration_, u8{0})) configured(false);
  class_reset();
}

void UsbDevice::ready(u8 endpoint) {
  if (realized() && configuration_ && bus() && usb().controller) usb().controller->endpoint_ready(*this, endpoint);
}

void UsbDevice::wake() {
  if (realized() && remote_wakeup_ && port_ && port_->owner) port_->owner->usb_wakes(*port_);
}

UsbAnswer UsbDevice::answer(std::span<u8> data, std::span<const u8> with) {
  const usize n = std::min(data.size(), with.size());
  std::copy_n(with.begin(), n, data.begin());
  return {UsbStatus::ok, static_cast<u32>(n)};
}

std::string UsbDevice::serial() const {
  if (!serial_.empty()) return serial_;
  std::string text{descriptors().serial};
  if (text.empty() || !full_path_ || !bus()) return text;
  if (usb().controller)
    if (const std::string part = usb().controller->serial_part(); !part.empty()) text += "-" + part;
  return port_ ? format("{}-{}", text, port_->path) : text;
}

std::vector<u8> UsbDevice::descriptor(u8 kind, u8 index) const {
  const Descriptors& d = descriptors();
  const bool high = speed_ == UsbSpeed::high, can_high = !d.high.empty();
  const std::span<const u8> mine = high ? d.high : d.full, other = high ? d.full : d.high;
  const auto low = [](u16 v) { return static_cast<u8>(v); };
  const auto top = [](u16 v) { return static_cast<u8>(v >> 8); };
  const u16 usb_version = can_high ? 0x0200 : 0x0110;
  const u8 packet = high ? 64 : 8;
  switch (kind) {
    case d_device:
      return {18,
              d_device,
              low(usb_version),
              top(usb_version),
              d.device_class,
              0,
              d.protocol,
              packet,
              low(d.vendor),
              top(d.vendor),
              low(d.product),
              top(d.product),
              low(d.release),
              top(d.release),
              1,
              d.name_string,
              d.serial_string,
              1};
    case d_qualifier:
      if (!can_high || d.full.empty()) return {};
      return {10, d_qualifier, 0x00, 0x02, d.device_class, 0, d.protocol, static_cast<u8>(high ? 8 : 64), 1, 0};
    case d_configuration:
    case d_other_speed: {
      const std::span<const u8> chosen = kind == d_configuration ? mine : other;
      if (index != 0 || chosen.empty()) return {};
      std::vector<u8> bytes{chosen.begin(), chosen.end()};
      bytes[1] = kind;
      return bytes;
    }
    case d_string: {
      if (index == 0) return {4, d_string, 0x09, 0x04};
      std::string text;
      if (index == 1) text = d.manufacturer;
      if (index == d.name_string) text = d.name;
      if (index == d.serial_string) text = serial();
      if (index == d.configuration_string) text = d.configuration;
      if (text.empty()) return {};
      text.resize(std::min<usize>(text.size(), 126));
      std::vector<u8> bytes{static_cast<u8>(2 + 2 * text.size()), d_string};
      for (const char c : text) bytes.push_back(static_cast<u8>(c)), bytes.push_back(0);
      return bytes;
    }
    default: return {};
  }
}

UsbAnswer UsbDevice::control(const UsbSetup& setup, std::span<u8> data) {
  constexpr UsbAnswer stall{UsbStatus::stall}, done{};
  const auto tell = [&](std::initializer_list<u8> bytes) { return answer(data, {bytes.begin(), bytes.size()}); };
  const u8 endpoint = static_cast<u8>(setup.index);
  switch (setup.code()) {
    case get_device_status: {
      const std::span<const u8> c = speed_ == UsbSpeed::high ? descriptors().high : descriptors().full;
      return tell({static_cast<u8>((c.size() > 7 && c[7] & 0x40 ? 1 : 0) | (remote_wakeup_ ? 2 : 0)), 0});
    }
    case clear_device_feature:
    case set_device_feature:
      if (setup.value != f_remote_wakeup) return stall;
      remote_wakeup_ = setup.request == 3;
      return done;
    case set_address_request: return address_ = setup.value & 0x7f, done;
    case get_device_descriptor: {
      const std::vector<u8> bytes = descriptor(static_cast<u8>(setup.value >> 8), static_cast<u8>(setup.value));
      return bytes.empty() ? stall : answer(data, bytes);
    }
    case get_configuration: return tell({configuration_});
    case set_configuration: {
      if (setup.value > 1) return stall;
      const bool on = setup.value == 1;
      configuration_ = on;
      halted_ = 0;
      return configured(on), done;
    }
    case get_interface_status: return tell({0, 0});
    case get_interface: return tell({0});
    case set_interface: return setup.value == 0 ? done : stall;
    case get_endpoint_status: return tell({static_cast<u8>(halted_ & halt_bit(endpoint) ? 1 : 0), 0});
    case clear_endpoint_feature:
    case set_endpoint_feature:
      if (setup.value != f_endpoint_halt) return stall;
      if (endpoint & 15) halted_ = setup.request == 3 ? halted_ | halt_bit(endpoint) : halted_ & ~halt_bit(endpoint);
      return done;
    case get_interface_descriptor: {
      const auto bytes = class_descriptor(static_cast<u8>(setup.value >> 8), static_cast<u8>(setup.value));
      return bytes.empty() ? stall : answer(data, bytes);
    }
    default: return class_control(setup, data);
  }
}

UsbAnswer UsbDevice::transfer(u8 endpoint, std::span<u8> data) {
  if (!configuration_ || halted_ & halt_bit(endpoint)) return {UsbStatus::stall};
  const UsbAnswer given = class_transfer(endpoint, data);
  if (given.status == UsbStatus::stall) halted_ |= halt_bit(endpoint);
  return given;
}

// --- info usb

static Result<std::string> info_usb(control::Context&, std::span<const std::string>) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("There is no machine yet");
  std::string out;
  bool any = false;
  for_each_device(*machine, [&](Device& device) {
    for (Bus* bus : device.buses())
      if (auto* usb = dynamic_cast<UsbBus*>(bus)) {
        any = true;
        for (const Device* d : usb->devices()) {
          const auto* u = dynamic_cast<const UsbDevice*>(d);
          if (!u || !u->port()) continue;
          out += format("  Device {}.{}, Port {}, Speed {} Mb/s, Product {}{}\n", usb->number, u->address(), u->port()->path,
                        speed_names[static_cast<usize>(u->speed())], u->product(), u->id().empty() ? "" : format(", ID: {}", u->id()));
        }
      }
  });
  if (!any) return std::string{"USB support not enabled\n"};
  return out;
}
static control::Registered registered_info{
    control::human<info_usb>({.doc = "USB devices.", .human = "info usb", .human_help = "show guest USB devices"})};

}  // namespace vmm::hw
