// Disks from the command line: -blockdev and -drive make nodes and back ends, and a drive's if= makes its device.
#include <algorithm>

#include "block/core/drive.h"
#include "hw/core/device.h"
#include "src/base/log.h"
#include "src/main/assemble.h"

namespace vmm::cli {
namespace {

using Interface = block::Drive::Interface;

Result<> at(const Given& given, Error error) { return std::unexpected(place_error(given, std::move(error))); }

struct DeviceOf {
  Interface interface;
  std::string_view disk, cdrom;
};
constexpr DeviceOf devices_of[] = {
    {Interface::virtio, "virtio-blk-pci", "virtio-blk-pci"},
    {Interface::ide, "ide-hd", "ide-cd"},
    {Interface::scsi, "scsi-hd", "scsi-cd"},
    {Interface::floppy, "floppy", "floppy"},
};
}  // namespace

Result<> Assembly::block_devices() {
  // Nodes may name nodes that come later on the line: what fails for want of one is tried again.
  std::vector<const Given*> left;
  for (const Given& g : options_.blockdevs) left.push_back(&g);
  while (!left.empty()) {
    std::vector<const Given*> again;
    std::optional<Error> first;
    for (const Given* g : left) {
      auto node = run_task(loop_, block::open_node(loop_, g->value));
      if (node) {
        block::hold_node(std::move(*node));
      } else {
        if (!node.error().message.starts_with("Cannot find device=")) return at(*g, std::move(node).error());
        if (!first) first = place_error(*g, std::move(node).error());
        again.push_back(g);
      }
    }
    if (again.size() == left.size()) return std::unexpected(std::move(*first));
    left = std::move(again);
  }
  // Serial ATA has one disk a bus.
  const u32 ide_units = machine_type_->name.contains("q35") ? 1 : 2;
  for (const Given& g : options_.drives) {
    auto drive = run_task(
        loop_,
        block::make_drive(loop_, g.value, {.board_interface = Interface::ide, .ide_units = ide_units, .snapshot = options_.snapshot}));
    if (!drive) return at(g, std::move(drive).error());
  }
  return {};
}

// A PC comes with an empty CD-ROM drive, the third in the order of drives, unless a drive is there or -nodefaults was given.
Result<> Assembly::plug_default_cdrom() {
  if (machine_->config.no_defaults || !hw::find_bus(*machine_, "ide.0")) return {};
  const auto& drives = block::all_drives();
  if (std::ranges::any_of(drives, [](const auto& d) { return d.interface == Interface::ide && d.index == 2; })) return {};
  for (const auto& g : options_.devices)
    if (const Value* driver = g.value.find("driver"); driver && (*driver == Value{"ide-cd"} || *driver == Value{"scsi-cd"})) return {};
  const bool sata = hw::find_bus(*machine_, "ide.2");
  TRY(block::make_backend({.id = sata ? "ide2-cd0" : "ide1-cd0"}));
  hw::DeviceSpec spec{.driver = "ide-cd", .bus = sata ? "ide.2" : "ide.1", .place = hw::DeviceSpec::Place::unattached};
  spec.properties.set("drive", sata ? "ide2-cd0" : "ide1-cd0").set("unit", 0);
  TRY(hw::create_device(*machine_, spec));
  return {};
}

// So it comes with an empty floppy drive, the first.
Result<> Assembly::plug_default_floppy() {
  if (machine_->config.no_defaults || !hw::find_bus(*machine_, "floppy-bus.0")) return {};
  if (std::ranges::any_of(block::all_drives(), [](const auto& d) { return d.interface == Interface::floppy; })) return {};
  for (const auto& g : options_.devices)
    if (const Value* driver = g.value.find("driver"); driver && (*driver == Value{"floppy"} || *driver == Value{"isa-fdc"})) return {};
  TRY(block::make_backend({.id = "floppy0"}));
  hw::DeviceSpec spec{.driver = "floppy", .bus = "floppy-bus.0", .place = hw::DeviceSpec::Place::unattached};
  spec.properties.set("drive", "floppy0").set("unit", 0);
  TRY(hw::create_device(*machine_, spec));
  return {};
}

Result<> Assembly::plug_drives() {
  for (usize i = 0; i < block::all_drives().size(); i++) {
    const block::Drive drive = block::all_drives()[i];
    if (drive.interface == Interface::none || drive.interface == Interface::pflash || drive.backend->client()) continue;
    // The option that made it, for the error: drives and options go together.
    const Given& given = i < options_.drives.size() ? options_.drives[i] : Given{};
    const DeviceOf* row = nullptr;
    for (const DeviceOf& d : devices_of)
      if (d.interface == drive.interface) row = &d;
    const std::string driver{row ? drive.cdrom ? row->cdrom : row->disk : ""};
    if (!row || !find_type(driver))
      return at(given, Error{format("machine type does not support if={},bus={},unit={}", block::interface_name(drive.interface), drive.bus,
                                    drive.unit)}
                           .with_hint("Disks of this machine are if=ide and if=virtio; if=none goes with a -device"));
    hw::DeviceSpec spec{.driver = driver};
    if (drive.interface != Interface::virtio) spec.place = hw::DeviceSpec::Place::unattached;
    spec.properties.set("drive", drive.backend->id());
    if (!drive.serial.empty()) spec.properties.set("serial", drive.serial);
    if (drive.interface == Interface::ide) {
      // Where each bus takes one drive (SATA), the n-th drive is that of the n-th bus.
      const bool sata = hw::find_bus(*machine_, "ide.2");
      spec.bus = format("ide.{}", sata ? drive.bus * 2 + drive.unit : drive.bus);
      spec.properties.set("unit", sata ? 0 : drive.unit);
    } else if (drive.interface == Interface::scsi) {
      spec.properties.set("scsi-id", drive.unit);
    } else if (drive.interface == Interface::floppy) {
      spec.properties.set("unit", drive.unit);
    }
    if (auto made = hw::create_device(*machine_, spec); !made) return at(given, std::move(made).error());
  }
  TRY(plug_default_cdrom());
  TRY(plug_default_floppy());
  watch_run_state();
  return {};
}

void Assembly::watch_run_state() {
  block::set_stop_request([this] { machine_->run_state().request_stop(vm::Status::io_error); });
  // A machine that stands has its disks at rest, and all that it wrote on the host's disk.
  machine_->run_state().on_change([this](bool running) {
    if (running) {
      for (const auto& backend : block::all_backends()) backend->reset_io_status();
      return;
    }
    block::drain_all(loop_);
    if (auto done = run_task(loop_, block::flush_all()); !done) report_warning(format("flushing the disks: {}", done.error().message));
  });
}

}  // namespace vmm::cli
