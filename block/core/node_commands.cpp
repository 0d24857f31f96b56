// The monitor's commands on nodes: blockdev-add, -del, -reopen, block_resize, block-set-write-threshold, drive_add, drive_del. Texts as
// QEMU 7.2 prints them (observed).
#include <algorithm>

#include "block/core/commands.h"
#include "block/core/drive.h"
#include "block/core/quiet.h"
#include "src/value/key_list.h"

namespace vmm {
namespace block {
namespace {

struct NodeNameArgs {
  std::string node_name;
};
struct ReopenArgs {
  std::vector<Value> options;
};
struct ThresholdArgs {
  std::string node_name;
  u64 write_threshold = 0;
};
struct ThresholdData {
  std::string node_name;
  u64 amount_exceeded = 0, write_threshold = 0;
};
struct ResizeArgs {
  std::optional<std::string> device, node_name;
  u64 size = 0;
};
}  // namespace
}  // namespace block

template <>
inline constexpr std::array fields<block::NodeNameArgs> = {field<&block::NodeNameArgs::node_name>("node-name", "The node.")};
template <>
inline constexpr std::array fields<block::ReopenArgs> = {
    field<&block::ReopenArgs::options>("options", "Trees as of blockdev-add, one a node: what is not named is the default again.")};
template <>
inline constexpr std::array fields<block::ThresholdArgs> = {
    field<&block::ThresholdArgs::node_name>("node-name", "The node."),
    field<&block::ThresholdArgs::write_threshold>("write-threshold", "Offset in bytes; 0: none any more."),
};
template <>
inline constexpr std::array fields<block::ThresholdData> = {
    field<&block::ThresholdData::node_name>("node-name", "The node."),
    field<&block::ThresholdData::amount_exceeded>("amount-exceeded", "Bytes of the write past the threshold."),
    field<&block::ThresholdData::write_threshold>("write-threshold", "The threshold, which is gone now."),
};
template <>
inline constexpr std::array fields<block::ResizeArgs> = {
    field<&block::ResizeArgs::device>("device", "Drive id."),
    field<&block::ResizeArgs::node_name>("node-name", "The node."),
    field<&block::ResizeArgs::size>("size", "New length in bytes."),
};

namespace block {
namespace {

constexpr control::EventInfo threshold_event{.name = "BLOCK_WRITE_THRESHOLD",
                                             .doc = "A write went past the offset that block-set-write-threshold named.",
                                             .data = &Codec<ThresholdData>::description};
control::RegisteredEvent threshold_registered{threshold_event};

Task<Value> blockdev_add(control::Context&, Value options) {
  const Value* name = options.find("node-name");
  if (!name) co_return fail("'node-name' must be specified for the root node");
  NodeRef node = co_await open_node(*current_loop(), std::move(options));
  hold_node(std::move(node));
  co_return Value::object();
}
Task<Value> blockdev_del(control::Context&, Value arguments) {
  NodeNameArgs args;
  if (auto ok = assign_fields(&args, fields<NodeNameArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  auto node = take_held_node(args.node_name);
  if (!node) co_return std::unexpected(std::move(node).error());
  co_await release(std::move(*node));
  co_return Value::object();
}

// All trees are looked at before the first node changes; each node stands still while it does.
Task<Value> blockdev_reopen(control::Context&, Value arguments) {
  ReopenArgs args;
  if (auto ok = assign_fields(&args, fields<ReopenArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  std::vector<NodeRef> nodes;
  for (const Value& tree : args.options) {
    const Value* name = tree.is_object() ? tree.find("node-name") : nullptr;
    if (!name || !name->is_string()) co_return fail("node-name not specified");
    NodeRef node = find_node(name->get_string());
    if (!node) co_return fail("Failed to find node with node-name='{}'", name->get_string());
    if (&node->loop() != current_loop()) co_return fail("Node '{}' is used by an iothread: it cannot be reopened now", name->get_string());
    nodes.push_back(std::move(node));
  }
  for (usize i = 0; i < nodes.size(); i++) {
    Quiet quiet;
    co_await quiet.begin(*nodes[i]);
    co_await reopen_node(*nodes[i], args.options[i]);
  }
  co_return Value::object();
}

// Tells of the first write past the threshold, once.
class Threshold final : public WriteWatcher {
 public:
  explicit Threshold(BlockNode& node) : node_(node), main_(*current_loop()) {}
  Task<> before_write(u64 offset, u64 length) override {
    const u64 limit = node_.write_threshold();
    if (limit && offset + length > limit) {
      node_.set_write_threshold(0);
      main_.post([data = ThresholdData{node_.node_name(), offset + length - limit, limit}] {
        control::emit(threshold_event, Codec<ThresholdData>::to_value(data));
      });
    }
    co_return Result<>{};
  }

 private:
  BlockNode& node_;
  EventLoop& main_;
};
Task<Value> set_threshold(control::Context&, Value arguments) {
  ThresholdArgs args;
  if (auto ok = assign_fields(&args, fields<ThresholdArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  NodeRef node = find_node(args.node_name);
  if (!node) co_return fail(ErrorClass::device_not_found, "Device '{}' not found", args.node_name);
  Quiet quiet;
  co_await quiet.begin(*node);
  if (args.write_threshold && !node->watches<Threshold>()) node->add_watcher(std::make_shared<Threshold>(*node));
  node->set_write_threshold(args.write_threshold);
  co_return Value::object();
}

Result<> resize(control::Context&, const ResizeArgs& a) {
  if (!a.device && !a.node_name) return fail("Need exactly one of 'device' and 'node-name'");
  BackendRef found;
  for (const auto& b : all_backends())
    if ((a.device && b->id() == *a.device) || (a.node_name && b->node() && b->node()->node_name() == *a.node_name)) found = b;
  if (!found && a.device) found = find_backend_of_device(*a.device);
  if (found) return wait_for(found->resize(a.size));
  NodeRef node = a.node_name ? find_node(*a.node_name) : nullptr;
  if (!node)
    return fail(ErrorClass::device_not_found, "Cannot find device='{}' nor node-name='{}'", a.device.value_or(""),
                a.node_name.value_or(""));
  auto edge = TRY(Edge::make(node, "resize", "block_resize", Role::user, permit_resize, permit_all));
  return wait_for(edge->truncate(a.size));
}

Result<std::string> human_resize(control::Context& context, std::span<const std::string> words) {
  if (words.size() != 2) return fail("block_resize takes a device and a size");
  // A bare number is MiB here.
  std::string text = words[1];
  if (!text.empty() && text.back() >= '0' && text.back() <= '9') text += 'M';
  const u64 size = TRY(codec_detail::parse_size(Value{text}, "size", {}));
  ResizeArgs a{.device = words[0], .size = size};
  if (!find_backend(words[0]) && find_node(words[0])) a.device = {}, a.node_name = words[0];
  TRY(resize(context, a));
  return std::string{};
}
Result<std::string> drive_add(control::Context&, std::span<const std::string> words) {
  // drive_add [-n] ADDRESS OPTIONS; the address is of old times.
  const bool node_only = !words.empty() && words[0] == "-n";
  if (node_only) words = words.subspan(1);
  if (words.size() != 2) return fail("drive_add takes an address and options");
  if (node_only) {
    Value tree = TRY(parse_key_list_or_json(words[1], "driver", true));
    if (!tree.find("node-name")) return fail("'node-name' needs to be specified");
    hold_node(TRY(wait_for(open_node(*current_loop(), std::move(tree)))));
    return std::string{};
  }
  Value keys = TRY(parse_key_list_or_json(words[1], "", true));
  if (const Value* interface = keys.find("if"); interface && *interface != Value{"none"})
    return fail("Can't hot-add drive to type {}", to_json(*interface));
  TRY(wait_for(make_drive(*current_loop(), std::move(keys), {.board_interface = Drive::Interface::none})));
  return std::string{"OK\n"};
}
Result<std::string> drive_del(control::Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("drive_del takes an id");
  BackendRef b = find_backend(words[0]);
  if (!b) return fail(ErrorClass::device_not_found, "Device '{}' not found", words[0]);
  TRY(wait_for(b->remove_medium()));
  forget_drive(words[0]);
  forget_backend(b);
  return std::string{};
}

control::Registered registered[] = {
    control::Registered{
        control::Command{.info = {.name = "blockdev-add", .doc = "Makes a block node. Options stand beside driver.", .since = "2.9"},
                         .run_slow = blockdev_add}},
    control::Registered{control::Command{.info = {.name = "blockdev-del", .doc = "Closes a block node.", .since = "2.9"},
                                         .arguments = fields<NodeNameArgs>,
                                         .run_slow = blockdev_del}},
    control::Registered{control::Command{.info = {.name = "blockdev-reopen", .doc = "Changes options of open nodes.", .since = "6.1"},
                                         .arguments = fields<ReopenArgs>,
                                         .run_slow = blockdev_reopen}},
    control::Registered{
        control::Command{.info = {.name = "block-set-write-threshold", .doc = "Asks to be told of writes past an offset.", .since = "2.3"},
                         .arguments = fields<ThresholdArgs>,
                         .run_slow = set_threshold}},
    control::Registered{control::command<resize>({.name = "block_resize", .doc = "Changes a disk's length.", .since = "0.14"})},
    control::Registered{
        control::human<human_resize>({.human = "block_resize", .human_help = "block_resize device size -- resize a block image"})},
    control::Registered{control::human<drive_add>(
        {.human = "drive_add", .human_help = "drive_add [-n] [[<domain>:]<bus>:]<slot>\n[file=file][,if=type][,...] -- add drive"})},
    control::Registered{control::human<drive_del>({.human = "drive_del", .human_help = "drive_del device -- remove host block device"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
