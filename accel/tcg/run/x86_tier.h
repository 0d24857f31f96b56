// E1 for an x86 vCPU: which modes it takes, which address table their accesses use, and how one instruction is interpreted in
// between (translator.md §4.2, §5).
#pragma once

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/run/first_tier.h"
#include "accel/tcg/run/portable.h"

namespace vmm::tcg {

class X86Tier final : public FirstTierGuest {
 public:
  // `portable`: the vCPU's interpreter over the same block store.
  X86Tier(FirstTier& tier, PortableRunner& portable, x86::Cpu& cpu, const GuestOps& ops, unsigned index)
      : portable_(portable), cpu_(cpu), engine_(tier, cpu, ops, *this, cpu.state, index) {}
  // Reserves what the tier needs and hears of flushes from now on; on failure the vCPU does without.
  Result<> start();
  // Does the present state's code go to this tier? No while single-stepping or in an interrupt shadow.
  bool takes_now() const { return takes(x86::key_of(cpu_).raw); }
  FirstTierCpu::Left run() { return engine_.run(); }
  void set_verify() { engine_.set_verify(); }
  u64 table_bytes() const { return engine_.table_bytes(); }
  // Drops what this vCPU caches of rights to write a page that now holds code.
  void drop_writes(u64 page) override;
  // The same for every vCPU; waits for them.
  void drop_writes_of_all(u64 page) override { portable_.drop_writes(page); }

  void step() override;
  bool quick(x64::InterpretArgument insn) override;
  bool interrupt_waits() override;
  void mode_changed() override { x86::mode_changed(cpu_); }
  bool takes(u64 key) const override;
  bool code64(u64 key) const override { return key & x86::ModeKey::code64; }
  bool refuses(u64 target) const override { return !x86::canonical(cpu_, target); }
  Tables::Which context() const override;
  void segment_bases(u64 (&bases)[6]) const override {
    for (unsigned i = 0; i < 6; i++) bases[i] = cpu_.state.segment[i].base;
  }
  bool stops_at(u64 address) const override {
    const vm::Debug* const debug = x86::system_of(cpu_).debug;
    return debug && debug->stops_at(address);
  }
  u64 debug_key(u64 address) override { return x86::debug_key(cpu_, address); }
  bool global_code(u64 address) override;

 private:
  bool quick_string(x64::InterpretArgument insn);
  PortableRunner& portable_;
  x86::Cpu& cpu_;
  FirstTierCpu engine_;
};

}  // namespace vmm::tcg
