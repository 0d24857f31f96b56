// CPU models as management tools ask about them: definitions, expansion, baseline, comparison. Source: contract.md §2.2.
#include <algorithm>

#include "src/control/command.h"
#include "src/vm/machine.h"
#include "src/x86/model.h"

namespace vmm {
namespace vm {
struct CpuDefinition {
  std::string name;
  bool is_static = false;
  std::string type_name;
  std::vector<std::string> unavailable_features;
  bool deprecated = false, migration_safe = true;
};
struct CpuModelName {
  std::string name;
  std::optional<Value> props;
};
enum class ExpansionType { full, is_static };
struct ExpansionArgs {
  ExpansionType type{};
  CpuModelName model;
};
struct ModelAnswer {
  CpuModelName model;
};
struct TwoModelsArgs {
  CpuModelName a, b;
};
enum class Comparison { incompatible, identical, superset, subset };
struct ComparisonAnswer {
  Comparison result{};
  std::vector<std::string> responsible;
};
}  // namespace vm

using namespace vm;
template <>
inline constexpr std::array enum_names<ExpansionType> = {EnumNameOf<ExpansionType>{ExpansionType::full, "full"},
                                                         EnumNameOf<ExpansionType>{ExpansionType::is_static, "static"}};
template <>
inline constexpr std::array enum_names<Comparison> = {
    EnumNameOf<Comparison>{Comparison::incompatible, "incompatible"}, EnumNameOf<Comparison>{Comparison::identical, "identical"},
    EnumNameOf<Comparison>{Comparison::superset, "superset"}, EnumNameOf<Comparison>{Comparison::subset, "subset"}};
template <>
inline constexpr std::array fields<CpuDefinition> = {
    field<&CpuDefinition::name>("name", "Name."),
    field<&CpuDefinition::is_static>("static", "Never changes."),
    field<&CpuDefinition::type_name>("typename", "Its type."),
    field<&CpuDefinition::unavailable_features>("unavailable-features", "What the accelerator cannot give."),
    field<&CpuDefinition::deprecated>("deprecated", "Will go."),
    field<&CpuDefinition::migration_safe>("migration-safe", "The same on every host."),
};
template <>
inline constexpr std::array fields<CpuModelName> = {field<&CpuModelName::name>("name", "Name."),
                                                    field<&CpuModelName::props>("props", "Properties.")};
template <>
inline constexpr std::array fields<ExpansionArgs> = {field<&ExpansionArgs::type>("type", "How far."),
                                                     field<&ExpansionArgs::model>("model", "What to expand.")};
template <>
inline constexpr std::array fields<ModelAnswer> = {field<&ModelAnswer::model>("model", "The model.")};
template <>
inline constexpr std::array fields<TwoModelsArgs> = {field<&TwoModelsArgs::a>("modela", "One model."),
                                                     field<&TwoModelsArgs::b>("modelb", "Another.")};
template <>
inline constexpr std::array fields<ComparisonAnswer> = {
    field<&ComparisonAnswer::result>("result", "What the first is to the second."),
    field<&ComparisonAnswer::responsible>("responsible-properties", "Features that only one of them has.")};

namespace vm {
namespace {

using namespace control;

std::string accelerator_in_use() {
  Machine* machine = current_machine();
  return machine && machine->has_accelerator() ? std::string{machine->accelerator().short_name()} : "tcg";
}
const x86::FeatureWords& features_here() {
  static const x86::FeatureWords fallback = x86::tcg_features();
  Machine* machine = current_machine();
  return machine && machine->has_accelerator() ? machine->accelerator().supported_features() : fallback;
}

Result<std::vector<CpuDefinition>> query_cpu_definitions(Context&) {
  std::vector<CpuDefinition> out;
  for (const std::string& name : x86::model_names()) {
    CpuDefinition d{.name = name, .type_name = name + "-x86_64-cpu", .unavailable_features = {}};
    if (auto model = x86::resolve_model(name, features_here(), accelerator_in_use())) d.unavailable_features = model->missing;
    d.migration_safe = name != "max" && name != "host";
    out.push_back(std::move(d));
  }
  return out;
}

// What `-cpu` would make of it.
Result<x86::CpuModel> resolved(const CpuModelName& wanted) {
  if (wanted.name.contains(',')) return fail("unable to find CPU model '{}'", wanted.name);
  std::string text = wanted.name;
  if (wanted.props) {
    if (!wanted.props->is_object()) return fail("Invalid parameter type for 'model.props', expected: object");
    for (const auto& [name, value] : wanted.props->members()) {
      x86::CpuFeature feature;
      if (x86::feature_by_name(name, feature)) text += format(",{}={}", name, TRY(codec_detail::parse_bool(value, name)) ? "on" : "off");
    }
  }
  return x86::resolve_model(text, features_here(), accelerator_in_use());
}

// A model's features as properties of `base`; full: under every spelling.
Result<ModelAnswer> query_cpu_model_expansion(Context&, const ExpansionArgs& args) {
  const x86::CpuModel model = TRY(resolved(args.model));
  Value props = Value::object();
  const bool full = args.type == ExpansionType::full;
  for (const x86::FeatureName& f : x86::feature_names()) {
    std::string name{f.name};
    props.set(name, model.has(f.feature));
    if (!full) continue;
    for (auto [from, to] : {std::pair{'.', '-'}, {'.', '_'}, {'-', '_'}, {'_', '-'}}) {
      std::string other = name;
      std::ranges::replace(other, from, to);
      if (other != name) props.set(other, model.has(f.feature));
    }
  }
  return ModelAnswer{{.name = full ? args.model.name : "base", .props = std::move(props)}};
}

// The features that both have: a guest that gets these runs on either.
Result<ModelAnswer> query_cpu_model_baseline(Context&, const TwoModelsArgs& args) {
  const x86::CpuModel a = TRY(resolved(args.a)), b = TRY(resolved(args.b));
  Value props = Value::object();
  for (const x86::FeatureName& f : x86::feature_names()) props.set(std::string{f.name}, a.has(f.feature) && b.has(f.feature));
  return ModelAnswer{{.name = "base", .props = std::move(props)}};
}

Result<ComparisonAnswer> query_cpu_model_comparison(Context&, const TwoModelsArgs& args) {
  const x86::CpuModel a = TRY(resolved(args.a)), b = TRY(resolved(args.b));
  ComparisonAnswer answer;
  bool more = false, less = false;
  for (const x86::FeatureName& f : x86::feature_names()) {
    if (a.has(f.feature) == b.has(f.feature)) continue;
    (a.has(f.feature) ? more : less) = true;
    answer.responsible.emplace_back(f.name);
  }
  answer.result = more && less ? Comparison::incompatible : more ? Comparison::superset : less ? Comparison::subset : Comparison::identical;
  return answer;
}

const control::Registered registered[] = {
    control::Registered{command<query_cpu_definitions>({.name = "query-cpu-definitions", .doc = "CPU models.", .since = "1.2"})},
    control::Registered{
        command<query_cpu_model_expansion>({.name = "query-cpu-model-expansion", .doc = "Features of a CPU model.", .since = "2.8"})},
    control::Registered{command<query_cpu_model_baseline>(
        {.name = "query-cpu-model-baseline", .doc = "The features that two CPU models share.", .since = "2.8"})},
    control::Registered{
        command<query_cpu_model_comparison>({.name = "query-cpu-model-comparison", .doc = "Compares two CPU models.", .since = "2.8"})},
};

}  // namespace
}  // namespace vm
}  // namespace vmm
