// isa-fdc: the floppy controller of a PC, an 82078. Source: Intel 82077AA and 82078 data sheets (registers §2, command set §5, results §6).
// Not modelled: scans, formats other than 512 bytes a sector, tape, FIFO thresholds (all bytes of a sector are there at once), time.
//
// Commands are collected byte by byte under the machine lock; those that move data run as a task on the main loop, a sector at a time, by
// the DMA channel or (non-DMA mode) by the data register.
#include <coroutine>

#include "hw/storage/floppy.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {

constexpr usize sector_bytes = 512;
enum Port : u64 { p_status_a = 0, p_status_b = 1, p_output = 2, p_tape = 3, p_main = 4, p_data = 5, p_input = 7 };
enum Output : u8 { out_select = 3, out_run = 4, out_dma = 8 };                         // DOR
enum Main : u8 { m_ready = 0x80, m_to_host = 0x40, m_non_dma = 0x20, m_busy = 0x10 };  // MSR
enum Status0 : u8 { s0_abnormal = 0x40, s0_invalid = 0x80, s0_polled = 0xc0, s0_seek = 0x20, s0_check = 0x10, s0_head = 4 };
enum Status1 : u8 { s1_no_address = 1, s1_not_writable = 2, s1_no_data = 4, s1_data_error = 0x20, s1_end = 0x80 };
enum Status2 : u8 { s2_wrong_cylinder = 0x10 };
enum Status3 : u8 { s3_two_sided = 8, s3_track_0 = 0x10, s3_ready = 0x20, s3_protected = 0x40 };
constexpr u8 parameter_bytes_limit = 17, lock_bit = 0x80, implied_seek = 0x40;

}  // namespace

class Fdc final : public IsaDevice {
 public:
  static const TypeInfo type;
  void reset() override;
  void settle() override { update_irq(); }
  Result<> after_load() override;
  std::string firmware_node() const override { return format("fdc@{:04x}", base_); }

 private:
  struct Command {
    u8 mask, value, parameters;
    void (Fdc::*run)();
  };
  static const Command commands[];
  static const Field properties[6], state[3];
  enum class Phase : u8 { command, execution, result };
  // A command that moves data: where it stands.
  struct Transfer {
    bool write = false, verify = false, format = false, multi = false;
    u8 unit = 0, cylinder = 0, head = 0, sector = 0, last = 0;
    bool filled = false, terminal = false;  // the sector is complete; the DMA controller said that it is enough
    u16 moved = 0;                          // bytes of the sector
  };
  enum class Outcome : u8 { more, ended };

  Result<> realize() override;
  Task<> unrealize() override;
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  u64 input_read(u64, unsigned) { return selected() && selected()->changed() ? 0x80 : 0; }
  void input_write(u64, unsigned, u64 value) { rate_ = value & 3; }
  void output_written(u8 value);
  void data_written(u8 value);
  u8 data_read();
  void controller_reset();
  void answer(std::initializer_list<u8> bytes);
  void update_irq() { irq_.set(interrupt_ && output_ & out_dma); }
  void raise() { interrupt_ = true, update_irq(); }
  void lower() { interrupt_ = false, update_irq(); }
  FloppyDrive* selected() const { return bus_->drive(output_ & out_select); }
  FloppyDrive* named() const { return bus_->drive(fifo_[1] & 3); }

  void specify();
  void sense_drive();
  void sense_interrupt();
  void recalibrate();
  void seek();
  void relative_seek();
  void seek_to(u8 unit, int track);
  void read_id();
  void read_data() { begin({}); }
  void write_data() { begin({.write = true}); }
  void verify() { begin({.verify = true}); }
  void format_track();
  void dump_registers();
  void version() { answer({0x90}); }
  void perpendicular() { perpendicular_ = fifo_[1], done(); }
  void configure() { config_ = fifo_[2], precompensation_ = fifo_[3], done(); }
  void lock() { locked_ = fifo_[0] & lock_bit, answer({static_cast<u8>(locked_ ? 0x10 : 0)}); }
  void part() { answer({0x41}); }
  void power_down() { answer({fifo_[1]}); }
  void save();
  void restore() { done(); }
  void drive_specification() { done(); }
  void option() { done(); }
  void done() { phase_ = Phase::command, count_ = 0; }

  void begin(Transfer t);
  void start();
  static Task<> run(Ref<Fdc> self, u64 epoch);
  Task<Outcome> one_sector(u64 epoch);
  Outcome advance();
  void finish(u8 s0, u8 s1, u8 s2);
  usize move_by_dma();
  void wake();
  u8 wrong(const FloppyDrive* drive) const;
  u64 offset(const FloppyGeometry& g) const {
    return ((u64{now_.cylinder} * g.heads + now_.head) * g.sectors + now_.sector - 1) * sector_bytes;
  }
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);
  std::vector<u8> fifo() const { return {fifo_.begin(), fifo_.end()}; }
  Result<> set_fifo(const std::vector<u8>& bytes);
  std::vector<u8> sector() const { return phase_ == Phase::execution ? sector_ : std::vector<u8>{}; }
  Result<> set_sector(const std::vector<u8>& bytes);

  u16 base_ = 0x3f0;
  u8 irq_line_ = 6, dma_channel_ = 2;
  FloppyKind kind_a_ = FloppyKind::automatic, kind_b_ = FloppyKind::automatic, fallback_ = FloppyKind::d288;
  FloppyBus* bus_ = nullptr;
  IsaDma* dma_ = nullptr;

  u8 output_ = out_run | out_dma, tape_ = 0, rate_ = 0, polls_ = 0, perpendicular_ = 0, config_ = 0, precompensation_ = 0;
  bool locked_ = false, interrupt_ = false, non_dma_ = false;
  u8 step_rate_ = 0, head_times_ = 0;
  u8 seek_status_ = 0;  // ST0 of a seek that ended
  bool seek_done_ = false;
  Phase phase_ = Phase::command;
  std::array<u8, parameter_bytes_limit> fifo_{};  // opcode and parameters, or results
  u8 count_ = 0, wanted_ = 0, at_ = 0;
  Transfer now_;
  std::vector<u8> sector_;
  bool by_register_ = false;  // the sector's bytes pass through the data register now
  bool again_ = false;        // a loaded state was in the middle of a transfer
  u64 epoch_ = 0;
  std::coroutine_handle<> waiter_;  // the transfer, while it waits for the host
  WhenRunning when_running_;
  memory::MemoryRegion ports_, input_;
  Irq irq_;
};

constexpr Field Fdc::properties[6] = {
    field<&Fdc::base_>("iobase", "First I/O port."),
    field<&Fdc::irq_line_>("irq", "Interrupt line.", {.max = 15}),
    field<&Fdc::dma_channel_>("dma", "DMA channel.", {.max = 3}),
    field<&Fdc::kind_a_>("fdtypeA", "Kind of the first drive."),
    field<&Fdc::kind_b_>("fdtypeB", "Kind of the second drive."),
    field<&Fdc::fallback_>("fallback", "Kind of a drive that is empty at the start."),
};
constexpr Field Fdc::state[3] = {
    computed<&Fdc::words, &Fdc::set_words>("registers", "registers, and where a transfer stands"),
    computed<&Fdc::fifo, &Fdc::set_fifo>("fifo", "bytes of the command or its results"),
    computed<&Fdc::sector, &Fdc::set_sector>("sector", "the sector that is moved"),
};
constinit const TypeInfo Fdc::type{
    .name = "isa-fdc",
    .doc = "virtual floppy controller",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<Fdc>,
    .category = "Storage devices",
};
static Registered registered{Fdc::type};

// 82077AA data sheet, table 5-1; 82078, table 5-1. `parameters` follow the opcode.
constexpr Fdc::Command Fdc::commands[] = {
    {0xff, 0x03, 2, &Fdc::specify},       {0xff, 0x04, 1, &Fdc::sense_drive},
    {0x1f, 0x05, 8, &Fdc::write_data},    {0x1f, 0x06, 8, &Fdc::read_data},
    {0xff, 0x07, 1, &Fdc::recalibrate},   {0xff, 0x08, 0, &Fdc::sense_interrupt},
    {0x1f, 0x09, 8, &Fdc::write_data},  // with a deleted data mark, which raw images do not keep
    {0xbf, 0x0a, 1, &Fdc::read_id},       {0x1f, 0x0c, 8, &Fdc::read_data},
    {0xbf, 0x0d, 5, &Fdc::format_track},  {0xff, 0x0e, 0, &Fdc::dump_registers},
    {0xff, 0x0f, 2, &Fdc::seek},          {0xff, 0x10, 0, &Fdc::version},
    {0xff, 0x12, 1, &Fdc::perpendicular}, {0xff, 0x13, 3, &Fdc::configure},
    {0x7f, 0x14, 0, &Fdc::lock},          {0x1f, 0x16, 8, &Fdc::verify},
    {0xff, 0x17, 1, &Fdc::power_down},    {0xff, 0x18, 0, &Fdc::part},
    {0xff, 0x2e, 0, &Fdc::save},          {0xff, 0x33, 1, &Fdc::option},
    {0xff, 0x4e, 16, &Fdc::restore},      {0xff, 0x8e, 5, &Fdc::drive_specification},
    {0xbf, 0x8f, 2, &Fdc::relative_seek},
};

// --- Life

Result<> Fdc::realize() {
  Ref<FloppyBus> bus = make_object<FloppyBus>();
  bus->kinds = {kind_a_, kind_b_}, bus->fallback = fallback_;
  bus_ = bus.get();
  add_bus(id().empty() ? "floppy-bus.0" : format("{}.0", id()), bus);
  ports_.init_io<&Fdc::read, &Fdc::write>(*this, "fdc", 6, {.min = 1, .max = 1});
  input_.init_io<&Fdc::input_read, &Fdc::input_write>(*this, "fdc", 1, {.min = 1, .max = 1});  // between them is a port of IDE
  map_ports(ports_, base_);
  map_ports(input_, static_cast<u16>(base_ + p_input));
  connect(irq_, irq_line_);
  dma_ = isa().dma(0);
  if (dma_) dma_->connect(dma_channel_, [this] { wake(); });
  sector_.resize(sector_bytes);
  when_running_.start(machine(), [this] {
    if (std::exchange(again_, false) && phase_ == Phase::execution) start();
  });
  return {};
}

Task<> Fdc::unrealize() {
  when_running_.stop();
  controller_reset();
  if (dma_) dma_->connect(dma_channel_, nullptr);
  lower();
  co_return Result<>{};
}

void Fdc::reset() {
  output_ = out_run | out_dma;
  tape_ = rate_ = precompensation_ = config_ = perpendicular_ = 0;
  locked_ = false;
  controller_reset();
  interrupt_ = false, polls_ = 0;
}

// By DOR, DSR or the machine. A command ends unseen; then the controller looks at its four drives, and tells (§5.2.4).
void Fdc::controller_reset() {
  epoch_++;
  phase_ = Phase::command, count_ = 0;
  by_register_ = again_ = seek_done_ = false;
  non_dma_ = false;
  if (!locked_) config_ = precompensation_ = 0;
  for (unsigned unit = 0; unit < 2; unit++)
    if (FloppyDrive* drive = bus_->drive(unit)) drive->requests().give_up();
  if (dma_) dma_->set_request(dma_channel_, false);
  wake();
  polls_ = 4;
  interrupt_ = true;
}

// --- Registers

u64 Fdc::read(u64 at, unsigned) {
  switch (at) {
    case p_status_a:
      return (interrupt_ ? 0x80 : 0) | (selected() && selected()->track() == 0 ? 0 : 0x10) |
             (selected() && selected()->read_only() ? 0 : 2);
    case p_status_b: return 0xc0 | (output_ & 1 ? 0x20 : 0) | (output_ >> 4 & 3);
    case p_output: return output_;
    case p_tape: return tape_;
    case p_main:
      if (!(output_ & out_run)) return 0;
      switch (phase_) {
        case Phase::command: return m_ready | (count_ ? m_busy : 0);
        case Phase::execution:
          return by_register_ ? m_ready | m_busy | m_non_dma | (now_.write || now_.format ? 0 : m_to_host)
                              : m_busy | (non_dma_ ? m_non_dma : 0);
        case Phase::result: return m_ready | m_to_host | m_busy;
      }
      return 0;
    case p_data: return data_read();
    default: return 0xff;
  }
}

void Fdc::write(u64 at, unsigned, u64 value) {
  const u8 v = static_cast<u8>(value);
  switch (at) {
    case p_output: return output_written(v);
    case p_tape: tape_ = v & 3; return;
    case p_main:  // data rate select
      rate_ = v & 3;
      if (v & 0x80 && output_ & out_run) {  // resets, and falls by itself
        controller_reset();
        update_irq();
      }
      return;
    case p_data: return data_written(v);
    default: return;
  }
}

void Fdc::output_written(u8 value) {
  const u8 before = std::exchange(output_, value);
  if (!(value & out_run)) {
    if (before & out_run) controller_reset();
    return lower();  // held in reset
  }
  if (!(before & out_run)) interrupt_ = true;
  update_irq();
  if (value & out_dma && !(before & out_dma)) wake();
}

void Fdc::data_written(u8 value) {
  if (!(output_ & out_run)) return;
  if (by_register_ && (now_.write || now_.format)) {
    lower();
    sector_[now_.moved++] = value;
    if (now_.moved == (now_.format ? 4 : sector_bytes)) by_register_ = false, wake();
    return;
  }
  if (phase_ != Phase::command) return guest_error("fdc", "data {:#x} written while a command runs", value);
  const auto row_of = [&](u8 opcode) -> const Command* {
    for (const Command& c : commands)
      if ((opcode & c.mask) == c.value) return &c;
    return nullptr;
  };
  if (count_ == 0) {
    const Command* row = row_of(value);
    if (!row) return answer({s0_invalid});
    wanted_ = row->parameters + 1;
  }
  fifo_[count_++] = value;
  if (count_ < wanted_) return;
  count_ = 0;
  (this->*row_of(fifo_[0])->run)();
}

u8 Fdc::data_read() {
  if (!(output_ & out_run)) return 0;
  if (by_register_ && !now_.write && !now_.format) {
    lower();
    const u8 value = sector_[now_.moved++];
    if (now_.moved == sector_bytes) by_register_ = false, wake();
    return value;
  }
  if (phase_ != Phase::result) return 0;
  lower();
  const u8 value = fifo_[at_++];
  if (at_ == count_) done();
  return value;
}

void Fdc::answer(std::initializer_list<u8> bytes) {
  std::ranges::copy(bytes, fifo_.begin());
  count_ = static_cast<u8>(bytes.size()), at_ = 0;
  phase_ = Phase::result;
}

// --- Commands without data

void Fdc::specify() {
  step_rate_ = fifo_[1], head_times_ = fifo_[2];
  non_dma_ = fifo_[2] & 1;
  done();
}

void Fdc::sense_drive() {
  const FloppyDrive* drive = named();
  u8 status = s3_two_sided | s3_ready | (fifo_[1] & 7);
  if (drive && drive->track() == 0) status |= s3_track_0;
  if (drive && drive->ready() && drive->read_only()) status |= s3_protected;
  answer({status});
}

void Fdc::sense_interrupt() {
  lower();
  if (polls_) {
    const u8 unit = static_cast<u8>(4 - polls_--);
    return answer({static_cast<u8>(s0_polled | unit), bus_->drive(unit) ? bus_->drive(unit)->track() : u8{0}});
  }
  if (!std::exchange(seek_done_, false)) return answer({s0_invalid});
  const FloppyDrive* drive = bus_->drive(seek_status_ & 3);
  answer({seek_status_, drive ? drive->track() : u8{0}});
}

void Fdc::seek_to(u8 unit, int track) {
  FloppyDrive* drive = bus_->drive(unit & 3);
  polls_ = 0;
  seek_done_ = true;
  seek_status_ = s0_seek | (unit & 7);
  if (!drive)
    seek_status_ |= s0_abnormal | s0_check;  // track 0 never comes
  else
    drive->step(static_cast<u8>(std::clamp(track, 0, 255)));
  done();
  raise();
}

void Fdc::recalibrate() { seek_to(fifo_[1] & 3, 0); }
void Fdc::seek() { seek_to(fifo_[1], fifo_[2]); }
void Fdc::relative_seek() {
  const int now = named() ? named()->track() : 0;
  seek_to(fifo_[1], fifo_[0] & 0x40 ? now + fifo_[2] : now - fifo_[2]);
}

void Fdc::read_id() {
  FloppyDrive* drive = named();
  now_ = {.unit = static_cast<u8>(fifo_[1] & 3),
          .cylinder = drive ? drive->track() : u8{0},
          .head = static_cast<u8>(fifo_[1] >> 2 & 1),
          .sector = 1};
  const u8 error = wrong(drive);
  finish(error ? s0_abnormal : 0, error, 0);
}

void Fdc::dump_registers() {
  const auto track = [&](unsigned unit) { return bus_->drive(unit) ? bus_->drive(unit)->track() : u8{0}; };
  answer({track(0), track(1), 0, 0, step_rate_, head_times_, now_.last, static_cast<u8>((locked_ ? lock_bit : 0) | (perpendicular_ & 0x7f)),
          config_, precompensation_});
}

void Fdc::save() { answer({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); }

// --- Commands with data

// ST1 of a drive that cannot find any sector; 0: it can.
u8 Fdc::wrong(const FloppyDrive* drive) const {
  if (!drive || !drive->ready()) return s1_no_address;
  const FloppyGeometry g = drive->geometry();
  if (!(g.rates >> rate_ & 1)) return s1_no_address;  // noise, at this data rate
  return now_.head >= g.heads || now_.cylinder >= g.tracks ? s1_no_data : 0;
}

void Fdc::begin(Transfer t) {
  t.multi = fifo_[0] & 0x80;
  t.unit = fifo_[1] & 3;
  t.cylinder = fifo_[2], t.head = fifo_[3] & 1, t.sector = fifo_[4], t.last = fifo_[6];
  now_ = t;
  FloppyDrive* drive = bus_->drive(t.unit);
  if (drive && config_ & implied_seek) drive->step(t.cylinder);
  u8 error = wrong(drive);
  if (!error && (fifo_[5] != 2 || fifo_[3] != (fifo_[1] >> 2 & 1))) error = s1_no_data;  // sectors of another size; another head's
  if (!error && t.write && drive->read_only()) error = s1_not_writable;
  if (error) return finish(s0_abnormal, error, t.cylinder >= 80 ? s2_wrong_cylinder : 0);
  start();
}

void Fdc::format_track() {
  now_ = {.format = true, .unit = static_cast<u8>(fifo_[1] & 3), .head = static_cast<u8>(fifo_[1] >> 2 & 1), .sector = 1, .last = fifo_[3]};
  const FloppyDrive* drive = named();
  if (drive) now_.cylinder = drive->track();
  u8 error = wrong(drive);
  if (!error && (fifo_[2] != 2 || !fifo_[3])) error = s1_no_data;
  if (!error && drive->read_only()) error = s1_not_writable;
  if (error) return finish(s0_abnormal, error, 0);
  start();
}

void Fdc::start() {
  phase_ = Phase::execution;
  machine().main_loop().post([self = Ref{this}, epoch = epoch_] {
    if (epoch == self->epoch_) run(self, epoch).start(nullptr);
  });
}

// The host does something that the transfer waits for.
void Fdc::wake() {
  if (const auto waiter = std::exchange(waiter_, {})) machine().main_loop().post([self = Ref{this}, waiter] { waiter.resume(); });
}

namespace {
struct Pause {
  std::coroutine_handle<>& place;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> waiter) { place = waiter; }
  void await_resume() const {}
};
}  // namespace

Task<> Fdc::run(Ref<Fdc> self, u64 epoch) {
  for (;;) {
    const Outcome outcome = co_await self->one_sector(epoch);
    if (outcome == Outcome::ended) break;
  }
  if (epoch == self->epoch_ && self->dma_) self->dma_->set_request(self->dma_channel_, false);
  co_return Result<>{};
}

usize Fdc::move_by_dma() {
  const usize whole = now_.format ? 4 : sector_bytes;
  const std::span<u8> rest = std::span{sector_}.subspan(now_.moved, whole - now_.moved);
  if (!dma_ || !(output_ & out_dma)) return 0;
  return now_.write || now_.format ? dma_->read_memory(dma_channel_, rest, &now_.terminal)
                                   : dma_->write_memory(dma_channel_, rest, &now_.terminal);
}

// One sector from the medium to the host, or from the host to the medium; of a format, one sector's address.
Task<Fdc::Outcome> Fdc::one_sector(u64 epoch) {
  const Ref<FloppyDrive> drive{bus_->drive(now_.unit)};
  const auto fail_here = [&](u8 s1) {
    finish(s0_abnormal, s1, 0);
    return Outcome::ended;
  };
  if (const u8 error = wrong(drive.get())) co_return fail_here(error);
  const FloppyGeometry g = drive->geometry();
  const bool to_host = !now_.write && !now_.format;
  if (!now_.format && (now_.sector == 0 || now_.sector > g.sectors)) co_return fail_here(s1_no_data);
  if (to_host && !now_.filled) {
    // An image that is shorter than its medium reads as zeros there.
    const u64 at = offset(g), length = drive->length_bytes(), here = at >= length ? 0 : std::min<u64>(length - at, sector_bytes);
    std::vector<u8> bytes(sector_bytes);
    if (here) {
      const Result<> done = co_await attempt(drive->requests().read(at, std::span{bytes}.first(here)));
      if (epoch != epoch_) co_return Outcome::ended;
      if (!done) co_return fail_here(s1_data_error);
    }
    sector_ = std::move(bytes);
    now_.filled = true;
  }
  const usize whole = now_.format ? 4 : sector_bytes;
  while (!now_.verify && now_.moved < whole && !now_.terminal) {
    if (non_dma_) {
      by_register_ = true;
      raise();
      co_await Pause{waiter_};
    } else {
      if (dma_) dma_->set_request(dma_channel_, true);
      const usize moved = move_by_dma();
      now_.moved = static_cast<u16>(now_.moved + moved);
      if (!moved) co_await Pause{waiter_};
    }
    if (epoch != epoch_) co_return Outcome::ended;
  }
  if (!to_host) {
    if (now_.format) {
      if (now_.moved < 4) co_return fail_here(s1_no_data);
      if (sector_[0] != now_.cylinder || sector_[1] != now_.head || sector_[3] != 2) co_return fail_here(s1_no_data);
    } else if (!now_.filled) {
      std::fill(sector_.begin() + now_.moved, sector_.end(), u8{0});  // what the host did not send
      now_.filled = true;
    }
    const u8 number = now_.format ? sector_[2] : now_.sector;
    std::vector<u8> bytes = now_.format ? std::vector<u8>(sector_bytes, fifo_[5]) : sector_;
    const u64 at = ((u64{now_.cylinder} * g.heads + now_.head) * g.sectors + number - 1) * sector_bytes;
    if (number == 0 || number > g.sectors || at + sector_bytes > drive->length_bytes()) co_return fail_here(s1_no_data);
    const Result<> done = co_await attempt(drive->requests().write(at, bytes));
    if (epoch != epoch_) co_return Outcome::ended;
    if (!done) co_return fail_here(s1_data_error);
  }
  co_return advance();
}

// To the next sector, or the end: by the DMA controller's word, or past the last one that the command named.
Fdc::Outcome Fdc::advance() {
  const bool enough = now_.terminal;
  now_.moved = 0, now_.filled = now_.terminal = false;
  bool last = false;
  if (now_.sector++ >= now_.last) {
    now_.sector = 1;
    if (now_.format)
      last = true;
    else if (now_.multi && now_.head == 0)
      now_.head = 1, last = false;
    else
      now_.head = now_.multi ? 0 : now_.head, now_.cylinder++, last = true;
  }
  if (enough || (last && (now_.verify || now_.format))) return finish(0, 0, 0), Outcome::ended;
  if (last) return finish(s0_abnormal, s1_end, 0), Outcome::ended;
  return Outcome::more;
}

void Fdc::finish(u8 s0, u8 s1, u8 s2) {
  by_register_ = false;
  if (dma_) dma_->set_request(dma_channel_, false);
  answer({static_cast<u8>(s0 | (now_.head ? s0_head : 0) | now_.unit), s1, s2, now_.cylinder, now_.head, now_.sector, 2});
  raise();
}

// --- State

std::vector<u64> Fdc::words() const {
  const Transfer& t = now_;
  return {output_,    tape_,       rate_,        polls_,     perpendicular_, config_,  precompensation_, locked_,  interrupt_, non_dma_,
          step_rate_, head_times_, seek_status_, seek_done_, u64(phase_),    count_,   wanted_,          at_,      t.write,    t.verify,
          t.format,   t.multi,     t.unit,       t.cylinder, t.head,         t.sector, t.last,           t.filled, t.terminal, t.moved};
}

Result<> Fdc::set_words(const std::vector<u64>& w) {
  if (w.size() != 30) return fail("{} values of a floppy controller, 30 are due", w.size());
  epoch_++;
  wake();
  by_register_ = false;
  usize i = 0;
  const auto byte = [&] { return static_cast<u8>(w[i++]); };
  const auto flag = [&] { return w[i++] != 0; };
  output_ = byte(), tape_ = byte(), rate_ = byte() & 3, polls_ = std::min<u8>(byte(), 4), perpendicular_ = byte(), config_ = byte();
  precompensation_ = byte(), locked_ = flag(), interrupt_ = flag(), non_dma_ = flag(), step_rate_ = byte(), head_times_ = byte();
  seek_status_ = byte(), seek_done_ = flag();
  const u64 phase = w[i++];
  if (phase > static_cast<u64>(Phase::result)) return fail("a floppy controller in phase {}", phase);
  phase_ = static_cast<Phase>(phase);
  count_ = byte(), wanted_ = byte(), at_ = byte();
  now_ = {.write = flag(), .verify = flag(), .format = flag(), .multi = flag()};
  now_.unit = byte() & 3, now_.cylinder = byte(), now_.head = byte() & 1, now_.sector = byte(), now_.last = byte();
  now_.filled = flag(), now_.terminal = flag();
  now_.moved = static_cast<u16>(std::min<u64>(w[i++], now_.format ? 4 : sector_bytes));
  return {};
}

Result<> Fdc::set_fifo(const std::vector<u8>& bytes) {
  if (bytes.size() != fifo_.size()) return fail("{} bytes in a floppy controller's FIFO", bytes.size());
  std::ranges::copy(bytes, fifo_.begin());
  return {};
}

Result<> Fdc::set_sector(const std::vector<u8>& bytes) {
  if (!bytes.empty() && bytes.size() != sector_bytes) return fail("a floppy's sector of {} bytes", bytes.size());
  sector_ = bytes;
  sector_.resize(sector_bytes);
  return {};
}

Result<> Fdc::after_load() {
  const bool right = phase_ == Phase::result    ? at_ < count_ && count_ <= fifo_.size()
                     : phase_ == Phase::command ? count_ == 0 || (count_ < wanted_ && wanted_ <= fifo_.size())
                                                : true;
  if (!right) {
    done();
    return fail("a floppy controller's FIFO stands at {} of {}", at_, count_);
  }
  again_ = phase_ == Phase::execution;
  return {};
}

}  // namespace vmm::hw
