// Objects that users make: -object, object-add, HMP object_add. They lie in /objects under their ids.
#pragma once

#include "src/object/object.h"

namespace vmm::vm {

bool is_user_object(const TypeInfo& type);  // -object may make it
// From "qom-type", "id" and the type's own properties.
Result<Ref<Object>> make_user_object(const Value& options);
Result<> remove_user_object(std::string_view id);

}  // namespace vmm::vm
