// See user_machine.h. Source: Linux, Documentation/virt/kvm/api.rst.
#include "accel/auto/user_machine.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace vmm::both {

Result<> UserMachine::open(int kvm) {
  kvm_ = kvm;
  for (const auto& [capability, name] :
       {std::pair{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"}, {KVM_CAP_SYNC_REGS, "registers by page"}, {KVM_CAP_XSAVE, "XSAVE"}})
    if (::ioctl(kvm, KVM_CHECK_EXTENSION, capability) <= 0) return fail("this kernel's KVM lacks {}", name);
  vm_ = Fd{::ioctl(kvm, KVM_CREATE_VM, 0)};
  if (!vm_) return fail("KVM makes no second virtual machine: {}", std::strerror(errno));
  u64 identity = 0xfeff'c000;
  if (::ioctl(vm_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 || ::ioctl(vm_.get(), KVM_SET_TSS_ADDR, identity + 0x1000) < 0)
    return fail("KVM refuses the address of its own pages: {}", std::strerror(errno));
  return {};
}

bool UserMachine::place(u32 number, const Slot& slot) {
  const kvm_userspace_memory_region region{.slot = number,
                                           .flags = 0,
                                           .guest_phys_addr = slot.at,
                                           .memory_size = slot.bytes,
                                           .userspace_addr = reinterpret_cast<u64>(slot.host)};
  return ::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

bool UserMachine::add(memory::RamBlock& block) {
  const Slot wanted{.at = physical(block.first_page()), .bytes = block.size_bytes(), .host = block.host()};
  const Lock lock{mutex_};
  usize free = slots_.size();
  for (usize i = 0; i < slots_.size(); i++) {
    Slot& s = slots_[i];
    if (s == wanted) return true;
    if (s.bytes && s.at < wanted.at + wanted.bytes && wanted.at < s.at + s.bytes) {  // of a block that is gone
      if (!place(first_block_slot + static_cast<u32>(i), {.at = s.at})) return false;
      s = {};
    }
    if (!s.bytes) free = i;
  }
  if (!place(first_block_slot + static_cast<u32>(free), wanted)) return false;
  if (free == slots_.size()) slots_.emplace_back();
  slots_[free] = wanted;
  return true;
}

bool UserMachine::place_private(unsigned index, u8* host, u64 bytes) {
  return place(index, {.at = private_at(index), .bytes = bytes, .host = host});
}

}  // namespace vmm::both
