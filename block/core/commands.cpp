// The monitor's commands on disks: query-block, query-blockstats, query-named-block-nodes, blockdev-add, -del, media and trays,
// block_resize, drive_add, drive_del, commit; info block and info blockstats. Texts as QEMU 7.2 prints them (observed).
#include <algorithm>

#include "block/core/drive.h"
#include "src/control/command.h"
#include "src/value/key_list.h"

namespace vmm {
namespace block {
namespace {

struct CacheInfo {
  bool writeback = true, direct = false, no_flush = false;
};
struct ImageInfo {
  std::string filename, format;
  u64 virtual_size = 0, actual_size = 0;
  std::optional<u64> cluster_size;
  std::optional<std::string> backing_filename, full_backing_filename, backing_filename_format;
  std::optional<Value> snapshots, format_specific, backing_image;
};
struct Inserted {
  std::string file, drv;
  std::optional<std::string> node_name, backing_file;
  bool ro = false, encrypted = false;
  u64 backing_file_depth = 0;
  std::string detect_zeroes = "off";
  u64 bps = 0, bps_rd = 0, bps_wr = 0, iops = 0, iops_rd = 0, iops_wr = 0, write_threshold = 0;
  ImageInfo image;
  CacheInfo cache;
  std::vector<Value> dirty_bitmaps;
};
struct BlockInfo {
  std::string device, type = "unknown";
  std::optional<std::string> qdev, io_status;
  bool removable = false, locked = false;
  std::optional<bool> tray_open;
  std::optional<Inserted> inserted;
};
struct DeviceStats {
  u64 rd_bytes = 0, wr_bytes = 0, unmap_bytes = 0, rd_operations = 0, wr_operations = 0, flush_operations = 0, unmap_operations = 0;
  u64 rd_total_time_ns = 0, wr_total_time_ns = 0, flush_total_time_ns = 0, unmap_total_time_ns = 0, wr_highest_offset = 0;
  u64 rd_merged = 0, wr_merged = 0, unmap_merged = 0;
  u64 failed_rd_operations = 0, failed_wr_operations = 0, failed_flush_operations = 0, failed_unmap_operations = 0;
  u64 invalid_rd_operations = 0, invalid_wr_operations = 0, invalid_flush_operations = 0, invalid_unmap_operations = 0;
  bool account_invalid = true, account_failed = true;
  std::vector<Value> timed_stats;
};
struct BlockStats {
  std::optional<std::string> device, qdev, node_name;
  DeviceStats stats;
  std::optional<Value> parent, backing;
};
struct QueryNodesArgs {
  std::optional<bool> flat;
};
struct QueryStatsArgs {
  std::optional<bool> query_nodes;
};
struct NodeNameArgs {
  std::string node_name;
};
struct DeviceArgs {
  std::optional<std::string> device, id;
  std::optional<bool> force;
};
struct InsertArgs {
  std::string id, node_name;
};
struct ChangeArgs {
  std::optional<std::string> device, id, format, read_only_mode;
  std::string filename;
  std::optional<bool> force;
};
struct ThrottleArgs {
  std::optional<std::string> device, id, group;
  u64 bps = 0, bps_rd = 0, bps_wr = 0, iops = 0, iops_rd = 0, iops_wr = 0;
  std::optional<u64> bps_max, bps_rd_max, bps_wr_max, iops_max, iops_rd_max, iops_wr_max;
  std::optional<u64> bps_max_length, bps_rd_max_length, bps_wr_max_length, iops_max_length, iops_rd_max_length, iops_wr_max_length;
  std::optional<u64> iops_size;
};
struct ResizeArgs {
  std::optional<std::string> device, node_name;
  u64 size = 0;
};
}  // namespace
}  // namespace block

template <>
inline constexpr std::array fields<block::CacheInfo> = {
    field<&block::CacheInfo::writeback>("writeback", "The guest sees a write cache."),
    field<&block::CacheInfo::direct>("direct", "The host's page cache is not used."),
    field<&block::CacheInfo::no_flush>("no-flush", "Flushes are ignored."),
};
template <>
inline constexpr std::array fields<block::ImageInfo> = {
    field<&block::ImageInfo::filename>("filename", "Its file."),
    field<&block::ImageInfo::format>("format", "Its format."),
    field<&block::ImageInfo::virtual_size>("virtual-size", "Bytes that a guest sees."),
    field<&block::ImageInfo::actual_size>("actual-size", "Bytes on the host."),
    field<&block::ImageInfo::cluster_size>("cluster-size", "Bytes of a cluster."),
    field<&block::ImageInfo::backing_filename>("backing-filename", "Backing file, as the image names it."),
    field<&block::ImageInfo::full_backing_filename>("full-backing-filename", "The same, from here."),
    field<&block::ImageInfo::backing_filename_format>("backing-filename-format", "Its format."),
    field<&block::ImageInfo::snapshots>("snapshots", "Internal snapshots."),
    field<&block::ImageInfo::backing_image>("backing-image", "The image below."),
    field<&block::ImageInfo::format_specific>("format-specific", "What only this format has."),
};
template <>
inline constexpr std::array fields<block::Inserted> = {
    field<&block::Inserted::file>("file", "Its file."),
    field<&block::Inserted::node_name>("node-name", "The node."),
    field<&block::Inserted::ro>("ro", "Read-only."),
    field<&block::Inserted::drv>("drv", "Its driver."),
    field<&block::Inserted::backing_file>("backing_file", "Backing file."),
    field<&block::Inserted::backing_file_depth>("backing_file_depth", "Images below."),
    field<&block::Inserted::encrypted>("encrypted", "Encrypted."),
    field<&block::Inserted::detect_zeroes>("detect_zeroes", "off, on or unmap."),
    field<&block::Inserted::bps>("bps", "Limit in bytes a second."),
    field<&block::Inserted::bps_rd>("bps_rd", "Limit of reads."),
    field<&block::Inserted::bps_wr>("bps_wr", "Limit of writes."),
    field<&block::Inserted::iops>("iops", "Limit in requests a second."),
    field<&block::Inserted::iops_rd>("iops_rd", "Limit of reads."),
    field<&block::Inserted::iops_wr>("iops_wr", "Limit of writes."),
    field<&block::Inserted::image>("image", "The image."),
    field<&block::Inserted::cache>("cache", "Cache mode."),
    field<&block::Inserted::write_threshold>("write_threshold", "Offset whose first write is told; 0: none."),
    field<&block::Inserted::dirty_bitmaps>("dirty-bitmaps", "Dirty bitmaps."),
};
template <>
inline constexpr std::array fields<block::BlockInfo> = {
    field<&block::BlockInfo::device>("device", "Drive id; empty with -blockdev."),
    field<&block::BlockInfo::qdev>("qdev", "QOM path or id of the device."),
    field<&block::BlockInfo::type>("type", "Not used."),
    field<&block::BlockInfo::removable>("removable", "Media can be changed."),
    field<&block::BlockInfo::locked>("locked", "The guest holds the medium."),
    field<&block::BlockInfo::inserted>("inserted", "The medium."),
    field<&block::BlockInfo::tray_open>("tray_open", "The tray is open."),
    field<&block::BlockInfo::io_status>("io-status", "ok, failed or nospace."),
};
template <>
inline constexpr std::array fields<block::DeviceStats> = {
    field<&block::DeviceStats::rd_bytes>("rd_bytes", "Bytes read."),
    field<&block::DeviceStats::wr_bytes>("wr_bytes", "Bytes written."),
    field<&block::DeviceStats::unmap_bytes>("unmap_bytes", "Bytes discarded."),
    field<&block::DeviceStats::rd_operations>("rd_operations", "Reads."),
    field<&block::DeviceStats::wr_operations>("wr_operations", "Writes."),
    field<&block::DeviceStats::flush_operations>("flush_operations", "Flushes."),
    field<&block::DeviceStats::unmap_operations>("unmap_operations", "Discards."),
    field<&block::DeviceStats::rd_total_time_ns>("rd_total_time_ns", "Time of reads."),
    field<&block::DeviceStats::wr_total_time_ns>("wr_total_time_ns", "Time of writes."),
    field<&block::DeviceStats::flush_total_time_ns>("flush_total_time_ns", "Time of flushes."),
    field<&block::DeviceStats::unmap_total_time_ns>("unmap_total_time_ns", "Time of discards."),
    field<&block::DeviceStats::wr_highest_offset>("wr_highest_offset", "End of the highest write."),
    field<&block::DeviceStats::rd_merged>("rd_merged", "Reads merged."),
    field<&block::DeviceStats::wr_merged>("wr_merged", "Writes merged."),
    field<&block::DeviceStats::unmap_merged>("unmap_merged", "Discards merged."),
    field<&block::DeviceStats::failed_rd_operations>("failed_rd_operations", "Failed reads."),
    field<&block::DeviceStats::failed_wr_operations>("failed_wr_operations", "Failed writes."),
    field<&block::DeviceStats::failed_flush_operations>("failed_flush_operations", "Failed flushes."),
    field<&block::DeviceStats::failed_unmap_operations>("failed_unmap_operations", "Failed discards."),
    field<&block::DeviceStats::invalid_rd_operations>("invalid_rd_operations", "Invalid reads."),
    field<&block::DeviceStats::invalid_wr_operations>("invalid_wr_operations", "Invalid writes."),
    field<&block::DeviceStats::invalid_flush_operations>("invalid_flush_operations", "Invalid flushes."),
    field<&block::DeviceStats::invalid_unmap_operations>("invalid_unmap_operations", "Invalid discards."),
    field<&block::DeviceStats::account_invalid>("account_invalid", "Invalid ones count as activity."),
    field<&block::DeviceStats::account_failed>("account_failed", "Failed ones count as activity."),
    field<&block::DeviceStats::timed_stats>("timed_stats", "Figures of intervals."),
};
template <>
inline constexpr std::array fields<block::BlockStats> = {
    field<&block::BlockStats::device>("device", "Drive id."),
    field<&block::BlockStats::qdev>("qdev", "QOM path or id of the device."),
    field<&block::BlockStats::node_name>("node-name", "The node."),
    field<&block::BlockStats::stats>("stats", "Figures."),
    field<&block::BlockStats::parent>("parent", "Of the file below."),
    field<&block::BlockStats::backing>("backing", "Of the backing file."),
};
template <>
inline constexpr std::array fields<block::QueryNodesArgs> = {
    field<&block::QueryNodesArgs::flat>("flat", "Leave out the images below."),
};
template <>
inline constexpr std::array fields<block::QueryStatsArgs> = {
    field<&block::QueryStatsArgs::query_nodes>("query-nodes", "All nodes instead of all disks."),
};
template <>
inline constexpr std::array fields<block::NodeNameArgs> = {field<&block::NodeNameArgs::node_name>("node-name", "The node.")};
template <>
inline constexpr std::array fields<block::DeviceArgs> = {
    field<&block::DeviceArgs::device>("device", "Drive id."),
    field<&block::DeviceArgs::id>("id", "QOM path or id of the device."),
    field<&block::DeviceArgs::force>("force", "Also if the guest has locked it."),
};
template <>
inline constexpr std::array fields<block::InsertArgs> = {
    field<&block::InsertArgs::id>("id", "QOM path or id of the device."),
    field<&block::InsertArgs::node_name>("node-name", "The medium."),
};
template <>
inline constexpr std::array fields<block::ChangeArgs> = {
    field<&block::ChangeArgs::device>("device", "Drive id."),
    field<&block::ChangeArgs::id>("id", "QOM path or id of the device."),
    field<&block::ChangeArgs::filename>("filename", "The new image."),
    field<&block::ChangeArgs::format>("format", "Its format."),
    field<&block::ChangeArgs::force>("force", "Also if the guest has locked it."),
    field<&block::ChangeArgs::read_only_mode>("read-only-mode", "retain, read-only or read-write."),
};
template <>
inline constexpr std::array fields<block::ThrottleArgs> = {
    field<&block::ThrottleArgs::device>("device", "Drive id."),
    field<&block::ThrottleArgs::id>("id", "QOM path or id of the device."),
    field<&block::ThrottleArgs::group>("group", "Limits shared under this name."),
    field<&block::ThrottleArgs::bps>("bps", "Limit; 0: none."),
    field<&block::ThrottleArgs::bps_rd>("bps_rd", "Limit; 0: none."),
    field<&block::ThrottleArgs::bps_wr>("bps_wr", "Limit; 0: none."),
    field<&block::ThrottleArgs::iops>("iops", "Limit; 0: none."),
    field<&block::ThrottleArgs::iops_rd>("iops_rd", "Limit; 0: none."),
    field<&block::ThrottleArgs::iops_wr>("iops_wr", "Limit; 0: none."),
    field<&block::ThrottleArgs::bps_max>("bps_max", "Burst."),
    field<&block::ThrottleArgs::bps_rd_max>("bps_rd_max", "Burst."),
    field<&block::ThrottleArgs::bps_wr_max>("bps_wr_max", "Burst."),
    field<&block::ThrottleArgs::iops_max>("iops_max", "Burst."),
    field<&block::ThrottleArgs::iops_rd_max>("iops_rd_max", "Burst."),
    field<&block::ThrottleArgs::iops_wr_max>("iops_wr_max", "Burst."),
    field<&block::ThrottleArgs::bps_max_length>("bps_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::bps_rd_max_length>("bps_rd_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::bps_wr_max_length>("bps_wr_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::iops_max_length>("iops_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::iops_rd_max_length>("iops_rd_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::iops_wr_max_length>("iops_wr_max_length", "Seconds of the burst."),
    field<&block::ThrottleArgs::iops_size>("iops_size", "Bytes that count as one request."),
};
template <>
inline constexpr std::array fields<block::ResizeArgs> = {
    field<&block::ResizeArgs::device>("device", "Drive id."),
    field<&block::ResizeArgs::node_name>("node-name", "The node."),
    field<&block::ResizeArgs::size>("size", "New length in bytes."),
};

namespace block {
namespace {

// --- Looking

template <class T>
Result<T> wait_for(Task<T> task) {
  return run_task(*current_loop(), std::move(task));
}

ImageInfo image_info(const BlockNode& node, bool flat) {
  ImageInfo info{.filename = node.filename(), .format = std::string{node.driver().name}, .virtual_size = node.length_bytes()};
  if (auto size = wait_for(const_cast<BlockNode&>(node).allocated_bytes())) info.actual_size = *size;
  if (node.cluster_bytes()) info.cluster_size = node.cluster_bytes();
  if (auto name = node.backing_filename(); !name.empty()) info.backing_filename = std::move(name);
  if (const Edge* backing = node.child("backing")) {
    info.full_backing_filename = backing->node().filename();
    info.backing_filename_format = std::string{backing->node().driver().name};
    if (!flat) info.backing_image = Codec<ImageInfo>::to_value(image_info(backing->node(), flat));
  }
  if (Value v = node.specific_info(); !v.is_null()) info.format_specific = std::move(v);
  if (Value v = node.snapshots_info(); v.is_list() && !v.items().empty()) info.snapshots = std::move(v);
  return info;
}
u64 backing_depth(const BlockNode& node) {
  u64 depth = 0;
  for (const Edge* e = node.child("backing"); e; e = e->node().child("backing")) depth++;
  return depth;
}
Inserted inserted_of(const BlockNode& node, bool writeback, bool flat) {
  Inserted i{.file = node.filename(), .drv = std::string{node.driver().name}, .node_name = node.node_name(), .ro = node.read_only()};
  i.backing_file_depth = backing_depth(node);
  if (const Edge* e = node.child("backing")) {
    const std::string named = node.backing_filename();
    i.backing_file = named.empty() ? e->node().filename() : named;
  }
  i.detect_zeroes = Codec<DetectZeroes>::to_value(node.options().detect_zeroes).get_string();
  i.cache = {.writeback = writeback, .direct = node.options().cache_direct, .no_flush = node.options().cache_no_flush};
  i.image = image_info(node, flat);
  return i;
}
// The device that a manager knows: ID or ID/virtio-backend as a path, a bare id for the rest (contract.md §2.5).
std::string qdev_of(const Backend& backend) {
  if (!backend.client()) return {};
  const std::string path = backend.client()->qom_path();
  constexpr std::string_view folder = "/machine/peripheral/";
  if (path.starts_with(folder) && path.find('/', folder.size()) == path.npos) return path.substr(folder.size());
  return path;
}

Result<std::vector<BlockInfo>> query_block(control::Context&) {
  std::vector<BlockInfo> out;
  for (const auto& b : all_backends()) {
    if (b->id().empty() && !b->client()) continue;
    BlockInfo info{.device = b->id()};
    if (const BackendClient* c = b->client()) {
      info.qdev = qdev_of(*b);
      info.removable = c->removable();
      info.locked = c->locked();
      if (c->removable()) info.tray_open = c->tray_open();
      if (!c->removable()) info.io_status = std::string{b->io_status()};
    }
    if (const BlockNode* node = b->node()) {
      info.inserted = inserted_of(*node, b->write_cache(), false);
      if (b->throttle()) {
        const ThrottleLimits l = b->throttle()->limits();
        info.inserted->bps = l.bps_total, info.inserted->bps_rd = l.bps_read, info.inserted->bps_wr = l.bps_write;
        info.inserted->iops = l.iops_total, info.inserted->iops_rd = l.iops_read, info.inserted->iops_wr = l.iops_write;
      }
    }
    out.push_back(std::move(info));
  }
  return out;
}
Result<std::vector<Inserted>> query_named_nodes(control::Context&, const QueryNodesArgs& args) {
  std::vector<Inserted> out;
  for (const auto& node : all_nodes()) out.push_back(inserted_of(*node, true, args.flat.value_or(false)));
  return out;
}

BlockStats node_stats(const BlockNode& node) {
  BlockStats s{.node_name = node.node_name()};
  s.stats.wr_highest_offset = node.statistics().write_highest_offset;
  if (const Edge* file = node.child("file")) s.parent = Codec<BlockStats>::to_value(node_stats(file->node()));
  if (const Edge* backing = node.child("backing")) s.backing = Codec<BlockStats>::to_value(node_stats(backing->node()));
  return s;
}
Result<std::vector<BlockStats>> query_stats(control::Context&, const QueryStatsArgs& args) {
  std::vector<BlockStats> out;
  if (args.query_nodes.value_or(false)) {
    for (const auto& node : all_nodes()) out.push_back(node_stats(*node));
    return out;
  }
  for (const auto& b : all_backends()) {
    if (b->id().empty() && !b->client()) continue;
    BlockStats s;
    if (const BlockNode* node = b->node()) s = node_stats(*node);
    s.device = b->id();
    if (b->client()) s.qdev = qdev_of(*b);
    const auto& rd = b->statistics(Operation::read);
    const auto& wr = b->statistics(Operation::write);
    const auto& fl = b->statistics(Operation::flush);
    const auto& un = b->statistics(Operation::unmap);
    DeviceStats& d = s.stats;
    d.rd_bytes = rd.bytes, d.rd_operations = rd.operations, d.rd_total_time_ns = rd.total_ns, d.rd_merged = rd.merged;
    d.wr_bytes = wr.bytes, d.wr_operations = wr.operations, d.wr_total_time_ns = wr.total_ns, d.wr_merged = wr.merged;
    d.unmap_bytes = un.bytes, d.unmap_operations = un.operations, d.unmap_total_time_ns = un.total_ns, d.unmap_merged = un.merged;
    d.flush_operations = fl.operations, d.flush_total_time_ns = fl.total_ns;
    d.failed_rd_operations = rd.failed, d.failed_wr_operations = wr.failed, d.failed_flush_operations = fl.failed;
    d.failed_unmap_operations = un.failed, d.invalid_rd_operations = rd.invalid, d.invalid_wr_operations = wr.invalid;
    d.invalid_flush_operations = fl.invalid, d.invalid_unmap_operations = un.invalid;
    out.push_back(std::move(s));
  }
  return out;
}

// --- Nodes

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

// --- Media

Result<BackendRef> drive_of(const std::optional<std::string>& device, const std::optional<std::string>& id) {
  if (device.has_value() == id.has_value()) return fail("Need exactly one of 'device' and 'id'");
  BackendRef b = device ? find_backend(*device) : find_backend_of_device(*id);
  if (!b) return fail(ErrorClass::device_not_found, "Device '{}' not found", device ? *device : *id);
  return b;
}
Result<> must_be_removable(const Backend& b, const std::string& name) {
  if (b.client() && !b.client()->removable()) return fail("Device '{}' is not removable", name);
  return {};
}
// Opens the tray, or asks the guest to let go of the medium.
Result<> open_tray(Backend& b, bool force, const std::string& name) {
  TRY(must_be_removable(b, name));
  BackendClient* c = b.client();
  if (!c || c->tray_open()) return {};
  if (c->locked() && !force) {
    c->eject_requested(false);
    return fail("Device '{}' is locked and force was not specified, wait for tray to open and try again", name);
  }
  if (c->locked()) c->eject_requested(true);
  c->set_tray(true);
  return {};
}
std::string name_of(const DeviceArgs& a) { return a.device ? *a.device : a.id.value_or(""); }
Result<> blockdev_open_tray(control::Context&, const DeviceArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  return open_tray(*b, a.force.value_or(false), name_of(a));
}
Result<> blockdev_close_tray(control::Context&, const DeviceArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  TRY(must_be_removable(*b, name_of(a)));
  if (b->client() && b->client()->tray_open()) b->client()->set_tray(false);
  return {};
}
Result<> remove_medium(control::Context&, const DeviceArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  TRY(must_be_removable(*b, name_of(a)));
  if (b->client() && b->node() && !b->client()->tray_open()) return fail("Tray of device '{}' is not open", name_of(a));
  return wait_for(b->remove_medium());
}
Result<> insert_medium(control::Context&, const InsertArgs& a) {
  BackendRef b = TRY(drive_of({}, a.id));
  TRY(must_be_removable(*b, a.id));
  if (b->client() && !b->client()->tray_open()) return fail("Tray of device '{}' is not open", a.id);
  if (b->node()) return fail("There already is a medium in device '{}'", a.id);
  NodeRef node = find_node(a.node_name);
  if (!node) return fail("Cannot find device='' nor node-name='{}'", a.node_name);
  return b->insert(std::move(node));
}
Result<> eject(control::Context&, const DeviceArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  TRY(open_tray(*b, a.force.value_or(false), name_of(a)));
  return wait_for(b->remove_medium());
}
Result<> change_medium(control::Context&, const ChangeArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  const std::string name = a.device ? *a.device : *a.id;
  TRY(must_be_removable(*b, name));
  const std::string mode = a.read_only_mode.value_or("retain");
  if (mode != "retain" && mode != "read-only" && mode != "read-write")
    return fail("Parameter 'read-only-mode' does not accept value '{}'", mode);
  Value common = Value::object();
  common.set("read-only", mode == "read-only" || (mode == "retain" && b->read_only()));
  NodeRef node = TRY(wait_for(open_image(*current_loop(), a.filename, a.format.value_or(""), std::move(common))));
  auto exchange = [&]() -> Result<> {
    TRY(open_tray(*b, a.force.value_or(false), name));
    TRY(wait_for(b->remove_medium()));
    TRY(b->insert(node));
    if (b->client() && b->client()->tray_open()) b->client()->set_tray(false);
    return {};
  };
  auto done = exchange();
  if (!done) (void)wait_for(release(std::move(node)));
  return done;
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

Result<> set_throttle(control::Context&, const ThrottleArgs& a) {
  BackendRef b = TRY(drive_of(a.device, a.id));
  if (!b->node()) return fail("Device '{}' has no medium", a.device ? *a.device : *a.id);
  const ThrottleLimits limits{.bps_total = a.bps,
                              .bps_read = a.bps_rd,
                              .bps_write = a.bps_wr,
                              .iops_total = a.iops,
                              .iops_read = a.iops_rd,
                              .iops_write = a.iops_wr,
                              .bps_total_max = a.bps_max.value_or(0),
                              .bps_read_max = a.bps_rd_max.value_or(0),
                              .bps_write_max = a.bps_wr_max.value_or(0),
                              .iops_total_max = a.iops_max.value_or(0),
                              .iops_read_max = a.iops_rd_max.value_or(0),
                              .iops_write_max = a.iops_wr_max.value_or(0),
                              .bps_total_max_length = a.bps_max_length.value_or(1),
                              .bps_read_max_length = a.bps_rd_max_length.value_or(1),
                              .bps_write_max_length = a.bps_wr_max_length.value_or(1),
                              .iops_total_max_length = a.iops_max_length.value_or(1),
                              .iops_read_max_length = a.iops_rd_max_length.value_or(1),
                              .iops_write_max_length = a.iops_wr_max_length.value_or(1),
                              .iops_size = a.iops_size.value_or(0)};
  TRY(check_limits(limits));
  b->drain_begin();
  (void)wait_for(b->drained());
  if (a.group)
    b->set_throttle(throttle_of_group(*a.group));
  else if (!b->throttle() && limits.any())
    b->set_throttle(std::make_shared<Throttle>());
  if (b->throttle()) b->throttle()->set_limits(limits);
  b->drain_end();
  return {};
}

// --- Texts

std::string size_text(u64 bytes) {
  static constexpr std::string_view units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double v = double(bytes);
  unsigned unit = 0;
  while (v >= 1000 && unit < 6) v /= 1024, unit++;
  return format("{:.3g} {}", v, units[unit]);
}
std::string cache_text(const CacheInfo& c) {
  std::string text = c.writeback ? "writeback" : "writethrough";
  if (c.direct) text += ", direct";
  if (c.no_flush) text += ", ignore flushes";
  return text;
}
std::string image_text(const BlockNode& node) {
  std::string out;
  for (const BlockNode* n = &node; n;) {
    const ImageInfo i = image_info(*n, true);
    out += format("image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n", i.filename, i.format,
                  size_text(i.virtual_size), i.virtual_size, size_text(i.actual_size));
    if (i.cluster_size) out += format("cluster_size: {}\n", *i.cluster_size);
    if (i.backing_filename) out += format("backing file: {}\n", *i.backing_filename);
    if (i.backing_filename_format) out += format("backing file format: {}\n", *i.backing_filename_format);
    if (const Value* data = i.format_specific ? i.format_specific->find("data") : nullptr; data && data->is_object()) {
      out += "Format specific information:\n";
      for (auto [name, value] : data->members()) {
        std::ranges::replace(name, '-', ' ');
        out += format("    {}: {}\n", name, value.is_string() ? value.get_string() : to_json(value));
      }
    }
    const Edge* backing = n->child("backing");
    n = backing ? &backing->node() : nullptr;
  }
  return out;
}
std::string medium_text(const BlockNode& node, bool writeback, const std::string& rest, bool verbose) {
  const u64 depth = backing_depth(node);
  const Inserted i = inserted_of(node, writeback, true);
  std::string out = format("{} ({}{})\n", i.file, i.drv, i.ro ? ", read-only" : "") + rest;
  out += format("    Cache mode:       {}\n", cache_text(i.cache));
  if (i.backing_file) out += format("    Backing file:     {} (chain depth: {})\n", *i.backing_file, depth);
  if (i.detect_zeroes != "off") out += format("    Detect zeroes:    {}\n", i.detect_zeroes);
  if (verbose) out += "\nImages:\n" + image_text(node);
  return out;
}
Result<std::string> info_block(control::Context&, std::span<const std::string> words) {
  bool verbose = false, nodes = false;
  std::string wanted;
  for (const auto& w : words) {
    if (w == "-v")
      verbose = true;
    else if (w == "-n")
      nodes = true;
    else
      wanted = w;
  }
  std::string out;
  const auto part = [&](const std::string& text) { out += (out.empty() ? "" : "\n") + text; };
  if (!nodes)
    for (const auto& b : all_backends()) {
      if ((b->id().empty() && !b->client()) || (!wanted.empty() && b->id() != wanted && qdev_of(*b) != wanted)) continue;
      std::string head = b->id();
      std::string rest;
      if (const BackendClient* c = b->client()) {
        rest += format("    Attached to:      {}\n", c->qom_path());
        if (c->removable())
          rest += format("    Removable device: {}locked, tray {}\n", c->locked() ? "" : "not ", c->tray_open() ? "open" : "closed");
        if (b->io_status() != "ok") rest += format("    I/O status:       {}\n", b->io_status());
      }
      if (const BlockNode* node = b->node()) {
        head += head.empty() ? node->node_name() : format(" ({})", node->node_name());
        part(format("{}: ", head) + medium_text(*node, b->write_cache(), rest, verbose));
      } else {
        part(format("{}: [not inserted]\n", head.empty() ? qdev_of(*b) : head) + rest);
      }
    }
  if (nodes || (out.empty() && !wanted.empty()))
    for (const auto& node : all_nodes()) {
      if (!wanted.empty() && node->node_name() != wanted) continue;
      part(format("{}: ", node->node_name()) + medium_text(*node, true, "", verbose));
    }
  return out;
}
Result<std::string> info_blockstats(control::Context&, std::span<const std::string>) {
  std::string out;
  for (const auto& b : all_backends()) {
    if (b->id().empty() && !b->client()) continue;
    const auto& rd = b->statistics(Operation::read);
    const auto& wr = b->statistics(Operation::write);
    const auto& fl = b->statistics(Operation::flush);
    out += format(
        "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} wr_total_time_ns={} rd_total_time_ns={} "
        "flush_total_time_ns={} rd_merged={} wr_merged={} idle_time_ns=0\n",
        b->id().empty() ? qdev_of(*b) : b->id(), rd.bytes.load(), wr.bytes.load(), rd.operations.load(), wr.operations.load(),
        fl.operations.load(), wr.total_ns.load(), rd.total_ns.load(), fl.total_ns.load(), rd.merged.load(), wr.merged.load());
  }
  return out;
}

Result<std::string> human_eject(control::Context& context, std::span<const std::string> words) {
  DeviceArgs a{.force = false};
  for (const auto& w : words) {
    if (w == "-f")
      a.force = true;
    else
      a.device = w;
  }
  if (!a.device) return fail("device: an argument is missing");
  TRY(eject(context, a));
  return std::string{};
}
Result<std::string> human_change(control::Context& context, std::span<const std::string> words) {
  ChangeArgs a;
  std::vector<std::string> rest;
  for (const auto& w : words) {
    if (w == "-f")
      a.force = true;
    else
      rest.push_back(w);
  }
  if (rest.size() < 2) return fail("change takes a device and a file");
  a.device = rest[0], a.filename = rest[1];
  if (rest.size() > 2) a.format = rest[2];
  if (rest.size() > 3) a.read_only_mode = rest[3];
  TRY(change_medium(context, a));
  return std::string{};
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
// Writes an overlay's data into its backing file.
Task<> copy_down(BlockNode& top, Edge& base) {
  if (base.length_bytes() < top.length_bytes()) co_await base.truncate(top.length_bytes());
  Buffer buffer{1 * MiB};
  for (u64 at = 0; at < top.length_bytes();) {
    const Extent e = co_await top.map(at, std::min<u64>(buffer.size(), top.length_bytes() - at));
    if (e.kind == Extent::Kind::zero) {
      co_await base.zero(at, e.length, {.may_unmap = true});
    } else if (e.kind == Extent::Kind::data) {
      co_await top.read(at, IoVector{buffer.data(), e.length});
      co_await base.write(at, IoVector{buffer.data(), e.length});
    }
    at += e.length;
  }
  co_return co_await base.flush();
}
Task<> commit_node(BlockNode& top) {
  Edge* backing = top.child("backing");
  if (!backing) co_return fail_os(ENOTSUP);
  BlockNode& base = backing->node();
  const NodeOptions before = base.options();
  NodeOptions writable = before;
  writable.read_only = false;
  // For this while the overlay bears a writer below it.
  const u8 shares = backing->shares();
  auto shared = backing->set_permissions(backing->needs(), permit_all);
  if (!shared) co_return shared;
  auto done = co_await attempt(base.reopen(writable));
  if (done) {
    auto edge = Edge::make(backing->ref(), "commit", "commit", Role::user, permit_read | permit_write | permit_resize, permit_all);
    if (edge)
      done = co_await attempt(copy_down(top, **edge));
    else
      done = std::unexpected(std::move(edge).error());
    edge = fail("");
    if (before.read_only) (void)co_await attempt(base.reopen(before));
  }
  (void)backing->set_permissions(backing->needs(), shares);
  co_return done;
}
Result<std::string> commit(control::Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("commit takes a device or 'all'");
  std::string out;
  bool any = false;
  for (const auto& b : all_backends()) {
    if (words[0] != "all" && b->id() != words[0]) continue;
    any = true;
    BlockNode* node = b->node();
    if (!node) {
      if (words[0] != "all") out += format("Device '{}' has no medium\n", words[0]);
      continue;
    }
    if (!node->child("backing") && words[0] == "all") continue;
    b->drain_begin();
    (void)wait_for(b->drained());
    EventLoop& home = node->loop();
    b->set_loop(*current_loop());
    auto done = wait_for(commit_node(*node));
    b->set_loop(home);
    b->drain_end();
    if (!done) out += format("'commit' error for '{}': {}\n", words[0], done.error().message);
  }
  if (!any && words[0] != "all") out += format("Device '{}' not found\n", words[0]);
  return out;
}

control::Registered registered[] = {
    control::Registered{control::command<query_block>({.name = "query-block", .doc = "The disks.", .since = "0.14"})},
    control::Registered{
        control::command<query_named_nodes>({.name = "query-named-block-nodes", .doc = "All block nodes.", .since = "2.0"})},
    control::Registered{control::command<query_stats>({.name = "query-blockstats", .doc = "Figures of the disks.", .since = "0.14"})},
    control::Registered{
        control::Command{.info = {.name = "blockdev-add", .doc = "Makes a block node. Options stand beside driver.", .since = "2.9"},
                         .run_slow = blockdev_add}},
    control::Registered{control::Command{.info = {.name = "blockdev-del", .doc = "Closes a block node.", .since = "2.9"},
                                         .arguments = fields<NodeNameArgs>,
                                         .run_slow = blockdev_del}},
    control::Registered{control::command<blockdev_open_tray>({.name = "blockdev-open-tray", .doc = "Opens a tray.", .since = "2.5"})},
    control::Registered{control::command<blockdev_close_tray>({.name = "blockdev-close-tray", .doc = "Closes a tray.", .since = "2.5"})},
    control::Registered{control::command<remove_medium>({.name = "blockdev-remove-medium", .doc = "Takes a medium out.", .since = "2.12"})},
    control::Registered{control::command<insert_medium>({.name = "blockdev-insert-medium", .doc = "Puts a medium in.", .since = "2.12"})},
    control::Registered{control::command<change_medium>({.name = "blockdev-change-medium", .doc = "Changes a medium.", .since = "2.5"})},
    control::Registered{control::command<eject>({.name = "eject", .doc = "Opens the tray and takes the medium out.", .since = "0.14"})},
    control::Registered{control::command<resize>({.name = "block_resize", .doc = "Changes a disk's length.", .since = "0.14"})},
    control::Registered{
        control::command<set_throttle>({.name = "block_set_io_throttle", .doc = "Sets the limits of a disk.", .since = "1.1"})},
    control::Registered{
        control::human<info_block>({.human = "info block",
                                    .human_help = "info block [-n] [-v] [device] -- show info of one block device or all block devices "
                                                  "(-n: show named nodes; -v: show details)"})},
    control::Registered{
        control::human<info_blockstats>({.human = "info blockstats", .human_help = "info blockstats -- show block device statistics"})},
    control::Registered{control::human<human_eject>(
        {.human = "eject", .human_help = "eject [-f] device -- eject a removable medium (use -f to force it)"})},
    control::Registered{control::human<human_change>(
        {.human = "change", .human_help = "change [-f] device filename [format [read-only-mode]] -- change a removable medium"})},
    control::Registered{
        control::human<human_resize>({.human = "block_resize", .human_help = "block_resize device size -- resize a block image"})},
    control::Registered{control::human<drive_add>(
        {.human = "drive_add", .human_help = "drive_add [-n] [[<domain>:]<bus>:]<slot>\n[file=file][,if=type][,...] -- add drive"})},
    control::Registered{control::human<drive_del>({.human = "drive_del", .human_help = "drive_del device -- remove host block device"})},
    control::Registered{control::human<commit>(
        {.human = "commit",
         .human_help = "commit device|all -- commit changes to the disk images (if -snapshot is used) or backing files"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
