// Registers of vCPUs for people: by name, and as the text of `info registers` (contract.md §4). Machine lock held.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"
#include "src/vm/vcpu.h"

namespace vmm::vm {

// The vCPU, or an error that names the number.
Result<Vcpu*> find_vcpu(unsigned index);
// Runs `look` where the vCPU's state may be read.
void with_state(Vcpu& vcpu, const std::function<void(x86::State&)>& look);
// "rip", "eax", "cs.base", "cr3", "xmm0" no: integers only.
Result<u64> read_register(unsigned cpu_index, std::string_view name);
std::string describe_registers(Vcpu& vcpu);
// The same of a state at hand, for the log (`-d cpu`). `wide_cpu`: the model has long mode.
std::string describe_state(const x86::State& state, bool wide_cpu);

}  // namespace vmm::vm
