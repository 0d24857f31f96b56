// From Options to a running machine: back ends, objects, accelerator, board, devices, monitors, in that order.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "accel/qtest/server.h"
#include "monitor/monitor.h"
#include "src/event/event_loop.h"
#include "src/main/options.h"
#include "src/vm/machine.h"

namespace vmm::cli {

class Assembly {
 public:
  explicit Assembly(const Options& options) : options_(options) {}
  ~Assembly();
  // All of it; the machine is then ready, not yet started. Machine lock held.
  Result<> build() REQUIRES(machine_lock);
  Result<> start() REQUIRES(machine_lock);  // unless -S; with -incoming: waits for the machine
  EventLoop& loop() { return loop_; }
  vm::Machine& machine() { return *machine_; }

 private:
  Result<> chardevs();
  Result<Chardev*> legacy_chardev(const Given& given, std::string id);
  Result<> objects();
  Result<> block_devices();  // drives.cpp: -blockdev, -drive
  Result<> plug_drives();
  Result<> plug_default_floppy();
  Result<> plug_default_cdrom();  // the disks of -drive that the board has not taken
  void watch_run_state();
  Result<> choose_machine();
  Result<> configure();
  Result<> machine_properties();
  Result<> accelerator();
  Result<> try_accelerator(const std::string& name, const Given* given);
  Result<> netdevs();
  Result<> network_cards();
  Result<> network_card(const Given& given, const std::string& netdev);
  Result<> usb();
  Result<> devices();
  Result<> blamed(Result<> result) const;
  Result<> monitors();
  Result<> qtest();
  Result<> attach_monitor(const Given& given, Chardev& chardev, monitor::Monitor::Options mode);

  const Options& options_;
  EventLoop loop_{EventLoop::Kind::main};
  const vm::MachineTypeInfo* machine_type_ = nullptr;
  Ref<vm::Machine> machine_;
  std::vector<std::string> serials_, parallels_;
  std::vector<std::string> debug_consoles_;
  unsigned net_number_ = 0, hub_ports_ = 0;
  std::vector<std::pair<Given, Ref<Chardev>>> shared_;  // mon:…: a monitor beside the device
  std::vector<std::unique_ptr<monitor::Monitor>> monitors_;
  std::vector<std::function<Result<>()>> late_monitors_;  // those that begin when -loadvm is done
  std::unique_ptr<qtest::Server> qtest_;
};

}  // namespace vmm::cli
