#include "hw/storage/ide.h"

#include "src/base/log.h"

namespace vmm::hw {

constinit const TypeInfo IdeBus::type{.name = "IDE", .doc = "A cable with up to two drives.", .parent = &Bus::type, .make = make<IdeBus>};
static Registered registered_bus{IdeBus::type};
constinit const TypeInfo IdeDevice::type{.name = "ide-device", .doc = "A drive on an IDE bus.", .parent = &Device::type, .bus = "IDE"};
static Registered registered_device{IdeDevice::type};

// --- The bus

Result<> IdeBus::may_plug(Device& device) {
  auto& drive = static_cast<IdeDevice&>(device);
  if (drive.unit_ >= 0) {
    if (static_cast<u32>(drive.unit_) >= units) return fail("Can't create IDE unit {}, bus supports only {} units", drive.unit_, units);
    if (drives_[drive.unit_]) return fail("IDE unit {} is in use", drive.unit_);
    return {};
  }
  for (unsigned u = 0; u < units; u++)
    if (!drives_[u]) return {};
  return fail("IDE bus '{}' is full", name());
}

Result<> IdeBus::plugged(Device& device) {
  auto& drive = static_cast<IdeDevice&>(device);
  if (drive.unit_ < 0) drive.unit_ = drives_[0] ? 1 : 0;
  drives_[drive.unit_] = &drive;
  return {};
}

void IdeBus::unplugged(Device& device) {
  for (unsigned u = 0; u < 2; u++)
    if (drives_[u] == &device) {
      drives_[u] = nullptr;
      if (drive_changed) drive_changed(u);
    }
}

// --- Drives

Result<> IdeDevice::realize() {
  if (!disk_.drive) {
    if (needs_medium()) return fail("drive property not set");
    disk_.drive = TRY(block::make_backend({}));  // an empty tray
  }
  TRY(disk_.settle(65535, 16, 255));
  if (disk_.logical_block != 512) return fail("logical_block_size must be 512 for IDE");
  TRY(requests_.open(machine(), *this, disk_, !removable()));
  if (auto done = realize_drive(); !done) {
    requests_.abandon();
    return done;
  }
  static u32 serials = 0;
  if (disk_.serial.empty()) disk_.serial = format("QM{:05}", ++serials);
  if (version_.empty()) version_ = "2.5+";
  if (ide().drive_changed) ide().drive_changed(unit());
  return {};
}

Task<> IdeDevice::unrealize() {
  co_await requests_.close();
  co_return Result<>{};
}

void IdeDevice::reset() {}

std::vector<Device::BootEntry> IdeDevice::boot_entries() const {
  const DiskProperties& d = disk_;
  return {{.index = d.boot_index,
           .tail = format("/disk@{:x}", unit()),
           .cylinders = d.legacy_cylinders,
           .heads = d.legacy_heads,
           .sectors = d.legacy_sectors}};
}

void IdeDevice::signature(AtaRegisters& registers) const {
  registers.count = 1;
  registers.lba = packets() ? 0xeb1401 : 1;
  registers.device &= 0x10;
  registers.error = 1;
  registers.status = packets() ? 0 : ata::drdy | ata::dsc;
}

}  // namespace vmm::hw
