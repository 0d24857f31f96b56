// Level 3 of one vCPU under KVM: from State on, until the program enters its kernel, by whatever way, or something is due. What a fault or
// a system call would do is not done: State is that before the instruction, which the translator executes.
#pragma once

#include <linux/kvm.h>

#include "accel/auto/user_space.h"
#include "accel/kvm/cpu.h"
#include "src/vm/vcpu_thread.h"

namespace vmm::both {

class UserCpu {
 public:
  // Why it ended: something is due; a system call; a fault that is the guest's; code that must not run there; another exception; a single
  // step is done (State is after it, its trap is due); KVM refuses or has other trouble: do not try again soon.
  enum class Left : u8 { asked, call, fault, code, exception, trap, trouble };

  UserCpu(UserMachine& machine, vm::ThreadedVcpu& vcpu, tcg::x86::Cpu& cpu, tcg::BlockStore& store, UserSpace::DropWrites drop, void* self);
  ~UserCpu();
  UserCpu(const UserCpu&) = delete;
  Result<> open();

  // Is State that of a program that KVM would run as the guest's CPU does?
  bool fits() const;
  // On the vCPU's thread.
  Left run();
  // State was changed by another while run() waited.
  void state_replaced() { replaced_ = true; }
  // Any thread.
  void leave_guest();
  const UserSpace& space() const { return *space_; }

 private:
  void put();
  bool get();
  bool put_fpu();
  bool get_fpu();
  Left meaning(u8 vector, u32 code);

  UserMachine& machine_;
  vm::ThreadedVcpu& vcpu_;
  tcg::x86::Cpu& cpu_;
  vmm::x86::State& state_;
  u8* private_ = nullptr;
  std::unique_ptr<UserSpace> space_;
  tcg::BlockStore& store_;
  UserSpace::DropWrites drop_;
  void* self_;
  Fd fd_;
  kvm_run* run_ = nullptr;
  usize run_bytes_ = 0;
  kvm_sregs system_{};
  std::atomic<bool> in_guest_{false};
  bool replaced_ = false;
  // Of the last exit: what was to be delivered to the kernel.
  int vector_ = -1;
  u32 code_ = 0;
  u64 address_ = 0;
  alignas(64) u8 image_[4096];
};

}  // namespace vmm::both
