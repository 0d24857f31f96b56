// The translator as an accelerator: what its vCPUs share. Properties are those of `-accel tcg,…`.
#pragma once

#include <vector>

#include "accel/tcg/run/first_tier.h"
#include "accel/tcg/run/lookup.h"
#include "accel/tcg/run/smc.h"
#include "src/vm/accelerator.h"
#include "src/x86/model.h"

namespace vmm::tcg {

class TcgVcpu;

enum class Engine : u8 { auto_, interp, e1, e2 };
enum class Threads : u8 { multi, single };
enum class TableForm : u8 { auto_, direct, tagged };

class TcgAccelerator : public vm::Accelerator {
 public:
  static const TypeInfo type;
  std::string_view short_name() const override { return "tcg"; }
  Result<> init(vm::Machine& machine) override;
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id, const vmm::x86::CpuModel& model) override;
  const vmm::x86::FeatureWords& supported_features() const override;
  std::string describe_jit() const override;

  BlockStore& store() { return store_; }
  FirstTier* tier() { return tier_.get(); }
  bool verify() const { return verify_; }
  void add(TcgVcpu& vcpu);
  void remove(TcgVcpu& vcpu);
  // Code appeared on a page, found by `by`: every vCPU that may write it without asking forgets so, before this returns.
  void drop_writes(TcgVcpu& by, u64 page);
  // The exclusive section (translator.md §9): between in and out no other vCPU runs guest code. On the thread of `by`.
  void exclusive(TcgVcpu& by, bool in) NO_THREAD_SAFETY_ANALYSIS;

 protected:  // an accelerator of two engines derives
  Result<> start_tier(const vmm::x86::CpuModel& model);
  CodeWatch& watch() { return watch_; }

 private:
  static const Field properties[];
  bool asked_ = false;  // start_tier was
  Engine engine_ = Engine::auto_;
  Threads threads_ = Threads::multi;
  TableForm tables_ = TableForm::auto_;
  bool verify_ = false, one_insn_per_tb_ = false, split_wx_ = true;
  u64 cache_mib_ = 0;
  BlockStore store_{code_pages()};
  CodeWatch watch_{store_};
  std::unique_ptr<FirstTier> tier_;
  std::vector<TcgVcpu*> vcpus_;
  Mutex exclusive_;  // held by the vCPU in the exclusive section; who waits for it is parked
};

}  // namespace vmm::tcg
