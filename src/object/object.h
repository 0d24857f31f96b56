// The object model: one TypeInfo a type, a composition tree, typed properties. The C++ class hierarchy is the type hierarchy.
// The tree is owned by the main loop; everything here needs the machine lock unless noted.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/lock.h"
#include "src/base/result.h"
#include "src/value/field.h"

namespace vmm {

class Object;

// Intrusive, counted pointer to an object of the tree. May be dropped on any thread: the last drop hands the object to the reclaimer.
template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}
  explicit Ref(T* object) : object_(object) { retain(); }
  Ref(const Ref& other) : object_(other.object_) { retain(); }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <class U>
    requires std::derived_from<U, T>
  Ref(const Ref<U>& other) : object_(other.get()) {
    retain();
  }
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_) object_->drop();
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_; }
  friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }

 private:
  void retain() {
    if (object_) object_->retain();
  }
  T* object_ = nullptr;
};

// Everything about a type that C++ cannot say at run time. Constant; one a class, `static const TypeInfo type`.
struct TypeInfo {
  std::string_view name;
  std::string_view doc;
  const TypeInfo* parent = nullptr;
  std::span<const Field> properties{};
  std::span<const Field> state{};  // migrated
  unsigned state_version = 1;
  Object* (*make)() = nullptr;  // null: abstract
  std::string_view alias{};     // second name that users may give ("virtio-blk" for "virtio-blk-pci")
  std::string_view category{};  // section of `-device help`: "Storage devices", "Input devices", …
  std::string_view sample{};    // a device line for the conformance walk where realize needs links
  bool user_creatable = true;   // `-device` / `-object` may make it
  std::string_view bus{};       // bus type it plugs into ("PCI", "ISA", "System"); empty: inherited
  int load_order = 0;           // migration: lower first
  std::span<const TypeInfo* const> interfaces{};

  bool derives_from(const TypeInfo& other) const {
    for (const TypeInfo* t = this; t; t = t->parent)
      if (t == &other) return true;
    return false;
  }
};

template <class T>
Object* make() {
  return new T;
}

class Object {
 public:
  using FieldRoot = Object;
  static const TypeInfo type;
  virtual ~Object();
  Object(const Object&) = delete;

  const TypeInfo& type_info() const { return *type_; }
  bool is_a(const TypeInfo& t) const { return type_->derives_from(t); }

  // --- Tree
  Object* parent() const { return parent_; }
  const std::string& name() const { return name_; }     // within the parent
  std::string path() const;                             // "/machine/peripheral/net0"; "" while outside the tree
  void add_child(std::string name, Ref<Object> child);  // the name must be free; "device[*]" takes the next free number
  void remove_child(Object& child);
  Object* child(std::string_view name) const;
  const std::vector<Ref<Object>>& children() const { return children_; }
  Result<Ref<Object>> resolve(std::string_view path);  // absolute, or a unique partial path
  // Nearest ancestor (or self) of a class.
  template <class T>
  T* ancestor() {
    for (Object* o = this; o; o = o->parent_)
      if (auto* t = dynamic_cast<T*>(o)) return t;
    return nullptr;
  }

  // --- Properties: the Fields of the type and its ancestors, then dynamic ones (children, links, aliases, per-instance fields).
  Result<Value> get(std::string_view property) const;
  // Value or text as a user typed it. Frozen after realize unless the field is `live`.
  Result<> set(std::string_view property, const Value& value);
  struct PropertyInfo {
    std::string name, type, doc;
    const Field* field = nullptr;  // null for dynamic ones
  };
  std::vector<PropertyInfo> property_list() const;
  // Per-instance property.
  struct DynamicProperty {
    std::string name, type, doc;
    std::function<Result<Value>()> get;
    std::function<Result<>(const Value&)> set;
  };
  void add_property(DynamicProperty property);
  // Called once after properties are set, for `-object` types and whoever wants it; devices use realize instead.
  virtual Result<> complete() { return {}; }
  // Message part for a failed set; "'tick-hz' takes …".
  virtual bool properties_frozen() const { return false; }
  // May `object-del` / device_del remove it now? An error names the user ("in use by /machine/peripheral/disk0").
  virtual Result<> may_remove() const { return {}; }

  void retain() const { count_.fetch_add(1, std::memory_order_relaxed); }
  void drop() const;

 protected:
  Object() = default;

 private:
  friend Ref<Object> make_object(const TypeInfo&);
  template <class T>
  friend Ref<T> make_object();
  const TypeInfo* type_ = &type;
  Object* parent_ = nullptr;
  std::string name_;
  std::vector<Ref<Object>> children_;
  std::vector<DynamicProperty> dynamic_;
  mutable std::atomic<u32> count_{0};
};

template <class T, class U>
T* object_cast(U* object) {
  return dynamic_cast<T*>(object);
}
template <class T, class U>
Ref<T> object_cast(const Ref<U>& object) {
  return Ref<T>{dynamic_cast<T*>(object.get())};
}

Ref<Object> make_object(const TypeInfo& type);  // type.make must not be null
void apply_global_properties(Object& object);   // every make_object does it
template <class T>
Ref<T> make_object() {
  Ref<T> object{new T};
  static_cast<Object*>(object.get())->type_ = &T::type;
  apply_global_properties(*object);
  return object;
}

// --- Registry. One `static Registered registered{X::type};` a type; the head of the list is one of the permitted globals.
struct Registered {
  explicit Registered(const TypeInfo& type);
  const TypeInfo& type;
  const Registered* next;
};
const TypeInfo* find_type(std::string_view name_or_alias);
std::vector<const TypeInfo*> all_types();  // sorted by name
// Types made at run time (versioned machines, CPU models); the TypeInfo must live for ever.
void register_type(const TypeInfo& type);

// Every property Field of a type, ancestors first.
std::vector<const Field*> property_fields(const TypeInfo& type);
// "did you mean": up to three names near `word`.
std::vector<std::string> nearest_names(std::string_view word, std::span<const std::string> names);

// Values that every new object of a type, or of one that derives from it, has before anyone else sets its properties: the compat table
// of the machine version, then -global. In order; more derived types last. What does not fit is kept for take_global_errors().
struct GlobalProperty {
  std::string type, property;
  Value value;
  bool from_user = false;  // -global: mistakes are errors; else the property may be absent
};
void add_global_property(GlobalProperty global);
const std::vector<GlobalProperty>& global_properties();
std::vector<Error> take_global_errors();

// The root of the process's tree ("/"): /machine, /objects, /chardevs.
Object& root_object();
Ref<Object> make_folder();  // of the tree: an object of type "container"

// The reclaimer: objects whose last Ref was dropped are destroyed by the main loop when it calls this.
void reclaim_dropped_objects();

// --- Links: `Ref` members as properties, set by path or id. Specialise link_search<T> when ids live elsewhere than in the tree.
template <class T>
struct Codec<Ref<T>> {
  static constexpr TypeDescription description{.name = "link", .kind = TypeDescription::Kind::string};
  static Value to_value(const Ref<T>& v) { return Value{v ? v->path() : std::string{}}; }
  static Result<> from_value(Ref<T>& to, const Value& v, std::string_view what, const FieldLimits&) {
    const std::string path = TRY(v.as_string(what));
    if (path.empty()) return to = nullptr, Result<>{};
    auto found = root_object().resolve(path);
    if (!found) return fail("can't find value '{}'", path);
    T* target = dynamic_cast<T*>(found->get());
    if (!target) return fail("'{}' is of type '{}', which does not fit", path, (*found)->type_info().name);
    to = Ref<T>{target};
    return {};
  }
};

}  // namespace vmm
