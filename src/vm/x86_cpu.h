// The CPU as an object of the tree: "qemu64-x86_64-cpu" and its siblings, one type a model of src/x86/model.h, with every feature as a
// boolean property. Cold CPUs lie at /machine/unattached/device[N].
#pragma once

#include "src/object/object.h"
#include "src/vm/vcpu.h"

namespace vmm::vm {

class X86Cpu final : public Object {
 public:
  static const TypeInfo type;  // "x86_64-cpu", abstract; models derive
  void bind(Vcpu& vcpu);       // adds the properties that need it
  void unbind() { vcpu_ = nullptr; }
  void set_hotplugged() { hotplugged_ = true; }
  Vcpu* vcpu() const { return vcpu_; }

 private:
  Vcpu* vcpu_ = nullptr;
  bool hotplugged_ = false;
};

// The TypeInfo of a model by name ("Haswell"); null if there is no such model. Registers all models at first use.
const TypeInfo* cpu_type(std::string_view model);

}  // namespace vmm::vm
