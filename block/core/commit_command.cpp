// The monitor's commit: an overlay's data goes into its backing file while the disk stands still.
#include "block/core/commands.h"

namespace vmm::block {
namespace {

// Writes an overlay's data into its backing file.
Task<> copy_down(BlockNode& top, Edge& base) {
  if (base.length_bytes() < top.length_bytes()) co_await base.truncate(top.length_bytes());
  Buffer buffer{1 * MiB};
  for (u64 at = 0; at < top.length_bytes();) {
    const Extent e = co_await top.map(at, std::min<u64>(buffer.size(), top.length_bytes() - at));
    if (e.kind == Extent::Kind::zero) {
      co_await base.zero(at, e.length, {.may_unmap = true});
    } else if (e.kind == Extent::Kind::data) {
      co_await top.read(at, IoVector{buffer.data(), e.length});
      co_await base.write(at, IoVector{buffer.data(), e.length});
    }
    at += e.length;
  }
  co_return co_await base.flush();
}
Task<> commit_node(BlockNode& top) {
  Edge* backing = top.child("backing");
  if (!backing) co_return fail_os(ENOTSUP);
  BlockNode& base = backing->node();
  const NodeOptions before = base.options();
  NodeOptions writable = before;
  writable.read_only = false;
  // For this while the overlay bears a writer below it.
  const u8 shares = backing->shares();
  auto shared = backing->set_permissions(backing->needs(), permit_all);
  if (!shared) co_return shared;
  auto done = co_await attempt(base.reopen(writable));
  if (done) {
    auto edge = Edge::make(backing->ref(), "commit", "commit", Role::user, permit_read | permit_write | permit_resize, permit_all);
    if (edge)
      done = co_await attempt(copy_down(top, **edge));
    else
      done = std::unexpected(std::move(edge).error());
    edge = fail("");
    if (before.read_only) (void)co_await attempt(base.reopen(before));
  }
  (void)backing->set_permissions(backing->needs(), shares);
  co_return done;
}
Result<std::string> commit(control::Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("commit takes a device or 'all'");
  std::string out;
  bool any = false;
  for (const auto& b : all_backends()) {
    if (words[0] != "all" && b->id() != words[0]) continue;
    any = true;
    BlockNode* node = b->node();
    if (!node) {
      if (words[0] != "all") out += format("Device '{}' has no medium\n", words[0]);
      continue;
    }
    if (!node->child("backing") && words[0] == "all") continue;
    b->drain_begin();
    (void)wait_for(b->drained());
    EventLoop& home = node->loop();
    b->set_loop(*current_loop());
    auto done = wait_for(commit_node(*node));
    b->set_loop(home);
    b->drain_end();
    if (!done) out += format("'commit' error for '{}': {}\n", words[0], done.error().message);
  }
  if (!any && words[0] != "all") out += format("Device '{}' not found\n", words[0]);
  return out;
}

control::Registered registered[] = {
    control::Registered{control::human<commit>(
        {.human = "commit",
         .human_help = "commit device|all -- commit changes to the disk images (if -snapshot is used) or backing files"})},
};

}  // namespace
}  // namespace vmm::block
