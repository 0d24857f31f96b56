// The thread of a vCPU, and who stops and holds it from outside.
#include "src/vm/vcpu_thread.h"

#include <future>

#include "tests/unit/hw/bench.h"

using namespace vmm;
using namespace std::chrono_literals;

namespace {
// Has nothing to run: it sleeps until somebody asks something of it.
class HaltedVcpu final : public vm::ThreadedVcpu {
 public:
  HaltedVcpu(vm::Machine& machine, const x86::CpuModel& model) : ThreadedVcpu(machine, 0, 0, model, requests_, "test") {}
  ~HaltedVcpu() override { finish(); }
  u64 read_tsc() override { return 0; }
  u64 tsc_hz() const override { return 1; }
  Result<GuestPhys> translate(GuestVirt address) override { return GuestPhys{address.value}; }
  std::promise<void> about_to_run;

 private:
  void execute() override {}
  void leave_guest() override {}
  void state_replaced() override {}
  void set_step(const vm::StepOptions*) override { about_to_run.set_value(); }
  bool wanted() const override { return false; }
  std::atomic<u32> requests_{0};
};
}  // namespace

TEST(a_stop_asked_for_while_a_vcpu_is_held_is_not_lost) {
  test::DeviceBench bench;
  const x86::CpuModel model;
  HaltedVcpu cpu{bench.machine(), model};
  OK(cpu.start());
  cpu.hold();
  cpu.resume();
  // From here the thread has the request lock until it waits for its release: the stop comes meanwhile.
  CHECK(cpu.about_to_run.get_future().wait_for(60s) == std::future_status::ready);
  cpu.request_stop();
  cpu.let_go();
  auto stopped = std::async(std::launch::async, [&] { cpu.wait_stopped(); });
  const bool in_time = stopped.wait_for(10s) == std::future_status::ready;
  if (!in_time) cpu.post(vm::Request::stop);  // or this test would not end
  CHECK(in_time);
}
