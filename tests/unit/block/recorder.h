// A file in memory that remembers what was done to it, for proofs of crash consistency: record, cut the power anywhere, look at what is
// left. Writes since the last flush may be there or not, in whole or torn at 512 bytes (safety.md §3 item 4). It also fails its n-th
// call on demand. The driver's name is "recorder"; open it by make_recorder() and name it as "file" of a format.
#pragma once

#include <random>

#include "block/core/node.h"

namespace vmm::block::test {

struct Logged {
  enum class Kind : u8 { write, zero, truncate, flush } kind = Kind::write;
  u64 offset = 0, length = 0;  // truncate: the new length
  std::vector<u8> data;
  bool done = false, fua = false;
  u64 stable_at = ~u64{0};  // index in the log of the flush that made it stable
};

class Recorder final : public BlockNode {
 public:
  Task<> open(Value options) override;
  Task<> read(u64 offset, IoVector into) override;
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override;
  Task<> flush() override;
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override;
  Task<> discard(u64 offset, u64 length) override;
  Task<> truncate(u64 length, Preallocation preallocation) override;
  u64 length_bytes() const override { return bytes.size(); }
  bool grows() const override { return true; }
  Limits limits() const override;
  std::string filename() const override { return node_name(); }

  std::vector<u8> bytes;
  std::vector<Logged> log;
  // What the log starts from.
  void start_recording();
  // The file after a power cut when `entries` of the log had been issued.
  std::vector<u8> after_cut(usize entries, std::mt19937_64& random) const;

  bool slow = false;             // requests end in a later turn of the loop, so that others overlap
  u32 most_turns = 1;            // slow: how many turns a request takes, by chance, so that they end in any order
  u64 overlapping_writes = 0;    // writes that began while another to the same bytes was under way: what is left then is anybody's guess
  u64 calls = 0, fail_call = 0;  // the fail_call-th call fails; 0: none
  int fail_with = EIO;
  u64 most_bytes = 1 * GiB;  // writes past this fail with ENOSPC

 private:
  Task<> step();
  void note_overlap(u64 offset, u64 length);
  std::vector<u8> initial_;
  std::vector<usize> under_way_;  // writes and zeros, by their places in the log
  std::mt19937_64 turns_{11};
};

// An open, held node of that name with these contents.
std::shared_ptr<Recorder> make_recorder(EventLoop& loop, std::string node_name, std::vector<u8> bytes = {});

}  // namespace vmm::block::test
