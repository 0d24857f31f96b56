#include "monitor/schema.h"

#include <map>

#include "src/control/command.h"

namespace vmm::monitor {
namespace {

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
    v.set("arg-type", c.arguments.empty() ? empty() : members_name(c.arguments));
    v.set("ret-type", c.answer ? name_of(*c.answer) : empty());
    v.set("allow-oob", c.info.allow_oob);
    add_features(v, c.info.features);
    out_.push_back(std::move(v));
  }

  std::string empty() {
    if (empty_.empty()) {
      empty_ = next();
      out_.push_back(Value::object().set("name", empty_).set("meta-type", "object").set("members", Value::list()));
    }
    return empty_;
  }
  std::string next() { return format("{}", number_++); }

  std::string builtin(std::string_view name, std::string_view json) {
    if (!builtins_.contains(name)) {
      builtins_.emplace(name, true);
      out_.push_back(Value::object().set("name", name).set("meta-type", "builtin").set("json-type", json));
    }
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
        if (!builtins_.contains(name)) {
          builtins_.emplace(name, true);
          out_.push_back(Value::object().set("name", name).set("meta-type", "array").set("element-type", element));
        }
        return name;
      }
      case Kind::enumeration: break;
    }
    const auto names = t.values();
    std::string& name = known_[names.data()];
    if (!name.empty()) return name;
    name = next();
    Value values = Value::list(), members = Value::list();
    for (std::string_view n : names) values.append(n), members.append(Value::object().set("name", n));
    out_.push_back(
        Value::object().set("name", name).set("meta-type", "enum").set("members", std::move(members)).set("values", std::move(values)));
    return name;
  }

  std::string members_name(std::span<const Field> fields) {
    if (const auto it = known_.find(fields.data()); it != known_.end()) return it->second;
    const std::string name = known_[fields.data()] = next();
    Value members = Value::list();
    for (const Field& f : fields) {
      Value m = Value::object();
      m.set("name", f.name).set("type", name_of(*f.type));
      if (f.options.optional) m.set("default", Value{});
      members.append(std::move(m));
    }
    out_.push_back(Value::object().set("name", name).set("meta-type", "object").set("members", std::move(members)));
    return name;
  }

  std::vector<Value> out_;
  std::map<const void*, std::string> known_;
  std::map<std::string, bool, std::less<>> builtins_;
  std::string empty_;
  unsigned number_ = 0;
};

}  // namespace

std::vector<Value> make_schema() { return Builder{}.build(); }

}  // namespace vmm::monitor
