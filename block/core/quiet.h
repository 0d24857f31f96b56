// A span of time in which no drive sends requests to a node: while the graph around it changes. Main loop.
#pragma once

#include "block/core/backend.h"

namespace vmm::block {

class Quiet {
 public:
  Quiet() = default;
  Quiet(const Quiet&) = delete;
  ~Quiet() { end(); }
  // Returns when all that drives have asked of the node, or of what stands on it, has ended.
  Task<> begin(const BlockNode& node);
  void end();
  bool active() const { return active_; }

 private:
  std::vector<BackendRef> held_;
  bool active_ = false;
};

// Is `below` the node itself, or one that it stands on?
bool stands_on(const BlockNode& node, const BlockNode& below);

// The node that requests end up in: what filters stand on. And the one below it, as a chain of images counts.
BlockNode& below_filters(BlockNode& node);
BlockNode* backing_of(BlockNode& node);
// What a range holds in the nodes from `top` down to, but without, `base` (null: all of them): kind backing if none of them has it.
Task<Extent> map_above(BlockNode& top, const BlockNode* base, u64 offset, u64 length);
// Moves whoever uses `from` to `to`, but for `to` itself and what stands between them. Nothing may be under way. All or nothing.
Result<> replace_node(BlockNode& from, NodeRef to);

// For what runs on nodes by itself (jobs): called on the main loop before all nodes are closed, may run the loop.
void before_close(std::function<void(EventLoop&)> call);
void run_closers(EventLoop& loop);

}  // namespace vmm::block
