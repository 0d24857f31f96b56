#include "src/object/object.h"

#include <algorithm>
#include <deque>
#include <map>

#include "src/object/forward.h"

namespace vmm {

namespace {
constinit const Registered* first_registered = nullptr;

struct RuntimeTypes {
  Mutex mutex;
  std::vector<const TypeInfo*> types;
};
RuntimeTypes& runtime_types() {
  static RuntimeTypes& it = *new RuntimeTypes;
  return it;
}

// Objects without a Ref, until the main loop destroys them.
struct Dropped {
  Mutex mutex;
  std::deque<const Object*> objects;
};
Dropped& dropped() {
  static Dropped& it = *new Dropped;
  return it;
}

class Container final : public Object {
 public:
  static const TypeInfo type;
};
constinit const TypeInfo Container::type{
    .name = "container", .doc = "A folder of the object tree.", .parent = &Object::type, .make = make<Container>, .user_creatable = false};
Registered registered{Container::type};
}  // namespace

constinit const TypeInfo Object::type{.name = "object", .doc = "The root of all types.", .user_creatable = false};

Object::~Object() {
  for (const Ref<Object>& child : children_) child->parent_ = nullptr;
}

void Object::drop() const {
  if (count_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Lock lock{dropped().mutex};
  // Somebody may have held it for a moment since its last owner let go: an event that came before it was reclaimed.
  if (std::ranges::find(dropped().objects, this) == dropped().objects.end()) dropped().objects.push_back(this);
}

void reclaim_dropped_objects() {
  for (;;) {
    const Object* dead = nullptr;
    {
      Lock lock{dropped().mutex};
      if (dropped().objects.empty()) return;
      dead = dropped().objects.front();
      dropped().objects.pop_front();
    }
    delete dead;  // may drop others
  }
}

Ref<Object> make_object(const TypeInfo& type) {
  ASSERT(type.make);
  Ref<Object> object{type.make()};
  object->type_ = &type;
  apply_global_properties(*object);
  return object;
}

// --- Globals

namespace {
struct Globals {
  std::vector<GlobalProperty> properties;
  std::vector<Error> errors;
};
Globals& globals() {
  static auto& it = *new Globals;
  return it;
}
}  // namespace

void add_global_property(GlobalProperty global) { globals().properties.push_back(std::move(global)); }
const std::vector<GlobalProperty>& global_properties() { return globals().properties; }
std::vector<Error> take_global_errors() { return std::exchange(globals().errors, {}); }

void apply_global_properties(Object& object) {
  if (globals().properties.empty()) return;
  std::vector<const TypeInfo*> chain;
  for (const TypeInfo* t = &object.type_info(); t; t = t->parent) chain.push_back(t);
  for (const bool from_user : {false, true})
    for (auto t = chain.rbegin(); t != chain.rend(); ++t)
      for (const GlobalProperty& g : globals().properties) {
        if (g.from_user != from_user || (g.type != (*t)->name && (g.type.empty() || g.type != (*t)->alias))) continue;
        auto done = object.set(g.property, g.value);
        if (!done && from_user)
          globals().errors.push_back(std::move(done).error().within(
              format("can't apply global {}.{}={}", g.type, g.property, g.value.is_string() ? g.value.get_string() : to_json(g.value))));
      }
}

Ref<Object> make_folder() { return make_object(Container::type); }

Object& root_object() {
  static Object& root = [] -> Object& {
    static Ref<Object>& keep = *new Ref<Object>{make_folder()};
    for (const char* folder : {"objects", "chardevs"}) keep->add_child(folder, make_folder());
    return *keep;
  }();
  return root;
}

// --- Tree

std::string Object::path() const {
  if (this == &root_object()) return "/";
  std::vector<const Object*> chain;
  for (const Object* o = this; o; o = o->parent_) chain.push_back(o);
  if (chain.back() != &root_object()) return {};
  std::string out;
  for (auto it = chain.rbegin() + 1; it != chain.rend(); ++it) out += '/', out += (*it)->name_;
  return out;
}

Object* Object::child(std::string_view name) const {
  for (const Ref<Object>& c : children_)
    if (c->name_ == name) return c.get();
  return nullptr;
}

void Object::add_child(std::string name, Ref<Object> child) {
  ASSERT(child && !child->parent_);
  if (name.ends_with("[*]")) {
    name.resize(name.size() - 2);
    unsigned next = 0;
    while (this->child(format("{}{}]", name, next))) next++;
    name = format("{}{}]", name, next);
  }
  ASSERT(!this->child(name));
  child->parent_ = this;
  child->name_ = std::move(name);
  children_.push_back(std::move(child));
}

void Object::remove_child(Object& child) {
  const auto it = std::ranges::find_if(children_, [&](const Ref<Object>& c) { return c.get() == &child; });
  ASSERT(it != children_.end());
  const Ref<Object> keep = *it;
  child.parent_ = nullptr;
  children_.erase(it);
}

namespace {
// One step of a path: a child, or the target of a link property.
Object* step(Object& from, std::string_view name) {
  if (Object* c = from.child(name)) return c;
  for (const Object::PropertyInfo& p : from.property_list())
    if (p.name == name && p.type.starts_with("link<")) {
      const auto target = from.get(name);
      if (!target || !target->is_string() || !target->get_string().starts_with('/')) return nullptr;
      Object* at = &root_object();
      std::string_view rest = target->get_string();
      while (at && !rest.empty()) {  // a link's own text names children only
        rest.remove_prefix(1);
        const auto slash = rest.find('/');
        if (!rest.substr(0, slash).empty()) at = at->child(rest.substr(0, slash));
        rest = slash == rest.npos ? std::string_view{} : rest.substr(slash);
      }
      return at;
    }
  return nullptr;
}
Object* walk(Object& from, std::string_view path) {
  Object* at = &from;
  while (at && !path.empty()) {
    const auto slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    if (!name.empty()) at = step(*at, name);
    path = slash == path.npos ? std::string_view{} : path.substr(slash + 1);
  }
  return at;
}
void search(Object& from, std::string_view path, Object*& found, bool& ambiguous) {
  if (Object* o = walk(from, path); o && o != found) {
    if (found) ambiguous = true;
    found = o;
  }
  for (const Ref<Object>& c : from.children())
    if (!ambiguous) search(*c, path, found, ambiguous);
}
}  // namespace

Result<Ref<Object>> Object::resolve(std::string_view path) {
  Object* found = nullptr;
  if (path.starts_with('/')) {
    found = walk(root_object(), path);
  } else if (path.find_first_not_of('/') != path.npos) {
    bool ambiguous = false;
    search(*this, path, found, ambiguous);
    if (ambiguous) return fail("Path '{}' is ambiguous; write it from the root", path);
  }
  if (!found) return fail(ErrorClass::device_not_found, "Device '{}' not found", path);
  return Ref<Object>{found};
}

// --- Properties

namespace {
const Field* find_property(const TypeInfo& type, std::string_view name) {
  for (const TypeInfo* t = &type; t; t = t->parent)  // the most derived declaration wins
    if (const Field* f = find_field(t->properties, name)) return f;
  return nullptr;
}
struct Forward {
  const TypeInfo* child_type;
  std::string_view name;
};
std::map<const TypeInfo*, Forward>& forwards() {
  static auto& it = *new std::map<const TypeInfo*, Forward>;
  return it;
}
// The child that has a property which the object itself lacks.
Object* forwarded(const Object& object, std::string_view name) {
  for (const TypeInfo* t = &object.type_info(); t; t = t->parent)
    if (const auto f = forwards().find(t); f != forwards().end() && find_property(*f->second.child_type, name))
      return object.child(f->second.name);
  return nullptr;
}
std::string shown_type(const Field& f) {
  const std::string_view name = f.type->name;
  if (name == "link") return "link<>";
  if (name == "str") return "string";
  return std::string{name};
}
}  // namespace

Result<Value> Object::get(std::string_view property) const {
  for (const DynamicProperty& p : dynamic_)
    if (p.name == property) {
      if (!p.get) return fail("Property '{}.{}' is not readable", type_->name, property);
      return p.get();
    }
  if (const Field* f = find_property(*type_, property)) {
    if (!f->get) return fail("Property '{}.{}' is not readable", type_->name, property);
    return f->get(this);
  }
  if (const Object* owner = forwarded(*this, property)) return owner->get(property);
  if (const Object* c = child(property)) return Value{c->path()};
  if (property == "type") return Value{type_->name};
  return fail("Property '{}.{}' not found", type_->name, property);
}

Result<> Object::set(std::string_view property, const Value& value) {
  for (const DynamicProperty& p : dynamic_)
    if (p.name == property) {
      if (!p.set) return fail("Property '{}.{}' is not writable", type_->name, property);
      const auto set = p.set;  // it may add properties
      return set(value);
    }
  const Field* f = find_property(*type_, property);
  if (!f) {
    if (Object* owner = forwarded(*this, property)) return owner->set(property, value);
    if (child(property) || property == "type") return fail("Property '{}.{}' is not writable", type_->name, property);
    std::vector<std::string> names;
    for (const PropertyInfo& p : property_list()) names.push_back(p.name);
    Error error{format("Property '{}.{}' not found", type_->name, property)};
    std::string near;
    for (const std::string& n : nearest_names(property, names)) near += format("{}'{}'", near.empty() ? "" : ", ", n);
    if (!near.empty()) error.hint = format("Near names: {}", near);
    return std::unexpected(std::move(error));
  }
  if (!f->set || f->options.read_only) return fail("Property '{}.{}' is not writable", type_->name, property);
  const bool frozen = properties_frozen();
  if (frozen && !f->options.live)
    return fail("Attempt to set property '{}' on device '{}' (type '{}') after it was realized", property, name_, type_->name);
  auto done = f->set(this, value, *f);
  if (!done) {
    Error error = std::move(done).error();
    if (error.message.starts_with("can't find value") || error.message.starts_with("doesn't take value"))
      error.message = format("Property '{}.{}' {}", type_->name, property, error.message);
    return std::unexpected(std::move(error));
  }
  if (frozen && f->options.changed) f->options.changed(this);
  return {};
}

std::vector<Object::PropertyInfo> Object::property_list() const {
  std::vector<PropertyInfo> out{{.name = "type", .type = "string", .doc = "name of the type", .field = nullptr}};
  for (const Field* f : property_fields(*type_))
    out.push_back({.name = std::string{f->name}, .type = shown_type(*f), .doc = std::string{f->doc}, .field = f});
  for (const DynamicProperty& p : dynamic_) out.push_back({.name = p.name, .type = p.type, .doc = p.doc, .field = nullptr});
  for (const Ref<Object>& c : children_)
    out.push_back({.name = c->name_, .type = format("child<{}>", c->type_->name), .doc = {}, .field = nullptr});
  return out;
}

void Object::add_property(DynamicProperty property) {
  std::erase_if(dynamic_, [&](const DynamicProperty& p) { return p.name == property.name; });
  dynamic_.push_back(std::move(property));
}

// --- Registry

Registered::Registered(const TypeInfo& t) : type(t), next(first_registered) { first_registered = this; }

void register_type(const TypeInfo& type) {
  Lock lock{runtime_types().mutex};
  runtime_types().types.push_back(&type);
}

const TypeInfo* find_type(std::string_view name) {
  const TypeInfo* by_alias = nullptr;
  const auto look = [&](const TypeInfo* t) {
    if (!t->alias.empty() && t->alias == name) by_alias = t;
    return t->name == name;
  };
  for (const Registered* r = first_registered; r; r = r->next)
    for (const TypeInfo* t = &r->type; t; t = t->parent)  // abstract parents need no registration of their own
      if (look(t)) return t;
  Lock lock{runtime_types().mutex};
  for (const TypeInfo* t : runtime_types().types)
    if (look(t)) return t;
  return by_alias;
}

std::vector<const TypeInfo*> all_types() {
  std::vector<const TypeInfo*> out;
  for (const Registered* r = first_registered; r; r = r->next) out.push_back(&r->type);
  {
    Lock lock{runtime_types().mutex};
    out.insert(out.end(), runtime_types().types.begin(), runtime_types().types.end());
  }
  for (usize i = 0; i < out.size(); i++) {  // and what they derive from
    const TypeInfo* t = out[i];
    if (t->parent && std::ranges::find(out, t->parent) == out.end()) out.push_back(t->parent);
    for (const TypeInfo* interface : t->interfaces)
      if (std::ranges::find(out, interface) == out.end()) out.push_back(interface);
  }
  std::ranges::sort(out, {}, &TypeInfo::name);
  const auto twice = std::ranges::unique(out);
  out.erase(twice.begin(), twice.end());
  return out;
}

void forward_properties(const TypeInfo& type, const TypeInfo& child_type, std::string_view name) {
  forwards()[&type] = {&child_type, name};
}

std::vector<const Field*> property_fields(const TypeInfo& type) {
  std::vector<const Field*> out;
  if (type.parent) out = property_fields(*type.parent);
  for (const Field& f : type.properties) {
    const auto same = std::ranges::find_if(out, [&](const Field* o) { return o->name == f.name; });
    if (same != out.end())
      *same = &f;
    else
      out.push_back(&f);
  }
  if (const auto forward = forwards().find(&type); forward != forwards().end())
    for (const Field* f : property_fields(*forward->second.child_type))
      if (std::ranges::find(out, f->name, &Field::name) == out.end()) out.push_back(f);
  return out;
}

}  // namespace vmm
