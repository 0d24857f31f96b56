#include "src/object/object.h"

#include "tests/unit/test.h"

namespace vmm {
namespace {

int alive = 0;
class Part : public Object {
 public:
  static const TypeInfo type;
  Part() { alive++; }
  ~Part() override { alive--; }
  bool properties_frozen() const override { return frozen; }
  u32 count = 3;
  std::string label;
  Ref<Part> other;
  bool frozen = false;
  static const Field properties[];
};
constexpr Field Part::properties[] = {
    field<&Part::count>("count", "How many.", {.min = 1, .max = 8}),
    field<&Part::label>("label", "Free text.", {.live = true}),
    field<&Part::other>("other", "Another part."),
};
constinit const TypeInfo Part::type{
    .name = "test-part", .doc = "For tests.", .parent = &Object::type, .properties = Part::properties, .make = make<Part>, .alias = "tp"};
Registered registered{Part::type};

class SubPart final : public Part {
 public:
  static const TypeInfo type;
  bool extra = false;
  static const Field properties[];
};
constexpr Field SubPart::properties[] = {field<&SubPart::extra>("extra", "More.")};
constinit const TypeInfo SubPart::type{
    .name = "test-sub-part", .doc = "For tests.", .parent = &Part::type, .properties = SubPart::properties, .make = make<SubPart>};
Registered registered_sub{SubPart::type};

// A folder below the root that is gone at the end of the test.
struct Folder {
  Ref<Object> object = make_object(*find_type("container"));
  Folder() { root_object().add_child("test", object); }
  ~Folder() {
    root_object().remove_child(*object);
    object = nullptr;
    reclaim_dropped_objects();
  }
};
}  // namespace

TEST(objects_live_in_a_tree_of_paths) {
  {
    Folder folder;
    const auto a = make_object<Part>(), b = make_object<Part>();
    CHECK_EQ(a->path(), "");
    folder.object->add_child("device[*]", a);
    folder.object->add_child("device[*]", b);
    a->add_child("inner", make_object<Part>());
    CHECK_EQ(b->path(), "/test/device[1]");
    CHECK_EQ(OK(root_object().resolve("/test/device[0]/inner"))->path(), "/test/device[0]/inner");
    CHECK_EQ(OK(root_object().resolve("inner"))->path(), "/test/device[0]/inner");
    b->add_child("inner", make_object<Part>());
    CHECK(root_object().resolve("inner").error().message.contains("ambiguous"));
    CHECK_EQ(OK(root_object().resolve("device[1]/inner"))->path(), "/test/device[1]/inner");
    CHECK_EQ(root_object().resolve("/nope").error().message, "Device '/nope' not found");
    CHECK(root_object().resolve("/nope").error().kind == ErrorClass::device_not_found);
    CHECK(!root_object().resolve(""));
    CHECK_EQ(OK(root_object().resolve("/"))->path(), "/");
    folder.object->remove_child(*a);
    folder.object->add_child("device[*]", make_object<Part>());
    CHECK(folder.object->child("device[0]"));
    CHECK_EQ(a->path(), "");
  }
  reclaim_dropped_objects();
  CHECK_EQ(alive, 0);
}

TEST(properties_are_checked_frozen_and_inherited) {
  {
    Folder folder;
    const Ref<Object> o = make_object(SubPart::type);
    folder.object->add_child("sub", o);
    OK(o->set("count", "5"));
    OK(o->set("extra", true));
    CHECK_EQ(to_json(OK(o->get("count"))), "5");
    CHECK_EQ(to_json(OK(o->get("type"))), "\"test-sub-part\"");
    CHECK_EQ(o->set("count", 9).error().message, "'count' takes 1 to 8, not 9");
    CHECK_EQ(o->set("cuont", 1).error().message, "Property 'test-sub-part.cuont' not found");
    CHECK_EQ(o->set("cuont", 1).error().hint, "Near names: 'count'");
    CHECK_EQ(o->set("other", "/zz").error().message, "Property 'test-sub-part.other' can't find value '/zz'");
    folder.object->add_child("peer", make_object<Part>());
    OK(o->set("other", "peer"));
    CHECK_EQ(to_json(OK(o->get("other"))), "\"/test/peer\"");
    CHECK_EQ(OK(root_object().resolve("/test/sub/other"))->path(), "/test/peer");
    object_cast<Part>(o.get())->frozen = true;
    CHECK(o->set("count", 2).error().message.contains("after it was realized"));
    OK(o->set("label", "x"));
    o->add_property({.name = "dynamic", .type = "int", .doc = "", .get = [] -> Result<Value> { return Value{7}; }, .set = {}});
    CHECK_EQ(to_json(OK(o->get("dynamic"))), "7");
    CHECK(!o->set("dynamic", 1));
    CHECK_EQ(o->property_list().size(), 6u);
    OK(o->set("label", ""));
    object_cast<Part>(o.get())->frozen = false;
    OK(o->set("other", ""));
  }
  reclaim_dropped_objects();
  CHECK_EQ(alive, 0);
}

TEST(globals_reach_new_objects_most_derived_last) {
  add_global_property({.type = "test-global-part", .property = "count", .value = "7", .from_user = true});
  add_global_property({.type = "test-part-of-globals", .property = "count", .value = "4", .from_user = false});
  add_global_property({.type = "test-global-part", .property = "nosuch", .value = "4", .from_user = true});
  static const TypeInfo middle{.name = "test-part-of-globals", .parent = &Part::type, .make = make<Part>};
  static const TypeInfo type{.name = "test-global-part", .parent = &middle, .make = make<Part>};
  const Ref<Object> o = make_object(type);
  CHECK_EQ(to_json(OK(o->get("count"))), "7");
  CHECK_EQ(to_json(OK(make_object(middle)->get("count"))), "4");
  const auto errors = take_global_errors();
  CHECK_EQ(errors.size(), 1u);
  CHECK_EQ(errors[0].message, "can't apply global test-global-part.nosuch=4: Property 'test-global-part.nosuch' not found");
}

TEST(types_are_found_by_name_alias_and_near_names) {
  CHECK(find_type("tp") == &Part::type);
  CHECK(find_type("test-sub-part")->derives_from(Part::type));
  CHECK(!find_type("nope"));
  const auto types = all_types();
  CHECK(std::ranges::find(types, &Object::type) != types.end());
  CHECK(std::ranges::is_sorted(types, {}, &TypeInfo::name));
  const std::vector<std::string> names{"virtio-blk-pci", "virtio-net-pci", "e1000", "isa-serial", "VGA"};
  CHECK_EQ(nearest_names("virtio-blk-pic", names).at(0), "virtio-blk-pci");
  CHECK_EQ(nearest_names("serial", names).at(0), "isa-serial");
  CHECK(nearest_names("qqqq", names).empty());
}

TEST(an_object_held_again_for_a_moment_is_deleted_once) {
  static int ends = 0;
  struct Counted final : Object {
    ~Counted() override { ends++; }
  };
  Counted* last = nullptr;
  {
    const Ref<Counted> one{new Counted};
    last = one.get();
  }
  {
    const Ref<Object> again{last};
  }  // as an event does that was under way
  reclaim_dropped_objects();
  CHECK_EQ(ends, 1);
}

}  // namespace vmm
