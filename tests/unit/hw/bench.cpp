// The bench of devices.
#include "tests/unit/hw/bench.h"

namespace vmm::test {

constinit const TypeInfo BenchMachine::type{
    .name = "bench-machine", .parent = &vm::Machine::type, .make = make<BenchMachine>, .user_creatable = false};
constinit const TypeInfo BenchBridge::type{
    .name = "bench-bridge", .parent = &hw::Device::type, .make = make<BenchBridge>, .user_creatable = false};
constinit const TypeInfo BenchPciHost::type{
    .name = "bench-pci-host", .parent = &hw::PciHostBridge::type, .make = make<BenchPciHost>, .user_creatable = false};

bool stands_on_bench(const TypeInfo& type) {
  if (!type.derives_from(hw::Device::type) || !type.make || type.name.starts_with("bench-")) return false;
  std::string_view bus;
  for (const TypeInfo* t = &type; t && bus.empty(); t = t->parent) bus = t->bus;
  if (bus != "ISA" && bus != "System" && bus != "PCI" && !bus.empty()) return false;  // others bring benches of their own
  return (bus != "PCI" && bus != "System") || type.user_creatable || !type.sample.empty();
}

hw::DeviceSpec sample_spec(const TypeInfo& type) {
  hw::DeviceSpec spec{.driver = std::string{type.name}, .place = hw::DeviceSpec::Place::unattached};
  std::string_view rest = type.sample;
  for (bool first = true; !rest.empty(); first = false) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    if (const auto equals = part.find('='); !first && equals != part.npos)
      spec.properties.set(std::string{part.substr(0, equals)}, std::string{part.substr(equals + 1)});
  }
  return spec;
}

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
  OK(ram_.init_ram(machine_.get(), "bench.ram", 64 * KiB));
  machine_->memory_root().add(ram_, 0);
  host_ = make_object<BenchPciHost>();
  machine_->unattached().add_child("pci", host_);
  host_->wire(machine_->memory_root(), machine_->port_root(), machine_->memory());
  host_->intx = [this](unsigned line, unsigned, bool level) { set_input(16 + line, level); };
  host_->msi = [this](hw::MsiMessage m) { messages.push_back(m); };
  OK(host_->attach(nullptr));
}

std::array<u64, 6> DeviceBench::place_bars(u8 slot) {
  std::array<u64, 6> at{};
  u64 memory = 0xe000'0000, port = 0xc000;
  for (unsigned n = 0; n < 6; n++) {
    const u16 reg = static_cast<u16>(0x10 + 4 * n);
    config_write(slot, reg, 4, ~u32{0});
    const u32 size = config_read(slot, reg, 4);
    if (!size) continue;
    u64& next = size & 1 ? port : memory;
    const u64 bytes = size & 1 ? (~(size & ~3u) & 0xffff) + 1 : u64{~(size & ~15u)} + 1;
    next = (next + bytes - 1) / bytes * bytes;
    at[n] = next;
    config_write(slot, reg, 4, static_cast<u32>(next));
    if (!(size & 1) && (size & 6) == 4) config_write(slot, reg + 4, 4, 0), n++;
    next += bytes;
  }
  config_write(slot, 4, 2, 7);
  return at;
}

DeviceBench::DeviceBench(std::string_view driver, std::vector<std::pair<std::string, Value>> properties) : DeviceBench() {
  add(driver, std::move(properties));
}

DeviceBench::~DeviceBench() {
  std::vector<Ref<hw::Device>> all;
  hw::for_each_device(*machine_, [&](hw::Device& d) {
    if (&d != bridge_.get() && &d != host_.get()) all.emplace_back(&d);
  });
  for (auto it = all.rbegin(); it != all.rend(); ++it)
    if ((*it)->parent()) (*it)->detach().start({});
  all.clear();
  device_ = nullptr;
  host_->detach().start({});
  host_ = nullptr;
  bridge_->detach().start({});
  machine_->memory_root().remove(ram_);
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
