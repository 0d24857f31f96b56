// RAM as it was at one moment, while the guest goes on. A child process shares our pages, and the kernel copies those that we store to:
// whoever does, a CPU in any engine, a device, or the kernel itself that reads from a disk. The child runs nothing of the machine: it sends
// its RAM through a pipe, and ends with that or with us.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/memory/memory.h"

namespace vmm::migration {

class FrozenRam {
 public:
  // CPUs stand and drives are at rest; machine lock held. Fails for RAM that is a file's (a child would share it, or may not get its huge
  // pages), and where the host denies the process.
  static Result<std::unique_ptr<FrozenRam>> take(const std::vector<memory::RamBlock*>& blocks);
  ~FrozenRam();  // on the main loop: it waits for the child, which ends at once
  FrozenRam(const FrozenRam&) = delete;

  // The next payload of Part::pages, the blocks numbered as they were given; empty after the last one. One thread.
  Result<std::span<const u8>> next();

 private:
  FrozenRam() = default;
  Result<> read(u8* to, usize bytes);
  Fd pipe_;
  int child_ = -1;
  std::vector<u8> payload_;
};

}  // namespace vmm::migration
