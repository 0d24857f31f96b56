// ide-cd: an ATAPI CD-ROM drive. Sources: SFF-8020i and ATA8-ACS (PACKET), SPC-3 and MMC-5 (commands, sense data, profiles). Not
// modelled: audio, raw sectors other than mode 1, recording.
#include <algorithm>

#include "hw/storage/ide.h"
#include "src/base/bits.h"

namespace vmm::hw {

namespace {

constexpr u64 block = 2048;
constexpr u64 chunk_blocks = 64;        // read into memory at a time by DMA
constexpr u64 most_pio_blocks = 16384;  // of one command: 32 MiB

enum Operation : u8 {
  test_unit_ready = 0x00,
  request_sense = 0x03,
  inquiry = 0x12,
  start_stop = 0x1b,
  prevent_removal = 0x1e,
  read_capacity = 0x25,
  read_10 = 0x28,
  seek_10 = 0x2b,
  read_toc = 0x43,
  get_configuration = 0x46,
  get_event = 0x4a,
  read_disc_information = 0x51,
  mode_select_10 = 0x55,
  mode_sense_10 = 0x5a,
  read_12 = 0xa8,
  read_dvd_structure = 0xad,
  set_speed = 0xbb,
  mechanism_status = 0xbd,
  read_cd = 0xbe,
};

struct Sense {
  u8 key = 0, code = 0, qualifier = 0;
};
constexpr Sense no_medium{2, 0x3a, 0}, invalid_command{5, 0x20, 0}, out_of_range{5, 0x21, 0}, invalid_field{5, 0x24, 0},
    medium_changed_sense{6, 0x28, 0}, read_error{3, 0x11, 0}, removal_prevented{5, 0x53, 2};

void put_text(std::span<u8> bytes, std::string_view text) {
  for (usize i = 0; i < bytes.size(); i++) bytes[i] = static_cast<u8>(i < text.size() ? text[i] : ' ');
}
void put_words(std::span<u16> words, std::string_view text) {
  const auto at = [&](usize i) { return static_cast<u8>(i < text.size() ? text[i] : ' '); };
  for (usize i = 0; i < words.size(); i++) words[i] = static_cast<u16>(at(2 * i) << 8 | at(2 * i + 1));
}
// A disc address as minute, second, frame.
void put_msf(u8* at, u64 lba) {
  lba += 150;
  at[0] = static_cast<u8>(lba / 75 / 60), at[1] = static_cast<u8>(lba / 75 % 60), at[2] = static_cast<u8>(lba % 75);
}

}  // namespace

class IdeCd final : public IdeDevice {
 public:
  static const TypeInfo type;
  bool packets() const override { return true; }
  u32 bytes_from_host(const AtaRegisters& r) const override { return r.command == 0xa0 ? 12 : 0; }
  bool by_dma(const AtaRegisters& r) const override { return r.command == 0xa0 && (r.features & 1); }
  Task<> execute(AtaCommand& command) override;
  void reset() override {
    requests_.give_up();
    sense_ = {}, prevented_ = false, dma_word_ = ultra_word_ = 0;
  }

  // --- Of the drive's user
  bool removable() const override { return true; }
  bool tray_open() const override { return tray_open_; }
  bool locked() const override { return prevented_; }
  void set_tray(bool open) override {
    if (tray_open_ == open) return;
    tray_open_ = open;
    disk_.drive->tray_moved(open);
  }
  void medium_changed() override {
    changed_ = disk_.drive->has_medium();
    event_ = changed_ ? 2 : 3;
  }
  void eject_requested(bool force) override {
    event_ = 1;
    if (force) prevented_ = false;
  }

 private:
  static const std::array<Field, ide_field_count> properties;
  static const Field state[];
  Result<> realize_drive() override {
    if (model_.empty()) model_ = "QEMU DVD-ROM";
    return {};
  }
  bool needs_medium() const override { return false; }
  bool ready() const { return !tray_open_ && disk_.drive->has_medium(); }
  u64 blocks() const { return ready() ? disk_.drive->length_bytes() / block : 0; }
  bool dvd() const { return blocks() > 80 * 60 * 75; }

  Task<> packet(AtaCommand& c, std::array<u8, 16> p);
  Task<> read(AtaCommand& c, u64 first, u64 count);
  void answer(AtaCommand& c, std::span<const u8> bytes, usize allocated);
  void good(AtaCommand& c);
  void check(AtaCommand& c, Sense sense);
  void fill_identity(AtaCommand& c) const;
  void do_toc(AtaCommand& c, std::span<const u8> p);
  void do_mode_sense(AtaCommand& c, std::span<const u8> p);
  void do_configuration(AtaCommand& c, std::span<const u8> p);
  void do_start_stop(AtaCommand& c, std::span<const u8> p);
  void do_dvd_structure(AtaCommand& c, std::span<const u8> p);

  Sense sense_;
  bool tray_open_ = false, prevented_ = false, changed_ = false;
  u8 event_ = 0;  // GET EVENT STATUS: 1 eject asked for, 2 new medium, 3 medium removed
  u16 dma_word_ = 0, ultra_word_ = 0;
};

constexpr std::array<Field, ide_field_count> IdeCd::properties =
    disk_fields<&IdeCd::disk_>() + std::array{
                                       field<&IdeCd::unit_>("unit", "Place on the bus: 0 or 1"),
                                       field<&IdeCd::version_>("ver", "Firmware revision"),
                                       field<&IdeCd::model_>("model", "Model name"),
                                       field<&IdeCd::wwn_>("wwn", "World wide name"),
                                   };
constexpr Field IdeCd::state[] = {
    field<&IdeCd::tray_open_>("tray-open", "the tray is out"),
    field<&IdeCd::prevented_>("prevented", "the guest forbids ejecting"),
    field<&IdeCd::changed_>("changed", "the guest has yet to hear of a new medium"),
    field<&IdeCd::event_>("event", "media event that was not asked for yet"),
    field<&IdeCd::dma_word_>("dma", "multiword DMA mode in use"),
    field<&IdeCd::ultra_word_>("ultra-dma", "ultra DMA mode in use"),
};
constinit const TypeInfo IdeCd::type{
    .name = "ide-cd",
    .doc = "A CD-ROM drive on an IDE or SATA bus.",
    .parent = &IdeDevice::type,
    .properties = properties,
    .state = state,
    .make = make<IdeCd>,
    .category = "Storage devices",
};
static Registered registered{IdeCd::type};

// --- Outcomes

void IdeCd::good(AtaCommand& c) {
  sense_ = {};
  c.done();
  c.registers.count = 3;
}

void IdeCd::check(AtaCommand& c, Sense sense) {
  sense_ = sense;
  c.data.clear();
  c.registers.status = ata::drdy | ata::err;
  c.registers.error = static_cast<u8>(sense.key << 4 | (sense.key == 5 ? ata::abrt : 0));
  c.registers.count = 3;
}

void IdeCd::answer(AtaCommand& c, std::span<const u8> bytes, usize allocated) {
  bytes = bytes.first(std::min(bytes.size(), allocated));
  good(c);
  if (c.dma) {
    if (!bytes.empty() && !c.dma->put(bytes)) c.abort();
    return;
  }
  c.data.assign(bytes.begin(), bytes.end());
  c.packet_in = true;
}

// --- ATA's side

Task<> IdeCd::execute(AtaCommand& c) {
  AtaRegisters& r = c.registers;
  switch (r.command) {
    case 0xa0: {
      if (!c.have_packet && c.data.size() >= 12) std::copy_n(c.data.begin(), 12, c.packet.begin());
      c.data.clear();
      // How much the host takes at once: even, not 0.
      u32 limit = r.mid_high();
      if (limit == 0xffff || limit == 0) limit = 0xfffe;
      c.block_bytes = limit & 1 ? limit - 1 : limit;
      if (c.block_bytes == 0) c.block_bytes = 2;
      co_await packet(c, c.packet);
      break;
    }
    case 0xa1: fill_identity(c); break;
    case 0xec:
      signature(r);
      r.status = ata::drdy | ata::err, r.error = ata::abrt;
      break;
    case 0x08:
    case 0x90: signature(r); break;
    case 0xe0:
    case 0xe1:
    case 0xe7:
    case 0xea: c.done(); break;
    case 0xef:
      if ((r.features & 0xff) == 3) {
        const u8 mode = r.count & 7, kind = r.count >> 3 & 0x1f;
        dma_word_ = kind == 4 ? static_cast<u16>(0x100 << mode) : 0;
        ultra_word_ = kind == 8 ? static_cast<u16>(0x100 << mode) : 0;
      }
      c.done();
      break;
    default: c.abort(); break;
  }
  co_return Result<>{};
}

void IdeCd::fill_identity(AtaCommand& c) const {
  std::array<u16, 256> w{};
  w[0] = 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5;  // ATAPI, CD-ROM, removable, DRQ within 50 µs, packets of 12 bytes
  put_words(std::span{w}.subspan(10, 10), disk_.serial);
  w[20] = 3, w[21] = 512, w[22] = 4;
  put_words(std::span{w}.subspan(23, 4), version_);
  put_words(std::span{w}.subspan(27, 20), model_);
  w[48] = 1;
  w[49] = 1 << 9 | 1 << 8;
  w[53] = 7;
  w[62] = 7, w[63] = 7 | dma_word_;
  w[64] = 1;
  w[65] = w[66] = 0xb4, w[67] = 0x12c, w[68] = 0xb4;
  w[71] = 30, w[72] = 30;
  w[80] = 0x1e;
  w[88] = 0x3f | ultra_word_;
  c.data.resize(512);
  for (unsigned i = 0; i < 256; i++) store_le<u16>(&c.data[2 * i], w[i]);
  c.done();
}

// --- SCSI's side

Task<> IdeCd::packet(AtaCommand& c, std::array<u8, 16> p) {
  const u8 operation = p[0];
  // A new medium is told once, to the first command that may hear of it.
  if (changed_ && operation != inquiry && operation != request_sense && operation != get_event && operation != get_configuration) {
    changed_ = false;
    check(c, medium_changed_sense);
    co_return Result<>{};
  }
  const bool wants_medium = operation == test_unit_ready || operation == read_capacity || operation == read_10 || operation == read_12 ||
                            operation == read_cd || operation == read_toc || operation == seek_10 || operation == read_disc_information ||
                            operation == read_dvd_structure;
  if (wants_medium && !ready()) {
    check(c, no_medium);
    co_return Result<>{};
  }
  switch (operation) {
    case test_unit_ready:
    case set_speed: good(c); break;
    case request_sense: {
      std::array<u8, 18> s{};
      s[0] = 0x70, s[2] = sense_.key, s[7] = 10, s[12] = sense_.code, s[13] = sense_.qualifier;
      if (changed_ && !sense_.key) s[2] = medium_changed_sense.key, s[12] = medium_changed_sense.code, changed_ = false;
      answer(c, s, p[4]);
      break;
    }
    case inquiry: {
      if (p[1] & 1) {  // vital product data
        if (p[2] == 0x00) {
          const u8 pages[] = {5, 0x00, 0, 2, 0x00, 0x83};
          answer(c, pages, load_be<u16>(&p[3]));
        } else if (p[2] == 0x83) {
          std::array<u8, 28> page{};
          page[0] = 5, page[1] = 0x83, page[3] = 24, page[4] = 2, page[7] = 20;
          put_text(std::span{page}.subspan(8), disk_.serial);
          answer(c, page, load_be<u16>(&p[3]));
        } else {
          check(c, invalid_field);
        }
        break;
      }
      std::array<u8, 36> i{};
      i[0] = 5, i[1] = 0x80, i[3] = 0x21, i[4] = 31;
      put_text(std::span{i}.subspan(8, 8), "QEMU");
      put_text(std::span{i}.subspan(16, 16), "QEMU DVD-ROM");
      put_text(std::span{i}.subspan(32, 4), version_);
      answer(c, i, p[4]);
      break;
    }
    case start_stop: do_start_stop(c, p); break;
    case prevent_removal:
      prevented_ = p[4] & 1;
      good(c);
      break;
    case read_capacity: {
      std::array<u8, 8> a{};
      store_be<u32>(&a[0], static_cast<u32>(std::min<u64>(blocks() - (blocks() ? 1 : 0), ~u32{0})));
      store_be<u32>(&a[4], block);
      answer(c, a, a.size());
      break;
    }
    case read_10: co_await read(c, load_be<u32>(&p[2]), load_be<u16>(&p[7])); break;
    case read_12: co_await read(c, load_be<u32>(&p[2]), load_be<u32>(&p[6])); break;
    case read_cd: {
      const u64 count = u64{p[6]} << 16 | load_be<u16>(&p[7]);
      if (count == 0 || (p[9] & 0xf8) == 0)
        good(c);
      else if ((p[9] & 0xf8) == 0x10)
        co_await read(c, load_be<u32>(&p[2]), count);  // user data alone
      else
        check(c, invalid_field);
      break;
    }
    case seek_10: load_be<u32>(&p[2]) < blocks() ? good(c) : check(c, out_of_range); break;
    case read_toc: do_toc(c, p); break;
    case get_configuration: do_configuration(c, p); break;
    case get_event: {
      if (!(p[1] & 1)) {
        check(c, invalid_field);
        break;
      }
      std::array<u8, 8> e{};
      e[3] = 0x10;  // supported: media events
      if (p[4] & 0x10) {
        e[1] = 6, e[2] = 4;
        e[4] = std::exchange(event_, u8{0});
        e[5] = static_cast<u8>((tray_open_ ? 1 : 0) | (ready() ? 2 : 0));
        answer(c, e, load_be<u16>(&p[7]));
      } else {
        e[1] = 2, e[2] = 0x80;
        answer(c, std::span{e}.first(4), load_be<u16>(&p[7]));
      }
      break;
    }
    case read_disc_information: {
      std::array<u8, 34> d{};
      d[1] = 32, d[2] = 0x0e, d[3] = d[4] = d[5] = d[6] = 1, d[7] = 0x20;
      answer(c, d, load_be<u16>(&p[7]));
      break;
    }
    case mode_sense_10: do_mode_sense(c, p); break;
    case mechanism_status: {
      std::array<u8, 8> m{};
      m[1] = static_cast<u8>(tray_open_ ? 0x10 : 0);
      m[5] = 1;
      answer(c, m, load_be<u16>(&p[8]));
      break;
    }
    case read_dvd_structure: do_dvd_structure(c, p); break;
    default: check(c, invalid_command); break;
  }
  co_return Result<>{};
}

Task<> IdeCd::read(AtaCommand& c, u64 first, u64 count) {
  if (count == 0) {
    good(c);
    co_return Result<>{};
  }
  if (first >= blocks() || count > blocks() - first || (!c.dma && count > most_pio_blocks)) {
    check(c, out_of_range);
    co_return Result<>{};
  }
  if (!c.dma) {
    std::vector<u8> bytes(count * block);
    const Result<> done = co_await attempt(requests_.read(first * block, bytes));
    if (!done) {
      check(c, read_error);
      co_return Result<>{};
    }
    good(c);
    c.data = std::move(bytes);
    c.packet_in = true;
    co_return Result<>{};
  }
  std::vector<u8> bytes(std::min(count, chunk_blocks) * block);
  while (count) {
    const u64 now = std::min(count, chunk_blocks);
    const std::span<u8> part{bytes.data(), now * block};
    const Result<> done = co_await attempt(requests_.read(first * block, part));
    if (!done) {
      check(c, read_error);
      co_return Result<>{};
    }
    if (!c.dma->put(part)) {
      c.abort();
      co_return Result<>{};
    }
    first += now, count -= now;
  }
  good(c);
  co_return Result<>{};
}

void IdeCd::do_start_stop(AtaCommand& c, std::span<const u8> p) {
  const bool start = p[4] & 1, load_eject = p[4] & 2;
  if (p[4] & 0xf0) return good(c);  // power conditions
  if (load_eject) {
    if (!start && !tray_open_ && prevented_) return check(c, removal_prevented);
    set_tray(!start);
  }
  good(c);
}

void IdeCd::do_toc(AtaCommand& c, std::span<const u8> p) {
  const bool msf = p[1] & 2;
  const u8 format = p[2] & 0xf ? p[2] & 0xf : p[9] >> 6, track = p[6];
  const usize allocated = load_be<u16>(&p[7]);
  std::vector<u8> t;
  const auto address = [&](u64 lba) {
    u8 a[4] = {};
    msf ? put_msf(&a[1], lba) : store_be<u32>(a, static_cast<u32>(lba));
    t.insert(t.end(), a, a + 4);
  };
  if (format == 0) {
    if (track > 1 && track != 0xaa) return check(c, invalid_field);
    t = {0, 0, 1, 1};
    if (track <= 1) {
      t.insert(t.end(), {0, 0x14, 1, 0});
      address(0);
    }
    t.insert(t.end(), {0, 0x16, 0xaa, 0});
    address(blocks());
  } else if (format == 1) {  // sessions: one
    t = {0, 0, 1, 1, 0, 0x14, 1, 0};
    address(0);
  } else if (format == 2) {  // the raw table of contents
    t = {0, 0, 1, 1};
    const auto entry = [&](u8 point, u8 minute, u8 second, u8 frame) {
      t.insert(t.end(), {1, 0x14, 0, point, 0, 0, 0, 0, minute, second, frame});
    };
    u8 end[3];
    put_msf(end, blocks());
    entry(0xa0, 1, 0, 0);
    entry(0xa1, 1, 0, 0);
    entry(0xa2, end[0], end[1], end[2]);
    entry(1, 0, 2, 0);
  } else {
    return check(c, invalid_field);
  }
  store_be<u16>(t.data(), static_cast<u16>(t.size() - 2));
  answer(c, t, allocated);
}

void IdeCd::do_mode_sense(AtaCommand& c, std::span<const u8> p) {
  const u8 page = p[2] & 0x3f, control = p[2] >> 6;
  if (control == 3) return check(c, {5, 0x39, 0});  // saved values: none
  std::vector<u8> m(8);
  m[2] = static_cast<u8>(!ready() ? 0x70 : dvd() ? 0x31 : 0x01);
  const bool all = page == 0x3f;
  if (page != 0x01 && page != 0x2a && page != 0x0e && !all) return check(c, invalid_field);
  if (page == 0x01 || all) m.insert(m.end(), {0x01, 6, 0, 5, 0, 0, 0, 0});  // error recovery: 5 retries
  if (page == 0x0e || all) m.insert(m.end(), {0x0e, 14, 4, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0});
  if (page == 0x2a || all) {
    std::array<u8, 22> s{};
    s[0] = 0x2a, s[1] = 20;
    s[2] = 0x3b;                                                           // reads CD-R, CD-RW, DVD-ROM, DVD-R
    s[4] = 0x70;                                                           // mode 2 forms, sessions
    s[6] = static_cast<u8>(0x20 | 0x08 | 0x01 | (prevented_ ? 0x02 : 0));  // tray, can eject and lock; locked
    store_be<u16>(&s[8], 706 * 10);
    store_be<u16>(&s[10], 2);
    store_be<u16>(&s[12], 512);
    store_be<u16>(&s[14], 706 * 10);
    m.insert(m.end(), s.begin(), s.end());
  }
  store_be<u16>(m.data(), static_cast<u16>(m.size() - 2));
  answer(c, m, load_be<u16>(&p[7]));
}

void IdeCd::do_configuration(AtaCommand& c, std::span<const u8> p) {
  if ((p[1] & 3) == 3) return check(c, invalid_field);
  const u16 starting = load_be<u16>(&p[2]), profile = !ready() ? 0 : dvd() ? 0x10 : 0x08;
  const bool one = (p[1] & 3) == 2;
  std::vector<u8> f(8);
  store_be<u16>(&f[6], profile);
  const auto feature = [&](u16 code, std::initializer_list<u8> body) {
    if (one ? code != starting : code < starting) return;
    f.insert(f.end(), {static_cast<u8>(code >> 8), static_cast<u8>(code)});
    f.insert(f.end(), body);
  };
  const u8 is_dvd = profile == 0x10, is_cd = profile == 0x08;
  feature(0x0000, {3, 8, 0, 0x10, is_dvd, 0, 0, 0x08, is_cd, 0});  // profiles
  feature(0x0001, {0x0b, 8, 0, 0, 0, 2, 1, 0, 0, 0});              // core: ATAPI
  feature(0x0003, {3, 4, 0x29, 0, 0, 0});                          // removable: tray, eject, lock
  store_be<u32>(f.data(), static_cast<u32>(f.size() - 4));
  answer(c, f, load_be<u16>(&p[7]));
}

void IdeCd::do_dvd_structure(AtaCommand& c, std::span<const u8> p) {
  if (!dvd()) return check(c, {5, 0x30, 2});
  if (p[7] != 0 || p[6] != 0) return check(c, invalid_field);  // physical format of layer 0 only
  std::vector<u8> d(4 + 2048);
  store_be<u16>(d.data(), 2048 + 2);
  d[4] = 1, d[5] = 0x0f, d[6] = 1;  // DVD-ROM, one layer, read-only
  store_be<u32>(&d[8], 0x30000);
  store_be<u32>(&d[12], static_cast<u32>(0x30000 + blocks() - 1));
  answer(c, d, load_be<u16>(&p[8]));
}

}  // namespace vmm::hw
