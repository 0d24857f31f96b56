// ich9-ahci: Serial ATA ports with command lists. Sources: AHCI 1.3.1, Serial ATA 3.0 §10 (FIS layouts), Intel ICH9 data sheet §14 (PCI
// registers). Not modelled: port multipliers, staggered spin-up, enclosure management, power states of the link.
#include "hw/pci/pci.h"
#include "hw/storage/ide.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {

constexpr unsigned port_count = 6, slot_count = 32;

// Port registers, by offset.
enum PortRegister : u32 {
  p_clb = 0x00,
  p_clbu = 0x04,
  p_fb = 0x08,
  p_fbu = 0x0c,
  p_is = 0x10,
  p_ie = 0x14,
  p_cmd = 0x18,
  p_tfd = 0x20,
  p_sig = 0x24,
  p_ssts = 0x28,
  p_sctl = 0x2c,
  p_serr = 0x30,
  p_sact = 0x34,
  p_ci = 0x38,
};
enum Command : u32 {
  cmd_start = 1,
  cmd_spin_up = 2,
  cmd_power_on = 4,
  cmd_override = 8,
  cmd_fis = 0x10,
  cmd_fis_running = 1 << 14,
  cmd_running = 1 << 15,
  cmd_atapi = 1 << 24,
  cmd_phase = 0xfu << 28
};
enum Interrupt : u32 { i_d2h = 1, i_pio = 2, i_sdb = 8, i_connect = 1 << 6, i_fatal = 1u << 30 };
enum Global : u32 { ghc_reset = 1, ghc_interrupts = 2, ghc_ahci = 1u << 31 };

// Where the kinds of FIS that a device sends lie in the received area.
constexpr u64 fis_pio_setup = 0x20, fis_d2h = 0x40, fis_sdb = 0x58;

}  // namespace

class Ahci;

// The scatter list of one command header, for as long as its port's epoch lasts: after a reset the memory is the driver's again.
class AhciList final : public AtaDma {
 public:
  AhciList(memory::AddressSpace& space, Device* owner, GuestPhys table, u32 entries, const u64& epoch)
      : space_(space), owner_(owner), table_(table), entries_(entries), now_(epoch), epoch_(epoch) {}
  bool put(std::span<const u8> from) override {
    return move(from.size(), [&](GuestPhys at, usize done, usize n) { return space_.write(at, from.subspan(done, n)); });
  }
  bool get(std::span<u8> into) override {
    return move(into.size(), [&](GuestPhys at, usize done, usize n) { return space_.read(at, into.subspan(done, n)); });
  }
  u64 moved() const { return moved_; }

 private:
  template <class F>
  bool move(usize bytes, F part) {
    memory::InsideDevice inside{owner_};
    usize done = 0;
    if (now_ != epoch_) return false;
    while (done < bytes) {
      if (left_ == 0) {
        if (next_ >= entries_) return false;
        std::array<u8, 16> entry{};
        if (!space_.read(GuestPhys{table_.value + 16 * u64{next_}}, entry)) return false;
        next_++;
        at_ = load_le<u64>(&entry[0]) & ~u64{1};
        left_ = (load_le<u32>(&entry[12]) & 0x3f'ffff) + 1;
      }
      const usize now = std::min<usize>(left_, bytes - done);
      if (!part(GuestPhys{at_}, done, now)) return false;
      at_ += now, left_ -= static_cast<u32>(now), done += now, moved_ += now;
    }
    return true;
  }
  memory::AddressSpace& space_;
  Device* owner_;
  GuestPhys table_;
  u32 entries_, next_ = 0, left_ = 0;
  u64 at_ = 0, moved_ = 0;
  const u64& now_;  // of the port, which its controller's Ref keeps
  const u64 epoch_;
};

class AhciPort {
 public:
  void init(Ahci& controller, unsigned number, IdeBus* bus) { controller_ = &controller, number_ = number, bus_ = bus; }
  u32 read(u32 at) const;
  void write(u32 at, u32 value);
  void reset();  // of the controller
  void drive_changed();
  u32 pending() const { return interrupts_ & enabled_; }
  IdeDevice* drive() const { return bus_->drive(0); }
  std::vector<u64> words() const;
  void set_words(const u64* w);
  static constexpr usize word_count = 15;
  void go_on();  // the machine runs: commands of a loaded state start again

 private:
  friend class Ahci;
  void reset_link();
  void begin_epoch() { epoch_++, old_ = running_; }
  void forget_commands() { issued_ = active_ = started_ = executing_ = again_ = 0; }
  void start_commands();
  void start(unsigned slot);
  void finished(unsigned slot, u64 epoch, bool queued, const AtaCommand& command, u64 moved);
  void send_d2h(const AtaRegisters& r, bool interrupt);
  void send_pio_setup(const AtaRegisters& r, u32 bytes);
  void send_sdb(u32 done_slots, u8 status, u8 error);
  bool deliver(u64 at, std::span<const u8> fis);
  void raise(u32 bits);
  bool fis_on() const { return command_ & cmd_fis; }

  Ahci* controller_ = nullptr;
  unsigned number_ = 0;
  IdeBus* bus_ = nullptr;
  u64 list_ = 0, received_ = 0;
  u32 interrupts_ = 0, enabled_ = 0, command_ = cmd_spin_up | cmd_power_on, task_file_ = 0x7f, signature_ = ~u32{0}, link_status_ = 0,
      link_control_ = 0, link_error_ = 0, active_ = 0, issued_ = 0;
  u32 started_ = 0;         // of issued_: those that execute
  u32 executing_ = 0;       // slots whose command has not ended, queued ones too
  u32 again_ = 0;           // slots of a loaded state that executed (werror=stop)
  bool resetting_ = false;  // a control FIS with SRST came
  u64 epoch_ = 0;
  // Commands with the drive, and those of them that a reset has forgotten: no other one starts before they have ended, since an old write
  // could overtake a new one.
  u32 running_ = 0, old_ = 0;
};

class Ahci final : public PciDevice {
 public:
  static const TypeInfo type;
  Ahci() : PciDevice({.vendor = 0x8086, .device = 0x2922, .revision = 2, .class_code = 0x010601}) {}
  void reset() override;
  void settle() override {
    PciDevice::settle();
    update_line();
  }

 private:
  friend class AhciPort;
  static const Field state[];
  Result<> realize_pci() override;
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  u64 index_read(u64 at, unsigned size);
  void index_write(u64 at, unsigned size, u64 value);
  void update_line();
  memory::AddressSpace* dma() { return bus_master() ? &dma_space() : nullptr; }
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);

  std::array<AhciPort, port_count> ports_;
  u32 control_ = ghc_ahci, pending_ = 0, index_ = 0;
  WhenRunning when_running_;
  memory::MemoryRegion registers_, index_ports_;
};

constexpr Field Ahci::state[] = {computed<&Ahci::words, &Ahci::set_words>("registers", "global registers, then those of each port")};
constinit const TypeInfo Ahci::type{
    .name = "ich9-ahci",
    .doc = "The ICH9's Serial ATA controller, with six ports.",
    .parent = &PciDevice::type,
    .state = state,
    .make = make<Ahci>,
    .alias = "ahci",
    .category = "Storage devices",
};
static Registered registered{Ahci::type};

// --- The controller

Result<> Ahci::realize_pci() {
  set_interrupt_pin(1);
  registers_.init_io<&Ahci::read, &Ahci::write>(*this, "ahci", 0x1000, {.min = 4, .max = 4});
  when_running_.start(machine(), [this] {
    for (AhciPort& p : ports_) p.go_on();
  });
  index_ports_.init_io<&Ahci::index_read, &Ahci::index_write>(*this, "ahci-idp", 32, {.min = 4, .max = 4});
  add_bar(4, PciBarKind::io, index_ports_);
  add_bar(5, PciBarKind::memory32, registers_);
  set_config(0x90, 0x40, 1);  // AHCI mode
  next_capability_ = 0x80;
  TRY(add_msi(1, false));
  next_capability_ = 0xa8;
  const u8 sata = add_capability(0x12, 8);  // where the index-data pair is: BAR 4, at 16
  set_config(sata + 2, 0x10, 2);
  set_config(sata + 4, 0x48, 4);
  for (unsigned n = 0; n < port_count; n++) {
    Ref<IdeBus> bus = make_object<IdeBus>();
    bus->units = 1, bus->channel = n, bus->queues = true;
    bus->drive_changed = [this, n](unsigned) { ports_[n].drive_changed(); };
    add_bus(id().empty() ? format("ide.{}", n) : format("{}.{}", id(), n), bus);
    ports_[n].init(*this, n, bus.get());
  }
  return {};
}

void Ahci::reset() {
  PciDevice::reset();
  control_ = ghc_ahci, pending_ = index_ = 0;
  for (AhciPort& p : ports_) p.reset();
}

void Ahci::update_line() {
  u32 pending = 0;
  for (unsigned n = 0; n < port_count; n++)
    if (ports_[n].pending()) pending |= 1u << n;
  const bool rises = pending & ~pending_;
  pending_ |= pending;
  const bool on = pending_ && (control_ & ghc_interrupts);
  if (msi_enabled()) {
    if (on && rises) msi_notify(0);
  } else {
    set_intx(on);
  }
}

u64 Ahci::read(u64 at, unsigned) {
  if (at >= 0x100) {
    const u64 n = (at - 0x100) / 0x80;
    return n < port_count ? ports_[n].read(at & 0x7f) : 0;
  }
  switch (at) {
    case 0x00: return 0xc014'1f05;  // 6 ports, 32 slots, first and second generation, AHCI only, queues, 64 bits
    case 0x04: return control_;
    case 0x08: return pending_;
    case 0x0c: return (1u << port_count) - 1;
    case 0x10: return 0x0001'0000;
    default: return 0;
  }
}

void Ahci::write(u64 at, unsigned, u64 value) {
  const u32 v = static_cast<u32>(value);
  if (at >= 0x100) {
    const u64 n = (at - 0x100) / 0x80;
    if (n < port_count) ports_[n].write(at & 0x7f, v);
    return;
  }
  if (at == 0x04) {
    if (v & ghc_reset) {
      control_ = ghc_ahci, pending_ = 0;
      for (AhciPort& p : ports_) p.reset();
    } else {
      control_ = (v & ghc_interrupts) | ghc_ahci;
    }
    update_line();
  } else if (at == 0x08) {
    pending_ &= ~v;
    update_line();
  }
}

// A pair of ports for software that cannot reach the memory BAR: an index, and the register there.
u64 Ahci::index_read(u64 at, unsigned size) {
  if (at == 0x10) return index_;
  if (at == 0x14) return index_ < 0x1000 ? read(index_, size) : 0;
  return 0;
}
void Ahci::index_write(u64 at, unsigned size, u64 value) {
  if (at == 0x10) index_ = static_cast<u32>(value) & 0xffc;
  if (at == 0x14) write(index_, size, value);
}

std::vector<u64> Ahci::words() const {
  std::vector<u64> w{control_, pending_, index_};
  for (const AhciPort& p : ports_) {
    const auto more = p.words();
    w.insert(w.end(), more.begin(), more.end());
  }
  return w;
}

Result<> Ahci::set_words(const std::vector<u64>& w) {
  const usize due = 3 + port_count * AhciPort::word_count;
  if (w.size() != due) return fail("{} registers of an AHCI controller, {} are due", w.size(), due);
  control_ = static_cast<u32>(w[0]), pending_ = static_cast<u32>(w[1]), index_ = static_cast<u32>(w[2]) & 0xffc;
  for (unsigned n = 0; n < port_count; n++) ports_[n].set_words(&w[3 + n * AhciPort::word_count]);
  return {};
}

// --- Ports: registers

u32 AhciPort::read(u32 at) const {
  switch (at) {
    case p_clb: return static_cast<u32>(list_);
    case p_clbu: return static_cast<u32>(list_ >> 32);
    case p_fb: return static_cast<u32>(received_);
    case p_fbu: return static_cast<u32>(received_ >> 32);
    case p_is: return interrupts_;
    case p_ie: return enabled_;
    case p_cmd: return command_;
    case p_tfd: return task_file_;
    case p_sig: return signature_;
    case p_ssts: return link_status_;
    case p_sctl: return link_control_;
    case p_serr: return link_error_;
    case p_sact: return active_;
    case p_ci: return issued_;
    default: return 0;
  }
}

void AhciPort::write(u32 at, u32 v) {
  const auto low = [](u64 old, u32 value) { return (old & ~u64{0xffff'ffff}) | value; };
  const auto high = [](u64 old, u32 value) { return (old & 0xffff'ffff) | u64{value} << 32; };
  switch (at) {
    case p_clb: list_ = low(list_, v & ~0x3ffu); break;
    case p_clbu: list_ = high(list_, v); break;
    case p_fb: received_ = low(received_, v & ~0xffu); break;
    case p_fbu: received_ = high(received_, v); break;
    case p_is:
      interrupts_ &= ~v;
      controller_->update_line();
      break;
    case p_ie:
      enabled_ = v & 0xfdc0'00ff;
      controller_->update_line();
      break;
    case p_cmd: {
      const u32 writable = cmd_start | cmd_spin_up | cmd_power_on | cmd_fis | cmd_atapi | cmd_phase;
      command_ = (command_ & ~writable) | (v & writable);
      if (command_ & cmd_fis) {
        const bool first = !(command_ & cmd_fis_running);
        command_ |= cmd_fis_running;
        // The signature that came while nobody listened.
        if (first && drive()) {
          AtaRegisters r;
          drive()->signature(r);
          task_file_ = u32{r.error} << 8 | r.status;
          send_d2h(r, false);
        }
      } else {
        command_ &= ~cmd_fis_running;
      }
      if (command_ & cmd_start) {
        command_ |= cmd_running;
        start_commands();
      } else {
        // Stopping forgets what was issued; what executes ends unseen.
        command_ &= ~(cmd_running | 0x1f00u);
        if (issued_ || active_) begin_epoch();
        forget_commands();
        if ((task_file_ & ata::bsy) && drive()) task_file_ = ata::drdy | ata::dsc;
      }
      if (v & cmd_override) task_file_ &= ~u32{ata::bsy | ata::drq};
      break;
    }
    case p_sctl: {
      const u32 before = std::exchange(link_control_, v & 0xfff);
      if ((before & 0xf) == 1 && (v & 0xf) == 0) reset_link();
      if ((v & 0xf) == 1 || (v & 0xf) == 4) link_status_ = 0, task_file_ = 0x7f;
      break;
    }
    case p_serr: link_error_ &= ~v; break;
    case p_sact: active_ |= v; break;
    case p_ci:
      if (!(command_ & cmd_start)) break;
      issued_ |= v;
      start_commands();
      break;
    default: break;
  }
}

void AhciPort::reset() {
  begin_epoch();
  interrupts_ = enabled_ = 0;
  command_ = cmd_spin_up | cmd_power_on;
  link_control_ = link_error_ = 0;
  list_ = received_ = 0;
  resetting_ = false;
  reset_link();
}

// COMRESET: the link comes up again, and the drive sends its signature.
void AhciPort::reset_link() {
  begin_epoch();
  forget_commands();
  IdeDevice* d = drive();
  if (!d) {
    link_status_ = 0, task_file_ = 0x7f, signature_ = ~u32{0};
    return;
  }
  d->reset();
  link_status_ = 0x113;  // active, first generation speed, present
  signature_ = d->sata_signature();
  AtaRegisters r;
  d->signature(r);
  task_file_ = u32{r.error} << 8 | r.status;
  link_error_ |= 1u << 26;  // exchanged
  send_d2h(r, false);
}

void AhciPort::drive_changed() {
  reset_link();
  raise(i_connect);
}

void AhciPort::raise(u32 bits) {
  interrupts_ |= bits;
  controller_->update_line();
}

// --- Ports: commands

void AhciPort::start_commands() {
  if (!(command_ & cmd_start) || old_) return;
  for (unsigned slot = 0; slot < slot_count; slot++) {
    const u32 bit = 1u << slot;
    if (!(issued_ & bit) || (started_ & bit)) continue;
    if (task_file_ & (ata::bsy | ata::drq)) return;
    start(slot);
  }
}

void AhciPort::start(unsigned slot) {
  memory::AddressSpace* space = controller_->dma();
  IdeDevice* d = drive();
  const u32 bit = 1u << slot;
  if (!space || !d) return;
  memory::InsideDevice inside{controller_};
  std::array<u8, 32> header{};
  std::array<u8, 0x60> table{};  // command FIS and packet
  if (!space->read(GuestPhys{list_ + 32 * u64{slot}}, header)) return raise(i_fatal);
  const u32 options = load_le<u32>(&header[0]);
  const u64 table_at = load_le<u64>(&header[8]) & ~u64{0x7f};
  if (!space->read(GuestPhys{table_at}, table)) return raise(i_fatal);
  const u8* fis = table.data();
  command_ = (command_ & ~0x1f00u) | slot << 8;
  if (fis[0] != 0x27) {
    guest_error("ahci", "port {}: FIS of type {:#x} from the host", number_, fis[0]);
    issued_ &= ~bit;
    return raise(i_fatal);
  }
  if (!(fis[1] & 0x80)) {
    // Device control: a soft reset ends when SRST falls.
    issued_ &= ~bit;
    if (fis[15] & 4) {
      resetting_ = true;
      task_file_ = ata::bsy | ata::drdy;
      if (options & 1 << 10) task_file_ &= ~u32{ata::bsy};  // "clear busy upon R_OK"
    } else if (std::exchange(resetting_, false)) {
      begin_epoch();
      forget_commands();
      d->reset();
      signature_ = d->sata_signature();
      AtaRegisters r;
      d->signature(r);
      task_file_ = u32{r.error} << 8 | r.status;
      send_d2h(r, false);
    }
    return;
  }
  auto command = std::make_shared<AtaCommand>();
  AtaRegisters& r = command->registers;
  r.command = fis[2];
  r.features = static_cast<u16>(fis[3] | fis[11] << 8);
  r.lba = u64{fis[4]} | u64{fis[5]} << 8 | u64{fis[6]} << 16 | u64{fis[8]} << 24 | u64{fis[9]} << 32 | u64{fis[10]} << 40;
  r.device = fis[7];
  r.count = static_cast<u16>(fis[12] | fis[13] << 8);
  const bool queued = (r.command == 0x60 || r.command == 0x61) && !d->packets();
  if (queued && r.count >> 3 != slot) guest_error("ahci", "port {}: tag {} in slot {}", number_, r.count >> 3, slot);
  if (r.command == 0xa0 && d->packets()) {
    std::copy_n(&table[0x40], 16, command->packet.begin());
    command->have_packet = true;
  }
  started_ |= bit;
  executing_ |= bit;
  if (queued) {
    issued_ &= ~bit;  // the command is taken; SACT stays until it is done
    started_ &= ~bit;
    AtaRegisters taken = r;
    taken.status = ata::drdy | ata::dsc, taken.error = 0;
    task_file_ = taken.status;
  } else {
    task_file_ = ata::bsy | ata::drdy;
  }
  auto list = std::make_shared<AhciList>(*space, controller_, GuestPhys{table_at + 0x80}, options >> 16, epoch_);
  Ref<Device> hold{controller_};
  Ref<IdeDevice> device{d};
  controller_->machine().main_loop().post([this, slot, queued, command, list, hold, device, epoch = epoch_] {
    if (epoch != epoch_) return;
    // What comes by PIO is fetched from the list just as DMA.
    const bool to_drive = device->bytes_from_host(command->registers) != 0 && !device->packets();
    if (device->by_dma(command->registers) || (device->packets() && command->registers.command == 0xa0)) {
      command->dma = list.get();
    } else if (to_drive) {
      command->data.resize(device->bytes_from_host(command->registers));
      if (!list->get(command->data)) {
        command->abort();
        return finished(slot, epoch, queued, *command, list->moved());
      }
    }
    running_++;
    device->execute(*command).start([this, slot, queued, command, list, hold, device, epoch](Result<>) {
      running_--;
      if (epoch != epoch_) {
        if (old_ && --old_ == 0) start_commands();
        return;
      }
      if (!command->data.empty()) {
        const u32 bytes = static_cast<u32>(command->data.size());
        if (!list->put(command->data)) guest_error("ahci", "port {}: the scatter list is shorter than {} bytes", number_, bytes);
        send_pio_setup(command->registers, bytes);
      }
      finished(slot, epoch, queued, *command, list->moved());
    });
  });
}

void AhciPort::finished(unsigned slot, u64 epoch, bool queued, const AtaCommand& command, u64 moved) {
  if (epoch != epoch_) return;
  const AtaRegisters& r = command.registers;
  const u32 bit = 1u << slot;
  const bool failed = r.status & ata::err;
  executing_ &= ~bit;
  memory::AddressSpace* space = controller_->dma();
  if (space && !queued) {
    std::array<u8, 4> count;
    store_le<u32>(count.data(), static_cast<u32>(moved));
    memory::InsideDevice inside{controller_};
    (void)space->write(GuestPhys{list_ + 32 * u64{slot} + 4}, count);
  }
  task_file_ = u32{r.error} << 8 | r.status;
  if (queued) {
    if (!failed) active_ &= ~bit;
    send_sdb(failed ? 0 : bit, r.status, r.error);
  } else {
    issued_ &= ~bit;
    started_ &= ~bit;
    send_d2h(r, true);
  }
  if (failed) raise(i_fatal);
  start_commands();
}

// From their beginning, with what their slots say: the guest may not change a slot whose command has not ended.
void AhciPort::go_on() {
  const u32 slots = std::exchange(again_, 0);
  for (unsigned slot = 0; slot < slot_count; slot++)
    if (slots >> slot & 1) start(slot);
}

// --- Ports: what the drive sends

bool AhciPort::deliver(u64 at, std::span<const u8> fis) {
  memory::AddressSpace* space = controller_->dma();
  if (!fis_on() || !space) return false;
  memory::InsideDevice inside{controller_};
  return space->write(GuestPhys{received_ + at}, fis);
}

namespace {
void fill_registers(std::span<u8> fis, const AtaRegisters& r) {
  fis[2] = r.status, fis[3] = r.error;
  for (unsigned i = 0; i < 3; i++) fis[4 + i] = static_cast<u8>(r.lba >> 8 * i), fis[8 + i] = static_cast<u8>(r.lba >> (24 + 8 * i));
  fis[7] = r.device;
  fis[12] = static_cast<u8>(r.count), fis[13] = static_cast<u8>(r.count >> 8);
}
}  // namespace

void AhciPort::send_d2h(const AtaRegisters& r, bool interrupt) {
  std::array<u8, 20> fis{};
  fis[0] = 0x34, fis[1] = interrupt ? 0x40 : 0;
  fill_registers(fis, r);
  deliver(fis_d2h, fis);
  if (interrupt) raise(i_d2h);
}

void AhciPort::send_pio_setup(const AtaRegisters& r, u32 bytes) {
  std::array<u8, 20> fis{};
  fis[0] = 0x5f, fis[1] = 0x60;  // to the host, with an interrupt
  fill_registers(fis, r);
  fis[15] = r.status;
  store_le<u16>(&fis[16], static_cast<u16>(bytes));
  deliver(fis_pio_setup, fis);
  interrupts_ |= i_pio;
}

void AhciPort::send_sdb(u32 done_slots, u8 status, u8 error) {
  std::array<u8, 8> fis{};
  fis[0] = 0xa1, fis[1] = 0x40, fis[2] = status & 0x77, fis[3] = error;
  store_le<u32>(&fis[4], done_slots);
  deliver(fis_sdb, fis);
  raise(i_sdb);
}

std::vector<u64> AhciPort::words() const {
  return {list_,         received_,   interrupts_, enabled_, command_, task_file_, signature_,         link_status_,
          link_control_, link_error_, active_,     issued_,  started_, resetting_, executing_ | again_};
}

void AhciPort::set_words(const u64* w) {
  begin_epoch();
  list_ = w[0] & ~u64{0x3ff}, received_ = w[1] & ~u64{0xff};
  const auto word = [&](unsigned i) { return static_cast<u32>(w[i]); };
  interrupts_ = word(2), enabled_ = word(3), command_ = word(4), task_file_ = word(5), signature_ = word(6), link_status_ = word(7);
  link_control_ = word(8), link_error_ = word(9), active_ = word(10), issued_ = word(11), started_ = word(12), resetting_ = w[13] != 0;
  executing_ = 0, again_ = word(14);
}

}  // namespace vmm::hw
