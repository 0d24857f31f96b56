// The virtio serial bus: one virtio console device with up to 31 ports. Source: virtio 1.2 §5.3.
#pragma once

#include "hw/virtio/virtio_pci.h"
#include "src/chardev/chardev.h"

namespace vmm::hw {

class VirtioSerial;

// What the driver is told of a port.
struct SerialMessage {
  u32 port = 0;
  u16 event = 0, value = 0;
  std::string name;
};

class VirtioSerialBus final : public Bus {
 public:
  static const TypeInfo type;  // "virtio-serial-bus"
  std::string_view bus_type() const override { return "virtio-serial-bus"; }
  Result<> may_plug(Device& device) override;
  std::vector<std::string> describe(const Device& device) const override;
  VirtioSerial* serial = nullptr;
};

// A port: bytes between one pair of queues and a chardev.
class VirtioSerialPort : public Device, public CharFrontEnd {
 public:
  static const TypeInfo type;  // "virtio-serial-port"
  virtual bool is_console() const { return false; }
  u32 number() const { return number_; }
  const std::string& port_name() const { return port_name_; }
  bool guest_open() const { return guest_open_; }
  bool host_open() const { return host_open_; }
  void settle() override;  // after a load: the chardev here learns of the guest, the guest of the chardev here
  void set_guest_open(bool open);
  void device_reset();    // of the whole device: buffers are the guest's again
  void hold_nothing();    // before its state is saved
  void output();          // the guest has bytes for us
  void input_possible();  // the guest has given buffers
  void reset() override {}

  // --- CharFrontEnd
  usize can_receive() override;
  void receive(std::span<const u8> bytes) override;
  void char_event(ChardevEvent event) override;
  void can_send() override { output(); }

 protected:
  Result<> realize() override;
  Task<> unrealize() override;

 private:
  friend class VirtioSerial;
  VirtQueue* input() const;
  bool take_input();
  void show_guest_open();
  static const Field properties[3], state[3];
  VirtioSerial* serial_ = nullptr;
  u32 number_ = ~u32{0};
  std::string port_name_;
  Ref<Chardev> chardev_;
  bool guest_open_ = false, host_open_ = false;
  bool shown_open_ = false;        // what the chardev and the manager know of guest_open_
  bool told_open_ = false;         // what the guest was told of host_open_ last
  std::optional<Chain> in_, out_;  // under way
  u64 out_done_ = 0;
};

class VirtioSerial final : public VirtioDevice {
 public:
  static const TypeInfo type;  // "virtio-serial-device"
  static constexpr VirtioPciModel pci{.stem = "virtio-serial-pci",
                                      .doc = "Ports of bytes between guest and host.",
                                      .class_code = 0x078000,
                                      .legacy_id = 0x1003,
                                      .category = "Input devices",
                                      .alias = "virtio-serial"};
  VirtioSerial() : VirtioDevice(3) {}
  static constexpr u32 ports_limit = 31;

  // Port n's queues; null while there are none.
  VirtQueue* input_of(u32 port) const { return queue(port ? 2 + 2 * port : 0); }
  VirtQueue* output_of(u32 port) const { return queue(port ? 3 + 2 * port : 1); }
  Result<> add_port(VirtioSerialPort& port);  // takes its number, or gives it one
  void remove_port(VirtioSerialPort& port);
  void tell_host_side(VirtioSerialPort& port);  // where the guest knows it otherwise
  bool multiport() const { return has(1 << 1); }
  using VirtioDevice::running;

 private:
  Result<> realize_virtio() override;
  u64 device_features() const override;
  usize config_bytes() const override { return emergency_write_ ? 12 : 8; }
  void read_config(std::span<u8> image) const override;
  void write_config(std::span<const u8> image, usize first, usize count) override;
  void reset_virtio() override;
  void driver_ready() override;
  void queue_notified(unsigned n) override;
  void before_save() override;
  void control_received(const Chain& chain);
  void send_control(u32 port, u16 event, u16 value, std::string name = {});
  void flush_control();
  VirtioSerialPort* port(u32 number) const { return number < ports_.size() ? ports_[number] : nullptr; }
  static const Field properties[2], state[2];

  u32 max_ports_ = ports_limit;
  bool emergency_write_ = true;
  bool driver_knows_ports_ = false;  // DEVICE_READY has come
  std::array<VirtioSerialPort*, ports_limit> ports_{};
  std::vector<SerialMessage> control_;  // for buffers that the driver has not given yet
  Ref<VirtioSerialBus> bus_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array fields<hw::SerialMessage> = {
    field<&hw::SerialMessage::port>("port", "Number of the port."), field<&hw::SerialMessage::event>("event", "What is told."),
    field<&hw::SerialMessage::value>("value", "Its value."), field<&hw::SerialMessage::name>("name", "A port's name.")};
}  // namespace vmm
