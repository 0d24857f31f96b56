// See incoming.h.
#include "migration/incoming.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "block/core/handover.h"
#include "block/core/quiet.h"
#include "migration/channel.h"
#include "migration/lanes.h"
#include "migration/machine_in.h"
#include "migration/on_loop.h"
#include "migration/outgoing.h"
#include "migration/settings.h"
#include "src/base/bits.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/base/thread_name.h"
#include "src/chardev/address.h"
#include "src/control/command.h"

namespace vmm::migration {

namespace {

class Incoming {
 public:
  Incoming(vm::Machine& machine, bool start, bool stay) : machine_(machine), start_(start), stay_(stay) {}
  ~Incoming() {
    ending_ = true, *alive_ = false;
    channel_.cancel();
    lanes_.cancel();
    if (!thread_.joinable()) return;
    // Once the main loop knows its end the thread waits for nobody.
    const bool ended = status_ == MoveStatus::failed || status_ == MoveStatus::completed;
    while (!ended && !finished_) machine_.main_loop().run_once(true);
    thread_.join();
  }
  Result<> open(const std::string& uri);
  void set_stay(bool stay) { stay_ = stay; }
  bool idle() const { return !listener_ && !thread_.joinable(); }
  // It has failed before any device was told: all of RAM comes again with the next try.
  bool may_try_again() const { return status_ == MoveStatus::failed && !touched_; }
  std::unique_ptr<Incoming> again() const { return std::make_unique<Incoming>(machine_, start_, stay_); }
  MoveStatus status() const { return status_; }
  const std::string& error() const { return error_; }

 private:
  void accept_one();
  void begin();
  void run();
  Result<> receive();
  Result<> take_over();
  void set_status(MoveStatus status);

  vm::Machine& machine_;
  bool start_, stay_;
  Fd listener_;
  std::string socket_path_;
  FdWatch watch_;
  Channel channel_;
  MachineIn in_{machine_, false};
  LanesIn lanes_{in_};
  MoveStatus status_ = MoveStatus::none;                              // machine lock
  std::string error_;                                                 // machine lock
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // main loop
  bool whole_ = false;                                                // all of it is here; the thread's
  std::atomic<bool> touched_{false};                                  // devices have been told
  std::atomic<bool> ending_{false}, finished_{false};
  std::thread thread_;
};
std::unique_ptr<Incoming> incoming;

Result<> Incoming::open(const std::string& uri) {
  const bool unix_ = uri.starts_with("unix:");
  if (!unix_ && !uri.starts_with("tcp:")) {
    TRY(channel_.open(uri));
    begin();
    return {};
  }
  SocketAddress address;
  if (unix_) {
    address.path = socket_path_ = uri.substr(5);
  } else {
    const auto colon = uri.rfind(':');
    if (colon < 4) return fail("no port in '{}'", uri);
    address.host = uri.substr(4, colon - 4), address.port = uri.substr(colon + 1);
    if (address.host.starts_with('[') && address.host.ends_with(']')) address.host = address.host.substr(1, address.host.size() - 2);
  }
  listener_ = TRY(listen_on(address, 0, AF_UNSPEC));
  // Further connections (multifd) come before the first has been taken, and a unix socket refuses whom it has no room for.
  if (::listen(listener_.get(), 256) < 0) return fail("the socket cannot be listened to: {}", std::strerror(errno));
  watch_.start(machine_.main_loop(), listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
  return {};
}

void Incoming::accept_one() {
  Fd fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
  if (!fd) return;
  watch_.stop();
  channel_.adopt(std::move(fd), true);
  begin();
}

void Incoming::begin() {
  set_status(MoveStatus::active);
  thread_ = std::thread{[this] {
    name_this_thread("incoming");
    run();
    finished_ = true;
    machine_.main_loop().post([] {});  // who waits for this looks again
  }};
}

// Machine lock held.
void Incoming::set_status(MoveStatus status) {
  status_ = status;
  emit_status(status);
}

Result<> Incoming::receive() {
  Reader reader{channel_};
  const unsigned lanes = TRY(in_.begin(reader));
  if (in_.placed()) {
    if (!channel_.has_places()) return fail("the machine was written to a file with places (mapped-ram), and can only be read from one");
    TRY(channel_.go_to(in_.rest()));
  }
  TRY(lanes_.open(channel_, listener_.get(), lanes));
  for (u32 passes = 0;;) {
    const auto part = TRY(reader.next());
    switch (part.kind) {
      case Part::end: return {};
      case Part::sync:
        if (part.payload.size() != 4 || load_le<u32>(part.payload.data()) != passes) return fail("the connections are out of step");
        TRY(lanes_.pass(passes++));
        break;
      case Part::placed:
        if (!in_.placed()) return fail("pages in places of a stream that has none");
        TRY(in_.take_placed(channel_, part.payload));
        break;
      case Part::pages:
      case Part::packed:
      case Part::section: TRY(in_.take(part)); break;
      default: return fail("a part of the unknown kind {}", static_cast<u32>(part.kind));
    }
  }
}

// All has come. Its disks are taken when the other side has let go of them; then it may run.
Result<> Incoming::take_over() {
  EventLoop& loop = machine_.main_loop();
  TRY(on_loop(loop, [this]() -> Result<> {
    TRY(in_.check());
    touched_ = true;
    return in_.commit();
  }));
  whole_ = true;
  if (channel_.answers()) {
    TRY(channel_.write(std::array<u8, 1>{1}));
    u8 go = 0;
    if (!channel_.read({&go, 1}) || go != 1) return fail("its source has not let go of it");
  }
  if (auto taken = task_on_loop(loop, [] { return block::activate_all(); }); !taken) {
    if (channel_.answers()) static_cast<void>(channel_.write(std::array<u8, 1>{0}));
    return taken;
  }
  if (channel_.answers())
    if (auto told = channel_.write(std::array<u8, 1>{1}); !told) {
      // The source does not know that it is ours: it may take it back.
      static_cast<void>(task_on_loop(loop, [] { return block::inactivate_all(); }));
      return told;
    }
  return {};
}

void Incoming::run() {
  auto received = receive();
  lanes_.cancel();
  listener_.reset();
  if (!socket_path_.empty()) host::remove_file(socket_path_);
  if (received) received = take_over();
  if (ending_) return;
  if (!received && !whole_ && channel_.answers()) static_cast<void>(channel_.write(std::array<u8, 1>{0}));
  static_cast<void>(channel_.finish());
  machine_.main_loop().post([this, alive = alive_, received = std::move(received)] {
    if (!*alive) return;
    vm::RunState& state = machine_.run_state();
    if (!received) {
      error_ = received.error().message;
      set_status(MoveStatus::failed);
      if (whole_) {
        state.stop(vm::Status::paused);
        return report_error(
            format("the machine is complete here, but paused: {} ('cont' runs it if its disks can be had)", received.error().message));
      }
      report_error(format("load of migration failed: {}", received.error().message));
      if (!stay_) state.request_shutdown(vm::Cause::host_error, 1);
      return;
    }
    // As it was there: one that stood at an error, say, stands here until somebody lets it run.
    const bool runs = in_.status() == vm::Status::running;
    state.stop(runs ? vm::Status::paused : in_.status());
    set_status(MoveStatus::completed);
    const Parameters& p = parameters;
    if (const control::Command* announce = control::find_command("announce-self"); announce && p.announce_rounds) {
      control::Context context;
      static_cast<void>(announce->run(context, Value::object()
                                                   .set("initial", p.announce_initial)
                                                   .set("max", p.announce_max)
                                                   .set("rounds", p.announce_rounds)
                                                   .set("step", p.announce_step)));
    }
    if (runs && start_) state.start();
  });
}

}  // namespace

Result<> wait_for_machine(vm::Machine& machine, const std::string& uri, bool start, bool stay) {
  [[maybe_unused]] static const bool once = (block::before_close([](EventLoop&) { incoming = nullptr; }), true);
  machine.run_state().stop(vm::Status::inmigrate);
  incoming = std::make_unique<Incoming>(machine, start, stay);
  if (uri == "defer") return {};
  return incoming->open(uri);
}

std::optional<IncomingFigures> incoming_figures() {
  if (!incoming || incoming->status() == MoveStatus::none) return std::nullopt;
  return IncomingFigures{.status = incoming->status(), .error = incoming->error()};
}
bool awaits_uri() { return incoming && (incoming->idle() || incoming->may_try_again()); }
Result<> open_incoming(const std::string& uri, bool stay) {
  if (incoming->may_try_again()) incoming = incoming->again();
  incoming->set_stay(stay);
  return incoming->open(uri);
}

}  // namespace vmm::migration
