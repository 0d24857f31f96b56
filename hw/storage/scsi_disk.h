// What scsi-hd and scsi-cd share: the drive, reads, capacity, tray and mode pages. Sources: SPC-5, SBC-4.
#pragma once

#include "hw/storage/scsi.h"

namespace vmm::hw {

class ScsiDiskBase : public ScsiDevice, public block::BackendClient {
 public:
  void reset_unit() override;
  void cancel_waiting() override;
  block::Backend* drive() const override { return disk_.drive.get(); }

  // --- block::BackendClient
  std::string qom_path() const override { return path(); }
  void medium_changed() override;
  void resized() override { attention(sense::capacity_changed); }
  bool removable() const override { return removable_; }
  bool tray_open() const override { return tray_open_; }
  bool locked() const override { return tray_locked_; }
  void set_tray(bool open) override;
  void eject_requested(bool force) override;
  std::vector<BootEntry> boot_entries() const override {
    return {disk_.boot_entries(format("/channel@{:x}/disk@{:x},{:x}", channel(), target(), lun()))};
  }

 protected:
  static constexpr usize unit_field_count = 12;
  static constexpr std::array<Field, unit_field_count> unit_fields() {
    return {
        field<&ScsiDiskBase::vendor_>("vendor", "Vendor as INQUIRY shows it, up to 8 letters."),
        field<&ScsiDiskBase::product_>("product", "Product as INQUIRY shows it, up to 16 letters."),
        field<&ScsiDiskBase::version_>("ver", "Version as INQUIRY shows it, up to 4 letters."),
        field<&ScsiDiskBase::device_id_>("device_id", "Name on the page of identifiers; the serial number if not given."),
        field<&ScsiDiskBase::wwn_>("wwn", "World-wide name of the unit."),
        field<&ScsiDiskBase::port_wwn_>("port_wwn", "World-wide name of the port."),
        field<&ScsiDiskBase::port_index_>("port_index", "Relative number of the port."),
        field<&ScsiDiskBase::max_io_>("max_io_size", "Longest transfer, in bytes."),
        field<&ScsiDiskBase::scsi_version_>("scsi_version", "Version of the command set.", {.min = -1, .max = 7}),
        field<&ScsiDiskBase::removable_>("removable", "The medium can be taken out."),
        field<&ScsiDiskBase::dpofua_>("dpofua", "Offer writes that bypass the cache."),
        field<&ScsiDiskBase::rotation_>("rotation_rate", "1: solid state; else turns a minute; 0: not told."),
    };
  }
  static const Field disk_state[2];

  Result<> realize() override;
  Task<> unrealize() override;
  Task<ScsiAnswer> carry_out(ScsiCommand& command) override;
  virtual Task<ScsiAnswer> carry_out_other(ScsiCommand& command);  // what only this kind of unit knows
  std::vector<u8> inquiry() const override;
  std::optional<std::vector<u8>> vital_page(u8 page) const override;
  virtual u8 device_type() const = 0;
  virtual bool writes() const = 0;
  // Appends the page with its two-byte head; `changeable`: which bits may be set. Empty: no such page.
  virtual std::vector<u8> mode_page(u8 page, bool changeable) const;

  u64 block_bytes() const { return disk_.logical_block; }
  u64 blocks() const { return ready() ? disk_.drive->length_bytes() / block_bytes() : 0; }
  bool ready() const { return !tray_open_ && disk_.drive->has_medium(); }
  Task<ScsiAnswer> transfer(ScsiCommand& command, bool write, u64 first, u64 count, bool fua);
  // The sense data of what failed; nothing where it is done.
  static std::optional<ScsiSense> failure(const Result<>& done);
  ScsiAnswer mode_sense(ScsiCommand& command) const;
  ScsiAnswer mode_select(ScsiCommand& command);
  ScsiAnswer start_stop(ScsiCommand& command);
  ScsiAnswer read_capacity(ScsiCommand& command, bool sixteen) const;

  DiskProperties disk_;
  bool removable_ = false, dpofua_ = false, tray_open_ = false, tray_locked_ = false;
  std::string vendor_, product_, version_, device_id_;
  u64 wwn_ = 0, port_wwn_ = 0, max_io_ = 0x7fffffff, max_unmap_ = 1 << 30;
  u16 port_index_ = 0, rotation_ = 0;
  i32 scsi_version_ = 5;
  DiskRequests requests_;
};

// Opcode families of 6, 10, 12 and 16 bytes: where and how much.
struct ScsiRange {
  u64 first = 0, count = 0;
};
ScsiRange range_of(const std::array<u8, 32>& cdb);

}  // namespace vmm::hw
