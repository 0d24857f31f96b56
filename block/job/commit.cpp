// block-commit: what images above `base` hold goes into it, and they leave the chain. The active image is committed by a mirror, since it
// changes meanwhile; images below it stand still.
#include <algorithm>

#include "block/job/mirror.h"

namespace vmm {
namespace block {
namespace {
struct CommitArgs {
  std::string device;
  std::optional<std::string> job_id, base_node, base, top_node, top, backing_file, on_error, filter_node_name;
  std::optional<u64> speed;
  std::optional<bool> backing_mask_protocol, auto_finalize, auto_dismiss;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::CommitArgs> = {
    field<&block::CommitArgs::job_id>("job-id", "Name of the job; by default the drive's."),
    field<&block::CommitArgs::device>("device", "The disk: a drive's id or a node's name."),
    field<&block::CommitArgs::base_node>("base-node", "Node that takes the data; by default the lowest."),
    field<&block::CommitArgs::base>("base", "The same by file name."),
    field<&block::CommitArgs::top_node>("top-node", "The highest node whose data is taken; by default the disk itself."),
    field<&block::CommitArgs::top>("top", "The same by file name."),
    field<&block::CommitArgs::backing_file>("backing-file", "What the image above `top` names as its backing file afterwards."),
    field<&block::CommitArgs::backing_mask_protocol>("backing-mask-protocol", "Name the format only: which is what we do."),
    field<&block::CommitArgs::speed>("speed", "Bytes a second; 0: no limit."),
    field<&block::CommitArgs::on_error>("on-error", "report is supported."),
    field<&block::CommitArgs::filter_node_name>("filter-node-name", "Not needed: there is no such node."),
    field<&block::CommitArgs::auto_finalize>("auto-finalize", "Go on without job-finalize."),
    field<&block::CommitArgs::auto_dismiss>("auto-dismiss", "Vanish at the end."),
};

namespace block {
namespace {

constexpr u64 piece_bytes = 1 * MiB;

class Commit final : public Job {
 public:
  Commit(JobOptions options, NodeRef overlay, NodeRef top, NodeRef base, std::string backing_file)
      : Job(JobType::commit, std::move(options)),
        overlay_(std::move(overlay)),
        top_(std::move(top)),
        base_(std::move(base)),
        backing_file_(std::move(backing_file)) {}

 private:
  Task<> run() override {
    was_read_only_ = base_->read_only();
    if (was_read_only_) {
      NodeOptions writable = base_->options();
      writable.read_only = false;
      co_await base_->reopen(writable);
    }
    const u64 length = top_->length_bytes();
    set_total(length);
    const std::string user = format("job '{}'", options().id);
    // Who stands on it reads the same before and after, but for its length.
    const bool longer = base_->length_bytes() < length;
    if (longer) {
      Edge* above = nullptr;
      for (Edge* e : base_->parents())
        if (e->role() == Role::backing) above = e;
      const u8 shares = above ? above->shares() : u8{permit_all};
      Result<> done = above ? above->set_permissions(above->needs(), permit_all) : Result<>{};
      if (done) {
        auto edge = Edge::make(base_, "resize", user, Role::user, permit_resize, permit_all);
        done = edge ? co_await attempt((*edge)->truncate(length)) : std::unexpected(std::move(edge).error());
      }
      if (above) (void)above->set_permissions(above->needs(), shares);
      if (!done) co_return done;
    }
    auto from = Edge::make(top_, "source", user, Role::user, permit_read, permit_all);
    if (!from) co_return std::unexpected(std::move(from).error());
    source_ = std::move(*from);
    auto to = Edge::make(base_, "target", user, Role::user, permit_read | permit_write_unchanged, permit_all);
    if (!to) co_return std::unexpected(std::move(to).error());
    target_ = std::move(*to);
    Buffer buffer{piece_bytes};
    u64 copied = 0;
    for (u64 at = 0; at < length;) {
      co_await breathe(std::exchange(copied, 0));
      const Extent e = co_await map_above(*top_, base_.get(), at, length - at);
      u64 step = e.length;
      if (e.kind == Extent::Kind::zero) {
        co_await target_->zero(at, step, {.may_unmap = true, .unchanged = true});
      } else if (e.kind == Extent::Kind::data) {
        step = copied = std::min(step, piece_bytes);
        co_await source_->read(at, IoVector{buffer.data(), step});
        co_await target_->write(at, IoVector{buffer.data(), step}, {.unchanged = true});
      }
      at += step;
      add_done(step);
    }
    co_return co_await target_->flush();
  }

  Task<> finish(bool good) override {
    Result<> done;
    source_.reset();
    target_.reset();
    if (good) {
      Quiet quiet;
      co_await quiet.begin(*overlay_);
      const bool was_read_only = overlay_->read_only();
      NodeOptions options = overlay_->options();
      options.read_only = false;
      if (was_read_only) done = co_await attempt(overlay_->reopen(options));
      const std::string name = backing_file_.empty() ? base_->filename() : backing_file_;
      if (done) done = co_await attempt(overlay_->set_backing(name, std::string{below_filters(*base_).driver().name}));
      options.read_only = true;
      if (was_read_only) (void)co_await attempt(overlay_->reopen(options));
      top_.reset();
      if (done) done = co_await attempt(replace_backing(*overlay_, base_));
    }
    if (was_read_only_) {
      NodeOptions before = base_->options();
      before.read_only = true;
      (void)co_await attempt(base_->reopen(before));
    }
    top_.reset(), base_.reset();
    co_await release(std::exchange(overlay_, nullptr));
    co_return done;
  }

  NodeRef overlay_, top_, base_;
  std::string backing_file_;
  Child source_, target_;
  bool was_read_only_ = false;
};

Result<> block_commit(control::Context&, const CommitArgs& a) {
  if (a.base && a.base_node) return fail("'base-node' and 'base' are mutually exclusive");
  if (a.top && a.top_node) return fail("'top-node' and 'top' are mutually exclusive");
  if (a.on_error && *a.on_error != "report") return fail("on-error '{}' is not supported (report is)", *a.on_error);
  const NodeRef root = TRY(node_of_device(a.device));
  const NodeRef active = below_filters(*root).shared_from_this();
  TRY(must_be_at_home(*active));
  const auto is = [](const BlockNode& n, const std::optional<std::string>& node, const std::optional<std::string>& file) {
    return (node && n.node_name() == *node) || (file && n.filename() == *file);
  };
  NodeRef overlay, top, base;
  if (!a.top && !a.top_node) top = active;
  for (BlockNode *n = active.get(), *above = nullptr; n; above = n, n = backing_of(*n)) {
    if (!top && is(*n, a.top_node, a.top)) {
      top = n->shared_from_this();
      overlay = above ? above->shared_from_this() : nullptr;
      continue;
    }
    if (top && n != top.get() && (a.base || a.base_node ? is(*n, a.base_node, a.base) : !backing_of(*n))) {
      base = n->shared_from_this();
      break;
    }
  }
  if (!top) return fail("Node '{}' is not in the chain of '{}'", a.top_node ? *a.top_node : a.top.value_or(""), a.device);
  if (!base)
    return a.base || a.base_node ? fail("Can't find '{}' in the backing chain", a.base_node ? *a.base_node : *a.base)
                                 : fail("'{}' has no backing file to commit to", top->node_name());
  JobOptions options{.id = TRY(job_id_for(a.job_id, a.device)),
                     .speed = a.speed.value_or(0),
                     .auto_finalize = a.auto_finalize.value_or(true),
                     .auto_dismiss = a.auto_dismiss.value_or(true)};
  if (overlay) {
    // The overlay's disk: through filters to the image itself.
    return start_job(std::make_shared<Commit>(std::move(options), below_filters(*overlay).shared_from_this(), std::move(top),
                                              std::move(base), a.backing_file.value_or("")));
  }
  if (a.backing_file) return fail("'backing-file' specified, but 'top' is the active layer");
  MirrorPlan plan{.source = active, .target = base, .sync = MirrorPlan::Sync::top, .base = base, .commits = true};
  return start_job(make_mirror(JobType::commit, std::move(options), std::move(plan)));
}

control::Registered registered{control::command<block_commit>(
    {.name = "block-commit", .doc = "Moves data of a chain's upper images into a lower one.", .since = "1.3"})};

}  // namespace
}  // namespace block
}  // namespace vmm
