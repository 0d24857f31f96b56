// External snapshots: an overlay takes an image's place and stands on it (blockdev-snapshot), and several such steps at one moment
// (transaction). Source: contract.md §2.6; texts as QEMU 7.2 has them (observed).
#include <algorithm>

#include "block/job/bitmap_actions.h"

namespace vmm {
namespace block {
namespace {
struct SnapshotArgs {
  std::string node, overlay;
};
struct Action {
  std::string type;
  Value data;
};
struct TransactionArgs {
  std::vector<Action> actions;
  std::optional<Value> properties;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::SnapshotArgs> = {
    field<&block::SnapshotArgs::node>("node", "The image, by node or drive."),
    field<&block::SnapshotArgs::overlay>("overlay", "Node that takes its place: not in use, without a backing node."),
};
template <>
inline constexpr std::array fields<block::Action> = {
    field<&block::Action::type>("type", "blockdev-snapshot, blockdev-backup, a block-dirty-bitmap- command, or abort."),
    field<&block::Action::data>("data", "Arguments, as of the command of that name."),
};
template <>
inline constexpr std::array fields<block::TransactionArgs> = {
    field<&block::TransactionArgs::actions>("actions", "What is done at one moment, or not at all."),
    field<&block::TransactionArgs::properties>("properties", "completion-mode: individual is supported."),
};

namespace block {
namespace {

constexpr usize most_actions = 1000;

struct Snapshot {
  NodeRef node, overlay;
};

Result<Snapshot> plan_snapshot(const SnapshotArgs& a) {
  Snapshot s;
  s.node = TRY(node_of_device(a.node));
  s.overlay = find_node(a.overlay);
  if (!s.overlay) return fail("Cannot find device='' nor node-name='{}'", a.overlay);
  if (s.node == s.overlay || stands_on(*s.node, *s.overlay))
    return fail("Making '{}' a backing child of '{}' would create a cycle", a.node, a.overlay);
  if (!s.overlay->parents().empty()) return fail("The overlay is already in use");
  if (s.overlay->child("backing")) return fail("The overlay already has a backing image");
  if (std::ranges::find(s.overlay->driver().children, "backing") == s.overlay->driver().children.end())
    return fail("The overlay does not support backing images");
  TRY(must_be_at_home(*s.node));
  TRY(must_be_at_home(*s.overlay));
  return s;
}

// Nothing is under way in either.
Task<> take_snapshot(const Snapshot& s) {
  co_await s.node->flush();
  // First the users: the overlay bears no writer below it.
  if (auto moved = replace_node(*s.node, s.overlay); !moved) co_return moved;
  auto done = co_await attempt(replace_backing(*s.overlay, s.node));
  if (!done) (void)replace_node(*s.overlay, s.node);
  co_return done;
}
Task<> undo_snapshot(const Snapshot& s) {
  (void)co_await attempt(replace_backing(*s.overlay, nullptr));
  co_return replace_node(*s.overlay, s.node);
}

Task<Value> blockdev_snapshot(control::Context&, Value arguments) {
  SnapshotArgs args;
  if (auto ok = assign_fields(&args, fields<SnapshotArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  auto plan = plan_snapshot(args);
  if (!plan) co_return std::unexpected(std::move(plan).error());
  Quiet quiet;
  co_await quiet.begin(*plan->node);
  co_await take_snapshot(*plan);
  co_return Value::object();
}

// All disks that it touches stand still from the first step to the last.
Task<Value> transaction(control::Context& context, Value arguments) {
  TransactionArgs args;
  if (auto ok = assign_fields(&args, fields<TransactionArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  if (args.properties) {
    const Value* mode = args.properties->find("completion-mode");
    if (mode && *mode != Value{"individual"}) co_return fail("completion-mode other than 'individual' is not supported");
  }
  if (args.actions.size() > most_actions) co_return fail("A transaction has at most {} actions", most_actions);
  std::list<Quiet> quiet;
  std::vector<Snapshot> done;
  std::vector<std::function<void()>> undo_bitmaps;
  std::vector<std::string> jobs;
  Result<> failed;
  for (const Action& action : args.actions) {
    if (action.type == "blockdev-snapshot") {
      SnapshotArgs a;
      failed = assign_fields(&a, fields<SnapshotArgs>, action.data);
      auto plan = failed ? plan_snapshot(a) : Result<Snapshot>{std::unexpected(failed.error())};
      if (!plan) {
        failed = std::unexpected(plan.error());
      } else {
        quiet.emplace_back();
        co_await quiet.back().begin(*plan->node);
        failed = co_await attempt(take_snapshot(*plan));
        if (failed) done.push_back(*plan);
      }
    } else if (action.type == "blockdev-backup") {
      const control::Command* command = control::find_command(action.type);
      const auto answer = command->run(context, action.data);
      if (!answer)
        failed = std::unexpected(answer.error());
      else if (!all_jobs().empty())
        jobs.push_back(all_jobs().back()->options().id);
    } else if (is_bitmap_action(action.type)) {
      auto node = node_of_bitmap_action(action.data);
      if (node) {
        quiet.emplace_back();
        co_await quiet.back().begin(**node);
      }
      auto undo = take_bitmap_action(action.type, action.data);
      if (undo)
        undo_bitmaps.push_back(std::move(*undo));
      else
        failed = std::unexpected(std::move(undo).error());
    } else if (action.type == "abort") {
      failed = fail("Transaction aborted using Abort action");
    } else {
      failed = fail("Parameter 'actions.type' does not accept value '{}'", action.type.substr(0, 100));
    }
    if (!failed) break;
  }
  if (failed) co_return Value::object();
  for (const auto& id : jobs)
    if (auto job = find_job(id)) (void)job->cancel(true);
  for (auto u = undo_bitmaps.rbegin(); u != undo_bitmaps.rend(); ++u) (*u)();
  for (auto s = done.rbegin(); s != done.rend(); ++s) (void)co_await attempt(undo_snapshot(*s));
  co_return std::unexpected(failed.error());
}

control::Registered registered[] = {
    control::Registered{control::Command{.info = {.name = "blockdev-snapshot", .doc = "Puts an overlay over an image.", .since = "2.5"},
                                         .arguments = fields<SnapshotArgs>,
                                         .run_slow = blockdev_snapshot}},
    control::Registered{control::Command{.info = {.name = "transaction", .doc = "Several steps at one moment.", .since = "1.1"},
                                         .arguments = fields<TransactionArgs>,
                                         .run_slow = transaction}},
};

}  // namespace
}  // namespace block
}  // namespace vmm
