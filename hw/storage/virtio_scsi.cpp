// virtio SCSI host adapter. Source: virtio 1.2 §5.6. Queues: control, events, then requests. Not modelled: T10 protection information.
#include <bit>
#include <cstring>

#include "block/core/iothread.h"
#include "hw/storage/scsi.h"
#include "hw/virtio/virtio_pci.h"
#include "src/base/log.h"

namespace vmm::hw {

namespace {
enum Feature : u64 { f_hotplug = 1 << 1, f_change = 1 << 2 };
enum Response : u8 {
  r_ok = 0,
  r_overrun = 1,
  r_aborted = 2,
  r_bad_target = 3,
  r_reset = 4,
  r_failure = 9,
  r_rejected = 11,
  r_wrong_lun = 12
};
enum EventKind : u32 { e_none = 0, e_transport = 1, e_change = 3, e_missed = 1u << 31 };
enum TransportReason : u32 { t_rescan = 1, t_removed = 2 };
enum Tmf : u32 { abort_task, abort_task_set, clear_aca, clear_task_set, nexus_reset, unit_reset, query_task, query_task_set };
struct [[gnu::packed]] Config {
  u32 queues, seg_max, max_sectors, commands_per_lun, event_bytes, sense_bytes, cdb_bytes;
  u16 max_channel, max_target;
  u32 max_lun;
};
static_assert(sizeof(Config) == 36);
struct [[gnu::packed]] RequestHead {  // the CDB follows
  std::array<u8, 8> lun;
  u64 tag;
  u8 attribute, priority, crn;
};
struct [[gnu::packed]] ResponseHead {  // sense data follow
  u32 sense_length, residual;
  u16 status_qualifier;
  u8 status, response;
};
struct Event {
  u32 kind;
  std::array<u8, 8> lun;
  u32 reason;
};
constexpr u64 copy_limit = 32 * MiB;  // of one request of a legacy driver: all that max_sectors allows
constexpr u32 default_sense = 96, default_cdb = 32, largest_sense = 252, largest_cdb = 32;

struct Address {
  u32 target = 0, lun = 0;
  bool valid = false;
};
Address parse(const std::array<u8, 8>& b) {
  if (b[0] != 1) return {};
  return {b[1], static_cast<u32>((b[2] << 8 | b[3]) & 0x3fff), true};
}
}  // namespace

class VirtioScsi final : public VirtioDevice, public ScsiAdapter {
 public:
  static const TypeInfo type;
  static constexpr VirtioPciModel pci{.stem = "virtio-scsi-pci",
                                      .doc = "A SCSI host adapter.",
                                      .class_code = 0x010000,
                                      .legacy_id = 0x1004,
                                      .vectors = [](unsigned queues) { return queues + 1; },
                                      .category = "Storage devices",
                                      .alias = "virtio-scsi"};
  VirtioScsi() : VirtioDevice(8) {}

 private:
  static constexpr unsigned control_queue = 0, event_queue = 1, first_request_queue = 2;
  struct Active {
    ScsiDevice* unit;
    u64 tag;
    bool aborted = false;
  };

  Result<> realize_virtio() override;
  Task<> unrealize_virtio() override;
  u64 device_features() const override { return (hotplug_ ? f_hotplug : 0) | (param_change_ ? f_change : 0); }
  usize config_bytes() const override { return sizeof(Config); }
  void read_config(std::span<u8> image) const override;
  void write_config(std::span<const u8> image, usize first, usize count) override;
  void reset_virtio() override;
  void queue_notified(unsigned n) override;
  void serve_again(unsigned n, Chain&& chain) override {
    tasks_++;
    serve(Ref{this}, n, std::move(chain)).start(nullptr);
  }
  bool busy() const override { return tasks_ > 0; }

  void scsi_plugged(ScsiDevice& unit) override;
  void scsi_unplugged(ScsiDevice& unit) override;
  void scsi_changed(ScsiDevice& unit, ScsiSense s) override;

  static Task<> serve(Ref<VirtioScsi> self, unsigned n, Chain chain);
  Task<> carry_out(unsigned n, Chain& chain, u64& written);
  static Task<> manage(Ref<VirtioScsi> self, Chain chain);
  Task<u8> task_management(u32 what, std::array<u8, 8> lun, u64 tag);
  void give_up(const std::function<bool(const Active&)>& which);
  void transport_event(ScsiDevice& unit, u32 reason);
  void send_event(u32 kind, const ScsiDevice* unit, u32 reason);
  static const Field properties[8], state[2];

  u32 queue_count_ = ~u32{0}, queue_size_ = 256, max_sectors_ = 0xffff, per_lun_ = 128;
  bool hotplug_ = true, param_change_ = true, seg_max_adjust_ = true;
  u32 sense_bytes_ = default_sense, cdb_bytes_ = default_cdb;
  bool events_missed_ = false;
  std::list<Active> active_;
  u32 tasks_ = 0;
  WaitList ended_;  // a request has
  Ref<ScsiBus> bus_;
  Ref<block::IoThread> iothread_;
};

constexpr Field VirtioScsi::properties[8] = {
    field<&VirtioScsi::iothread_>("iothread", "Thread that the units' requests run on."),
    field<&VirtioScsi::queue_count_>("num_queues", "Request queues; by default as many as CPUs."),
    field<&VirtioScsi::queue_size_>("virtqueue_size", "Entries of a queue, a power of two.", {.min = 4, .max = 1024}),
    field<&VirtioScsi::seg_max_adjust_>("seg_max_adjust", "The limit of segments follows the queue's size."),
    field<&VirtioScsi::max_sectors_>("max_sectors", "Longest transfer, in sectors.", {.min = 1}),
    field<&VirtioScsi::per_lun_>("cmd_per_lun", "Commands that a unit takes at once.", {.min = 1}),
    field<&VirtioScsi::hotplug_>("hotplug", "Tell the guest of units that come and go."),
    field<&VirtioScsi::param_change_>("param_change", "Tell the guest of units that change."),
};
constexpr Field VirtioScsi::state[2] = {
    field<&VirtioScsi::sense_bytes_>("sense-size", "bytes of sense data that the driver wants"),
    field<&VirtioScsi::cdb_bytes_>("cdb-size", "bytes of a command"),
};
constinit const TypeInfo VirtioScsi::type{.name = "virtio-scsi-device",
                                          .doc = "A SCSI host adapter.",
                                          .parent = &VirtioDevice::type,
                                          .properties = properties,
                                          .state = state,
                                          .make = make<VirtioScsi>,
                                          .category = "Storage devices"};
static Registered registered{VirtioScsi::type};
static RegisteredVirtioPci<VirtioScsi> registered_pci;

// --- Life

Result<> VirtioScsi::realize_virtio() {
  if (!std::has_single_bit(queue_size_)) return fail("'virtqueue_size' takes a power of two from 4 to 1024, not {}", queue_size_);
  if (queue_count_ == ~u32{0}) queue_count_ = static_cast<u32>(std::clamp<usize>(machine().vcpus().size(), 1, 64));
  if (queue_count_ < 1 || queue_count_ > 1022)
    return fail("Invalid number of queues (= {}), must be a positive integer less than 1023.", queue_count_);
  for (unsigned n = 0; n < first_request_queue + queue_count_; n++) add_queue(static_cast<u16>(queue_size_));
  if (iothread_) iothread_->add_user(path());
  bus_ = make_object<ScsiBus>();
  bus_->adapter = this;
  // Users name it by the outer device's id: "scsi0.0".
  const auto* outer = object_cast<const Device>(parent());
  static unsigned number = 0;
  add_bus(outer && !outer->id().empty() ? format("{}.0", outer->id()) : format("scsi.{}", number++), bus_);
  return {};
}

Task<> VirtioScsi::unrealize_virtio() {
  if (iothread_) iothread_->remove_user(path());
  co_return Result<>{};
}

void VirtioScsi::scsi_plugged(ScsiDevice& unit) {
  if (iothread_ && unit.drive()) unit.drive()->set_loop(iothread_->loop());
  transport_event(unit, t_rescan);
}

void VirtioScsi::reset_virtio() {
  sense_bytes_ = default_sense, cdb_bytes_ = default_cdb;
  events_missed_ = false;
  give_up([](const Active&) { return true; });
}

// Requests end as soon as they can, and say that they were aborted.
void VirtioScsi::give_up(const std::function<bool(const Active&)>& which) {
  std::vector<Ref<ScsiDevice>> units;  // who gives up leaves the list
  for (Active& a : active_)
    if (which(a)) a.aborted = true, units.emplace_back(a.unit);
  for (const auto& unit : units) unit->cancel_waiting();
}

void VirtioScsi::read_config(std::span<u8> image) const {
  const Config c{.queues = queue_count_,
                 .seg_max = seg_max_adjust_ ? queue_size_ - 2 : 126,
                 .max_sectors = max_sectors_,
                 .commands_per_lun = per_lun_,
                 .event_bytes = sizeof(Event),
                 .sense_bytes = sense_bytes_,
                 .cdb_bytes = cdb_bytes_,
                 .max_channel = 0,
                 .max_target = 255,
                 .max_lun = 16383};
  std::memcpy(image.data(), &c, sizeof c);
}

void VirtioScsi::write_config(std::span<const u8> image, usize, usize) {
  Config c;
  std::memcpy(&c, image.data(), sizeof c);
  if (c.sense_bytes > largest_sense || c.cdb_bytes > largest_cdb || c.cdb_bytes < 6) return broken("sizes of sense data or commands");
  sense_bytes_ = c.sense_bytes, cdb_bytes_ = c.cdb_bytes;
}

// --- Queues

void VirtioScsi::queue_notified(unsigned n) {
  VirtQueue& q = *queue(n);
  if (n == event_queue) {
    if (events_missed_) send_event(e_none, nullptr, 0);
    return;
  }
  unsigned budget = 2u * q.state.size;
  do {
    q.set_notification(false);
    while (auto chain = q.pop()) {
      tasks_++;
      if (n == control_queue)
        manage(Ref{this}, std::move(*chain)).start(nullptr);
      else
        serve(Ref{this}, n, std::move(*chain)).start(nullptr);
      if (!running()) return;
      if (!--budget) return kick(n);
    }
  } while (q.set_notification(true));
}

Task<> VirtioScsi::serve(Ref<VirtioScsi> self, unsigned n, Chain chain) {
  const TakenChain taken{*self->queue(n), chain};
  u64 written = 0;
  co_await self->carry_out(n, chain, written);
  self->tasks_--;
  if (chain.stale() || !self->running()) co_return Result<>{};
  VirtQueue& q = *self->queue(n);
  q.push(std::move(chain), written);
  q.notify();
  co_return Result<>{};
}

Task<> VirtioScsi::carry_out(unsigned, Chain& chain, u64& written) {
  const u64 head_bytes = sizeof(RequestHead) + cdb_bytes_, response_bytes = sizeof(ResponseHead) + sense_bytes_;
  const auto head = chain.copy_in<RequestHead>(0);
  ScsiCommand command;
  if (!head || chain.readable_bytes() < head_bytes || chain.writable_bytes() < response_bytes ||
      chain.copy_in(sizeof(RequestHead), std::span{command.cdb}.first(cdb_bytes_)) != cdb_bytes_) {
    broken("a request that is too short");
    co_return Result<>{};
  }
  const u32 sense_room = sense_bytes_;
  ResponseHead response{};
  std::vector<u8> sense_data;
  u64 in_bytes = 0;
  const Address address = parse(head->lun);
  ScsiDevice* unit = address.valid ? bus_->find(0, address.target, address.lun) : nullptr;
  const u64 out_length = chain.readable_bytes() - head_bytes, in_length = chain.writable_bytes() - response_bytes;
  if (!unit) {
    response.response = r_bad_target;
  } else if (out_length && in_length) {
    response.response = r_failure;  // both ways at once was not offered
  } else {
    // A legacy driver takes its memory back by a reset and asks nobody: what is read goes to a buffer of ours first.
    const bool by_copy = in_length && !has(virtio::version_1);
    GuestMapping out = chain.map_readable(head_bytes, out_length), in = chain.map_writable(response_bytes, by_copy ? 0 : in_length);
    block::Buffer copy{by_copy && in_length <= copy_limit ? in_length : 0};
    if (!out.ok() || !in.ok() || (by_copy && !copy.size())) {
      response.response = r_failure;
    } else {
      for (const auto span : out.spans()) command.out.add(span);
      for (const auto span : in.spans()) command.in.add(span);
      if (by_copy) command.in = copy.vector();
      if (by_copy && unit->passes()) command.in.fill(0);  // how much came is then the word of a device of the host
      command.lun = address.lun;
      const Ref<ScsiDevice> keep{unit};
      const auto me = active_.insert(active_.end(), Active{unit, head->tag});
      const ScsiAnswer answer = co_await unit->execute(command);
      const bool aborted = me->aborted;
      active_.erase(me);
      const u64 length = out_length + in_length;
      in_bytes = in_length ? std::min(answer.transferred, in_length) : 0;
      // A device of the host may have written more than it says, and before it failed.
      const u64 touched = unit->passes() ? in_length : in_bytes;
      if (touched && !by_copy) in.finish(touched);
      if (in_bytes && by_copy && !chain.stale()) chain.copy_out(response_bytes, copy.span().first(in_bytes));
      response.status = answer.status;
      response.residual = static_cast<u32>(length - std::min(length, answer.transferred));
      if (answer.status == scsi_check_condition) {
        sense_data = answer.sense_data;
        if (const auto made = fixed_sense(answer.sense); sense_data.empty()) sense_data.assign(made.begin(), made.end());
        response.sense_length = std::min<u32>(sense_room, sense_data.size());
      }
      if (aborted) response = {.response = r_aborted};
    }
  }
  if (!chain.stale()) {
    chain.copy_out(0, response);
    chain.copy_out(sizeof response, std::span<const u8>{sense_data}.first(response.sense_length));
    written = response_bytes + in_bytes;
  }
  ended_.wake_all();
  co_return Result<>{};
}

// --- Task management (virtio 1.2 §5.6.6.2)

Task<> VirtioScsi::manage(Ref<VirtioScsi> self, Chain chain) {
  struct [[gnu::packed]] {
    u32 type, what;
    std::array<u8, 8> lun;
    u64 tag;
  } request{};
  const usize got = chain.copy_in(0, {reinterpret_cast<u8*>(&request), sizeof request});
  u64 written = 0;
  if (got < 4 || (request.type == 0 && got < sizeof request) || (request.type != 0 && got < 16) || !chain.writable_bytes()) {
    self->tasks_--;
    self->broken("a control request that is too short");
    co_return Result<>{};
  }
  if (request.type == 0) {
    const u8 response = co_await self->task_management(request.what, request.lun, request.tag);
    if (!chain.stale()) written = chain.copy_out(0, std::span<const u8>{&response, 1});
  } else {  // asynchronous notifications: none of the kinds that there are
    const std::array<u8, 5> answer{0, 0, 0, 0, r_ok};
    if (!chain.stale()) written = chain.copy_out(0, answer);
  }
  self->tasks_--;
  if (chain.stale() || !self->running()) co_return Result<>{};
  VirtQueue& q = *self->queue(control_queue);
  q.push(std::move(chain), written);
  q.notify();
  co_return Result<>{};
}

Task<u8> VirtioScsi::task_management(u32 what, std::array<u8, 8> lun, u64 tag) {
  const Address address = parse(lun);
  ScsiDevice* unit = address.valid ? bus_->find(0, address.target, address.lun) : nullptr;
  if (!unit) co_return u8{r_bad_target};
  if (what != nexus_reset && unit->lun() != address.lun) co_return u8{r_wrong_lun};
  const Ref<ScsiDevice> keep{unit};
  const auto concerns = [&](const Active& a) {
    if (what == nexus_reset) return a.unit->target() == address.target;
    return a.unit == unit && (what != abort_task || a.tag == tag);
  };
  switch (what) {
    case query_task:
      co_return u8(std::ranges::any_of(active_, [&](const Active& a) { return a.unit == unit && a.tag == tag; }) ? 10 : r_ok);
    case query_task_set: co_return u8(std::ranges::any_of(active_, [&](const Active& a) { return a.unit == unit; }) ? 10 : r_ok);
    case abort_task:
    case abort_task_set:
    case clear_task_set:
    case unit_reset:
    case nexus_reset: break;
    default: co_return u8{r_rejected};
  }
  // What is with the drive already cannot be called back: it is waited for, and its answer says that it was aborted.
  give_up(concerns);
  if (what == nexus_reset) {
    for (const u32 l : bus_->luns(0, address.target)) bus_->find(0, address.target, l)->reset_unit();
  } else if (what == unit_reset) {
    unit->reset_unit();
  }
  while (std::ranges::any_of(active_, [&](const Active& a) { return a.aborted && concerns(a); })) co_await ended_.wait();
  co_return u8{r_ok};
}

// --- Events (virtio 1.2 §5.6.6.3)

void VirtioScsi::send_event(u32 kind, const ScsiDevice* unit, u32 reason) {
  if (!running()) return;
  VirtQueue& q = *queue(event_queue);
  auto chain = q.pop();
  if (!chain) {
    events_missed_ = true;
    return;
  }
  Event e{.kind = kind, .lun = {}, .reason = reason};
  if (std::exchange(events_missed_, false)) e.kind |= e_missed;
  if (unit) {
    e.lun[0] = 1, e.lun[1] = static_cast<u8>(unit->target());
    if (unit->lun() >= 256) e.lun[2] = static_cast<u8>(unit->lun() >> 8 | 0x40);
    e.lun[3] = static_cast<u8>(unit->lun());
  }
  const bool fits = chain->copy_out(0, e);
  q.push(std::move(*chain), fits ? sizeof e : 0);
  q.notify();
}

void VirtioScsi::transport_event(ScsiDevice& unit, u32 reason) {
  if (has(f_hotplug)) send_event(e_transport, &unit, reason);
}

void VirtioScsi::scsi_unplugged(ScsiDevice& unit) {
  transport_event(unit, t_removed);
  for (auto& a : active_)
    if (a.unit == &unit) a.aborted = true;
}

void VirtioScsi::scsi_changed(ScsiDevice& unit, ScsiSense s) {
  if (has(f_change)) send_event(e_change, &unit, s.code | u32{s.qualifier} << 8);
}

}  // namespace vmm::hw
