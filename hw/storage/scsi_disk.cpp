// scsi-hd, and what it shares with scsi-cd. Sources: SBC-4 §5 (commands), §6 (parameters), SPC-5 §7.5 (mode pages), §7.7 (vital data).
// Not modelled: persistent reservations, protection information, compare and write.
#include "hw/storage/scsi_disk.h"

#include <bit>
#include <cstring>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
void padded(u8* to, usize length, std::string_view text) {
  std::memset(to, ' ', length);
  std::memcpy(to, text.data(), std::min(length, text.size()));
}
constexpr u64 serial_limit = 36;
}  // namespace

ScsiRange range_of(const std::array<u8, 32>& c) {
  switch (c[0] >> 5) {
    case 0: return {load_be<u32>(&c[0]) & 0x1f'ffff, c[4] ? u64{c[4]} : 256};
    case 1:
    case 2: return {load_be<u32>(&c[2]), load_be<u16>(&c[7])};
    case 5: return {load_be<u32>(&c[2]), load_be<u32>(&c[6])};
    default: return {load_be<u64>(&c[2]), load_be<u32>(&c[10])};
  }
}

constexpr Field ScsiDiskBase::disk_state[2] = {
    field<&ScsiDiskBase::tray_open_>("tray-open", "the tray is open"),
    field<&ScsiDiskBase::tray_locked_>("tray-locked", "the guest forbids opening it"),
};

// --- Life

Result<> ScsiDiskBase::realize() {
  TRY(disk_.settle(65535, 255, 255));
  if (!removable_ && !disk_.drive->has_medium()) return fail("Device needs media, but drive is empty");
  if (disk_.serial.size() > serial_limit) return fail("'serial' takes up to {} letters, not {}", serial_limit, disk_.serial.size());
  if (vendor_.empty()) vendor_ = "QEMU";  // quirk tables of guests know these names
  if (version_.empty()) version_ = "2.5+";
  if (device_id_.empty()) device_id_ = !disk_.serial.empty() ? disk_.serial : disk_.drive->id();
  TRY(requests_.open(machine(), *this, disk_, writes()));
  reset_unit();
  if (scsi().adapter) scsi().adapter->scsi_plugged(*this);
  return {};
}

Task<> ScsiDiskBase::unrealize() {
  if (scsi().adapter) scsi().adapter->scsi_unplugged(*this);
  co_await requests_.close();
  disk_.drive->set_loop(machine().main_loop());  // the adapter may have moved it
  co_return Result<>{};
}

void ScsiDiskBase::reset_unit() {
  ScsiDevice::reset_unit();
  cancel_waiting();
  tray_locked_ = false;
}

void ScsiDiskBase::cancel_waiting() { requests_.give_up(); }

// --- Medium

void ScsiDiskBase::medium_changed() { attention(disk_.drive->has_medium() ? sense::medium_changed : sense::no_medium); }

void ScsiDiskBase::set_tray(bool open) {
  if (tray_open_ == open) return;
  tray_open_ = open;
  disk_.drive->tray_moved(open);
  if (!open && disk_.drive->has_medium()) attention(sense::medium_changed);
}

void ScsiDiskBase::eject_requested(bool force) {
  if (force) tray_locked_ = false;
  if (!tray_locked_) set_tray(true);
}

ScsiAnswer ScsiDiskBase::start_stop(ScsiCommand& command) {
  const bool load_eject = command.cdb[4] & 2, start = command.cdb[4] & 1;
  if (!load_eject || !removable_ || command.cdb[4] >> 4) return {};
  if (!start && !tray_open_ && tray_locked_) return ScsiAnswer::check(disk_.drive->has_medium() ? sense::locked : sense::no_medium);
  if (tray_open_ == start) {
    tray_open_ = !start;
    disk_.drive->tray_moved(tray_open_);
  }
  return {};
}

// --- Who we are

std::vector<u8> ScsiDiskBase::inquiry() const {
  std::vector<u8> d(36);
  d[0] = device_type();
  d[1] = removable_ ? 0x80 : 0;
  d[2] = static_cast<u8>(scsi_version_ < 0 ? 5 : scsi_version_);
  d[3] = 2 | 0x10;  // format 2; LUNs of more than 8 bits
  d[4] = 31;
  d[7] = 0x02;  // commands are queued
  padded(&d[8], 8, vendor_), padded(&d[16], 16, product_), padded(&d[32], 4, version_);
  return d;
}

std::optional<std::vector<u8>> ScsiDiskBase::vital_page(u8 page) const {
  std::vector<u8> d{device_type(), page, 0, 0};
  const auto text = [&](std::string_view t) { d.insert(d.end(), t.begin(), t.end()); };
  const bool disk = device_type() == 0;
  switch (page) {
    case 0x00:
      d.push_back(0x00);
      if (!disk_.serial.empty()) d.push_back(0x80);
      d.push_back(0x83);
      if (disk) d.insert(d.end(), {0xb0, 0xb1, 0xb2});
      break;
    case 0x80:
      if (disk_.serial.empty()) return std::nullopt;
      text(disk_.serial);
      break;
    case 0x83: {
      const usize n = std::min<usize>(device_id_.size(), 255);
      if (n) {
        d.insert(d.end(), {2, 0, 0, static_cast<u8>(n)});  // ASCII, vendor's own
        text(std::string_view{device_id_}.substr(0, n));
      }
      const auto name = [&](u8 kind, u64 value) {
        if (!value) return;
        d.insert(d.end(), {1, kind, 0, 8});
        d.resize(d.size() + 8);
        store_be<u64>(&d[d.size() - 8], value);
      };
      name(0x03, wwn_), name(0x93, port_wwn_);  // NAA, of the unit and of the port
      if (port_index_) {
        d.insert(d.end(), {1, 0x94, 0, 4, 0, 0});
        d.push_back(static_cast<u8>(port_index_ >> 8)), d.push_back(static_cast<u8>(port_index_));
      }
      break;
    }
    case 0xb0: {
      if (!disk) return std::nullopt;
      d.resize(64);
      const u64 block = block_bytes();
      const u64 granularity = disk_.discard_granularity.value == ~u32{0} ? std::max<u64>(block, 4096) : disk_.discard_granularity.value;
      const u32 most = static_cast<u32>(std::min<u64>(max_io_ / block, ~u32{0}));
      d[4] = 1;  // no WRITE SAME of length 0
      store_be<u16>(&d[6], static_cast<u16>(disk_.min_io / block));
      store_be<u32>(&d[8], most);
      store_be<u32>(&d[12], static_cast<u32>(disk_.opt_io / block));
      store_be<u32>(&d[20], static_cast<u32>(std::min<u64>(max_unmap_ / block, ~u32{0})));
      store_be<u32>(&d[24], 255);  // ranges of one UNMAP
      store_be<u32>(&d[28], static_cast<u32>(granularity / block));
      store_be<u64>(&d[36], most);
      break;
    }
    case 0xb1:
      if (!disk) return std::nullopt;
      d.resize(64);
      store_be<u16>(&d[4], rotation_);
      break;
    case 0xb2:
      if (!disk) return std::nullopt;
      d.resize(8);
      d[5] = disk_.discard_granularity.value ? 0xe0 : 0;  // UNMAP and WRITE SAME of 10 and 16 bytes give space back
      d[6] = disk_.discard_granularity.value ? 2 : 0;     // thin
      break;
    default: return std::nullopt;
  }
  store_be<u16>(&d[2], static_cast<u16>(d.size() - 4));
  return d;
}

ScsiAnswer ScsiDiskBase::read_capacity(ScsiCommand& command, bool sixteen) const {
  if (!ready() || !blocks()) return ScsiAnswer::check(sense::no_medium);
  const u64 last = blocks() - 1;
  if (!sixteen) {
    std::array<u8, 8> d;
    store_be<u32>(d.data(), static_cast<u32>(std::min<u64>(last, ~u32{0})));
    store_be<u32>(&d[4], static_cast<u32>(block_bytes()));
    return answer(command, d, d.size());
  }
  std::array<u8, 32> d{};
  store_be<u64>(d.data(), last);
  store_be<u32>(&d[8], static_cast<u32>(block_bytes()));
  d[13] = static_cast<u8>(std::countr_zero(disk_.physical_block.value / block_bytes()));
  if (disk_.discard_granularity.value) d[14] = 0x80;
  return answer(command, d, load_be<u32>(&command.cdb[10]));
}

// --- Mode pages

std::vector<u8> ScsiDiskBase::mode_page(u8 page, bool changeable) const {
  switch (page) {
    case 0x01: {  // error recovery
      std::vector<u8> p(12);
      p[0] = 0x01, p[1] = 10;
      if (!changeable) p[2] = 0x80;
      return p;
    }
    case 0x08: {  // caching
      std::vector<u8> p(20);
      p[0] = 0x08, p[1] = 18;
      if (changeable || disk_.drive->write_cache()) p[2] = 4;
      return p;
    }
    default: return {};
  }
}

ScsiAnswer ScsiDiskBase::mode_sense(ScsiCommand& command) const {
  const auto& c = command.cdb;
  const bool ten = c[0] == 0x5a, no_descriptor = c[1] & 8;
  const u8 page = c[2] & 0x3f, control = c[2] >> 6;
  const u64 limit = ten ? load_be<u16>(&c[7]) : c[4];
  if (control == 3) return ScsiAnswer::check({5, 0x39, 0});  // nothing is saved
  std::vector<u8> d(ten ? 8 : 4);
  if (!no_descriptor && device_type() == 0) {
    const usize at = d.size();
    d.resize(at + 8);
    d[ten ? 7 : 3] = 8;
    store_be<u32>(&d[at], static_cast<u32>(std::min<u64>(blocks(), 0xff'ffff)) & 0xff'ffff);
    store_be<u32>(&d[at + 4], static_cast<u32>(block_bytes()) & 0xff'ffff);
  }
  bool any = false;
  for (unsigned p = 0; p < 0x3f; p++) {
    if (page != 0x3f && page != p) continue;
    const auto bytes = mode_page(static_cast<u8>(p), control == 1);
    any = any || !bytes.empty();
    d.insert(d.end(), bytes.begin(), bytes.end());
  }
  if (!any && page != 0x3f) return ScsiAnswer::check(sense::invalid_field);
  u8 specific = 0;
  if (device_type() == 0) {
    if (disk_.drive->read_only()) specific |= 0x80;
    if (dpofua_) specific |= 0x10;
  }
  if (ten) {
    store_be<u16>(&d[0], static_cast<u16>(d.size() - 2));
    d[3] = specific;
  } else {
    d[0] = static_cast<u8>(std::min<usize>(d.size() - 1, 255));
    d[2] = specific;
  }
  return answer(command, d, limit);
}

// Only the write cache can be changed; all else must be as it is.
ScsiAnswer ScsiDiskBase::mode_select(ScsiCommand& command) {
  const auto& c = command.cdb;
  const bool ten = c[0] == 0x55;
  const u64 length = std::min<u64>(ten ? load_be<u16>(&c[7]) : c[4], command.out.size());
  std::vector<u8> d(length);
  if (length) command.out.part(0, length).copy_out(d);
  if ((c[1] & 0x11) != 0x10) return ScsiAnswer::check(sense::invalid_field);
  if (!length) return {};
  const usize head = ten ? 8 : 4;
  if (length < head) return ScsiAnswer::check(sense::parameter_length);
  usize at = head + (ten ? load_be<u16>(&d[6]) : d[3]);
  if (at > length) return ScsiAnswer::check(sense::parameter_length);
  std::optional<bool> cache;
  while (at < length) {
    if (length - at < 2 || d[at] & 0x40) return ScsiAnswer::check(sense::parameter_length);
    const u8 page = d[at] & 0x3f;
    const auto current = mode_page(page, false), mask = mode_page(page, true);
    if (current.empty() || d[at + 1] != current[1]) return ScsiAnswer::check(sense::invalid_parameter);
    if (length - at < current.size()) return ScsiAnswer::check(sense::parameter_length);
    for (usize i = 2; i < current.size(); i++)
      if ((d[at + i] ^ current[i]) & ~mask[i]) return ScsiAnswer::check(sense::invalid_parameter);
    if (page == 0x08) cache = d[at + 2] & 4;
    at += current.size();
  }
  if (cache) disk_.drive->set_write_cache(*cache);
  return {.transferred = length};
}

// --- Commands

std::optional<ScsiSense> ScsiDiskBase::failure(const Result<>& done) {
  if (done) return std::nullopt;
  return sense_of(done.error());
}

Task<ScsiAnswer> ScsiDiskBase::transfer(ScsiCommand& command, bool write, u64 first, u64 count, bool fua) {
  if (!ready()) co_return ScsiAnswer::check(sense::no_medium);
  if (first > blocks() || count > blocks() - first) co_return ScsiAnswer::check(sense::out_of_range);
  if (write && disk_.drive->read_only()) co_return ScsiAnswer::check(sense::write_protected);
  const u64 bytes = count * block_bytes();
  const block::IoVector& buffer = write ? command.out : command.in;
  // A buffer that is too short moves what fits in whole blocks; the residual tells (SAM-5 §5.4.2).
  const u64 here = std::min(bytes, buffer.size()) / block_bytes() * block_bytes();
  if (!here) co_return ScsiAnswer{};
  const u64 offset = first * block_bytes();
  Task<> request = write ? requests_.write(offset, buffer.part(0, here), fua) : requests_.read(offset, buffer.part(0, here));
  const Result<> done = co_await attempt(std::move(request));
  if (const auto failed = failure(done)) co_return ScsiAnswer::check(*failed);
  co_return ScsiAnswer{.transferred = here};
}

Task<ScsiAnswer> ScsiDiskBase::carry_out(ScsiCommand& command) {
  const auto& c = command.cdb;
  switch (c[0]) {
    case 0x00: co_return ready() ? ScsiAnswer{} : ScsiAnswer::check(sense::no_medium);
    case 0x01:  // REZERO UNIT
    case 0x0b:  // SEEK
    case 0x2b:
    case 0x16:  // RESERVE, RELEASE: there is one initiator
    case 0x17:
    case 0x56:
    case 0x57:
    case 0x1d: co_return ScsiAnswer{};  // SEND DIAGNOSTIC
    case 0x1a:
    case 0x5a: co_return mode_sense(command);
    case 0x15:
    case 0x55: co_return mode_select(command);
    case 0x1b: co_return start_stop(command);
    case 0x1e:  // PREVENT ALLOW MEDIUM REMOVAL
      tray_locked_ = c[4] & 1;
      co_return ScsiAnswer{};
    case 0x25: co_return read_capacity(command, false);
    case 0x08:
    case 0x28:
    case 0xa8:
    case 0x88: {
      const ScsiRange r = range_of(c);
      ScsiAnswer a = co_await transfer(command, false, r.first, r.count, false);
      co_return a;
    }
    case 0x35:
    case 0x91: {
      if (!ready()) co_return ScsiAnswer::check(sense::no_medium);
      const Result<> done = co_await attempt(requests_.flush());
      const auto failed = failure(done);
      co_return failed ? ScsiAnswer::check(*failed) : ScsiAnswer{};
    }
    default: {
      ScsiAnswer a = co_await carry_out_other(command);
      co_return a;
    }
  }
}

Task<ScsiAnswer> ScsiDiskBase::carry_out_other(ScsiCommand&) { co_return ScsiAnswer::check(sense::invalid_opcode); }

// --- scsi-hd

class ScsiHardDisk final : public ScsiDiskBase {
 public:
  static const TypeInfo type;
  ScsiHardDisk() { product_ = "QEMU HARDDISK"; }

 private:
  u8 device_type() const override { return 0; }
  bool writes() const override { return true; }
  std::vector<u8> mode_page(u8 page, bool changeable) const override;
  Task<ScsiAnswer> carry_out_other(ScsiCommand& command) override;
  Task<ScsiAnswer> unmap(ScsiCommand& command);
  Task<ScsiAnswer> write_same(ScsiCommand& command);
  Task<ScsiAnswer> verify(ScsiCommand& command);
  static const std::array<Field, disk_field_count + unit_field_count + 2> properties;
  bool apple_quirk_ = false;
};

constexpr std::array<Field, disk_field_count + ScsiDiskBase::unit_field_count + 2> ScsiHardDisk::properties =
    disk_fields<&ScsiHardDisk::disk_>() + ScsiDiskBase::unit_fields() +
    std::array{
        field<&ScsiHardDisk::max_unmap_>("max_unmap_size", "Longest unmapped range, in bytes."),
        field<&ScsiHardDisk::apple_quirk_>("quirk_mode_page_vendor_specific_apple", "Accepted."),
    };
constinit const TypeInfo ScsiHardDisk::type{.name = "scsi-hd",
                                            .doc = "virtual SCSI disk",
                                            .parent = &ScsiDevice::type,
                                            .properties = properties,
                                            .state = disk_state,
                                            .make = make<ScsiHardDisk>,
                                            .category = "Storage devices"};
static Registered registered_disk{ScsiHardDisk::type};

std::vector<u8> ScsiHardDisk::mode_page(u8 page, bool changeable) const {
  if (page != 0x04) return ScsiDiskBase::mode_page(page, changeable);
  std::vector<u8> p(24);  // rigid disk geometry
  p[0] = 0x04, p[1] = 22;
  if (changeable) return p;
  p[2] = static_cast<u8>(disk_.cylinders >> 16), p[3] = static_cast<u8>(disk_.cylinders >> 8), p[4] = static_cast<u8>(disk_.cylinders);
  p[5] = static_cast<u8>(disk_.heads);
  store_be<u16>(&p[20], rotation_ > 1 ? rotation_ : 5400);
  return p;
}

Task<ScsiAnswer> ScsiHardDisk::carry_out_other(ScsiCommand& command) {
  const auto& c = command.cdb;
  const ScsiRange r = range_of(c);
  switch (c[0]) {
    case 0x0a:
    case 0x2a:
    case 0xaa:
    case 0x8a:
    case 0x2e:  // WRITE AND VERIFY
    case 0xae:
    case 0x8e: {
      ScsiAnswer a = co_await transfer(command, true, r.first, r.count, c[0] != 0x0a && c[1] & 8);
      co_return a;
    }
    case 0x2f:
    case 0xaf:
    case 0x8f: {
      ScsiAnswer a = co_await verify(command);
      co_return a;
    }
    case 0x41:
    case 0x93: {
      ScsiAnswer a = co_await write_same(command);
      co_return a;
    }
    case 0x42: {
      ScsiAnswer a = co_await unmap(command);
      co_return a;
    }
    case 0x9e:
      if ((c[1] & 0x1f) == 0x10) co_return read_capacity(command, true);
      co_return ScsiAnswer::check(sense::invalid_field);
    default: co_return ScsiAnswer::check(sense::invalid_opcode);
  }
}

Task<ScsiAnswer> ScsiHardDisk::verify(ScsiCommand& command) {
  const ScsiRange r = range_of(command.cdb);
  if (!ready()) co_return ScsiAnswer::check(sense::no_medium);
  if (r.first > blocks() || r.count > blocks() - r.first) co_return ScsiAnswer::check(sense::out_of_range);
  if (!(command.cdb[1] & 6)) co_return ScsiAnswer{};  // the medium is good
  if ((command.cdb[1] & 6) != 2) co_return ScsiAnswer::check(sense::invalid_field);
  // Compared in pieces, so that memory stays bounded.
  const u64 total = std::min(r.count * block_bytes(), command.out.size());
  for (u64 at = 0; at < total;) {
    const u64 n = std::min<u64>(total - at, 64 * KiB);
    block::Buffer on_disk{n};
    std::vector<u8> given(n);
    const u64 offset = r.first * block_bytes() + at;
    const Result<> done = co_await attempt(requests_.read(offset, on_disk.vector()));
    if (const auto failed = failure(done)) co_return ScsiAnswer::check(*failed);
    command.out.part(at, n).copy_out(given);
    if (std::memcmp(given.data(), on_disk.data(), n) != 0) co_return ScsiAnswer::check({0xe, 0x1d, 0});  // MISCOMPARE
    at += n;
  }
  co_return ScsiAnswer{.transferred = total};
}

Task<ScsiAnswer> ScsiHardDisk::write_same(ScsiCommand& command) {
  const auto& c = command.cdb;
  const ScsiRange r = c[0] == 0x41 ? ScsiRange{load_be<u32>(&c[2]), load_be<u16>(&c[7])} : range_of(c);
  if (!ready()) co_return ScsiAnswer::check(sense::no_medium);
  if (!r.count || c[1] & 0x16) co_return ScsiAnswer::check(sense::invalid_field);
  if (r.first > blocks() || r.count > blocks() - r.first) co_return ScsiAnswer::check(sense::out_of_range);
  if (r.count * block_bytes() > max_io_) co_return ScsiAnswer::check(sense::invalid_field);
  if (disk_.drive->read_only()) co_return ScsiAnswer::check(sense::write_protected);
  const bool unmap = c[1] & 8, no_data = c[1] & 1;
  std::vector<u8> block(block_bytes());
  if (!no_data) {
    if (command.out.size() < block.size()) co_return ScsiAnswer::check(sense::invalid_field);
    command.out.part(0, block.size()).copy_out(block);
  }
  const u64 offset = r.first * block_bytes(), length = r.count * block_bytes(), used = no_data ? 0 : block.size();
  if (block::all_zero(block)) {
    const Result<> done = co_await attempt(requests_.zero(offset, length, {.may_unmap = unmap}));
    if (const auto failed = failure(done)) co_return ScsiAnswer::check(*failed);
    co_return ScsiAnswer{.transferred = used};
  }
  const u64 piece = std::min<u64>(length, std::max<u64>(512 * KiB / block.size(), 1) * block.size());
  block::Buffer many{piece};
  for (u64 at = 0; at < piece; at += block.size()) std::memcpy(many.data() + at, block.data(), block.size());
  for (u64 at = 0; at < length;) {
    const u64 n = std::min(length - at, piece);
    const Result<> done = co_await attempt(requests_.write(offset + at, many.vector().part(0, n)));
    if (const auto failed = failure(done)) co_return ScsiAnswer::check(*failed);
    at += n;
  }
  co_return ScsiAnswer{.transferred = used};
}

Task<ScsiAnswer> ScsiHardDisk::unmap(ScsiCommand& command) {
  if (command.cdb[1] & 1) co_return ScsiAnswer::check(sense::invalid_field);  // no anchors
  const u64 length = std::min<u64>(load_be<u16>(&command.cdb[7]), command.out.size());
  std::vector<u8> list(length);
  if (length) command.out.part(0, length).copy_out(list);
  if (!length) co_return ScsiAnswer{};
  if (length < 8) co_return ScsiAnswer::check(sense::parameter_length);
  if (!ready()) co_return ScsiAnswer::check(sense::no_medium);
  if (disk_.drive->read_only()) co_return ScsiAnswer::check(sense::write_protected);
  const usize bytes = load_be<u16>(&list[2]);
  if (bytes % 16 || bytes > length - 8 || bytes / 16 > 255) co_return ScsiAnswer::check(sense::parameter_length);
  for (usize at = 8; at < 8 + bytes; at += 16) {
    const u64 first = load_be<u64>(&list[at]), count = load_be<u32>(&list[at + 8]);
    if (first > blocks() || count > blocks() - first) co_return ScsiAnswer::check(sense::out_of_range);
    if (!count) continue;
    const u64 offset = first * block_bytes(), size = count * block_bytes();
    const Result<> done = co_await attempt(requests_.discard(offset, size));
    if (const auto failed = failure(done)) co_return ScsiAnswer::check(*failed);
  }
  co_return ScsiAnswer{.transferred = length};
}

}  // namespace vmm::hw
