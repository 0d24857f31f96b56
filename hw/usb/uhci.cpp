// UHCI controllers: those of PIIX3, PIIX4 and ICH9, the latter as companions of an EHCI controller too. Source: UHCI Design Guide 1.1
// (registers §2.1, data structures §3, execution §3.4). A frame's list is walked when the frame has passed; while nothing moves, several
// frames are walked at once and the host rests between them. Not modelled: isochronous transfers (their descriptors are passed over), the
// order of data toggles.
#include <algorithm>
#include <array>

#include "hw/pci/pci.h"
#include "hw/usb/control_pipe.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {

constexpr unsigned ports = 2;
constexpr u32 bytes_a_frame = 1280, links_a_frame = 512;
constexpr Nanoseconds frame_time{1'000'000};
constexpr unsigned most_frames = 8;  // at once: how long the host rests at most

enum Register : u32 { r_command = 0x00, r_status = 0x02, r_interrupts = 0x04, r_frame = 0x06, r_list = 0x08, r_sof = 0x0c, r_ports = 0x10 };
enum Command : u16 { cmd_run = 1, cmd_reset = 2, cmd_bus_reset = 4, cmd_suspended = 8 };
enum Status : u16 { st_interrupt = 1, st_error = 2, st_resume = 4, st_system_error = 8, st_process_error = 16, st_halted = 32 };
enum Interrupt : u16 { int_error = 1, int_resume = 2, int_complete = 4, int_short = 8 };
enum PortBits : u16 {
  p_connected = 1,
  p_connect_change = 2,
  p_enabled = 4,
  p_enable_change = 8,
  p_resume = 0x40,
  p_always = 0x80,
  p_low_speed = 0x100,
  p_reset = 0x200,
  p_suspended = 0x1000,
  p_changes = p_connect_change | p_enable_change,
};
enum Link : u32 { l_end = 1, l_queue = 2, l_depth_first = 4 };
enum Control : u32 {
  c_nak = 1 << 19,
  c_babble = 1 << 20,
  c_timeout = 1 << 18,
  c_stalled = 1 << 22,
  c_active = 1 << 23,
  c_complete = 1 << 24,
  c_isochronous = 1 << 25,
  c_short = 1 << 29,
};
enum Packet : u8 { pid_in = 0x69, pid_out = 0xe1, pid_setup = 0x2d };

struct Kind {
  std::string_view name;
  u16 device = 0;
  u8 revision = 1, pin = 4;
  bool may_share = false;
};

}  // namespace

class Uhci : public PciDevice, private UsbController, private UsbPort::Owner, private UsbCompanion {
 public:
  static const TypeInfo type;
  explicit Uhci(const Kind& kind)
      : PciDevice({.vendor = 0x8086, .device = kind.device, .revision = kind.revision, .class_code = 0x0c0300}), pin_(kind.pin) {}
  void reset() override;
  void settle() override;

 protected:
  static const Field sharing[2];
  std::string master_bus_;
  u32 first_port_ = 0;

 private:
  static const Field properties[2], state[];
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  Result<> after_load() override;

  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  void write_word(u32 at, u16 value);
  void write_port(unsigned port, u16 value);
  void controller_reset();
  void halt(u16 status_bit, std::string_view why);
  void update_line();
  bool running() const { return command_ & cmd_run; }

  // --- Ports
  UsbDevice* device_on(unsigned port) const { return shared_ ? routed_[port] : sockets_[port].device; }
  UsbDevice* device_at(u8 address) const;
  void refresh_port(unsigned port);
  void wake_port(unsigned port);
  void usb_attached(UsbPort& port) override;
  void usb_detached(UsbPort& port) override;
  void usb_wakes(UsbPort& port) override { wake_port(static_cast<unsigned>(&port - sockets_.data())); }
  void endpoint_ready(UsbDevice&, u8) override { nudged(); }
  void device_leaves(UsbDevice& device) override {}
  std::string serial_part() const override { return format("0000:{:02x}:{:02x}.{}", pci().number(), slot(), function()); }
  void routed(unsigned port, UsbDevice* device, bool loaded) override;
  void woken(unsigned port) override { wake_port(port); }
  void nudged() override;

  // --- Frames
  u16 frame_now() const;
  void frames();
  void walk(u16 frame);
  // What became of a transfer descriptor: only `moved` lets its queue go on.
  enum class Outcome : u8 { moved, stays, broken };
  Outcome carry_out(u32 at, std::array<u32, 4>& td);
  bool read_words(u32 at, std::span<u32> into);
  bool write_word32(u32 at, u32 value);

  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);

  u32 bandwidth_ = bytes_a_frame, max_frames_ = 128;
  u8 pin_;
  u16 command_ = 0, status_ = st_halted, interrupts_ = 0, frame_ = 0;
  u32 list_ = 0;
  u8 sof_ = 64;
  bool completed_ = false, was_short_ = false;  // which of the two causes st_interrupt has
  std::array<u16, ports> port_{};
  UsbControlPipes pipes_;

  u64 started_ns_ = 0;  // when frame_ was the frame
  u64 walked_ = 0;      // frames since then that were walked
  unsigned rest_ = 1;   // frames until the next look
  u32 left_ = 0;        // bytes that this frame still has time for
  bool any_ = false;    // something moved in this turn
  bool shared_ = false;
  std::array<UsbPort, ports> sockets_{};
  std::array<UsbDevice*, ports> routed_{};
  Ref<UsbBus> bus_;
  UsbController* host_ = nullptr;
  Ref<Device> host_device_;
  memory::MemoryRegion registers_;
  Timer tick_{Clock::guest, on<&Uhci::frames>, *this};
};

constexpr Field Uhci::properties[2] = {
    field<&Uhci::bandwidth_>("bandwidth", "Bytes that a frame has time for.", {.min = 64, .max = 65536}),
    field<&Uhci::max_frames_>("maxframes", "Taken for compatibility; without effect."),
};
constexpr Field Uhci::sharing[2] = {
    field<&Uhci::master_bus_>("masterbus", "Bus of the EHCI controller whose companion this is."),
    field<&Uhci::first_port_>("firstport", "First of the two ports of that controller.", {.max = 15}),
};
constexpr Field Uhci::state[] = {
    computed<&Uhci::words, &Uhci::set_words>("registers", "registers, ports and control transfers"),
};
constinit const TypeInfo Uhci::type{.name = "pci-uhci-usb-controller",
                                    .doc = "A USB 1 host controller.",
                                    .parent = &PciDevice::type,
                                    .properties = properties,
                                    .state = state,
                                    .user_creatable = false};
static Registered registered{Uhci::type};

// --- The sorts of it

namespace {

constexpr Kind kinds[] = {
    {"piix3-usb-uhci", 0x7020},
    {"piix4-usb-uhci", 0x7112},
    {"ich9-usb-uhci1", 0x2934, 3, 1, true},
    {"ich9-usb-uhci2", 0x2935, 3, 2, true},
    {"ich9-usb-uhci3", 0x2936, 3, 3, true},
    {"ich9-usb-uhci4", 0x2937, 3, 1, true},
    {"ich9-usb-uhci5", 0x2938, 3, 2, true},
    {"ich9-usb-uhci6", 0x2939, 3, 3, true},
};

template <unsigned N>
class UhciOf final : public Uhci {
 public:
  UhciOf() : Uhci(kinds[N]) {}
  static constexpr std::span<const Field> own() { return kinds[N].may_share ? std::span<const Field>{sharing} : std::span<const Field>{}; }
  static const TypeInfo type;
};
template <unsigned N>
constinit const TypeInfo UhciOf<N>::type{.name = kinds[N].name,
                                         .doc = "A USB 1 host controller.",
                                         .parent = &Uhci::type,
                                         .properties = own(),
                                         .make = make<UhciOf<N>>,
                                         .category = "USB devices"};
const Registered registered_kinds[]{Registered{UhciOf<0>::type}, Registered{UhciOf<1>::type}, Registered{UhciOf<2>::type},
                                    Registered{UhciOf<3>::type}, Registered{UhciOf<4>::type}, Registered{UhciOf<5>::type},
                                    Registered{UhciOf<6>::type}, Registered{UhciOf<7>::type}};

}  // namespace

// --- Life

Result<> Uhci::realize_pci() {
  set_interrupt_pin(pin_);
  set_config(0x60, 0x10, 1);  // release number of USB: 1.0
  registers_.init_io<&Uhci::read, &Uhci::write>(*this, "uhci", 32, {.min = 1, .max = 4});
  add_bar(4, PciBarKind::io, registers_);
  shared_ = !master_bus_.empty();
  if (shared_) {
    for_each_device(machine(), [&](Device& device) {
      for (Bus* bus : device.buses())
        if (auto* usb = dynamic_cast<UsbBus*>(bus); usb && usb->name() == master_bus_)
          host_ = usb->controller, host_device_ = Ref<Device>{&device};
    });
    if (!host_) return fail("USB bus '{}' not found", master_bus_);
    if (auto joined = host_->join(*this, first_port_); !joined) return host_ = nullptr, host_device_ = nullptr, joined;
    return {};
  }
  bus_ = add_usb_bus(*this, *this);
  for (unsigned n = 0; n < ports; n++) {
    sockets_[n].path = format("{}", n + 1);
    sockets_[n].speeds = 1 << static_cast<u8>(UsbSpeed::low) | 1 << static_cast<u8>(UsbSpeed::full);
    sockets_[n].owner = this;
    bus_->add_port(sockets_[n]);
  }
  return {};
}

Task<> Uhci::unrealize_pci() {
  tick_.cancel();
  if (host_ && host_device_->realized()) host_->part(*this);
  host_ = nullptr, host_device_ = nullptr;
  if (bus_) {
    for (UsbPort& s : sockets_) bus_->remove_port(s);
    bus_->controller = nullptr;
  }
  co_return Result<>{};
}

void Uhci::reset() {
  PciDevice::reset();
  controller_reset();
}

void Uhci::settle() {
  PciDevice::settle();
  update_line();
}

void Uhci::controller_reset() {
  tick_.cancel();
  command_ = interrupts_ = frame_ = 0, status_ = st_halted, list_ = 0, sof_ = 64;
  completed_ = was_short_ = false;
  pipes_.clear();
  for (unsigned n = 0; n < ports; n++) port_[n] = 0, refresh_port(n);
}

void Uhci::halt(u16 status_bit, std::string_view why) {
  guest_error("uhci", "{}", why);
  frame_ = frame_now();
  command_ &= static_cast<u16>(~u16{cmd_run});
  status_ |= static_cast<u16>(status_bit | st_halted);
  tick_.cancel();
  update_line();
}

void Uhci::update_line() {
  const bool on = (status_ & st_interrupt && ((completed_ && interrupts_ & int_complete) || (was_short_ && interrupts_ & int_short))) ||
                  (status_ & st_error && interrupts_ & int_error) || (status_ & st_resume && interrupts_ & int_resume) ||
                  status_ & (st_system_error | st_process_error);
  set_intx(on);
}

// --- Registers

u64 Uhci::read(u64 at, unsigned size) {
  std::array<u8, 32> image{};
  store_le<u16>(&image[r_command], command_), store_le<u16>(&image[r_status], status_), store_le<u16>(&image[r_interrupts], interrupts_);
  store_le<u16>(&image[r_frame], frame_now()), store_le<u32>(&image[r_list], list_), image[r_sof] = sof_;
  for (unsigned n = 0; n < ports; n++) store_le<u16>(&image[r_ports + 2 * n], port_[n] | p_always);
  u64 value = 0;
  for (unsigned n = 0; n < size && at + n < image.size(); n++) value |= u64{image[at + n]} << 8 * n;
  return value;
}

void Uhci::write(u64 at, unsigned size, u64 value) {
  const u32 a = static_cast<u32>(at);
  if (a == r_list && size == 4) return list_ = static_cast<u32>(value) & ~u32{4095}, void();
  if (size == 4) return write_word(a & ~1u, static_cast<u16>(value)), write_word((a & ~1u) + 2, static_cast<u16>(value >> 16));
  if (a == r_sof && size == 1) return write_word(a, static_cast<u16>(value));
  if (size == 2 && !(a & 1)) return write_word(a, static_cast<u16>(value));
  // Half a register: bits of the other half that are cleared by a one get none.
  const u16 other = static_cast<u16>(read(a & ~1u, 2)), keep = a & 1 ? 0x00ff : 0xff00;
  const u16 ones = (a & ~1u) == r_status ? u16{0x1f} : (a & ~1u) >= r_ports ? u16{p_changes} : u16{0};
  write_word(a & ~1u, static_cast<u16>((other & keep & ~ones) | static_cast<u16>(value << (a & 1 ? 8 : 0))));
}

void Uhci::write_word(u32 at, u16 v) {
  switch (at) {
    case r_command: {
      if (v & cmd_reset) return controller_reset();
      if (v & cmd_bus_reset && !(command_ & cmd_bus_reset))
        for (unsigned n = 0; n < ports; n++)
          if (UsbDevice* device = device_on(n)) device->usb_reset();
      const bool was = running(), is = v & cmd_run;
      if (was && !is) frame_ = frame_now();
      command_ = v & 0xfd;
      if (is && !was) {
        started_ns_ = static_cast<u64>(time_domain().now(Clock::guest).count()), walked_ = 0, rest_ = 1;
        status_ &= static_cast<u16>(~u16{st_halted});
        tick_.arm_in(frame_time);
      } else if (!is) {
        status_ |= st_halted;
        tick_.cancel();
      }
      return;
    }
    case r_status:
      status_ &= static_cast<u16>(~(v & 0x1f));
      if (v & st_interrupt) completed_ = was_short_ = false;
      return update_line();
    case r_interrupts: interrupts_ = v & 15; return update_line();
    case r_frame:
      if (!running()) frame_ = v & 0x7ff;
      return;
    case r_list: list_ = (list_ & 0xffff'0000) | (v & 0xf000); return;
    case r_list + 2: list_ = (list_ & 0xffff) | u32{v} << 16; return;
    case r_sof: sof_ = v & 0x7f; return;
    case r_ports:
    case r_ports + 2: return write_port((at - r_ports) / 2, v);
    default: guest_error("uhci", "write to register {:#x}", at);
  }
}

// --- Ports

UsbDevice* Uhci::device_at(u8 address) const {
  for (unsigned n = 0; n < ports; n++)
    if (port_[n] & p_enabled)
      if (UsbDevice* found = usb_device_at(device_on(n), address)) return found;
  return nullptr;
}

void Uhci::refresh_port(unsigned n) {
  const UsbDevice* device = device_on(n);
  const bool there = device && device->realized(), was = port_[n] & p_connected;
  u16 p = port_[n] & p_changes;
  if (there) p |= static_cast<u16>(p_connected | (device->speed() == UsbSpeed::low ? p_low_speed : 0));
  if (there || was) p |= p_connect_change;
  if (port_[n] & p_enabled) p |= p_enable_change;
  port_[n] = p;
  if (there || was) wake_port(n);
}

// A device that comes, goes or wants attention ends the sleep of a controller that the driver has put to rest.
void Uhci::wake_port(unsigned n) {
  if (port_[n] & p_suspended && port_[n] & p_connected) port_[n] |= p_resume;
  if (running() || !(command_ & cmd_suspended)) return;
  status_ |= st_resume;
  update_line();
}

void Uhci::write_port(unsigned n, u16 v) {
  u16& p = port_[n];
  p &= static_cast<u16>(~(v & p_changes));
  UsbDevice* device = device_on(n);
  const bool there = p & p_connected && device;
  if (v & p_reset && !(p & p_reset)) {
    if (there) device->usb_reset();
    p &= static_cast<u16>(~(p_enabled | p_suspended | p_resume));
  }
  p = static_cast<u16>((p & ~p_reset) | (v & p_reset));
  if (v & p_reset) return;
  p = static_cast<u16>((p & ~p_enabled) | (there ? v & p_enabled : 0));
  if (p & p_resume && !(v & p_resume)) p &= static_cast<u16>(~p_suspended);
  p = static_cast<u16>((p & ~(p_resume | p_suspended)) | (v & (p_resume | p_suspended)));
}

void Uhci::usb_attached(UsbPort& port) {
  // The device becomes real right after this.
  machine().main_loop().post([this, hold = Ref<Uhci>{this}, at = &port] {
    const unsigned n = static_cast<unsigned>(at - sockets_.data());
    if (realized() && at->device && at->device->realized() && !(port_[n] & p_connected)) refresh_port(n);
  });
}

void Uhci::usb_detached(UsbPort& port) {
  const unsigned n = static_cast<unsigned>(&port - sockets_.data());
  port_[n] = static_cast<u16>(p_connect_change | (port_[n] & p_enabled ? p_enable_change : 0));
  wake_port(n);
}

void Uhci::routed(unsigned n, UsbDevice* device, bool loaded) {
  if (std::exchange(routed_[n], device) != device && !loaded) refresh_port(n);
}

// --- Frames

u16 Uhci::frame_now() const {
  if (!running()) return frame_;
  const u64 passed = (static_cast<u64>(time_domain().now(Clock::guest).count()) - started_ns_) / static_cast<u64>(frame_time.count());
  return static_cast<u16>((frame_ + passed) & 0x7ff);
}

void Uhci::nudged() {
  if (!running() || rest_ == 1) return;
  rest_ = 1;
  tick_.arm_in(frame_time);
}

void Uhci::frames() {
  if (!running()) return;
  const u64 passed = (static_cast<u64>(time_domain().now(Clock::guest).count()) - started_ns_) / static_cast<u64>(frame_time.count());
  if (passed > walked_ + most_frames) walked_ = passed - most_frames;  // we come late: those are lost
  any_ = false;
  const u16 before = status_;
  while (walked_ < passed && running()) walk(static_cast<u16>((frame_ + walked_++) & 0x7ff));
  if (!running()) return;
  if (status_ != before || any_) update_line();
  rest_ = any_ ? 1 : std::min(rest_ * 2, most_frames);
  tick_.arm_in(frame_time * rest_);
}

bool Uhci::read_words(u32 at, std::span<u32> into) {
  std::array<u8, 16> bytes{};
  if (!dma_read(GuestPhys{at}, std::span{bytes}.first(into.size() * 4))) return halt(st_system_error, "the schedule cannot be read"), false;
  for (usize n = 0; n < into.size(); n++) into[n] = load_le<u32>(&bytes[4 * n]);
  return true;
}

bool Uhci::write_word32(u32 at, u32 value) {
  std::array<u8, 4> bytes{};
  store_le<u32>(bytes.data(), value);
  if (!dma_write(GuestPhys{at}, bytes)) return halt(st_system_error, "the schedule cannot be written"), false;
  return true;
}

// The list of a frame. Drivers close it to a ring to use up what is left of the frame: one round of it without anything moved is the end.
void Uhci::walk(u16 frame) {
  std::array<u32, 1> entry{};
  if (!read_words(list_ + 4 * (frame & 1023u), entry)) return;
  u32 link = entry[0], mark = l_end;
  left_ = bandwidth_;
  for (unsigned links = 0, marked = 1; !(link & l_end) && links < links_a_frame; links++) {
    if (link == mark) return;
    if (links == marked) mark = link, marked *= 2;
    const u32 at = link & ~u32{15};
    if (!(link & l_queue)) {
      std::array<u32, 4> td{};
      if (!read_words(at, td)) return;
      if (td[1] & c_active && !(td[1] & c_isochronous) && carry_out(at, td) == Outcome::broken) return;
      link = td[0];
      continue;
    }
    std::array<u32, 2> queue{};
    if (!read_words(at, queue)) return;
    link = queue[0];
    for (u32 element = queue[1], deep = 0; !(element & l_end) && deep < links_a_frame; deep++) {
      if (element & l_queue) {
        link = element;  // a queue below a queue
        break;
      }
      std::array<u32, 4> td{};
      if (!read_words(element & ~u32{15}, td)) return;
      if (!(td[1] & c_active)) break;
      const Outcome outcome = carry_out(element & ~u32{15}, td);
      if (outcome == Outcome::broken) return;
      if (outcome == Outcome::stays) break;
      mark = l_end, marked = links + 2;
      if (!write_word32(at + 4, td[0])) return;
      if (!(td[0] & l_depth_first) || !left_) break;
      element = td[0];
    }
    if (!left_) return;
  }
}

Uhci::Outcome Uhci::carry_out(u32 at, std::array<u32, 4>& td) {
  const u8 pid = static_cast<u8>(td[2]), address = td[2] >> 8 & 0x7f, endpoint = td[2] >> 15 & 15;
  const u32 length = ((td[2] >> 21) + 1) & 0x7ff;
  if (length > bytes_a_frame || (pid != pid_in && pid != pid_out && pid != pid_setup))
    return halt(st_process_error, format("a transfer of {} bytes, packet {:#x}", length, pid)), Outcome::broken;
  u32 control = td[1];
  const auto finish = [&](u32 bits, bool error) {
    control = (control & ~u32{0x00ff'07ff}) | bits;
    if (error) status_ |= st_error;
    if (control & c_complete) completed_ = true, status_ |= st_interrupt;
    any_ = true;
    return write_word32(at + 4, control);
  };
  UsbDevice* device = device_at(address);
  if (!device) {
    control &= ~(u32{3} << 27);
    return finish(c_timeout | c_stalled | 0x7ff, true) ? Outcome::stays : Outcome::broken;
  }
  std::array<u8, bytes_a_frame> buffer;
  const std::span<u8> data = std::span{buffer}.first(length);
  if (pid != pid_in && length && !dma_read(GuestPhys{td[3]}, data)) return halt(st_system_error, "data cannot be read"), Outcome::broken;
  UsbAnswer given;
  if (endpoint)
    given = pid == pid_setup ? UsbAnswer{UsbStatus::stall} : device->transfer(static_cast<u8>(endpoint | (pid == pid_in ? 0x80 : 0)), data);
  else if (pid == pid_setup)
    given = pipes_.of(address).setup(data);
  else
    given = pid == pid_in ? pipes_.of(address).in(*device, data) : pipes_.of(address).out(*device, data);
  switch (given.status) {
    case UsbStatus::nak:
      if (!(control & c_nak) && !write_word32(at + 4, control | c_nak)) return Outcome::broken;
      return Outcome::stays;
    case UsbStatus::ok: break;
    case UsbStatus::babble: return finish(c_babble | c_stalled | 0x7ff, true) ? Outcome::stays : Outcome::broken;
    case UsbStatus::gone:
    case UsbStatus::stall: return finish(c_stalled | 0x7ff, true) ? Outcome::stays : Outcome::broken;
  }
  const u32 moved = std::min(given.bytes, length);
  if (pid == pid_in && moved && !dma_write(GuestPhys{td[3]}, data.first(moved)))
    return halt(st_system_error, "data cannot be written"), Outcome::broken;
  left_ -= std::min(left_, moved + 16);  // with the packets around it
  const bool is_short = pid == pid_in && moved < length && control & c_short;
  if (is_short) was_short_ = true, status_ |= st_interrupt;
  if (!finish((moved - 1) & 0x7ff, false)) return Outcome::broken;
  return is_short ? Outcome::stays : Outcome::moved;
}

// --- State

std::vector<u64> Uhci::words() const {
  std::vector<u64> w{command_, status_, interrupts_, frame_now(), list_, sof_, completed_, was_short_, port_[0], port_[1]};
  const std::vector<u64> pipes = pipes_.words();
  w.insert(w.end(), pipes.begin(), pipes.end());
  return w;
}

Result<> Uhci::set_words(const std::vector<u64>& w) {
  if (w.size() < 10) return fail("{} values of a USB controller, at least 10 are due", w.size());
  command_ = w[0] & 0xfd, status_ = w[1] & 0x3f, interrupts_ = w[2] & 15, frame_ = w[3] & 0x7ff;
  list_ = static_cast<u32>(w[4]) & ~u32{4095}, sof_ = w[5] & 0x7f, completed_ = w[6] != 0, was_short_ = w[7] != 0;
  constexpr u16 port_bits = p_connected | p_changes | p_enabled | p_resume | p_low_speed | p_reset | p_suspended;
  for (unsigned n = 0; n < ports; n++) port_[n] = static_cast<u16>(w[8 + n]) & port_bits;
  return pipes_.set_words(std::span{w}.subspan(10));
}

Result<> Uhci::after_load() {
  tick_.cancel();
  started_ns_ = static_cast<u64>(time_domain().now(Clock::guest).count()), walked_ = 0, rest_ = 1;
  if (running()) tick_.arm_in(frame_time);
  return {};
}

}  // namespace vmm::hw
