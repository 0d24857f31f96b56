// A machine without CPUs for tests of devices: memory, ports, a manual clock.
#pragma once

#include "src/vm/machine.h"

namespace vmm::test {

class TestMachine final : public vm::Machine {
 public:
  static inline constinit const TypeInfo type{
      .name = "test-machine", .doc = "A machine for tests.", .parent = &vm::Machine::type, .user_creatable = false};
  Result<> realize() override { return make_ram("test.ram"); }
  void reset(vm::Cause) override {}
  // 1 MiB of RAM at 0 by default, mapped.
  static Ref<TestMachine> make(u64 ram_bytes = 1 * MiB, bool map_ram = true) {
    auto m = make_object<TestMachine>();
    m->config.ram_bytes = ram_bytes;
    m->time_domain().use_manual_time();
    (void)m->realize();
    m->ram_region.init_ram(m.get(), "test.ram", m->ram());
    if (map_ram) m->memory_root().add(m->ram_region, 0);
    return m;
  }
  u32 in(u16 port, unsigned size) { return static_cast<u32>(ports().load(GuestPhys{port}, size)); }
  void out(u16 port, unsigned size, u32 value) { ports().store(GuestPhys{port}, size, value); }
  memory::MemoryRegion ram_region;
};

}  // namespace vmm::test
