// Snapshots of the whole machine within its disks: each qcow2 disk keeps a snapshot of itself, one of them the RAM and devices as well
// (a stream, behind the disk), which also holds small raw disks (a firmware's variables). Main loop, machine lock held.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/event/task.h"
#include "src/vm/machine.h"

namespace vmm::migration {

struct SnapshotDisks {
  std::optional<std::string> vm_state;              // node that keeps RAM and devices; the first that can
  std::optional<std::vector<std::string>> devices;  // nodes; all that can be written
};

// The machine runs while most of its RAM is written, stands for the rest, and goes on. A snapshot of that name is replaced, after this one
// is whole.
Task<> save_snapshot(vm::Machine& machine, std::string name, SnapshotDisks which);
// What fails before anything was changed leaves all as it was; later failures leave the machine paused.
Task<> load_snapshot(vm::Machine& machine, std::string name, SnapshotDisks which);
Task<> delete_snapshot(std::string name, SnapshotDisks which);
std::string describe_snapshots();

}  // namespace vmm::migration
