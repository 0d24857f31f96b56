#include "block/core/drive.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "block/core/complete.h"
#include "block/core/quiet.h"
#include "src/base/fd.h"
#include "src/base/host.h"
#include "src/value/near.h"

namespace vmm::block {

namespace {
std::vector<Drive>& drives() {
  static auto& it = *new std::vector<Drive>;
  return it;
}

enum class Media : u8 { disk, cdrom };
enum class CacheMode : u8 { none, writeback, writethrough, directsync, unsafe };
// The keys that are the drive's; all others are its nodes'.
struct DriveKeys {
  std::optional<std::string> id, file, format, serial, aio, copy_on_read, node_name;
  std::optional<Drive::Interface> interface;
  std::optional<u32> bus, unit, index;
  std::optional<Media> media;
  std::optional<CacheMode> cache;
  std::optional<bool> snapshot, read_only, readonly;
  std::optional<ErrorPolicy> werror, rerror;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::Media> = {EnumNameOf<block::Media>{block::Media::disk, "disk"},
                                                        EnumNameOf<block::Media>{block::Media::cdrom, "cdrom"}};
template <>
inline constexpr std::array enum_names<block::CacheMode> = {EnumNameOf<block::CacheMode>{block::CacheMode::none, "none"},
                                                            EnumNameOf<block::CacheMode>{block::CacheMode::none, "off"},
                                                            EnumNameOf<block::CacheMode>{block::CacheMode::writeback, "writeback"},
                                                            EnumNameOf<block::CacheMode>{block::CacheMode::writethrough, "writethrough"},
                                                            EnumNameOf<block::CacheMode>{block::CacheMode::directsync, "directsync"},
                                                            EnumNameOf<block::CacheMode>{block::CacheMode::unsafe, "unsafe"}};
template <>
inline constexpr std::array fields<block::DriveKeys> = {
    field<&block::DriveKeys::id>("id", "Name of the drive."),
    field<&block::DriveKeys::file>("file", "Image: a path, proto:…, json:{…}."),
    field<&block::DriveKeys::format>("format", "Format of the image; probed if absent."),
    field<&block::DriveKeys::serial>("serial", "Serial number that the guest sees."),
    field<&block::DriveKeys::aio>("aio", "threads, native or io_uring."),
    field<&block::DriveKeys::copy_on_read>("copy-on-read", "Keep what is read from the backing file."),
    field<&block::DriveKeys::node_name>("node-name", "Name of the top node."),
    field<&block::DriveKeys::interface>("if", "none, ide, scsi, floppy, pflash or virtio."),
    field<&block::DriveKeys::bus>("bus", "Number of the bus.", {.max = 255}),
    field<&block::DriveKeys::unit>("unit", "Number on the bus.", {.max = 65535}),
    field<&block::DriveKeys::index>("index", "Number over all buses of the kind.", {.max = 65535}),
    field<&block::DriveKeys::media>("media", "disk or cdrom."),
    field<&block::DriveKeys::cache>("cache", "none, writeback, writethrough, directsync or unsafe."),
    field<&block::DriveKeys::snapshot>("snapshot", "Writes go to a temporary file."),
    field<&block::DriveKeys::read_only>("read-only", "No writes."),
    field<&block::DriveKeys::readonly>("readonly", "The same, as written before."),
    field<&block::DriveKeys::werror>("werror", "On failed writes: report, ignore, stop, enospc."),
    field<&block::DriveKeys::rerror>("rerror", "On failed reads: report, ignore, stop."),
};
}  // namespace vmm

namespace vmm::block {

std::string_view interface_name(Drive::Interface interface) {
  for (const auto& n : enum_names<Drive::Interface>)
    if (n.value == interface) return n.name;
  return "none";
}
const std::vector<Drive>& all_drives() { return drives(); }
void forget_drive(std::string_view id) {
  std::erase_if(drives(), [&](const Drive& d) { return d.backend->id() == id; });
}
const Drive* find_drive(Drive::Interface interface, u32 bus, u32 unit) {
  for (const Drive& d : drives())
    if (d.interface == interface && d.bus == bus && d.unit == unit) return &d;
  return nullptr;
}

namespace {
// Units on one bus; 0: as many as one likes, on bus 0.
u32 units_of(Drive::Interface interface, u32 ide_units) {
  switch (interface) {
    case Drive::Interface::ide: return ide_units;
    case Drive::Interface::scsi: return 7;
    default: return 0;
  }
}

Result<> place(Drive& drive, const DriveKeys& keys, u32 ide_units) {
  const u32 units = units_of(drive.interface, ide_units);
  if (keys.index) {
    if (keys.bus || keys.unit) return fail("index cannot be used with bus and unit");
    drive.bus = units ? *keys.index / units : 0;
    drive.unit = units ? *keys.index % units : *keys.index;
  } else {
    drive.bus = keys.bus.value_or(0);
    if (keys.unit) {
      drive.unit = *keys.unit;
    } else {
      while (find_drive(drive.interface, drive.bus, drive.unit)) {
        if (units && ++drive.unit >= units)
          drive.unit = 0, drive.bus++;
        else if (!units)
          drive.unit++;
      }
    }
  }
  if (units && drive.unit >= units) return fail("unit {} too big (max is {})", drive.unit, units - 1);
  if (find_drive(drive.interface, drive.bus, drive.unit))
    return fail("drive with bus={}, unit={} (index={}) exists", drive.bus, drive.unit, drive.bus * units + drive.unit);
  drive.index = units ? drive.bus * units + drive.unit : drive.unit;
  return {};
}

std::string made_up_id(const Drive& drive, u32 ide_units) {
  const std::string_view name = interface_name(drive.interface);
  const bool kinds = drive.interface == Drive::Interface::ide || drive.interface == Drive::Interface::scsi;
  const std::string_view kind = kinds ? (drive.cdrom ? "-cd" : "-hd") : "";
  if (units_of(drive.interface, ide_units)) return format("{}{}{}{}", name, drive.bus, kind, drive.unit);
  return format("{}{}{}", name, kind, drive.unit);
}

void merge(Value& tree, std::string name, Value value) {
  if (!tree.find(name)) tree.set(std::move(name), std::move(value));
}

// A temporary overlay, gone with the process. Its file has no name once it is open.
Task<NodeRef> open_snapshot(EventLoop& loop, NodeRef base) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path = host::random_path(folder && *folder ? folder : "/var/tmp", "vl.");
  Fd fd{host::open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600)};
  if (!fd) co_return fail_os(errno, format("Could not create a temporary file '{}'", path));
  Result<NodeRef> node = fail("");
  auto made = co_await attempt(create_image(loop, path, "qcow2", {.length_bytes = base->length_bytes()}));
  if (made) {
    Value file = Value::object();
    file.set("driver", "file").set("filename", path);
    Value tree = Value::object();
    tree.set("driver", "qcow2").set("file", std::move(file)).set("backing", base->node_name());
    Value cache = Value::object();
    cache.set("no-flush", true);  // it does not outlive us
    tree.set("cache", std::move(cache)).set("discard", "unmap");
    node = co_await attempt(open_node(loop, std::move(tree)));
  } else {
    node = std::unexpected(std::move(made).error());
  }
  host::remove_file(path);
  co_return node;
}
}  // namespace

Task<Drive> make_drive(EventLoop& loop, Value keys, DriveContext context) {
  if (!keys.is_object()) keys = Value::object();
  // Ours, then what is left for the nodes.
  Value own = Value::object();
  for (const Field& f : fields<DriveKeys>)
    if (const Value* v = keys.find(f.name); v && !(f.name == "file" && v->is_object())) {
      own.set(std::string{f.name}, *v);
      keys.erase(f.name);
    }
  // "cache.direct=on" is a tree; "cache=none" is ours.
  DriveKeys k;
  if (const Value* cache = own.find("cache"); cache && cache->is_object()) {
    keys.set("cache", *cache);
    own.erase("cache");
  }
  if (auto ok = assign_fields(&k, fields<DriveKeys>, own); !ok) co_return std::unexpected(std::move(ok).error());
  Drive drive{.interface = k.interface.value_or(context.board_interface), .cdrom = k.media.value_or(Media::disk) == Media::cdrom};
  if (auto ok = place(drive, k, context.ide_units); !ok) co_return std::unexpected(std::move(ok).error());
  drive.serial = k.serial.value_or("");
  const bool read_only = k.read_only.value_or(k.readonly.value_or(false)) || drive.cdrom;
  bool write_cache = true;
  if (const Value* cache = keys.find("cache"); cache && cache->is_object()) {
    if (const Value* writeback = cache->find("writeback")) {
      auto on = codec_detail::parse_bool(*writeback, "cache.writeback");
      if (!on) co_return std::unexpected(std::move(on).error());
      write_cache = *on;
    }
  }
  if (k.cache) {
    const CacheMode mode = *k.cache;
    write_cache = mode != CacheMode::writethrough && mode != CacheMode::directsync;
    Value cache = keys.find("cache") ? *keys.find("cache") : Value::object();
    merge(cache, "direct", mode == CacheMode::none || mode == CacheMode::directsync);
    merge(cache, "no-flush", mode == CacheMode::unsafe);
    keys.set("cache", std::move(cache));
  }
  // Without an image there are no nodes for the rest to be about.
  if (!k.file && !keys.find("file") && !keys.find("driver") && !k.node_name) {
    static constexpr std::string_view of_all[] = {"cache", "discard", "detect-zeroes", "throttling", "auto-read-only", "force-share"};
    for (const auto& [name, value] : keys.members()) {
      if (std::ranges::find(of_all, name) != std::end(of_all)) continue;
      std::vector<std::string> names{std::begin(of_all), std::end(of_all)};
      for (const Field& f : fields<DriveKeys>) names.emplace_back(f.name);
      co_return std::unexpected(Error{format("Parameter '{}' is unexpected", name)}.with_hint(near_hint(name, names)));
    }
  }
  // throttling.*: limits of its own, or of a group that it joins.
  std::shared_ptr<Throttle> throttle;
  if (const Value* given = keys.find("throttling")) {
    Value rest = *given;
    std::string group;
    if (const Value* name = rest.find("group"); name && name->is_string()) group = name->get_string(), rest.erase("group");
    ThrottleLimits limits;
    auto ok = assign_fields(&limits, fields<ThrottleLimits>, rest, "throttling");
    if (ok) ok = check_limits(limits);
    if (!ok) co_return std::unexpected(std::move(ok).error());
    throttle = group.empty() ? std::make_shared<Throttle>() : throttle_of_group(group);
    if (limits.any()) throttle->set_limits(limits);
    keys.erase("throttling");
  }
  auto made = make_backend({.id = k.id.value_or(made_up_id(drive, context.ide_units)),
                            .read_error = k.rerror.value_or(ErrorPolicy::automatic),
                            .write_error = k.werror.value_or(ErrorPolicy::automatic),
                            .write_cache = write_cache,
                            .read_only = read_only});
  if (!made) co_return std::unexpected(std::move(made).error());
  drive.backend = std::move(*made);
  drive.backend->set_throttle(std::move(throttle));
  const bool has_image = k.file ? !k.file->empty() : keys.find("file") || keys.find("driver");
  if (has_image) {
    const bool snapshot = k.snapshot.value_or(context.snapshot) && !read_only;
    keys.set("read-only", read_only || snapshot);
    if (!read_only && !snapshot) merge(keys, "auto-read-only", k.read_only || k.readonly ? false : true);
    if (k.node_name && !snapshot) keys.set("node-name", *k.node_name);
    Result<NodeRef> node = fail("");
    if (k.file) {
      if (k.aio) {
        Value file = Value::object();
        file.set("aio", *k.aio);
        keys.set("file", std::move(file));
      }
      node = co_await attempt(open_image(loop, *k.file, k.format.value_or(""), std::move(keys)));
    } else {
      if (k.format) merge(keys, "driver", *k.format);
      if (const Value* file = keys.find("file"); k.aio && file && file->is_object()) {
        Value with = *file;
        merge(with, "aio", *k.aio);
        keys.set("file", std::move(with));
      }
      auto whole = co_await attempt(complete_tree(loop, std::move(keys)));
      node = whole ? co_await attempt(open_node(loop, std::move(*whole))) : std::unexpected(std::move(whole).error());
    }
    if (node && snapshot) {
      auto top = co_await attempt(open_snapshot(loop, *node));
      if (!top) (void)co_await attempt(release(std::move(*node)));
      node = std::move(top);
    }
    if (node && k.copy_on_read && (*k.copy_on_read == "on" || *k.copy_on_read == "yes" || *k.copy_on_read == "true")) {
      Value tree = Value::object();
      tree.set("driver", "copy-on-read").set("file", (*node)->node_name());
      auto top = co_await attempt(open_node(loop, std::move(tree)));
      if (!top) (void)co_await attempt(release(std::move(*node)));
      node = std::move(top);
    }
    Result<> inserted = node ? drive.backend->insert(*node) : std::unexpected(std::move(node).error());
    if (!inserted) {
      if (node) (void)co_await attempt(release(std::move(*node)));
      forget_backend(drive.backend);
      co_return std::unexpected(std::move(inserted).error());
    }
  }
  drives().push_back(drive);
  co_return drive;
}

void close_all(EventLoop& main_loop) {
  run_closers(main_loop);
  drain_all(main_loop);
  for (const auto& backend : all_backends()) {
    backend->set_loop(main_loop);
    (void)run_task(main_loop, backend->remove_medium());
  }
  drives().clear();
  while (backends_closing()) main_loop.run_once(true);
  // The monitor's nodes, tops first: closing one makes those below free.
  for (bool any = true; any;) {
    any = false;
    std::vector<std::string> free;
    for (const NodeRef& node : all_nodes())
      if (node->parents().empty()) free.push_back(node->node_name());
    for (const std::string& name : free)
      if (auto held = take_held_node(name)) {
        (void)run_task(main_loop, release(std::move(*held)));
        any = true;
      }
  }
}

}  // namespace vmm::block
