// What runs guest code. accel/ implements it; boards and the monitor see only this.
#pragma once

#include <memory>

#include "src/object/object.h"
#include "src/vm/vcpu.h"

namespace vmm::x86 {
struct FeatureWords;
}

namespace vmm::vm {

class Irqchip;
class Machine;

// An Object: `-accel tcg,verify=on` sets its properties, which then are frozen. Type names "tcg-accel", "kvm-accel".
class Accelerator : public Object {
 public:
  static const TypeInfo type;
  virtual std::string_view short_name() const = 0;  // "tcg"
  virtual Result<> init(Machine& machine) = 0;      // may fail: then the next -accel is tried
  virtual Result<std::unique_ptr<Vcpu>> make_vcpu(Machine& machine, unsigned index, u32 apic_id, const x86::CpuModel& model) = 0;
  // CPU features that the accelerator can give; the CPU model is cut to these with one warning.
  virtual const x86::FeatureWords& supported_features() const = 0;
  // Whether its CPUs have system management mode (Request::smi).
  virtual bool has_smm() const { return true; }
  // Its own interrupt controllers (src/vm/irqchip.h); null: the board's devices are all there is.
  virtual Irqchip* irqchip() { return nullptr; }
  virtual std::string describe_jit() const { return {}; }  // `info jit`
  virtual std::string describe_tlb(Vcpu&) { return {}; }
};

}  // namespace vmm::vm
