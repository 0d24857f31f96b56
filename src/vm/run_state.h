// Whether the machine runs, and why not: the state that query-status shows. Devices ask here for reset, shutdown and the like;
// the main loop carries it out. Requests: any thread. The rest: main loop, machine lock held.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "src/base/lock.h"
#include "src/event/event_loop.h"
#include "src/value/field.h"

namespace vmm::vm {

class Machine;

enum class Status : u8 {
  debug,
  inmigrate,
  internal_error,
  io_error,
  paused,
  postmigrate,
  prelaunch,
  finish_migrate,
  restore_vm,
  running,
  save_vm,
  shutdown,
  suspended,
  watchdog,
  guest_panicked,
  colo,
};
std::string_view status_name(Status status);  // as QMP spells it: "running", "internal-error"

enum class Cause : u8 {
  none,
  host_error,
  host_qmp_quit,
  host_qmp_system_reset,
  host_signal,
  host_ui,
  guest_shutdown,
  guest_reset,
  guest_panic,
  subsystem_reset,
};
std::string_view cause_name(Cause cause);  // "guest-reset"
inline bool by_guest(Cause c) { return c >= Cause::guest_shutdown && c != Cause::subsystem_reset; }

// What to do about guest events (-action, -no-reboot, -no-shutdown).
struct Actions {
  enum class Reboot : u8 { reset, shutdown } reboot = Reboot::reset;
  enum class Shutdown : u8 { poweroff, pause } shutdown = Shutdown::poweroff;
  enum class Panic : u8 { none, pause, shutdown, exit_failure } panic = Panic::shutdown;
  enum class Watchdog : u8 { none, reset, shutdown, poweroff, pause, debug, inject_nmi } watchdog = Watchdog::reset;
};

class RunState {
 public:
  explicit RunState(Machine& machine);
  Status status() const { return status_.load(std::memory_order_acquire); }
  bool running() const { return status() == Status::running; }

  // Requests from devices, guests, signals; carried out soon by the main loop, in order.
  void request_reset(Cause cause);
  void request_shutdown(Cause cause, int exit_code = 0);
  void request_powerdown();       // presses the power button
  void request_stop(Status why);  // vm_stop from a vCPU or device
  void request_suspend();
  void request_wakeup();
  void guest_panicked(Value info);       // pvpanic
  void internal_error(std::string why);  // an engine cannot go on: status internal-error, paused

  // Main loop: now.
  void start();  // cont
  // The debugger's: `resume` resumes the vCPUs that shall run; the guest's clock may stand still meanwhile.
  void start_some(bool with_clock, const std::function<void()>& resume);
  void stop(Status why);  // every vCPU is parked when this returns
  void reset_now(Cause cause);
  void set_status_prelaunch() { status_ = Status::prelaunch; }
  Actions actions;

  // Notifiers, in order of registration.
  void on_powerdown(std::function<void()> f) { powerdown_.push_back(std::move(f)); }
  void on_change(std::function<void(bool running)> f) { change_.push_back(std::move(f)); }
  void on_wakeup(std::function<void()> f) { wakeup_.push_back(std::move(f)); }
  // The loop to quit when the machine has ended, and the exit status to end with.
  int exit_code() const { return exit_code_; }

 private:
  void post(std::function<void()> request);
  void carry_out();
  void shut_down(Cause cause, int exit_code);
  void pause_vcpus();
  void resume_vcpus();
  Machine& machine_;
  std::atomic<Status> status_{Status::prelaunch};
  Mutex mutex_;
  std::vector<std::function<void()>> requests_ GUARDED_BY(mutex_);
  std::vector<std::function<void()>> powerdown_, wakeup_;
  std::vector<std::function<void(bool)>> change_;
  int exit_code_ = 0;
  bool ended_ = false;
  std::atomic<bool> reset_pending_{false};
};

}  // namespace vmm::vm
