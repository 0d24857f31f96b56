// The monitor's commands on drives and their media: trays, eject, change, limits. Texts as QEMU 7.2 prints them (observed).
#include "block/core/commands.h"

namespace vmm {
namespace block {
namespace {

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
}  // namespace
}  // namespace block

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

namespace block {

Result<BackendRef> drive_of(const std::optional<std::string>& device, const std::optional<std::string>& id) {
  if (device.has_value() == id.has_value()) return fail("Need exactly one of 'device' and 'id'");
  BackendRef b = device ? find_backend(*device) : find_backend_of_device(*id);
  if (!b) return fail(ErrorClass::device_not_found, "Device '{}' not found", device ? *device : *id);
  return b;
}

namespace {
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

control::Registered registered[] = {
    control::Registered{control::command<blockdev_open_tray>({.name = "blockdev-open-tray", .doc = "Opens a tray.", .since = "2.5"})},
    control::Registered{control::command<blockdev_close_tray>({.name = "blockdev-close-tray", .doc = "Closes a tray.", .since = "2.5"})},
    control::Registered{control::command<remove_medium>({.name = "blockdev-remove-medium", .doc = "Takes a medium out.", .since = "2.12"})},
    control::Registered{control::command<insert_medium>({.name = "blockdev-insert-medium", .doc = "Puts a medium in.", .since = "2.12"})},
    control::Registered{control::command<change_medium>({.name = "blockdev-change-medium", .doc = "Changes a medium.", .since = "2.5"})},
    control::Registered{control::command<eject>({.name = "eject", .doc = "Opens the tray and takes the medium out.", .since = "0.14"})},
    control::Registered{
        control::command<set_throttle>({.name = "block_set_io_throttle", .doc = "Sets the limits of a disk.", .since = "1.1"})},
    control::Registered{control::human<human_eject>(
        {.human = "eject", .human_help = "eject [-f] device -- eject a removable medium (use -f to force it)"})},
    control::Registered{control::human<human_change>(
        {.human = "change", .human_help = "change [-f] device filename [format [read-only-mode]] -- change a removable medium"})},
};

}  // namespace
}  // namespace block
}  // namespace vmm
