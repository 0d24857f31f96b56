// Images that change hands: while a machine moves, two processes have its images open, and one of them uses them. A node that is inactive
// writes nothing, may hold stale copies of what the image says, and claims nothing of its file but to read it. Main loop.
#pragma once

#include "block/core/backend.h"

namespace vmm::block {

// No drive sends requests, and all trees are on this loop, from begin()'s end until this goes.
class AtRest {
 public:
  AtRest();
  ~AtRest();
  AtRest(const AtRest&) = delete;
  Task<> begin();

 private:
  std::vector<BackendRef> drives_;
  std::vector<EventLoop*> homes_;
};

// Nodes that are opened from now on begin inactive (-incoming), until activate_all().
void open_inactive();
bool opening_inactive();
// Some node is inactive, or would be.
bool images_inactive();
// Why the images cannot be handed over: the format of one of them, or who else writes to one; `writers` false: that may end until then.
Result<> check_hand_over(bool writers = true);
// All are flushed and let go of; the machine stands. On failure all are in use as before.
Task<> inactivate_all();
// All are in use again: what other processes have written is seen, files are claimed. On failure none is.
Task<> activate_all();
// A node and what it stands on alone: an export to the machine's source, say.
Task<> activate_tree(NodeRef node);
// The guest is about to run: who else still writes to its disks, whom it does not share them with.
Result<> claim_disks();

}  // namespace vmm::block
