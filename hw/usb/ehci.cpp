// EHCI controllers: high-speed devices, and their ports shared with companions for slower ones. Source: EHCI 1.0 (registers chapter 2, data
// structures 3, operation 4). The schedules are walked by a timer; while nothing moves it looks more seldom. A transfer descriptor is one
// call to its device. Not modelled: isochronous transfers and split transactions (their descriptors are passed over), port power switching,
// the order of data toggles.
#include <algorithm>
#include <array>

#include "hw/pci/pci.h"
#include "hw/usb/control_pipe.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {

constexpr unsigned ports = 6;
constexpr u32 operational_at = 0x20, ports_at = 0x64, bar_bytes = 0x1000;
constexpr u32 most_transfer = 5 * 4096, most_queues = 128, most_transfers = 32, most_rounds = 8;
constexpr Nanoseconds frame_time{1'000'000};
constexpr unsigned most_frames = 8;  // at once: how long the host rests at most

enum Register : u32 {
  r_command = 0x20,
  r_status = 0x24,
  r_interrupts = 0x28,
  r_index = 0x2c,
  r_segment = 0x30,
  r_periodic = 0x34,
  r_async = 0x38,
  r_configured = 0x60
};
enum Command : u32 { cmd_run = 1, cmd_reset = 2, cmd_list_size = 0xc, cmd_periodic = 16, cmd_async = 32, cmd_doorbell = 64 };
enum Status : u32 {
  st_interrupt = 1,
  st_error = 2,
  st_port = 4,
  st_rollover = 8,
  st_system_error = 16,
  st_doorbell = 32,
  st_causes = 0x3f,
  st_halted = 0x1000,
  st_periodic = 0x4000,
  st_async = 0x8000
};
enum PortBits : u32 {
  p_connected = 1,
  p_connect_change = 2,
  p_enabled = 4,
  p_enable_change = 8,
  p_over_current_change = 32,
  p_resume = 0x40,
  p_suspended = 0x80,
  p_reset = 0x100,
  p_line_k = 0x400,  // a low-speed device
  p_line_j = 0x800,
  p_power = 0x1000,
  p_owner = 0x2000,  // a companion's
  p_test_and_wake = 0x7f'0000,
  p_changes = p_connect_change | p_enable_change | p_over_current_change
};
enum Token : u32 {
  t_babble = 16,
  t_transaction = 8,
  t_halted = 64,
  t_active = 128,
  t_error_count = 3 << 10,
  t_complete = 1 << 15,
  t_toggle = 1u << 31,
};
enum LinkType : u32 { l_isochronous = 0, l_queue = 1, l_split_isochronous = 2, l_span = 3 };
enum Packet : u8 { pid_out = 0, pid_in = 1, pid_setup = 2 };

struct Kind {
  std::string_view name;
  u16 device = 0;
  u8 revision = 3;
};

// A queue head in memory: its own words, then the transfer that it carries out.
struct Queue {
  u32 at = 0;
  std::array<u32, 12> words{};
  u32 next_queue() const { return words[0]; }
  u8 address() const { return words[1] & 0x7f; }
  u8 endpoint() const { return words[1] >> 8 & 15; }
  bool toggles_itself() const { return !(words[1] & 1 << 14); }
  u32 packet_bytes() const { return std::max<u32>(words[1] >> 16 & 0x7ff, 1); }
  u32& current() { return words[3]; }
  u32& next() { return words[4]; }
  u32& alternate() { return words[5]; }
  u32& token() { return words[6]; }
  std::span<u32> pages() { return std::span{words}.subspan(7); }
  u32 bytes_left() const { return words[6] >> 16 & 0x7fff; }
};

}  // namespace

class Ehci : public PciDevice, private UsbController, private UsbPort::Owner {
 public:
  static const TypeInfo type;
  explicit Ehci(const Kind& kind)
      : PciDevice({.vendor = 0x8086, .device = kind.device, .revision = kind.revision, .class_code = 0x0c0320}) {}
  void reset() override;
  void settle() override;

 private:
  static const Field properties[1], state[];
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  Result<> after_load() override;

  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  u32 word(u32 at) const;
  void write_command(u32 value);
  void write_port(unsigned port, u32 value);
  void controller_reset();
  void halt(std::string_view why);
  void update_line() { set_intx((status_ & interrupts_ & st_causes) != 0); }
  void cause(u32 bits) { status_ |= bits; }
  bool running() const { return command_ & cmd_run; }

  // --- Ports
  struct Companion {
    UsbCompanion* who = nullptr;
    unsigned port = 0;
  };
  bool is_companions(unsigned port) const { return companion_[port].who && (!configured_ || port_[port] & p_owner); }
  UsbDevice* device_at(u8 address) const;
  void route(unsigned port);
  void usb_attached(UsbPort& port) override;
  void usb_detached(UsbPort& port) override;
  void usb_wakes(UsbPort& port) override;
  void endpoint_ready(UsbDevice& device, u8 endpoint) override;
  void device_leaves(UsbDevice& device) override {}
  std::string serial_part() const override { return format("0000:{:02x}:{:02x}.{}", pci().number(), slot(), function()); }
  Result<> join(UsbCompanion& companion, unsigned first) override;
  void part(UsbCompanion& companion) override;

  // --- Schedules
  u64 passed() const;  // microframes since started_ns_
  u32 index_now() const { return running() ? static_cast<u32>((index_ + passed()) & 0x3fff) : index_; }
  void restart_clock(u32 index);
  void tick();
  void walk_periodic(u32 frame);
  void walk_async();
  bool work(u32 at, u32& next);
  bool fetch(Queue& queue);
  bool carry_out(Queue& queue);
  bool read_words(u32 at, std::span<u32> into);
  bool write_words(u32 at, std::span<const u32> from);

  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);

  u32 max_frames_ = 128;
  u32 command_ = 0, status_ = 0, interrupts_ = 0, index_ = 0, segment_ = 0, periodic_ = 0, async_ = 0;
  bool configured_ = false;
  std::array<u32, ports> port_{};
  UsbControlPipes pipes_;

  u64 started_ns_ = 0, walked_ = 0;  // when index_ was the index; frames since then that were walked
  unsigned rest_ = 1;                // frames until the next look
  bool any_ = false;                 // something moved in this turn
  std::array<UsbPort, ports> sockets_{};
  std::array<Companion, ports> companion_{};
  Ref<UsbBus> bus_;
  memory::MemoryRegion bar_, registers_;
  Timer tick_{Clock::guest, on<&Ehci::tick>, *this};
};

constexpr Field Ehci::properties[1] = {
    field<&Ehci::max_frames_>("maxframes", "Taken for compatibility; without effect."),
};
constexpr Field Ehci::state[] = {
    computed<&Ehci::words, &Ehci::set_words>("registers", "registers, ports and control transfers"),
};
constinit const TypeInfo Ehci::type{.name = "pci-ehci-usb",
                                    .doc = "A USB 2 host controller.",
                                    .parent = &PciDevice::type,
                                    .properties = properties,
                                    .state = state,
                                    .user_creatable = false};
static Registered registered{Ehci::type};

namespace {

constexpr Kind kinds[] = {{"usb-ehci", 0x24cd, 0x10}, {"ich9-usb-ehci1", 0x293a}, {"ich9-usb-ehci2", 0x293c}};

template <unsigned N>
class EhciOf final : public Ehci {
 public:
  EhciOf() : Ehci(kinds[N]) {}
  static const TypeInfo type;
};
template <unsigned N>
constinit const TypeInfo EhciOf<N>::type{
    .name = kinds[N].name, .doc = "A USB 2 host controller.", .parent = &Ehci::type, .make = make<EhciOf<N>>, .category = "USB devices"};
const Registered registered_kinds[]{Registered{EhciOf<0>::type}, Registered{EhciOf<1>::type}, Registered{EhciOf<2>::type}};

}  // namespace

// --- Life

Result<> Ehci::realize_pci() {
  set_interrupt_pin(4);
  set_config(0x60, 0x20, 1);  // release number of USB: 2.0
  set_config(0x61, 0x20, 1);  // frame length adjustment: none
  registers_.init_io<&Ehci::read, &Ehci::write>(*this, "ehci", ports_at + 4 * ports, {.min = 1, .max = 4});
  bar_.init_container(this, "ehci-bar0", bar_bytes);
  bar_.add(registers_, 0);
  add_bar(0, PciBarKind::memory32, bar_);
  bus_ = add_usb_bus(*this, *this);
  for (unsigned n = 0; n < ports; n++) {
    sockets_[n].path = format("{}", n + 1);
    sockets_[n].speeds = 1 << static_cast<u8>(UsbSpeed::high);
    sockets_[n].owner = this;
    bus_->add_port(sockets_[n]);
  }
  return {};
}

Task<> Ehci::unrealize_pci() {
  tick_.cancel();
  for (unsigned n = 0; n < ports; n++) {
    if (companion_[n].who) companion_[n].who->routed(companion_[n].port, nullptr, false);
    companion_[n] = {};
    bus_->remove_port(sockets_[n]);
  }
  bus_->controller = nullptr;
  co_return Result<>{};
}

void Ehci::reset() {
  PciDevice::reset();
  controller_reset();
}

void Ehci::settle() {
  PciDevice::settle();
  update_line();
}

void Ehci::controller_reset() {
  tick_.cancel();
  command_ = 0x8'0000, status_ = st_halted;  // interrupts every eight microframes
  interrupts_ = index_ = segment_ = periodic_ = async_ = 0;
  configured_ = false;
  pipes_.clear();
  for (unsigned n = 0; n < ports; n++) port_[n] = p_power | (companion_[n].who ? u32{p_owner} : 0), route(n);
}

void Ehci::halt(std::string_view why) {
  guest_error("ehci", "{}", why);
  index_ = index_now();
  command_ &= ~u32{cmd_run};
  status_ = (status_ & ~(u32{st_periodic} | st_async)) | st_halted | st_system_error;
  tick_.cancel();
  update_line();
}

// --- Registers

u32 Ehci::word(u32 at) const {
  u32 companions = 0;
  for (const Companion& c : companion_) companions += c.who && c.port == 0;
  switch (at) {
    case 0x00: return 0x0100'0000 | operational_at;                          // version 1.0
    case 0x04: return ports | (companions ? 2 << 8 : 0) | companions << 12;  // structure
    case 0x08: return 0x80;                                                  // the driver may look one frame ahead
    case r_command: return command_;
    case r_status: return status_;
    case r_interrupts: return interrupts_;
    case r_index: return index_now();
    case r_segment: return segment_;
    case r_periodic: return periodic_;
    case r_async: return async_;
    case r_configured: return configured_;
    default: return at >= ports_at && at < ports_at + 4 * ports ? port_[(at - ports_at) / 4] : 0;
  }
}

u64 Ehci::read(u64 at, unsigned size) {
  const u32 a = static_cast<u32>(at), value = word(a & ~3u) >> 8 * (a & 3);
  return size == 4 ? value : value & ((u32{1} << 8 * size) - 1);
}

void Ehci::write(u64 at, unsigned size, u64 value) {
  const u32 a = static_cast<u32>(at), v = static_cast<u32>(value);
  if (size != 4 || a < operational_at || a & 3) return guest_error("ehci", "write of {} bytes to register {:#x}", size, a);
  if (a >= ports_at) return write_port((a - ports_at) / 4, v);
  switch (a) {
    case r_command: return write_command(v);
    case r_status: status_ &= ~(v & st_causes); return update_line();
    case r_interrupts: interrupts_ = v & st_causes; return update_line();
    case r_index:
      if (!running()) index_ = v & 0x3fff;
      return;
    case r_segment: return;  // no 64-bit addresses
    case r_periodic: periodic_ = v & ~u32{0xfff}; return;
    case r_async: async_ = v & ~u32{31}; return;
    case r_configured: {
      if ((v & 1) == configured_) return;
      configured_ = v & 1;
      for (unsigned n = 0; n < ports; n++) {
        port_[n] = (port_[n] & ~u32{p_owner}) | (!configured_ && companion_[n].who ? u32{p_owner} : 0);
        route(n);
      }
      return update_line();
    }
    default: guest_error("ehci", "write to register {:#x}", a);
  }
}

void Ehci::write_command(u32 v) {
  if (v & cmd_reset) {
    for (unsigned n = 0; n < ports; n++)
      if (sockets_[n].device && !is_companions(n)) sockets_[n].device->usb_reset();
    controller_reset();
    return update_line();
  }
  const bool was = running(), is = v & cmd_run;
  if (was && !is) index_ = index_now();
  command_ = v & (cmd_run | cmd_list_size | cmd_periodic | cmd_async | cmd_doorbell | 0xff'0000);
  if (is && !was) restart_clock(index_);
  if (!is) tick_.cancel();
  status_ &= ~(u32{st_halted} | st_periodic | st_async);
  if (!is)
    status_ |= st_halted;
  else
    status_ |= (v & cmd_periodic ? u32{st_periodic} : 0) | (v & cmd_async ? u32{st_async} : 0);
  if (is && (rest_ != 1 || !tick_.armed()))
    rest_ = 1, tick_.arm_in(frame_time);  // what has just been put into the schedules is not to wait
}

// --- Ports

UsbDevice* Ehci::device_at(u8 address) const {
  for (unsigned n = 0; n < ports; n++)
    if (port_[n] & p_enabled && !is_companions(n))
      if (UsbDevice* found = usb_device_at(sockets_[n].device, address)) return found;
  return nullptr;
}

namespace {
UsbSpeed speed_at(const UsbDevice& device, bool companion) {
  if (!companion && device.works_at(UsbSpeed::high)) return UsbSpeed::high;
  return device.works_at(UsbSpeed::full) ? UsbSpeed::full : UsbSpeed::low;
}
}  // namespace

// Shows the device of a port, or that it has none, to whom the port belongs now.
void Ehci::route(unsigned n) {
  UsbDevice* device = sockets_[n].device && sockets_[n].device->realized() ? sockets_[n].device : nullptr;
  const bool theirs = is_companions(n);
  u32& p = port_[n];
  const bool was = p & p_connected;
  p &= ~(u32{p_connected} | p_enabled | p_suspended | p_resume | p_reset | p_line_k | p_line_j);
  if (device) device->set_speed(speed_at(*device, theirs));
  const bool here = device && !theirs;
  if (here) p |= p_connected | (device->speed() == UsbSpeed::low ? u32{p_line_k} : u32{p_line_j});
  if (here != was) {
    p |= p_connect_change;
    cause(st_port);
  }
  if (companion_[n].who) {
    const bool can = device && (device->works_at(UsbSpeed::full) || device->works_at(UsbSpeed::low));
    companion_[n].who->routed(companion_[n].port, theirs && can ? device : nullptr, false);
  }
}

void Ehci::write_port(unsigned n, u32 v) {
  u32& p = port_[n];
  p &= ~(v & p_changes);
  p = (p & ~u32{p_test_and_wake}) | (v & p_test_and_wake);
  if (companion_[n].who && configured_ && (v ^ p) & p_owner) {
    p ^= p_owner;
    route(n);
    return update_line();
  }
  if (!(v & p_enabled)) p &= ~(u32{p_enabled} | p_suspended);
  UsbDevice* device = sockets_[n].device;
  if (!(p & p_connected) || !device) return;  // a loaded state may show one where none is
  if (v & p_reset) {
    p = (p & ~(u32{p_enabled} | p_suspended | p_resume)) | p_reset;
  } else if (p & p_reset) {
    p &= ~u32{p_reset};
    device->usb_reset();
    if (device->speed() == UsbSpeed::high) p = (p & ~(u32{p_line_j} | p_line_k)) | p_enabled;  // else it is for a companion
  }
  if (!(p & p_enabled)) return;
  if (v & p_suspended) p |= p_suspended;
  if (v & p_resume && p & p_suspended)
    p |= p_resume;
  else if (p & p_resume && !(v & p_resume))
    p &= ~(u32{p_resume} | p_suspended);
}

void Ehci::usb_attached(UsbPort& port) {
  // The device becomes real right after this.
  machine().main_loop().post([this, hold = Ref<Ehci>{this}, at = &port] {
    const unsigned n = static_cast<unsigned>(at - sockets_.data());
    if (!realized() || !at->device || !at->device->realized() || port_[n] & p_connected) return;
    // A new device is the faster controller's again (§4.2.2).
    if (configured_) port_[n] &= ~u32{p_owner};
    route(n);
    update_line();
  });
}

void Ehci::usb_detached(UsbPort& port) {
  const unsigned n = static_cast<unsigned>(&port - sockets_.data());
  if (companion_[n].who) companion_[n].who->routed(companion_[n].port, nullptr, false);
  u32& p = port_[n];
  if (configured_) p &= ~u32{p_owner};
  if (!(p & p_connected)) return;
  p = (p & (p_changes | p_power | p_owner | p_test_and_wake)) | p_connect_change;
  cause(st_port);
  update_line();
}

void Ehci::usb_wakes(UsbPort& port) {
  const unsigned n = static_cast<unsigned>(&port - sockets_.data());
  if (is_companions(n)) return companion_[n].who->woken(companion_[n].port);
  if (!(port_[n] & p_suspended) || port_[n] & p_resume) return;
  port_[n] |= p_resume;
  cause(st_port);
  update_line();
}

void Ehci::endpoint_ready(UsbDevice&, u8) {
  for (const Companion& c : companion_)
    if (c.who && c.port == 0) c.who->nudged();
  if (!running() || rest_ == 1) return;
  rest_ = 1;
  tick_.arm_in(frame_time);
}

Result<> Ehci::join(UsbCompanion& companion, unsigned first) {
  if (first + 2 > ports) return fail("firstport must be between 0 and {}", ports - 2);
  for (unsigned n = first; n < first + 2; n++)
    if (companion_[n].who) return fail("port {} of the USB bus {} has a companion controller already", n, bus_->name());
  for (unsigned n = first; n < first + 2; n++) {
    if (sockets_[n].device) return fail("port {} of the USB bus {} has a device already", n, bus_->name());
    companion_[n] = {&companion, n - first};
    sockets_[n].speeds |= 1 << static_cast<u8>(UsbSpeed::low) | 1 << static_cast<u8>(UsbSpeed::full);
    if (!configured_) port_[n] |= p_owner;
  }
  return {};
}

void Ehci::part(UsbCompanion& companion) {
  for (unsigned n = 0; n < ports; n++) {
    if (companion_[n].who != &companion) continue;
    companion_[n] = {};
    sockets_[n].speeds = 1 << static_cast<u8>(UsbSpeed::high);
    port_[n] &= ~u32{p_owner};
    route(n);
  }
  update_line();
}

// --- Schedules

u64 Ehci::passed() const {
  return (static_cast<u64>(time_domain().now(Clock::guest).count()) - started_ns_) * 8 / static_cast<u64>(frame_time.count());
}

void Ehci::restart_clock(u32 index) {
  index_ = index;
  started_ns_ = static_cast<u64>(time_domain().now(Clock::guest).count()), walked_ = 0, rest_ = 1;
}

void Ehci::tick() {
  if (!running()) return;
  const u64 frames = passed() / 8;
  if (frames > walked_ + most_frames) walked_ = frames - most_frames;  // we come late: those are lost
  const u32 list = 1024u >> std::min<u32>(command_ >> 2 & 3, 2);
  any_ = false;
  while (walked_ < frames && running()) {
    const u32 frame = static_cast<u32>(index_ / 8 + walked_++);
    if (frame % list == list - 1) cause(st_rollover);
    if (command_ & cmd_periodic) walk_periodic(frame % list);
  }
  if (running() && command_ & cmd_async) walk_async();
  if (!running()) return;
  if (command_ & cmd_doorbell) {
    // No queue head is kept from one walk to the next.
    command_ &= ~u32{cmd_doorbell};
    cause(st_doorbell);
  }
  update_line();
  if (!(command_ & (cmd_periodic | cmd_async)) && !(interrupts_ & st_rollover)) return;  // the next command wakes us
  rest_ = any_ ? 1 : std::min(rest_ * 2, most_frames);
  tick_.arm_in(frame_time * rest_);
}

bool Ehci::read_words(u32 at, std::span<u32> into) {
  std::array<u8, 48> bytes{};
  if (!dma_read(GuestPhys{at}, std::span{bytes}.first(into.size() * 4))) return halt("a schedule cannot be read"), false;
  for (usize n = 0; n < into.size(); n++) into[n] = load_le<u32>(&bytes[4 * n]);
  return true;
}

bool Ehci::write_words(u32 at, std::span<const u32> from) {
  std::array<u8, 48> bytes{};
  for (usize n = 0; n < from.size(); n++) store_le<u32>(&bytes[4 * n], from[n]);
  if (!dma_write(GuestPhys{at}, std::span{bytes}.first(from.size() * 4))) return halt("a schedule cannot be written"), false;
  return true;
}

void Ehci::walk_periodic(u32 frame) {
  std::array<u32, 1> link{};
  if (!read_words(periodic_ + 4 * frame, link)) return;
  for (u32 n = 0; !(link[0] & 1) && n < most_queues; n++) {
    const u32 at = link[0] & ~u32{31};
    if ((link[0] >> 1 & 3) == l_queue)
      work(at, link[0]);
    else
      read_words(at, link);
    if (!running()) return;
  }
}

void Ehci::walk_async() {
  bool moved = true;
  for (u32 round = 0; moved && round < most_rounds; round++) {
    moved = false;
    u32 at = async_;
    for (u32 n = 0; n < most_queues; n++) {
      u32 next = 1;
      moved |= work(at, next);
      if (!running()) return;
      at = next & ~u32{31};
      if (next & 1 || at == async_) break;
    }
  }
}

// Carries out what a queue head has, as far as it goes; true if something moved.
bool Ehci::work(u32 at, u32& next) {
  Queue queue{.at = at};
  next = 1;
  if (!read_words(at, queue.words)) return false;
  next = queue.next_queue();
  bool moved = false;
  for (u32 n = 0; n < most_transfers; n++) {
    if (queue.token() & t_halted) break;
    if (!(queue.token() & t_active) && !fetch(queue)) break;
    if (!carry_out(queue)) break;
    moved = true;
  }
  any_ |= moved;
  return moved;
}

// The next transfer descriptor into the queue head (§4.10.2); false if there is none.
bool Ehci::fetch(Queue& queue) {
  const u32 from = queue.bytes_left() && !(queue.alternate() & 1) ? queue.alternate() : queue.next();
  if (from & 1) return false;
  std::array<u32, 8> transfer{};
  if (!read_words(from & ~u32{31}, transfer) || !(transfer[2] & t_active)) return false;
  const u32 toggle = queue.token() & t_toggle;
  queue.current() = from & ~u32{31};
  std::ranges::copy(transfer, queue.words.begin() + 4);
  if (queue.toggles_itself()) queue.token() = (queue.token() & ~u32{t_toggle}) | toggle;
  queue.alternate() &= ~u32{0x1e};  // the count of refusals
  return write_words(queue.at + 12, std::span<const u32>{queue.words}.subspan(3));
}

// One transfer; false if it stays, or has ended the queue's work.
bool Ehci::carry_out(Queue& queue) {
  u32& token = queue.token();
  const u8 pid = token >> 8 & 3, endpoint = queue.endpoint();
  const u32 length = queue.bytes_left();
  u32 page = token >> 12 & 7, offset = queue.pages()[0] & 0xfff;
  const auto finish = [&](u32 set, u32 causes) {
    token = (token & ~u32{t_active}) | set;
    if (token & t_complete) causes |= st_interrupt;
    cause(causes);
    return write_words(queue.at + 12, std::span<const u32>{queue.words}.subspan(3)) && write_words(queue.current() + 8, {&token, 1});
  };
  UsbDevice* device = device_at(queue.address());
  if (pid == 3 || length > most_transfer || page > 4 || (page * 4096 + offset + length > most_transfer)) {
    guest_error("ehci", "a transfer of {} bytes from page {}, offset {}, packet {}", length, page, offset, pid);
    device = nullptr;
  }
  if (!device) {
    token &= ~u32{t_error_count};
    finish(t_halted | t_transaction, st_error);
    return false;
  }
  // Its memory, page by page.
  std::vector<u8> data(length);
  const auto copy = [&](u32 bytes, bool to_guest) {
    u32 done = 0, at = offset;
    for (u32 p = page; done < bytes; p++, at = 0) {
      const u32 n = std::min(bytes - done, 4096 - at);
      const GuestPhys place{(queue.pages()[p] & ~u32{0xfff}) + at};
      const std::span<u8> part = std::span{data}.subspan(done, n);
      if (!(to_guest ? dma_write(place, part) : dma_read(place, part))) return halt("a transfer's data cannot be reached"), false;
      done += n;
    }
    return true;
  };
  if (pid != pid_in && !copy(length, false)) return false;
  UsbAnswer given;
  if (endpoint)
    given = pid == pid_setup ? UsbAnswer{UsbStatus::stall} : device->transfer(static_cast<u8>(endpoint | (pid == pid_in ? 0x80 : 0)), data);
  else if (pid == pid_setup)
    given = pipes_.of(queue.address()).setup(data);
  else
    given = pid == pid_in ? pipes_.of(queue.address()).in(*device, data) : pipes_.of(queue.address()).out(*device, data);
  if (given.status == UsbStatus::nak) return false;
  if (given.status != UsbStatus::ok) {  // a stall leaves the count of errors as it is: drivers tell it from a device that is gone
    finish(given.status == UsbStatus::babble ? t_halted | t_babble : u32{t_halted}, st_error);
    return false;
  }
  const u32 moved = std::min(given.bytes, length);
  if (pid == pid_in && !copy(moved, true)) return false;
  const u32 packets = std::max((moved + queue.packet_bytes() - 1) / queue.packet_bytes(), 1u);
  if (packets & 1) token ^= t_toggle;
  offset += moved;
  queue.pages()[0] = (queue.pages()[0] & ~u32{0xfff}) | (offset & 0xfff);
  token = (token & ~(u32{0x7fff} << 16 | 7u << 12)) | (length - moved) << 16 | std::min(page + offset / 4096, 4u) << 12;
  return finish(0, pid == pid_in && moved < length ? u32{st_interrupt} : 0);
}

// --- State

std::vector<u64> Ehci::words() const {
  std::vector<u64> w{command_, status_, interrupts_, index_now(), periodic_, async_, configured_};
  w.insert(w.end(), port_.begin(), port_.end());
  const std::vector<u64> pipes = pipes_.words();
  w.insert(w.end(), pipes.begin(), pipes.end());
  return w;
}

Result<> Ehci::set_words(const std::vector<u64>& w) {
  if (w.size() < 7 + ports) return fail("{} values of a USB controller, at least {} are due", w.size(), 7 + ports);
  command_ = static_cast<u32>(w[0]) & 0xff'007d, status_ = static_cast<u32>(w[1]) & 0xd03f, interrupts_ = w[2] & st_causes;
  index_ = w[3] & 0x3fff, periodic_ = static_cast<u32>(w[4]) & ~u32{0xfff}, async_ = static_cast<u32>(w[5]) & ~u32{31};
  configured_ = w[6] != 0;
  for (unsigned n = 0; n < ports; n++) port_[n] = static_cast<u32>(w[7 + n]) & 0x7f'3def;
  return pipes_.set_words(std::span{w}.subspan(7 + ports));
}

Result<> Ehci::after_load() {
  tick_.cancel();
  restart_clock(index_);
  // Speeds and the companions' view follow from whose the ports are; what the ports show was loaded.
  for (unsigned n = 0; n < ports; n++) {
    UsbDevice* device = sockets_[n].device;
    if (device) device->set_speed(speed_at(*device, is_companions(n)));
    if (companion_[n].who) companion_[n].who->routed(companion_[n].port, is_companions(n) ? device : nullptr, true);
  }
  if (running()) tick_.arm_in(frame_time);
  return {};
}

}  // namespace vmm::hw
