// nvme: an NVMe controller with one namespace. Source: NVM Express Base Specification 1.4 (registers §3.1, queues §4, admin commands §5,
// NVM commands §6). Data goes by PRP lists. Not modelled: SGLs, metadata, several namespaces, controller memory, firmware update,
// reservations.
//
// Doorbells post to the main loop, which takes commands off the queues; each is a task. Completions that find their queue full wait.
#include <algorithm>
#include <deque>

#include "hw/pci/pci.h"
#include "hw/storage/disk.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace {

constexpr u32 most_entries = 2048;   // of a queue
constexpr u32 most_in_flight = 256;  // commands of one controller
constexpr unsigned most_events = 4;  // asynchronous event requests
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
enum Status : u16 {  // type and code, as in bits 1–11 of the completion's status field
  ok = 0x000,
  invalid_opcode = 0x001,
  invalid_field = 0x002,
  data_transfer_error = 0x004,
  internal_error = 0x006,
  aborted_sq_deleted = 0x008,
  invalid_namespace = 0x00b,
  invalid_prp_offset = 0x013,
  lba_out_of_range = 0x080,
  invalid_cq = 0x100,
  invalid_qid = 0x101,
  invalid_queue_size = 0x102,
  too_many_events = 0x105,
  invalid_vector = 0x108,
  invalid_log = 0x109,
  feature_not_saveable = 0x10d,
  invalid_queue_deletion = 0x10c,
  write_fault = 0x280,
  unrecovered_read = 0x281,
  compare_failure = 0x285,
};
constexpr u16 do_not_retry = 0x4000;

struct Submission {
  std::array<u8, 64> bytes{};
  u8 opcode() const { return bytes[0]; }
  u8 flags() const { return bytes[1]; }
  u16 id() const { return load_le<u16>(&bytes[2]); }
  u32 space() const { return load_le<u32>(&bytes[4]); }
  u64 prp1() const { return load_le<u64>(&bytes[24]); }
  u64 prp2() const { return load_le<u64>(&bytes[32]); }
  u32 word(unsigned n) const { return load_le<u32>(&bytes[4 * n]); }  // command dwords 10 to 15
};

struct Completion {
  u32 result = 0;
  u16 queue = 0, id = 0, status = 0;
};

struct Queue {
  bool live = false;
  u64 at = 0;
  u32 entries = 0, head = 0, tail = 0;
};
struct SubmissionQueue : Queue {
  u16 completion = 0;
  bool posted = false;
};
struct CompletionQueue : Queue {
  u16 vector = 0;
  bool interrupts = false, phase = true;
  std::deque<Completion> waiting;
};

void put_text(std::span<u8> bytes, std::string_view text) {
  for (usize i = 0; i < bytes.size(); i++) bytes[i] = static_cast<u8>(i < text.size() ? text[i] : ' ');
}

}  // namespace

class Nvme final : public PciDevice, public block::BackendClient {
 public:
  static const TypeInfo type;
  Nvme() : PciDevice({.vendor = 0x1b36, .device = 0x0010, .revision = 2, .class_code = 0x010802}) {}
  void reset() override;
  void settle() override {
    PciDevice::settle();
    update_line();
  }
  std::vector<BootEntry> boot_entries() const override { return {{.index = disk_.boot_index, .tail = "/namespace@1,0"}}; }
  std::string qom_path() const override { return path(); }
  void resized() override { raise_event(0, 0x02, 0x00, 4); }  // notice: namespace attribute changed; its log is page 4

 private:
  static const std::array<Field, disk_field_count + 4> properties;
  static const Field state[];
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  void doorbell(u32 index, u32 value);
  void control_written(u32 before);
  void enable();
  void disable();
  void update_line();
  void serve(u16 queue);
  Task<> carry_out(u16 queue, Submission command, u64 epoch);
  Task<u32> admin(const Submission& c, u16& status);
  Task<> io(const Submission& c, u16& status);
  void answer(u16 submission_queue, Completion completion);
  void post_completion(u16 number, const Completion& completion);
  u16 identify(const Submission& c);
  u16 create_queue(const Submission& c, bool completion);
  u16 delete_queue(const Submission& c, bool completion);
  u16 log_page(const Submission& c);
  u16 feature(const Submission& c, bool set, u32& result);
  void raise_event(u8 kind, u8 type_code, u8 info, u8 page);
  // Data of a command by its PRPs; false: they are wrong.
  struct Piece {
    u64 at;
    u32 bytes;
  };
  bool pieces(const Submission& c, u64 bytes, std::vector<Piece>& into);
  bool to_guest(const Submission& c, std::span<const u8> bytes);
  bool from_guest(const Submission& c, std::span<u8> bytes);
  Task<> disk_read(u64 offset, std::span<u8> into);
  Task<> disk_write(u64 offset, std::span<const u8> from, bool fua);
  Task<> disk_flush();
  Task<bool> again(block::Operation operation, Error error, bool* ignore);
  u64 page_bytes() const { return u64{4096} << (control_ >> 7 & 15); }
  u64 block_bytes() const { return disk_.logical_block.value; }
  u64 blocks() const { return disk_.drive->length_bytes() / block_bytes(); }
  u64 most_bytes() const { return u64{4096} << max_transfer_; }
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);

  DiskProperties disk_;
  u32 queue_pairs_ = 64, vectors_ = 65, max_transfer_ = 7;
  bool intel_ids_ = false;
  u32 mask_ = 0, control_ = 0, status_ = 0, admin_sizes_ = 0;
  u64 admin_submission_ = 0, admin_completion_ = 0;
  std::vector<SubmissionQueue> submissions_;
  std::vector<CompletionQueue> completions_;
  std::deque<u16> event_requests_;  // ids of asynchronous event requests
  std::deque<u32> events_;
  u32 event_config_ = 0, temperature_ = 343;
  u32 in_flight_ = 0;
  u64 epoch_ = 0;
  StoppedRequests stopped_;
  memory::MemoryRegion bar_, registers_;
};

constexpr std::array<Field, disk_field_count + 4> Nvme::properties =
    disk_fields<&Nvme::disk_>() +
    std::array{
        field<&Nvme::queue_pairs_>("max_ioqpairs", "Pairs of I/O queues", {.min = 1, .max = 255}),
        field<&Nvme::vectors_>("msix_qsize", "Interrupt vectors", {.min = 1, .max = 256}),
        field<&Nvme::max_transfer_>("mdts", "Largest transfer, as a power of two of 4 KiB pages", {.min = 1, .max = 10}),
        field<&Nvme::intel_ids_>("use-intel-id", "Use Intel's PCI ids"),
    };
constexpr Field Nvme::state[] = {computed<&Nvme::words, &Nvme::set_words>("registers", "registers and queues")};
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
  TRY(disk_.drive->attach(*this));
  auto done = disk_.drive->start(!disk_.drive->read_only(), disk_.share_rw);
  if (done && blocks() == 0) done = fail("{} is empty", disk_.drive->description());
  if (!done) {
    disk_.drive->detach(*this);
    return done;
  }
  if (intel_ids_) ids_.vendor = 0x8086, ids_.device = 0x5845, set_config(0, 0x8086, 2), set_config(2, 0x5845, 2);
  machine().run_state().on_change([this, hold = Ref<Nvme>{this}](bool running) {
    if (running) stopped_.go_on();
  });
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
  stopped_.go_on();
  disk_.drive->drain_begin();
  const Result<> drained = co_await attempt(disk_.drive->drained());
  disk_.drive->drain_end();
  disk_.drive->detach(*this);
  co_return drained;
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
      disk_flush().start([this, hold, epoch](Result<>) {
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
  epoch_++;
  for (auto& q : submissions_) q = {};
  for (auto& q : completions_) q = {};
  event_requests_.clear();
  events_.clear();
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
  while (q.live && q.head != q.tail && in_flight_ < most_in_flight) {
    if (completions_[q.completion].waiting.size() >= most_in_flight) break;  // nobody takes completions
    Submission command;
    if (!dma_read(GuestPhys{q.at + 64 * u64{q.head}}, command.bytes)) {
      guest_error("nvme", "submission queue {} cannot be read", number);
      status_ |= 2;
      return;
    }
    q.head = (q.head + 1) % q.entries;
    in_flight_++;
    carry_out(number, command, epoch_).start([this, hold = Ref<Nvme>{this}](Result<>) {
      in_flight_--;
      // Room again: whoever was held back.
      for (u16 n = 0; n < submissions_.size(); n++)
        if (submissions_[n].live && submissions_[n].head != submissions_[n].tail && !std::exchange(submissions_[n].posted, true))
          machine().main_loop().post([this, hold, n] { serve(n); });
    });
  }
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
      Result<u32> answer = co_await attempt(admin(command, status));
      result = answer ? *answer : 0;
      if (!answer && status == ok) status = internal_error;
    }
  } else {
    const Result<> done = co_await attempt(io(command, status));
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

u16 Nvme::delete_queue(const Submission& c, bool completion) {
  const u32 number = c.word(10) & 0xffff;
  if (number == 0 || number >= submissions_.size()) return invalid_qid;
  if (completion) {
    if (!completions_[number].live) return invalid_qid;
    for (const SubmissionQueue& q : submissions_)
      if (q.live && q.completion == number) return invalid_queue_deletion;
    completions_[number] = {};
    update_line();
  } else {
    if (!submissions_[number].live) return invalid_qid;
    submissions_[number] = {};
  }
  return ok;
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

// --- Data

bool Nvme::pieces(const Submission& c, u64 bytes, std::vector<Piece>& into) {
  const u64 page = page_bytes();
  u64 at = c.prp1();
  u64 now = std::min(bytes, page - (at & (page - 1)));
  if (at & 3) return false;
  into.push_back({at, static_cast<u32>(now)});
  bytes -= now;
  if (bytes == 0) return true;
  at = c.prp2();
  if (bytes <= page) {
    if (at & (page - 1)) return false;
    into.push_back({at, static_cast<u32>(bytes)});
    return true;
  }
  // A list of pages; its last entry leads on to the next list when more than fits is left.
  if (at & 7) return false;
  std::vector<u8> list;
  while (bytes) {
    const u64 room = (page - (at & (page - 1))) / 8, wanted = (bytes + page - 1) / page;
    const u64 count = std::min(room, wanted);
    list.resize(count * 8);
    if (!dma_read(GuestPhys{at}, list)) return false;
    for (u64 i = 0; i < count; i++) {
      const u64 entry = load_le<u64>(&list[8 * i]);
      if (i == count - 1 && wanted > count) {
        if (entry & 7 || count == 1) return false;
        at = entry;
        break;
      }
      if (entry & (page - 1)) return false;
      now = std::min(bytes, page);
      into.push_back({entry, static_cast<u32>(now)});
      bytes -= now;
    }
  }
  return true;
}

bool Nvme::to_guest(const Submission& c, std::span<const u8> bytes) {
  std::vector<Piece> list;
  if (!pieces(c, bytes.size(), list)) return false;
  usize done = 0;
  for (const Piece& p : list) {
    if (!dma_write(GuestPhys{p.at}, bytes.subspan(done, p.bytes))) return false;
    done += p.bytes;
  }
  return true;
}

bool Nvme::from_guest(const Submission& c, std::span<u8> bytes) {
  std::vector<Piece> list;
  if (!pieces(c, bytes.size(), list)) return false;
  usize done = 0;
  for (const Piece& p : list) {
    if (!dma_read(GuestPhys{p.at}, bytes.subspan(done, p.bytes))) return false;
    done += p.bytes;
  }
  return true;
}

// --- The drive

// After a failure: wait and try again, or not.
Task<bool> Nvme::again(block::Operation operation, Error error, bool* ignore) {
  switch (realized() ? disk_.drive->error_action(operation, error) : block::Backend::Action::report) {
    case block::Backend::Action::stop: co_await stopped_; co_return realized();
    case block::Backend::Action::ignore: *ignore = true; co_return false;
    case block::Backend::Action::report: break;
  }
  co_return false;
}

Task<> Nvme::disk_read(u64 offset, std::span<u8> into) {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->read(offset, block::IoVector{into}));
    bool more = false;
    if (!done) more = co_await again(block::Operation::read, done.error(), &ignore);
    if (more) continue;
    disk_.drive->account(block::Operation::read, into.size(), std::chrono::steady_clock::now() - began, done || ignore);
    co_return ignore ? Result<>{} : std::move(done);
  }
}

Task<> Nvme::disk_write(u64 offset, std::span<const u8> from, bool fua) {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->write(offset, block::IoVector::of(from), {.fua = fua}));
    bool more = false;
    if (!done) more = co_await again(block::Operation::write, done.error(), &ignore);
    if (more) continue;
    disk_.drive->account(block::Operation::write, from.size(), std::chrono::steady_clock::now() - began, done || ignore);
    co_return ignore ? Result<>{} : std::move(done);
  }
}

Task<> Nvme::disk_flush() {
  const auto began = std::chrono::steady_clock::now();
  for (bool ignore = false;;) {
    Result<> done = co_await attempt(disk_.drive->flush());
    bool more = false;
    if (!done) more = co_await again(block::Operation::flush, done.error(), &ignore);
    if (more) continue;
    disk_.drive->account(block::Operation::flush, 0, std::chrono::steady_clock::now() - began, done || ignore);
    co_return ignore ? Result<>{} : std::move(done);
  }
}

// --- NVM commands

Task<> Nvme::io(const Submission& c, u16& status) {
  if (c.space() != 1 && !(c.opcode() == 0x00 && c.space() == ~u32{0})) {
    status = invalid_namespace;
    co_return Result<>{};
  }
  const u64 first = c.word(10) | u64{c.word(11)} << 32, count = (c.word(12) & 0xffff) + 1;
  const bool fua = c.word(12) >> 30 & 1;
  const auto in_range = [&](u64 at, u64 n) { return at < blocks() && n <= blocks() - at; };
  switch (c.opcode()) {
    case 0x00: {
      const Result<> done = co_await attempt(disk_flush());
      if (!done) status = internal_error;
      break;
    }
    case 0x01:
    case 0x02:
    case 0x05: {
      if (!in_range(first, count))
        status = lba_out_of_range;
      else if (count * block_bytes() > most_bytes())
        status = invalid_field;
      if (status) break;
      std::vector<u8> bytes(count * block_bytes());
      if (c.opcode() == 0x01) {
        if (!from_guest(c, bytes)) {
          status = data_transfer_error;
          break;
        }
        const Result<> done = co_await attempt(disk_write(first * block_bytes(), bytes, fua));
        if (!done) status = write_fault;
        break;
      }
      const Result<> done = co_await attempt(disk_read(first * block_bytes(), bytes));
      if (!done) {
        status = unrecovered_read;
      } else if (c.opcode() == 0x02) {
        if (!to_guest(c, bytes)) status = data_transfer_error;
      } else {
        std::vector<u8> theirs(bytes.size());
        status = !from_guest(c, theirs) ? data_transfer_error : theirs != bytes ? compare_failure : ok;
      }
      break;
    }
    case 0x08: {
      if (!in_range(first, count)) {
        status = lba_out_of_range;
        break;
      }
      const Result<> done = co_await attempt(
          disk_.drive->zero(first * block_bytes(), count * block_bytes(), {.may_unmap = (c.word(12) >> 25 & 1) != 0, .fua = fua}));
      if (!done) status = write_fault;
      break;
    }
    case 0x09: {
      std::vector<u8> ranges(((c.word(10) & 0xff) + 1) * 16);
      if (!from_guest(c, ranges)) {
        status = data_transfer_error;
        break;
      }
      if (!(c.word(11) & 4)) break;  // only deallocation is more than a hint
      for (usize i = 0; i < ranges.size(); i += 16) {
        const u64 n = load_le<u32>(&ranges[i + 4]), at = load_le<u64>(&ranges[i + 8]);
        if (n == 0) continue;
        if (!in_range(at, n)) {
          status = lba_out_of_range;
          break;
        }
        const Result<> done = co_await attempt(disk_.drive->discard(at * block_bytes(), n * block_bytes()));
        if (!done) {
          status = internal_error;
          break;
        }
      }
      break;
    }
    default: status = invalid_opcode; break;
  }
  co_return Result<>{};
}

// --- Admin commands

Task<u32> Nvme::admin(const Submission& c, u16& status) {
  u32 result = 0;
  switch (c.opcode()) {
    case 0x00: status = delete_queue(c, false); break;
    case 0x01: status = create_queue(c, false); break;
    case 0x02: status = log_page(c); break;
    case 0x04: status = delete_queue(c, true); break;
    case 0x05: status = create_queue(c, true); break;
    case 0x06: status = identify(c); break;
    case 0x08: result = 1; break;  // abort: it was not
    case 0x09: status = feature(c, true, result); break;
    case 0x0a: status = feature(c, false, result); break;
    default: status = invalid_opcode; break;
  }
  co_return result;
}

u16 Nvme::identify(const Submission& c) {
  std::array<u8, 4096> d{};
  switch (c.word(10) & 0xff) {
    case 0x00: {
      if (c.space() != 1 && c.space() != ~u32{0}) return invalid_namespace;
      store_le<u64>(&d[0], blocks());
      store_le<u64>(&d[8], blocks());
      store_le<u64>(&d[16], blocks());
      d[24] = 0x04;  // deallocated blocks may be reported
      d[33] = 1;     // and read as zeros
      d[128 + 2] = static_cast<u8>(std::countr_zero(block_bytes()));
      break;
    }
    case 0x01: {
      store_le<u16>(&d[0], ids_.vendor);
      store_le<u16>(&d[2], 0x1af4);
      put_text(std::span{d}.subspan(4, 20), disk_.serial);
      put_text(std::span{d}.subspan(24, 40), "QEMU NVMe Ctrl");
      put_text(std::span{d}.subspan(64, 8), "8.2.0");
      d[72] = 6;
      d[73] = 0x00, d[74] = 0x54, d[75] = 0x52;
      d[77] = static_cast<u8>(max_transfer_);
      store_le<u32>(&d[80], 0x0001'0400);
      store_le<u32>(&d[92], 1 << 8);
      d[258] = 3, d[259] = most_events - 1;
      d[260] = 3;       // one firmware slot, read only
      d[261] = 1 << 2;  // log pages with offsets
      d[262] = 3;
      store_le<u16>(&d[266], 343);
      store_le<u16>(&d[268], 373);
      d[512] = 0x66, d[513] = 0x44;
      store_le<u32>(&d[516], 1);
      store_le<u16>(&d[520], 1 | 1 << 2 | 1 << 3 | 1 << 6);  // compare, dataset management, write zeroes, timestamp
      d[525] = 1 | 3 << 1;                                   // a write cache; a flush for all namespaces is taken
      const std::string name = "nqn.2019-08.org.qemu:" + disk_.serial;
      std::ranges::copy(name, d.begin() + 768);
      store_le<u16>(&d[2048], 0x9c4);
      store_le<u32>(&d[2052], 16);
      store_le<u32>(&d[2056], 4);
      break;
    }
    case 0x02:
      if (c.space() >= 0xffff'fffe) return invalid_namespace;
      if (c.space() < 1) store_le<u32>(&d[0], 1);
      break;
    case 0x03:
      if (c.space() != 1) return invalid_namespace;
      d[0] = 3, d[1] = 16;  // a UUID, from the serial number
      for (usize i = 0; i < disk_.serial.size(); i++) d[4 + i % 16] = static_cast<u8>(d[4 + i % 16] * 31 + disk_.serial[i]);
      d[4 + 6] = static_cast<u8>((d[4 + 6] & 0x0f) | 0x40), d[4 + 8] = static_cast<u8>((d[4 + 8] & 0x3f) | 0x80);
      break;
    default: return invalid_field;
  }
  return to_guest(c, d) ? ok : data_transfer_error;
}

u16 Nvme::log_page(const Submission& c) {
  const u64 bytes = ((u64{c.word(10) >> 16} | u64{c.word(11) & 0xffff} << 16) + 1) * 4, offset = c.word(12) | u64{c.word(13)} << 32;
  std::vector<u8> page;
  switch (c.word(10) & 0xff) {
    case 0x01: page.resize(64 * 4); break;  // errors: none
    case 0x02: {
      page.resize(512);
      store_le<u16>(&page[1], 323);  // kelvin
      page[3] = 100, page[4] = 10;
      const auto& reads = disk_.drive->statistics(block::Operation::read);
      const auto& writes = disk_.drive->statistics(block::Operation::write);
      store_le<u64>(&page[32], (reads.bytes / 512 + 999) / 1000);
      store_le<u64>(&page[48], (writes.bytes / 512 + 999) / 1000);
      store_le<u64>(&page[64], reads.operations);
      store_le<u64>(&page[80], writes.operations);
      break;
    }
    case 0x03:
      page.resize(512);
      page[0] = 1;
      put_text(std::span{page}.subspan(8, 8), "8.2.0");
      break;
    case 0x04:
      page.resize(4096);
      store_le<u32>(&page[0], 1);
      break;
    default: return invalid_log;
  }
  if (offset >= page.size() || offset & 3) return invalid_field;
  const usize size = std::min<u64>(bytes, page.size() - offset);
  return to_guest(c, std::span{page}.subspan(offset, size)) ? ok : data_transfer_error;
}

u16 Nvme::feature(const Submission& c, bool set, u32& result) {
  const u8 which = c.word(10) & 0xff, select = c.word(10) >> 8 & 7;
  const u32 value = c.word(11);
  if (set && c.word(10) >> 31) return feature_not_saveable;
  switch (which) {
    case 0x01:
    case 0x02:
    case 0x05:
    case 0x0a: return ok;
    case 0x04:
      if (set)
        temperature_ = value & 0xffff;
      else
        result = (value >> 16 & 0xf) == 0 ? temperature_ : 0;
      return ok;
    case 0x06:
      if (set) {
        disk_.drive->set_write_cache(value & 1);
      } else {
        result = select == 1 ? 1 : disk_.drive->write_cache();
      }
      return ok;
    case 0x07:
      if (set && ((value & 0xffff) == 0xffff || value >> 16 == 0xffff)) return invalid_field;
      result = (queue_pairs_ - 1) | (queue_pairs_ - 1) << 16;
      return ok;
    case 0x08: return ok;
    case 0x09:
      if ((value & 0xffff) >= vectors_) return invalid_field;
      result = value & 0xffff;
      return ok;
    case 0x0b:
      if (set)
        event_config_ = value;
      else
        result = event_config_;
      return ok;
    case 0x0e: {
      std::array<u8, 8> time{};
      if (set) return from_guest(c, time) ? ok : data_transfer_error;
      const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
      store_le<u64>(time.data(), static_cast<u64>(now) & 0xffff'ffff'ffff);
      return to_guest(c, time) ? ok : data_transfer_error;
    }
    default: return invalid_field;
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
  epoch_++;
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
  for (const SubmissionQueue& q : submissions_)
    if (q.live && !completions_[q.completion].live) return fail("an NVMe queue answers to a queue that is not there");
  return {};
}

}  // namespace vmm::hw
