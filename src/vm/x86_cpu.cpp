#include "src/vm/x86_cpu.h"

#include <deque>

#include "src/base/log.h"
#include "src/vm/machine.h"
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
      {.name = "apic-id", .type = "uint32", .doc = "APIC id.", .get = [&vcpu]() -> Result<Value> { return Value{vcpu.apic_id()}; }});
  add_property({.name = "realized", .type = "bool", .doc = {}, .get = []() -> Result<Value> { return Value{true}; }});
  add_property({.name = "hotplugged", .type = "bool", .doc = {}, .get = []() -> Result<Value> { return Value{false}; }});
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
  const x86::Topology topology{config.smp.sockets, config.smp.dies, config.smp.cores, config.smp.threads};
  for (unsigned i = 0; i < config.smp.cpus; i++) {
    std::unique_ptr<Vcpu> vcpu = TRY(accelerator().make_vcpu(*this, i, topology.apic_id(i), *cpu_model_));
    vcpu->memory_ = memory_.get();
    vcpu->ports_ = ports_.get();
    const TypeInfo* type = cpu_type(cpu_model_->name);
    Ref<Object> object = make_object(type ? *type : *cpu_type("max"));
    static_cast<X86Cpu&>(*object).bind(*vcpu);
    unattached().add_child("device[*]", object);
    vcpu->object_ = object.get();
    vcpus_.push_back(std::move(vcpu));
  }
  return {};
}

}  // namespace vmm::vm
