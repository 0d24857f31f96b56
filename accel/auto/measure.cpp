// How fast KVM is here. On a host without virtualisation hardware it may interpret a guest's kernel, one instruction at a time.
// Source: Linux, Documentation/virt/kvm/api.rst.
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>

#include "accel/auto/auto.h"
#include "src/base/fd.h"

namespace vmm::both {

double measure_kvm(int kvm) {
  // 16-bit code at 0: mov cx, 2000; loop itself; hlt. The first round warms up.
  static constexpr u8 code[] = {0xb9, 0xd0, 0x07, 0xe2, 0xfe, 0xf4};
  static constexpr u64 instructions = 2002;
  const Fd vm{::ioctl(kvm, KVM_CREATE_VM, 0)};
  if (!vm) return 0;
  u64 identity = 0xfeff'c000;
  if (::ioctl(vm.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 || ::ioctl(vm.get(), KVM_SET_TSS_ADDR, identity + 0x1000) < 0) return 0;
  const int shared_bytes = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  void* const page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 0;
  std::memcpy(page, code, sizeof code);
  const kvm_userspace_memory_region region{
      .slot = 0, .flags = 0, .guest_phys_addr = 0, .memory_size = 4096, .userspace_addr = reinterpret_cast<u64>(page)};
  double best = 0;
  {
    const Fd cpu{::ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -1 : ::ioctl(vm.get(), KVM_CREATE_VCPU, 0)};
    void* const shared = cpu && shared_bytes > 0
                             ? ::mmap(nullptr, static_cast<usize>(shared_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, cpu.get(), 0)
                             : MAP_FAILED;
    if (shared != MAP_FAILED) {
      kvm_sregs system;
      bool good = ::ioctl(cpu.get(), KVM_GET_SREGS, &system) == 0;
      system.cs.base = 0, system.cs.selector = 0;
      good = good && ::ioctl(cpu.get(), KVM_SET_SREGS, &system) == 0;
      for (int round = 0; good && round < 4; round++) {
        kvm_regs registers{};
        registers.rflags = 2;
        good = ::ioctl(cpu.get(), KVM_SET_REGS, &registers) == 0;
        const auto begun = std::chrono::steady_clock::now();
        good = good && ::ioctl(cpu.get(), KVM_RUN, 0) == 0 && static_cast<kvm_run*>(shared)->exit_reason == KVM_EXIT_HLT;
        const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begun;
        if (good && round > 0 && (best == 0 || taken.count() / instructions < best)) best = taken.count() / instructions;
        if (good && round > 0 && (best < 10 || (round > 1 && best > 200))) break;  // no doubt
      }
      ::munmap(shared, static_cast<usize>(shared_bytes));
    }
  }
  ::munmap(page, 4096);
  return best;
}

}  // namespace vmm::both
