// What opening, edges and permissions need of nodes; inside block/core only.
#pragma once

#include "block/core/node.h"

namespace vmm::block {

class Graph {
 public:
  static Result<> join(Edge& edge);  // into its node's parents, permissions refreshed all the way down
  static void leave(Edge& edge);
  static Result<> refresh(BlockNode& node);
  static Task<NodeRef> open(EventLoop& loop, Value options, const NodeOptions* parent, Role role, u32 depth);
  static Task<> release(NodeRef node);
  static Task<> replace_backing(BlockNode& overlay, NodeRef to);
  static Task<> reopen(BlockNode& node, Value options);
  static Task<> inactivate(BlockNode& node);
  static Task<> activate(BlockNode& node);
  static bool opens_inactive;  // what a new node begins as
  static std::string new_name();
  static Result<std::unique_ptr<Edge>> make_edge(NodeRef node, std::string name, std::string user, Role role, u8 needs, u8 shares,
                                                 BlockNode* parent);

 private:
  static Result<> check_conflicts(const BlockNode& node);
};

}  // namespace vmm::block
