// nvme: what its two halves share. nvme.cpp: registers, queues, state; nvme_commands.cpp: the commands. Source: NVM Express Base
// Specification 1.4. Doorbells post to the main loop, which takes commands off the queues; each is a task. Completions that find their
// queue full wait.
#pragma once

#include <deque>
#include <list>

#include "hw/pci/pci.h"
#include "hw/storage/disk.h"
#include "src/base/bits.h"

namespace vmm::hw {

namespace nvme {

constexpr u32 most_entries = 2048;   // of a queue
constexpr u32 most_in_flight = 256;  // commands of one controller
constexpr unsigned most_events = 4;  // asynchronous event requests

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
  bool posted = false, closing = false;
};
struct CompletionQueue : Queue {
  u16 vector = 0;
  bool interrupts = false, phase = true;
  std::deque<Completion> waiting;
};

}  // namespace nvme

class Nvme final : public PciDevice, public block::BackendClient {
 public:
  static const TypeInfo type;
  using Submission = nvme::Submission;
  using Completion = nvme::Completion;
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
  u32 in_flight() const { return static_cast<u32>(taken_.size()); }
  Task<u32> admin(const Submission& c, u16& status, u64 epoch);
  Task<> io(const Submission& c, u16& status, u64 epoch);
  void answer(u16 submission_queue, Completion completion);
  void post_completion(u16 number, const Completion& completion);
  u16 identify(const Submission& c);
  u16 create_queue(const Submission& c, bool completion);
  u16 delete_completion_queue(const Submission& c);
  Task<u16> delete_submission_queue(u32 number, u64 epoch);
  void begin_epoch() { epoch_++, old_ = in_flight(), ended_.wake_all(); }
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
  u64 page_bytes() const { return u64{4096} << (control_ >> 7 & 15); }
  u64 block_bytes() const { return disk_.logical_block.value; }
  u64 blocks() const { return disk_.drive->length_bytes() / block_bytes(); }
  u64 most_bytes() const { return u64{4096} << max_transfer_; }
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& w);
  std::vector<u64> news() const;
  Result<> set_news(const std::vector<u64>& w);
  std::vector<u64> taken() const;
  Result<> set_taken(const std::vector<u64>& w);
  void take_again();
  void begin(u16 queue, const Submission& command);

  DiskProperties disk_;
  u32 queue_pairs_ = 64, vectors_ = 65, max_transfer_ = 7;
  bool intel_ids_ = false;
  u32 mask_ = 0, control_ = 0, status_ = 0, admin_sizes_ = 0;
  u64 admin_submission_ = 0, admin_completion_ = 0;
  std::vector<nvme::SubmissionQueue> submissions_;
  std::vector<nvme::CompletionQueue> completions_;
  std::deque<u16> event_requests_;  // ids of asynchronous event requests
  std::deque<u32> events_;
  u32 event_config_ = 0, temperature_ = 343;
  // Commands that were taken and are not answered; those of a loaded state wait for the machine to run.
  struct Taken {
    u16 queue;
    Submission command;
    u64 epoch;
  };
  std::list<Taken> taken_;
  u32 old_ = 0;  // of them: forgotten by a reset; no other one begins before they have ended, since an old write could overtake a new one
  WaitList ended_;
  std::vector<Taken> again_;
  WhenRunning when_running_;
  u64 epoch_ = 0;
  DiskRequests requests_;
  memory::MemoryRegion bar_, registers_;
};

}  // namespace vmm::hw
