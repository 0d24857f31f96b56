// floppy: a drive and its media.
#include "hw/storage/floppy.h"

#include <algorithm>

namespace vmm::hw {

namespace {
constexpr u8 r500 = 1, r300 = 2, r250 = 4, r1000 = 8;
constexpr FloppyGeometry formats[] = {
    {80, 2, 18, r500},         // 1.44 MB, 3½″
    {80, 2, 36, r1000},        // 2.88 MB
    {80, 2, 15, r500},         // 1.2 MB, 5¼″
    {80, 2, 9, r250 | r300},   // 720 KB
    {40, 2, 9, r250 | r300},   // 360 KB, 5¼″
    {40, 2, 8, r250 | r300},   // 320 KB
    {40, 1, 9, r250 | r300},   // 180 KB
    {40, 1, 8, r250 | r300},   // 160 KB
    {80, 2, 20, r500},         // 1.6 MB and more: what some tools write on 3½″
    {80, 2, 21, r500},         // 1.68 MB (DMF)
    {82, 2, 21, r500},         // 1.72 MB
    {83, 2, 21, r500},         // 1.74 MB
    {80, 2, 22, r500},         // 1.76 MB
    {80, 2, 23, r500},         // 1.84 MB
    {80, 2, 24, r500},         // 1.92 MB
    {80, 2, 39, r1000},        // 3.12 MB
    {80, 2, 40, r1000},        // 3.2 MB
    {80, 2, 44, r1000},        // 3.52 MB
    {80, 2, 48, r1000},        // 3.84 MB
    {80, 2, 10, r250 | r300},  // 800 KB
    {82, 2, 10, r250 | r300},  // 820 KB
    {83, 2, 10, r250 | r300},  // 830 KB
    {80, 1, 9, r250 | r300},   // 360 KB, 3½″
    {80, 2, 8, r250 | r300},   // 640 KB
    {80, 2, 16, r500},         // 1.28 MB
    {77, 2, 16, r500},         // 1.23 MB in sectors of 512
    {80, 1, 18, r500},         // 720 KB, one side
    {40, 2, 10, r250 | r300},  // 400 KB
    {41, 2, 10, r250 | r300},  // 410 KB
    {42, 2, 10, r250 | r300},  // 420 KB
};
}  // namespace

FloppyGeometry floppy_geometry(u64 bytes, FloppyKind kind) {
  const FloppyGeometry* found = nullptr;
  for (const FloppyGeometry& f : formats)
    if (f.bytes() == bytes && (!found || (found->kind() != kind && f.kind() == kind))) found = &f;
  if (found) return *found;
  switch (kind) {
    case FloppyKind::d288: return bytes > formats[0].bytes() ? formats[1] : formats[0];
    case FloppyKind::d120: return formats[2];
    default: return formats[0];
  }
}

// --- The bus

constinit const TypeInfo FloppyBus::type{
    .name = "floppy-bus", .doc = "Cable of two floppy drives.", .parent = &Bus::type, .make = make<FloppyBus>, .user_creatable = false};
static Registered registered_bus{FloppyBus::type};

Result<> FloppyBus::may_plug(Device& device) {
  const auto& drive = static_cast<FloppyDrive&>(device);
  if (drive.unit_ == ~u32{0}) return drives_[0] && drives_[1] ? fail("Floppy bus '{}' is full", name()) : Result<>{};
  if (drive.unit_ >= drives_.size()) return fail("Can't create floppy unit {}, bus supports only {} units", drive.unit_, drives_.size());
  if (drives_[drive.unit_]) return fail("Floppy unit {} is in use", drive.unit_);
  return {};
}

Result<> FloppyBus::plugged(Device& device) {
  auto& drive = static_cast<FloppyDrive&>(device);
  if (drive.unit_ == ~u32{0}) drive.unit_ = drives_[0] ? 1 : 0;
  drives_[drive.unit_] = &drive;
  return {};
}

void FloppyBus::unplugged(Device& device) {
  for (auto& drive : drives_)
    if (drive == &device) drive = nullptr;
}

// --- The drive

constexpr std::array<Field, disk_field_count + 2> FloppyDrive::properties =
    disk_fields<&FloppyDrive::disk_>() +
    std::array{
        field<&FloppyDrive::unit_>("unit", "Place on the cable: 0 or 1; the first free one if not given."),
        field<&FloppyDrive::kind_>("drive-type", "144, 288, 120, none or auto: as the medium wants."),
    };
constexpr Field FloppyDrive::state[2] = {
    field<&FloppyDrive::changed_>("changed", "the medium was changed since the head moved"),
    field<&FloppyDrive::track_>("track", "where the head stands"),
};
constinit const TypeInfo FloppyDrive::type{
    .name = "floppy",
    .doc = "virtual floppy drive",
    .parent = &Device::type,
    .properties = properties,
    .state = state,
    .make = make<FloppyDrive>,
    .category = "Storage devices",
    .bus = "floppy-bus",
};
static Registered registered{FloppyDrive::type};

Result<> FloppyDrive::realize() {
  if (!disk_.drive) disk_.drive = TRY(block::make_backend({}));  // empty
  TRY(disk_.settle(255, 2, 255));
  if (disk_.logical_block != 512) return fail("Physical and logical block size must be 512 for floppy");
  if (disk_.rerror != block::ErrorPolicy::automatic) return fail("fdc doesn't support drive option rerror");
  if (disk_.werror != block::ErrorPolicy::automatic) return fail("fdc doesn't support drive option werror");
  TRY(requests_.open(machine(), *this, disk_, true));
  const auto& cable = static_cast<FloppyBus&>(*bus());
  if (kind_ == FloppyKind::automatic) kind_ = cable.kinds[unit_];
  if (kind_ == FloppyKind::automatic) {
    kind_ = cable.fallback;
    if (disk_.drive->has_medium())
      for (const FloppyGeometry& f : formats)
        if (f.bytes() == disk_.drive->length_bytes()) {
          kind_ = f.kind();
          break;
        }
  }
  return {};
}

Task<> FloppyDrive::unrealize() {
  co_await requests_.close();
  co_return Result<>{};
}

void FloppyDrive::step(u8 track) {
  if (track_ != track && ready()) changed_ = false;
  track_ = track;
}

// --- For the board

FloppyDrives floppy_drives(vm::Machine& machine) {
  FloppyDrives out;
  for_each_device(machine, [&](Device& d) {
    const auto* drive = dynamic_cast<FloppyDrive*>(&d);
    if (!drive || !drive->realized()) return;
    const u8 type = drive->kind() == FloppyKind::d144   ? 4
                    : drive->kind() == FloppyKind::d288 ? 5
                    : drive->kind() == FloppyKind::d120 ? 2
                                                        : 0;
    out.types |= static_cast<u8>(type << (drive->unit() ? 0 : 4));
    if (type) out.count++;
  });
  return out;
}

}  // namespace vmm::hw
