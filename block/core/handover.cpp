// See handover.h. Parents write to their children, so they let go first, and are the last to take up again.
#include "block/core/handover.h"

#include <algorithm>

#include "block/core/graph.h"

namespace vmm::block {

AtRest::AtRest() : drives_(all_backends()) {
  for (const auto& b : drives_) b->drain_begin();
}
Task<> AtRest::begin() {
  for (usize i = 0; i < drives_.size(); i++) co_await drives_[i]->drained();
  for (const auto& b : drives_) {
    homes_.push_back(b->node() ? &b->node()->loop() : nullptr);
    if (b->node()) b->set_loop(*current_loop());
  }
  co_return Result<>{};
}
AtRest::~AtRest() {
  for (usize i = 0; i < drives_.size(); i++) {
    if (i < homes_.size() && homes_[i] && drives_[i]->node()) drives_[i]->set_loop(*homes_[i]);
    drives_[i]->drain_end();
  }
}

namespace {

// Every node after all that stand on it.
std::vector<NodeRef> parents_first() {
  std::vector<NodeRef> rest = all_nodes(), out;
  while (!rest.empty()) {
    const auto free = std::ranges::find_if(rest, [&](const NodeRef& n) {
      return std::ranges::none_of(n->parents(), [&](const Edge* e) {
        return e->parent() && std::ranges::any_of(rest, [&](const NodeRef& r) { return r.get() == e->parent(); });
      });
    });
    ASSERT(free != rest.end());
    out.push_back(std::move(*free));
    rest.erase(free);
  }
  return out;
}

Task<> activate_listed(std::vector<NodeRef> nodes) {
  for (usize i = nodes.size(); i-- > 0;) {
    auto done = co_await attempt(Graph::activate(*nodes[i]));
    if (!done) {
      Error e = std::move(done).error();
      e.message = format("Could not activate node '{}': {}", nodes[i]->node_name(), e.message);
      co_return std::unexpected(std::move(e));
    }
  }
  co_return Result<>{};
}
void below(const NodeRef& node, std::vector<NodeRef>& out) {
  out.push_back(node);
  for (const auto& c : node->children()) below(c->ref(), out);
}

}  // namespace

void open_inactive() { Graph::opens_inactive = true; }
bool opening_inactive() { return Graph::opens_inactive; }
bool images_inactive() {
  return Graph::opens_inactive || std::ranges::any_of(all_nodes(), [](const NodeRef& n) { return n->inactive(); });
}

Result<> check_hand_over(bool writers) {
  for (const NodeRef& n : all_nodes()) {
    if (!n->can_hand_over() && !n->read_only())
      return fail("The {} format used by node '{}' does not support live migration", n->driver().name, n->node_name());
    for (const Edge* e : n->parents())
      if (writers && !e->parent() && e->name() != "root" && e->needs() & permit_write)
        return fail("{} writes to node '{}', which cannot be handed over meanwhile", e->user(), n->node_name());
  }
  return {};
}

Task<> inactivate_all() {
  if (auto may = check_hand_over(); !may) co_return may;
  AtRest rest;
  co_await rest.begin();
  const std::vector<NodeRef> nodes = parents_first();
  Result<> done;
  for (usize i = 0; i < nodes.size() && done; i++) done = co_await attempt(Graph::inactivate(*nodes[i]));
  if (!done) (void)co_await attempt(activate_listed(nodes));
  co_return done;
}

Task<> activate_all() {
  AtRest rest;
  co_await rest.begin();
  std::vector<NodeRef> nodes = parents_first();
  auto done = co_await attempt(activate_listed(nodes));
  if (!done) {
    for (const NodeRef& n : nodes) (void)co_await attempt(Graph::inactivate(*n));
    co_return done;
  }
  Graph::opens_inactive = false;
  for (const auto& b : all_backends())
    if (b->node()) b->medium_replaced();
  (void)claim_disks();  // an export to the source may still be there
  co_return Result<>{};
}

Task<> activate_tree(NodeRef node) {
  std::vector<NodeRef> nodes;
  below(node, nodes);
  auto done = co_await attempt(activate_listed(nodes));
  if (!done)
    for (const NodeRef& n : nodes) (void)co_await attempt(Graph::inactivate(*n));
  co_return done;
}

Result<> claim_disks() {
  Result<> all;
  for (const auto& b : all_backends())
    if (auto claimed = b->claim(); !claimed) all = std::move(claimed);
  return all;
}

}  // namespace vmm::block
