#include "monitor/schema.h"

#include <algorithm>
#include <map>
#include <set>

#include "src/control/command.h"

namespace vmm::monitor {
namespace {

constinit const RegisteredUnion* first_union = nullptr;

const Union* find_union(std::string_view command, std::string_view member) {
  for (const RegisteredUnion* u = first_union; u; u = u->next)
    if (u->shape.command == command && u->shape.member == member) return &u->shape;
  return nullptr;
}

// Types get numbers for names, as management tools expect; only builtins, commands and events have names of their own.
class Builder {
 public:
  std::vector<Value> build() {
    for (const control::Command* c : control::all_commands())
      if (!c->info.name.empty()) add_command(*c);
    for (const control::EventInfo* e : control::all_events()) {
      Value v = Value::object();
      v.set("name", e->name).set("meta-type", "event").set("arg-type", e->data ? name_of(*e->data) : empty());
      out_.push_back(std::move(v));
    }
    return std::move(out_);
  }

 private:
  static void add_features(Value& to, std::span<const std::string_view> features) {
    if (features.empty()) return;
    Value list = Value::list();
    for (std::string_view f : features) list.append(f);
    to.set("features", std::move(list));
  }
  void add_command(const control::Command& c) {
    Value v = Value::object();
    v.set("name", c.info.name).set("meta-type", "command");
    v.set("arg-type", arguments_name(c));
    v.set("ret-type", c.answer ? name_of(*c.answer) : empty());
    v.set("allow-oob", c.info.allow_oob);
    add_features(v, c.info.features);
    out_.push_back(std::move(v));
  }
  std::string arguments_name(const control::Command& c) {
    if (const Union* u = find_union(c.info.name, {})) return union_name(*u, c.arguments);
    const bool has_union = std::ranges::any_of(c.arguments, [&](const Field& f) { return find_union(c.info.name, f.name); });
    if (!has_union) return c.arguments.empty() ? empty() : members_name(c.arguments);
    Value members = Value::list();
    for (const Field& f : c.arguments) {
      const Union* u = find_union(c.info.name, f.name);
      members.append(u ? member(f.name, union_name(*u, {}), f.options.optional) : member(f));
    }
    return object(std::move(members), {}, {});
  }

  std::string empty() {
    if (empty_.empty()) empty_ = object(Value::list(), {}, {});
    return empty_;
  }
  std::string next() { return format("{}", number_++); }

  std::string builtin(std::string_view name, std::string_view json) {
    if (builtins_.emplace(name).second)
      out_.push_back(Value::object().set("name", name).set("meta-type", "builtin").set("json-type", json));
    return std::string{name};
  }

  std::string name_of(const TypeDescription& t) {
    using Kind = TypeDescription::Kind;
    switch (t.kind) {
      case Kind::boolean: return builtin("bool", "boolean");
      case Kind::integer: return builtin("int", "int");
      case Kind::number: return builtin("number", "number");
      case Kind::string: return builtin("str", "string");
      case Kind::any: return builtin("any", "value");
      case Kind::structure: return members_name(t.fields());
      case Kind::list: {
        const std::string element = name_of(*t.element());
        const std::string name = format("[{}]", element);
        if (builtins_.emplace(name).second)
          out_.push_back(Value::object().set("name", name).set("meta-type", "array").set("element-type", element));
        return name;
      }
      case Kind::enumeration: break;
    }
    const auto names = t.values();
    std::string& name = known_[names.data()];
    if (name.empty()) name = enumeration(names);
    return name;
  }
  std::string enumeration(std::span<const std::string_view> names) {
    std::string name = next();
    Value values = Value::list(), members = Value::list();
    for (std::string_view n : names) values.append(n), members.append(Value::object().set("name", n));
    out_.push_back(
        Value::object().set("name", name).set("meta-type", "enum").set("members", std::move(members)).set("values", std::move(values)));
    return name;
  }

  static Value member(std::string_view name, std::string type, bool optional) {
    Value m = Value::object();
    m.set("name", name).set("type", std::move(type));
    if (optional) m.set("default", Value{});
    return m;
  }
  Value member(const Field& f) { return member(f.name, name_of(*f.type), f.options.optional); }

  std::string object(Value members, std::string_view tag, Value variants) {
    std::string name = next();
    Value v = Value::object();
    v.set("name", name).set("meta-type", "object").set("members", std::move(members));
    if (!tag.empty()) v.set("tag", tag).set("variants", std::move(variants));
    out_.push_back(std::move(v));
    return name;
  }
  std::string members_name(std::span<const Field> fields) {
    if (const auto it = known_.find(fields.data()); it != known_.end()) return it->second;
    const std::string name = known_[fields.data()] = next();
    Value members = Value::list();
    for (const Field& f : fields) members.append(member(f));
    out_.push_back(Value::object().set("name", name).set("meta-type", "object").set("members", std::move(members)));
    return name;
  }

  // Members of all branches, the tag among them, and an object a branch.
  std::string union_name(const Union& u, std::span<const Field> own) {
    std::vector<Branch> branches = u.branches();
    std::ranges::sort(branches, {}, &Branch::name);
    std::vector<std::string_view> names;
    for (const Branch& b : branches) names.push_back(b.name);
    std::set<std::string_view> taken{u.tag};
    Value members = Value::list();
    members.append(member(u.tag, enumeration(names), false));
    for (const auto& table : {own, u.common ? u.common() : std::span<const Field>{}})
      for (const Field& f : table)
        if (taken.insert(f.name).second) members.append(member(f));
    Value variants = Value::list();
    for (const Branch& b : branches) {
      Value inner = Value::list();
      std::set<std::string_view> seen = taken;
      for (const Field* f : b.fields)
        if (seen.insert(f->name).second) inner.append(member(f->name, name_of(*f->type), b.optional || f->options.optional));
      for (std::string_view name : b.any)
        if (seen.insert(name).second) inner.append(member(name, builtin("any", "value"), true));
      const bool nothing = inner.items().empty();
      std::string type = nothing ? empty() : object(std::move(inner), {}, {});
      if (u.wrapped) type = object(Value::list().append(member("data", std::move(type), nothing)), {}, {});
      variants.append(Value::object().set("case", b.name).set("type", std::move(type)));
    }
    return object(std::move(members), u.tag, std::move(variants));
  }

  std::vector<Value> out_;
  std::map<const void*, std::string> known_;
  std::set<std::string, std::less<>> builtins_;
  std::string empty_;
  unsigned number_ = 0;
};

}  // namespace

RegisteredUnion::RegisteredUnion(const Union& s) : shape(s), next(first_union) { first_union = this; }

std::vector<Value> make_schema() { return Builder{}.build(); }

}  // namespace vmm::monitor
