// savevm, loadvm, delvm, info snapshots; snapshot-save, snapshot-load, snapshot-delete. Source: contract.md §2.6, §4; names and arguments
// as QEMU 7.2's.
#include <ctime>

#include "block/job/job.h"
#include "migration/snapshot.h"
#include "src/control/command.h"
#include "src/event/async.h"

namespace vmm {
namespace migration {
namespace {
struct SnapshotArgs {
  std::string job_id, tag, vmstate;
  std::vector<std::string> devices;
};
struct DeleteArgs {
  std::string job_id, tag;
  std::vector<std::string> devices;
};
}  // namespace
}  // namespace migration
using migration::DeleteArgs;
using migration::SnapshotArgs;
template <>
inline constexpr std::array fields<SnapshotArgs> = {
    field<&SnapshotArgs::job_id>("job-id", "Name of the job."),
    field<&SnapshotArgs::tag>("tag", "Name of the snapshot."),
    field<&SnapshotArgs::vmstate>("vmstate", "Node that keeps RAM and devices."),
    field<&SnapshotArgs::devices>("devices", "Nodes that a snapshot is taken of, or that go back to it."),
};
template <>
inline constexpr std::array fields<DeleteArgs> = {
    field<&DeleteArgs::job_id>("job-id", "Name of the job."),
    field<&DeleteArgs::tag>("tag", "Name of the snapshot."),
    field<&DeleteArgs::devices>("devices", "Nodes that forget it."),
};

namespace migration {
namespace {

using namespace control;

Result<vm::Machine*> machine_at_home() {
  vm::Machine* const machine = vm::current_machine();
  if (!machine) return fail("There is no machine yet");
  if (machine->run_state().status() == vm::Status::inmigrate) return fail("Guest is waiting for an incoming migration");
  if (machine->run_state().status() == vm::Status::finish_migrate) return fail("The guest is on its way to another host");
  return machine;
}

class SnapshotJob final : public block::Job {
 public:
  SnapshotJob(block::JobType type, std::string id, vm::Machine& machine, std::string tag, SnapshotDisks disks)
      : Job(type, {.id = std::move(id), .auto_dismiss = false, .on_blocks = false}),
        machine_(machine),
        tag_(std::move(tag)),
        disks_(std::move(disks)) {}

 private:
  Task<> run() override {
    set_total(1);
    switch (type()) {
      case block::JobType::snapshot_save: co_await save_snapshot(machine_, tag_, disks_); break;
      case block::JobType::snapshot_load: co_await load_snapshot(machine_, tag_, disks_); break;
      default: co_await delete_snapshot(tag_, disks_);
    }
    add_done(1);
    co_return Result<>{};
  }
  Task<> finish(bool) override { co_return Result<>{}; }
  vm::Machine& machine_;
  const std::string tag_;
  const SnapshotDisks disks_;
};

Result<> start(block::JobType type, const std::string& id, const std::string& tag, SnapshotDisks disks) {
  vm::Machine* const machine = TRY(machine_at_home());
  if (disks.devices->empty()) return fail("At least one device needs to be specified");
  TRY(block::job_id_for(id, ""));
  return block::start_job(std::make_shared<SnapshotJob>(type, id, *machine, tag, std::move(disks)));
}
Result<> snapshot_save(Context&, const SnapshotArgs& a) {
  return start(block::JobType::snapshot_save, a.job_id, a.tag, {.vm_state = a.vmstate, .devices = a.devices});
}
Result<> snapshot_load(Context&, const SnapshotArgs& a) {
  return start(block::JobType::snapshot_load, a.job_id, a.tag, {.vm_state = a.vmstate, .devices = a.devices});
}
Result<> snapshot_delete(Context&, const DeleteArgs& a) {
  return start(block::JobType::snapshot_delete, a.job_id, a.tag, {.vm_state = {}, .devices = a.devices});
}

// The monitor waits for these, as their users expect.
Result<std::string> waited_for(Task<> work) {
  auto done = run_task(*current_loop(), std::move(work));
  if (!done) return std::unexpected(std::move(done).error());
  return std::string{};
}
Result<std::string> savevm(Context&, std::span<const std::string> words) {
  vm::Machine* const machine = TRY(machine_at_home());
  std::string name = words.empty() ? std::string{} : words[0];
  if (name.empty()) {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    char text[32];
    std::strftime(text, sizeof text, "vm-%Y%m%d%H%M%S", &local);
    name = text;
  }
  return waited_for(save_snapshot(*machine, std::move(name), {}));
}
Result<std::string> loadvm(Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("loadvm takes the name of a snapshot");
  return waited_for(load_snapshot(*TRY(machine_at_home()), words[0], {}));
}
Result<std::string> delvm(Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("delvm takes the name of a snapshot");
  TRY(machine_at_home());
  return waited_for(delete_snapshot(words[0], {}));
}
Result<std::string> info_snapshots(Context&, std::span<const std::string>) { return describe_snapshots(); }

const control::Registered commands[] = {
    control::Registered{
        command<snapshot_save>({.name = "snapshot-save", .doc = "Takes a snapshot of the machine, as a job.", .since = "6.0"})},
    control::Registered{command<snapshot_load>({.name = "snapshot-load", .doc = "Goes back to a snapshot, as a job.", .since = "6.0"})},
    control::Registered{command<snapshot_delete>({.name = "snapshot-delete", .doc = "Forgets a snapshot, as a job.", .since = "6.0"})},
    control::Registered{human<savevm>(
        {.human = "savevm", .human_help = "savevm tag -- save a VM snapshot. If no tag is provided, a new snapshot is created"})},
    control::Registered{human<loadvm>({.human = "loadvm", .human_help = "loadvm tag -- restore a VM snapshot from its tag"})},
    control::Registered{human<delvm>({.human = "delvm", .human_help = "delvm tag -- delete a VM snapshot from its tag"})},
    control::Registered{
        human<info_snapshots>({.human = "info snapshots", .human_help = "info snapshots -- show the currently saved VM snapshots"})},
};

}  // namespace
}  // namespace migration
}  // namespace vmm
