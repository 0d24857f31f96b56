#include "hw/storage/ide_channel.h"

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {
constexpr u8 no_interrupts = 2, software_reset = 4, high_order = 0x80;  // device control
constexpr u8 master_start = 1, master_to_memory = 8;
constexpr u8 master_active = 1, master_error = 2, master_interrupt = 4;
constexpr u32 most_entries = 8192;  // a table ends at 64 KiB
}  // namespace

void IdeChannel::init(Device& owner, std::string bus_name, unsigned number, std::function<memory::AddressSpace*()> dma) {
  owner_ = &owner, dma_ = std::move(dma);
  Ref<IdeBus> bus = make_object<IdeBus>();
  bus->channel = number;
  bus_ = bus.get();
  owner.add_bus(std::move(bus_name), bus);
  bus_->drive_changed = [this](unsigned unit) {
    registers_[unit] = {};
    if (IdeDevice* d = bus_->drive(unit)) d->signature(registers_[unit]);
  };
  const auto ops = memory::MemoryRegion::member_ops<&IdeChannel::read, &IdeChannel::write, IdeChannel>();
  command_ports.init_io(&owner, "ide", 8, ops, this, {.min = 1, .max = 4, .unaligned = true});
  const auto control = memory::MemoryRegion::member_ops<&IdeChannel::control_read, &IdeChannel::control_write, IdeChannel>();
  control_port.init_io(&owner, "ide", 1, control, this, {.min = 1, .max = 1});
}

void IdeChannel::reset() {
  epoch_++;
  select_ = control_ = 0;
  interrupt_ = waiting_dma_ = run_after_ = again_ = false;
  under_way_ = nullptr;
  phase_ = Phase::none;
  buffer_.clear();
  master_command_ = master_status_ = 0;
  table_ = 0;
  for (unsigned u = 0; u < 2; u++) {
    registers_[u] = {};
    if (IdeDevice* d = bus_->drive(u)) d->signature(registers_[u]);
  }
}

void IdeChannel::settle() { irq.set(interrupt_ && !(control_ & no_interrupts)); }

void IdeChannel::raise() {
  interrupt_ = true;
  if (control_ & no_interrupts) return;
  master_status_ |= master_interrupt;
  irq.set(true);
}

void IdeChannel::lower() {
  interrupt_ = false;
  irq.set(false);
}

// --- Task file

u64 IdeChannel::read(u64 at, unsigned size) {
  if (at == 0) return data_read(size);
  if (size != 1) return ~u64{0};
  const bool any = bus_->drive(0) || bus_->drive(1);
  if (!any || (!drive() && at != 6)) return 0;
  const bool high = control_ & high_order;
  const AtaRegisters& r = selected();
  switch (at) {
    case 1: return high ? r.features >> 8 : r.error;
    case 2: return high ? r.count >> 8 : r.count & 0xff;
    case 3: return r.lba >> (high ? 24 : 0) & 0xff;
    case 4: return r.lba >> (high ? 32 : 8) & 0xff;
    case 5: return r.lba >> (high ? 40 : 16) & 0xff;
    case 6: return (r.device & 0x4f) | 0xa0 | select_ << 4;
    default: lower(); return r.status;
  }
}

void IdeChannel::write(u64 at, unsigned size, u64 value) {
  if (at == 0) return data_write(size, value);
  if (size != 1) return;
  const u8 v = static_cast<u8>(value);
  control_ &= static_cast<u8>(~high_order);
  if (at != 7 && drive() && (selected().status & ata::bsy)) {
    guest_error("ide", "register {} written while the drive is busy", at);
    return;
  }
  // Both drives hear what is written; a command is for the selected one.
  const auto shift_in = [&](unsigned low) {
    for (AtaRegisters& r : registers_) {
      const u64 before = r.lba >> low & 0xff;
      r.lba = (r.lba & ~(u64{0xff} << low) & ~(u64{0xff} << (low + 24))) | u64{v} << low | before << (low + 24);
    }
  };
  switch (at) {
    case 1:
      for (AtaRegisters& r : registers_) r.features = static_cast<u16>(r.features << 8 | v);
      break;
    case 2:
      for (AtaRegisters& r : registers_) r.count = static_cast<u16>(r.count << 8 | v);
      break;
    case 3: shift_in(0); break;
    case 4: shift_in(8); break;
    case 5: shift_in(16); break;
    case 6:
      for (AtaRegisters& r : registers_) r.device = v;
      select_ = v >> 4 & 1;
      break;
    default: start(v); break;
  }
}

u64 IdeChannel::control_read(u64, unsigned) { return drive() ? selected().status : 0; }

void IdeChannel::control_write(u64, unsigned, u64 value) {
  const u8 before = std::exchange(control_, static_cast<u8>(value));
  if (control_ & software_reset) {
    if (!(before & software_reset)) soft_reset();
    for (AtaRegisters& r : registers_) r.status = ata::bsy;
    return;
  }
  if (before & software_reset) {
    select_ = 0;
    for (unsigned u = 0; u < 2; u++)
      if (IdeDevice* d = bus_->drive(u)) registers_[u].device = 0, d->signature(registers_[u]);
  }
  settle();
}

void IdeChannel::soft_reset() {
  epoch_++;
  phase_ = Phase::none;
  buffer_.clear();
  waiting_dma_ = run_after_ = again_ = false;
  under_way_ = nullptr;
  master_status_ &= static_cast<u8>(~master_active);
  for (unsigned u = 0; u < 2; u++)
    if (IdeDevice* d = bus_->drive(u)) d->reset();
  lower();
}

// --- Commands

void IdeChannel::start(u8 command) {
  IdeDevice* d = drive();
  if (!d) return;
  const bool device_reset = command == 0x08 && d->packets();
  if ((selected().status & (ata::bsy | ata::drq)) && !device_reset) {
    guest_error("ide", "command {:#x} while the drive is busy", command);
    return;
  }
  if (device_reset) epoch_++, again_ = false, under_way_ = nullptr;
  lower();
  selected().command = command;
  buffer_.clear();
  position_ = 0;
  if (const u32 wanted = d->bytes_from_host(selected())) {
    buffer_.resize(wanted);
    block_bytes_ = d->block_from_host(selected());
    phase_ = d->packets() ? Phase::packet : Phase::to_drive;
    block_end_ = std::min<usize>(block_bytes_, wanted);
    if (d->packets()) selected().count = 1;  // a command goes to the drive
    selected().status = ata::drdy | ata::dsc | ata::drq;
    return;
  }
  phase_ = Phase::none;
  run();
}

// All bytes from the host are here; DMA commands also wait for the bus master.
void IdeChannel::run() {
  IdeDevice* d = drive();
  selected().status = ata::drdy | ata::dsc | ata::bsy;
  phase_ = Phase::none;
  if (running_) {  // an older one, from before a reset, has not ended
    run_after_ = true;
    return;
  }
  const bool dma = d->by_dma(selected());
  if (dma && !(master_status_ & master_active)) {
    waiting_dma_ = true;
    return;
  }
  waiting_dma_ = false;
  running_ = true, running_unit_ = select_;
  owner_->machine().main_loop().post([this, epoch = epoch_, dma, hold = Ref<Device>{owner_}, device = Ref<IdeDevice>{d}] {
    if (epoch != epoch_) return finished(epoch, {});
    auto command = std::make_shared<AtaCommand>();
    command->registers = registers_[running_unit_];
    command->dma = dma ? this : nullptr;
    command->data = std::move(buffer_);
    buffer_.clear();
    under_way_ = command;
    device->execute(*command).start([this, epoch, command, hold, device](Result<>) { finished(epoch, std::move(*command)); });
  });
}

void IdeChannel::finished(u64 epoch, AtaCommand command) {
  running_ = false;
  if (epoch != epoch_) {
    if (std::exchange(run_after_, false)) run();
    return;
  }
  under_way_ = nullptr;
  AtaRegisters& r = registers_[running_unit_];
  r = command.registers;
  if (command.dma) {
    master_status_ &= static_cast<u8>(~master_active);
    if (r.status & ata::err && r.error == ata::abrt) master_status_ |= master_error;
  }
  if (!command.data.empty()) {
    buffer_ = std::move(command.data);
    position_ = block_end_ = 0;
    block_bytes_ = command.block_bytes;
    phase_ = command.packet_in ? Phase::packet_to_host : Phase::to_host;
    next_block();
    return;
  }
  raise();
}

// --- Programmed I/O

// Offers the next block to the host, or ends the phase.
void IdeChannel::next_block() {
  const bool to_host = phase_ == Phase::to_host || phase_ == Phase::packet_to_host;
  if (block_end_ == buffer_.size()) {
    const Phase ended = std::exchange(phase_, Phase::none);
    if (!to_host) return run();
    buffer_.clear();
    selected().status = ata::drdy | ata::dsc;
    if (ended == Phase::packet_to_host) {
      selected().count = 3;
      raise();
    }
    return;
  }
  block_end_ = std::min(position_ + block_bytes_, buffer_.size());
  selected().status = ata::drdy | ata::dsc | ata::drq;
  if (phase_ == Phase::packet_to_host) {
    selected().set_mid_high(static_cast<u16>(block_end_ - position_));
    selected().count = 2;  // data, to the host
  }
  raise();
}

u64 IdeChannel::data_read(unsigned size) {
  if (phase_ != Phase::to_host && phase_ != Phase::packet_to_host) return 0;
  u64 value = 0;
  const usize bytes = std::min<usize>(size, block_end_ - position_);
  std::memcpy(&value, &buffer_[position_], bytes);
  position_ += bytes;
  if (position_ == block_end_) next_block();
  return value;
}

void IdeChannel::data_write(unsigned size, u64 value) {
  if (phase_ != Phase::to_drive && phase_ != Phase::packet) return;
  const usize bytes = std::min<usize>(size, block_end_ - position_);
  std::memcpy(&buffer_[position_], &value, bytes);
  position_ += bytes;
  if (position_ == block_end_) next_block();
}

// --- Bus master

u64 IdeChannel::master_read(u64 at, unsigned size) {
  if (at >= 4 && at + size <= 8) return table_ >> 8 * (at - 4) & (size == 4 ? ~u32{0} : (1u << 8 * size) - 1);
  if (size != 1) return ~u64{0};
  return at == 0 ? master_command_ : at == 2 ? master_status_ : 0xff;
}

void IdeChannel::master_write(u64 at, unsigned size, u64 value) {
  if (at >= 4 && at + size <= 8) {
    const u32 mask = size == 4 ? ~u32{0} : ((1u << 8 * size) - 1) << 8 * (at - 4);
    table_ = ((table_ & ~mask) | (static_cast<u32>(value << 8 * (at - 4)) & mask)) & ~3u;
    return;
  }
  if (size != 1) return;
  const u8 v = static_cast<u8>(value);
  if (at == 0) {
    const bool was = master_command_ & master_start, now = v & master_start;
    master_command_ = v & (master_start | master_to_memory);
    if (now && !was) {
      master_status_ |= master_active;
      next_entry_ = 0, entry_left_ = 0, last_entry_ = false;
      if (waiting_dma_) run();
    } else if (!now && was) {
      master_status_ &= static_cast<u8>(~master_active);
    }
  } else if (at == 2) {
    // Active is read only; error and interrupt are cleared by ones; the drives' DMA bits are software's.
    const u8 keep = master_status_ & (master_active | master_error | master_interrupt);
    master_status_ = static_cast<u8>((v & 0x60) | (keep & ~(v & (master_error | master_interrupt))));
  }
}

// Walks the table: an address and a length (0: 64 KiB) an entry, bit 31 of the second word in the last.
template <class F>
bool IdeChannel::move(usize bytes, F part) {
  memory::AddressSpace* space = dma_();
  usize done = 0;
  while (done < bytes) {
    // After a reset the old command's memory is the driver's again, though the engine may run for the next one.
    if (!space || !(master_status_ & master_active) || !under_way_) return false;
    if (entry_left_ == 0) {
      if (last_entry_ || next_entry_ >= most_entries) return false;
      std::array<u8, 8> entry{};
      if (!space->read(GuestPhys{u64{table_} + 8 * u64{next_entry_}}, entry)) return false;
      next_entry_++;
      entry_at_ = load_le<u32>(&entry[0]) & ~1u;
      const u32 count = load_le<u32>(&entry[4]);
      entry_left_ = (count & 0xfffe) ? count & 0xfffe : 0x10000;
      last_entry_ = count >> 31;
    }
    const usize now = std::min<usize>(entry_left_, bytes - done);
    if (!part(*space, GuestPhys{entry_at_}, done, now)) return false;
    entry_at_ += static_cast<u32>(now), entry_left_ -= static_cast<u32>(now), done += now;
  }
  return true;
}

bool IdeChannel::put(std::span<const u8> from) {
  memory::InsideDevice inside{owner_};
  return move(from.size(),
              [&](memory::AddressSpace& space, GuestPhys at, usize done, usize n) { return space.write(at, from.subspan(done, n)); });
}

bool IdeChannel::get(std::span<u8> into) {
  memory::InsideDevice inside{owner_};
  return move(into.size(),
              [&](memory::AddressSpace& space, GuestPhys at, usize done, usize n) { return space.read(at, into.subspan(done, n)); });
}

// --- State

std::vector<u64> IdeChannel::words() const {
  std::vector<u64> w{select_,      control_,     interrupt_,      static_cast<u64>(phase_), position_, block_end_,
                     block_bytes_, waiting_dma_, master_command_, master_status_,           table_,    next_entry_,
                     entry_at_,    entry_left_,  last_entry_,     under_way_ || again_};
  for (const AtaRegisters& r : registers_)
    for (const u64 v : {u64{r.command}, u64{r.device}, u64{r.status}, u64{r.error}, u64{r.features}, u64{r.count}, r.lba}) w.push_back(v);
  return w;
}

Result<> IdeChannel::set_words(const std::vector<u64>& w) {
  if (w.size() != 16 + 2 * 7) return fail("{} values of an IDE channel, {} are due", w.size(), 16 + 2 * 7);
  if (w[0] > 1 || w[3] > static_cast<u64>(Phase::packet_to_host)) return fail("an IDE channel's state is out of range");
  epoch_++;
  usize i = 0;
  const auto next = [&] { return w[i++]; };
  select_ = static_cast<u8>(next()), control_ = static_cast<u8>(next()), interrupt_ = next() != 0;
  phase_ = static_cast<Phase>(next());
  position_ = next(), block_end_ = next(), block_bytes_ = static_cast<u32>(next()), waiting_dma_ = next() != 0;
  master_command_ = static_cast<u8>(next()), master_status_ = static_cast<u8>(next());
  table_ = static_cast<u32>(next()), next_entry_ = static_cast<u32>(next()), entry_at_ = static_cast<u32>(next());
  entry_left_ = static_cast<u32>(next()), last_entry_ = next() != 0;
  under_way_ = nullptr;
  again_ = next() != 0;
  for (AtaRegisters& r : registers_) {
    r.command = static_cast<u8>(next()), r.device = static_cast<u8>(next()), r.status = static_cast<u8>(next());
    r.error = static_cast<u8>(next()), r.features = static_cast<u16>(next()), r.count = static_cast<u16>(next()), r.lba = next();
  }
  return {};
}

// From its beginning, with the bytes that the host had sent: reading and writing twice does no harm.
void IdeChannel::go_on() {
  if (!std::exchange(again_, false) || !drive()) return;
  next_entry_ = 0, entry_left_ = 0, last_entry_ = false;
  run();
}

Result<> IdeChannel::loaded() const {
  const bool moves = phase_ != Phase::none;
  if (moves ? !(position_ <= block_end_ && block_end_ <= buffer_.size() && block_bytes_ >= 1 && position_ < buffer_.size()) : false)
    return fail("an IDE channel's transfer lies outside its buffer");
  return {};
}

}  // namespace vmm::hw
