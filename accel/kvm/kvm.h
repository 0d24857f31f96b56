// KVM as an accelerator: the virtual machine in the host's kernel, its memory slots, and what its CPUs can do. Interrupt controllers
// are the kernel's (irqchip.h) unless that has none or the user wants the board's. Source: Linux, Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <vector>

#include "accel/kvm/irqchip.h"
#include "accel/kvm/planted.h"
#include "src/base/fd.h"
#include "src/base/lock.h"
#include "src/vm/accelerator.h"
#include "src/x86/model.h"

namespace vmm::kvm {

class KvmCpu;

// Requests whose structures end in a flexible array, which C++ makes longer than the kernel's: numbers and forms of our own.
inline constexpr unsigned long get_supported_cpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8),
                               set_gsi_routing = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8), set_cpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8),
                               get_msr_index_list = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4),
                               get_msrs_request = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8),
                               set_msrs_request = _IOC(_IOC_WRITE, KVMIO, 0x89, 8), get_xsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096),
                               set_xsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096), get_xsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, 4096);
inline constexpr unsigned cpuid_limit = 256, msr_limit = 64, msr_index_limit = 1023;
struct CpuidTable {
  u32 count = 0, padding = 0;
  kvm_cpuid_entry2 entry[cpuid_limit] = {};
};
struct MsrTable {
  u32 count = 0, padding = 0;
  kvm_msr_entry entry[msr_limit] = {};
};
struct MsrIndexTable {
  u32 count = 0;
  u32 number[msr_index_limit] = {};
};

class KvmAccelerator final : public vm::Accelerator {
 public:
  static const TypeInfo type;
  KvmAccelerator();
  ~KvmAccelerator() override;
  std::string_view short_name() const override { return "kvm"; }
  // Errors say what of /dev/kvm is missing, or not permitted.
  Result<> init(vm::Machine& machine) override;
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model) override;
  const vmm::x86::FeatureWords& supported_features() const override { return features_; }
  bool has_smm() const override { return false; }
  // A debugger's step may keep the interrupts of the kernel's controllers away.
  bool can_hold_interrupts() const { return holds_interrupts_; }
  vm::Irqchip* irqchip() override { return chips_.get(); }

  int kvm() const { return kvm_.get(); }
  int vm() const { return vm_.get(); }
  const CpuidTable& supported() const { return supported_; }
  // MSRs that this kernel can save and restore.
  bool has_msr(u32 number) const;
  void add(KvmCpu& cpu);
  void remove(KvmCpu& cpu);
  // Before init(): this is one of two engines. Memory is logged always; what the kernel's CPUs cannot do, the other engine does.
  void make_helper() { helper_ = true; }
  bool helper() const { return helper_; }
  // What guest code in the kernel has stored since the last time, in the dirty logs and told to who keeps translated code. Any thread.
  void harvest_all() { harvest(nullptr); }
  // The guest's page tables were written behind the kernel's back, which may keep shadows of them.
  void forget_page_tables();
  // A memory's log was switched on or off, or is about to be read.
  void logging_changed() { place_memory(); }
  void harvest(memory::RamBlock* only);
  Planted& planted() { return planted_; }
  // True while memory slots change: no vCPU may be in guest code.
  const std::atomic<bool>& changing() const { return changing_; }

 private:
  static const Field properties[];
  struct Slot {
    u64 at = 0, bytes = 0;
    u8* host = nullptr;
    memory::RamBlock* block = nullptr;
    u64 block_offset = 0;
    bool read_only = false, logged = false;
    u32 number = 0;
    bool operator==(const Slot&) const = default;
    bool same_place(const Slot& o) const { return at == o.at && bytes == o.bytes && host == o.host && read_only == o.read_only; }
  };
  class Log;
  Result<> read_abilities();
  Result<> make_irqchip();
  bool has(int capability) const;
  std::vector<Slot> wanted_slots(const memory::FlatView& view) const;
  void place_memory();
  void set_slot(const Slot& slot, bool present);
  void stop_guest_code();

  bool helper_ = false;
  IrqchipForm irqchip_ = IrqchipForm::automatic;
  Fd kvm_, vm_;
  vm::Machine* machine_ = nullptr;
  CpuidTable supported_;
  std::vector<u32> msrs_;
  vmm::x86::FeatureWords features_;
  std::vector<KvmCpu*> vcpus_;
  Planted planted_;
  bool holds_interrupts_ = false;
  std::unique_ptr<KvmIrqchip> chips_;
  std::unique_ptr<Log> log_;

  Mutex slots_mutex_;        // against harvest() on vCPU threads
  std::vector<Slot> slots_;  // written with the machine lock too
  u32 next_number_ = 1;      // 0: of forget_page_tables()
  std::vector<u32> free_numbers_;
  u8* spare_page_ = nullptr;
  std::atomic<bool> changing_{false};
};

}  // namespace vmm::kvm
