// The bench of devices.
#include "tests/unit/hw/bench.h"

namespace vmm::test {

constinit const TypeInfo BenchMachine::type{
    .name = "bench-machine", .parent = &vm::Machine::type, .make = make<BenchMachine>, .user_creatable = false};
constinit const TypeInfo BenchBridge::type{
    .name = "bench-bridge", .parent = &hw::Device::type, .make = make<BenchBridge>, .user_creatable = false};

DeviceBench::DeviceBench() {
  machine_ = make_object<BenchMachine>();
  if (Object* left = root_object().child("machine")) root_object().remove_child(*left);
  root_object().add_child("machine", machine_);
  machine_->attach_loop(loop_);
  vm::set_current_machine(machine_.get());
  clock().use_manual_time();
  clock().start_guest_clock();
  bridge_ = make_object<BenchBridge>();
  machine_->unattached().add_child("bridge", bridge_);
  OK(bridge_->attach(nullptr));
  isa_ = make_object<hw::IsaBus>();
  isa_->wire(machine_->port_root(), machine_->memory_root(), *this);
  bridge_->add_bus("isa.0", isa_);
}

DeviceBench::DeviceBench(std::string_view driver, std::vector<std::pair<std::string, Value>> properties) : DeviceBench() {
  add(driver, std::move(properties));
}

DeviceBench::~DeviceBench() {
  std::vector<Ref<hw::Device>> all;
  hw::for_each_device(*machine_, [&](hw::Device& d) {
    if (&d != bridge_.get()) all.emplace_back(&d);
  });
  for (auto it = all.rbegin(); it != all.rend(); ++it)
    if ((*it)->parent()) (*it)->detach().start({});
  all.clear();
  device_ = nullptr;
  bridge_->detach().start({});
  vm::set_current_machine(nullptr);
  root_object().remove_child(*machine_);
  loop_.remove_time_domain(machine_->time_domain());
  isa_ = nullptr, bridge_ = nullptr, machine_ = nullptr;
  reclaim_dropped_objects();
}

hw::Device& DeviceBench::add(std::string_view driver, std::vector<std::pair<std::string, Value>> properties) {
  Value object = Value::object();
  for (auto& [name, value] : properties) object.set(name, std::move(value));
  device_ = OK(hw::create_device(
      *machine_, {.driver = std::string{driver}, .properties = std::move(object), .place = hw::DeviceSpec::Place::unattached}));
  device_->reset_tree();
  return *device_;
}

BenchVcpu& DeviceBench::add_vcpu() {
  if (!model_) model_ = std::make_unique<x86::CpuModel>();
  auto vcpu = std::make_unique<BenchVcpu>(*machine_, static_cast<unsigned>(machine_->vcpus().size()), *model_);
  BenchVcpu& it = *vcpu;
  machine_->add_vcpu(std::move(vcpu));
  return it;
}

}  // namespace vmm::test
