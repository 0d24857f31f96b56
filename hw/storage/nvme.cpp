// nvme: an NVMe controller with one namespace: registers, queues, state. Source: NVM Express Base Specification 1.4 (registers §3.1, queues
// §4). Data goes by PRP lists. Not modelled: SGLs, metadata, several namespaces, controller memory, firmware update, reservations.
#include "hw/storage/nvme.h"

#include <algorithm>

#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

using namespace nvme;

namespace {

constexpr u32 doorbell_at = 0x1000, msix_table_at = 0x2000, msix_pending_at = 0x3000, register_bytes = 0x4000;

enum Register : u32 {
  r_cap = 0x00,
  r_vs = 0x08,
  r_intms = 0x0c,
  r_intmc = 0x10,
  r_cc = 0x14,
  r_csts = 0x1c,
  r_aqa = 0x24,
  r_asq = 0x28,
  r_acq = 0x30
};
constexpr u16 do_not_retry = 0x4000;

}  // namespace

constexpr std::array<Field, disk_field_count + 4> Nvme::properties =
    disk_fields<&Nvme::disk_>() +
    std::array{
        field<&Nvme::queue_pairs_>("max_ioqpairs", "Pairs of I/O queues", {.min = 1, .max = 255}),
        field<&Nvme::vectors_>("msix_qsize", "Interrupt vectors", {.min = 1, .max = 256}),
        field<&Nvme::max_transfer_>("mdts", "Largest transfer, as a power of two of 4 KiB pages", {.min = 1, .max = 10}),
        field<&Nvme::intel_ids_>("use-intel-id", "Use Intel's PCI ids"),
    };
constexpr Field Nvme::state[] = {
    computed<&Nvme::words, &Nvme::set_words>("registers", "registers and queues"),
    computed<&Nvme::news, &Nvme::set_news>("news", "events and completions that wait"),
    computed<&Nvme::taken, &Nvme::set_taken>("taken", "commands under way"),
};
constinit const TypeInfo Nvme::type{
    .name = "nvme",
    .doc = "Non-Volatile Memory Express",
    .parent = &PciDevice::type,
    .properties = properties,
    .state = state,
    .make = make<Nvme>,
    .category = "Storage devices",
    .sample = "nvme,drive=conformance,serial=sample",
};
static Registered registered{Nvme::type};

// --- Life

Result<> Nvme::realize_pci() {
  if (disk_.serial.empty()) return fail("serial property not set");
  if (disk_.serial.size() > 20) return fail("'serial' takes up to 20 characters");
  TRY(disk_.settle(65535, 255, 255));
  if (disk_.logical_block > 4096) return fail("logical_block_size must be 512 to 4096 for NVMe");
  TRY(requests_.open(machine(), *this, disk_, true));
  if (blocks() == 0) {
    requests_.abandon();
    return fail("{} is empty", disk_.drive->description());
  }
  if (intel_ids_) ids_.vendor = 0x8086, ids_.device = 0x5845, set_config(0, 0x8086, 2), set_config(2, 0x5845, 2);
  when_running_.start(machine(), [this] { take_again(); });
  submissions_.resize(queue_pairs_ + 1);
  completions_.resize(queue_pairs_ + 1);
  set_interrupt_pin(1);
  registers_.init_io<&Nvme::read, &Nvme::write>(*this, "nvme", doorbell_at + 8 * 256, {.min = 1, .max = 8});
  bar_.init_container(this, "nvme-bar0", register_bytes);
  bar_.add(registers_, 0);
  add_bar(0, PciBarKind::memory64, bar_);
  if (pci().express()) add_express(0);
  TRY(add_msix(vectors_, 0, msix_table_at, msix_pending_at, bar_));
  return {};
}

Task<> Nvme::unrealize_pci() {
  disable();
  when_running_.stop();
  co_await requests_.close();
  co_return Result<>{};
}

void Nvme::reset() {
  PciDevice::reset();
  disable();
  mask_ = control_ = status_ = admin_sizes_ = 0;
  admin_submission_ = admin_completion_ = 0;
  event_config_ = 0;
  temperature_ = 343;
}

// --- Registers

u64 Nvme::read(u64 at, unsigned size) {
  std::array<u8, 0x40> image{};
  // Queues of up to 2048 entries, physically contiguous, ready within 7.5 s, NVM commands, pages of 4 KiB to 64 KiB.
  store_le<u64>(&image[r_cap], u64{most_entries - 1} | 1 << 16 | u64{15} << 24 | u64{1} << 37 | u64{4} << 52);
  store_le<u32>(&image[r_vs], 0x0001'0400);
  store_le<u32>(&image[r_intms], mask_);
  store_le<u32>(&image[r_intmc], mask_);
  store_le<u32>(&image[r_cc], control_);
  store_le<u32>(&image[r_csts], status_);
  store_le<u32>(&image[r_aqa], admin_sizes_);
  store_le<u64>(&image[r_asq], admin_submission_);
  store_le<u64>(&image[r_acq], admin_completion_);
  u64 value = 0;
  if (at + size <= image.size()) std::memcpy(&value, &image[at], size);
  return value;
}

void Nvme::write(u64 at, unsigned size, u64 value) {
  if (at >= doorbell_at) {
    if (size == 4 && !(at & 3)) doorbell(static_cast<u32>(at - doorbell_at) / 4, static_cast<u32>(value));
    return;
  }
  const u32 v = static_cast<u32>(value);
  const auto part = [&](u64& whole, u64 base) {
    const unsigned shift = static_cast<unsigned>(8 * (at - base));
    const u64 mask = size >= 8 ? ~u64{0} : ((u64{1} << 8 * size) - 1) << shift;
    whole = ((whole & ~mask) | (value << shift & mask)) & ~u64{0xfff};
  };
  switch (at) {
    case r_intms: mask_ |= v; return update_line();
    case r_intmc: mask_ &= ~v; return update_line();
    case r_cc: {
      const u32 before = std::exchange(control_, v);
      return control_written(before);
    }
    case r_aqa: admin_sizes_ = v & 0x0fff'0fff; return;
    case r_asq:
    case r_asq + 4: return part(admin_submission_, r_asq);
    case r_acq:
    case r_acq + 4: return part(admin_completion_, r_acq);
    default: guest_error("nvme", "write of {} bytes to register {:#x}", size, at); return;
  }
}

void Nvme::control_written(u32 before) {
  if ((control_ & 1) && !(before & 1)) enable();
  if (!(control_ & 1) && (before & 1)) {
    disable();
    status_ &= ~u32{1};
  }
  if ((control_ >> 14 & 3) && !(before >> 14 & 3)) {  // shutdown: what is written is flushed first
    status_ = (status_ & ~u32{0xc}) | 0x4;
    machine().main_loop().post([this, hold = Ref<Nvme>{this}, epoch = epoch_] {
      requests_.flush().start([this, hold, epoch](Result<>) {
        if (epoch == epoch_) status_ = (status_ & ~u32{0xc}) | 0x8;
      });
    });
  } else if (!(control_ >> 14 & 3)) {
    status_ &= ~u32{0xc};
  }
}

void Nvme::enable() {
  const u32 page_power = control_ >> 7 & 15, sq_size = (admin_sizes_ & 0xfff) + 1, cq_size = (admin_sizes_ >> 16 & 0xfff) + 1;
  const bool right = page_power <= 4 && (control_ >> 4 & 7) == 0 && admin_submission_ && admin_completion_ && sq_size >= 2 &&
                     cq_size >= 2 && !(admin_submission_ & (page_bytes() - 1)) && !(admin_completion_ & (page_bytes() - 1));
  if (!right) {
    guest_error("nvme", "enabled with wrong admin queues or page size");
    status_ = 2;  // fatal
    return;
  }
  submissions_[0] = {{.live = true, .at = admin_submission_, .entries = sq_size}};
  completions_[0] = {{.live = true, .at = admin_completion_, .entries = cq_size}};
  completions_[0].interrupts = true;
  status_ = 1;
}

void Nvme::disable() {
  begin_epoch();
  for (auto& q : submissions_) q = {};
  for (auto& q : completions_) q = {};
  event_requests_.clear();
  events_.clear();
  again_.clear();
  requests_.give_up();  // what waits for the machine to run
  update_line();
}

void Nvme::doorbell(u32 index, u32 value) {
  const u32 n = index / 2;
  if (n >= submissions_.size()) return guest_error("nvme", "doorbell of queue {}", n);
  if (index & 1) {
    CompletionQueue& q = completions_[n];
    if (!q.live || value >= q.entries) {
      guest_error("nvme", "completion doorbell of queue {}: {}", n, value);
      return raise_event(1, 0x00, q.live ? 0x01 : 0x00, 1);  // error: invalid doorbell register or value
    }
    q.head = value;
    while (!q.waiting.empty() && (q.tail + 1) % q.entries != q.head) {
      const Completion c = q.waiting.front();
      q.waiting.pop_front();
      post_completion(static_cast<u16>(n), c);
    }
    return update_line();
  }
  SubmissionQueue& q = submissions_[n];
  if (!q.live || value >= q.entries) {
    guest_error("nvme", "submission doorbell of queue {}: {}", n, value);
    return raise_event(1, 0x00, q.live ? 0x01 : 0x00, 1);
  }
  q.tail = value;
  if (std::exchange(q.posted, true)) return;
  machine().main_loop().post([this, hold = Ref<Nvme>{this}, n] { serve(static_cast<u16>(n)); });
}

// Pin: high while a queue with interrupts has news. MSI-X is sent with each completion.
void Nvme::update_line() {
  if (submissions_.empty() || msix_enabled()) return;
  bool on = false;
  for (const CompletionQueue& q : completions_)
    if (q.live && q.interrupts && q.head != q.tail && !(mask_ & 1)) on = true;
  set_intx(on);
}

// --- Queues

void Nvme::serve(u16 number) {
  SubmissionQueue& q = submissions_[number];
  q.posted = false;
  if (old_) return;
  while (q.live && !q.closing && q.head != q.tail && in_flight() < most_in_flight) {
    if (completions_[q.completion].waiting.size() >= most_in_flight) break;  // nobody takes completions
    Submission command;
    if (!dma_read(GuestPhys{q.at + 64 * u64{q.head}}, command.bytes)) {
      guest_error("nvme", "submission queue {} cannot be read", number);
      status_ |= 2;
      return;
    }
    q.head = (q.head + 1) % q.entries;
    begin(number, command);
  }
}

void Nvme::begin(u16 number, const Submission& command) {
  const auto me = taken_.insert(taken_.end(), Taken{number, command, epoch_});
  carry_out(number, command, epoch_).start([this, me, hold = Ref<Nvme>{this}](Result<>) {
    if (me->epoch != epoch_) old_--;
    taken_.erase(me);
    if (!ended_.empty()) ended_.wake_all();
    // Room again: whoever was held back.
    for (u16 n = 0; n < submissions_.size(); n++)
      if (submissions_[n].live && submissions_[n].head != submissions_[n].tail && !std::exchange(submissions_[n].posted, true))
        machine().main_loop().post([this, hold, n] { serve(n); });
  });
}

// Commands of a loaded state, from their beginning: reading and writing twice does no harm.
void Nvme::take_again() {
  for (const Taken& t : std::exchange(again_, {}))
    if (submissions_[t.queue].live) begin(t.queue, t.command);
}

Task<> Nvme::carry_out(u16 number, Submission command, u64 epoch) {
  u16 status = ok;
  u32 result = 0;
  if (command.flags() & 0xc3) {  // fused, or SGLs
    status = invalid_field;
  } else if (number == 0) {
    if (command.opcode() == 0x0c) {  // asynchronous event request: answered when something happens
      if (event_requests_.size() < most_events) {
        event_requests_.push_back(command.id());
        raise_event(0, 0, 0, 0);
        co_return Result<>{};
      }
      status = too_many_events;
    } else {
      Result<u32> answer = co_await attempt(admin(command, status, epoch));
      result = answer ? *answer : 0;
      if (!answer && status == ok) status = internal_error;
    }
  } else {
    const Result<> done = co_await attempt(io(command, status, epoch));
    if (!done && status == ok) status = internal_error;
  }
  if (epoch != epoch_) co_return Result<>{};
  answer(number, {.result = result, .id = command.id(), .status = static_cast<u16>(status ? status | do_not_retry : 0)});
  co_return Result<>{};
}

void Nvme::answer(u16 submission_queue, Completion completion) {
  const SubmissionQueue& q = submissions_[submission_queue];
  if (!q.live) return;
  completion.queue = submission_queue;
  CompletionQueue& to = completions_[q.completion];
  if (!to.waiting.empty() || (to.tail + 1) % to.entries == to.head)
    to.waiting.push_back(completion);
  else
    post_completion(q.completion, completion);
}

void Nvme::post_completion(u16 number, const Completion& c) {
  CompletionQueue& q = completions_[number];
  std::array<u8, 16> entry{};
  store_le<u32>(&entry[0], c.result);
  store_le<u16>(&entry[8], static_cast<u16>(c.queue < submissions_.size() ? submissions_[c.queue].head : 0));
  store_le<u16>(&entry[10], c.queue);
  store_le<u16>(&entry[12], c.id);
  store_le<u16>(&entry[14], static_cast<u16>(c.status << 1 | (q.phase ? 1 : 0)));
  dma_write(GuestPhys{q.at + 16 * u64{q.tail}}, entry);
  q.tail = (q.tail + 1) % q.entries;
  if (q.tail == 0) q.phase = !q.phase;
  if (!q.interrupts) return;
  if (msix_enabled())
    msix_notify(q.vector);
  else
    update_line();
}

u16 Nvme::create_queue(const Submission& c, bool completion) {
  const u32 number = c.word(10) & 0xffff, entries = (c.word(10) >> 16) + 1, flags = c.word(11);
  if (number == 0 || number >= submissions_.size()) return invalid_qid;
  if (completion ? completions_[number].live : submissions_[number].live) return invalid_qid;
  if (entries < 2 || entries > most_entries) return invalid_queue_size;
  if (!(flags & 1)) return invalid_field;  // physically contiguous ones only
  if (!c.prp1() || c.prp1() & (page_bytes() - 1)) return invalid_prp_offset;
  const Queue base{.live = true, .at = c.prp1(), .entries = entries};
  if (completion) {
    if (flags >> 16 >= vectors_) return invalid_vector;
    CompletionQueue& q = completions_[number];
    q = {base};
    q.vector = static_cast<u16>(flags >> 16);
    q.interrupts = flags & 2;
  } else {
    const u32 to = flags >> 16;
    if (to == 0 || to >= completions_.size() || !completions_[to].live) return invalid_cq;
    SubmissionQueue& q = submissions_[number];
    q = {base};
    q.completion = static_cast<u16>(to);
  }
  return ok;
}

u16 Nvme::delete_completion_queue(const Submission& c) {
  const u32 number = c.word(10) & 0xffff;
  if (number == 0 || number >= completions_.size() || !completions_[number].live) return invalid_qid;
  for (const SubmissionQueue& q : submissions_)
    if (q.live && q.completion == number) return invalid_queue_deletion;
  completions_[number] = {};
  update_line();
  return ok;
}

// Ends when the queue's commands have: their memory and their ids are the driver's again then.
Task<u16> Nvme::delete_submission_queue(u32 number, u64 epoch) {
  if (number == 0 || number >= submissions_.size() || !submissions_[number].live || submissions_[number].closing)
    co_return u16{invalid_qid};
  submissions_[number].closing = true;
  while (epoch == epoch_ && std::ranges::any_of(taken_, [&](const Taken& t) { return t.queue == number; })) co_await ended_.wait();
  if (epoch == epoch_) submissions_[number] = {};
  co_return u16{ok};
}

void Nvme::raise_event(u8 kind, u8 type_code, u8 info, u8 page) {
  // `kind` 1: always told; 0: a notice, told if asked for (bit 8: namespace attributes); page 0: only look for who waits.
  if (page && (kind == 1 || (event_config_ & 1 << 8)) && events_.size() < 16)
    events_.push_back(u32{page} << 16 | u32{info} << 8 | (kind == 1 ? 0 : type_code));
  while (!events_.empty() && !event_requests_.empty()) {
    const u16 id = event_requests_.front();
    event_requests_.pop_front();
    answer(0, {.result = events_.front(), .id = id});
    events_.pop_front();
  }
}

// --- State

std::vector<u64> Nvme::words() const {
  std::vector<u64> w{mask_, control_, status_, admin_sizes_, admin_submission_, admin_completion_, event_config_, temperature_};
  for (const SubmissionQueue& q : submissions_)
    for (const u64 v : {u64{q.live}, q.at, u64{q.entries}, u64{q.head}, u64{q.tail}, u64{q.completion}}) w.push_back(v);
  for (const CompletionQueue& q : completions_)
    for (const u64 v : {u64{q.live}, q.at, u64{q.entries}, u64{q.head}, u64{q.tail}, u64{q.vector}, u64{q.interrupts}, u64{q.phase}})
      w.push_back(v);
  for (const u16 id : event_requests_) w.push_back(id);
  return w;
}

Result<> Nvme::set_words(const std::vector<u64>& w) {
  const usize fixed = 8 + 14 * submissions_.size();
  if (w.size() < fixed || w.size() > fixed + most_events) return fail("{} values of an NVMe controller, {} are due", w.size(), fixed);
  begin_epoch();
  usize i = 0;
  const auto next = [&] { return w[i++]; };
  const auto word = [&] { return static_cast<u32>(next()); };
  const auto queue = [&](Queue& q) -> Result<> {
    q.live = next() != 0, q.at = next(), q.entries = word(), q.head = word(), q.tail = word();
    if (q.live && (q.entries < 2 || q.entries > 4096 || q.head >= q.entries || q.tail >= q.entries))
      return fail("an NVMe queue of {} entries stands at {} and {}", q.entries, q.head, q.tail);
    return {};
  };
  mask_ = word(), control_ = word(), status_ = word(), admin_sizes_ = word(), admin_submission_ = next(), admin_completion_ = next();
  event_config_ = word(), temperature_ = word();
  for (SubmissionQueue& q : submissions_) {
    q = {};
    TRY(queue(q));
    const u64 to = next();
    if (to >= completions_.size()) return fail("an NVMe queue answers to queue {}", to);
    q.completion = static_cast<u16>(to);
  }
  for (CompletionQueue& q : completions_) {
    q = {};
    TRY(queue(q));
    q.vector = static_cast<u16>(next()), q.interrupts = next() != 0, q.phase = next() != 0;
  }
  event_requests_.clear();
  while (i < w.size()) event_requests_.push_back(static_cast<u16>(next()));
  events_.clear();
  again_.clear();
  for (const SubmissionQueue& q : submissions_)
    if (q.live && !completions_[q.completion].live) return fail("an NVMe queue answers to a queue that is not there");
  return {};
}

// Events nobody asked for yet, and completions that wait for room in their queues: queue, submission queue, id and status, result.
std::vector<u64> Nvme::news() const {
  std::vector<u64> w{events_.size()};
  w.insert(w.end(), events_.begin(), events_.end());
  for (usize n = 0; n < completions_.size(); n++)
    for (const Completion& c : completions_[n].waiting) w.insert(w.end(), {n, c.queue, u64{c.status} << 16 | c.id, c.result});
  return w;
}

Result<> Nvme::set_news(const std::vector<u64>& w) {
  if (w.empty() || w[0] > 16 || w.size() - 1 < w[0] || (w.size() - 1 - w[0]) % 4) return fail("events of an NVMe controller");
  events_.assign(w.begin() + 1, w.begin() + 1 + static_cast<std::ptrdiff_t>(w[0]));
  for (auto& q : completions_) q.waiting.clear();
  for (usize i = 1 + w[0]; i < w.size(); i += 4) {
    if (w[i] >= completions_.size() || completions_[w[i]].waiting.size() >= 2 * most_in_flight)
      return fail("an NVMe completion of queue {}", w[i]);
    completions_[w[i]].waiting.push_back({.result = static_cast<u32>(w[i + 3]),
                                          .queue = static_cast<u16>(w[i + 1]),
                                          .id = static_cast<u16>(w[i + 2]),
                                          .status = static_cast<u16>(w[i + 2] >> 16)});
  }
  return {};
}

// Commands that wait for the machine to run (werror=stop): queue, and the 64 bytes that were taken off it.
std::vector<u64> Nvme::taken() const {
  std::vector<u64> w;
  const auto add = [&](const Taken& t) {
    if (t.epoch != epoch_) return;
    w.push_back(t.queue);
    for (usize i = 0; i < t.command.bytes.size(); i += 8) w.push_back(load_le<u64>(&t.command.bytes[i]));
  };
  for (const Taken& t : taken_) add(t);
  for (const Taken& t : again_) add(t);
  return w;
}

Result<> Nvme::set_taken(const std::vector<u64>& w) {
  if (w.size() % 9 || w.size() / 9 > most_in_flight) return fail("{} values of NVMe commands", w.size());
  again_.clear();
  for (usize i = 0; i < w.size(); i += 9) {
    if (w[i] >= submissions_.size()) return fail("an NVMe command of queue {}", w[i]);
    Taken t{static_cast<u16>(w[i]), {}, epoch_};
    for (usize n = 0; n < 8; n++) store_le<u64>(&t.command.bytes[8 * n], w[i + 1 + n]);
    again_.push_back(t);
  }
  return {};
}

}  // namespace vmm::hw
