// Floppy drives and their media, as the controller sees them. Sources: Intel 82077AA data sheet (signals of a drive), ECMA-125 and the
// formats of PC-DOS (geometries). Main loop, machine lock held.
#pragma once

#include "hw/isa/isa.h"
#include "hw/storage/disk.h"

namespace vmm::hw {

enum class FloppyKind : u8 { d144, d288, d120, none, automatic };  // 3½″ of 1.44 and 2.88 MB, 5¼″ of 1.2 MB

// How a medium is laid out: 512 bytes a sector. `rates`: the data rates it can be read at, a bit each, numbered as in the controller's
// register (0: 500, 1: 300, 2: 250 kbit/s, 3: 1 Mbit/s).
struct FloppyGeometry {
  u8 tracks = 0, heads = 0, sectors = 0, rates = 0;
  u64 bytes() const { return u64{tracks} * heads * sectors * 512; }
  FloppyKind kind() const { return rates & 8 ? FloppyKind::d288 : sectors == 15 || tracks < 80 ? FloppyKind::d120 : FloppyKind::d144; }
};
// Of an image of this size; for sizes that no format has: of the usual medium of the drive, the rest of which reads as zeros.
FloppyGeometry floppy_geometry(u64 bytes, FloppyKind kind);

class FloppyBus;

class FloppyDrive final : public Device, public block::BackendClient {
 public:
  static const TypeInfo type;
  u32 unit() const { return unit_; }
  FloppyKind kind() const { return kind_; }  // never automatic once realized
  bool ready() const { return disk_.drive->has_medium() && !tray_open_; }
  bool read_only() const { return disk_.drive->read_only(); }
  FloppyGeometry geometry() const { return floppy_geometry(ready() ? disk_.drive->length_bytes() : 0, kind_); }
  u64 length_bytes() const { return disk_.drive->length_bytes(); }
  DiskRequests& requests() { return requests_; }
  // The DSKCHG line: up since the medium came or went, until the head steps with a medium in.
  bool changed() const { return changed_ || !ready(); }
  void step(u8 track);
  u8 track() const { return track_; }

  void reset() override {}
  std::string qom_path() const override { return path(); }
  bool removable() const override { return true; }
  bool tray_open() const override { return tray_open_; }  // there is none: the medium is out
  void set_tray(bool open) override { tray_open_ = open, changed_ = true; }
  void medium_changed() override { changed_ = true; }
  std::vector<BootEntry> boot_entries() const override { return disk_.boot_entries(format("/floppy@{:x}", unit_)); }

 private:
  friend class FloppyBus;
  static const std::array<Field, disk_field_count + 2> properties;
  static const Field state[2];
  Result<> realize() override;
  Task<> unrealize() override;
  DiskProperties disk_;
  DiskRequests requests_;
  u32 unit_ = ~u32{0};
  FloppyKind kind_ = FloppyKind::automatic;
  bool changed_ = true, tray_open_ = false;
  u8 track_ = 0;
};

class FloppyBus final : public Bus {
 public:
  static const TypeInfo type;  // "floppy-bus"
  std::string_view bus_type() const override { return "floppy-bus"; }
  Result<> may_plug(Device& device) override;
  Result<> plugged(Device& device) override;
  void unplugged(Device& device) override;
  FloppyDrive* drive(unsigned unit) const { return unit < drives_.size() ? drives_[unit] : nullptr; }
  std::array<FloppyKind, 2> kinds{FloppyKind::automatic, FloppyKind::automatic};  // that the controller's user asked for
  FloppyKind fallback = FloppyKind::d288;                                         // of a drive that is empty at the start

 private:
  std::array<FloppyDrive*, 2> drives_{};
};

// What firmware reads in CMOS: byte 0x10 (a nibble a drive), and how many drives there are.
struct FloppyDrives {
  u8 types = 0, count = 0;
};
FloppyDrives floppy_drives(vm::Machine& machine);

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array enum_names<hw::FloppyKind> = {
    EnumNameOf<hw::FloppyKind>{hw::FloppyKind::d144, "144"}, EnumNameOf<hw::FloppyKind>{hw::FloppyKind::d288, "288"},
    EnumNameOf<hw::FloppyKind>{hw::FloppyKind::d120, "120"}, EnumNameOf<hw::FloppyKind>{hw::FloppyKind::none, "none"},
    EnumNameOf<hw::FloppyKind>{hw::FloppyKind::automatic, "auto"}};
}  // namespace vmm
