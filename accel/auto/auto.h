// Two engines for one machine: the host's CPU by KVM, and the translator for what KVM cannot do; a CPU goes from one to the other between
// two instructions. What is handed over, and when: docs/decisions/010-two-engines.md.
#pragma once

#include "accel/kvm/kvm.h"
#include "accel/tcg/tcg.h"

namespace vmm::both {

// What ended a stretch in an engine.
enum class Cause : u8 { start, patience, forced, instruction, refused, event, trouble, debugger, mode };
inline constexpr unsigned cause_count = 9;

struct Account {
  std::atomic<u64> to_kvm{0}, to_translator[cause_count] = {};
  std::atomic<u64> kvm_ns{0}, translator_ns{0};  // idle time is in neither
};

class AutoAccelerator final : public tcg::TcgAccelerator {
 public:
  static const TypeInfo type;
  ~AutoAccelerator() override;
  std::string_view short_name() const override { return "auto"; }
  // Without a usable /dev/kvm: a note, and the translator does all.
  Result<> init(vm::Machine& machine) override;
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model) override;
  const vmm::x86::FeatureWords& supported_features() const override { return features_; }

  kvm::KvmAccelerator* kvm() { return kvm_.get(); }
  Account& account() { return account_; }
  u64 forced_period() const { return forced_; }
  // Whether KVM is entered by itself: not where it interprets.
  bool kvm_pays() const { return nanoseconds_an_instruction_ < slow; }
  std::string describe() const;

 private:
  static constexpr double slow = 20;
  class Log;
  static const Field properties[];
  u64 forced_ = 0;
  Ref<kvm::KvmAccelerator> kvm_;
  std::unique_ptr<Log> log_;
  vmm::x86::FeatureWords features_;
  double nanoseconds_an_instruction_ = 0;
  std::string without_kvm_;  // why
  Account account_;
};

// How long an instruction of the kernel's takes KVM here, by a small loop in a machine of its own; 0: not known.
double measure_kvm(int kvm);

}  // namespace vmm::both
