// Jobs: long work on the graph that the monitor starts, watches and steers. Source: contract.md §2.6 ("Jobs") for the states and events,
// observed order of QEMU 7.2's. A job runs as a task on the main loop, where its nodes live; what it does to the graph happens in finish(),
// after the manager has agreed (auto-finalize).
#pragma once

#include "block/core/quiet.h"
#include "src/control/command.h"

namespace vmm::block {

enum class JobStatus : u8 { created, running, paused, ready, standby, waiting, pending, aborting, concluded, null };
enum class JobType : u8 { commit, stream, mirror, backup, create, snapshot_save, snapshot_load, snapshot_delete };

struct JobOptions {
  std::string id;
  u64 speed = 0;  // bytes a second; 0: no limit
  bool auto_finalize = true, auto_dismiss = true;
  bool on_blocks = true;  // has BLOCK_JOB_ events and stands in query-block-jobs
};

class Job : public std::enable_shared_from_this<Job> {
 public:
  virtual ~Job() = default;
  Job(const Job&) = delete;

  const JobOptions& options() const { return options_; }
  JobType type() const { return type_; }
  JobStatus status() const { return status_; }
  u64 done_bytes() const { return done_; }
  u64 total_bytes() const { return total_; }
  bool paused() const { return pause_asked_; }
  bool busy() const { return !waiting_; }
  const std::optional<std::string>& error() const { return error_; }

  // --- What the monitor asks. Errors say which state does not take it.
  Result<> pause();
  Result<> resume();
  Result<> cancel(bool force);
  Result<> complete();
  Result<> finalize();
  Result<> dismiss();
  Result<> set_speed(u64 bytes_a_second);

 protected:
  Job(JobType type, JobOptions options) : type_(type), options_(std::move(options)) {}
  friend Result<> start_job(std::shared_ptr<Job> job);

  // The work. Ends with success when only finish() is left to do.
  virtual Task<> run() = 0;
  // After the manager's word: changes the graph. `good`: run() has succeeded, and nobody has cancelled. Gives up edges in any case.
  virtual Task<> finish(bool good) = 0;
  // Of jobs that get ready: true while they wait for complete().
  virtual bool completes() const { return false; }

  // --- For run(). Between pieces of work: waits while it is paused, or its speed demands it; an error when it is cancelled.
  Task<> breathe(u64 bytes_done_since);
  Task<> sleep(Nanoseconds span);  // ends early when something is asked of it
  Task<> become_ready();
  bool ready() const { return status_ == JobStatus::ready || status_ == JobStatus::standby; }
  bool asked_to_complete() const { return complete_asked_; }
  bool asked_to_end() const { return cancel_asked_; }  // of a job that is ready: without its last step
  void set_total(u64 bytes) { total_ = bytes; }
  void add_total(u64 bytes) { total_ += bytes; }
  void add_done(u64 bytes) { done_ += bytes; }

 private:
  Task<> drive();
  void set_status(JobStatus status);
  Result<> allowed(std::string_view verb, std::initializer_list<JobStatus> in) const;
  void emit_block_event(const control::EventInfo& event);
  const JobType type_;
  JobOptions options_;
  JobStatus status_ = JobStatus::created;
  u64 done_ = 0, total_ = 0;
  u64 budget_bytes_ = 0;
  Nanoseconds budget_begin_{};
  bool pause_asked_ = false, cancel_asked_ = false, force_ = false, complete_asked_ = false, finalize_asked_ = false, waiting_ = false;
  std::optional<std::string> error_;
  WaitList asked_;
};

// Registers and starts it; fails if the id is in use.
Result<> start_job(std::shared_ptr<Job> job);
std::shared_ptr<Job> find_job(std::string_view id);
std::vector<std::shared_ptr<Job>> all_jobs();

// What commands that make jobs share: the node a name means (a drive's id or a node's name), and the job's id, by default the drive's.
Result<NodeRef> node_of_device(const std::string& device);
Result<std::string> job_id_for(const std::optional<std::string>& given, const std::string& device);
// Jobs run on the main loop only.
Result<> must_be_at_home(const BlockNode& node);

}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::JobStatus> = {EnumNameOf<block::JobStatus>{block::JobStatus::created, "created"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::running, "running"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::paused, "paused"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::ready, "ready"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::standby, "standby"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::waiting, "waiting"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::pending, "pending"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::aborting, "aborting"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::concluded, "concluded"},
                                                            EnumNameOf<block::JobStatus>{block::JobStatus::null, "null"}};
template <>
inline constexpr std::array enum_names<block::JobType> = {EnumNameOf<block::JobType>{block::JobType::commit, "commit"},
                                                          EnumNameOf<block::JobType>{block::JobType::stream, "stream"},
                                                          EnumNameOf<block::JobType>{block::JobType::mirror, "mirror"},
                                                          EnumNameOf<block::JobType>{block::JobType::backup, "backup"},
                                                          EnumNameOf<block::JobType>{block::JobType::create, "create"},
                                                          EnumNameOf<block::JobType>{block::JobType::snapshot_save, "snapshot-save"},
                                                          EnumNameOf<block::JobType>{block::JobType::snapshot_load, "snapshot-load"},
                                                          EnumNameOf<block::JobType>{block::JobType::snapshot_delete, "snapshot-delete"}};
}  // namespace vmm
