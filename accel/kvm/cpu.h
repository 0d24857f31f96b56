// One CPU in the host's kernel: it executes what the State of a vCPU says. Registers stay in the kernel until somebody wants to see State,
// and go back before the next entry when somebody may have changed it. Its vCPU owns the thread: a KvmVcpu, or one that has another engine
// too.
#pragma once

#include <linux/kvm.h>

#include "accel/kvm/kvm.h"
#include "src/vm/vcpu_thread.h"

namespace vmm::kvm {

class KvmCpu {
 public:
  // Why run() returned: asked (or nothing to run); so many exits; an event that the helper's other engine takes; a debugger's business
  // (take_debug_stop()); the kernel cannot execute the instruction at State; it does not take the State; it has another trouble.
  enum class Left : u8 { asked, enough, event, debug, emulation, refused, internal_error };

  // `requests`: the word of the vCPU's.
  KvmCpu(KvmAccelerator& accelerator, vm::ThreadedVcpu& vcpu, std::atomic<u32>& requests);
  ~KvmCpu();
  KvmCpu(const KvmCpu&) = delete;
  Result<> open();  // makes the kernel's side

  // Executes. On the vCPU's thread; after anything but asked and enough, why() has a text and state() is not complete yet.
  Left run(u64 exits);
  const std::string& why() const { return why_; }
  // What a debugger wants of it from the next run() on: its points, and perhaps one instruction only (debug.cpp). Instructions are planted
  // (or stand in a debug register where that cannot be), data is watched by debug registers: whether there are enough of them.
  static bool holds(std::span<const vm::DebugPoint> points);
  void set_debug(std::span<const vm::DebugPoint> points, const vm::StepOptions* step);
  vm::DebugStop take_debug_stop() { return std::exchange(stop_, {}); }
  // As ThreadedVcpu's.
  void complete_state();
  void state_replaced() {
    dirty_ = resumed_ = true;
    // Who comes halted does not enter before an interrupt that it would take: the kernel has not yet said whether it would.
    if (run_) run_->if_flag = (state_.rflags & vmm::x86::flag_if) != 0;
  }
  bool wanted() const;
  // The vCPU's other engine has run: State counts, and what the kernel keeps of the guest's page tables is old.
  void take_over();
  // An interrupt that was acknowledged and is not delivered yet (-1: none); the caller delivers it, or drops it.
  int take_accepted() { return std::exchange(accepted_, -1); }

  u64 read_tsc();
  u64 ticks() const;  // the guest's clock in the counter's unit: State::tsc_offset is the distance to that
  u64 tsc_hz() const { return tsc_hz_; }
  Result<GuestPhys> translate(GuestVirt address);
  // With the local APIC in the kernel (irqchip.cpp).
  void get_local_apic(vm::LocalApicImage& image);
  void put_local_apic(const vm::LocalApicImage& image);
  // Makes it leave guest code soon. Any thread.
  void leave_guest();
  // The signal that brings a thread out of KVM_RUN, and nothing else once it is caught.
  static int kick_signal();
  static void catch_kicks();
  // Returns when it is not in guest code. Any other thread, with KvmAccelerator::changing() set.
  void wait_outside() { in_guest_.wait(true, std::memory_order_seq_cst); }

 private:
  unsigned index() const { return vcpu_.index(); }
  u32 apic_id() const { return vcpu_.apic_id(); }
  vm::Machine& machine() const { return vcpu_.machine(); }
  const vmm::x86::CpuModel& model() const { return vcpu_.model(); }
  vm::LocalInterrupts* interrupts() const { return vcpu_.interrupts(); }
  memory::AddressSpace& memory() const { return vcpu_.memory(); }
  memory::AddressSpace& ports() const { return vcpu_.ports(); }

  u64 linear_rip() const { return state_.code64() ? state_.rip : static_cast<u32>(state_.segment[vmm::x86::cs].base + state_.rip); }

  // registers.cpp
  Result<> get_registers();
  Result<> put_registers();
  Result<> get_fpu();
  Result<> put_fpu();
  Result<> get_msrs();
  Result<> put_msrs();
  void put_counter();
  Result<> get_activity();
  Result<> put_activity();
  void get_events();
  Result<> put_events();
  // cpu.cpp
  Result<> set_cpuid();
  Left run_planted(u64 exits);
  bool take_requests();          // false: nothing to run now, or left_ says why
  bool take_kernels_requests();  // the same, with the local APIC in the kernel
  void offer_interrupt();
  void inject(u8 vector);
  void finish_io();
  int enter();  // one KVM_RUN; its errno, or 0
  bool handle_exit();
  void answer();
  void port_io();
  void mmio();
  bool fails(Left left, std::string why);  // returns false
  // debug.cpp
  Result<> put_debug();
  void plant();
  void lift();
  bool debug_exit();  // false: the debugger's
  bool met_planted(u64 linear);
  void give_back(u8 exception);

  KvmAccelerator& accelerator_;
  vm::ThreadedVcpu& vcpu_;
  vmm::x86::State& state_;
  std::atomic<u32>& requests_;
  const bool helper_;                // another engine does what this one cannot
  const bool apic_in_kernel_;        // and with it INIT, SIPI and HLT: State::activity is known when it is fetched
  u64 apic_base_ = 0, cr8_ = 0;      // the local APIC's, not State's
  std::optional<u64> deadline_due_;  // for IA32_TSC_DEADLINE
  Fd fd_;
  kvm_run* run_ = nullptr;
  usize run_bytes_ = 0, xsave_bytes_ = 4096;
  u64 tsc_hz_ = 1'000'000'000;
  std::atomic<bool> in_guest_{false};
  Left left_ = Left::asked;
  std::string why_;
  int accepted_ = -1;
  bool fetched_ = true;     // state() holds what the CPU has
  bool dirty_ = true;       // and more than that: it must go to the kernel
  bool answering_ = false;  // a device answers an access of the guest
  bool io_open_ = false;    // an access of the guest that the next entry completes
  bool ready_ = false;      // the kernel would take an interrupt now
  std::vector<vm::DebugPoint> points_;
  std::vector<std::pair<u64, GuestPhys>> planted_;      // by this CPU: linear address, place
  std::vector<const vm::DebugPoint*> debug_registers_;  // who has which
  bool debugging_ = false;                              // the kernel was told something
  bool debug_due_ = false;                              // it is to be told anew
  bool step_ = false, hold_interrupts_ = false;
  bool resumed_ = false;  // after a stop: a point at the very instruction is not met
  bool over_ = false;     // one instruction without points, for that
  vm::DebugStop stop_;
  u64 tsc_offset_put_ = 0;
  bool tsc_put_ = false;
};

}  // namespace vmm::kvm
