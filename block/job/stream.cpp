// block-stream: an image takes over what it reads from the images below it, down to (but without) `base`, and then stands on `base` alone.
#include <algorithm>

#include "block/job/job.h"

namespace vmm {
namespace block {
namespace {
struct StreamArgs {
  std::string device;
  std::optional<std::string> job_id, base, base_node, bottom, backing_file, on_error, filter_node_name;
  std::optional<u64> speed;
  std::optional<bool> backing_mask_protocol, auto_finalize, auto_dismiss;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::StreamArgs> = {
    field<&block::StreamArgs::job_id>("job-id", "Name of the job; by default the drive's."),
    field<&block::StreamArgs::device>("device", "The image: a drive's id or a node's name."),
    field<&block::StreamArgs::base>("base", "File name of the image that stays below."),
    field<&block::StreamArgs::base_node>("base-node", "Node that stays below."),
    field<&block::StreamArgs::bottom>("bottom", "The last node whose data is taken over."),
    field<&block::StreamArgs::backing_file>("backing-file", "What the image names as its backing file afterwards."),
    field<&block::StreamArgs::backing_mask_protocol>("backing-mask-protocol", "Name the format only: which is what we do."),
    field<&block::StreamArgs::speed>("speed", "Bytes a second; 0: no limit."),
    field<&block::StreamArgs::on_error>("on-error", "report is supported."),
    field<&block::StreamArgs::filter_node_name>("filter-node-name", "Not needed: there is no such node."),
    field<&block::StreamArgs::auto_finalize>("auto-finalize", "Go on without job-finalize."),
    field<&block::StreamArgs::auto_dismiss>("auto-dismiss", "Vanish at the end."),
};

namespace block {
namespace {

constexpr u64 piece_bytes = 1 * MiB;

class Stream final : public Job {
 public:
  Stream(JobOptions options, NodeRef top, NodeRef base, std::string backing_file)
      : Job(JobType::stream, std::move(options)), top_(std::move(top)), base_(std::move(base)), backing_file_(std::move(backing_file)) {}

 private:
  Task<> run() override {
    was_read_only_ = top_->read_only();
    if (was_read_only_) {
      NodeOptions writable = top_->options();
      writable.read_only = false;
      co_await top_->reopen(writable);
      reopened_ = true;
    }
    auto edge = Edge::make(top_, "stream", format("job '{}'", options().id), Role::user, permit_read | permit_write_unchanged, permit_all);
    if (!edge) co_return std::unexpected(std::move(edge).error());
    edge_ = std::move(*edge);
    const u64 length = top_->length_bytes();
    set_total(length);
    u64 copied = 0;
    for (u64 at = 0; at < length;) {
      co_await breathe(std::exchange(copied, 0));
      const Extent here = co_await edge_->map(at, length - at);
      u64 step = here.length;
      BlockNode* below = backing_of(*top_);
      if (here.kind == Extent::Kind::backing && below) {
        const Extent e = co_await map_above(*below, base_.get(), at, here.length);
        step = e.length;
        // What the whole chain lacks reads as zeros afterwards, too.
        if (e.kind != Extent::Kind::backing && (base_ || e.kind != Extent::Kind::zero)) {
          step = std::min(step, piece_bytes);
          const bool any = co_await copy_up(*top_, at, step);
          if (any) copied = step;
        }
      }
      at += step;
      add_done(step);
    }
    co_return Result<>{};
  }

  Task<> finish(bool good) override {
    Result<> done;
    if (good) {
      Quiet quiet;
      co_await quiet.begin(*top_);
      done = co_await attempt(top_->flush());
      if (done && base_) {
        const std::string name = backing_file_.empty() ? base_->filename() : backing_file_;
        done = co_await attempt(top_->set_backing(name, std::string{below_filters(*base_).driver().name}));
      } else if (done) {
        done = co_await attempt(top_->set_backing({}, {}));
      }
      if (done) done = co_await attempt(replace_backing(*top_, base_));
    }
    edge_.reset();
    if (reopened_) {
      NodeOptions before = top_->options();
      before.read_only = true;
      (void)co_await attempt(top_->reopen(before));
    }
    base_.reset();
    co_await release(std::exchange(top_, nullptr));
    co_return done;
  }

  NodeRef top_, base_;
  std::string backing_file_;
  Child edge_;
  bool was_read_only_ = false, reopened_ = false;
};

Result<> block_stream(control::Context&, const StreamArgs& a) {
  if (int(a.base.has_value()) + int(a.base_node.has_value()) + int(a.bottom.has_value()) > 1)
    return fail("'base', 'base-node' and 'bottom' cannot be specified at the same time");
  if (a.on_error && *a.on_error != "report") return fail("on-error '{}' is not supported (report is)", *a.on_error);
  NodeRef top = TRY(node_of_device(a.device));
  top = below_filters(*top).shared_from_this();
  TRY(must_be_at_home(*top));
  NodeRef base;
  for (BlockNode* n = backing_of(*top); n; n = backing_of(*n)) {
    if (a.base && n->filename() == *a.base) base = n->shared_from_this();
    if (a.base_node && n->node_name() == *a.base_node) base = n->shared_from_this();
    if (a.bottom && (n->node_name() == *a.bottom || below_filters(*n).node_name() == *a.bottom)) {
      base = backing_of(*n) ? backing_of(*n)->shared_from_this() : nullptr;
      break;
    }
    if (base) break;
  }
  if (a.base && !base) return fail("Can't find '{}' in the backing chain", *a.base);
  if (a.base_node && !base) return fail("Node '{}' is not a backing image of '{}'", *a.base_node, a.device);
  if (a.bottom && !find_node(*a.bottom)) return fail("Cannot find device='' nor node-name='{}'", *a.bottom);
  return start_job(std::make_shared<Stream>(JobOptions{.id = TRY(job_id_for(a.job_id, a.device)),
                                                       .speed = a.speed.value_or(0),
                                                       .auto_finalize = a.auto_finalize.value_or(true),
                                                       .auto_dismiss = a.auto_dismiss.value_or(true)},
                                            std::move(top), std::move(base), a.backing_file.value_or("")));
}

control::Registered registered{
    control::command<block_stream>({.name = "block-stream", .doc = "Takes over what lies below an image.", .since = "1.1"})};

}  // namespace
}  // namespace block
}  // namespace vmm
