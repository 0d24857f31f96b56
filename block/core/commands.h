// What the files of commands share.
#pragma once

#include "block/core/backend.h"
#include "src/control/command.h"

namespace vmm::block {

// Commands that are no tasks: nested turns of the main loop until the task has ended.
template <class T>
Result<T> wait_for(Task<T> task) {
  return run_task(*current_loop(), std::move(task));
}
// By drive id, or by the id or path of a device.
Result<BackendRef> drive_of(const std::optional<std::string>& device, const std::optional<std::string>& id);
// The device that a manager knows: ID or ID/virtio-backend as a path, a bare id for the rest (contract.md §2.5).
std::string qdev_of(const Backend& backend);

}  // namespace vmm::block
