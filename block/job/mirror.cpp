#include "block/job/mirror.h"

#include <algorithm>
#include <bit>

namespace vmm {
namespace block {
namespace {

constexpr u64 piece_bytes = 1 * MiB;

// Which granules of the source have changed since they were copied. Marked after a write has ended, and by the copy itself cleared before
// it reads: a granule that changes while it is read is copied again.
class DirtyMap final : public WriteWatcher {
 public:
  DirtyMap(u64 length, u64 granularity) : length_(length), granularity_(granularity), words_(length / granularity / 64 + 1) {}
  void after_write(u64 offset, u64 length) override { set(offset, length); }
  void set(u64 offset, u64 length) {
    if (!length || offset >= length_) return;
    const u64 last = std::min(offset + length, length_) - 1;
    for (u64 i = offset / granularity_; i <= last / granularity_; i++) {
      u64& word = words_[i / 64];
      count_ += !(word >> i % 64 & 1);
      word |= u64{1} << i % 64;
    }
  }
  // The next run of set granules at or after `from`, at most `most` bytes of it: cleared. Length 0: none.
  std::pair<u64, u64> take(u64 from, u64 most) {
    const u64 granules = (length_ + granularity_ - 1) / granularity_;
    u64 i = from / granularity_;
    while (i < granules && !(words_[i / 64] >> i % 64 & 1)) {
      if (!(words_[i / 64] >> i % 64)) i |= 63;
      i++;
    }
    const u64 begin = i;
    for (; i < granules && (i - begin) * granularity_ < most && words_[i / 64] >> i % 64 & 1; i++, count_--)
      words_[i / 64] &= ~(u64{1} << i % 64);
    if (begin >= granules) return {0, 0};
    return {begin * granularity_, std::min(i * granularity_, length_) - begin * granularity_};
  }
  u64 dirty_bytes() const { return count_ * granularity_; }

 private:
  u64 length_, granularity_, count_ = 0;
  std::vector<u64> words_;
};

class Mirror final : public Job {
 public:
  Mirror(JobType type, JobOptions options, MirrorPlan plan) : Job(type, std::move(options)), plan_(std::move(plan)) {}

 private:
  bool completes() const override { return ready(); }

  Task<> run() override {
    BlockNode& target = *plan_.target;
    const std::string user = format("job '{}'", options().id);
    const u64 length = plan_.source->length_bytes();
    if (target.read_only()) {
      NodeOptions writable = target.options();
      writable.read_only = false;
      co_await target.reopen(writable);
      reopened_ = true;
    }
    if (plan_.commits) co_await make_longer(target, length);
    auto from = Edge::make(plan_.source, "source", user, Role::user, permit_read, permit_all);
    if (!from) co_return std::unexpected(std::move(from).error());
    source_ = std::move(*from);
    // Into its own chain the copy changes nothing that a reader of the source sees.
    const u8 needs = plan_.commits ? permit_read | permit_write_unchanged : permit_read | permit_write;
    const u8 shares = plan_.commits ? permit_all : permit_read | permit_write_unchanged;
    auto to = Edge::make(plan_.target, "target", user, Role::user, needs, shares);
    if (!to) co_return std::unexpected(std::move(to).error());
    target_ = std::move(*to);
    if (target_->length_bytes() != length && !plan_.commits) co_return fail("Source and target image have different sizes");
    {
      Quiet quiet;
      co_await quiet.begin(*plan_.source);
      dirty_ = std::make_shared<DirtyMap>(length, plan_.granularity);
      plan_.source->add_watcher(dirty_);
    }
    // What is to be copied at first.
    const BlockNode* base = plan_.base ? plan_.base.get() : backing_of(*plan_.source);
    for (u64 at = 0; at < length && plan_.sync != MirrorPlan::Sync::none;) {
      co_await breathe(0);
      u64 n = length - at;
      if (plan_.sync == MirrorPlan::Sync::top) {
        const Extent e = co_await map_above(*plan_.source, base, at, n);
        n = e.length;
        if (e.kind != Extent::Kind::backing) dirty_->set(at, n);
      } else {
        dirty_->set(at, n);
      }
      at += n;
    }
    const u64 first_pass = dirty_->dirty_bytes();
    set_total(first_pass);
    u64 place = 0;
    for (;;) {
      // A disk that is written to all the time is never in step: what is left then is little, and finish() copies it while the disk rests.
      const u64 left = dirty_->dirty_bytes();
      if (!ready() && (!left || (done_bytes() >= first_pass && left <= piece_bytes))) co_await become_ready();
      if (ready() && (asked_to_complete() || asked_to_end())) break;
      if (left) {
        co_await copy_next(place);
      } else {
        co_await breathe(0);
        if (!asked_to_complete() && !asked_to_end() && !dirty_->dirty_bytes()) co_await sleep(100ms);
      }
    }
    co_return Result<>{};
  }

  Task<> make_longer(BlockNode& target, u64 length) {
    if (target.length_bytes() >= length) co_return Result<>{};
    // Who stands on it does not bear that by itself.
    std::vector<std::pair<Edge*, u8>> before;
    for (Edge* e : target.parents()) before.emplace_back(e, e->shares());
    Result<> done;
    for (auto& [e, shares] : before)
      if (done) done = e->set_permissions(e->needs(), permit_all);
    if (done) {
      auto edge = Edge::make(target.shared_from_this(), "resize", format("job '{}'", options().id), Role::user, permit_resize, permit_all);
      done = edge ? co_await attempt((*edge)->truncate(length)) : std::unexpected(std::move(edge).error());
    }
    for (auto& [e, shares] : before) (void)e->set_permissions(e->needs(), shares);
    co_return done;
  }

  // One run of dirty granules at or after `place`, or at the beginning.
  Task<> copy_next(u64& place) {
    auto [at, n] = dirty_->take(place, piece_bytes);
    if (!n) std::tie(at, n) = dirty_->take(0, piece_bytes);
    if (!n) co_return Result<>{};
    place = at + n;
    const Result<> done = co_await attempt(copy(at, n));
    if (!done) {
      dirty_->set(at, n);
      co_return done;
    }
    add_done(n);
    set_total(std::max(total_bytes(), done_bytes() + dirty_->dirty_bytes()));
    co_return co_await breathe(n);
  }
  Task<> copy(u64 at, u64 n) {
    const bool unchanged = plan_.commits;
    while (n) {
      const Extent e = co_await map_above(*plan_.source, plan_.commits ? plan_.target.get() : nullptr, at, n);
      if (e.kind == Extent::Kind::data) {
        if (buffer_.size() < piece_bytes) buffer_ = Buffer{std::max(piece_bytes, plan_.granularity)};
        const u64 part = std::min(e.length, buffer_.size());
        co_await source_->read(at, IoVector{buffer_.data(), part});
        co_await target_->write(at, IoVector{buffer_.data(), part}, {.unchanged = unchanged});
        at += part, n -= part;
        continue;
      }
      // In no image of the chain: zeros. Above the target's own place in the chain: nothing to do.
      if (e.kind == Extent::Kind::zero || !plan_.commits) co_await target_->zero(at, e.length, {.may_unmap = true, .unchanged = unchanged});
      at += e.length, n -= e.length;
    }
    co_return Result<>{};
  }

  Task<> finish(bool good) override {
    Result<> done;
    Quiet quiet;
    if (dirty_) co_await quiet.begin(*plan_.source);
    if (good) {
      while (done && dirty_->dirty_bytes()) {
        const auto [at, n] = dirty_->take(0, piece_bytes);
        done = co_await attempt(copy(at, n));
        if (done) add_done(n);
      }
      if (done) done = co_await attempt(target_->flush());
      set_total(done_bytes());
    }
    if (dirty_) plan_.source->remove_watcher(dirty_.get());
    source_.reset();
    target_.reset();
    if (good && done && asked_to_complete()) {
      const NodeRef from = plan_.replaces ? plan_.replaces : plan_.source;
      done = replace_node(*from, plan_.target);
    } else if (reopened_) {
      NodeOptions before = plan_.target->options();
      before.read_only = true;
      (void)co_await attempt(plan_.target->reopen(before));
    }
    quiet.end();
    plan_.base.reset(), plan_.replaces.reset();
    (void)co_await attempt(release(std::exchange(plan_.source, nullptr)));
    (void)co_await attempt(release(std::exchange(plan_.target, nullptr)));
    co_return done;
  }

  MirrorPlan plan_;
  Child source_, target_;
  std::shared_ptr<DirtyMap> dirty_;
  Buffer buffer_;
  bool reopened_ = false;
};

struct MirrorArgs {
  std::string device, target;
  MirrorPlan::Sync sync = MirrorPlan::Sync::full;
  std::optional<std::string> job_id, replaces, on_source_error, on_target_error, filter_node_name, copy_mode;
  std::optional<u64> speed, granularity, buf_size;
  std::optional<bool> auto_finalize, auto_dismiss, target_is_zero;
};
}  // namespace

std::shared_ptr<Job> make_mirror(JobType type, JobOptions options, MirrorPlan plan) {
  return std::make_shared<Mirror>(type, std::move(options), std::move(plan));
}
}  // namespace block

template <>
inline constexpr std::array fields<block::MirrorArgs> = {
    field<&block::MirrorArgs::job_id>("job-id", "Name of the job; by default the drive's."),
    field<&block::MirrorArgs::device>("device", "What is copied: a drive's id or a node's name."),
    field<&block::MirrorArgs::target>("target", "Node that becomes the copy."),
    field<&block::MirrorArgs::replaces>("replaces", "Node that the copy takes the place of; by default what is copied."),
    field<&block::MirrorArgs::sync>("sync", "full, top or none."),
    field<&block::MirrorArgs::speed>("speed", "Bytes a second; 0: no limit."),
    field<&block::MirrorArgs::granularity>("granularity", "Bytes that are copied anew when one changes; a power of two, 512 to 64 MiB."),
    field<&block::MirrorArgs::buf_size>("buf-size", "Not needed: one piece of 1 MiB is under way."),
    field<&block::MirrorArgs::on_source_error>("on-source-error", "report is supported."),
    field<&block::MirrorArgs::on_target_error>("on-target-error", "report is supported."),
    field<&block::MirrorArgs::filter_node_name>("filter-node-name", "Not needed: there is no such node."),
    field<&block::MirrorArgs::copy_mode>("copy-mode", "background is supported."),
    field<&block::MirrorArgs::target_is_zero>("target-is-zero", "The target reads as zeros."),
    field<&block::MirrorArgs::auto_finalize>("auto-finalize", "Go on without job-finalize."),
    field<&block::MirrorArgs::auto_dismiss>("auto-dismiss", "Vanish at the end."),
};

namespace block {
namespace {
Result<> blockdev_mirror(control::Context&, const MirrorArgs& a) {
  for (const auto& policy : {a.on_source_error, a.on_target_error})
    if (policy && *policy != "report") return fail("error policy '{}' is not supported (report is)", *policy);
  if (a.copy_mode && *a.copy_mode != "background") return fail("copy-mode '{}' is not supported (background is)", *a.copy_mode);
  const u64 granularity = a.granularity.value_or(0) ? *a.granularity : 64 * KiB;
  if (!std::has_single_bit(granularity) || granularity < 512 || granularity > 64 * MiB)
    return fail("Parameter 'granularity' expects a power of 2 in range [512B, 64MB]");
  MirrorPlan plan{.sync = a.sync, .granularity = granularity};
  plan.source = TRY(node_of_device(a.device));
  plan.target = find_node(a.target);
  if (!plan.target) return fail("Cannot find device='' nor node-name='{}'", a.target);
  if (stands_on(*plan.source, *plan.target) || stands_on(*plan.target, *plan.source)) return fail("Can't mirror node into itself");
  if (a.replaces) {
    plan.replaces = find_node(*a.replaces);
    if (!plan.replaces) return fail("Cannot find device='' nor node-name='{}'", *a.replaces);
    if (!stands_on(*plan.source, *plan.replaces)) return fail("Node '{}' is not part of '{}'", *a.replaces, a.device);
  }
  TRY(must_be_at_home(*plan.source));
  TRY(must_be_at_home(*plan.target));
  return start_job(make_mirror(JobType::mirror,
                               {.id = TRY(job_id_for(a.job_id, a.device)),
                                .speed = a.speed.value_or(0),
                                .auto_finalize = a.auto_finalize.value_or(true),
                                .auto_dismiss = a.auto_dismiss.value_or(true)},
                               std::move(plan)));
}
control::Registered registered{
    control::command<blockdev_mirror>({.name = "blockdev-mirror", .doc = "Keeps a copy of a node in step with it.", .since = "2.6"})};
}  // namespace
}  // namespace block
}  // namespace vmm
