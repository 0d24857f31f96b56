// A second virtual machine of KVM's, in which nothing runs but level 3 of the guest's programs: its physical addresses are our page
// numbers, its page tables our own (user_space.h), and each way into its kernel ends at a HLT of ours (docs/decisions/010-two-engines.md).
#pragma once

#include <linux/kvm.h>

#include <vector>

#include "accel/kvm/kvm.h"
#include "src/base/fd.h"
#include "src/base/lock.h"
#include "src/base/result.h"
#include "src/memory/memory.h"

namespace vmm::both {

class UserMachine {
 public:
  // On an open /dev/kvm.
  Result<> open(int kvm);
  int kvm() const { return kvm_; }
  int vm() const { return vm_.get(); }
  // From now on the pages of the block lie at their numbers. False: KVM takes no more memory. Any vCPU's thread.
  bool add(memory::RamBlock& block);
  static u64 physical(memory::PageNumber page) { return u64{page} << 12; }
  // Memory of one CPU's own, which it alone replaces.
  static u64 private_at(unsigned index) { return u64{1} << 43 | u64{index} << 28; }
  bool place_private(unsigned index, u8* host, u64 bytes);

 private:
  struct Slot {
    u64 at = 0, bytes = 0;
    u8* host = nullptr;
    bool operator==(const Slot&) const = default;
  };
  static constexpr u32 first_block_slot = 4096;
  bool place(u32 number, const Slot& slot);

  int kvm_ = -1;
  Fd vm_;
  Mutex mutex_;
  std::vector<Slot> slots_ GUARDED_BY(mutex_);
};

}  // namespace vmm::both
