#include "src/gdbstub/session.h"

#include <algorithm>

#include "src/base/bits.h"
#include "src/base/trace.h"
#include "src/memory/memory.h"
#include "src/x86/model.h"

namespace vmm::gdb {

using vm::DebugPoint, vm::DebugStop, vm::Status;

namespace {

TraceEvent packet_taken{"gdbstub_io_command"}, packet_sent{"gdbstub_io_reply"};

enum Signal : unsigned { sig_int = 2, sig_quit = 3, sig_trap = 5, sig_abort = 6, sig_alarm = 14, sig_io = 23, sig_unknown = 143 };
enum StepBit : unsigned { step_enable = 1, step_no_irq = 2, step_no_timer = 4 };
// Errors as gdb's users have seen them.
constexpr unsigned error_invalid = 0x22, error_fault = 0x14;

// Why the machine has stopped, as a signal.
unsigned signal_of(Status status) {
  switch (status) {
    case Status::debug:
    case Status::paused: return sig_int;
    case Status::shutdown: return sig_quit;
    case Status::io_error: return sig_io;
    case Status::watchdog: return sig_alarm;
    case Status::internal_error: return sig_abort;
    default: return sig_unknown;
  }
}

}  // namespace

Session::Session(vm::Machine& machine, Wire wire)
    : machine_(machine),
      wire_(std::move(wire)),
      registers_(machine.vcpus().front()->model()),
      general_(machine.vcpus().front().get()),
      control_(general_) {}

bool Session::stop_machine(Status why) {
  if (!machine_.run_state().running()) return false;
  machine_.run_state().stop(why);
  return true;
}

void Session::begin() {
  multiprocess_ = no_ack_ = physical_ = owed_ = false;
  step_mask_ = step_enable | step_no_irq | step_no_timer;
  general_ = control_ = machine_.vcpus().front().get();
  stop_machine(Status::debug);
}

void Session::end() {
  owed_ = false;
  if (!machine_.debug().any()) return;
  // Points change only while nobody runs.
  const bool ran = stop_machine(Status::debug);
  machine_.debug().clear();
  if (ran) machine_.run_state().start();
}

void Session::interrupt() {
  if (stop_machine(Status::debug)) return;
  if (std::exchange(owed_, false)) send_stop(sig_int, *general_);
}

void Session::vcpu_stopped(vm::Vcpu& vcpu, const DebugStop& stop) {
  stopped_vcpu_ = &vcpu, stop_ = stop;
  stop_machine(Status::debug);
  stopped_vcpu_ = nullptr;
}

void Session::machine_stopped() {
  const Status status = machine_.run_state().status();
  if (status == Status::save_vm || status == Status::restore_vm || status == Status::finish_migrate) return;
  if (!std::exchange(owed_, false)) return;
  if (!stopped_vcpu_) return send_stop(signal_of(status), *general_);
  general_ = control_ = stopped_vcpu_;
  std::string more;
  if (stop_.why == DebugStop::Why::watch)
    more = format("{}:{:x};",
                  stop_.kind == DebugPoint::Kind::write  ? "watch"
                  : stop_.kind == DebugPoint::Kind::read ? "rwatch"
                                                         : "awatch",
                  stop_.address);
  send_stop(sig_trap, *stopped_vcpu_, more);
}

std::string Session::thread_id(const vm::Vcpu& vcpu) const {
  return multiprocess_ ? format("p01.{:02x}", vcpu.index() + 1) : format("{:02x}", vcpu.index() + 1);
}

void Session::send_stop(unsigned signal, const vm::Vcpu& vcpu, std::string_view more) {
  signal_ = signal;
  send(format("T{:02x}thread:{};{}", signal, thread_id(vcpu), more));
}

// pPID.TID, pPID, TID; 0: any, -1: all.
std::optional<Session::Threads> Session::take_threads(std::string_view& text) {
  constexpr u64 every = ~u64{0};
  const auto number = [&]() -> std::optional<u64> { return take(text, "-1") ? std::optional{every} : take_hex(text); };
  u64 thread = every;
  if (take(text, "p")) {
    const auto process = number();
    if (!process || (*process > 1 && *process != every)) return std::nullopt;
    if (take(text, ".")) {
      const auto n = number();
      if (!n) return std::nullopt;
      thread = *n;
    }
  } else {
    const auto n = number();
    if (!n) return std::nullopt;
    thread = *n;
  }
  if (thread == every) return Threads{.all = true};
  if (thread == 0) return Threads{.one = machine_.vcpus().front().get()};
  for (const auto& vcpu : machine_.vcpus())
    if (vcpu->index() + 1 == thread) return Threads{.one = vcpu.get()};
  return std::nullopt;
}

void Session::send(std::string_view data) {
  trace(packet_sent, "Sent: {}", data.substr(0, 1000));
  wire_.reply(data);
}
void Session::packet(std::string_view data) {
  trace(packet_taken, "Received: {}", data.substr(0, 1000));
  if (data.empty()) return send("");
  // gdb talks to what stands still; whoever set it going meanwhile (QMP), its answers are about this moment.
  if (machine_.run_state().running()) {
    owed_ = false;
    stop_machine(Status::debug);
  }
  const char kind = data[0];
  std::string_view rest = data.substr(1);
  switch (kind) {
    case '?':
      machine_.debug().clear();  // a client that asks this begins anew
      return send_stop(sig_trap, *general_);
    case 'c': return legacy_resume(rest, Action::go, false);
    case 'C': return legacy_resume(rest, Action::go, true);
    case 's': return legacy_resume(rest, Action::step, false);
    case 'S': return legacy_resume(rest, Action::step, true);
    case 'D':
      machine_.debug().clear();
      send("OK");
      return machine_.run_state().start();
    case 'g': return read_registers();
    case 'G': return write_registers(rest);
    case 'H': return set_threads(rest);
    case 'k': return machine_.run_state().request_shutdown(vm::Cause::host_ui);
    case 'm': return read_memory(rest);
    case 'M': return write_memory(rest, false);
    case 'X': return write_memory(rest, true);
    case 'p': return one_register(rest, false);
    case 'P': return one_register(rest, true);
    case 'T': {
      const auto threads = take_threads(rest);
      return threads && rest.empty() ? send("OK") : error(error_invalid);
    }
    case 'v':
      if (rest == "Cont?") return send("vCont;c;C;s;S");
      if (take(rest, "Cont;")) {
        if (!cont_packet(rest)) error(error_invalid);
        return;
      }
      if (take(rest, "Attach;")) return take_hex(rest) == 1 ? send_stop(sig_trap, *general_) : error(error_invalid);
      if (take(rest, "Kill;")) {
        send("OK");
        return machine_.run_state().request_shutdown(vm::Cause::host_ui);
      }
      return send("");
    case 'Z': return point(rest, true);
    case 'z': return point(rest, false);
    case 'q':
    case 'Q':
      if (!query(data)) send("");
      return;
    default: return send("");
  }
}

// --- Going on

void Session::resume(const std::vector<Action>& actions) {
  vm::RunState& state = machine_.run_state();
  const Status status = state.status();
  if (status == Status::shutdown || status == Status::internal_error || status == Status::guest_panicked)
    return send_stop(signal_of(status), *general_);  // only a reset brings it back
  const bool steps = std::ranges::find(actions, Action::step) != actions.end() && step_mask_ & step_enable;
  owed_ = true;
  state.start_some(!(steps && step_mask_ & step_no_timer), [&] {
    for (usize i = 0; i < actions.size(); i++) {
      vm::Vcpu& vcpu = *machine_.vcpus()[i];
      if (actions[i] == Action::step && step_mask_ & step_enable)
        vcpu.step({.hold_interrupts = (step_mask_ & step_no_irq) != 0});
      else if (actions[i] != Action::none)
        vcpu.resume();
    }
  });
}

void Session::legacy_resume(std::string_view text, Action action, bool with_signal) {
  if (with_signal && (!take_hex(text) || (!text.empty() && !take(text, ";")))) return error(error_invalid);
  if (!text.empty()) {
    const auto address = take_hex(text);
    if (!address || !text.empty()) return error(error_invalid);
    control_->state().rip = *address;
  }
  std::vector<Action> actions(machine_.vcpus().size(), Action::go);
  if (action == Action::step) actions[control_->index()] = Action::step;
  resume(actions);
}

// vCont;ACTION[:THREADS]…: for each thread the first action that names it; the rest stay as they are.
bool Session::cont_packet(std::string_view text) {
  std::vector<Action> actions(machine_.vcpus().size(), Action::none);
  bool any = false;
  for (bool more = true; more;) {
    if (text.empty()) return false;
    const char what = text[0];
    text.remove_prefix(1);
    if (what == 'C' || what == 'S') {
      if (!take_hex(text)) return false;
    } else if (what != 'c' && what != 's') {
      return false;
    }
    Threads threads{.all = true};
    if (take(text, ":")) {
      const auto named = take_threads(text);
      if (!named) return false;
      threads = *named;
    }
    for (const auto& vcpu : machine_.vcpus()) {
      Action& action = actions[vcpu->index()];
      if (action != Action::none || !threads.holds(*vcpu)) continue;
      action = what == 's' || what == 'S' ? Action::step : Action::go;
      any = true;
    }
    more = take(text, ";");
    if (!more && !text.empty()) return false;
  }
  if (!any) return false;
  resume(actions);
  return true;
}

// --- Threads, registers

void Session::set_threads(std::string_view text) {
  const char what = text.empty() ? 0 : text[0];
  if (what != 'c' && what != 'g') return error(error_invalid);
  text.remove_prefix(1);
  const auto threads = take_threads(text);
  if (!threads || !text.empty()) return error(error_invalid);
  // "All" or "any" leaves the choice to us: the one that is selected.
  if (threads->one) (what == 'c' ? control_ : general_) = threads->one;
  send("OK");
}

void Session::read_registers() {
  std::vector<u8> all(registers_.bytes());
  usize at = 0;
  general_->run([&] {
    for (usize i = 0; i < registers_.count(); i++) {
      registers_.get(*general_, i, std::span{all}.subspan(at, registers_.size_of(i)));
      at += registers_.size_of(i);
    }
  });
  send(to_hex(all));
}

void Session::write_registers(std::string_view hex) {
  const auto bytes = from_hex(hex);
  if (!bytes) return error(error_invalid);
  general_->run([&] {
    usize at = 0;
    for (usize i = 0; i < registers_.count(); i++) {
      const usize size = registers_.size_of(i);
      if (at + size > bytes->size()) break;
      registers_.set(*general_, i, std::span{*bytes}.subspan(at, size));
      at += size;
    }
  });
  send("OK");
}

void Session::one_register(std::string_view text, bool write) {
  const auto number = take_hex(text);
  if (!number || *number >= registers_.count()) return error(error_fault);
  std::vector<u8> bytes(registers_.size_of(*number));
  if (!write) {
    if (!text.empty()) return error(error_invalid);
    general_->run([&] { registers_.get(*general_, *number, bytes); });
    return send(to_hex(bytes));
  }
  const auto value = take(text, "=") ? from_hex(text) : std::nullopt;
  if (!value || value->size() != bytes.size()) return error(error_invalid);
  general_->run([&] { registers_.set(*general_, *number, *value); });
  send("OK");
}

// --- Memory

// By the selected vCPU's tables, or physical; `done` says how much there was. ROM can be written, and so can code.
bool Session::access(u64 address, std::span<u8> bytes, bool write, usize& done) {
  const memory::AddressSpace& space = general_->state().smm ? general_->smm_memory() : general_->memory();
  for (done = 0; done < bytes.size();) {
    const usize n = std::min<u64>(bytes.size() - done, memory::page_bytes - address % memory::page_bytes);
    u64 at = address;
    if (!physical_) {
      const auto translated = general_->translate(GuestVirt{address});
      if (!translated) return false;
      at = translated->value;
    }
    const auto part = bytes.subspan(done, n);
    if (!(write ? space.write_rom(GuestPhys{at}, part) : space.read(GuestPhys{at}, part))) return false;
    done += n, address += n;
  }
  return true;
}

void Session::read_memory(std::string_view text) {
  const auto address = take_hex(text);
  const auto length = address && take(text, ",") ? take_hex(text) : std::nullopt;
  if (!length || !text.empty()) return error(error_invalid);
  std::vector<u8> bytes(std::min<u64>(*length, packet_bytes / 2 - 8));
  usize done = 0;
  general_->run([&] { access(*address, bytes, false, done); });
  if (done == 0 && !bytes.empty()) return error(error_fault);
  send(to_hex({bytes.data(), done}));
}

void Session::write_memory(std::string_view text, bool binary) {
  const auto address = take_hex(text);
  const auto length = address && take(text, ",") ? take_hex(text) : std::nullopt;
  if (!length || !take(text, ":")) return error(error_invalid);
  std::optional<std::vector<u8>> bytes;
  if (binary)
    bytes.emplace(text.begin(), text.end());
  else
    bytes = from_hex(text);
  if (!bytes || bytes->size() != *length) return error(error_invalid);
  usize done = 0;
  general_->run([&] { access(*address, *bytes, true, done); });
  done == bytes->size() ? send("OK") : error(error_fault);
}

// --- Breakpoints: KIND,ADDRESS,LENGTH[;…]

void Session::point(std::string_view text, bool insert) {
  const auto kind = take_hex(text);
  if (!kind) return error(error_invalid);
  if (*kind > 4) return send("");
  const auto address = take(text, ",") ? take_hex(text) : std::nullopt;
  const auto length = address && take(text, ",") ? take_hex(text) : std::nullopt;
  if (!length || (!text.empty() && text[0] != ';')) return error(error_invalid);
  static constexpr DebugPoint::Kind kinds[] = {DebugPoint::Kind::software, DebugPoint::Kind::hardware, DebugPoint::Kind::write,
                                               DebugPoint::Kind::read, DebugPoint::Kind::access};
  const DebugPoint p{.kind = kinds[*kind], .address = *address, .length = *kind < 2 ? 1 : *length};
  if (p.length == 0) return error(error_invalid);
  (insert ? machine_.debug().insert(p) : machine_.debug().remove(p)) ? send("OK") : error(error_invalid);
}

// --- Queries

bool Session::query(std::string_view text) {
  if (text == "qSupported" || text.starts_with("qSupported:")) {
    multiprocess_ = text.contains("multiprocess+");
    send(format("PacketSize={:x};qXfer:features:read+;vContSupported+;multiprocess+;QStartNoAckMode+", packet_bytes));
  } else if (text == "QStartNoAckMode") {
    send("OK");
    no_ack_ = true;
  } else if (text == "qAttached" || text.starts_with("qAttached:")) {
    send("1");
  } else if (text == "qC") {
    send("QC" + thread_id(*general_));
  } else if (text == "qfThreadInfo") {
    std::string list;
    for (const auto& vcpu : machine_.vcpus()) list += (list.empty() ? "m" : ",") + thread_id(*vcpu);
    send(list);
  } else if (text == "qsThreadInfo") {
    send("l");
  } else if (take(text, "qThreadExtraInfo,")) {
    const auto threads = take_threads(text);
    if (!threads || !threads->one || !text.empty()) return error(error_invalid), true;
    const bool halted = threads->one->state().activity != x86::Activity::running;
    send(to_hex(format("CPU#{} [{}]", threads->one->index(), halted ? "halted " : "running")));
  } else if (take(text, "qXfer:features:read:")) {
    features(text);
  } else if (take(text, "qRcmd,")) {
    monitor_command(text);
  } else if (text == "qqemu.sstepbits") {
    send(format("ENABLE={:x},NOIRQ={:x},NOTIMER={:x}", unsigned{step_enable}, unsigned{step_no_irq}, unsigned{step_no_timer}));
  } else if (text == "qqemu.sstep") {
    send(format("0x{:x}", step_mask_));
  } else if (take(text, "Qqemu.sstep=")) {
    take(text, "0x");
    const auto mask = take_hex(text);
    if (!mask || !text.empty() || *mask > 7) return error(error_invalid), true;
    step_mask_ = static_cast<unsigned>(*mask);
    send("OK");
  } else if (text == "qqemu.PhyMemMode") {
    send(physical_ ? "1" : "0");
  } else if (take(text, "Qqemu.PhyMemMode:")) {
    const auto on = take_hex(text);
    if (!on || !text.empty()) return error(error_invalid), true;
    physical_ = *on != 0;
    send("OK");
  } else if (text == "qOffsets") {
    const auto offset = linux_text_offset(machine_);
    if (!offset) return false;
    send(format("Text={0:x};Data={0:x};Bss={0:x}", *offset));
  } else {
    return false;
  }
  return true;
}

// target.xml:OFFSET,LENGTH
void Session::features(std::string_view text) {
  const auto colon = text.find(':');
  if (text.substr(0, colon) != "target.xml" || colon == text.npos) return error(0);
  text.remove_prefix(colon + 1);
  const auto offset = take_hex(text);
  const auto length = offset && take(text, ",") ? take_hex(text) : std::nullopt;
  const std::string& xml = registers_.target_xml();
  if (!length || !text.empty() || *offset > xml.size()) return error(0);
  // Escaping may double it.
  const std::string_view part = std::string_view{xml}.substr(*offset, std::min<u64>(*length, packet_bytes / 2 - 8));
  send((*offset + part.size() < xml.size() ? "m" : "l") + escape(part));
}

void Session::monitor_command(std::string_view hex) {
  const auto line = from_hex(hex);
  if (!line) return error(error_invalid);
  const std::string text = wire_.run_command({reinterpret_cast<const char*>(line->data()), line->size()});
  constexpr usize most = packet_bytes / 2 - 8;
  for (usize at = 0; at < text.size(); at += most) send("O" + to_hex(std::string_view{text}.substr(at, most)));
  send("OK");
}

}  // namespace vmm::gdb
