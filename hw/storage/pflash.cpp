// cfi.pflash01. Sources: Intel StrataFlash data sheet 290667 (command set 01, status register), JEDEC JESD68 (CFI tables), and what OVMF's
// flash driver asks for (the status reads 0 after a "clear status"). The whole array lives in RAM; what the guest stores there goes to the
// drive in the order of the array's changes, by one writer. Not modelled: block locks, suspend, several chips side by side.
#include "hw/storage/pflash.h"

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/async.h"

namespace vmm::hw {

namespace {
constexpr u8 ready = 0x80, erase_failed = 0x20, program_failed = 0x10;
constexpr u32 buffer_bytes = 2048;
constexpr u64 store_granule = 4096;  // what goes to the drive at least
}  // namespace

constexpr Field Pflash::properties[13] = {
    field<&Pflash::drive_>("drive", "Node name or id of a drive with the contents"),
    field<&Pflash::block_count_>("num-blocks", "Number of blocks"),
    field<&Pflash::sector_bytes_>("sector-length", "Bytes of a block"),
    field<&Pflash::width_>("width", "Bytes that the bank is wide", {.min = 1, .max = 4}),
    field<&Pflash::device_width_>("device-width", "Bytes that one chip is wide", {.max = 4}),
    field<&Pflash::max_device_width_>("max-device-width", "Bytes that one chip can be wide", {.max = 4}),
    field<&Pflash::secure_>("secure", "Only CPUs in SMM may write"),
    field<&Pflash::big_endian_>("big-endian", "Byte order of the bank"),
    field<&Pflash::id0_>("id0", "Manufacturer"),
    field<&Pflash::id1_>("id1", "Device"),
    field<&Pflash::id2_>("id2", "Device, second word"),
    field<&Pflash::id3_>("id3", "Device, third word"),
    field<&Pflash::name_>("name", "Name of the memory region"),
};
constexpr Field Pflash::state[] = {
    field<&Pflash::mode_>("mode", "what a read shows and a write means"),
    field<&Pflash::status_>("status", "status register"),
    field<&Pflash::buffer_at_>("buffer-at", "where the write buffer goes"),
    field<&Pflash::buffer_left_>("buffer-left", "bytes that the write buffer still takes"),
    field<&Pflash::buffer_>("buffer", "write buffer"),
};
constinit const TypeInfo Pflash::type{
    .name = "cfi.pflash01",
    .doc = "NOR flash with the Intel command set.",
    .parent = &Device::type,
    .properties = properties,
    .state = state,
    .make = make<Pflash>,
    .category = "Storage devices",
    .user_creatable = false,
    .sample = "cfi.pflash01,num-blocks=16,sector-length=4096,name=sample.flash",
};
static Registered registered{Pflash::type};

Pflash::~Pflash() {
  if (drive_ && drive_->client() == this) drive_->detach(*this);
}

void Pflash::set_drive(block::BackendRef drive, std::string name) {
  drive_ = std::move(drive), name_ = std::move(name);
  sector_bytes_ = 4096;
  block_count_ = static_cast<u32>(drive_->length_bytes() / sector_bytes_);
}

// --- Life

Result<> Pflash::realize() {
  if (!std::has_single_bit(width_)) return fail("'width' takes 1, 2 or 4, not {}", width_);
  if (sector_bytes_ == 0 || block_count_ == 0) return fail("'num-blocks' and 'sector-length' must not be 0");
  if (sector_bytes_ % memory::page_bytes || sector_bytes_ > 16 * MiB || size_bytes() > 256 * MiB)
    return fail("{} blocks of {} bytes are no flash that a board holds", block_count_, sector_bytes_);
  if (big_endian_) return fail("'big-endian' banks are not available");
  const memory::IoSizes sizes{.min = 1, .max = 4, .valid_min = 1, .valid_max = 8, .unaligned = true};
  TRY(flash_.init_rom_device(this, name_, size_bytes(), memory::MemoryRegion::member_ops<&Pflash::read, &Pflash::write, Pflash>(), this,
                             sizes));
  if (secure_) {
    public_.init_ram(this, name_ + ".public", flash_.ram());
    public_.set_read_only(true);
  }
  std::memset(bytes(), 0xff, size_bytes());
  if (drive_) {
    TRY(drive_->attach(*this));
    if (auto started = drive_->start(!drive_->read_only(), false); !started) {
      drive_->detach(*this);
      return started;
    }
    if (drive_->length_bytes() != size_bytes()) {
      drive_->detach(*this);
      return fail("{} has {} bytes, the flash {}", drive_->description(), drive_->length_bytes(), size_bytes());
    }
    auto done = run_task(machine().main_loop(), drive_->read(0, block::IoVector{std::span{bytes(), size_bytes()}}));
    if (!done) {
      drive_->detach(*this);
      return fail("could not read {}: {}", drive_->description(), done.error().message);
    }
  }
  return map(flash_);
}

Task<> Pflash::unrealize() {
  while (storing_) co_await stored_.wait();
  if (drive_) drive_->detach(*this);
  co_return Result<>{};
}

void Pflash::reset() {
  status_ = ready;
  buffer_left_ = 0;
  set_mode(PflashMode::array);
}

Result<> Pflash::after_load() {
  if (buffer_.size() > buffer_bytes || buffer_left_ > buffer_bytes || buffer_at_ > size_bytes() - buffer_bytes)
    return fail("the write buffer lies outside the flash");
  flash_.set_romd(mode_ == PflashMode::array);
  return {};
}

// --- The guest's side

void Pflash::set_mode(PflashMode mode) {
  mode_ = mode;
  if (flash_.romd() != (mode == PflashMode::array)) flash_.set_romd(mode == PflashMode::array);
}

u64 Pflash::read(u64 at, unsigned size) {
  u64 value = 0;
  switch (mode_) {
    case PflashMode::array:
    case PflashMode::program: std::memcpy(&value, bytes() + at, size); break;
    case PflashMode::status:
    case PflashMode::erase:
    case PflashMode::lock:
    case PflashMode::buffer_count:
    case PflashMode::buffer_data:
    case PflashMode::buffer_confirm:
      for (unsigned i = 0; i < size; i += width_) value |= u64{status_} << 8 * i;
      break;
    case PflashMode::id:
      switch (at / width_ & 0xff) {
        case 0: value = id0_ << 8 | id1_; break;
        case 1: value = id2_ << 8 | id3_; break;
        default: value = 0; break;  // no block is locked
      }
      break;
    case PflashMode::cfi: value = cfi(at / width_); break;
  }
  return value;
}

void Pflash::write(u64 at, unsigned size, u64 value) {
  const u8 code = static_cast<u8>(value);
  switch (mode_) {
    case PflashMode::program:
      program(at, size, value);
      status_ |= ready;
      set_mode(PflashMode::status);
      return;
    case PflashMode::erase:
      if (code == 0xd0)
        erase(at);
      else
        status_ |= ready | erase_failed | program_failed;  // a wrong sequence
      set_mode(PflashMode::status);
      return;
    case PflashMode::lock:
      status_ |= ready;
      set_mode(code == 0xff ? PflashMode::array : PflashMode::status);
      return;
    case PflashMode::buffer_count:
      // The count, less one, in units of the bank's width; the buffer begins at its own alignment.
      buffer_left_ = std::min<u64>(((value & 0xffff) + 1) * width_, buffer_bytes);
      buffer_at_ = align_down(at, u64{buffer_bytes});
      buffer_.assign(bytes() + buffer_at_, bytes() + buffer_at_ + std::min<u64>(buffer_bytes, size_bytes() - buffer_at_));
      mode_ = PflashMode::buffer_data;
      return;
    case PflashMode::buffer_data:
      if (at < buffer_at_ || at + size > buffer_at_ + buffer_.size()) {
        guest_error(type.name, "write to {:#x} leaves the buffer at {:#x}", at, buffer_at_);
        status_ |= ready | program_failed;
        set_mode(PflashMode::status);
        return;
      }
      for (unsigned i = 0; i < size; i++) buffer_[at - buffer_at_ + i] &= static_cast<u8>(value >> 8 * i);
      buffer_left_ -= std::min<u32>(buffer_left_, size);
      if (buffer_left_ == 0) mode_ = PflashMode::buffer_confirm;
      return;
    case PflashMode::buffer_confirm:
      if (code == 0xd0) {
        std::memcpy(bytes() + buffer_at_, buffer_.data(), buffer_.size());
        stored(buffer_at_, buffer_.size());
        status_ |= ready;
      } else {
        status_ |= ready | program_failed;
      }
      buffer_.clear();
      set_mode(PflashMode::status);
      return;
    default: command(at, code); return;
  }
}

void Pflash::command(u64 at, u8 code) {
  switch (code) {
    case 0x00:
    case 0xf0:  // the other command set's reset, which drivers probe with
    case 0xff: return set_mode(PflashMode::array);
    case 0x10:
    case 0x40: return set_mode(PflashMode::program);
    case 0x20:
    case 0x28: return set_mode(PflashMode::erase);
    case 0x50: status_ = 0; return set_mode(PflashMode::array);
    case 0x60: return set_mode(PflashMode::lock);
    case 0x70: return set_mode(PflashMode::status);
    case 0x90: return set_mode(PflashMode::id);
    case 0x98: return set_mode(PflashMode::cfi);
    case 0xe8: status_ |= ready; return set_mode(PflashMode::buffer_count);
    default: guest_error(type.name, "unknown command {:#x} at {:#x}", code, at); return set_mode(PflashMode::array);
  }
}

// Programming clears bits, never sets them.
void Pflash::program(u64 at, unsigned size, u64 value) {
  if (drive_ && drive_->read_only()) {
    status_ |= program_failed;
    return;
  }
  for (unsigned i = 0; i < size; i++) bytes()[at + i] &= static_cast<u8>(value >> 8 * i);
  stored(at, size);
}

void Pflash::erase(u64 at) {
  status_ |= ready;
  if (drive_ && drive_->read_only()) {
    status_ |= erase_failed;
    return;
  }
  at = at / sector_bytes_ * sector_bytes_;
  std::memset(bytes() + at, 0xff, sector_bytes_);
  stored(at, sector_bytes_);
}

// Query table: identification, voltages and times as the data sheet's, then geometry.
u8 Pflash::cfi(u64 index) const {
  const u64 blocks = block_count_ - 1, sector = sector_bytes_ >> 8;
  switch (index) {
    case 0x10: return 'Q';
    case 0x11: return 'R';
    case 0x12: return 'Y';
    case 0x13: return 0x01;  // Intel's command set
    case 0x15: return 0x31;  // where the table of that command set is
    case 0x1b: return 0x45;
    case 0x1c: return 0x55;
    case 0x1f: return 0x07;
    case 0x20: return 0x07;
    case 0x21: return 0x0a;
    case 0x23: return 0x04;
    case 0x24: return 0x04;
    case 0x25: return 0x04;
    case 0x27: return static_cast<u8>(std::bit_width(size_bytes()) - 1);
    case 0x28: return 0x02;
    case 0x2a: return static_cast<u8>(std::bit_width(buffer_bytes) - 1);
    case 0x2c: return 1;  // one region of equal blocks
    case 0x2d: return static_cast<u8>(blocks);
    case 0x2e: return static_cast<u8>(blocks >> 8);
    case 0x2f: return static_cast<u8>(sector);
    case 0x30: return static_cast<u8>(sector >> 8);
    case 0x31: return 'P';
    case 0x32: return 'R';
    case 0x33: return 'I';
    case 0x34: return '1';
    case 0x35: return '0';
    case 0x3f: return 0x01;  // protection registers: one
    default: return 0;
  }
}

// --- The drive's side

void Pflash::stored(u64 at, u64 length) {
  // Other readers of the array: debuggers, vCPUs that run code out of it.
  flash_.ram()->mark_dirty(at, length);
  if (auto* listener = memory::code_listener.load(std::memory_order_acquire)) listener->ram_written(*flash_.ram(), at, length);
  if (!drive_) return;
  dirty_from_ = std::min(dirty_from_, align_down(at, store_granule));
  dirty_to_ = std::max(dirty_to_, std::min(align_up(at + length, store_granule), size_bytes()));
  if (storing_) return;
  storing_ = true;
  machine().main_loop().post([this, hold = Ref<Pflash>{this}] {
    store().start([this, hold](Result<>) {
      storing_ = false;
      stored_.wake_all();
    });
  });
}

// Works off what is dirty; more may become so while it waits.
Task<> Pflash::store() {
  while (dirty_from_ < dirty_to_) {
    const u64 from = std::exchange(dirty_from_, ~u64{0}), to = std::exchange(dirty_to_, 0);
    std::vector<u8> copy(bytes() + from, bytes() + to);
    Result<> done = co_await attempt(drive_->write(from, block::IoVector{std::span{copy}}));
    if (done && dirty_from_ >= dirty_to_) done = co_await attempt(drive_->flush());
    if (!done) report_warning(format("{}: could not store the flash's contents: {}", drive_->description(), done.error().message));
  }
  co_return Result<>{};
}

}  // namespace vmm::hw
