#include "block/job/job.h"

#include <algorithm>

#include "block/core/sleep.h"
#include "src/event/worker_pool.h"

namespace vmm {
namespace block {
namespace {
struct StatusData {
  std::string id;
  JobStatus status = JobStatus::created;
};
struct BlockJobData {
  JobType type = JobType::commit;
  std::string device;
  u64 len = 0, offset = 0, speed = 0;
  std::optional<std::string> error;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::StatusData> = {
    field<&block::StatusData::id>("id", "The job."),
    field<&block::StatusData::status>("status", "Its state from now on."),
};
template <>
inline constexpr std::array fields<block::BlockJobData> = {
    field<&block::BlockJobData::type>("type", "Kind of the job."),
    field<&block::BlockJobData::device>("device", "The job's id, by default its drive's."),
    field<&block::BlockJobData::len>("len", "Bytes to do in all, as far as is known."),
    field<&block::BlockJobData::offset>("offset", "Bytes done."),
    field<&block::BlockJobData::speed>("speed", "Limit in bytes a second; 0: none."),
    field<&block::BlockJobData::error>("error", "What went wrong."),
};

namespace block {
namespace {

constexpr control::EventInfo status_event{
    .name = "JOB_STATUS_CHANGE", .doc = "A job has another state.", .data = &Codec<StatusData>::description};
control::RegisteredEvent status_registered{status_event};
constexpr control::EventInfo ready_event{
    .name = "BLOCK_JOB_READY", .doc = "A job waits for block-job-complete.", .data = &Codec<BlockJobData>::description};
control::RegisteredEvent ready_registered{ready_event};
constexpr control::EventInfo completed_event{
    .name = "BLOCK_JOB_COMPLETED", .doc = "A job has ended, with `error` if it has failed.", .data = &Codec<BlockJobData>::description};
control::RegisteredEvent completed_registered{completed_event};
constexpr control::EventInfo cancelled_event{
    .name = "BLOCK_JOB_CANCELLED", .doc = "A job was cancelled.", .data = &Codec<BlockJobData>::description};
control::RegisteredEvent cancelled_registered{cancelled_event};
constexpr control::EventInfo pending_event{
    .name = "BLOCK_JOB_PENDING", .doc = "A job waits for job-finalize. Members: type, id.", .data = nullptr};
control::RegisteredEvent pending_registered{pending_event};

constexpr usize most_jobs = 1000;

std::vector<std::shared_ptr<Job>>& jobs() {
  static auto& it = *new std::vector<std::shared_ptr<Job>>;
  return it;
}
std::string_view name_of(JobStatus status) {
  for (const auto& n : enum_names<JobStatus>)
    if (n.value == status) return n.name;
  return "?";
}
}  // namespace

std::shared_ptr<Job> find_job(std::string_view id) {
  for (const auto& j : jobs())
    if (j->options().id == id) return j;
  return nullptr;
}
std::vector<std::shared_ptr<Job>> all_jobs() { return jobs(); }

Result<NodeRef> node_of_device(const std::string& device) {
  if (const BackendRef b = find_backend(device)) {
    if (b->root()) return b->root()->ref();
    return fail("Device '{}' has no medium", device);
  }
  if (NodeRef node = find_node(device)) return node;
  return fail("Cannot find device='{}' nor node-name='{}'", device, device);
}
Result<std::string> job_id_for(const std::optional<std::string>& given, const std::string& device) {
  if (!given) {
    if (find_backend(device)) return device;
    return fail("An explicit job ID is required for this node");
  }
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const bool sound =
      !given->empty() && given->size() < 256 && letter((*given)[0]) &&
      std::ranges::all_of(*given, [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'; });
  if (!sound) return fail("Invalid job ID '{}'", given->substr(0, 255));
  return *given;
}
Result<> must_be_at_home(const BlockNode& node) {
  if (&node.loop() == current_loop()) return {};
  return fail("Node '{}' is used by an iothread, where jobs cannot run yet: detach its disk from the iothread", node.node_name());
}

namespace {
// The end of the process: jobs let go of their nodes.
void end_all_jobs(EventLoop& loop) {
  const auto unfinished = [] { return std::ranges::any_of(jobs(), [](const auto& j) { return j->status() != JobStatus::concluded; }); };
  for (const auto& j : all_jobs()) (void)j->cancel(true);
  while (unfinished()) loop.run_once(true);
  jobs().clear();
}
}  // namespace

Result<> start_job(std::shared_ptr<Job> job) {
  [[maybe_unused]] static const bool once = (before_close(end_all_jobs), true);
  if (find_job(job->options_.id)) return fail("Job ID '{}' already in use", job->options_.id);
  if (jobs().size() >= most_jobs) return fail("There are {} jobs already; dismiss some that have concluded", most_jobs);
  jobs().push_back(job);
  job->set_status(JobStatus::created);
  job->set_status(JobStatus::running);
  Job& it = *job;
  it.drive().start([keep = std::move(job)](Result<>) {});
  return {};
}

void Job::set_status(JobStatus status) {
  status_ = status;
  control::emit(status_event, Codec<StatusData>::to_value({options_.id, status}));
}
void Job::emit_block_event(const control::EventInfo& event) {
  if (!options_.on_blocks) return;
  control::emit(event, Codec<BlockJobData>::to_value({type_, options_.id, total_, done_, options_.speed, error_}));
}

Task<> Job::drive() {
  // The command that made us answers first.
  co_await switch_to(*current_loop());
  Result<> done = co_await attempt(run());
  if (done) {
    set_status(JobStatus::waiting);
    set_status(JobStatus::pending);
    if (!options_.auto_finalize) {
      if (options_.on_blocks)
        control::emit(pending_event, Value{Value::Members{{"type", Codec<JobType>::to_value(type_)}, {"id", Value{options_.id}}}});
      waiting_ = true;
      while (!finalize_asked_ && !force_) co_await asked_.wait();
      waiting_ = false;
      if (force_) done = fail("The job was cancelled");
    }
  }
  const bool good = done.has_value();
  if (!good) set_status(JobStatus::aborting);
  const Result<> finished = co_await attempt(finish(good));
  if (good && !finished) {
    done = finished;
    set_status(JobStatus::aborting);
  }
  if (!done && !force_) error_ = done.error().message;
  emit_block_event(!done && force_ ? cancelled_event : completed_event);
  waiting_ = true;
  set_status(JobStatus::concluded);
  if (options_.auto_dismiss) (void)dismiss();
  co_return Result<>{};
}

// --- What the monitor asks ----------------------------------------------------------------------------------------------------------

Result<> Job::allowed(std::string_view verb, std::initializer_list<JobStatus> in) const {
  if (std::ranges::find(in, status_) != in.end()) return {};
  return fail("Job '{}' in state '{}' cannot accept command verb '{}'", options_.id, name_of(status_), verb);
}
Result<> Job::pause() {
  TRY(allowed("pause", {JobStatus::created, JobStatus::running, JobStatus::paused, JobStatus::ready, JobStatus::standby}));
  if (pause_asked_) return fail("Job is already paused");
  pause_asked_ = true;
  asked_.wake_all();
  return {};
}
Result<> Job::resume() {
  TRY(allowed("resume", {JobStatus::created, JobStatus::running, JobStatus::paused, JobStatus::ready, JobStatus::standby}));
  if (!pause_asked_) return fail("Can't resume a job that was not paused");
  pause_asked_ = false;
  asked_.wake_all();
  return {};
}
Result<> Job::cancel(bool force) {
  TRY(allowed("cancel", {JobStatus::created, JobStatus::running, JobStatus::paused, JobStatus::ready, JobStatus::standby,
                         JobStatus::waiting, JobStatus::pending}));
  cancel_asked_ = true;
  pause_asked_ = false;
  // Of a job that is ready this is its good end without the last step, unless by force.
  if (force || !ready()) force_ = true;
  asked_.wake_all();
  return {};
}
Result<> Job::complete() {
  TRY(allowed("complete", {JobStatus::ready}));
  if (pause_asked_ || cancel_asked_ || !completes()) return fail("The active block job '{}' cannot be completed", options_.id);
  complete_asked_ = true;
  asked_.wake_all();
  return {};
}
Result<> Job::finalize() {
  TRY(allowed("finalize", {JobStatus::pending}));
  finalize_asked_ = true;
  asked_.wake_all();
  return {};
}
Result<> Job::dismiss() {
  TRY(allowed("dismiss", {JobStatus::concluded}));
  const auto keep = shared_from_this();
  std::erase(jobs(), keep);
  set_status(JobStatus::null);
  return {};
}
Result<> Job::set_speed(u64 speed) {
  TRY(allowed("set-speed", {JobStatus::created, JobStatus::running, JobStatus::paused, JobStatus::ready, JobStatus::standby}));
  options_.speed = speed, budget_bytes_ = 0, budget_begin_ = monotonic_now();
  asked_.wake_all();
  return {};
}

// --- For run() ----------------------------------------------------------------------------------------------------------------------

Task<> Job::sleep(Nanoseconds span) {
  // A timer that wakes the list: who asks something ends the sleep, too.
  struct Alarm {
    WaitList& list;
    Timer timer;
    Alarm(WaitList& l, Nanoseconds s) : list(l), timer(Clock::real, loop_local<LoopClock>().domain, [this] { list.wake_all(); }) {
      timer.arm_in(s);
    }
  };
  if (span <= 0ns || force_) co_return Result<>{};
  waiting_ = true;
  {
    Alarm alarm{asked_, span};
    co_await asked_.wait();
  }
  waiting_ = false;
  co_return Result<>{};
}

Task<> Job::breathe(u64 bytes) {
  // Others get their turn; speeds are kept over spans of a tenth of a second.
  co_await switch_to(*current_loop());
  if (force_) co_return fail("The job was cancelled");
  if (options_.speed && bytes) {
    budget_bytes_ += bytes;
    while (options_.speed) {                                              // it may be lifted meanwhile
      const double due = double(budget_bytes_) / double(options_.speed);  // seconds that this may take
      const Nanoseconds left = budget_begin_ + Nanoseconds{i64(std::min(due, 1e6) * 1e9)} - monotonic_now();
      if (left <= 0ns) break;
      if (force_) co_return fail("The job was cancelled");
      if (pause_asked_) break;
      co_await sleep(std::min<Nanoseconds>(left, 100ms));
    }
    if (monotonic_now() - budget_begin_ > 1s) budget_begin_ = monotonic_now(), budget_bytes_ = 0;
  }
  if (pause_asked_) {
    const JobStatus before = status_;
    set_status(before == JobStatus::ready ? JobStatus::standby : JobStatus::paused);
    waiting_ = true;
    while (pause_asked_ && !force_) co_await asked_.wait();
    waiting_ = false;
    set_status(before);
  }
  if (force_) co_return fail("The job was cancelled");
  co_return Result<>{};
}

Task<> Job::become_ready() {
  set_status(JobStatus::ready);
  emit_block_event(ready_event);
  co_return Result<>{};
}

}  // namespace block
}  // namespace vmm
