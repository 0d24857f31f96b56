// -accel qtest: CPUs that run nothing, and a guest clock that moves only when a test says so (server.h). Devices are driven from outside.
#include "src/vm/accelerator.h"
#include "src/vm/machine.h"
#include "src/x86/model.h"

namespace vmm::qtest {

namespace {

class IdleVcpu final : public vm::Vcpu {
 public:
  IdleVcpu(vm::Machine& machine, unsigned index, u32 apic_id, const x86::CpuModel& model) : Vcpu(machine, index, apic_id, model) {
    memory_ = &machine.memory();
    ports_ = &machine.ports();
  }
  void post(vm::Request) override {}
  void run(std::function<void()> work) override { work(); }
  Result<> start() override { return {}; }
  void resume() override {}
  void request_stop() override {}
  void wait_stopped() override {}
  void finish() override {}
  int host_thread_id() const override { return 0; }
  bool halted() const override { return true; }
  u64 read_tsc() override { return static_cast<u64>(machine_.time_domain().now(Clock::guest).count()); }
  u64 tsc_hz() const override { return 1'000'000'000; }
  Result<GuestPhys> translate(GuestVirt address) override { return GuestPhys{address.value}; }
};

class QtestAccelerator final : public vm::Accelerator {
 public:
  static const TypeInfo type;
  std::string_view short_name() const override { return "qtest"; }
  Result<> init(vm::Machine& machine) override {
    machine.main_loop().remove_time_domain(machine.time_domain());  // time is the test's alone
    machine.time_domain().use_manual_time();
    return {};
  }
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id, const x86::CpuModel& model) override {
    return std::make_unique<IdleVcpu>(machine, index, apic_id, model);
  }
  const x86::FeatureWords& supported_features() const override {
    static const x86::FeatureWords words = x86::tcg_features();
    return words;
  }
};

constinit const TypeInfo QtestAccelerator::type{.name = "qtest-accel",
                                                .doc = "No CPU runs: devices are driven by the qtest protocol.",
                                                .parent = &Accelerator::type,
                                                .make = make<QtestAccelerator>,
                                                .user_creatable = false};
Registered registered{QtestAccelerator::type};

}  // namespace
}  // namespace vmm::qtest
