// A machine on its way into a stream: which pages of its RAM the other side lacks, and its sections. Used by one thread.
#pragma once

#include <atomic>
#include <functional>
#include <optional>

#include "migration/channel.h"
#include "migration/frozen.h"
#include "migration/stream.h"
#include "src/memory/memory.h"
#include "src/value/value.h"
#include "src/vm/machine.h"

namespace vmm::migration {

class MachineOut {
 public:
  explicit MachineOut(vm::Machine& machine) : machine_(machine) {}
  ~MachineOut() { end(); }
  MachineOut(const MachineOut&) = delete;

  // Instead of begin(), machine lock held: nothing is logged, all of RAM comes from a copy that freeze() makes (frozen.h).
  void list();
  Result<> freeze();
  FrozenRam* frozen() { return frozen_.get(); }
  void thaw() { frozen_.reset(); }
  // Machine lock held: logging begins, all of RAM is due.
  void begin();
  void end();                                              // logging ends; takes the machine lock if need be
  Result<> write_machine(Writer& writer, unsigned lanes);  // head and first part
  // The same for a file with places, which is then where the further parts go.
  Result<> write_machine_with_places(Writer& writer, Channel& file);
  void harvest();  // machine lock held: what was written since is due again
  u64 due_pages() const;
  u64 total_bytes() const { return total_; }
  // Everything that is due, in pieces: none of it is due afterwards, whatever `send` says.
  using Send = std::function<Result<>(u32 block, u64 first, u64 count)>;
  Result<> send_due(const Send& send);
  // The payload of Part::pages, which lies in `room`. Any thread.
  std::span<const u8> build_pages(u32 block, u64 first, u64 count, std::vector<u8>& room);
  // Pages to their places, and at the end Part::placed for all of them.
  Result<> place_pages(Channel& file, u32 block, u64 first, u64 count);
  Result<> write_places(Writer& writer) const;
  // The payloads of Part::section. Machine lock held; the machine stands. To be written without it: a sink may need the main loop.
  std::vector<Value> sections(vm::Status status);

  std::atomic<u64> zero_pages{0}, normal_pages{0};

 private:
  struct Block {
    memory::RamBlock* block;
    std::vector<u64> due;                  // a bit a page
    u64 at = 0;                            // its place
    std::vector<std::optional<u32>> sums;  // of the pages in their places; those that have none are zeros
  };
  Result<> write_first(Writer& writer, Value machine);
  std::vector<u8> run_;
  vm::Machine& machine_;
  std::vector<Block> blocks_;
  u64 total_ = 0;
  bool logging_ = false;
  std::unique_ptr<FrozenRam> frozen_;
};

}  // namespace vmm::migration
