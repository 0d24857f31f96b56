// Instruction breakpoints as bytes in the guest's memory (a ROM's too): int3 in the place of an instruction's first byte while a vCPU that
// looks for it runs, and the instruction itself again whenever all are out of guest code. So who looks at a stopped machine, saves it or
// moves it sees the guest's own bytes.
#pragma once

#include <map>

#include "src/base/lock.h"
#include "src/memory/memory.h"

namespace vmm::kvm {

class Planted {
 public:
  // For one more vCPU. False: neither RAM nor ROM is there. Any thread.
  bool plant(memory::AddressSpace& memory, GuestPhys at);
  // The guest has perhaps written there (it loads its kernel): that is its own byte now, and the point stands again. Or other memory is
  // there (firmware that is copied to RAM, with our byte in it): the point moves, and what was there before is as it was.
  void renew(memory::AddressSpace& memory, GuestPhys at);
  // One vCPU less. A byte that the guest has written there meanwhile stays.
  void lift(memory::AddressSpace& memory, GuestPhys at);

 private:
  struct Place {
    u8 byte = 0;
    u32 vcpus = 0;
    memory::PageNumber page = memory::no_page;  // of RAM or ROM, wherever that is seen now
  };
  static void give_back(const Place& place, GuestPhys at);
  Mutex mutex_;
  std::map<u64, Place> places_ GUARDED_BY(mutex_);
};

}  // namespace vmm::kvm
