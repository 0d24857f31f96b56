#include "block/core/quiet.h"

#include <algorithm>

namespace vmm::block {

bool stands_on(const BlockNode& node, const BlockNode& below) {
  if (&node == &below) return true;
  return std::ranges::any_of(node.children(), [&](const auto& c) { return stands_on(c->node(), below); });
}

Task<> Quiet::begin(const BlockNode& node) {
  active_ = true;
  for (const auto& b : all_backends())
    if (b->node() && stands_on(*b->node(), node)) {
      b->drain_begin();
      held_.push_back(b);
    }
  for (usize i = 0; i < held_.size(); i++) co_await held_[i]->drained();
  co_return Result<>{};
}

void Quiet::end() {
  active_ = false;
  for (const auto& b : std::exchange(held_, {})) b->drain_end();
}

BlockNode& below_filters(BlockNode& node) {
  BlockNode* n = &node;
  while (BlockNode* below = n->filtered()) n = below;
  return *n;
}
BlockNode* backing_of(BlockNode& node) {
  const Edge* e = below_filters(node).child("backing");
  return e ? &e->node() : nullptr;
}

Task<Extent> map_above(BlockNode& top, const BlockNode* base, u64 offset, u64 length) {
  BlockNode* n = &top;
  while (n && n != base) {
    // Past the end of an image in the chain there are zeros, whatever lies below.
    if (offset >= n->length_bytes()) co_return Extent{.kind = Extent::Kind::zero, .length = length, .present = false};
    const Extent e = co_await n->map(offset, std::min(length, n->length_bytes() - offset));
    if (e.kind != Extent::Kind::backing) co_return e;
    length = e.length;
    n = backing_of(*n);
  }
  co_return Extent{.kind = Extent::Kind::backing, .length = length, .present = false};
}

Result<> replace_node(BlockNode& from, NodeRef to) {
  std::vector<Edge*> moved;
  const std::vector<Edge*> parents = from.parents();
  for (Edge* e : parents) {
    if (e->parent() && stands_on(*to, *e->parent())) continue;
    auto done = e->set_node(to);
    if (!done) {
      const NodeRef back = from.shared_from_this();
      for (Edge* m : moved) (void)m->set_node(back);
      return done;
    }
    moved.push_back(e);
  }
  for (const auto& b : all_backends())
    if (b->node() == to.get()) b->medium_replaced();
  return {};
}

namespace {
std::vector<std::function<void(EventLoop&)>>& closers() {
  static auto& it = *new std::vector<std::function<void(EventLoop&)>>;
  return it;
}
}  // namespace
void before_close(std::function<void(EventLoop&)> call) { closers().push_back(std::move(call)); }
void run_closers(EventLoop& loop) {
  for (const auto& call : closers()) call(loop);
}

}  // namespace vmm::block
