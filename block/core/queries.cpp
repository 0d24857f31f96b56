// What the monitor is told of disks: query-block, query-blockstats, query-named-block-nodes, info block, info blockstats. Texts as
// QEMU 7.2 prints them (observed); members as contract.md §2.5 lists them.
#include <algorithm>

#include "block/core/commands.h"
#include "block/core/dirty_bitmap.h"

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

namespace block {
namespace {

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
  i.write_threshold = node.write_threshold();
  for (const auto& b : bitmaps_of(node)) i.dirty_bitmaps.push_back(describe_bitmap(*b));
  i.image = image_info(node, flat);
  return i;
}
}  // namespace

// The device that a manager knows: ID or ID/virtio-backend as a path, a bare id for the rest (contract.md §2.5).
std::string qdev_of(const Backend& backend) {
  if (!backend.client()) return {};
  const std::string path = backend.client()->qom_path();
  constexpr std::string_view folder = "/machine/peripheral/";
  if (path.starts_with(folder) && path.find('/', folder.size()) == path.npos) return path.substr(folder.size());
  return path;
}

namespace {
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

control::Registered registered[] = {
    control::Registered{control::command<query_block>({.name = "query-block", .doc = "The disks.", .since = "0.14"})},
    control::Registered{
        control::command<query_named_nodes>({.name = "query-named-block-nodes", .doc = "All block nodes.", .since = "2.0"})},
    control::Registered{control::command<query_stats>({.name = "query-blockstats", .doc = "Figures of the disks.", .since = "0.14"})},
    control::Registered{
        control::human<info_block>({.human = "info block",
                                    .human_help = "info block [-n] [-v] [device] -- show info of one block device or all block devices "
                                                  "(-n: show named nodes; -v: show details)"})},
    control::Registered{
        control::human<info_blockstats>({.human = "info blockstats", .human_help = "info blockstats -- show block device statistics"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
