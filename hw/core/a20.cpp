// The A20 gate acts on every CPU's address translation, so each drops what it has cached.
#include "hw/core/a20.h"

namespace vmm::hw {

void A20Gate::set_input(unsigned, bool level) {
  if (on_ == level) return;
  on_ = level;
  for (const auto& vcpu : machine_.vcpus()) {
    vm::Vcpu* cpu = vcpu.get();
    cpu->run([cpu, level] { cpu->state().a20 = level; });
    cpu->post(vm::Request::flush);
  }
}

}  // namespace vmm::hw
