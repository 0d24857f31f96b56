// A machine on its way out: a thread sends RAM while the machine runs, again what has changed, then stops it for the rest. One at a time.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "migration/stream.h"
#include "src/value/field.h"
#include "src/vm/machine.h"

namespace vmm::migration {

enum class MoveStatus : u8 { none, setup, active, device, cancelling, cancelled, completed, failed };

struct Parameters {
  u64 max_bandwidth = 128 * MiB;  // bytes a second; 0: no limit
  u64 downtime_limit_ms = 300;
};
extern Parameters parameters;  // machine lock

struct Figures {
  MoveStatus status = MoveStatus::none;
  std::string error;
  u64 total_ms = 0, setup_ms = 0, downtime_ms = 0, expected_downtime_ms = 0;
  u64 transferred = 0, remaining = 0, total = 0, zero_pages = 0, normal_pages = 0, rounds = 0, dirty_pages_a_second = 0;
  double mbps = 0;
};

class Outgoing {
 public:
  // Machine lock held. The move begins; its end is in figures().
  Outgoing(vm::Machine& machine, std::string uri);
  ~Outgoing();
  Outgoing(const Outgoing&) = delete;
  void cancel();
  bool ended() const;
  Figures figures() const;

 private:
  struct Block;
  void run();
  Result<> move();
  Result<> send_round();
  Result<> send_pages(u32 block, u64 first, u64 count);
  void set_logging(bool on);
  void harvest();  // machine lock
  u64 remaining_pages() const;
  Result<> stop_and_finish();
  Result<> send_rest(const std::string& type);
  void pace(u64 sent_before);
  void set_status(MoveStatus status, std::string error = {});
  u64 elapsed_ms() const;

  vm::Machine& machine_;
  std::string uri_;
  Channel channel_;
  Writer writer_{channel_};
  std::vector<Block> blocks_;
  std::vector<u8> payload_;
  Nanoseconds begun_;
  bool stopped_ = false, was_running_ = false;

  mutable std::mutex mutex_;  // figures
  Figures figures_;
  Nanoseconds ended_at_{0};
  std::atomic<bool> cancelled_{false}, logging_{false};
  std::thread thread_;
};

// The latest one, or null. Machine lock.
std::unique_ptr<Outgoing>& latest_move();

}  // namespace vmm::migration

namespace vmm {
using migration::MoveStatus;
template <>
inline constexpr std::array enum_names<MoveStatus> = {EnumNameOf<MoveStatus>{MoveStatus::none, "none"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::setup, "setup"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::active, "active"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::device, "device"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::cancelling, "cancelling"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::cancelled, "cancelled"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::completed, "completed"},
                                                      EnumNameOf<MoveStatus>{MoveStatus::failed, "failed"}};
}  // namespace vmm
