// usb-hub: a full-speed hub with eight ports. Source: USB 2.0 chapter 11 (requests §11.24, status §11.24.2).
#include <algorithm>

#include "hw/usb/usb.h"
#include "src/base/bits.h"

namespace vmm::hw {

namespace {
enum Request : u16 {
  get_hub_status = 0xa000,
  get_hub_descriptor = 0xa006,
  get_port_status = 0xa300,
  clear_hub_feature = 0x2001,
  set_hub_feature = 0x2003,
  clear_port_feature = 0x2301,
  set_port_feature = 0x2303,
};
enum Feature : u16 { port_enable = 1, port_suspend = 2, port_reset = 4, port_power = 8, first_change = 16, last_change = 20 };
enum PortBit : u16 { p_connected = 1, p_enabled = 2, p_suspended = 4, p_reset = 16, p_power = 0x100, p_low_speed = 0x200 };

constexpr unsigned ports = 8;
constexpr u8 hub_configuration[] = {9, 2,   25,   0, 1,
                                    1, 0,   0xe0, 0,  // self powered, remote wake-up
                                    9, 4,   0,    0, 1,
                                    9, 0,   0,    0,  // interface: hub
                                    7, 5,   0x81, 3, 1 + ports / 8,
                                    0, 0xff};  // interrupt IN: which ports have changed
// No power switching, no over-current protection; every device can be taken out.
constexpr u8 hub_descriptor[] = {11, 0x29, ports, 0x0a, 0, 1, 0, 0, 0, 0xff, 0xff};
}  // namespace

class UsbHub final : public UsbDevice, private UsbPort::Owner {
 public:
  static const TypeInfo type;
  std::string_view product() const override { return "QEMU USB Hub"; }
  UsbDevice* downstream(unsigned n) override {
    return n >= 1 && n <= ports && port_[n - 1].status & p_enabled ? sockets_[n - 1].device : nullptr;
  }

 protected:
  const Descriptors& descriptors() const override {
    static constexpr Descriptors d{.vendor = 0x0409,
                                   .product = 0x55aa,
                                   .release = 0x0101,
                                   .manufacturer = "QEMU",
                                   .name = "QEMU USB Hub",
                                   .serial = "314159",
                                   .device_class = 9,
                                   .full = hub_configuration};
    return d;
  }
  u8 speed_bits() const override { return 1 << static_cast<u8>(UsbSpeed::full); }

  Result<> realize_usb() override {
    // Six tiers at most (§4.1.1): a root port, five hubs.
    if (std::ranges::count(port()->path, '.') >= 4) return fail("usb hub chain too deep");
    constexpr u8 speeds = 1 << static_cast<u8>(UsbSpeed::low) | 1 << static_cast<u8>(UsbSpeed::full);
    for (unsigned n = 0; n < ports; n++) {
      sockets_[n].path = format("{}.{}", port()->path, n + 1);
      sockets_[n].speeds = speeds;
      sockets_[n].owner = this;
      usb().add_port(sockets_[n]);
    }
    return {};
  }
  Task<> unrealize_usb() override {
    for (UsbPort& s : sockets_) {
      if (s.device) {
        const Ref<Device> below{s.device};
        co_await below->detach();
      }
      usb().remove_port(s);
    }
    co_return Result<>{};
  }
  void class_reset() override {
    for (unsigned n = 0; n < ports; n++) {
      port_[n] = {.status = p_power};
      if (sockets_[n].device && sockets_[n].device->realized()) connect(n);
    }
  }

  UsbAnswer class_control(const UsbSetup& setup, std::span<u8> data) override {
    constexpr UsbAnswer stall{UsbStatus::stall}, done{};
    const unsigned n = (setup.index & 0xffu) - 1u;
    switch (setup.code()) {
      case get_hub_status: {
        constexpr u8 nothing[4] = {};
        return answer(data, nothing);
      }
      case get_hub_descriptor: return answer(data, hub_descriptor);
      case get_port_status: {
        if (n >= ports) return stall;
        std::array<u8, 4> words{};
        store_le<u16>(&words[0], port_[n].status), store_le<u16>(&words[2], port_[n].change);
        return answer(data, words);
      }
      case clear_hub_feature:
      case set_hub_feature: return setup.value <= 1 ? done : stall;
      case set_port_feature: return n < ports && set_feature(n, setup.value) ? done : stall;
      case clear_port_feature: return n < ports && clear_feature(n, setup.value) ? done : stall;
      default: return stall;
    }
  }
  UsbAnswer class_transfer(u8 endpoint, std::span<u8> data) override {
    if (endpoint != 0x81) return {UsbStatus::stall};
    std::array<u8, 1 + ports / 8> bits{};
    for (unsigned n = 0; n < ports; n++)
      if (port_[n].change) bits[(n + 1) / 8] |= static_cast<u8>(1u << (n + 1) % 8);
    if (std::ranges::all_of(bits, [](u8 b) { return b == 0; })) return {UsbStatus::nak};
    return answer(data, bits);
  }

 private:
  struct Port {
    u16 status = p_power, change = 0;
  };
  static const Field state[];

  void connect(unsigned n) {
    port_[n].status |= p_connected;
    if (sockets_[n].device->speed() == UsbSpeed::low) port_[n].status |= p_low_speed;
    changed(n, p_connected);
  }
  void changed(unsigned n, u16 bits) {
    port_[n].change |= bits;
    wake();
    ready(0x81);
  }
  bool set_feature(unsigned n, u16 feature) {
    Port& p = port_[n];
    switch (feature) {
      case port_reset:
        if (!sockets_[n].device || !(p.status & p_connected)) return true;
        sockets_[n].device->usb_reset();
        p.status = static_cast<u16>((p.status & ~p_suspended) | p_enabled);
        return changed(n, p_reset), true;
      case port_suspend:
        if (p.status & p_enabled) p.status |= p_suspended;
        return true;
      case port_power: return true;
      default: return false;
    }
  }
  bool clear_feature(unsigned n, u16 feature) {
    Port& p = port_[n];
    if (feature >= first_change && feature <= last_change) {
      p.change &= static_cast<u16>(~(1u << (feature - first_change)));
      return true;
    }
    switch (feature) {
      case port_enable: p.status &= static_cast<u16>(~p_enabled); return true;
      case port_suspend:
        if (p.status & p_suspended) p.status &= static_cast<u16>(~p_suspended), changed(n, p_suspended);
        return true;
      case port_power: return true;
      default: return false;
    }
  }

  void usb_attached(UsbPort& socket) override {
    machine().main_loop().post([this, hold = Ref<UsbHub>{this}, at = &socket] {
      const unsigned n = static_cast<unsigned>(at - sockets_.data());
      if (realized() && at->device && at->device->realized() && !(port_[n].status & p_connected)) connect(n);
    });
  }
  void usb_detached(UsbPort& socket) override {
    const unsigned n = static_cast<unsigned>(&socket - sockets_.data());
    port_[n].status = p_power;
    changed(n, p_connected);
  }
  void usb_wakes(UsbPort& socket) override {
    const unsigned n = static_cast<unsigned>(&socket - sockets_.data());
    if (port_[n].status & p_suspended) clear_feature(n, port_suspend);
  }
  std::vector<u32> words() const {
    std::vector<u32> w;
    for (const Port& p : port_) w.push_back(u32{p.change} << 16 | p.status);
    return w;
  }
  Result<> set_words(const std::vector<u32>& w) {
    if (w.size() != ports) return fail("{} ports of a USB hub, {} are due", w.size(), ports);
    for (unsigned n = 0; n < ports; n++) port_[n] = {static_cast<u16>(w[n]), static_cast<u16>(w[n] >> 16 & 0x1f)};
    return {};
  }

  std::array<UsbPort, ports> sockets_{};
  std::array<Port, ports> port_{};
};
constexpr Field UsbHub::state[] = {
    computed<&UsbHub::words, &UsbHub::set_words>("ports", "status and changes of the ports"),
};
constinit const TypeInfo UsbHub::type{
    .name = "usb-hub", .doc = "A USB hub.", .parent = &UsbDevice::type, .state = state, .make = make<UsbHub>, .category = "USB devices"};
static Registered registered{UsbHub::type};

}  // namespace vmm::hw
