// qemu-xhci: the command ring, transfer rings and contexts. Source: xHCI 1.1 (§4.6 commands, §4.9 rings, §4.10 transfers, chapter 6 data
// structures). Whatever a ring holds, a turn ends: links, TRBs and bytes of one transfer are limited, and so are the transfers of one turn.
#include <algorithm>
#include <vector>

#include "hw/usb/xhci.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

using namespace xhci;

namespace {
constexpr unsigned turn_budget = 64;  // commands and transfers before others get their turn

u32 slot_word(EndpointState state, u32 before) { return (before & ~u32{7}) | state; }
bool is_in(u8 type) { return type >= 5; }
}  // namespace

// One transfer: the TRBs of a TD. Of a control endpoint: setup, data and status stage together.
struct Xhci::Transfer {
  std::vector<Trb> trbs;
  u32 bytes = 0;        // room or data of all data TRBs
  unsigned events = 0;  // at most
  Ring after;
};

// --- Work

void Xhci::later() {
  if (std::exchange(posted_, true)) return;
  machine().main_loop().post([this, hold = Ref<Xhci>{this}] {
    posted_ = false;
    if (realized() && running()) work();
  });
}

void Xhci::find_devices() {
  loaded_ = false;
  for (Slot& s : slot_)
    if (s.state != s_off && s.state != s_enabled) s.device = device_at(s.root_port, s.route);
}

void Xhci::work() {
  if (loaded_) find_devices();
  for (unsigned n = 0; n < port_count() && running(); n++) {
    if (!port_[n].notice) continue;
    if (!send_event(0, {.parameter = u64{n + 1} << 24, .status = u32{c_success} << 24, .control = t_port_change << 10})) break;
    port_[n].notice = false;
  }
  unsigned budget = turn_budget;
  while (budget && running() && commands_rung_ && commands_running_ && run_commands(budget)) {
  }
  for (unsigned s = 1; s <= slots_ && budget && running(); s++)
    for (unsigned e = 1; e <= endpoints && budget && running(); e++)
      while (budget && running() && slot_[s].state != s_off && slot_[s].endpoints[e].waits && run_endpoint(static_cast<u8>(s), e, budget)) {
      }
  if (!budget && running()) later();
}

void Xhci::doorbell(unsigned slot, u32 value) {
  if (!running()) return;
  if (slot > slots_) return guest_error("xhci", "doorbell of slot {}", slot);
  const unsigned target = value & 0xff;
  if (slot == 0) {
    if (target != 0) return guest_error("xhci", "command doorbell with target {}", target);
    commands_running_ = commands_rung_ = true;
    return work();
  }
  Slot& s = slot_[slot];
  if (s.state == s_off || target < 1 || target > endpoints) return guest_error("xhci", "doorbell {} of slot {}", target, slot);
  Endpoint& e = s.endpoints[target];
  if (e.state == e_stopped) {
    e.state = e_running;
    write_endpoint_state(s, target);
  }
  if (e.state != e_running) return;
  e.waits = true;
  work();
}

// --- Rings

std::optional<Trb> Xhci::fetch(Ring& ring) {
  for (u32 links = 0; links < most_links; links++) {
    std::array<u8, 16> bytes{};
    if (!dma_read(GuestPhys{ring.dequeue}, bytes)) return stop_with(4, "a ring cannot be read"), std::nullopt;
    Trb t{load_le<u64>(&bytes[0]), load_le<u32>(&bytes[8]), load_le<u32>(&bytes[12]), ring.dequeue};
    if ((t.control & f_cycle) != (ring.cycle ? 1u : 0u)) return std::nullopt;
    if (t.type() != t_link) {
      ring.dequeue += 16;
      return t;
    }
    ring.dequeue = t.parameter & ~u64{15};
    if (t.control & f_toggle) ring.cycle = !ring.cycle;
  }
  stop_with(0x1000, "a ring of links only");
  return std::nullopt;
}

// --- Contexts

bool Xhci::read_context(u64 at, Context& into) {
  std::array<u8, 32> bytes{};
  if (!dma_read(GuestPhys{at}, bytes)) return false;
  for (usize i = 0; i < into.size(); i++) into[i] = load_le<u32>(&bytes[4 * i]);
  return true;
}

bool Xhci::write_context(u64 at, const Context& from) {
  std::array<u8, 32> bytes{};
  for (usize i = 0; i < from.size(); i++) store_le<u32>(&bytes[4 * i], from[i]);
  return dma_write(GuestPhys{at}, bytes);
}

void Xhci::write_endpoint_state(Slot& slot, unsigned n) {
  const Endpoint& e = slot.endpoints[n];
  const u64 at = slot.context + 32 * u64{n};
  Context c;
  if (!read_context(at, c)) return;
  c[0] = slot_word(e.state, c[0]);
  c[2] = static_cast<u32>(e.ring.dequeue) | (e.ring.cycle ? 1 : 0);
  c[3] = static_cast<u32>(e.ring.dequeue >> 32);
  write_context(at, c);
}

// --- Commands

bool Xhci::run_commands(unsigned& budget) {
  if (!room(0)) return false;  // its completion must fit
  const std::optional<Trb> command = fetch(commands_);
  if (!command) return commands_rung_ = false;
  budget--;
  u8 slot = static_cast<u8>(command->control >> 24);
  const Code code = carry_out(*command, slot);
  if (!running()) return false;
  send_event(0, {.parameter = command->at, .status = u32{code} << 24, .control = u32{slot} << 24 | t_command_completion << 10});
  return true;
}

Code Xhci::carry_out(const Trb& command, u8& number) {
  const u8 type = command.type();
  if (type == t_no_op_command) return number = 0, c_success;
  if (type == t_enable_slot) {
    for (unsigned n = 1; n <= slots_ && n <= (config_ & 0xff); n++) {
      if (slot_[n].state != s_off) continue;
      slot_[n] = {};
      slot_[n].state = s_enabled;
      return number = static_cast<u8>(n), c_success;
    }
    return number = 0, c_no_slots;
  }
  if (type < t_disable_slot || type > t_reset_device) return c_trb;
  if (number < 1 || number > slots_) return c_trb;
  Slot& slot = slot_[number];
  if (slot.state == s_off) return c_slot_not_enabled;
  switch (type) {
    case t_disable_slot: return disable_slot(slot), c_success;
    case t_address_device: return address_device(slot, number, command);
    case t_configure_endpoint: return configure_endpoints(slot, command);
    case t_evaluate_context: return evaluate_context(slot, command);
    case t_reset_device: return reset_device(slot);
    default: return endpoint_command(slot, command);
  }
}

void Xhci::disable_slot(Slot& slot) {
  if (slot.context) {
    Context c;
    if (read_context(slot.context, c)) c[3] = 0, write_context(slot.context, c);
  }
  slot = {};
}

Code Xhci::address_device(Slot& slot, u8 number, const Trb& command) {
  const u64 input = command.parameter & ~u64{15};
  const bool only_context = command.control & 0x200;  // BSR: no SET_ADDRESS yet
  Context flags, s, e;
  std::array<u8, 8> pointer{};
  if (!read_context(input, flags) || !read_context(input + 32, s) || !read_context(input + 64, e) ||
      !dma_read(GuestPhys{contexts_ + 8 * u64{number}}, pointer))
    return stop_with(4, "a context cannot be read"), c_trb;
  if (flags[0] != 0 || (flags[1] & 3) != 3) return c_trb;
  if (slot.state != s_enabled && !(slot.state == s_default && !only_context)) return c_context_state;
  const u8 root_port = static_cast<u8>(s[1] >> 16);
  const u32 route = s[0] & 0xfffff;
  UsbDevice* device = device_at(root_port, route);
  if (!device) return c_transaction;
  for (const Slot& other : slot_)
    if (&other != &slot && other.state != s_off && other.device == device) return c_trb;
  if ((e[1] >> 3 & 7) != 4) return c_parameter;  // not a control endpoint
  slot.context = load_le<u64>(pointer.data()) & ~u64{63};
  slot.root_port = root_port, slot.route = route, slot.device = device;
  if (!only_context) device->set_address(number & 0x7f);
  slot.state = only_context ? s_default : s_addressed;
  Endpoint& control = slot.endpoints[1];
  control = {.state = e_running, .type = 4, .ring = {.dequeue = (u64{e[3]} << 32 | e[2]) & ~u64{15}, .cycle = (e[2] & 1) != 0}};
  s[3] = u32{slot.state} << 27 | (only_context ? 0 : number);
  e[0] = slot_word(e_running, e[0]);
  if (!write_context(slot.context, s) || !write_context(slot.context + 32, e)) return stop_with(4, "a context cannot be written"), c_trb;
  return c_success;
}

Code Xhci::configure_endpoints(Slot& slot, const Trb& command) {
  if (slot.state != s_addressed && slot.state != s_configured) return c_context_state;
  Context own;
  if (!read_context(slot.context, own)) return stop_with(4, "a context cannot be read"), c_trb;
  const auto drop = [&](unsigned n) {
    slot.endpoints[n] = {};
    Context c;
    if (read_context(slot.context + 32 * u64{n}, c)) c[0] = slot_word(e_disabled, c[0]), write_context(slot.context + 32 * u64{n}, c);
  };
  if (command.control & 0x200) {  // deconfigure
    for (unsigned n = 2; n <= endpoints; n++)
      if (slot.endpoints[n].state != e_disabled) drop(n);
    slot.state = s_addressed;
  } else {
    const u64 input = command.parameter & ~u64{15};
    Context flags, s;
    if (!read_context(input, flags) || !read_context(input + 32, s)) return stop_with(4, "a context cannot be read"), c_trb;
    if (flags[0] & 3 || !(flags[1] & 1) || flags[1] & 2) return c_trb;
    for (unsigned n = 2; n <= endpoints; n++) {
      if (flags[0] >> n & 1) drop(n);
      if (!(flags[1] >> n & 1)) continue;
      Context e;
      if (!read_context(input + 32 + 32 * u64{n}, e)) return stop_with(4, "a context cannot be read"), c_trb;
      const u8 type = e[1] >> 3 & 7;
      if (type == 0 || (e[0] >> 10 & 31)) return c_parameter;  // no endpoint, or streams
      e[0] = slot_word(e_running, e[0]);
      slot.endpoints[n] = {
          .state = e_running, .type = type, .ring = {.dequeue = (u64{e[3]} << 32 | e[2]) & ~u64{15}, .cycle = (e[2] & 1) != 0}};
      if (!write_context(slot.context + 32 * u64{n}, e)) return stop_with(4, "a context cannot be written"), c_trb;
    }
    own[0] = (own[0] & ~(31u << 27)) | (s[0] & 31u << 27);  // context entries
    slot.state = s_configured;
  }
  own[3] = (own[3] & 0xff) | u32{slot.state} << 27;
  write_context(slot.context, own);
  return c_success;
}

Code Xhci::evaluate_context(Slot& slot, const Trb& command) {
  if (slot.state == s_enabled) return c_context_state;
  const u64 input = command.parameter & ~u64{15};
  Context flags, from, own;
  if (!read_context(input, flags)) return stop_with(4, "a context cannot be read"), c_trb;
  if (flags[0] || flags[1] & ~u32{3}) return c_trb;
  if (flags[1] & 1 && read_context(input + 32, from) && read_context(slot.context, own)) {
    own[1] = (own[1] & ~u32{0xffff}) | (from[1] & 0xffff);        // longest exit latency
    own[2] = (own[2] & 0x3f'ffff) | (from[2] & ~u32{0x3f'ffff});  // interrupter
    write_context(slot.context, own);
  }
  if (flags[1] & 2 && read_context(input + 64, from) && read_context(slot.context + 32, own)) {
    own[1] = (own[1] & 0xffff) | (from[1] & ~u32{0xffff});  // packet size
    write_context(slot.context + 32, own);
  }
  return c_success;
}

Code Xhci::endpoint_command(Slot& slot, const Trb& command) {
  const unsigned n = command.control >> 16 & 31;
  if (n < 1) return c_trb;
  Endpoint& e = slot.endpoints[n];
  if (e.state == e_disabled) return c_endpoint_not_enabled;
  switch (command.type()) {
    case t_reset_endpoint:
      if (e.state != e_halted) return c_context_state;
      break;
    case t_stop_endpoint:
      if (e.state != e_running) return c_context_state;
      break;
    default:  // set TR dequeue pointer
      if (e.state != e_stopped && e.state != e_error) return c_context_state;
      e.ring = {.dequeue = command.parameter & ~u64{15}, .cycle = (command.parameter & 1) != 0};
  }
  e.state = e_stopped, e.waits = false;
  write_endpoint_state(slot, n);
  return c_success;
}

Code Xhci::reset_device(Slot& slot) {
  if (slot.state == s_enabled || slot.state == s_default) return c_context_state;
  Context own;
  if (!read_context(slot.context, own)) return stop_with(4, "a context cannot be read"), c_trb;
  for (unsigned n = 2; n <= endpoints; n++)
    if (slot.endpoints[n].state != e_disabled) slot.endpoints[n] = {}, write_endpoint_state(slot, n);
  slot.state = s_default;
  own[0] = (own[0] & ~(31u << 27)) | 1u << 27;
  own[3] = u32{s_default} << 27;
  write_context(slot.context, own);
  return c_success;
}

// --- Transfers

// The next TD of an endpoint; false: it is not all there, or the ring is broken.
bool Xhci::gather(Endpoint& endpoint, unsigned number, Transfer& t) {
  Ring ring = endpoint.ring;
  const bool control = endpoint.type == 4;
  for (;;) {
    const std::optional<Trb> trb = fetch(ring);
    if (!trb) return false;
    if (t.trbs.size() >= most_trbs) return stop_with(0x1000, format("a transfer of more than {} TRBs", most_trbs)), false;
    t.trbs.push_back(*trb);
    const u8 type = trb->type();
    if (type == t_normal || type == t_data || type == t_isoch) t.bytes += trb->length();
    if (t.bytes > most_bytes) return stop_with(0x1000, "a transfer is too long"), false;
    if (trb->control & (f_ioc | f_isp)) t.events++;
    if (control && t.trbs[0].type() == t_setup) {  // up to the end of the status stage
      const bool status_seen = std::ranges::any_of(t.trbs, [](const Trb& x) { return x.type() == t_status; });
      if (status_seen && !(trb->control & f_chain)) break;
    } else if (!(trb->control & f_chain)) {
      break;
    }
  }
  t.events++;  // an error
  t.after = ring;
  return true;
}

bool Xhci::run_endpoint(u8 slot, unsigned number, unsigned& budget) {
  Endpoint& e = slot_[slot].endpoints[number];
  if (e.state != e_running) return e.waits = false;
  Transfer t;
  if (!gather(e, number, t)) return e.waits = false;
  for (const Trb& trb : t.trbs) {
    const unsigned n = trb.interrupter() < interrupters_ ? trb.interrupter() : 0;
    const u32 entries = interrupter_[n].entries;
    if (t.events > room(n)) {
      if (entries && t.events >= entries) stop_with(0x1000, "a transfer has more events than their ring has places");
      return false;  // stays rung: tried again when the driver has taken events
    }
  }
  budget--;
  const bool moved = e.type == 4 ? carry_out_control(slot, t) : carry_out(slot, number, t);
  if (!moved) return e.waits = false;  // not yet: the device tells
  if (e.state == e_running || e.state == e_halted) e.ring = e.state == e_running ? t.after : e.ring;
  return e.state == e_running;
}

bool Xhci::copy(const Transfer& t, std::span<u8> bytes, bool to_guest) {
  for (const Trb& trb : t.trbs) {
    const u8 type = trb.type();
    if (type != t_normal && type != t_data && type != t_isoch) continue;
    const usize n = std::min<usize>(trb.length(), bytes.size());
    if (!n) continue;
    const auto part = bytes.first(n);
    bytes = bytes.subspan(n);
    if (trb.control & f_immediate) {
      if (to_guest || n > 8) return false;
      std::array<u8, 8> data;
      store_le<u64>(data.data(), trb.parameter);
      std::copy_n(data.begin(), n, part.begin());
    } else if (to_guest ? !dma_write(GuestPhys{trb.parameter}, part) : !dma_read(GuestPhys{trb.parameter}, part)) {
      return false;
    }
  }
  return true;
}

void Xhci::transfer_event(u8 slot, unsigned endpoint, const Trb& trb, Code code, u32 length, bool event_data) {
  const unsigned n = trb.interrupter() < interrupters_ ? trb.interrupter() : 0;
  const u32 control = u32{slot} << 24 | endpoint << 16 | t_transfer_event << 10 | (event_data ? 4 : 0);
  send_event(n, {.parameter = event_data ? trb.parameter : trb.at, .status = u32{code} << 24 | (length & 0xff'ffff), .control = control},
             !(trb.control & f_block_interrupt));
}

void Xhci::halt(u8 slot, unsigned endpoint) {
  Endpoint& e = slot_[slot].endpoints[endpoint];
  e.state = e_halted, e.waits = false;
  write_endpoint_state(slot_[slot], endpoint);
}

namespace {
Code code_of(UsbStatus status) {
  switch (status) {
    case UsbStatus::stall: return c_stall;
    case UsbStatus::babble: return c_babble;
    case UsbStatus::gone: return c_transaction;
    default: return c_success;
  }
}
}  // namespace

bool Xhci::carry_out(u8 slot, unsigned number, Transfer& t) {
  Slot& s = slot_[slot];
  const Endpoint& e = s.endpoints[number];
  const bool in = is_in(e.type);
  std::vector<u8> data(t.bytes);
  UsbAnswer answer{UsbStatus::gone};
  Code code = c_success;
  const bool no_op = t.trbs[0].type() == t_no_op;
  const bool known = std::ranges::all_of(
      t.trbs, [](const Trb& x) { return x.type() == t_normal || x.type() == t_isoch || x.type() == t_event_data || x.type() == t_no_op; });
  if (!known) {
    code = c_trb;
  } else if (no_op) {
    answer = {};
  } else if (!in && !copy(t, data, false)) {
    code = c_data_buffer;
  } else {
    if (s.device) answer = s.device->transfer(static_cast<u8>(number / 2 | (in ? 0x80 : 0)), data);
    if (answer.status == UsbStatus::nak) return false;
    code = code_of(answer.status);
    answer.bytes = std::min<u32>(answer.bytes, t.bytes);
    if (in && answer.bytes && !copy(t, std::span{data}.first(answer.bytes), true)) code = c_data_buffer;
  }
  u32 left = answer.bytes, sum = 0;
  bool told = false, short_packet = false;
  for (const Trb& trb : t.trbs) {
    if (trb.type() == t_event_data) {
      if (trb.control & f_ioc) transfer_event(slot, number, trb, short_packet ? c_short_packet : code, sum, true), told = true;
      sum = 0;
      continue;
    }
    if (short_packet) continue;
    const u32 moved = std::min(left, trb.length());
    left -= moved, sum += moved;
    if (code != c_success && (moved < trb.length() || &trb == &t.trbs.back())) {
      transfer_event(slot, number, trb, code, trb.length() - moved);
      break;
    }
    short_packet = moved < trb.length() && trb.type() == t_normal;
    if (trb.control & f_ioc || (short_packet && trb.control & f_isp))
      if (!told || !short_packet) transfer_event(slot, number, trb, short_packet ? c_short_packet : c_success, trb.length() - moved);
  }
  if (code != c_success) halt(slot, number);
  return true;
}

bool Xhci::carry_out_control(u8 slot, Transfer& t) {
  Slot& s = slot_[slot];
  const Trb& first = t.trbs[0];
  const auto is = [](TrbType type) { return [type](const Trb& x) { return x.type() == type; }; };
  if (first.type() == t_no_op) {
    if (first.control & f_ioc) transfer_event(slot, 1, first, c_success, 0);
    return true;
  }
  if (first.type() != t_setup || !(first.control & f_immediate) || first.length() != 8) {
    transfer_event(slot, 1, first, c_trb, 0);
    return halt(slot, 1), true;
  }
  const UsbSetup setup{static_cast<u8>(first.parameter), static_cast<u8>(first.parameter >> 8), static_cast<u16>(first.parameter >> 16),
                       static_cast<u16>(first.parameter >> 32), static_cast<u16>(first.parameter >> 48)};
  std::vector<u8> data(std::min<u32>(t.bytes, setup.length));
  const auto data_at = std::ranges::find_if(t.trbs, is(t_data));
  const auto status_at = std::ranges::find_if(t.trbs, is(t_status));
  UsbAnswer answer{UsbStatus::gone};
  Code code = c_success;
  if (!setup.in() && !copy(t, data, false)) {
    code = c_data_buffer;
  } else if (setup.code() == 0x0005) {  // addresses are the controller's business
    code = c_trb;
  } else {
    if (s.device) answer = s.device->control(setup, data);
    code = code_of(answer.status);
    answer.bytes = setup.in() ? std::min<u32>(answer.bytes, static_cast<u32>(data.size())) : static_cast<u32>(data.size());
    if (setup.in() && code == c_success && !copy(t, std::span{data}.first(answer.bytes), true)) code = c_data_buffer;
  }
  if (first.control & f_ioc) transfer_event(slot, 1, first, c_success, 0);
  if (code != c_success) {
    const Trb& at = data_at != t.trbs.end() ? *data_at : *status_at;
    transfer_event(slot, 1, at, code, data_at != t.trbs.end() ? at.length() : 0);
    return halt(slot, 1), true;
  }
  u32 left = answer.bytes, sum = 0;
  bool short_packet = false;
  for (const Trb& trb : t.trbs) {
    const u8 type = trb.type();
    if (type == t_setup) continue;
    if (type == t_event_data) {
      if (trb.control & f_ioc) transfer_event(slot, 1, trb, short_packet ? c_short_packet : c_success, sum, true);
      sum = 0;
      continue;
    }
    if (type == t_status) {
      if (trb.control & f_ioc) transfer_event(slot, 1, trb, c_success, 0);
      short_packet = false;
      continue;
    }
    if (short_packet) continue;
    const u32 moved = std::min(left, trb.length());
    left -= moved, sum += moved;
    short_packet = moved < trb.length();
    if (trb.control & f_ioc || (short_packet && trb.control & f_isp))
      transfer_event(slot, 1, trb, short_packet ? c_short_packet : c_success, trb.length() - moved);
  }
  return true;
}

}  // namespace vmm::hw
