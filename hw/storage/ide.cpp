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
  TRY(disk_.drive->attach(*this));
  auto done = disk_.drive->start(!removable() && !disk_.drive->read_only(), disk_.share_rw);
  if (done) done = realize_drive();
  if (!done) {
    disk_.drive->detach(*this);
    return done;
  }
  machine().run_state().on_change([this, hold = Ref<IdeDevice>{this}](bool running) {
    if (running) stopped_.go_on();
  });
  static u32 serials = 0;
  if (disk_.serial.empty()) disk_.serial = format("QM{:05}", ++serials);
  if (version_.empty()) version_ = "2.5+";
  if (ide().drive_changed) ide().drive_changed(unit());
  return {};
}

Task<> IdeDevice::unrealize() {
  stopped_.go_on();
  disk_.drive->detach(*this);
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

bool IdeDevice::retry(block::Operation operation, const Error& error, bool& ignore) {
  if (!realized()) return false;
  switch (disk_.drive->error_action(operation, error)) {
    case block::Backend::Action::stop: return true;
    case block::Backend::Action::ignore: ignore = true; return false;
    case block::Backend::Action::report: return false;
  }
  return false;
}

void IdeDevice::account(block::Operation operation, u64 bytes, std::chrono::steady_clock::time_point began, bool ok) {
  disk_.drive->account(operation, bytes, std::chrono::steady_clock::now() - began, ok);
}

Task<> IdeDevice::disk_read(u64 offset, std::span<u8> into) {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->read(offset, block::IoVector{into}));
    if (done || !realized()) {
      account(block::Operation::read, into.size(), began, done.has_value());
      co_return done;
    }
    if (!retry(block::Operation::read, done.error(), ignore)) {
      account(block::Operation::read, into.size(), began, ignore);
      co_return ignore ? Result<>{} : std::move(done);
    }
    co_await stopped_;
  }
}

Task<> IdeDevice::disk_write(u64 offset, std::span<const u8> from, bool fua) {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->write(offset, block::IoVector::of(from), {.fua = fua}));
    if (done || !realized()) {
      account(block::Operation::write, from.size(), began, done.has_value());
      co_return done;
    }
    if (!retry(block::Operation::write, done.error(), ignore)) {
      account(block::Operation::write, from.size(), began, ignore);
      co_return ignore ? Result<>{} : std::move(done);
    }
    co_await stopped_;
  }
}

Task<> IdeDevice::disk_flush() {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->flush());
    if (done || !realized()) {
      account(block::Operation::flush, 0, began, done.has_value());
      co_return done;
    }
    if (!retry(block::Operation::flush, done.error(), ignore)) {
      account(block::Operation::flush, 0, began, ignore);
      co_return ignore ? Result<>{} : std::move(done);
    }
    co_await stopped_;
  }
}

}  // namespace vmm::hw
