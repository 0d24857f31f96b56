// A machine-less bench for devices: port and memory spaces, an ISA bus with 16 lines, a clock that the test drives, and CPUs
// that only record what is posted to them. The machine lock is held while a bench lives.
#pragma once

#include "hw/isa/isa.h"
#include "hw/pci/host.h"
#include "src/vm/machine.h"
#include "src/x86/model.h"
#include "tests/unit/test.h"

namespace vmm::test {

class BenchMachine final : public vm::Machine {
 public:
  static const TypeInfo type;
  Result<> realize() override { return {}; }
  void reset(vm::Cause) override {}
  using Machine::add_vcpu;
};

// Gives the ISA bus to the bench machine.
class BenchBridge final : public hw::Device {
 public:
  static const TypeInfo type;
};

class BenchPciHost final : public hw::PciHostBridge {
 public:
  static const TypeInfo type;
  BenchPciHost() : PciHostBridge(false, "pci.0") {}
};

class BenchVcpu final : public vm::Vcpu {
 public:
  BenchVcpu(vm::Machine& machine, unsigned index, const x86::CpuModel& model) : Vcpu(machine, index, index, model) {
    memory_ = &machine.memory();
    ports_ = &machine.ports();
  }
  void post(vm::Request request) override { posted |= static_cast<u32>(request); }
  bool take(vm::Request request) {
    const bool was = posted & static_cast<u32>(request);
    posted &= ~static_cast<u32>(request);
    return was;
  }
  void run(std::function<void()> work) override { work(); }
  Result<> start() override { return {}; }
  void resume() override {}
  void request_stop() override {}
  void wait_stopped() override {}
  void finish() override {}
  int host_thread_id() const override { return 0; }
  bool halted() const override { return false; }
  u64 read_tsc() override { return static_cast<u64>(machine_.time_domain().now(Clock::guest).count()) * 2; }
  u64 tsc_hz() const override { return 2'000'000'000; }
  Result<GuestPhys> translate(GuestVirt address) override { return GuestPhys{address.value}; }
  u32 posted = 0;
};

// Device types that can stand on a bench by themselves: no chip sets and host bridges, which need their boards; `.sample` says who can.
bool stands_on_bench(const TypeInfo& type);
// What makes one: its `.sample` ("isa-debugcon,chardev=conformance") as a spec.
hw::DeviceSpec sample_spec(const TypeInfo& type);

class DeviceBench final : public hw::IrqSink {
 public:
  DeviceBench();
  // Makes, sets, attaches: as -device does, but boards' own types are allowed as well.
  explicit DeviceBench(std::string_view driver, std::vector<std::pair<std::string, Value>> properties = {});
  ~DeviceBench() override;
  DeviceBench(const DeviceBench&) = delete;

  hw::Device& add(std::string_view driver, std::vector<std::pair<std::string, Value>> properties = {});
  template <class T>
  T& device() {
    return dynamic_cast<T&>(*device_);
  }
  hw::Device& device() { return *device_; }
  BenchMachine& machine() { return *machine_; }
  hw::IsaBus& isa() { return *isa_; }
  // PCI: one root bus, config by ports 0xcf8/0xcfc, INTx of any device on line 16 + pin, messages recorded, 64 KiB of RAM at 0.
  hw::PciBus& pci() { return host_->root_bus(); }
  u32 config_read(u8 slot, u16 at, unsigned size) { return pci().config_read(0, static_cast<u8>(slot << 3), at, size); }
  void config_write(u8 slot, u16 at, unsigned size, u32 value) { pci().config_write(0, static_cast<u8>(slot << 3), at, size, value); }
  // Gives every BAR of the device an address and turns it on; the addresses by BAR.
  std::array<u64, 6> place_bars(u8 slot);
  std::vector<hw::MsiMessage> messages;
  TimeDomain& clock() { return machine_->time_domain(); }
  BenchVcpu& add_vcpu();

  void out8(u16 port, u8 value) { machine_->ports().store(GuestPhys{port}, 1, value); }
  u8 in8(u16 port) { return static_cast<u8>(machine_->ports().load(GuestPhys{port}, 1)); }
  void write32(u64 at, u32 value) { machine_->memory().store(GuestPhys{at}, 4, value); }
  u32 read32(u64 at) { return static_cast<u32>(machine_->memory().load(GuestPhys{at}, 4)); }
  u64 read64(u64 at) { return machine_->memory().load(GuestPhys{at}, 8); }
  void write64(u64 at, u64 value) { machine_->memory().store(GuestPhys{at}, 8, value); }
  void advance(Nanoseconds by) { clock().advance(by); }

  bool line(unsigned n) const { return lines_ >> n & 1; }
  unsigned edges(unsigned n) { return std::exchange(edges_[n], 0); }  // rising ones since asked last
  void set_input(unsigned n, bool level) override {
    if (n >= 32) return;
    if (level && !(lines_ >> n & 1)) edges_[n]++;
    lines_ = level ? lines_ | u32{1} << n : lines_ & ~(u32{1} << n);
  }

 private:
  MachineLocked locked_;
  EventLoop loop_;
  Ref<BenchMachine> machine_;
  Ref<BenchBridge> bridge_;
  memory::MemoryRegion ram_;
  Ref<BenchPciHost> host_;
  Ref<hw::IsaBus> isa_;
  Ref<hw::Device> device_;
  std::unique_ptr<x86::CpuModel> model_;
  u32 lines_ = 0;
  std::array<unsigned, 32> edges_{};
};

}  // namespace vmm::test
