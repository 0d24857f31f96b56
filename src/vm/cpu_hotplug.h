// CPUs that come and go while the machine runs. A board that can derives from CpuHotplug; the rest of the program finds it by a cast.
#pragma once

#include "src/vm/machine.h"
#include "src/vm/x86_cpu.h"

namespace vmm::vm {

class CpuHotplug {
 public:
  virtual ~CpuHotplug() = default;
  // Plugs the CPU of this type that the properties place (socket-id, die-id, core-id, thread-id). `id` may be empty. After the machine
  // has been finished the guest is told.
  virtual Result<> plug_cpu(const TypeInfo& type, const std::string& id, const Value& properties) = 0;
  // Asks the guest to give it up; it leaves when the guest says so.
  virtual Result<> ask_cpu_to_leave(X86Cpu& cpu) = 0;
};

struct NewCpu {
  std::unique_ptr<Vcpu> vcpu;
  Ref<X86Cpu> object;  // bound, not yet in the tree
};
// A CPU of the machine, its memory and ports in place, and its object. `old`: one that has left earlier and comes back.
Result<NewCpu> make_cpu(Machine& machine, unsigned index, const x86::CpuModel& model, std::unique_ptr<Vcpu> old = nullptr);
// Forgets the object of a CPU that leaves.
void unbind_cpu(Vcpu& vcpu);

}  // namespace vmm::vm
