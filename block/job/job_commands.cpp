// The monitor's commands on jobs: query-jobs and job-*, and the older query-block-jobs and block-job-*. Texts as QEMU 7.2 has them.
#include "block/job/job.h"

namespace vmm {
namespace block {
namespace {
struct JobInfo {
  std::string id;
  JobType type = JobType::commit;
  JobStatus status = JobStatus::created;
  u64 current_progress = 0, total_progress = 0;
  std::optional<std::string> error;
};
struct BlockJobInfo {
  JobType type = JobType::commit;
  std::string device, io_status = "ok";
  u64 len = 0, offset = 0, speed = 0;
  bool busy = false, paused = false, ready = false, auto_finalize = true, auto_dismiss = true;
  JobStatus status = JobStatus::created;
  std::optional<std::string> error;
};
struct IdArgs {
  std::string id;
};
struct BlockJobArgs {
  std::string device;
  std::optional<bool> force;
};
struct BlockJobIdArgs {
  std::string id;
};
struct SpeedArgs {
  std::string device;
  u64 speed = 0;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::JobInfo> = {
    field<&block::JobInfo::id>("id", "Name of the job."),
    field<&block::JobInfo::type>("type", "Kind of the job."),
    field<&block::JobInfo::status>("status", "Its state."),
    field<&block::JobInfo::current_progress>("current-progress", "Done of that."),
    field<&block::JobInfo::total_progress>("total-progress", "To do in all, as far as is known."),
    field<&block::JobInfo::error>("error", "What went wrong."),
};
template <>
inline constexpr std::array fields<block::BlockJobInfo> = {
    field<&block::BlockJobInfo::type>("type", "Kind of the job."),
    field<&block::BlockJobInfo::device>("device", "Name of the job."),
    field<&block::BlockJobInfo::len>("len", "Bytes to do in all, as far as is known."),
    field<&block::BlockJobInfo::offset>("offset", "Bytes done."),
    field<&block::BlockJobInfo::busy>("busy", "Something is under way."),
    field<&block::BlockJobInfo::paused>("paused", "It was asked to pause."),
    field<&block::BlockJobInfo::speed>("speed", "Limit in bytes a second; 0: none."),
    field<&block::BlockJobInfo::io_status>("io-status", "ok."),
    field<&block::BlockJobInfo::ready>("ready", "It can be completed."),
    field<&block::BlockJobInfo::status>("status", "Its state."),
    field<&block::BlockJobInfo::auto_finalize>("auto-finalize", "It goes on without job-finalize."),
    field<&block::BlockJobInfo::auto_dismiss>("auto-dismiss", "It vanishes at the end."),
    field<&block::BlockJobInfo::error>("error", "What went wrong."),
};
template <>
inline constexpr std::array fields<block::IdArgs> = {field<&block::IdArgs::id>("id", "The job.")};
template <>
inline constexpr std::array fields<block::BlockJobIdArgs> = {field<&block::BlockJobIdArgs::id>("id", "The job.")};
template <>
inline constexpr std::array fields<block::BlockJobArgs> = {
    field<&block::BlockJobArgs::device>("device", "The job."),
    field<&block::BlockJobArgs::force>("force", "Of a job that is ready or paused: at once."),
};
template <>
inline constexpr std::array fields<block::SpeedArgs> = {
    field<&block::SpeedArgs::device>("device", "The job."),
    field<&block::SpeedArgs::speed>("speed", "Bytes a second; 0: no limit."),
};

namespace block {
namespace {

Result<std::vector<JobInfo>> query_jobs(control::Context&) {
  std::vector<JobInfo> out;
  for (const auto& j : all_jobs()) out.push_back({j->options().id, j->type(), j->status(), j->done_bytes(), j->total_bytes(), j->error()});
  return out;
}
Result<std::vector<BlockJobInfo>> query_block_jobs(control::Context&) {
  std::vector<BlockJobInfo> out;
  for (const auto& j : all_jobs()) {
    if (!j->options().on_blocks) continue;
    const JobStatus s = j->status();
    out.push_back({.type = j->type(),
                   .device = j->options().id,
                   .len = j->total_bytes(),
                   .offset = j->done_bytes(),
                   .speed = j->options().speed,
                   .busy = j->busy(),
                   .paused = j->paused(),
                   .ready = s == JobStatus::ready || s == JobStatus::standby,
                   .auto_finalize = j->options().auto_finalize,
                   .auto_dismiss = j->options().auto_dismiss,
                   .status = s,
                   .error = j->error()});
  }
  return out;
}

Result<std::shared_ptr<Job>> job_of(const std::string& id) {
  if (auto j = find_job(id)) return j;
  return fail("Job not found");
}
Result<std::shared_ptr<Job>> block_job_of(const std::string& id) {
  if (auto j = find_job(id); j && j->options().on_blocks) return j;
  return fail(ErrorClass::device_not_active, "Block job '{}' not found", id);
}
Result<> job_pause(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->pause(); }
Result<> job_resume(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->resume(); }
Result<> job_cancel(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->cancel(true); }
Result<> job_complete(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->complete(); }
Result<> job_finalize(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->finalize(); }
Result<> job_dismiss(control::Context&, const IdArgs& a) { return TRY(job_of(a.id))->dismiss(); }
Result<> block_job_pause(control::Context&, const BlockJobArgs& a) { return TRY(block_job_of(a.device))->pause(); }
Result<> block_job_resume(control::Context&, const BlockJobArgs& a) { return TRY(block_job_of(a.device))->resume(); }
Result<> block_job_cancel(control::Context&, const BlockJobArgs& a) {
  const auto job = TRY(block_job_of(a.device));
  if (job->paused() && !a.force.value_or(false)) return fail("The block job for device '{}' is currently paused", a.device);
  return job->cancel(a.force.value_or(false));
}
Result<> block_job_complete(control::Context&, const BlockJobArgs& a) { return TRY(block_job_of(a.device))->complete(); }
Result<> block_job_set_speed(control::Context&, const SpeedArgs& a) { return TRY(block_job_of(a.device))->set_speed(a.speed); }
Result<> block_job_finalize(control::Context&, const BlockJobIdArgs& a) { return TRY(block_job_of(a.id))->finalize(); }
Result<> block_job_dismiss(control::Context&, const BlockJobIdArgs& a) { return TRY(block_job_of(a.id))->dismiss(); }

control::Registered registered[] = {
    control::Registered{control::command<query_jobs>({.name = "query-jobs", .doc = "All jobs.", .since = "3.0"})},
    control::Registered{control::command<query_block_jobs>({.name = "query-block-jobs", .doc = "Jobs on disks.", .since = "1.1"})},
    control::Registered{control::command<job_pause>({.name = "job-pause", .doc = "Lets a job stand still.", .since = "3.0"})},
    control::Registered{control::command<job_resume>({.name = "job-resume", .doc = "Lets a job go on.", .since = "3.0"})},
    control::Registered{control::command<job_cancel>({.name = "job-cancel", .doc = "Ends a job at once.", .since = "3.0"})},
    control::Registered{
        control::command<job_complete>({.name = "job-complete", .doc = "The last step of a job that is ready.", .since = "3.0"})},
    control::Registered{
        control::command<job_finalize>({.name = "job-finalize", .doc = "Lets a pending job change the graph.", .since = "3.0"})},
    control::Registered{control::command<job_dismiss>({.name = "job-dismiss", .doc = "Forgets a job that has concluded.", .since = "3.0"})},
    control::Registered{control::command<block_job_pause>({.name = "block-job-pause", .doc = "Lets a job stand still.", .since = "1.3"})},
    control::Registered{control::command<block_job_resume>({.name = "block-job-resume", .doc = "Lets a job go on.", .since = "1.3"})},
    control::Registered{control::command<block_job_cancel>(
        {.name = "block-job-cancel", .doc = "Ends a job; one that is ready ends well, without its last step.", .since = "1.1"})},
    control::Registered{control::command<block_job_complete>(
        {.name = "block-job-complete", .doc = "The last step of a job that is ready.", .since = "1.3"})},
    control::Registered{control::command<block_job_set_speed>({.name = "block-job-set-speed", .doc = "Limits a job.", .since = "1.1"})},
    control::Registered{control::command<block_job_finalize>(
        {.name = "block-job-finalize", .doc = "Lets a pending job change the graph.", .since = "2.12"})},
    control::Registered{
        control::command<block_job_dismiss>({.name = "block-job-dismiss", .doc = "Forgets a job that has concluded.", .since = "2.12"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
