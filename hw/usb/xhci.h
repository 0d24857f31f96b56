// qemu-xhci: what its parts share. xhci.cpp: registers, ports, events, state; xhci_rings.cpp: commands and transfers. Source: xHCI 1.1.
// Everything runs on the main loop's lock: doorbells carry out a bounded amount of work at once and post the rest. Back-pressure instead of
// queues: a command or transfer whose events have no room in the event ring stays in its ring until the driver has made room.
#pragma once

#include <optional>

#include "hw/pci/pci.h"
#include "hw/usb/usb.h"

namespace vmm::hw {

namespace xhci {

constexpr unsigned most_slots = 64, most_interrupters = 16, most_ports = 15;  // ports: of each speed
constexpr unsigned endpoints = 31;                                            // a slot's, by device context index 1 to 31
constexpr u32 most_trbs = 512;                                                // of one transfer
constexpr u32 most_bytes = 4 * MiB;
constexpr u32 most_links = 32;  // one after another

enum TrbType : u8 {
  t_normal = 1,
  t_setup = 2,
  t_data = 3,
  t_status = 4,
  t_isoch = 5,
  t_link = 6,
  t_event_data = 7,
  t_no_op = 8,
  t_enable_slot = 9,
  t_disable_slot = 10,
  t_address_device = 11,
  t_configure_endpoint = 12,
  t_evaluate_context = 13,
  t_reset_endpoint = 14,
  t_stop_endpoint = 15,
  t_set_dequeue = 16,
  t_reset_device = 17,
  t_no_op_command = 23,
  t_transfer_event = 32,
  t_command_completion = 33,
  t_port_change = 34,
};
enum Code : u8 {
  c_success = 1,
  c_data_buffer = 2,
  c_babble = 3,
  c_transaction = 4,
  c_trb = 5,
  c_stall = 6,
  c_no_slots = 9,
  c_slot_not_enabled = 11,
  c_endpoint_not_enabled = 12,
  c_short_packet = 13,
  c_parameter = 17,
  c_context_state = 19,
  c_ring_stopped = 24,
  c_aborted = 25,
};
enum TrbFlag : u32 { f_cycle = 1, f_toggle = 2, f_isp = 4, f_chain = 16, f_ioc = 32, f_immediate = 64, f_block_interrupt = 512 };

struct Trb {
  u64 parameter = 0;
  u32 status = 0, control = 0;
  u64 at = 0;  // where it was read
  u8 type() const { return control >> 10 & 63; }
  u32 length() const { return status & 0x1ffff; }
  unsigned interrupter() const { return status >> 22; }
};

struct Ring {
  u64 dequeue = 0;
  bool cycle = false;
};

enum EndpointState : u8 { e_disabled = 0, e_running = 1, e_halted = 2, e_stopped = 3, e_error = 4 };
enum SlotState : u8 { s_off = 0xff, s_enabled = 0, s_default = 1, s_addressed = 2, s_configured = 3 };

struct Endpoint {
  EndpointState state = e_disabled;
  u8 type = 0;
  Ring ring;
  bool waits = false;  // rung, and not at rest: to be tried again when there is room, or when its device has something
};
struct Slot {
  SlotState state = s_off;
  u64 context = 0;  // device context in memory
  u8 root_port = 0;
  u32 route = 0;
  UsbDevice* device = nullptr;
  std::array<Endpoint, endpoints + 1> endpoints{};
};
struct Interrupter {
  u32 management = 0, moderation = 0, table_size = 0;
  u64 table = 0, dequeue = 0;
  // The one segment that the table names, and where we are in it.
  u64 segment = 0;
  u32 entries = 0, index = 0;
  bool cycle = true;
};
struct Port {
  u32 status = 0;
  bool notice = false;  // a port status change event is due
};

}  // namespace xhci

class Xhci final : public PciDevice, private UsbController, private UsbPort::Owner {
 public:
  static const TypeInfo type;
  Xhci();
  void reset() override;
  void settle() override;
  std::string firmware_node() const override { return format("usb@{:x}", slot()) + (function() ? format(",{}", function()) : ""); }

 private:
  static const Field properties[8], state[];
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  Result<> after_load() override;

  // --- Registers
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  u32 capability(u32 at) const;
  u32 operational(u32 at) const;
  u32 runtime(u32 at) const;
  void write_operational(u32 at, u32 value);
  void write_runtime(u32 at, u32 value);
  void write_port(unsigned port, u32 value);
  void doorbell(unsigned slot, u32 value);
  void run(bool on);
  void controller_reset();
  void stop_with(u32 status_bit, std::string_view why);
  bool running() const { return command_ & 1; }

  // --- Ports
  void find_devices();
  unsigned port_count() const { return usb2_ports_ + usb3_ports_; }
  unsigned port_of(const UsbPort& port, const UsbDevice& device) const;
  void refresh_port(unsigned port);
  void port_changed(unsigned port, u32 bits);
  UsbDevice* device_at(u8 root_port, u32 route) const;
  void usb_attached(UsbPort& port) override;
  void usb_detached(UsbPort& port) override;
  void usb_wakes(UsbPort& port) override;
  void endpoint_ready(UsbDevice& device, u8 endpoint) override;
  void device_leaves(UsbDevice& device) override;
  std::string serial_part() const override;

  // --- Events
  u32 room(unsigned interrupter);
  bool send_event(unsigned interrupter, xhci::Trb event, bool interrupt = true);
  void raise(unsigned interrupter);
  void update_line();
  void load_segment(unsigned interrupter);

  // --- Rings (xhci_rings.cpp)
  void later();  // the rest of the work, from the main loop
  void work();
  std::optional<xhci::Trb> fetch(xhci::Ring& ring);  // moves on; null: nothing there, or the ring is broken (then we have stopped)
  bool run_commands(unsigned& budget);
  xhci::Code carry_out(const xhci::Trb& command, u8& slot);
  xhci::Code address_device(xhci::Slot& slot, u8 number, const xhci::Trb& command);
  xhci::Code configure_endpoints(xhci::Slot& slot, const xhci::Trb& command);
  xhci::Code evaluate_context(xhci::Slot& slot, const xhci::Trb& command);
  xhci::Code endpoint_command(xhci::Slot& slot, const xhci::Trb& command);
  xhci::Code reset_device(xhci::Slot& slot);
  void disable_slot(xhci::Slot& slot);
  bool run_endpoint(u8 slot, unsigned endpoint, unsigned& budget);
  struct Transfer;
  bool carry_out(u8 slot, unsigned endpoint, Transfer& transfer);
  bool carry_out_control(u8 slot, Transfer& transfer);
  bool gather(xhci::Endpoint& endpoint, unsigned number, Transfer& transfer);
  bool copy(const Transfer& transfer, std::span<u8> bytes, bool to_guest);
  void transfer_event(u8 slot, unsigned endpoint, const xhci::Trb& trb, xhci::Code code, u32 length, bool event_data = false);
  void halt(u8 slot, unsigned endpoint);
  using Context = std::array<u32, 8>;
  bool read_context(u64 at, Context& into);
  bool write_context(u64 at, const Context& from);
  void write_endpoint_state(xhci::Slot& slot, unsigned endpoint);

  // --- State
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);

  u32 usb2_ports_ = 4, usb3_ports_ = 4, interrupters_ = 16, slots_ = 64;
  std::string msi_ = "auto", msix_ = "auto", host_ = "";
  bool streams_ = true;

  u32 command_ = 0, status_ = 1, notification_ = 0, config_ = 0;
  u64 contexts_ = 0;  // DCBAAP
  xhci::Ring commands_;
  u64 command_pointer_low_ = 0;  // CRCR, its low half until the high one is written
  bool commands_running_ = false, commands_rung_ = false, posted_ = false;
  bool loaded_ = false;  // slots are to find their devices
  std::array<xhci::Interrupter, xhci::most_interrupters> interrupter_{};
  std::array<xhci::Slot, xhci::most_slots + 1> slot_{};
  std::array<xhci::Port, 2 * xhci::most_ports> port_{};
  std::array<UsbPort, xhci::most_ports> sockets_{};
  Ref<UsbBus> bus_;
  memory::MemoryRegion bar_, registers_;
};

}  // namespace vmm::hw
