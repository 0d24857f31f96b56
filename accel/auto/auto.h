// Two engines for one machine: the host's CPU by KVM, and the translator for what KVM cannot do; a CPU goes from one to the other between
// two instructions. What is handed over, and when: docs/decisions/010-two-engines.md.
#pragma once

#include <chrono>

#include "accel/auto/user_machine.h"
#include "accel/kvm/kvm.h"
#include "accel/tcg/tcg.h"

namespace vmm::both {

// What ended a stretch in an engine.
enum class Cause : u8 { start, patience, forced, instruction, refused, event, trouble, debugger, mode, call, fault, code, exception };
inline constexpr unsigned cause_count = 13;

struct Account {
  std::atomic<u64> to_kvm{0}, to_translator[cause_count] = {};
  std::atomic<u64> kvm_ns{0}, translator_ns{0};  // idle time is in neither
};

// Adds the time that it lives.
class Stretch {
 public:
  explicit Stretch(std::atomic<u64>& sum) : sum_(sum) {}
  ~Stretch() { sum_.fetch_add(taken(), std::memory_order_relaxed); }
  Stretch(const Stretch&) = delete;
  u64 taken() const { return now() - begun_; }

 private:
  static u64 now() { return static_cast<u64>(std::chrono::steady_clock::now().time_since_epoch().count()); }
  std::atomic<u64>& sum_;
  u64 begun_ = now();
};

class ProgramVcpu;

class AutoAccelerator final : public tcg::TcgAccelerator {
 public:
  static const TypeInfo type;
  ~AutoAccelerator() override;
  std::string_view short_name() const override { return "auto"; }
  // Without a usable /dev/kvm: a note, and the translator does all.
  Result<> init(vm::Machine& machine) override;
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model) override;
  const vmm::x86::FeatureWords& supported_features() const override { return features_; }

  // One of them is null: KVM as an engine for everything, or for programs only.
  kvm::KvmAccelerator* kvm() { return kvm_.get(); }
  UserMachine* programs() { return programs_.get(); }
  Account& account() { return account_; }
  u64 forced_period() const { return forced_; }
  bool programs_always() const { return programs_always_; }
  // Whether KVM is entered by itself: not where it interprets.
  bool kvm_pays() const { return nanoseconds_an_instruction_ < slow; }
  std::string describe() const;

 private:
  static constexpr double slow = 20;
  class Log;
  static const Field properties[];
  Result<> start(vm::Machine& machine);
  u64 forced_ = 0;
  kvm::IrqchipForm irqchip_ = kvm::IrqchipForm::automatic;
  bool programs_always_ = false;
  Ref<kvm::KvmAccelerator> kvm_;
  std::unique_ptr<Log> log_;
  Fd device_;
  std::unique_ptr<UserMachine> programs_;
  std::vector<const ProgramVcpu*> program_vcpus_;
  vmm::x86::FeatureWords features_;
  double nanoseconds_an_instruction_ = 0;
  std::string without_kvm_;  // why
  Account account_;
};

// How long an instruction of the kernel's takes KVM here, by a small loop in a machine of its own; 0: not known.
double measure_kvm(int kvm);

}  // namespace vmm::both
