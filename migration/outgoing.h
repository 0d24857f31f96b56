// A machine on its way out: a thread sends RAM while the machine runs, again what has changed, then stops it for the rest. One at a time.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "migration/channel.h"
#include "migration/lanes.h"
#include "migration/machine_out.h"
#include "migration/slow_down.h"
#include "src/value/field.h"
#include "src/vm/machine.h"

namespace vmm::migration {

enum class MoveStatus : u8 { none, setup, active, pre_switchover, device, cancelling, cancelled, completed, failed };

struct Figures {
  MoveStatus status = MoveStatus::none;
  std::string error;
  u64 total_ms = 0, setup_ms = 0, downtime_ms = 0, expected_downtime_ms = 0;
  u64 transferred = 0, multifd = 0, remaining = 0, total = 0, zero_pages = 0, normal_pages = 0, rounds = 0, dirty_pages_a_second = 0,
      downtime_bytes = 0;
  unsigned throttle_percent = 0;
  double mbps = 0;
};

class Outgoing {
 public:
  // Machine lock held. The move begins; its end is in figures().
  Outgoing(vm::Machine& machine, std::string uri);
  ~Outgoing();  // breaks it off; on the main loop, which runs meanwhile
  Outgoing(const Outgoing&) = delete;
  void cancel();
  bool ended() const;
  // After pause-before-switchover; false: it does not wait for that.
  bool go_on();
  Figures figures() const;

 private:
  void run();
  Result<> move();
  Result<> first_part();
  Result<> send_due(bool in_time);
  Result<> stop_and_finish();
  Result<> wait_for_manager();
  Result<> let_go();
  Result<> hand_over();
  void back_again();
  void converge(u64 sent_bytes, u64 due_pages);
  void pace();
  void begin_pass();
  void set_status(MoveStatus status, std::string error = {});
  u64 sent() const { return channel_.bytes() + (lanes_ ? lanes_->bytes() : 0); }
  u64 elapsed_ms() const;

  vm::Machine& machine_;
  const std::string uri_;
  Channel channel_;
  Writer writer_{channel_};
  MachineOut out_{machine_};
  std::optional<LanesOut> lanes_;
  SlowDown slow_down_{machine_};
  std::vector<u8> room_;
  const Nanoseconds begun_;
  u32 passes_ = 0;
  unsigned fast_passes_ = 0;    // in a row, in which the guest wrote more than half of what was sent
  Nanoseconds budget_begin_{};  // what max-bandwidth allows is counted from here
  u64 budget_bytes_ = 0, budget_limit_ = 0;
  bool places_ = false;  // mapped-ram
  bool stopped_ = false, disks_gone_ = false, unknown_ = false;
  vm::Status status_before_ = vm::Status::running;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Figures figures_;
  u64 pass_pages_ = 0, pages_before_ = 0;  // what the pass has to send, and what had been sent when it began
  u64 bytes_before_stop_ = 0;
  Nanoseconds ended_at_{0};
  bool may_go_on_ = false;
  std::atomic<bool> cancelled_{false}, finished_{false};
  std::thread thread_;
};

// The latest one, or null. Machine lock.
std::unique_ptr<Outgoing>& latest_move();
// MIGRATION, where the capability "events" is on. Machine lock held.
void emit_status(MoveStatus status);

}  // namespace vmm::migration

namespace vmm {
using migration::MoveStatus;
template <>
inline constexpr std::array enum_names<MoveStatus> = {
    EnumNameOf<MoveStatus>{MoveStatus::none, "none"},           EnumNameOf<MoveStatus>{MoveStatus::setup, "setup"},
    EnumNameOf<MoveStatus>{MoveStatus::active, "active"},       EnumNameOf<MoveStatus>{MoveStatus::pre_switchover, "pre-switchover"},
    EnumNameOf<MoveStatus>{MoveStatus::device, "device"},       EnumNameOf<MoveStatus>{MoveStatus::cancelling, "cancelling"},
    EnumNameOf<MoveStatus>{MoveStatus::cancelled, "cancelled"}, EnumNameOf<MoveStatus>{MoveStatus::completed, "completed"},
    EnumNameOf<MoveStatus>{MoveStatus::failed, "failed"}};
}  // namespace vmm
