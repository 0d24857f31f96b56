// USB: the bus, its sockets, and devices as controllers and hubs see them. Sources: USB 2.0 (chapters 5, 8, 9), USB 3.2 (§9.6, BOS).
// A transfer is one call: the device answers at once, or says "not yet" (NAK) and calls its controller when it has something. Main loop,
// machine lock held.
#pragma once

#include <array>
#include <span>

#include "hw/core/device.h"

namespace vmm::hw {

class UsbDevice;
class UsbBus;

enum class UsbSpeed : u8 { low, full, high, super };

enum class UsbStatus : u8 { ok, nak, stall, babble, gone };
struct UsbAnswer {
  UsbStatus status = UsbStatus::ok;
  u32 bytes = 0;  // moved
};

// The eight bytes of a SETUP packet (USB 2.0 §9.3).
struct UsbSetup {
  u8 type = 0, request = 0;
  u16 value = 0, index = 0, length = 0;
  bool in() const { return type & 0x80; }
  u16 code() const { return static_cast<u16>(type << 8 | request); }
};

// A place to plug a device into: of a root hub or of a hub.
struct UsbPort {
  std::string path;  // "1", "2.4"
  UsbDevice* device = nullptr;
  // What the socket carries, as a set of bits by UsbSpeed.
  u8 speeds = 0;
  // Whom it belongs to.
  struct Owner {
    virtual ~Owner() = default;
    virtual void usb_attached(UsbPort& port) = 0;
    virtual void usb_detached(UsbPort& port) = 0;
    virtual void usb_wakes(UsbPort& port) = 0;  // a suspended device asks for attention
  };
  Owner* owner = nullptr;
};

// A controller of slower devices that shares the ports of a faster one (EHCI 1.0 §4.2).
class UsbCompanion {
 public:
  virtual ~UsbCompanion() = default;
  // Whom that port of its leads to now; null: nobody. `loaded`: the port shows already what it is to show.
  virtual void routed(unsigned port, UsbDevice* device, bool loaded) = 0;
  virtual void woken(unsigned port) = 0;  // its device asks for attention
  virtual void nudged() = 0;              // a device that had nothing has something
};

// What a controller hears of all devices below it.
class UsbController {
 public:
  // A companion takes two of its ports, from `first` on.
  virtual Result<> join(UsbCompanion& companion, unsigned first) { return fail("this USB controller shares its ports with no other"); }
  virtual void part(UsbCompanion& companion) {}
  virtual ~UsbController() = default;
  virtual void endpoint_ready(UsbDevice& device, u8 endpoint) = 0;  // an endpoint that has said "not yet" has something now
  virtual void device_leaves(UsbDevice& device) = 0;
  virtual std::string serial_part() const { return {}; }  // where the controller is, for serial numbers: "0000:00:04.0"
};

class UsbBus final : public Bus {
 public:
  static const TypeInfo type;  // "usb-bus"
  std::string_view bus_type() const override { return "usb-bus"; }
  Result<> may_plug(Device& device) override;
  Result<> plugged(Device& device) override;  // takes `port`, or gives the first free one
  void unplugged(Device& device) override;
  std::string address_of(const Device& device) const override;
  std::vector<std::string> describe(const Device& device) const override;
  UsbPort* port(std::string_view path) const;
  void add_port(UsbPort& port) { ports_.push_back(&port); }
  void remove_port(UsbPort& port) { std::erase(ports_, &port); }
  UsbController* controller = nullptr;
  unsigned number = 0;

 private:
  std::vector<UsbPort*> ports_;
};

// Makes a bus with the name that QEMU gives it: "usb.0" for a controller with id=usb, "usb-bus.N" otherwise.
Ref<UsbBus> add_usb_bus(Device& controller, UsbController& wire);

class UsbDevice : public Device {
 public:
  static const TypeInfo type;  // "usb-device"
  UsbBus& usb() const { return *static_cast<UsbBus*>(bus()); }
  UsbPort* port() const { return port_; }
  UsbSpeed speed() const { return speed_; }
  bool works_at(UsbSpeed speed) const { return speed_bits() >> static_cast<u8>(speed) & 1; }
  void set_speed(UsbSpeed speed) { speed_ = speed; }  // its port leads to another controller now; a reset follows
  virtual std::string_view product() const = 0;
  u8 address() const { return address_; }

  // --- The controller's side
  void usb_reset();  // the port was reset: default address, no configuration
  void set_address(u8 address) { address_ = address; }
  // Standard requests are answered here; the rest is the class's. `data` has setup.length bytes at most.
  UsbAnswer control(const UsbSetup& setup, std::span<u8> data);
  // One transfer of an endpoint other than 0; bit 7 of the number says IN. A stalled endpoint stalls until it is cleared.
  UsbAnswer transfer(u8 endpoint, std::span<u8> data);
  u8 configuration() const { return configuration_; }
  bool remote_wakeup() const { return remote_wakeup_; }
  // The hub that this device is, with ports of its own; null for others.
  virtual UsbDevice* downstream(unsigned port) { return nullptr; }

  void reset() override { usb_reset(); }

 protected:
  struct Descriptors {
    u16 vendor = 0, product = 0, release = 0;
    std::string_view manufacturer, name, serial, configuration;       // `serial` is the stem: the place is added
    u8 name_string = 2, serial_string = 3, configuration_string = 4;  // their numbers
    u8 device_class = 0, protocol = 0;
    std::span<const u8> high{}, full{};  // configuration descriptor with all below it, by speed
  };
  virtual const Descriptors& descriptors() const = 0;
  virtual u8 speed_bits() const { return 1 << static_cast<u8>(UsbSpeed::full) | 1 << static_cast<u8>(UsbSpeed::high); }
  virtual UsbAnswer class_control(const UsbSetup& setup, std::span<u8> data) { return {UsbStatus::stall}; }
  virtual UsbAnswer class_transfer(u8 endpoint, std::span<u8> data) { return {UsbStatus::stall}; }
  virtual void class_reset() {}
  virtual void configured(bool on) {}
  // Descriptor of an interface or class that standard requests do not know (GET_DESCRIPTOR to an interface).
  virtual std::span<const u8> class_descriptor(u8 kind, u8 index) const { return {}; }
  void ready(u8 endpoint);  // tells the controller
  void wake();              // remote wake-up, if the host has allowed it
  static UsbAnswer answer(std::span<u8> data, std::span<const u8> with);

  Result<> realize() final;
  Task<> unrealize() final;
  virtual Result<> realize_usb() { return {}; }
  virtual Task<> unrealize_usb() { co_return Result<>{}; }

 private:
  friend class UsbBus;
  static const Field properties[], state[];
  std::vector<u8> descriptor(u8 kind, u8 index) const;
  std::string serial() const;
  std::string wanted_port_, serial_;
  bool full_path_ = true, msos_ = true;
  std::string pcap_;
  UsbPort* port_ = nullptr;
  UsbSpeed speed_ = UsbSpeed::full;
  u8 address_ = 0, configuration_ = 0;
  bool remote_wakeup_ = false;
  u32 halted_ = 0;  // bit n: OUT endpoint n, bit 16 + n: IN endpoint n
};

}  // namespace vmm::hw
