#include "src/vm/x86_cpu.h"

#include <deque>

#include "src/base/log.h"
#include "src/vm/cpu_hotplug.h"
#include "src/x86/model.h"

namespace vmm::vm {

constinit const TypeInfo X86Cpu::type{.name = "x86_64-cpu", .doc = "An x86-64 CPU.", .parent = &Object::type, .user_creatable = false};
static Registered registered_cpu{X86Cpu::type};

namespace {

struct ModelType {
  std::string name;
  TypeInfo info;
};

// Types of all models; they live for ever, as register_type() asks.
std::deque<ModelType>& model_types() {
  static std::deque<ModelType> types = [] {
    std::deque<ModelType> list;
    for (const std::string& model : x86::model_names()) {
      ModelType& t = list.emplace_back(ModelType{model + "-x86_64-cpu", X86Cpu::type});
      t.info.name = t.name;
      t.info.parent = &X86Cpu::type;
      t.info.make = make<X86Cpu>;
    }
    return list;
  }();
  return types;
}
// Registered before main() looks anything up.
const bool models_registered = [] {
  for (const ModelType& t : model_types()) register_type(t.info);
  return true;
}();

}  // namespace

const TypeInfo* cpu_type(std::string_view model) {
  for (const ModelType& t : model_types())
    if (t.name.size() == model.size() + 11 && t.name.starts_with(model)) return &t.info;
  return nullptr;
}

void X86Cpu::bind(Vcpu& vcpu) {
  vcpu_ = &vcpu;
  const x86::CpuModel& model = vcpu.model();
  for (const x86::FeatureName& f : x86::feature_names()) {
    add_property({.name = std::string{f.name}, .type = "bool", .doc = {}, .get = [&model, f]() -> Result<Value> {
                    return Value{model.has(f.feature)};
                  }});
  }
  add_property(
      {.name = "apic-id", .type = "uint32", .doc = "APIC id.", .get = [id = vcpu.apic_id()]() -> Result<Value> { return Value{id}; }});
  add_property({.name = "realized", .type = "bool", .doc = {}, .get = []() -> Result<Value> { return Value{true}; }});
  add_property({.name = "hotplugged", .type = "bool", .doc = {}, .get = [this]() -> Result<Value> { return Value{hotplugged_}; }});
  add_property({.name = "vendor", .type = "string", .doc = {}, .get = [&model]() -> Result<Value> { return Value{model.vendor}; }});
  add_property({.name = "model-id", .type = "string", .doc = {}, .get = [&model]() -> Result<Value> { return Value{model.model_id}; }});
  add_property({.name = "family", .type = "int", .doc = {}, .get = [&model]() -> Result<Value> { return Value{model.family}; }});
  add_property({.name = "model", .type = "int", .doc = {}, .get = [&model]() -> Result<Value> { return Value{model.model}; }});
  add_property({.name = "stepping", .type = "int", .doc = {}, .get = [&model]() -> Result<Value> { return Value{model.stepping}; }});
}

Result<> Machine::make_vcpus(std::string_view default_model) {
  std::string text = config.cpu.empty() ? std::string{default_model} : config.cpu;
  if (constexpr std::string_view suffix = "-x86_64-cpu"; text.ends_with(suffix)) text.resize(text.size() - suffix.size());
  auto model =
      std::make_shared<x86::CpuModel>(TRY(x86::resolve_model(text, accelerator().supported_features(), accelerator().short_name())));
  if (!model->missing.empty()) report_warning(x86::missing_line(*model, accelerator().short_name()));
  cpu_model_ = model;
  for (unsigned i = 0; i < config.smp.cpus; i++) {
    NewCpu cpu = TRY(make_cpu(*this, i, *cpu_model_));
    unattached().add_child("device[*]", cpu.object);
    vcpus_.push_back(std::move(cpu.vcpu));
  }
  return {};
}

namespace {
// A machine's own seats in its CPUs, for one that comes after the machine was made.
struct Seat : Vcpu {
  static constexpr auto memory = &Seat::memory_;
  static constexpr auto ports = &Seat::ports_;
  static constexpr auto object = &Seat::object_;
};
}  // namespace

Result<NewCpu> make_cpu(Machine& machine, unsigned index, const x86::CpuModel& model, std::unique_ptr<Vcpu> old) {
  const Topology& t = machine.config.smp;
  NewCpu cpu;
  cpu.vcpu = std::move(old);
  if (!cpu.vcpu)
    cpu.vcpu =
        TRY(machine.accelerator().make_vcpu(machine, index, x86::Topology{t.sockets, t.dies, t.cores, t.threads}.apic_id(index), model));
  (*cpu.vcpu).*Seat::memory = &machine.memory();
  (*cpu.vcpu).*Seat::ports = &machine.ports();
  const TypeInfo* type = cpu_type(model.name);
  cpu.object = object_cast<X86Cpu>(make_object(type ? *type : *cpu_type("max")));
  cpu.object->bind(*cpu.vcpu);
  (*cpu.vcpu).*Seat::object = cpu.object.get();
  return cpu;
}

void unbind_cpu(Vcpu& vcpu) {
  if (auto* cpu = object_cast<X86Cpu>(vcpu.object())) cpu->unbind();
  vcpu.*Seat::object = nullptr;
}

}  // namespace vmm::vm
