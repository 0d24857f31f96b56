// blockdev-backup: a copy of a disk as it is when the job starts. What the guest is about to change is copied first.
#include <algorithm>

#include "block/core/dirty_bitmap.h"
#include "block/job/mirror.h"

namespace vmm {
namespace block {
namespace {
enum class BackupSync : u8 { full, top, none, incremental, bitmap };
enum class BitmapMode : u8 { on_success, never, always };  // when the bits of what was copied go
struct BackupArgs {
  std::string device, target;
  BackupSync sync = BackupSync::full;
  std::optional<BitmapMode> bitmap_mode;
  std::optional<std::string> job_id, bitmap, on_source_error, on_target_error, filter_node_name;
  std::optional<u64> speed;
  std::optional<bool> compress, auto_finalize, auto_dismiss;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array enum_names<block::BackupSync> = {EnumNameOf<block::BackupSync>{block::BackupSync::top, "top"},
                                                             EnumNameOf<block::BackupSync>{block::BackupSync::full, "full"},
                                                             EnumNameOf<block::BackupSync>{block::BackupSync::none, "none"},
                                                             EnumNameOf<block::BackupSync>{block::BackupSync::incremental, "incremental"},
                                                             EnumNameOf<block::BackupSync>{block::BackupSync::bitmap, "bitmap"}};
template <>
inline constexpr std::array enum_names<block::BitmapMode> = {EnumNameOf<block::BitmapMode>{block::BitmapMode::on_success, "on-success"},
                                                             EnumNameOf<block::BitmapMode>{block::BitmapMode::never, "never"},
                                                             EnumNameOf<block::BitmapMode>{block::BitmapMode::always, "always"}};
template <>
inline constexpr std::array fields<block::BackupArgs> = {
    field<&block::BackupArgs::job_id>("job-id", "Name of the job; by default the drive's."),
    field<&block::BackupArgs::device>("device", "What is copied: a drive's id or a node's name."),
    field<&block::BackupArgs::target>("target", "Node that becomes the copy."),
    field<&block::BackupArgs::sync>("sync", "full, top, none, or what a bitmap says: incremental or bitmap."),
    field<&block::BackupArgs::bitmap>("bitmap", "Dirty bitmap that says what is copied."),
    field<&block::BackupArgs::bitmap_mode>("bitmap-mode", "When the bits of what was copied go: on-success, never, always."),
    field<&block::BackupArgs::compress>("compress", "Store compressed."),
    field<&block::BackupArgs::speed>("speed", "Bytes a second; 0: no limit."),
    field<&block::BackupArgs::on_source_error>("on-source-error", "report is supported."),
    field<&block::BackupArgs::on_target_error>("on-target-error", "report is supported."),
    field<&block::BackupArgs::filter_node_name>("filter-node-name", "Not needed: there is no such node."),
    field<&block::BackupArgs::auto_finalize>("auto-finalize", "Go on without job-finalize."),
    field<&block::BackupArgs::auto_dismiss>("auto-dismiss", "Vanish at the end."),
};

namespace block {
namespace {

constexpr u64 piece_bytes = 1 * MiB;

// Copies what is still as it was, whoever needs it first: the job on its way through the disk, or a write that would change it.
class Copier final : public WriteWatcher {
 public:
  Copier(Edge& source, Edge& target, u64 cluster, bool compress)
      : source_(source),
        target_(target),
        cluster_(cluster),
        length_(source.length_bytes()),
        compress_(compress),
        states_((source.length_bytes() + cluster - 1) / cluster, State::left) {}

  // The guest's write goes on even if the copy fails: the job is told.
  Task<> before_write(u64 offset, u64 length) override {
    if (!stopped_ && offset < length_) {
      const auto done = co_await attempt(copy(offset, std::min(length, length_ - offset)));
      if (!done && failed_) failed_ = std::unexpected(done.error());
    }
    co_return Result<>{};
  }
  // All clusters that the range touches have been copied when this ends; returns the bytes that it did itself.
  Task<u64> copy(u64 offset, u64 length) {
    u64 copied = 0;
    const u64 end = (offset + length + cluster_ - 1) / cluster_;
    for (u64 i = offset / cluster_; i < end;) {
      if (states_[i] == State::done) {
        i++;
        continue;
      }
      if (states_[i] == State::on_its_way) {
        co_await changed_.wait();
        continue;
      }
      if (stopped_) break;
      u64 n = 1;
      while (i + n < end && (n + 1) * cluster_ <= std::max(piece_bytes, cluster_) && states_[i + n] == State::left) n++;
      std::fill_n(states_.begin() + i64(i), n, State::on_its_way);
      under_way_++;
      const Result<> done = co_await attempt(transfer(i * cluster_, std::min(n * cluster_, length_ - i * cluster_)));
      std::fill_n(states_.begin() + i64(i), n, done ? State::done : State::left);
      under_way_--;
      changed_.wake_all();
      if (!done) co_return std::unexpected(done.error());
      copied += n * cluster_;
      i += n;
    }
    co_return copied;
  }
  // Nothing is copied from now on; ends when nothing is under way.
  Task<> stop() {
    stopped_ = true;
    while (under_way_) co_await changed_.wait();
    co_return Result<>{};
  }
  const Result<>& failed() const { return failed_; }

 private:
  enum class State : u8 { left, on_its_way, done };
  Task<> transfer(u64 at, u64 length) {
    Buffer buffer{length};
    const IoVector all{buffer.data(), length};
    co_await source_.read_out_of_order(at, all);
    if (all.is_zero()) co_return co_await target_.zero(at, length, {.may_unmap = true});
    if (!compress_) co_return co_await target_.write(at, all);
    for (u64 done = 0; done < length; done += cluster_) {
      co_await target_.write(at + done, all.part(done, std::min(cluster_, length - done)), {.compressed = true});
    }
    co_return Result<>{};
  }
  Edge &source_, &target_;
  const u64 cluster_, length_;
  const bool compress_;
  bool stopped_ = false;
  u64 under_way_ = 0;
  std::vector<State> states_;
  WaitList changed_;
  Result<> failed_;
};

class Backup final : public Job {
 public:
  Backup(JobOptions options, NodeRef source, NodeRef target, BackupSync sync, bool compress, BitmapRef bitmap, BitmapMode mode)
      : Job(JobType::backup, std::move(options)),
        source_(std::move(source)),
        target_(std::move(target)),
        sync_(sync),
        compress_(compress),
        bitmap_(std::move(bitmap)),
        mode_(mode) {
    if (bitmap_) bitmap_->set_busy(true);
  }
  ~Backup() override {
    if (bitmap_) bitmap_->set_busy(false);
  }

 private:
  Task<> run() override {
    const std::string user = format("job '{}'", options().id);
    auto from = Edge::make(source_, "source", user, Role::user, permit_read, permit_all);
    if (!from) co_return std::unexpected(std::move(from).error());
    from_ = std::move(*from);
    auto to = Edge::make(target_, "target", user, Role::user, permit_read | permit_write, permit_read | permit_write_unchanged);
    if (!to) co_return std::unexpected(std::move(to).error());
    to_ = std::move(*to);
    const u64 length = source_->length_bytes();
    if (to_->length_bytes() != length) co_return fail("Source and target image have different sizes");
    copier_ = std::make_shared<Copier>(*from_, *to_, std::max<u64>(target_->cluster_bytes(), 64 * KiB), compress_);
    {
      Quiet quiet;
      co_await quiet.begin(*source_);
      source_->add_watcher(copier_);
      if (bitmap_) {
        // The bitmap begins anew at this moment; what it said until then is copied.
        wanted_.emplace(bitmap_->name(), length, bitmap_->granularity());
        wanted_->add_bits(bitmap_->take_bits());
      }
    }
    set_total(length);
    if (sync_ == BackupSync::none) {
      // Until it is cancelled only what changes is kept.
      for (;;) {
        co_await breathe(0);
        if (!copier_->failed()) co_return copier_->failed();
        co_await sleep(100ms);
      }
    }
    for (u64 at = 0; at < length;) {
      u64 n = length - at;
      bool wanted = true;
      if (sync_ == BackupSync::top) {
        const Extent e = co_await map_above(*source_, backing_of(*source_), at, n);
        n = e.length, wanted = e.kind != Extent::Kind::backing;
      } else if (wanted_) {
        std::tie(wanted, n) = wanted_->run_at(at, n);
      }
      n = std::min(n, piece_bytes);
      u64 copied = 0;
      if (wanted) copied = co_await copier_->copy(at, n);
      if (!copier_->failed()) co_return copier_->failed();
      at += n;
      add_done(n);
      co_await breathe(copied);
    }
    co_return Result<>{};
  }

  Task<> finish(bool good) override {
    Result<> done;
    if (copier_) {
      co_await copier_->stop();
      Quiet quiet;
      co_await quiet.begin(*source_);
      source_->remove_watcher(copier_.get());
    }
    if (good) done = co_await attempt(to_->flush());
    if (good && done && copier_) done = copier_->failed();
    if (bitmap_) {
      // "always" could keep less after a failure: it keeps all, which copies more the next time and never too little.
      if (wanted_ && (!good || !done || mode_ == BitmapMode::never)) bitmap_->add_bits(wanted_->bits());
      bitmap_->set_busy(false);
      bitmap_.reset();
    }
    from_.reset(), to_.reset();
    (void)co_await attempt(release(std::exchange(source_, nullptr)));
    (void)co_await attempt(release(std::exchange(target_, nullptr)));
    co_return done;
  }

  NodeRef source_, target_;
  Child from_, to_;
  std::shared_ptr<Copier> copier_;
  const BackupSync sync_;
  const bool compress_;
  BitmapRef bitmap_;
  const BitmapMode mode_;
  std::optional<DirtyBitmap> wanted_;  // what the bitmap said when the job began
};

Result<> blockdev_backup(control::Context&, const BackupArgs& a) {
  for (const auto& policy : {a.on_source_error, a.on_target_error})
    if (policy && *policy != "report") return fail("error policy '{}' is not supported (report is)", *policy);
  const bool by_bitmap = a.sync == BackupSync::incremental || a.sync == BackupSync::bitmap;
  if (by_bitmap && !a.bitmap)
    return fail("must provide a valid bitmap name for sync mode '{}'", Codec<BackupSync>::to_value(a.sync).get_string());
  if (!by_bitmap && (a.bitmap || a.bitmap_mode)) return fail("a bitmap does not go with this sync mode");
  if (a.sync == BackupSync::bitmap && !a.bitmap_mode) return fail("Bitmap sync mode must be given when providing a bitmap");
  if (a.sync == BackupSync::incremental && a.bitmap_mode.value_or(BitmapMode::on_success) != BitmapMode::on_success)
    return fail("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
  NodeRef source = TRY(node_of_device(a.device));
  NodeRef target = find_node(a.target);
  if (!target) return fail("Cannot find device='' nor node-name='{}'", a.target);
  if (source == target) return fail("Source and target cannot be the same");
  TRY(must_be_at_home(*source));
  TRY(must_be_at_home(*target));
  BitmapRef bitmap;
  if (a.bitmap) {
    bitmap = find_bitmap(*source, *a.bitmap);
    if (!bitmap) return fail("Bitmap '{}' could not be found", *a.bitmap);
    if (bitmap->busy()) return fail("Bitmap '{}' is currently in use by another operation and cannot be used", *a.bitmap);
  }
  return start_job(std::make_shared<Backup>(JobOptions{.id = TRY(job_id_for(a.job_id, a.device)),
                                                       .speed = a.speed.value_or(0),
                                                       .auto_finalize = a.auto_finalize.value_or(true),
                                                       .auto_dismiss = a.auto_dismiss.value_or(true)},
                                            std::move(source), std::move(target), a.sync, a.compress.value_or(false), std::move(bitmap),
                                            a.bitmap_mode.value_or(BitmapMode::on_success)));
}
control::Registered registered{
    control::command<blockdev_backup>({.name = "blockdev-backup", .doc = "Copies a disk as it is now.", .since = "2.3"})};

}  // namespace
}  // namespace block
}  // namespace vmm
