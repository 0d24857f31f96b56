// The empty machine: no CPU, no device; management tools ask it what vmm can do.
#include "src/vm/machine.h"

namespace vmm::hw {
namespace {

class NoneMachine final : public vm::Machine {
 public:
  static const TypeInfo type;
  Result<> realize() override {
    if (!config.kernel.empty()) return fail("machine 'none' cannot start a kernel; choose another with -machine");
    return {};
  }
  void reset(vm::Cause) override {}

 private:
  static const Field properties[4];
  std::string memory_backend() const { return config.ram_backend; }
  Result<> set_memory_backend(const std::string& id) {
    config.ram_backend = id;
    return {};
  }
  bool dump_guest_core_ = true, mem_merge_ = true, usb_ = false;
};

constexpr Field NoneMachine::properties[4] = {
    field<&NoneMachine::dump_guest_core_>("dump-guest-core", "Include guest memory in a core dump"),
    field<&NoneMachine::mem_merge_>("mem-merge", "Enable/disable memory merge support"),
    field<&NoneMachine::usb_>("usb", "Set on/off to enable/disable usb"),
    computed<&NoneMachine::memory_backend, &NoneMachine::set_memory_backend>("memory-backend", "Set RAM backend; its id"),
};
constinit const TypeInfo NoneMachine::type{.name = "none-machine",
                                           .doc = "empty machine",
                                           .parent = &vm::Machine::type,
                                           .properties = properties,
                                           .make = make<NoneMachine>,
                                           .user_creatable = false};
constexpr vm::MachineTypeInfo info{.type = &NoneMachine::type,
                                   .name = "none",
                                   .description = "empty machine",
                                   .max_cpus = 1,
                                   .default_cpu = "",
                                   .default_ram_id = "ram",
                                   .acpi = false};
const vm::RegisteredMachine registered{info};

}  // namespace
}  // namespace vmm::hw
