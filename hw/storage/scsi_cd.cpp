// scsi-cd: a CD or DVD drive. Source: MMC-6 §6 (commands), §5 (features), §7 (mode pages).
// Not modelled: audio, raw sectors, burning.
#include <cstring>

#include "hw/storage/scsi_disk.h"
#include "src/base/bits.h"

namespace vmm::hw {

namespace {
constexpr u64 cd_block = 2048, cd_blocks_limit = 80 * 60 * 75;  // more is a DVD
constexpr u16 profile_cd = 0x08, profile_dvd = 0x10;

void minutes(u8* to, u64 block) {
  block += 150;
  to[0] = 0, to[1] = static_cast<u8>(block / 75 / 60), to[2] = static_cast<u8>(block / 75 % 60), to[3] = static_cast<u8>(block % 75);
}
}  // namespace

class ScsiCdRom final : public ScsiDiskBase {
 public:
  static const TypeInfo type;
  ScsiCdRom() {
    product_ = "QEMU CD-ROM";
    removable_ = true;
  }

 private:
  Result<> realize() override {
    removable_ = true;
    if (!disk_.logical_block.value) disk_.logical_block.value = cd_block;
    return ScsiDiskBase::realize();
  }
  u8 device_type() const override { return 5; }
  bool writes() const override { return false; }
  bool is_dvd() const { return blocks() > cd_blocks_limit; }
  std::vector<u8> mode_page(u8 page, bool changeable) const override;
  Task<ScsiAnswer> carry_out_other(ScsiCommand& command) override;
  ScsiAnswer read_toc(ScsiCommand& command) const;
  ScsiAnswer configuration(ScsiCommand& command) const;
  ScsiAnswer event_status(ScsiCommand& command);
  ScsiAnswer disc_information(ScsiCommand& command) const;
  void medium_changed() override {
    event_ = disk_.drive->has_medium() ? 2 : 3;
    ScsiDiskBase::medium_changed();
  }
  void eject_requested(bool force) override {
    if (!force && tray_locked_) event_ = 1;  // the guest may let go of it
    ScsiDiskBase::eject_requested(force);
  }
  static const std::array<Field, disk_field_count + unit_field_count + 4> properties;
  u8 event_ = 0;  // MMC-6 §6.6: 1 eject request, 2 new medium, 3 removal
  bool quirk_a_ = false, quirk_b_ = false, quirk_c_ = false, quirk_d_ = false;
};

constexpr std::array<Field, disk_field_count + ScsiDiskBase::unit_field_count + 4> ScsiCdRom::properties =
    disk_fields<&ScsiCdRom::disk_>() + ScsiDiskBase::unit_fields() +
    std::array{
        field<&ScsiCdRom::quirk_a_>("quirk_mode_page_apple_vendor", "Accepted."),
        field<&ScsiCdRom::quirk_b_>("quirk_mode_sense_rom_use_dbd", "Accepted."),
        field<&ScsiCdRom::quirk_c_>("quirk_mode_page_vendor_specific_apple", "Accepted."),
        field<&ScsiCdRom::quirk_d_>("quirk_mode_page_truncated", "Accepted."),
    };
constinit const TypeInfo ScsiCdRom::type{.name = "scsi-cd",
                                         .doc = "virtual SCSI CD-ROM",
                                         .parent = &ScsiDevice::type,
                                         .properties = properties,
                                         .state = disk_state,
                                         .make = make<ScsiCdRom>,
                                         .category = "Storage devices"};
static Registered registered{ScsiCdRom::type};

std::vector<u8> ScsiCdRom::mode_page(u8 page, bool changeable) const {
  if (page != 0x2a) return page == 0x01 ? ScsiDiskBase::mode_page(page, changeable) : std::vector<u8>{};
  std::vector<u8> p(22);  // capabilities
  p[0] = 0x2a, p[1] = 20;
  if (changeable) return p;
  p[2] = 0x3b;                        // reads CD-R, CD-RW, DVD
  p[4] = 0x70;                        // mode 2 forms, multisession
  p[6] = tray_locked_ ? 0x2b : 0x29;  // a tray; can be locked, can eject
  store_be<u16>(&p[8], 50 * 176), store_be<u16>(&p[12], 2048), store_be<u16>(&p[14], 16 * 176);
  return p;
}

Task<ScsiAnswer> ScsiCdRom::carry_out_other(ScsiCommand& command) {
  switch (command.cdb[0]) {
    case 0x43: co_return read_toc(command);
    case 0x46: co_return configuration(command);
    case 0x4a: co_return event_status(command);
    case 0x51: co_return disc_information(command);
    case 0xbb: co_return ScsiAnswer{};  // SET CD SPEED
    case 0xbd: {
      const std::array<u8, 8> d{0, static_cast<u8>(tray_open_ ? 0x10 : 0)};
      co_return answer(command, d, load_be<u16>(&command.cdb[8]));
    }
    default: co_return ScsiAnswer::check(sense::invalid_opcode);
  }
}

ScsiAnswer ScsiCdRom::read_toc(ScsiCommand& command) const {
  const auto& c = command.cdb;
  if (!ready()) return ScsiAnswer::check(sense::no_medium);
  const bool msf = c[1] & 2;
  const u8 form = c[2] & 0xf ? c[2] & 0xf : c[9] >> 6;
  std::vector<u8> d{0, 0, 1, 1};
  const auto entry = [&](u8 track, u64 block) {
    d.insert(d.end(), {0, 0x14, track, 0, 0, 0, 0, 0});
    u8* at = &d[d.size() - 4];
    if (msf)
      minutes(at, block);
    else
      store_be<u32>(at, static_cast<u32>(block));
  };
  switch (form) {
    case 0:
      if (c[6] > 1 && c[6] != 0xaa) return ScsiAnswer::check(sense::invalid_field);
      if (c[6] <= 1) entry(1, 0);
      entry(0xaa, blocks());
      break;
    case 1: entry(1, 0); break;
    case 2: {
      const auto raw = [&](u8 point, u8 a, u8 b, u8 f) { d.insert(d.end(), {1, 0x14, 0, point, 0, 0, 0, 0, a, b, f}); };
      u8 end[4];
      minutes(end, blocks());
      raw(0xa0, 1, 0, 0), raw(0xa1, 1, 0, 0), raw(0xa2, end[1], end[2], end[3]), raw(1, 0, 2, 0);
      break;
    }
    default: return ScsiAnswer::check(sense::invalid_field);
  }
  store_be<u16>(&d[0], static_cast<u16>(d.size() - 2));
  return answer(command, d, load_be<u16>(&c[7]));
}

ScsiAnswer ScsiCdRom::configuration(ScsiCommand& command) const {
  const auto& c = command.cdb;
  const u8 which = c[1] & 3;
  const u16 from = load_be<u16>(&c[2]);
  if (which > 2) return ScsiAnswer::check(sense::invalid_field);
  const u16 current = !ready() ? 0 : is_dvd() ? profile_dvd : profile_cd;
  std::vector<u8> d(8);
  store_be<u16>(&d[6], current);
  const auto feature = [&](u16 code, bool active, std::vector<u8> data) {
    if (which == 2 ? code != from : code < from || (which == 1 && !active)) return;
    d.push_back(static_cast<u8>(code >> 8)), d.push_back(static_cast<u8>(code));
    d.push_back(static_cast<u8>(active ? 3 : 2)), d.push_back(static_cast<u8>(data.size()));
    d.insert(d.end(), data.begin(), data.end());
  };
  const auto profile = [&](u16 p) { return std::vector<u8>{0, static_cast<u8>(p), static_cast<u8>(p == current), 0}; };
  auto profiles = profile(profile_dvd);
  const auto cd = profile(profile_cd);
  profiles.insert(profiles.end(), cd.begin(), cd.end());
  feature(0x0000, true, profiles);
  feature(0x0001, true, {0, 0, 0, 1, 1, 0, 0, 0});          // core: SCSI, events
  feature(0x0003, true, {0x39, 0, 0, 0});                   // removable: a tray with lock and eject
  feature(0x0010, current != 0, {0, 0, 8, 0, 0, 1, 0, 0});  // random reads of 2048 bytes
  feature(0x001e, current == profile_cd, {0, 0, 0, 0});
  feature(0x001f, current == profile_dvd, {0, 0, 0, 0});
  store_be<u32>(&d[0], static_cast<u32>(d.size() - 4));
  return answer(command, d, load_be<u16>(&c[7]));
}

ScsiAnswer ScsiCdRom::event_status(ScsiCommand& command) {
  const auto& c = command.cdb;
  if (!(c[1] & 1)) return ScsiAnswer::check(sense::invalid_field);  // only when asked, never later
  std::array<u8, 8> d{0, 2, 0x80, 0x10};                            // no such class; media is the one there is
  usize length = 4;
  if (c[4] & 0x10) {
    d = {0, 6, 4, 0x10, std::exchange(event_, u8{0}), static_cast<u8>((disk_.drive->has_medium() && !tray_open_ ? 2 : 0) | tray_open_)};
    length = 8;
  }
  return answer(command, std::span{d}.first(length), load_be<u16>(&c[7]));
}

ScsiAnswer ScsiCdRom::disc_information(ScsiCommand& command) const {
  if ((command.cdb[1] & 7) != 0) return ScsiAnswer::check(sense::invalid_field);
  if (!ready()) return ScsiAnswer::check(sense::no_medium);
  std::array<u8, 34> d{};
  d[1] = 32, d[2] = 0x0e, d[3] = d[4] = d[5] = d[6] = 1, d[7] = 0x20;
  return answer(command, d, load_be<u16>(&command.cdb[7]));
}

}  // namespace vmm::hw
