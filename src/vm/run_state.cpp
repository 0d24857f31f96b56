#include "src/vm/run_state.h"

#include <algorithm>
#include <array>

#include "block/core/handover.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/vm/machine.h"
#include "src/vm/state.h"

namespace vmm::vm {
namespace {

constexpr std::array<std::string_view, 16> status_names{
    "debug",      "inmigrate", "internal-error", "io-error", "paused",    "postmigrate", "prelaunch",      "finish-migrate",
    "restore-vm", "running",   "save-vm",        "shutdown", "suspended", "watchdog",    "guest-panicked", "colo"};
constexpr std::array<std::string_view, 10> cause_names{"none",        "host-error",     "host-qmp-quit",  "host-qmp-system-reset",
                                                       "host-signal", "host-ui",        "guest-shutdown", "guest-reset",
                                                       "guest-panic", "subsystem-reset"};

constexpr control::EventInfo stop_event{.name = "STOP", .doc = "The machine has stopped."};
constexpr control::EventInfo resume_event{.name = "RESUME", .doc = "The machine runs again."};
constexpr control::EventInfo shutdown_event{.name = "SHUTDOWN",
                                            .doc = "The machine has shut down, or is about to. Members: guest, reason."};
constexpr control::EventInfo reset_event{.name = "RESET", .doc = "The machine was reset. Members: guest, reason."};
constexpr control::EventInfo powerdown_event{.name = "POWERDOWN", .doc = "The power button was pressed."};
constexpr control::EventInfo suspend_event{.name = "SUSPEND", .doc = "The guest sleeps (S3)."};
constexpr control::EventInfo wakeup_event{.name = "WAKEUP", .doc = "The guest wakes up."};
constexpr control::EventInfo panicked_event{.name = "GUEST_PANICKED",
                                            .doc = "The guest reports that it has crashed. Members: action, info."};
const control::RegisteredEvent registered[]{control::RegisteredEvent{stop_event},      control::RegisteredEvent{resume_event},
                                            control::RegisteredEvent{shutdown_event},  control::RegisteredEvent{reset_event},
                                            control::RegisteredEvent{powerdown_event}, control::RegisteredEvent{suspend_event},
                                            control::RegisteredEvent{wakeup_event},    control::RegisteredEvent{panicked_event}};

Value by_whom(Cause cause) {
  Value data = Value::object();
  data.set("guest", by_guest(cause));
  data.set("reason", cause_name(cause));
  return data;
}

}  // namespace

std::string_view status_name(Status status) { return status_names[static_cast<usize>(status)]; }
std::optional<Status> status_of_name(std::string_view name) {
  const auto at = std::ranges::find(status_names, name);
  if (at == status_names.end()) return std::nullopt;
  return static_cast<Status>(at - status_names.begin());
}
// A machine that is taken for one that waits for a stream takes any status.
void stand(RunState& state, Status why) {
  ASSERT(!state.running());
  state.set_status_prelaunch();
  state.stop(Status::inmigrate);
  state.stop(why);
}
std::string_view cause_name(Cause cause) { return cause_names[static_cast<usize>(cause)]; }

RunState::RunState(Machine& machine) : machine_(machine) {}

void RunState::post(std::function<void()> request) {
  {
    Lock lock{mutex_};
    requests_.push_back(std::move(request));
  }
  machine_.main_loop().post([this] { carry_out(); });
}

void RunState::carry_out() {
  std::vector<std::function<void()>> requests;
  {
    Lock lock{mutex_};
    requests.swap(requests_);
  }
  for (auto& request : requests) request();
}

void RunState::request_reset(Cause cause) {
  if (reset_pending_.exchange(true)) return;  // one reset serves all who ask before it
  post([this, cause] {
    reset_pending_ = false;
    if (ended_) return;
    if (by_guest(cause) && actions.reboot == Actions::Reboot::shutdown) return shut_down(cause, 0);
    const bool was_running = running();
    if (was_running) pause_vcpus();
    reset_now(cause);
    if (was_running)
      resume_vcpus();
    else if (status() == Status::guest_panicked || status() == Status::shutdown || status() == Status::internal_error)
      status_ = Status::paused;
  });
}

void RunState::request_shutdown(Cause cause, int exit_code) {
  post([this, cause, exit_code] { shut_down(cause, exit_code); });
}

void RunState::shut_down(Cause cause, int exit_code) {
  if (ended_) return;
  control::emit(shutdown_event, by_whom(cause));
  const bool asked_by_host = cause == Cause::host_qmp_quit || cause == Cause::host_signal || cause == Cause::host_ui;
  if (actions.shutdown == Actions::Shutdown::pause && !asked_by_host) return stop(Status::shutdown);
  ended_ = true;
  exit_code_ = exit_code;
  if (running()) stop(Status::shutdown);
  machine_.main_loop().quit();
}

void RunState::request_powerdown() {
  post([this] {
    control::emit(powerdown_event);
    for (auto& f : powerdown_) f();
  });
}

void RunState::request_stop(Status why) {
  post([this, why] { stop(why); });
}

void RunState::request_suspend() {
  post([this] {
    if (!running()) return;
    stop(Status::suspended);
    control::emit(suspend_event);
  });
}

void RunState::request_wakeup() {
  post([this] {
    if (status() != Status::suspended) return;
    reset_now(Cause::none);
    for (auto& f : wakeup_) f();
    control::emit(wakeup_event);
    start();
  });
}

void RunState::guest_panicked(Value info) {
  post([this, info = std::move(info)] {
    Value data = Value::object();
    data.set("action", actions.panic == Actions::Panic::none ? "run" : actions.panic == Actions::Panic::pause ? "pause" : "poweroff");
    if (!info.is_null()) data.set("info", info);
    control::emit(panicked_event, std::move(data));
    switch (actions.panic) {
      case Actions::Panic::none: return;
      case Actions::Panic::pause: return stop(Status::guest_panicked);
      case Actions::Panic::shutdown: return stop(Status::guest_panicked), shut_down(Cause::guest_panic, 0);
      case Actions::Panic::exit_failure: return stop(Status::guest_panicked), shut_down(Cause::guest_panic, 1);
    }
  });
}

void RunState::internal_error(std::string why) {
  post([this, why = std::move(why)] {
    report_error(why);
    stop(Status::internal_error);
  });
}

void RunState::pause_vcpus() {
  for (const auto& vcpu : machine_.vcpus()) vcpu->request_stop();
  for (const auto& vcpu : machine_.vcpus()) vcpu->wait_stopped();
}

void RunState::resume_vcpus() {
  for (const auto& vcpu : machine_.vcpus()) vcpu->resume();
}

void RunState::start() {
  start_some(true, [this] { resume_vcpus(); });
}

void RunState::start_some(bool with_clock, const std::function<void()>& resume) {
  if (running() || ended_) return;
  if (status() == Status::restore_vm || status() == Status::save_vm)
    return report_error("the machine cannot run: a snapshot of it is being loaded or written");
  // Whose disks belong to another process cannot run; `cont` takes them first.
  if (block::images_inactive()) return report_error("the machine cannot run: its disks are not in use here ('cont' takes them)");
  if (auto claimed = block::claim_disks(); !claimed) report_warning(claimed.error().message);
  status_ = Status::running;
  if (with_clock) machine_.time_domain().start_guest_clock();
  for (auto& f : change_) f(true);
  control::emit(resume_event);
  resume();
}

void RunState::stop(Status why) {
  if (!running()) {
    // A stopped machine keeps the first cause, but for those that a later one explains better.
    if (status() == Status::inmigrate || status() == Status::finish_migrate)
      status_ = why;
    else if (status() == Status::paused || status() == Status::prelaunch)
      status_ = why == Status::paused ? status() : why;
    return;
  }
  pause_vcpus();
  machine_.time_domain().stop_guest_clock();
  status_ = why;
  for (auto& f : change_) f(false);
  control::emit(stop_event);
}

void RunState::reset_now(Cause cause) {
  machine_.reset(cause);
  if (cause != Cause::none) control::emit(reset_event, by_whom(cause));
}

}  // namespace vmm::vm
