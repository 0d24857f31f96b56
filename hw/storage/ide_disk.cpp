// ide-hd: an ATA hard disk. Source: ATA8-ACS revision 6 (commands §7, IDENTIFY DEVICE table 29). Not modelled: security, HPA changes, logs
// other than SMART's status, streaming.
#include <algorithm>

#include "hw/storage/ide.h"
#include "src/base/bits.h"

namespace vmm::hw {

namespace {

constexpr u64 sector = 512;
constexpr u64 chunk_bytes = 1 * MiB;  // what one DMA command holds in memory at a time

enum Command : u8 {
  data_set_management = 0x06,
  recalibrate = 0x10,
  read_sectors = 0x20,
  read_sectors_once = 0x21,
  read_sectors_ext = 0x24,
  read_dma_ext = 0x25,
  read_native_max_ext = 0x27,
  read_multiple_ext = 0x29,
  write_sectors = 0x30,
  write_sectors_once = 0x31,
  write_sectors_ext = 0x34,
  write_dma_ext = 0x35,
  write_multiple_ext = 0x39,
  write_dma_fua_ext = 0x3d,
  verify = 0x40,
  verify_once = 0x41,
  verify_ext = 0x42,
  read_fpdma_queued = 0x60,
  write_fpdma_queued = 0x61,
  seek = 0x70,
  diagnostic = 0x90,
  initialize_parameters = 0x91,
  smart = 0xb0,
  read_multiple = 0xc4,
  write_multiple = 0xc5,
  set_multiple = 0xc6,
  read_dma = 0xc8,
  read_dma_once = 0xc9,
  write_dma = 0xca,
  write_dma_once = 0xcb,
  write_multiple_fua_ext = 0xce,
  standby_immediate = 0xe0,
  idle_immediate = 0xe1,
  standby = 0xe2,
  idle = 0xe3,
  check_power = 0xe5,
  sleep = 0xe6,
  flush_cache = 0xe7,
  flush_cache_ext = 0xea,
  identify = 0xec,
  set_features = 0xef,
  read_native_max = 0xf8,
};

enum class Kind : u8 { other, read, write, verify };
struct Transfer {
  Kind kind = Kind::other;
  bool ext = false, dma = false, multiple = false, fua = false, queued = false;
};

constexpr Transfer transfer_of(u8 command) {
  switch (command) {
    case read_sectors:
    case read_sectors_once: return {.kind = Kind::read};
    case read_sectors_ext: return {.kind = Kind::read, .ext = true};
    case read_multiple: return {.kind = Kind::read, .multiple = true};
    case read_multiple_ext: return {.kind = Kind::read, .ext = true, .multiple = true};
    case read_dma:
    case read_dma_once: return {.kind = Kind::read, .dma = true};
    case read_dma_ext: return {.kind = Kind::read, .ext = true, .dma = true};
    case read_fpdma_queued: return {.kind = Kind::read, .ext = true, .dma = true, .queued = true};
    case write_sectors:
    case write_sectors_once: return {.kind = Kind::write};
    case write_sectors_ext: return {.kind = Kind::write, .ext = true};
    case write_multiple: return {.kind = Kind::write, .multiple = true};
    case write_multiple_ext: return {.kind = Kind::write, .ext = true, .multiple = true};
    case write_multiple_fua_ext: return {.kind = Kind::write, .ext = true, .multiple = true, .fua = true};
    case write_dma:
    case write_dma_once: return {.kind = Kind::write, .dma = true};
    case write_dma_ext: return {.kind = Kind::write, .ext = true, .dma = true};
    case write_dma_fua_ext: return {.kind = Kind::write, .ext = true, .dma = true, .fua = true};
    case write_fpdma_queued: return {.kind = Kind::write, .ext = true, .dma = true, .queued = true};
    case verify:
    case verify_once: return {.kind = Kind::verify};
    case verify_ext: return {.kind = Kind::verify, .ext = true};
    default: return {};
  }
}

// Text in ATA order: the first character of each pair in the high byte, padded with spaces.
void put_text(std::span<u16> words, std::string_view text) {
  const auto at = [&](usize i) { return static_cast<u8>(i < text.size() ? text[i] : ' '); };
  for (usize i = 0; i < words.size(); i++) words[i] = static_cast<u16>(at(2 * i) << 8 | at(2 * i + 1));
}

}  // namespace

class IdeDisk final : public IdeDevice {
 public:
  static const TypeInfo type;
  u32 bytes_from_host(const AtaRegisters& r) const override;
  u32 block_from_host(const AtaRegisters& r) const override { return transfer_of(r.command).multiple ? multiple_ * 512 : 512; }
  bool by_dma(const AtaRegisters& r) const override { return transfer_of(r.command).dma || r.command == data_set_management; }
  Task<> execute(AtaCommand& command) override;
  void reset() override {
    requests_.give_up();
    multiple_ = 16, pio_mode_ = 0, dma_word_ = 0, ultra_word_ = 0, heads_ = disk_.heads, sectors_ = disk_.sectors;
  }
  void resized() override {}

 private:
  static const std::array<Field, ide_field_count + 1> properties;
  static const Field state[];
  Result<> realize_drive() override;
  struct Range {
    u64 first = 0, count = 0;
    bool valid = false;
  };
  u64 sectors() const { return disk_.drive->length_bytes() / sector; }
  Range range(const AtaRegisters& r, const Transfer& t) const;
  Task<> transfer(AtaCommand& c, Transfer t);
  Task<> trim(AtaCommand& c);
  void fill_identity(AtaCommand& c) const;
  void set_feature(AtaCommand& c);
  void do_smart(AtaCommand& c);
  u32 multiple_ = 16;
  u16 pio_mode_ = 0, dma_word_ = 0, ultra_word_ = 0;  // high byte: the mode in use, as IDENTIFY shows it
  bool smart_on_ = true;
  u32 heads_ = 16, sectors_ = 63;  // of CHS addresses
  u16 rotation_ = 0;
};

constexpr std::array<Field, ide_field_count + 1> IdeDisk::properties =
    disk_fields<&IdeDisk::disk_>() + std::array{
                                         field<&IdeDisk::unit_>("unit", "Place on the bus: 0 or 1"),
                                         field<&IdeDisk::version_>("ver", "Firmware revision"),
                                         field<&IdeDisk::model_>("model", "Model name"),
                                         field<&IdeDisk::wwn_>("wwn", "World wide name"),
                                         field<&IdeDisk::rotation_>("rotation_rate", "Rotations a minute; 1: solid state"),
                                     };
constexpr Field IdeDisk::state[] = {
    field<&IdeDisk::multiple_>("multiple", "sectors of a block of READ and WRITE MULTIPLE"),
    field<&IdeDisk::dma_word_>("dma", "multiword DMA mode in use"),
    field<&IdeDisk::ultra_word_>("ultra-dma", "ultra DMA mode in use"),
    field<&IdeDisk::smart_on_>("smart", "SMART operations are on"),
    field<&IdeDisk::heads_>("heads", "heads of CHS addresses"),
    field<&IdeDisk::sectors_>("sectors", "sectors of CHS addresses"),
};
constinit const TypeInfo IdeDisk::type{
    .name = "ide-hd",
    .doc = "A hard disk on an IDE or SATA bus.",
    .parent = &IdeDevice::type,
    .properties = properties,
    .state = state,
    .make = make<IdeDisk>,
    .category = "Storage devices",
    .sample = "ide-hd,drive=conformance",
};
static Registered registered{IdeDisk::type};

Result<> IdeDisk::realize_drive() {
  if (sectors() == 0) return fail("{} is empty", disk_.drive->description());
  if (disk_.serial.size() > 20) return fail("'serial' takes up to 20 characters");
  if (model_.size() > 40) return fail("'model' takes up to 40 characters");
  if (version_.size() > 8) return fail("'ver' takes up to 8 characters");
  if (model_.empty()) model_ = "QEMU HARDDISK";
  reset();
  return {};
}

// --- Addresses

IdeDisk::Range IdeDisk::range(const AtaRegisters& r, const Transfer& t) const {
  Range range;
  if (t.queued) {
    range.first = r.lba, range.count = r.features ? r.features : 65536;
  } else if (t.ext) {
    range.first = r.lba, range.count = r.count ? r.count : 65536;
  } else {
    range.count = (r.count & 0xff) ? r.count & 0xff : 256;
    if (r.device & 0x40) {
      range.first = (r.lba & 0xff'ffff) | u64{r.device & 0xfu} << 24;
    } else {
      const u64 number = r.lba & 0xff, cylinder = r.lba >> 8 & 0xffff, head = r.device & 0xf;
      if (number == 0 || number > sectors_ || head >= heads_) return range;
      range.first = (cylinder * heads_ + head) * sectors_ + number - 1;
    }
  }
  range.valid = range.first < sectors() && range.count <= sectors() - range.first;
  return range;
}

u32 IdeDisk::bytes_from_host(const AtaRegisters& r) const {
  const Transfer t = transfer_of(r.command);
  if (t.kind != Kind::write || t.dma) return 0;
  const Range where = range(r, t);
  return where.valid ? static_cast<u32>(where.count * sector) : 0;
}

// --- Commands

Task<> IdeDisk::execute(AtaCommand& c) {
  AtaRegisters& r = c.registers;
  const Transfer t = transfer_of(r.command);
  if (t.kind != Kind::other) {
    co_await transfer(c, t);
    co_return Result<>{};
  }
  switch (r.command) {
    case data_set_management: co_await trim(c); break;
    case flush_cache:
    case flush_cache_ext: {
      const Result<> done = co_await attempt(requests_.flush());
      done ? c.done() : c.abort();
      break;
    }
    case identify: fill_identity(c); break;
    case set_features: set_feature(c); break;
    case smart: do_smart(c); break;
    case set_multiple: {
      const u32 count = r.count & 0xff;
      if (count > 16 || (count & (count - 1))) {
        c.abort();
      } else {
        multiple_ = count ? count : 1;
        c.done();
      }
      break;
    }
    case initialize_parameters:
      heads_ = (r.device & 0xfu) + 1;
      sectors_ = (r.count & 0xff) ? r.count & 0xff : 1;
      c.done();
      break;
    case diagnostic: signature(r); break;
    case read_native_max: {
      const u64 last = std::min<u64>(sectors() - 1, 0xfff'ffff);
      r.lba = last & 0xff'ffff;
      r.device = static_cast<u8>((r.device & 0xf0) | last >> 24);
      c.done();
      break;
    }
    case read_native_max_ext:
      r.lba = sectors() - 1;
      c.done();
      break;
    case check_power:
      r.count = 0xff;  // active or idle
      c.done();
      break;
    case seek:
    case recalibrate:
    case recalibrate + 1 ... recalibrate + 15:
    case standby_immediate:
    case idle_immediate:
    case standby:
    case idle:
    case sleep: c.done(); break;
    default: c.abort(); break;
  }
  co_return Result<>{};
}

Task<> IdeDisk::transfer(AtaCommand& c, Transfer t) {
  const Range where = range(c.registers, t);
  if (!where.valid) {
    c.abort(ata::idnf);
    co_return Result<>{};
  }
  u64 at = where.first * sector, left = where.count * sector;
  const auto failed = [&](u8 error) {
    c.abort(error);
    c.registers.lba = at / sector;
  };
  if (t.dma) {
    std::vector<u8> chunk(std::min(left, chunk_bytes));
    while (left) {
      const std::span<u8> part{chunk.data(), std::min<u64>(left, chunk.size())};
      if (t.kind == Kind::read) {
        const Result<> done = co_await attempt(requests_.read(at, part));
        if (!done) {
          failed(ata::unc);
          co_return Result<>{};
        }
        if (!c.dma->put(part)) {
          failed(ata::abrt);
          co_return Result<>{};
        }
      } else {
        if (!c.dma->get(part)) {
          failed(ata::abrt);
          co_return Result<>{};
        }
        const Result<> done = co_await attempt(requests_.write(at, std::span<const u8>{part}, t.fua));
        if (!done) {
          failed(ata::unc);
          co_return Result<>{};
        }
      }
      at += part.size(), left -= part.size();
    }
  } else if (t.kind == Kind::read) {
    c.data.resize(left);
    c.block_bytes = t.multiple ? multiple_ * 512 : 512;
    const Result<> done = co_await attempt(requests_.read(at, c.data));
    if (!done) {
      c.data.clear();
      failed(ata::unc);
      co_return Result<>{};
    }
  } else if (t.kind == Kind::write) {
    if (c.data.size() < left) {
      failed(ata::abrt);
      co_return Result<>{};
    }
    // The bytes stay where they are until it is done: they are part of the channel's state.
    const Result<> done = co_await attempt(requests_.write(at, std::span<const u8>{c.data}.first(left), t.fua));
    c.data.clear();
    if (!done) {
      failed(ata::unc);
      co_return Result<>{};
    }
  }
  c.done();
  co_return Result<>{};
}

// TRIM: the host sends blocks of 64 ranges, each 48 bits of sector and 16 bits of count.
Task<> IdeDisk::trim(AtaCommand& c) {
  if (!(c.registers.features & 1) || !c.dma || c.registers.count > 64) {
    c.abort();
    co_return Result<>{};
  }
  std::vector<u8> list(std::max<u32>(c.registers.count, 1) * 512);
  if (!c.dma->get(list)) {
    c.abort();
    co_return Result<>{};
  }
  for (usize i = 0; i < list.size(); i += 8) {
    const u64 entry = load_le<u64>(&list[i]), first = entry & 0xffff'ffff'ffff, count = entry >> 48;
    if (count == 0) continue;
    if (first >= sectors() || count > sectors() - first) {
      c.abort(ata::idnf);
      co_return Result<>{};
    }
    const Result<> done = co_await attempt(requests_.discard(first * sector, count * sector));
    if (!done) {
      c.abort();
      co_return Result<>{};
    }
  }
  c.done();
  co_return Result<>{};
}

void IdeDisk::fill_identity(AtaCommand& c) const {
  std::array<u16, 256> w{};
  const u64 total = sectors();
  const u64 chs = u64{disk_.cylinders} * disk_.heads * disk_.sectors;
  w[0] = 0x0040;
  w[1] = static_cast<u16>(disk_.cylinders);
  w[3] = static_cast<u16>(disk_.heads);
  w[4] = static_cast<u16>(512 * disk_.sectors);
  w[5] = 512;
  w[6] = static_cast<u16>(disk_.sectors);
  put_text(std::span{w}.subspan(10, 10), disk_.serial);
  w[20] = 3, w[21] = 512, w[22] = 4;
  put_text(std::span{w}.subspan(23, 4), version_);
  put_text(std::span{w}.subspan(27, 20), model_);
  w[47] = 0x8010;
  w[48] = 1;
  w[49] = 1 << 11 | 1 << 9 | 1 << 8;  // IORDY, LBA, DMA
  w[51] = w[52] = 0x200;
  w[53] = 7;  // words 54–58, 64–70 and 88 are valid
  w[54] = w[1], w[55] = w[3], w[56] = w[6];
  w[57] = static_cast<u16>(chs), w[58] = static_cast<u16>(chs >> 16);
  w[59] = static_cast<u16>(multiple_ ? 0x100 | multiple_ : 0);
  const u32 lba28 = static_cast<u32>(std::min<u64>(total, 0xfff'ffff));
  w[60] = static_cast<u16>(lba28), w[61] = static_cast<u16>(lba28 >> 16);
  w[62] = 7, w[63] = 7 | dma_word_;
  w[64] = 3;
  w[65] = w[66] = w[67] = w[68] = 120;
  const bool trims = disk_.drive->options().read_only == false;
  if (trims) w[69] = 1 << 14;  // what was trimmed reads the same each time
  if (ide().queues) w[75] = 31, w[76] = 1 << 8 | 1 << 1;
  w[80] = 0xf0, w[81] = 0x16;
  w[82] = 1 << 14 | 1 << 5 | 1;
  w[83] = 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10;
  w[84] = static_cast<u16>(1 << 14 | (wwn_ ? 1 << 8 : 0));
  w[85] = static_cast<u16>(1 << 14 | (disk_.drive->write_cache() ? 1 << 5 : 0) | (smart_on_ ? 1 : 0));
  w[86] = 1 << 13 | 1 << 12 | 1 << 10;
  w[87] = w[84];
  w[88] = 0x3f | ultra_word_;
  w[93] = 1 | 1 << 14 | 0x2000;
  for (unsigned i = 0; i < 4; i++) w[100 + i] = static_cast<u16>(total >> 16 * i);
  const auto exponent = static_cast<u16>(std::countr_zero(disk_.physical_block.value / 512));
  if (exponent) w[106] = 0x6000 | exponent;
  for (unsigned i = 0; i < 4; i++) w[108 + i] = static_cast<u16>(wwn_ >> (48 - 16 * i));
  if (trims) w[105] = 1, w[169] = 1;
  w[217] = rotation_;
  c.data.resize(512);
  for (unsigned i = 0; i < 256; i++) store_le<u16>(&c.data[2 * i], w[i]);
  c.done();
}

void IdeDisk::set_feature(AtaCommand& c) {
  switch (c.registers.features & 0xff) {
    case 0x02: disk_.drive->set_write_cache(true); return c.done();
    case 0x82: disk_.drive->set_write_cache(false); return c.done();
    case 0x03: {
      const u8 mode = c.registers.count & 7;
      switch (c.registers.count >> 3 & 0x1f) {
        case 0:
        case 1: dma_word_ = ultra_word_ = 0; return c.done();
        case 4: dma_word_ = static_cast<u16>(0x100 << mode), ultra_word_ = 0; return c.done();
        case 8: ultra_word_ = static_cast<u16>(0x100 << mode), dma_word_ = 0; return c.done();
        default: return c.abort();
      }
    }
    case 0x05:
    case 0x42:
    case 0x55:
    case 0x66:
    case 0x69:
    case 0x67:
    case 0x85:
    case 0x96:
    case 0x9a:
    case 0xaa:
    case 0xc2:
    case 0xcc: return c.done();
    default: return c.abort();
  }
}

// Enough of SMART for a guest to hear that the disk is well.
void IdeDisk::do_smart(AtaCommand& c) {
  if (c.registers.mid_high() != 0xc24f) return c.abort();
  const u8 what = c.registers.features & 0xff;
  if (!smart_on_ && what != 0xd8) return c.abort();
  switch (what) {
    case 0xd8: smart_on_ = true; return c.done();
    case 0xd9: smart_on_ = false; return c.done();
    case 0xd2: return c.done();  // attribute autosave
    case 0xda: return c.done();  // status: the signature in LBA mid and high stays, so all is well
    default: return c.abort();
  }
}

}  // namespace vmm::hw
