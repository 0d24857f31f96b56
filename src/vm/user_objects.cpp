// Source of texts: QEMU 7.2, observed; contract.md §1.1 (ids).
#include "src/vm/user_objects.h"

#include <algorithm>
#include <cctype>

#include "src/control/command.h"
#include "src/value/key_list.h"

namespace vmm {
namespace vm {
struct ObjectAddArgs {
  std::string qom_type, id;
};
struct ObjectIdArgs {
  std::string id;
};
}  // namespace vm
template <>
inline constexpr std::array fields<vm::ObjectAddArgs> = {field<&vm::ObjectAddArgs::qom_type>("qom-type", "Type."),
                                                         field<&vm::ObjectAddArgs::id>("id", "Name of the new object.")};
template <>
inline constexpr std::array fields<vm::ObjectIdArgs> = {field<&vm::ObjectIdArgs::id>("id", "Name.")};
}  // namespace vmm

namespace vmm::vm {

bool is_user_object(const TypeInfo& type) {
  if (!type.make || !type.user_creatable) return false;
  // What has an option of its own is not made here.
  for (const TypeInfo* t = &type; t; t = t->parent)
    for (std::string_view other : {"device", "bus", "machine", "accel", "chardev", "netdev"})
      if (t->name == other) return false;
  return true;
}

static Error unknown_type(const std::string& name) {
  Error error{format("Parameter 'qom-type' does not accept value '{}'", name)};
  std::vector<std::string> names;
  for (const TypeInfo* t : all_types())
    if (is_user_object(*t)) names.emplace_back(t->name);
  std::string near;
  for (const auto& n : nearest_names(name, names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
  return std::move(error).with_hint(near);
}

static bool is_id(std::string_view id) {
  return !id.empty() && std::isalpha(static_cast<u8>(id[0])) &&
         std::ranges::all_of(id, [](char c) { return std::isalnum(static_cast<u8>(c)) || std::string_view{"-._"}.contains(c); });
}

Result<Ref<Object>> make_user_object(const Value& options) {
  if (!options.is_object()) return fail("Invalid parameter type for 'arguments', expected: object");
  Value known = Value::object(), properties = Value::object();
  for (const auto& [name, value] : options.members()) (name == "qom-type" || name == "id" ? known : properties).set(name, value);
  ObjectAddArgs args;
  TRY(assign_fields(&args, fields<ObjectAddArgs>, known));
  const TypeInfo* type = find_type(args.qom_type);
  if (!type || !is_user_object(*type)) return std::unexpected(unknown_type(args.qom_type));
  if (!is_id(args.id))
    return std::unexpected(Error{"Parameter 'id' expects an identifier"}.with_hint(
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."));
  Object& folder = *root_object().child("objects");
  if (folder.child(args.id)) return fail("attempt to add duplicate property '{}' to object (type 'container')", args.id);
  const Ref<Object> object = make_object(*type);
  for (const auto& [name, value] : properties.members()) TRY(object->set(name, value));
  folder.add_child(args.id, object);
  if (auto done = object->complete(); !done) {
    folder.remove_child(*object);
    return std::unexpected(std::move(done).error());
  }
  return object;
}

Result<> remove_user_object(std::string_view id) {
  Object& folder = *root_object().child("objects");
  Object* object = folder.child(id);
  if (!object) return fail("object '{}' not found", id);
  if (auto may = object->may_remove(); !may) return fail("object '{}' is {}, can not be deleted", id, may.error().message);
  folder.remove_child(*object);
  return {};
}

namespace {

using namespace control;

Result<Value> object_add(Context&, const Value& arguments) {
  TRY(make_user_object(arguments));
  return Value::object();
}
Result<> object_del(Context&, const ObjectIdArgs& args) { return remove_user_object(args.id); }
Result<std::string> object_add_human(Context&, std::span<const std::string> words) {
  if (words.size() != 1) return fail("object_add takes one word: TYPE,id=ID[,property=value…]");
  bool help = false;
  const Value options = TRY(parse_key_list_or_json(words[0], "qom-type", true, &help));
  if (help) {
    std::string text = "List of user creatable objects:\n";
    for (const TypeInfo* t : all_types())
      if (is_user_object(*t)) text += format("  {}\n", t->name);
    return text;
  }
  TRY(make_user_object(options));
  return std::string{};
}

const control::Registered registered[] = {
    control::Registered{
        Command{.info = {.name = "object-add", .doc = "Makes an object. Its properties stand beside qom-type and id.", .since = "2.0"},
                .arguments = fields<ObjectAddArgs>,
                .run = object_add}},
    control::Registered{human<object_add_human>(
        {.human = "object_add", .human_help = "object_add [qom-type=]type,id=str[,prop=value][,...] -- create QOM object"})},
    control::Registered{command<object_del>({.name = "object-del",
                                             .doc = "Removes an object.",
                                             .since = "2.0",
                                             .human = "object_del",
                                             .human_args = "id:s",
                                             .human_help = "object_del id -- destroy QOM object"})},
};

}  // namespace
}  // namespace vmm::vm
