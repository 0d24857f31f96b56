// migrate and what goes with it, QMP and HMP. Source: contract.md §2.5, §4.
#include <chrono>

#include "block/core/handover.h"
#include "migration/incoming.h"
#include "migration/outgoing.h"
#include "src/control/command.h"

namespace vmm {
namespace migration {
namespace {

struct MigrateArgs {
  std::string uri;
  std::optional<bool> detach, blk, inc, resume;
};
struct IncomingArgs {
  std::string uri;
  std::optional<bool> exit_on_error;
};
struct ContinueArgs {
  MoveStatus state = MoveStatus::pre_switchover;
};
struct RamInfo {
  u64 transferred = 0, remaining = 0, total = 0, duplicate = 0, skipped = 0, normal = 0, normal_bytes = 0, dirty_pages_rate = 0;
  double mbps = 0;
  u64 dirty_sync_count = 0, postcopy_requests = 0, page_size = 4096, multifd_bytes = 0, pages_per_second = 0, precopy_bytes = 0,
      downtime_bytes = 0, postcopy_bytes = 0, dirty_sync_missed_zero_copy = 0;
};
struct MigrationInfo {
  std::optional<std::string> status, error_desc;
  std::optional<u64> total_time, setup_time, downtime, expected_downtime, cpu_throttle_percentage;
  std::optional<RamInfo> ram;
  std::optional<std::vector<std::string>> blocked_reasons;
};

}  // namespace
}  // namespace migration

using migration::ContinueArgs;
using migration::IncomingArgs;
using migration::MigrateArgs;
using migration::MigrationInfo;
using migration::RamInfo;
template <>
inline constexpr std::array fields<MigrateArgs> = {
    field<&MigrateArgs::uri>("uri", "tcp:HOST:PORT, unix:PATH, fd:NAME, exec:COMMAND or file:PATH."),
    field<&MigrateArgs::blk>("blk", "Refused: disks are not copied."),
    field<&MigrateArgs::inc>("inc", "Refused: disks are not copied."),
    field<&MigrateArgs::detach>("detach", "Without effect: the command never waits."),
    field<&MigrateArgs::resume>("resume", "Refused: only postcopy could be resumed."),
};
template <>
inline constexpr std::array fields<IncomingArgs> = {
    field<&IncomingArgs::uri>("uri", "As of migrate."),
    field<&IncomingArgs::exit_on_error>("exit-on-error", "End with status 1 when it fails (the default)."),
};
template <>
inline constexpr std::array fields<ContinueArgs> = {field<&ContinueArgs::state>("state", "The state that it is to leave: pre-switchover.")};
template <>
inline constexpr std::array fields<RamInfo> = {
    field<&RamInfo::transferred>("transferred", "Bytes sent."),
    field<&RamInfo::remaining>("remaining", "Bytes that the other side lacks."),
    field<&RamInfo::total>("total", "Bytes of RAM."),
    field<&RamInfo::duplicate>("duplicate", "Pages of zeros sent."),
    field<&RamInfo::skipped>("skipped", "0."),
    field<&RamInfo::normal>("normal", "Other pages sent."),
    field<&RamInfo::normal_bytes>("normal-bytes", "Their bytes."),
    field<&RamInfo::dirty_pages_rate>("dirty-pages-rate", "Pages a second that the guest writes to."),
    field<&RamInfo::mbps>("mbps", "Megabits a second, on average."),
    field<&RamInfo::dirty_sync_count>("dirty-sync-count", "Passes over RAM."),
    field<&RamInfo::postcopy_requests>("postcopy-requests", "0."),
    field<&RamInfo::page_size>("page-size", "Bytes of a page."),
    field<&RamInfo::multifd_bytes>("multifd-bytes", "Bytes of them on further connections."),
    field<&RamInfo::pages_per_second>("pages-per-second", "Pages a second, on average."),
    field<&RamInfo::precopy_bytes>("precopy-bytes", "Bytes sent while the guest ran."),
    field<&RamInfo::downtime_bytes>("downtime-bytes", "Bytes sent while it stood."),
    field<&RamInfo::postcopy_bytes>("postcopy-bytes", "0."),
    field<&RamInfo::dirty_sync_missed_zero_copy>("dirty-sync-missed-zero-copy", "0."),
};
template <>
inline constexpr std::array fields<MigrationInfo> = {
    field<&MigrationInfo::status>("status", "none setup active device completed failed cancelling cancelled; absent before the first."),
    field<&MigrationInfo::error_desc>("error-desc", "Why it failed."),
    field<&MigrationInfo::total_time>("total-time", "Milliseconds since its start."),
    field<&MigrationInfo::setup_time>("setup-time", "Of these, until the first page."),
    field<&MigrationInfo::downtime>("downtime", "Milliseconds for which the guest stood."),
    field<&MigrationInfo::expected_downtime>("expected-downtime", "What it would be now."),
    field<&MigrationInfo::cpu_throttle_percentage>("cpu-throttle-percentage", "How much of their time the CPUs are made to stand still."),
    field<&MigrationInfo::ram>("ram", "Of RAM."),
    field<&MigrationInfo::blocked_reasons>("blocked-reasons", "Why the machine cannot leave now."),
};

namespace migration {
namespace {

using control::command;
using control::Context;

Result<> migrate(Context&, const MigrateArgs& args) {
  vm::Machine* const machine = vm::current_machine();
  if (args.blk.value_or(false) || args.inc.value_or(false))
    return fail("Block migration is not supported; copy disks with blockdev-mirror");
  if (args.resume.value_or(false)) return fail("Cannot resume if there is no paused migration");
  if (!machine) return fail("There is no machine");
  if (latest_move() && !latest_move()->ended()) return fail("There's a migration process in progress");
  if (machine->run_state().status() == vm::Status::inmigrate) return fail("Guest is waiting for an incoming migration");
  if (machine->run_state().status() == vm::Status::postmigrate) return fail("The guest has left already");
  latest_move() = nullptr;
  latest_move() = std::make_unique<Outgoing>(*machine, args.uri);
  return {};
}

Result<> migrate_cancel(Context&) {
  if (latest_move()) latest_move()->cancel();
  return {};
}

Result<> migrate_continue(Context&, const ContinueArgs& args) {
  if (!latest_move() || latest_move()->figures().status != args.state)
    return fail("Migration is not in expected state: {}",
                latest_move() ? Codec<MoveStatus>::to_value(latest_move()->figures().status).get_string() : "none");
  if (!latest_move()->go_on()) return fail("Migration does not wait in this state");
  return {};
}
Result<> migrate_pause(Context&) {
  return fail("migrate-pause is currently only supported during postcopy-active or postcopy-recover state");
}

Result<> migrate_incoming(Context&, const IncomingArgs& args) {
  vm::Machine* const machine = vm::current_machine();
  if (!machine || !awaits_uri()) return fail("'-incoming' was not specified on the command line");
  TRY(open_incoming(args.uri, !args.exit_on_error.value_or(true)));
  return {};
}

Result<MigrationInfo> query_migrate(Context&) {
  MigrationInfo info;
  if (auto may = block::check_hand_over(false); !may) info.blocked_reasons = std::vector{may.error().message};
  if (!latest_move()) {
    if (const auto in = incoming_figures()) {
      info.status = Codec<MoveStatus>::to_value(in->status).get_string();
      if (!in->error.empty()) info.error_desc = in->error;
    }
    return info;
  }
  const Figures f = latest_move()->figures();
  info.status = Codec<MoveStatus>::to_value(f.status).get_string();
  if (!f.error.empty()) info.error_desc = f.error;
  info.total_time = f.total_ms, info.setup_time = f.setup_ms;
  if (f.status == MoveStatus::completed)
    info.downtime = f.downtime_ms;
  else
    info.expected_downtime = f.expected_downtime_ms;
  if (f.throttle_percent) info.cpu_throttle_percentage = f.throttle_percent;
  const u64 pages = f.zero_pages + f.normal_pages;
  info.ram = RamInfo{.transferred = f.transferred,
                     .remaining = f.remaining,
                     .total = f.total,
                     .duplicate = f.zero_pages,
                     .normal = f.normal_pages,
                     .normal_bytes = f.normal_pages * 4096,
                     .dirty_pages_rate = f.dirty_pages_a_second,
                     .mbps = f.mbps,
                     .dirty_sync_count = f.rounds,
                     .multifd_bytes = f.multifd,
                     .pages_per_second = f.total_ms ? pages * 1000 / f.total_ms : 0,
                     .precopy_bytes = f.transferred - f.downtime_bytes,
                     .downtime_bytes = f.downtime_bytes};
  return info;
}
std::string print_migrate(const Value& v) {
  const Value* status = v.find("status");
  if (!status) return {};
  std::string out = format("Migration status: {}{}\n", status->get_string(),
                           v.find("error-desc") ? format(" ({})", v.find("error-desc")->get_string()) : std::string{});
  for (const auto& [key, text] : {std::pair{"total-time", "total time"},
                                  {"expected-downtime", "expected downtime"},
                                  {"downtime", "downtime"},
                                  {"setup-time", "setup"}})
    if (const Value* n = v.find(key)) out += format("{}: {} ms\n", text, n->as_u64("").value_or(0));
  if (const Value* ram = v.find("ram")) {
    const auto number = [&](std::string_view key) { return ram->find(key) ? ram->find(key)->as_u64("").value_or(0) : 0; };
    out += format("transferred ram: {} kbytes\nremaining ram: {} kbytes\ntotal ram: {} kbytes\nduplicate: {} pages\nnormal: {} pages\n",
                  number("transferred") >> 10, number("remaining") >> 10, number("total") >> 10, number("duplicate"), number("normal"));
    out += format("normal bytes: {} kbytes\ndirty sync count: {}\npage size: {} kbytes\n", number("normal-bytes") >> 10,
                  number("dirty-sync-count"), number("page-size") >> 10);
  }
  return out;
}

const control::Registered commands[] = {
    control::Registered{command<migrate>({.name = "migrate",
                                          .doc = "Sends the machine elsewhere while it runs.",
                                          .human = "migrate",
                                          .human_args = "detach:-d,blk:-b,inc:-i,resume:-r,uri:s",
                                          .human_help = "[-d] uri -- migrate to URI (tcp:, unix:, fd:, exec:, file:)"})},
    control::Registered{command<migrate_cancel>({.name = "migrate_cancel",
                                                 .doc = "Breaks the move off; the guest goes on here.",
                                                 .human = "migrate_cancel",
                                                 .human_help = "cancel the current migration"})},
    control::Registered{command<migrate_continue>({.name = "migrate-continue",
                                                   .doc = "Lets a move go on that waits (pause-before-switchover).",
                                                   .since = "2.11",
                                                   .human = "migrate_continue",
                                                   .human_args = "state:s",
                                                   .human_help = "state -- Continue migration from the given paused state"})},
    control::Registered{command<migrate_pause>({.name = "migrate-pause",
                                                .doc = "Refused: only postcopy could be paused.",
                                                .since = "3.0",
                                                .human = "migrate_pause",
                                                .human_help = "Pause an ongoing migration (postcopy-only)"})},
    control::Registered{command<migrate_incoming>({.name = "migrate-incoming",
                                                   .doc = "Where the machine comes from (-incoming defer).",
                                                   .since = "2.3",
                                                   .human = "migrate_incoming",
                                                   .human_args = "uri:s",
                                                   .human_help = "uri -- continue an incoming migration from an -incoming defer"})},
    control::Registered{command<query_migrate>({.name = "query-migrate",
                                                .doc = "How far the move is.",
                                                .human = "info migrate",
                                                .human_help = "show migration status",
                                                .human_print = print_migrate})},
};

}  // namespace
}  // namespace migration
}  // namespace vmm
